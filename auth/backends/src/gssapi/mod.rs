//! Security contexts by the system's Kerberos library (MIT krb5, RFC 2744 and its extension for credential stores).
//!
//! Only Kerberos is accepted, whatever else the library can do. Keys come from a keytab, which the library reads for each
//! context, so that new keys in it count at once. What was used once is written down beside the gateway's other state, so
//! that a token that somebody has copied is worth nothing, also over a restart. Delegated credentials are not taken.

mod sys;

use self::sys::{Accepted, Credentials, Failed, Partial, Store};
use sluice_auth::gss::{
    ContextFailure, ContextKeys, ContextReason, ContextStep, Contexts, Established, Negotiation, Order,
    SecurityContext, Unwrapped,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The file of used tokens in the gateway's state directory.
const REPLAY_CACHE: &str = "gssapi-replay-cache";

/// Contexts with the keys of a keytab.
#[derive(Debug)]
pub struct Keytab {
    keys: ContextKeys,
    replay_cache: PathBuf,
    /// Once they could be had.
    credentials: Mutex<Option<Arc<Credentials>>>,
}

impl Keytab {
    /// Contexts with these keys, by a gateway with this state directory. Nothing is read yet.
    pub fn new(keys: ContextKeys, state: &Path) -> Self {
        Self {
            keys,
            replay_cache: state.join(REPLAY_CACHE),
            credentials: Mutex::new(None),
        }
    }

    /// Looks whether there are keys.
    ///
    /// # Errors
    ///
    /// Where there are none. It is tried again for each context.
    pub fn check(&self) -> Result<(), ContextFailure> {
        self.credentials().map(drop)
    }

    fn credentials(&self) -> Result<Arc<Credentials>, ContextFailure> {
        let mut known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credentials) = &*known {
            return Ok(credentials.clone());
        }
        let store = Store {
            keytab: &self.keys.keytab,
            replay_cache: &self.replay_cache,
        };
        let acquired = Credentials::acquire(&self.keys.principal, &store);
        let credentials = Arc::new(acquired.map_err(|failed| {
            let keytab = self.keys.keytab.display();
            let detail = format!("{} from {keytab}: {failed}", self.keys.principal);
            ContextFailure::new(ContextReason::NoKey, detail)
        })?);
        *known = Some(credentials.clone());
        Ok(credentials)
    }
}

impl Contexts for Keytab {
    fn begin(&self) -> Result<Box<dyn Negotiation>, ContextFailure> {
        Ok(Box::new(Begun {
            credentials: self.credentials()?,
            partial: Partial::none(),
        }))
    }
}

/// A context that does not stand yet.
struct Begun {
    credentials: Arc<Credentials>,
    partial: Partial,
}

impl Negotiation for Begun {
    fn accept(self: Box<Self>, token: &[u8]) -> Result<ContextStep, ContextFailure> {
        let Self { credentials, partial } = *self;
        match partial.accept(&credentials, token).map_err(failure)? {
            Accepted::Continue { reply, partial } => Ok(ContextStep::Continue {
                reply,
                negotiation: Box::new(Self { credentials, partial }),
            }),
            Accepted::Complete(complete) if complete.anonymous => Err(ContextFailure::new(
                ContextReason::Other,
                "the client wants to be nobody",
            )),
            Accepted::Complete(complete) => Ok(ContextStep::Established(Box::new(Established {
                reply: complete.reply,
                initiator: complete.initiator,
                integrity: complete.integrity,
                confidentiality: complete.confidentiality,
                lifetime: complete
                    .lifetime
                    .map(|seconds| Duration::from_secs(seconds.into())),
                context: Box::new(Standing(complete.context)),
            }))),
        }
    }
}

/// A context that stands.
struct Standing(sys::Context);

impl SecurityContext for Standing {
    fn wrap(
        &mut self,
        confidential: bool,
        message: &[u8],
        put: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ContextFailure> {
        let wrapped = self.0.wrap(confidential, message).map_err(failure)?;
        if confidential && !wrapped.confidential {
            let detail = "the library cannot keep a message secret";
            return Err(ContextFailure::new(ContextReason::Other, detail));
        }
        put(wrapped.octets.get());
        Ok(())
    }

    fn unwrap(&mut self, token: &[u8], put: &mut dyn FnMut(&[u8])) -> Result<Unwrapped, ContextFailure> {
        let unwrapped = self.0.unwrap(token).map_err(failure)?;
        put(unwrapped.octets.get());
        Ok(Unwrapped {
            confidential: unwrapped.confidential,
            order: if unwrapped.repeated {
                Order::Repeated
            } else if unwrapped.out_of_order {
                Order::OutOfOrder
            } else {
                Order::InOrder
            },
        })
    }

    fn longest_message(&self, confidential: bool, token: usize) -> usize {
        let longest = self
            .0
            .wrap_size_limit(confidential, u32::try_from(token).unwrap_or(u32::MAX));
        usize::try_from(longest).unwrap_or(usize::MAX)
    }
}

fn failure(failed: Failed) -> ContextFailure {
    ContextFailure::new(reason(&failed), failed.to_string())
}

/// What a failure is, by the library's code, which is Kerberos' own (krb5.h), and else by that of RFC 2744, 3.9.1.
fn reason(failed: &Failed) -> ContextReason {
    /// KRB5KRB_AP_ERR_TKT_EXPIRED, and so on.
    const TICKET_EXPIRED: i32 = -1_765_328_352;
    const REPEAT: i32 = -1_765_328_350;
    const NOT_US: i32 = -1_765_328_349;
    const SKEW: i32 = -1_765_328_347;
    const BAD_KEY_VERSION: i32 = -1_765_328_340;
    const NO_KEY: i32 = -1_765_328_339;
    const WRONG_PRINCIPAL: i32 = -1_765_328_240;
    const REPLAY: i32 = -1_765_328_221;
    const REPLAY_CACHE: std::ops::RangeInclusive<i32> = -1_765_328_220..=-1_765_328_212;
    const KEYTAB: std::ops::RangeInclusive<i32> = -1_765_328_205..=-1_765_328_200;
    const KEY_VERSION_NOT_FOUND: i32 = -1_765_328_154;
    match failed.minor {
        TICKET_EXPIRED => return ContextReason::Expired,
        REPEAT | REPLAY => return ContextReason::Replay,
        SKEW => return ContextReason::ClockSkew,
        NOT_US | BAD_KEY_VERSION | NO_KEY | WRONG_PRINCIPAL | KEY_VERSION_NOT_FOUND => {
            return ContextReason::NoKey;
        }
        minor if KEYTAB.contains(&minor) => return ContextReason::NoKey,
        minor if REPLAY_CACHE.contains(&minor) => return ContextReason::Unavailable,
        _ => {}
    }
    match failed.error {
        sys::BAD_MESSAGE | sys::DEFECTIVE_TOKEN => ContextReason::Token,
        sys::CREDENTIALS_EXPIRED | sys::CONTEXT_EXPIRED => ContextReason::Expired,
        sys::DEFECTIVE_CREDENTIAL => ContextReason::NoKey,
        _ => ContextReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keytab(path: &Path, principal: &str) -> Keytab {
        let keys = ContextKeys {
            keytab: path.to_owned(),
            principal: principal.to_owned(),
        };
        Keytab::new(keys, path.parent().unwrap())
    }

    /// A keytab (version 0x0502) with one key of `rcmd/proxy.test@SLUICE.TEST`.
    fn file() -> Vec<u8> {
        let mut entry = Vec::new();
        let counted = |text: &str| {
            [
                &u16::try_from(text.len()).unwrap().to_be_bytes()[..],
                text.as_bytes(),
            ]
            .concat()
        };
        entry.extend([0, 2]);
        for text in ["SLUICE.TEST", "rcmd", "proxy.test"] {
            entry.extend(counted(text));
        }
        entry.extend(1u32.to_be_bytes());
        entry.extend(1_700_000_000u32.to_be_bytes());
        entry.push(1);
        entry.extend([0, 18, 0, 32]);
        entry.extend([7; 32]);
        let length = u32::try_from(entry.len()).unwrap().to_be_bytes();
        [&[5, 2][..], &length, &entry].concat()
    }

    #[test]
    fn keys_are_found_by_service_host_and_principal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keytab");
        std::fs::write(&path, file()).unwrap();
        for principal in ["rcmd", "rcmd/proxy.test@SLUICE.TEST"] {
            keytab(&path, principal).check().unwrap();
        }
        for principal in ["socks", "rcmd/other.test@SLUICE.TEST"] {
            let failure = keytab(&path, principal).check().unwrap_err();
            assert_eq!(failure.reason, ContextReason::NoKey, "{failure}");
            assert!(failure.detail.starts_with(principal), "{failure}");
        }
    }

    #[test]
    fn a_keytab_that_is_not_there_yet_is_looked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keytab");
        let keytab = keytab(&path, "rcmd");
        let failure = keytab.begin().expect_err("there is no file");
        assert_eq!(failure.reason, ContextReason::NoKey);
        assert!(failure.to_string().contains("keytab"), "{failure}");
        std::fs::write(&path, file()).unwrap();
        keytab.begin().unwrap();
    }

    #[test]
    fn tokens_that_are_none_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keytab");
        std::fs::write(&path, file()).unwrap();
        let keytab = keytab(&path, "rcmd");
        // Nothing, noise, another mechanism's (SPNEGO), and Kerberos' with noise in it.
        let spnego: &[u8] = b"\x60\x0c\x06\x06\x2b\x06\x01\x05\x05\x02\xa0\x02\x30\x00";
        let kerberos: &[u8] = b"\x60\x11\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00\x6e\x82\x00\x00";
        for token in [&b""[..], b"nonsense", &[0x60], &[0xff; 0xffff], spnego, kerberos] {
            let failure = keytab.begin().unwrap().accept(token).unwrap_err();
            assert!(
                matches!(failure.reason, ContextReason::Token | ContextReason::Other),
                "{failure:?}"
            );
            assert!(!failure.detail.is_empty());
        }
    }
}
