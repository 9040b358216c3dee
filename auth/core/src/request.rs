//! A question to the authentication backends, and its answer.

use crate::{Grants, Identity, Secret};
use std::net::SocketAddr;

/// How a peer proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Password Authentication Protocol (RFC 1334).
    Pap,
    /// A security context that stands (GSS-API, RFC 2743).
    Gssapi,
}

impl Method {
    /// All methods, for closed metric label sets.
    pub const ALL: [Method; 2] = [Method::Pap, Method::Gssapi];

    /// The name used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Pap => "pap",
            Method::Gssapi => "gssapi",
        }
    }
}

/// What a peer gave to prove its identity.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A user name and its password in clear.
    Pap {
        /// The name the peer gave.
        identity: Identity,
        /// The password the peer gave.
        password: Secret,
    },
    /// A name that is proven already: it is the initiator's of a security context that stands.
    Gssapi {
        /// The name.
        identity: Identity,
    },
}

impl Credentials {
    /// The name the peer claims.
    pub fn identity(&self) -> &Identity {
        match self {
            Credentials::Pap { identity, .. } | Credentials::Gssapi { identity } => identity,
        }
    }

    /// The method these credentials belong to.
    pub fn method(&self) -> Method {
        match self {
            Credentials::Pap { .. } => Method::Pap,
            Credentials::Gssapi { .. } => Method::Gssapi,
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
    pub const ALL: [RejectReason; 9] = [
        RejectReason::BadCredentials,
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

/// The answer a protocol machine gets to its request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The peer is who it says, and this is what it gets.
    Accept(Box<Grants>),
    /// The peer is refused.
    Reject(RejectReason),
}
