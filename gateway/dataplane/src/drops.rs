//! Counters of dropped packets, by reason.

use sluice_spi::{Descriptor, DropReason};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Why the data plane itself dropped a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Dropped { $($(#[$doc])* $name,)* }

        impl Dropped {
            /// All reasons, in the order of their declaration.
            pub const ALL: &'static [Dropped] = &[$(Dropped::$name),*];

            /// The stable code for metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Dropped::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// A datagram did not fit into its buffer, or came without a usable sender.
    Truncated = "truncated";
    /// A socket could not be read.
    ReceiveFailed = "receive_failed";
    /// A datagram without any byte.
    Empty = "empty";
    /// A data packet did not come from the address and port that its session is bound to.
    WrongPeer = "wrong_peer";
    /// An IP packet of a session was not one.
    Malformed = "malformed";
    /// The source address was not the session's.
    SpoofedSource = "spoofed_source";
    /// There is no TUN device to carry user data.
    NoTun = "no_tun";
    /// The TUN device did not take a packet.
    TunWrite = "tun_write";
    /// No session has the destination address.
    NoRoute = "no_route";
    /// A multicast or link-local packet that belongs to no session.
    Multicast = "multicast";
    /// An IP packet was larger than the session's link allows, and must not be fragmented.
    TooBig = "too_big";
    /// The session's codec may not send now.
    NotReady = "not_ready";
    /// Too much waits for a socket to take it.
    SendQueueFull = "send_queue_full";
    /// A socket did not take a datagram.
    SendFailed = "send_failed";
    /// No socket is bound to the address to send from.
    NoSocket = "no_socket";
    /// Too much waits for the control side.
    SlowQueueFull = "slow_queue_full";
    /// Too much waits for another shard.
    RingFull = "ring_full";
}

const OWN: usize = Dropped::ALL.len();

/// Name of the count of module drops whose reason the module's descriptor does not list.
const UNLISTED: &str = "unlisted";

#[derive(Debug)]
struct ModuleDrops {
    protocol: &'static str,
    reasons: &'static [&'static str],
    /// One for each reason, and one more for those not listed.
    counts: Vec<u64>,
}

/// The index of a module's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleIndex(pub(crate) usize);

/// All counters of one shard.
#[derive(Debug, Default)]
pub struct Drops {
    own: [u64; OWN],
    modules: Vec<ModuleDrops>,
}

impl Drops {
    /// Gives a module its counters.
    pub(crate) fn register(&mut self, module: &'static Descriptor) -> ModuleIndex {
        if let Some(index) = self
            .modules
            .iter()
            .position(|known| known.protocol == module.name)
        {
            return ModuleIndex(index);
        }
        self.modules.push(ModuleDrops {
            protocol: module.name,
            reasons: module.drop_reasons,
            counts: vec![0; module.drop_reasons.len() + 1],
        });
        ModuleIndex(self.modules.len() - 1)
    }

    pub(crate) fn add(&mut self, reason: Dropped, count: u64) {
        if let Some(counter) = self.own.get_mut(reason as usize) {
            *counter += count;
        }
    }

    pub(crate) fn one(&mut self, reason: Dropped) {
        self.add(reason, 1);
    }

    pub(crate) fn by_module(&mut self, module: ModuleIndex, DropReason(reason): DropReason) {
        let Some(module) = self.modules.get_mut(module.0) else {
            return;
        };
        let known = module.reasons.iter().position(|&listed| listed == reason);
        if let Some(counter) = module.counts.get_mut(known.unwrap_or(module.reasons.len())) {
            *counter += 1;
        }
    }

    /// Packets dropped by the data plane itself under one reason.
    pub fn count(&self, reason: Dropped) -> u64 {
        self.own.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every counter: the protocol (`None`: the data plane itself), the reason and the count since the start.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&'static str>, &'static str, u64)> {
        let own = Dropped::ALL
            .iter()
            .map(|&reason| (None, reason.as_str(), self.count(reason)));
        let modules = self.modules.iter().flat_map(|module| {
            let reasons = module.reasons.iter().copied().chain([UNLISTED]);
            reasons
                .zip(&module.counts)
                .map(|(reason, &count)| (Some(module.protocol), reason, count))
        });
        own.chain(modules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::{Resumption, Transport};

    static TOY: Descriptor = Descriptor {
        name: "toy",
        title: "Toy",
        transport: Transport::Udp,
        packets: None,
        default_port: 1,
        specifications: &[],
        resumption: Resumption::Checkpoint,
        drop_reasons: &["bad", "worse"],
        counters: &[],
    };

    #[test]
    fn counts_by_reason_and_module() {
        let mut drops = Drops::default();
        let toy = drops.register(&TOY);
        assert_eq!(drops.register(&TOY), toy);
        drops.one(Dropped::NoRoute);
        drops.by_module(toy, DropReason("worse"));
        drops.by_module(toy, DropReason("never heard of"));
        let counted: Vec<_> = drops.iter().filter(|&(_, _, count)| count > 0).collect();
        assert_eq!(
            counted,
            [
                (None, "no_route", 1),
                (Some("toy"), "worse", 1),
                (Some("toy"), "unlisted", 1)
            ]
        );
        assert_eq!(drops.iter().count(), OWN + 3);
    }
}
