use super::*;
use crate::pools::Allocation;
use proptest::prelude::*;
use sluice_testkit::Seeded;
use std::collections::BTreeSet;
use std::time::Duration;

const HOUR: u64 = 3_600_000;

fn id(number: u64) -> SessionId {
    SessionId::from_value(u128::from(number))
}

fn pool(name: &str, ipv4: &[&str], ipv6: &[&str]) -> PoolConfig {
    PoolConfig {
        ipv4: ipv4.iter().map(|text| text.parse().unwrap()).collect(),
        ipv6: ipv6.iter().map(|text| text.parse().unwrap()).collect(),
        ..PoolConfig::new(name)
    }
}

/// Six addresses to give: .2 to .6 of the first block without the gateway, and one more.
fn small() -> Leases {
    Leases::new(&[pool("p", &["10.0.0.0/29", "10.0.9.1/32"], &[])], 100)
}

struct Run {
    leases: Leases,
    random: crate::ids::Mint,
    now: u64,
}

impl Run {
    fn new(leases: Leases) -> Self {
        Self {
            leases,
            random: crate::ids::Mint::new(Box::new(Seeded::new(3))),
            now: 1_000_000 * HOUR,
        }
    }

    fn get(&mut self, user: &str, session: u64) -> Result<Address, NoAddress> {
        let wanted = For {
            user,
            session: id(session),
            now: self.now,
        };
        let random = self.random.random();
        self.leases.allocate(Family::V4, "p", wanted, random)
    }

    fn take(&mut self, address: &str, user: &str, session: u64) -> Result<(), NoAddress> {
        let wanted = For {
            user,
            session: id(session),
            now: self.now,
        };
        self.leases.take(at(address), wanted)
    }

    fn release(&mut self, address: Address, session: u64) {
        assert!(self.leases.release(address, id(session), self.now));
    }

    fn usage(&self) -> crate::PoolUse {
        self.leases.status()[0].ipv4.unwrap()
    }
}

fn at(text: &str) -> Address {
    match text.parse() {
        Ok(address) => Address::V4(address),
        Err(_) => Address::V6(text.parse().unwrap()),
    }
}

#[test]
fn a_pool_gives_all_its_addresses_once_and_then_none() {
    let mut run = Run::new(small());
    let given: BTreeSet<Address> = (0..6)
        .map(|session| run.get(&format!("user{session}"), session).unwrap())
        .collect();
    let expected = [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.9.1",
    ];
    assert_eq!(given, expected.map(at).into());
    assert_eq!(run.get("late", 6), Err(NoAddress::Exhausted { news: true }));
    assert_eq!(run.get("late", 6), Err(NoAddress::Exhausted { news: false }));
    let usage = run.usage();
    assert_eq!((usage.size, usage.held, usage.free, usage.blocked), (7, 6, 0, 1));
    assert_eq!(usage.exhausted, 2);
    run.release(at("10.0.0.4"), {
        let holder = run.leases.holder("10.0.0.4".parse().unwrap()).unwrap();
        u64::try_from(holder.value()).unwrap()
    });
    assert_eq!(run.get("late", 6), Ok(at("10.0.0.4")));
    assert_eq!(run.get("later", 7), Err(NoAddress::Exhausted { news: true }));
}

#[test]
fn next_gives_one_after_the_other() {
    let config = PoolConfig {
        allocation: Allocation::Next,
        sticky: Duration::ZERO,
        ..pool("p", &["10.0.0.0/29"], &[])
    };
    let mut run = Run::new(Leases::new(&[config], 100));
    assert_eq!(run.get("a", 1), Ok(at("10.0.0.2")));
    assert_eq!(run.get("b", 2), Ok(at("10.0.0.3")));
    run.release(at("10.0.0.2"), 1);
    assert_eq!(run.get("c", 3), Ok(at("10.0.0.4")));
    assert_eq!(run.get("d", 4), Ok(at("10.0.0.5")));
    assert_eq!(run.get("e", 5), Ok(at("10.0.0.6")));
    assert_eq!(run.get("f", 6), Ok(at("10.0.0.2")));
}

#[test]
fn a_user_gets_its_last_address_again_and_others_do_not() {
    let mut run = Run::new(small());
    let first = run.get("bob", 1).unwrap();
    run.release(first, 1);
    assert_eq!(
        run.leases.take_changes(),
        [StickyChange::Put {
            key: ("bob".into(), "p".into()),
            address: first,
            until: run.now + 24 * HOUR,
        }]
    );
    for session in 2..7 {
        assert_ne!(run.get(&format!("user{session}"), session), Ok(first));
    }
    assert_eq!(run.usage().kept, 1);
    assert_eq!(run.get("bob", 7), Ok(first));
    assert_eq!(run.usage().kept, 0);
}

#[test]
fn a_kept_address_goes_to_others_when_nothing_else_is_left_the_oldest_first() {
    let mut run = Run::new(small());
    let given: Vec<Address> = (0..6)
        .map(|session| run.get(&format!("user{session}"), session).unwrap())
        .collect();
    for session in [3, 1] {
        run.now += HOUR;
        run.release(given[session as usize], session);
    }
    run.leases.take_changes();
    assert_eq!(run.get("new", 10), Ok(given[3]));
    assert_eq!(
        run.leases.take_changes(),
        [StickyChange::Delete {
            key: ("user3".into(), "p".into()),
            family: Family::V4,
        }]
    );
    assert_eq!(run.get("user1", 11), Ok(given[1]));
    assert!(run.get("user3", 12).is_err());
}

#[test]
fn a_kept_address_is_free_after_its_time() {
    let mut run = Run::new(small());
    let first = run.get("bob", 1).unwrap();
    run.release(first, 1);
    run.now += 24 * HOUR - 1;
    run.get("other", 2).unwrap();
    assert_eq!(run.usage().kept, 1);
    run.leases.take_changes();
    run.now += 1;
    run.get("another", 3).unwrap();
    assert_eq!(run.usage().kept, 0);
    assert_eq!(run.leases.take_changes().len(), 1);
}

#[test]
fn kept_addresses_are_bounded() {
    let mut run = Run::new(Leases::new(&[pool("p", &["10.0.0.0/16"], &[])], 10));
    for session in 0..50 {
        let address = run.get(&format!("user{session}"), session).unwrap();
        run.now += 1;
        run.release(address, session);
    }
    let usage = run.usage();
    assert_eq!((usage.kept, usage.held), (10, 0));
    let page = run.leases.page(&LeaseQuery::default());
    let mut users: Vec<String> = page.items.into_iter().map(|lease| lease.user).collect();
    users.sort();
    let last: Vec<String> = (40..50).map(|session| format!("user{session}")).collect();
    assert_eq!(users, last);
}

#[test]
fn an_address_that_rests_is_given_to_nobody_but_its_user() {
    let config = PoolConfig {
        sticky: Duration::ZERO,
        hold_down: Duration::from_secs(60),
        ..pool("p", &["10.0.0.1/32", "10.0.0.9/32"], &[])
    };
    let mut run = Run::new(Leases::new(&[config], 100));
    let address = run.get("bob", 1).unwrap();
    run.release(address, 1);
    assert!(run.get("other", 2).is_err());
    assert_eq!(run.take("10.0.0.9", "other", 2), Err(NoAddress::Taken));
    assert_eq!(run.take("10.0.0.9", "bob", 3), Ok(()));
    run.leases.untake(address, id(3));
    run.now += 60_000;
    assert_eq!(run.get("other", 2), Ok(address));
}

#[test]
fn static_addresses_are_given_by_no_pool() {
    let mut run = Run::new(small());
    let kept = run.get("bob", 1).unwrap();
    run.release(kept, 1);
    let statics = ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.9.1"].map(at);
    run.leases.set_statics(&statics);
    assert_eq!(run.get("a", 1), Ok(at("10.0.0.2")));
    assert!(run.get("b", 2).is_err());
    assert_eq!(run.take("10.0.0.3", "carol", 3), Ok(()));
    assert_eq!(run.take("10.0.0.3", "carol", 4), Err(NoAddress::Taken));
    run.leases.set_statics(&[]);
    assert_eq!(run.usage().free, 4);
    // One that is held by a static rule is not given either.
    for session in 10..14 {
        assert_ne!(run.get(&format!("user{session}"), session), Ok(at("10.0.0.3")));
    }
    run.release(at("10.0.0.3"), 3);
    assert_eq!(run.get("last", 20), Ok(at("10.0.0.3")));
}

#[test]
fn our_own_address_is_nobodys() {
    let config = PoolConfig {
        ipv4_gateway: Some([10, 0, 0, 5].into()),
        ..pool("p", &["10.0.0.4/30"], &[])
    };
    let mut run = Run::new(Leases::new(&[config], 100));
    assert_eq!(run.take("10.0.0.5", "mallory", 1), Err(NoAddress::Taken));
    assert_eq!(run.get("a", 1), Ok(at("10.0.0.6")));
    assert!(run.get("b", 2).is_err());
}

#[test]
fn prefixes_that_overlap_are_not_both_held() {
    let mut run = Run::new(Leases::new(&[pool("p", &[], &["2001:db8::/60"])], 100));
    let get = |run: &mut Run, session| {
        let wanted = For {
            user: "u",
            session: id(session),
            now: run.now,
        };
        let random = run.random.random();
        run.leases.allocate(Family::V6, "p", wanted, random)
    };
    assert_eq!(run.take("2001:db8:0:8::/61", "fixed", 1), Ok(()));
    assert_eq!(run.take("2001:db8::/32", "wide", 2), Err(NoAddress::Taken));
    assert_eq!(run.take("2001:db8:0:f::1/128", "host", 2), Err(NoAddress::Taken));
    assert_eq!(run.take("2001:db8:0:3::1/128", "host", 2), Ok(()));
    let given: BTreeSet<Address> = (10..17).map(|session| get(&mut run, session).unwrap()).collect();
    assert_eq!(given.len(), 7);
    assert!(!given.contains(&at("2001:db8:0:3::/64")));
    assert!(get(&mut run, 20).is_err());
    let usage = run.leases.status()[0].ipv6.unwrap();
    assert_eq!((usage.size, usage.held, usage.blocked, usage.free), (16, 7, 9, 0));
    assert_eq!(run.leases.holder("2001:db8:0:f::7".parse().unwrap()), Some(id(1)));
    run.release(at("2001:db8:0:8::/61"), 1);
    assert_eq!(run.leases.status()[0].ipv6.unwrap().free, 8);
}

#[test]
fn whoever_holds_an_address_keeps_it_when_pools_change() {
    let mut run = Run::new(small());
    let mine = run.get("bob", 1).unwrap();
    let left = run.get("carol", 2).unwrap();
    run.release(left, 2);
    run.leases.take_changes();
    run.leases.configure(&[pool("p", &["10.7.0.0/24"], &[])], 100);
    assert_eq!(run.leases.orphans().collect::<Vec<_>>(), [(mine, id(1))]);
    assert_eq!(
        run.leases.take_changes().len(),
        1,
        "carol's is nothing to come back to"
    );
    let usage = run.usage();
    assert_eq!((usage.size, usage.held, usage.free, usage.kept), (254, 0, 253, 0));
    // Back again while it is still held: it is given to nobody else.
    run.leases
        .configure(&[pool("p", &["10.0.0.0/29", "10.0.9.1/32"], &[])], 100);
    assert_eq!(run.leases.orphans().count(), 0);
    for session in 10..15 {
        assert_ne!(run.get(&format!("user{session}"), session), Ok(mine));
    }
    assert!(run.get("late", 20).is_err());
    run.leases.configure(&[], 100);
    run.release(mine, 1);
    assert_eq!(
        run.leases.take_changes().last(),
        Some(&StickyChange::Delete {
            key: ("bob".into(), "p".into()),
            family: Family::V4,
        })
    );
}

#[test]
fn pages_hold_every_lease_once_in_order() {
    let mut run = Run::new(Leases::new(
        &[
            pool("p", &["10.0.0.0/24"], &[]),
            pool("q", &[], &["2001:db8::/60"]),
        ],
        100,
    ));
    for session in 0..40 {
        let address = run.get(&format!("user{session}"), session).unwrap();
        if session % 3 == 0 {
            run.release(address, session);
        }
    }
    for session in 100..110 {
        let wanted = For {
            user: "six",
            session: id(session),
            now: run.now,
        };
        run.leases.allocate(Family::V6, "q", wanted, 0).unwrap();
    }
    let collect = |query: LeaseQuery| {
        let mut query = query;
        let mut all = Vec::new();
        loop {
            let page = run.leases.page(&query);
            assert!(page.items.len() <= 7);
            all.extend(page.items);
            query.after = page.next;
            if page.next.is_none() {
                return all;
            }
        }
    };
    let all = collect(LeaseQuery {
        limit: 7,
        ..LeaseQuery::default()
    });
    assert_eq!(all.len(), 50);
    assert!(all.windows(2).all(|pair| pair[0].address < pair[1].address));
    let six = collect(LeaseQuery {
        limit: 7,
        user: Some("six".into()),
        ..LeaseQuery::default()
    });
    assert_eq!(six.len(), 10);
    let q = collect(LeaseQuery {
        limit: 7,
        pool: Some("q".into()),
        ..LeaseQuery::default()
    });
    assert_eq!(q, six);
}

#[derive(Clone, Debug)]
enum Step {
    Get { user: u8, pool: u8 },
    Take { user: u8, host: u8 },
    Release { which: prop::sample::Index },
    Statics { hosts: Vec<u8> },
    Configure { variant: u8 },
    Pass { hours: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..12, 0u8..2).prop_map(|(user, pool)| Step::Get { user, pool }),
        2 => (0u8..12, 0u8..40).prop_map(|(user, host)| Step::Take { user, host }),
        6 => any::<prop::sample::Index>().prop_map(|which| Step::Release { which }),
        1 => prop::collection::vec(0u8..40, 0..4).prop_map(|hosts| Step::Statics { hosts }),
        1 => (0u8..4).prop_map(|variant| Step::Configure { variant }),
        1 => (1u8..30).prop_map(|hours| Step::Pass { hours }),
    ]
}

/// Pools that overlap each other and change under the sessions.
fn variant(number: u8) -> Vec<PoolConfig> {
    let mut pools = match number {
        0 => vec![
            pool("a", &["10.0.0.0/28"], &[]),
            pool("b", &["10.0.0.16/29"], &[]),
        ],
        1 => vec![pool("a", &["10.0.0.8/29"], &[]), pool("b", &["10.0.0.0/27"], &[])],
        2 => vec![pool("b", &["10.0.0.4-10.0.0.9"], &[])],
        _ => vec![pool("a", &["10.0.0.0/29", "10.0.0.0/28"], &[])],
    };
    for pool in &mut pools {
        pool.hold_down = Duration::from_secs(u64::from(number % 2) * 7200);
    }
    pools
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An address is never held twice, our own never given, and a pool says no only when it has nothing left.
    #[test]
    fn no_address_is_ever_held_twice(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new(Leases::new(&variant(0), 6));
        let mut held: Vec<(Address, u64)> = Vec::new();
        for (number, step) in (1u64..).zip(steps) {
            let wanted = |user: &'static str| For { user, session: id(number), now: run.now };
            const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
            let new = match step {
                Step::Get { user, pool } => {
                    let name = ["a", "b"][usize::from(pool)];
                    let wanted = wanted(NAMES[usize::from(user)]);
                    let random = run.random.random();
                    let got = run.leases.allocate(Family::V4, name, wanted, random);
                    if let Err(NoAddress::Exhausted { .. }) = got {
                        let status = run.leases.status();
                        let usage = status.iter().find(|pool| pool.name == name).unwrap().ipv4.unwrap();
                        prop_assert_eq!(usage.free, 0);
                    }
                    got.ok()
                }
                Step::Take { user, host } => {
                    let address = Address::V4([10, 0, 0, host].into());
                    let wanted = wanted(NAMES[usize::from(user)]);
                    run.leases.take(address, wanted).ok().map(|()| address)
                }
                Step::Release { which } => {
                    if !held.is_empty() {
                        let (address, session) = held.swap_remove(which.index(held.len()));
                        prop_assert!(run.leases.release(address, id(session), run.now));
                        prop_assert!(!run.leases.release(address, id(session), run.now));
                    }
                    None
                }
                Step::Statics { hosts } => {
                    let hosts: Vec<Address> =
                        hosts.into_iter().map(|host| Address::V4([10, 0, 0, host].into())).collect();
                    run.leases.set_statics(&hosts);
                    None
                }
                Step::Configure { variant: number } => {
                    run.leases.configure(&variant(number), 6);
                    None
                }
                Step::Pass { hours } => {
                    run.now += u64::from(hours) * HOUR;
                    None
                }
            };
            if let Some(address) = new {
                prop_assert!(held.iter().all(|(other, _)| *other != address), "{address} twice");
                let gateways: Vec<_> = run.leases.status().iter().filter_map(|pool| pool.ipv4_gateway).collect();
                prop_assert!(gateways.iter().all(|gateway| Address::V4(*gateway) != address));
                held.push((address, number));
            }
            for pool in run.leases.status() {
                let usage = pool.ipv4.unwrap();
                prop_assert_eq!(usage.free + usage.held + usage.kept + usage.blocked, usage.size);
                prop_assert!(usage.kept <= 6);
            }
            for (address, session) in &held {
                let Address::V4(address) = address else { unreachable!() };
                prop_assert_eq!(run.leases.holder((*address).into()), Some(id(*session)));
            }
        }
        for (address, session) in held {
            prop_assert!(run.leases.release(address, id(session), run.now));
        }
        // After everything has run out, all is free again.
        run.leases.set_statics(&[]);
        run.leases.ipv4.expire(run.now + 10_000 * HOUR);
        for pool in run.leases.status() {
            let usage = pool.ipv4.unwrap();
            prop_assert_eq!((usage.held, usage.kept), (0, 0));
            prop_assert!(usage.blocked <= 2 * 2, "only gateways: {usage:?}");
        }
    }
}
