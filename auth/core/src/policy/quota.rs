//! Quotas: bytes in a period.

use crate::timestamp::{SECONDS_PER_DAY, civil_day, days_before_month, unix_seconds};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 1970-01-01 was a Thursday; weeks begin on Monday (ISO 8601).
const DAYS_FROM_MONDAY: u64 = 3;

/// How often a quota begins anew. Calendar periods are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// At midnight.
    Day,
    /// At midnight before Monday.
    Week,
    /// At midnight before the first of the month.
    Month,
    /// Each time this has passed, counted from 1970 in whole seconds; less than a second counts as one.
    Every(Duration),
}

impl Period {
    /// The period that holds a time, as its first second and the first behind it.
    fn around(self, time: SystemTime) -> (u64, u64) {
        let seconds = unix_seconds(time);
        let day = seconds / SECONDS_PER_DAY;
        let days = |first: u64, next: u64| (first * SECONDS_PER_DAY, next * SECONDS_PER_DAY);
        match self {
            Period::Day => days(day, day + 1),
            Period::Week => {
                // The first three days of 1970 belong to a week that began before it.
                let next = (day + DAYS_FROM_MONDAY) / 7 * 7 + 7 - DAYS_FROM_MONDAY;
                days(next.saturating_sub(7), next)
            }
            Period::Month => {
                let (year, month, _) = civil_day(day);
                days(days_before_month(year, month), days_before_month(year, month + 1))
            }
            Period::Every(length) => {
                let length = length.as_secs().max(1);
                let first = seconds / length * length;
                (first, first.saturating_add(length))
            }
        }
    }
}

/// What was used of a quota, to be kept over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// The beginning of the period.
    pub since: SystemTime,
    /// Bytes used in it.
    pub used: u64,
}

/// Bytes that may be used in each period. The wall clock is given.
///
/// Periods only go forward: a clock that is set back neither gives back what was used nor ends a period again; the
/// quota goes on in its period until the clock is past it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    limit: u64,
    period: Period,
    /// First second of the period, and the first behind it.
    bounds: (u64, u64),
    used: u64,
}

/// A time that is later than all that can be written, and that every system's clock can hold.
const NEVER: u64 = 1 << 40;

fn time(seconds: u64) -> SystemTime {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(NEVER)));
    time.unwrap_or(UNIX_EPOCH)
}

impl Quota {
    /// An unused quota of `limit` bytes.
    pub fn new(limit: u64, period: Period, wall: SystemTime) -> Self {
        Self {
            limit,
            period,
            bounds: period.around(wall),
            used: 0,
        }
    }

    /// A quota of which something was used. Where its period is over that is forgotten. Limit and period may be
    /// others than they were: what was used counts in the new period that holds the beginning of the old one.
    pub fn restore(limit: u64, period: Period, former: QuotaUse, wall: SystemTime) -> Self {
        let mut quota = Self {
            limit,
            period,
            bounds: period.around(former.since),
            used: former.used,
        };
        quota.roll(wall);
        quota
    }

    fn roll(&mut self, wall: SystemTime) {
        if unix_seconds(wall) >= self.bounds.1 {
            self.bounds = self.period.around(wall);
            self.used = 0;
        }
    }

    /// Counts bytes that passed, and gives whether the quota still has some left. Bytes beyond it are counted too.
    pub fn charge(&mut self, bytes: u64, wall: SystemTime) -> bool {
        self.roll(wall);
        self.used = self.used.saturating_add(bytes);
        self.used < self.limit
    }

    /// Bytes left in this period.
    pub fn left(&mut self, wall: SystemTime) -> u64 {
        self.roll(wall);
        self.limit.saturating_sub(self.used)
    }

    /// Changes the limit; what was used stays.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// When the period ends and all of the limit is there again.
    pub fn renews(&self) -> SystemTime {
        time(self.bounds.1)
    }

    /// What was used in this period.
    pub fn usage(&self) -> QuotaUse {
        QuotaUse {
            since: time(self.bounds.0),
            used: self.used,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format_timestamp, parse_timestamp};
    use proptest::prelude::*;

    fn at(text: &str) -> SystemTime {
        parse_timestamp(text).unwrap()
    }

    #[test]
    fn periods_begin_and_end_where_the_calendar_says() {
        let around = |period, text: &str| {
            let quota = Quota::new(1, period, at(text));
            let shown = |time| format_timestamp(time).trim_end_matches("T00:00:00Z").to_owned();
            (shown(quota.usage().since), shown(quota.renews()))
        };
        for (period, inside, since, renews) in [
            (Period::Day, "2026-02-28T23:59:59Z", "2026-02-28", "2026-03-01"),
            (Period::Day, "2026-03-01T00:00:00Z", "2026-03-01", "2026-03-02"),
            // 2026-11-23 is a Monday.
            (Period::Week, "2026-11-23T00:00:00Z", "2026-11-23", "2026-11-30"),
            (Period::Week, "2026-11-22T23:59:59Z", "2026-11-16", "2026-11-23"),
            (Period::Week, "1970-01-01T00:00:00Z", "1970-01-01", "1970-01-05"),
            (Period::Week, "1970-01-05T00:00:00Z", "1970-01-05", "1970-01-12"),
            (Period::Month, "2028-02-29T12:00:00Z", "2028-02-01", "2028-03-01"),
            (Period::Month, "2026-12-31T23:59:59Z", "2026-12-01", "2027-01-01"),
        ] {
            assert_eq!(around(period, inside), (since.into(), renews.into()), "{inside}");
        }
        let hour = Period::Every(Duration::from_secs(3600));
        let quota = Quota::new(1, hour, at("2026-11-23T10:59:59Z"));
        assert_eq!(quota.renews(), at("2026-11-23T11:00:00Z"));
    }

    #[test]
    fn the_last_byte_uses_it_up_and_a_new_period_renews_it() {
        let mut quota = Quota::new(100, Period::Month, at("2026-01-31T23:00:00Z"));
        assert!(quota.charge(99, at("2026-01-31T23:00:00Z")));
        assert!(!quota.charge(1, at("2026-01-31T23:59:59Z")));
        assert_eq!(quota.left(at("2026-01-31T23:59:59Z")), 0);
        assert_eq!(quota.left(at("2026-02-01T00:00:00Z")), 100);
        assert!(!quota.charge(u64::MAX, at("2026-02-01T00:00:00Z")));
        assert!(!quota.charge(u64::MAX, at("2026-02-01T00:00:00Z")));
        quota.set_limit(u64::MAX);
        assert_eq!(quota.left(at("2026-02-02")), 0);
    }

    #[test]
    fn a_clock_set_back_renews_nothing() {
        let mut quota = Quota::new(100, Period::Day, at("2026-05-02T12:00:00Z"));
        assert!(!quota.charge(100, at("2026-05-02T12:00:00Z")));
        assert_eq!(quota.left(at("2026-05-01T12:00:00Z")), 0);
        assert_eq!(quota.left(at("2026-05-02T23:00:00Z")), 0);
        assert_eq!(quota.left(at("2026-05-03T00:00:00Z")), 100);
    }

    #[test]
    fn what_was_used_survives_a_restart_in_its_period() {
        let mut quota = Quota::new(100, Period::Week, at("2026-11-24T00:00:00Z"));
        quota.charge(60, at("2026-11-24T00:00:00Z"));
        let kept = quota.usage();
        let restore = |limit, period, now: &str| Quota::restore(limit, period, kept, at(now)).left(at(now));
        assert_eq!(restore(100, Period::Week, "2026-11-29T00:00:00Z"), 40);
        assert_eq!(restore(50, Period::Week, "2026-11-29T00:00:00Z"), 0);
        assert_eq!(restore(100, Period::Week, "2026-11-30T00:00:00Z"), 100);
        assert_eq!(restore(100, Period::Month, "2026-11-30T00:00:00Z"), 40);
        assert_eq!(restore(100, Period::Day, "2026-11-24T00:00:00Z"), 100);
    }

    #[test]
    fn clocks_beyond_any_calendar_do_no_harm() {
        let far = UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
        let before = UNIX_EPOCH - Duration::from_secs(1 << 40);
        for period in [
            Period::Day,
            Period::Week,
            Period::Month,
            Period::Every(Duration::MAX),
            Period::Every(Duration::ZERO),
        ] {
            let mut quota = Quota::new(10, period, before);
            assert_eq!(quota.left(before), 10);
            assert!(quota.charge(1, far));
            assert!(quota.renews() > quota.usage().since);
        }
    }

    proptest! {
        #[test]
        fn periods_hold_their_time_and_follow_each_other(seconds in 0u64..253_000_000_000, every in 1u64..10_000_000) {
            let wall = UNIX_EPOCH + Duration::from_secs(seconds);
            for period in [Period::Day, Period::Week, Period::Month, Period::Every(Duration::from_secs(every))] {
                let (first, next) = period.around(wall);
                prop_assert!((first..next).contains(&seconds));
                prop_assert_eq!(period.around(time(first)), (first, next));
                prop_assert_eq!(period.around(time(next)).0, next);
            }
        }
    }
}
