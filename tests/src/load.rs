//! Load on a gateway in a namespace of its own: storms of clients, and what must be left once they are gone.

use crate::rig::{Gateway, Namespace, Running, wait_for};
use crate::usage::Usage;
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Password of all clients.
const PASSWORD: &str = "pass-of-all-clients";
/// The one user of storms in which the credential cache is warm.
pub const USER: &str = "storm";

/// Limits for [`Load::with_protocol`]: the gateway bounds what one address may ask for, and here one address is all
/// the clients there are.
pub const ONE_SOURCE: &str = "[listener.l2tp]\nmax_tunnels = 65535\nsource_rate = 1000000\nsource_burst = 1000000\nunknown_rate = 1000000\n\
                              unknown_burst = 1000000\nmax_half_open = 16384\nmax_half_open_per_source = 16384\n\
                              max_half_open_per_prefix = 16384\n";

/// A gateway under load; ended when dropped.
pub struct Load {
    gateway: Gateway,
    namespace: Namespace,
    files: TempDir,
    storms: AtomicU32,
}

/// A storm that goes on while something else is done.
pub struct Storming {
    process: Running,
    report: PathBuf,
}

impl Load {
    /// Where the gateway listens.
    pub const SERVER: &'static str = "127.0.0.1:1701";

    /// Starts a gateway on the loopback interface of a namespace of its own, with this added to its configuration
    /// (whole tables), and the one user.
    pub fn start(more: &str) -> Self {
        Self::with_protocol("", more)
    }

    /// As [`Load::start`], with keys for the listener's protocol.
    pub fn with_protocol(keys: &str, more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), keys, more)
    }

    /// As [`Load::with_protocol`], in a directory that was prepared: the gateway's state is in `state` there.
    pub fn start_in(directory: TempDir, keys: &str, more: &str) -> Self {
        let namespace = Namespace::new("load");
        let config = format!(
            "[gateway]\nstate_dir = \"{{dir}}/state\"\n\
             [[listener]]\nname = \"l2tp\"\nprotocol = \"l2tp\"\naddresses = [\"127.0.0.1\"]\n{keys}\n\
             [pools.default]\nipv4 = [\"10.64.0.0/16\"]\nipv6 = [\"fdc6:51a3:9e07::/48\"]\n\
             [users]\nexempt_sources = [\"127.0.0.0/8\"]\n{more}\n"
        );
        let gateway = Gateway::start_in(directory, &namespace, &config, &[(USER, PASSWORD)]);
        Self {
            gateway,
            namespace,
            files: tempfile::tempdir().unwrap(),
            storms: AtomicU32::new(0),
        }
    }

    /// Starts the gateway once more after it was stopped: a cold start, from what is on the disk.
    pub fn start_again(&mut self) {
        self.gateway.start_again(&self.namespace);
    }

    /// Drops what the gateway sends from now on, so that no ICMP message tells it who is not there any more.
    pub fn silence(&self) {
        self.namespace.nft(
            "table inet silence { chain input { type filter hook input priority 0; udp sport 1701 drop; }; }",
        );
    }

    /// Has the one user log in, so that the credential cache knows them from then on.
    #[track_caller]
    pub fn warm_up(&self) {
        let report = self.storm("--clients 1");
        assert_eq!(report["up"], 1, "{report}");
    }

    /// The gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The gateway, to restart or stop it.
    pub fn gateway_mut(&mut self) -> &mut Gateway {
        &mut self.gateway
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A program built together with the gateway.
    pub fn program(name: &str) -> PathBuf {
        let path = Gateway::binary().with_file_name(name);
        assert!(path.exists(), "{} is not there: make tools", path.display());
        path
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.namespace.command(Self::program("lac-storm"));
        command.args(["--json", "--password", PASSWORD]);
        command.args(words.split_whitespace());
        if !words.contains("--user") {
            command.args(["--user", USER]);
        }
        command
    }

    /// Runs `lac-storm` with these words to its end; its report.
    #[track_caller]
    pub fn storm(&self, words: &str) -> Value {
        let output = self.command(words).stderr(Stdio::inherit()).output().unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("lac-storm {words}: {error}\n{}", self.gateway.last_log()))
    }

    /// Starts a storm; others may go on beside it.
    #[track_caller]
    pub fn storming(&self, words: &str) -> Storming {
        let number = self.storms.fetch_add(1, Ordering::Relaxed);
        let report = self.files.path().join(format!("storm{number}.json"));
        let out = File::create(&report).unwrap();
        let process = Running::start(self.command(words).stdout(out), None);
        Storming { process, report }
    }

    /// Adds users `prefix0` and so on to the users file, all with the password of the one user: each has to be
    /// checked for itself, because the credential cache knows no password without its user.
    pub fn add_users(&self, prefix: &str, count: usize) {
        let file = self.gateway.directory().join("state/users.toml");
        let mut text = std::fs::read_to_string(&file).unwrap();
        let hash = text
            .lines()
            .find_map(|line| line.strip_prefix("password = "))
            .expect("the one user's hash")
            .to_owned();
        for number in 0..count {
            text.push_str(&format!(
                "[[user]]\nname = \"{prefix}{number}\"\npassword = {hash}\n"
            ));
        }
        std::fs::write(&file, text).unwrap();
        self.gateway.must(&["reload"]);
    }

    /// The process that serves.
    #[track_caller]
    pub fn worker(&self) -> u32 {
        wait_for("a worker", Duration::from_secs(10), || {
            let keeper = self.gateway.pid();
            let children = format!("/proc/{keeper}/task/{keeper}/children");
            let children = std::fs::read_to_string(children).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    /// Memory and processor time of the worker.
    #[track_caller]
    pub fn usage(&self) -> Usage {
        Usage::of(self.worker()).unwrap()
    }

    /// Sessions in this state.
    pub fn sessions(&self, state: &str) -> u64 {
        self.gateway.status().map_or(0, |status| {
            status["totals"]["sessions"]["l2tp"][state].as_u64().unwrap_or(0)
        })
    }

    /// Waits until so many sessions are established.
    #[track_caller]
    pub fn wait_established(&self, count: u64, limit: Duration) {
        wait_for("sessions to be established", limit, || {
            (self.sessions("established") == count).then_some(())
        });
    }

    /// What is left of clients in the gateway, in words; nothing: `None`. Ended tunnels count: they are kept for
    /// 31 s to acknowledge what their peers send again (RFC 2661, 5.7).
    pub fn left(&self) -> Option<String> {
        let Some(status) = self.gateway.status() else {
            return Some("no answer".to_owned());
        };
        let mut left = Vec::new();
        for kind in ["sessions", "tunnels"] {
            if status["totals"][kind]
                .as_object()
                .is_none_or(|kinds| !kinds.is_empty())
            {
                left.push(format!("{kind} {}", status["totals"][kind]));
            }
        }
        for shard in status["shards"].as_array().into_iter().flatten() {
            if shard["machines"] != 0 || shard["paths"] != 0 {
                left.push(format!("shard {shard}"));
            }
        }
        for pool in self.gateway.json(&["pools", "list"])["items"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if pool["ipv4"]["held"] != 0 || pool["ipv6"]["held"] != 0 {
                left.push(format!("pool {pool}"));
            }
        }
        (!left.is_empty()).then(|| left.join("; "))
    }

    /// Waits until nothing is left of any client; how long that took. Panics with what is.
    #[track_caller]
    pub fn wait_quiet(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        while let Some(left) = self.left() {
            assert!(start.elapsed() < limit, "after {limit:?} there is still: {left}");
            std::thread::sleep(Duration::from_millis(200));
        }
        start.elapsed()
    }

    /// Waits until no session and no tunnel is left; how long that took. Their machines may still acknowledge.
    #[track_caller]
    pub fn wait_ended(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        wait_for("all tunnels to end", limit, || {
            let totals = &self.gateway.status()?["totals"];
            let none = |kind: &str| totals[kind].as_object().is_some_and(|kinds| kinds.is_empty());
            (none("sessions") && none("tunnels")).then_some(())
        });
        start.elapsed()
    }
}

impl Storming {
    /// Whether it still goes on.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for its end; its report.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Value {
        self.process.wait(limit);
        let text = std::fs::read_to_string(&self.report).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}
