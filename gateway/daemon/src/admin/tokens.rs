//! Bearer tokens: made once, shown once, kept only as hashes.

use super::files;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_auth::Secret;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// Most tokens kept: every request without a known one is compared with one hash only, so this bounds the file.
pub(crate) const MAX_TOKENS: usize = 1000;

/// Longest note on a token, in bytes.
pub(crate) const MAX_NOTE: usize = 200;

/// Octets of randomness in a token.
const RANDOM: usize = 32;

/// Octets of randomness in a token's public id.
const ID: usize = 6;

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a token allows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum Scope { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Scope {
            /// All scopes.
            pub const ALL: &'static [Scope] = &[$(Scope::$name),*];

            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The scope as the API names it.
            pub fn as_str(self) -> &'static str {
                match self { $(Scope::$name => $text,)* }
            }
        }
    };
}

scopes! {
    /// Look at everything but tokens, traces and the audit log.
    Read = "read";
    /// End sessions, place calls, trace sessions.
    SessionWrite = "session:write";
    /// Create, change and delete users.
    UserWrite = "user:write";
    /// Check and reload the configuration.
    ConfigWrite = "config:write";
    /// Everything, and what has no scope of its own: tokens, audit log, drain, restart.
    Admin = "admin";
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| {
                let all: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
                format!("no scope is called {text:?}; there are: {}", all.join(", "))
            })
    }
}

/// Whether `held` allows what needs `wanted`. [`Scope::Admin`] allows everything; each other scope allows reading
/// as well, because nobody can act on what he may not see.
pub(crate) fn allows(held: &[Scope], wanted: Scope) -> bool {
    held.contains(&Scope::Admin) || held.contains(&wanted) || (wanted == Scope::Read && !held.is_empty())
}

/// A token as it is kept and listed. Its hash is of no use to anyone who sees it, and is not listed either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its public name.
    pub id: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// What it is for.
    pub note: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// SHA-256 of the whole token, in hexadecimal.
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    tokens: Vec<Token>,
}

/// The tokens could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read or written.
    #[error("the tokens file {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file's content is not what the gateway writes. It was kept aside.
    #[error(
        "the tokens file {path} is damaged ({error}): its tokens are no longer valid; it was kept as {kept}"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: String,
        /// Where it is now.
        kept: String,
    },
    /// There are too many.
    #[error("there may be {MAX_TOKENS} tokens at most: delete some first")]
    TooMany,
    /// The system has no randomness.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
}

/// All tokens, in memory and in their file.
pub struct Tokens {
    path: PathBuf,
    list: Mutex<Vec<Token>>,
    /// Counts the tokens that were deleted.
    deleted: watch::Sender<u64>,
}

/// What was found at the start.
pub struct Opened {
    /// The tokens.
    pub tokens: Tokens,
    /// The first admin token, where there was none before: to be shown once.
    pub first: Option<Secret>,
    /// What was wrong with the file that was there.
    pub warning: Option<TokenError>,
}

impl Tokens {
    /// Reads the file. Where there is none, or none that can be read, an admin token is made.
    pub fn open(path: &Path, now: &str) -> Result<Opened, TokenError> {
        let tokens = Self {
            path: path.to_owned(),
            list: Mutex::new(Vec::new()),
            deleted: watch::Sender::new(0),
        };
        let mut warning = None;
        match std::fs::read(path) {
            Ok(bytes) => match serde_json::from_slice::<TokensFile>(&bytes) {
                Ok(file) => {
                    *tokens.lock() = file.tokens;
                    return Ok(Opened {
                        tokens,
                        first: None,
                        warning,
                    });
                }
                Err(error) => warning = Some(tokens.set_aside(&error.to_string())?),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(tokens.file_error(error)),
        }
        let (_, first) = tokens.create(vec![Scope::Admin], "made at the first start", now)?;
        Ok(Opened {
            tokens,
            first: Some(first),
            warning,
        })
    }

    fn set_aside(&self, error: &str) -> Result<TokenError, TokenError> {
        // What was kept aside before stays there.
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".damaged-{number}"));
            name
        };
        let free = (1..).map(numbered).find(|name| !Path::new(name).exists());
        let name = free.unwrap_or_else(|| numbered(0));
        std::fs::rename(&self.path, &name).map_err(|error| self.file_error(error))?;
        Ok(TokenError::Damaged {
            path: self.path.display().to_string(),
            error: error.to_owned(),
            kept: PathBuf::from(name).display().to_string(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Token>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_error(&self, error: std::io::Error) -> TokenError {
        TokenError::File {
            path: self.path.display().to_string(),
            error,
        }
    }

    fn save(&self, list: &[Token]) -> Result<(), TokenError> {
        let file = TokensFile {
            tokens: list.to_vec(),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| self.file_error(error.into()))?;
        files::replace(&self.path, &text).map_err(|error| self.file_error(error))
    }

    /// Makes a token and keeps its hash. The secret is given once, here.
    pub fn create(&self, scopes: Vec<Scope>, note: &str, now: &str) -> Result<(Token, Secret), TokenError> {
        let mut id = [0; ID];
        let mut random = [0; RANDOM];
        getrandom::fill(&mut id).map_err(TokenError::Random)?;
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let id = hex(&id);
        let secret = format!("sluice_{id}_{}", hex(&random));
        let token = Token {
            hash: hex(&Sha256::digest(secret.as_bytes())),
            id,
            scopes,
            note: note.to_owned(),
            created: now.to_owned(),
        };
        let mut list = self.lock();
        if list.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let mut changed = list.clone();
        changed.push(token.clone());
        self.save(&changed)?;
        *list = changed;
        Ok((token, Secret::new(secret)))
    }

    /// Deletes a token; whether there was one.
    pub fn delete(&self, id: &str) -> Result<bool, TokenError> {
        let mut list = self.lock();
        let mut changed = list.clone();
        changed.retain(|token| token.id != id);
        if changed.len() == list.len() {
            return Ok(false);
        }
        self.save(&changed)?;
        *list = changed;
        drop(list);
        self.deleted.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Waits until a token is there no more.
    pub(crate) async fn gone(&self, id: &str) {
        let mut deleted = self.deleted.subscribe();
        loop {
            deleted.borrow_and_update();
            if !self.lock().iter().any(|token| token.id == id) {
                return;
            }
            // An error means that all tokens are gone, which is the same.
            if deleted.changed().await.is_err() {
                return;
            }
        }
    }

    /// All tokens, the oldest first.
    pub fn list(&self) -> Vec<Token> {
        self.lock().clone()
    }

    /// The token that was presented, if it is one of ours. The time this takes tells nothing of the hashes.
    pub fn verify(&self, presented: &str) -> Option<Token> {
        let hash = hex(&Sha256::digest(presented.as_bytes()));
        let id = presented.strip_prefix("sluice_")?.split('_').next()?;
        let list = self.lock();
        let token = list.iter().find(|token| token.id == id)?;
        let same: bool = token.hash.as_bytes().ct_eq(hash.as_bytes()).into();
        same.then(|| token.clone())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Opened {
        Tokens::open(path, "2026-01-01T00:00:00Z").unwrap()
    }

    #[test]
    fn the_first_token_is_made_once_and_only_its_hash_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        let opened = open(&path);
        let first = String::from_utf8(opened.first.unwrap().expose().to_vec()).unwrap();
        let random = first.rsplit('_').next().unwrap();
        assert_eq!(random.len(), 2 * RANDOM);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(!kept.contains(random));
        let again = open(&path);
        assert!(again.first.is_none());
        let token = again.tokens.verify(&first).unwrap();
        assert_eq!(token.scopes, [Scope::Admin]);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_wrong_a_cut_and_a_deleted_token_are_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(&dir.path().join("tokens.json")).tokens;
        let (token, secret) = tokens.create(vec![Scope::Read], "", "").unwrap();
        let secret = String::from_utf8(secret.expose().to_vec()).unwrap();
        assert!(tokens.verify(&secret).is_some());
        let mut wrong = secret.clone();
        let last = wrong.pop().unwrap();
        assert!(tokens.verify(&wrong).is_none());
        wrong.push(if last == '0' { '1' } else { '0' });
        assert!(tokens.verify(&wrong).is_none());
        for text in ["", "sluice_", &format!("sluice_{}_", token.id), "Bearer"] {
            assert!(tokens.verify(text).is_none());
        }
        assert!(tokens.delete(&token.id).unwrap());
        assert!(!tokens.delete(&token.id).unwrap());
        assert!(tokens.verify(&secret).is_none());
    }

    #[test]
    fn a_damaged_file_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.json");
        std::fs::write(&path, "{\"tokens\": [").unwrap();
        let opened = open(&path);
        assert!(opened.first.is_some());
        assert!(
            opened
                .warning
                .unwrap()
                .to_string()
                .contains("tokens.json.damaged-1")
        );
        let kept = std::fs::read_to_string(dir.path().join("tokens.json.damaged-1")).unwrap();
        assert_eq!(kept, "{\"tokens\": [");
        std::fs::write(&path, "once more").unwrap();
        let warning = open(&path).warning.unwrap().to_string();
        assert!(warning.contains("tokens.json.damaged-2"), "{warning}");
        let kept = std::fs::read_to_string(dir.path().join("tokens.json.damaged-1")).unwrap();
        assert_eq!(kept, "{\"tokens\": [");
    }

    #[test]
    fn scopes_allow_what_they_say() {
        assert!(allows(&[Scope::Admin], Scope::ConfigWrite));
        assert!(allows(&[Scope::UserWrite], Scope::Read));
        assert!(!allows(&[Scope::UserWrite], Scope::SessionWrite));
        assert!(!allows(&[Scope::Read], Scope::Admin));
        assert!(!allows(&[], Scope::Read));
    }
}
