//! One connection: moving its bytes and doing what its machine asks for.

mod asking;
mod handover;

use self::asking::log_failure;
use super::super::standing::Standing;
use super::super::{Ask, Connection};
use super::datagrams;
use super::limits::{Granted, Joined};
use super::out::Out;
use super::tally::Tally;
use super::way::{Question, way};
use super::{Source, Streams};
use crate::limits::Refused;
use bytes::{Buf, Bytes, BytesMut};
use sluice_auth::policy::Command;
use sluice_auth::{Host, Profile};
use sluice_dataplane::relay::{Cause, Handle, Options, Outcome, Relay, RelayError, Side, Stats};
use sluice_egress::{BindSpec, Endpoints, Request};
use sluice_spi::{
    ChannelFailure, ChannelRef, Close, Input, JoinEnd, LocalRef, PathStats, PeerAddr, RelaySpec, StreamCodec,
    StreamEnd, Target,
};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Silence after which joined streams are parted, where neither a rule nor the user's profile says how long: longer
/// than the two hours after which hosts send keepalives (RFC 1122, 4.2.3.6), so that those who do are never cut.
pub(super) const IDLE: Duration = Duration::from_secs(2 * 3600 + 600);

/// Silence after one side has ended its direction: what is still on its way takes no longer.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(120);

/// Longest wait for whoever a listening channel expects, where the machine does not end it before.
const NOBODY_CAME: Duration = Duration::from_secs(300);

/// Longest time that the last bytes may take to leave, before a connection is closed over them.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Octets that may wait for a client before nothing more is read from it.
const UNSENT: usize = 64 << 10;

/// A channel that was asked for, once it is known what became of it.
enum Opened {
    /// It is connected to this address, and is given this.
    Stream(TcpStream, SocketAddr, Box<Granted>),
    /// It waits for its connection at an address.
    Listening(Box<sluice_egress::Waiting>, Box<Question>),
    /// It is not there, and where a limit refused it, which.
    Failed(ChannelFailure, Option<Refused>),
}

type Opening = Pin<Box<dyn Future<Output = Opened>>>;

/// Silence after which a relay of datagrams ends, where its connection does not end before: as long as joined
/// streams may be silent.
pub(super) const IDLE_DATAGRAMS: Duration = IDLE;

/// The other channel of a connection.
struct Other {
    channel: ChannelRef,
    opening: Option<Opening>,
    /// What `opening` waits with for whoever a listening channel expects.
    waiting: Option<Rc<sluice_egress::Waiting>>,
    stream: Option<(TcpStream, Box<Granted>)>,
    /// Ends with this.
    datagrams: Option<datagrams::Relaying>,
}

impl Other {
    fn new(channel: ChannelRef) -> Self {
        Self {
            channel,
            opening: None,
            waiting: None,
            stream: None,
            datagrams: None,
        }
    }

    /// Waits for whoever a listening channel expects.
    fn wait(&mut self, waiting: sluice_egress::Waiting, question: Question) {
        let waiting = Rc::new(waiting);
        self.opening = Some(Box::pin(come(waiting.clone(), question)));
        self.waiting = Some(waiting);
    }
}

/// A relay that runs. Boxed, so that connections that are not joined have no room for one.
struct Running {
    handle: Handle,
    future: Pin<Box<dyn Future<Output = Outcome>>>,
}

impl Running {
    fn new(relay: Relay) -> Self {
        Self {
            handle: relay.handle(),
            future: Box::pin(relay.run()),
        }
    }

    /// The bytes of both directions until now.
    fn carried(&self) -> u64 {
        let stats = carried(self.handle.stats());
        stats.rx_bytes.saturating_add(stats.tx_bytes)
    }
}

/// One connection.
pub(super) struct Task {
    streams: Rc<Streams>,
    source: Source,
    connection: Connection,
    client: Option<TcpStream>,
    peer: PeerAddr,
    /// What the client is to be sent.
    unsent: BytesMut,
    /// Nothing more comes from the client.
    client_ended: bool,
    /// The client is to be closed once everything is sent.
    closing: bool,
    other: Option<Other>,
}

/// What a task waits for.
enum Woken {
    Asked(Option<Ask>),
    Readable,
    Writable,
    Opened(Opened),
}

impl Task {
    pub(super) fn new(
        streams: Rc<Streams>,
        source: Source,
        connection: Connection,
        client: TcpStream,
        peer: PeerAddr,
    ) -> Self {
        Self {
            streams,
            source,
            connection,
            client: Some(client),
            peer,
            unsent: BytesMut::new(),
            client_ended: false,
            closing: false,
            other: None,
        }
    }

    /// Lives as long as the connection's machine, and a moment longer for the last bytes.
    pub(super) async fn run(mut self) {
        loop {
            match self.wait().await {
                Woken::Asked(None) => break,
                Woken::Asked(Some(ask)) => self.obey(ask).await,
                Woken::Readable => self.read(),
                Woken::Writable => self.write(),
                Woken::Opened(opened) => self.opened(opened),
            }
        }
        Box::pin(self.finish()).await;
    }

    fn tell(&self, input: Input<'_>) {
        self.streams
            .ground
            .with(|driver, now| driver.tell(&self.connection, input, now));
    }

    async fn wait(&mut self) -> Woken {
        if let Some(ask) = self.connection.outbox.pop() {
            return Woken::Asked(Some(ask));
        }
        // A client that does not take its answers is not read: they would pile up.
        let wants = !self.client_ended
            && self.client.is_some()
            && self.unsent.len() < UNSENT
            && self
                .streams
                .ground
                .look(|driver| driver.wants_bytes(&self.connection, ChannelRef::FIRST));
        let unsent = !self.unsent.is_empty();
        let (client, outbox) = (self.client.as_ref(), &self.connection.outbox);
        let mut opening = self.other.as_mut().and_then(|other| other.opening.as_mut());
        poll_fn(|cx| {
            if let Poll::Ready(ask) = outbox.poll(cx) {
                return Poll::Ready(Woken::Asked(ask));
            }
            if let Some(opening) = &mut opening
                && let Poll::Ready(opened) = opening.as_mut().poll(cx)
            {
                return Poll::Ready(Woken::Opened(opened));
            }
            // An error of the descriptor is found by the read or write that follows.
            if let Some(client) = client.filter(|_| unsent)
                && client.poll_write_ready(cx).is_ready()
            {
                return Poll::Ready(Woken::Writable);
            }
            if let Some(client) = client.filter(|_| wants)
                && client.poll_read_ready(cx).is_ready()
            {
                return Poll::Ready(Woken::Readable);
            }
            Poll::Pending
        })
        .await
    }

    fn read(&mut self) {
        let Some(client) = &self.client else { return };
        let mut buffer = self.streams.buffer.borrow_mut();
        let end = match client.try_read(&mut buffer) {
            Ok(0) => StreamEnd::Finished,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                return self.tell(Input::Stream {
                    channel: ChannelRef::FIRST,
                    bytes,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => StreamEnd::Reset,
        };
        drop(buffer);
        self.client_ended = true;
        self.tell(Input::StreamEnded {
            channel: ChannelRef::FIRST,
            end,
        });
    }

    /// Sends to the client; what it does not take now is kept.
    fn send(&mut self, bytes: &[u8]) {
        let sent = match &self.client {
            Some(client) if self.unsent.is_empty() => client.try_write(bytes).unwrap_or(0),
            _ => 0,
        };
        self.unsent
            .extend_from_slice(bytes.get(sent..).unwrap_or_default());
        // An error comes again.
        self.write();
    }

    fn write(&mut self) {
        while let Some(client) = &self.client
            && !self.unsent.is_empty()
        {
            match client.try_write(&self.unsent) {
                Ok(length) => self.unsent.advance(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.unsent.clear();
                    self.lost();
                }
            }
        }
        if self.closing {
            self.close_client(Close::Finish);
        }
    }

    /// The client is not there any more.
    fn lost(&mut self) {
        if !std::mem::replace(&mut self.client_ended, true) {
            self.tell(Input::StreamEnded {
                channel: ChannelRef::FIRST,
                end: StreamEnd::Reset,
            });
        }
    }

    async fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Send(ChannelRef::FIRST, bytes) => self.send(&bytes),
            // Machines speak to their clients alone; what is for the target passes them by.
            Ask::Send(..) => {}
            Ask::Open {
                channel,
                profile,
                target,
                ..
            } => self.begin(channel, self.connect(profile, target)),
            Ask::Listen {
                channel,
                profile,
                from,
                ..
            } => self.begin(channel, self.listen(profile, from)),
            Ask::Relay {
                local,
                channel,
                profile,
                relay,
                ..
            } => self.relay_datagrams(local, channel, profile, *relay),
            Ask::Close(ChannelRef::FIRST, close) => self.close_client(close),
            Ask::Close(channel, close) => {
                if let Some(other) = self.other.take_if(|other| other.channel == channel)
                    && let (Some((stream, _)), Close::Reset) = (&other.stream, close)
                {
                    reset(stream);
                }
            }
            // Boxed: what few connections do, and for a moment, takes no room in all of them.
            Ask::HandOver => {
                if !self.hand_over_tunnel() {
                    Box::pin(self.hand_over()).await;
                }
            }
            Ask::Join {
                local,
                second,
                early,
                codec,
                ..
            } => {
                if let Some((relay, standing)) = self.join(local, second, early, codec) {
                    self.run_relay(local, relay, standing).await;
                }
            }
        }
    }

    fn begin(&mut self, channel: ChannelRef, opening: Opening) {
        self.other = Some(Other {
            opening: Some(opening),
            ..Other::new(channel)
        });
    }

    fn relay_datagrams(
        &mut self,
        session: LocalRef,
        channel: ChannelRef,
        profile: Option<Rc<Profile>>,
        spec: RelaySpec,
    ) {
        let asker = self.asker(profile.as_deref());
        let question = self.question(profile, Command::Udp);
        let local = self.peer.local.ip().to_canonical();
        match datagrams::open(&self.streams, spec, local, &question, asker) {
            Ok((relay, standing, local)) => {
                let running = datagrams::start(
                    &self.streams,
                    &self.source,
                    &self.connection,
                    session,
                    relay,
                    standing,
                );
                self.other = Some(Other {
                    datagrams: Some(running),
                    ..Other::new(channel)
                });
                self.tell(Input::ChannelListening { channel, local });
            }
            Err(failure) => {
                if let Some(limit) = question.refused() {
                    self.refused(limit);
                }
                self.tell(Input::ChannelFailed { channel, failure });
            }
        }
    }

    fn connect(&self, profile: Option<Rc<Profile>>, target: Target) -> Opening {
        let asker = self.asker(profile.as_deref());
        let question = self.question(profile, Command::Connect);
        let (out, peer) = (self.streams.out(), self.peer);
        let origin = self.source.origin.clone();
        Box::pin(async move {
            let request = Request {
                target: &target,
                judge: &question,
                asker,
                client: Some(Endpoints {
                    source: peer.remote,
                    destination: peer.local,
                }),
                timeouts: out.reach.config.timeouts,
            };
            match out.connector.connect(request).await {
                Ok(connected) => {
                    // Asked for only where it is not known: of an upstream.
                    let remote = match (&connected.way.upstream, connected.address) {
                        (None, Some(address)) => Ok(address),
                        _ => connected.stream.peer_addr(),
                    };
                    // Else it was reset before anybody looked.
                    let Ok(remote) = remote else {
                        return Opened::Failed(ChannelFailure::Refused, None);
                    };
                    let effects = match connected.address {
                        Some(address) => question.effects(address),
                        None => question.effects_of_name(target.port),
                    };
                    let granted = question.grant(&effects, connected.address, target.port);
                    Opened::Stream(connected.stream, remote, granted)
                }
                Err(failed) => {
                    log_failure(&origin.listener, peer, &target, &failed, &question);
                    let limit = question.refused();
                    Opened::Failed(
                        failed.failure,
                        limit.filter(|_| failed.failure == ChannelFailure::Denied),
                    )
                }
            }
        })
    }

    fn listen(&self, profile: Option<Rc<Profile>>, from: Target) -> Opening {
        let asker = self.asker(profile.as_deref());
        let question = self.question(profile, Command::Bind);
        let (out, local) = (self.streams.out(), self.peer.local.ip().to_canonical());
        Box::pin(async move {
            if question.is_hopeless() {
                return Opened::Failed(ChannelFailure::Denied, None);
            }
            let effects = question.effects_of_unknown();
            if question.admit(&effects).is_err() {
                return Opened::Failed(ChannelFailure::Denied, question.refused());
            }
            let peers = match expected(&out, &from, asker).await {
                Ok(peers) => peers,
                Err(failure) => return Opened::Failed(failure, None),
            };
            let spec = BindSpec {
                listen: local,
                ports: out
                    .reach
                    .config
                    .bind_ports
                    .as_ref()
                    .map_or(0..=0, |ports| ports.0.clone()),
                external: out.external(local),
                peers,
                way: &way(&effects),
                random: asker,
            };
            match out.connector.bind(spec) {
                Ok(waiting) => Opened::Listening(Box::new(waiting), Box::new(question)),
                Err(failed) => Opened::Failed(failed.failure, None),
            }
        })
    }

    fn opened(&mut self, opened: Opened) {
        let Some(other) = &mut self.other else { return };
        let channel = other.channel;
        (other.opening, other.waiting) = (None, None);
        match opened {
            Opened::Stream(stream, remote, granted) => {
                match stream.local_addr() {
                    Ok(local) => {
                        other.stream = Some((stream, granted));
                        self.tell(Input::ChannelOpened {
                            channel,
                            local,
                            remote,
                        });
                    }
                    // It was reset before anybody looked.
                    Err(_) => self.failed(channel, ChannelFailure::Refused),
                }
            }
            Opened::Listening(waiting, question) => {
                let local = waiting.told();
                other.wait(*waiting, *question);
                self.tell(Input::ChannelListening { channel, local });
            }
            Opened::Failed(failure, limit) => {
                if let Some(limit) = limit {
                    self.refused(limit);
                }
                self.failed(channel, failure);
            }
        }
    }

    fn failed(&mut self, channel: ChannelRef, failure: ChannelFailure) {
        self.other = None;
        self.tell(Input::ChannelFailed { channel, failure });
    }

    fn close_client(&mut self, close: Close) {
        match (close, &self.client) {
            (Close::Reset, Some(client)) => {
                reset(client);
                self.client = None;
                self.unsent.clear();
            }
            (Close::Finish, Some(_)) if !self.unsent.is_empty() => self.closing = true,
            (Close::Finish, Some(client)) => {
                shut_down(client);
                self.closing = false;
                // It is kept for what the client still sends: closed over that, the kernel would send a reset, and
                // the client might never read our last words.
            }
            (_, None) => {}
        }
    }

    /// Puts both streams together. `None`: they could not be, and the machine knows it.
    fn join(
        &mut self,
        session: LocalRef,
        second: ChannelRef,
        early: Bytes,
        codec: Option<Box<dyn StreamCodec>>,
    ) -> Option<(Running, Rc<Standing>)> {
        let other = self.other.take_if(|other| other.channel == second);
        let stream = other.and_then(|other| other.stream);
        let (Some(client), Some((target, granted))) = (self.client.take(), stream) else {
            let end = JoinEnd::FirstReset;
            self.tell(Input::JoinEnded { session, end });
            return None;
        };
        let options = Options {
            timeouts: granted.timeouts,
            early_up: early.into(),
            early_down: std::mem::take(&mut self.unsent).into(),
            up: granted.up,
            down: granted.down,
            codec,
        };
        match Relay::new(client, target, &self.streams.pool, options) {
            Ok(relay) => Some((Running::new(relay), granted.standing)),
            Err(error) => {
                let end = match error {
                    RelayError::Codec(reason) => JoinEnd::Codec(reason),
                    error => {
                        tracing::error!("a connection cannot be relayed: {error}");
                        JoinEnd::Asked
                    }
                };
                self.tell(Input::JoinEnded { session, end });
                None
            }
        }
    }

    /// Relays until it is over, or to be handed over.
    async fn run_relay(&mut self, session: LocalRef, relay: Running, standing: Rc<Standing>) {
        let meter = relay.handle.clone();
        standing.set_relay(Box::new(Joined(meter.clone())));
        let tally = Tally::new(&self.streams, &self.source, carried(meter.stats()));
        let carried = Rc::new(move || tally.carried(carried(meter.stats())));
        self.streams.ground.look(|driver| {
            driver.set_carried(&self.connection, session, carried);
            driver.set_standing(&self.connection, session, standing);
        });
        // Most of a connection's life begins here, and its machine wants little more.
        self.connection.outbox.shrink();
        let end = match self.relay(relay).await {
            Outcome::Ended(ended) => join_end(ended.cause),
            Outcome::Parked(parked) => match self.hand_over_streams(*parked) {
                true => return,
                false => JoinEnd::Asked,
            },
        };
        self.tell(Input::JoinEnded { session, end });
    }

    /// Relays until the streams come apart, the machine closes one of them, or they are to be handed over.
    async fn relay(&self, mut relay: Running) -> Outcome {
        let mut is_over = false;
        poll_fn(|cx| {
            while !is_over && let Poll::Ready(ask) = self.connection.outbox.poll(cx) {
                match ask {
                    None | Some(Ask::Close(..)) => relay.handle.end(),
                    Some(Ask::HandOver) => relay.handle.pause(),
                    Some(_) => {}
                }
                is_over = ask.is_none();
            }
            relay.future.as_mut().poll(cx)
        })
        .await
    }

    /// Takes what a client still sends, until its end.
    async fn drain(&self, client: &TcpStream) {
        loop {
            ready(Some(client), Interest::READABLE, true).await;
            let mut buffer = self.streams.buffer.borrow_mut();
            match client.try_read(&mut buffer) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Sends the last bytes, and takes what the client still sends, so that it can read them.
    async fn finish(mut self) {
        if self.client.is_none() || self.client_ended && self.unsent.is_empty() {
            return;
        }
        let streams = self.streams.clone();
        let handover = &streams.handover;
        let last = async {
            while self.client.is_some() && !self.unsent.is_empty() {
                ready(self.client.as_ref(), Interest::WRITABLE, true).await;
                self.write();
            }
            if let Some(client) = self.client.as_ref().filter(|_| !self.client_ended) {
                shut_down(client);
                self.drain(client).await;
            }
        };
        handover.finishing.update(|count| count + 1);
        let _ = tokio::time::timeout(LAST_BYTES, last).await;
        handover.finishing.update(|count| count - 1);
    }
}

/// Waits until somebody who may comes to a listening channel.
async fn come(waiting: Rc<sluice_egress::Waiting>, question: Question) -> Opened {
    use sluice_egress::Judge;
    match waiting.accept(NOBODY_CAME).await {
        // Nobody can come through an upstream, and who would have to must not come without it.
        Ok((stream, remote)) if question.address(remote).is_ok_and(|way| way.upstream.is_none()) => {
            let granted = question.grant(&question.effects(remote), Some(remote), remote.port());
            Opened::Stream(stream, remote, granted)
        }
        Ok(_) => Opened::Failed(ChannelFailure::Denied, question.refused()),
        Err(failed) => Opened::Failed(failed.failure, None),
    }
}

/// The addresses of whom a listening channel expects; none: anybody.
async fn expected(out: &Out, from: &Target, asker: u64) -> Result<Vec<IpAddr>, ChannelFailure> {
    match &from.host {
        Host::Address(address) if address.is_unspecified() => Ok(Vec::new()),
        Host::Address(address) => Ok(vec![*address]),
        Host::Name(name) => out.addresses(name, asker).await,
    }
}

/// What joined streams have carried, in the engine's terms.
fn carried(stats: Stats) -> PathStats {
    PathStats {
        rx_bytes: stats.up.received,
        tx_bytes: stats.down.delivered,
        ..PathStats::default()
    }
}

fn join_end(cause: Cause) -> JoinEnd {
    match cause {
        Cause::FinBoth => JoinEnd::Finished,
        Cause::ResetByClient | Cause::Error(Side::Client, _) => JoinEnd::FirstReset,
        Cause::ResetByTarget | Cause::Error(Side::Target, _) => JoinEnd::SecondReset,
        Cause::Idle => JoinEnd::Idle,
        Cause::HalfClosed => JoinEnd::HalfClosed,
        Cause::Lifetime => JoinEnd::Lifetime,
        Cause::Codec(reason) => JoinEnd::Codec(reason),
        Cause::Asked => JoinEnd::Asked,
    }
}

/// Waits for readiness; for ever where nothing is wanted.
async fn ready(stream: Option<&TcpStream>, interest: Interest, wanted: bool) {
    match stream.filter(|_| wanted) {
        // An error of the descriptor is found by the read or write that follows.
        Some(stream) => drop(stream.ready(interest).await),
        None => std::future::pending().await,
    }
}

fn shut_down(stream: &TcpStream) {
    // Where it is gone already there is nothing to end.
    let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
}

/// Has the connection end with a reset when it is closed.
fn reset(stream: &TcpStream) {
    // Where it cannot be set the connection is gone already.
    let _ = stream.set_zero_linger();
}
