//! Configuration of PPP links.

use crate::wire::AuthProtocol;
use crate::wire::eap::EapMethod;
use sluice_spi::config::Section;
use std::time::Duration;

/// Smallest MRU that is offered, and accepted from a peer: below it not even the smallest IPv4 packet that every
/// host must take (68 octets, RFC 791) fits with room for a control packet.
pub(crate) const MIN_MRU: u16 = 128;
/// What every implementation must be able to receive, and the MRU where none is negotiated (RFC 1661, 6.1).
pub(crate) const DEFAULT_MRU: u16 = 1500;
/// Largest MRU that may be configured: a jumbo frame.
pub(crate) const MAX_MRU: u16 = 9216;
/// Longest identification text: the longest text that other systems are known to show.
const MAX_IDENTIFICATION: usize = 128;

/// What to make of LCP and authentication that a LAC has already done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyPolicy {
    /// Go on from where the LAC got to, wherever that is possible; else negotiate anew.
    Accept,
    /// Negotiate LCP anew, starting from the options that the LAC and the peer agreed on, and authenticate anew.
    Renegotiate,
    /// Take no notice of it.
    Ignore,
}

/// Configuration of PPP links. [`Default`] is the configuration of an empty section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PppConfig {
    /// MRU to offer, in octets; never more than the carrier takes. `None`: as much as the carrier takes, at most
    /// 1500.
    pub mru: Option<u16>,
    /// Async-Control-Character-Map to offer. Only of use where a LAC has asynchronous lines.
    pub accm: u32,
    /// Whether to offer one-octet protocol fields, and to send them to a peer that offers to take them.
    pub pfc: bool,
    /// Whether to offer leaving out address and control, and to leave them out towards a peer that offers it.
    pub acfc: bool,
    /// Silence after which the peer is asked for a sign of life; zero: never.
    pub echo_interval: Duration,
    /// Unanswered Echo-Requests in a row that end the link.
    pub echo_failures: u8,
    /// Restart timer (RFC 1661, 4.6).
    pub restart_interval: Duration,
    /// Configure-Requests without an answer (RFC 1661, 4.6).
    pub max_configure: u8,
    /// Terminate-Requests without an answer (RFC 1661, 4.6).
    pub max_terminate: u8,
    /// Configure-Naks before they become Configure-Rejects (RFC 1661, 4.6).
    pub max_failure: u8,
    /// Longest time from an open link to an authenticated peer.
    pub auth_timeout: Duration,
    /// Wrong passwords that a peer may give on one link.
    pub auth_attempts: u8,
    /// Methods that may be agreed on, the preferred one first.
    pub auth_methods: Vec<AuthProtocol>,
    /// Methods of EAP that may be agreed on, the preferred one first.
    pub eap_methods: Vec<EapMethod>,
    /// What we call ourselves in challenges.
    pub auth_name: String,
    /// Whether a peer that came in by CHAP has to prove itself again from time to time.
    pub chap_rechallenge: bool,
    /// Longest time that a link may be without an open network protocol.
    pub network_timeout: Duration,
    /// What to make of a LAC's LCP and authentication.
    pub proxy: ProxyPolicy,
    /// Whether IPv6 is spoken at all.
    pub ipv6: bool,
    /// Longest time between two router advertisements (RFC 4861, 6.2.1: MaxRtrAdvInterval).
    pub ra_interval: Duration,
    /// What we call ourselves in an Identification packet (RFC 1570, 1.1); empty: none is sent.
    pub identification: String,
}

impl Default for PppConfig {
    fn default() -> Self {
        Self {
            mru: None,
            accm: 0,
            pfc: false,
            acfc: false,
            echo_interval: Duration::from_secs(30),
            echo_failures: 4,
            restart_interval: Duration::from_secs(3),
            max_configure: 10,
            max_terminate: 2,
            max_failure: 5,
            auth_timeout: Duration::from_secs(30),
            auth_attempts: 1,
            auth_methods: AuthProtocol::ALL.to_vec(),
            eap_methods: EapMethod::ALL.to_vec(),
            auth_name: "sluice".to_owned(),
            chap_rechallenge: false,
            network_timeout: Duration::from_secs(30),
            proxy: ProxyPolicy::Accept,
            ipv6: true,
            ra_interval: Duration::from_secs(600),
            identification: String::new(),
        }
    }
}

impl PppConfig {
    /// Reads a `ppp` section. Problems are reported into the section.
    ///
    /// | key | default | range |
    /// |---|---|---|
    /// | `mru` | what the carrier takes, at most 1500 | 128 to 9216 |
    /// | `accm` | 0 | 0 to 0xffffffff |
    /// | `pfc`, `acfc` | false | |
    /// | `echo_interval` | 30s | 0s (off) to 1h |
    /// | `echo_failures` | 4 | 1 to 100 |
    /// | `restart_interval` | 3s | 100ms to 1m |
    /// | `max_configure` | 10 | 1 to 100 |
    /// | `max_terminate` | 2 | 1 to 10 |
    /// | `max_failure` | 5 | 1 to 20 |
    /// | `auth_timeout` | 30s | 1s to 10m |
    /// | `auth_attempts` | 1 | 1 to 10 |
    /// | `auth_methods` | `mschapv2`, `chap`, `pap`, `eap` | those in the order of preference |
    /// | `eap_methods` | `tls`, `mschapv2`, `md5` | those in the order of preference |
    /// | `auth_name` | `sluice` | 1 to 128 octets |
    /// | `chap_rechallenge` | false | |
    /// | `network_timeout` | 30s | 1s to 10m |
    /// | `proxy_lcp` | `accept` | `accept`, `renegotiate`, `ignore` |
    /// | `ipv6` | true | |
    /// | `ra_interval` | 10m | 4s to 30m |
    /// | `identification` | none | at most 128 octets |
    pub fn from_section(section: &Section<'_>) -> Self {
        let default = Self::default();
        let seconds = Duration::from_secs;
        let small = |key: &str, default: u8, max: u64| -> u8 {
            let number = section.integer(key, u64::from(default), 1..=max);
            u8::try_from(number).unwrap_or(default)
        };
        let identification = section.text_or("identification", "");
        if identification.len() > MAX_IDENTIFICATION {
            section.report(
                "identification",
                format!("must be at most {MAX_IDENTIFICATION} octets long"),
            );
        }
        Self {
            mru: section
                .optional_integer("mru", u64::from(MIN_MRU)..=u64::from(MAX_MRU))
                .and_then(|mru| u16::try_from(mru).ok()),
            accm: u32::try_from(section.integer("accm", u64::from(default.accm), 0..=u64::from(u32::MAX)))
                .unwrap_or(default.accm),
            pfc: section.boolean("pfc", default.pfc),
            acfc: section.boolean("acfc", default.acfc),
            echo_interval: section.duration(
                "echo_interval",
                default.echo_interval,
                seconds(0)..=seconds(3600),
            ),
            echo_failures: small("echo_failures", default.echo_failures, 100),
            restart_interval: section.duration(
                "restart_interval",
                default.restart_interval,
                Duration::from_millis(100)..=seconds(60),
            ),
            max_configure: small("max_configure", default.max_configure, 100),
            max_terminate: small("max_terminate", default.max_terminate, 10),
            max_failure: small("max_failure", default.max_failure, 20),
            auth_timeout: section.duration("auth_timeout", default.auth_timeout, seconds(1)..=seconds(600)),
            auth_attempts: small("auth_attempts", default.auth_attempts, 10),
            auth_methods: ordered(section, "auth_methods", AuthProtocol::ALL, AuthProtocol::as_str),
            eap_methods: ordered(section, "eap_methods", EapMethod::ALL, EapMethod::as_str),
            auth_name: auth_name(section, default.auth_name),
            chap_rechallenge: section.boolean("chap_rechallenge", default.chap_rechallenge),
            network_timeout: section.duration(
                "network_timeout",
                default.network_timeout,
                seconds(1)..=seconds(600),
            ),
            proxy: section.choice(
                "proxy_lcp",
                default.proxy,
                &[
                    ("accept", ProxyPolicy::Accept),
                    ("renegotiate", ProxyPolicy::Renegotiate),
                    ("ignore", ProxyPolicy::Ignore),
                ],
            ),
            ipv6: section.boolean("ipv6", default.ipv6),
            ra_interval: section.duration("ra_interval", default.ra_interval, seconds(4)..=seconds(1800)),
            identification,
        }
    }
}

/// Reads methods in the order in which they are offered, each once.
fn ordered<const N: usize, M: Copy + PartialEq>(
    section: &Section<'_>,
    key: &str,
    all: [M; N],
    name: impl Fn(M) -> &'static str,
) -> Vec<M> {
    if !section.has(key) {
        return all.to_vec();
    }
    let known: Vec<String> = all.iter().map(|&method| format!("{:?}", name(method))).collect();
    let names: Vec<String> = section.list(key, &known.join(" or "));
    let mut methods = Vec::new();
    for text in &names {
        match all.into_iter().find(|&method| name(method) == text) {
            Some(method) if !methods.contains(&method) => methods.push(method),
            Some(_) => section.report(key, format!("has {text:?} twice")),
            None => section.report(key, format!("{text:?} is not spoken here")),
        }
    }
    if methods.is_empty() {
        section.report(key, "must have one at least");
        return all.to_vec();
    }
    methods
}

/// Reads the name that peers look up their secret by (RFC 1994, 4.1).
fn auth_name(section: &Section<'_>, default: String) -> String {
    let name = section.text_or("auth_name", &default);
    if name.is_empty() || name.len() > MAX_IDENTIFICATION {
        section.report(
            "auth_name",
            format!("must be 1 to {MAX_IDENTIFICATION} octets long"),
        );
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::config::read;

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(read("a", "", PppConfig::from_section), Ok(PppConfig::default()));
    }

    #[test]
    fn keys_are_read() {
        let text = "mru = 1400\naccm = 0xffffffff\nacfc = true\necho_interval = \"0s\"\nproxy_lcp = \"ignore\"\n\
                    ipv6 = false\nidentification = \"me\"\nauth_attempts = 3";
        let config = read("a", text, PppConfig::from_section).unwrap();
        let expected = PppConfig {
            mru: Some(1400),
            accm: u32::MAX,
            acfc: true,
            echo_interval: Duration::ZERO,
            proxy: ProxyPolicy::Ignore,
            ipv6: false,
            identification: "me".to_owned(),
            auth_attempts: 3,
            ..PppConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn problems_name_their_keys() {
        let long = "x".repeat(129);
        let text = format!(
            "mru = 100\nmax_terminate = 0\nra_interval = \"1s\"\nidentification = \"{long}\"\nnope = 1"
        );
        let problems = read("a", &text, PppConfig::from_section).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            keys,
            ["mru", "max_terminate", "ra_interval", "identification", "nope"]
        );
    }
}
