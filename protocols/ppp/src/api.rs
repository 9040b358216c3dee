//! What passes between a PPP link and its carrier.

use crate::PppHeader;
use sluice_auth::{AuthRequest, Secret, Verifiable};
use sluice_spi::{AddressFilter, Direction, DropReason, Ended, Fact, Severity};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

/// Which end of the link we are.
#[derive(Clone, Debug)]
pub enum Role {
    /// We authenticate the peer and give it its addresses.
    Server,
    /// The peer may authenticate us, and gives us our addresses.
    Client {
        /// What to answer where the peer asks who we are; `None`: such a peer is refused.
        login: Option<Login>,
    },
}

/// Name and password for the client role.
#[derive(Clone, Debug)]
pub struct Login {
    /// User name, at most 255 octets.
    pub name: String,
    /// Password, at most 255 octets.
    pub password: Secret,
}

/// What a link is carried by.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// Name of the carrying module, such as `l2tp`.
    pub protocol: &'static str,
    /// The other end of the tunnel.
    pub peer: Option<SocketAddr>,
    /// Calling number, already escaped for display.
    pub calling: Option<String>,
    /// Called number, already escaped for display.
    pub called: Option<String>,
    /// Largest IP packet that the carrier takes without fragmentation, in octets, with its own headers and
    /// [`PppHeader::MAX`] octets of PPP header already taken off.
    pub mtu: u16,
    /// What a peer's proof can be checked by.
    pub verifiable: Verifiable,
}

/// The control-character maps of an asynchronous line (RFC 1662, 7.1), for carriers that frame for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accm {
    /// Characters to escape towards the peer.
    pub send: u32,
    /// Characters that the peer escapes towards us.
    pub receive: u32,
}

/// LCP and authentication that a LAC has already done with the peer (RFC 2661, 4.4.5). What is used of it is
/// decided by [`crate::PppConfig::proxy`].
#[derive(Clone, Default)]
pub struct Proxy {
    /// Options of the first Configure-Request that the LAC received (AVP 26).
    pub initial_received: Option<Vec<u8>>,
    /// Options of the last Configure-Request that the LAC sent (AVP 27).
    pub last_sent: Option<Vec<u8>>,
    /// Options of the last Configure-Request that the LAC received (AVP 28).
    pub last_received: Option<Vec<u8>>,
    /// Proxy Authen Type (AVP 29): 1 text, 2 CHAP, 3 PAP, 4 none, 5 MS-CHAP version 1.
    pub auth_type: Option<u16>,
    /// Proxy Authen Name (AVP 30).
    pub name: Option<Vec<u8>>,
    /// Proxy Authen Challenge (AVP 31).
    pub challenge: Option<Vec<u8>>,
    /// Low octet of Proxy Authen ID (AVP 32).
    pub id: Option<u8>,
    /// Proxy Authen Response (AVP 33): for types 1 and 3 the password.
    pub response: Option<Secret>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("last_sent", &self.last_sent)
            .field("last_received", &self.last_received)
            .field("auth_type", &self.auth_type)
            .finish_non_exhaustive()
    }
}

/// What the data plane must know of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PppPath {
    /// Addresses that the peer may use. A family is set only while its control protocol is open.
    pub filter: AddressFilter,
    /// Largest IP packet towards the peer, in octets.
    pub mtu: u16,
    /// How to wrap packets towards the peer.
    pub header: PppHeader,
    /// Our own IPv4 address on the link, where there is one.
    pub local_ipv4: Option<Ipv4Addr>,
}

/// Something the carrier has to know or do.
#[derive(Debug)]
pub enum PppEvent {
    /// The peer wants to be authenticated: answer with [`crate::Ppp::auth_verdict`]. There is never a second
    /// one before the first is answered, but there is another one when the peer negotiates the link anew.
    AuthRequested(Box<AuthRequest>),
    /// LCP is open. Comes again each time the link is negotiated anew.
    LinkUp {
        /// What was negotiated.
        facts: Vec<Fact>,
        /// Maps for an asynchronous line (L2TP: Set-Link-Info).
        accm: Accm,
    },
    /// The first network protocol is open: user data may flow. Comes once in a link's life.
    Up {
        /// For the data plane.
        path: PppPath,
        /// What was negotiated.
        facts: Vec<Fact>,
    },
    /// After `Up`: the path is another one, or `None`: no user data may flow until the next `PathChanged`.
    PathChanged(Option<PppPath>),
    /// The link is over. Comes once, as the last event that matters.
    Down(Ended),
    /// A frame was refused; one of [`crate::DROP_REASONS`].
    Dropped(DropReason),
    /// A line for the log.
    Notice {
        /// How much it matters.
        severity: Severity,
        /// The words; text of the peer is already escaped.
        text: String,
    },
    /// A decoded frame, while [`crate::Ppp::set_trace`] is on.
    Traced {
        /// Which way it went.
        direction: Direction,
        /// The frame in words, without secrets.
        text: String,
    },
}
