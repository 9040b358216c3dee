//! An operator's day with a gateway that has live sessions: lists, traces, streams, mistakes in files, faults.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use sluice_tests::rig::{Capture, Gateway, Namespace, Running, ready, run, sh, wait_for};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const CONFIG: &str = r#"
[gateway]
state_dir = "{dir}/state"

[[listener]]
name = "front"
protocol = "l2tp"
addresses = ["127.0.0.1"]

[listener.l2tp]
setup_retransmit_tries = 1

[pools.default]
ipv4 = ["10.64.0.0/24"]
ipv6 = ["2001:db8:64::/48"]

[network]
masquerade = true
"#;

const PASSWORD: &str = "a password of alice's";
const WRONG: &str = "no password of alice's";
const CLIENTS: usize = 20;
const SOON: Duration = Duration::from_secs(20);

/// A gateway and programs that use it.
struct Day {
    gateway: Gateway,
    namespace: Namespace,
}

impl Day {
    /// Runs clients until it is dropped.
    fn clients(&self, count: usize, password: &str) -> Running {
        let mut storm = self.namespace.command(env!("CARGO_BIN_EXE_lac-storm"));
        storm.args(["--clients", &count.to_string(), "--hold", "300"]);
        storm.args(["--user", "alice", "--password", password]);
        Running::start(storm.stdout(Stdio::null()).stderr(Stdio::null()), None)
    }

    /// Runs a command that goes on for a while; what it prints goes to a file.
    fn start(&self, words: &[&str], output: &Path) -> Running {
        let mut command = self.namespace.command(Gateway::binary());
        let socket = self.gateway.directory().join("state/admin.sock");
        command.args(words).arg("--socket").arg(socket);
        let file = std::fs::File::create(output).unwrap();
        Running::start(
            command.stdout(file.try_clone().unwrap()).stderr(file),
            Some(Stdio::null()),
        )
    }

    fn wait_sessions(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} sessions"), SOON, || {
            let sessions = self.gateway.sessions();
            let up = sessions.iter().all(|session| session["state"] == "established");
            (up && sessions.len() == count).then_some(sessions)
        })
    }

    fn status(&self) -> String {
        self.gateway.must(&["status"])
    }

    /// Kills the worker, and waits for the next one.
    fn crash(&self) {
        let before = self.gateway.status().unwrap()["restarts"].clone();
        let worker = sh(&format!("pgrep -P {}", self.gateway.pid())).unwrap();
        sh(&format!("kill -KILL {worker}")).unwrap();
        wait_for("the next worker", SOON, || {
            (self.gateway.status()?["restarts"] != before).then_some(())
        });
    }
}

fn id(session: &Value) -> &str {
    session["id"].as_str().unwrap()
}

/// All ids of a list, read page by page.
fn pages(gateway: &Gateway, token: &str, list: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = gateway.rest_json(token, "GET", &format!("{list}?limit=7{cursor}"), None, 200);
        let items = page["items"].as_array().unwrap();
        ids.extend(items.iter().map(|item| id(item).to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

#[test]
fn an_operators_day() {
    if !ready() {
        return;
    }
    let namespace = Namespace::new("admin");
    let gateway = Gateway::start(&namespace, CONFIG, &[("alice", PASSWORD)]);
    let mut day = Day { gateway, namespace };
    let _clients = day.clients(CLIENTS, PASSWORD);
    let sessions = day.wait_sessions(CLIENTS);
    let token = day.gateway.token(&["session:write"]);

    lists_and_refusals(&day, &token, &sessions);
    a_trace_of_a_session_to_its_end(&day, &sessions[0]);
    a_restart_under_the_eyes_of_a_watcher(&day, &sessions[1]);
    calls_to_nobody(&day, &token);
    mistakes_in_files(&day, &token);
    nothing_secret_is_written_down(&day, &token);

    assert_eq!(day.gateway.stop(), Some(0));
    let tables = run(day.namespace.command("nft").args(["list", "tables"])).unwrap();
    assert_eq!(tables.trim(), "");
    assert!(!day.namespace.ip("route show").contains("10.64.0.0"));
}

fn lists_and_refusals(day: &Day, token: &str, sessions: &[Value]) {
    let gateway = &day.gateway;
    let mut known: Vec<&str> = sessions.iter().map(id).collect();
    known.sort_unstable();
    assert_eq!(pages(gateway, token, "/v1/sessions"), known);
    assert_eq!(pages(gateway, token, "/v1/tunnels").len(), CLIENTS);
    let path = format!("/v1/sessions/{}:terminate", known[0]);
    let reader = gateway.token(&["read"]);
    assert_eq!(gateway.rest(Some(&reader), "POST", &path, None).0, 403);
    let (status, text) = gateway.rest(Some(token), "POST", &path, Some(&json!([])));
    assert_eq!(status, 400, "{text}");
    assert_eq!(gateway.sessions().len(), CLIENTS);
}

fn a_trace_of_a_session_to_its_end(day: &Day, session: &Value) {
    let directory = day.gateway.directory();
    let (output, capture) = (directory.join("trace.txt"), directory.join("trace.pcap"));
    let words = ["trace", id(session), "--pcap", capture.to_str().unwrap()];
    let mut trace = day.start(&words, &output);
    let token = day.gateway.token(&["session:write"]);
    let path = format!("/v1/sessions/{}/trace", id(session));
    wait_for("the trace to begin", SOON, || {
        (day.gateway.rest(Some(&token), "GET", &path, None).0 == 200).then_some(())
    });
    day.gateway.must(&["sessions", "end", id(session)]);
    // Long before its time is over.
    assert!(trace.wait(SOON).success());
    let text = std::fs::read_to_string(output).unwrap();
    assert!(
        text.contains("out LCP Terminate-Request") && text.contains("in  LCP Terminate-Ack"),
        "{text}"
    );
    Capture::assert_clean(&capture);
    assert_eq!(Capture::filter(&capture, "lcp && ppp.code == 6").len(), 1);
    assert!(!Capture::filter(&capture, "l2tp.avp.message_type == 14").is_empty());
    assert_eq!(day.gateway.wait_ended(session)["end"]["cause"], "admin-reset");
}

fn a_restart_under_the_eyes_of_a_watcher(day: &Day, session: &Value) {
    let output = day.gateway.directory().join("watch.txt");
    let mut watch = day.start(&["sessions", "watch"], &output);
    let text = || std::fs::read_to_string(&output).unwrap();
    // A watcher sees what happens once it is there: which it is when it sees somebody come.
    wait_for("the watcher", SOON, || {
        let _wrong = day.clients(1, WRONG);
        wait_for("a login to be refused", SOON, || {
            let history = day
                .gateway
                .json(&["sessions", "list", "--history", "--limit", "1"]);
            (history["items"][0]["rejected"] == "bad_credentials").then_some(())
        });
        text().contains("bad_credentials").then_some(())
    });
    day.gateway.must(&["drain"]);
    let before = day.gateway.status().unwrap()["restarts"].clone();
    day.gateway.must(&["restart"]);
    wait_for("the next worker", SOON, || {
        (day.gateway.status()?["restarts"] != before).then_some(())
    });
    assert!(watch.is_running());
    day.wait_sessions(CLIENTS - 1);
    assert!(day.status().contains("draining: "), "{}", day.status());
    day.gateway.must(&["drain", "--off"]);
    day.gateway.must(&["sessions", "end", id(session)]);
    wait_for("the watcher to see it", SOON, || {
        let line = format!("session_down     {}", id(session));
        text().contains(&line).then_some(())
    });
    assert!(watch.is_running());
}

fn calls_to_nobody(day: &Day, token: &str) {
    let body = json!({ "label": "a", "listener": "front", "peer": "127.0.0.1:9", "called": "5551" });
    day.gateway
        .rest_json(token, "POST", "/v1/calls", Some(&body), 202);
    let ended = wait_for("the call to end", SOON, || {
        let call = day.gateway.rest_json(token, "GET", "/v1/calls/a", None, 200);
        (call["state"] == "ended").then_some(call)
    });
    assert!(ended["end"].as_str().unwrap().contains("peer"), "{ended}");
}

fn mistakes_in_files(day: &Day, token: &str) {
    let gateway = &day.gateway;
    let file = gateway.directory().join("state/users.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}shoe = [")).unwrap();
    let error = gateway.cli(&["restart"]).unwrap_err();
    assert!(error.contains("users.toml:") && error.contains("shoe"), "{error}");
    // A fault does not ask, and costs nobody's session.
    day.crash();
    day.wait_sessions(CLIENTS - 2);
    wait_for("the warning", SOON, || {
        day.status().contains("users_file: ").then_some(())
    });
    std::fs::write(&file, &good).unwrap();
    wait_for("the warning to go", SOON, || {
        (!day.status().contains("users_file: ")).then_some(())
    });

    gateway.configure(&format!("{CONFIG}\n[limits]\nsessions = \"many\"\n"));
    let error = gateway.cli(&["reload"]).unwrap_err();
    assert!(error.contains("limits.sessions: must be"), "{error}");
    assert!(gateway.cli(&["restart"]).is_err());
    assert!(day.status().contains("reload_failed: "), "{}", day.status());
    gateway.configure(&format!("{CONFIG}\n[limits]\nsessions = 100\n"));
    assert!(gateway.must(&["reload"]).contains("new_sessions"));
    assert!(!day.status().contains("reload_failed: "), "{}", day.status());

    // The file breaks, and then the worker: the next one goes on with what was in effect.
    gateway.configure("shoe = [");
    day.crash();
    let shown = gateway
        .rest_json(token, "GET", "/v1/config", None, 200)
        .to_string();
    let limit = r#""key":"limits.sessions","value":"100""#;
    assert!(shown.contains(limit), "{shown}");
    day.wait_sessions(CLIENTS - 2);

    // A user that is locked out by hand loses its sessions too.
    std::fs::write(&file, format!("{good}disabled = true\n")).unwrap();
    day.wait_sessions(0);
    let history = gateway.json(&["sessions", "list", "--history", "--limit", "1"]);
    assert_eq!(history["items"][0]["end"]["cause"], "admin-reset");
}

fn nothing_secret_is_written_down(day: &Day, token: &str) {
    let audit = day.gateway.json(&["audit", "--limit", "1000"]).to_string();
    assert!(
        audit.contains("/v1/users/alice") && audit.contains("draining: true"),
        "{audit}"
    );
    let state = day.gateway.directory().join("state");
    let mut files: Vec<_> = std::fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.push(day.gateway.directory().join("gateway.log"));
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [PASSWORD, WRONG, token] {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a secret", file.display());
        }
    }
}
