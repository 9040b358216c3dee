//! Points in time as people write them in a users file: RFC 3339, always in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const SECONDS_PER_DAY: u64 = 86_400;

/// Years that can be written. RFC 3339 has four digits; nothing before the epoch is of use here.
const YEARS: std::ops::RangeInclusive<u64> = 1970..=9999;

/// Days from 1970-01-01 to the first day of a year.
fn days_before_year(year: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

fn is_leap(year: u64) -> bool {
    days_before_year(year + 1) - days_before_year(year) == 366
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first day of a month, 1 to 12; month 13 is the first of the next year.
pub(crate) fn days_before_month(year: u64, month: u64) -> u64 {
    days_before_year(year) + (1..month).map(|m| days_in_month(year, m)).sum::<u64>()
}

/// Seconds since 1970. Times before it and after the year 9999 are the nearest that is not.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    let last = days_before_year(*YEARS.end() + 1) * SECONDS_PER_DAY - 1;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().min(last)
}

/// Year, month and day of the month, from 1, of a day counted from 1970-01-01 (day 0), before the year 10000.
pub(crate) fn civil_day(mut days: u64) -> (u64, u64, u64) {
    // Dividing by 366 guesses too early, by about one year in 480, so the loop is short.
    let mut year = 1970 + days / 366;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    days -= days_before_year(year);
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// A group of exactly `width` digits followed by `after`; gives the number and what follows.
fn number<'a>(text: &'a str, width: usize, after: &str) -> Option<(u64, &'a str)> {
    let (digits, rest) = text.split_at_checked(width)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, rest.strip_prefix(after)?))
}

/// Reads `2027-01-31T12:00:00Z`, or `2027-01-31`, which means the *end* of that day: an account that expires on
/// a day works until the day is over. `None` where the text is neither or there is no such day.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let (year, rest) = number(text, 4, "-")?;
    let (month, rest) = number(rest, 2, "-")?;
    let (day, rest) = number(rest, 2, "")?;
    if !YEARS.contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
    {
        return None;
    }
    let days = days_before_month(year, month) + day - 1;
    let seconds = if rest.is_empty() {
        SECONDS_PER_DAY
    } else {
        let (hour, rest) = number(rest.strip_prefix('T')?, 2, ":")?;
        let (minute, rest) = number(rest, 2, ":")?;
        let (second, rest) = number(rest, 2, "Z")?;
        if hour > 23 || minute > 59 || second > 59 || !rest.is_empty() {
            return None;
        }
        hour * 3600 + minute * 60 + second
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(days * SECONDS_PER_DAY + seconds))
}

/// Writes a time as RFC 3339 to the second, in UTC. Times before 1970 and after 9999 are written as the
/// nearest that can be.
pub fn format_timestamp(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let of_day = seconds % SECONDS_PER_DAY;
    let (year, month, day) = civil_day(seconds / SECONDS_PER_DAY);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_read_both_ways() {
        // Seconds as `date -u -d TIME +%s` gives them.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-12-31T12:34:56Z", 1_798_720_496),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse_timestamp(text), Some(time), "{text}");
            assert_eq!(format_timestamp(time), text);
        }
    }

    #[test]
    fn a_day_alone_is_its_end() {
        assert_eq!(
            parse_timestamp("2026-12-31"),
            parse_timestamp("2027-01-01T00:00:00Z")
        );
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "1969-12-31",
            "2026-1-01",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00Zx",
            "2026-01-01 00:00:00Z",
            "+026-01-01",
            "２026-01-01",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0u64..253_402_300_800) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(parse_timestamp(&format_timestamp(time)), Some(time));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = parse_timestamp(&text);
        }
    }
}
