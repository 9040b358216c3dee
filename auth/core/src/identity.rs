//! Who a peer says it is.

use std::fmt;
use std::sync::Arc;

/// Longest user name accepted, in bytes: the Peer-ID of PAP has a one-byte length (RFC 1334, 2.2.1).
pub const MAX_NAME: usize = 255;

/// A user name as the peer sent it, split at its last `@` into name and realm.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Shared: a session's name is in each of its snapshots.
    full: Arc<str>,
    at: Option<u8>,
}

impl Identity {
    /// Reads a name from the wire. `None` for an empty, oversized or non-UTF-8 name, or one with control
    /// characters: no user of ours has such a name, and none may reach a log line.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let full = std::str::from_utf8(bytes).ok()?;
        if full.is_empty() || full.len() > MAX_NAME || full.chars().any(char::is_control) {
            return None;
        }
        let at = full.rfind('@').filter(|&at| at > 0 && at + 1 < full.len());
        Some(Self {
            full: full.into(),
            at: at.and_then(|at| u8::try_from(at).ok()),
        })
    }

    /// The whole name, realm included.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The whole name, shared with this.
    pub fn shared(&self) -> Arc<str> {
        self.full.clone()
    }

    /// The part before the realm.
    pub fn user(&self) -> &str {
        self.at.map_or(&self.full, |at| &self.full[..usize::from(at)])
    }

    /// The realm, where the name has one.
    pub fn realm(&self) -> Option<&str> {
        self.at.map(|at| &self.full[usize::from(at) + 1..])
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn splits_at_the_last_at_sign() {
        let id = Identity::parse(b"bob@home@isp.example").unwrap();
        assert_eq!((id.user(), id.realm()), ("bob@home", Some("isp.example")));
        let id = Identity::parse(b"bob").unwrap();
        assert_eq!((id.user(), id.realm()), ("bob", None));
        let id = Identity::parse(b"bob@").unwrap();
        assert_eq!((id.user(), id.realm()), ("bob@", None));
    }

    #[test]
    fn refuses_what_no_user_is_called() {
        assert!(Identity::parse(b"").is_none());
        assert!(Identity::parse(b"a\nb").is_none());
        assert!(Identity::parse(&[0xff, 0xfe]).is_none());
        assert!(Identity::parse(&[b'a'; 256]).is_none());
    }
}
