//! Sessions without a tunnel over a restart.

use super::*;
use crate::table::lock;
use crate::{Journal, State};
use bytes::Bytes;
use sluice_testkit::mutate;

const SECOND: Duration = Duration::from_secs(1);

fn open(small: &Small) -> SessionId {
    let opened = small
        .engine
        .session_opening(&origin(0), None, LocalRef(1), &call(1), small.now);
    opened.unwrap()
}

fn up(small: &Small, profile: Profile) -> SessionId {
    let id = open(small);
    small.authorize(id, profile).unwrap();
    assert!(
        small
            .engine
            .session_up(id, &[Fact::new("command", "connect")], small.now)
    );
    id
}

fn streamed(bytes: u64) -> PathStats {
    PathStats {
        rx_bytes: bytes,
        tx_bytes: 2 * bytes,
        ..PathStats::default()
    }
}

fn take_in(small: &Small, record: &Bytes) -> Result<Session, String> {
    small.engine.take_in_connection(record, ShardId(1), small.now)
}

#[test]
fn a_session_goes_on_in_every_field_but_its_shard() {
    let mut small = Small::new(config());
    let id = up(&small, profile("bob@home"));
    small.tick(30);
    small.engine.update_counters(id, streamed(1000), small.now);
    let record = small.engine.connection_record(id).unwrap();
    let before = small.session(id);

    let mut after = small.restart(config(), SECOND);
    let taken = take_in(&after, &record).unwrap();
    assert_eq!((taken.id, taken.state), (id, State::Recovering));
    assert_eq!(after.session(id), taken);
    assert!(after.engine.connection_recovered(id, after.now));
    let expected = Session {
        restored: 1,
        origin: Origin {
            shard: ShardId(1),
            ..before.origin.clone()
        },
        ..before
    };
    assert_eq!(after.session(id), expected);
    assert_eq!(after.engine.table.user_counting("bob@home"), 1);
    assert_eq!(lock(&after.engine.admission).counts().0, 1);
    assert_eq!(after.engine.totals().recovered, 1);
    // What it carries is counted from its beginning, not from the restart.
    after.tick(1);
    after.engine.update_counters(id, streamed(1500), after.now);
    assert_eq!(after.session(id).counters, streamed(1500));
    assert!(after.engine.session_down(id, &ended(), streamed(1600), after.now));
    assert_eq!(after.engine.table.sizes(), [0; 6]);
    assert_eq!(after.journal.load().unwrap(), []);
    let last = after.heard.take();
    let Some(EngineEvent::SessionDown(session)) = last.last() else {
        panic!("{last:?}")
    };
    assert_eq!((session.id, session.counters), (id, streamed(1600)));
}

#[test]
fn what_has_a_tunnel_or_is_being_ended_has_no_record() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let carried = small.up(tunnel, 1, profile("bob"));
    assert_eq!(small.engine.connection_record(carried), None);
    let ending = up(&small, profile("carol"));
    assert!(small.engine.end_session(ending, TerminateCause::AdminReset));
    assert_eq!(small.engine.connection_record(ending), None);
}

#[test]
fn a_record_is_taken_once_and_not_when_it_is_damaged() {
    let small = Small::new(config());
    let id = up(&small, profile("bob"));
    let record = small.engine.connection_record(id).unwrap();
    assert!(take_in(&small, &record).is_err(), "it is at work");
    let after = small.restart(config(), SECOND);
    for damaged in mutate::all(&record, 3, 300) {
        if damaged != record {
            assert!(take_in(&after, &damaged.into()).is_err());
        }
    }
    assert_eq!(after.engine.table.sizes(), [0; 6]);
    take_in(&after, &record).unwrap();
    assert!(take_in(&after, &record).is_err());
}

#[test]
fn timeouts_go_on_with_what_is_left_and_bytes_are_signs_of_life() {
    let mut small = Small::new(config());
    let limited = Profile {
        session_timeout: Some(1000 * SECOND),
        idle_timeout: Some(300 * SECOND),
        ..profile("bob")
    };
    let id = up(&small, limited);
    small.tick(200);
    small.engine.update_counters(id, streamed(1), small.now);
    small.tick(200);
    let record = small.engine.connection_record(id).unwrap();
    let mut after = small.restart(config(), SECOND);
    take_in(&after, &record).unwrap();
    after.engine.connection_recovered(id, after.now);
    let shard = ShardId(1);
    assert_eq!(after.engine.due(shard, after.now), []);
    after.tick(98);
    assert_eq!(after.engine.due(shard, after.now), []);
    after.engine.update_counters(id, streamed(2), after.now);
    after.tick(299);
    assert_eq!(after.engine.due(shard, after.now), []);
    after.tick(1);
    assert_eq!(
        after.engine.due(shard, after.now),
        [(id, TerminateCause::IdleTimeout)]
    );
}

#[test]
fn who_waits_for_a_peer_goes_on_to_wait_without_an_end_of_the_engines() {
    let mut small = Small::new(config());
    let hurried = open(&small);
    let id = open(&small);
    small.authorize(id, profile("bob")).unwrap();
    small.engine.waits_for_peer(id);
    small.tick(60);
    let due = small.engine.due(ShardId(0), small.now);
    assert_eq!(due, [(hurried, TerminateCause::LostCarrier)]);
    let record = small.engine.connection_record(id).unwrap();
    let before = small.session(id);

    let mut after = small.restart(config(), SECOND);
    take_in(&after, &record).unwrap();
    assert!(after.engine.connection_recovered(id, after.now));
    assert!(!after.engine.connection_recovered(id, after.now));
    let waiting = after.session(id);
    assert_eq!((waiting.state, waiting.established), (State::Establishing, None));
    assert_eq!((waiting.created, waiting.restored), (before.created, 1));
    // It is still one of those that are not established, and of its user's sessions.
    assert_eq!(lock(&after.engine.admission).counts().1, 1);
    assert_eq!(after.engine.table.user_counting("bob"), 1);
    after.tick(100_000);
    assert_eq!(after.engine.due(ShardId(1), after.now), []);
    assert!(after.engine.session_up(id, &[], after.now));
    assert_eq!(lock(&after.engine.admission).counts().1, 0);
    assert!(after.engine.session_down(id, &ended(), streamed(1), after.now));
    assert_eq!(after.engine.table.sizes(), [0; 6]);

    // One that ends before its peer has come is not counted any more either.
    let last = small.restart(config(), SECOND);
    take_in(&last, &record).unwrap();
    last.engine.connection_recovered(id, last.now);
    assert!(
        last.engine
            .session_down(id, &ended(), PathStats::default(), last.now)
    );
    assert_eq!(lock(&last.engine.admission).counts(), (0, 0, 0, 0));
}
