//! The running gateway, as the admin plane asks about it.

use super::{network, reach, state};
use crate::admin::{
    Answer, Applied, Certificate, Control, ControlError, HostChange, ListenerStatus, PlaceCall, Reason,
    RuntimeStatus, ServiceStatus, ShardStatus,
};
use crate::config::{Change, Config};
use crate::limits::Ledger;
use crate::logs::Level;
use crate::shard::{Reach, Remote, Silent};
use arc_swap::ArcSwap;
use sluice_auth::policy::Policy;
use sluice_core::{Engine, PoolConfig, SessionId, Tunnel, TunnelId, TunnelQuery};
use sluice_dataplane::Routes;
use sluice_registry::MODULES;
use sluice_spi::{Fact, PeerAddr, ShardId};
use sluice_store::{Alarm, Store};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// How long whoever asks for a restart waits for a store that has failed to recover: less than a request may take.
const RECOVERY: Duration = Duration::from_secs(5);

/// A restart was asked for.
pub(super) struct RestartWanted;

/// One address of one listener, as it was found at the start.
pub(super) struct Address {
    pub(super) listener: usize,
    pub(super) address: SocketAddr,
    pub(super) off: Option<String>,
}

/// What changes with the configuration.
pub(super) struct Host {
    pub(super) service: ServiceStatus,
    pub(super) changes: Vec<HostChange>,
    /// The pools that the host knows of.
    pub(super) pools: Vec<PoolConfig>,
}

/// The running gateway.
pub(super) struct Running {
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<Store>,
    pub(super) routes: Arc<Routes>,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    pub(super) reach: Arc<ArcSwap<Reach>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) shards: Vec<Remote>,
    pub(super) config: Arc<Config>,
    pub(super) path: Option<PathBuf>,
    pub(super) level: Level,
    pub(super) addresses: Vec<Address>,
    pub(super) device: ServiceStatus,
    pub(super) host: Mutex<Host>,
    pub(super) sandbox: Vec<ServiceStatus>,
    pub(super) started: SystemTime,
    pub(super) worker_started: SystemTime,
    pub(super) restarts: u32,
    /// What of the admin plane is missing, and why.
    pub(super) missing: Vec<String>,
    pub(super) restart: mpsc::Sender<RestartWanted>,
}

impl From<Silent> for ControlError {
    fn from(_: Silent) -> Self {
        Self::Unavailable("the part of the gateway that has it does not answer: try again".to_owned())
    }
}

impl Running {
    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, shard: ShardId) -> Option<&Remote> {
        self.shards.get(usize::from(shard.0))
    }

    fn listener(&self, name: &str) -> Option<usize> {
        self.config
            .listeners
            .iter()
            .position(|listener| listener.name == name)
    }

    fn store_status(&self) -> ServiceStatus {
        let alarms = self.store.alarms();
        let failed = alarms
            .iter()
            .find(|alarm| matches!(alarm, Alarm::ReadOnly { .. }));
        let detail = match failed.or(alarms.first()) {
            Some(alarm) => alarm.to_string(),
            None => self.store.path().display().to_string(),
        };
        ServiceStatus {
            name: "store",
            on: failed.is_none(),
            detail,
        }
    }

    async fn place(&self, call: PlaceCall) -> Result<(), ControlError> {
        let listener = self
            .listener(&call.listener)
            .ok_or_else(|| ControlError::NotFound(format!("there is no listener {:?}", call.listener)))?;
        let tunnel = match (call.tunnel, call.peer) {
            (Some(id), _) => {
                let gone = || ControlError::NotFound(format!("there is no tunnel {id}"));
                Some(self.engine.tunnel(id).ok_or_else(gone)?)
            }
            (None, Some(peer)) => self.tunnel_to(&call.listener, peer),
            (None, None) => None,
        };
        if let Some(tunnel) = tunnel {
            let shard = self.shard(tunnel.origin.shard).ok_or(Silent)?;
            if shard.call(tunnel.id, call.call.clone()).await? {
                return Ok(());
            }
            if call.tunnel.is_some() {
                return Err(ControlError::NotFound(format!(
                    "there is no tunnel {}",
                    tunnel.id
                )));
            }
        }
        let Some(peer) = call.peer else {
            let message = "is needed where no tunnel is given".to_owned();
            return Err(ControlError::Invalid {
                member: "peer",
                message,
            });
        };
        let peer = self.way_to(listener, peer)?;
        // Any shard will do: the identifiers it mints bring the answers to it.
        let shard = self.shards.first().ok_or(Silent)?;
        shard
            .dial(listener, peer, call.call)
            .await?
            .map_err(|error| ControlError::Conflict(error.to_string()))
    }

    /// An established tunnel to a peer.
    fn tunnel_to(&self, listener: &str, peer: SocketAddr) -> Option<Tunnel> {
        let query = TunnelQuery {
            listener: Some(listener.to_owned()),
            peer: Some(peer.ip()),
            ..TunnelQuery::default()
        };
        let page = self.engine.tunnels(&query);
        page.items.into_iter().find(|tunnel| tunnel.peer.remote == peer)
    }

    /// Both ends of a way from a listener to a peer.
    fn way_to(&self, listener: usize, peer: SocketAddr) -> Result<PeerAddr, ControlError> {
        let mut own = self
            .addresses
            .iter()
            .filter(|one| one.listener == listener && one.off.is_none());
        let local = own.find(|one| one.address.is_ipv4() == peer.is_ipv4());
        let Some(local) = local.map(|one| one.address) else {
            let message = "is of a family that the listener has no address of".to_owned();
            return Err(ControlError::Invalid {
                member: "peer",
                message,
            });
        };
        let unreachable = |error: std::io::Error| ControlError::Invalid {
            member: "peer",
            message: format!("cannot be reached: {error}"),
        };
        let ip = match local.ip().is_unspecified() {
            true => source_towards(peer).map_err(unreachable)?,
            false => local.ip(),
        };
        Ok(PeerAddr {
            remote: peer,
            local: SocketAddr::new(ip, local.port()),
        })
    }

    async fn put_into_effect(&self, config: Arc<Config>) -> Result<Applied, ControlError> {
        let level = self.level.clone();
        let mut notes = Vec::new();
        if let Err(error) = level.set(&config.log.level) {
            notes.push(format!("the level of the log stays as it was: {error}"));
        }
        add_routes(&self.routes, &config);
        // First the upstreams, then the rules that may lead to new ones.
        match reach::renewed(&config, &self.reach.load()) {
            Ok((Some(reach), note)) => {
                self.reach.store(Arc::new(reach));
                notes.extend(note);
            }
            Ok((None, note)) => notes.extend(note),
            Err(error) => notes.push(format!("targets are reached as before: {error}")),
        }
        let listening = self.addresses.iter().map(|one| one.address);
        let policy = Arc::new(reach::policy(&config, listening));
        self.policy.store(policy.clone());
        self.ledger
            .reconfigure(&policy, &config.quotas, SystemTime::now());
        let report = self.engine.reconfigure(config.engine.clone());
        let former = self.host().pools.clone();
        if self.device.on && former != config.engine.pools {
            let wanted = network::with_pools(&config, &former);
            let applied = tokio::task::spawn_blocking(move || network::apply(&wanted)).await;
            let (service, changes) = applied.map_err(|error| ControlError::Unavailable(error.to_string()))?;
            if !service.on {
                notes.push(service.detail.clone());
            }
            let mut host = self.host();
            host.service = service;
            host.changes.extend(changes);
            host.pools.clone_from(&config.engine.pools);
        }
        Ok(Applied {
            orphans: report.orphans,
            notes,
        })
    }

    /// Sees that a new worker would find what it needs to go on with all sessions.
    async fn check_store(&self) -> Result<(), ControlError> {
        let store = self.store.clone();
        let recovered = tokio::task::spawn_blocking(move || store.recover(RECOVERY)).await;
        let recovered = recovered.map_err(|error| ControlError::Unavailable(error.to_string()))?;
        recovered.map_err(|error| {
            ControlError::Conflict(format!(
                "nothing was restarted: the session store takes no changes ({error}), and a new worker would not know \
                 of the sessions that have come up since. Once that is mended the store recovers, and this works. To \
                 restart nevertheless and lose them: sluice restart --lose-sessions"
            ))
        })
    }

    async fn begin_restart(&self, lose_sessions: bool) -> Result<(), ControlError> {
        if !lose_sessions {
            self.check_store().await?;
        }
        let path = self.path.clone();
        let checked = tokio::task::spawn_blocking(move || check_start(path.as_deref())).await;
        let checked = checked.map_err(|error| ControlError::Unavailable(error.to_string()))?;
        checked.map_err(|error| {
            ControlError::Conflict(format!(
                "a new worker would not start with what is there: {error}"
            ))
        })?;
        self.restart
            .try_send(RestartWanted)
            .map_err(|_| ControlError::Conflict("a restart has begun already".to_owned()))
    }
}

/// What would keep a new worker from starting as it should.
fn check_start(path: Option<&Path>) -> Result<(), String> {
    let config =
        Config::load(path, MODULES).map_err(|error| format!("the configuration has problems:\n{error}"))?;
    if let Some(tls) = &config.admin.tls {
        Certificate::load(tls).map_err(|error| error.to_string())?;
    }
    state::check(&config)
}

/// The address that packets to a peer leave from. Nothing is sent.
fn source_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// Gives the pools' addresses their places in the routes of the data plane.
pub(super) fn add_routes(routes: &Routes, config: &Config) {
    let (ipv4, ipv6) = config.engine.blocks();
    for block in ipv4 {
        let (first, last) = block.bounds();
        // Where there is no more room for arrays, the table of single addresses serves.
        routes.add_ipv4_pool(first..=last);
    }
    for block in ipv6 {
        routes.add_ipv6_pool(block);
    }
}

impl Control for Running {
    fn status(&self) -> Answer<'_, RuntimeStatus> {
        let shards = self.shards.iter().zip(0..).map(|(remote, number)| {
            let status = remote.status();
            ShardStatus {
                shard: ShardId(number),
                machines: status.machines,
                paths: status.paths,
                lag: status.lag,
            }
        });
        let status = RuntimeStatus {
            started: self.started,
            worker_started: self.worker_started,
            restarts: u64::from(self.restarts),
            shards: shards.collect(),
            services: vec![self.device.clone(), self.host().service.clone()],
            sandbox: self.sandbox.clone(),
            store: self.store_status(),
        };
        Box::pin(async { status })
    }

    fn not_ready(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let mut reason = |code, text: &str| {
            reasons.push(Reason {
                code,
                text: text.to_owned(),
            });
        };
        if !self.device.on {
            reason("data_plane_off", &self.device.detail);
        } else if !self.host().service.on {
            reason("host_network", &self.host().service.detail);
        }
        if self.addresses.iter().all(|address| address.off.is_some()) {
            reason("no_listener", "no address of any listener could be listened on");
        }
        let store = self.store_status();
        if !store.on {
            reason("store_read_only", &store.detail);
        }
        reasons
    }

    fn warnings(&self) -> Vec<Reason> {
        let reason = |code, text: String| Reason { code, text };
        let missing = self.missing.iter().cloned();
        let off = self.addresses.iter().filter_map(|address| address.off.clone());
        let alarms = self.store.alarms().into_iter();
        let alarms = alarms.filter(|alarm| !matches!(alarm, Alarm::ReadOnly { .. }));
        missing
            .map(|text| reason("admin_listener", text))
            .chain(off.map(|text| reason("listener_off", text)))
            .chain(alarms.map(|alarm| reason(alarm.code(), alarm.to_string())))
            .collect()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let statuses: Vec<_> = self.shards.iter().map(Remote::status).collect();
        let listeners = self.addresses.iter().filter_map(|one| {
            let listener = self.config.listeners.get(one.listener)?;
            let half_open = statuses
                .iter()
                .filter_map(|status| status.half_open.get(one.listener));
            Some(ListenerStatus {
                name: listener.name.clone(),
                protocol: listener.module.descriptor().name,
                address: one.address,
                off: one.off.clone(),
                half_open: half_open.sum(),
            })
        });
        listeners.collect()
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    fn users_changed(&self) {
        self.ledger.changed();
    }

    fn describe_session(&self, session: SessionId) -> Answer<'_, Option<Vec<Fact>>> {
        Box::pin(async move {
            let owner = self.engine.find_owner(session)?;
            self.shard(owner.shard)?
                .describe_session(session)
                .await
                .ok()
                .flatten()
        })
    }

    fn describe_tunnel(&self, tunnel: TunnelId) -> Answer<'_, Option<Vec<Fact>>> {
        Box::pin(async move {
            let known = self.engine.tunnel(tunnel)?;
            self.shard(known.origin.shard)?
                .describe_tunnel(tunnel)
                .await
                .ok()
                .flatten()
        })
    }

    fn place_call(&self, call: PlaceCall) -> Answer<'_, Result<(), ControlError>> {
        Box::pin(self.place(call))
    }

    fn set_trace(&self, session: SessionId, on: bool) -> Answer<'_, Result<(), ControlError>> {
        Box::pin(async move {
            let gone = || ControlError::NotFound(format!("there is no session {session}"));
            let owner = self.engine.find_owner(session).ok_or_else(gone)?;
            let shard = self.shard(owner.shard).ok_or(Silent)?;
            match shard.trace(session, on).await? {
                true => Ok(()),
                false => Err(gone()),
            }
        })
    }

    fn apply(&self, config: Arc<Config>, _: Vec<Change>) -> Answer<'_, Result<Applied, ControlError>> {
        Box::pin(self.put_into_effect(config))
    }

    fn restart(&self, lose_sessions: bool) -> Answer<'_, Result<(), ControlError>> {
        Box::pin(self.begin_restart(lose_sessions))
    }

    fn host_changes(&self) -> Answer<'_, Vec<HostChange>> {
        let changes = self.host().changes.clone();
        Box::pin(async { changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_towards_a_peer_is_an_address_of_its_family() {
        let peer: SocketAddr = "127.0.0.1:1701".parse().unwrap();
        assert_eq!(source_towards(peer).unwrap(), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
