//! Sessions, tunnels, pools and leases as the API shows them.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sluice_auth::{Grants, format_timestamp};
use sluice_core::{
    EngineEvent, Facts, Lease, LeaseStatus, PoolStatus, PoolUse, Session, SessionLimits, Tunnel,
};
use sluice_spi::{Ended, Fact, PathStats, SessionKind};
use std::collections::BTreeMap;
use std::time::SystemTime;
use utoipa::ToSchema;

pub(crate) fn time(time: SystemTime) -> String {
    format_timestamp(time)
}

/// What has been carried. Bytes are those of the IP packets; `rx` is from the peer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Counters {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    /// Packets of this session that were dropped, either way.
    dropped: u64,
}

impl From<PathStats> for Counters {
    fn from(stats: PathStats) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            dropped: stats.dropped,
        }
    }
}

/// How something ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct End {
    /// The terminate cause by RFC 2866's name.
    #[schema(example = "user-request")]
    cause: &'static str,
    /// A stable code.
    code: String,
    /// What happened, in words.
    text: String,
}

impl From<&Ended> for End {
    fn from(ended: &Ended) -> Self {
        Self {
            cause: ended.cause.as_str(),
            code: ended.code.to_owned(),
            text: ended.text.clone(),
        }
    }
}

/// What a session was given.
#[derive(Serialize, ToSchema)]
pub(crate) struct GrantsView {
    ipv4: Option<String>,
    ipv4_gateway: Option<String>,
    ipv6_prefix: Option<String>,
    dns: Vec<String>,
    nbns: Vec<String>,
    mtu: Option<u16>,
    /// Pool of the IPv4 address; null: a static address, or none.
    ipv4_pool: Option<String>,
    /// Pool of the IPv6 prefix; null: a static prefix, or none.
    ipv6_pool: Option<String>,
    /// Longest life of the session, in seconds.
    session_timeout: Option<u64>,
    /// Longest silence of the session, in seconds.
    idle_timeout: Option<u64>,
}

impl GrantsView {
    fn new(grants: &Grants, limits: &SessionLimits, session: &Session) -> Self {
        let dns4 = grants.dns4.iter().map(ToString::to_string);
        let dns6 = grants.dns6.iter().map(ToString::to_string);
        Self {
            ipv4: grants.ipv4.map(|ip| ip.to_string()),
            ipv4_gateway: grants.ipv4_gateway.map(|ip| ip.to_string()),
            ipv6_prefix: grants.ipv6_prefix.map(|prefix| prefix.to_string()),
            dns: dns4.chain(dns6).collect(),
            nbns: grants.nbns.iter().map(ToString::to_string).collect(),
            mtu: grants.mtu,
            ipv4_pool: session.ipv4_pool.clone(),
            ipv6_pool: session.ipv6_pool.clone(),
            session_timeout: limits.session_timeout.map(|timeout| timeout.as_secs()),
            idle_timeout: limits.idle_timeout.map(|timeout| timeout.as_secs()),
        }
    }
}

/// A session.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionView {
    /// Its public name, which is its Acct-Session-Id too.
    id: String,
    /// opening, authenticating, establishing, established, suspended, recovering, closing or closed.
    state: &'static str,
    kind: &'static str,
    protocol: &'static str,
    listener: String,
    shard: u16,
    /// The tunnel that carries it; null where its protocol has none.
    tunnel: Option<String>,
    /// The user's whole name, as claimed while it authenticates.
    user: Option<String>,
    /// The peer's outer address and port.
    peer: String,
    /// Our outer address and port.
    local: String,
    calling: Option<String>,
    called: Option<String>,
    /// The label of the call, where we placed it.
    label: Option<String>,
    /// Addresses it holds.
    addresses: Vec<String>,
    /// What it was given, once authorized.
    grants: Option<GrantsView>,
    /// Why its last authentication was refused.
    rejected: Option<&'static str>,
    /// What was negotiated, by stable names. Empty in lists: only its machine knows how it is now.
    facts: BTreeMap<String, String>,
    counters: Counters,
    created: String,
    established: Option<String>,
    last_activity: String,
    ended: Option<String>,
    end: Option<End>,
    /// How often it went on after a restart of the gateway.
    restored: u32,
}

fn known(facts: &Facts) -> BTreeMap<String, String> {
    let pairs = facts
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    pairs.collect()
}

fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Connection => "connection",
    }
}

impl From<&Session> for SessionView {
    fn from(session: &Session) -> Self {
        let grants = session.grants.as_ref();
        Self {
            id: session.id.to_string(),
            state: session.state.as_str(),
            kind: kind(session.kind),
            protocol: session.origin.protocol,
            listener: session.origin.listener.to_string(),
            shard: session.origin.shard.0,
            tunnel: session.tunnel.map(|tunnel| tunnel.to_string()),
            user: session.user().map(str::to_owned),
            peer: session.peer.remote.to_string(),
            local: session.peer.local.to_string(),
            calling: session.calling.clone(),
            called: session.called.clone(),
            label: session.label.clone(),
            addresses: session.addresses().iter().map(ToString::to_string).collect(),
            grants: grants.map(|grants| GrantsView::new(grants, &session.limits, session)),
            rejected: session.rejected.map(|reason| reason.as_str()),
            facts: known(&session.facts),
            counters: session.counters.into(),
            created: time(session.created),
            established: session.established.map(time),
            last_activity: time(session.last_activity),
            ended: session.ended.map(time),
            end: session.end.as_ref().map(End::from),
            restored: session.restored,
        }
    }
}

/// What a machine knows now stands over what was known when it was last told.
fn add_live(known: &mut BTreeMap<String, String>, facts: &[Fact]) {
    known.extend(
        facts
            .iter()
            .map(|fact| (fact.name.to_owned(), fact.value.clone())),
    );
}

impl SessionView {
    /// As lists have it.
    pub(crate) fn listed(session: &Session) -> Self {
        let mut view = Self::from(session);
        view.facts.clear();
        view
    }

    /// Adds what only the session's machine knows.
    pub(crate) fn with_live(mut self, facts: &[Fact]) -> Self {
        add_live(&mut self.facts, facts);
        self
    }
}

/// A tunnel.
#[derive(Serialize, ToSchema)]
#[schema(as = Tunnel)]
pub(crate) struct TunnelView {
    id: String,
    /// established, recovering or closed.
    state: &'static str,
    protocol: &'static str,
    listener: String,
    shard: u16,
    /// The machine's own name of it, such as the local tunnel id of L2TP.
    key: u32,
    peer: String,
    local: String,
    /// The name the peer gave itself.
    peer_name: String,
    /// Whether we opened it.
    initiated: bool,
    /// How it is, by stable names. Empty in lists: only its machine knows that.
    facts: BTreeMap<String, String>,
    created: String,
    /// Number of its sessions.
    sessions: usize,
    restored: u32,
}

impl From<&Tunnel> for TunnelView {
    fn from(tunnel: &Tunnel) -> Self {
        Self {
            id: tunnel.id.to_string(),
            state: tunnel.state.as_str(),
            protocol: tunnel.origin.protocol,
            listener: tunnel.origin.listener.to_string(),
            shard: tunnel.origin.shard.0,
            key: tunnel.key.0,
            peer: tunnel.peer.remote.to_string(),
            local: tunnel.peer.local.to_string(),
            peer_name: tunnel.peer_name.clone(),
            initiated: tunnel.initiated,
            facts: known(&tunnel.facts),
            created: time(tunnel.created),
            sessions: tunnel.sessions,
            restored: tunnel.restored,
        }
    }
}

impl TunnelView {
    /// As lists have it.
    pub(crate) fn listed(tunnel: &Tunnel) -> Self {
        let mut view = Self::from(tunnel);
        view.facts.clear();
        view
    }

    /// Adds what only the tunnel's machine knows.
    pub(crate) fn with_live(mut self, facts: &[Fact]) -> Self {
        add_live(&mut self.facts, facts);
        self
    }
}

/// A pool's use in one family of addresses.
#[derive(Serialize, ToSchema)]
pub(crate) struct FamilyUse {
    /// Addresses it can give.
    size: u64,
    /// Held by sessions.
    held: u64,
    /// Kept for the users that had them last.
    kept: u64,
    /// Not to be given to anybody.
    blocked: u64,
    free: u64,
    /// Requests refused because nothing was left.
    exhausted: u64,
}

impl From<PoolUse> for FamilyUse {
    fn from(used: PoolUse) -> Self {
        Self {
            size: used.size,
            held: used.held,
            kept: used.kept,
            blocked: used.blocked,
            free: used.free,
            exhausted: used.exhausted,
        }
    }
}

/// A pool.
#[derive(Serialize, ToSchema)]
#[schema(as = Pool)]
pub(crate) struct PoolView {
    name: String,
    /// Our address on the links of its IPv4 sessions.
    ipv4_gateway: Option<String>,
    /// IPv4 addresses; null: it has none.
    ipv4: Option<FamilyUse>,
    /// IPv6 prefixes of 64 bits; null: it has none.
    ipv6: Option<FamilyUse>,
}

impl From<&PoolStatus> for PoolView {
    fn from(pool: &PoolStatus) -> Self {
        Self {
            name: pool.name.clone(),
            ipv4_gateway: pool.ipv4_gateway.map(|ip| ip.to_string()),
            ipv4: pool.ipv4.map(FamilyUse::from),
            ipv6: pool.ipv6.map(FamilyUse::from),
        }
    }
}

/// An address in use, or kept for a user.
#[derive(Serialize, ToSchema)]
#[schema(as = Lease)]
pub(crate) struct LeaseView {
    address: String,
    /// null: a static address.
    pool: Option<String>,
    user: String,
    /// The session that holds it; null: it is kept for the user.
    session: Option<String>,
    /// Since when it is held.
    since: Option<String>,
    /// Until when it is kept.
    until: Option<String>,
}

impl From<&Lease> for LeaseView {
    fn from(lease: &Lease) -> Self {
        let (session, since, until) = match lease.status {
            LeaseStatus::Held { session, since } => (Some(session.to_string()), Some(time(since)), None),
            LeaseStatus::Kept { until } => (None, None, Some(time(until))),
        };
        Self {
            address: lease.address.to_string(),
            pool: lease.pool.clone(),
            user: lease.user.clone(),
            session,
            since,
            until,
        }
    }
}

/// What an event says besides its type and time.
pub(crate) fn event_data(event: &EngineEvent) -> Value {
    fn value(view: impl Serialize) -> Value {
        serde_json::to_value(view).unwrap_or_default()
    }
    let session = |session: &Session| json!({ "session": value(SessionView::from(session)) });
    let tunnel = |tunnel: &Tunnel| json!({ "tunnel": value(TunnelView::from(tunnel)) });
    match event {
        EngineEvent::TunnelUp(up) => tunnel(up),
        EngineEvent::TunnelDown { tunnel: down, ended } => {
            merge(tunnel(down), json!({ "end": value(End::from(ended)) }))
        }
        EngineEvent::TunnelRefused { origin, peer, reason } => json!({
            "protocol": origin.protocol, "listener": &*origin.listener,
            "peer": peer.remote.to_string(), "reason": reason.as_str(),
        }),
        EngineEvent::SessionOpened(opened) => session(opened),
        EngineEvent::SessionRefused {
            origin,
            tunnel,
            peer,
            reason,
        } => json!({
            "protocol": origin.protocol, "listener": &*origin.listener, "tunnel_id": tunnel.map(|tunnel| tunnel.to_string()),
            "peer": peer.remote.to_string(), "reason": reason.as_str(),
        }),
        EngineEvent::AuthRequested {
            session,
            identity,
            method,
        } => json!({
            "session_id": session.to_string(), "user": identity.as_str(), "method": method.as_str(),
        }),
        EngineEvent::AuthDecided { session: of, result } => merge(
            session(of),
            json!({ "accepted": result.is_ok(), "reason": result.err().map(|reason| reason.as_str()) }),
        ),
        EngineEvent::SessionUp(up) => session(up),
        EngineEvent::SessionDown(down) => session(down),
        EngineEvent::CallFailed { label, reason } => json!({ "label": label, "reason": reason }),
        EngineEvent::EndRequested { session, cause, .. } => json!({
            "session_id": session.to_string(), "cause": cause.as_str(),
        }),
        EngineEvent::TunnelRecovered {
            tunnel: of,
            sessions,
            lost,
        } => merge(tunnel(of), json!({ "sessions": sessions, "lost": lost })),
        EngineEvent::ConnectionsRecovered { sessions, lost } => json!({ "sessions": sessions, "lost": lost }),
        EngineEvent::RecordSetAside { table, reason } => {
            json!({ "table": table.as_str(), "reason": reason })
        }
        EngineEvent::PoolExhausted { pool } => json!({ "pool": pool }),
        EngineEvent::PoolUnknown { pool, identity } => json!({ "pool": pool, "user": identity.as_str() }),
        EngineEvent::JournalFailing { error, .. } => {
            json!({ "error": error.as_ref().map(ToString::to_string) })
        }
        EngineEvent::Draining(draining) => json!({ "draining": draining }),
        EngineEvent::Reconfigured(report) => json!({
            "now": report.now, "new_sessions": report.new_sessions, "orphans": report.orphans,
        }),
    }
}

fn merge(into: Value, more: Value) -> Value {
    match (into, more) {
        (Value::Object(mut into), Value::Object(more)) => {
            into.extend(more);
            Value::Object(into)
        }
        (into, _) => into,
    }
}

/// The session an event is about, as text.
pub(crate) fn event_session(event: &EngineEvent) -> Option<sluice_core::SessionId> {
    match event {
        EngineEvent::SessionOpened(session)
        | EngineEvent::SessionUp(session)
        | EngineEvent::SessionDown(session)
        | EngineEvent::AuthDecided { session, .. } => Some(session.id),
        EngineEvent::AuthRequested { session, .. } | EngineEvent::EndRequested { session, .. } => {
            Some(*session)
        }
        _ => None,
    }
}

/// An empty JSON object, for answers that say nothing more.
pub(crate) fn empty() -> Value {
    Value::Object(Map::new())
}
