//! Who may do what: `[policy]`, `[[rule]]` and `[quotas.NAME]`.

use super::amounts::{Bytes, BytesPerSecond};
use super::listeners::{NAME_RULE, is_name};
use super::sections::{INTERFACE_RULE, is_interface};
use sluice_auth::policy::{
    Action, ByteRate, Command, Defaults, Effects, MAX_RULES, Matchers, Period, Policy, Rule, SendProxy,
    SessionRate, SharedLimits, Upstream,
};
use sluice_spi::config::{Section, parse_duration};
use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86400);

/// Most values of one matcher of one rule. Lists beyond that belong in front of the gateway.
const MAX_VALUES: usize = 10_000;

/// Most quotas.
const MAX_QUOTAS: usize = 256;

/// Smallest burst: a datagram passes whole or not at all, and has up to 65,535 bytes.
const MIN_BURST: u64 = 64 << 10;

/// Rates that can be given, in bytes a second. Slower ones would let a session time out.
const RATES: RangeInclusive<u64> = 1_000..=1_000_000_000_000;

/// Most sessions, and new sessions a second, that can be given.
const MAX_SESSIONS: u64 = 1_000_000;

/// Longest idle timeout and lifetime.
const YEAR: Duration = Duration::from_secs(365 * 86400);

const AMOUNT: &str = "an amount of bytes such as \"64KiB\", \"10MB\" or \"100GB\"";
const RATE: &str = "a rate in bytes a second such as \"500kB\" or \"10MB\", or in bits such as \"100Mbit\"";

/// `[quotas.NAME]`: bytes that may be used in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimit {
    /// Bytes, in both directions together.
    pub bytes: u64,
    /// How often it begins anew.
    pub period: Period,
}

/// The quotas by name.
pub type Quotas = BTreeMap<String, QuotaLimit>;

/// What rules may name.
struct Known<'a> {
    listeners: &'a [&'a str],
    protocols: &'a [&'a str],
    quotas: &'a Quotas,
}

/// Reads all three tables. `listeners` and `protocols` are the names that there are.
pub(super) fn read(root: &Section<'_>, listeners: &[&str], protocols: &[&str]) -> (Policy, Quotas) {
    let quotas = read_quotas(root);
    let known = Known {
        listeners,
        protocols,
        quotas: &quotas,
    };
    let defaults = read_defaults(&root.section("policy"), &known);
    let mut names = HashSet::new();
    let sections = root.sections("rule");
    let rules = sections
        .iter()
        .map(|section| read_rule(section, &known, &mut names));
    let policy = Policy::new(rules.collect(), defaults).unwrap_or_else(|_| {
        root.report("rule", format!("there may be {MAX_RULES} at most"));
        Policy::default()
    });
    (policy, quotas)
}

fn read_defaults(section: &Section<'_>, known: &Known<'_>) -> Defaults {
    let default = Defaults::default();
    Defaults {
        connections: section.choice("default", default.connections, &ACTIONS),
        sessions: section.choice("default_sessions", default.sessions, &ACTIONS),
        effects: read_effects(section, known),
    }
}

const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("deny", Action::Deny)];

fn read_rule(section: &Section<'_>, known: &Known<'_>, names: &mut HashSet<String>) -> Rule {
    let name = section.text("name").unwrap_or_default();
    if section.has("name") && !is_name(&name) {
        section.report("name", NAME_RULE);
    } else if !name.is_empty() && !names.insert(name.clone()) {
        section.report("name", format!("another rule is called {name:?}"));
    }
    if !section.has("action") {
        section.report("action", "is missing: \"allow\" or \"deny\"");
    }
    let rule = Rule {
        name,
        line: section.line(),
        action: section.choice("action", Action::Deny, &ACTIONS),
        matchers: read_matchers(section, known),
        effects: read_effects(section, known),
    };
    if rule.action == Action::Deny && rule.effects != Effects::default() {
        section.report(
            "action",
            "is \"deny\": such a rule gives nothing, no addresses, rates, limits or timeouts",
        );
    }
    if rule.matchers.commands == [Command::Session] && rule.matchers.about_destinations() {
        section.report(
            "commands",
            "a tunnel session has no destination: with these matchers the rule never matches",
        );
    }
    rule
}

/// A matcher. An empty list is refused: left out, it matches everything, which is the opposite of what it looks like.
fn values<T: FromStr>(section: &Section<'_>, key: &str, wanted: &str) -> Vec<T> {
    let values = section.non_empty_list(key, wanted);
    if values.len() > MAX_VALUES {
        section.report(key, format!("there may be {MAX_VALUES} at most"));
    }
    values
}

fn read_matchers(section: &Section<'_>, known: &Known<'_>) -> Matchers {
    let names = |key: &str, what: &str, known: &[&str]| {
        let names: Vec<String> = values(section, key, &format!("the name of a {what}"));
        for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            section.report(key, format!("there is no {what} {name:?}; there are: {known}"));
        }
        names
    };
    let prefix = "an address or a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    Matchers {
        listeners: names("listeners", "listener", known.listeners),
        protocols: names("protocols", "protocol", known.protocols),
        clients: values(section, "clients", prefix),
        users: values(
            section,
            "users",
            "the name of a user, \"@REALM\", or \"*\" for all that have authenticated",
        ),
        groups: values(section, "groups", "the name of a group"),
        commands: values(section, "commands", "one of session, connect, bind, udp"),
        destinations: values(section, "destinations", prefix),
        domains: values(
            section,
            "domains",
            "a name such as \"example.com\", \".example.com\" with all below it, \"*.example.com\" for those \
             below alone, or \"*\" for any name",
        ),
        ports: values(
            section,
            "ports",
            "a port or a range, each a string, such as \"443\" or \"8000-8999\"",
        ),
    }
}

fn read_effects(section: &Section<'_>, known: &Known<'_>) -> Effects {
    let interface = section.text("interface");
    if interface.as_ref().is_some_and(|name| !is_interface(name)) {
        section.report("interface", INTERFACE_RULE);
    }
    let fwmark = section.optional_integer("fwmark", 1..=u64::from(u32::MAX));
    let shared = |key: &str| read_shared(&section.section(key), known);
    let duration = |key: &str, range| section.optional_duration(key, range);
    Effects {
        source_ipv4: section.parsed("source_ipv4", "an IPv4 address"),
        source_ipv6: section.parsed("source_ipv6", "an IPv6 address"),
        interface: interface.map(Into::into),
        fwmark: fwmark.and_then(|mark| u32::try_from(mark).ok()),
        upstream: read_upstream(section),
        send_proxy: read_send_proxy(section),
        rate_up: read_rate(section, "up"),
        rate_down: read_rate(section, "down"),
        connect_timeout: duration("connect_timeout", Duration::from_millis(100)..=300 * SECOND),
        idle_timeout: duration("idle_timeout", SECOND..=YEAR),
        half_closed_timeout: duration("half_closed_timeout", SECOND..=DAY),
        lifetime: duration("lifetime", 10 * SECOND..=YEAR),
        per_user: shared("per_user"),
        per_source: shared("per_source"),
    }
}

fn read_upstream(section: &Section<'_>) -> Option<Upstream> {
    let name = section.text("upstream")?;
    if name == "direct" {
        return Some(Upstream::Direct);
    }
    if !is_name(&name) {
        section.report(
            "upstream",
            format!("must be \"direct\" or the name of an upstream, which {NAME_RULE}"),
        );
    }
    Some(Upstream::Named(name.into()))
}

fn read_send_proxy(section: &Section<'_>) -> Option<SendProxy> {
    let word = section.text("send_proxy")?;
    let mut all = [SendProxy::Off, SendProxy::V1, SendProxy::V2].into_iter();
    let found = all.find(|choice| choice.as_str() == word);
    if found.is_none() {
        section.report("send_proxy", format!("must be one of off, v1, v2, not {word:?}"));
    }
    found
}

/// Reads `rate_up` and `burst_up`, or those down. A quarter of a second's bytes are the burst where none is given.
fn read_rate(section: &Section<'_>, direction: &str) -> Option<ByteRate> {
    let (key, burst_key) = (format!("rate_{direction}"), format!("burst_{direction}"));
    let burst = section
        .parsed::<Bytes>(&burst_key, AMOUNT)
        .map(|Bytes(burst)| burst);
    let Some(BytesPerSecond(per_second)) = section.parsed(&key, RATE) else {
        if burst.is_some() && !section.has(&key) {
            section.report(&burst_key, format!("has no meaning without {key}"));
        }
        return None;
    };
    if !RATES.contains(&per_second) {
        let (least, most) = (Bytes(*RATES.start()), Bytes(*RATES.end()));
        section.report(&key, format!("must be from {least} to {most} a second"));
    }
    if burst.is_some_and(|burst| !(MIN_BURST..=*RATES.end()).contains(&burst)) {
        let (least, most) = (Bytes(MIN_BURST), Bytes(*RATES.end()));
        section.report(
            &burst_key,
            format!("must be from {least}, which any datagram fits in, to {most}"),
        );
    }
    Some(ByteRate {
        per_second,
        burst: burst.unwrap_or((per_second / 4).max(MIN_BURST)),
    })
}

fn read_shared(section: &Section<'_>, known: &Known<'_>) -> SharedLimits {
    let number = |key: &str| {
        let number = section.optional_integer(key, 1..=MAX_SESSIONS)?;
        u32::try_from(number).ok()
    };
    let (per_second, burst) = (number("new_sessions_per_second"), number("new_sessions_burst"));
    if burst.is_some() && !section.has("new_sessions_per_second") {
        section.report(
            "new_sessions_burst",
            "has no meaning without new_sessions_per_second",
        );
    }
    let quota = section.text("quota");
    if let Some(name) = quota.as_ref().filter(|name| !known.quotas.contains_key(*name)) {
        section.report("quota", format!("there is no quota {name:?}"));
    }
    SharedLimits {
        sessions: number("sessions"),
        new_sessions: per_second.map(|per_second| SessionRate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        rate_up: read_rate(section, "up"),
        rate_down: read_rate(section, "down"),
        quota: quota.map(Into::into),
    }
}

fn read_quotas(root: &Section<'_>) -> Quotas {
    let sections = root.named_sections("quotas");
    if sections.len() > MAX_QUOTAS {
        root.report("quotas", format!("there may be {MAX_QUOTAS} at most"));
    }
    let quotas = sections.iter().map(|(name, section)| {
        if !is_name(name) {
            section.report("", format!("the name of a quota {NAME_RULE}"));
        }
        if !section.has("bytes") {
            section.report("bytes", format!("is missing: {AMOUNT}"));
        }
        let bytes = section.parsed("bytes", AMOUNT).map_or(0, |Bytes(bytes)| bytes);
        let period = read_period(section);
        (name.clone(), QuotaLimit { bytes, period })
    });
    quotas.collect()
}

fn read_period(section: &Section<'_>) -> Period {
    let text = section.text_or("period", "month");
    match text.as_str() {
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        fixed => {
            let length = parse_duration(fixed).filter(|length| (60 * SECOND..=YEAR).contains(length));
            if length.is_none() {
                let wanted =
                    "must be \"day\", \"week\", \"month\", or a duration such as \"12h\" from 1m to 365d";
                section.report("period", format!("{wanted}, not {fixed:?}"));
            }
            length.map_or(Period::Month, Period::Every)
        }
    }
}

#[cfg(test)]
mod tests;
