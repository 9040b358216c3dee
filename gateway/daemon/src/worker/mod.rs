//! The worker process: everything that serves.
//!
//! Its start is one line of steps, in an order that matters. What can fail, and what needs privileges, comes first
//! and on the only thread: configuration, state directory, sockets, TUN device, host. Then the sandbox closes, and
//! only then threads are started, which inherit it. Sockets, device and credential cache come from the keeper
//! where a worker was there before.

mod connections;
mod contexts;
mod control;
mod entropy;
mod greeting;
mod held;
mod kept;
mod ledger;
mod lifecycle;
mod measure;
mod memory;
mod network;
mod observer;
mod reach;
mod serve;
mod settings;
mod shards;
mod sockets;
mod state;

pub use self::network::dry_run;

use self::held::Held;
use self::settings::Loaded;
use crate::cli::RunArgs;
use crate::config::Config;
use crate::logs::{self, Level};
use crate::sandbox::{self, SandboxConfig, SandboxStatus};
use sluice_core::Now;
use sluice_keeper::{EXIT_CANNOT_START, EXIT_CONFIGURATION, Link, StartReason};
use sluice_spi::Shards;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Why the worker does not start: one line that says what to do, and its exit code.
#[derive(Debug)]
struct CannotStart {
    code: u8,
    text: String,
}

impl CannotStart {
    /// Something about this machine is in the way.
    fn because(text: impl fmt::Display) -> Self {
        Self {
            code: EXIT_CANNOT_START,
            text: text.to_string(),
        }
    }

    /// The configuration is wrong.
    fn configuration(text: impl fmt::Display) -> Self {
        Self {
            code: EXIT_CONFIGURATION,
            text: text.to_string(),
        }
    }
}

/// All that is ready before the first thread is started.
struct Prepared {
    link: Arc<Link>,
    config: Arc<Config>,
    path: Option<PathBuf>,
    /// Where the configuration in effect is kept for the next worker.
    kept: Option<kept::KeptText>,
    level: Level,
    begun: Instant,
    restarts: u32,
    reason: StartReason,
    shards: Shards,
    state: state::State,
    admin: sockets::AdminPlane,
    network: network::Network,
    listening: Vec<sockets::Listening>,
    before: connections::Before,
    sandbox: SandboxStatus,
}

/// Runs the worker, which only a keeper starts.
pub fn main(args: &RunArgs) -> ExitCode {
    match prepare(args).and_then(serve::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            if tracing::dispatcher::has_been_set() {
                tracing::error!("cannot start: {}", stop.text);
            } else {
                eprintln!("{}", stop.text);
            }
            ExitCode::from(stop.code)
        }
    }
}

fn prepare(args: &RunArgs) -> Result<Prepared, CannotStart> {
    let begun = Instant::now();
    memory::return_large_blocks();
    let link = Link::connect().map_err(CannotStart::because)?;
    let adopted = link.adopt().map_err(CannotStart::because)?;
    let Loaded {
        config,
        kept,
        complaint,
    } = settings::load(args.config.as_deref(), &link, &adopted.reason)?;
    let level = logs::start(&config.log).map_err(CannotStart::because)?;
    logs::catch_panics();
    if let StartReason::Crashed(how) = &adopted.reason {
        tracing::warn!(
            restarts = adopted.restarts,
            "the worker before this one ended: {how}"
        );
    }
    if let Some(complaint) = complaint {
        tracing::error!("{complaint}");
    }
    let mut held = Held::new(adopted.descriptors);
    let first = adopted.reason == StartReason::First;
    let state = state::open(&config, &link, first)?;
    let admin = sockets::admin(&config, &link, &mut held, first)?;
    let shards = shards_of(&config);
    let listening = sockets::listen(&config, shards, &link, &mut held, first)?;
    let network = network::open(&config, shards, &link, &mut held);
    let before = connections::Before::take(&link, &mut held);
    held.release(&link);
    let sandbox = sandbox::apply(&SandboxConfig::new(&config)).map_err(CannotStart::because)?;
    Ok(Prepared {
        link: Arc::new(link),
        config: Arc::new(config),
        path: args.config.clone(),
        kept,
        level,
        begun,
        restarts: adopted.restarts,
        reason: adopted.reason,
        shards,
        state,
        admin,
        network,
        listening,
        before,
        sandbox,
    })
}

/// As many shards as configured, or one for each core.
fn shards_of(config: &Config) -> Shards {
    let cores = || {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cores).unwrap_or(Shards::VIRTUAL)
    };
    Shards::new(config.gateway.shards.unwrap_or_else(cores))
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}
