//! The event stream, as server-sent events.

use super::Result;
use crate::admin::Plane;
use crate::admin::call::Call;
use crate::admin::events::{Cursor, EventFilter};
use crate::admin::server::stopped;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use sluice_core::EngineEvent;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How often a comment is sent where nothing happens, so that proxies and clients know the stream is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Types of events, separated by commas.
struct Types(Vec<String>);

impl std::str::FromStr for Types {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let known = |name: &String| EngineEvent::NAMES.contains(&name.as_str());
        names.iter().all(known).then_some(Self(names)).ok_or(())
    }
}

pub(crate) async fn follow(call: Call) -> Result {
    let params = call.params();
    let filter = EventFilter {
        types: params
            .parsed("types", &format!("some of {}", EngineEvent::NAMES.join(", ")))
            .map_or_else(Vec::new, |Types(types)| types),
        session: params.parsed("session", "the id of a session"),
    };
    params.finish()?;
    let last = call.headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let cursor = call.plane.events().follow(last, filter);
    let stream = futures_util::stream::unfold((call.plane.clone(), call.token.clone(), cursor), next);
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("alive");
    Ok(Sse::new(stream).keep_alive(heartbeat).into_response())
}

/// Whom a stream is for: it ends with the token it was asked for with.
type State = (Arc<Plane>, Option<String>, Cursor);

async fn next((plane, token, mut cursor): State) -> Option<(std::result::Result<Event, Infallible>, State)> {
    let mut stop = plane.stopping();
    let revoked = async {
        match &token {
            Some(token) => plane.tokens().gone(token).await,
            None => std::future::pending().await,
        }
    };
    // What happened before the end is still told.
    let sent = tokio::select! {
        biased;
        () = revoked => return None,
        sent = plane.events().wait(&mut cursor) => sent?,
        () = stopped(&mut stop) => return None,
    };
    let event = Event::default().id(sent.id).event(sent.name).data(sent.data);
    Some((Ok(event), (plane, token, cursor)))
}
