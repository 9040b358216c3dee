//! Where credentials are checked: the users file, the password hashing pool and the verified-credential cache.
//!
//! The gateway asks one object, the [`Authenticator`]. It applies realms and the throttle, and asks its backends
//! in order; [`LocalUsers`] is the one of the users file. A shard first tries [`Authenticator::try_cached`], which
//! answers a reconnecting user within microseconds, and only else waits for [`Authenticator::authenticate`].

mod certificates;
mod chain;
mod context_pool;
mod credential_cache;
mod generate;
#[cfg(feature = "gssapi")]
pub mod gssapi;
mod hash_pool;
mod key_ring;
mod local;
mod replace;
mod user;
mod users_edit;
mod users_file;
mod users_table;
mod verifiers;

pub use certificates::{CertificateError, Certificates};
pub use chain::{
    Answer, AuthObserver, Authenticator, AuthenticatorConfig, Backend, DEFAULT_FAILURE_DELAY, NO_BACKEND,
    Pending, Query,
};
pub use context_pool::ContextPool;
pub use credential_cache::{CacheConfig, CredentialCache};
pub use generate::{NoRandomness, generate_password};
pub use hash_pool::{HashPool, HashPoolConfig, PoolError, hash_now};
pub use key_ring::{Bound, Envelope, KeyRing, KeyRingError, NoEnvelope};
pub use local::{CacheStats, ChangeError, LocalUsers};
pub use user::User;
pub use users_file::{Keep, MAX_USERS_FILE, UsersError, UsersFile};
pub use users_table::{UserChange, UserTable};
pub use verifiers::{VerifierKinds, Verifiers};
