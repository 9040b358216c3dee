//! Credentials, secrets, realms, verdicts and grants: the types and pure functions of authentication and
//! authorization.
//!
//! Nothing here knows a socket, a clock or a session. A protocol module produces an [`AuthRequest`], a backend
//! answers it with a [`Profile`] or a [`RejectReason`], and the engine turns the profile into [`Grants`], the
//! concrete addresses and limits which the protocol machine then offers to its peer.

mod grants;
mod identity;
mod request;
mod secret;

pub use grants::{AddressRule, Grants, Ipv6Prefix, PrefixError, Profile};
pub use identity::{Identity, MAX_NAME};
pub use request::{AuthRequest, Credentials, Method, RejectReason, Verdict};
pub use secret::Secret;
