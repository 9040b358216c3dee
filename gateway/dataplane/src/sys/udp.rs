//! System calls of UDP sockets that the standard library and `socket2` do not have: batches, control messages
//! and the options that ask for them.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams, or trains of them, received by one call.
pub(crate) const RECV_BATCH: usize = 8;
/// Trains of datagrams sent by one call.
pub(crate) const SEND_BATCH: usize = 32;

/// Room for the control messages of one datagram: packet information (at most 40 octets with its header) and a
/// segment size (24), in words for the alignment.
const CONTROL_WORDS: usize = 16;
type Control = [u64; CONTROL_WORDS];

/// Sets an option that is one int.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Attaches a classic BPF program that chooses the socket of a `SO_REUSEPORT` group by its index.
pub(crate) fn attach_steering(fd: BorrowedFd<'_>, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    attach(fd, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Attaches a classic BPF program that says which packets a socket takes.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    attach(fd, libc::SO_ATTACH_FILTER, program)
}

fn attach(fd: BorrowedFd<'_>, option: libc::c_int, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut filters: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let length = u16::try_from(filters.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog {
        len: length,
        filter: filters.as_mut_ptr(),
    };
    // SAFETY: the option reads one `sock_fprog` whose pointer and length are those of `filters`; both live
    // through the call, and the kernel copies and checks the program.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(&program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An address as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

const UNNAMED: Name = Name {
    v6: libc::sockaddr_in6 {
        sin6_family: 0,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    },
};

impl Name {
    fn encode(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    fn decode(&self, length: libc::socklen_t) -> Option<SocketAddr> {
        let length = length as usize;
        if length < mem::size_of::<libc::sa_family_t>() {
            return None;
        }
        // SAFETY: both members begin with the family, every bit pattern is a value of each, and the union was
        // initialised in full (`UNNAMED`) before the kernel wrote to it.
        let family = libc::c_int::from(unsafe { self.v4.sin_family });
        if family == libc::AF_INET && length >= mem::size_of::<libc::sockaddr_in>() {
            // SAFETY: as above.
            let name = unsafe { self.v4 };
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            return Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into());
        }
        if family == libc::AF_INET6 && length >= mem::size_of::<libc::sockaddr_in6>() {
            // SAFETY: as above.
            let name = unsafe { self.v6 };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            return Some(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into());
        }
        None
    }
}

/// What the control messages of a received datagram said.
#[derive(Clone, Copy, Debug, Default)]
struct Ancillary {
    local: Option<IpAddr>,
    interface: u32,
    segment: usize,
    unreachable: bool,
}

/// Reads the payload of a control message as a `T`, if it is long enough.
///
/// # Safety
/// `message` points to a control message inside the control buffer of a `msghdr` the kernel filled, and every bit
/// pattern is a value of `T`.
unsafe fn payload<T: Copy>(message: *const libc::cmsghdr) -> Option<T> {
    // SAFETY: by the contract of this function the header is there; `CMSG_LEN` only computes.
    let (length, needed) = unsafe {
        (
            (*message).cmsg_len,
            libc::CMSG_LEN(mem::size_of::<T>() as u32) as usize,
        )
    };
    if length < needed {
        return None;
    }
    // SAFETY: the message is long enough for a `T`, and the read does not need alignment.
    Some(unsafe { libc::CMSG_DATA(message).cast::<T>().read_unaligned() })
}

/// Walks the control messages that the kernel left with a datagram.
///
/// # Safety
/// `header` was filled by a successful receive call, and its control buffer is alive.
unsafe fn ancillary(header: &libc::msghdr) -> Ancillary {
    let mut found = Ancillary::default();
    // SAFETY: by the contract of this function the header describes a live control buffer.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give pointers inside the buffer or null; each payload read is
        // checked against the message's length, and the types are plain integers.
        unsafe {
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    if let Some(info) = payload::<libc::in_pktinfo>(message) {
                        // The address to answer from; in the error queue there is only the one it came to.
                        let addresses = [info.ipi_spec_dst, info.ipi_addr];
                        let addresses = addresses.map(|raw| Ipv4Addr::from(raw.s_addr.to_ne_bytes()));
                        let known = addresses.into_iter().find(|address| !address.is_unspecified());
                        found.local = known.map(IpAddr::from);
                        found.interface = info.ipi_ifindex.cast_unsigned();
                    }
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some(info) = payload::<libc::in6_pktinfo>(message) {
                        found.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                        found.interface = info.ipi6_ifindex;
                    }
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = payload::<libc::c_int>(message).unwrap_or(0);
                    found.segment = usize::try_from(size).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                    if let Some(error) = payload::<libc::sock_extended_err>(message) {
                        let from_network =
                            [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
                        let reports = [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH];
                        found.unreachable = from_network && reports.contains(&error.ee_errno.cast_signed());
                    }
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    found
}

/// What is known of a received datagram, or of a train of datagrams from one peer that came as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Octets received.
    pub length: usize,
    /// Length of each datagram of a train; 0: it is a single one.
    pub segment: usize,
    /// The sender; `None` where the kernel gave no usable address.
    pub remote: Option<SocketAddr>,
    /// Our address that it came to.
    pub local: Option<IpAddr>,
    /// The interface it came in by.
    pub interface: u32,
    /// It did not fit into its buffer.
    pub truncated: bool,
}

impl Received {
    /// Nothing.
    pub(crate) const NONE: Received = Received {
        length: 0,
        segment: 0,
        remote: None,
        local: None,
        interface: 0,
        truncated: false,
    };
}

/// Receives up to [`RECV_BATCH`] datagrams, each into its own part of `buffers`, of `size` octets. Does not wait.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buffers: &mut [u8],
    size: usize,
    received: &mut [Received; RECV_BATCH],
) -> io::Result<usize> {
    let mut names = [UNNAMED; RECV_BATCH];
    let mut controls: [Control; RECV_BATCH] = [[0; CONTROL_WORDS]; RECV_BATCH];
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; RECV_BATCH];
    // SAFETY: `mmsghdr` is made of integers and pointers: all zeroes is a value of it.
    let mut messages: [libc::mmsghdr; RECV_BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (index, buffer) in buffers.chunks_exact_mut(size).take(RECV_BATCH).enumerate() {
        vectors[index] = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let header = &mut messages[index].msg_hdr;
        header.msg_name = ptr::from_mut(&mut names[index]).cast();
        header.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
        header.msg_iov = &mut vectors[index];
        header.msg_iovlen = 1;
        header.msg_control = controls[index].as_mut_ptr().cast();
        header.msg_controllen = mem::size_of::<Control>() as _;
        count += 1;
    }
    // SAFETY: each of the first `count` headers points to its own name, vector, control buffer and part of
    // `buffers`, all of which live through the call and are not otherwise used during it.
    let result = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let filled = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for (index, message) in messages.iter().take(filled).enumerate() {
        // SAFETY: the kernel filled this header, and `controls` is alive.
        let said = unsafe { ancillary(&message.msg_hdr) };
        received[index] = Received {
            length: message.msg_len as usize,
            segment: said.segment,
            remote: names[index].decode(message.msg_hdr.msg_namelen),
            local: said.local,
            interface: said.interface,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
    }
    Ok(filled)
}

/// One datagram to send, or a train of equal ones (the last may be shorter).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    /// The bytes of all of them, one after the other.
    pub bytes: &'a [u8],
    /// Length of each; 0: it is a single one.
    pub segment: u16,
    /// Where to.
    pub remote: SocketAddr,
    /// The address to send from; unspecified: the kernel's choice.
    pub local: SocketAddr,
}

/// Appends a control message to a buffer that is all zeroes from `used` on; gives the new length.
///
/// # Safety
/// `control` has room for the message: `used + CMSG_SPACE(size of T)` octets.
unsafe fn put_control<T>(
    control: &mut Control,
    used: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    let size = mem::size_of::<T>() as u32;
    // SAFETY: the caller promises the room; `used` is a sum of CMSG_SPACEs and so keeps the alignment of the
    // buffer, which is that of `u64`; CMSG_DATA needs no alignment for an unaligned write.
    unsafe {
        let message = control
            .as_mut_ptr()
            .cast::<u8>()
            .add(used)
            .cast::<libc::cmsghdr>();
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
        used + libc::CMSG_SPACE(size) as usize
    }
}

/// Writes the control messages of an outgoing train; gives their length.
fn fill_control(control: &mut Control, outgoing: &Outgoing<'_>) -> usize {
    let mut used = 0;
    match outgoing.local {
        SocketAddr::V4(local) if !local.ip().is_unspecified() => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(local.ip().octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            // SAFETY: the buffer is empty and holds 128 octets; this needs 32.
            used = unsafe { put_control(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info) };
        }
        SocketAddr::V6(local) if !local.ip().is_unspecified() => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.ip().octets(),
                },
                ipi6_ifindex: local.scope_id() as _,
            };
            // SAFETY: the buffer is empty and holds 128 octets; this needs 40.
            used = unsafe { put_control(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info) };
        }
        _ => {}
    }
    if outgoing.segment > 0 {
        // SAFETY: at most 40 of the 128 octets are used; this needs 24.
        used = unsafe { put_control(control, used, libc::SOL_UDP, libc::UDP_SEGMENT, outgoing.segment) };
    }
    used
}

/// Sends up to [`SEND_BATCH`] trains; gives how many went out. An error is about the first. Does not wait.
pub(crate) fn send(fd: BorrowedFd<'_>, batch: &[Outgoing<'_>]) -> io::Result<usize> {
    // Most batches are small: the memory of a large one need not be cleared for them.
    match batch {
        [only] if !needs_control(only) => send_plain(fd, only).map(|()| 1),
        [] | [_] | [_, _] => send_at_most::<2>(fd, batch),
        _ => send_at_most::<SEND_BATCH>(fd, batch),
    }
}

fn needs_control(outgoing: &Outgoing<'_>) -> bool {
    outgoing.segment > 0 || !outgoing.local.ip().is_unspecified()
}

/// Sends a single datagram that needs nothing said about it: without headers for the kernel to read.
fn send_plain(fd: BorrowedFd<'_>, outgoing: &Outgoing<'_>) -> io::Result<()> {
    let mut name = UNNAMED;
    let length = name.encode(outgoing.remote);
    let (bytes, flags) = (outgoing.bytes, libc::MSG_DONTWAIT);
    // SAFETY: the bytes are borrowed and the name is alive through the call, which only reads them, and `length` is
    // the name's.
    let result = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            ptr::from_ref(&name).cast(),
            length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn send_at_most<const MOST: usize>(fd: BorrowedFd<'_>, batch: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut names = [UNNAMED; MOST];
    let mut controls: [Control; MOST] = [[0; CONTROL_WORDS]; MOST];
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; MOST];
    // SAFETY: `mmsghdr` is made of integers and pointers: all zeroes is a value of it.
    let mut messages: [libc::mmsghdr; MOST] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (index, outgoing) in batch.iter().take(MOST).enumerate() {
        vectors[index] = libc::iovec {
            iov_base: outgoing.bytes.as_ptr().cast_mut().cast(),
            iov_len: outgoing.bytes.len(),
        };
        let header = &mut messages[index].msg_hdr;
        header.msg_namelen = names[index].encode(outgoing.remote);
        header.msg_name = ptr::from_mut(&mut names[index]).cast();
        header.msg_iov = &mut vectors[index];
        header.msg_iovlen = 1;
        let used = fill_control(&mut controls[index], outgoing);
        if used > 0 {
            header.msg_control = controls[index].as_mut_ptr().cast();
            header.msg_controllen = used as _;
        }
        count += 1;
    }
    // SAFETY: each of the first `count` headers points to its own name, vector and control buffer and to bytes
    // borrowed by `batch`, all of which live through the call; the kernel only reads what the vectors point to.
    let result = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A report from a socket's error queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// Where the datagram that caused it went to.
    pub remote: Option<SocketAddr>,
    /// Our address that the report came to.
    pub local: Option<IpAddr>,
    /// The network said that the port, host or network is unreachable.
    pub unreachable: bool,
}

/// Takes the next report from a socket's error queue; an error of kind `WouldBlock` where there is none.
pub(crate) fn receive_report(fd: BorrowedFd<'_>) -> io::Result<Report> {
    let mut name = UNNAMED;
    // An extended error takes 16 octets and the offender's address up to 28, besides packet information.
    let mut control: [Control; 2] = [[0; CONTROL_WORDS]; 2];
    let mut returned = [0u8; 64];
    let mut vector = libc::iovec {
        iov_base: returned.as_mut_ptr().cast(),
        iov_len: returned.len(),
    };
    // SAFETY: `msghdr` is made of integers and pointers: all zeroes is a value of it.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: the header points to a name, a vector with its buffer and a control buffer, all of which live
    // through the call.
    let result = unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &mut header,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled the header, and `control` is alive.
    let said = unsafe { ancillary(&header) };
    Ok(Report {
        remote: name.decode(header.msg_namelen),
        local: said.local,
        unreachable: said.unreachable,
    })
}
