use super::*;
use crate::{SessionFilter, SessionQuery, State, WhenFull};
use sluice_auth::AddressRule;

fn by_user(small: &Small, user: &str) -> Vec<SessionId> {
    let query = SessionQuery {
        filter: SessionFilter {
            user: Some(user.into()),
            ..SessionFilter::default()
        },
        ..SessionQuery::default()
    };
    let page = small.engine.sessions(&query);
    page.items.iter().map(|session| session.id).collect()
}

#[test]
fn a_refused_session_holds_nothing_and_may_try_again() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    small.engine.auth_requested(id, &request("bob"));
    let verdict = small
        .engine
        .authorize(id, Err(RejectReason::BadCredentials), small.now);
    assert!(matches!(verdict, Verdict::Reject(RejectReason::BadCredentials)));
    let session = small.session(id);
    assert_eq!(session.state, State::Authenticating);
    assert_eq!(session.rejected, Some(RejectReason::BadCredentials));
    assert_eq!(session.addresses(), []);
    assert_eq!(small.engine.table.user_counting("bob"), 0);
    small.authorize(id, profile("alice")).unwrap();
    assert_eq!(small.session(id).rejected, None);
    assert_eq!(by_user(&small, "bob"), []);
    assert_eq!(by_user(&small, "alice"), [id]);
}

#[test]
fn the_limit_of_a_user_denies_the_new_session() {
    let mut config = config();
    config.limits.per_user = Some(2);
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let first = small.up(tunnel, 1, profile("bob"));
    small.up(tunnel, 2, profile("bob"));
    let third = small.open(tunnel, 3);
    assert_eq!(
        small.authorize(third, profile("bob")),
        Err(RejectReason::TooManySessions)
    );
    assert_eq!(small.session(third).addresses(), []);
    // The profile's own number goes first.
    let fourth = small.open(tunnel, 4);
    let wider = Profile {
        max_sessions: Some(3),
        ..profile("bob")
    };
    small.authorize(fourth, wider).unwrap();
    let none = Profile {
        max_sessions: Some(0),
        ..profile("carol")
    };
    let fifth = small.open(tunnel, 5);
    assert_eq!(small.authorize(fifth, none), Err(RejectReason::TooManySessions));
    small.down(first);
    small.down(fourth);
    small.authorize(third, profile("bob")).unwrap();
    assert_eq!(small.engine.table.user_counting("bob"), 2);
}

#[test]
fn the_oldest_session_of_a_user_makes_room() {
    let mut config = config();
    config.limits.per_user = Some(1);
    config.limits.user_full = WhenFull::ReplaceOldest;
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let first = small.up(tunnel, 1, profile("bob"));
    let second = small.open(tunnel, 2);
    let grants = small.authorize(second, profile("bob")).unwrap();
    assert_ne!(
        IpAddr::V4(grants.ipv4.unwrap()),
        small.ipv4(first),
        "still in use"
    );
    assert_eq!(
        small.engine.due(ShardId(0), small.now),
        [(first, TerminateCause::PortPreempted)]
    );
    assert_eq!(small.engine.table.user_counting("bob"), 1);
    // A third replaces the second, not again the first, which is on its way out.
    let third = small.open(tunnel, 3);
    small.authorize(third, profile("bob")).unwrap();
    assert_eq!(
        small.engine.due(ShardId(0), small.now),
        [(second, TerminateCause::PortPreempted)]
    );
    small.down(first);
    small.down(second);
    assert_eq!(small.engine.table.user_counting("bob"), 1);
}

#[test]
fn a_user_with_a_static_address_gets_it_once_the_old_session_is_gone() {
    let mut config = config();
    config.limits.per_user = Some(1);
    config.limits.user_full = WhenFull::ReplaceOldest;
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let fixed = Profile {
        ipv4: AddressRule::Static([10, 0, 0, 77].into()),
        ipv6: AddressRule::None,
        ..profile("bob")
    };
    let first = small.up(tunnel, 1, fixed.clone());
    let second = small.open(tunnel, 2);
    assert_eq!(
        small.authorize(second, fixed.clone()),
        Err(RejectReason::NoAddress)
    );
    assert_eq!(
        small.engine.due(ShardId(0), small.now),
        [(first, TerminateCause::PortPreempted)]
    );
    small.down(first);
    let grants = small.authorize(second, fixed).unwrap();
    assert_eq!(grants.ipv4, Some([10, 0, 0, 77].into()));
    assert_eq!(
        grants.ipv4_gateway,
        Some([10, 0, 0, 1].into()),
        "that of the pool around it"
    );
    assert_eq!(grants.ipv6_prefix, None);
}

#[test]
fn what_a_session_gets_comes_from_the_user_then_the_pool_then_the_defaults() {
    let mut config = config();
    config.pools[0].dns4 = vec![[192, 0, 2, 53].into()];
    config.pools[0].nbns = vec![[192, 0, 2, 99].into()];
    config.defaults.dns = vec!["198.51.100.53".parse().unwrap(), "2001:db8::53".parse().unwrap()];
    config.defaults.mtu = Some(1400);
    config.defaults.idle_timeout = Some(Duration::from_secs(600));
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    let grants = small.authorize(id, profile("bob")).unwrap();
    assert_eq!(grants.dns4, [std::net::Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!(
        grants.dns6,
        ["2001:db8::53".parse::<std::net::Ipv6Addr>().unwrap()]
    );
    assert_eq!(grants.nbns, [std::net::Ipv4Addr::new(192, 0, 2, 99)]);
    assert_eq!(grants.mtu, Some(1400));
    assert_eq!(
        small.session(id).limits.idle_timeout,
        Some(Duration::from_secs(600))
    );
    assert_eq!(small.session(id).ipv4_pool.as_deref(), Some("home"));
    let own = Profile {
        dns: vec!["203.0.113.53".parse().unwrap()],
        mtu: Some(1280),
        ..profile("carol")
    };
    let id = small.open(tunnel, 2);
    let grants = small.authorize(id, own).unwrap();
    assert_eq!(grants.dns4, [std::net::Ipv4Addr::new(203, 0, 113, 53)]);
    assert_eq!(grants.dns6, [] as [std::net::Ipv6Addr; 0]);
    assert_eq!(grants.mtu, Some(1280));
}

#[test]
fn without_a_default_pool_a_session_has_no_address_of_that_family() {
    let mut config = config();
    config.defaults.ipv6_pool = None;
    let small = Small::new(config);
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    let grants = small.authorize(id, profile("bob")).unwrap();
    assert!(grants.ipv4.is_some() && grants.ipv6_prefix.is_none());
}

#[test]
fn where_one_family_has_nothing_the_other_is_not_held_either() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    let nowhere = Profile {
        ipv6: AddressRule::Pool("nowhere".into()),
        ..profile("bob")
    };
    assert_eq!(small.authorize(id, nowhere), Err(RejectReason::NoAddress));
    assert_eq!(small.engine.pools()[0].ipv4.unwrap().held, 0);
    assert!(small.heard.names().contains(&"pool_unknown"));
    assert_eq!(small.engine.table.user_counting("bob"), 0);
    assert_eq!(by_user(&small, "bob"), [id]);
}

#[test]
fn proving_oneself_again_changes_nothing_and_another_user_is_not_let_in() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let id = small.open(tunnel, 1);
    let first = small.authorize(id, profile("bob")).unwrap();
    assert_eq!(small.authorize(id, profile("bob")).unwrap(), first);
    // Before data flows the peer may still turn out to be somebody else.
    small.authorize(id, profile("carol")).unwrap();
    assert_eq!(by_user(&small, "bob"), []);
    assert_eq!(small.engine.table.user_counting("bob"), 0);
    let held = small.engine.pools()[0].ipv4.unwrap().held;
    assert_eq!(held, 1);
    small.engine.session_up(id, &[], small.now);
    let now = small.session(id).grants;
    assert_eq!(small.authorize(id, profile("carol")).ok(), now);
    assert_eq!(
        small.authorize(id, profile("mallory")),
        Err(RejectReason::NotPermitted)
    );
    assert_eq!(small.session(id).user(), Some("carol"));
    assert_eq!(small.session(id).state, State::Established);
}

#[test]
fn an_answer_that_comes_too_late_gives_nothing() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let ending = small.open(tunnel, 1);
    small.engine.auth_requested(ending, &request("bob"));
    assert_eq!(small.engine.end_user("bob", TerminateCause::AdminReset), 1);
    let gone = small.open(tunnel, 2);
    small.engine.auth_requested(gone, &request("bob"));
    small.down(gone);
    for id in [ending, gone] {
        let verdict = small.engine.authorize(id, Ok(profile("bob")), small.now);
        assert!(matches!(verdict, Verdict::Reject(RejectReason::Unavailable)));
    }
    assert_eq!(small.engine.pools()[0].ipv4.unwrap().held, 0);
    small.down(ending);
    assert_eq!(small.engine.table.user_sessions("bob"), []);
}

#[test]
fn a_disabled_user_loses_all_sessions_and_nobody_else_does() {
    let small = Small::new(config());
    let tunnel = small.tunnel(16);
    let bob = [
        small.up(tunnel, 1, profile("bob")),
        small.up(tunnel, 2, profile("bob")),
    ];
    small.up(tunnel, 3, profile("carol"));
    assert_eq!(small.engine.end_user("bob", TerminateCause::AdminReset), 2);
    assert_eq!(small.engine.end_user("bob", TerminateCause::AdminReset), 0);
    let due = small.engine.due(ShardId(0), small.now);
    assert_eq!(due, bob.map(|id| (id, TerminateCause::AdminReset)));
}
