use super::*;
use crate::table::lock;
use crate::{Journal, JournalError, Loaded, Record, State, Table, Tunnel};
use bytes::Bytes;
use proptest::prelude::*;
use sluice_auth::AddressRule;
use sluice_spi::checkpoint;

const SECOND: Duration = Duration::from_secs(1);

fn module_state() -> Bytes {
    checkpoint::seal(9, b"state of the machine")
}

/// A tunnel with two established sessions, one that is being set up, and a record.
fn with_record(small: &Small) -> (TunnelId, [SessionId; 2]) {
    let tunnel = small.tunnel(16);
    let ids = [
        small.up(tunnel, 1, profile("bob@home")),
        small.up(tunnel, 2, profile("carol")),
    ];
    let opening = small.open(tunnel, 3);
    small.authorize(opening, profile("dave")).unwrap();
    assert!(small.engine.checkpoint(tunnel, Some(module_state()), small.now));
    (tunnel, ids)
}

fn load(small: &Small) -> Loaded {
    let records = small.journal.load().unwrap();
    small.engine.load(records, &shard_of, small.now)
}

fn recover(small: &Small, loaded: &Loaded) {
    for tunnel in &loaded.tunnels {
        let locals: Vec<LocalRef> = tunnel.sessions.iter().map(|(local, _)| *local).collect();
        let info = tunnel_info(tunnel.key.0, tunnel.key.0);
        let unknown = small.engine.recovered(tunnel.tunnel, &info, &locals, small.now);
        assert_eq!(unknown, []);
    }
}

#[test]
fn a_restored_session_is_the_live_one_in_every_field() {
    let mut small = Small::new(config());
    small.now.wall += Duration::from_nanos(1_234_567);
    let (tunnel, ids) = with_record(&small);
    small.tick(30);
    small.engine.update_counters(ids[0], stats(1000), small.now);
    small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    let before: Vec<Session> = ids.iter().map(|id| small.session(*id)).collect();
    let tunnel_before = small.engine.tunnel(tunnel).unwrap();

    let after = small.restart(config(), SECOND);
    let loaded = load(&after);
    assert_eq!((loaded.sessions, loaded.set_aside), (2, 0));
    let restored = &loaded.tunnels[0];
    assert_eq!(restored.checkpoint, module_state());
    assert_eq!(restored.sessions, [(LocalRef(1), ids[0]), (LocalRef(2), ids[1])]);
    assert_eq!((restored.key, restored.peer), (MachineKey(16), peer(16)));
    for id in ids {
        assert_eq!(after.session(id).state, State::Recovering);
    }
    recover(&after, &loaded);
    for before in &before {
        let now = after.session(before.id);
        let expected = Session {
            restored: 1,
            ..before.clone()
        };
        assert_eq!(now, expected);
        assert_eq!(after.engine.holder(small.ipv4(before.id)), Some(before.id));
    }
    let tunnel_after = after.engine.tunnel(tunnel).unwrap();
    assert_eq!(tunnel_after.sessions, 2);
    assert_eq!(
        tunnel_after,
        Tunnel {
            sessions: 2,
            restored: 1,
            ..tunnel_before
        }
    );
    assert_eq!(after.engine.totals().recovered, 2);
    assert_eq!(after.heard.names(), ["tunnel_recovered"]);
    assert_eq!(lock(&after.engine.admission).counts().0, 2);
    assert_eq!(after.engine.table.user_counting("bob@home"), 1);
}

#[test]
fn a_session_that_was_being_set_up_is_dropped_silently() {
    let small = Small::new(config());
    with_record(&small);
    let after = small.restart(config(), SECOND);
    load(&after);
    let query = crate::SessionQuery::default();
    let users: Vec<_> = after.engine.sessions(&query).items;
    assert!(users.iter().all(|session| session.user() != Some("dave")));
    assert_eq!(after.engine.pools()[0].ipv4.unwrap().held, 2);
}

#[test]
fn the_shard_is_the_one_that_owns_the_machine_now() {
    let small = Small::new(config());
    let tunnel = small
        .engine
        .tunnel_up(&origin(0), &tunnel_info(17, 17), small.now)
        .unwrap();
    let id = small.up(tunnel, 1, profile("bob"));
    small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    let after = small.restart(config(), SECOND);
    let loaded = load(&after);
    assert_eq!(loaded.tunnels[0].origin.shard, ShardId(1));
    assert_eq!(after.engine.find_owner(id).unwrap().shard, ShardId(1));
}

#[test]
fn identifiers_minted_after_a_restart_are_later_than_restored_ones() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    let mut after = small.restart(config(), SECOND);
    // The clock was lost.
    after.now.wall = SystemTime::UNIX_EPOCH;
    load(&after);
    assert!(after.open(tunnel, 9) > ids[1]);
    assert!(after.tunnel(40) > tunnel);
}

#[test]
fn sessions_that_did_not_come_back_end_and_unknown_ones_are_named() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    let after = small.restart(config(), SECOND);
    load(&after);
    let info = tunnel_info(16, 16);
    let unknown = after
        .engine
        .recovered(tunnel, &info, &[LocalRef(2), LocalRef(7)], after.now);
    assert_eq!(unknown, [LocalRef(7)]);
    let lost = after.session(ids[0]);
    assert_eq!(lost.state, State::Closed);
    assert_eq!(lost.end.unwrap().code, "not_recovered");
    assert_eq!(after.session(ids[1]).state, State::Established);
    assert_eq!(after.heard.names(), ["session_down", "tunnel_recovered"]);
    assert_eq!(after.engine.pools()[0].ipv4.unwrap().held, 1);
}

#[test]
fn counters_never_go_back_over_restarts() {
    let mut small = Small::new(config());
    let (_, ids) = with_record(&small);
    let mut last = 0;
    for round in 1..=5u64 {
        small.tick(10);
        small.engine.update_counters(ids[0], stats(100), small.now);
        let total = small.session(ids[0]).counters.rx_packets;
        assert_eq!(total, round * 100);
        assert!(total > last);
        last = total;
        // The tunnel's own record still has the counters of its beginning.
        small = small.restart(config(), SECOND);
        let loaded = load(&small);
        recover(&small, &loaded);
        assert_eq!(small.session(ids[0]).counters.rx_packets, last);
    }
    assert!(small.down(ids[0]));
    assert_eq!(small.session(ids[0]).counters.rx_packets, last);
    let left = small.journal.load().unwrap();
    assert!(left.iter().all(|record| record.table != Table::Counters));
}

#[test]
fn counters_are_journalled_no_more_often_than_told() {
    let mut small = Small::new(config());
    let (_, ids) = with_record(&small);
    let stored = |small: &Small| {
        let records = small.journal.load().unwrap();
        let mut counters = records.into_iter().filter(|r| r.table == Table::Counters);
        counters.next().map(|record| record.value)
    };
    small.engine.update_counters(ids[0], stats(10), small.now);
    let first = stored(&small).unwrap();
    small.tick(4);
    small.engine.update_counters(ids[0], stats(20), small.now);
    assert_eq!(stored(&small), Some(first.clone()));
    small.tick(1);
    // Nothing new, but what was counted before is not yet kept.
    small.engine.update_counters(ids[0], stats(20), small.now);
    let second = stored(&small).unwrap();
    assert_ne!(first, second);
    small.tick(100);
    small.engine.update_counters(ids[0], stats(20), small.now);
    assert_eq!(stored(&small), Some(second));
}

#[test]
fn timeouts_go_on_where_they_were() {
    let mut config = config();
    config.defaults.session_timeout = Some(1000 * SECOND);
    config.defaults.idle_timeout = Some(300 * SECOND);
    let mut small = Small::new(config.clone());
    let (tunnel, ids) = with_record(&small);
    small.tick(200);
    small.engine.update_counters(ids[0], stats(5), small.now);
    small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    small.tick(50);
    let mut after = small.restart(config, 10 * SECOND);
    let loaded = load(&after);
    recover(&after, &loaded);
    let mut ended = Vec::new();
    for second in 261..=1000u64 {
        after.tick(1);
        if second < 990 {
            after
                .engine
                .update_counters(ids[0], stats(second * u64::from(second > 400)), after.now);
        }
        for (id, cause) in after.engine.due(ShardId(0), after.now) {
            ended.push((second, id, cause));
        }
    }
    // The second was silent for 260 s: it gets the grace instead of the 40 s that are left.
    assert_eq!(
        ended,
        [
            (320, ids[1], TerminateCause::IdleTimeout),
            (1000, ids[0], TerminateCause::SessionTimeout)
        ]
    );
}

#[test]
fn a_session_whose_time_is_over_is_due_at_once() {
    let mut config = config();
    config.defaults.session_timeout = Some(100 * SECOND);
    let small = Small::new(config.clone());
    let (_, ids) = with_record(&small);
    let after = small.restart(config, 100 * SECOND);
    let loaded = load(&after);
    recover(&after, &loaded);
    assert_eq!(
        after.engine.due(ShardId(0), after.now),
        ids.map(|id| (id, TerminateCause::SessionTimeout))
    );
}

#[test]
fn a_tunnel_whose_checkpoint_is_unusable_is_set_aside() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    let after = small.restart(config(), SECOND);
    load(&after);
    assert!(
        after
            .engine
            .forget(tunnel, "checkpoint not usable: truncated", after.now)
    );
    assert!(!after.engine.forget(tunnel, "again", after.now));
    let aside = after.journal.aside();
    assert_eq!(aside.len(), 1);
    assert_eq!(aside[0].1, "checkpoint not usable: truncated");
    let left = after.journal.load().unwrap();
    assert!(left.iter().all(|record| record.table == Table::Leases));
    assert_eq!(after.session(ids[0]).end.unwrap().code, "not_restored");
    assert_eq!(after.engine.table.sizes(), [0; 6]);
    assert_eq!(after.engine.totals().set_aside, 1);
}

#[test]
fn a_tunnel_at_work_is_not_forgotten() {
    let small = Small::new(config());
    let (tunnel, _) = with_record(&small);
    assert!(!small.engine.forget(tunnel, "no", small.now));
    assert!(small.engine.tunnel(tunnel).is_some());
}

#[test]
fn a_record_loses_against_a_living_tunnel() {
    let small = Small::new(config());
    let (tunnel, _) = with_record(&small);
    let loaded = load(&small);
    assert_eq!((loaded.tunnels.len(), loaded.set_aside), (0, 1));
    assert_eq!(small.engine.tunnel(tunnel).unwrap().sessions, 3);
    assert_eq!(small.engine.pools()[0].ipv4.unwrap().held, 3);
}

#[test]
fn a_checkpoint_before_the_recovery_is_told_forgets_no_session() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    let after = small.restart(config(), SECOND);
    load(&after);
    after.engine.checkpoint(tunnel, Some(module_state()), after.now);
    let again = after.restart(config(), SECOND);
    let loaded = load(&again);
    assert_eq!(loaded.sessions, 2);
    recover(&again, &loaded);
    assert_eq!(again.session(ids[0]).restored, 2);
}

#[test]
fn the_record_goes_with_the_tunnel_or_with_what_could_go_on() {
    let small = Small::new(config());
    let (tunnel, _) = with_record(&small);
    assert!(small.engine.checkpoint(tunnel, None, small.now));
    assert!(small.journal.load().unwrap().is_empty());
    small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    assert_eq!(small.journal.load().unwrap().len(), 1);
    small.engine.tunnel_down(tunnel, &ended(), small.now);
    let left = small.journal.load().unwrap();
    assert!(left.iter().all(|record| record.table == Table::Leases));
    assert!(!small.engine.checkpoint(tunnel, Some(module_state()), small.now));
}

/// The records of two gateways that gave the same address, as after a failed merge of states.
fn twice(later: Duration) -> (Vec<Record>, TunnelId) {
    let mut config = config();
    config.pools.clear();
    config.defaults = Default::default();
    let fixed = Profile {
        ipv4: AddressRule::Static([10, 0, 0, 9].into()),
        ..profile("bob")
    };
    let mut records = Vec::new();
    let mut newest = None;
    for (seed, key) in [(1, 16), (2, 32)] {
        let base = Small::new(config.clone());
        let now = base.now.after(later * u32::try_from(seed).unwrap());
        let small = Small::on(Arc::new(MemoryJournal::new()), config.clone(), now, seed);
        let tunnel = small.tunnel(key);
        small.up(tunnel, 1, fixed.clone());
        small.engine.checkpoint(tunnel, Some(module_state()), small.now);
        records.extend(small.journal.load().unwrap());
        newest = Some(tunnel);
    }
    (records, newest.unwrap())
}

#[test]
fn where_two_records_hold_one_address_the_newer_one_is_right() {
    let (mut records, newest) = twice(SECOND);
    for _ in 0..2 {
        let small = Small::new(config());
        let loaded = small.engine.load(records.clone(), &shard_of, small.now);
        assert_eq!(loaded.tunnels.len(), 1);
        assert_eq!(loaded.tunnels[0].tunnel, newest);
        assert_eq!(loaded.set_aside, 1);
        assert!(small.journal.aside()[0].1.contains("10.0.0.9"));
        assert_eq!(small.engine.table.sizes()[..2], [1, 1]);
        records.reverse();
    }
}

#[test]
fn two_tunnels_with_one_key_are_not_both_restored() {
    let small = Small::new(config());
    let first = small.tunnel(16);
    let second = small.tunnel(16);
    for tunnel in [first, second] {
        small.up(tunnel, 1, profile("bob"));
        small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    }
    let after = small.restart(config(), SECOND);
    let loaded = load(&after);
    assert_eq!((loaded.tunnels.len(), loaded.set_aside), (1, 1));
}

#[test]
fn records_of_newer_formats_and_unknown_protocols_are_set_aside() {
    let small = Small::new(config());
    with_record(&small);
    let mut records = small.journal.load().unwrap();
    let (_, body) = checkpoint::open(&records[0].value).unwrap();
    records[0].value = checkpoint::seal(2, body.rest());
    let apart = Small::on(Arc::new(MemoryJournal::new()), config(), small.now, 3);
    let loaded = apart.engine.load(records, &shard_of, small.now);
    assert_eq!((loaded.tunnels.len(), loaded.set_aside), (0, 1));

    let mut other = config();
    other.protocols = vec!["pptp"];
    let after = small.restart(other, SECOND);
    assert_eq!(load(&after).set_aside, 1);
    assert_eq!(after.heard.names(), ["record_set_aside"]);
    assert_eq!(after.journal.aside().len(), 1);
    assert_eq!(after.journal.aside()[0].1, "invalid protocol");
}

#[test]
fn counters_without_a_session_are_deleted() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    small.engine.update_counters(ids[0], stats(10), small.now);
    let key = crate::record::tunnel_key(tunnel);
    small.journal.delete(Table::Tunnels, key).unwrap();
    let after = small.restart(config(), SECOND);
    let loaded = load(&after);
    assert_eq!((loaded.outdated, loaded.set_aside), (1, 0));
    assert!(after.journal.load().unwrap().is_empty());
}

#[test]
fn a_failing_journal_is_told_once_and_harms_no_session() {
    let small = Small::new(config());
    let (tunnel, ids) = with_record(&small);
    small.heard.take();
    small
        .journal
        .fail_with(Some(JournalError::ReadOnly("input/output error".into())));
    for _ in 0..3 {
        small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    }
    small.up(tunnel, 9, profile("erin"));
    let names = small.heard.names();
    assert_eq!(names.iter().filter(|name| **name == "journal_failing").count(), 1);
    assert_eq!(small.session(ids[0]).state, State::Established);
    assert_eq!(small.engine.totals().journal_failures, 3);
    small.journal.fail_with(None);
    small.engine.checkpoint(tunnel, Some(module_state()), small.now);
    assert_eq!(small.heard.names(), ["journal_failing"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes change, a record is either taken as it was or set aside, and nothing panics.
    #[test]
    fn damaged_records_are_set_aside(
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let small = Small::new(config());
        with_record(&small);
        let record = small.journal.load().unwrap().remove(0);
        let mut damaged = record.value.to_vec();
        let at = place.index(damaged.len());
        damaged[at] ^= flip;
        let cut = record.value.slice(..cut.index(record.value.len()));
        for value in [Bytes::from(damaged), cut] {
            let journal = Arc::new(MemoryJournal::new());
            let after = Small::on(journal, config(), small.now, 3);
            let record = Record { value, ..record.clone() };
            let loaded = after.engine.load(vec![record], &shard_of, after.now);
            prop_assert_eq!((loaded.tunnels.len(), loaded.set_aside), (0, 1));
        }
    }

    /// The same with a checksum that fits: what is read is whole, and a record can be written from it again.
    #[test]
    fn forged_bodies_never_break_the_table(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let small = Small::new(config());
        with_record(&small);
        let record = small.journal.load().unwrap().remove(0);
        let (format, body) = checkpoint::open(&record.value).unwrap();
        let mut body = body.rest().to_vec();
        for (place, value) in changes {
            let at = place.index(body.len());
            body[at] = value;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        let forged = Record { value: checkpoint::seal(format, &body), ..record };
        let after = Small::on(Arc::new(MemoryJournal::new()), config(), small.now, 3);
        let loaded = after.engine.load(vec![forged], &shard_of, after.now);
        prop_assert_eq!(loaded.tunnels.len() + loaded.set_aside, 1);
        recover(&after, &loaded);
        after.engine.due(ShardId(0), after.now);
        for tunnel in &loaded.tunnels {
            after.engine.tunnel_down(tunnel.tunnel, &ended(), after.now);
        }
        prop_assert_eq!(after.engine.table.sizes(), [0; 6]);
        prop_assert_eq!(lock(&after.engine.admission).counts(), (0, 0, 0, 0));
        prop_assert_eq!(after.engine.pools()[0].ipv4.unwrap().held, 0);
    }
}
