//! The backend of the users file: users, hashing pool and credential cache as one.

use crate::chain::{Answer, Backend, Pending, Query};
use crate::credential_cache::CredentialCache;
use crate::hash_pool::{HashPool, PoolError};
use crate::key_ring::KeyRingError;
use crate::user::User;
use crate::users_file::{UsersError, UsersFile};
use crate::users_table::{UserChange, UserTable};
use crate::verifiers::{Sealed, Verifiers};
use sluice_auth::{
    Argon2Cost, Coverage, Credentials, Identity, Method, PasswordHash, Profile, RejectReason, Secret,
    Verifiable, WeakPassword, check_new_password,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// What the cache has done since the backend was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Logins answered from it.
    pub hits: u64,
    /// Logins whose password had to be hashed.
    pub misses: u64,
    /// Entries that had to give way to others before their time.
    pub evictions: u64,
    /// Times its file could not be read or written.
    pub errors: u64,
}

/// Why a user or a password could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The users file.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The password is not acceptable.
    #[error(transparent)]
    Weak(#[from] WeakPassword),
    /// The password could not be hashed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The password could not be sealed.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
}

/// Users with passwords of their own.
pub struct LocalUsers {
    users: UsersFile,
    pub(crate) pool: HashPool,
    cache: CredentialCache,
    verifiers: Option<Verifiers>,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
}

impl LocalUsers {
    /// The name of the backend in metrics, and in a realm's list of backends.
    pub const NAME: &'static str = "file";

    /// Puts the three together. Only passwords can be checked so.
    pub fn new(users: UsersFile, pool: HashPool, cache: CredentialCache) -> Self {
        Self {
            users,
            pool,
            cache,
            verifiers: None,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Checks CHAP and MS-CHAPv2 too.
    #[must_use]
    pub fn with_verifiers(mut self, verifiers: Verifiers) -> Self {
        self.verifiers = Some(verifiers);
        self
    }

    /// The users as they are now.
    pub fn table(&self) -> Arc<UserTable> {
        self.users.table()
    }

    /// The users file.
    pub fn file(&self) -> &UsersFile {
        &self.users
    }

    /// Passwords waiting to be hashed.
    pub fn hash_queue_depth(&self) -> usize {
        self.pool.queue_depth()
    }

    /// What the cache has done.
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.cache.evictions(),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// Wipes cache entries whose time is over, a part of the cache at each call; to be called once a second.
    pub fn expire_cache(&self, wall: SystemTime) {
        self.note(self.cache.expire(wall));
    }

    /// Reads the users file again. See [`UsersFile::reload`]; blocks on the file.
    pub fn reload(&self) -> Result<Vec<UserChange>, UsersError> {
        if let Some(verifiers) = &self.verifiers {
            verifiers.reload();
        }
        self.users.reload().map(|changes| self.forget(changes))
    }

    /// Adds a user; `complete` sets all but name and password. Once the password is hashed it blocks on the file.
    pub async fn create_user(
        &self,
        name: Identity,
        password: Secret,
        complete: impl FnOnce(&mut User),
    ) -> Result<Vec<UserChange>, ChangeError> {
        if self.users.get(name.as_str()).is_some() {
            return Err(UsersError::Exists(name.as_str().to_owned()).into());
        }
        let hash = self.hash(password.clone()).await?;
        let sealed = self.seal(&name, &hash, &password)?;
        let mut user = User::new(name, hash);
        sealed.give(&mut user);
        complete(&mut user);
        Ok(self
            .users
            .create_user(&user)
            .map(|changes| self.forget(changes))?)
    }

    /// Changes a user; blocks on the file.
    pub fn update_user(
        &self,
        name: &str,
        edit: impl FnOnce(&mut User),
    ) -> Result<Vec<UserChange>, UsersError> {
        self.users
            .update_user(name, edit)
            .map(|changes| self.forget(changes))
    }

    /// Gives a user another password. Once that is hashed it blocks on the file.
    pub async fn set_password(&self, name: &str, password: Secret) -> Result<Vec<UserChange>, ChangeError> {
        let known = self.users.get(name);
        let known = known.ok_or_else(|| UsersError::Unknown(name.to_owned()))?;
        let hash = Arc::new(self.hash(password.clone()).await?);
        let sealed = self.seal(&known.profile.identity, &hash, &password)?;
        Ok(self.update_user(name, |user| {
            user.password = hash;
            sealed.give(user);
        })?)
    }

    /// Deletes a user; blocks on the file.
    pub fn delete_user(&self, name: &str) -> Result<Vec<UserChange>, UsersError> {
        self.users.delete_user(name).map(|changes| self.forget(changes))
    }

    async fn hash(&self, password: Secret) -> Result<PasswordHash, ChangeError> {
        check_new_password(&password)?;
        Ok(self.pool.create(Argon2Cost::DEFAULT, password).await?)
    }

    fn seal(&self, name: &Identity, hash: &PasswordHash, password: &Secret) -> Result<Sealed, KeyRingError> {
        match &self.verifiers {
            Some(verifiers) => verifiers.seal(name, hash, password),
            None => Ok(Sealed::default()),
        }
    }

    fn forget(&self, changes: Vec<UserChange>) -> Vec<UserChange> {
        for change in &changes {
            self.note(self.cache.forget(&change.name));
        }
        changes
    }

    /// Counts a failure of the cache's file, and says so once: logins go on without it.
    fn note(&self, result: std::io::Result<()>) {
        if let Err(error) = result
            && self.errors.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(%error, "the credential cache cannot be used: every login hashes its password");
        }
    }

    /// The answer for a user whose password is right.
    fn admit(user: &User, query: &Query<'_>) -> Answer {
        match user.admits(query.request.protocol, query.wall) {
            Ok(()) => Answer::Accept(Box::new(user.profile.clone())),
            Err(reason) => Answer::Reject(reason),
        }
    }

    /// The answer to a proof that is no password.
    fn check_proof(&self, query: &Query<'_>) -> Answer {
        let Some(verifiers) = &self.verifiers else {
            return Answer::Reject(RejectReason::NotPermitted);
        };
        let table = self.users.table();
        let known = table.get(query.name).map(Arc::as_ref);
        match (verifiers.check(known, &query.request.credentials), known) {
            (Ok(proof), Some(user)) => match Self::admit(user, query) {
                Answer::Accept(mut profile) => {
                    profile.proof = proof;
                    Answer::Accept(profile)
                }
                refused => refused,
            },
            (Ok(_), None) => Answer::Reject(RejectReason::BadCredentials),
            (Err(reason), _) => Answer::Reject(reason),
        }
    }

    async fn check(&self, query: Query<'_>) -> Answer {
        match &query.request.credentials {
            Credentials::Pap { password, .. } => self.check_password(query, password).await,
            Credentials::Gssapi { .. } | Credentials::Certificate { .. } => self.find(&query),
            Credentials::Chap { .. } | Credentials::MsChapV2 { .. } => self.check_proof(&query),
        }
    }

    /// The answer for a name that is proven already.
    fn find(&self, query: &Query<'_>) -> Answer {
        match self.users.get(query.name) {
            Some(user) => Self::admit(&user, query),
            None => Answer::Reject(RejectReason::BadCredentials),
        }
    }

    async fn check_password(&self, query: Query<'_>, password: &Secret) -> Answer {
        if let Some(answer) = self.try_cached(&query) {
            return answer;
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let table = self.users.table();
        let known = table.get(query.name);
        // Nobody's hash costs as much as a user's: the time taken does not tell whether there is such a user.
        let hash = known.map_or_else(|| table.nobody(), |user| &user.password);
        let verified = match self.pool.verify(Arc::clone(hash), password.clone()).await {
            Ok(verified) => verified,
            Err(_) => return Answer::Unavailable,
        };
        // The user may have been changed while the job waited. The old password counts no more.
        let now = self.users.get(query.name).filter(|now| now.password == *hash);
        let (true, Some(user)) = (verified, now) else {
            return Answer::Reject(RejectReason::BadCredentials);
        };
        let answer = Self::admit(&user, &query);
        if matches!(answer, Answer::Accept(_)) {
            self.note(self.cache.insert(query.name, password, hash, query.wall));
        }
        answer
    }
}

impl Backend for LocalUsers {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn verifiable(&self) -> Verifiable {
        let methods = match &self.verifiers {
            Some(_) => self.users.table().verifiable(),
            None => Verifiable::default(),
        };
        let proven = [Method::Gssapi, Method::Certificate].into_iter();
        proven.fold(methods, |methods, method| methods.with(method, Coverage::All))
    }

    fn authenticate<'a>(&'a self, query: Query<'a>) -> Pending<'a> {
        Box::pin(self.check(query))
    }

    /// A user that is not there may be one of another backend.
    fn look_up(&self, name: &str, protocol: &str, wall: SystemTime) -> Option<Result<Profile, RejectReason>> {
        let user = self.users.get(name)?;
        Some(user.admits(protocol, wall).map(|()| user.profile.clone()))
    }

    fn try_cached(&self, query: &Query<'_>) -> Option<Answer> {
        let Credentials::Pap { password, .. } = &query.request.credentials else {
            // As quick as a look into the cache. A wrong proof, and one that is right but of no use, go the long way.
            return match &query.request.credentials {
                Credentials::Chap { .. } | Credentials::MsChapV2 { .. } => {
                    Some(self.check_proof(query)).filter(|answer| matches!(answer, Answer::Accept(_)))
                }
                _ => None,
            };
        };
        let table = self.users.table();
        let known = table.get(query.name);
        // A user that does not exist is looked for like any other.
        let hash = known.map_or_else(|| table.nobody(), |user| &user.password);
        let found = self.cache.contains(query.name, password, hash, query.wall);
        let user = known.filter(|_| found)?;
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(Self::admit(user, query))
    }
}
