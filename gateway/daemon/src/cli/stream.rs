//! Commands that go on until they are interrupted: events, watching sessions, traces.

use super::args::Trace;
use super::client::{Client, PATIENCE, Reach};
use super::{Done, Failure, render};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

/// How often a running trace is asked for what is new.
const TRACE_INTERVAL: Duration = Duration::from_millis(500);

/// Pause before a stream that broke off is asked for again.
const RETURN: Duration = Duration::from_millis(100);

/// Longest line of an event stream, in bytes.
const MAX_LINE: usize = 1 << 20;

/// Splits a body into the data of its events.
struct EventReader {
    body: Incoming,
    rest: Vec<u8>,
    data: String,
    /// The id of the last event.
    last: Option<String>,
}

impl EventReader {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            rest: Vec::new(),
            data: String::new(),
            last: None,
        }
    }

    /// The next event's data; `None`: the stream has ended.
    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\r', '\n']);
                if let Some(id) = line.strip_prefix("id:") {
                    self.last = Some(id.trim_start().to_owned());
                } else if let Some(data) = line.strip_prefix("data:") {
                    self.data.push_str(data.trim_start());
                } else if line.is_empty() && !self.data.is_empty() {
                    let data = std::mem::take(&mut self.data);
                    return Ok(serde_json::from_str(&data).ok());
                }
            }
            if self.rest.len() > MAX_LINE || self.data.len() > MAX_LINE {
                return Err(Failure::Refused(
                    "the gateway sent an event without end".to_owned(),
                ));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.rest.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    return Err(Failure::Unreachable(format!(
                        "the connection to the gateway broke: {error}"
                    )));
                }
            }
        }
    }
}

/// One event as a line for people.
fn line(event: &Value) -> String {
    let name = render::at(event, "/type");
    if name == "events_lost" {
        return "some events were missed: list what is there anew".to_owned();
    }
    let (thing, keys): (&str, &[&str]) = match event {
        event if event.get("session").is_some() => {
            ("/session", &["id", "user", "peer", "addresses", "state"])
        }
        event if event.get("tunnel").is_some() => ("/tunnel", &["id", "peer_name", "peer", "state"]),
        _ => (
            "",
            &[
                "label",
                "session_id",
                "user",
                "peer",
                "pool",
                "reason",
                "cause",
                "error",
                "draining",
            ],
        ),
    };
    let found = keys.iter().filter_map(|key| {
        let value = event.pointer(&format!("{thing}/{key}"))?;
        (!value.is_null()).then(|| render::cell(value))
    });
    let end = event
        .pointer("/session/end/text")
        .or_else(|| event.pointer("/end/text"));
    let reason = event
        .get("reason")
        .filter(|reason| !thing.is_empty() && !reason.is_null());
    let more = end.into_iter().chain(reason).map(render::cell);
    let words: Vec<String> = found.chain(more).collect();
    format!("{} {name:<16} {}", render::at(event, "/time"), words.join(" "))
}

/// Follows events until the gateway or the user ends it. A worker that restarts is no end: its keeper goes on
/// listening, and what is missed meanwhile is asked for.
pub(super) async fn events(
    client: &mut Client,
    reach: &Reach<'_>,
    query: &str,
    json_wanted: bool,
    out: &mut dyn Write,
) -> Done {
    let path = format!("/v1/events{query}");
    let mut last: Option<String> = None;
    let mut body = client.follow(&path, None).await?;
    loop {
        let mut reader = EventReader::new(body);
        loop {
            match reader.next().await {
                Ok(Some(event)) => show(&event, json_wanted, out)?,
                Ok(None) | Err(Failure::Unreachable(_)) => break,
                Err(failure) => return Err(failure),
            }
        }
        last = reader.last.or(last);
        (*client, body) = again(reach, &path, last.as_deref()).await?;
    }
}

fn show(event: &Value, json_wanted: bool, out: &mut dyn Write) -> Done {
    match json_wanted {
        true => writeln!(out, "{event}")?,
        false => writeln!(out, "{}", line(event))?,
    }
    Ok(out.flush()?)
}

/// Comes back to a stream that broke off. Where nobody listens any more the gateway has ended.
async fn again(reach: &Reach<'_>, path: &str, last: Option<&str>) -> Result<(Client, Incoming), Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(RETURN).await;
        let mut client = reach.connect().await?;
        match client.follow(path, last).await {
            Ok(body) => return Ok((client, body)),
            // A worker on its way out may still take a connection.
            Err(Failure::Unreachable(_)) if begun.elapsed() < PATIENCE => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Runs a trace: prints decoded messages as they come, ends it on an interrupt, and saves the packets.
pub(super) async fn trace(client: &mut Client, args: &Trace, json_wanted: bool, out: &mut dyn Write) -> Done {
    let path = format!("/v1/sessions/{}", crate::admin::escape(&args.id));
    let body = json!({ "seconds": args.seconds, "packets": args.pcap.is_some() });
    client
        .ask(Method::POST, &format!("{path}:trace"), Some(&body))
        .await?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut after = 0;
    loop {
        let answer = client
            .ask(
                Method::GET,
                &format!("{path}/trace?limit=1000&after={after}"),
                None,
            )
            .await?;
        let view = answer.json()?;
        for entry in view.get("lines").and_then(Value::as_array).into_iter().flatten() {
            match json_wanted {
                true => writeln!(out, "{entry}")?,
                false => {
                    let part = |name| render::at(entry, name);
                    writeln!(
                        out,
                        "{} {:<3} {}",
                        part("/time"),
                        part("/direction"),
                        part("/text")
                    )?;
                }
            }
        }
        out.flush()?;
        let next = view.get("next").and_then(Value::as_u64).unwrap_or(after);
        let ended = view.get("state").and_then(Value::as_str) == Some("ended");
        if ended && next == after {
            break;
        }
        if next > after {
            after = next;
            continue;
        }
        tokio::select! {
            _ = &mut interrupted => {
                client.ask(Method::POST, &format!("{path}/trace:stop"), None).await?;
                break;
            }
            () = tokio::time::sleep(TRACE_INTERVAL) => {}
        }
    }
    if let Some(file) = &args.pcap {
        let capture = client
            .ask(Method::GET, &format!("{path}/trace/pcap"), None)
            .await?;
        std::fs::write(file, &capture.body)?;
    }
    Ok(())
}
