//! The sides of the targets: one socket a family.

use super::drops::Reason;
use super::handle::Meter;
use super::options::Settings;
use super::pool::{DatagramPool, Port};
use super::sockets::{self, Family};
use super::turns::count_up;
use crate::send::SendQueue;
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

/// The sockets that send to targets. Each is made when it is needed first.
#[derive(Default)]
pub(super) struct Outer {
    ports: [Option<Box<Port>>; 2],
    /// When a socket may be asked for again, after there was none.
    retry_at: Option<Instant>,
}

impl Outer {
    /// Takes a socket over from another process. `false`: there is one of its family.
    pub(super) fn adopt(&mut self, socket: UdpSocket) -> io::Result<bool> {
        let family = Family::of(socket.local_addr());
        let port = Box::new(Port::new(socket)?);
        Ok(match self.ports.get_mut(family as usize) {
            Some(place @ None) => {
                *place = Some(port);
                true
            }
            _ => false,
        })
    }

    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let ports = self.ports.into_iter().flatten();
        ports.map(|port| port.into_socket().into()).collect()
    }

    pub(super) fn port(&mut self, family: Family) -> Option<&mut Port> {
        self.ports.get_mut(family as usize)?.as_deref_mut()
    }

    /// Whether a socket still has to take what it was given.
    pub(super) fn is_blocked(&self) -> bool {
        self.ports.iter().flatten().any(|port| port.is_blocked())
    }

    /// Queues a payload for a target.
    pub(super) fn queue(
        &mut self,
        to: SocketAddr,
        payload: &[u8],
        queues: &mut [SendQueue; 2],
        pool: &DatagramPool,
        settings: &Settings,
        now: Instant,
    ) -> Result<(), Reason> {
        let family = Family::of(to);
        if payload.len() > family.largest() {
            return Err(Reason::TooBig);
        }
        self.make(family, pool, settings, now).ok_or(Reason::NoSocket)?;
        if let Some(queue) = queues.get_mut(family as usize) {
            let start = queue.len();
            queue.buffer().extend_from_slice(payload);
            queue.commit_any(start, ends(to));
        }
        Ok(())
    }

    fn make(&mut self, family: Family, pool: &DatagramPool, settings: &Settings, now: Instant) -> Option<()> {
        let place = self.ports.get_mut(family as usize)?;
        if place.is_some() {
            return Some(());
        }
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        let socket = pool.with_entropy(|entropy| sockets::for_targets(family, settings, entropy));
        match socket.and_then(Port::new) {
            Ok(port) => *place = Some(Box::new(port)),
            Err(_) => {
                self.retry_at = now.checked_add(PAUSE);
                return None;
            }
        }
        Some(())
    }

    /// Sends what was queued. Not to be called while it is blocked.
    pub(super) fn send(&mut self, queues: &mut [SendQueue; 2], pool: &DatagramPool, meter: &Meter) {
        for (port, queue) in self.ports.iter_mut().zip(queues) {
            if let Some(port) = port
                && queue.datagrams() > 0
            {
                count_up(meter, &port.send(queue, pool));
            }
        }
    }

    /// Sends what waits for a socket, where it takes it now.
    pub(super) fn poll_rest(&mut self, pool: &DatagramPool, meter: &Meter, cx: &mut Context<'_>) {
        for port in self.ports.iter_mut().flatten() {
            port.poll_rest(pool, cx, |sent| count_up(meter, &sent));
        }
    }

    /// Sends what waits, or gives it up; gives how many datagrams were given up.
    pub(super) fn give_up_rest(&mut self, pool: &DatagramPool, meter: &Meter) -> u64 {
        let ports = self.ports.iter_mut().flatten();
        ports
            .map(|port| port.give_up_rest(pool, |sent| count_up(meter, &sent)))
            .sum()
    }
}
