//! The command line against an admin plane on real sockets.

use super::{Hooks, run_captured};
use crate::admin::HostChange;
use crate::admin::testing::{Harness, request};
use crate::config::testing::MODULES;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

fn hooks() -> Hooks {
    Hooks {
        run: |_| ExitCode::SUCCESS,
        worker: |_| ExitCode::SUCCESS,
        dry_run: |config| {
            Ok(vec![HostChange {
                what: format!("device {}", config.network.tun),
                done: false,
                detail: "needs CAP_NET_ADMIN".to_owned(),
            }])
        },
        modules: MODULES,
    }
}

/// Runs a command against the harness over its local socket.
fn cli(harness: &Harness, words: &[&str]) -> (u8, String, String) {
    let socket = harness.socket().display().to_string();
    let words: Vec<&str> = words.iter().copied().chain(["--socket", &socket]).collect();
    run_captured(&words, &hooks())
}

/// The output of a command that goes well.
fn output(harness: &Harness, words: &[&str]) -> String {
    let (code, out, error) = cli(harness, words);
    assert_eq!((code, error.as_str()), (0, ""), "{words:?}");
    out
}

fn json(harness: &Harness, words: &[&str]) -> serde_json::Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&output(harness, &words)).unwrap()
}

#[test]
fn sessions_are_listed_shown_and_ended() {
    let harness = Harness::start();
    let ann = harness.session(1, "ann@home").to_string();
    let bob = harness.session(2, "bob").to_string();
    let text = output(&harness, &["sessions", "list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].starts_with("ID ") && lines[0].contains("USER") && lines[0].ends_with("SINCE"),
        "{text}"
    );
    assert!(
        lines[1].starts_with(&ann) && lines[1].contains("ann@home") && lines[1].contains("10.64.0."),
        "{text}"
    );
    let list = json(&harness, &["sessions", "list", "--user", "bob"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["id"], bob);
    assert_eq!(
        json(&harness, &["sessions", "list", "--limit", "1"])["items"][0]["id"],
        ann
    );
    let text = output(&harness, &["sessions", "show", &ann]);
    assert!(text.contains("\n  lcp_state  opened\n"), "{text}");
    let text = output(&harness, &["sessions", "end", &ann, &bob]);
    assert_eq!(text, format!("{ann} is being ended\n{bob} is being ended\n"));
    assert_eq!(
        harness
            .engine
            .due(sluice_spi::ShardId(0), crate::admin::testing::now())
            .len(),
        2
    );
    let (code, _, error) = cli(&harness, &["sessions", "end", &ann, "--cause", "boredom"]);
    assert!(
        code == 1 && error.starts_with("#/cause: must be one of user-request"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_long_list_is_read_in_pages() {
    let harness = Harness::start();
    (0..1205).for_each(|n| _ = harness.opening(n, None));
    let list = json(&harness, &["sessions", "list"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 1205);
    let list = json(&harness, &["sessions", "list", "--limit", "1100"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 1100);
}

#[test]
fn users_are_added_with_a_password_that_is_made_up_and_changed() {
    let harness = Harness::start();
    let text = output(
        &harness,
        &["users", "add", "ann@home", "--generate", "--ipv4", "none"],
    );
    let password = text.trim().rsplit(' ').next().unwrap();
    assert!(
        text.starts_with("ann@home is added; its password is ") && password.len() > 20,
        "{text}"
    );
    let text = output(&harness, &["users", "list"]);
    assert!(
        text.lines()
            .nth(1)
            .unwrap()
            .starts_with("ann@home  yes      none  pool"),
        "{text}"
    );
    harness.session(1, "ann@home");
    assert_eq!(
        output(&harness, &["users", "disable", "ann@home"]),
        "ann@home is disabled\n"
    );
    assert_eq!(json(&harness, &["users", "show", "ann@home"])["enabled"], false);
    assert_eq!(
        json(&harness, &["users", "enable", "ann@home"])["user"]["enabled"],
        true
    );
    let changed = output(&harness, &["users", "passwd", "ann@home", "--generate"]);
    assert!(changed.starts_with("ann@home has a new password; ") && !changed.contains(password));
    assert_eq!(
        output(&harness, &["users", "delete", "ann@home"]),
        "ann@home is deleted\n"
    );
    let (code, _, error) = cli(&harness, &["users", "show", "ann@home"]);
    assert_eq!((code, error.as_str()), (1, "there is no user \"ann@home\""));
}

#[test]
fn what_a_user_is_given_is_changed_and_taken_back() {
    let harness = Harness::start();
    let add = [
        "users",
        "add",
        "ann@home",
        "--generate",
        "--group",
        "staff",
        "--group",
        "night",
    ];
    output(&harness, &add);
    let show = || json(&harness, &["users", "show", "ann@home"]);
    assert_eq!(show()["groups"], serde_json::json!(["staff", "night"]));
    let change = [
        "users",
        "change",
        "ann@home",
        "--groups",
        "guests",
        "--max-sessions",
        "3",
        "--ipv4",
        "none",
        "--idle-timeout",
        "60",
    ];
    assert_eq!(output(&harness, &change), "ann@home is changed\n");
    let user = show();
    assert_eq!(
        (&user["groups"][0], &user["max_sessions"]),
        (&"guests".into(), &3.into())
    );
    assert_eq!(
        (&user["ipv4"], &user["idle_timeout"]),
        (&"none".into(), &60.into())
    );
    output(
        &harness,
        &[
            "users",
            "change",
            "ann@home",
            "--groups",
            "",
            "--max-sessions",
            "",
        ],
    );
    let user = show();
    assert_eq!(
        (&user["groups"], &user["max_sessions"]),
        (&serde_json::json!([]), &().into())
    );
    assert_eq!(user["ipv4"], "none", "what is not named stays");
    let (code, _, error) = cli(
        &harness,
        &["users", "change", "ann@home", "--max-sessions", "many"],
    );
    assert_eq!((code, error.as_str()), (2, "\"many\" is not a number"));
    let (code, _, error) = cli(&harness, &["users", "change", "ann@home", "--protocols", "x25"]);
    assert!(
        code == 1 && error.contains("there is no protocol \"x25\""),
        "{error}"
    );
    assert_eq!(cli(&harness, &["users", "change", "ann@home"]).0, 2);
    assert_eq!(cli(&harness, &["users", "change", "bob", "--groups", "x"]).0, 1);
}

const RULES: &str = "
[[rule]]
name = \"no-mail\"
ports = [\"25\"]
action = \"deny\"
[[rule]]
name = \"staff-at-home\"
groups = [\"staff\"]
destinations = [\"10.1.0.0/16\", \"198.51.100.0/24\"]
action = \"allow\"
rate_down = \"1MB\"
";

#[test]
fn a_decision_is_explained() {
    let harness = Harness::start_with(|text| text + RULES);
    output(
        &harness,
        &[
            "users",
            "add",
            "ann",
            "--generate",
            "--group",
            "staff",
            "--max-sessions",
            "2",
        ],
    );
    let explain = |words: &[&str]| output(&harness, &[&["explain"], words].concat());
    let text = explain(&["10.1.2.3:443", "--user", "ann"]);
    assert!(
        text.starts_with("allow: rule staff-at-home\nthe destination is special (private)\n"),
        "{text}"
    );
    assert!(text.contains("  rate_down  1000000 (burst "), "{text}");
    assert!(text.contains("  per_user.sessions  2\n"), "{text}");
    assert!(text.contains("no-mail      deny    ports       no"), "{text}");
    let text = explain(&["10.1.2.3:443"]);
    assert!(
        text.starts_with("deny: the destination is special (private), and no rule opens it\n"),
        "{text}"
    );
    assert!(text.contains("groups"), "{text}");
    assert!(explain(&["198.51.100.7:25", "--user", "ann"]).starts_with("deny: rule no-mail\n"));
    assert!(explain(&["203.0.114.1:80"]).starts_with("deny: no rule decides, so the default does\n"));
    let name = ["intranet.example:443", "--user", "ann"];
    let text = explain(&name);
    assert!(
        text.starts_with("depends on what the name resolves to") && text.contains("destinations"),
        "{text}"
    );
    let text = explain(&[&name[..], &["--address", "198.51.100.7"]].concat());
    assert!(text.starts_with("allow: rule staff-at-home\n"), "{text}");
    assert!(explain(&["--command", "session", "--user", "ann"]).starts_with("allow: no rule"));
    for (words, wanted) in [
        (
            &["10.1.2.3"][..],
            "?target: must be a name or an IP address with its port: there is no port",
        ),
        (
            &["x:1", "--listener", "y"],
            "?listener: there is none of this name, only: echo",
        ),
        (
            &["x:1", "--command", "dance"],
            "?command: must be one of `session`, `connect`",
        ),
        (&["x:1", "--client", "y"], "?client: must be an IP address"),
        (&["x:1", "--user", "bob"], "there is no user \"bob\""),
        (&["--command", "connect"], "?target: is needed"),
    ] {
        let (code, _, error) = cli(&harness, &[&["explain"], words].concat());
        assert!(code == 1 && error.contains(wanted), "{words:?}: {error}");
    }
}

#[test]
fn a_password_can_be_hashed_without_a_gateway() {
    let (code, out, _) = run_captured(&["users", "hash", "--generate"], &hooks());
    assert_eq!(code, 0);
    let hash = out.lines().nth(1).unwrap();
    assert!(hash.parse::<sluice_auth::PasswordHash>().is_ok(), "{out}");
}

#[test]
fn the_gateway_is_shown_drained_reloaded_and_restarted() {
    let harness = Harness::start();
    harness.session(1, "ann");
    let text = output(&harness, &["status"]);
    for part in [
        "test (Sluice ",
        "up 1 h 1 min, worker started anew 2 times\n",
        "ready: yes\n",
        "data_plane  no   no TUN device: run as root\n",
        "sessions  echo      established  1\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(output(&harness, &["drain"]).starts_with("new sessions are refused"));
    assert!(
        output(&harness, &["status"])
            .contains("  draining: New sessions are refused: run sluice drain --off")
    );
    output(&harness, &["drain", "--off"]);
    assert!(!harness.engine.totals().draining);
    assert_eq!(
        cli(&harness, &["reload"]),
        (1, "no difference\n".to_owned(), "said by the gateway".to_owned())
    );
    output(&harness, &["restart"]);
    assert!(output(&harness, &["restart", "--lose-sessions"]).contains("are lost"));
    assert_eq!(
        harness.asked.take(),
        ["apply 0 changes of test", "restart", "restart, and lose sessions"]
    );
    assert!(output(&harness, &["pools", "list"]).contains("default  10.64.0.1  1"));
    assert!(output(&harness, &["leases", "--user", "ann"]).contains("default  ann"));
    assert!(output(&harness, &["listeners"]).contains("the port is in use"));
    assert!(output(&harness, &["tunnels", "list"]).contains("192.0.2.1:1701"));
    let audit = output(&harness, &["audit"]);
    assert!(audit.contains("local  restart"), "{audit}");
    assert!(audit.contains("sessions may be lost"), "{audit}");
}

#[test]
fn a_call_and_a_token_are_made() {
    let harness = Harness::start();
    let call = [
        "call",
        "555",
        "--listener",
        "echo",
        "--peer",
        "192.0.2.9:1701",
        "--label",
        "x",
    ];
    assert!(output(&harness, &call).starts_with("the call x is placed"));
    let token = output(&harness, &["tokens", "add", "read"]);
    let url = format!("http://{}", harness.address);
    let with = |token: &str, words: &[&str]| {
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--url", &url, "--token", token])
            .collect();
        run_captured(&words, &hooks())
    };
    assert_eq!(with(token.trim(), &["listeners"]).0, 0);
    let (code, _, error) = with(token.trim(), &["restart"]);
    assert_eq!(
        (code, error.as_str()),
        (4, "this needs a token with the scope admin")
    );
    assert_eq!(with("sluice_x_y", &["status"]).0, 4);
    let list = json(&harness, &["tokens", "list"]);
    let id = list["items"][1]["id"].as_str().unwrap();
    output(&harness, &["tokens", "delete", id]);
    assert_eq!(with(token.trim(), &["listeners"]).0, 4);
}

#[test]
fn a_gateway_is_reached_over_tls_when_its_certificate_is_trusted() {
    let made = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (keys, others) = (made(), made());
    let harness = Harness::start_with_tls(&keys);
    let ask = |ca: &rcgen::Certificate| {
        let file = harness.directory.path().join("ca.pem");
        std::fs::write(&file, ca.pem()).unwrap();
        let url = format!("https://{}", harness.address);
        let ca = file.display().to_string();
        let token = &harness.admin_token;
        run_captured(
            &["status", "--url", &url, "--ca", &ca, "--token", token],
            &hooks(),
        )
    };
    let (code, out, error) = ask(&keys.cert);
    assert!(code == 0 && out.starts_with("test (Sluice "), "{error}");
    let (code, _, error) = ask(&others.cert);
    assert!(code == 3 && error.contains("certificate"), "{error}");
}

#[test]
fn a_certificate_of_an_authority_serves_where_it_is_the_one_that_is_named() {
    let made = |name: &str| {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let signing_key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&signing_key).unwrap();
        rcgen::CertifiedKey { cert, signing_key }
    };
    for (name, expected) in [("127.0.0.1", 0), ("192.0.2.1", 3)] {
        let keys = made(name);
        let harness = Harness::start_with_tls(&keys);
        let url = format!("https://{}", harness.address);
        for (trusted, expected) in [(&keys, expected), (&made(name), 3)] {
            let file = harness.directory.path().join("ca.pem");
            std::fs::write(&file, trusted.cert.pem()).unwrap();
            let ca = file.display().to_string();
            let words = [
                "status",
                "--url",
                &url,
                "--ca",
                &ca,
                "--token",
                &harness.admin_token,
            ];
            let (code, _, error) = run_captured(&words, &hooks());
            assert_eq!(code, expected, "{name}: {error}");
        }
    }
}

#[test]
fn a_stream_that_breaks_off_is_taken_up_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for number in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let text = String::from_utf8(request).unwrap();
            let last = text.lines().find_map(|line| line.strip_prefix("last-event-id: "));
            asked.push(last.map(str::to_owned));
            // A worker that is on its way out answers nothing.
            if number == 1 {
                continue;
            }
            let event =
                format!("id: e-{number}\ndata: {{\"type\": \"draining\", \"time\": \"{number}\"}}\n\n");
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            stream.write_all(format!("{head}{event}").as_bytes()).unwrap();
        }
        asked
    });
    let words = ["events", "--socket", &socket.display().to_string()];
    let (code, out, _) = run_captured(&words, &hooks());
    let asked = serving.join().unwrap();
    assert_eq!(asked, [None, Some("e-0".to_owned()), Some("e-0".to_owned())]);
    let times: Vec<&str> = out.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!((code, times), (3, vec!["0", "2"]), "{out}");
}

#[test]
fn a_reload_that_leaves_something_undone_is_no_success() {
    let harness = Harness::start();
    let users = harness.directory.path().join("users.toml");
    std::fs::write(users, "[[user]]\nshoe = 1\n").unwrap();
    let (code, out, error) = cli(&harness, &["reload"]);
    assert_eq!((code, out.as_str()), (1, "no difference\n"));
    assert!(
        error.contains("users.toml:2:1") && error.lines().count() > 2,
        "{error}"
    );
    let status = output(&harness, &["status"]);
    assert!(status.contains("  users_file: The users stay"), "{status}");
}

#[test]
fn a_password_that_is_made_up_is_shown_in_json_as_well() {
    let harness = Harness::start();
    output(&harness, &["users", "add", "ann", "--generate"]);
    let answer = json(&harness, &["users", "passwd", "ann", "--generate"]);
    assert!(answer["password"].as_str().unwrap().len() > 10);
    assert_eq!(answer["user"]["name"], "ann");
}

#[test]
fn a_trace_is_followed_and_its_packets_saved() {
    let harness = Harness::start();
    let id = harness.session(1, "ann").to_string();
    let file = harness.directory.path().join("a.pcap");
    let file_name = file.display().to_string();
    let text = output(&harness, &["trace", &id, "--seconds", "1", "--pcap", &file_name]);
    assert_eq!(text, "1970-01-01T00:00:00.000000Z in  LCP Configure-Request\n");
    assert_eq!(std::fs::read(file).unwrap()[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
}

#[test]
fn events_are_followed_until_the_gateway_ends() {
    let harness = Harness::start();
    let socket = harness.socket();
    let watching = std::thread::spawn(move || {
        let socket = socket.display().to_string();
        run_captured(&["sessions", "watch", "--socket", &socket], &hooks())
    });
    // A stream begins with what happens after it was opened.
    while harness.plane.events().followers() == 0 {
        std::thread::yield_now();
    }
    harness.session(1, "ann");
    harness.plane.stop();
    let (code, out, error) = watching.join().unwrap();
    assert!(code == 3 && error.starts_with("no gateway is running"), "{error}");
    let line = out.lines().find(|line| line.contains(" session_up ")).unwrap();
    assert!(
        line.contains(" ann 192.0.2.1:1701 10.64.0.") && line.ends_with("established"),
        "{out}"
    );
}

#[test]
fn without_a_gateway_one_line_says_what_to_do() {
    let (code, _, error) = run_captured(&["status", "--socket", "/nowhere/admin.sock"], &hooks());
    assert_eq!(code, 3);
    assert!(
        error.contains("no gateway is running with the socket /nowhere/admin.sock: start it"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
    let (code, _, error) = run_captured(&["status", "--url", "http://gw.example:8701"], &hooks());
    assert!(code == 2 && error.contains("https"), "{error}");
    let (code, _, error) = run_captured(&["status", "--url", "https://127.0.0.1:1"], &hooks());
    assert!(code == 3 || (code == 2 && error.contains("--ca")), "{error}");
}

#[test]
fn a_server_that_speaks_no_http_is_no_gateway() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 512]);
        stream.write_all(b"220 smtp.example ESMTP\r\n").unwrap();
    });
    let (code, _, error) = run_captured(&["status", "--url", &url], &hooks());
    serving.join().unwrap();
    assert!(
        code == 3 && error.contains("the connection to the gateway broke"),
        "{code} {error}"
    );
    assert!(!request(None, "GET", "/", "").is_empty());
}

#[test]
fn a_configuration_is_checked_shown_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let small = "[[listener]]\nprotocol = \"echo\"\naddresses = [\"127.0.0.1\"]\n[listener.echo]\nsecret = \"hunter2\"\n";
    let good = write("good.toml", small);
    let bad = write(
        "bad.toml",
        "[gateway]\nname = \"a b\"\n[[listener]]\nprotocol = \"gopher\"\n",
    );
    let other = write("other.toml", &small.replace("hunter2", "hunter3"));
    let check = |words: &[&str]| {
        let words: Vec<&str> = ["check-config"].iter().chain(words).copied().collect();
        run_captured(&words, &hooks())
    };
    assert_eq!(
        check(&[&good]),
        (0, format!("{good}: no problem\n"), String::new())
    );
    let (code, out, error) = check(&[&bad]);
    assert_eq!((code, out.as_str()), (2, ""));
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].starts_with(&format!("{bad}:2:8: gateway.name: must be")),
        "{error}"
    );
    assert!(
        lines[1].starts_with(&format!("{bad}:4:12: listener[0].protocol: there is no")),
        "{error}"
    );
    let (code, out, _) = check(&["--json", &bad]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, value["problems"][1]["line"].clone()), (2, 4.into()));
    let (_, out, _) = check(&["--show", &good]);
    assert!(out.contains("listener.echo.echo.secret = (secret)\n"), "{out}");
    assert!(
        out.contains("limits.sessions = 100000  # default\n") && !out.contains("hunter"),
        "{out}"
    );
    let (_, out, _) = check(&[&other, "--against", &good]);
    assert!(
        out.contains("listener.echo.echo.secret  (secret)  (secret)  restart"),
        "{out}"
    );
    let (code, _, error) = check(&["no/such.toml"]);
    assert!(
        code == 2 && error.starts_with("no/such.toml:1:1: cannot be read"),
        "{error}"
    );
    let (code, out, _) = run_captured(&["dry-run", "--config", &good], &hooks());
    assert_eq!(
        (code, out.as_str()),
        (0, "device sluice0: would be made (needs CAP_NET_ADMIN)\n")
    );
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let (code, _, error) = run_captured(&["sesions"], &hooks());
    assert!(code == 2 && error.contains("sessions"), "{error}");
    let (code, _, text) = run_captured(&["--help"], &hooks());
    assert!(
        code == 0 && text.contains("check-config") && !text.contains("\n  worker"),
        "{text}"
    );
}
