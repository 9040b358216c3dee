//! Traces of single sessions.

use super::Result;
use crate::admin::Plane;
use crate::admin::call::{Call, json, located, no_content, noted, raw};
use crate::admin::problem::{Code, Problem};
use crate::admin::server::stopped;
use crate::admin::trace::{DEFAULT_TIME, MAX_LINES, MAX_TIME};
use axum::http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use sluice_core::SessionId;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use utoipa::ToSchema;

/// A trace to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartTrace)]
pub(crate) struct Start {
    /// How long it runs, in seconds, 1 to 3600; 300 where it is left out.
    seconds: Option<u64>,
    /// Whether packets are captured as well.
    #[serde(default = "yes")]
    #[schema(default = true)]
    packets: bool,
}

fn yes() -> bool {
    true
}

pub(crate) async fn start(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let Start { seconds, packets } = call.json()?;
    let time = seconds.map_or(DEFAULT_TIME, Duration::from_secs);
    if time.is_zero() || time > MAX_TIME {
        let rule = format!("must be from 1 to {}", MAX_TIME.as_secs());
        return Err(Problem::member("seconds", rule));
    }
    if call.plane.engine().find_owner(id).is_none() {
        return Err(Problem::not_found("such session (any more)"));
    }
    let traces = call.plane.traces();
    let started = traces.start(id, time, packets, Instant::now(), SystemTime::now());
    started.map_err(|error| Problem::new(Code::Conflict, error.to_string()))?;
    if let Err(error) = call.plane.control().set_trace(id, true).await {
        traces.delete(id, Instant::now());
        return Err(error.into());
    }
    tokio::spawn(end_in_time(call.plane.clone(), id, time));
    let view = traces.view(id, 0, 0, Instant::now());
    let answer = json(StatusCode::CREATED, &view)?;
    let answer = located(answer, &format!("/v1/sessions/{id}/trace"));
    Ok(noted(
        answer,
        format!("seconds: {}, packets: {packets}", time.as_secs()),
    ))
}

/// Tells the session's machine when its time is over, so that it need not decode for nobody.
async fn end_in_time(plane: Arc<Plane>, id: SessionId, time: Duration) {
    let mut stop = plane.stopping();
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stopped(&mut stop) => return,
    }
    if !plane.traces().is_on(id, Instant::now()) {
        // The session may be gone by now: then there is nothing to switch off.
        let _ = plane.control().set_trace(id, false).await;
    }
}

pub(crate) async fn show(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let params = call.params();
    let (after, limit) = (params.number("after", 0, MAX_LINES), params.limit());
    params.finish()?;
    let view = call.plane.traces().view(id, after, limit, Instant::now());
    json(StatusCode::OK, &view.ok_or_else(no_trace)?)
}

fn no_trace() -> Problem {
    Problem::not_found("trace of such a session")
}

pub(crate) async fn pcap(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let capture = call.plane.traces().capture(id).ok_or_else(no_trace)?;
    let mut response = raw(StatusCode::OK, "application/vnd.tcpdump.pcap", capture);
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{id}.pcap\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

async fn switch_off(call: &Call, found: bool, id: SessionId) -> Result {
    if !found {
        return Err(no_trace());
    }
    // The session may have ended before its trace.
    let _ = call.plane.control().set_trace(id, false).await;
    Ok(no_content())
}

pub(crate) async fn stop(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let found = call.plane.traces().stop(id, Instant::now());
    switch_off(&call, found, id).await
}

pub(crate) async fn delete(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let found = call.plane.traces().delete(id, Instant::now());
    switch_off(&call, found, id).await
}
