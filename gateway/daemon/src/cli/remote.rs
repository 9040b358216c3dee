//! Commands that ask a running gateway.

use super::args::{
    AddUser, Arguments, Call, Command, Explain, Leases, SessionFilter, Sessions, Tokens, Tunnels, UserChange,
    Users,
};
use super::client::{Client, Reach};
use super::{Done, Failure, password, render, stream};
use crate::admin::escape;
use crate::config::Modules;
use hyper::Method;
use serde_json::{Value, json};
use std::io::Write;

/// Items asked for at once.
const PAGE: usize = 1000;

/// One command and where its answer goes.
struct Run<'a> {
    reach: Reach<'a>,
    client: Client,
    json: bool,
    out: &'a mut dyn Write,
}

/// The columns of a table: titles, and pointers into an item.
type Columns = &'static [(&'static str, &'static str)];

const SESSIONS: Columns = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("USER", "/user"),
    ("PEER", "/peer"),
    ("ADDRESSES", "/addresses"),
    ("RX BYTES", "/counters/rx_bytes"),
    ("TX BYTES", "/counters/tx_bytes"),
    ("SINCE", "/created"),
];

const ENDED: Columns = &[
    ("ID", "/id"),
    ("USER", "/user"),
    ("PEER", "/peer"),
    ("SINCE", "/created"),
    ("ENDED", "/ended"),
    ("CAUSE", "/end/cause"),
    ("WHY", "/end/text"),
];

const TUNNELS: Columns = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("PROTOCOL", "/protocol"),
    ("PEER", "/peer"),
    ("NAME", "/peer_name"),
    ("SESSIONS", "/sessions"),
    ("SINCE", "/created"),
];

const USERS: Columns = &[
    ("NAME", "/name"),
    ("ENABLED", "/enabled"),
    ("IPV4", "/ipv4"),
    ("IPV6", "/ipv6"),
    ("MAX SESSIONS", "/max_sessions"),
    ("EXPIRES", "/expires"),
];

const POOLS: Columns = &[
    ("NAME", "/name"),
    ("GATEWAY", "/ipv4_gateway"),
    ("IPV4 HELD", "/ipv4/held"),
    ("OF", "/ipv4/size"),
    ("KEPT", "/ipv4/kept"),
    ("IPV6 HELD", "/ipv6/held"),
    ("OF", "/ipv6/size"),
    ("KEPT", "/ipv6/kept"),
];

const LEASES: Columns = &[
    ("ADDRESS", "/address"),
    ("POOL", "/pool"),
    ("USER", "/user"),
    ("SESSION", "/session"),
    ("SINCE", "/since"),
    ("KEPT UNTIL", "/until"),
];

const LISTENERS: Columns = &[
    ("NAME", "/name"),
    ("PROTOCOL", "/protocol"),
    ("ADDRESS", "/address"),
    ("ON", "/on"),
    ("HALF-OPEN", "/half_open"),
    ("DETAIL", "/detail"),
];

const TOKENS: Columns = &[
    ("ID", "/id"),
    ("SCOPES", "/scopes"),
    ("CREATED", "/created"),
    ("NOTE", "/note"),
];

const AUDIT: Columns = &[
    ("TIME", "/time"),
    ("WHO", "/who"),
    ("FROM", "/from"),
    ("WHAT", "/what"),
    ("TARGET", "/target"),
    ("DETAIL", "/detail"),
    ("RESULT", "/result"),
];

/// Runs a command against the gateway.
pub(super) async fn run(
    command: &Command,
    arguments: &Arguments,
    modules: Modules<'_>,
    out: &mut dyn Write,
) -> Done {
    let reach = Reach { arguments, modules };
    let client = reach.connect().await?;
    let json = arguments.json;
    let mut run = Run {
        reach,
        client,
        json,
        out,
    };
    match command {
        Command::Sessions(command) => run.sessions(command).await,
        Command::Tunnels(command) => run.tunnels(command).await,
        Command::Users(command) => run.users(command).await,
        Command::Pools(_) => run.list("/v1/pools", &[], None, POOLS).await,
        Command::Leases(Leases { pool, user, .. }) => {
            let query = [("pool", pool), ("user", user)];
            run.list("/v1/leases", &given(&query), None, LEASES).await
        }
        Command::Listeners(_) => run.list("/v1/listeners", &[], None, LISTENERS).await,
        Command::Tokens(command) => run.tokens(command).await,
        Command::Explain(explain) => run.explain(explain).await,
        Command::Status => run.status().await,
        Command::Reload => run.reload().await,
        Command::Restart { lose_sessions } => {
            let (body, text) = match lose_sessions {
                true => {
                    let text = "the worker restarts; sessions that are not on record are lost";
                    (Some(json!({ "lose_sessions": true })), text)
                }
                false => (None, "the worker restarts; sessions stay"),
            };
            run.change(Method::POST, "/v1/restart", body, text).await
        }
        Command::Drain { off } => {
            let text = match off {
                true => "new sessions are admitted",
                false => "new sessions are refused; those that are there go on",
            };
            let body = json!({ "draining": !off });
            run.change(Method::POST, "/v1/drain", Some(body), text).await
        }
        Command::Call(call) => run.call(call).await,
        Command::Trace(args) => stream::trace(&mut run.client, args, json, run.out).await,
        Command::Events { types, session } => {
            let query = query(&given(&[("types", types), ("session", session)]));
            stream::events(&mut run.client, &run.reach, &query, json, run.out).await
        }
        Command::Audit { limit } => {
            let limit = limit.to_string();
            let answer = run
                .get(&format!("/v1/audit{}", query(&[("limit", &limit)])))
                .await?;
            run.show_items(&answer, AUDIT)
        }
        // The rest never gets here: it needs no gateway.
        Command::Run(_) | Command::Worker(_) | Command::CheckConfig(_) | Command::DryRun(_) => Ok(()),
    }
}

/// The parameters that were given.
fn given<'a>(parameters: &[(&'a str, &'a Option<String>)]) -> Vec<(&'a str, &'a str)> {
    let given = parameters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    given.collect()
}

fn query(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("?{}", pairs.join("&")),
    }
}

impl Run<'_> {
    async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        self.client.ask(Method::GET, path, None).await?.json()
    }

    fn show_items(&mut self, answer: &Value, columns: Columns) -> Done {
        if self.json {
            return render::json(answer, self.out);
        }
        let items = answer.get("items").and_then(Value::as_array);
        render::items(items.map_or(&[], Vec::as_slice), columns, self.out)
    }

    /// Shows all pages of a list, up to a number of items.
    async fn list(
        &mut self,
        path: &str,
        parameters: &[(&str, &str)],
        most: Option<usize>,
        columns: Columns,
    ) -> Done {
        let paged = !matches!(path, "/v1/pools" | "/v1/listeners" | "/v1/tokens");
        let most = most.unwrap_or(usize::MAX);
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = most.saturating_sub(all.len()).clamp(1, PAGE).to_string();
            let mut parameters = parameters.to_vec();
            if paged {
                parameters.push(("limit", &limit));
            }
            if let Some(cursor) = &cursor {
                parameters.push(("cursor", cursor));
            }
            let mut page = self.get(&format!("{path}{}", query(&parameters))).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items);
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || all.len() >= most {
                break;
            }
        }
        self.show_items(&json!({ "items": all, "next": cursor }), columns)
    }

    async fn show(&mut self, path: &str) -> Done {
        let answer = self.get(path).await?;
        match self.json {
            true => render::json(&answer, self.out),
            false => render::thing(&answer, self.out),
        }
    }

    /// Asks for a change and says that it is done.
    async fn change(&mut self, method: Method, path: &str, body: Option<Value>, text: &str) -> Done {
        let answer = self.client.ask(method, path, body.as_ref()).await?.json()?;
        match self.json {
            true => render::json(&answer, self.out),
            false => Ok(writeln!(self.out, "{text}")?),
        }
    }

    async fn sessions(&mut self, command: &Sessions) -> Done {
        match command {
            Sessions::List {
                filter,
                history,
                limit,
            } => {
                let mut parameters = filter.parameters();
                let (path, columns) = match history {
                    true => ("/v1/history", ENDED),
                    false => ("/v1/sessions", SESSIONS),
                };
                if *history {
                    parameters.push(("order", "newest"));
                }
                self.list(path, &parameters, *limit, columns).await
            }
            Sessions::Show { id } => self.show(&format!("/v1/sessions/{}", escape(id))).await,
            Sessions::End { ids, cause } => {
                for id in ids {
                    let path = format!("/v1/sessions/{}:terminate", escape(id));
                    let body = Some(json!({ "cause": cause }));
                    let text = format!("{id} is being ended");
                    self.change(Method::POST, &path, body, &text).await?;
                }
                Ok(())
            }
            Sessions::Watch => {
                let types =
                    "session_opened,session_up,session_down,session_refused,auth_decided,end_requested";
                let query = query(&[("types", types)]);
                stream::events(&mut self.client, &self.reach, &query, self.json, self.out).await
            }
        }
    }

    async fn tunnels(&mut self, command: &Tunnels) -> Done {
        match command {
            Tunnels::List => self.list("/v1/tunnels", &[], None, TUNNELS).await,
            Tunnels::Show { id } => self.show(&format!("/v1/tunnels/{}", escape(id))).await,
            Tunnels::End { id } => {
                let path = format!("/v1/tunnels/{}:terminate", escape(id));
                let text = format!("the sessions of {id} are being ended");
                self.change(Method::POST, &path, None, &text).await
            }
        }
    }

    async fn users(&mut self, command: &Users) -> Done {
        let user = |name: &str, action: &str| format!("/v1/users/{}{action}", escape(name));
        match command {
            Users::List => self.list("/v1/users", &[], None, USERS).await,
            Users::Show { name } => self.show(&user(name, "")).await,
            Users::Add(add) => self.add_user(add).await,
            Users::Change(args) => {
                let body = changes(&args.change)?;
                let text = format!("{} is changed", args.name);
                self.change(Method::PATCH, &user(&args.name, ""), Some(body), &text)
                    .await
            }
            Users::Disable { name } => {
                let text = format!("{name} is disabled");
                self.change(Method::POST, &user(name, ":disable"), None, &text)
                    .await
            }
            Users::Enable { name } => {
                let text = format!("{name} is enabled");
                self.change(Method::POST, &user(name, ":enable"), None, &text)
                    .await
            }
            Users::Passwd { name, password } => {
                let (password, made_up) = password::get(password)?;
                let body = Some(json!({ "password": password }));
                let path = user(name, ":password");
                let answer = self
                    .client
                    .ask(Method::POST, &path, body.as_ref())
                    .await?
                    .json()?;
                let text = format!("{name} has a new password");
                self.with_password(answer, text, &password, made_up)
            }
            Users::Delete { name } => {
                let text = format!("{name} is deleted");
                self.change(Method::DELETE, &user(name, ""), None, &text).await
            }
            // Never gets here: it needs no gateway.
            Users::Hash { .. } => Ok(()),
        }
    }

    async fn add_user(&mut self, add: &AddUser) -> Done {
        let (password, made_up) = password::get(&add.password)?;
        let body = json!({
            "name": add.name, "password": password, "enabled": !add.disabled, "ipv4": add.ipv4, "ipv6": add.ipv6,
            "max_sessions": add.max_sessions, "expires": add.expires, "groups": add.groups,
        });
        let answer = self
            .client
            .ask(Method::POST, "/v1/users", Some(&body))
            .await?
            .json()?;
        self.with_password(answer, format!("{} is added", add.name), &password, made_up)
    }

    async fn explain(&mut self, explain: &Explain) -> Done {
        let query = query(&given(&[
            ("target", &explain.target),
            ("command", &explain.command),
            ("listener", &explain.listener),
            ("client", &explain.client),
            ("user", &explain.user),
            ("address", &explain.address),
        ]));
        let answer = self.get(&format!("/v1/policy:explain{query}")).await?;
        match self.json {
            true => render::json(&answer, self.out),
            false => render::explanation(&answer, self.out),
        }
    }

    /// Shows that a user has a password, which is shown as well where nobody knows it yet.
    fn with_password(&mut self, mut answer: Value, text: String, password: &str, made_up: bool) -> Done {
        if !self.json {
            match made_up {
                true => writeln!(self.out, "{text}; its password is {password}")?,
                false => writeln!(self.out, "{text}")?,
            }
            return Ok(());
        }
        if let Some(object) = answer.as_object_mut().filter(|_| made_up) {
            object.insert("password".to_owned(), json!(password));
        }
        render::json(&answer, self.out)
    }

    async fn tokens(&mut self, command: &Tokens) -> Done {
        match command {
            Tokens::List => self.list("/v1/tokens", &[], None, TOKENS).await,
            Tokens::Add { scopes, note } => {
                let body = json!({ "scopes": scopes, "note": note });
                let answer = self
                    .client
                    .ask(Method::POST, "/v1/tokens", Some(&body))
                    .await?
                    .json()?;
                match self.json {
                    true => render::json(&answer, self.out),
                    false => Ok(writeln!(self.out, "{}", render::at(&answer, "/token"))?),
                }
            }
            Tokens::Delete { id } => {
                let text = format!("the token {id} is deleted");
                self.change(Method::DELETE, &format!("/v1/tokens/{}", escape(id)), None, &text)
                    .await
            }
        }
    }

    async fn call(&mut self, call: &Call) -> Done {
        let body = json!({
            "label": call.label, "listener": call.listener, "tunnel": call.tunnel, "peer": call.peer,
            "called": call.called, "sub_address": call.sub_address,
        });
        let text = format!("the call {} is placed: follow it with sluice events", call.label);
        self.change(Method::POST, "/v1/calls", Some(body), &text).await
    }

    async fn reload(&mut self) -> Done {
        let answer = self
            .client
            .ask(Method::POST, "/v1/config:reload", None)
            .await?
            .json()?;
        if self.json {
            render::json(&answer, self.out)?;
        } else {
            render::changes(answer.get("changes").unwrap_or(&Value::Null), self.out)?;
            if answer.get("restart_needed") == Some(&Value::Bool(true)) {
                writeln!(self.out, "Some changes wait for a restart: run sluice restart.")?;
            }
        }
        // What of it did not take effect.
        let notes = answer.get("notes").and_then(Value::as_array);
        let notes: Vec<&str> = notes.into_iter().flatten().filter_map(Value::as_str).collect();
        match notes.is_empty() {
            true => Ok(()),
            false => Err(Failure::Refused(notes.join("\n"))),
        }
    }

    async fn status(&mut self) -> Done {
        let status = self.get("/v1/status").await?;
        if self.json {
            return render::json(&status, self.out);
        }
        let out = &mut *self.out;
        let part = |pointer: &str| render::at(&status, pointer);
        let uptime = status.get("uptime").and_then(Value::as_u64).unwrap_or(0);
        writeln!(out, "{} (Sluice {})", part("/name"), part("/version"))?;
        writeln!(
            out,
            "up {}, worker started anew {} times",
            render::seconds(uptime),
            part("/restarts")
        )?;
        writeln!(out, "configuration: {}", part("/config"))?;
        let ready = status.get("ready") == Some(&Value::Bool(true));
        writeln!(out, "ready: {}", if ready { "yes" } else { "no" })?;
        for list in ["reasons", "warnings"] {
            for reason in status.get(list).and_then(Value::as_array).into_iter().flatten() {
                let text = reason.get("text").and_then(Value::as_str).unwrap_or("");
                let lines: Vec<String> = text.lines().map(render::printable).collect();
                writeln!(out, "  {}: {}", render::at(reason, "/code"), lines.join("\n    "))?;
            }
        }
        let mut rows = Vec::new();
        for list in ["services", "sandbox"] {
            let parts = status.get(list).and_then(Value::as_array).into_iter().flatten();
            rows.extend(parts.map(service));
        }
        rows.extend(status.get("store").map(service));
        writeln!(out)?;
        render::table(&["PART", "ON", "DETAIL"], &rows, out)?;
        writeln!(out)?;
        let counts = counts(&status);
        if counts.is_empty() {
            return Ok(writeln!(out, "no sessions and no tunnels")?);
        }
        render::table(&["", "PROTOCOL", "STATE", "COUNT"], &counts, out)
    }
}

/// The members of a change of a user. Nothing takes back what was said.
fn changes(change: &UserChange) -> Result<Value, Failure> {
    let number = |text: &str| {
        let wrong = |_| Failure::Usage(format!("{text:?} is not a number"));
        text.parse::<u64>().map(Value::from).map_err(wrong)
    };
    let list = |text: &str| Ok(text.split(',').map(str::trim).collect::<Vec<_>>().into());
    let text = |text: &str| Ok(text.into());
    type Read<'a> = &'a dyn Fn(&str) -> Result<Value, Failure>;
    let members: [(&str, &Option<String>, Read<'_>); 8] = [
        ("ipv4", &change.ipv4, &text),
        ("ipv6", &change.ipv6, &text),
        ("max_sessions", &change.max_sessions, &number),
        ("expires", &change.expires, &text),
        ("session_timeout", &change.session_timeout, &number),
        ("idle_timeout", &change.idle_timeout, &number),
        ("protocols", &change.protocols, &list),
        ("groups", &change.groups, &list),
    ];
    let mut body = serde_json::Map::new();
    for (name, value, read) in members {
        match value.as_deref() {
            None => {}
            Some("") => _ = body.insert(name.to_owned(), Value::Null),
            Some(value) => _ = body.insert(name.to_owned(), read(value)?),
        }
    }
    Ok(Value::Object(body))
}

fn service(part: &Value) -> Vec<String> {
    ["/name", "/on", "/detail"]
        .iter()
        .map(|pointer| render::at(part, pointer))
        .collect()
}

/// Numbers of sessions and tunnels by protocol and state.
fn counts(status: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for what in ["sessions", "tunnels"] {
        let protocols = status
            .pointer(&format!("/totals/{what}"))
            .and_then(Value::as_object);
        for (protocol, states) in protocols.into_iter().flatten() {
            for (state, count) in states.as_object().into_iter().flatten() {
                rows.push(vec![
                    what.to_owned(),
                    protocol.clone(),
                    state.clone(),
                    render::cell(count),
                ]);
            }
        }
    }
    rows
}

impl SessionFilter {
    fn parameters(&self) -> Vec<(&str, &str)> {
        given(&[
            ("user", &self.user),
            ("realm", &self.realm),
            ("state", &self.state),
            ("protocol", &self.protocol),
            ("listener", &self.listener),
            ("peer", &self.peer),
            ("address", &self.address),
            ("tunnel", &self.tunnel),
        ])
    }
}
