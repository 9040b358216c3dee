//! Time as the driver gives it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The present, read once by the driver: an instant for timers, and the wall clock for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: never stored.
    pub instant: Instant,
    /// The wall clock: what is stored and shown.
    pub wall: SystemTime,
}

impl Now {
    /// The present after `duration` more, for tests and look-ahead.
    pub fn after(self, duration: Duration) -> Self {
        Self {
            instant: self.instant + duration,
            wall: self.wall + duration,
        }
    }
}

/// Milliseconds since 1970; 0 for times before.
pub(crate) fn to_millis(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall time at milliseconds since 1970; `None` where the clock cannot hold it.
pub(crate) fn from_millis(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// The wall time without what a record does not keep: fractions of a millisecond, and times before 1970.
pub(crate) fn rounded(wall: SystemTime) -> SystemTime {
    from_millis(to_millis(wall)).unwrap_or(UNIX_EPOCH)
}

/// Time from one wall time to a later one; zero where the clock was set back.
pub(crate) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}
