//! Every operation of the API: the one list that the router, the scopes and the API description are made from.

use super::api::{
    calls, configuration, events, gateway, policy, pools, sessions, tokens, traces, tunnels, user_changes,
    users,
};
use super::call::Call;
use super::openapi::Schemas;
use super::problem::Problem;
use super::tokens::Scope;
use super::{audit, calls as call_table, trace, views};
use axum::body::Body;
use axum::http::{Method, Response};
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone who reaches the listener.
    Open,
    /// Anyone on the metrics listener; elsewhere as [`Scope::Read`].
    Metrics,
    /// Holders of a scope.
    Scope(Scope),
}

/// A parameter of the query.
pub(crate) struct Param {
    pub(crate) name: &'static str,
    /// Its JSON Schema type.
    pub(crate) kind: &'static str,
    pub(crate) text: &'static str,
}

/// What a successful answer holds.
pub(crate) enum Reply {
    /// Nothing.
    Empty,
    /// JSON of a schema.
    Json(fn(&mut Schemas) -> Value),
    /// A page of items of a schema.
    Page(fn(&mut Schemas) -> Value),
    /// Something else, of a media type.
    Media(&'static str),
}

type Running = Pin<Box<dyn Future<Output = Result<Response<Body>, Problem>> + Send>>;

/// One operation.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The path with its placeholders and, after the last one, its action.
    pub(crate) path: &'static str,
    /// Its name in the description and in the audit log.
    pub(crate) id: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) text: &'static str,
    pub(crate) access: Access,
    pub(crate) query: &'static [Param],
    /// The schema of its body.
    pub(crate) body: Option<fn(&mut Schemas) -> Value>,
    /// The status of a successful answer, and what it holds.
    pub(crate) status: u16,
    pub(crate) reply: Reply,
    pub(crate) run: fn(Call) -> Running,
}

impl Operation {
    /// Whether it is written to the audit log even when it succeeds.
    pub(crate) fn changes(&self) -> bool {
        self.method != Method::GET
    }

    const fn get(
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        reply: Reply,
        run: fn(Call) -> Running,
    ) -> Self {
        Self {
            method: Method::GET,
            path,
            id,
            tag,
            text: "",
            access: Access::Scope(Scope::Read),
            query: &[],
            body: None,
            status: 200,
            reply,
            run,
        }
    }

    const fn change(
        method: Method,
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        scope: Scope,
        run: fn(Call) -> Running,
    ) -> Self {
        Self {
            method,
            path,
            id,
            tag,
            text: "",
            access: Access::Scope(scope),
            query: &[],
            body: None,
            status: 204,
            reply: Reply::Empty,
            run,
        }
    }

    const fn text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    const fn query(mut self, query: &'static [Param]) -> Self {
        self.query = query;
        self
    }

    const fn body(mut self, body: fn(&mut Schemas) -> Value) -> Self {
        self.body = Some(body);
        self
    }

    const fn reply(mut self, status: u16, reply: Reply) -> Self {
        self.status = status;
        self.reply = reply;
        self
    }
}

const fn param(name: &'static str, kind: &'static str, text: &'static str) -> Param {
    Param { name, kind, text }
}

const LIMIT: Param = param(
    "limit",
    "integer",
    "Items of the page, 1 to 1000; 100 where it is left out",
);
const CURSOR: Param = param("cursor", "string", "The `next` of the page before");
const PROTOCOL: Param = param("protocol", "string", "Only those of this protocol");
const LISTENER: Param = param("listener", "string", "Only those of this listener");
const PEER: Param = param("peer", "string", "Only those of this outer IP address");

const SESSION_QUERY: &[Param] = &[
    LIMIT,
    CURSOR,
    PROTOCOL,
    LISTENER,
    PEER,
    param("state", "string", "Only those in this state"),
    param("user", "string", "Only those of this user, realm included"),
    param("realm", "string", "Only those of users of this realm"),
    param("address", "string", "Only the one that holds this IP address"),
    param("tunnel", "string", "Only those in this tunnel"),
    param("order", "string", "`oldest` (first) or `newest`"),
];

macro_rules! run {
    ($handler:path) => {
        |call| Box::pin($handler(call))
    };
}

fn schema<T: utoipa::ToSchema>(schemas: &mut Schemas) -> Value {
    schemas.add::<T>()
}

/// All operations.
pub(crate) static OPERATIONS: &[Operation] = &[
    Operation::get(
        "/livez",
        "live",
        "health",
        Reply::Media("text/plain"),
        run!(gateway::live),
    )
    .access(Access::Open)
    .text("Whether the worker runs at all"),
    Operation::get(
        "/readyz",
        "ready",
        "health",
        Reply::Json(schema::<gateway::Ready>),
        run!(gateway::ready),
    )
    .access(Access::Open)
    .text("Whether new sessions are served; 503 with the reasons where they are not"),
    Operation::get(
        "/metrics",
        "metrics",
        "health",
        Reply::Media("text/plain"),
        run!(gateway::metrics),
    )
    .access(Access::Metrics)
    .text("Metrics in Prometheus' text format"),
    Operation::get(
        "/v1/openapi.json",
        "describeApi",
        "health",
        Reply::Media("application/json"),
        run!(gateway::openapi),
    )
    .access(Access::Open)
    .text("This description"),
    Operation::get(
        "/v1/status",
        "showStatus",
        "gateway",
        Reply::Json(schema::<gateway::Status>),
        run!(gateway::status),
    )
    .text("Version, uptime, shards, services, sandbox, store and totals"),
    Operation::get(
        "/v1/listeners",
        "listListeners",
        "gateway",
        Reply::Page(schema::<gateway::ListenerView>),
        run!(gateway::listeners),
    )
    .text("What is listened on"),
    Operation::get(
        "/v1/protocols",
        "listProtocols",
        "gateway",
        Reply::Page(schema::<gateway::ProtocolView>),
        run!(gateway::protocols),
    )
    .text("The protocols of this gateway"),
    Operation::get(
        "/v1/host",
        "showHost",
        "gateway",
        Reply::Page(schema::<gateway::HostChangeView>),
        run!(gateway::host),
    )
    .text("What the gateway changes on its host, such as routes"),
    Operation::change(
        Method::POST,
        "/v1/drain",
        "drain",
        "gateway",
        Scope::Admin,
        run!(gateway::drain),
    )
    .body(schema::<gateway::Drain>)
    .reply(200, Reply::Json(schema::<gateway::Drain>))
    .text("Refuse new sessions, or admit them again; sessions that are there go on"),
    Operation::change(
        Method::POST,
        "/v1/restart",
        "restart",
        "gateway",
        Scope::Admin,
        run!(gateway::restart),
    )
    .body(schema::<gateway::Restart>)
    .reply(202, Reply::Empty)
    .text("Restart the worker; sessions stay. Refused while they would be lost, unless that is asked for"),
    Operation::get(
        "/v1/sessions",
        "listSessions",
        "sessions",
        Reply::Page(schema::<views::SessionView>),
        run!(sessions::list),
    )
    .query(SESSION_QUERY)
    .text("Sessions that have not ended"),
    Operation::get(
        "/v1/sessions/{id}",
        "showSession",
        "sessions",
        Reply::Json(schema::<views::SessionView>),
        run!(sessions::show),
    )
    .text("A session with what was negotiated, also one that ended lately"),
    Operation::change(
        Method::POST,
        "/v1/sessions/{id}:terminate",
        "endSession",
        "sessions",
        Scope::SessionWrite,
        run!(sessions::terminate),
    )
    .body(schema::<sessions::Terminate>)
    .reply(202, Reply::Json(schema::<sessions::Terminating>))
    .text("End a session; its peer is told"),
    Operation::change(
        Method::POST,
        "/v1/sessions/{id}:trace",
        "startTrace",
        "sessions",
        Scope::SessionWrite,
        run!(traces::start),
    )
    .body(schema::<traces::Start>)
    .reply(201, Reply::Json(schema::<trace::TraceView>))
    .text("Trace a session for a while"),
    Operation::get(
        "/v1/sessions/{id}/trace",
        "showTrace",
        "sessions",
        Reply::Json(schema::<trace::TraceView>),
        run!(traces::show),
    )
    .access(Access::Scope(Scope::SessionWrite))
    .query(&[
        LIMIT,
        param(
            "after",
            "integer",
            "The `next` of the answer before: only later messages",
        ),
    ])
    .text("What a trace has seen, decoded"),
    Operation::get(
        "/v1/sessions/{id}/trace/pcap",
        "downloadTrace",
        "sessions",
        Reply::Media("application/vnd.tcpdump.pcap"),
        run!(traces::pcap),
    )
    .access(Access::Scope(Scope::SessionWrite))
    .text("The packets of a trace as a pcap file"),
    Operation::change(
        Method::POST,
        "/v1/sessions/{id}/trace:stop",
        "stopTrace",
        "sessions",
        Scope::SessionWrite,
        run!(traces::stop),
    )
    .text("End a trace; its result stays for an hour"),
    Operation::change(
        Method::DELETE,
        "/v1/sessions/{id}/trace",
        "deleteTrace",
        "sessions",
        Scope::SessionWrite,
        run!(traces::delete),
    )
    .text("End a trace and forget its result"),
    Operation::get(
        "/v1/history",
        "listHistory",
        "sessions",
        Reply::Page(schema::<views::SessionView>),
        run!(sessions::history),
    )
    .query(SESSION_QUERY)
    .text("Sessions that have ended, as far back as they are remembered"),
    Operation::get(
        "/v1/tunnels",
        "listTunnels",
        "tunnels",
        Reply::Page(schema::<views::TunnelView>),
        run!(tunnels::list),
    )
    .query(&[LIMIT, CURSOR, PROTOCOL, LISTENER, PEER])
    .text("Tunnels, the oldest first"),
    Operation::get(
        "/v1/tunnels/{id}",
        "showTunnel",
        "tunnels",
        Reply::Json(schema::<views::TunnelView>),
        run!(tunnels::show),
    )
    .text("A tunnel with what was negotiated"),
    Operation::change(
        Method::POST,
        "/v1/tunnels/{id}:terminate",
        "endTunnelSessions",
        "tunnels",
        Scope::SessionWrite,
        run!(tunnels::terminate),
    )
    .body(schema::<sessions::Terminate>)
    .reply(202, Reply::Json(schema::<tunnels::TerminatingAll>))
    .text("End all sessions of a tunnel"),
    Operation::change(
        Method::POST,
        "/v1/calls",
        "placeCall",
        "calls",
        Scope::SessionWrite,
        run!(calls::place),
    )
    .body(schema::<calls::Place>)
    .reply(202, Reply::Json(schema::<call_table::Call>))
    .text("Place a call; what becomes of it is shown under its label"),
    Operation::get(
        "/v1/calls/{label}",
        "showCall",
        "calls",
        Reply::Json(schema::<call_table::Call>),
        run!(calls::show),
    )
    .text("What became of a call"),
    Operation::get(
        "/v1/users",
        "listUsers",
        "users",
        Reply::Page(schema::<users::UserView>),
        run!(users::list),
    )
    .query(&[LIMIT, CURSOR])
    .text("Users in the order of their names"),
    Operation::change(
        Method::POST,
        "/v1/users",
        "createUser",
        "users",
        Scope::UserWrite,
        run!(users::create),
    )
    .body(schema::<users::Create>)
    .reply(201, Reply::Json(schema::<users::UserView>))
    .text("Add a user"),
    Operation::get(
        "/v1/users/{name}",
        "showUser",
        "users",
        Reply::Json(schema::<users::UserView>),
        run!(users::show),
    )
    .text("A user"),
    Operation::change(
        Method::PATCH,
        "/v1/users/{name}",
        "changeUser",
        "users",
        Scope::UserWrite,
        run!(user_changes::patch),
    )
    .body(schema::<user_changes::Change>)
    .reply(200, Reply::Json(schema::<users::Changed>))
    .text("Change what a user is given"),
    Operation::change(
        Method::POST,
        "/v1/users/{name}:disable",
        "disableUser",
        "users",
        Scope::UserWrite,
        run!(users::disable),
    )
    .reply(200, Reply::Json(schema::<users::Changed>))
    .text("Disable a user and end its sessions"),
    Operation::change(
        Method::POST,
        "/v1/users/{name}:enable",
        "enableUser",
        "users",
        Scope::UserWrite,
        run!(users::enable),
    )
    .reply(200, Reply::Json(schema::<users::Changed>))
    .text("Enable a user"),
    Operation::change(
        Method::POST,
        "/v1/users/{name}:password",
        "changePassword",
        "users",
        Scope::UserWrite,
        run!(users::password),
    )
    .body(schema::<users::Password>)
    .reply(200, Reply::Json(schema::<users::Changed>))
    .text("Give a user another password and end its sessions"),
    Operation::change(
        Method::DELETE,
        "/v1/users/{name}",
        "deleteUser",
        "users",
        Scope::UserWrite,
        run!(users::delete),
    )
    .reply(200, Reply::Json(schema::<users::Deleted>))
    .text("Delete a user and end its sessions"),
    Operation::get(
        "/v1/policy:explain",
        "explainPolicy",
        "policy",
        Reply::Json(schema::<policy::Explained>),
        run!(policy::explain),
    )
    .query(&[
        param(
            "command",
            "string",
            "`connect`, `bind`, `udp` or `session`; `connect` where it is left out",
        ),
        param(
            "listener",
            "string",
            "The listener the client comes to; needed where there are several",
        ),
        param("client", "string", "The client's IP address"),
        param(
            "user",
            "string",
            "A user, realm included; left out: nobody logs in",
        ),
        param(
            "target",
            "string",
            "Where to: a name or an IP address, with its port, such as `example.com:443`",
        ),
        param("address", "string", "An address that the name resolves to"),
    ])
    .text("Which rule decides a request, and why those before it do not"),
    Operation::get(
        "/v1/pools",
        "listPools",
        "pools",
        Reply::Page(schema::<views::PoolView>),
        run!(pools::list),
    )
    .text("Address pools and their use"),
    Operation::get(
        "/v1/leases",
        "listLeases",
        "pools",
        Reply::Page(schema::<views::LeaseView>),
        run!(pools::leases),
    )
    .query(&[
        LIMIT,
        CURSOR,
        param("pool", "string", "Only those from this pool"),
        param("user", "string", "Only those of this user, realm included"),
    ])
    .text("Addresses in use or kept for a user: IPv4 by address, then IPv6 by prefix"),
    Operation::get(
        "/v1/config",
        "showConfig",
        "configuration",
        Reply::Json(schema::<configuration::Shown>),
        run!(configuration::show),
    )
    .text("The configuration in use, without secrets"),
    Operation::change(
        Method::POST,
        "/v1/config:check",
        "checkConfig",
        "configuration",
        Scope::ConfigWrite,
        run!(configuration::check),
    )
    .body(schema::<configuration::Check>)
    .reply(200, Reply::Json(schema::<configuration::Checked>))
    .text("Check a configuration and tell what would change; the file's where no text is given"),
    Operation::change(
        Method::POST,
        "/v1/config:reload",
        "reloadConfig",
        "configuration",
        Scope::ConfigWrite,
        run!(configuration::reload),
    )
    .reply(200, Reply::Json(schema::<configuration::Reloaded>))
    .text("Read the configuration file anew and put it into effect"),
    Operation::get(
        "/v1/events",
        "followEvents",
        "events",
        Reply::Media("text/event-stream"),
        run!(events::follow),
    )
    .query(&[
        param("types", "string", "Only these types, separated by commas"),
        param("session", "string", "Only those about this session"),
    ])
    .text("What happens, as server-sent events; `Last-Event-ID` goes on where a reader left off"),
    Operation::get(
        "/v1/audit",
        "showAudit",
        "gateway",
        Reply::Page(schema::<audit::AuditEntry>),
        run!(gateway::audit),
    )
    .access(Access::Scope(Scope::Admin))
    .query(&[LIMIT])
    .text("The last entries of the audit log, the newest first"),
    Operation::get(
        "/v1/tokens",
        "listTokens",
        "tokens",
        Reply::Page(schema::<tokens::TokenView>),
        run!(tokens::list),
    )
    .access(Access::Scope(Scope::Admin))
    .text("Tokens, without what would let anyone use them"),
    Operation::change(
        Method::POST,
        "/v1/tokens",
        "createToken",
        "tokens",
        Scope::Admin,
        run!(tokens::create),
    )
    .body(schema::<tokens::Create>)
    .reply(201, Reply::Json(schema::<tokens::Created>))
    .text("Make a token; it is shown this once"),
    Operation::change(
        Method::DELETE,
        "/v1/tokens/{id}",
        "deleteToken",
        "tokens",
        Scope::Admin,
        run!(tokens::delete),
    )
    .text("Delete a token"),
];
