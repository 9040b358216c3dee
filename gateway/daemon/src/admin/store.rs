//! Users as operators see them.

use sluice_auth::{AddressRule, Ipv6Prefix, Secret};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

/// A user's entry without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// Its name, realm included.
    pub name: String,
    /// Whether it may log in.
    pub enabled: bool,
    /// From when it may not any more.
    pub expires: Option<SystemTime>,
    /// Where its IPv4 address comes from.
    pub ipv4: AddressRule<Ipv4Addr>,
    /// Where its IPv6 prefix comes from.
    pub ipv6: AddressRule<Ipv6Prefix>,
    /// Name servers; empty: its pool's.
    pub dns: Vec<IpAddr>,
    /// Largest IP packet towards it, in bytes.
    pub mtu: Option<u16>,
    /// Simultaneous sessions.
    pub max_sessions: Option<u32>,
    /// Longest life of a session.
    pub session_timeout: Option<Duration>,
    /// Longest silence of a session.
    pub idle_timeout: Option<Duration>,
}

impl UserEntry {
    /// An enabled user with nothing of its own.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            enabled: true,
            expires: None,
            ipv4: AddressRule::DefaultPool,
            ipv6: AddressRule::DefaultPool,
            dns: Vec::new(),
            mtu: None,
            max_sessions: None,
            session_timeout: None,
            idle_timeout: None,
        }
    }
}

/// A change of a user: what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// Whether it may log in.
    pub enabled: Option<bool>,
    /// A new password.
    pub password: Option<Secret>,
}

/// A user could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// There is no such user.
    #[error("there is no user {0:?}")]
    NotFound(String),
    /// There is one already.
    #[error("there is a user {0:?} already")]
    Exists(String),
    /// Something about the request is wrong: the member meant, and what is wrong with it.
    #[error("{0}: {1}")]
    Invalid(&'static str, String),
    /// The users cannot be read or written, or no thread is free to hash a password.
    #[error("{0}")]
    Unavailable(String),
}
