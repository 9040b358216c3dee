//! What the API changes.

use super::*;
use sluice_spi::{ShardId, TerminateCause};
use std::net::TcpStream;
use std::time::Instant;

#[test]
fn a_session_is_ended_with_a_cause_and_only_once() {
    let harness = Harness::start();
    let id = harness.session(1, "ann");
    let path = format!("/v1/sessions/{id}:terminate");
    let wrong = harness.ask("POST", &path, "{\"cause\": \"boredom\"}");
    assert_eq!(
        (wrong.status, wrong.json()["errors"][0]["pointer"].clone()),
        (400, "#/cause".into())
    );
    let reply = harness.ask("POST", &path, "{\"cause\": \"idle-timeout\"}");
    assert_eq!(
        (reply.status, reply.json()["requested"].clone()),
        (202, true.into())
    );
    assert_eq!(
        harness.engine.due(ShardId(0), now()),
        [(id, TerminateCause::IdleTimeout)]
    );
    let again = harness.ask("POST", &path, "").json();
    assert_eq!(again["requested"], false);
    let path = "/v1/sessions/00000000000000000000000000:terminate";
    assert_eq!(harness.ask("POST", path, "").status, 404);
}

#[test]
fn all_sessions_of_a_tunnel_are_ended() {
    let harness = Harness::start();
    (0..3).for_each(|n| _ = harness.session(n, "ann"));
    let path = format!("/v1/tunnels/{}:terminate", harness.tunnel());
    assert_eq!(harness.ask("POST", &path, "").json()["sessions"], 3);
    assert_eq!(harness.ask("POST", &path, "").json()["sessions"], 0);
    assert_eq!(harness.engine.due(ShardId(0), now()).len(), 3);
}

#[test]
fn users_are_made_changed_and_deleted_and_their_sessions_end() {
    let harness = Harness::start();
    let password = "a long enough pass phrase";
    let user = format!("{{\"name\": \"ann:x@home\", \"password\": \"{password}\", \"ipv4\": \"10.64.0.9\"}}");
    let reply = harness.ask("POST", "/v1/users", &user);
    assert_eq!(
        (reply.status, reply.json()["ipv4"].clone()),
        (201, "10.64.0.9".into()),
        "{reply:?}"
    );
    assert_eq!(harness.ask("POST", "/v1/users", &user).status, 409);
    assert!(harness.engine.pools()[0].ipv4.unwrap().blocked > 0);
    harness.session(1, "ann:x@home");
    let path = "/v1/users/ann%3Ax%40home";
    let reply = harness.ask(
        "POST",
        &format!("{path}:password"),
        "{\"password\": \"another long pass phrase\"}",
    );
    assert_eq!(
        (reply.status, reply.json()["ended_sessions"].clone()),
        (200, 1.into()),
        "{reply:?}"
    );
    harness.session(2, "ann:x@home");
    let reply = harness.ask("POST", &format!("{path}:disable"), "").json();
    assert_eq!(
        (reply["user"]["enabled"].clone(), reply["ended_sessions"].clone()),
        (false.into(), 1.into())
    );
    assert_eq!(harness.ask("GET", path, "").json()["enabled"], false);
    assert_eq!(
        harness.ask("POST", &format!("{path}:enable"), "").json()["user"]["enabled"],
        true
    );
    assert_eq!(harness.ask("DELETE", path, "").status, 200);
    assert_eq!(harness.ask("GET", path, "").status, 404);
    let kept = std::fs::read_to_string(harness.directory.path().join("users.toml")).unwrap();
    assert!(
        !kept.contains("ann") && !harness.audit().contains("pass phrase"),
        "{kept}"
    );
}

#[test]
fn wrong_users_are_refused_with_the_member_meant() {
    let harness = Harness::start();
    let pointer = |body: &str| {
        let reply = harness.ask("POST", "/v1/users", body);
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(
            !String::from_utf8_lossy(&reply.body).contains("secret-word"),
            "{reply:?}"
        );
        reply.json()["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    let pass = "\"password\": \"secret-word secret-word\"";
    assert_eq!(pointer(&format!("{{\"name\": \"\", {pass}}}")), "#/name");
    assert_eq!(
        pointer(&format!("{{\"name\": \"a\", {pass}, \"ipv4\": \"x\"}}")),
        "#/ipv4"
    );
    assert_eq!(
        pointer(&format!("{{\"name\": \"a\", {pass}, \"dns\": [\"x\"]}}")),
        "#/dns"
    );
    assert_eq!(
        pointer(&format!("{{\"name\": \"a\", {pass}, \"expires\": \"soon\"}}")),
        "#/expires"
    );
    assert_eq!(pointer("{\"name\": \"a\", \"password\": \"\"}"), "#/password");
    assert_eq!(
        pointer(&format!("{{\"name\": \"a\", {pass}, \"shoe\": 1}}")),
        "#/shoe"
    );
    let protocols = "\"protocols\": [\"gopher\"]";
    assert_eq!(
        pointer(&format!("{{\"name\": \"a\", {pass}, {protocols}}}")),
        "#/protocols"
    );
}

#[test]
fn users_are_listed_in_pages() {
    let harness = Harness::start();
    for name in ["c", "a", "b"] {
        let user = format!("{{\"name\": \"{name}\", \"password\": \"a long enough pass phrase\"}}");
        assert_eq!(harness.ask("POST", "/v1/users", &user).status, 201);
    }
    let first = harness.ask("GET", "/v1/users?limit=2", "").json();
    assert_eq!(
        (first["items"][1]["name"].clone(), first["next"].clone()),
        ("b".into(), "b".into())
    );
    let second = harness.ask("GET", "/v1/users?cursor=b", "").json();
    assert_eq!(
        (second["items"][0]["name"].clone(), second["next"].clone()),
        ("c".into(), ().into())
    );
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let harness = Harness::start();
    let reply = harness.ask("GET", "/v1/config", "");
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert!(text.contains("listener.echo.echo.secret") && text.contains("(secret)"));
    assert!(!text.contains("hunter2"));
}

#[test]
fn a_reload_tells_what_it_does_and_a_broken_file_changes_nothing() {
    let harness = Harness::start();
    let file = harness.directory.path().join("sluice.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let broken = format!("{good}[limits]\nsessions = 0\n[colour]\n");
    std::fs::write(&file, broken).unwrap();
    let reply = harness.ask("POST", "/v1/config:reload", "");
    assert_eq!(
        (reply.status, reply.json()["errors"].as_array().unwrap().len()),
        (400, 2)
    );
    assert!(harness.asked.take().is_empty());
    let warnings = harness.ask("GET", "/readyz", "").json()["warnings"].clone();
    assert_eq!(warnings[0]["code"], "reload_failed");
    let better = good
        .replace("\"test\"", "\"renamed\"")
        .replace("hunter2hunter2", "other-secret");
    std::fs::write(&file, format!("{better}[limits]\nsessions = 9\n")).unwrap();
    let checked = harness.ask("POST", "/v1/config:check", "").json();
    assert_eq!(
        (
            checked["valid"].clone(),
            checked["changes"].as_array().unwrap().len()
        ),
        (true.into(), 3)
    );
    assert!(harness.asked.take().is_empty());
    let reply = harness.ask("POST", "/v1/config:reload", "");
    let report = reply.json();
    assert_eq!(harness.asked.take(), ["apply 3 changes of renamed"]);
    assert_eq!(report["restart_needed"], true);
    let changes = report["changes"].as_array().unwrap();
    let applies: Vec<&str> = changes
        .iter()
        .map(|change| change["applies"].as_str().unwrap())
        .collect();
    assert_eq!(applies, ["restart", "new_sessions", "restart"]);
    assert_eq!(report["notes"][0], "said by the gateway");
    let text = String::from_utf8(reply.body).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains("other-secret"),
        "{text}"
    );
    let warnings = harness.ask("GET", "/readyz", "").json()["warnings"].clone();
    assert_eq!(
        (warnings[0]["code"].clone(), warnings[1].clone()),
        ("restart_pending".into(), ().into())
    );
}

#[test]
fn a_reload_reads_the_users_file_too() {
    let harness = Harness::start();
    let user = "{\"name\": \"ann\", \"password\": \"a long enough pass phrase\"}";
    assert_eq!(harness.ask("POST", "/v1/users", user).status, 201);
    let id = harness.session(1, "ann");
    let file = harness.directory.path().join("users.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[[user]]\n")).unwrap();
    let report = harness.ask("POST", "/v1/config:reload", "").json();
    assert!(
        report["notes"][1]
            .as_str()
            .unwrap()
            .starts_with("the users stay as they were: "),
        "{report}"
    );
    assert_eq!(harness.ask("GET", "/v1/users/ann", "").status, 200);
    std::fs::write(&file, "").unwrap();
    let report = harness.ask("POST", "/v1/config:reload", "").json();
    assert_eq!(report["notes"].as_array().unwrap().len(), 1);
    assert_eq!(harness.ask("GET", "/v1/users/ann", "").status, 404);
    assert_eq!(
        harness.engine.due(ShardId(0), now()),
        [(id, TerminateCause::AdminReset)]
    );
}

#[test]
fn a_text_is_checked_without_being_used() {
    let harness = Harness::start();
    let body = serde_json::json!({ "text": "[gateway]\nname = \"a b\"\n" }).to_string();
    let reply = harness.ask("POST", "/v1/config:check", &body).json();
    assert_eq!(reply["valid"], false);
    let problem = &reply["problems"][1];
    assert_eq!(
        (problem["line"].clone(), problem["key"].clone()),
        (2.into(), "gateway.name".into())
    );
}

#[test]
fn calls_are_placed_once_under_their_label_and_followed() {
    let harness = Harness::start();
    let call = |listener: &str| {
        format!(
            "{{\"label\": \"a b\", \"listener\": \"{listener}\", \"called\": \"555\", \"peer\": \"192.0.2.9:1701\"}}"
        )
    };
    assert_eq!(harness.ask("POST", "/v1/calls", &call("nowhere")).status, 404);
    let reply = harness.ask("POST", "/v1/calls", &call("echo"));
    assert_eq!(
        (reply.status, reply.header("location")),
        (202, Some("/v1/calls/a%20b")),
        "{reply:?}"
    );
    assert_eq!(harness.ask("POST", "/v1/calls", &call("echo")).status, 409);
    assert_eq!(
        harness.asked.take(),
        ["call 555 from nowhere as a b", "call 555 from echo as a b"]
    );
    assert_eq!(
        harness.ask("GET", "/v1/calls/a%20b", "").json()["state"],
        "placed"
    );
    let id = harness.opening(5, Some("a b"));
    let shown = harness.ask("GET", "/v1/calls/a%20b", "").json();
    assert_eq!(
        (shown["state"].clone(), shown["session"].clone()),
        ("opening".into(), id.to_string().into())
    );
    let both = "{\"label\": \"c\", \"listener\": \"echo\", \"called\": \"5\", \"peer\": \"192.0.2.9:1\", \"tunnel\": \"x\"}";
    assert_eq!(harness.ask("POST", "/v1/calls", both).status, 400);
}

#[test]
fn tokens_are_shown_once_and_stop_working_when_deleted() {
    let harness = Harness::start();
    assert_eq!(harness.ask("POST", "/v1/tokens", "{\"scopes\": []}").status, 400);
    assert_eq!(
        harness
            .ask("POST", "/v1/tokens", "{\"scopes\": [\"root\"]}")
            .status,
        400
    );
    let made = harness
        .ask(
            "POST",
            "/v1/tokens",
            "{\"scopes\": [\"read\"], \"note\": \"for Ann\"}",
        )
        .json();
    let token = made["token"].as_str().unwrap();
    assert_eq!(harness.ask_as(Some(token), "GET", "/v1/status", "").status, 200);
    let list = harness.ask("GET", "/v1/tokens", "");
    let text = String::from_utf8(list.body.clone()).unwrap();
    assert!(
        text.contains("for Ann") && !text.contains(token) && !text.contains("hash"),
        "{text}"
    );
    let random = token.rsplit('_').next().unwrap();
    assert!(!harness.audit().contains(random));
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(harness.ask("DELETE", &path, "").status, 204);
    assert_eq!(harness.ask_as(Some(token), "GET", "/v1/status", "").status, 401);
    assert_eq!(harness.ask("DELETE", &path, "").status, 404);
}

#[test]
fn an_array_is_no_body_of_an_operation() {
    let harness = Harness::start();
    let id = harness.session(1, "ann");
    let reply = harness.ask("POST", &format!("/v1/sessions/{id}:terminate"), " []");
    assert_eq!(
        (reply.status, reply.json()["errors"][0]["pointer"].clone()),
        (400, "#".into())
    );
    assert!(harness.engine.due(ShardId(0), now()).is_empty());
}

#[test]
fn a_problem_that_only_the_users_file_shows_is_told_about_the_member_that_is_meant() {
    let harness = Harness::start();
    let user = |name: &str| {
        let password = "a long enough pass phrase";
        format!("{{\"name\": \"{name}\", \"password\": \"{password}\", \"ipv4\": \"10.64.0.9\"}}")
    };
    assert_eq!(harness.ask("POST", "/v1/users", &user("ann")).status, 201);
    let reply = harness.ask("POST", "/v1/users", &user("bob")).json();
    assert_eq!(reply["errors"][0]["pointer"], "#/ipv4");
    let detail = reply["detail"].as_str().unwrap();
    assert!(detail.starts_with("#/ipv4: 10.64.0.9 is"), "{detail}");
}

#[test]
fn the_audit_log_says_what_was_made_and_how_it_was_changed() {
    let harness = Harness::start();
    let id = harness.session(1, "ann");
    let user = "{\"name\": \"ann@home\", \"password\": \"a long enough pass phrase\"}";
    let made = harness.ask("POST", "/v1/users", user);
    assert_eq!(made.header("location"), Some("/v1/users/ann%40home"));
    let token = harness.ask("POST", "/v1/tokens", "{\"scopes\": [\"read\"]}");
    harness.ask("POST", "/v1/drain", "{\"draining\": true}");
    let cause = "{\"cause\": \"port-error\"}";
    harness.ask("POST", &format!("/v1/sessions/{id}:terminate"), cause);
    harness.ask("DELETE", "/v1/users/ann%40home", "");
    let audit = harness.audit();
    let said: Vec<(String, String)> = audit
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let part = |name: &str| entry[name].as_str().unwrap_or("").to_owned();
            (part("target"), part("detail"))
        })
        .collect();
    let expected = [
        ("/v1/users/ann%40home".to_owned(), ""),
        (token.header("location").unwrap().to_owned(), "scopes: read"),
        ("/v1/drain".to_owned(), "draining: true"),
        (format!("/v1/sessions/{id}:terminate"), "cause: port-error"),
        ("/v1/users/ann%40home".to_owned(), "ended sessions: 0"),
    ];
    assert_eq!(said, expected.map(|(target, detail)| (target, detail.to_owned())));
}

#[test]
fn a_client_that_goes_away_does_not_stop_a_change_halfway() {
    let harness = Harness::start();
    let user = "{\"name\": \"ann\", \"password\": \"a long enough pass phrase\"}";
    assert_eq!(harness.ask("POST", "/v1/users", user).status, 201);
    harness.session(1, "ann");
    let body = "{\"password\": \"another long pass phrase\"}";
    let text = request(Some(&harness.admin_token), "POST", "/v1/users/ann:password", body);
    // A client that goes before its request was taken up has asked for nothing: it comes again then. What ends the
    // user's sessions comes last but one, and what is written down last.
    let patience = Duration::from_secs(1);
    while !harness.audit().contains("changePassword") {
        let mut stream = TcpStream::connect(harness.address).unwrap();
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        drop(stream);
        let sent = Instant::now();
        while !harness.audit().contains("changePassword") && sent.elapsed() < patience {
            std::thread::yield_now();
        }
    }
    assert_eq!(harness.engine.due(ShardId(0), now()).len(), 1);
}
