//! What users have beside their Argon2id hash, and proofs checked against it. None of it is slow: it is done where it
//! is asked for.

use crate::key_ring::{Bound, Envelope, KeyRing, KeyRingError};
use crate::user::User;
use sluice_auth::chap::{authenticator_response, chap_response, nt_hash, nt_hash_hash, nt_response};
use sluice_auth::{
    Credentials, Identity, Method, MsChapExchange, PasswordHash, Proof, RejectReason, Secret, SessionKeys,
};
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;

/// The key of the users file for a sealed password, and what it is bound to.
pub(crate) const CHAP: &str = "chap";
/// The key of the users file for a sealed NT hash.
pub(crate) const NT_HASH: &str = "nt_hash";

/// What a new password is kept as, beside its Argon2id hash. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifierKinds {
    /// Itself, sealed: for CHAP and MS-CHAPv2.
    pub chap: bool,
    /// Its NT hash, sealed: for MS-CHAPv2.
    pub nt: bool,
}

/// Sealed verifiers of one password.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    chap: Option<Envelope>,
    nt: Option<Envelope>,
}

impl Sealed {
    /// Gives them to a user, in place of what it had: those are of another password.
    pub(crate) fn give(self, user: &mut User) {
        (user.chap, user.nt_hash) = (self.chap, self.nt);
    }
}

/// Seals verifiers, and checks proofs against them.
pub struct Verifiers {
    keys: KeyRing,
    kinds: VerifierKinds,
    warned: AtomicBool,
}

impl Verifiers {
    /// Of these keys. New passwords get the kinds given.
    pub fn new(keys: KeyRing, kinds: VerifierKinds) -> Self {
        Self {
            keys,
            kinds,
            warned: AtomicBool::new(false),
        }
    }

    /// Reads the keys again; what is wrong with them is logged, and they stay as they were.
    pub(crate) fn reload(&self) {
        if let Err(error) = self.keys.reload() {
            tracing::error!("{error}");
        }
        self.warned.store(false, Ordering::Relaxed);
    }

    /// What a new password is kept as. Blocks on the key file.
    pub(crate) fn seal(
        &self,
        name: &Identity,
        hash: &PasswordHash,
        password: &Secret,
    ) -> Result<Sealed, KeyRingError> {
        let phc = hash.to_phc();
        let seal = |kind, secret: Option<&Secret>| {
            let bound = Bound {
                kind,
                user: name.as_str(),
                password: &phc,
            };
            secret.map(|secret| self.keys.seal(bound, secret)).transpose()
        };
        let hash = self.kinds.nt.then(|| nt_hash(password)).flatten();
        Ok(Sealed {
            chap: seal(CHAP, self.kinds.chap.then_some(password))?,
            nt: seal(NT_HASH, hash.as_ref())?,
        })
    }

    fn open(&self, user: &User, kind: &'static str, envelope: &Envelope) -> Option<Secret> {
        let bound = Bound {
            kind,
            user: user.name(),
            password: &user.password.to_phc(),
        };
        let secret = self.keys.open_sealed(bound, envelope);
        if secret.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                user = user.name(),
                "the {kind} of a user cannot be opened: its key is not in the key file, or its password was changed by hand; \
                 give the user a new password"
            );
        }
        secret
    }

    /// The secret of a user for a method. Users that have none take as long.
    fn secret(&self, user: Option<&User>, method: Method) -> Option<Secret> {
        let chap = user.and_then(|user| Some((user, user.chap.as_ref()?)));
        let nt = user.and_then(|user| Some((user, user.nt_hash.as_ref()?)));
        match (method, nt, chap) {
            (Method::MsChapV2, Some((user, envelope)), _) => self.open(user, NT_HASH, envelope),
            (Method::MsChapV2, None, Some((user, envelope))) => nt_hash(&self.open(user, CHAP, envelope)?),
            (Method::Chap, _, Some((user, envelope))) => self.open(user, CHAP, envelope),
            _ => {
                self.keys.pretend(Bound {
                    kind: CHAP,
                    user: "",
                    password: "",
                });
                None
            }
        }
    }

    /// Checks a proof that is no password. `Ok`: it is right.
    pub(crate) fn check(
        &self,
        user: Option<&User>,
        credentials: &Credentials,
    ) -> Result<Proof, RejectReason> {
        let secret = self.secret(user, credentials.method());
        // Where there is no secret, one that nobody has is tried for the time it takes.
        let tried = secret.clone().unwrap_or_else(|| Secret::new([0; 16]));
        let result = match credentials {
            // Passwords are checked against the Argon2id hash, and what is proven elsewhere is no proof of ours.
            Credentials::Pap { .. } | Credentials::Gssapi { .. } | Credentials::Certificate { .. } => {
                Err(RejectReason::NotPermitted)
            }
            Credentials::Chap {
                id,
                challenge,
                response,
                ..
            } => {
                let right = chap_response(*id, &tried, challenge).ct_eq(response.as_slice());
                bool::from(right)
                    .then(Proof::default)
                    .ok_or(RejectReason::BadCredentials)
            }
            Credentials::MsChapV2 { identity, exchange } => check_mschap(&tried, identity, exchange),
        };
        match (secret, user) {
            (Some(_), _) => result,
            (None, Some(_)) => Err(RejectReason::NoVerifier),
            (None, None) => Err(RejectReason::BadCredentials),
        }
    }
}

fn check_mschap(
    hash: &Secret,
    identity: &Identity,
    exchange: &MsChapExchange,
) -> Result<Proof, RejectReason> {
    let MsChapExchange {
        challenge,
        peer_challenge,
        nt_response: response,
    } = exchange;
    let name = identity.as_str().as_bytes();
    let right = nt_response(hash, peer_challenge, challenge, name).ct_eq(response);
    if !bool::from(right) {
        return Err(RejectReason::BadCredentials);
    }
    let hash_hash = nt_hash_hash(hash);
    let answer = authenticator_response(&hash_hash, response, peer_challenge, challenge, name);
    Ok(Proof {
        authenticator_response: Some(answer),
        keys: Some(Box::new(SessionKeys::of_mschap(&hash_hash, response))),
    })
}

#[cfg(test)]
#[path = "verifiers_tests.rs"]
mod tests;
