//! A shard's thread: it waits for its sockets, its TUN queue, its timers and its inbox, and gives what comes to
//! the data plane and the driver.
//!
//! `mod.rs` starts the thread, `turn.rs` is its loop, `ready.rs` waits for descriptors, `upkeep.rs` does what is
//! done from time to time, `lag.rs` measures how late the loop comes round.

mod lag;
mod ready;
mod turn;
mod upkeep;

use self::ready::Watched;
use self::turn::Runner;
use super::plane::listener_id;
use super::remote::Inbox;
use super::report::{Counted, Report};
use super::{Desk, Driver, Listener, Parts};
use crate::admin::Traces;
use sluice_auth_backends::Authenticator;
use sluice_core::{Engine, Now, Origin, RestoredTunnel};
use sluice_dataplane::{MeshPort, Routes, TunQueue, UdpSocket, UserPath};
use sluice_metrics::Metrics;
use sluice_spi::{Entropy, Factory, Front, Module, ShardId};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

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
    /// Its half-open peers of this shard.
    pub front: Box<dyn Front>,
    /// This shard's socket of each of its addresses.
    pub sockets: Vec<UdpSocket>,
}

/// What a shard is made of.
pub struct Setup {
    /// Which shard it is.
    pub shard: ShardId,
    /// The sessions of all shards.
    pub engine: Arc<Engine>,
    /// Who checks credentials.
    pub authenticator: Arc<Authenticator>,
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
    /// Most paths.
    pub path_capacity: usize,
    /// Tunnels to go on with, by listener.
    pub restored: Vec<(usize, RestoredTunnel)>,
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
    let shard = setup.shard.0;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    // What is waited for is registered with the runtime that it is made in.
    let entered = runtime.enter();
    let (mut runner, restored) = assemble(setup, inbox)?;
    drop(entered);
    std::thread::Builder::new()
        .name(format!("shard-{shard}"))
        .spawn(move || {
            let work = AssertUnwindSafe(|| runtime.block_on(runner.run(&restored)));
            if catch_unwind(work).is_err() {
                tracing::error!(
                    shard,
                    "the loop of a shard panicked: the process ends now and is to be started anew; please report \
                     this with the lines above"
                );
                std::process::abort();
            }
        })
}

fn assemble(setup: Setup, inbox: Inbox) -> io::Result<(Runner, Vec<(usize, RestoredTunnel)>)> {
    let now = clock();
    let mut plane = UserPath::new(setup.mesh, setup.routes, setup.path_capacity);
    let mut listeners = Vec::new();
    let mut sockets = Vec::new();
    for (index, listener) in setup.listeners.into_iter().enumerate() {
        for socket in listener.sockets {
            let watched = Watched::new(socket.as_fd())?;
            let id = plane.add_socket(listener_id(index), listener.module, socket);
            sockets.push((id, watched));
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
    let (desk, answers) = Desk::new(setup.authenticator);
    let parts = Parts {
        shard: setup.shard,
        engine: setup.engine.clone(),
        plane,
        authority: Box::new(desk),
        counters: Box::new(Counted(setup.metrics.clone())),
        entropy: setup.entropy,
        traces: setup.traces,
        listeners,
    };
    let upkeep = upkeep::Upkeep::new(
        setup.shard,
        setup.engine,
        setup.metrics.clone(),
        Report::new(setup.metrics),
        now.instant,
    );
    let runner = Runner::new(Driver::new(parts, now), sockets, tun, inbox, answers, upkeep);
    Ok((runner, setup.restored))
}
