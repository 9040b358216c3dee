use super::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// When and how attempts end: in milliseconds, with a failure or a connection.
type Script = HashMap<IpAddr, (u32, Option<ChannelFailure>)>;

/// A connector without a network. It notes who was tried when, and which attempts were dropped unfinished.
struct Fake {
    script: Script,
    start: Instant,
    log: RefCell<Vec<(u128, String)>>,
}

struct Dropped<'a>(&'a Fake, IpAddr, bool);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if !self.2 {
            self.0.note(format!("closed {}", self.1));
        }
    }
}

impl Fake {
    fn note(&self, what: String) {
        self.log
            .borrow_mut()
            .push((self.start.elapsed().as_millis(), what));
    }
}

impl Attempt for Fake {
    type Stream = IpAddr;

    fn attempt(&self, candidate: Candidate) -> Local<'_, Result<IpAddr, Failed>> {
        let ip = candidate.address.ip();
        Box::pin(async move {
            self.note(format!("try {ip}"));
            let mut guard = Dropped(self, ip, false);
            let Some((after, failure)) = self.script.get(&ip) else {
                return std::future::pending().await;
            };
            tokio::time::sleep(*after * MS).await;
            guard.2 = true;
            match failure {
                None => Ok(ip),
                Some(failure) => Err(Failed::new(*failure, Cause::Connect(0))),
            }
        })
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lookup(after: u32, found: Result<&[&str], LookupFailure>) -> Option<Local<'static, Found>> {
    let found = found.map(|list| list.iter().map(|text| ip(text)).collect::<Arc<[IpAddr]>>());
    Some(Box::pin(async move {
        tokio::time::sleep(after * MS).await;
        found
    }))
}

fn admit(address: IpAddr) -> Result<Candidate, Failed> {
    if address == ip("10.0.0.1") {
        return Err(Failed::denied(Cause::AddressDenied));
    }
    Ok(Candidate {
        address: SocketAddr::new(address, 80),
        way: Way::default(),
    })
}

fn fake(script: &[(&str, u32, Option<ChannelFailure>)]) -> Fake {
    Fake {
        script: script
            .iter()
            .map(|(text, after, failure)| (ip(text), (*after, *failure)))
            .collect(),
        start: Instant::now(),
        log: RefCell::default(),
    }
}

async fn run(fake: &Fake, lookups: Lookups<'_>) -> Result<IpAddr, Failed> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let result = race(Eyeballs::DEFAULT, lookups, admit, fake, deadline).await;
    result.map(|(stream, _)| stream)
}

fn log(fake: &Fake) -> Vec<(u128, String)> {
    fake.log.borrow().clone()
}

fn entries(list: &[(u128, &str)]) -> Vec<(u128, String)> {
    list.iter().map(|(at, what)| (*at, (*what).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hanging_ipv6_address_costs_the_attempt_delay_and_is_closed() {
    let fake = fake(&[("192.0.2.1", 20, None)]);
    let lookups = Lookups {
        v4: lookup(5, Ok(&["192.0.2.1"])),
        v6: lookup(8, Ok(&["2001:db8::1"])),
    };
    assert_eq!(run(&fake, lookups).await, Ok(ip("192.0.2.1")));
    let wanted = [
        (8, "try 2001:db8::1"),
        (258, "try 192.0.2.1"),
        (278, "closed 2001:db8::1"),
    ];
    assert_eq!(log(&fake), entries(&wanted));
}

#[tokio::test(start_paused = true)]
async fn ipv6_wins_if_it_answers_within_the_delay() {
    let fake = fake(&[("192.0.2.1", 1, None), ("2001:db8::1", 249, None)]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["192.0.2.1"])),
        v6: lookup(49, Ok(&["2001:db8::1"])),
    };
    assert_eq!(run(&fake, lookups).await, Ok(ip("2001:db8::1")));
    assert_eq!(log(&fake), entries(&[(49, "try 2001:db8::1")]));
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_never_ends_costs_the_resolution_delay() {
    let fake = fake(&[("192.0.2.1", 10, None)]);
    let lookups = Lookups {
        v4: lookup(3, Ok(&["192.0.2.1"])),
        v6: Some(Box::pin(std::future::pending())),
    };
    assert_eq!(run(&fake, lookups).await, Ok(ip("192.0.2.1")));
    assert_eq!(log(&fake), entries(&[(53, "try 192.0.2.1")]));
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_family_costs_nothing() {
    let fake = fake(&[
        ("2001:db8::1", 0, Some(ChannelFailure::NetworkUnreachable)),
        ("192.0.2.1", 10, None),
    ]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["192.0.2.1"])),
        v6: lookup(0, Ok(&["2001:db8::1"])),
    };
    assert_eq!(run(&fake, lookups).await, Ok(ip("192.0.2.1")));
    assert_eq!(
        log(&fake),
        entries(&[(0, "try 2001:db8::1"), (0, "try 192.0.2.1")])
    );
}

#[tokio::test(start_paused = true)]
async fn the_most_meaningful_failure_is_told() {
    use ChannelFailure::{HostUnreachable, Refused, TimedOut};
    let fake = fake(&[
        ("2001:db8::1", 0, Some(Refused)),
        ("192.0.2.1", 0, Some(HostUnreachable)),
        ("192.0.2.2", 0, Some(TimedOut)),
    ]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["192.0.2.1", "192.0.2.2"])),
        v6: lookup(0, Ok(&["2001:db8::1"])),
    };
    assert_eq!(run(&fake, lookups).await.unwrap_err().failure, Refused);
    let wanted = [
        (0, "try 2001:db8::1"),
        (10, "try 192.0.2.1"),
        (20, "try 192.0.2.2"),
    ];
    assert_eq!(log(&fake), entries(&wanted));
}

#[tokio::test(start_paused = true)]
async fn only_admitted_addresses_are_tried() {
    let fake = fake(&[("192.0.2.1", 0, None)]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["10.0.0.1", "192.0.2.1"])),
        v6: lookup(0, Err(LookupFailure::NoData)),
    };
    assert_eq!(run(&fake, lookups).await, Ok(ip("192.0.2.1")));
    let lookups = Lookups {
        v4: lookup(0, Ok(&["10.0.0.1"])),
        v6: lookup(0, Err(LookupFailure::NoData)),
    };
    let failed = run(&fake, lookups).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Denied, Cause::AddressDenied)
    );
    assert_eq!(log(&fake), entries(&[(0, "try 192.0.2.1")]));
}

#[tokio::test(start_paused = true)]
async fn failures_of_look_ups_are_told_apart() {
    use LookupFailure::{NoData, NotFound, ServerFailure, Timeout};
    for (v4, v6, failure, cause) in [
        (
            Some(NotFound),
            Some(NotFound),
            ChannelFailure::HostUnreachable,
            Cause::Lookup(NotFound),
        ),
        (
            Some(NoData),
            Some(Timeout),
            ChannelFailure::HostUnreachable,
            Cause::Lookup(Timeout),
        ),
        (
            Some(ServerFailure),
            Some(NoData),
            ChannelFailure::HostUnreachable,
            Cause::Lookup(ServerFailure),
        ),
        (
            Some(NoData),
            Some(NoData),
            ChannelFailure::HostUnreachable,
            Cause::Lookup(NoData),
        ),
        (Some(NoData), None, ChannelFailure::Family, Cause::FamilyDisabled),
        (None, Some(NoData), ChannelFailure::Family, Cause::FamilyDisabled),
        (
            Some(LookupFailure::Busy),
            Some(NoData),
            ChannelFailure::Resources,
            Cause::Lookup(LookupFailure::Busy),
        ),
    ] {
        let fake = fake(&[]);
        let lookups = Lookups {
            v4: v4.and_then(|failure| lookup(0, Err(failure))),
            v6: v6.and_then(|failure| lookup(0, Err(failure))),
        };
        let failed = run(&fake, lookups).await.unwrap_err();
        assert_eq!((failed.failure, failed.cause), (failure, cause));
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_everything_is_closed_and_what_is_known_is_told() {
    let fake = fake(&[("2001:db8::1", 0, Some(ChannelFailure::Refused))]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["192.0.2.1"])),
        v6: lookup(0, Ok(&["2001:db8::1"])),
    };
    assert_eq!(
        run(&fake, lookups).await.unwrap_err().failure,
        ChannelFailure::Refused
    );
    let wanted = [
        (0, "try 2001:db8::1"),
        (10, "try 192.0.2.1"),
        (30_000, "closed 192.0.2.1"),
    ];
    assert_eq!(log(&fake), entries(&wanted));
    let fake = self::fake(&[]);
    let lookups = Lookups {
        v4: lookup(0, Ok(&["192.0.2.1"])),
        v6: None,
    };
    let failed = run(&fake, lookups).await.unwrap_err();
    assert_eq!(failed.failure, ChannelFailure::TimedOut);
    assert_eq!(failed.address, Some("192.0.2.1:80".parse().unwrap()));
}
