//! A gateway in small: an engine with a memory journal and an observer that writes down what it hears.

mod addresses;
mod authorize;
mod connections;
mod lifecycle;
mod living;
mod paging;
mod random;
mod restore;

use crate::{
    Engine, EngineConfig, EngineEvent, Ipv4Block, MemoryJournal, Now, Observer, Origin, PoolConfig, Session,
    SessionId, TunnelId,
};
use sluice_auth::{AuthRequest, Credentials, Grants, Identity, Profile, RejectReason, Secret, Verdict};
use sluice_spi::{
    CallInfo, Ended, Fact, LocalRef, MachineKey, PathStats, PeerAddr, SessionKind, ShardId, Shards,
    TerminateCause, TunnelInfo,
};
use sluice_testkit::Seeded;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

#[derive(Default)]
pub(super) struct Heard(Mutex<Vec<EngineEvent>>);

impl Observer for Heard {
    fn on_event(&self, event: &EngineEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Heard {
    pub(super) fn take(&self) -> Vec<EngineEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.take().iter().map(EngineEvent::name).collect()
    }
}

pub(super) struct Small {
    pub(super) engine: Engine,
    pub(super) journal: Arc<MemoryJournal>,
    pub(super) heard: Arc<Heard>,
    pub(super) now: Now,
}

pub(super) fn config() -> EngineConfig {
    let mut config = EngineConfig::new(&["l2tp", "pptp"]);
    config.pools = vec![pool("home", "10.0.0.0/24", "2001:db8::/56")];
    config.defaults.ipv4_pool = Some("home".into());
    config.defaults.ipv6_pool = Some("home".into());
    config
}

pub(super) fn pool(name: &str, ipv4: &str, ipv6: &str) -> PoolConfig {
    PoolConfig {
        ipv4: vec![ipv4.parse::<Ipv4Block>().unwrap()],
        ipv6: vec![ipv6.parse().unwrap()],
        ..PoolConfig::new(name)
    }
}

pub(super) fn origin(shard: u16) -> Origin {
    Origin {
        protocol: "l2tp",
        listener: "west".into(),
        shard: ShardId(shard),
    }
}

pub(super) fn peer(number: u32) -> PeerAddr {
    PeerAddr {
        remote: SocketAddr::from((
            std::net::Ipv4Addr::from(0xc000_0200u32.wrapping_add(number)),
            1701,
        )),
        local: "203.0.113.1:1701".parse().unwrap(),
    }
}

pub(super) fn tunnel_info(key: u32, peer_number: u32) -> TunnelInfo {
    TunnelInfo {
        key: MachineKey(key),
        peer: peer(peer_number),
        peer_name: format!("lac-{key}"),
        initiated: false,
        facts: vec![Fact::new("vendor", "some")],
    }
}

pub(super) fn call(peer_number: u32) -> CallInfo {
    CallInfo {
        kind: SessionKind::Connection,
        peer: peer(peer_number),
        calling: Some("5551234".into()),
        called: None,
        label: None,
    }
}

pub(super) fn request(user: &str) -> AuthRequest {
    AuthRequest {
        protocol: "l2tp",
        credentials: Credentials::Pap {
            identity: Identity::parse(user.as_bytes()).unwrap(),
            password: Secret::new("pw"),
        },
        peer: None,
        calling: None,
        called: Some("99".into()),
    }
}

pub(super) fn profile(user: &str) -> Profile {
    Profile::new(Identity::parse(user.as_bytes()).unwrap())
}

pub(super) fn ended() -> Ended {
    Ended::new(TerminateCause::UserRequest, "user_left", "the user hung up")
}

pub(super) fn stats(packets: u64) -> PathStats {
    PathStats {
        rx_packets: packets,
        rx_bytes: packets * 100,
        tx_packets: packets / 2,
        tx_bytes: packets * 50,
        dropped: packets / 10,
    }
}

pub(super) fn shard_of(key: MachineKey) -> ShardId {
    Shards::new(2).of_id((key.0 & 0xffff) as u16)
}

impl Small {
    pub(super) fn new(config: EngineConfig) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = Now {
            instant: Instant::now(),
            wall,
        };
        Self::on(Arc::new(MemoryJournal::new()), config, now, 7)
    }

    pub(super) fn on(journal: Arc<MemoryJournal>, config: EngineConfig, now: Now, seed: u64) -> Self {
        let heard = Arc::new(Heard::default());
        let entropy = Box::new(Seeded::new(seed));
        Self {
            engine: Engine::new(config, journal.clone(), heard.clone(), entropy),
            journal,
            heard,
            now,
        }
    }

    /// The engine after a crash: a new one on the same journal, `later`.
    pub(super) fn restart(&self, config: EngineConfig, later: Duration) -> Self {
        let now = self.now.after(later);
        Self::on(self.journal.clone(), config, now, 8)
    }

    pub(super) fn tick(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    pub(super) fn tunnel(&self, key: u32) -> TunnelId {
        let info = tunnel_info(key, key);
        self.engine.tunnel_up(&origin(0), &info, self.now).unwrap()
    }

    pub(super) fn open(&self, tunnel: TunnelId, local: u32) -> SessionId {
        let call = call(1);
        let opened = self
            .engine
            .session_opening(&origin(0), Some(tunnel), LocalRef(local), &call, self.now);
        opened.unwrap()
    }

    pub(super) fn authorize(&self, id: SessionId, profile: Profile) -> Result<Grants, RejectReason> {
        assert!(
            self.engine
                .auth_requested(id, &request(profile.identity.as_str()))
        );
        match self.engine.authorize(id, Ok(profile), self.now) {
            Verdict::Accept { grants, .. } => Ok(*grants),
            Verdict::Reject(reason) => Err(reason),
        }
    }

    /// A session of a user, established.
    pub(super) fn up(&self, tunnel: TunnelId, local: u32, profile: Profile) -> SessionId {
        let id = self.open(tunnel, local);
        self.authorize(id, profile).unwrap();
        let facts = [Fact::new("mru", "1400")];
        assert!(self.engine.session_up(id, &facts, self.now));
        id
    }

    pub(super) fn down(&self, id: SessionId) -> bool {
        self.engine
            .session_down(id, &ended(), PathStats::default(), self.now)
    }

    pub(super) fn session(&self, id: SessionId) -> Session {
        self.engine.session(id).unwrap()
    }

    pub(super) fn ipv4(&self, id: SessionId) -> IpAddr {
        IpAddr::V4(self.session(id).grants.unwrap().ipv4.unwrap())
    }
}
