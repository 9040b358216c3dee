//! The wire format of SOCKS: what clients say, read as it comes in, and what they are told.
//!
//! Readers take the bytes that are there and give what they read with its length, or nothing while it is not whole.
//! Each decision is taken at the octet that calls for it, in the order of the octets, so that the way in which a
//! stream was cut changes nothing.

mod address;
pub mod datagram;
pub mod gssapi;
mod message;
mod negotiation;
mod request;
pub mod v4;

pub use address::{Address, AddressError};
pub use message::Message;
pub use negotiation::{Greeting, Login, NotALogin, greeting, login};
pub use request::{Command, Reply, Request, request};

/// First octet of SOCKS5 (RFC 1928, 3).
pub const VERSION5: u8 = 5;
/// First octet of SOCKS4 and SOCKS4a.
pub const VERSION4: u8 = 4;
/// Version of the username/password sub-negotiation (RFC 1929, 2).
pub const LOGIN_VERSION: u8 = 1;

/// Authentication methods (RFC 1928, 3).
pub mod method {
    /// No authentication required.
    pub const NONE: u8 = 0;
    /// GSS-API (RFC 1961).
    pub const GSSAPI: u8 = 1;
    /// Username and password (RFC 1929).
    pub const LOGIN: u8 = 2;
    /// None of the methods offered is acceptable.
    pub const NO_ACCEPTABLE: u8 = 0xff;
}

/// A message with its length in octets, or `None` while it is not whole.
pub type Parsed<T> = Option<(T, usize)>;
