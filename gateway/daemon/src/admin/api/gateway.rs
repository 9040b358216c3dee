//! The gateway as a whole: health, status, listeners, drain and restart, the audit log.

use super::{Result, blocking};
use crate::admin::call::{Call, json, noted, raw};
use crate::admin::control::{HostChange, ListenerStatus, Reason, ServiceStatus, ShardStatus};
use crate::admin::problem::{Code, Problem};
use crate::admin::{openapi, views};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_spi::{Descriptor, Resumption, Transport};
use std::collections::BTreeMap;
use std::time::SystemTime;
use utoipa::ToSchema;

/// The media type of Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Something that keeps the gateway from doing all its work.
#[derive(Serialize, ToSchema)]
#[schema(as = Reason)]
pub(crate) struct ReasonView {
    /// A stable code.
    code: &'static str,
    /// What is the matter and what to do.
    text: String,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.code,
            text: reason.text,
        }
    }
}

/// Whether new sessions are served.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
    /// Why not.
    reasons: Vec<ReasonView>,
    /// What is wrong besides, but keeps no session out.
    warnings: Vec<ReasonView>,
}

/// One part that may be on or off.
#[derive(Serialize, ToSchema)]
pub(crate) struct Service {
    name: &'static str,
    on: bool,
    /// Why not, or in which way it is.
    detail: String,
}

impl From<ServiceStatus> for Service {
    fn from(service: ServiceStatus) -> Self {
        Self {
            name: service.name,
            on: service.on,
            detail: service.detail,
        }
    }
}

/// One shard.
#[derive(Serialize, ToSchema)]
pub(crate) struct Shard {
    shard: u16,
    /// Machines it runs.
    machines: usize,
    /// Installed paths.
    paths: usize,
    /// How late its loop was at worst lately, in milliseconds.
    lag_ms: u64,
}

impl From<ShardStatus> for Shard {
    fn from(shard: ShardStatus) -> Self {
        Self {
            shard: shard.shard.0,
            machines: shard.machines,
            paths: shard.paths,
            lag_ms: u64::try_from(shard.lag.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Numbers of everything.
#[derive(Serialize, ToSchema)]
pub(crate) struct Totals {
    /// Sessions by protocol and state.
    sessions: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Tunnels by protocol and state.
    tunnels: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Refusals since the start of the worker, by reason.
    refused: BTreeMap<&'static str, u64>,
    opened: u64,
    closed: u64,
    /// Sessions that went on after a restart.
    recovered: u64,
}

/// The gateway.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    name: String,
    version: &'static str,
    started: String,
    /// Seconds since the gateway was started.
    uptime: u64,
    worker_started: String,
    /// How often the worker was started anew.
    restarts: u64,
    draining: bool,
    ready: bool,
    reasons: Vec<ReasonView>,
    warnings: Vec<ReasonView>,
    /// Where the configuration came from.
    config: String,
    shards: Vec<Shard>,
    services: Vec<Service>,
    sandbox: Vec<Service>,
    store: Service,
    totals: Totals,
}

/// What is wrong but keeps no session out. Without `details` nothing of what files say is in it, as for those who
/// need no token to ask.
fn warnings(call: &Call, details: bool) -> Vec<ReasonView> {
    let detailed = |text: &str, error: &str| match details {
        true => format!("{text}: {error}"),
        false => format!("{text}; sluice status says why."),
    };
    let control = call.plane.control().warnings();
    let mut warnings: Vec<ReasonView> = control.into_iter().map(Into::into).collect();
    let configs = call.plane.configs();
    if let Some(error) = configs.last_reload().and_then(|last| last.error) {
        warnings.push(ReasonView {
            code: "reload_failed",
            text: detailed("The last reload failed", &error),
        });
    }
    let text = match configs.pending().len() {
        0 => None,
        1 => Some("One change of the configuration waits for a restart: run sluice restart.".to_owned()),
        count => Some(format!(
            "{count} changes of the configuration wait for a restart: run sluice restart."
        )),
    };
    if let Some(text) = text {
        let code = "restart_pending";
        warnings.push(ReasonView { code, text });
    }
    if let Some(error) = call.plane.users_complaint() {
        let code = "users_file";
        let text = detailed(
            "The users stay as they were before the last change of their file",
            &error,
        );
        warnings.push(ReasonView { code, text });
    }
    warnings
}

fn ready_now(call: &Call, details: bool) -> Ready {
    let mut reasons: Vec<ReasonView> = call
        .plane
        .control()
        .not_ready()
        .into_iter()
        .map(Into::into)
        .collect();
    if call.plane.engine().totals().draining {
        let text = "New sessions are refused: run sluice drain --off to admit them again.".to_owned();
        let code = "draining";
        reasons.push(ReasonView { code, text });
    }
    Ready {
        ready: reasons.is_empty(),
        reasons,
        warnings: warnings(call, details),
    }
}

pub(crate) async fn live(_: Call) -> Result {
    Ok(raw(StatusCode::OK, "text/plain; charset=utf-8", "live\n"))
}

pub(crate) async fn ready(call: Call) -> Result {
    let ready = ready_now(&call, false);
    let status = match ready.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &ready)
}

pub(crate) async fn metrics(call: Call) -> Result {
    Ok(raw(StatusCode::OK, METRICS_TEXT, call.plane.metrics()))
}

pub(crate) async fn openapi(_: Call) -> Result {
    json(StatusCode::OK, &openapi::document())
}

fn by_state(
    numbers: &BTreeMap<(&'static str, sluice_core::State), u64>,
) -> BTreeMap<&'static str, BTreeMap<&'static str, u64>> {
    let mut by_protocol: BTreeMap<&'static str, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for ((protocol, state), number) in numbers {
        by_protocol
            .entry(protocol)
            .or_default()
            .insert(state.as_str(), *number);
    }
    by_protocol
}

pub(crate) async fn status(call: Call) -> Result {
    let runtime = call.plane.control().status().await;
    let config = call.plane.configs().current();
    let totals = call.plane.engine().totals();
    let Ready {
        ready,
        reasons,
        warnings,
    } = ready_now(&call, true);
    let uptime = SystemTime::now()
        .duration_since(runtime.started)
        .unwrap_or_default();
    json(
        StatusCode::OK,
        &Status {
            name: config.gateway.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started: views::time(runtime.started),
            uptime: uptime.as_secs(),
            worker_started: views::time(runtime.worker_started),
            restarts: runtime.restarts,
            draining: totals.draining,
            ready,
            reasons,
            warnings,
            config: config.source.clone(),
            shards: runtime.shards.into_iter().map(Into::into).collect(),
            services: runtime.services.into_iter().map(Into::into).collect(),
            sandbox: runtime.sandbox.into_iter().map(Into::into).collect(),
            store: runtime.store.into(),
            totals: Totals {
                sessions: by_state(&totals.sessions),
                tunnels: by_state(&totals.tunnels),
                refused: totals
                    .refused
                    .iter()
                    .map(|(reason, count)| (reason.as_str(), *count))
                    .collect(),
                opened: totals.opened,
                closed: totals.closed,
                recovered: totals.recovered,
            },
        },
    )
}

/// One address of one listener.
#[derive(Serialize, ToSchema)]
#[schema(as = Listener)]
pub(crate) struct ListenerView {
    name: String,
    protocol: &'static str,
    address: String,
    on: bool,
    /// Why not.
    detail: Option<String>,
    /// Peers that have not proven anything yet.
    half_open: usize,
}

impl From<ListenerStatus> for ListenerView {
    fn from(listener: ListenerStatus) -> Self {
        Self {
            name: listener.name,
            protocol: listener.protocol,
            address: listener.address.to_string(),
            on: listener.off.is_none(),
            detail: listener.off,
            half_open: listener.half_open,
        }
    }
}

pub(crate) async fn listeners(call: Call) -> Result {
    let listeners = call.plane.control().listeners().into_iter();
    let views: Vec<ListenerView> = listeners.map(Into::into).collect();
    call.page(&views, None)
}

/// A protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = Protocol)]
pub(crate) struct ProtocolView {
    name: &'static str,
    title: &'static str,
    transport: &'static str,
    default_port: u16,
    /// The documents it implements.
    specifications: &'static [&'static str],
    /// How its sessions survive a restart of the worker.
    resumption: &'static str,
}

impl From<&Descriptor> for ProtocolView {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            name: descriptor.name,
            title: descriptor.title,
            transport: match descriptor.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            default_port: descriptor.default_port,
            specifications: descriptor.specifications,
            resumption: match descriptor.resumption {
                Resumption::Checkpoint => "checkpoint",
                Resumption::Connections => "connections",
            },
        }
    }
}

pub(crate) async fn protocols(call: Call) -> Result {
    let modules = call.plane.configs().modules().iter();
    let views: Vec<ProtocolView> = modules.map(|module| module.descriptor().into()).collect();
    call.page(&views, None)
}

/// One thing that is changed on the host.
#[derive(Serialize, ToSchema)]
#[schema(as = HostChange)]
pub(crate) struct HostChangeView {
    what: String,
    /// Whether it is in effect.
    done: bool,
    detail: String,
}

impl From<HostChange> for HostChangeView {
    fn from(change: HostChange) -> Self {
        Self {
            what: change.what,
            done: change.done,
            detail: change.detail,
        }
    }
}

pub(crate) async fn host(call: Call) -> Result {
    let changes = call.plane.control().host_changes().await.into_iter();
    let views: Vec<HostChangeView> = changes.map(Into::into).collect();
    call.page(&views, None)
}

/// Whether new sessions are refused.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    /// True: they are.
    draining: bool,
}

pub(crate) async fn drain(call: Call) -> Result {
    let drain: Drain = call.json()?;
    call.plane.engine().set_draining(drain.draining);
    let answer = json(StatusCode::OK, &drain)?;
    Ok(noted(answer, format!("draining: {}", drain.draining)))
}

/// How the worker is to be restarted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restart {
    /// Whether it is restarted even where sessions are lost by it, because the store takes no changes.
    #[serde(default)]
    #[schema(default = false)]
    lose_sessions: bool,
}

pub(crate) async fn restart(call: Call) -> Result {
    let Restart { lose_sessions } = call.json()?;
    call.plane.control().restart(lose_sessions).await?;
    let answer = json(StatusCode::ACCEPTED, &views::empty())?;
    Ok(match lose_sessions {
        true => noted(answer, "sessions may be lost".to_owned()),
        false => answer,
    })
}

pub(crate) async fn audit(call: Call) -> Result {
    let params = call.params();
    let limit = params.limit();
    params.finish()?;
    let plane = call.plane.clone();
    let entries = blocking(move || plane.audit().last(limit)).await?;
    let unreadable = |error| {
        Problem::new(
            Code::Unavailable,
            format!("the audit log cannot be read: {error}"),
        )
    };
    call.page(&entries.map_err(unreadable)?, None)
}
