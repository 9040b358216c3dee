//! What differs between two configurations, and when each difference takes effect.

use super::{Config, shown_value};
use std::collections::BTreeMap;
use std::fmt;

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// At once, for everything.
    Now,
    /// For sessions that start from now on.
    NewSessions,
    /// After `sluice restart`, which keeps the sessions.
    Restart,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Impact::Now => "now",
            Impact::NewSessions => "to new sessions",
            Impact::Restart => "after a restart",
        })
    }
}

/// One difference. A secret is never shown: both sides read as the same words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// The key with its tables.
    pub key: String,
    /// The value before; `None`: there was none.
    pub before: Option<String>,
    /// The value after; `None`: there is none any more.
    pub after: Option<String>,
    /// When it takes effect.
    pub applies: Impact,
}

/// When a change below a key takes effect: the longest prefix counts. What is not listed needs a restart,
/// which is always right.
const IMPACTS: &[(&str, Impact)] = &[
    ("egress.", Impact::NewSessions),
    ("limits.", Impact::NewSessions),
    ("policy.", Impact::Now),
    ("quotas.", Impact::Now),
    ("rule[", Impact::Now),
    ("limits.history", Impact::Now),
    ("log.level", Impact::Now),
    ("pools.", Impact::NewSessions),
    ("sessions.", Impact::NewSessions),
    ("timeouts.", Impact::NewSessions),
    ("upstream.", Impact::NewSessions),
    ("upstream[", Impact::NewSessions),
];

fn impact(key: &str) -> Impact {
    IMPACTS
        .iter()
        .filter(|(prefix, _)| key.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map_or(Impact::Restart, |(_, impact)| *impact)
}

/// All differences in the order of their keys.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let old: BTreeMap<_, _> = before
        .settings
        .iter()
        .map(|s| (s.key.as_str(), &s.value))
        .collect();
    let new: BTreeMap<_, _> = after
        .settings
        .iter()
        .map(|s| (s.key.as_str(), &s.value))
        .collect();
    let keys: std::collections::BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    keys.into_iter()
        .filter(|key| old.get(key) != new.get(key))
        .map(|key| Change {
            key: key.to_owned(),
            before: old.get(key).map(|value| shown_value(value)),
            after: new.get(key).map(|value| shown_value(value)),
            applies: impact(key),
        })
        .collect()
}
