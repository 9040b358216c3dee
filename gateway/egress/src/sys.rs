//! Socket options and the error queue of Linux that no library offers safely.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Lets `connect` choose the port of a socket bound to an address with port 0 (IP_BIND_ADDRESS_NO_PORT, ip(7)): ports
/// are then used once for each destination, not once for each address.
pub(crate) fn bind_address_without_port(socket: &impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

/// Puts the SYN off until the first write, and the written bytes into it where the peer allows that
/// (TCP_FASTOPEN_CONNECT, tcp(7); RFC 7413).
pub(crate) fn connect_with_first_write(socket: &impl AsFd) -> io::Result<()> {
    set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT)
}

/// Connections whose first bytes came with the SYN and whose handshake is not done yet: what a listener takes of them
/// at once. Beyond that they are as any other (RFC 7413, 5.1).
const FAST_OPEN_QUEUE: libc::c_int = 256;

/// Has a listening socket take first bytes with the SYN, or not (TCP_FASTOPEN, tcp(7); RFC 7413). The host has to
/// allow it as well: net.ipv4.tcp_fastopen with bit 2.
pub fn accept_with_first_bytes(listener: &impl AsFd, on: bool) -> io::Result<()> {
    let queue = if on { FAST_OPEN_QUEUE } else { 0 };
    set_to(listener.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set_to(socket, level, option, 1)
}

fn set_to(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the descriptor is open, as it is borrowed; the value is an integer that outlives the call, and its
    // length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// ICMP "time exceeded" (RFC 792).
const TIME_EXCEEDED: u8 = 11;

/// Room for the control messages of one error: its description and the address of who sent it, with headers.
const CONTROL: usize = 256;

/// A buffer for control messages, aligned as they have to be.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL]);

/// Whether the error of a connection that failed was an ICMP "time exceeded" (RFC 792, type 11). The kernel reports it
/// by the same error number as an unreachable host, and keeps the message of a connection under way in the socket's
/// error queue, whether or not that was asked for (IP_RECVERR, ip(7)).
///
/// For IPv6 it keeps it only if that was asked for, which would end established connections for passing errors as
/// well. There a time exceeded stays an unreachable host.
pub(crate) fn hop_limit_exceeded(socket: &impl AsFd) -> bool {
    let mut control = Control([MaybeUninit::uninit(); CONTROL]);
    // SAFETY: all zeroes are a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open, as it is borrowed; the message has no name and no buffers, and its control
    // buffer is CONTROL bytes long and outlives the call.
    if unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) } < 0 {
        return false;
    }
    // SAFETY: the message was filled by recvmsg, and its control buffer lives.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: a header that the macros give lies within the control buffer, aligned for it.
        let header = unsafe { next.read() };
        let kind = (header.cmsg_level, header.cmsg_type);
        let is_error = kind == (libc::IPPROTO_IP, libc::IP_RECVERR);
        // SAFETY: computes a number only.
        let least =
            unsafe { libc::CMSG_LEN(u32::try_from(size_of::<libc::sock_extended_err>()).unwrap_or(0)) };
        if is_error && usize::try_from(least).is_ok_and(|least| header.cmsg_len >= least) {
            // SAFETY: the control message has at least the length of the structure, which is plain data.
            let error = unsafe {
                libc::CMSG_DATA(next)
                    .cast::<libc::sock_extended_err>()
                    .read_unaligned()
            };
            return (error.ee_origin, error.ee_type) == (libc::SO_EE_ORIGIN_ICMP, TIME_EXCEEDED);
        }
        // SAFETY: `next` came from these macros for this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    false
}
