use crate::config::testing::MODULES;
use crate::config::{Config, Problem};
use sluice_auth::policy::{
    Action, ByteRate, Command, Early, Matcher, Passed, Period, Request, SendProxy, SessionRate, Target,
    Upstream,
};
use std::time::Duration;

const SMALL: &str = "[[listener]]\nprotocol = \"echo\"\naddresses = [\"127.0.0.1\"]\n";

fn parse(text: &str) -> Config {
    Config::parse("a.toml", &format!("{SMALL}{text}"), MODULES).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems of a text that begins behind line 3.
fn problems(text: &str) -> Vec<String> {
    let error = Config::parse("a.toml", &format!("{SMALL}{text}"), MODULES).unwrap_err();
    error.problems().iter().map(Problem::to_string).collect()
}

const FULL: &str = r#"[policy]
default = "allow"
default_sessions = "deny"
idle_timeout = "15m"
[policy.per_source]
sessions = 50
[quotas.gold]
bytes = "100GB"
[quotas.hourly]
bytes = "1GiB"
period = "1h"

[[rule]]
name = "no-mail"
action = "deny"
listeners = ["echo"]
protocols = ["echo"]
clients = ["192.0.2.0/24", "2001:db8::1"]
users = ["ann", "@isp.example", "*"]
groups = ["staff"]
commands = ["connect", "udp"]
destinations = ["198.51.100.0/24"]
domains = ["example.com", ".example.org", "*.example.net"]
ports = ["25", "8000-8999"]

[[rule]]
action = "allow"
source_ipv4 = "192.0.2.9"
source_ipv6 = "2001:db8::9"
interface = "eth1"
fwmark = 0x10
upstream = "direct"
send_proxy = "v2"
rate_up = "1MB"
rate_down = "100Mbit"
burst_down = "64KiB"
connect_timeout = "10s"
idle_timeout = "5m"
half_closed_timeout = "30s"
lifetime = "1d"
per_user = { sessions = 10, new_sessions_per_second = 5, quota = "gold" }
[rule.per_source]
new_sessions_per_second = 100
new_sessions_burst = 500
rate_down = "10MB"
"#;

#[test]
fn rules_are_read_with_all_they_may_have() {
    let config = parse(FULL);
    let [first, second] = config.policy.rules() else {
        panic!("two rules");
    };
    assert_eq!(
        (first.name.as_str(), first.line, first.action),
        ("no-mail", 16, Action::Deny)
    );
    assert_eq!(first.matchers.commands, [Command::Connect, Command::Udp]);
    assert_eq!(first.matchers.ports.len(), 2);
    assert_eq!(
        (second.name.as_str(), second.line, second.action),
        ("", 29, Action::Allow)
    );
    let effects = &second.effects;
    assert_eq!(effects.source_ipv4, Some("192.0.2.9".parse().unwrap()));
    assert_eq!(
        (effects.fwmark, &effects.upstream),
        (Some(16), &Some(Upstream::Direct))
    );
    assert_eq!(effects.send_proxy, Some(SendProxy::V2));
    let rate = |per_second, burst| Some(ByteRate { per_second, burst });
    assert_eq!(effects.rate_up, rate(1_000_000, 250_000));
    assert_eq!(effects.rate_down, rate(12_500_000, 65_536));
    assert_eq!(effects.half_closed_timeout, Some(Duration::from_secs(30)));
    let sessions = |per_second, burst| Some(SessionRate { per_second, burst });
    assert_eq!(effects.per_user.sessions, Some(10));
    assert_eq!(effects.per_user.new_sessions, sessions(5, 5));
    assert_eq!(effects.per_user.quota.as_deref(), Some("gold"));
    assert_eq!(effects.per_source.new_sessions, sessions(100, 500));
    assert_eq!(effects.per_source.rate_down, rate(10_000_000, 2_500_000));
    let defaults = config.policy.defaults();
    assert_eq!(
        (defaults.connections, defaults.sessions),
        (Action::Allow, Action::Deny)
    );
    assert_eq!(defaults.effects.idle_timeout, Some(Duration::from_secs(900)));
    assert_eq!(defaults.effects.per_source.sessions, Some(50));
    assert_eq!(config.quotas["gold"].bytes, 100_000_000_000);
    assert_eq!(config.quotas["gold"].period, Period::Month);
    assert_eq!(
        config.quotas["hourly"].period,
        Period::Every(Duration::from_secs(3600))
    );
}

#[test]
fn what_is_read_is_shown() {
    let config = parse(FULL);
    let shown = config.redacted();
    let value = |key: &str| {
        let found = shown.iter().find(|shown| shown.key == key);
        found.map(|shown| (shown.value.as_str(), shown.default))
    };
    assert_eq!(value("rule[0].action"), Some(("\"deny\"", false)));
    assert_eq!(value("rule[0].ports"), Some(("[\"25\", \"8000-8999\"]", false)));
    assert_eq!(value("rule[1].per_user.quota"), Some(("\"gold\"", false)));
    assert_eq!(value("policy.default"), Some(("\"allow\"", false)));
    assert_eq!(value("quotas.gold.period"), Some(("\"month\"", true)));
    let small = parse("");
    let shown = small.redacted();
    let default = shown.iter().find(|shown| shown.key == "policy.default").unwrap();
    assert_eq!((default.value.as_str(), default.default), ("\"deny\"", true));
}

#[test]
fn all_problems_with_rules_are_listed_at_once() {
    let text = r#"[policy]
default = "maybe"
fwmark = 0
[quotas.Gold]
period = "year"
[[rule]]
name = "Two Words"
listeners = ["ecco"]
protocols = []
clients = ["192.0.2.0/33"]
users = ["@"]
commands = ["fly"]
destinations = ["example.com"]
domains = ["127.1", "a..b"]
ports = ["0", "9-1"]
colour = "red"
[[rule]]
name = "a"
action = "deny"
rate_up = "1MB"
[[rule]]
name = "a"
action = "allow"
commands = ["session"]
ports = ["80"]
interface = "a b"
upstream = "Far"
rate_up = "1B"
burst_up = "1kB"
burst_down = "64KiB"
lifetime = "1s"
per_user = { quota = "none", new_sessions_burst = 5, sessions = 0 }
send_proxy = "v3"
"#;
    let found = problems(text);
    let wanted = [
        "a.toml:5:11: policy.default: must be one of allow, deny, not \"maybe\"",
        "a.toml:6:10: policy.fwmark: must be a whole number from 1 to 4294967295",
        "a.toml:7:1: quotas.Gold: the name of a quota must be 1 to 64 of the characters a-z, 0-9, - and _",
        "a.toml:7:1: quotas.Gold.bytes: is missing: an amount of bytes such as \"64KiB\", \"10MB\" or \"100GB\"",
        "a.toml:8:10: quotas.Gold.period: must be \"day\", \"week\", \"month\", or a duration such as \"12h\" from 1m to 365d, not \"year\"",
        "a.toml:9:1: rule[0].action: is missing: \"allow\" or \"deny\"",
        "a.toml:10:8: rule[0].name: must be 1 to 64 of the characters a-z, 0-9, - and _",
        "a.toml:11:13: rule[0].listeners: there is no listener \"ecco\"; there are: echo",
        "a.toml:12:13: rule[0].protocols: must not be empty: leave it out, or give the name of a protocol",
        "a.toml:13:12: rule[0].clients: must be an address or a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\", not \"192.0.2.0/33\"",
        "a.toml:14:10: rule[0].users: must be the name of a user, \"@REALM\", or \"*\" for all that have authenticated, not \"@\"",
        "a.toml:15:13: rule[0].commands: must be one of session, connect, bind, udp, not \"fly\"",
        "a.toml:16:17: rule[0].destinations: must be an address or a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\", not \"example.com\"",
        "a.toml:17:12: rule[0].domains: must be a name such as \"example.com\", \".example.com\" with all below it, \"*.example.com\" for those below alone, or \"*\" for any name, not \"127.1\"",
        "a.toml:17:21: rule[0].domains: must be a name such as \"example.com\", \".example.com\" with all below it, \"*.example.com\" for those below alone, or \"*\" for any name, not \"a..b\"",
        "a.toml:18:10: rule[0].ports: must be a port or a range, each a string, such as \"443\" or \"8000-8999\", not \"0\"",
        "a.toml:18:15: rule[0].ports: must be a port or a range, each a string, such as \"443\" or \"8000-8999\", not \"9-1\"",
        "a.toml:19:1: rule[0].colour: is not a key of this table",
        "a.toml:22:10: rule[1].action: is \"deny\": such a rule gives nothing, no addresses, rates, limits or timeouts",
        "a.toml:25:8: rule[2].name: another rule is called \"a\"",
        "a.toml:27:12: rule[2].commands: a tunnel session has no destination: with these matchers the rule never matches",
        "a.toml:29:13: rule[2].interface: must be 1 to 15 letters, digits and any of - _ . as in the name of an interface",
        "a.toml:30:12: rule[2].upstream: must be \"direct\" or the name of an upstream, which must be 1 to 64 of the characters a-z, 0-9, - and _",
        "a.toml:31:11: rule[2].rate_up: must be from 1kB to 1TB a second",
        "a.toml:32:12: rule[2].burst_up: must be from 64KiB, which any datagram fits in, to 1TB",
        "a.toml:33:14: rule[2].burst_down: has no meaning without rate_down",
        "a.toml:34:12: rule[2].lifetime: must be a duration such as \"5s\" from 10s to 365d, not \"1s\"",
        "a.toml:35:22: rule[2].per_user.quota: there is no quota \"none\"",
        "a.toml:35:51: rule[2].per_user.new_sessions_burst: has no meaning without new_sessions_per_second",
        "a.toml:35:65: rule[2].per_user.sessions: must be a whole number from 1 to 1000000",
        "a.toml:36:14: rule[2].send_proxy: must be one of off, v1, v2, not \"v3\"",
    ];
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn too_many_rules_are_one_problem() {
    let text = "[[rule]]\naction = \"deny\"\n".repeat(1025);
    assert_eq!(problems(&text), ["a.toml:4:1: rule: there may be 1024 at most"]);
}

/// A text without the mark of a comment at the beginning of its lines.
fn uncommented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let bare = |line: &'a str| {
        line.strip_prefix('#')
            .map_or(line, |rest| rest.strip_prefix(' ').unwrap_or(rest))
    };
    lines
        .map(bare)
        .collect::<Vec<_>>()
        .join("\n")
        .replace("[\"socks\"]", "[\"echo\"]")
}

/// What the reference has in comments: from the quotas to the next table.
fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config/reference.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().skip_while(|line| *line != "# [quotas.month]");
    uncommented(lines.take_while(|line| line.starts_with('#')))
}

#[test]
fn the_examples_of_the_reference_do_what_they_say() {
    let text = example();
    // With all the keys that are comments there as well.
    assert_eq!(parse(&uncommented(text.lines())).policy.rules().len(), 3);
    let config = parse(&text);
    let rules: Vec<&str> = config
        .policy
        .rules()
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(rules, ["no-mail", "intranet", "web"]);
    let staff = ["staff".to_owned()];
    let request = Request {
        command: Command::Connect,
        listener: "echo",
        protocol: "echo",
        client: Some("192.0.2.7".parse().unwrap()),
        user: Some(sluice_auth::policy::Subject {
            name: "ann",
            realm: None,
            groups: &staff,
        }),
    };
    let decides = |request: &Request<'_>, address: &str, port| {
        let decision = config
            .policy
            .decide_address(request, None, address.parse().unwrap(), port);
        decision
            .rule()
            .map_or(decision.by.as_str(), |rule| rule.rule.name.as_str())
            .to_owned()
    };
    assert_eq!(decides(&request, "9.9.9.9", 25), "no-mail");
    assert_eq!(decides(&request, "10.20.0.1", 443), "intranet");
    assert_eq!(decides(&request, "10.21.0.1", 443), "private");
    assert_eq!(decides(&request, "9.9.9.9", 443), "web");
    let anonymous = Request {
        user: None,
        ..request
    };
    assert_eq!(decides(&anonymous, "9.9.9.9", 443), "default");
    let explanation = config
        .policy
        .explain(&anonymous, Target::Address(None, "9.9.9.9".parse().unwrap(), 443));
    assert!(matches!(explanation.answer, Early::Final(decision) if !decision.allowed()));
    assert_eq!(explanation.passed[2].1, Passed::Failed(Matcher::User));
}
