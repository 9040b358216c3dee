//! Passwords and their NT hashes at rest: sealed by a key that is not in the users file.
//!
//! CHAP needs the password itself and MS-CHAPv2 a hash that is as good as it (RFC 1994, 2.2; RFC 2759, 8). Whoever
//! has the users file alone has neither: each is encrypted by XChaCha20-Poly1305, bound to the user's name, to what
//! it is, and to the user's Argon2id hash. So it cannot be given to another user, and does not outlive the password.

use crate::replace;
use arc_swap::ArcSwap;
use base64ct::{Base64Unpadded, Encoding};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sluice_auth::Secret;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

const KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 24;
/// Of Poly1305, at the end of what is sealed.
const TAG_LENGTH: usize = 16;
/// Longest name of a key, in bytes.
const MAX_KEY_NAME: usize = 32;
/// Most keys of a ring: with one a month that is more than ten years.
const MAX_KEYS: usize = 128;
/// Largest key file read, in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;
/// Largest secret that is sealed, in bytes: several times the longest password.
const MAX_SEALED: usize = 4096;
/// Mode of a key file that is made: nobody writes it by accident.
const MODE: u32 = 0o400;
/// Modes that a key file must not have. A group may read it: what systemd hands to a service is readable by its owner,
/// root, and by the service, for which the group's bits stand.
const EXPOSED: u32 = 0o037;

/// What a new key file begins with.
const HEADING: &str = "\
# Keys for the passwords and NT hashes in the users file: a name and 32 bytes in base64 on each line. The first seals,
# all of them open. Without this file those who log in by CHAP or MS-CHAPv2 need new passwords.
";

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The file cannot be read or made.
    #[error("the key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A line is no key. What stands there is not repeated.
    #[error("the key file {}, line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Others than the owner and its group can read the file, or others than the owner can write it.
    #[error("the key file {} can be read by everybody or written by others than its owner: set its mode to 400", .0.display())]
    Exposed(PathBuf),
    /// The kernel gave no random bytes, or the secret is too long to be sealed.
    #[error("the password cannot be sealed")]
    Seal,
}

/// A sealed secret, as it is written in the users file: `enc:v1:KEY:NONCE:CIPHERTEXT`.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    key: String,
    nonce: [u8; NONCE_LENGTH],
    sealed: Vec<u8>,
}

/// Text that is no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sealed secret of the form enc:v1:KEY:NONCE:CIPHERTEXT")]
pub struct NoEnvelope;

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({:?}, …)", self.key)
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nonce = Base64Unpadded::encode_string(&self.nonce);
        let sealed = Base64Unpadded::encode_string(&self.sealed);
        write!(f, "enc:v1:{}:{nonce}:{sealed}", self.key)
    }
}

impl FromStr for Envelope {
    type Err = NoEnvelope;

    fn from_str(text: &str) -> Result<Self, NoEnvelope> {
        let mut parts = text.strip_prefix("enc:v1:").ok_or(NoEnvelope)?.split(':');
        let (Some(key), Some(nonce), Some(sealed), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoEnvelope);
        };
        let decode = |text: &str| Base64Unpadded::decode_vec(text).map_err(|_| NoEnvelope);
        let sealed = decode(sealed)?;
        if !is_key_name(key) || !(TAG_LENGTH..=MAX_SEALED + TAG_LENGTH).contains(&sealed.len()) {
            return Err(NoEnvelope);
        }
        Ok(Self {
            key: key.to_owned(),
            nonce: decode(nonce)?.try_into().map_err(|_| NoEnvelope)?,
            sealed,
        })
    }
}

fn is_key_name(name: &str) -> bool {
    (1..=MAX_KEY_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// What a sealed secret is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// What it is: a key of the users file.
    pub kind: &'static str,
    /// Whose it is.
    pub user: &'a str,
    /// The user's Argon2id hash, as it is written.
    pub password: &'a str,
}

impl Bound<'_> {
    /// No part can have a zero byte in it, so that no two lists of parts are the same bytes.
    fn bytes(&self) -> Vec<u8> {
        [self.kind, self.user, self.password].join("\0").into_bytes()
    }
}

struct NamedKey {
    name: String,
    cipher: XChaCha20Poly1305,
}

/// The keys of one file. The first seals, all of them open.
pub struct KeyRing {
    path: PathBuf,
    keys: ArcSwap<Vec<NamedKey>>,
    /// Held while the file is read or made.
    turn: Mutex<()>,
}

impl KeyRing {
    /// Reads the file; one that is not there is made when something is sealed.
    pub fn open(path: &Path) -> Result<Self, KeyRingError> {
        let ring = Self {
            path: path.to_owned(),
            keys: ArcSwap::default(),
            turn: Mutex::default(),
        };
        ring.reload()?;
        Ok(ring)
    }

    /// Reads the file again. Where it cannot be used, the keys stay as they were.
    pub fn reload(&self) -> Result<(), KeyRingError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.read()
    }

    fn read(&self) -> Result<(), KeyRingError> {
        let text = match replace::read(&self.path, MAX_KEY_FILE) {
            Ok((text, _)) => zeroize::Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(self.failed(source)),
        };
        let metadata = std::fs::metadata(&self.path).map_err(|source| self.failed(source))?;
        if metadata.permissions().mode() & EXPOSED != 0 {
            return Err(KeyRingError::Exposed(self.path.clone()));
        }
        self.keys.store(Arc::new(self.parse(&text)?));
        Ok(())
    }

    fn failed(&self, source: io::Error) -> KeyRingError {
        KeyRingError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn parse(&self, text: &str) -> Result<Vec<NamedKey>, KeyRingError> {
        let mut keys: Vec<NamedKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what| KeyRingError::Line {
                path: self.path.clone(),
                line: index + 1,
                what,
            };
            let (name, key) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| wrong("not a name and a key"))?;
            let mut octets = zeroize::Zeroizing::new([0; KEY_LENGTH]);
            let key = key.trim().trim_end_matches('=');
            let decoded = Base64Unpadded::decode(key, octets.as_mut_slice());
            if !is_key_name(name) {
                return Err(wrong("the name must be 1 to 32 letters, digits, - and _"));
            }
            if !decoded.is_ok_and(|octets| octets.len() == KEY_LENGTH) {
                return Err(wrong("the key must be 32 bytes in base64"));
            }
            if keys.len() >= MAX_KEYS || keys.iter().any(|known| known.name == name) {
                return Err(wrong("a second key of this name, or too many keys"));
            }
            keys.push(NamedKey {
                name: name.to_owned(),
                cipher: XChaCha20Poly1305::new(&Key::from(*octets)),
            });
        }
        Ok(keys)
    }

    /// Seals a secret by the first key, of the file as it is now. Blocks on the file.
    pub fn seal(&self, bound: Bound<'_>, secret: &Secret) -> Result<Envelope, KeyRingError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.read()?;
        if self.keys.load().is_empty() {
            self.make()?;
        }
        let keys = self.keys.load();
        let key = keys.first().ok_or(KeyRingError::Seal)?;
        if secret.expose().len() > MAX_SEALED {
            return Err(KeyRingError::Seal);
        }
        let mut nonce = [0; NONCE_LENGTH];
        getrandom::fill(&mut nonce).map_err(|_| KeyRingError::Seal)?;
        let payload = Payload {
            msg: secret.expose(),
            aad: &bound.bytes(),
        };
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), payload);
        Ok(Envelope {
            key: key.name.clone(),
            nonce,
            sealed: sealed.map_err(|_| KeyRingError::Seal)?,
        })
    }

    /// Makes the file with one key.
    fn make(&self) -> Result<(), KeyRingError> {
        let mut octets = zeroize::Zeroizing::new([0; KEY_LENGTH]);
        let mut name = [0; 4];
        getrandom::fill(octets.as_mut_slice()).map_err(|_| KeyRingError::Seal)?;
        getrandom::fill(&mut name).map_err(|_| KeyRingError::Seal)?;
        let key = zeroize::Zeroizing::new(Base64Unpadded::encode_string(octets.as_slice()));
        let name = u32::from_le_bytes(name);
        let text = zeroize::Zeroizing::new(format!("{HEADING}k{name:08x} {}\n", key.as_str()));
        replace::create(&self.path, &text).map_err(|source| self.failed(source))?;
        let mode = std::fs::Permissions::from_mode(MODE);
        std::fs::set_permissions(&self.path, mode).map_err(|source| self.failed(source))?;
        self.read()
    }

    /// Opens a secret. `None`: its key is not there, or it is bound to something else.
    pub fn open_sealed(&self, bound: Bound<'_>, envelope: &Envelope) -> Option<Secret> {
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.name == envelope.key)?;
        self.decrypt(key, bound, envelope)
    }

    /// Costs as much as to open a secret, for users that have none.
    pub(crate) fn pretend(&self, bound: Bound<'_>) {
        let keys = self.keys.load();
        if let Some(key) = keys.first() {
            let envelope = Envelope {
                key: String::new(),
                nonce: [0; NONCE_LENGTH],
                sealed: vec![0; 2 * TAG_LENGTH],
            };
            std::hint::black_box(self.decrypt(key, bound, &envelope));
        }
    }

    fn decrypt(&self, key: &NamedKey, bound: Bound<'_>, envelope: &Envelope) -> Option<Secret> {
        let payload = Payload {
            msg: &envelope.sealed,
            aad: &bound.bytes(),
        };
        let opened = key.cipher.decrypt(&XNonce::from(envelope.nonce), payload);
        opened.ok().map(Secret::new)
    }
}

#[cfg(test)]
#[path = "key_ring_tests.rs"]
mod tests;
