use super::*;
use crate::config::QuotaLimit;
use sluice_auth::policy::{Action, ByteRate, Defaults, Period, SessionRate};
use sluice_core::MemoryJournal;
use std::time::Duration;

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

fn policy(effects: Effects) -> Policy {
    let defaults = Defaults {
        connections: Action::Allow,
        effects,
        ..Defaults::default()
    };
    Policy::new(Vec::new(), defaults).unwrap()
}

fn quotas(bytes: u64) -> Quotas {
    let period = Period::Day;
    [("small".to_owned(), QuotaLimit { bytes, period })].into()
}

fn who(user: &str, source: &str) -> Who {
    Who::new(Identity::parse(user.as_bytes()).as_ref(), source.parse().unwrap())
}

fn limited(sessions: u32) -> Effects {
    let shared = |sessions| SharedLimits {
        sessions: Some(sessions),
        ..SharedLimits::default()
    };
    Effects {
        per_user: shared(sessions),
        per_source: shared(sessions + 1),
        ..Effects::default()
    }
}

#[test]
fn sessions_count_as_long_as_they_are_there() {
    let effects = limited(2);
    let ledger = Ledger::new(&policy(effects.clone()), &Quotas::new());
    let admit = |who: &Who| {
        let mut held = Held::default();
        ledger.admit(who, &effects, &mut held, now()).map(|()| held)
    };
    let bob = who("bob", "192.0.2.1");
    let first = admit(&bob).unwrap();
    let mut second = admit(&bob).unwrap();
    assert_eq!(admit(&bob).unwrap_err(), Refused::UserSessions);
    // Asked again, it is not in its own way.
    assert_eq!(ledger.admit(&bob, &effects, &mut second, now()), Ok(()));
    // Nobody's sessions count for their source alone.
    let third = admit(&who("", "192.0.2.1")).unwrap();
    assert_eq!(
        admit(&who("ann", "192.0.2.1")).unwrap_err(),
        Refused::SourceSessions
    );
    assert!(admit(&who("ann", "192.0.2.2")).is_ok());
    drop(first);
    assert!(
        admit(&bob).is_ok(),
        "and it is given back where nothing comes of it"
    );
    drop((second, third));
    assert_eq!(ledger.counts.len(), 0);
}

#[test]
fn all_of_an_ipv6_network_is_one_source() {
    let effects = limited(1);
    let ledger = Ledger::new(&policy(effects.clone()), &Quotas::new());
    let mut held = [Held::default(), Held::default(), Held::default()];
    let clients = ["2001:db8::1", "2001:db8::2:2", "2001:db8::3"];
    let mut clients = clients.iter().zip(&mut held);
    let mut admit = || {
        let (client, held) = clients.next().unwrap();
        ledger.admit(&who("", client), &effects, held, now())
    };
    assert_eq!(
        [admit(), admit(), admit()],
        [Ok(()), Ok(()), Err(Refused::SourceSessions)]
    );
}

#[test]
fn sessions_from_before_a_limit_count_once_it_is_there() {
    let ledger = Ledger::new(&Policy::default(), &Quotas::new());
    let bob = who("bob", "192.0.2.1");
    let mut held = Held::default();
    ledger.admit(&bob, &Effects::default(), &mut held, now()).unwrap();
    assert_eq!(ledger.counts.len(), 0, "nothing is counted that nothing limits");
    let before = ledger.generation();
    let effects = limited(1);
    ledger.reconfigure(&policy(effects.clone()), &Quotas::new(), now().wall);
    assert!(ledger.generation() > before);
    ledger.take_in(&bob, &mut held);
    let other = ledger.admit(&bob, &effects, &mut Held::default(), now());
    assert_eq!(other, Err(Refused::UserSessions));
}

#[test]
fn new_sessions_come_no_faster_than_they_may() {
    let effects = Effects {
        per_user: SharedLimits {
            sessions: Some(30),
            new_sessions: Some(SessionRate {
                per_second: 1,
                burst: 2,
            }),
            ..SharedLimits::default()
        },
        ..Effects::default()
    };
    let ledger = Ledger::new(&policy(effects.clone()), &Quotas::new());
    let bob = who("bob", "192.0.2.1");
    let start = now();
    let admit = |milliseconds, held: &mut Held| {
        let now = Now {
            instant: start.instant + Duration::from_millis(milliseconds),
            ..start
        };
        ledger.admit(&bob, &effects, held, now)
    };
    let mut first = Held::default();
    // Several addresses of one target are one session.
    assert_eq!([admit(0, &mut first), admit(0, &mut first)], [Ok(()); 2]);
    let mut second = Held::default();
    assert_eq!(admit(0, &mut second), Ok(()));
    let mut third = Held::default();
    assert_eq!(admit(0, &mut third), Err(Refused::UserNewSessions));
    assert!(third.counted.is_none(), "who is refused does not count");
    assert_eq!(admit(1_000, &mut third), Ok(()));
}

#[test]
fn sessions_of_one_user_draw_from_one_bucket_on_all_threads() {
    let effects = Effects {
        per_user: SharedLimits {
            rate_down: Some(ByteRate {
                per_second: 1_000_000,
                burst: 100_000,
            }),
            ..SharedLimits::default()
        },
        ..Effects::default()
    };
    let ledger = Arc::new(Ledger::new(&policy(effects.clone()), &Quotas::new()));
    let start = Instant::now();
    let end = start + Duration::from_secs(10);
    // Virtual time, on a clock that all threads share: ten seconds of it.
    let clock = Arc::new(Mutex::new(start));
    let drink = |user: &'static str, source: &'static str, clock: &Arc<Mutex<Instant>>| {
        let (ledger, effects, clock) = (ledger.clone(), effects.clone(), clock.clone());
        std::thread::spawn(move || {
            let (up, down) = ledger.limits(&who(user, source), &effects, start);
            assert!(up.is_none());
            let (mut limit, mut taken) = (down.unwrap(), 0);
            loop {
                let mut now = lock(&clock);
                if *now >= end {
                    return taken;
                }
                let allowance = limit.allow(20_000, *now);
                match allowance.bytes {
                    0 => *now += Duration::from_millis(1),
                    bytes => {
                        limit.spent(bytes, *now);
                        taken += bytes;
                    }
                }
            }
        })
    };
    let sources = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let threads = sources.map(|source| drink("bob", source, &clock));
    let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!((9_900_000..=10_100_000).contains(&taken), "{taken}");
    assert_eq!(ledger.buckets.len(), 1);
    let other = drink("ann", "192.0.2.1", &Arc::new(Mutex::new(start)));
    let other = other.join().unwrap();
    assert!((9_900_000..=10_100_000).contains(&other), "{other}");
}

#[test]
fn a_session_has_its_own_rate_and_that_of_its_source() {
    let rate = |per_second| {
        Some(ByteRate {
            per_second,
            burst: 10_000,
        })
    };
    let mut effects = Effects {
        rate_up: rate(1_000),
        ..Effects::default()
    };
    let ledger = Ledger::new(&policy(effects.clone()), &Quotas::new());
    let bob = who("bob", "192.0.2.1");
    let start = Instant::now();
    let up = |effects: &Effects| ledger.limits(&bob, effects, start).0.unwrap();
    for _ in 0..2 {
        assert_eq!(up(&effects).allow(50_000, start).bytes, 10_000);
    }
    effects.per_source.rate_up = rate(2_000);
    let mut first = up(&effects);
    assert_eq!(first.allow(50_000, start).bytes, 10_000);
    first.spent(9_500, start);
    let mut second = up(&effects);
    assert_eq!(second.allow(50_000, start).bytes, 0, "not even a turn is left");
    drop((first, second));
    // Connecting anew does not fill what is shared.
    assert_eq!(up(&effects).allow(50_000, start).bytes, 0);
}

#[test]
fn buckets_without_sessions_go_once_they_are_full() {
    let effects = Effects {
        per_source: SharedLimits {
            rate_up: Some(ByteRate {
                per_second: 1_000,
                burst: 10_000,
            }),
            ..SharedLimits::default()
        },
        ..Effects::default()
    };
    let ledger = Ledger::new(&Policy::default(), &Quotas::new());
    let start = Instant::now();
    let up = |number: u32| {
        let who = Who::new(None, std::net::Ipv4Addr::from(number).into());
        ledger.limits(&who, &effects, start).0.unwrap()
    };
    for number in 0..20_000 {
        let mut limit = up(number);
        if number % 100 == 0 {
            limit.spent(5_000, start);
        }
    }
    assert!(ledger.buckets.len() < 2_000, "{}", ledger.buckets.len());
    assert_eq!(up(0).allow(50_000, start).bytes, 5_000);
}

fn with_quota() -> Effects {
    Effects {
        per_user: SharedLimits {
            quota: Some("small".into()),
            ..SharedLimits::default()
        },
        ..Effects::default()
    }
}

#[test]
fn a_quota_is_one_for_all_sessions_of_a_user_and_lasts_for_its_period() {
    let effects = with_quota();
    let ledger = Ledger::new(&policy(effects.clone()), &quotas(1_000));
    let (bob, ann) = (who("bob", "192.0.2.1"), who("ann", "192.0.2.1"));
    let start = now();
    let admit = |who: &Who, now| ledger.admit(who, &effects, &mut Held::default(), now);
    let first = ledger.accounts(&bob, &effects, start.wall);
    let second = ledger.accounts(&bob, &effects, start.wall);
    assert!(first[0].charge(600, start.wall));
    assert_eq!(admit(&bob, start), Ok(()));
    assert!(!second[0].charge(400, start.wall));
    assert_eq!(admit(&bob, start), Err(Refused::UserQuota));
    assert_eq!(admit(&ann, start), Ok(()));
    let tomorrow = Now {
        wall: start.wall + Duration::from_secs(86_400),
        ..start
    };
    assert_eq!(admit(&bob, tomorrow), Ok(()));
    // Of a quota that is configured no more nothing is known.
    ledger.reconfigure(&policy(Effects::default()), &Quotas::new(), start.wall);
    assert!(ledger.accounts(&bob, &effects, start.wall).is_empty());
    assert_eq!(ledger.accounts.len(), 0);
}

#[test]
fn what_was_used_outlives_the_process() {
    let effects = with_quota();
    let journal = MemoryJournal::new();
    let bob = who("bob", "192.0.2.1");
    let start = now();
    let admit = |ledger: &Ledger| ledger.admit(&bob, &effects, &mut Held::default(), start);
    let ledger = Ledger::new(&policy(effects.clone()), &quotas(1_000));
    let account = ledger.accounts(&bob, &effects, start.wall);
    ledger.save(&journal);
    assert!(journal.load().unwrap().is_empty(), "nothing was used");
    account[0].charge(999, start.wall);
    ledger.save(&journal);
    let records = journal.load().unwrap();
    assert_eq!(records.len(), 1);
    let mut again = Vec::new();
    let whole = ledger.records(&mut |record| {
        again.push(record);
        ControlFlow::Continue(())
    });
    assert!(whole.is_continue());
    assert_eq!(again, records);

    let next = Ledger::new(&policy(effects.clone()), &quotas(1_000));
    assert_eq!(next.load(records.clone().into_iter(), start.wall), 0);
    assert_eq!(admit(&next), Ok(()));
    assert!(!next.accounts(&bob, &effects, start.wall)[0].charge(1, start.wall));
    assert_eq!(admit(&next), Err(Refused::UserQuota));
    // A larger limit is used as far as the former was.
    next.reconfigure(&policy(effects.clone()), &quotas(2_000), start.wall);
    assert_eq!(admit(&next), Ok(()));

    // What is damaged, of a quota that is gone, or of a period that is over, goes.
    let mut damaged = records.clone();
    damaged[0].value = damaged[0].value.slice(1..);
    let other = Ledger::new(&policy(effects.clone()), &quotas(1_000));
    assert_eq!(other.load(damaged.into_iter(), start.wall), 1);
    let later = start.wall + Duration::from_secs(86_400);
    assert_eq!(other.load(records.clone().into_iter(), later), 1);
    let none = Ledger::new(&Policy::default(), &Quotas::new());
    assert_eq!(none.load(records.into_iter(), start.wall), 1);
    none.save(&journal);
    assert!(journal.load().unwrap().is_empty());
}

#[test]
fn what_a_failing_journal_did_not_take_is_given_to_it_again() {
    let effects = with_quota();
    let journal = MemoryJournal::new();
    let start = now();
    let ledger = Ledger::new(&policy(effects.clone()), &quotas(1_000));
    let account = ledger.accounts(&who("bob", "192.0.2.1"), &effects, start.wall);
    account[0].charge(7, start.wall);
    journal.fail_with(Some(sluice_core::JournalError::Full));
    ledger.save(&journal);
    journal.fail_with(None);
    assert!(journal.load().unwrap().is_empty());
    ledger.save(&journal);
    assert_eq!(journal.load().unwrap().len(), 1);
}
