//! Failed-login throttling: token buckets per user and per source, in tables of bounded size.
//!
//! Only failures take tokens, so a thousand good logins at once are never slowed. The answer is asked for twice:
//! before the password is checked, and again when a right one was found, so that guesses sent in parallel gain
//! nothing: once the bucket is empty, right and wrong look the same.

use crate::IpPrefix;
use crate::buckets::{Buckets, Pace, source_key};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures allowed in a time: the size of a bucket, and how long an empty one takes to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Failures in a row that are tolerated; at least 1.
    pub failures: u32,
    /// Time in which that many failures are forgotten.
    pub per: Duration,
}

impl Rate {
    /// `failures` in one minute.
    pub const fn per_minute(failures: u32) -> Self {
        Self {
            failures,
            per: Duration::from_secs(60),
        }
    }

    fn pace(self) -> Pace {
        Pace {
            burst: self.failures,
            interval: self.per / self.failures.max(1),
        }
    }
}

/// What is tolerated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottleConfig {
    /// Failures of one user name, whether or not there is such a user; `None`: any number.
    pub per_user: Option<Rate>,
    /// Failures from one source address (IPv6: one /64); `None`: any number.
    pub per_source: Option<Rate>,
    /// Sources whose failures do not count against the source: access concentrators, which speak for many
    /// users. Those users' own buckets still count.
    pub exempt_sources: Vec<IpPrefix>,
    /// Most names, and most sources, remembered at once.
    pub capacity: usize,
}

impl Default for ThrottleConfig {
    /// 5 a minute for a user, 30 a minute for a source; 16,384 entries of either kind, which is at most 10 MiB.
    fn default() -> Self {
        Self {
            per_user: Some(Rate::per_minute(5)),
            per_source: Some(Rate::per_minute(30)),
            exempt_sources: Vec::new(),
            capacity: 16_384,
        }
    }
}

/// Which bucket is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Throttled {
    /// Too many failures of this user.
    #[error("too many failures of this user lately")]
    User,
    /// Too many failures from this source.
    #[error("too many failures from this source lately")]
    Source,
}

/// The two tables.
#[derive(Debug)]
pub struct Throttle {
    users: Option<(Pace, Buckets<Arc<str>>)>,
    sources: Option<(Pace, Buckets<IpAddr>)>,
    exempt: Vec<IpPrefix>,
}

impl Throttle {
    /// Empty tables.
    pub fn new(config: ThrottleConfig) -> Self {
        Self {
            users: config
                .per_user
                .map(|rate| (rate.pace(), Buckets::new(config.capacity))),
            sources: config
                .per_source
                .map(|rate| (rate.pace(), Buckets::new(config.capacity))),
            exempt: config.exempt_sources,
        }
    }

    fn counted_source(&self, source: Option<IpAddr>) -> Option<IpAddr> {
        let source = source?;
        let exempt = self.exempt.iter().any(|net| net.contains(source));
        (!exempt).then(|| source_key(source))
    }

    /// Whether an attempt of `user` from `source` may be answered by anything but a refusal.
    pub fn check(&self, user: &str, source: Option<IpAddr>, now: Instant) -> Result<(), Throttled> {
        if let (Some((pace, sources)), Some(source)) = (&self.sources, self.counted_source(source))
            && !sources.allows(&source, *pace, now)
        {
            return Err(Throttled::Source);
        }
        match &self.users {
            Some((pace, users)) if !users.allows(user, *pace, now) => Err(Throttled::User),
            _ => Ok(()),
        }
    }

    /// Counts a failed attempt.
    pub fn failed(&mut self, user: &str, source: Option<IpAddr>, now: Instant) {
        let source = self.counted_source(source);
        if let (Some((pace, sources)), Some(source)) = (&mut self.sources, source) {
            sources.take(&source, *pace, now);
        }
        if let Some((pace, users)) = &mut self.users {
            users.take(&Arc::from(user), *pace, now);
        }
    }

    /// Names and sources remembered at present.
    pub fn len(&self) -> usize {
        self.users.as_ref().map_or(0, |(_, users)| users.len())
            + self.sources.as_ref().map_or(0, |(_, sources)| sources.len())
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn source(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn five_failures_empty_a_users_bucket_and_one_comes_back_in_twelve_seconds() {
        let start = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig::default());
        for _ in 0..5 {
            assert_eq!(throttle.check("bob", source("192.0.2.1"), start), Ok(()));
            throttle.failed("bob", source("192.0.2.1"), start);
        }
        // Another source does not help, another user is not harmed.
        assert_eq!(
            throttle.check("bob", source("192.0.2.9"), start),
            Err(Throttled::User)
        );
        assert_eq!(throttle.check("eve", source("192.0.2.1"), start), Ok(()));
        assert_eq!(
            throttle.check("bob", None, start + 11 * SECOND),
            Err(Throttled::User)
        );
        assert_eq!(throttle.check("bob", None, start + 12 * SECOND), Ok(()));
        throttle.failed("bob", None, start + 12 * SECOND);
        assert_eq!(
            throttle.check("bob", None, start + 12 * SECOND),
            Err(Throttled::User)
        );
    }

    #[test]
    fn a_source_is_stopped_after_thirty_names() {
        let now = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig::default());
        for n in 0..30 {
            let address = source(&format!("2001:db8:0:1::{n}"));
            assert_eq!(throttle.check(&format!("user{n}"), address, now), Ok(()));
            throttle.failed(&format!("user{n}"), address, now);
        }
        assert_eq!(
            throttle.check("new", source("2001:db8:0:1::ffff"), now),
            Err(Throttled::Source)
        );
        assert_eq!(throttle.check("new", source("2001:db8:0:2::1"), now), Ok(()));
        assert_eq!(throttle.check("new", None, now), Ok(()));
    }

    #[test]
    fn an_exempt_source_is_never_stopped_but_its_users_are() {
        let now = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig {
            exempt_sources: vec!["192.0.2.0/24".parse().unwrap()],
            ..ThrottleConfig::default()
        });
        for n in 0..100 {
            throttle.failed(&format!("user{}", n % 20), source("::ffff:192.0.2.1"), now);
        }
        assert_eq!(throttle.check("other", source("192.0.2.1"), now), Ok(()));
        assert_eq!(
            throttle.check("user1", source("192.0.2.1"), now),
            Err(Throttled::User)
        );
    }

    #[test]
    fn no_rate_means_no_limit_and_no_memory() {
        let now = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig {
            per_user: None,
            per_source: None,
            ..ThrottleConfig::default()
        });
        for _ in 0..1000 {
            throttle.failed("bob", source("192.0.2.1"), now);
        }
        assert_eq!(throttle.check("bob", source("192.0.2.1"), now), Ok(()));
        assert!(throttle.is_empty());
    }

    #[test]
    fn a_flood_of_names_does_not_free_the_one_under_attack() {
        let now = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig {
            per_source: None,
            capacity: 100,
            ..ThrottleConfig::default()
        });
        for _ in 0..5 {
            throttle.failed("victim", None, now);
        }
        for n in 0..10_000 {
            throttle.failed(&format!("flood{n}"), None, now);
        }
        assert_eq!(throttle.check("victim", None, now), Err(Throttled::User));
        assert_eq!(throttle.len(), 100);
        // All of them are forgotten as soon as they are full.
        throttle.failed("later", None, now + 61 * SECOND);
        assert_eq!(throttle.len(), 1);
    }

    #[test]
    fn an_older_time_does_not_refill_a_bucket() {
        let start = Instant::now();
        let mut throttle = Throttle::new(ThrottleConfig::default());
        for _ in 0..5 {
            throttle.failed("bob", None, start + 30 * SECOND);
        }
        throttle.failed("bob", None, start);
        assert_eq!(
            throttle.check("bob", None, start + 41 * SECOND),
            Err(Throttled::User)
        );
    }

    proptest! {
        /// However failures are spread, no more than burst + elapsed / interval attempts get past the check.
        #[test]
        fn never_more_than_the_rate(gaps in proptest::collection::vec(0u64..20_000, 1..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut throttle = Throttle::new(ThrottleConfig::default());
            let mut passed = 0u128;
            for gap in gaps {
                now += Duration::from_millis(gap);
                if throttle.check("bob", None, now).is_ok() {
                    passed += 1;
                    throttle.failed("bob", None, now);
                }
            }
            prop_assert!(passed <= 5 + (now - start).as_millis() / 12_000);
        }

        #[test]
        fn the_tables_stay_bounded_and_agree(names in proptest::collection::vec((0u32..300, 0u64..5000), 0..400)) {
            let mut now = Instant::now();
            let mut throttle = Throttle::new(ThrottleConfig { capacity: 50, ..ThrottleConfig::default() });
            for (name, gap) in names {
                now += Duration::from_millis(gap);
                throttle.failed(&name.to_string(), Some(IpAddr::from(name.to_be_bytes())), now);
                let (_, users) = throttle.users.as_ref().unwrap();
                prop_assert!(users.len() <= 50);
                prop_assert!(throttle.len() <= 100);
            }
        }
    }
}
