//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): a header before a connection's own bytes, by
//! which one who passes connections on tells whose they are.
//!
//! A header is believed from peers that are trusted only; asking who is trusted is the caller's business.

mod decode;
mod encode;
mod read;

pub use decode::{Decoded, Header, Malformed, decode};
pub use encode::encode;
pub use read::{NoHeader, read};

/// Longest header of version 1, in octets, its line end included (section 2.1).
pub const MAX_V1: usize = 107;

/// Longest header of version 2 that is taken, in octets. The specification asks its writers to stay within one
/// segment of the least size, 536 octets (section 2.2); more is for certificates in TLVs, which are skipped here.
pub const MAX_V2: usize = 4096;

/// The first octets of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The octets of version 2 before its addresses.
const V2_FIXED: usize = 16;

/// A version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

#[cfg(test)]
mod tests;
