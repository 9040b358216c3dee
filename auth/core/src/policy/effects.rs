//! What an allowing rule gives, and how it is merged with what a user and the gateway have.

use crate::Profile;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// A rate of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRate {
    /// Bytes a second, at least 1.
    pub per_second: u64,
    /// Bytes that may pass at once after a pause, at least 1.
    pub burst: u64,
}

/// A rate of new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRate {
    /// Sessions a second, at least 1.
    pub per_second: u32,
    /// Sessions that may start at once after a pause, at least 1.
    pub burst: u32,
}

/// Where connections go out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// Straight to the destination.
    Direct,
    /// Through the upstream proxy of this name.
    Named(Arc<str>),
}

/// The PROXY protocol header that destinations are sent first, to be told the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendProxy {
    /// None.
    Off,
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl SendProxy {
    /// The word for it in the configuration and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            SendProxy::Off => "off",
            SendProxy::V1 => "v1",
            SendProxy::V2 => "v2",
        }
    }
}

/// Limits that all sessions share which have something in common: their user, or their source. Each field that
/// is `None` is left to whoever is asked next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedLimits {
    /// Simultaneous sessions.
    pub sessions: Option<u32>,
    /// New sessions.
    pub new_sessions: Option<SessionRate>,
    /// Bytes from the clients.
    pub rate_up: Option<ByteRate>,
    /// Bytes to the clients.
    pub rate_down: Option<ByteRate>,
    /// Name of a quota that all their bytes count against.
    pub quota: Option<Arc<str>>,
}

/// What a session or connection is given. Each field that is `None` is left to whoever is asked next: a rule,
/// then the user's profile, then the defaults, then the protocol's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Source address of outgoing IPv4.
    pub source_ipv4: Option<Ipv4Addr>,
    /// Source address of outgoing IPv6.
    pub source_ipv6: Option<Ipv6Addr>,
    /// Network interface that outgoing sockets are bound to.
    pub interface: Option<Arc<str>>,
    /// Firewall mark of outgoing packets, for policy routing.
    pub fwmark: Option<u32>,
    /// Upstream proxy.
    pub upstream: Option<Upstream>,
    /// Header that destinations of connections are sent first.
    pub send_proxy: Option<SendProxy>,
    /// Bytes from the client in this one session.
    pub rate_up: Option<ByteRate>,
    /// Bytes to the client in this one session.
    pub rate_down: Option<ByteRate>,
    /// Longest wait for a connection to the destination.
    pub connect_timeout: Option<Duration>,
    /// Longest silence.
    pub idle_timeout: Option<Duration>,
    /// Longest silence once one side has ended its direction.
    pub half_closed_timeout: Option<Duration>,
    /// Longest life.
    pub lifetime: Option<Duration>,
    /// What the user's sessions share.
    pub per_user: SharedLimits,
    /// What the sessions of one source share: of one IPv4 address or one IPv6 /64.
    pub per_source: SharedLimits,
}

impl SharedLimits {
    /// These limits, and those of `below` where these say nothing.
    pub fn or(&self, below: &Self) -> Self {
        Self {
            sessions: self.sessions.or(below.sessions),
            new_sessions: self.new_sessions.or(below.new_sessions),
            rate_up: self.rate_up.or(below.rate_up),
            rate_down: self.rate_down.or(below.rate_down),
            quota: self.quota.as_ref().or(below.quota.as_ref()).cloned(),
        }
    }
}

impl Effects {
    /// These effects, and those of `below` where these say nothing, field by field.
    pub fn or(&self, below: &Self) -> Self {
        Self {
            source_ipv4: self.source_ipv4.or(below.source_ipv4),
            source_ipv6: self.source_ipv6.or(below.source_ipv6),
            interface: self.interface.as_ref().or(below.interface.as_ref()).cloned(),
            fwmark: self.fwmark.or(below.fwmark),
            upstream: self.upstream.as_ref().or(below.upstream.as_ref()).cloned(),
            send_proxy: self.send_proxy.or(below.send_proxy),
            rate_up: self.rate_up.or(below.rate_up),
            rate_down: self.rate_down.or(below.rate_down),
            connect_timeout: self.connect_timeout.or(below.connect_timeout),
            idle_timeout: self.idle_timeout.or(below.idle_timeout),
            half_closed_timeout: self.half_closed_timeout.or(below.half_closed_timeout),
            lifetime: self.lifetime.or(below.lifetime),
            per_user: self.per_user.or(&below.per_user),
            per_source: self.per_source.or(&below.per_source),
        }
    }
}

impl From<&Profile> for Effects {
    /// What a user's profile says of these things.
    fn from(profile: &Profile) -> Self {
        Self {
            idle_timeout: profile.idle_timeout,
            lifetime: profile.session_timeout,
            per_user: SharedLimits {
                sessions: profile.max_sessions,
                ..SharedLimits::default()
            },
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    #[test]
    fn the_nearest_that_says_something_wins_field_by_field() {
        let rule = Effects {
            fwmark: Some(7),
            send_proxy: Some(SendProxy::Off),
            per_user: SharedLimits {
                quota: Some("gold".into()),
                ..SharedLimits::default()
            },
            ..Effects::default()
        };
        let mut profile = Profile::new(Identity::parse(b"ann").unwrap());
        profile.idle_timeout = Some(Duration::from_secs(60));
        profile.max_sessions = Some(3);
        let defaults = Effects {
            fwmark: Some(1),
            interface: Some("eth1".into()),
            upstream: Some(Upstream::Direct),
            send_proxy: Some(SendProxy::V2),
            idle_timeout: Some(Duration::from_secs(900)),
            lifetime: Some(Duration::from_secs(3600)),
            per_user: SharedLimits {
                sessions: Some(100),
                quota: Some("all".into()),
                ..SharedLimits::default()
            },
            ..Effects::default()
        };
        let merged = rule.or(&Effects::from(&profile)).or(&defaults);
        assert_eq!(merged.fwmark, Some(7));
        assert_eq!(merged.interface.as_deref(), Some("eth1"));
        assert_eq!(merged.upstream, Some(Upstream::Direct));
        assert_eq!(merged.send_proxy, Some(SendProxy::Off));
        assert_eq!(merged.idle_timeout, Some(Duration::from_secs(60)));
        assert_eq!(merged.lifetime, Some(Duration::from_secs(3600)));
        assert_eq!(merged.per_user.sessions, Some(3));
        assert_eq!(merged.per_user.quota.as_deref(), Some("gold"));
    }
}
