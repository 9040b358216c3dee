//! Where credentials are checked: the users file, the password hashing pool and the verified-credential cache.

mod credential_cache;
mod hash_pool;

pub use credential_cache::{CacheConfig, CacheStats, CredentialCache};
pub use hash_pool::{HashPool, HashPoolConfig, PoolError, hash_now};
