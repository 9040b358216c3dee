//! Why the policy decides as it does.

use super::Result;
use crate::admin::call::{Call, json};
use crate::admin::problem::{Code, Detail, Problem};
use axum::http::StatusCode;
use serde::Serialize;
use sluice_auth::policy::{
    By, ByteRate, Command, Early, Effects, Explanation, Passed, Request, SharedLimits, Subject, Target,
    Upstream,
};
use sluice_auth::{Destination, Host, HostName};
use sluice_auth_backends::User;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use utoipa::ToSchema;

/// How a request is decided, and why.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explained {
    /// `allow`, `deny`, or `depends`: on what the name resolves to.
    verdict: &'static str,
    /// The rule that decides; null where none does, or it depends.
    rule: Option<String>,
    /// The place of that rule in the configuration, from 0.
    index: Option<usize>,
    /// What decides: `rule`, `default`, or why the destination is closed unless a rule opens it, such as
    /// `loopback`; null where it depends.
    by: Option<&'static str>,
    /// Why the destination's address is special, where it is, whether or not that decides.
    special: Option<&'static str>,
    /// The rules before the one that decides, or all, with the reason why each does not.
    passed: Vec<PassedRule>,
    /// What the session is given, by rule, user and defaults; times in seconds, rates in bytes a second. Empty
    /// where it is denied.
    effects: BTreeMap<&'static str, String>,
}

/// A rule that does not decide.
#[derive(Serialize, ToSchema)]
pub(crate) struct PassedRule {
    rule: String,
    index: usize,
    /// `allow` or `deny`.
    action: &'static str,
    /// The key of the rule that does not hold, or cannot be told to yet; `special`: the destination is one that an
    /// allowing rule must list by itself.
    key: &'static str,
    /// Whether it may hold once the destination is known.
    open: bool,
}

impl Explained {
    fn new(explanation: &Explanation<'_>, own: Option<&Effects>) -> Self {
        let decision = match &explanation.answer {
            Early::Final(decision) => Some(decision),
            Early::Depends => None,
        };
        let rule = decision.and_then(|decision| decision.rule());
        let allowed = decision.filter(|decision| decision.allowed());
        Self {
            verdict: match decision {
                Some(decision) => decision.action.as_str(),
                None => "depends",
            },
            rule: rule.map(|rule| rule.rule.name.to_string()),
            index: rule.map(|rule| rule.index),
            by: decision.map(|decision| By::as_str(&decision.by)),
            special: explanation.special.map(|special| special.as_str()),
            passed: explanation
                .passed
                .iter()
                .map(|(rule, why)| {
                    let (key, open) = match why {
                        Passed::Failed(matcher) => (matcher.as_str(), false),
                        Passed::Unknown(matcher) => (matcher.as_str(), true),
                    };
                    PassedRule {
                        rule: rule.rule.name.to_string(),
                        index: rule.index,
                        action: rule.rule.action.as_str(),
                        key,
                        open,
                    }
                })
                .collect(),
            effects: allowed.map_or_else(BTreeMap::new, |decision| effects(&decision.effects(own))),
        }
    }
}

fn rate(rate: ByteRate) -> String {
    format!("{} (burst {})", rate.per_second, rate.burst)
}

/// What is given, under the keys of the configuration.
fn effects(effects: &Effects) -> BTreeMap<&'static str, String> {
    let seconds = |time: std::time::Duration| time.as_secs_f64().to_string();
    let upstream = effects.upstream.as_ref().map(|upstream| match upstream {
        Upstream::Direct => "direct".to_owned(),
        Upstream::Named(name) => name.to_string(),
    });
    let user = shared(
        &effects.per_user,
        [
            "per_user.sessions",
            "per_user.new_sessions",
            "per_user.rate_up",
            "per_user.rate_down",
            "per_user.quota",
        ],
    );
    let source = shared(
        &effects.per_source,
        [
            "per_source.sessions",
            "per_source.new_sessions",
            "per_source.rate_up",
            "per_source.rate_down",
            "per_source.quota",
        ],
    );
    let own = [
        (
            "source_ipv4",
            effects.source_ipv4.map(|address| address.to_string()),
        ),
        (
            "source_ipv6",
            effects.source_ipv6.map(|address| address.to_string()),
        ),
        ("interface", effects.interface.as_ref().map(ToString::to_string)),
        ("fwmark", effects.fwmark.map(|mark| mark.to_string())),
        ("upstream", upstream),
        (
            "send_proxy",
            effects.send_proxy.map(|sent| sent.as_str().to_owned()),
        ),
        ("rate_up", effects.rate_up.map(rate)),
        ("rate_down", effects.rate_down.map(rate)),
        ("connect_timeout", effects.connect_timeout.map(seconds)),
        ("idle_timeout", effects.idle_timeout.map(seconds)),
        ("half_closed_timeout", effects.half_closed_timeout.map(seconds)),
        ("lifetime", effects.lifetime.map(seconds)),
    ];
    let all = own.into_iter().chain(user).chain(source);
    all.filter_map(|(key, value)| Some((key, value?))).collect()
}

fn shared(limits: &SharedLimits, keys: [&'static str; 5]) -> [(&'static str, Option<String>); 5] {
    let [sessions, new, up, down, quota] = keys;
    let new_sessions =
        |rate: sluice_auth::policy::SessionRate| format!("{} (burst {})", rate.per_second, rate.burst);
    [
        (sessions, limits.sessions.map(|most| most.to_string())),
        (new, limits.new_sessions.map(new_sessions)),
        (up, limits.rate_up.map(rate)),
        (down, limits.rate_down.map(rate)),
        (quota, limits.quota.as_ref().map(ToString::to_string)),
    ]
}

/// The request that is asked about.
struct Question {
    command: Command,
    listener: String,
    protocol: &'static str,
    client: Option<IpAddr>,
    user: Option<Arc<User>>,
    target: Option<Destination>,
    address: Option<IpAddr>,
}

fn wrong(name: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid(vec![Detail {
        pointer: format!("?{name}"),
        detail: detail.into(),
    }])
}

/// The listener of a name, or the only one there is, with its protocol.
fn listener(call: &Call, name: Option<String>) -> std::result::Result<(String, &'static str), Problem> {
    let listeners = call.plane.control().listeners();
    let known: BTreeMap<&str, &'static str> = listeners
        .iter()
        .map(|one| (one.name.as_str(), one.protocol))
        .collect();
    let names = || known.keys().copied().collect::<Vec<_>>().join(", ");
    let found = match &name {
        Some(name) => known.get_key_value(name.as_str()),
        None if known.len() > 1 => {
            return Err(wrong("listener", format!("is needed; there are: {}", names())));
        }
        None => known.first_key_value(),
    };
    let (name, protocol) = found.ok_or_else(|| {
        wrong(
            "listener",
            format!("there is none of this name, only: {}", names()),
        )
    })?;
    Ok(((*name).to_owned(), protocol))
}

/// Reads a destination with its port.
fn destination(text: &str) -> std::result::Result<Destination, Problem> {
    let bad = |why: String| {
        wrong(
            "target",
            format!("must be a name or an IP address with its port: {why}"),
        )
    };
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| bad("there is no port".to_owned()))?;
    Ok(Destination {
        host: Host::parse(host.as_bytes()).map_err(|error| bad(error.to_string()))?,
        port: port.parse().map_err(|_| bad(format!("{port:?} is no port")))?,
    })
}

fn read(call: &Call) -> std::result::Result<Question, Problem> {
    let params = call.params();
    let commands = Command::ALL.map(|command| format!("`{command}`")).join(", ");
    let command = params.parsed("command", &format!("one of {commands}"));
    let client = params.parsed("client", "an IP address");
    let address = params.parsed("address", "an IP address");
    let (target, user, named) = (
        params.text("target"),
        params.text("user"),
        params.text("listener"),
    );
    params.finish()?;
    let target = target.map(|text| destination(&text));
    let user = user.map(|name| {
        let unknown = || Problem::new(Code::NotFound, format!("there is no user {name:?}"));
        call.plane.users().file().get(&name).ok_or_else(unknown)
    });
    let (listener, protocol) = listener(call, named)?;
    let question = Question {
        command: command.unwrap_or(Command::Connect),
        listener,
        protocol,
        client,
        user: user.transpose()?,
        target: target.transpose()?,
        address,
    };
    if question.command == Command::Connect && question.target.is_none() {
        return Err(wrong(
            "target",
            "is needed: a name or an IP address with its port",
        ));
    }
    Ok(question)
}

impl Question {
    fn target(&self) -> Target<'_> {
        let Some(Destination { host, port }) = &self.target else {
            return Target::Unknown;
        };
        let name: Option<&HostName> = match host {
            Host::Address(address) => return Target::Address(None, *address, *port),
            Host::Name(name) => Some(name),
        };
        match (name, self.address) {
            (name, Some(address)) => Target::Address(name, address, *port),
            (Some(name), None) => Target::Name(name, *port),
            (None, None) => Target::Unknown,
        }
    }
}

pub(crate) async fn explain(call: Call) -> Result {
    let question = read(&call)?;
    let user = question.user.as_deref();
    let request = Request {
        command: question.command,
        listener: &question.listener,
        protocol: question.protocol,
        client: question.client,
        user: user.map(|user| Subject::from(&user.profile)),
    };
    let own = user.map(|user| Effects::from(&user.profile));
    let policy = call.plane.control().policy();
    let explanation = policy.explain(&request, question.target());
    json(StatusCode::OK, &Explained::new(&explanation, own.as_ref()))
}
