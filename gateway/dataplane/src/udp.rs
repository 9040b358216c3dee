//! UDP sockets of a listener, and raw ones: one a shard, all on the same address.

use crate::sys;
use sluice_spi::{Module, ShardId, Shards};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Octets asked for the receive and the send buffer of each socket: a burst of 64 KiB trains from many peers, at
/// the kernel's doubled accounting. Without CAP_NET_ADMIN the limit of `net.core.rmem_max` holds.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// A socket of a listener: non-blocking, and closed on drop.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    bound: SocketAddr,
    gso: Cell<bool>,
    gro: bool,
    reported: Cell<bool>,
    /// Packets begin with their IP header, and have no ports.
    raw: bool,
}

impl UdpSocket {
    /// Binds one socket for each shard to `address`, in the order of the shards, and attaches the module's
    /// steering program. The kernel numbers the sockets of such a group in the order of their binding, and that
    /// number is what the program computes; so a group is made at once and lives as a whole. With port 0 the
    /// kernel chooses one port for all.
    pub fn bind_group(
        address: SocketAddr,
        shards: Shards,
        module: &dyn Module,
    ) -> io::Result<Vec<UdpSocket>> {
        let mut group: Vec<UdpSocket> = Vec::new();
        while group.len() < usize::from(shards.count()) {
            let address = group.first().map_or(address, |first| first.bound);
            group.push(Self::bind(address)?);
        }
        if let Some(first) = group.first() {
            first.attach_steering(shards, module)?;
        }
        Ok(group)
    }

    /// Opens one raw socket for each shard, for the packets of an IPv4 protocol to an address. Each is given every
    /// packet, and the module's filter leaves it those of its shard. Needs CAP_NET_RAW.
    pub fn raw_group(
        address: Ipv4Addr,
        protocol: u8,
        shards: Shards,
        module: &dyn Module,
    ) -> io::Result<Vec<UdpSocket>> {
        let open = |shard| {
            let kind = Type::RAW.cloexec().nonblocking();
            let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::from(i32::from(protocol))))?;
            Self::filter(&socket, ShardId(shard), shards, module)?;
            socket.bind(&SocketAddr::from((address, 0)).into())?;
            Self::prepare_raw(socket)
        };
        (0..shards.count()).map(open).collect()
    }

    /// Goes on with the raw sockets of an earlier process; the number of shards may not have changed.
    pub fn adopt_raw(
        descriptors: Vec<OwnedFd>,
        shards: Shards,
        module: &dyn Module,
    ) -> io::Result<Vec<UdpSocket>> {
        let adopt = |(shard, descriptor)| {
            let socket = Socket::from(descriptor);
            if socket.r#type()? != Type::RAW {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a raw socket"));
            }
            socket.set_nonblocking(true)?;
            Self::filter(&socket, ShardId(shard), shards, module)?;
            Self::prepare_raw(socket)
        };
        (0..).zip(descriptors).map(adopt).collect()
    }

    fn filter(socket: &Socket, shard: ShardId, shards: Shards, module: &dyn Module) -> io::Result<()> {
        match module.packet_filter(shard, shards) {
            Some(program) => sys::udp::attach_filter(socket.as_fd(), &program),
            None => Ok(()),
        }
    }

    fn prepare_raw(socket: Socket) -> io::Result<UdpSocket> {
        // The kernel names the protocol in place of a port.
        let bound = SocketAddr::new(bound(&socket)?.ip(), 0);
        let fd = socket.as_fd();
        let set = |level, option, value| sys::udp::set_option(fd, level, option, value);
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
        let wanted = libc::c_int::try_from(SOCKET_BUFFER).unwrap_or(libc::c_int::MAX);
        if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
            socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        }
        if set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
            socket.set_send_buffer_size(SOCKET_BUFFER)?;
        }
        Ok(UdpSocket {
            socket,
            bound,
            gso: Cell::new(false),
            gro: false,
            reported: Cell::new(false),
            raw: true,
        })
    }

    /// Octets before the payload of a packet from this socket: of raw sockets the IP header.
    pub(crate) fn header_length(&self, packet: &[u8]) -> usize {
        match packet.first() {
            Some(first) if self.raw => usize::from(first & 0x0f) * 4,
            _ => 0,
        }
    }

    /// Binds one socket.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.cloexec().nonblocking(),
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Self::prepare(socket)
    }

    /// Goes on with a socket that an earlier process bound, as handed back by the keeper. For a whole group see
    /// [`UdpSocket::attach_steering`]; where the number of shards changed, bind a new group instead, because
    /// sockets that nobody reads would take their part of the packets.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<UdpSocket> {
        let socket = Socket::from(descriptor);
        if socket.r#type()? != Type::DGRAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a datagram socket",
            ));
        }
        socket.set_nonblocking(true)?;
        Self::prepare(socket)
    }

    fn prepare(socket: Socket) -> io::Result<UdpSocket> {
        let bound = bound(&socket)?;
        let fd = socket.as_fd();
        let set = |level, option, value| sys::udp::set_option(fd, level, option, value);
        // Don't Fragment while a packet fits what the path is known to carry; fragments of our own beyond that.
        if bound.is_ipv4() {
            set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
            set(libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        } else {
            set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            set(
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_WANT,
            )?;
            set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        }
        let wanted = libc::c_int::try_from(SOCKET_BUFFER).unwrap_or(libc::c_int::MAX);
        if set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
            socket.set_send_buffer_size(SOCKET_BUFFER)?;
        }
        Self::batching(socket, SOCKET_BUFFER)
    }

    /// A bound and non-blocking socket without the options of a listener: errors that the network reports are not
    /// told. `buffer` octets are asked for its receive buffer.
    pub(crate) fn batching(socket: Socket, buffer: usize) -> io::Result<UdpSocket> {
        let bound = bound(&socket)?;
        let fd = socket.as_fd();
        let set = |level, option, value| sys::udp::set_option(fd, level, option, value);
        let wanted = libc::c_int::try_from(buffer).unwrap_or(libc::c_int::MAX);
        if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
            socket.set_recv_buffer_size(buffer)?;
        }
        // Kernels from 5.0 on have both; without them each datagram crosses alone.
        let gro = set(libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let gso = set(libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Ok(UdpSocket {
            socket,
            bound,
            gso: Cell::new(gso),
            gro,
            reported: Cell::new(false),
            raw: false,
        })
    }

    /// Attaches a module's steering program to the group this socket is in. Needed after [`UdpSocket::adopt`]
    /// only where the program may have changed.
    pub fn attach_steering(&self, shards: Shards, module: &dyn Module) -> io::Result<()> {
        if shards.count() < 2 {
            return Ok(());
        }
        match module.steering_program(shards) {
            Some(program) => sys::udp::attach_steering(self.as_fd(), &program),
            None => Ok(()),
        }
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.bound
    }

    /// The descriptor, to wait for readiness and to be handed to the keeper.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the kernel cuts trains of datagrams for us. Ends for good when it once could not, because the
    /// egress device computes no checksums.
    pub fn segments(&self) -> bool {
        self.gso.get()
    }

    /// Whether the kernel hands us trains of datagrams as one.
    pub fn coalesces(&self) -> bool {
        self.gro
    }

    /// Notes that a call gave an error that may be a report about an earlier datagram.
    pub(crate) fn note_error(&self) {
        self.reported.set(true);
    }

    /// Whether there may be something in the error queue.
    pub(crate) fn take_noted(&self) -> bool {
        self.reported.take()
    }

    /// Sends every datagram alone from now on.
    pub(crate) fn disable_segmentation(&self) {
        self.gso.set(false);
    }
}

fn bound(socket: &Socket) -> io::Result<SocketAddr> {
    let bound = socket.local_addr()?.as_socket();
    bound.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<UdpSocket> for OwnedFd {
    fn from(socket: UdpSocket) -> Self {
        socket.socket.into()
    }
}
