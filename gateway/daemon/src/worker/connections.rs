//! Connections between two workers: their sockets and what there is of them, with the keeper.
//!
//! The sockets are held in batches, each under a name, and the records lie in one memory of the keeper, not in the
//! store: they are worth nothing without the sockets, which end with the keeper, and they hold bytes that users sent
//! and nobody else is to have on a disk.
//!
//! Whatever happens to the next worker before it has all in hand, a third one finds everything as it was: nothing of
//! a connection moves before the records are released ([`Before::release`]), and after that nobody goes on with them a
//! second time.

use super::held::{Held, forget};
use super::now;
use crate::config::Config;
use crate::shard::{KeptConnection, RestoredConnection, reset};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use sluice_core::{Engine, RestoredTunnel, Session, TunnelId};
use sluice_keeper::{Link, LinkError, MAX_PER_MESSAGE};
use sluice_spi::{Ended, ShardId, Shards, TerminateCause, Transport};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The name of the records.
const MEMORY: &str = "connections";
/// The beginning of the names of batches of sockets.
const BATCH: &str = "connections:";

/// Octets of all records at most. Most have some hundreds; one whose receiver is slow has what is on its way to it, at
/// most 64 KiB in each direction, or what was in a pipe.
const MAX_OCTETS: u64 = 256 << 20;

/// So many workers try to take the same connections up. One more would mean that they are why it ends each time, and
/// the gateway is to come up without them before its keeper gives up.
const MAX_ATTEMPTS: u32 = 3;

/// Magic, whether the rest is whole, attempts, and the length of the rest in octets.
const HEADER: usize = 8 + 4 + 4 + 8;
const MAGIC: &[u8; 8] = b"sluice-1";

/// One connection's place among the batches, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    batch: u32,
    first: u8,
    /// Its sockets; 0: they are lost.
    count: u8,
    session: Bytes,
    state: Bytes,
}

impl Entry {
    const FIXED: usize = 4 + 1 + 1 + 4 + 4;

    fn put(&self, out: &mut BytesMut) {
        out.put_u32(self.batch);
        out.put_u8(self.first);
        out.put_u8(self.count);
        for part in [&self.session, &self.state] {
            out.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            out.put_slice(part);
        }
    }

    fn take(from: &mut Bytes) -> Option<Self> {
        let (batch, first, count) = (
            from.try_get_u32().ok()?,
            from.try_get_u8().ok()?,
            from.try_get_u8().ok()?,
        );
        let mut part = || {
            let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
            (length <= from.len()).then(|| from.split_to(length))
        };
        Some(Self {
            batch,
            first,
            count,
            session: part()?,
            state: part()?,
        })
    }
}

/// Gives connections to the keeper, for the next worker. Those for which there is no room are ended, and the next worker
/// says so of each.
pub(super) fn keep(link: &Link, connections: Vec<KeptConnection>) -> Vec<KeptConnection> {
    if connections.is_empty() {
        return connections;
    }
    // One descriptor is the memory's.
    let room = link.room().saturating_sub(1);
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    let mut lost = sort(connections, room, &mut entries, &mut kept);
    let mut failed = store(link, &mut entries, &mut kept);
    lost += failed.len();
    if let Err(error) = write(link, &entries) {
        tracing::error!("connections end with this restart: {error}");
        failed.append(&mut kept);
    }
    failed.into_iter().for_each(KeptConnection::abandon);
    if lost > 0 {
        tracing::warn!(
            lost,
            room,
            "connections end with this restart: raise the limit of open files, which the keeper has too"
        );
    }
    kept
}

/// Gives each connection its place, as far as there is room. How many have none.
fn sort(
    connections: Vec<KeptConnection>,
    mut room: usize,
    entries: &mut Vec<Entry>,
    kept: &mut Vec<KeptConnection>,
) -> usize {
    let (mut batch, mut used, mut octets, mut lost) = (0u32, 0usize, 0u64, 0);
    for connection in connections {
        let (count, size) = (
            connection.descriptors.len(),
            connection.session.len() + connection.state.len(),
        );
        let size = u64::try_from(size + Entry::FIXED).unwrap_or(u64::MAX);
        let fits = count <= room && octets.saturating_add(size) <= MAX_OCTETS;
        if used + count > MAX_PER_MESSAGE {
            (batch, used) = (batch + 1, 0);
        }
        let place = (u8::try_from(used), u8::try_from(count));
        let (Ok(first), Ok(taken), true) = (place.0, place.1, fits) else {
            entries.push(without_sockets(&connection));
            connection.abandon();
            lost += 1;
            continue;
        };
        (used, room, octets) = (used + count, room - count, octets.saturating_add(size));
        entries.push(Entry {
            batch,
            first,
            count: taken,
            session: connection.session.clone(),
            state: connection.state.clone(),
        });
        kept.push(connection);
    }
    lost
}

fn without_sockets(connection: &KeptConnection) -> Entry {
    Entry {
        batch: 0,
        first: 0,
        count: 0,
        session: connection.session.clone(),
        state: Bytes::new(),
    }
}

/// Has the keeper hold the batches. Gives the connections of those that it does not take.
fn store(link: &Link, entries: &mut [Entry], kept: &mut Vec<KeptConnection>) -> Vec<KeptConnection> {
    let mut failed = Vec::new();
    let mut held: Vec<KeptConnection> = Vec::new();
    let mut places = entries.iter_mut().filter(|entry| entry.count > 0).peekable();
    let mut rest = std::mem::take(kept).into_iter();
    while let Some(batch) = places.peek().map(|entry| entry.batch) {
        let mut members = Vec::new();
        while let Some(entry) = places.next_if(|entry| entry.batch == batch)
            && let Some(connection) = rest.next()
        {
            members.push((entry, connection));
        }
        let sockets: Vec<_> = members
            .iter()
            .flat_map(|(_, connection)| connection.descriptors.iter().map(AsFd::as_fd))
            .collect();
        match link.store(&format!("{BATCH}{batch}"), &sockets) {
            Ok(()) => held.extend(members.into_iter().map(|(_, connection)| connection)),
            Err(error) => {
                tracing::error!("the keeper does not hold connections: {error}");
                for (entry, connection) in members {
                    *entry = without_sockets(&connection);
                    failed.push(connection);
                }
            }
        }
    }
    *kept = held;
    failed
}

fn write(link: &Link, entries: &[Entry]) -> Result<(), LinkError> {
    let length: usize = entries
        .iter()
        .map(|entry| Entry::FIXED + entry.session.len() + entry.state.len())
        .sum();
    let mut body = BytesMut::with_capacity(length);
    entries.iter().for_each(|entry| entry.put(&mut body));
    let size = u64::try_from(HEADER + body.len()).unwrap_or(u64::MAX);
    write_records(&link.memory(MEMORY, size)?, &body)?;
    Ok(())
}

fn write_records(memory: &File, body: &[u8]) -> io::Result<()> {
    // Records that are cut short are none.
    write_header(memory, false, 0, 0)?;
    memory.write_all_at(body, HEADER as u64)?;
    write_header(memory, true, 0, body.len())
}

fn write_header(memory: &File, whole: bool, attempts: u32, length: usize) -> io::Result<()> {
    let mut header = BytesMut::with_capacity(HEADER);
    header.put_slice(MAGIC);
    header.put_u32(u32::from(whole));
    header.put_u32(attempts);
    header.put_u64(u64::try_from(length).unwrap_or(u64::MAX));
    memory.write_all_at(&header, 0)
}

/// The records of a memory, with the number of workers that have tried; `None`: they are not whole.
fn read(memory: &File) -> io::Result<Option<(u32, Bytes)>> {
    let mut header = [0; HEADER];
    memory.read_exact_at(&mut header, 0)?;
    let mut header = &header[..];
    let is_ours = header.starts_with(MAGIC);
    header.advance(MAGIC.len());
    let (whole, attempts, length) = (header.get_u32() == 1, header.get_u32(), header.get_u64());
    let held = memory.metadata()?.len().saturating_sub(HEADER as u64);
    if !is_ours || !whole || length > held {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    write_header(memory, true, attempts.saturating_add(1), length)?;
    let mut body = vec![0; length];
    memory.read_exact_at(&mut body, HEADER as u64)?;
    Ok(Some((attempts, body.into())))
}

/// What the worker before left.
pub(super) struct Before {
    memory: Option<File>,
    names: Vec<String>,
    batches: HashMap<u32, Vec<Option<OwnedFd>>>,
    records: Bytes,
    attempts: u32,
    tunnels: HashMap<TunnelId, OwnedFd>,
    /// Connections that do not go on.
    pub(super) lost: usize,
}

impl Before {
    /// Takes over what is with the keeper, which goes on to hold it until [`Before::release`].
    pub(super) fn take(link: &Link, held: &mut Held) -> Self {
        let (mut names, mut batches) = (Vec::new(), HashMap::new());
        for (name, sockets) in held.take_all(BATCH) {
            let number = name.strip_prefix(BATCH).and_then(|number| number.parse().ok());
            if let Some(number) = number {
                batches.insert(number, sockets.into_iter().map(Some).collect());
            }
            names.push(name);
        }
        let known = link.memories().iter().any(|name| name == MEMORY);
        let memory = known.then(|| link.memory(MEMORY, HEADER as u64));
        let opened = memory.transpose().map_err(|error| error.to_string());
        let read = opened.and_then(|memory| {
            let found = memory.as_ref().map(read).transpose();
            Ok((found.map_err(|error| error.to_string())?.flatten(), memory))
        });
        let (found, memory) = read.unwrap_or_else(|error| {
            tracing::error!("connections from before cannot be read, and end: {error}");
            (None, None)
        });
        let (attempts, records) = found.unwrap_or_default();
        Self {
            memory,
            names,
            batches,
            records,
            attempts,
            tunnels: HashMap::new(),
            lost: 0,
        }
    }

    /// Takes the sessions into the engine and shares the connections among the shards. What cannot go on ends.
    pub(super) fn recall(
        &mut self,
        engine: &Engine,
        config: &Config,
        shards: Shards,
    ) -> Vec<Vec<RestoredConnection>> {
        let mut shares: Vec<Vec<RestoredConnection>> = (0..shards.count()).map(|_| Vec::new()).collect();
        let mut records = std::mem::take(&mut self.records);
        let mut number = 0;
        while !records.is_empty() {
            let Some(entry) = Entry::take(&mut records) else {
                tracing::error!("some connections from before cannot be read, and end");
                break;
            };
            let shard = ShardId(number % shards.count());
            number = number.wrapping_add(1);
            let sockets = self.sockets(&entry);
            if entry.session.is_empty() {
                self.tunnel(&entry, sockets);
                continue;
            }
            match self.session(engine, config, &entry, shard, sockets) {
                Some(restored) => {
                    if let Some(share) = shares.get_mut(usize::from(shard.0)) {
                        share.push(restored);
                    }
                }
                None => self.lost += 1,
            }
        }
        // What has no record cannot go on.
        let rest = self.batches.drain().flat_map(|(_, sockets)| sockets).flatten();
        reset(&rest.collect::<Vec<_>>());
        shares
    }

    /// Notes the connection of a tunnel, whose own record is in the store.
    fn tunnel(&mut self, entry: &Entry, mut sockets: Vec<OwnedFd>) {
        let id = str::from_utf8(&entry.state).ok().and_then(|id| id.parse().ok());
        match (id, sockets.pop()) {
            (Some(id), Some(connection)) if self.attempts < MAX_ATTEMPTS => {
                self.tunnels.insert(id, connection);
            }
            (_, Some(connection)) => reset(&[connection]),
            (_, None) => {}
        }
    }

    /// Gives tunnels of streams their connections. Those without one end: nobody can go on with them.
    pub(super) fn join(
        &mut self,
        tunnels: Vec<(usize, RestoredTunnel)>,
        engine: &Engine,
        config: &Config,
    ) -> Vec<(usize, RestoredTunnel, Option<OwnedFd>)> {
        let mut joined = Vec::with_capacity(tunnels.len());
        for (listener, tunnel) in tunnels {
            let of_streams = config
                .listeners
                .get(listener)
                .is_some_and(|listener| listener.module.descriptor().transport == Transport::Tcp);
            let connection = self.tunnels.remove(&tunnel.tunnel);
            if of_streams && connection.is_none() {
                let reason = "its connection did not outlive the worker";
                let ended = Ended::new(TerminateCause::NasReboot, "not_restored", reason);
                engine.tunnel_down(tunnel.tunnel, &ended, now());
            } else {
                joined.push((listener, tunnel, connection));
            }
        }
        joined
    }

    fn sockets(&mut self, entry: &Entry) -> Vec<OwnedFd> {
        let (first, count) = (usize::from(entry.first), usize::from(entry.count));
        let batch = self.batches.get_mut(&entry.batch);
        let places = batch.and_then(|batch| batch.get_mut(first..first + count));
        let sockets: Vec<OwnedFd> = places.into_iter().flatten().filter_map(Option::take).collect();
        if sockets.len() == count {
            return sockets;
        }
        reset(&sockets);
        Vec::new()
    }

    fn session(
        &self,
        engine: &Engine,
        config: &Config,
        entry: &Entry,
        shard: ShardId,
        sockets: Vec<OwnedFd>,
    ) -> Option<RestoredConnection> {
        let session = match engine.take_in_connection(&entry.session, shard, now()) {
            Ok(session) => session,
            Err(reason) => {
                tracing::error!("a session from before cannot be read, and ends: {reason}");
                reset(&sockets);
                return None;
            }
        };
        let listener = config.listeners.iter().position(|listener| {
            let same_protocol = listener.module.descriptor().name == session.origin.protocol;
            same_protocol && *listener.name == *session.origin.listener
        });
        let reason = if self.attempts >= MAX_ATTEMPTS {
            "workers that were to take it up did not come up".to_owned()
        } else if sockets.is_empty() {
            "its sockets did not outlive a restart".to_owned()
        } else if let Some(listener) = listener {
            return Some(RestoredConnection {
                listener,
                session: session.id,
                state: entry.state.clone(),
                descriptors: sockets,
            });
        } else {
            format!("there is no listener {} any more", session.origin.listener)
        };
        reset(&sockets);
        end(engine, &session, reason);
        None
    }

    /// Has the keeper let go of everything. From then on the connections are this worker's alone.
    pub(super) fn release(&mut self, link: &Link) {
        let Some(memory) = self.memory.take() else {
            return self.forget_sockets(link);
        };
        if let Err(error) = write_header(&memory, false, 0, 0) {
            tracing::error!("what was kept of connections cannot be marked as used: {error}");
        }
        forget(link, MEMORY);
        self.forget_sockets(link);
    }

    fn forget_sockets(&mut self, link: &Link) {
        for name in self.names.drain(..) {
            forget(link, &name);
        }
    }
}

fn end(engine: &Engine, session: &Session, reason: String) {
    let ended = Ended::new(TerminateCause::NasReboot, "not_restored", reason);
    engine.session_down(session.id, &ended, session.counters, now());
}

#[cfg(test)]
mod tests;
