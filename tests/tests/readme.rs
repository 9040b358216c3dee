//! README, tried word by word.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use sluice_tests::rig::{Gateway, Guest, Lab, Namespace, Xl2tpd, ready, run, wait_for};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const README: &str = include_str!("../../README.md");
const PASSWORD: &str = "her password";

/// The text of the fenced block that holds `mark`.
fn block(mark: &str) -> String {
    let found = README
        .split("\n```")
        .skip(1)
        .step_by(2)
        .find(|block| block.contains(mark));
    let found = found.unwrap_or_else(|| panic!("README has no block with {mark}"));
    // The rest of the first line is the block's language.
    let (_, text) = found.split_once('\n').unwrap();
    text.to_owned()
}

#[test]
fn the_first_client_gets_on_the_network_in_three_steps() {
    if !ready() {
        return;
    }
    let lab = Lab::new();
    let config = block("[pools.default]");
    assert!(config.contains("\"/var/lib/sluice\""));
    let config = config.replace("/var/lib/sluice", "{dir}/state");
    let gateway = Gateway::start(&lab.edge, &config, &[]);
    gateway.add_user("alice", PASSWORD);

    let mut guest = Guest::boot(&lab.edge, "br0", "10.99.0", 50, None);
    let xl2tpd = block("/etc/xl2tpd/xl2tpd.conf");
    assert!(
        xl2tpd.contains("lns = 192.0.2.1\n") && xl2tpd.contains("pppoptfile = /etc/ppp/options.sluice\n")
    );
    let xl2tpd = xl2tpd.replace("192.0.2.1", Lab::GATEWAY);
    std::fs::write(guest.path("xl2tpd.conf"), xl2tpd).unwrap();
    // The guest's /etc is the host's, and read-only but for /etc/ppp.
    std::fs::write(guest.path("options.sluice"), block("# /etc/ppp/options.sluice")).unwrap();
    guest.must(
        "cp /mnt/options.sluice /etc/ppp/ && busybox setsid xl2tpd -D -c /mnt/xl2tpd.conf \
         -C /run/l2tp-control -p /run/xl2tpd.pid >/mnt/xl2tpd.log 2>&1 &",
    );
    let link = Xl2tpd::wait_up(&mut guest, 30);
    assert_eq!(link.local.octets()[..2], [10, 64]);
    let pinged = guest.must(&format!("ping -n -c 2 -W 3 {}", link.remote));
    assert!(pinged.contains(" 0% packet loss"), "{pinged}");

    let session = gateway.wait_session();
    let id = session["id"].as_str().unwrap();
    let list = gateway.cli(&["sessions", "list"]).unwrap();
    let line = list.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(line.contains("established") && line.contains(&link.local.to_string()));
    assert!(gateway.cli(&["sessions", "show", id]).unwrap().contains("alice"));
    gateway.cli(&["sessions", "end", id]).unwrap();
    Xl2tpd::wait_hung_up(&mut guest, 15);
    assert!(gateway.sessions().is_empty());
}

/// A gateway started as README says, without a configuration.
struct Started {
    child: Child,
    directory: tempfile::TempDir,
}

impl Started {
    fn start(namespace: &Namespace, before: &[&str], directory: tempfile::TempDir) -> Self {
        let (first, rest) = match before {
            [first, rest @ ..] => ((*first).to_owned(), rest.to_vec()),
            [] => (Gateway::binary().display().to_string(), Vec::new()),
        };
        let mut command = namespace.command(first);
        command.args(rest);
        if !before.is_empty() {
            command.arg(Gateway::binary());
        }
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(directory.path().join("out")).unwrap())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut started = Self { child, directory };
        wait_for("the greeting", Duration::from_secs(30), || {
            let over = started.child.try_wait().unwrap();
            assert!(over.is_none(), "{over:?}: {}", started.text("log"));
            started.text("out").contains("Try next").then_some(())
        });
        started
    }

    fn text(&self, name: &str) -> String {
        let mut text = String::new();
        let mut file = std::fs::File::open(self.directory.path().join(name)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// The word after `mark` in what was printed.
    fn word(&self, mark: &str) -> Option<String> {
        let text = self.text("out");
        let (_, rest) = text.split_once(mark)?;
        rest.split_whitespace().next().map(str::to_owned)
    }

    /// Ends it in order and gives its directory.
    fn stop(mut self) -> tempfile::TempDir {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let status = wait_for("the gateway to end", Duration::from_secs(20), || {
            self.child.try_wait().unwrap()
        });
        assert_eq!(status.code(), Some(0), "{}", self.text("log"));
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}

fn api(namespace: &Namespace, token: &str, path: &str) -> String {
    let header = format!("Authorization: Bearer {token}");
    let url = format!("http://127.0.0.1:8701{path}");
    run(namespace.command("curl").args(["-sf", "-H", &header, &url]))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_first_start_tells_once_what_is_needed_to_go_on() {
    if !ready() {
        return;
    }
    let namespace = Namespace::new("first");
    let started = Started::start(&namespace, &[], tempfile::tempdir().unwrap());
    let password = started.word("password ").unwrap();
    let token = started.word("admin token").unwrap();
    assert!(password.len() >= 20 && token.starts_with("sluice_"));
    for listening in [
        "127.0.0.1:1701",
        "[::1]:1701",
        "http://127.0.0.1:8701/v1",
        "10.64.0.0/16",
    ] {
        assert!(started.text("out").contains(listening), "{listening}");
    }
    for secret in [&password, &token] {
        assert!(
            !started.text("log").contains(secret.as_str()),
            "a secret in the log"
        );
    }
    assert!(api(&namespace, &token, "/v1/users").contains("demo"));
    assert!(api(&namespace, &token, "/metrics").contains("sluice_build_info"));
    assert!(!started.text("out").contains("OFF"), "{}", started.text("out"));

    let again = Started::start(&namespace, &[], started.stop());
    assert_eq!(again.word("password "), None, "secrets are shown once");
    assert_eq!(again.word("admin token"), None);
    assert!(api(&namespace, &token, "/v1/users").contains("demo"));
    again.stop();
    let left = namespace.ip("-o link");
    assert!(!left.contains("sluice0"), "{left}");
    assert!(!namespace.sh("nft list tables").unwrap().contains("sluice"));
}

#[test]
fn without_privileges_it_says_what_is_off_and_serves_the_rest() {
    if !ready() {
        return;
    }
    let namespace = Namespace::new("bare");
    let directory = tempfile::tempdir().unwrap();
    let without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let started = Started::start(&namespace, &without, directory);
    let out = started.text("out");
    let off: Vec<&str> = out
        .lines()
        .filter(|line| line.trim_start().starts_with("OFF"))
        .collect();
    assert_eq!(off.len(), 1, "{out}");
    assert!(off[0].contains("no CAP_NET_ADMIN"), "{out}");
    let token = started.word("admin token").unwrap();
    assert!(api(&namespace, &token, "/v1/users").contains("demo"));
    started.stop();
}

/// Every `sluice …` in a block or a table is a command that there is.
#[test]
fn every_command_is_one() {
    let words = README.split(['`', '\n']).filter_map(|text| {
        let text = text.trim().trim_start_matches("$ ");
        text.strip_prefix("sluice ")
    });
    let mut tried = 0;
    for text in words {
        let (text, _) = text.split_once('#').unwrap_or((text, ""));
        for choice in text
            .replace("\\|", "|")
            .split_whitespace()
            .nth(1)
            .unwrap_or("")
            .split('|')
        {
            let mut command = Command::new(Gateway::binary());
            let first = text.split_whitespace().next().unwrap();
            command.arg(first);
            let sub = choice.chars().all(|c| c.is_ascii_lowercase()) && !choice.is_empty();
            if sub {
                command.arg(choice);
            }
            run(command.arg("--help")).unwrap_or_else(|error| panic!("sluice {text}: {error}"));
            tried += 1;
        }
        if text.split_whitespace().count() == 1 {
            run(Command::new(Gateway::binary()).args([text.trim(), "--help"]))
                .unwrap_or_else(|error| panic!("sluice {text}: {error}"));
            tried += 1;
        }
    }
    assert!(tried > 8, "only {tried} commands were found");
}
