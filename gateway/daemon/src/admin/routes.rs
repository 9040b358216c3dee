//! From a request to the operation it asks for: who may, with which parameters, and what is written down.

use super::Plane;
use super::audit::AuditEntry;
use super::call::{Call, Caller, Noted};
use super::operations::{Access, OPERATIONS, Operation};
use super::problem::{Code, Detail, Problem};
use super::server::Peer;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, RawPathParams, State};
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, header};
use axum::routing::any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The header by which an answer names its request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The placeholders of a path without the action: what axum's router is given.
fn pattern(path: &'static str) -> &'static str {
    match path.rfind("}:") {
        Some(end) => path.get(..=end).unwrap_or(path),
        None => path,
    }
}

/// The action after the last placeholder of a path.
fn action(path: &'static str) -> Option<&'static str> {
    path.rsplit_once("}:").map(|(_, action)| action)
}

/// All operations of the API.
pub(super) fn router(plane: Arc<Plane>) -> Router {
    build(plane, OPERATIONS.iter().collect())
}

/// What the metrics listener serves: only what needs no token there.
pub(super) fn metrics_router(plane: Arc<Plane>) -> Router {
    let served = ["metrics", "live", "ready"];
    let wanted = OPERATIONS
        .iter()
        .filter(|operation| served.contains(&operation.id));
    build(plane, wanted.collect())
}

fn build(plane: Arc<Plane>, operations: Vec<&'static Operation>) -> Router {
    let mut by_pattern: BTreeMap<&'static str, Vec<&'static Operation>> = BTreeMap::new();
    for operation in operations {
        by_pattern
            .entry(pattern(operation.path))
            .or_default()
            .push(operation);
    }
    let mut router = Router::new();
    for (pattern, operations) in by_pattern {
        let operations: Arc<[&'static Operation]> = operations.into();
        let serve = move |State(plane), path: RawPathParams, request: Request<Body>| {
            let operations = operations.clone();
            let path: Vec<(String, String)> = path
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            async move {
                let exchange = Arc::new(Exchange::new(plane, &request));
                // A task of its own: a client that goes away must not stop a change halfway, or unrecorded.
                let serving = exchange.clone();
                let task = tokio::spawn(async move { serving.serve(&operations, path, request).await });
                task.await.unwrap_or_else(|error| {
                    tracing::error!(
                        request_id = exchange.id,
                        "a request ended without an answer: {error}"
                    );
                    let problem = Problem::new(Code::Internal, "the log has more under this request's id");
                    exchange.finish(problem.into_response(&exchange.id))
                })
            }
        };
        router = router.route(pattern, any(serve));
    }
    let unknown = |State(plane): State<Arc<Plane>>, request: Request<Body>| async move {
        let exchange = Exchange::new(plane, &request);
        let problem = Problem::not_found(request.uri().path());
        exchange.finish(problem.into_response(&exchange.id))
    };
    router.fallback(unknown).with_state(plane)
}

/// One request and the answer to it.
struct Exchange {
    plane: Arc<Plane>,
    id: String,
    peer: Peer,
    target: String,
}

impl Exchange {
    fn new(plane: Arc<Plane>, request: &Request<Body>) -> Self {
        let peer = request.extensions().get::<Peer>().cloned();
        Self {
            id: plane.request_id(),
            plane,
            peer: peer.unwrap_or(Peer::Unknown),
            target: request.uri().path().to_owned(),
        }
    }

    fn finish(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(REQUEST_ID, id);
        }
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    }

    async fn serve(
        &self,
        operations: &[&'static Operation],
        path: Vec<(String, String)>,
        request: Request<Body>,
    ) -> Response<Body> {
        let method = match request.method() {
            &Method::HEAD => Method::GET,
            method => method.clone(),
        };
        let found = operations.iter().find_map(|operation| {
            let path = without_action(&path, action(operation.path))?;
            (operation.method == method).then_some((*operation, path))
        });
        let Some((operation, path)) = found else {
            return self.finish(self.no_operation(operations, &path, &method));
        };
        let caller = Caller::identify(&self.plane, &self.peer, request.headers());
        let who = caller
            .as_ref()
            .map_or("anonymous", |caller| &caller.who)
            .to_owned();
        let token = caller.as_ref().and_then(|caller| caller.token.clone());
        let result = match self.admit(operation, caller) {
            Ok(()) => self.run(operation, token, path, request).await,
            Err(problem) => Err(problem),
        };
        let code = result.as_ref().err().map(|problem| problem.code);
        if code == Some(Code::Internal) {
            let detail = result.as_ref().err().map_or("", |problem| &problem.detail);
            tracing::error!(request_id = self.id, operation = operation.id, "{detail}");
        }
        let response = match result {
            Ok(response) => response,
            Err(problem) => problem.into_response(&self.id),
        };
        let refused = matches!(code, Some(Code::Unauthenticated | Code::Forbidden));
        if refused || operation.changes() {
            let result = code.map_or("ok", Code::as_str);
            let entry = self.entry(operation, who, &response, result);
            self.audit(entry, refused).await;
        }
        self.finish(response)
    }

    fn no_operation(
        &self,
        operations: &[&'static Operation],
        path: &[(String, String)],
        method: &Method,
    ) -> Response<Body> {
        let mut allowed: Vec<&str> = operations
            .iter()
            .filter(|operation| without_action(path, action(operation.path)).is_some())
            .map(|operation| operation.method.as_str())
            .collect();
        allowed.dedup();
        let what = format!("{method} of {}; there are: {}", self.target, allowed.join(", "));
        let problem = Problem::new(Code::MethodNotAllowed, format!("there is no {what}"));
        let mut response = problem.into_response(&self.id);
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }

    fn admit(&self, operation: &Operation, caller: Option<Caller>) -> Result<(), Problem> {
        let scope = match operation.access {
            Access::Open => return Ok(()),
            Access::Metrics if matches!(self.peer, Peer::Metrics { .. }) => return Ok(()),
            Access::Metrics => super::tokens::Scope::Read,
            Access::Scope(scope) => scope,
        };
        let Some(caller) = caller else {
            let detail = "send Authorization: Bearer sluice_… with a token of this gateway";
            return Err(Problem::new(Code::Unauthenticated, detail));
        };
        if !caller.allows(scope) {
            let detail = format!("this needs a token with the scope {}", scope.as_str());
            return Err(Problem::new(Code::Forbidden, detail));
        }
        Ok(())
    }

    async fn run(
        &self,
        operation: &'static Operation,
        token: Option<String>,
        path: Vec<(String, String)>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Problem> {
        let query = read_query(operation, &request)?;
        let (parts, body) = request.into_parts();
        let limits = self.plane.limits();
        let answer = async {
            let body = read_body(body, limits.max_body).await?;
            if operation.changes() {
                self.check_audit().await?;
            }
            let call = Call {
                plane: self.plane.clone(),
                token,
                path,
                target: self.target.clone(),
                query,
                headers: parts.headers,
                body,
            };
            (operation.run)(call).await
        };
        let late = || Problem::new(Code::Timeout, "the request or its answer took too long");
        tokio::time::timeout(limits.request_timeout, answer)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// No change is made that could not be written down.
    async fn check_audit(&self) -> Result<(), Problem> {
        let plane = self.plane.clone();
        let checked = tokio::task::spawn_blocking(move || plane.audit().check()).await;
        let error = match checked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let detail = format!("nothing was changed, because the audit log cannot be written: {error}");
        Err(Problem::new(Code::Unavailable, detail))
    }

    fn entry(
        &self,
        operation: &Operation,
        who: String,
        response: &Response<Body>,
        result: &str,
    ) -> AuditEntry {
        let made = response
            .headers()
            .get(header::LOCATION)
            .map(HeaderValue::as_bytes);
        let noted = response.extensions().get::<Noted>();
        AuditEntry {
            time: super::views::time(SystemTime::now()),
            request_id: self.id.clone(),
            who,
            from: self.peer.to_string(),
            what: operation.id.to_owned(),
            target: sluice_spi::wire::display_text(made.unwrap_or(self.target.as_bytes())),
            detail: noted.map_or_else(String::new, |noted| noted.0.clone()),
            status: response.status().as_u16(),
            result: result.to_owned(),
            left_out: 0,
        }
    }

    async fn audit(&self, entry: AuditEntry, refused: bool) {
        let plane = self.plane.clone();
        let write = move || {
            if refused {
                plane.audit().write_refused(entry, Instant::now())
            } else {
                plane.audit().write(&entry)
            }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::error!(request_id = self.id, "the audit log cannot be written: {error}");
        }
    }
}

/// The placeholders of a path with the action taken off the last one. `None`: it has another action. Operations
/// without one take the text as it is, so that a user may have a colon in its name.
fn without_action(path: &[(String, String)], action: Option<&str>) -> Option<Vec<(String, String)>> {
    let mut path = path.to_vec();
    if let Some(action) = action {
        let (_, value) = path.last_mut()?;
        let rest = value.strip_suffix(action)?.strip_suffix(':')?;
        *value = rest.to_owned();
    }
    Some(path)
}

fn read_query(operation: &Operation, request: &Request<Body>) -> Result<Vec<(String, String)>, Problem> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Ok(Query(query)) = query else {
        let detail = "the query is not valid".to_owned();
        return Err(Problem::invalid(vec![Detail {
            pointer: "?".to_owned(),
            detail,
        }]));
    };
    let known = |name: &str| operation.query.iter().any(|param| param.name == name);
    let unknown = query.iter().filter(|(name, _)| !known(name));
    let errors: Vec<Detail> = unknown
        .map(|(name, _)| Detail {
            pointer: format!("?{name}"),
            detail: "is not a parameter of this operation".to_owned(),
        })
        .collect();
    if errors.is_empty() {
        return Ok(query);
    }
    Err(Problem::invalid(errors))
}

async fn read_body(body: Body, most: usize) -> Result<Bytes, Problem> {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("a body may have {most} bytes at most");
            Err(Problem::new(Code::TooLarge, detail))
        }
        Err(_) => Err(Problem::new(Code::InvalidRequest, "the body ended early")),
    }
}
