//! The operations themselves, by what they are about.

pub(super) mod calls;
pub(super) mod configuration;
pub(super) mod events;
pub(super) mod gateway;
pub(super) mod policy;
pub(super) mod pools;
pub(super) mod sessions;
pub(super) mod tokens;
pub(super) mod traces;
pub(super) mod tunnels;
pub(super) mod user_changes;
pub(super) mod users;

pub use users::static_addresses;
pub(super) use users::take_effect;

use super::problem::{Code, Problem};
use axum::body::Body;
use axum::http::Response;

/// What an operation gives.
type Result = std::result::Result<Response<Body>, Problem>;

/// Runs what may block, such as reading a file.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::result::Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(Code::Internal, error.to_string()))
}
