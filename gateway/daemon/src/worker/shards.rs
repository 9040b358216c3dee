//! Starting the shards, with the tunnels that a worker before left behind.

use super::entropy::Kernel;
use super::sockets::{Bound, Listening};
use super::{CannotStart, now};
use crate::admin::Traces;
use crate::config::Config;
use crate::limits::Ledger;
use crate::shard::{self, Acceptance, Inbox, ListenerSetup, Reach, Remote, Restored, Setup};
use arc_swap::ArcSwap;
use sluice_auth::policy::Policy;
use sluice_auth_backends::Authenticator;
use sluice_core::{Engine, Origin, Record, RestoredTunnel};
use sluice_dataplane::{Routes, TunQueue, UdpSocket, mesh};
use sluice_metrics::Metrics;
use sluice_spi::{ShardId, Shards};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::Arc;

/// What all shards share.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) acceptance: Option<Arc<Acceptance>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Arc<Traces>,
    pub(super) routes: Arc<Routes>,
    pub(super) reach: Arc<ArcSwap<Reach>>,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    pub(super) ledger: Arc<Ledger>,
}

/// The far and the near ends of all shards' inboxes.
pub(super) struct Ends {
    pub(super) remotes: Vec<Remote>,
    inboxes: Vec<Inbox>,
}

/// Makes the ends, which are needed before the shards are.
pub(super) fn ends(shards: Shards) -> Ends {
    let (remotes, inboxes) = (0..shards.count()).map(|_| shard::inbox()).unzip();
    Ends { remotes, inboxes }
}

/// Loads what was recorded and shares it among the shards that own it now. A tunnel of a listener that is
/// configured no more is given up.
pub(super) fn recall(
    engine: &Engine,
    records: Vec<Record>,
    config: &Config,
    shards: Shards,
) -> Vec<Vec<(usize, RestoredTunnel)>> {
    let mut shares: Vec<Vec<(usize, RestoredTunnel)>> = (0..shards.count()).map(|_| Vec::new()).collect();
    // All of a machine's identifiers are its shard's, and the low bits of its key say which that is.
    let shard_of = |key: sluice_spi::MachineKey| shards.of_id(u16::try_from(key.0 & 0xffff).unwrap_or(0));
    let loaded = engine.load(records, &shard_of, now());
    if !loaded.tunnels.is_empty() || loaded.set_aside > 0 {
        tracing::info!(
            tunnels = loaded.tunnels.len(),
            sessions = loaded.sessions,
            set_aside = loaded.set_aside,
            "sessions from before are taken up again"
        );
    }
    for restored in loaded.tunnels {
        let listener = config.listeners.iter().position(|listener| {
            let same_protocol = listener.module.descriptor().name == restored.origin.protocol;
            same_protocol && *listener.name == *restored.origin.listener
        });
        let share = shares.get_mut(usize::from(restored.origin.shard.0));
        match (listener, share) {
            (Some(listener), Some(share)) => share.push((listener, restored)),
            _ => {
                let reason = format!("there is no listener {} any more", restored.origin.listener);
                engine.forget(restored.tunnel, &reason, now());
            }
        }
    }
    shares
}

/// Starts all shards.
pub(super) fn start(
    config: &Config,
    shards: Shards,
    ends: Ends,
    shared: &Shared,
    listening: Vec<Listening>,
    queues: Vec<TunQueue>,
    restored: impl Iterator<Item = Restored>,
) -> Result<(), CannotStart> {
    let ports = mesh(ends.remotes.iter().map(Remote::waker).collect());
    let mut sockets = Sockets::new(listening);
    let mut queues = queues.into_iter();
    let parts = (0..).zip(ports).zip(ends.inboxes).zip(restored);
    for (((number, mesh), inbox), restored) in parts {
        let shard = ShardId(number);
        let setup = Setup {
            shard,
            engine: shared.engine.clone(),
            authenticator: shared.authenticator.clone(),
            acceptance: shared.acceptance.clone(),
            metrics: shared.metrics.clone(),
            traces: shared.traces.clone(),
            entropy: Box::new(Kernel),
            listeners: listeners(config, shard, shards, &mut sockets)?,
            tun: queues.next(),
            mesh,
            routes: shared.routes.clone(),
            reach: shared.reach.clone(),
            policy: shared.policy.clone(),
            ledger: shared.ledger.clone(),
            path_capacity: usize::try_from(config.engine.limits.sessions).unwrap_or(usize::MAX),
            restored,
        };
        let thread = shard::start(setup, inbox);
        let failed =
            |error| CannotStart::because(format!("the thread of a shard cannot be started: {error}"));
        // A shard that ends without being told to ends the process; nobody has to wait for its thread.
        drop(thread.map_err(failed)?);
    }
    Ok(())
}

fn listeners(
    config: &Config,
    shard: ShardId,
    shards: Shards,
    sockets: &mut Sockets,
) -> Result<Vec<ListenerSetup>, CannotStart> {
    let setup = |(index, listener): (usize, &crate::config::Listener)| {
        let protocol = listener.module.descriptor().name;
        let front = listener.factory.front(shard, shards, Box::new(Kernel));
        let (datagrams, streams) = sockets.take(index);
        Ok(ListenerSetup {
            origin: Origin {
                protocol,
                listener: listener.name.as_str().into(),
                shard,
            },
            module: listener.module,
            factory: listener.factory.clone(),
            front,
            sockets: datagrams,
            streams,
            intake: listener.intake.clone(),
        })
    };
    config.listeners.iter().enumerate().map(setup).collect()
}

/// The sockets of all addresses, given out shard by shard in the order in which they were bound.
struct Sockets(Vec<(usize, VecDeque<Bound>)>);

impl Sockets {
    fn new(listening: Vec<Listening>) -> Self {
        let bound = listening.into_iter().filter_map(|one| {
            let packets = (
                one.listener,
                one.packets.into_iter().map(Bound::Datagrams).collect(),
            );
            Some([(one.listener, one.sockets.ok()?.into()), packets])
        });
        Self(bound.flatten().collect())
    }

    /// The next shard's sockets of a listener.
    fn take(&mut self, listener: usize) -> (Vec<UdpSocket>, Vec<TcpListener>) {
        let (mut datagrams, mut streams) = (Vec::new(), Vec::new());
        for (of, sockets) in &mut self.0 {
            match sockets.pop_front_if(|_| *of == listener) {
                Some(Bound::Datagrams(socket)) => datagrams.push(socket),
                Some(Bound::Streams(socket)) => streams.push(socket),
                None => {}
            }
        }
        (datagrams, streams)
    }
}
