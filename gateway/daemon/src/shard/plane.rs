//! The data plane in user space, as the driver sees it.

use super::Plane;
use sluice_dataplane::{ListenerId, UserPath};
use sluice_spi::PeerAddr;

/// The data plane's name of a listener. There are never so many that it could not be one.
pub(super) fn listener_id(listener: usize) -> ListenerId {
    ListenerId(u16::try_from(listener).unwrap_or(u16::MAX))
}

impl Plane for UserPath {
    fn send(&mut self, listener: usize, peer: PeerAddr, packet: &[u8]) {
        // What finds no room is counted there, and sent again by its machine in time.
        UserPath::send(self, listener_id(listener), peer, packet);
    }
}
