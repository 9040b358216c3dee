//! Reaching targets.

use crate::bind::{self, BindSpec, ParkedWait, Waiting};
use crate::counters::{Counter, Counters};
use crate::dial::Dial;
use crate::eyeballs::{Attempt, Candidate, Local, Lookups, race};
use crate::failure::{Cause, Failed};
use crate::proxy_protocol;
use crate::race::{Eyeballs, IpFamily};
use crate::request::{Denied, Named, Request, Way};
use crate::resolver::{Names, Resolver, ResolverConfig};
use crate::upstream::{BadUpstream, Fault, Known, Refusal, Upstream, Upstreams, handshake};
use crate::wire;
use sluice_auth::{Host, HostName};
use sluice_spi::{ChannelFailure, Target};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How targets are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressConfig {
    /// Whether IPv4 addresses are used.
    pub ipv4: bool,
    /// Whether IPv6 addresses are used.
    pub ipv6: bool,
    /// The pace of races between a name's addresses.
    pub eyeballs: Eyeballs,
    /// How names are looked up.
    pub resolver: ResolverConfig,
    /// The proxies that ways may name.
    pub upstreams: Vec<Upstream>,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: true,
            eyeballs: Eyeballs::DEFAULT,
            resolver: ResolverConfig::default(),
            upstreams: Vec::new(),
        }
    }
}

/// What the shards share: the configuration, what is known of names and upstreams, and the counters.
pub struct Egress {
    config: EgressConfig,
    names: Arc<Names>,
    upstreams: Upstreams,
    counters: Arc<Counters>,
}

impl Egress {
    /// What a configuration says. What a previous one knew of names goes on if names are looked up as before, and its
    /// counters go on in any case.
    pub fn new(config: EgressConfig, previous: Option<&Egress>) -> Result<Arc<Self>, Vec<BadUpstream>> {
        let counters = previous.map_or_else(Arc::default, |previous| previous.counters.clone());
        let same = previous.filter(|previous| previous.config.resolver == config.resolver);
        let names = match same {
            Some(previous) => previous.names.clone(),
            None => Names::new(config.resolver.clone(), counters.clone()),
        };
        Ok(Arc::new(Self {
            upstreams: Upstreams::new(config.upstreams.clone())?,
            config,
            names,
            counters,
        }))
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// A target was reached.
#[derive(Debug)]
pub struct Connected {
    /// The connection. Not a byte of it was read or written but for the handshakes and headers that the way asks for.
    pub stream: TcpStream,
    /// The target's address; `None`: an upstream looked its name up.
    pub address: Option<SocketAddr>,
    /// The address that an upstream says it connects from.
    pub bound: Option<SocketAddr>,
    /// The way that was taken.
    pub way: Way,
}

impl Connected {
    /// Where the target sees the connection come from, as far as that is known: the upstream's address if it said so,
    /// or our own.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.bound.map_or_else(|| self.stream.local_addr(), Ok)
    }
}

/// One shard's way to targets. It must be used within a tokio runtime.
pub struct Connector {
    egress: Arc<Egress>,
    resolver: Resolver,
}

/// A connection, and the address that its upstream says it connects from.
type Reached = (TcpStream, Option<SocketAddr>);

impl Connector {
    /// A connector of this thread.
    pub fn new(egress: Arc<Egress>) -> Self {
        Self {
            resolver: Resolver::new(egress.names.clone()),
            egress,
        }
    }

    /// The look-up of names, for those who need addresses only. What they may be used for has to be judged.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Reaches a target. Dropped before its end, everything it opened is closed.
    pub async fn connect(&self, request: Request<'_>) -> Result<Connected, Failed> {
        let mut outcome = Outcome {
            counters: &self.egress.counters,
            counter: Counter::GivenUp,
        };
        let result = self.connect_uncounted(&request).await;
        outcome.counter = match &result {
            Ok(_) => Counter::Connected,
            Err(failed) => Counter::of(failed.failure),
        };
        result
    }

    /// Starts to wait for a peer's connection.
    pub fn bind(&self, spec: BindSpec<'_>) -> Result<Waiting, Failed> {
        bind::bind(spec, self.egress.counters.clone())
    }

    /// Goes on to wait where another process stopped.
    pub fn resume_bind(&self, parked: ParkedWait) -> io::Result<Waiting> {
        Waiting::resume(parked, self.egress.counters.clone())
    }

    async fn connect_uncounted(&self, request: &Request<'_>) -> Result<Connected, Failed> {
        let deadline = Instant::now() + request.timeouts.overall;
        match &request.target.host {
            Host::Address(ip) => {
                let candidate = self.admit(request, *ip)?;
                self.reach(request, candidate, deadline).await
            }
            Host::Name(name) => self.connect_to_name(request, name, deadline).await,
        }
    }

    async fn connect_to_name(
        &self,
        request: &Request<'_>,
        name: &HostName,
        deadline: Instant,
    ) -> Result<Connected, Failed> {
        let named = request.judge.name(name, request.target.port);
        let named = named.map_err(|Denied| Failed::denied(Cause::NameDenied))?;
        if let Named::Forward(way) = named
            && let Some(upstream) = &way.upstream
            && self.upstream(upstream)?.upstream.remote_names
        {
            let reaching = self.through(request, upstream, request.target, &way);
            let reached = until(limit(&way, deadline), reaching).await?;
            return self.finish(request, reached, None, way).await;
        }
        let look_up = (Instant::now() + request.timeouts.resolve).min(deadline);
        let lookups = self.lookups(name, request.asker, look_up);
        if lookups.v4.is_none() && lookups.v6.is_none() {
            return Err(Failed::new(ChannelFailure::Family, Cause::FamilyDisabled));
        }
        let attempts = Attempts {
            connector: self,
            request,
            deadline,
        };
        let admit = |ip| self.admit(request, ip);
        let (connected, address) =
            race(self.egress.config.eyeballs, lookups, admit, &attempts, deadline).await?;
        self.egress.counters.add(if address.is_ipv4() {
            Counter::WonIpv4
        } else {
            Counter::WonIpv6
        });
        Ok(connected)
    }

    fn lookups<'a>(&'a self, name: &'a HostName, asker: u64, deadline: Instant) -> Lookups<'a> {
        let lookup =
            |family| -> Local<'a, _> { Box::pin(self.resolver.lookup(name, family, asker, deadline)) };
        Lookups {
            v6: self.egress.config.ipv6.then(|| lookup(IpFamily::V6)),
            v4: self.egress.config.ipv4.then(|| lookup(IpFamily::V4)),
        }
    }

    /// Asks for an address, and for the way to it.
    fn admit(&self, request: &Request<'_>, ip: IpAddr) -> Result<Candidate, Failed> {
        let address = SocketAddr::new(ip.to_canonical(), request.target.port);
        let judged = request.judge.address(address);
        let way = judged.map_err(|Denied| Failed::denied(Cause::AddressDenied).at(address))?;
        let config = &self.egress.config;
        let usable = if address.is_ipv4() {
            config.ipv4
        } else {
            config.ipv6
        };
        if !usable && way.upstream.is_none() {
            return Err(Failed::new(ChannelFailure::Family, Cause::FamilyDisabled).at(address));
        }
        Ok(Candidate { address, way })
    }

    /// Connects to an address by its way.
    async fn reach(
        &self,
        request: &Request<'_>,
        candidate: Candidate,
        deadline: Instant,
    ) -> Result<Connected, Failed> {
        let Candidate { address, way } = candidate;
        let reached = match &way.upstream {
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                let dial = Dial {
                    way: &way,
                    fast_open: false,
                    timeout: way.timeout.unwrap_or(request.timeouts.connect).min(left),
                };
                (dial.connect(address).await?, None)
            }
            Some(upstream) => {
                let target = Target {
                    host: Host::Address(address.ip()),
                    port: address.port(),
                };
                let reaching = self.through(request, upstream, &target, &way);
                until(limit(&way, deadline), reaching)
                    .await
                    .map_err(|failed| failed.at(address))?
            }
        };
        self.finish(request, reached, Some(address), way).await
    }

    /// Sends the target the header that its way asks for.
    async fn finish(
        &self,
        request: &Request<'_>,
        (stream, bound): Reached,
        address: Option<SocketAddr>,
        way: Way,
    ) -> Result<Connected, Failed> {
        if let Some(version) = way.header {
            send_header(&stream, version, request)
                .await
                .map_err(|error| Failed::connect(&error))?;
        }
        Ok(Connected {
            stream,
            address,
            bound,
            way,
        })
    }

    fn upstream(&self, name: &str) -> Result<&Known, Failed> {
        self.egress
            .upstreams
            .get(name)
            .ok_or_else(|| self.fault(Fault::Unknown))
    }

    fn fault(&self, fault: Fault) -> Failed {
        self.egress.counters.add(fault.counter());
        Failed::upstream(fault)
    }

    /// Reaches a target through an upstream: by the first of its servers that does its part.
    fn through<'a>(
        &'a self,
        request: &'a Request<'_>,
        upstream: &'a str,
        target: &'a Target,
        way: &'a Way,
    ) -> Local<'a, Result<Reached, Failed>> {
        Box::pin(async move {
            let known = self.upstream(upstream)?;
            let mut last = None;
            for (index, server) in known.upstream.servers.iter().enumerate() {
                if !known.may(index, Instant::now()) {
                    continue;
                }
                match self.by_server(request, known, server, target, way).await {
                    Ok(reached) => {
                        known.note(index, true, Instant::now());
                        return Ok(reached);
                    }
                    Err(Hop::Reply(failed)) => {
                        known.note(index, true, Instant::now());
                        return Err(failed);
                    }
                    Err(Hop::Elsewhere(failed)) => return Err(failed),
                    Err(Hop::Fault(fault)) => {
                        known.note(index, false, Instant::now());
                        last = Some(self.fault(fault));
                    }
                }
            }
            Err(last.unwrap_or_else(|| self.fault(Fault::Resting)))
        })
    }

    /// Reaches a target by one server of an upstream.
    async fn by_server(
        &self,
        request: &Request<'_>,
        known: &Known,
        server: &Target,
        target: &Target,
        way: &Way,
    ) -> Result<Reached, Hop> {
        let upstream = &known.upstream;
        let stream = match &upstream.through {
            Some(outer) => self
                .through(request, outer, server, way)
                .await
                .map(|(stream, _)| stream),
            None => self.to_server(request, known, server, &known.way(way)).await,
        };
        let stream = stream.map_err(of_server)?;
        let talk = async {
            if let Some(version) = known.header() {
                let sent = send_header(&stream, version, request).await;
                sent.map_err(|_| Refusal::Fault(Fault::Closed))?;
            }
            wire::run(&stream, &mut *handshake(upstream, target)).await
        };
        match tokio::time::timeout(upstream.reply_timeout, talk).await {
            Ok(Ok(bound)) => Ok((stream, bound)),
            Ok(Err(Refusal::Reply(code, failure))) => {
                Err(Hop::Reply(Failed::new(failure, Cause::UpstreamReply(code))))
            }
            Ok(Err(Refusal::Fault(fault))) => Err(Hop::Fault(fault)),
            Err(_) => Err(Hop::Fault(Fault::Timeout)),
        }
    }

    /// Connects to a server of an upstream. The configuration names it, so nobody is asked whether it may be used.
    async fn to_server(
        &self,
        request: &Request<'_>,
        known: &Known,
        server: &Target,
        way: &Way,
    ) -> Result<TcpStream, Failed> {
        let servers = Servers {
            way,
            fast_open: known.upstream.fast_open,
            timeout: known.upstream.connect_timeout,
        };
        let candidate = |ip: IpAddr| Candidate {
            address: SocketAddr::new(ip.to_canonical(), server.port),
            way: way.clone(),
        };
        match &server.host {
            Host::Address(ip) => servers.attempt(candidate(*ip)).await,
            Host::Name(name) => {
                let deadline = Instant::now() + known.upstream.connect_timeout;
                let lookups = self.lookups(name, request.asker, deadline);
                let pace = self.egress.config.eyeballs;
                let won = race(pace, lookups, |ip| Ok(candidate(ip)), &servers, deadline).await;
                won.map(|(stream, _)| stream)
            }
        }
    }
}

/// How one server of an upstream did not lead to the target.
enum Hop {
    /// It works, and says so itself.
    Reply(Failed),
    /// It does not do its part.
    Fault(Fault),
    /// It is not to blame.
    Elsewhere(Failed),
}

/// What it means that a server was not reached: an outer upstream, or the lack of descriptors, says nothing of it.
fn of_server(failed: Failed) -> Hop {
    match failed.cause {
        Cause::Upstream(_) | Cause::Socket(_) => Hop::Elsewhere(failed),
        _ if failed.failure == ChannelFailure::Resources => Hop::Elsewhere(failed),
        _ => Hop::Fault(Fault::Unreachable),
    }
}

async fn send_header(
    stream: &TcpStream,
    version: proxy_protocol::Version,
    request: &Request<'_>,
) -> io::Result<()> {
    let mut header = Vec::new();
    proxy_protocol::encode(version, request.client, &mut header);
    wire::write_all(stream, &header).await
}

/// When a way has to have led to its end.
fn limit(way: &Way, deadline: Instant) -> Instant {
    let own = way
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    own.map_or(deadline, |own| own.min(deadline))
}

async fn until<T>(deadline: Instant, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(Failed::new(ChannelFailure::TimedOut, Cause::OverallTimeout)),
    }
}

/// Attempts at a request's candidates.
struct Attempts<'a> {
    connector: &'a Connector,
    request: &'a Request<'a>,
    deadline: Instant,
}

impl Attempt for Attempts<'_> {
    type Stream = Connected;

    fn attempt(&self, candidate: Candidate) -> Local<'_, Result<Connected, Failed>> {
        Box::pin(self.connector.reach(self.request, candidate, self.deadline))
    }
}

/// Attempts at the addresses of an upstream's server.
struct Servers<'a> {
    way: &'a Way,
    fast_open: bool,
    timeout: Duration,
}

impl Attempt for Servers<'_> {
    type Stream = TcpStream;

    fn attempt(&self, candidate: Candidate) -> Local<'_, Result<TcpStream, Failed>> {
        let dial = Dial {
            way: self.way,
            fast_open: self.fast_open,
            timeout: self.timeout,
        };
        Box::pin(dial.connect(candidate.address))
    }
}

/// Counts how a request ended, even if nobody waited for that.
struct Outcome<'a> {
    counters: &'a Counters,
    counter: Counter,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        self.counters.add(self.counter);
    }
}

#[cfg(test)]
mod tests;
