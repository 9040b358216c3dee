//! How fast new sessions may start, by user and by source.

use super::effects::SessionRate;
use crate::buckets::{Buckets, Pace, source_key};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose new sessions come too fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TooMany {
    /// The user's.
    #[error("too many new sessions of this user")]
    User,
    /// The source's.
    #[error("too many new sessions from this source")]
    Source,
}

/// The new sessions of late, by user and by source, in two tables of bounded size.
///
/// An entry is the time at which a bucket is full again, and full ones need none. A table that is full forgets the
/// bucket that would be full the soonest: so its user or source has its burst once more, and a flood of new keys
/// drives out its own kind rather than one that is held back for long. An entry takes at most some 600 bytes (with
/// a name of 255), so that 16,384 of either kind are 10 MiB at most.
#[derive(Debug)]
pub struct Newcomers {
    users: Buckets<Arc<str>>,
    sources: Buckets<IpAddr>,
}

impl SessionRate {
    fn pace(self) -> Pace {
        Pace {
            burst: self.burst,
            interval: Duration::from_secs(1) / self.per_second.max(1),
        }
    }
}

impl Newcomers {
    /// Empty tables for `capacity` users and as many sources, 1 at least.
    pub fn new(capacity: usize) -> Self {
        Self {
            users: Buckets::new(capacity),
            sources: Buckets::new(capacity),
        }
    }

    /// Counts a new session of a user, and from a source (IPv6: a /64), each with the rate that it may have. Where
    /// one of them has too many, neither counts it.
    pub fn admit(
        &mut self,
        user: Option<(&str, SessionRate)>,
        source: Option<(IpAddr, SessionRate)>,
        now: Instant,
    ) -> Result<(), TooMany> {
        let source = source.map(|(address, rate)| (source_key(address), rate.pace()));
        let user = user.map(|(name, rate)| (name, rate.pace()));
        if source.is_some_and(|(key, pace)| !self.sources.allows(&key, pace, now)) {
            return Err(TooMany::Source);
        }
        if user.is_some_and(|(name, pace)| !self.users.allows(name, pace, now)) {
            return Err(TooMany::User);
        }
        if let Some((key, pace)) = source {
            self.sources.take(&key, pace, now);
        }
        if let Some((name, pace)) = user {
            self.users.take(&Arc::from(name), pace, now);
        }
        Ok(())
    }

    /// Users and sources remembered at present.
    pub fn len(&self) -> usize {
        self.users.len() + self.sources.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn rate(per_second: u32, burst: u32) -> SessionRate {
        SessionRate { per_second, burst }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_user_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut newcomers = Newcomers::new(10);
        let mut admit = |milliseconds: u64| {
            let now = start + Duration::from_millis(milliseconds);
            newcomers.admit(Some(("ann", rate(10, 3))), None, now)
        };
        assert_eq!([admit(0), admit(0), admit(0)], [Ok(()); 3]);
        assert_eq!(admit(99), Err(TooMany::User));
        assert_eq!(admit(100), Ok(()));
        assert_eq!(admit(101), Err(TooMany::User));
    }

    #[test]
    fn a_refused_session_counts_for_nobody() {
        let now = Instant::now();
        let mut newcomers = Newcomers::new(10);
        let source = Some((ip("2001:db8:0:1::1"), rate(1, 1)));
        assert_eq!(newcomers.admit(None, source, now), Ok(()));
        // The same /64.
        let neighbour = Some((ip("2001:db8:0:1:ffff::"), rate(1, 1)));
        let ann = Some(("ann", rate(1, 1)));
        assert_eq!(newcomers.admit(ann, neighbour, now), Err(TooMany::Source));
        let other = Some((ip("2001:db8:0:2::1"), rate(1, 1)));
        assert_eq!(newcomers.admit(ann, other, now), Ok(()));
        let third = Some((ip("2001:db8:0:3::1"), rate(1, 1)));
        assert_eq!(newcomers.admit(ann, third, now), Err(TooMany::User));
        assert_eq!(newcomers.admit(None, third, now), Ok(()));
    }

    #[test]
    fn a_flood_of_sources_does_not_free_one_that_is_held_back() {
        let now = Instant::now();
        let mut newcomers = Newcomers::new(50);
        let slow = rate(1, 5);
        for _ in 0..5 {
            newcomers.admit(None, Some((ip("192.0.2.1"), slow)), now).unwrap();
        }
        for n in 0..5000u32 {
            let address = IpAddr::from(n.to_be_bytes());
            newcomers.admit(None, Some((address, slow)), now).unwrap();
        }
        assert_eq!(
            newcomers.admit(None, Some((ip("192.0.2.1"), slow)), now),
            Err(TooMany::Source)
        );
        assert_eq!(newcomers.len(), 50);
        // All of them are forgotten as soon as they are full.
        let later = now + Duration::from_secs(5);
        let fresh = Some((ip("192.0.2.2"), slow));
        newcomers.admit(None, fresh, later).unwrap();
        assert_eq!(newcomers.len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 1u32..1000,
            burst in 0u32..50,
            gaps in proptest::collection::vec(0u64..20_000_000, 1..300),
        ) {
            let start = Instant::now();
            let (mut now, mut admitted) = (start, 0u128);
            let mut newcomers = Newcomers::new(4);
            for gap in gaps {
                now += Duration::from_nanos(gap);
                admitted += u128::from(newcomers.admit(Some(("ann", rate(per_second, burst))), None, now).is_ok());
                // An interval is cut to the nanosecond.
                let interval = u128::from(1_000_000_000 / per_second);
                prop_assert!(admitted <= u128::from(burst.max(1)) + (now - start).as_nanos() / interval);
            }
        }
    }
}
