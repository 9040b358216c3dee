//! Live connections, as policy and quotas change around them.

use super::super::handover::tests::{World, standing, world};
use super::super::tests::{World as Tunnels, lac};
use super::super::{Ask, Connection};
use super::*;
use crate::config::{QuotaLimit, Quotas};
use sluice_auth::policy::{Action, Defaults, Period};
use sluice_core::SessionQuery;
use sluice_spi::{Close, LocalRef};
use std::time::Duration;

/// A relay that notes what it is given.
#[derive(Clone, Default)]
struct Noting(Rc<RefCell<Vec<String>>>);

impl Limited for Noting {
    fn change(&self, effects: &Effects, (up, down): Limits) {
        let limited = (up.is_some(), down.is_some());
        self.0
            .borrow_mut()
            .push(format!("{:?} {limited:?}", effects.idle_timeout));
    }

    fn forget(&self) {
        self.0.borrow_mut().push("forget".to_owned());
    }
}

fn policy(connections: Action, effects: Effects) -> Policy {
    let defaults = Defaults {
        connections,
        effects,
        ..Defaults::default()
    };
    Policy::new(Vec::new(), defaults).unwrap()
}

fn set(world: &World, policy: Policy, quotas: &Quotas) {
    let (ledger, wall) = (&world.driver.ledger, world.now.wall);
    world.driver.policy.store(Arc::new(policy.clone()));
    ledger.reconfigure(&policy, quotas, wall);
}

/// Looks through all sessions, and ends those that are to end.
fn look(world: &mut World) {
    let now = world.now;
    world.driver.look_at_all(now);
    world.driver.timeout(now);
}

/// The code and the words with which the last session ended; none: it did not.
fn end(world: &World) -> Option<(String, String)> {
    let ended = world.engine.history(&SessionQuery::default()).items;
    let end = ended.first()?.end.clone()?;
    Some((end.code.to_string(), end.text.to_string()))
}

fn is_reset(connection: &Connection) -> bool {
    std::iter::from_fn(|| connection.outbox.pop()).any(|ask| matches!(ask, Ask::Close(_, Close::Reset)))
}

#[test]
fn a_live_connection_ends_when_policy_denies_it() {
    let mut world = world(0, Duration::ZERO);
    set(&world, policy(Action::Allow, Effects::default()), &Quotas::new());
    let connection = world.joined();
    look(&mut world);
    assert_eq!((is_reset(&connection), end(&world)), (false, None));
    set(&world, policy(Action::Deny, Effects::default()), &Quotas::new());
    look(&mut world);
    assert!(is_reset(&connection));
    let (code, text) = end(&world).unwrap();
    assert_eq!(code, "denied");
    assert!(text.contains("does not allow it any more"), "{text}");
}

#[test]
fn a_live_connection_is_given_what_changed_and_nothing_where_nothing_did() {
    let mut world = world(0, Duration::ZERO);
    let allow = |effects: &Effects| policy(Action::Allow, effects.clone());
    let mut effects = Effects::default();
    set(&world, allow(&effects), &Quotas::new());
    let connection = world.joined();
    let relay = Noting::default();
    let ours = standing(&world.driver.ledger, &effects);
    ours.set_relay(Box::new(relay.clone()));
    world.driver.set_standing(&connection, LocalRef(1), ours);
    look(&mut world);
    assert!(relay.0.borrow().is_empty());
    world.driver.ledger.changed();
    look(&mut world);
    assert_eq!(
        *relay.0.borrow(),
        ["forget"],
        "users changed, and nothing for this one"
    );
    effects.idle_timeout = Some(Duration::from_secs(7));
    effects.per_source.rate_down = Some(ByteRate {
        per_second: 1_000,
        burst: 70_000,
    });
    set(&world, allow(&effects), &Quotas::new());
    look(&mut world);
    look(&mut world);
    assert_eq!(*relay.0.borrow(), ["forget", "Some(7s) (false, true)", "forget"]);
    assert_eq!(end(&world), None);
}

#[test]
fn a_live_connection_ends_when_its_quota_is_used_up() {
    let mut world = world(0, Duration::ZERO);
    let quotas = |bytes| -> Quotas {
        let period = Period::Day;
        [("day".to_owned(), QuotaLimit { bytes, period })].into()
    };
    let mut effects = Effects::default();
    effects.per_source.quota = Some("day".into());
    let allow = policy(Action::Allow, effects.clone());
    // What it has carried is 71,000 bytes.
    set(&world, allow.clone(), &quotas(71_001));
    let connection = world.joined();
    let ours = standing(&world.driver.ledger, &effects);
    world.driver.set_standing(&connection, LocalRef(1), ours);
    look(&mut world);
    look(&mut world);
    assert_eq!(end(&world), None, "bytes are charged once");
    set(&world, allow, &quotas(71_000));
    look(&mut world);
    assert_eq!(end(&world).unwrap().0, "quota_used_up");
    assert!(is_reset(&connection));
}

#[test]
fn a_refusal_by_a_limit_is_told_in_its_own_words() {
    let mut world = world(0, Duration::ZERO);
    let connection = world.asking();
    world.driver.explain_refusal(&connection, Refused::UserSessions);
    let failed = sluice_spi::Input::ChannelFailed {
        channel: sluice_spi::ChannelRef(1),
        failure: sluice_spi::ChannelFailure::Denied,
    };
    let now = world.now;
    world.driver.tell(&connection, failed, now);
    let (code, text) = end(&world).unwrap();
    assert_eq!(code, "user_sessions");
    assert!(
        text.contains("denied") && text.contains("as many sessions"),
        "{text}"
    );
}

#[test]
fn of_two_rules_the_slower_rates_hold() {
    let rate = |per_second| {
        Some(ByteRate {
            per_second,
            burst: 100,
        })
    };
    let mut one = Effects {
        rate_up: rate(5),
        ..Effects::default()
    };
    one.per_user.rate_down = rate(2);
    let mut other = Effects {
        rate_up: rate(9),
        rate_down: rate(8),
        ..Effects::default()
    };
    other.per_user.rate_down = rate(1);
    other.per_source.quota = Some("day".into());
    let both = strictest(&one, &other);
    assert_eq!((both.rate_up, both.rate_down), (rate(5), rate(8)));
    assert_eq!(both.per_user.rate_down, rate(1));
    assert_eq!(both, strictest(&both, &one));
    assert_eq!(both.per_source.quota.as_deref(), Some("day"));
}

/// A driver of L2TP with three calls of three users from one address, under this policy.
fn tunnels(effects: Effects) -> Tunnels {
    let mut world = Tunnels::new(lac(), None);
    set_tunnels(&world, Action::Allow, effects);
    world.run(Duration::from_secs(5));
    world
}

fn set_tunnels(world: &Tunnels, sessions: Action, effects: Effects) {
    let defaults = Defaults {
        sessions,
        effects,
        ..Defaults::default()
    };
    let policy = Policy::new(Vec::new(), defaults).unwrap();
    world.driver.policy.store(Arc::new(policy.clone()));
    world
        .driver
        .ledger
        .reconfigure(&policy, &Quotas::new(), world.now.wall);
}

fn of_source(sessions: Option<u32>, new: Option<u32>) -> Effects {
    let new_sessions = new.map(|burst| sluice_auth::policy::SessionRate { per_second: 1, burst });
    Effects {
        per_source: SharedLimits {
            sessions,
            new_sessions,
            ..SharedLimits::default()
        },
        ..Effects::default()
    }
}

#[test]
fn tunnel_sessions_are_limited_as_policy_says() {
    for effects in [of_source(Some(2), None), of_source(None, Some(2))] {
        let world = tunnels(effects);
        assert_eq!((world.up, world.down.len()), (2, 1), "{:?}", world.down);
        let ended = world.engine.history(&SessionQuery::default()).items;
        assert_eq!(ended[0].rejected, Some(RejectReason::TooManySessions));
    }
}

#[test]
fn a_tunnel_session_has_the_timeouts_of_its_rule() {
    let mut world = tunnels(Effects {
        lifetime: Some(Duration::from_secs(30)),
        ..Effects::default()
    });
    assert_eq!(world.up, 3);
    world.run(Duration::from_secs(40));
    assert_eq!(world.sessions().len(), 0);
    let ended = world.engine.history(&SessionQuery::default()).items;
    let cause = ended[0].end.as_ref().unwrap().cause;
    assert_eq!(cause, TerminateCause::SessionTimeout);
}

#[test]
fn live_tunnel_sessions_are_judged_again() {
    let mut world = tunnels(Effects::default());
    assert_eq!(world.up, 3);
    let now = world.now;
    // Nobody can say what became of their users: they go on as they are.
    set_tunnels(&world, Action::Deny, Effects::default());
    world.driver.look_at_all(now);
    world.run(Duration::from_secs(5));
    assert_eq!(world.sessions().len(), 3);
    world.driver.authority = Box::new(Everybody);
    world.driver.ledger.changed();
    let now = world.now;
    world.driver.look_at_all(now);
    world.run(Duration::from_secs(10));
    assert_eq!(world.sessions().len(), 0, "{:?}", world.down);
    let ended = world.engine.history(&SessionQuery::default()).items;
    assert!(
        ended
            .iter()
            .all(|ended| ended.end.as_ref().unwrap().code == "denied")
    );
}

/// Knows everybody, and lets nobody in anew.
struct Everybody;

impl super::super::Authority for Everybody {
    fn verifiable(&self) -> sluice_auth::Verifiable {
        sluice_auth::Verifiable::default()
    }

    fn try_cached(&self, _: &sluice_auth::AuthRequest, _: Now) -> Option<Result<Profile, RejectReason>> {
        None
    }

    fn again(&self, user: &str, _: Option<Option<&str>>, _: &str, _: Now) -> Again {
        let user = sluice_auth::Identity::parse(user.as_bytes()).unwrap();
        Again::Is(Box::new(Profile::new(user)))
    }

    fn ask(&self, _: super::super::Ticket, _: Box<sluice_auth::AuthRequest>) -> bool {
        false
    }

    fn accept(&self, _: super::super::Ticket, _: usize, _: Box<sluice_spi::ContextRequest>) -> bool {
        false
    }
}
