//! The form of the engine's records. Every record is in the envelope of [`sluice_spi::checkpoint`] with a format
//! number of its own; what is read is checked to the last octet. Times are wall times in milliseconds.

use crate::blocks::Family;
use crate::facts::Facts;
use crate::journal::Record;
use crate::model::{Address, Origin, Session, SessionLimits, State, Tunnel};
use crate::time::{from_millis, to_millis};
use crate::{SessionId, TunnelId};
use bytes::{BufMut, Bytes, BytesMut};
use sluice_auth::{Grants, Identity, Ipv6Prefix};
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::Reader;
use sluice_spi::{LocalRef, MachineKey, PathStats, PeerAddr, SessionKind, ShardId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, SystemTime};

/// The format that this version writes, and the only one it reads.
pub(crate) const FORMAT: u16 = 1;
/// Identifiers of later times than this, in milliseconds since 1970, were never minted: the year 6429.
const LAST_TIME: u64 = 1 << 47;

type Read<T> = Result<T, CheckpointError>;

/// A tunnel's record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelRecord {
    pub(crate) written: SystemTime,
    pub(crate) tunnel: Tunnel,
    pub(crate) checkpoint: Bytes,
    pub(crate) sessions: Vec<Session>,
}

/// A session's counters, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountersRecord {
    pub(crate) session: SessionId,
    pub(crate) counters: PathStats,
    pub(crate) last_activity: SystemTime,
}

/// A user's last address, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StickyRecord {
    pub(crate) user: String,
    pub(crate) pool: String,
    pub(crate) address: Address,
    /// Milliseconds since 1970.
    pub(crate) until: u64,
}

pub(crate) fn tunnel_key(id: TunnelId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

pub(crate) fn counters_key(id: SessionId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

pub(crate) fn sticky_key(family: Family, user: &str, pool: &str) -> Bytes {
    let mut key = BytesMut::new();
    key.put_u8(match family {
        Family::V4 => 4,
        Family::V6 => 6,
    });
    put_text(&mut key, user);
    put_text(&mut key, pool);
    key.freeze()
}

// Writing.

/// Appends a text with its length. Longer ones than 65,535 octets, which nothing here has, are cut between
/// characters, so that they can still be read.
fn put_text(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or("");
    sluice_spi::wire::put_string16(out, text.as_bytes());
}

fn put_option<T>(out: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_list<T>(out: &mut BytesMut, list: &[T], put: impl Fn(&mut BytesMut, &T)) {
    let count = u16::try_from(list.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for item in list.iter().take(usize::from(count)) {
        put(out, item);
    }
}

fn put_time(out: &mut BytesMut, time: SystemTime) {
    out.put_u64(to_millis(time));
}

fn put_duration(out: &mut BytesMut, duration: Duration) {
    out.put_u64(duration.as_secs());
    out.put_u32(duration.subsec_nanos());
}

fn put_socket(out: &mut BytesMut, socket: SocketAddr) {
    match socket {
        SocketAddr::V4(socket) => {
            out.put_u8(4);
            out.put_slice(&socket.ip().octets());
        }
        SocketAddr::V6(socket) => {
            out.put_u8(6);
            out.put_slice(&socket.ip().octets());
            out.put_u32(socket.flowinfo());
            out.put_u32(socket.scope_id());
        }
    }
    out.put_u16(socket.port());
}

fn put_prefix(out: &mut BytesMut, prefix: Ipv6Prefix) {
    out.put_slice(&prefix.address().octets());
    out.put_u8(prefix.length());
}

fn put_address(out: &mut BytesMut, address: Address) {
    match address {
        Address::V4(address) => {
            out.put_u8(4);
            out.put_slice(&address.octets());
        }
        Address::V6(prefix) => {
            out.put_u8(6);
            put_prefix(out, prefix);
        }
    }
}

fn put_ipv4(out: &mut BytesMut, address: &Ipv4Addr) {
    out.put_slice(&address.octets());
}

fn put_facts(out: &mut BytesMut, facts: &Facts) {
    let pairs: Vec<(&str, &str)> = facts.iter().collect();
    put_list(out, &pairs, |out, (name, value)| {
        put_text(out, name);
        put_text(out, value);
    });
}

fn put_counters(out: &mut BytesMut, counters: &PathStats) {
    out.put_u64(counters.rx_packets);
    out.put_u64(counters.rx_bytes);
    out.put_u64(counters.tx_packets);
    out.put_u64(counters.tx_bytes);
    out.put_u64(counters.dropped);
}

fn put_grants(out: &mut BytesMut, grants: &Grants) {
    put_option(out, grants.ipv4.as_ref(), put_ipv4);
    put_option(out, grants.ipv4_gateway.as_ref(), put_ipv4);
    put_option(out, grants.ipv6_prefix, put_prefix);
    put_list(out, &grants.dns4, put_ipv4);
    put_list(out, &grants.dns6, |out, address| out.put_slice(&address.octets()));
    put_list(out, &grants.nbns, put_ipv4);
    put_option(out, grants.mtu, |out, mtu| out.put_u16(mtu));
}

fn put_session(out: &mut BytesMut, session: &Session) {
    out.put_slice(&session.id.to_bytes());
    out.put_u32(session.local.0);
    out.put_u8(match session.kind {
        SessionKind::Connection => 0,
    });
    put_socket(out, session.peer.remote);
    put_socket(out, session.peer.local);
    let text = |out: &mut BytesMut, text: &String| put_text(out, text);
    put_option(out, session.user(), put_text);
    put_option(out, session.calling.as_ref(), text);
    put_option(out, session.called.as_ref(), text);
    put_option(out, session.label.as_ref(), text);
    put_option(out, session.grants.as_ref(), put_grants);
    put_option(out, session.ipv4_pool.as_ref(), text);
    put_option(out, session.ipv6_pool.as_ref(), text);
    put_facts(out, &session.facts);
    put_option(out, session.limits.session_timeout, put_duration);
    put_option(out, session.limits.idle_timeout, put_duration);
    put_counters(out, &session.counters);
    put_time(out, session.created);
    put_option(out, session.established, put_time);
    put_time(out, session.last_activity);
    out.put_u32(session.restored);
}

/// A tunnel with its sessions and its machine's checkpoint; `None` where it would be larger than can be read.
pub(crate) fn encode_tunnel(
    written: SystemTime,
    tunnel: &Tunnel,
    checkpoint: &[u8],
    sessions: &[Session],
) -> Option<Bytes> {
    let mut out = BytesMut::new();
    put_time(&mut out, written);
    out.put_slice(&tunnel.id.to_bytes());
    put_text(&mut out, tunnel.origin.protocol);
    put_text(&mut out, &tunnel.origin.listener);
    out.put_u32(tunnel.key.0);
    put_socket(&mut out, tunnel.peer.remote);
    put_socket(&mut out, tunnel.peer.local);
    put_text(&mut out, &tunnel.peer_name);
    out.put_u8(u8::from(tunnel.initiated));
    put_facts(&mut out, &tunnel.facts);
    put_time(&mut out, tunnel.created);
    out.put_u32(tunnel.restored);
    out.put_u32(u32::try_from(checkpoint.len()).ok()?);
    out.put_slice(checkpoint);
    out.put_u32(u32::try_from(sessions.len()).ok()?);
    for session in sessions {
        put_session(&mut out, session);
    }
    (out.len() <= checkpoint::MAX_BODY).then(|| checkpoint::seal(FORMAT, &out))
}

/// A session without a tunnel.
pub(crate) fn encode_connection(session: &Session) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    put_text(&mut out, session.origin.protocol);
    put_text(&mut out, &session.origin.listener);
    put_session(&mut out, session);
    checkpoint::seal(FORMAT, &out)
}

pub(crate) fn encode_counters(session: &Session) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_slice(&session.id.to_bytes());
    put_counters(&mut out, &session.counters);
    put_time(&mut out, session.last_activity);
    checkpoint::seal(FORMAT, &out)
}

pub(crate) fn encode_sticky(user: &str, pool: &str, address: Address, until: u64) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, user);
    put_text(&mut out, pool);
    put_address(&mut out, address);
    out.put_u64(until);
    checkpoint::seal(FORMAT, &out)
}

// Reading.

fn invalid<T>(what: &'static str) -> Read<T> {
    Err(CheckpointError::Invalid(what))
}

fn flag(reader: &mut Reader<'_>) -> Read<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => invalid("flag"),
    }
}

fn option<'a, T>(reader: &mut Reader<'a>, read: impl FnOnce(&mut Reader<'a>) -> Read<T>) -> Read<Option<T>> {
    flag(reader)?.then(|| read(reader)).transpose()
}

fn list<'a, T>(reader: &mut Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Read<T>) -> Read<Vec<T>> {
    (0..reader.u16()?).map(|_| read(reader)).collect()
}

fn text(reader: &mut Reader<'_>) -> Read<String> {
    let length = usize::from(reader.u16()?);
    let bytes = reader.take(length)?;
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::Invalid("text"))?;
    Ok(text.to_owned())
}

fn time(reader: &mut Reader<'_>) -> Read<SystemTime> {
    let millis = reader.u64()?;
    let time = from_millis(millis).filter(|_| millis < LAST_TIME);
    time.ok_or(CheckpointError::Invalid("time"))
}

fn duration(reader: &mut Reader<'_>) -> Read<Duration> {
    let (seconds, nanos) = (reader.u64()?, reader.u32()?);
    if nanos >= 1_000_000_000 {
        return invalid("duration");
    }
    Ok(Duration::new(seconds, nanos))
}

fn ipv4(reader: &mut Reader<'_>) -> Read<Ipv4Addr> {
    Ok(Ipv4Addr::from(reader.array::<4>()?))
}

fn ipv6(reader: &mut Reader<'_>) -> Read<Ipv6Addr> {
    Ok(Ipv6Addr::from(reader.array::<16>()?))
}

fn prefix(reader: &mut Reader<'_>) -> Read<Ipv6Prefix> {
    let (address, length) = (ipv6(reader)?, reader.u8()?);
    let prefix = Ipv6Prefix::new(address, length).filter(|prefix| prefix.address() == address);
    prefix.ok_or(CheckpointError::Invalid("prefix"))
}

fn address(reader: &mut Reader<'_>) -> Read<Address> {
    match reader.u8()? {
        4 => Ok(Address::V4(ipv4(reader)?)),
        6 => Ok(Address::V6(prefix(reader)?)),
        _ => invalid("address"),
    }
}

fn socket(reader: &mut Reader<'_>) -> Read<SocketAddr> {
    match reader.u8()? {
        4 => Ok(SocketAddr::new(IpAddr::V4(ipv4(reader)?), reader.u16()?)),
        6 => {
            let (address, flow, scope) = (ipv6(reader)?, reader.u32()?, reader.u32()?);
            Ok(SocketAddrV6::new(address, reader.u16()?, flow, scope).into())
        }
        _ => invalid("socket address"),
    }
}

fn peer(reader: &mut Reader<'_>) -> Read<PeerAddr> {
    Ok(PeerAddr {
        remote: socket(reader)?,
        local: socket(reader)?,
    })
}

fn facts(reader: &mut Reader<'_>) -> Read<Facts> {
    let pairs = list(reader, |reader| Ok((text(reader)?, text(reader)?)))?;
    Ok(Facts::new(
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    ))
}

fn counters(reader: &mut Reader<'_>) -> Read<PathStats> {
    Ok(PathStats {
        rx_packets: reader.u64()?,
        rx_bytes: reader.u64()?,
        tx_packets: reader.u64()?,
        tx_bytes: reader.u64()?,
        dropped: reader.u64()?,
    })
}

fn grants(reader: &mut Reader<'_>) -> Read<Grants> {
    Ok(Grants {
        ipv4: option(reader, ipv4)?,
        ipv4_gateway: option(reader, ipv4)?,
        ipv6_prefix: option(reader, prefix)?,
        dns4: list(reader, ipv4)?,
        dns6: list(reader, ipv6)?,
        nbns: list(reader, ipv4)?,
        mtu: option(reader, |reader| Ok(reader.u16()?))?,
    })
}

fn session_id(reader: &mut Reader<'_>) -> Read<SessionId> {
    let id = SessionId::from_bytes(reader.array()?);
    if id.milliseconds() >= LAST_TIME {
        return invalid("session identifier");
    }
    Ok(id)
}

fn identity(reader: &mut Reader<'_>) -> Read<Identity> {
    let name = text(reader)?;
    Identity::parse(name.as_bytes()).ok_or(CheckpointError::Invalid("user name"))
}

fn session(reader: &mut Reader<'_>, tunnel: Option<TunnelId>, origin: &Origin) -> Read<Session> {
    Ok(Session {
        id: session_id(reader)?,
        state: State::Recovering,
        origin: origin.clone(),
        tunnel,
        local: LocalRef(reader.u32()?),
        kind: match reader.u8()? {
            0 => SessionKind::Connection,
            _ => return invalid("session kind"),
        },
        peer: peer(reader)?,
        identity: option(reader, identity)?,
        rejected: None,
        calling: option(reader, text)?,
        called: option(reader, text)?,
        label: option(reader, text)?,
        grants: option(reader, grants)?,
        ipv4_pool: option(reader, text)?,
        ipv6_pool: option(reader, text)?,
        facts: facts(reader)?,
        limits: SessionLimits {
            session_timeout: option(reader, duration)?,
            idle_timeout: option(reader, duration)?,
        },
        counters: counters(reader)?,
        created: time(reader)?,
        established: option(reader, time)?,
        last_activity: time(reader)?,
        ended: None,
        end: None,
        restored: reader.u32()?.saturating_add(1),
    })
}

fn opened(value: &[u8]) -> Read<Reader<'_>> {
    match checkpoint::open(value)? {
        (FORMAT, body) => Ok(body),
        (format, _) => Err(CheckpointError::Format(format)),
    }
}

fn finished<T>(reader: &Reader<'_>, value: T) -> Read<T> {
    match reader.is_empty() {
        true => Ok(value),
        false => invalid("length"),
    }
}

fn protocol(reader: &mut Reader<'_>, protocols: &[&'static str]) -> Read<&'static str> {
    let name = text(reader)?;
    let known = protocols.iter().find(|&&known| known == name);
    known.copied().ok_or(CheckpointError::Invalid("protocol"))
}

/// Reads the record of a session without a tunnel, which `shard` has from now on.
pub(crate) fn decode_connection(value: &[u8], protocols: &[&'static str], shard: ShardId) -> Read<Session> {
    let mut reader = opened(value)?;
    let reader = &mut reader;
    let origin = Origin {
        protocol: protocol(reader, protocols)?,
        listener: text(reader)?.into(),
        shard,
    };
    let session = session(reader, None, &origin)?;
    if session
        .grants
        .as_ref()
        .is_some_and(|grants| !Session::addresses_of(grants).is_empty())
    {
        return invalid("addresses");
    }
    finished(reader, session)
}

/// Reads a tunnel's record. `shard_of` says which shard has the machine now.
pub(crate) fn decode_tunnel(
    record: &Record,
    protocols: &[&'static str],
    shard_of: &dyn Fn(MachineKey) -> ShardId,
) -> Read<TunnelRecord> {
    let mut reader = opened(&record.value)?;
    let reader = &mut reader;
    let written = time(reader)?;
    let id = TunnelId::from_bytes(reader.array()?);
    if id.milliseconds() >= LAST_TIME || tunnel_key(id) != record.key {
        return invalid("tunnel identifier");
    }
    let protocol = protocol(reader, protocols)?;
    let listener = text(reader)?.into();
    let key = MachineKey(reader.u32()?);
    let origin = Origin {
        protocol,
        listener,
        shard: shard_of(key),
    };
    let tunnel = Tunnel {
        id,
        state: State::Recovering,
        key,
        peer: peer(reader)?,
        peer_name: text(reader)?,
        initiated: flag(reader)?,
        facts: facts(reader)?,
        created: time(reader)?,
        sessions: 0,
        restored: reader.u32()?.saturating_add(1),
        origin,
    };
    let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    let checkpoint = Bytes::copy_from_slice(reader.take(length)?);
    let count = reader.u32()?;
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(session(reader, Some(id), &tunnel.origin)?);
    }
    let record = TunnelRecord {
        written,
        tunnel: Tunnel {
            sessions: sessions.len(),
            ..tunnel
        },
        checkpoint,
        sessions,
    };
    finished(reader, record)
}

pub(crate) fn decode_counters(record: &Record) -> Read<CountersRecord> {
    let mut reader = opened(&record.value)?;
    let session = session_id(&mut reader)?;
    if counters_key(session) != record.key {
        return invalid("key");
    }
    let counters = CountersRecord {
        session,
        counters: counters(&mut reader)?,
        last_activity: time(&mut reader)?,
    };
    finished(&reader, counters)
}

pub(crate) fn decode_sticky(record: &Record) -> Read<StickyRecord> {
    let mut reader = opened(&record.value)?;
    let sticky = StickyRecord {
        user: text(&mut reader)?,
        pool: text(&mut reader)?,
        address: address(&mut reader)?,
        until: reader.u64()?,
    };
    if sticky_key(sticky.address.family(), &sticky.user, &sticky.pool) != record.key {
        return invalid("key");
    }
    finished(&reader, sticky)
}
