//! Upstreams: proxies by which targets are reached.

mod health;
mod http;
mod socks5;

use crate::counters::Counter;
use crate::proxy_protocol::Version;
use crate::request::Way;
use health::Health;
use sluice_auth::Secret;
use sluice_spi::{ChannelFailure, Target};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Most upstreams in a row, each reached through the next: more would take longer than any client waits.
pub const MAX_CHAIN: usize = 4;

/// Most servers of one upstream.
pub const MAX_SERVERS: usize = 16;

/// Longest user name and password, in octets (RFC 1929, 2).
pub const MAX_LOGIN: usize = 255;

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// SOCKS5 (RFC 1928), with the login of RFC 1929.
    Socks5,
    /// HTTP's CONNECT (RFC 9110, 9.3.6), with Basic authentication (RFC 7617).
    Http,
}

/// A login at an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// 1 to [`MAX_LOGIN`] octets; without a colon where the upstream speaks HTTP.
    pub user: String,
    /// 1 to [`MAX_LOGIN`] octets.
    pub password: Secret,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name, which ways name it by.
    pub name: Arc<str>,
    /// What it speaks.
    pub speaks: Speaks,
    /// Its servers: the first that works is used.
    pub servers: Vec<Target>,
    /// The login that it wants.
    pub login: Option<Login>,
    /// The upstream that it is reached through.
    pub through: Option<Arc<str>>,
    /// Whether it is given names as they are; otherwise they are looked up here.
    pub remote_names: bool,
    /// By which way its servers are reached; what is not said here is as for the request. Its upstream counts for
    /// nothing; its header is sent to the servers.
    pub way: Way,
    /// Whether its servers are sent the first bytes with the SYN (RFC 7413).
    pub fast_open: bool,
    /// How long connecting to one server may take.
    pub connect_timeout: Duration,
    /// How long its handshake may take, in which it reaches the target.
    pub reply_timeout: Duration,
}

impl Upstream {
    /// Default of [`Upstream::connect_timeout`]: a proxy is near.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Default of [`Upstream::reply_timeout`]: as long as a client is let wait.
    pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
}

/// What is wrong with a list of upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadUpstream {
    /// Which one, by its place in the list.
    pub index: usize,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Another one has its name.
    #[error("another upstream has this name")]
    Name,
    /// It has no server, or too many.
    #[error("there must be 1 to {MAX_SERVERS} servers")]
    Servers,
    /// There is no such upstream.
    #[error("there is no upstream {0:?}")]
    Through(Arc<str>),
    /// The chain of upstreams that it is reached through leads back, or is too long.
    #[error("it is reached through itself, or through more than {} others", MAX_CHAIN - 1)]
    Chain,
    /// The login cannot be sent.
    #[error("user and password must be 1 to {MAX_LOGIN} octets long, and a user for HTTP has no colon")]
    Login,
}

/// Everything that is wrong with a list of upstreams.
pub fn check(upstreams: &[Upstream]) -> Vec<BadUpstream> {
    let mut found = Vec::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let mut add = |wrong| found.push(BadUpstream { index, wrong });
        if upstreams
            .iter()
            .take(index)
            .any(|other| other.name == upstream.name)
        {
            add(Wrong::Name);
        }
        if upstream.servers.is_empty() || upstream.servers.len() > MAX_SERVERS {
            add(Wrong::Servers);
        }
        if upstream
            .login
            .as_ref()
            .is_some_and(|login| !is_fit(login, upstream.speaks))
        {
            add(Wrong::Login);
        }
        let named = |name: &Arc<str>| upstreams.iter().find(|other| other.name == *name);
        if let Some(through) = upstream.through.as_ref().filter(|name| named(name).is_none()) {
            add(Wrong::Through(through.clone()));
        }
        // After as many steps as there may be, the chain has to be at its end.
        let steps = std::iter::successors(upstream.through.as_ref().and_then(named), |outer| {
            outer.through.as_ref().and_then(named)
        });
        if steps.take(MAX_CHAIN).count() >= MAX_CHAIN {
            add(Wrong::Chain);
        }
    }
    found
}

fn is_fit(login: &Login, speaks: Speaks) -> bool {
    let fit = |octets: &[u8]| (1..=MAX_LOGIN).contains(&octets.len());
    let colon = speaks == Speaks::Http && login.user.contains(':');
    fit(login.user.as_bytes()) && fit(login.password.expose()) && !colon
}

/// How an upstream did not do its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// None of its servers could be connected to.
    Unreachable,
    /// The handshake did not end in time.
    Timeout,
    /// The connection ended within the handshake.
    Closed,
    /// It said what its protocol does not have.
    Malformed,
    /// It did not take the login, or wants one.
    Login,
    /// All its servers failed lately, and are left alone for a while.
    Resting,
    /// There is no upstream of that name.
    Unknown,
}

impl Fault {
    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        self.counter().label()
    }

    pub(crate) fn counter(self) -> Counter {
        match self {
            Fault::Unreachable => Counter::UpstreamUnreachable,
            Fault::Timeout => Counter::UpstreamTimeout,
            Fault::Closed => Counter::UpstreamClosed,
            Fault::Malformed => Counter::UpstreamMalformed,
            Fault::Login => Counter::UpstreamLogin,
            Fault::Resting => Counter::UpstreamResting,
            Fault::Unknown => Counter::UpstreamUnknown,
        }
    }
}

/// How a handshake goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for more, or has something to send.
    Going,
    /// The target is reached, from this address if the upstream says so.
    Reached(Option<SocketAddr>),
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The upstream works, and says why it did not reach the target: its code, and what a client is told.
    Reply(u16, ChannelFailure),
    /// The upstream does not do its part.
    Fault(Fault),
}

/// A handshake with an upstream. It sees bytes and gives bytes.
pub(crate) trait Handshake {
    /// Appends what is to be sent now.
    fn transmit(&mut self, out: &mut Vec<u8>);

    /// Takes what was received, and says how much of it: all, but for what follows the end of the handshake, which is
    /// the target's.
    fn receive(&mut self, input: &[u8]) -> Result<(usize, Progress), Refusal>;
}

/// The handshake that asks an upstream for a target.
pub(crate) fn handshake(upstream: &Upstream, target: &Target) -> Box<dyn Handshake> {
    let login = upstream.login.as_ref();
    match upstream.speaks {
        Speaks::Socks5 => Box::new(socks5::Client::new(target, login)),
        Speaks::Http => Box::new(http::Client::new(target, login)),
    }
}

/// A list of upstreams without a fault, and how their servers are doing. Shared by all shards.
pub(crate) struct Upstreams(HashMap<Arc<str>, Known>);

/// An upstream and the health of its servers, in their order.
pub(crate) struct Known {
    pub(crate) upstream: Upstream,
    health: Vec<Mutex<Health>>,
}

impl Upstreams {
    pub(crate) fn new(upstreams: Vec<Upstream>) -> Result<Self, Vec<BadUpstream>> {
        let bad = check(&upstreams);
        if !bad.is_empty() {
            return Err(bad);
        }
        let known = |upstream: Upstream| {
            let health = upstream.servers.iter().map(|_| Mutex::default()).collect();
            (upstream.name.clone(), Known { upstream, health })
        };
        Ok(Self(upstreams.into_iter().map(known).collect()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Known> {
        self.0.get(name)
    }
}

impl Known {
    fn health(&self, server: usize) -> Option<MutexGuard<'_, Health>> {
        // Nothing panics while it is held; if anything did, the numbers would still be whole.
        Some(
            self.health
                .get(server)?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Whether a server may be tried now.
    pub(crate) fn may(&self, server: usize, now: Instant) -> bool {
        self.health(server).is_some_and(|mut health| health.may(now))
    }

    /// A server did its part, or did not.
    pub(crate) fn note(&self, server: usize, works: bool, now: Instant) {
        if let Some(mut health) = self.health(server) {
            if works { health.works() } else { health.fails(now) }
        }
    }

    /// The header that its servers are sent first.
    pub(crate) fn header(&self) -> Option<Version> {
        self.upstream.way.header
    }

    /// By which way its servers are reached for a request.
    pub(crate) fn way(&self, of_request: &Way) -> Way {
        let (own, of_request) = (self.upstream.way.clone(), of_request.clone());
        Way {
            source4: own.source4.or(of_request.source4),
            source6: own.source6.or(of_request.source6),
            interface: own.interface.or(of_request.interface),
            mark: own.mark.or(of_request.mark),
            upstream: None,
            header: None,
            timeout: None,
        }
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
