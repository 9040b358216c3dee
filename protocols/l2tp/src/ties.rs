//! Requests for tunnels that we have sent and that are not answered yet, for the tie breaker (RFC 2661, 4.4.3).
//!
//! The peer's own request may arrive at the front of another shard than the one of our machine; this is the one
//! thing that shards share. It is looked at when a request arrives, never for data.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One request of ours. It counts for as long as its machine holds it.
#[derive(Debug)]
pub(crate) struct Tie {
    peer: IpAddr,
    value: Option<[u8; 8]>,
    lost: AtomicBool,
}

impl Tie {
    /// Whether the peer's request goes on in place of ours.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

/// What becomes of a peer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tied {
    /// It is served.
    TheirsGoesOn,
    /// It is dropped without a word.
    TheirsIsDropped,
}

/// The requests of one listener.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    open: Mutex<Vec<Weak<Tie>>>,
}

impl Ties {
    /// Notes that a request was sent.
    pub(crate) fn enter(&self, peer: IpAddr, value: Option<[u8; 8]>) -> Arc<Tie> {
        let tie = Arc::new(Tie {
            peer: peer.to_canonical(),
            value,
            lost: AtomicBool::new(false),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|tie| tie.strong_count() > 0);
        open.push(Arc::downgrade(&tie));
        tie
    }

    /// Decides between a peer's request and ours to it. The lower value wins; equal ones both lose; a request
    /// without loses to one with; two without both go on.
    pub(crate) fn resolve(&self, peer: IpAddr, theirs: Option<[u8; 8]>) -> Tied {
        let peer = peer.to_canonical();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = Tied::TheirsGoesOn;
        for ours in open.iter().filter_map(Weak::upgrade) {
            if ours.peer != peer || ours.is_lost() {
                continue;
            }
            let (we_lose, they_lose) = match (ours.value, theirs) {
                (None, None) => (false, false),
                (Some(_), None) => (false, true),
                (None, Some(_)) => (true, false),
                (Some(ours), Some(theirs)) => (theirs <= ours, ours <= theirs),
            };
            if we_lose {
                ours.lost.store(true, Ordering::Release);
            }
            if they_lose {
                result = Tied::TheirsIsDropped;
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_value_wins() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        let low = Some([0, 0, 0, 0, 0, 0, 0, 1]);
        let high = Some([1, 0, 0, 0, 0, 0, 0, 0]);
        for (ours, theirs, lost, goes_on) in [
            (None, None, false, true),
            (low, None, false, false),
            (None, low, true, true),
            (low, high, false, false),
            (high, low, true, true),
            (low, low, true, false),
        ] {
            let ties = Ties::default();
            let tie = ties.enter(peer, ours);
            let other = ties.enter(IpAddr::from([192, 0, 2, 2]), low);
            let result = ties.resolve(peer, theirs);
            assert_eq!(tie.is_lost(), lost, "{ours:?} {theirs:?}");
            assert_eq!(result == Tied::TheirsGoesOn, goes_on, "{ours:?} {theirs:?}");
            assert!(!other.is_lost());
        }
    }

    #[test]
    fn requests_that_are_over_do_not_count() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        let ties = Ties::default();
        drop(ties.enter(peer, Some([0; 8])));
        assert_eq!(ties.resolve(peer, None), Tied::TheirsGoesOn);
    }
}
