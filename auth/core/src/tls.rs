//! What a protocol needs of TLS to let peers prove who they are by certificate: handshakes over octets that it carries
//! itself (EAP-TLS, RFC 5216). The certificates, the clock they are checked by and the randomness are behind it.

use crate::SessionKeys;

/// Begins handshakes as the server, each of which demands a certificate of the client.
pub trait TlsAcceptor: Send + Sync {
    /// A handshake that is to begin; `None`: it cannot.
    fn accept(&self) -> Option<Box<dyn TlsExchange>>;
}

/// One handshake. It takes no more than it is given, and waits for nothing.
pub trait TlsExchange: Send {
    /// Takes octets of the client and appends the answer, which is an alert where the handshake has failed.
    fn take(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<Handshake, HandshakeFailed>;
}

/// How far a handshake is.
#[derive(Debug)]
pub enum Handshake {
    /// More octets are awaited.
    Going,
    /// It is over: this is who the client is.
    Done(TlsPeer),
}

/// A client whose certificate is right.
#[derive(Debug)]
pub struct TlsPeer {
    /// The names in its certificate: common name, DNS names and mail addresses.
    pub names: Vec<String>,
    /// Our keys for encryption of the link (RFC 5216, 2.3).
    pub keys: SessionKeys,
}

/// Why a handshake failed, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HandshakeFailed(pub String);
