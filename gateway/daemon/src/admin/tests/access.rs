//! Who may, over which transport, and what is written down of it.

use super::*;
use crate::admin::operations::{Access, OPERATIONS};
use std::io::{Read, Write};
use std::net::TcpStream;

/// The path of an operation with its placeholders filled.
fn filled(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        out.push_str("nobody");
        rest = after.split_once('}').unwrap().1;
    }
    out + rest
}

/// The status of an answer, whether or not it ends.
fn status(harness: &Harness, token: Option<&str>, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(harness.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(request(token, method, path, "").as_bytes())
        .unwrap();
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{method} {path}: no answer");
        head.extend(&buffer[..length]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

#[test]
fn every_operation_is_served_to_those_with_its_scope_and_to_nobody_else() {
    let harness = Harness::start_with(|text| text.replace("max_connections = 8", "max_connections = 500"));
    let tokens: Vec<(Scope, String)> = Scope::ALL
        .iter()
        .map(|scope| (*scope, harness.token(&[*scope])))
        .collect();
    for operation in OPERATIONS {
        let (method, path) = (operation.method.as_str(), filled(operation.path));
        let label = format!("{method} {path}");
        let wanted = match operation.access {
            Access::Open => {
                let (code, _) = status(&harness, None, method, &path);
                assert!(!matches!(code, 401 | 403 | 404 | 405), "{label}: {code}");
                continue;
            }
            Access::Metrics => Scope::Read,
            Access::Scope(scope) => scope,
        };
        for token in [None, Some("sluice_aaaaaaaaaaaa_bbbb"), Some("x")] {
            assert_eq!(status(&harness, token, method, &path).0, 401, "{label}");
        }
        for (scope, token) in &tokens {
            let (code, text) = status(&harness, Some(token), method, &path);
            let may = *scope == wanted || *scope == Scope::Admin || wanted == Scope::Read;
            assert_eq!(code != 403, may, "{label} with {scope:?}: {code}");
            // What is not there is a session, user or the like, and not the path.
            assert!(!matches!(code, 401 | 405 | 500), "{label} with {scope:?}: {text}");
            assert!(
                !text.contains(&format!("there is no {path}\"")),
                "{label}: {text}"
            );
        }
    }
}

#[test]
fn a_path_or_method_that_is_not_there_is_a_problem_with_its_request_id() {
    let harness = Harness::start();
    let reply = harness.ask("GET", "/v1/nothing", "");
    let problem = reply.json();
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem["type"], "urn:sluice:problem:not_found");
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"));
    let reply = harness.ask("DELETE", "/v1/sessions", "");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
    let reply = harness.ask("POST", "/v1/sessions/x:fly", "");
    assert_eq!(reply.status, 405);
    let reply = harness.ask_as(None, "GET", "/v1/sessions", "");
    assert_eq!(
        (reply.status, reply.header("www-authenticate")),
        (401, Some("Bearer"))
    );
}

#[test]
fn the_local_socket_needs_no_token_and_takes_none_that_is_wrong() {
    let harness = Harness::start();
    assert_eq!(harness.ask_local("GET", "/v1/tokens", "").status, 200);
    let mut stream = std::os::unix::net::UnixStream::connect(harness.socket()).unwrap();
    let reply = exchange(&mut stream, &request(Some("sluice_x_y"), "GET", "/v1/tokens", ""));
    assert_eq!(reply.status, 401);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(harness.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_second_gateway_does_not_take_the_socket_but_what_a_dead_one_left_is_replaced() {
    let harness = Harness::start();
    let mut admin = harness.plane.configs().current().admin.clone();
    // One that uses the same directory would listen on the same address too.
    admin.listen = Some(harness.address);
    let metrics = crate::config::Metrics { listen: None };
    let error = Listeners::bind(&admin, &metrics).unwrap_err();
    assert!(
        error.to_string().contains("another gateway is running"),
        "{error}"
    );
    admin.listen = None;
    admin.socket = harness.directory.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&admin.socket).unwrap());
    assert!(admin.socket.exists());
    assert!(Listeners::bind(&admin, &metrics).unwrap().unix.is_some());
}

#[test]
fn an_address_in_use_is_one_clear_line() {
    let harness = Harness::start();
    let mut admin = harness.plane.configs().current().admin.clone();
    admin.listen = Some(harness.address);
    admin.socket = harness.directory.path().join("other.sock");
    let error = Listeners::bind(&admin, &crate::config::Metrics { listen: None }).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&harness.address.to_string()) && text.contains("another process"),
        "{text}"
    );
    admin.listen = Some("0.0.0.0:0".parse().unwrap());
    let error = Listeners::bind(&admin, &crate::config::Metrics { listen: None }).unwrap_err();
    assert!(error.to_string().contains("without TLS"), "{error}");
}

#[test]
fn the_metrics_listener_serves_metrics_and_health_without_a_token_and_nothing_else() {
    let harness = Harness::start();
    let ask = |path| {
        let mut stream = TcpStream::connect(harness.metrics).unwrap();
        exchange(&mut stream, &request(None, "GET", path, ""))
    };
    let reply = ask("/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, b"sluice_build_info 1\n");
    assert_eq!(ask("/livez").status, 200);
    assert_eq!(ask("/v1/sessions").status, 404);
    assert_eq!(harness.ask_as(None, "GET", "/metrics", "").status, 401);
}

#[test]
fn bodies_are_bounded_and_must_be_json() {
    let harness = Harness::start();
    let long = format!("{{\"cause\": \"{}\"}}", "x".repeat(5000));
    let reply = harness.ask("POST", "/v1/drain", &long);
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (413, "too_large".into())
    );
    let mut stream = TcpStream::connect(harness.address).unwrap();
    let text = request(Some(&harness.admin_token), "POST", "/v1/drain", "draining=true");
    let reply = exchange(&mut stream, &text.replace("application/json", "text/plain"));
    assert_eq!(reply.status, 415);
    let reply = harness.ask("POST", "/v1/drain", "{\"draining\": 5}");
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["errors"][0]["pointer"], "#/draining");
    let reply = harness.ask("POST", "/v1/drain", "{\"draining\": true} x");
    assert_eq!(reply.status, 400);
    assert!(!harness.engine.totals().draining);
}

#[test]
fn a_request_under_way_is_answered_before_serving_ends() {
    let harness = Harness::start();
    let mut stream = TcpStream::connect(harness.address).unwrap();
    let text = request(
        Some(&harness.admin_token),
        "POST",
        "/v1/drain",
        "{\"draining\": true}",
    );
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    stream
        .write_all(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes())
        .unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    harness.plane.stop();
    assert!(!harness.is_over());
    assert_eq!(exchange(&mut stream, body).status, 200);
    drop(stream);
    while !harness.is_over() {
        std::thread::yield_now();
    }
    assert!(harness.engine.totals().draining);
}

#[test]
fn slow_and_silent_clients_are_dropped_and_do_not_keep_others_out() {
    let harness = Harness::start();
    let mut slow = TcpStream::connect(harness.address).unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost:").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // All places but one are taken by silent clients; one more than there are is turned away at once.
    let silent: Vec<TcpStream> = (0..7)
        .map(|_| TcpStream::connect(harness.address).unwrap())
        .collect();
    let mut turned_away = TcpStream::connect(harness.address).unwrap();
    turned_away
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut byte = [0];
    let read = turned_away.read(&mut byte);
    assert!(
        matches!(read, Ok(0)) || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    );
    // The local socket has places of its own.
    assert_eq!(harness.ask_local("GET", "/livez", "").status, 200);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    drop(silent);
}

#[test]
fn a_client_that_takes_no_answer_loses_its_place() {
    let harness = Harness::start_with(|text| {
        let text = text.replace("max_connections = 8", "max_connections = 4");
        text.replace("request_timeout = \"2s\"", "request_timeout = \"1s\"")
    });
    let asked = request(None, "GET", "/v1/openapi.json", "").replace("Connection: close\r\n", "");
    // Answers without end, and nobody who takes them.
    let deaf: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(harness.address).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            while stream.write_all(asked.as_bytes()).is_ok() {}
            stream
        })
        .collect();
    let served = (0..200).any(|_| {
        let mut stream = TcpStream::connect(harness.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(request(None, "GET", "/livez", "").as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let served = answer.starts_with(b"HTTP/1.1 200");
        if !served {
            // The kernel's clock decides when a place is free: there is nothing to wait for but it.
            std::thread::sleep(Duration::from_millis(100));
        }
        served
    });
    assert!(served, "the places stay taken");
    drop(deaf);
}

#[test]
fn changes_and_refusals_are_in_the_audit_log_and_reading_is_not() {
    let harness = Harness::start();
    harness.ask("POST", "/v1/drain", "{\"draining\": true}");
    harness.ask("GET", "/v1/sessions", "");
    harness.ask_as(None, "GET", "/v1/sessions", "");
    harness.ask_as(Some(&harness.token(&[Scope::Read])), "POST", "/v1/restart", "");
    harness.ask_local("POST", "/v1/restart", "");
    let entries = harness.ask("GET", "/v1/audit", "").json();
    let entries: Vec<String> = entries["items"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| {
            let part = |name: &str| entry[name].as_str().unwrap().to_owned();
            let who = part("who");
            let who = who.split([':', '=']).next().unwrap().to_owned();
            format!("{who} {} {} {}", part("what"), part("result"), entry["status"])
        })
        .collect();
    assert_eq!(
        entries,
        [
            "token drain ok 200",
            "anonymous listSessions unauthenticated 401",
            "token restart forbidden 403",
            "local restart ok 202",
        ]
    );
    assert_eq!(harness.asked.take(), ["restart"]);
    assert!(
        harness
            .audit()
            .lines()
            .all(|line| line.contains("\"from\":\"127.0.0.1:") || line.contains("\"from\":\"local\""))
    );
}

#[test]
fn nothing_is_changed_where_the_audit_log_cannot_be_written() {
    let harness = Harness::start();
    let file = harness.directory.path().join("audit.jsonl");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let reply = harness.ask("POST", "/v1/restart", "");
    assert_eq!(reply.status, 503);
    assert!(reply.json()["detail"].as_str().unwrap().contains("audit log"));
    assert!(harness.asked.take().is_empty());
}

#[test]
fn tls_is_served_with_a_certificate_that_can_be_renewed() {
    let keys = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let harness = Harness::start_with_tls(&keys);
    let reply = tls_exchange(&harness, &keys.cert);
    assert_eq!(reply.unwrap().status, 200);
    let renewed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = harness.directory.path();
    std::fs::write(dir.join("cert.pem"), renewed.cert.pem()).unwrap();
    // The certificate alone does not fit the key that is there: what is in use stays.
    let report = harness.ask_local("POST", "/v1/config:reload", "").json();
    assert!(
        report["notes"][1].as_str().unwrap().contains("stays in use"),
        "{report}"
    );
    assert_eq!(tls_exchange(&harness, &keys.cert).unwrap().status, 200);
    std::fs::write(dir.join("key.pem"), renewed.signing_key.serialize_pem()).unwrap();
    assert_eq!(harness.ask_local("POST", "/v1/config:reload", "").status, 200);
    assert!(tls_exchange(&harness, &keys.cert).is_none());
    assert_eq!(tls_exchange(&harness, &renewed.cert).unwrap().status, 200);
}

/// Asks over TLS, trusting one certificate; `None`: the server has another.
fn tls_exchange(harness: &Harness, trusted: &rcgen::Certificate) -> Option<Reply> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(harness.address).unwrap();
    connection.complete_io(&mut stream).ok()?;
    let mut stream = rustls::Stream::new(&mut connection, &mut stream);
    Some(exchange(
        &mut stream,
        &request(Some(&harness.admin_token), "GET", "/v1/status", ""),
    ))
}
