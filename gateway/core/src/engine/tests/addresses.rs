use super::*;
use crate::table::lock;
use crate::{Address, Journal, LeaseQuery, LeaseStatus, SessionFilter, SessionQuery, Table};
use sluice_auth::AddressRule;

#[test]
fn the_last_address_is_kept_over_a_restart() {
    let mut small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("bob"));
    let address = small.ipv4(id);
    small.down(id);
    small.tick(3600);
    let after = small.restart(config(), Duration::from_secs(60));
    let loaded = after
        .engine
        .load(after.journal.load().unwrap(), &shard_of, after.now);
    assert_eq!(loaded.kept, 2, "IPv4 and IPv6");
    let tunnel = after.tunnel(16);
    for local in 0..100 {
        let other = after.up(tunnel, local, profile(&format!("user{local}")));
        assert_ne!(after.ipv4(other), address);
    }
    let id = after.up(tunnel, 200, profile("bob"));
    assert_eq!(after.ipv4(id), address);
    let page = after.engine.leases(&LeaseQuery {
        user: Some("bob".into()),
        ..LeaseQuery::default()
    });
    assert!(
        page.items
            .iter()
            .all(|lease| matches!(lease.status, LeaseStatus::Held { session, .. } if session == id))
    );
}

#[test]
fn kept_addresses_that_ran_out_or_have_no_pool_are_deleted_from_the_journal() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("bob"));
    small.down(id);
    assert_eq!(small.journal.load().unwrap().len(), 2);
    let after = small.restart(config(), Duration::from_secs(24 * 3600));
    let loaded = after
        .engine
        .load(after.journal.load().unwrap(), &shard_of, after.now);
    assert_eq!((loaded.kept, loaded.outdated, loaded.set_aside), (0, 2, 0));
    assert!(after.journal.load().unwrap().is_empty());
}

#[test]
fn a_kept_address_gives_way_to_a_session_and_one_kept_for_two_is_set_aside() {
    let small = Small::new(config());
    let address = Address::V4([10, 0, 0, 50].into());
    let until = crate::time::to_millis(small.now.wall) + 1_000_000;
    for user in ["bob", "carol"] {
        let key = crate::record::sticky_key(address.family(), user, "home");
        let value = crate::record::encode_sticky(user, "home", address, until);
        small.journal.put(Table::Leases, key, value).unwrap();
    }
    let records = small.journal.load().unwrap();
    let loaded = small.engine.load(records, &shard_of, small.now);
    assert_eq!((loaded.kept, loaded.set_aside), (1, 1));
    let tunnel = small.tunnel(16);
    let fixed = Profile {
        ipv4: AddressRule::Static([10, 0, 0, 50].into()),
        ..profile("dave")
    };
    small.up(tunnel, 1, fixed);
    assert!(small.journal.load().unwrap().is_empty());
}

#[test]
fn an_exhausted_pool_refuses_and_is_told_once() {
    let mut config = config();
    config.pools = vec![pool("home", "10.0.0.0/30", "2001:db8::/56")];
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("a"));
    for local in 2..5 {
        let late = small.open(tunnel, local);
        assert_eq!(small.authorize(late, profile("b")), Err(RejectReason::NoAddress));
    }
    let told = |small: &Small| {
        let names = small.heard.names();
        names.iter().filter(|name| **name == "pool_exhausted").count()
    };
    assert_eq!(told(&small), 1);
    small.down(id);
    let next = small.open(tunnel, 9);
    assert!(small.authorize(next, profile("c")).is_ok());
    let last = small.open(tunnel, 10);
    assert!(small.authorize(last, profile("d")).is_err());
    assert_eq!(told(&small), 1);
    assert_eq!(small.engine.pools()[0].ipv4.unwrap().exhausted, 4);
}

#[test]
fn a_session_is_found_by_its_addresses() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    small.up(tunnel, 1, profile("a"));
    let id = small.up(tunnel, 2, profile("b"));
    let prefix = small.session(id).grants.unwrap().ipv6_prefix.unwrap();
    let inside = IpAddr::V6((u128::from(prefix.address()) + 77).into());
    for address in [small.ipv4(id), inside] {
        let mut query = SessionQuery {
            filter: SessionFilter {
                address: Some(address),
                ..SessionFilter::default()
            },
            ..SessionQuery::default()
        };
        let page = small.engine.sessions(&query);
        assert_eq!(page.items.iter().map(|s| s.id).collect::<Vec<_>>(), [id]);
        query.after = Some(id);
        assert_eq!(small.engine.sessions(&query).items, []);
    }
}

#[test]
fn static_addresses_of_users_are_kept_out_of_the_pools() {
    let mut config = config();
    config.pools = vec![pool("home", "10.0.0.0/30", "2001:db8::/56")];
    let small = Small::new(config);
    small
        .engine
        .set_static_addresses(&[Address::V4([10, 0, 0, 2].into())]);
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    assert_eq!(small.authorize(id, profile("a")), Err(RejectReason::NoAddress));
    let fixed = Profile {
        ipv4: AddressRule::Static([10, 0, 0, 2].into()),
        ..profile("b")
    };
    assert!(small.authorize(id, fixed).is_ok());
}

#[test]
fn a_new_configuration_says_what_applies_and_who_is_orphaned() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("a"));
    let mut changed = config();
    changed.pools = vec![
        pool("home", "10.5.0.0/24", "2001:db8::/56"),
        pool("more", "10.6.0.0/24", "2001:db8:1::/56"),
    ];
    changed.limits.sessions = 1;
    changed.history = 7;
    let report = small.engine.reconfigure(changed.clone());
    assert_eq!(report.now, ["size of the history"]);
    assert_eq!(report.new_sessions, ["limits", "pool home", "new pool more"]);
    assert_eq!(report.orphans, 1);
    let [(Address::V4(address), orphan)] = report.orphan_examples.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!((IpAddr::V4(*address), *orphan), (small.ipv4(id), id));
    assert_eq!(small.session(id).state, crate::State::Established);
    let full = small
        .engine
        .session_opening(&origin(0), Some(tunnel), LocalRef(2), &call(1), small.now);
    assert!(full.is_err());
    assert_eq!(small.engine.reconfigure(changed).now, [] as [String; 0]);
    assert_eq!(lock(&small.engine.admission).counts().0, 1);
}
