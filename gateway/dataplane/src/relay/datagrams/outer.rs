//! The sides of the targets: one socket for each family and way.

use super::drops::Reason;
use super::flows::Place;
use super::handle::Meter;
use super::options::{Settings, Way};
use super::pool::{DatagramPool, Port, Queues};
use super::sockets::{self, Family, Kind};
use super::turns::count_up;
use crate::udp::UdpSocket;
use sluice_spi::PeerAddr;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::task::Context;
use std::time::{Duration, Instant};

/// Where there was no socket, none is asked for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Both ends of a datagram to `remote`. Our sockets are bound, so that the address to send from is not to be said.
pub(super) fn ends(remote: SocketAddr) -> PeerAddr {
    PeerAddr {
        remote,
        local: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
    }
}

/// Most sockets that send to targets: those of both families for the host's own way and for three of rules. Whoever
/// has rules for more ways by which datagrams go will have them for different clients.
pub(super) const MAX_OUTLETS: usize = 8;

/// A socket that sends to targets of one family by one way. It is made when it is needed first.
struct Outlet {
    kind: Kind,
    port: Option<Box<Port>>,
    /// When a socket may be asked for again, after there was none.
    retry_at: Option<Instant>,
}

/// The sockets that send to targets: an outlet keeps its number.
#[derive(Default)]
pub(super) struct Outer {
    outlets: Vec<Outlet>,
}

impl Outer {
    /// Takes a socket over from another process. `false`: there is one of its kind.
    pub(super) fn adopt(&mut self, socket: UdpSocket) -> io::Result<bool> {
        let kind = Kind::of_socket(&socket)?;
        if self.find(&kind).is_some() || self.outlets.len() >= MAX_OUTLETS {
            return Ok(false);
        }
        self.outlets.push(Outlet {
            kind,
            port: Some(Box::new(Port::new(socket)?)),
            retry_at: None,
        });
        Ok(true)
    }

    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let ports = self.outlets.into_iter().filter_map(|outlet| outlet.port);
        ports.map(|port| port.into_socket().into()).collect()
    }

    fn find(&self, kind: &Kind) -> Option<usize> {
        self.outlets.iter().position(|outlet| outlet.kind == *kind)
    }

    /// The number of the outlet for a way to an address; `None`: there are too many already.
    pub(super) fn outlet(&mut self, way: &Way, to: SocketAddr) -> Option<u8> {
        let kind = Kind::of(way, to);
        let index = match self.find(&kind) {
            Some(index) => index,
            None if self.outlets.len() >= MAX_OUTLETS => return None,
            None => {
                self.outlets.push(Outlet {
                    kind,
                    port: None,
                    retry_at: None,
                });
                self.outlets.len() - 1
            }
        };
        u8::try_from(index).ok()
    }

    /// How many outlets there are.
    pub(super) fn len(&self) -> usize {
        self.outlets.len()
    }

    /// The socket of an outlet.
    pub(super) fn port(&mut self, outlet: usize) -> Option<&mut Port> {
        self.outlets.get_mut(outlet)?.port.as_deref_mut()
    }

    fn ports(&mut self) -> impl Iterator<Item = &mut Port> {
        let outlets = self.outlets.iter_mut();
        outlets.filter_map(|outlet| outlet.port.as_deref_mut())
    }

    /// Whether a socket still has to take what it was given.
    pub(super) fn is_blocked(&self) -> bool {
        let ports = self.outlets.iter().filter_map(|outlet| outlet.port.as_ref());
        ports.into_iter().any(|port| port.is_blocked())
    }

    /// Queues a payload for a target.
    pub(super) fn queue(
        &mut self,
        place: Place,
        payload: &[u8],
        queues: &mut Queues,
        pool: &DatagramPool,
        settings: &Settings,
        now: Instant,
    ) -> Result<(), Reason> {
        if payload.len() > Family::of(place.to).largest() {
            return Err(Reason::TooBig);
        }
        let number = usize::from(place.outlet);
        let outlet = self.outlets.get_mut(number).ok_or(Reason::NoSocket)?;
        outlet.make(pool, settings, now).ok_or(Reason::NoSocket)?;
        let queue = queues.get_mut(number).ok_or(Reason::NoSocket)?;
        let start = queue.len();
        queue.buffer().extend_from_slice(payload);
        queue.commit_any(start, ends(place.to));
        Ok(())
    }

    /// Sends what was queued. Not to be called while it is blocked.
    pub(super) fn send(&mut self, queues: &mut Queues, pool: &DatagramPool, meter: &Meter) {
        for (outlet, queue) in self.outlets.iter_mut().zip(queues) {
            if let Some(port) = &mut outlet.port
                && queue.datagrams() > 0
            {
                count_up(meter, &port.send(queue, pool));
            }
        }
    }

    /// Sends what waits for a socket, where it takes it now.
    pub(super) fn poll_rest(&mut self, pool: &DatagramPool, meter: &Meter, cx: &mut Context<'_>) {
        for port in self.ports() {
            port.poll_rest(pool, cx, |sent| count_up(meter, &sent));
        }
    }

    /// Sends what waits, or gives it up; gives how many datagrams were given up.
    pub(super) fn give_up_rest(&mut self, pool: &DatagramPool, meter: &Meter) -> u64 {
        self.ports()
            .map(|port| port.give_up_rest(pool, |sent| count_up(meter, &sent)))
            .sum()
    }
}

impl Outlet {
    fn make(&mut self, pool: &DatagramPool, settings: &Settings, now: Instant) -> Option<()> {
        if self.port.is_some() {
            return Some(());
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let kind = &self.kind;
        let socket = pool.with_entropy(|entropy| sockets::for_targets(kind, settings, entropy));
        match socket.and_then(Port::new) {
            Ok(port) => self.port = Some(Box::new(port)),
            Err(_) => {
                self.retry_at = now.checked_add(PAUSE);
                return None;
            }
        }
        Some(())
    }
}
