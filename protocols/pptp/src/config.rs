//! Configuration of a PPTP listener.

use crate::wire::message::TEXT;
use sluice_ppp::PppConfig;
use sluice_spi::config::Section;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Octets of IPv4, GRE with both numbers, and PPP header around an IP packet.
const OVERHEAD: u16 = 20 + 16 + 4;

/// Bounds of what peers can make us keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Control connections of the listener.
    pub connections: usize,
    /// Control connections of one address.
    pub connections_per_source: usize,
    /// Control connections that are not established yet.
    pub half_open: usize,
    /// Those of one address.
    pub half_open_per_source: usize,
    /// Calls of one control connection.
    pub calls: usize,
}

/// How packets that overtook each other are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reorder {
    /// Most packets held back; 0: late ones are dropped.
    pub packets: usize,
    /// Longest wait for a missing one.
    pub wait: Duration,
}

/// Configuration of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our Host Name.
    pub host_name: Vec<u8>,
    /// Our Vendor Name.
    pub vendor_name: Vec<u8>,
    /// Longest wait for Start-Control-Connection-Request.
    pub start_timeout: Duration,
    /// Silence after which an Echo-Request is sent.
    pub echo_interval: Duration,
    /// Longest wait for the Echo-Reply.
    pub echo_timeout: Duration,
    /// Longest time a call may take to be established.
    pub call_timeout: Duration,
    /// Longest time that ending all PPP links may take, and the answer to Stop-Control-Connection-Request.
    pub close_timeout: Duration,
    /// Longest life of a control connection without calls; zero: no limit.
    pub empty_timeout: Duration,
    /// Whether Outgoing-Call-Request is answered, with us as PAC.
    pub accept_outgoing: bool,
    /// Whether Incoming-Call-Request is answered, with us as PNS.
    pub accept_incoming: bool,
    /// The receive window that peers are told, in packets.
    pub window: u16,
    /// Longest wait of an acknowledgement for a packet to travel with.
    pub ack_delay: Duration,
    /// How data is put in order.
    pub reorder: Reorder,
    /// MTU of the network between the peers.
    pub mtu: u16,
    /// Bounds.
    pub limits: Limits,
    /// PPP.
    pub ppp: Arc<PppConfig>,
}

impl Config {
    /// Largest IP packet that fits the network.
    pub fn inner_mtu(&self) -> u16 {
        self.mtu.saturating_sub(OVERHEAD)
    }

    /// Reads a listener's `pptp` section. Problems are reported into the section.
    ///
    /// | key | default | meaning |
    /// |---|---|---|
    /// | `host_name`, `vendor_name` | `sluice`, `Sluice` | what peers are told, at most 64 octets |
    /// | `start_timeout` | 10s | 1s to 60s (RFC 2637, 3.1.4) |
    /// | `echo_interval`, `echo_timeout` | 60s, 60s | 5s to 1h each (3.1.4) |
    /// | `call_timeout` | 60s | 5s to 10m (3.2.1) |
    /// | `close_timeout` | 3s | 0s to 30s |
    /// | `empty_timeout` | 2m | 0s (none) to 1d |
    /// | `accept_outgoing`, `accept_incoming` | true | which calls are answered |
    /// | `window` | 64 | receive window, 2 to 1024 packets |
    /// | `ack_delay` | 100ms | 0ms to 500ms |
    /// | `reorder_packets`, `reorder_wait` | 16, 20ms | 0 to 32, 1ms to 50ms |
    /// | `mtu` | 1500 | of the network between the peers, 576 to 9216 |
    /// | `max_connections`, `max_connections_per_source` | 16384, 4096 | of the listener |
    /// | `max_half_open`, `max_half_open_per_source` | 1024, 256 | of the listener |
    /// | `max_calls` | 4096 | of one control connection |
    /// | `ppp` | | section of [`PppConfig`] |
    pub fn from_section(section: &Section<'_>) -> Self {
        let echo = seconds(5)..=seconds(3600);
        Self {
            host_name: name(section, "host_name", "sluice"),
            vendor_name: name(section, "vendor_name", "Sluice"),
            start_timeout: section.duration("start_timeout", seconds(10), seconds(1)..=seconds(60)),
            echo_interval: section.duration("echo_interval", seconds(60), echo.clone()),
            echo_timeout: section.duration("echo_timeout", seconds(60), echo),
            call_timeout: section.duration("call_timeout", seconds(60), seconds(5)..=seconds(600)),
            close_timeout: section.duration("close_timeout", seconds(3), seconds(0)..=seconds(30)),
            empty_timeout: section.duration("empty_timeout", seconds(120), seconds(0)..=seconds(86_400)),
            accept_outgoing: section.boolean("accept_outgoing", true),
            accept_incoming: section.boolean("accept_incoming", true),
            window: number(section, "window", 64, 2..=1024),
            ack_delay: section.duration("ack_delay", millis(100), millis(0)..=millis(500)),
            reorder: Reorder {
                packets: number(section, "reorder_packets", 16, 0..=32),
                wait: section.duration("reorder_wait", millis(20), millis(1)..=millis(50)),
            },
            mtu: number(section, "mtu", 1500, 576..=9216),
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
    range: RangeInclusive<u64>,
) -> T {
    T::try_from(section.integer(key, default, range)).unwrap_or_default()
}

fn name(section: &Section<'_>, key: &str, default: &str) -> Vec<u8> {
    let name = section.text_or(key, default);
    if name.len() > TEXT {
        section.report(key, format!("must have at most {TEXT} octets"));
    }
    name.into_bytes()
}

fn limits(section: &Section<'_>) -> Limits {
    // Machines and calls have 16-bit identifiers; 65,535 of 65,536 are usable.
    let count = |key: &str, default| number(section, key, default, 1..=65_535);
    Limits {
        connections: count("max_connections", 16_384),
        connections_per_source: count("max_connections_per_source", 4_096),
        half_open: count("max_half_open", 1_024),
        half_open_per_source: count("max_half_open_per_source", 256),
        calls: count("max_calls", 4_096),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::config::read;

    #[test]
    fn defaults_are_those_of_the_rfc() {
        let config = read("a", "", Config::from_section).unwrap();
        assert_eq!(
            (config.echo_interval, config.echo_timeout),
            (seconds(60), seconds(60))
        );
        assert!(config.start_timeout <= seconds(60) && config.ack_delay <= millis(500));
        assert_eq!(config.inner_mtu(), 1460);
    }

    #[test]
    fn problems_name_their_keys() {
        let long = "x".repeat(65);
        let text = format!(
            "host_name = \"{long}\"\nwindow = 1\nstart_timeout = \"61s\"\nmax_calls = 0\nother = 1\n"
        );
        let problems = read("a", &text, Config::from_section).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            keys,
            ["host_name", "window", "start_timeout", "max_calls", "other"]
        );
    }
}
