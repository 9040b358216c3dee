//! What a journal that has failed is given.

use super::*;
use crate::{Journal, JournalError, Living, Record, State, Table};
use bytes::Bytes;
use sluice_spi::checkpoint;
use std::ops::ControlFlow;

fn module_state(number: u8) -> Bytes {
    checkpoint::seal(9, &[number])
}

fn fail(small: &Small) {
    let error = JournalError::ReadOnly("no room on the disk".to_owned());
    small.journal.fail_with(Some(error));
}

fn recover(small: &Small) {
    small.journal.recover(&small.engine, &|| small.now.wall);
}

/// The sessions that go on after a crash, with the checkpoints of their tunnels.
fn after_a_crash(small: &Small) -> (Small, Vec<(Bytes, Vec<SessionId>)>) {
    let after = small.restart(config(), Duration::from_secs(1));
    let records = after.journal.load().unwrap();
    let loaded = after.engine.load(records, &shard_of, after.now);
    assert_eq!((loaded.set_aside, loaded.outdated), (0, 0));
    let tunnels = loaded.tunnels.into_iter().map(|tunnel| {
        let ids = tunnel.sessions.iter().map(|(_, id)| *id).collect();
        (tunnel.checkpoint, ids)
    });
    let tunnels = tunnels.collect();
    (after, tunnels)
}

#[test]
fn who_came_and_went_while_the_store_failed_is_in_the_journal_as_it_is_now() {
    let mut small = Small::new(config());
    let (gone, stays) = (small.tunnel(16), small.tunnel(32));
    small.up(gone, 1, profile("ann"));
    let (left, held) = (
        small.up(stays, 1, profile("bob")),
        small.up(stays, 2, profile("carol")),
    );
    small.engine.checkpoint(gone, Some(module_state(1)), small.now);
    small.engine.checkpoint(stays, Some(module_state(2)), small.now);
    small.engine.update_counters(held, stats(10), small.now);
    fail(&small);
    small.engine.tunnel_down(gone, &ended(), small.now);
    small.down(left);
    let next = small.up(stays, 3, profile("dave"));
    small.engine.checkpoint(stays, Some(module_state(3)), small.now);
    let came = small.tunnel(48);
    let new = small.up(came, 1, profile("erin"));
    small.engine.checkpoint(came, Some(module_state(4)), small.now);
    small.tick(400);
    small.engine.update_counters(held, stats(1000), small.now);
    recover(&small);

    let (after, mut tunnels) = after_a_crash(&small);
    tunnels.sort();
    assert_eq!(
        tunnels,
        [(module_state(3), vec![held, next]), (module_state(4), vec![new])]
    );
    for id in [held, next, new] {
        let expected = Session {
            state: State::Recovering,
            restored: 1,
            ..small.session(id)
        };
        assert_eq!(after.session(id), expected);
    }
    assert_eq!(after.session(held).counters, stats(1000));
    // Whoever left while the store failed finds its address when it comes back.
    let kept = |small: &Small| {
        let leases = small.engine.leases(&Default::default()).items.into_iter();
        let kept = leases.filter(|lease| matches!(lease.status, crate::LeaseStatus::Kept { .. }));
        kept.map(|lease| (lease.user, lease.address)).collect::<Vec<_>>()
    };
    assert_eq!(kept(&after), kept(&small));
    assert_eq!(kept(&after).len(), 4, "ann and bob, both families");
}

#[test]
fn a_session_under_the_name_of_one_that_went_is_not_taken_for_it() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let (first, stays) = (
        small.up(tunnel, 1, profile("ann")),
        small.up(tunnel, 2, profile("bob")),
    );
    small.engine.checkpoint(tunnel, Some(module_state(1)), small.now);
    fail(&small);
    small.down(first);
    // The machine's last checkpoint has the first session under this name.
    let second = small.up(tunnel, 1, profile("mallory"));
    recover(&small);
    let (after, tunnels) = after_a_crash(&small);
    assert_eq!(tunnels, [(module_state(1), vec![stays])]);
    assert!(after.engine.session(second).is_none());
    // With the next checkpoint it is the one that is meant.
    small.engine.checkpoint(tunnel, Some(module_state(2)), small.now);
    recover(&small);
    let (_, tunnels) = after_a_crash(&small);
    assert_eq!(tunnels, [(module_state(2), vec![second, stays])]);
}

#[test]
fn a_machine_that_has_nothing_to_go_on_with_has_no_record() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    small.up(tunnel, 1, profile("ann"));
    small.engine.checkpoint(tunnel, Some(module_state(1)), small.now);
    fail(&small);
    small.engine.checkpoint(tunnel, None, small.now);
    recover(&small);
    assert!(small.journal.load().unwrap().is_empty());
}

#[test]
fn a_restored_tunnel_that_waits_for_its_machine_keeps_its_record() {
    let mut small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("ann"));
    small.engine.checkpoint(tunnel, Some(module_state(1)), small.now);
    small.tick(400);
    small.engine.update_counters(id, stats(1000), small.now);
    let record = |small: &Small| -> Record {
        let mut records = small.journal.load().unwrap().into_iter();
        records.find(|record| record.table == Table::Tunnels).unwrap()
    };
    let written = record(&small);
    let (after, _) = after_a_crash(&small);
    fail(&after);
    recover(&after);
    assert_eq!(record(&after), written);
    let (again, tunnels) = after_a_crash(&after);
    assert_eq!(tunnels, [(module_state(1), vec![id])]);
    assert_eq!(again.session(id).counters, stats(1000));
    // Counters of a session that ends are not left over.
    again.engine.tunnel_down(tunnel, &ended(), again.now);
    let left = again.journal.load().unwrap();
    assert!(left.iter().all(|record| record.table == Table::Leases));
}

#[test]
fn a_journal_that_fails_again_is_given_no_more() {
    let small = Small::new(config());
    for key in 1..=5 {
        let tunnel = small.tunnel(16 * key);
        small.up(tunnel, 1, profile("ann"));
        small.engine.checkpoint(tunnel, Some(module_state(1)), small.now);
    }
    let mut given = 0;
    small.engine.records(&|| small.now.wall, &mut |_| {
        given += 1;
        match given {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(given, 3);
}

#[test]
fn more_tunnels_and_last_addresses_than_are_looked_at_at_once_are_all_given() {
    let mut config = config();
    config.pools = vec![pool("home", "10.0.0.0/22", "2001:db8::/48")];
    let small = Small::new(config);
    for key in 1..=300 {
        let tunnel = small.tunnel(16 * key);
        small.engine.checkpoint(tunnel, Some(module_state(1)), small.now);
        let id = small.up(tunnel, 1, profile(&format!("user{key}")));
        small.down(id);
    }
    let before = small.journal.load().unwrap();
    assert_eq!(before.len(), 900);
    recover(&small);
    assert_eq!(small.journal.load().unwrap(), before);
}
