//! Who is let in. All counts change under one short lock, so that a limit holds whatever shards do at once.
//!
//! What costs a peer nothing, tunnels and sessions that are being set up, is shared: a source gets no more while it has
//! as many as are left for all others. One alone can take half, two a third each, and somebody else always finds room.

use crate::config::Limits;
use sluice_spi::Refusal;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Why a session or tunnel was not admitted, in more words than the protocol is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// The gateway is draining.
    Draining,
    /// The gateway is overloaded, as far as it measures its load.
    Overload,
    /// Set-ups come faster than allowed.
    SetupRate,
    /// There are as many sessions as there may be.
    Sessions,
    /// As many sessions are being set up as may be.
    Opening,
    /// The peer is setting up as many sessions as are left for all others.
    PeerOpening,
    /// The peer has as many sessions as it may have.
    PeerSessions,
    /// There are as many tunnels as there may be.
    Tunnels,
    /// The peer has as many tunnels as it may have, or as are left for all others.
    PeerTunnels,
    /// There is no such tunnel (any more), or its machine used a session's name twice.
    NoTunnel,
}

impl Refused {
    /// All reasons, for closed metric label sets.
    pub const ALL: [Refused; 10] = [
        Refused::Draining,
        Refused::Overload,
        Refused::SetupRate,
        Refused::Sessions,
        Refused::Opening,
        Refused::PeerOpening,
        Refused::PeerSessions,
        Refused::Tunnels,
        Refused::PeerTunnels,
        Refused::NoTunnel,
    ];

    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::Draining => "draining",
            Refused::Overload => "overload",
            Refused::SetupRate => "setup_rate",
            Refused::Sessions => "sessions",
            Refused::Opening => "opening",
            Refused::PeerOpening => "peer_opening",
            Refused::PeerSessions => "peer_sessions",
            Refused::Tunnels => "tunnels",
            Refused::PeerTunnels => "peer_tunnels",
            Refused::NoTunnel => "no_tunnel",
        }
    }

    /// What a protocol is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Refused::Draining => Refusal::Draining,
            Refused::Overload | Refused::SetupRate | Refused::NoTunnel => Refusal::Overload,
            Refused::Sessions | Refused::Tunnels => Refusal::TooManySessions,
            Refused::Opening | Refused::PeerOpening => Refusal::TooManyOpening,
            Refused::PeerSessions | Refused::PeerTunnels => Refusal::PeerLimit,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    pub(crate) peer: IpAddr,
    /// Measured load in thousandths.
    pub(crate) load: u16,
    /// 16 random bits, to refuse a part of all.
    pub(crate) random: u16,
    pub(crate) now: Instant,
}

/// What counts as one peer: an IPv4 address, or an IPv6 /64, of which a single line has one at least (RFC 6177).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[derive(Debug, Default)]
struct Peer {
    sessions: u32,
    opening: u32,
    tunnels: u32,
}

/// A token bucket that counts in millionths of a set-up.
#[derive(Debug)]
struct Bucket {
    tokens: u64,
    filled: Option<Instant>,
}

const TOKEN: u64 = 1_000_000;
/// Longest time for which a bucket is filled at once: any burst is full after it at one set-up a second or more.
const LONGEST_FILL: Duration = Duration::from_secs(1 << 20);

impl Bucket {
    fn take(&mut self, limits: &Limits, now: Instant) -> bool {
        let Some(rate) = limits.setup_rate else {
            return true;
        };
        let most = u64::from(rate.burst.max(1)) * TOKEN;
        let passed = match self.filled {
            None => LONGEST_FILL,
            Some(filled) => now.saturating_duration_since(filled).min(LONGEST_FILL),
        };
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(u64::from(rate.per_second.max(1)));
        self.tokens = self.tokens.saturating_add(gained).min(most);
        self.filled = Some(self.filled.map_or(now, |filled| filled.max(now)));
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    draining: bool,
    sessions: u32,
    opening: u32,
    tunnels: u32,
    /// By source.
    peers: HashMap<IpAddr, Peer>,
    bucket: Bucket,
    refused: BTreeMap<Refused, u64>,
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            draining: false,
            sessions: 0,
            opening: 0,
            tunnels: 0,
            peers: HashMap::new(),
            bucket: Bucket {
                tokens: 0,
                filled: None,
            },
            refused: BTreeMap::new(),
        }
    }

    /// New limits end nobody's session; they are felt by those who ask from now on.
    pub(crate) fn configure(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether that was a change.
    pub(crate) fn set_draining(&mut self, draining: bool) -> bool {
        std::mem::replace(&mut self.draining, draining) != draining
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining
    }

    pub(crate) fn refused(&self) -> BTreeMap<Refused, u64> {
        self.refused.clone()
    }

    pub(crate) fn count(&mut self, refused: Refused) -> Refused {
        *self.refused.entry(refused).or_default() += 1;
        refused
    }

    fn check(&mut self, asking: &Asking) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let (start, full) = (self.limits.overload_start, self.limits.overload_full);
        if asking.load >= full.max(1) {
            return Err(Refused::Overload);
        }
        let over = u64::from(asking.load.saturating_sub(start));
        let room = u64::from(full.saturating_sub(start));
        // The probability rises in a straight line from none at `start` to certainty at `full`.
        if over > 0 && u64::from(asking.random) * room < over << 16 {
            return Err(Refused::Overload);
        }
        Ok(())
    }

    /// Counts a session in, or says why not.
    pub(crate) fn session(&mut self, asking: &Asking) -> Result<(), Refused> {
        let result = self.check(asking).and_then(|()| {
            let peer = self.peers.get(&source(asking.peer));
            let (of_peer, opening) = peer.map_or((0, 0), |peer| (peer.sessions, peer.opening));
            if self.sessions >= self.limits.sessions {
                Err(Refused::Sessions)
            } else if self.opening >= self.limits.opening {
                Err(Refused::Opening)
            } else if self.limits.per_peer.is_some_and(|limit| of_peer >= limit) {
                Err(Refused::PeerSessions)
            } else if opening >= self.limits.opening - self.opening {
                Err(Refused::PeerOpening)
            } else if !self.bucket.take(&self.limits, asking.now) {
                Err(Refused::SetupRate)
            } else {
                Ok(())
            }
        });
        match result {
            Ok(()) => {
                self.add_session(asking.peer, true);
                Ok(())
            }
            Err(refused) => Err(self.count(refused)),
        }
    }

    /// Counts a session in whatever the limits are, because it was here before.
    pub(crate) fn add_session(&mut self, peer: IpAddr, opening: bool) {
        self.sessions = self.sessions.saturating_add(1);
        self.opening = self.opening.saturating_add(u32::from(opening));
        let peer = self.peers.entry(source(peer)).or_default();
        peer.sessions = peer.sessions.saturating_add(1);
        peer.opening = peer.opening.saturating_add(u32::from(opening));
    }

    pub(crate) fn session_established(&mut self, peer: IpAddr) {
        self.opening = self.opening.saturating_sub(1);
        self.change_peer(peer, |peer| peer.opening = peer.opening.saturating_sub(1));
    }

    pub(crate) fn session_gone(&mut self, peer: IpAddr, was_opening: bool) {
        self.sessions = self.sessions.saturating_sub(1);
        self.opening = self.opening.saturating_sub(u32::from(was_opening));
        self.change_peer(peer, |peer| {
            peer.sessions = peer.sessions.saturating_sub(1);
            peer.opening = peer.opening.saturating_sub(u32::from(was_opening));
        });
    }

    fn tunnel_room(&self, peer: IpAddr) -> Result<(), Refused> {
        let of_peer = self.peers.get(&source(peer)).map_or(0, |peer| peer.tunnels);
        let left = self.limits.tunnels.saturating_sub(self.tunnels);
        let allowed = self.limits.tunnels_per_peer.unwrap_or(u32::MAX).min(left);
        if left == 0 {
            Err(Refused::Tunnels)
        } else if of_peer >= allowed {
            Err(Refused::PeerTunnels)
        } else {
            Ok(())
        }
    }

    /// Whether a tunnel may be set up now. Nothing is counted in.
    pub(crate) fn tunnel_may_open(&mut self, asking: &Asking) -> Result<(), Refused> {
        let result = self.check(asking).and_then(|()| self.tunnel_room(asking.peer));
        result.map_err(|refused| self.count(refused))
    }

    /// Counts an established tunnel in, or says why not. Its peer was let in when it asked, so neither load nor
    /// draining matter any more.
    pub(crate) fn tunnel(&mut self, peer: IpAddr) -> Result<(), Refused> {
        match self.tunnel_room(peer) {
            Ok(()) => {
                self.add_tunnel(peer);
                Ok(())
            }
            Err(refused) => Err(self.count(refused)),
        }
    }

    /// Counts a tunnel in whatever the limits are, because it was here before.
    pub(crate) fn add_tunnel(&mut self, peer: IpAddr) {
        self.tunnels = self.tunnels.saturating_add(1);
        let peer = self.peers.entry(source(peer)).or_default();
        peer.tunnels = peer.tunnels.saturating_add(1);
    }

    pub(crate) fn tunnel_gone(&mut self, peer: IpAddr) {
        self.tunnels = self.tunnels.saturating_sub(1);
        self.change_peer(peer, |peer| peer.tunnels = peer.tunnels.saturating_sub(1));
    }

    fn change_peer(&mut self, address: IpAddr, change: impl FnOnce(&mut Peer)) {
        let source = source(address);
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        change(peer);
        if peer.sessions == 0 && peer.tunnels == 0 {
            self.peers.remove(&source);
        }
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> (u32, u32, u32, usize) {
        (self.sessions, self.opening, self.tunnels, self.peers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SetupRate;

    fn asking(peer: u8) -> Asking {
        Asking {
            peer: IpAddr::from([192, 0, 2, peer]),
            load: 0,
            random: 0,
            now: Instant::now(),
        }
    }

    #[test]
    fn each_limit_refuses_with_its_own_reason_and_counts() {
        let mut admission = Admission::new(Limits {
            sessions: 4,
            opening: 2,
            per_peer: Some(1),
            ..Limits::default()
        });
        let (a, b, c) = (asking(1), asking(2), asking(3));
        assert_eq!(admission.session(&a), Ok(()));
        assert_eq!(admission.session(&a), Err(Refused::PeerSessions));
        assert_eq!(admission.session(&b), Ok(()));
        assert_eq!(admission.session(&c), Err(Refused::Opening));
        admission.session_established(a.peer);
        admission.session_established(b.peer);
        assert_eq!(admission.session(&c), Ok(()));
        assert_eq!(admission.session(&asking(4)), Ok(()));
        assert_eq!(admission.session(&asking(5)), Err(Refused::Sessions));
        admission.session_gone(a.peer, false);
        assert_eq!(admission.session(&a), Err(Refused::Opening));
        admission.set_draining(true);
        assert_eq!(admission.session(&a), Err(Refused::Draining));
        assert_eq!(admission.refused().values().sum::<u64>(), 5);
        assert_eq!(admission.refused().get(&Refused::Opening), Some(&2));
    }

    #[test]
    fn peers_without_anything_are_forgotten() {
        let mut admission = Admission::new(Limits::default());
        for peer in 0..100 {
            let asking = asking(peer);
            admission.tunnel(asking.peer).unwrap();
            admission.session(&asking).unwrap();
            admission.session_gone(asking.peer, true);
            admission.tunnel_gone(asking.peer);
        }
        assert_eq!(admission.counts(), (0, 0, 0, 0));
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let mut admission = Admission::new(Limits {
            opening: 12,
            tunnels: 12,
            ..Limits::default()
        });
        let (greedy, too, honest) = (asking(1), asking(2), asking(3));
        let all = |admission: &mut Admission, asking| {
            (0..20).take_while(|_| admission.session(asking).is_ok()).count()
        };
        assert_eq!(all(&mut admission, &greedy), 6);
        assert_eq!(admission.session(&greedy), Err(Refused::PeerOpening));
        assert_eq!(all(&mut admission, &too), 3);
        assert_eq!(admission.session(&honest), Ok(()));
        admission.session_established(greedy.peer);
        admission.session_established(greedy.peer);
        admission.session_gone(greedy.peer, true);
        assert_eq!(
            admission.session(&greedy),
            Ok(()),
            "what is up or gone counts no more"
        );
        let tunnels = (0..20)
            .take_while(|_| admission.tunnel(greedy.peer).is_ok())
            .count();
        assert_eq!(
            (tunnels, admission.tunnel(greedy.peer)),
            (6, Err(Refused::PeerTunnels))
        );
        assert_eq!(admission.tunnel(honest.peer), Ok(()));
    }

    #[test]
    fn the_addresses_of_an_ipv6_line_are_one_source() {
        let mut admission = Admission::new(Limits {
            per_peer: Some(1),
            ..Limits::default()
        });
        let from = |address: &str| Asking {
            peer: address.parse().unwrap(),
            ..asking(0)
        };
        assert_eq!(admission.session(&from("2001:db8::1")), Ok(()));
        assert_eq!(
            admission.session(&from("2001:db8::2")),
            Err(Refused::PeerSessions)
        );
        assert_eq!(admission.session(&from("2001:db8:0:1::1")), Ok(()));
        admission.session_gone("2001:db8::3".parse().unwrap(), true);
        assert_eq!(admission.session(&from("2001:db8::2")), Ok(()));
    }

    #[test]
    fn tunnels_have_their_own_limits() {
        let mut admission = Admission::new(Limits {
            tunnels: 2,
            tunnels_per_peer: Some(1),
            ..Limits::default()
        });
        assert_eq!(admission.tunnel(asking(1).peer), Ok(()));
        assert_eq!(admission.tunnel_may_open(&asking(1)), Err(Refused::PeerTunnels));
        assert_eq!(admission.tunnel(asking(1).peer), Err(Refused::PeerTunnels));
        assert_eq!(admission.tunnel(asking(2).peer), Ok(()));
        assert_eq!(admission.tunnel(asking(3).peer), Err(Refused::Tunnels));
    }

    #[test]
    fn the_bucket_lets_a_burst_in_and_then_so_many_a_second() {
        let mut admission = Admission::new(Limits {
            setup_rate: Some(SetupRate {
                per_second: 10,
                burst: 5,
            }),
            ..Limits::default()
        });
        let start = asking(1);
        let admitted = |admission: &mut Admission, after: u64, tries: u32| {
            let asking = Asking {
                now: start.now + Duration::from_millis(after),
                ..start
            };
            (0..tries).filter(|_| admission.session(&asking).is_ok()).count()
        };
        assert_eq!(admitted(&mut admission, 0, 20), 5);
        assert_eq!(admitted(&mut admission, 99, 20), 0);
        assert_eq!(admitted(&mut admission, 100, 20), 1);
        assert_eq!(admitted(&mut admission, 400, 20), 3);
        assert_eq!(admitted(&mut admission, 1_000_000, 20), 5);
        assert_eq!(
            admitted(&mut admission, 0, 20),
            0,
            "a clock set back gives nothing"
        );
    }

    #[test]
    fn refusals_rise_with_load() {
        let mut admission = Admission::new(Limits {
            overload_start: 500,
            overload_full: 1000,
            sessions: u32::MAX,
            opening: u32::MAX,
            ..Limits::default()
        });
        let mut refused = |load| {
            let all = (0..=u16::MAX).step_by(64);
            all.filter(|&random| {
                admission
                    .session(&Asking {
                        load,
                        random,
                        ..asking(1)
                    })
                    .is_err()
            })
            .count()
        };
        assert_eq!(refused(0), 0);
        assert_eq!(refused(500), 0);
        assert_eq!(refused(600), 205);
        assert_eq!(refused(750), 512);
        assert_eq!(refused(999), 1022);
        assert_eq!(refused(1000), 1024);
        assert_eq!(refused(u16::MAX), 1024);
    }
}
