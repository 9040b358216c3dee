use super::*;
use sluice_core::{EngineEvent, MemoryJournal, Observer, Origin, SessionId, State};
use sluice_registry::MODULES;
use sluice_spi::{CallInfo, LocalRef, PeerAddr, SessionKind};
use sluice_testkit::{Seeded, mutate};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Heard(Mutex<Vec<(SessionId, String)>>);

impl Observer for Heard {
    fn on_event(&self, event: &EngineEvent) {
        if let EngineEvent::SessionDown(session) = event {
            let end = session.end.as_ref().unwrap();
            assert_eq!((end.cause, end.code), (TerminateCause::NasReboot, "not_restored"));
            self.0.lock().unwrap().push((session.id, end.text.clone()));
        }
    }
}

fn config() -> Config {
    let text = "[[listener]]\nprotocol = \"socks\"\naddresses = [\"127.0.0.1:1080\"]\n";
    Config::parse("test", text, MODULES).unwrap()
}

fn engine() -> (Engine, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let journal = Arc::new(MemoryJournal::new());
    let engine = Engine::new(config().engine, journal, heard.clone(), Box::new(Seeded::new(1)));
    (engine, heard)
}

/// The record of an established session of a listener.
fn record(engine: &Engine, listener: &str, port: u16) -> (SessionId, Bytes) {
    let origin = Origin {
        protocol: "socks",
        listener: listener.into(),
        shard: ShardId(3),
    };
    let call = CallInfo {
        kind: SessionKind::Connection,
        peer: PeerAddr {
            remote: ([192, 0, 2, 1], port).into(),
            local: ([192, 0, 2, 9], 1080).into(),
        },
        calling: None,
        called: None,
        label: None,
    };
    let opened = engine.session_opening(&origin, None, LocalRef(1), &call, now());
    let id = opened.unwrap();
    assert!(engine.session_up(id, &[], now()));
    (id, engine.connection_record(id).unwrap())
}

/// A connection with sockets, and their other ends.
fn connection(session: Bytes, sockets: usize, state: &[u8]) -> (KeptConnection, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut descriptors, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..sockets {
        ends.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        descriptors.push(listener.accept().unwrap().0.into());
    }
    let kept = KeptConnection {
        session,
        state: Bytes::copy_from_slice(state),
        descriptors,
    };
    (kept, ends)
}

fn was_reset(end: &mut TcpStream) -> bool {
    let read = end.read(&mut [0; 8]);
    read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// The memory after these records were written.
fn memory(entries: &[Entry]) -> File {
    let mut body = BytesMut::new();
    entries.iter().for_each(|entry| entry.put(&mut body));
    let memory = tempfile::tempfile().unwrap();
    write_records(&memory, &body).unwrap();
    memory
}

fn before(records: Bytes, attempts: u32, batches: Vec<(u32, Vec<OwnedFd>)>) -> Before {
    let batches = batches.into_iter();
    Before {
        memory: None,
        names: Vec::new(),
        batches: batches
            .map(|(number, sockets)| (number, sockets.into_iter().map(Some).collect()))
            .collect(),
        records,
        attempts,
        tunnels: HashMap::new(),
        lost: 0,
    }
}

/// What the keeper would hold, by batch.
fn batches(entries: &[Entry], kept: Vec<KeptConnection>) -> Vec<(u32, Vec<OwnedFd>)> {
    let mut batches: Vec<(u32, Vec<OwnedFd>)> = Vec::new();
    let places = entries.iter().filter(|entry| entry.count > 0);
    for (entry, connection) in places.zip(kept) {
        if batches.last().is_none_or(|(number, _)| *number != entry.batch) {
            batches.push((entry.batch, Vec::new()));
        }
        let (_, sockets) = batches.last_mut().unwrap();
        assert_eq!(sockets.len(), usize::from(entry.first));
        sockets.extend(connection.descriptors);
        assert!(sockets.len() <= MAX_PER_MESSAGE);
    }
    batches
}

#[test]
fn what_there_is_no_room_for_is_reset_and_the_others_stay() {
    let (engine, _) = engine();
    let (_, session) = record(&engine, "socks", 1);
    let (mut connections, mut ends) = (Vec::new(), Vec::new());
    for count in [2, 4, 3, 2, 2] {
        let (connection, mut others) = connection(session.clone(), count, b"state");
        connections.push(connection);
        ends.append(&mut others);
    }
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    assert_eq!(sort(connections, 8, &mut entries, &mut kept), 2);
    let counts: Vec<u8> = entries.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, [2, 4, 0, 2, 0]);
    assert_eq!(kept.len(), 3);
    let lost: Vec<usize> = (0..ends.len())
        .filter(|&end| {
            ends[end].set_nonblocking(true).unwrap();
            was_reset(&mut ends[end])
        })
        .collect();
    assert_eq!(lost, [6, 7, 8, 11, 12]);
    assert!(entries[2].state.is_empty() && !entries[2].session.is_empty());
}

#[test]
fn records_are_bounded() {
    let (engine, _) = engine();
    let (_, session) = record(&engine, "socks", 1);
    let state = Bytes::from(vec![0; 100 << 20]);
    let connections = (0..4).map(|_| KeptConnection {
        session: session.clone(),
        state: state.clone(),
        descriptors: vec![tempfile::tempfile().unwrap().into()],
    });
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    assert_eq!(sort(connections.collect(), 100, &mut entries, &mut kept), 2);
    assert_eq!((entries.len(), kept.len()), (4, 2));
}

#[test]
fn all_go_on_each_on_a_shard_that_there_is_with_its_own_sockets() {
    let (old, _) = engine();
    let (mut connections, mut ids, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    // More sockets than one batch has.
    for port in 1..=100 {
        let (id, session) = record(&old, "socks", port);
        let (connection, others) = connection(session, 3, &port.to_be_bytes());
        ids.push(id);
        connections.push(connection);
        ends.push(others);
    }
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    assert_eq!(sort(connections, 1000, &mut entries, &mut kept), 0);
    let memory = memory(&entries);
    let (attempts, records) = read(&memory).unwrap().unwrap();
    let (engine, heard) = engine();
    let mut before = before(records, attempts, batches(&entries, kept));
    let shares = before.recall(&engine, &config(), Shards::new(2));
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [50, 50]);
    assert_eq!((before.lost, heard.0.lock().unwrap().len()), (0, 0));
    for (shard, share) in shares.into_iter().enumerate() {
        for restored in share {
            let number = ids.iter().position(|id| *id == restored.session).unwrap();
            assert_eq!(&restored.state[..], (number as u16 + 1).to_be_bytes());
            let session = engine.session(restored.session).unwrap();
            assert_eq!(session.state, State::Recovering);
            assert_eq!(usize::from(session.origin.shard.0), shard);
            let theirs = restored.descriptors.into_iter().map(TcpStream::from);
            for (ours, theirs) in ends[number].iter().zip(theirs) {
                assert_eq!(theirs.peer_addr().unwrap(), ours.local_addr().unwrap());
            }
        }
    }
}

#[test]
fn what_cannot_go_on_ends_in_the_history_and_by_a_reset() {
    let (old, _) = engine();
    let (mut connections, mut ids, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (port, listener) in [(1, "socks"), (2, "gone"), (3, "socks")] {
        let (id, session) = record(&old, listener, port);
        let (connection, mut others) = connection(session, 1, b"state");
        ids.push(id);
        connections.push(connection);
        ends.append(&mut others);
    }
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    sort(connections, 100, &mut entries, &mut kept);
    let mut held = batches(&entries, kept);
    // The last one's socket did not arrive, and one came that nobody knows.
    held[0].1.pop();
    let (stray, mut others) = connection(Bytes::new(), 1, b"");
    ends.append(&mut others);
    held.push((7, stray.descriptors));
    let mut body = BytesMut::new();
    entries.iter().for_each(|entry| entry.put(&mut body));
    let (engine, heard) = engine();
    let mut before = before(body.freeze(), 0, held);
    let shares = before.recall(&engine, &config(), Shards::new(1));
    assert_eq!(shares[0].len(), 1);
    assert_eq!((shares[0][0].session, before.lost), (ids[0], 2));
    let heard = heard.0.lock().unwrap().clone();
    let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "there is no listener gone any more",
            "its sockets did not outlive a restart"
        ]
    );
    assert_eq!((heard[0].0, heard[1].0), (ids[1], ids[2]));
    assert!(was_reset(&mut ends[1]) && was_reset(&mut ends[3]));
}

#[test]
fn workers_that_do_not_come_up_are_not_tried_for_ever() {
    let (old, _) = engine();
    let (id, session) = record(&old, "socks", 1);
    let (connection, mut ends) = connection(session, 1, b"state");
    let (mut entries, mut kept) = (Vec::new(), Vec::new());
    sort(vec![connection], 100, &mut entries, &mut kept);
    let memory = memory(&entries);
    for attempt in 0..MAX_ATTEMPTS {
        assert_eq!(read(&memory).unwrap().unwrap().0, attempt);
    }
    let (attempts, records) = read(&memory).unwrap().unwrap();
    let (engine, heard) = engine();
    let mut before = before(records, attempts, batches(&entries, kept));
    assert_eq!(before.recall(&engine, &config(), Shards::new(1))[0].len(), 0);
    assert_eq!(before.lost, 1);
    assert_eq!(heard.0.lock().unwrap()[0].0, id);
    assert!(was_reset(&mut ends[0]));
    // Once they are released nobody takes them up again.
    write_header(&memory, false, 0, 0).unwrap();
    assert!(read(&memory).unwrap().is_none());
}

#[test]
fn damaged_records_are_no_connections_and_no_end_of_the_worker() {
    let (old, _) = engine();
    let (_, session) = record(&old, "socks", 1);
    let entry = Entry {
        batch: 0,
        first: 0,
        count: 2,
        session,
        state: Bytes::from_static(b"state"),
    };
    let mut body = BytesMut::new();
    entry.put(&mut body);
    assert_eq!(Entry::take(&mut body.clone().freeze()), Some(entry));
    let ((engine, _), config) = (engine(), config());
    for damaged in mutate::all(&body, 1, 300) {
        let mut before = before(damaged.into(), 0, Vec::new());
        assert_eq!(before.recall(&engine, &config, Shards::new(1))[0].len(), 0);
        assert!(engine.totals().sessions.is_empty());
    }
    let whole = memory(&[]);
    write_header(&whole, true, 0, 1).unwrap();
    assert!(read(&whole).unwrap().is_none(), "longer than the memory");
}
