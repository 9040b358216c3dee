//! A question to the authentication backends, and its answer.

use crate::chap::{CHAP_RESPONSE, MSCHAP_CHALLENGE, NT_RESPONSE};
use crate::tls::TlsAcceptor;
use crate::{Grants, Identity, Secret, SessionKeys};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// How a peer proves who it is. This is the one list of methods: offers, metrics and checkpoints follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Password Authentication Protocol (RFC 1334), and whatever else sends a password in clear.
    Pap,
    /// Challenge Handshake Authentication Protocol with MD5 (RFC 1994).
    Chap,
    /// Microsoft's CHAP extensions, version 2 (RFC 2759).
    MsChapV2,
    /// A security context that stands (GSS-API, RFC 2743).
    Gssapi,
    /// A certificate, by TLS.
    Certificate,
}

impl Method {
    /// All methods, the strongest first.
    pub const ALL: [Method; 5] = [
        Method::Certificate,
        Method::Gssapi,
        Method::MsChapV2,
        Method::Chap,
        Method::Pap,
    ];

    /// The name used in configuration, metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Pap => "pap",
            Method::Chap => "chap",
            Method::MsChapV2 => "mschapv2",
            Method::Gssapi => "gssapi",
            Method::Certificate => "certificate",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// For how many users the backends can check a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coverage {
    /// Nobody.
    None,
    /// Some have what the check needs, others have not.
    Some,
    /// Everybody.
    All,
}

/// The methods that the backends can check at present, and for whom. The default is PAP for everybody.
#[derive(Clone)]
pub struct Verifiable {
    some: u8,
    all: u8,
    tls: Option<Arc<dyn TlsAcceptor>>,
}

impl fmt::Debug for Verifiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coverage = Method::ALL.map(|method| (method.as_str(), self.coverage(method)));
        f.debug_map().entries(coverage).finish()
    }
}

impl Default for Verifiable {
    fn default() -> Self {
        Self::none().with(Method::Pap, Coverage::All)
    }
}

impl Verifiable {
    /// No method at all.
    pub const fn none() -> Self {
        Self {
            some: 0,
            all: 0,
            tls: None,
        }
    }

    /// The same with another method, for those given and whoever was covered before.
    #[must_use]
    pub fn with(mut self, method: Method, coverage: Coverage) -> Self {
        if coverage >= Coverage::Some {
            self.some |= method.bit();
        }
        if coverage == Coverage::All {
            self.all |= method.bit();
        }
        self
    }

    /// The same with handshakes by which certificates can be shown.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Arc<dyn TlsAcceptor>>) -> Self {
        self.tls = tls;
        self
    }

    /// Begins the handshakes by which certificates can be shown; `None`: there is no certificate of our own.
    pub fn tls(&self) -> Option<&Arc<dyn TlsAcceptor>> {
        self.tls.as_ref()
    }

    /// Whom a method can be checked for.
    pub fn coverage(&self, method: Method) -> Coverage {
        match (self.all & method.bit() != 0, self.some & method.bit() != 0) {
            (true, _) => Coverage::All,
            (false, true) => Coverage::Some,
            (false, false) => Coverage::None,
        }
    }
}

/// What a peer gave to prove its identity.
#[derive(Clone)]
pub enum Credentials {
    /// A user name and its password in clear.
    Pap {
        /// The name the peer gave.
        identity: Identity,
        /// The password the peer gave.
        password: Secret,
    },
    /// An answer to our challenge by CHAP with MD5.
    Chap {
        /// The name the peer gave.
        identity: Identity,
        /// Identifier of the challenge, which is a part of what was hashed.
        id: u8,
        /// The challenge.
        challenge: Vec<u8>,
        /// The hash. With the challenge it allows to guess the password, so it is never shown.
        response: Box<[u8; CHAP_RESPONSE]>,
    },
    /// An answer to our challenge by MS-CHAPv2.
    MsChapV2 {
        /// The name the peer gave, with a domain where it gave one.
        identity: Identity,
        /// The two challenges and the answer.
        exchange: Box<MsChapExchange>,
    },
    /// A name that is proven already: it is the initiator's of a security context that stands.
    Gssapi {
        /// The name.
        identity: Identity,
    },
    /// A name that is proven already: it is one of those in a certificate that is right.
    Certificate {
        /// The name.
        identity: Identity,
    },
}

/// What passed between authenticator and peer by MS-CHAPv2.
#[derive(Clone, PartialEq, Eq)]
pub struct MsChapExchange {
    /// Our challenge.
    pub challenge: [u8; MSCHAP_CHALLENGE],
    /// The peer's challenge.
    pub peer_challenge: [u8; MSCHAP_CHALLENGE],
    /// The peer's NT-Response.
    pub nt_response: [u8; NT_RESPONSE],
}

impl fmt::Debug for MsChapExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MsChapExchange(…)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("method", &self.method())
            .field("identity", self.identity())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The name the peer claims.
    pub fn identity(&self) -> &Identity {
        match self {
            Credentials::Pap { identity, .. }
            | Credentials::Chap { identity, .. }
            | Credentials::MsChapV2 { identity, .. }
            | Credentials::Gssapi { identity }
            | Credentials::Certificate { identity } => identity,
        }
    }

    /// The method these credentials belong to.
    pub fn method(&self) -> Method {
        match self {
            Credentials::Pap { .. } => Method::Pap,
            Credentials::Chap { .. } => Method::Chap,
            Credentials::MsChapV2 { .. } => Method::MsChapV2,
            Credentials::Gssapi { .. } => Method::Gssapi,
            Credentials::Certificate { .. } => Method::Certificate,
        }
    }
}

/// One authentication request of one session.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// Name of the protocol module that asks, for policy and counters.
    pub protocol: &'static str,
    /// The proof given.
    pub credentials: Credentials,
    /// The other end of the tunnel or connection.
    pub peer: Option<SocketAddr>,
    /// Calling number, where the protocol has one (L2TP AVP 22).
    pub calling: Option<String>,
    /// Called number, where the protocol has one (L2TP AVP 21).
    pub called: Option<String>,
}

/// Why a request was refused. The peer is never told more than "refused"; operators see the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// No such user, or a wrong password: never told apart to the peer.
    BadCredentials,
    /// The user has nothing that this method could be checked against. The peer is told what it is told of a wrong
    /// password.
    NoVerifier,
    /// The account is disabled.
    Disabled,
    /// The account has expired.
    Expired,
    /// No backend serves the realm.
    UnknownRealm,
    /// The user may not use this protocol or method.
    NotPermitted,
    /// Too many failures of this user or from this source lately.
    Throttled,
    /// The user has as many sessions as it may have.
    TooManySessions,
    /// No address is free for the session.
    NoAddress,
    /// No backend could answer in time.
    Unavailable,
}

impl RejectReason {
    /// All reasons, for closed metric label sets.
    pub const ALL: [RejectReason; 10] = [
        RejectReason::BadCredentials,
        RejectReason::NoVerifier,
        RejectReason::Disabled,
        RejectReason::Expired,
        RejectReason::UnknownRealm,
        RejectReason::NotPermitted,
        RejectReason::Throttled,
        RejectReason::TooManySessions,
        RejectReason::NoAddress,
        RejectReason::Unavailable,
    ];

    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::BadCredentials => "bad_credentials",
            RejectReason::NoVerifier => "no_verifier",
            RejectReason::Disabled => "disabled",
            RejectReason::Expired => "expired",
            RejectReason::UnknownRealm => "unknown_realm",
            RejectReason::NotPermitted => "not_permitted",
            RejectReason::Throttled => "throttled",
            RejectReason::TooManySessions => "too_many_sessions",
            RejectReason::NoAddress => "no_address",
            RejectReason::Unavailable => "unavailable",
        }
    }
}

/// What a backend gives back of a right proof, beside its profile. Neither shown nor kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Of MS-CHAPv2: `S=` and 40 hexadecimal digits, for the Success packet (RFC 2759, 5).
    pub authenticator_response: Option<String>,
    /// Our keys for encryption, where the method makes them.
    pub keys: Option<Box<SessionKeys>>,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// The answer a protocol machine gets to its request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The peer is who it says.
    Accept {
        /// What it gets.
        grants: Box<Grants>,
        /// What its protocol answers it with.
        proof: Proof,
    },
    /// The peer is refused.
    Reject(RejectReason),
}

impl Verdict {
    /// Lets a peer in whose protocol needs nothing more from the backend.
    pub fn accept(grants: Box<Grants>) -> Self {
        Verdict::Accept {
            grants,
            proof: Proof::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_answers_nor_keys_are_shown() {
        let identity = Identity::parse(b"alice").unwrap();
        let exchange = MsChapExchange {
            challenge: [0x41; 16],
            peer_challenge: [0x41; 16],
            nt_response: [0x41; 24],
        };
        let credentials = Credentials::MsChapV2 {
            identity,
            exchange: Box::new(exchange.clone()),
        };
        let proof = Proof {
            authenticator_response: Some("S=4141".to_owned()),
            keys: Some(Box::new(SessionKeys::of_mschap(
                &Secret::new([0x41; 16]),
                &[0x41; 24],
            ))),
        };
        let shown = format!("{credentials:?} {exchange:?} {proof:?}");
        assert!(shown.contains("alice") && shown.contains("MsChapV2"), "{shown}");
        assert!(!shown.contains("65") && !shown.contains("41"), "{shown}");
    }

    #[test]
    fn coverage_only_grows() {
        let some = Verifiable::default().with(Method::Chap, Coverage::Some);
        let all = some
            .clone()
            .with(Method::Chap, Coverage::All)
            .with(Method::Chap, Coverage::None);
        assert_eq!(some.coverage(Method::Chap), Coverage::Some);
        assert_eq!(all.coverage(Method::Chap), Coverage::All);
        assert_eq!(all.coverage(Method::Pap), Coverage::All);
        assert_eq!(all.coverage(Method::MsChapV2), Coverage::None);
    }
}
