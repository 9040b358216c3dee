//! A shard's thread: it waits for its sockets, its TUN queue, its timers and its inbox, and gives what comes to
//! the data plane and the driver.
//!
//! `mod.rs` starts the thread, `turn.rs` is its loop, `ready.rs` waits for descriptors, `upkeep.rs` does what is
//! done from time to time, `lag.rs` measures how late the loop comes round.

mod ground;
mod lag;
mod ready;
mod turn;
mod upkeep;

pub(super) use self::ground::Ground;

use self::ready::Watched;
use self::turn::Runner;
use super::plane::listener_id;
use super::remote::Inbox;
use super::report::{Counted, Report};
use super::streams::{Reach, Source, Streams, accept};
use super::{Acceptance, Desk, Driver, Listener, Parts, RestoredConnection};
use crate::admin::Traces;
use crate::config::Intake;
use crate::limits::Ledger;
use arc_swap::ArcSwap;
use sluice_auth::policy::Policy;
use sluice_auth_backends::Authenticator;
use sluice_core::{Engine, Now, Origin, RestoredTunnel};
use sluice_dataplane::relay::datagrams::DatagramPool;
use sluice_dataplane::relay::{Pool, PoolConfig};
use sluice_dataplane::{MeshPort, Routes, TunQueue, UdpSocket, UserPath};
use sluice_metrics::Metrics;
use sluice_spi::{Entropy, Factory, Front, Module, ShardId};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

#[cfg(test)]
mod tests;

/// One listener's part of a shard.
pub struct ListenerSetup {
    /// Where its sessions come from, for the engine.
    pub origin: Origin,
    /// Its protocol.
    pub module: &'static dyn Module,
    /// Makes its machines.
    pub factory: Arc<dyn Factory>,
    /// Its half-open peers of this shard; `None`: a protocol of streams has none.
    pub front: Option<Box<dyn Front>>,
    /// This shard's socket of each of its addresses, for protocols of datagrams.
    pub sockets: Vec<UdpSocket>,
    /// The same for protocols of streams.
    pub streams: Vec<std::net::TcpListener>,
    /// How connections to these are taken in.
    pub intake: Intake,
}

/// What a shard is made of.
pub struct Setup {
    /// Which shard it is.
    pub shard: ShardId,
    /// The sessions of all shards.
    pub engine: Arc<Engine>,
    /// Who checks credentials.
    pub authenticator: Arc<Authenticator>,
    /// Who accepts security contexts; `None`: no listener has keys for any.
    pub acceptance: Option<Arc<Acceptance>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where what is seen of traced sessions goes.
    pub traces: Arc<Traces>,
    /// Randomness for machines.
    pub entropy: Box<dyn Entropy>,
    /// The listeners, each at the index that is its name everywhere.
    pub listeners: Vec<ListenerSetup>,
    /// This shard's queue of the TUN device; without one, user data is dropped and counted.
    pub tun: Option<TunQueue>,
    /// This shard's end of the mesh.
    pub mesh: MeshPort,
    /// Whose addresses are where, for all shards.
    pub routes: Arc<Routes>,
    /// How connections reach their targets.
    pub reach: Arc<ArcSwap<Reach>>,
    /// Who may go where.
    pub policy: Arc<ArcSwap<Policy>>,
    /// What sessions share.
    pub ledger: Arc<Ledger>,
    /// Most paths.
    pub path_capacity: usize,
    /// What to go on with.
    pub restored: Restored,
}

/// What the worker before left to a shard.
#[derive(Default)]
pub struct Restored {
    /// Tunnels, by listener, with their connections where they have one.
    pub tunnels: Vec<(usize, RestoredTunnel, Option<OwnedFd>)>,
    /// Connections.
    pub connections: Vec<RestoredConnection>,
}

/// The present.
fn clock() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

/// Starts a shard's thread, `shard-N`. It first goes on with the restored tunnels, and then serves until it is told
/// to end or nobody is left to tell it anything.
///
/// A shard whose loop fails takes its tunnels' peers with it for as long as the process lives; so the process is
/// aborted then, for its keeper to start a new one that goes on with all tunnels.
///
/// # Errors
///
/// Where the kernel gives no thread or nothing to wait with.
pub fn start(setup: Setup, inbox: Inbox) -> io::Result<JoinHandle<()>> {
    let (told, wait) = std::sync::mpsc::sync_channel(1);
    let name = format!("shard-{}", setup.shard.0);
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || live(setup, inbox, &told))?;
    match wait.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("its thread ended at once")),
    }
}

/// The whole life of a shard, on its own thread: what it is made of never leaves it.
fn live(setup: Setup, inbox: Inbox, told: &SyncSender<io::Result<()>>) {
    let shard = setup.shard.0;
    let work = AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(told.send(Err(error))),
        };
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, async move {
            match assemble(setup, inbox) {
                // Whoever started it waits for this word.
                Err(error) => drop(told.send(Err(error))),
                Ok((mut runner, restored)) => {
                    let _ = told.send(Ok(()));
                    runner.run(restored).await;
                }
            }
        });
    });
    if catch_unwind(work).is_err() {
        tracing::error!(
            shard,
            "the loop of a shard panicked: the process ends now and is to be started anew; please report this with \
             the lines above"
        );
        std::process::abort();
    }
}

fn assemble(setup: Setup, inbox: Inbox) -> io::Result<(Runner, Restored)> {
    let now = clock();
    let mut plane = UserPath::new(setup.mesh, setup.routes, setup.path_capacity);
    let mut listeners = Vec::new();
    let (mut sockets, mut streams) = (Vec::new(), Vec::new());
    for (index, listener) in setup.listeners.into_iter().enumerate() {
        for socket in listener.sockets {
            let watched = Watched::new(socket.as_fd())?;
            let id = plane.add_socket(listener_id(index), listener.module, socket);
            sockets.push((id, watched));
        }
        let intake = Rc::new(listener.intake);
        for stream in listener.streams {
            stream.set_nonblocking(true)?;
            let source = Source {
                listener: index,
                origin: Rc::new(listener.origin.clone()),
            };
            streams.push((source, TcpListener::from_std(stream)?, intake.clone()));
        }
        listeners.push(Listener {
            origin: listener.origin,
            module: listener.module,
            factory: listener.factory,
            front: listener.front,
        });
    }
    let tun = setup
        .tun
        .as_ref()
        .map(|queue| Watched::new(queue.as_fd()))
        .transpose()?;
    plane.set_tun(setup.tun);
    let mut own_entropy = setup.entropy;
    let entropy = own_entropy.fork();
    let (desk, answers) = Desk::new(setup.authenticator, setup.acceptance);
    let parts = Parts {
        shard: setup.shard,
        engine: setup.engine.clone(),
        plane,
        authority: Box::new(desk),
        counters: Box::new(Counted(setup.metrics.clone())),
        entropy: own_entropy,
        traces: setup.traces,
        policy: setup.policy.clone(),
        ledger: setup.ledger,
        listeners,
    };
    let metrics = setup.metrics.clone();
    let upkeep = upkeep::Upkeep::new(
        setup.shard,
        setup.engine,
        setup.metrics.clone(),
        Report::new(setup.metrics.clone()),
        now.instant,
    );
    let ground = Rc::new(Ground::new(Driver::new(parts, now)));
    let shared = Streams::new(
        ground.clone(),
        setup.reach,
        setup.policy,
        Pool::new(PoolConfig::default()),
        DatagramPool::new(entropy),
        metrics,
    );
    for (source, listener, intake) in streams {
        let task = tokio::task::spawn_local(accept(shared.clone(), source, listener, intake));
        shared.handover.accepts(task.abort_handle());
    }
    let runner = Runner::new(ground, shared, sockets, tun, inbox, answers, upkeep);
    Ok((runner, setup.restored))
}
