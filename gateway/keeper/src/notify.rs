//! Messages to the service manager (`sd_notify`, systemd's sd_notify(3)). Without one they go nowhere.

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Variables meant for the keeper, which a worker must not inherit: it would answer in the keeper's place.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The service manager's socket, if there is one.
pub(crate) struct Notify {
    to: Option<(OwnedFd, SocketAddrUnix)>,
}

impl Notify {
    /// Takes the socket from `NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    pub(crate) fn from_environment() -> Self {
        Self {
            to: std::env::var_os("NOTIFY_SOCKET").and_then(|name| Self::open(&name)),
        }
    }

    fn open(name: &OsStr) -> Option<(OwnedFd, SocketAddrUnix)> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest).ok()?,
            [b'/', ..] => SocketAddrUnix::new(name).ok()?,
            _ => return None,
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        Some((socket, address))
    }

    /// Sends one or more assignments, one a line. A manager that does not listen is no reason to stop.
    pub(crate) fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = sendto(
                socket,
                text.as_bytes(),
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                address,
            );
        }
    }
}

/// How often the service manager wants to hear of us: half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) advises.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let own = std::env::var("WATCHDOG_PID")
        .ok()
        .is_none_or(|pid| pid == std::process::id().to_string());
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (own && micros > 0).then(|| Duration::from_micros(micros / 2).max(Duration::from_millis(10)))
}
