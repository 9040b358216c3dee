//! Credentials, secrets, realms, verdicts and grants: the types and pure functions of authentication and
//! authorization.
//!
//! Nothing here knows a socket, a clock or a session. A protocol module produces an [`AuthRequest`], a backend
//! answers it with a [`Profile`] or a [`RejectReason`], and the engine turns the profile into [`Grants`], the
//! concrete addresses and limits which the protocol machine then offers to its peer.

mod buckets;
pub mod chap;
mod grants;
pub mod gss;
mod host;
mod identity;
mod password;
pub mod policy;
mod prefix;
mod realm;
mod request;
mod secret;
mod session_keys;
mod throttle;
mod timestamp;
pub mod tls;

pub use grants::{AddressRule, AddressRuleError, Grants, Ipv6Prefix, PrefixError, Profile};
pub use host::{BadHost, Destination, Host, HostName, MAX_DOMAIN};
pub use identity::{Identity, MAX_NAME};
pub use password::{Argon2Cost, PasswordHash, PasswordHashError, WeakPassword, check_new_password};
pub use prefix::{IpPrefix, IpPrefixError};
pub use realm::{ProfileDefaults, Realm, RealmError, RealmTable, Resolved, Unlisted};
pub use request::{
    AuthRequest, Coverage, Credentials, Method, MsChapExchange, Proof, RejectReason, Verdict, Verifiable,
};
pub use secret::Secret;
pub use session_keys::SessionKeys;
pub use throttle::{Rate, Throttle, ThrottleConfig, Throttled};
pub use timestamp::{format_timestamp, parse_timestamp};
