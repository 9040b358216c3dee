//! Serving: from the first thread to the last.

use super::connections::Before;
use super::control::{Address, Host, RestartWanted, Running, add_routes};
use super::entropy;
use super::kept::KeptText;
use super::ledger::{self, Everything};
use super::measure::{self, Answers, Sources};
use super::observer::{DRAINING, Fanout};
use super::shards::{self, Shared};
use super::{CannotStart, Prepared, contexts, greeting, reach};
use crate::admin::{Configs, Events, Parts, Plane, ServiceStatus, Traces, static_addresses};
use crate::config::Config;
use crate::limits::Ledger;
use crate::sandbox::{LayerState, SandboxStatus};
use crate::shard::{Remote, Restored};
use arc_swap::ArcSwap;
use sluice_auth::tls::TlsAcceptor;
use sluice_auth_backends::{
    Authenticator, AuthenticatorConfig, Certificates, CredentialCache, HashPool, KeyRing, LocalUsers,
    Verifiers,
};
use sluice_core::{Engine, Journal, Living};
use sluice_dataplane::Routes;
use sluice_keeper::{Link, LinkError, Order, StartReason};
use sluice_metrics::Metrics;
use sluice_registry::MODULES;
use sluice_store::Store;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Threads of the admin plane: one may wait for a slow client's request while another serves the operator.
const ADMIN_THREADS: usize = 2;

/// Static addresses and prefixes outside all pools that have a place in the routes.
const OUTSIDE_POOLS: usize = 1 << 16;

/// The name of the time of the first start with the keeper.
const STARTED: &str = "started";

/// The parts that serve.
pub(super) struct Gateway {
    pub(super) link: Arc<Link>,
    pub(super) config: Arc<Config>,
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<Store>,
    pub(super) users: Arc<LocalUsers>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) plane: Arc<Plane>,
    pub(super) shards: Vec<Remote>,
    /// Whether the host's network was changed.
    pub(super) device: bool,
    /// What sessions share.
    pub(super) ledger: Arc<Ledger>,
    /// Held for the store, which asks it for everything after a failure.
    pub(super) _living: Arc<dyn Living>,
}

/// Serves until the keeper or a fault ends it.
pub(super) fn serve(mut prepared: Prepared) -> Result<(), CannotStart> {
    let greeting = (prepared.reason == StartReason::First).then(|| greeting::text(&prepared));
    let admin = std::mem::take(&mut prepared.admin.listeners);
    let (link, begun, reason) = (prepared.link.clone(), prepared.begun, prepared.reason.clone());
    let (wish, wishes) = mpsc::channel(1);
    let (gateway, mut before) = start(prepared, wish)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ADMIN_THREADS)
        .thread_name("admin")
        .enable_all()
        .build()
        .map_err(|error| CannotStart::because(format!("the threads of the admin plane: {error}")))?;
    let orders = orders(link.clone())?;
    runtime.block_on(async {
        for shard in &gateway.shards {
            if shard.ready().await.is_err() {
                return Err(CannotStart::because("a shard does not come up"));
            }
        }
        before.release(&link);
        take_up(&gateway, before.lost).await;
        gateway
            .metrics
            .restore_duration
            .set(begun.elapsed().as_secs_f64());
        gateway.metrics.config_read(true, SystemTime::now());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            reason = start_reason(&reason),
            "serving"
        );
        if let Some(greeting) = greeting {
            print(&greeting);
        }
        link.ready().map_err(CannotStart::because)?;
        gateway.run(admin, orders, wishes).await;
        Ok(())
    })
}

/// Has the connections of the worker before go on; `lost` are the others.
async fn take_up(gateway: &Gateway, mut lost: usize) {
    let mut went_on = 0;
    for (number, shard) in gateway.shards.iter().enumerate() {
        match shard.go_on().await {
            Ok(taken) => {
                went_on += taken.went_on;
                lost += taken.lost;
            }
            Err(silent) => tracing::error!(
                shard = number,
                "its connections from before do not go on: {silent}"
            ),
        }
    }
    if went_on + lost > 0 {
        gateway.engine.connections_recovered(went_on, lost);
    }
}

fn start_reason(reason: &StartReason) -> &'static str {
    match reason {
        StartReason::First => "started",
        StartReason::Requested => "restarted as asked",
        StartReason::Crashed(_) => "restarted after a fault",
    }
}

/// Standard output may be closed; that is no reason not to serve.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A thread that waits for the keeper's orders.
fn orders(link: Arc<Link>) -> Result<mpsc::Receiver<Order>, CannotStart> {
    let (sender, orders) = mpsc::channel(16);
    let wait = move || {
        loop {
            let order = match link.recv() {
                Ok(order) => order,
                Err(LinkError::BadMessage(what)) => {
                    tracing::warn!("the keeper sent a bad message: {what}");
                    continue;
                }
                Err(error) => {
                    tracing::error!("the keeper cannot be heard: {error}");
                    Order::KeeperGone
                }
            };
            let last = order == Order::KeeperGone;
            if sender.blocking_send(order).is_err() || last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("orders".to_owned()).spawn(wait);
    thread.map_err(|error| CannotStart::because(format!("no thread for the keeper's orders: {error}")))?;
    Ok(orders)
}

/// Opens the store. What is wrong with it is kept aside, and told with its alarms.
fn open_store(config: &Config) -> Result<Arc<Store>, CannotStart> {
    let store = Store::open(&config.gateway.state_dir).map_err(CannotStart::because)?;
    Ok(Arc::new(store))
}

fn open_users(
    prepared_users: sluice_auth_backends::UsersFile,
    config: &Config,
    link: &Link,
) -> Result<LocalUsers, CannotStart> {
    let pool = HashPool::start(config.users.hashing)
        .map_err(|error| CannotStart::because(format!("the threads that hash passwords: {error}")))?;
    let cache = config.users.cache;
    let memory = link
        .memory("credentials", cache.file_length())
        .map_err(CannotStart::because)?;
    let (cache, _) = CredentialCache::open(memory, cache)
        .map_err(|error| CannotStart::because(format!("the credential cache: {error}")))?;
    let keys = KeyRing::open(&config.users.key_file).map_err(CannotStart::because)?;
    let verifiers = Verifiers::new(keys, config.users.verifiers);
    Ok(LocalUsers::new(prepared_users, pool, cache).with_verifiers(verifiers))
}

/// When the keeper was started: the first worker noted it.
fn started(link: &Link, first: bool) -> SystemTime {
    let now = SystemTime::now();
    let Ok(memory) = link.memory(STARTED, 8) else {
        return now;
    };
    let mut bytes = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .to_le_bytes();
    let done = match first {
        true => memory.write_all_at(&bytes, 0),
        false => memory.read_exact_at(&mut bytes, 0),
    };
    match done {
        Ok(()) => UNIX_EPOCH
            .checked_add(Duration::from_secs(u64::from_le_bytes(bytes)))
            .unwrap_or(now),
        Err(_) => now,
    }
}

fn layers(status: &SandboxStatus) -> Vec<ServiceStatus> {
    let layers = [
        ("no_new_privs", &status.no_new_privs),
        ("capabilities", &status.capabilities),
        ("landlock", &status.landlock),
        ("seccomp", &status.seccomp),
    ];
    let layers = layers.map(|(name, layer)| {
        if layer.state == LayerState::Unavailable {
            tracing::warn!("the sandbox is without {name}: {}", layer.detail);
        }
        ServiceStatus {
            name,
            on: layer.state == LayerState::Active,
            detail: layer.detail.clone(),
        }
    });
    layers.into()
}

/// Starts everything but the admin plane's listeners.
fn start(prepared: Prepared, wish: mpsc::Sender<RestartWanted>) -> Result<(Gateway, Before), CannotStart> {
    let (config, link, shards) = (prepared.config.clone(), prepared.link.clone(), prepared.shards);
    let first = prepared.reason == StartReason::First;
    let metrics = Arc::new(Metrics::new(&measure::labels()).map_err(CannotStart::because)?);
    metrics.worker_restarts.observe(u64::from(prepared.restarts));
    let store = open_store(&config)?;
    let users = Arc::new(open_users(prepared.state.users, &config, &link)?);
    let run = entropy::number();
    let events = Arc::new(Events::new(run));
    let kept = KeptText::open(&link, "draining", 16)?;
    let draining = !first && kept.recall().as_deref() == Some(DRAINING);
    let fanout = Arc::new(Fanout::new(
        events.clone(),
        metrics.clone(),
        config.log.network_lines,
        kept,
    ));
    let journal: Arc<dyn Journal> = store.clone();
    let engine = Engine::new(
        config.engine.clone(),
        journal,
        fanout.clone(),
        Box::new(entropy::Kernel),
    );
    let engine = Arc::new(engine);
    if draining {
        engine.set_draining(true);
    }
    engine.set_static_addresses(&static_addresses(&users.table()));
    let ends = shards::ends(shards);
    let remotes = ends.remotes.clone();
    fanout.set_shards(remotes.clone());
    let records = store.load().map_err(CannotStart::because)?;
    let listening = prepared.listening.iter().map(|one| one.address);
    let policy = Arc::new(ArcSwap::from_pointee(reach::policy(&config, listening)));
    let (ledger, records) = ledger::recall(&policy.load(), &config, records);
    let tunnels = shards::recall(&engine, records, &config, shards);
    let living: Arc<dyn Living> = Arc::new(Everything {
        engine: engine.clone(),
        ledger: ledger.clone(),
    });
    store.set_living(Arc::downgrade(&living));
    let mut before = prepared.before;
    let connections = before.recall(&engine, &config, shards);
    let joined = tunnels
        .into_iter()
        .map(|tunnels| before.join(tunnels, &engine, &config));
    let joined: Vec<_> = joined.collect();
    let restored = joined
        .into_iter()
        .zip(connections)
        .map(|(tunnels, connections)| Restored { tunnels, connections });
    let routes = Arc::new(Routes::new(OUTSIDE_POOLS));
    add_routes(&routes, &config);
    let reach = Arc::new(ArcSwap::from_pointee(reach::start(&config)?));
    let shared = Shared {
        reach: reach.clone(),
        policy: policy.clone(),
        ledger: ledger.clone(),
        engine: engine.clone(),
        authenticator: Arc::new(authenticator(&config, &users, &metrics)?),
        acceptance: contexts::acceptance(&config)?,
        metrics: metrics.clone(),
        traces: Arc::new(Traces::default()),
        routes: routes.clone(),
    };
    let addresses = prepared.listening.iter().map(|one| Address {
        listener: one.listener,
        address: one.address,
        off: one.sockets.as_ref().err().cloned(),
    });
    let device = prepared.network.device.on;
    let running = Running {
        engine: engine.clone(),
        store: store.clone(),
        routes,
        policy,
        reach: reach.clone(),
        ledger: ledger.clone(),
        shards: remotes.clone(),
        config: config.clone(),
        path: prepared.path.clone(),
        level: prepared.level,
        addresses: addresses.collect(),
        device: prepared.network.device,
        host: Mutex::new(Host {
            service: prepared.network.host,
            changes: prepared.network.changes,
            pools: config.engine.pools.clone(),
        }),
        sandbox: layers(&prepared.sandbox),
        started: started(&link, first),
        worker_started: SystemTime::now(),
        restarts: prepared.restarts,
        missing: prepared.admin.missing,
        restart: wish,
    };
    let configs = Configs::new(prepared.path, MODULES, config.clone());
    let configs = Arc::new(match prepared.kept {
        Some(kept) => configs.keeping(move |text| {
            if let Err(error) = kept.keep(text) {
                tracing::warn!("the configuration cannot be kept for the next worker: {error}");
            }
        }),
        None => configs,
    });
    let sources = Sources {
        configs: configs.clone(),
        metrics: metrics.clone(),
        engine: engine.clone(),
        store: store.clone(),
        reach,
        users: users.clone(),
        shards: remotes.clone(),
        protocols: config
            .listeners
            .iter()
            .map(|one| one.module.descriptor().name)
            .collect(),
        masquerade: device && config.network.masquerade,
    };
    let parts = Parts {
        engine: engine.clone(),
        control: Arc::new(running),
        users: users.clone(),
        events,
        traces: shared.traces.clone(),
        metrics: Arc::new(move || sources.text()),
        configs,
        tokens: prepared.state.tokens,
        audit: prepared.state.audit,
        certificate: prepared.admin.certificate,
    };
    let plane = Plane::new(parts, run);
    let (listening, queues) = (prepared.listening, prepared.network.queues);
    shards::start(&config, shards, ends, &shared, listening, queues, restored)?;
    let gateway = Gateway {
        link,
        config,
        engine,
        store,
        users,
        metrics,
        plane,
        shards: remotes,
        device,
        ledger,
        _living: living,
    };
    Ok((gateway, before))
}

fn authenticator(
    config: &Config,
    users: &Arc<LocalUsers>,
    metrics: &Arc<Metrics>,
) -> Result<Authenticator, CannotStart> {
    let mut tls: Option<Arc<dyn TlsAcceptor>> = None;
    if let Some(files) = &config.users.certificates {
        let loaded = Certificates::load(&files.certificate, &files.key, &files.client_ca);
        tls = Some(Arc::new(loaded.map_err(CannotStart::because)?));
    }
    let settings = AuthenticatorConfig {
        realms: config.users.realms.clone(),
        throttle: config.users.throttle.clone(),
        ..AuthenticatorConfig::default()
    };
    let authenticator = Authenticator::new(vec![users.clone()], settings, Arc::new(Answers(metrics.clone())));
    Ok(authenticator.with_tls(tls))
}
