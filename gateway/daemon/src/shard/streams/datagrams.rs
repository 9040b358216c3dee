//! Relays of datagrams that connections ask for (SOCKS UDP ASSOCIATE).

use super::super::standing::{Asked, Standing};
use super::limits::Relayed;
use super::tally::Tally;
use super::task::IDLE_DATAGRAMS;
use super::way::Question;
use super::{Source, Streams};
use sluice_auth::Host;
use sluice_auth::policy::Effects;
use sluice_dataplane::relay::datagrams::{
    Cause, DatagramRelay, Decision, Handle, Options, Outcome, Parked, Ports, Reach, Refusal, Resolve,
    Settings, Stats, Verdict, Way,
};
use sluice_egress::{Judge, Named};
use sluice_spi::{ChannelFailure, Input, JoinEnd, LocalRef, PathStats, RelaySpec, Target};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::task::JoinHandle;

/// Who decides where one relay may send to: the policy, asked for each target anew.
struct Targets {
    streams: Rc<Streams>,
    make: Questions,
    asker: u64,
    /// Whether the client sends over IPv4.
    ipv4: bool,
}

impl Resolve for Targets {
    fn decide(&self, target: Target) -> Decision {
        let (question, port) = ((self.make)(), target.port);
        match target.host {
            Host::Address(address) => Decision::Now(judge(&question, SocketAddr::new(address, port))),
            Host::Name(name) => {
                let (out, asker, ipv4) = (self.streams.out(), self.asker, self.ipv4);
                Decision::Later(Box::pin(async move {
                    match question.name(&name, port) {
                        Ok(Named::Resolve) => {}
                        Ok(Named::Forward(_)) => return Err(Refusal::Upstream),
                        Err(_) => return Err(Refusal::Denied),
                    }
                    let found = out.addresses(&name, asker).await;
                    first(&question, found.map_err(|_| Refusal::Failed)?, port, ipv4)
                }))
            }
        }
    }
}

fn judge(question: &Question, address: SocketAddr) -> Verdict {
    let way = question.address(address).map_err(|_| Refusal::Denied)?;
    if way.upstream.is_some() {
        return Err(Refusal::Upstream);
    }
    Ok(Reach {
        to: address,
        way: Way {
            source4: way.source4,
            source6: way.source6,
            interface: way.interface,
            mark: way.mark,
        },
        idle: question.effects(address).idle_timeout,
    })
}

/// The first address of a name that may be sent to. Nobody says whether datagrams arrive, so that no address can be
/// tried before another: those of the family that the client itself uses come first, as that one works for it.
fn first(question: &Question, mut addresses: Vec<IpAddr>, port: u16, ipv4: bool) -> Verdict {
    addresses.sort_by_key(|address| address.is_ipv4() != ipv4);
    let mut judged = addresses
        .into_iter()
        .map(|address| judge(question, SocketAddr::new(address, port)));
    let mut refusal = Refusal::Denied;
    let allowed = judged.find_map(|verdict| match verdict {
        Ok(reach) => Some(reach),
        Err(Refusal::Upstream) => {
            refusal = Refusal::Upstream;
            None
        }
        Err(_) => None,
    });
    allowed.ok_or(refusal)
}

/// What makes questions about the targets of one session.
type Questions = Box<dyn Fn() -> Question>;

/// Opens a relay on the address that the client connected to. Gives the address to tell the client, too.
pub(super) fn open(
    streams: &Rc<Streams>,
    spec: RelaySpec,
    local: IpAddr,
    question: &Question,
    asker: u64,
) -> Result<(DatagramRelay, Rc<Standing>, SocketAddr), ChannelFailure> {
    let effects = question.effects_of_unknown();
    if question.is_hopeless() || question.admit(&effects).is_err() {
        return Err(ChannelFailure::Denied);
    }
    let standing = question.stand(&effects, None, 0);
    standing.has_several(effects.clone());
    let (targets, options) = equipment(streams, local, question, &effects, &standing, asker);
    let opened = DatagramRelay::open(spec, local, &streams.datagrams, targets, options);
    let (relay, bound) = opened.map_err(|error| {
        tracing::warn!("a relay of datagrams cannot be opened: {error}");
        ChannelFailure::Resources
    })?;
    Ok((relay, standing, told(streams, bound)))
}

/// Goes on with a relay of the worker before. Gives the address that the client was told, as it would be told now.
pub(super) fn resume(
    streams: &Rc<Streams>,
    spec: RelaySpec,
    parked: Parked,
    local: IpAddr,
    question: &Question,
    asked: Asked,
    asker: u64,
) -> Result<(DatagramRelay, Rc<Standing>, SocketAddr), ChannelFailure> {
    let (standing, effects) = question.stand_again(asked);
    let (targets, options) = equipment(streams, local, question, &effects, &standing, asker);
    let resumed = DatagramRelay::resume(parked, spec.codec, &streams.datagrams, targets, options);
    let relay = resumed.map_err(|error| {
        tracing::warn!("a relay of datagrams does not go on after a restart: {error}");
        ChannelFailure::Resources
    })?;
    standing.set_charged(volume(&carried(&relay.handle().stats())));
    let bound = relay.local_addr();
    Ok((relay, standing, told(streams, bound)))
}

fn told(streams: &Streams, bound: SocketAddr) -> SocketAddr {
    let external = streams.out().external(bound.ip());
    SocketAddr::new(external.unwrap_or(bound.ip()), bound.port())
}

/// What a relay on this address works with.
fn equipment(
    streams: &Rc<Streams>,
    local: IpAddr,
    question: &Question,
    effects: &Effects,
    standing: &Rc<Standing>,
    asker: u64,
) -> (Rc<dyn Resolve>, Options) {
    let out = streams.out();
    let ports = out.reach.config.udp_ports.as_ref();
    let ports = ports.and_then(|ports| Ports::new(*ports.0.start(), *ports.0.end()));
    let (up, down) = question.limits(effects);
    let options = Options {
        settings: Rc::new(Settings {
            client_ports: ports.unwrap_or(Ports::ANY),
            ..Settings::default()
        }),
        idle: Some(effects.idle_timeout.unwrap_or(IDLE_DATAGRAMS)),
        lifetime: effects.lifetime,
        up,
        down,
    };
    let targets = Targets {
        streams: streams.clone(),
        make: questions(streams, question, standing),
        asker,
        ipv4: local.is_ipv4(),
    };
    (Rc::new(targets), options)
}

/// Starts a relay, and shows the engine what it carries.
pub(super) fn start(
    streams: &Rc<Streams>,
    source: &Source,
    connection: &super::super::Connection,
    session: LocalRef,
    relay: DatagramRelay,
    standing: Rc<Standing>,
) -> Relaying {
    let handle = relay.handle();
    standing.set_relay(Box::new(Relayed(handle.clone())));
    let meter = handle.clone();
    let tally = Tally::new(streams, source, carried(&meter.stats()));
    let carried = Rc::new(move || {
        let stats = meter.stats();
        tally.dropped(&stats.drops);
        tally.carried(carried(&stats))
    });
    streams.ground.with(|driver, _| {
        driver.set_carried(connection, session, carried);
        driver.set_standing(connection, session, standing);
    });
    let task = tokio::task::spawn_local(run(streams.clone(), connection.clone(), session, relay));
    Relaying { handle, task }
}

/// Runs a relay. Of an end of its own its machine is told, so that the session ends with it.
async fn run(
    streams: Rc<Streams>,
    connection: super::super::Connection,
    session: LocalRef,
    relay: DatagramRelay,
) -> Outcome {
    let outcome = relay.run().await;
    if let Outcome::Ended(ended) = &outcome
        && let Some(end) = own_end(ended.cause)
    {
        let input = Input::JoinEnded { session, end };
        streams
            .ground
            .with(|driver, now| driver.tell(&connection, input, now));
    }
    outcome
}

/// How a relay ended by itself; `None`: it was asked to, by who knows.
fn own_end(cause: Cause) -> Option<JoinEnd> {
    match cause {
        Cause::Idle => Some(JoinEnd::Idle),
        Cause::Lifetime => Some(JoinEnd::Lifetime),
        Cause::Asked => None,
    }
}

/// A running relay: it ends with this.
pub(super) struct Relaying {
    handle: Handle,
    task: JoinHandle<Outcome>,
}

impl Relaying {
    /// Stops it for a handover; `None`: it is over.
    pub(super) async fn park(mut self) -> Option<Box<Parked>> {
        self.handle.pause();
        match (&mut self.task).await {
            Ok(Outcome::Parked(parked)) => Some(parked),
            Ok(Outcome::Ended(_)) | Err(_) => None,
        }
    }
}

impl Drop for Relaying {
    fn drop(&mut self) {
        self.handle.end();
    }
}

/// What a relay has carried, in the engine's terms: payload alone.
fn carried(stats: &Stats) -> PathStats {
    PathStats {
        rx_packets: stats.up.delivered.packets,
        rx_bytes: stats.up.delivered.bytes,
        tx_packets: stats.down.received.packets,
        tx_bytes: stats.down.received.bytes,
        ..PathStats::default()
    }
}

/// The bytes of both directions.
fn volume(stats: &PathStats) -> u64 {
    stats.rx_bytes.saturating_add(stats.tx_bytes)
}

/// What makes questions about one session's targets: each is asked of the policy that is there then.
fn questions(streams: &Rc<Streams>, first: &Question, standing: &Rc<Standing>) -> Questions {
    let (streams, standing) = (streams.clone(), Rc::downgrade(standing));
    let (source, client, profile, command) = first.parts();
    Box::new(move || {
        let question = Question::new(streams.rules(), source.clone(), client, profile.clone(), command);
        question.of(standing.upgrade())
    })
}
