use super::testing::MODULES;
use super::*;
use std::time::Duration;

fn parse(text: &str) -> Config {
    Config::parse("a.toml", text, MODULES).unwrap_or_else(|error| panic!("{error}"))
}

fn problems(text: &str) -> Vec<String> {
    let error = Config::parse("a.toml", text, MODULES).unwrap_err();
    error.problems().iter().map(Problem::to_string).collect()
}

const SMALL: &str = "[[listener]]\nprotocol = \"echo\"\naddresses = [\"127.0.0.1\", \"[::1]:77\"]\n";

#[test]
fn a_small_file_is_filled_with_defaults() {
    let config = parse(SMALL);
    assert_eq!(config.gateway.name, "sluice");
    assert_eq!(config.gateway.state_dir, Path::new("sluice-state"));
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].name, "echo");
    let addresses: Vec<String> = config.listeners[0]
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["127.0.0.1:7", "[::1]:77"]);
    assert_eq!(config.admin.socket, Path::new("sluice-state/admin.sock"));
    assert!(config.admin.listen.unwrap().ip().is_loopback());
    assert_eq!(config.network.forwarding, Forwarding::Check);
    assert!(!config.network.masquerade);
}

#[test]
fn all_problems_are_listed_at_once_with_their_place_and_key() {
    let text = r#"[gateway]
name = "two words"
shards = 17

[[listener]]
name = "a"
protocol = "echo"
addresses = ["127.0.0.1", "nowhere"]
[listener.echo]
windw = 3
window = 11

[[listener]]
name = "a"
protocol = "echo"
addresses = ["127.0.0.1:7"]

[[listener]]
protocol = "gopher"
[listener.gopher]
hole = 1

[admin]
listen = "0.0.0.0:8701"
tls_key = "k"

[pools.Home]
ipv4 = ["10.0.0.1/8"]
[pools.a]
ipv4 = ["10.1.0.0/16", "10.1.2.0/24"]
ipv6 = ["2001:db8::/96"]
[pools.b]
ipv4 = ["10.1.3.0/24"]

[limits]
sessions = 0

[timeouts]
idle = "1s"

[realms."home.example"]
ipv4_pool = "c"

[network]
tun = "a-very-long-interface-name"
forwarding = "yes"

[log]
level = "sluice=loud"

[sandbox]
seccomp = true

[metrics]
listen = "192.0.2.1:9701"

[colour]
"#;
    let found = problems(text);
    let wanted = [
        "a.toml:2:8: gateway.name: must be 1 to 63 letters, digits and any of - _ . as in a host name",
        "a.toml:3:10: gateway.shards: must be a whole number from 1 to 16",
        "a.toml:8:27: listener[0].addresses: must be an address such as \"0.0.0.0\", \"192.0.2.1:1701\" or \"[::]:1701\", not \"nowhere\"",
        "a.toml:10:1: listener[0].echo.windw: is not a key of this table; did you mean window?",
        "a.toml:11:10: listener[0].echo.window: must be a whole number from 1 to 10",
        "a.toml:14:8: listener[1].name: another listener is called \"a\"",
        "a.toml:16:13: listener[1].addresses: 127.0.0.1:7 is listened on already",
        "a.toml:19:12: listener[2].protocol: there is no protocol \"gopher\"; there are: echo",
        "a.toml:24:10: admin.listen: is not on the loopback interface: give tls_certificate and tls_key as well, because tokens and passwords must not cross a network in clear",
        "a.toml:25:11: admin.tls_key: needs tls_certificate as well",
        "a.toml:27:1: pools.Home: the name of a pool must be 1 to 64 of the characters a-z, 0-9, - and _",
        "a.toml:28:9: pools.Home.ipv4: must be an IPv4 block with zero host bits or a range, such as \"10.64.0.0/16\" or \"10.64.0.10-10.64.0.99\", not \"10.0.0.1/8\"",
        "a.toml:30:8: pools.a.ipv4: 10.1.2.0/24 overlaps another block of this pool",
        "a.toml:31:8: pools.a.ipv6: 2001:db8::/96 must be a /16 to a /64: each session gets a /64",
        "a.toml:33:8: pools.b.ipv4: 10.1.3.0/24 overlaps a block of the pool a",
        "a.toml:36:12: limits.sessions: must be a whole number from 1 to 1000000",
        "a.toml:39:8: timeouts.idle: must be a duration such as \"5s\" from 10s to 365d, not \"1s\"",
        "a.toml:42:13: realms.home.example.ipv4_pool: there is no pool \"c\"",
        "a.toml:45:7: network.tun: must be 1 to 15 letters, digits and any of - _ . as in the name of an interface",
        "a.toml:46:14: network.forwarding: must be one of enable, check, not \"yes\"",
        "a.toml:49:9: log.level: must be a level (error, warn, info, debug, trace) or a list such as \"info,sluice::admin=debug\", not \"sluice=loud\"",
        "a.toml:52:11: sandbox.seccomp: must be one of auto, required, off, not a boolean",
        "a.toml:55:10: metrics.listen: is not on the loopback interface: anyone who reaches it may read the metrics; set allow_remote = true if that is meant",
        "a.toml:57:2: colour: is not a key of this table",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn an_empty_file_has_nothing_to_do() {
    assert_eq!(
        problems(""),
        ["a.toml:1:1: listener: is missing: without a [[listener]] there is nothing to do"]
    );
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let error = Config::load(Some(Path::new("no/such/file.toml")), MODULES).unwrap_err();
    let problems = error.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .to_string()
            .starts_with("no/such/file.toml:1:1: cannot be read: "),
        "{}",
        problems[0]
    );
}

#[test]
fn nothing_shown_holds_a_secret() {
    let config = parse(&format!("{SMALL}[listener.echo]\nsecret = \"hunter2\"\n"));
    let shown = config.redacted();
    let secret = shown
        .iter()
        .find(|shown| shown.key == "listener.echo.echo.secret")
        .unwrap();
    assert_eq!((secret.value.as_str(), secret.default), (REDACTED, false));
    let window = shown
        .iter()
        .find(|shown| shown.key == "listener.echo.echo.window")
        .unwrap();
    assert_eq!((window.value.as_str(), window.default), ("4", true));
    assert!(!format!("{shown:?}{config:?}{:?}", config.settings).contains("hunter2"));
}

#[test]
fn changes_tell_when_they_take_effect_and_never_a_secret() {
    let before = parse(&format!(
        "{SMALL}[listener.echo]\nsecret = \"one\"\n[limits]\nsessions = 5\n"
    ));
    let after = parse(&format!(
        "{SMALL}[listener.echo]\nsecret = \"two\"\n[pools.a]\nipv4 = [\"10.0.0.0/24\"]\n[log]\nlevel = \"debug\"\n"
    ));
    let found = changes(&before, &after);
    let found: Vec<_> = found
        .iter()
        .map(|change| {
            (
                change.key.as_str(),
                change.before.as_deref(),
                change.after.as_deref(),
                change.applies,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("limits.sessions", Some("5"), Some("100000"), Impact::NewSessions),
            (
                "listener.echo.echo.secret",
                Some(REDACTED),
                Some(REDACTED),
                Impact::Restart
            ),
            ("log.level", Some("\"info\""), Some("\"debug\""), Impact::Now),
            (
                "pools.a.allocation",
                None,
                Some("\"random\""),
                Impact::NewSessions
            ),
            ("pools.a.hold_down", None, Some("\"0ms\""), Impact::NewSessions),
            (
                "pools.a.ipv4",
                None,
                Some("[\"10.0.0.0/24\"]"),
                Impact::NewSessions
            ),
            ("pools.a.sticky", None, Some("\"1d\""), Impact::NewSessions),
        ]
    );
    assert!(changes(&after, &after).is_empty());
}

#[test]
fn the_order_of_listeners_is_no_change() {
    let one = "[[listener]]\nname = \"a\"\nprotocol = \"echo\"\naddresses = [\"127.0.0.1:1\"]\n";
    let two = "[[listener]]\nname = \"b\"\nprotocol = \"echo\"\naddresses = [\"127.0.0.1:2\"]\n";
    assert!(changes(&parse(&format!("{one}{two}")), &parse(&format!("{two}{one}"))).is_empty());
}

#[test]
fn a_duration_given_as_the_default_is_no_change() {
    let given = parse(&format!("{SMALL}[timeouts]\nopening = \"1m\"\n"));
    assert_eq!(given.engine.defaults.opening_timeout, Duration::from_secs(60));
    assert!(changes(&parse(SMALL), &given).is_empty());
}

fn samples() -> Vec<(String, Config)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::load(Some(&path), sluice_registry::MODULES);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        samples.push((name, config.unwrap_or_else(|error| panic!("{error}"))));
    }
    samples.sort_by(|(a, _), (b, _)| a.cmp(b));
    samples
}

#[test]
fn the_samples_and_the_embedded_default_have_no_problem() {
    let names: Vec<String> = samples().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["first.toml", "proxy.toml", "reference.toml", "wholesale.toml"]
    );
    let config = Config::load(None, sluice_registry::MODULES).unwrap();
    assert!(config.admin.listen.unwrap().ip().is_loopback());
    let addresses = config.listeners.iter().flat_map(|listener| &listener.addresses);
    assert!(addresses.into_iter().all(|address| address.ip().is_loopback()));
    assert_eq!(config.engine.defaults.ipv4_pool.as_deref(), Some("default"));
}

/// What the machine decides, and what must be given because there is no default for it.
const NOT_DEFAULTS: [&str; 8] = [
    "listener.l2tp.protocol",
    "listener.l2tp.addresses",
    "pools.default.ipv4",
    "pools.default.ipv6",
    "pools.default.dns",
    "listener.l2tp.name",
    "admin.listen",
    "pools.default.nbns",
];

#[test]
fn the_reference_gives_every_key_with_its_default() {
    let mut samples = samples().into_iter();
    let (_, reference) = samples.find(|(name, _)| name == "reference.toml").unwrap();
    let own = |key: &str| !key.starts_with("listener.l2tp.l2tp.");
    for setting in reference.settings.iter().filter(|setting| own(&setting.key)) {
        assert!(setting.given, "{} is not in the reference", setting.key);
    }
    let text = "[[listener]]\nprotocol = \"l2tp\"\naddresses = [\"127.0.0.1\"]\n[pools.default]\n\
        [realms.\"home.example\"]\n";
    let empty = Config::parse("empty.toml", text, sluice_registry::MODULES).unwrap();
    for change in changes(&empty, &reference) {
        // An empty list is the same as none.
        let empty = change.before.is_none() && change.after.as_deref() == Some("[]");
        assert!(empty || NOT_DEFAULTS.contains(&change.key.as_str()), "{change:?}");
    }
}

/// A listener of a protocol of streams.
fn streams(keys: &str) -> Result<Config, LoadError> {
    let text = format!("[[listener]]\nprotocol = \"socks\"\naddresses = [\"127.0.0.1\"]\n{keys}");
    Config::parse("a.toml", &text, sluice_registry::MODULES)
}

#[test]
fn proxies_that_are_trusted_are_read() {
    let keys = "proxy_protocol_from = [\"192.0.2.0/24\", \"2001:db8::1\"]\nproxy_protocol_timeout = \"3s\"\n\
                fast_open = true\n";
    let config = streams(keys).unwrap();
    let intake = &config.listeners[0].intake;
    for (address, trusted) in [
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", true),
        ("192.0.3.7", false),
        ("2001:db8::1", true),
        ("2001:db8::2", false),
    ] {
        assert_eq!(intake.trusts(address.parse().unwrap()), trusted, "{address}");
    }
    assert_eq!(
        (intake.header_time, intake.fast_open),
        (Duration::from_secs(3), true)
    );
    let config = streams("").unwrap();
    assert_eq!(config.listeners[0].intake, Intake::default());
    assert!(!config.listeners[0].intake.trusts("127.0.0.1".parse().unwrap()));
}

#[test]
fn what_makes_no_sense_of_proxies_is_reported() {
    for (keys, key) in [
        ("proxy_protocol_from = []\n", "proxy_protocol_from"),
        ("proxy_protocol_from = [\"x\"]\n", "proxy_protocol_from"),
        ("proxy_protocol_timeout = \"3s\"\n", "proxy_protocol_timeout"),
        (
            "proxy_protocol_from = [\"::1\"]\nproxy_protocol_timeout = \"2m\"\n",
            "proxy_protocol_timeout",
        ),
    ] {
        let error = streams(keys).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    // Datagrams have no connections.
    let text = "[[listener]]\nprotocol = \"l2tp\"\naddresses = [\"127.0.0.1\"]\nfast_open = true\n";
    let error = Config::parse("a.toml", text, sluice_registry::MODULES).unwrap_err();
    assert!(error.to_string().contains("fast_open"), "{error}");
}

/// Only a gateway with the library can do anything with keys.
#[test]
fn keys_need_a_gateway_that_was_built_for_them() {
    let text = "[[listener]]\nprotocol = \"socks\"\naddresses = [\"127.0.0.1\"]\n\
                [listener.socks]\ngssapi_keytab = \"/etc/sluice/socks.keytab\"\n";
    let is_built = cfg!(feature = "gssapi");
    match Config::parse("a.toml", text, sluice_registry::MODULES) {
        Ok(config) => {
            assert!(is_built, "it has no library");
            let keys = config.listeners[0].factory.context_keys().unwrap();
            assert_eq!(keys.keytab, Path::new("/etc/sluice/socks.keytab"));
            let sandbox = crate::sandbox::SandboxConfig::new(&config);
            assert!(sandbox.read.contains(&"/etc/sluice".into()), "{sandbox:?}");
        }
        Err(error) => {
            assert!(!is_built, "{error}");
            let text = error.to_string();
            assert!(
                text.contains("gssapi_keytab") && text.contains("cargo feature gssapi"),
                "{text}"
            );
        }
    }
}
