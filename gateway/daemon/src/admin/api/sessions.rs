//! Sessions, and those that have ended.

use super::Result;
use crate::admin::call::{Call, Params, json, noted};
use crate::admin::problem::{Code, Problem};
use crate::admin::views::SessionView;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_core::{Order, SessionFilter, SessionId, SessionQuery, State};
use sluice_spi::TerminateCause;
use utoipa::ToSchema;

fn read_query(params: &Params<'_>) -> SessionQuery {
    let address = "an IP address";
    SessionQuery {
        filter: SessionFilter {
            protocol: params.text("protocol"),
            listener: params.text("listener"),
            state: params.parsed::<State>("state", "a state of sessions such as established"),
            user: params.text("user"),
            realm: params.text("realm"),
            peer: params.parsed("peer", address),
            address: params.parsed("address", address),
            tunnel: params.parsed("tunnel", "the id of a tunnel"),
        },
        order: match params.parsed::<OrderText>("order", "oldest or newest") {
            Some(OrderText(order)) => order,
            None => Order::OldestFirst,
        },
        after: params.parsed("cursor", "the `next` of the page before"),
        limit: params.limit(),
    }
}

struct OrderText(Order);

impl std::str::FromStr for OrderText {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        match text {
            "oldest" => Ok(Self(Order::OldestFirst)),
            "newest" => Ok(Self(Order::NewestFirst)),
            _ => Err(()),
        }
    }
}

pub(crate) async fn list(call: Call) -> Result {
    let params = call.params();
    let query = read_query(&params);
    params.finish()?;
    let page = call.plane.engine().sessions(&query);
    let views: Vec<SessionView> = page.items.iter().map(SessionView::listed).collect();
    call.page(&views, page.next.map(|next| next.to_string()))
}

pub(crate) async fn history(call: Call) -> Result {
    let params = call.params();
    let query = read_query(&params);
    params.finish()?;
    let page = call.plane.engine().history(&query);
    let views: Vec<SessionView> = page
        .items
        .iter()
        .map(|session| SessionView::listed(session))
        .collect();
    call.page(&views, page.next.map(|next| next.to_string()))
}

pub(crate) async fn show(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let live = call.plane.control().describe_session(id).await;
    let session = call.plane.engine().session(id);
    let session = session.ok_or_else(|| Problem::not_found("such session (any more)"))?;
    let view = SessionView::from(&session).with_live(&live.unwrap_or_default());
    json(StatusCode::OK, &view)
}

/// How sessions are to be ended.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Terminate {
    /// The terminate cause by RFC 2866's name.
    #[serde(default = "admin_reset")]
    #[schema(default = "admin-reset")]
    cause: String,
}

fn admin_reset() -> String {
    TerminateCause::AdminReset.as_str().to_owned()
}

impl Terminate {
    /// Reads the cause of a request.
    pub(super) fn cause(call: &Call) -> std::result::Result<TerminateCause, Problem> {
        let Terminate { cause } = call.json()?;
        cause.parse().map_err(|_| {
            let all: Vec<&str> = TerminateCause::ALL.iter().map(|cause| cause.as_str()).collect();
            Problem::member("cause", format!("must be one of {}", all.join(", ")))
        })
    }
}

/// A session that is being ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Terminating {
    id: String,
    cause: &'static str,
    /// False: it was being ended already.
    requested: bool,
}

pub(crate) async fn terminate(call: Call) -> Result {
    let id: SessionId = call.id("such session")?;
    let cause = Terminate::cause(&call)?;
    let engine = call.plane.engine();
    let requested = engine.end_session(id, cause);
    if !requested {
        let session = engine
            .session(id)
            .ok_or_else(|| Problem::not_found("such session"))?;
        if session.state == State::Closed {
            return Err(Problem::new(Code::Conflict, "the session has ended already"));
        }
    }
    let cause = cause.as_str();
    let id = id.to_string();
    let answer = json(StatusCode::ACCEPTED, &Terminating { id, cause, requested })?;
    Ok(noted(answer, format!("cause: {cause}")))
}
