use super::*;
use crate::{Order, SessionFilter, SessionQuery, State};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

fn wide() -> EngineConfig {
    let mut config = config();
    config.pools = vec![pool("home", "10.0.0.0/16", "2001:db8::/48")];
    config
}

fn pages(engine: &Engine, mut query: SessionQuery) -> Vec<Session> {
    let mut all = Vec::new();
    loop {
        let page = engine.sessions(&query);
        assert!(page.items.len() <= query.limit);
        all.extend(page.items);
        query.after = page.next;
        if page.next.is_none() {
            return all;
        }
    }
}

fn with(filter: SessionFilter) -> SessionQuery {
    SessionQuery {
        filter,
        limit: 7,
        ..SessionQuery::default()
    }
}

#[test]
fn every_filter_finds_its_sessions_over_pages() {
    let small = Small::new(wide());
    let tunnels = [small.tunnel(1), small.tunnel(2)];
    let mut all = Vec::new();
    for number in 0..60u32 {
        let tunnel = tunnels[number as usize % 2];
        let call = call(number % 3);
        let id = small
            .engine
            .session_opening(&origin(0), Some(tunnel), LocalRef(number), &call, small.now)
            .unwrap();
        if number % 4 > 0 {
            let user = format!("user{}@realm{}", number % 5, number % 2);
            small.authorize(id, profile(&user)).unwrap();
        }
        all.push(small.session(id));
    }
    let filters = [
        SessionFilter::default(),
        SessionFilter {
            protocol: Some("l2tp".into()),
            ..SessionFilter::default()
        },
        SessionFilter {
            protocol: Some("pptp".into()),
            ..SessionFilter::default()
        },
        SessionFilter {
            listener: Some("west".into()),
            state: Some(State::Opening),
            ..SessionFilter::default()
        },
        SessionFilter {
            user: Some("user2@realm0".into()),
            ..SessionFilter::default()
        },
        SessionFilter {
            realm: Some("realm1".into()),
            ..SessionFilter::default()
        },
        SessionFilter {
            peer: Some(peer(2).remote.ip()),
            ..SessionFilter::default()
        },
        SessionFilter {
            tunnel: Some(tunnels[1]),
            state: Some(State::Establishing),
            ..SessionFilter::default()
        },
    ];
    for filter in filters {
        let mut expected: Vec<Session> = all.iter().filter(|s| filter.matches(s)).cloned().collect();
        assert!(!expected.is_empty() || filter.protocol.as_deref() == Some("pptp"));
        let query = with(filter);
        assert_eq!(pages(&small.engine, query.clone()), expected);
        expected.reverse();
        let backwards = SessionQuery {
            order: Order::NewestFirst,
            ..query
        };
        assert_eq!(pages(&small.engine, backwards), expected);
    }
}

#[test]
fn a_limit_of_nothing_or_too_much_is_the_largest_page() {
    let small = Small::new(wide());
    let tunnel = small.tunnel(1);
    for local in 0..1100 {
        small.open(tunnel, local);
    }
    for limit in [0, usize::MAX] {
        let query = SessionQuery {
            limit,
            ..SessionQuery::default()
        };
        let page = small.engine.sessions(&query);
        assert_eq!(page.items.len(), crate::MAX_PAGE);
        assert!(page.next.is_some());
    }
}

#[test]
fn the_history_has_pages_too() {
    let small = Small::new(wide());
    let tunnel = small.tunnel(1);
    let ids: Vec<SessionId> = (0..40).map(|local| small.open(tunnel, local)).collect();
    for id in ids.iter().rev() {
        small.down(*id);
    }
    let mut query = SessionQuery {
        order: Order::NewestFirst,
        limit: 9,
        ..SessionQuery::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = small.engine.history(&query);
        seen.extend(page.items.iter().map(|session| session.id));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, ids);
}

/// Four shards open and end sessions while two readers go through the pages: sessions that are there all the time
/// are seen exactly once each time, and in order.
#[test]
fn pages_are_stable_while_sessions_come_and_go() {
    let small = Small::new(wide());
    let steady_tunnel = small.tunnel(1);
    let steady: BTreeSet<SessionId> = (0..300).map(|local| small.open(steady_tunnel, local)).collect();
    let stop = AtomicBool::new(false);
    let engine = &small.engine;
    let now = small.now;
    std::thread::scope(|scope| {
        for shard in 0..4u16 {
            let (tunnel, stop) = (small.tunnel(100 + u32::from(shard)), &stop);
            scope.spawn(move || {
                let mut live = std::collections::VecDeque::new();
                for local in 0u32.. {
                    let opened =
                        engine.session_opening(&origin(shard), Some(tunnel), LocalRef(local), &call(9), now);
                    live.push_back(opened.unwrap());
                    if live.len() > 50 {
                        let id = live.pop_front().unwrap();
                        assert!(engine.session_down(id, &ended(), PathStats::default(), now));
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                for id in live {
                    assert!(engine.session_down(id, &ended(), PathStats::default(), now));
                }
            });
        }
        let readers: Vec<_> = [Order::OldestFirst, Order::NewestFirst]
            .into_iter()
            .map(|order| {
                let steady = &steady;
                scope.spawn(move || {
                    for _ in 0..60 {
                        let query = SessionQuery {
                            order,
                            limit: 37,
                            ..SessionQuery::default()
                        };
                        let seen: Vec<SessionId> = pages(engine, query)
                            .into_iter()
                            .map(|session| session.id)
                            .collect();
                        let mut sorted = seen.clone();
                        sorted.sort();
                        if order == Order::NewestFirst {
                            sorted.reverse();
                        }
                        assert_eq!(seen, sorted);
                        let once: BTreeSet<SessionId> = seen.iter().copied().collect();
                        assert_eq!(once.len(), seen.len());
                        assert!(once.is_superset(steady));
                    }
                })
            })
            .collect();
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let query = SessionQuery {
        limit: 1000,
        ..SessionQuery::default()
    };
    let left: BTreeSet<SessionId> = pages(engine, query).into_iter().map(|s| s.id).collect();
    assert_eq!(left, steady);
    let totals = engine.totals();
    assert_eq!(totals.opened, totals.closed + 300);
    assert_eq!(totals.in_state(State::Opening), 300);
}

/// Admission counts under contention: however many threads ask, no limit is passed.
#[test]
fn limits_hold_when_all_shards_ask_at_once() {
    let mut config = wide();
    config.limits.sessions = 100;
    config.limits.per_user = Some(3);
    let small = Small::new(config);
    let tunnel = small.tunnel(1);
    let (engine, now) = (&small.engine, small.now);
    std::thread::scope(|scope| {
        for shard in 0..4u32 {
            scope.spawn(move || {
                for number in 0..200 {
                    let local = LocalRef(shard * 1000 + number);
                    let Ok(id) = engine.session_opening(&origin(0), Some(tunnel), local, &call(1), now)
                    else {
                        continue;
                    };
                    engine.auth_requested(id, &request("bob"));
                    engine.authorize(id, Ok(profile("bob")), now);
                }
            });
        }
    });
    assert_eq!(engine.tunnel(tunnel).unwrap().sessions, 100);
    assert_eq!(engine.table.user_counting("bob"), 3);
    assert_eq!(engine.pools()[0].ipv4.unwrap().held, 3);
    assert_eq!(engine.totals().refused.values().sum::<u64>(), 700);
}
