//! Why the ledger lets no session in.

use super::Owner;
use std::fmt;

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The user has as many sessions as it may have.
    UserSessions,
    /// The source has as many sessions as it may have.
    SourceSessions,
    /// The user's new sessions come too fast.
    UserNewSessions,
    /// The source's new sessions come too fast.
    SourceNewSessions,
    /// The user's quota is used up.
    UserQuota,
    /// The source's quota is used up.
    SourceQuota,
}

impl Refused {
    /// All of them, for closed metric label sets.
    pub const ALL: [Refused; 6] = [
        Refused::UserSessions,
        Refused::SourceSessions,
        Refused::UserNewSessions,
        Refused::SourceNewSessions,
        Refused::UserQuota,
        Refused::SourceQuota,
    ];

    /// The stable code used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::UserSessions => "user_sessions",
            Refused::SourceSessions => "source_sessions",
            Refused::UserNewSessions => "user_new_sessions",
            Refused::SourceNewSessions => "source_new_sessions",
            Refused::UserQuota => "user_quota",
            Refused::SourceQuota => "source_quota",
        }
    }

    /// A quota of these is used up.
    pub(super) fn quota(owner: &Owner) -> Self {
        match owner {
            Owner::User(_) => Refused::UserQuota,
            Owner::Source(_) => Refused::SourceQuota,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::UserSessions => "the user has as many sessions as it may have",
            Refused::SourceSessions => "the source has as many sessions as it may have",
            Refused::UserNewSessions => "the user's new sessions come too fast",
            Refused::SourceNewSessions => "new sessions of the source come too fast",
            Refused::UserQuota => "the user's quota is used up",
            Refused::SourceQuota => "the quota of the source is used up",
        })
    }
}
