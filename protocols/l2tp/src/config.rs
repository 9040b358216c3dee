//! Configuration of an L2TP listener.

use crate::machine::Retransmit;
use sluice_auth::{IpPrefix, Secret};
use sluice_ppp::{Login, PppConfig};
use sluice_spi::config::Section;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Octets of UDP, L2TP with length and sequence numbers, and PPP header around an IP packet.
const OVERHEAD: u16 = 8 + 12 + 4;
/// Smallest outer MTU: the one every IPv6 link has (RFC 8200, 5).
const MIN_MTU: u64 = 1280;
/// Longest host and vendor names: what a display keeps of a string.
const MAX_NAME: usize = 255;

/// Which end of calls we are when a call is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We ask the peer to place a call (OCRQ), and end the PPP link.
    Lns,
    /// We hand the peer a call that came to us (ICRQ), with ourselves as PPP client.
    Lac,
}

/// When data messages carry sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencingPolicy {
    /// Never, unless the peer requires them.
    Off,
    /// Where the peer sends them or requires them.
    OnRequest,
    /// Always; what arrives without is dropped once the peer has begun to send them.
    Required,
}

/// How out-of-order data messages are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reorder {
    /// Most packets held back; 0: late ones are dropped.
    pub packets: usize,
    /// Longest wait for a missing one.
    pub wait: Duration,
}

/// A token bucket's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second.
    pub per_second: u32,
    /// Tokens at the most.
    pub burst: u32,
}

/// Bounds of what peers can make us keep and do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels per shard. One source has no more of them than are left for all others.
    pub tunnels: usize,
    /// Sessions per tunnel.
    pub sessions: usize,
    /// Half-open peers per shard that no entry of `peers` names.
    pub half_open: usize,
    /// Half-open peers per shard that an entry of `peers` names.
    pub known_half_open: usize,
    /// Half-open peers of one address.
    pub half_open_per_source: usize,
    /// Half-open peers of one /24 or /56.
    pub half_open_per_prefix: usize,
    /// Requests for tunnels from one address.
    pub source_rate: Rate,
    /// Requests for tunnels from all peers that no entry of `peers` names.
    pub unknown_rate: Rate,
    /// Requests for tunnels from all others.
    pub known_rate: Rate,
}

/// A peer, or several, that a rule is about.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its Host Name, with `*` and `?`; `None`: any.
    pub host_name: Option<String>,
    /// Where it is; `None`: anywhere.
    pub source: Option<IpPrefix>,
    /// The secret shared with it.
    pub secret: Option<Secret>,
    /// Whether to hide AVPs from onlookers.
    pub hide_avps: bool,
    /// When to sequence data.
    pub sequencing: SequencingPolicy,
}

impl Peer {
    fn matches(&self, host_name: &[u8], source: IpAddr) -> bool {
        self.source.is_none_or(|prefix| prefix.contains(source))
            && self
                .host_name
                .as_ref()
                .is_none_or(|pattern| glob(pattern.as_bytes(), host_name))
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any octets and `?` for one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&octet) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == octet => {
                p += 1;
                t += 1;
            }
            _ => {
                // Let the last star take one octet more.
                let Some((star_at, taken)) = star else {
                    return false;
                };
                star = Some((star_at, taken + 1));
                p = star_at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|&octet| octet == b'*')
}

/// Index of the rule for a peer: an entry of `peers`, or [`Config::EVERYONE`].
pub type PeerIndex = u16;

/// Configuration of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our Host Name.
    pub host_name: Vec<u8>,
    /// Our Vendor Name; empty: none.
    pub vendor_name: Vec<u8>,
    /// What calls we place.
    pub role: Role,
    /// Rules about peers; the first that matches counts.
    pub peers: Vec<Peer>,
    /// The rule for all others.
    pub everyone: Peer,
    /// Whether peers without a rule are served at all.
    pub accept_unknown: bool,
    /// Whether a peer without a secret is served.
    pub allow_no_secret: bool,
    /// Our receive window.
    pub window: u16,
    /// Longest wait of an acknowledgement for a message to travel with.
    pub ack_delay: Duration,
    /// Retransmission until a tunnel is established.
    pub setup_retransmit: Retransmit,
    /// Retransmission from then on.
    pub retransmit: Retransmit,
    /// Silence after which a HELLO is sent.
    pub hello_interval: Duration,
    /// Longest life of a half-open peer.
    pub half_open_timeout: Duration,
    /// Longest time a call may take to be established.
    pub call_timeout: Duration,
    /// Longest time that ending all PPP links of a tunnel may take.
    pub close_timeout: Duration,
    /// Longest life of a tunnel without calls; zero: no limit.
    pub empty_timeout: Duration,
    /// How data is put in order.
    pub reorder: Reorder,
    /// Whether data headers have a length field.
    pub length_bit: bool,
    /// Whether a reply to our SCCRQ may come from another address, not only another port.
    pub float_address: bool,
    /// Whether to follow a peer whose address changes later, once it is proven.
    pub strict_follow: bool,
    /// Whether our SCCRQ carries a tie breaker: one tunnel with each peer.
    pub tie_breaker: bool,
    /// Whether to answer OCRQ: we then say that we can place calls.
    pub answer_outgoing: bool,
    /// As whom to authenticate on calls that we answer.
    pub answer_login: Option<Login>,
    /// MTU of the network between the peers.
    pub mtu: u16,
    /// Bounds.
    pub limits: Limits,
    /// PPP.
    pub ppp: Arc<PppConfig>,
}

impl Config {
    /// The index of the rule for peers that no other rule is about.
    pub const EVERYONE: PeerIndex = PeerIndex::MAX;
    /// Most rules about peers.
    pub const MAX_PEERS: usize = 10_000;

    /// The rule for a peer.
    pub fn find_peer(&self, host_name: &[u8], source: IpAddr) -> PeerIndex {
        let found = self.peers.iter().position(|peer| peer.matches(host_name, source));
        found
            .and_then(|index| PeerIndex::try_from(index).ok())
            .unwrap_or(Self::EVERYONE)
    }

    /// The rule for a peer whose name is not known yet: by address only.
    pub fn find_address(&self, address: IpAddr) -> PeerIndex {
        let found = self.peers.iter().position(|peer| {
            let anywhere = peer.source.is_none() && peer.host_name.is_none();
            anywhere || peer.source.is_some_and(|prefix| prefix.contains(address))
        });
        found
            .and_then(|index| PeerIndex::try_from(index).ok())
            .unwrap_or(Self::EVERYONE)
    }

    /// The rule that was known by these conditions, in this configuration; `None`: there is none any more.
    pub(crate) fn same_rule(&self, host_name: Option<&str>, source: Option<&str>) -> Option<PeerIndex> {
        let found = self.peers.iter().position(|peer| {
            peer.host_name.as_deref() == host_name
                && peer.source.map(|source| source.to_string()).as_deref() == source
        });
        found.and_then(|index| PeerIndex::try_from(index).ok())
    }

    /// A rule by its index.
    pub fn peer(&self, index: PeerIndex) -> &Peer {
        self.peers.get(usize::from(index)).unwrap_or(&self.everyone)
    }

    /// Largest IP packet that fits the network, with headers of both families taken off.
    pub fn inner_mtu(&self, outer: IpAddr) -> u16 {
        let ip = if outer.is_ipv4() { 20 } else { 40 };
        self.mtu.saturating_sub(ip + OVERHEAD)
    }

    /// Reads a listener's `l2tp` section. Problems are reported into the section.
    ///
    /// | key | default | meaning |
    /// |---|---|---|
    /// | `host_name` | `sluice` | Host Name AVP, 1 to 255 octets |
    /// | `vendor_name` | `Sluice` | Vendor Name AVP; empty: none |
    /// | `role` | `lns` | `lns` or `lac`: what a placed call is |
    /// | `secret`, `secret_file` | none | secret for peers without a rule |
    /// | `allow_no_secret` | true | serve peers for which there is no secret |
    /// | `accept_unknown` | true | serve peers that no rule is about |
    /// | `hide_avps` | false | hide AVPs where there is a secret |
    /// | `sequencing` | `on_request` | `off`, `on_request`, `required` |
    /// | `peers` | none | rules: `host_name` (with `*`, `?`), `source` (prefix), `secret`, `hide_avps`, `sequencing` |
    /// | `window` | 16 | receive window, 4 to 256 messages |
    /// | `ack_delay` | 20ms | 0ms to 200ms (RFC 2661, 5.8 forbids withholding) |
    /// | `retransmit_initial`, `retransmit_max`, `retransmit_tries` | 1s, 8s, 5 | 5.8: 1 s, cap of 8 s or more, 5 |
    /// | `setup_retransmit_initial`, `setup_retransmit_max`, `setup_retransmit_tries` | 1s, 8s, 5 | until established |
    /// | `hello_interval` | 60s | 5s to 1h (5.5) |
    /// | `half_open_timeout` | 30s | 5s to 2m |
    /// | `call_timeout` | 60s | 5s to 10m |
    /// | `close_timeout` | 3s | 0s to 30s |
    /// | `empty_timeout` | 2m | 0s (none) to 1d |
    /// | `reorder_packets`, `reorder_wait` | 16, 20ms | 0 to 32, 1ms to 50ms |
    /// | `length_bit` | false | length field in data headers |
    /// | `float_address`, `strict_follow` | false | peers that move |
    /// | `tie_breaker` | false | one tunnel with each peer that both open |
    /// | `answer_outgoing` | false | answer OCRQ; `answer_login`, `answer_password(_file)`: PPP login on them |
    /// | `mtu` | 1500 | of the network between the peers, 1280 to 9216 |
    /// | `max_tunnels` | 16384 | per shard; one source has no more than are left for all others |
    /// | `max_sessions` | 32768 | per tunnel |
    /// | `max_half_open`, `max_known_half_open` | 8192, 4096 | per shard |
    /// | `max_half_open_per_source`, `max_half_open_per_prefix` | 2048, 4096 | per shard |
    /// | `source_rate`, `source_burst` | 500, 2000 | tunnel requests of one address |
    /// | `unknown_rate`, `unknown_burst` | 2000, 8000 | of all peers without a rule |
    /// | `known_rate`, `known_burst` | 2000, 8000 | of all peers with a rule |
    /// | `ppp` | | section of [`PppConfig`] |
    pub fn from_section(section: &Section<'_>) -> Self {
        let hide_avps = section.boolean("hide_avps", false);
        let sequencing = sequencing(section, SequencingPolicy::OnRequest);
        let everyone = Peer {
            host_name: None,
            source: None,
            secret: secret(section, "secret"),
            hide_avps,
            sequencing,
        };
        let allow_no_secret = section.boolean("allow_no_secret", true);
        let peers = peers(section, &everyone);
        let answer_outgoing = section.boolean("answer_outgoing", false);
        Self {
            host_name: name(section, "host_name", "sluice", 1),
            vendor_name: name(section, "vendor_name", "Sluice", 0),
            role: section.choice("role", Role::Lns, &[("lns", Role::Lns), ("lac", Role::Lac)]),
            peers,
            everyone,
            accept_unknown: section.boolean("accept_unknown", true),
            allow_no_secret,
            window: number(section, "window", 16, 4..=256),
            ack_delay: section.duration("ack_delay", millis(20), millis(0)..=millis(200)),
            setup_retransmit: retransmit(section, "setup_"),
            retransmit: retransmit(section, ""),
            hello_interval: section.duration("hello_interval", seconds(60), seconds(5)..=seconds(3600)),
            half_open_timeout: section.duration("half_open_timeout", seconds(30), seconds(5)..=seconds(120)),
            call_timeout: section.duration("call_timeout", seconds(60), seconds(5)..=seconds(600)),
            close_timeout: section.duration("close_timeout", seconds(3), seconds(0)..=seconds(30)),
            empty_timeout: section.duration("empty_timeout", seconds(120), seconds(0)..=seconds(86_400)),
            reorder: Reorder {
                packets: number(section, "reorder_packets", 16, 0..=32),
                wait: section.duration("reorder_wait", millis(20), millis(1)..=millis(50)),
            },
            length_bit: section.boolean("length_bit", false),
            float_address: section.boolean("float_address", false),
            strict_follow: section.boolean("strict_follow", false),
            tie_breaker: section.boolean("tie_breaker", false),
            answer_outgoing,
            answer_login: answer_login(section, answer_outgoing),
            mtu: number(section, "mtu", 1500, MIN_MTU..=9216),
            limits: limits(section),
            ppp: Arc::new(PppConfig::from_section(&section.section("ppp"))),
        }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn number<T: TryFrom<u64> + Default>(
    section: &Section<'_>,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> T {
    T::try_from(section.integer(key, default, range)).unwrap_or_default()
}

fn name(section: &Section<'_>, key: &str, default: &str, shortest: usize) -> Vec<u8> {
    let name = section.text_or(key, default);
    if !(shortest..=MAX_NAME).contains(&name.len()) {
        section.report(key, format!("must have {shortest} to {MAX_NAME} octets"));
    }
    name.into_bytes()
}

fn secret(section: &Section<'_>, key: &str) -> Option<Secret> {
    let secret = section.secret(key)?;
    if secret.is_empty() {
        section.report(key, "must not be empty; leave it out where there is none");
        return None;
    }
    Some(secret)
}

fn sequencing(section: &Section<'_>, default: SequencingPolicy) -> SequencingPolicy {
    section.choice(
        "sequencing",
        default,
        &[
            ("off", SequencingPolicy::Off),
            ("on_request", SequencingPolicy::OnRequest),
            ("required", SequencingPolicy::Required),
        ],
    )
}

fn peers(section: &Section<'_>, everyone: &Peer) -> Vec<Peer> {
    let sections = section.sections("peers");
    if sections.len() > Config::MAX_PEERS {
        section.report("peers", format!("must be at most {}", Config::MAX_PEERS));
    }
    let peer = |section: &Section<'_>| {
        let peer = Peer {
            host_name: section.text("host_name"),
            source: section.parsed("source", "an address or prefix such as 192.0.2.0/24"),
            secret: secret(section, "secret"),
            hide_avps: section.boolean("hide_avps", everyone.hide_avps),
            sequencing: sequencing(section, everyone.sequencing),
        };
        if peer.host_name.is_none() && peer.source.is_none() && !section.has("source") {
            section.report("", "needs host_name or source");
        }
        if peer.hide_avps && peer.secret.is_none() && section.has("hide_avps") {
            section.report("hide_avps", "needs a secret");
        }
        peer
    };
    sections.iter().map(peer).collect()
}

fn retransmit(section: &Section<'_>, prefix: &str) -> Retransmit {
    let key = |name: &str| format!("{prefix}retransmit_{name}");
    Retransmit {
        initial: section.duration(&key("initial"), seconds(1), millis(100)..=seconds(8)),
        maximum: section.duration(&key("max"), seconds(8), seconds(8)..=seconds(60)),
        tries: number(section, &key("tries"), 5, 1..=20),
    }
}

fn answer_login(section: &Section<'_>, answers: bool) -> Option<Login> {
    let name = section.text("answer_login");
    let password = section.secret("answer_password");
    if !answers && (name.is_some() || password.is_some()) {
        section.report("answer_login", "needs answer_outgoing = true");
    }
    match (name, password) {
        (Some(name), Some(password)) => Some(Login { name, password }),
        (None, None) => None,
        _ => {
            section.report("answer_login", "needs answer_password, and the other way round");
            None
        }
    }
}

fn rate(section: &Section<'_>, what: &str, per_second: u64, burst: u64) -> Rate {
    Rate {
        per_second: number(section, &format!("{what}_rate"), per_second, 1..=1_000_000),
        burst: number(section, &format!("{what}_burst"), burst, 1..=1_000_000),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    // 16-bit identifiers bound them all; 65,535 of 65,536 are usable.
    let count = |key: &str, default| number(section, key, default, 1..=65_535);
    Limits {
        tunnels: count("max_tunnels", 16_384),
        sessions: count("max_sessions", 32_768),
        half_open: count("max_half_open", 8_192),
        known_half_open: count("max_known_half_open", 4_096),
        half_open_per_source: count("max_half_open_per_source", 2_048),
        half_open_per_prefix: count("max_half_open_per_prefix", 4_096),
        source_rate: rate(section, "source", 500, 2_000),
        unknown_rate: rate(section, "unknown", 2_000, 8_000),
        known_rate: rate(section, "known", 2_000, 8_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::config::read;

    fn config(text: &str) -> Config {
        read("a", text, Config::from_section).unwrap()
    }

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("lac", "lac", true),
            ("lac", "lac2", false),
            ("lac*", "lac2", true),
            ("*.example", "a.b.example", true),
            ("*a*b", "xxaxxab", true),
            ("*a*b", "xxaxxabc", false),
            ("l?c", "lac", true),
            ("l?c", "lc", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let config = config(
            "secret = \"all\"\n\
             [[peers]]\nhost_name = \"lac*\"\nsource = \"192.0.2.0/24\"\nsecret = \"one\"\n\
             [[peers]]\nsource = \"192.0.2.0/24\"\nsecret = \"two\"\nsequencing = \"required\"\n\
             [[peers]]\nhost_name = \"lac9\"\nhide_avps = false\n",
        );
        let near = IpAddr::from([192, 0, 2, 7]);
        let far = IpAddr::from([198, 51, 100, 7]);
        assert_eq!(config.find_peer(b"lac9", near), 0);
        assert_eq!(config.find_peer(b"other", near), 1);
        assert_eq!(config.find_peer(b"lac9", far), 2);
        assert_eq!(config.find_peer(b"other", far), Config::EVERYONE);
        assert_eq!(config.peer(1).sequencing, SequencingPolicy::Required);
        assert_eq!(config.peer(0).secret, Some(Secret::new("one")));
        assert_eq!(config.peer(2).secret, None);
        assert_eq!(config.peer(Config::EVERYONE).secret, Some(Secret::new("all")));
    }

    #[test]
    fn defaults_are_those_of_the_rfc() {
        let config = config("");
        assert_eq!(config.retransmit.initial, seconds(1));
        assert_eq!(
            (config.retransmit.maximum, config.retransmit.tries),
            (seconds(8), 5)
        );
        assert_eq!(config.hello_interval, seconds(60));
        assert!(config.ack_delay <= millis(200));
        // 1500 less IPv4, UDP, the longest L2TP header and PPP.
        assert_eq!(config.inner_mtu(IpAddr::from([127, 0, 0, 1])), 1456);
        assert!(!config.strict_follow && config.allow_no_secret);
    }

    #[test]
    fn problems_name_their_keys() {
        let problems = read(
            "a",
            "host_name = \"\"\nwindow = 3\nack_delay = \"201ms\"\nretransmit_max = \"7s\"\nsecret = \"\"\n\
             answer_login = \"x\"\n[[peers]]\nhide_avps = true\n",
            Config::from_section,
        )
        .unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "host_name",
                "window",
                "ack_delay",
                "retransmit_max",
                "secret",
                "answer_login",
                "answer_login",
                "peers[0]",
                "peers[0].hide_avps"
            ]
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = config("secret = \"hunter2\"\n[[peers]]\nhost_name = \"x\"\nsecret = \"hunter3\"\n");
        assert!(!format!("{config:?}").contains("hunter"));
    }
}
