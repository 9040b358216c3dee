use super::*;
use crate::config::SetupRate;
use crate::table::lock;
use crate::{SessionQuery, State, TunnelQuery};
use sluice_spi::Refusal;

#[test]
fn a_session_goes_from_opening_to_the_history() {
    let mut small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 5);
    assert_eq!(small.session(id).state, State::Opening);
    let grants = small.authorize(id, profile("bob@home")).unwrap();
    assert_eq!(small.session(id).state, State::Establishing);
    assert_eq!(grants.ipv4_gateway, Some([10, 0, 0, 1].into()));
    small.tick(3);
    assert!(
        small
            .engine
            .session_up(id, &[Fact::new("mru", "1400")], small.now)
    );
    assert!(!small.engine.session_up(id, &[], small.now), "only once");
    small.engine.session_changed(id, &[Fact::new("mru", "1300")]);
    let owner = small.engine.find_owner(id).unwrap();
    assert_eq!((owner.tunnel, owner.local), (Some(tunnel), LocalRef(5)));
    assert_eq!(small.engine.session_of(tunnel, LocalRef(5)), Some(id));
    small.tick(10);
    assert!(small.engine.update_counters(id, stats(100), small.now));
    assert!(small.engine.session_down(id, &ended(), stats(120), small.now));
    assert!(!small.down(id), "only once");

    let session = small.session(id);
    assert_eq!(session.state, State::Closed);
    assert_eq!(session.counters, stats(120));
    assert_eq!(session.end, Some(ended()));
    assert_eq!(session.facts.iter().collect::<Vec<_>>(), [("mru", "1300")]);
    assert_eq!(session.user(), Some("bob@home"));
    assert_eq!(
        (session.calling.as_deref(), session.called.as_deref()),
        (Some("5551234"), Some("99"))
    );
    let since = |time: SystemTime| time.duration_since(session.created).unwrap().as_secs();
    assert_eq!(session.established.map(since), Some(3));
    assert_eq!(session.ended.map(since), Some(13));
    assert!(small.engine.tunnel_down(tunnel, &ended(), small.now));
    assert!(!small.engine.tunnel_down(tunnel, &ended(), small.now));
    assert_eq!(small.engine.table.sizes(), [0; 6]);
    assert_eq!(small.engine.history(&SessionQuery::default()).items.len(), 1);
    assert_eq!(
        small.heard.names(),
        [
            "tunnel_up",
            "session_opened",
            "auth_requested",
            "auth_decided",
            "session_up",
            "session_down",
            "tunnel_down"
        ]
    );
}

#[test]
fn totals_follow_the_states() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let ids: Vec<SessionId> = (0..4).map(|local| small.open(tunnel, local)).collect();
    small.authorize(ids[1], profile("a")).unwrap();
    small.authorize(ids[2], profile("b")).unwrap();
    small.engine.session_up(ids[2], &[], small.now);
    small.down(ids[3]);
    let totals = small.engine.totals();
    assert_eq!(totals.in_state(State::Opening), 1);
    assert_eq!(totals.in_state(State::Establishing), 1);
    assert_eq!(totals.in_state(State::Established), 1);
    assert_eq!((totals.opened, totals.closed), (4, 1));
    assert_eq!(totals.tunnels.get(&("l2tp", State::Established)), Some(&1));
    assert_eq!(small.engine.tunnel(tunnel).unwrap().sessions, 3);
}

#[test]
fn a_session_may_be_without_a_tunnel() {
    let small = Small::new(config());
    let local = LocalRef(7);
    let open = || {
        small
            .engine
            .session_opening(&origin(1), None, local, &call(1), small.now)
    };
    let (first, second) = (open().unwrap(), open().unwrap());
    assert_ne!(first, second, "names are unique within a tunnel alone");
    let owner = small.engine.find_owner(first).unwrap();
    assert_eq!(
        (owner.shard, owner.tunnel, owner.local),
        (ShardId(1), None, local)
    );
    assert!(small.engine.session_up(first, &[], small.now));
    assert!(small.engine.update_counters(first, stats(10), small.now));
    for id in [first, second] {
        assert!(small.engine.session_down(id, &ended(), stats(10), small.now));
    }
    assert_eq!(small.engine.totals().opened, small.engine.totals().closed);
    assert_eq!(small.engine.session(first).unwrap().counters, stats(10));
}

#[test]
fn a_session_without_its_tunnel_or_with_a_used_name_is_refused_and_leaves_nothing() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    small.open(tunnel, 1);
    let again = small
        .engine
        .session_opening(&origin(0), Some(tunnel), LocalRef(1), &call(1), small.now);
    assert_eq!(again, Err(Refusal::Overload));
    small.engine.tunnel_down(tunnel, &ended(), small.now);
    let late = small
        .engine
        .session_opening(&origin(0), Some(tunnel), LocalRef(2), &call(1), small.now);
    assert_eq!(late, Err(Refusal::Overload));
    assert_eq!(
        small.engine.totals().refused.get(&crate::Refused::NoTunnel),
        Some(&2)
    );
    assert_eq!(small.engine.table.sizes(), [0; 6]);
    assert_eq!(lock(&small.engine.admission).counts(), (0, 0, 0, 0));
}

#[test]
fn a_tunnel_that_ends_takes_its_sessions_along_once() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let one = small.up(tunnel, 1, profile("a"));
    let two = small.open(tunnel, 2);
    small.heard.take();
    small.engine.tunnel_down(tunnel, &ended(), small.now);
    assert_eq!(
        small.heard.names(),
        ["session_down", "session_down", "tunnel_down"]
    );
    assert!(!small.down(one) && !small.down(two));
    assert_eq!(lock(&small.engine.admission).counts(), (0, 0, 0, 0));
}

#[test]
fn refusals_reach_the_protocol_and_the_observer() {
    let mut config = config();
    config.limits.sessions = 1;
    config.limits.tunnels = 1;
    config.limits.setup_rate = Some(SetupRate {
        per_second: 1,
        burst: 1,
    });
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let info = tunnel_info(17, 3);
    let second = small.engine.tunnel_up(&origin(0), &info, small.now);
    assert_eq!(second, Err(Refusal::TooManySessions));
    let before = small.engine.tunnel_opening(&origin(0), info.peer, small.now);
    assert_eq!(before, Err(Refusal::TooManySessions));
    small.open(tunnel, 1);
    let full = small
        .engine
        .session_opening(&origin(0), Some(tunnel), LocalRef(2), &call(1), small.now);
    assert_eq!(full, Err(Refusal::TooManySessions));
    small.engine.set_draining(true);
    small.engine.set_draining(true);
    let draining = small
        .engine
        .session_opening(&origin(0), Some(tunnel), LocalRef(2), &call(1), small.now);
    assert_eq!(draining, Err(Refusal::Draining));
    assert_eq!(
        small.heard.names(),
        [
            "tunnel_up",
            "tunnel_refused",
            "tunnel_refused",
            "session_opened",
            "session_refused",
            "draining",
            "session_refused"
        ]
    );
}

#[test]
fn load_of_the_shard_or_of_all_refuses_new_sessions_only() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    let open = |local, shard| {
        let now = small.now;
        small
            .engine
            .session_opening(&origin(shard), Some(tunnel), LocalRef(local), &call(1), now)
    };
    small.engine.set_load(ShardId(0), 1000);
    assert_eq!(open(2, 0), Err(Refusal::Overload));
    assert!(open(3, 1).is_ok(), "another shard has room");
    small.engine.set_shared_load(1000);
    assert_eq!(open(4, 1), Err(Refusal::Overload));
    assert!(small.authorize(id, profile("a")).is_ok());
    assert!(small.engine.session_up(id, &[], small.now));
}

#[test]
fn a_stalled_set_up_is_due_after_the_opening_timeout() {
    let mut small = Small::new(config());
    let tunnel = small.tunnel(16);
    let stalled = small.open(tunnel, 1);
    let quick = small.up(tunnel, 2, profile("a"));
    assert_eq!(
        small.engine.next_due(ShardId(0), small.now),
        Some(small.now.instant + Duration::from_secs(60))
    );
    small.tick(59);
    assert_eq!(small.engine.due(ShardId(0), small.now), []);
    small.tick(1);
    assert_eq!(small.engine.due(ShardId(1), small.now), []);
    assert_eq!(
        small.engine.due(ShardId(0), small.now),
        [(stalled, TerminateCause::LostCarrier)]
    );
    assert_eq!(small.engine.due(ShardId(0), small.now), [], "each once");
    assert_eq!(small.session(stalled).state, State::Closing);
    assert_eq!(small.session(quick).state, State::Established);
    assert_eq!(small.engine.next_due(ShardId(0), small.now), None);
}

#[test]
fn silence_and_age_end_sessions() {
    let mut config = config();
    config.defaults.idle_timeout = Some(Duration::from_secs(100));
    config.defaults.session_timeout = Some(Duration::from_secs(1000));
    let mut small = Small::new(config);
    let tunnel = small.tunnel(16);
    let busy = small.up(tunnel, 1, profile("a"));
    let idle = small.up(tunnel, 2, profile("b"));
    let own = small.up(
        tunnel,
        3,
        Profile {
            idle_timeout: Some(Duration::from_secs(5000)),
            session_timeout: Some(Duration::from_secs(50)),
            ..profile("c")
        },
    );
    let mut ended = Vec::new();
    for second in 1..=1000u64 {
        small.tick(1);
        small.engine.update_counters(busy, stats(second), small.now);
        // Dropped packets are no sign of life.
        let dropped = PathStats {
            dropped: second,
            ..PathStats::default()
        };
        small.engine.update_counters(idle, dropped, small.now);
        for (id, cause) in small.engine.due(ShardId(0), small.now) {
            ended.push((second, id, cause));
        }
    }
    assert_eq!(
        ended,
        [
            (50, own, TerminateCause::SessionTimeout),
            (100, idle, TerminateCause::IdleTimeout),
            (1000, busy, TerminateCause::SessionTimeout),
        ]
    );
}

#[test]
fn a_session_that_needs_no_authentication_has_the_default_timeouts() {
    let mut config = config();
    config.defaults.idle_timeout = Some(Duration::from_secs(10));
    let mut small = Small::new(config);
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    assert!(small.engine.session_up(id, &[], small.now));
    small.tick(10);
    assert_eq!(
        small.engine.due(ShardId(0), small.now),
        [(id, TerminateCause::IdleTimeout)]
    );
}

#[test]
fn ends_asked_for_are_given_to_the_right_shard_once() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("a"));
    small.heard.take();
    assert!(small.engine.end_session(id, TerminateCause::AdminReset));
    assert!(!small.engine.end_session(id, TerminateCause::AdminReset));
    assert_eq!(small.heard.names(), ["end_requested"]);
    assert_eq!(
        small.engine.next_due(ShardId(0), small.now),
        Some(small.now.instant)
    );
    assert_eq!(small.engine.due(ShardId(1), small.now), []);
    let due = small.engine.due(ShardId(0), small.now);
    assert_eq!(due, [(id, TerminateCause::AdminReset)]);
    assert_eq!(small.session(id).state, State::Closing);
    small.down(id);
    assert!(!small.engine.end_session(id, TerminateCause::AdminReset));
}

#[test]
fn due_is_bounded_and_goes_on_where_it_was() {
    let mut config = config();
    config.pools = vec![pool("home", "10.0.0.0/16", "2001:db8::/48")];
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let count = 600;
    let ids: Vec<SessionId> = (0..count).map(|local| small.open(tunnel, local)).collect();
    for id in &ids {
        small.engine.end_session(*id, TerminateCause::AdminReboot);
    }
    let mut seen = Vec::new();
    loop {
        let due = small.engine.due(ShardId(0), small.now);
        assert!(due.len() <= crate::MAX_DUE);
        if due.is_empty() {
            break;
        }
        seen.extend(due.into_iter().map(|(id, _)| id));
    }
    assert_eq!(seen, ids);
}

#[test]
fn counters_of_a_new_path_are_added_to_those_of_the_former() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.up(tunnel, 1, profile("a"));
    small.engine.update_counters(id, stats(100), small.now);
    small.engine.update_counters(id, stats(10), small.now);
    small.engine.update_counters(id, stats(20), small.now);
    assert_eq!(small.session(id).counters.rx_packets, 120);
    // A path that was removed before the end leaves nothing more to report.
    small.down(id);
    assert_eq!(small.session(id).counters.rx_packets, 120);
    assert_eq!(small.session(id).counters.tx_bytes, 6000);
}

#[test]
fn the_history_keeps_the_last_ones() {
    let mut config = config();
    config.history = 3;
    let small = Small::new(config.clone());
    let tunnel = small.tunnel(16);
    let ids: Vec<SessionId> = (0..5).map(|local| small.open(tunnel, local)).collect();
    for id in ids.iter().rev() {
        small.down(*id);
    }
    let known = |small: &Small| {
        let page = small.engine.history(&SessionQuery::default());
        page.items.iter().map(|session| session.id).collect::<Vec<_>>()
    };
    assert_eq!(known(&small), ids[..3]);
    assert!(small.engine.session(ids[4]).is_none());
    config.history = 1;
    small.engine.reconfigure(config);
    assert_eq!(known(&small), ids[..1]);
}

#[test]
fn tunnels_are_listed_in_pages() {
    let small = Small::new(config());
    let ids: Vec<TunnelId> = (1..=7).map(|key| small.tunnel(key)).collect();
    let mut query = TunnelQuery {
        limit: 3,
        ..TunnelQuery::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = small.engine.tunnels(&query);
        seen.extend(page.items.iter().map(|tunnel| tunnel.id));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    query.peer = Some(peer(4).remote.ip());
    assert_eq!(small.engine.tunnels(&query).items.len(), 1);
    query.protocol = Some("pptp".into());
    assert_eq!(small.engine.tunnels(&query).items.len(), 0);
}
