//! Live connections, as policy and quotas change around them.

use super::super::handover::tests::{World, standing, world};
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
