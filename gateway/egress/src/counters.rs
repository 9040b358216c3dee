//! What the crate counts, by closed names.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $family:literal $label:literal,)+) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $($(#[$doc])* $name,)+
        }

        impl Counter {
            /// All counters, family by family.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)+];

            /// The family: what is counted.
            pub fn family(self) -> &'static str {
                match self { $(Counter::$name => $family,)+ }
            }

            /// The label within the family: how it turned out.
            pub fn label(self) -> &'static str {
                match self { $(Counter::$name => $label,)+ }
            }
        }
    };
}

counters! {
    /// Look-ups answered from the cache.
    LookupHit => "lookups" "hit",
    /// Look-ups answered from the cache by a failure.
    LookupNegativeHit => "lookups" "negative_hit",
    /// Look-ups that joined one under way.
    LookupJoined => "lookups" "joined",
    /// Look-ups that asked a name server.
    LookupMiss => "lookups" "miss",
    /// Names and families answered by the hosts file.
    LookupHosts => "lookups" "hosts",
    /// Names that do not exist.
    LookupNotFound => "lookup_failures" "not_found",
    /// Names without an address of the family.
    LookupNoData => "lookup_failures" "no_data",
    /// Name servers that failed or said nonsense.
    LookupServerFailure => "lookup_failures" "server_failure",
    /// Name servers that did not answer in time.
    LookupTimeout => "lookup_failures" "timeout",
    /// Look-ups refused because too many were waiting.
    LookupBusy => "lookup_failures" "busy",
    /// Requests that led to a connection.
    Connected => "connects" "ok",
    /// Requests that nobody answered in time.
    TimedOut => "connects" "timed_out",
    /// Requests without a way to the network.
    NetworkUnreachable => "connects" "network_unreachable",
    /// Requests without a way to the host.
    HostUnreachable => "connects" "host_unreachable",
    /// Requests that the host refused.
    Refused => "connects" "refused",
    /// Requests to hosts without an address of a usable family.
    Family => "connects" "family",
    /// Requests that an upstream does not do.
    UpstreamCommand => "connects" "upstream_command",
    /// Requests to an address of a kind that an upstream does not take.
    UpstreamAddress => "connects" "upstream_address",
    /// Requests that an upstream failed.
    Upstream => "connects" "upstream",
    /// Requests for which something had run out.
    Resources => "connects" "resources",
    /// Requests that were denied.
    Denied => "connects" "denied",
    /// Requests that the client gave up.
    GivenUp => "connects" "given_up",
    /// Races for a name won by an IPv4 address.
    WonIpv4 => "races" "ipv4",
    /// Races for a name won by an IPv6 address.
    WonIpv6 => "races" "ipv6",
    /// Upstream servers that could not be connected to.
    UpstreamUnreachable => "upstream_faults" "upstream_unreachable",
    /// Upstream servers that did not finish their handshake in time.
    UpstreamTimeout => "upstream_faults" "upstream_timeout",
    /// Upstream servers that closed the connection within their handshake.
    UpstreamClosed => "upstream_faults" "upstream_closed",
    /// Upstream servers that said what their protocol does not have.
    UpstreamMalformed => "upstream_faults" "upstream_malformed",
    /// Upstream servers that did not take the login.
    UpstreamLogin => "upstream_faults" "upstream_login",
    /// Requests that found all servers of an upstream resting.
    UpstreamResting => "upstream_faults" "upstream_resting",
    /// Requests for an upstream that there is not.
    UpstreamUnknown => "upstream_faults" "upstream_unknown",
    /// Connections waited for that came.
    Accepted => "binds" "accepted",
    /// Connections waited for that did not come in time.
    NobodyCame => "binds" "nobody_came",
    /// Waits that found no free port.
    NoPort => "binds" "no_port",
    /// Connections from others than the expected peer, closed.
    ForeignPeer => "binds" "foreign_peer",
}

/// The counters. They are added to by whoever holds them, from any thread.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub(crate) fn add(&self, counter: Counter) {
        if let Some(cell) = self.0.get(counter as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were counted since the start.
    pub fn get(&self, counter: Counter) -> u64 {
        let cell = self.0.get(counter as usize);
        cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

impl Counter {
    /// The counter of requests that failed so.
    pub(crate) fn of(failure: sluice_spi::ChannelFailure) -> Self {
        use sluice_spi::ChannelFailure as Failure;
        match failure {
            Failure::TimedOut => Counter::TimedOut,
            Failure::NetworkUnreachable => Counter::NetworkUnreachable,
            Failure::HostUnreachable => Counter::HostUnreachable,
            Failure::Refused => Counter::Refused,
            Failure::Family => Counter::Family,
            Failure::UpstreamCommand => Counter::UpstreamCommand,
            Failure::UpstreamAddress => Counter::UpstreamAddress,
            Failure::Upstream => Counter::Upstream,
            Failure::Resources => Counter::Resources,
            Failure::Denied => Counter::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::ChannelFailure;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_each_counter_is_its_own() {
        let names: HashSet<_> = Counter::ALL.iter().map(|c| (c.family(), c.label())).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        let counters = Counters::default();
        for (index, counter) in Counter::ALL.iter().enumerate() {
            (0..=index).for_each(|_| counters.add(*counter));
        }
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counters.get(*counter), index as u64 + 1);
        }
    }

    #[test]
    fn connects_are_counted_by_the_codes_of_the_contract() {
        for failure in ChannelFailure::ALL {
            let counter = Counter::of(failure);
            assert_eq!(
                (counter.family(), counter.label()),
                ("connects", failure.as_str())
            );
        }
    }
}
