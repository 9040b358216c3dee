//! Why a relay dropped datagrams, and how many.

use sluice_spi::DropReason;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Why a relay itself dropped a datagram.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All reasons, in the order of their declaration.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The stable code for metrics and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// It came to the client's side, but not from the client's address and port.
    WrongSource = "wrong_source";
    /// It did not fit into its buffer, or came without a usable sender.
    Truncated = "truncated";
    /// A part that was not put together with others in time.
    Fragment = "fragment";
    /// The client may not send to its target.
    Denied = "denied";
    /// It would have to go through an upstream proxy.
    Upstream = "upstream";
    /// Its target was not found.
    Unresolved = "unresolved";
    /// It came from an address that the client has not sent to, or not for long.
    NoFlow = "no_flow";
    /// It is larger than a datagram can be, with the header that it would get.
    TooBig = "too_big";
    /// There is no socket to send it from, or its target's way would be one more than a relay has.
    NoSocket = "no_socket";
    /// The kernel did not take it.
    SendFailed = "send_failed";
    /// Too much waits for a decision already, or it still waited when the relay stopped.
    Backlog = "backlog";
    /// A socket could not be read; no datagram is known to be lost.
    ReceiveFailed = "receive_failed";
}

const OWN: usize = Reason::ALL.len();

/// Counters of dropped datagrams by reason.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Drops {
    own: [u64; OWN],
    /// Those of the codec. There are few, and most clients cause none.
    codec: Vec<(&'static str, u64)>,
}

impl Drops {
    pub(super) fn add(&mut self, reason: Reason, count: u64) {
        if let Some(counter) = self.own.get_mut(reason as usize) {
            *counter += count;
        }
    }

    pub(super) fn add_codec(&mut self, DropReason(name): DropReason) {
        match self.codec.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => self.codec.push((name, 1)),
        }
    }

    /// Datagrams that the relay itself dropped for one reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.own.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason for which any was dropped, with its count: the relay's own ([`Reason::as_str`]) and then those
    /// that the codec gave.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let own = Reason::ALL
            .iter()
            .map(|&reason| (reason.as_str(), self.count(reason)));
        own.chain(self.codec.iter().copied())
            .filter(|&(_, count)| count > 0)
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
