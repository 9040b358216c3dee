//! The TUN device of a routing domain: one device for all sessions, with one queue a shard.
//!
//! The device is opened with a [`VNET_HEADER`] before each packet, so that super-packets (TCP up to 64 KiB, and
//! UDP where the kernel can, 6.2 and later) cross as one. Addresses, routes, MTU and state of the interface are
//! set by others, over netlink.

use crate::sys;
use crate::vnet::VNET_HEADER;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Where TUN descriptors come from.
const DEVICE: &str = "/dev/net/tun";

/// Most queues a device can have in the kernel (`MAX_TAP_QUEUES`).
pub const MAX_QUEUES: usize = 256;

/// A name whose number the kernel chooses.
const ANY_NAME: &str = "sluice%d";

/// What could not be done with a TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device file is missing or may not be opened.
    #[error("cannot open {DEVICE}: {0}")]
    Open(#[source] io::Error),
    /// The device cannot be created or joined: CAP_NET_ADMIN is missing, or the name is in use otherwise.
    #[error("cannot attach to a TUN device: {0}")]
    Attach(#[source] io::Error),
    /// A descriptor is not a queue of such a device.
    #[error("not a queue of a usable TUN device: {0}")]
    NotUsable(&'static str),
    /// The kernel refused a setting.
    #[error("cannot set {0} of a TUN queue: {1}")]
    Setting(&'static str, #[source] io::Error),
    /// More queues were asked for than a device can have, or none.
    #[error("a TUN device has 1 to {MAX_QUEUES} queues")]
    Queues,
}

/// Which unfinished packets may cross the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be left to the receiver, and TCP segments be larger than the link allows.
    pub tcp: bool,
    /// Several datagrams of one UDP flow may cross as one (kernel 6.2 and later).
    pub udp: bool,
}

impl Offloads {
    fn flags(self) -> libc::c_uint {
        let mut flags = 0;
        if self.tcp {
            flags |= libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        }
        if self.udp {
            flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        flags
    }
}

/// One queue of a TUN device: non-blocking, and closed on drop.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    offloads: Offloads,
}

impl TunQueue {
    /// The descriptor, to wait for readiness and to be handed to the keeper.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Which unfinished packets may cross.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one packet with its header; `WouldBlock`: there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.file).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes one packet, given in pieces, with its header as the first of them.
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match (&self.file).write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }
}

/// A TUN device with the queues that this process uses.
#[derive(Debug)]
pub struct Tun {
    name: String,
    offloads: Offloads,
    queues: Vec<TunQueue>,
}

impl Tun {
    /// Creates a device called `name` (`None`: the kernel numbers it, `sluice0`), or joins one that exists and is
    /// unused, with `queues` queues.
    pub fn create(name: Option<&str>, queues: usize) -> Result<Tun, TunError> {
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(TunError::Queues);
        }
        let (first, name) = open_queue(name.unwrap_or(ANY_NAME))?;
        let mut files = vec![first];
        while files.len() < queues {
            files.push(open_queue(&name)?.0);
        }
        Self::prepare(name, files)
    }

    /// Goes on with the queues that an earlier process used, as handed back by the keeper, so that exactly
    /// `queues` of them are in use: missing ones are added, and those too many are taken out of use (a queue that
    /// is in use but that nobody reads swallows the flows given to it). The kernel forgot nothing but this
    /// process's choice of offloads, which is made anew.
    pub fn adopt(descriptors: Vec<OwnedFd>, queues: usize) -> Result<Tun, TunError> {
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(TunError::Queues);
        }
        let mut name: Option<String> = None;
        let mut files = Vec::new();
        for (index, descriptor) in descriptors.into_iter().enumerate() {
            let (found, flags) = sys::tun::query(descriptor.as_fd())
                .map_err(|_| TunError::NotUsable("the descriptor is attached to no device"))?;
            let needed = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
            if flags & needed != needed {
                return Err(TunError::NotUsable("the device has other flags"));
            }
            if name.get_or_insert_with(|| found.clone()) != &found {
                return Err(TunError::NotUsable("the queues are of different devices"));
            }
            let (is_on, wanted) = (flags & libc::IFF_DETACH_QUEUE == 0, index < queues);
            if is_on != wanted {
                sys::tun::set_queue(descriptor.as_fd(), wanted)
                    .map_err(|error| TunError::Setting("the use", error))?;
            }
            if wanted {
                files.push(File::from(descriptor));
            }
        }
        let name = name.ok_or(TunError::NotUsable("there is no descriptor"))?;
        while files.len() < queues {
            files.push(open_queue(&name)?.0);
        }
        Self::prepare(name, files)
    }

    fn prepare(name: String, files: Vec<File>) -> Result<Tun, TunError> {
        let mut offloads = Offloads::default();
        for file in &files {
            sys::tun::set_header(file.as_fd(), VNET_HEADER)
                .map_err(|error| TunError::Setting("the packet header", error))?;
            offloads = set_offloads(file.as_fd())?;
        }
        let queues = files
            .into_iter()
            .map(|file| TunQueue { file, offloads })
            .collect();
        Ok(Tun {
            name,
            offloads,
            queues,
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which unfinished packets may cross; the same for all queues.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The queues, for one shard each.
    pub fn into_queues(self) -> Vec<TunQueue> {
        self.queues
    }

    /// The queues' descriptors, to be deposited with the keeper.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(TunQueue::as_fd)
    }
}

fn open_queue(name: &str) -> Result<(File, String), TunError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE)
        .map_err(TunError::Open)?;
    let known = sys::tun::features(file.as_fd()).map_err(TunError::Attach)?;
    let needed = libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    if known & needed.cast_unsigned() != needed.cast_unsigned() {
        return Err(TunError::NotUsable(
            "the kernel has no packet headers or several queues",
        ));
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | needed;
    let name = sys::tun::attach(file.as_fd(), name, flags).map_err(TunError::Attach)?;
    Ok((file, name))
}

/// Asks for as much as the kernel gives.
fn set_offloads(fd: BorrowedFd<'_>) -> Result<Offloads, TunError> {
    let choices = [(true, true), (true, false), (false, false)];
    let mut refused = None;
    for offloads in choices.map(|(tcp, udp)| Offloads { tcp, udp }) {
        match sys::tun::set_offloads(fd, offloads.flags()) {
            Ok(()) => return Ok(offloads),
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.unwrap_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    Err(TunError::Setting("the offloads", error))
}
