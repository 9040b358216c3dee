//! Tunnels.

use super::Result;
use super::sessions::Terminate;
use crate::admin::call::{Call, json, noted};
use crate::admin::problem::Problem;
use crate::admin::views::TunnelView;
use axum::http::StatusCode;
use serde::Serialize;
use sluice_core::{SessionFilter, SessionQuery, TunnelId, TunnelQuery};
use utoipa::ToSchema;

pub(crate) async fn list(call: Call) -> Result {
    let params = call.params();
    let query = TunnelQuery {
        protocol: params.text("protocol"),
        listener: params.text("listener"),
        peer: params.parsed("peer", "an IP address"),
        after: params.parsed("cursor", "the `next` of the page before"),
        limit: params.limit(),
    };
    params.finish()?;
    let page = call.plane.engine().tunnels(&query);
    let views: Vec<TunnelView> = page.items.iter().map(TunnelView::listed).collect();
    call.page(&views, page.next.map(|next| next.to_string()))
}

pub(crate) async fn show(call: Call) -> Result {
    let id: TunnelId = call.id("such tunnel")?;
    let tunnel = call.plane.engine().tunnel(id);
    let tunnel = tunnel.ok_or_else(|| Problem::not_found("such tunnel (any more)"))?;
    let live = call.plane.control().describe_tunnel(id).await;
    let view = TunnelView::from(&tunnel).with_live(&live.unwrap_or_default());
    json(StatusCode::OK, &view)
}

/// The sessions of a tunnel that are being ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct TerminatingAll {
    cause: &'static str,
    /// How many that were not being ended already.
    sessions: usize,
}

pub(crate) async fn terminate(call: Call) -> Result {
    let id: TunnelId = call.id("such tunnel")?;
    let cause = Terminate::cause(&call)?;
    let engine = call.plane.engine();
    if engine.tunnel(id).is_none() {
        return Err(Problem::not_found("such tunnel (any more)"));
    }
    let mut query = SessionQuery {
        filter: SessionFilter {
            tunnel: Some(id),
            ..SessionFilter::default()
        },
        ..SessionQuery::default()
    };
    let mut sessions = 0;
    loop {
        let page = engine.sessions(&query);
        sessions += page
            .items
            .iter()
            .filter(|session| engine.end_session(session.id, cause))
            .count();
        if page.next.is_none() {
            break;
        }
        query.after = page.next;
    }
    let cause = cause.as_str();
    let answer = json(StatusCode::ACCEPTED, &TerminatingAll { cause, sessions })?;
    Ok(noted(answer, format!("cause: {cause}, sessions: {sessions}")))
}
