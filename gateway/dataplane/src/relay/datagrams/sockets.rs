//! The sockets of a relay: made, bound and given their options.

use super::options::{Ports, Settings, Way};
use crate::udp::UdpSocket;
use sluice_spi::{Entropy, random_u32};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Ports of a range tried for one socket: so many system calls cost less than a millisecond, and of a range of which
/// 19 of 20 ports are in use, one in 500,000 sockets finds none.
const MAX_TRIES: u32 = 256;

/// Where a socket is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The largest datagram that its packets carry, in octets: 65,535 without the UDP header, and with IPv4 without
    /// the IP header.
    pub(super) fn largest(self) -> usize {
        match self {
            Family::V4 => 65_507,
            Family::V6 => 65_527,
        }
    }
}

/// The address with the family that its packets have.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A socket for a client, on our address that it is to send to.
pub(super) fn for_client(
    local: IpAddr,
    settings: &Settings,
    entropy: &mut dyn Entropy,
) -> io::Result<UdpSocket> {
    let socket = open(local)?;
    bind(&socket, local, settings.client_ports, entropy)?;
    UdpSocket::batching(socket, settings.receive_buffer)
}

/// What is particular about a socket towards targets: its family and way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The address that it is bound to; unspecified: as the routes say.
    source: IpAddr,
    interface: Option<Arc<str>>,
    mark: Option<u32>,
}

impl Kind {
    /// That of a socket that a way to an address asks for.
    pub(super) fn of(way: &Way, to: SocketAddr) -> Self {
        Self {
            source: match Family::of(to) {
                Family::V4 => way.source4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
                Family::V6 => way.source6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
            },
            interface: way.interface.clone(),
            mark: way.mark,
        }
    }

    /// That of a socket that there is.
    pub(super) fn of_socket(socket: &UdpSocket) -> io::Result<Self> {
        let fd = socket.as_fd();
        let known = SockRef::from(&fd);
        let interface = known.device()?.and_then(|name| String::from_utf8(name).ok());
        Ok(Self {
            source: socket.local_addr().ip(),
            interface: interface.map(Into::into),
            mark: Some(known.mark()?).filter(|mark| *mark != 0),
        })
    }
}

/// A socket towards targets.
pub(super) fn for_targets(
    kind: &Kind,
    settings: &Settings,
    entropy: &mut dyn Entropy,
) -> io::Result<UdpSocket> {
    let source = kind.source;
    let socket = open(source)?;
    if let Some(interface) = &kind.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(mark) = kind.mark {
        socket.set_mark(mark)?;
    }
    bind(&socket, source, settings.source_ports, entropy)?;
    UdpSocket::batching(socket, settings.receive_buffer)
}

/// A socket from another process.
pub(super) fn adopt(descriptor: OwnedFd, settings: &Settings) -> io::Result<UdpSocket> {
    let socket = Socket::from(descriptor);
    if socket.r#type()? != Type::DGRAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    socket.set_nonblocking(true)?;
    UdpSocket::batching(socket, settings.receive_buffer)
}

fn open(address: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address((address, 0).into()),
        Type::DGRAM.cloexec().nonblocking(),
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn bind(socket: &Socket, address: IpAddr, ports: Ports, entropy: &mut dyn Entropy) -> io::Result<()> {
    let Some((first, last)) = ports.bounds() else {
        return socket.bind(&SocketAddr::new(address, 0).into());
    };
    for port in shuffled(first, last, entropy).take(MAX_TRIES as usize) {
        match socket.bind(&SocketAddr::new(address, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Each port of a range once, in an order that nobody can guess (RFC 6056): from a random one on, in steps that have
/// no divisor in common with their number.
fn shuffled(first: u16, last: u16, entropy: &mut dyn Entropy) -> impl Iterator<Item = u16> + use<> {
    let count = u32::from(last.saturating_sub(first)) + 1;
    let start = random_u32(entropy) % count;
    let mut step = random_u32(entropy) % count;
    while divisor(step, count) != 1 {
        step = (step + 1) % count.max(2);
    }
    (0..count).scan(start, move |place, _| {
        let port = u32::from(first) + *place;
        *place = (*place + step) % count;
        u16::try_from(port).ok()
    })
}

/// The greatest common divisor.
fn divisor(left: u32, right: u32) -> u32 {
    if right == 0 {
        left
    } else {
        divisor(right, left % right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_testkit::Seeded;
    use std::collections::BTreeSet;

    #[test]
    fn each_port_of_a_range_comes_once() {
        let mut random = Seeded::new(1);
        for (first, last) in [(1, 1), (7, 8), (1000, 1011), (1, 65_535), (65_535, 65_535)] {
            for _ in 0..5 {
                let ports: Vec<u16> = shuffled(first, last, &mut random).collect();
                let all: BTreeSet<u16> = ports.iter().copied().collect();
                assert_eq!(ports.len(), usize::from(last - first) + 1);
                assert_eq!(all, (first..=last).collect());
            }
        }
    }

    #[test]
    fn the_order_differs() {
        let mut random = Seeded::new(2);
        let orders: BTreeSet<Vec<u16>> = (0..20)
            .map(|_| shuffled(1000, 1099, &mut random).collect())
            .collect();
        assert!(orders.len() > 15);
    }

    #[test]
    fn a_range_is_used_up_and_then_refused() {
        let settings = Settings {
            client_ports: Ports::new(47_310, 47_313).unwrap(),
            ..Settings::default()
        };
        let mut random = Seeded::new(3);
        let local = Ipv4Addr::new(127, 0, 47, 3).into();
        let bound: Vec<UdpSocket> = (0..4)
            .map(|_| for_client(local, &settings, &mut random).unwrap())
            .collect();
        let ports: BTreeSet<u16> = bound.iter().map(|socket| socket.local_addr().port()).collect();
        assert_eq!(ports, (47_310..=47_313).collect());
        let error = for_client(local, &settings, &mut random).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ports_are_from_1_on_and_in_order() {
        assert!(Ports::new(0, 9).is_none() && Ports::new(9, 8).is_none() && Ports::new(0, 0).is_none());
        assert_eq!(Ports::new(9, 9).unwrap().bounds(), Some((9, 9)));
    }
}
