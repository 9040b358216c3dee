//! The requests (`ioctl`) of TUN devices. Reading and writing need none: a queue is a file.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A device's name as the kernel holds it, without the final zero: at most 15 octets.
pub(crate) const NAME_LIMIT: usize = libc::IFNAMSIZ - 1;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn request_for(name: &str, flags: libc::c_int) -> io::Result<libc::ifreq> {
    if name.len() > NAME_LIMIT || name.bytes().any(|byte| byte == 0 || byte == b'/') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: `ifreq` is made of integers, arrays of integers and unions of them: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}

fn name_and_flags(request: &libc::ifreq) -> (String, libc::c_int) {
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|&byte| byte.cast_unsigned())
        .take_while(|&byte| byte != 0)
        .collect();
    // SAFETY: the kernel wrote the flags member, and before that `request_for` did.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    (
        String::from_utf8_lossy(&name).into_owned(),
        libc::c_int::from(flags.cast_unsigned()),
    )
}

/// Attaches a fresh descriptor of /dev/net/tun to a device, creating it where there is none of this name. Gives
/// the name, in which the kernel replaced `%d` by a number.
pub(crate) fn attach(fd: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<String> {
    let mut request = request_for(name, flags)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(name_and_flags(&request).0)
}

/// The name and the flags (`IFF_TUN`, …) of the device that a descriptor is attached to.
pub(crate) fn query(fd: BorrowedFd<'_>) -> io::Result<(String, libc::c_int)> {
    let mut request = request_for("", 0)?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    Ok(name_and_flags(&request))
}

/// The flags that the kernel's TUN driver knows.
pub(crate) fn features(fd: BorrowedFd<'_>) -> io::Result<libc::c_uint> {
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETFEATURES, &mut features) })?;
    Ok(features)
}

/// Says which unfinished packets (`TUN_F_*`) may come out of the device.
pub(crate) fn set_offloads(fd: BorrowedFd<'_>, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

/// Fixes the length of the header before each packet, and its byte order to little endian.
pub(crate) fn set_header(fd: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let length = libc::c_int::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &length) })?;
    let little_endian: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETLE, &little_endian) })
}

/// Lets the device use this queue or not; a queue that nobody reads must be off, or its flows are lost.
pub(crate) fn set_queue(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    let mut request = request_for("", flags)?;
    // SAFETY: TUNSETQUEUE reads one `ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, &mut request) })
}
