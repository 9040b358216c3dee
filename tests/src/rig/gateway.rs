//! The gateway under test, run natively in a namespace.

use super::net::Namespace;
use super::{run, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Lines of the log that are shown where a test fails.
const SHOWN: usize = 200;

/// A running gateway; ended when dropped.
pub struct Gateway {
    directory: TempDir,
    child: Child,
    namespace: String,
    build: Build,
}

/// Which gateway is started, and with what environment.
struct Build {
    binary: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Gateway {
    /// The binary under test: `SLUICE_BIN`, or `sluice` beside the test's own build.
    pub fn binary() -> PathBuf {
        let path = std::env::var_os("SLUICE_BIN").map_or_else(
            || {
                let test = std::env::current_exe().unwrap();
                test.parent().and_then(Path::parent).unwrap().join("sluice")
            },
            PathBuf::from,
        );
        assert!(
            path.exists(),
            "{} is not there: build the gateway first (make build), or set SLUICE_BIN",
            path.display()
        );
        path
    }

    /// Starts a gateway with a configuration and a users file in which `{dir}` stands for its directory, and
    /// waits until it says that it is ready.
    pub fn start(namespace: &Namespace, config: &str, users: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), namespace, config, users)
    }

    /// As [`Gateway::start`], in a directory that was prepared.
    pub fn start_in(directory: TempDir, namespace: &Namespace, config: &str, users: &[(&str, &str)]) -> Self {
        Self::start_within(directory, namespace, config, users, None)
    }

    /// As [`Gateway::start_in`], with a limit of open files.
    pub fn start_within(
        directory: TempDir,
        namespace: &Namespace,
        config: &str,
        users: &[(&str, &str)],
        files: Option<u32>,
    ) -> Self {
        let build = Build {
            binary: Self::binary(),
            environment: Vec::new(),
        };
        let gateway = Self::launch(directory, namespace, config, build, files);
        for (user, password) in users {
            gateway.add_user(user, password);
        }
        gateway
    }

    /// Starts a gateway that was built otherwise, in a directory that was prepared, with more environment.
    pub fn start_built(
        directory: TempDir,
        namespace: &Namespace,
        config: &str,
        binary: &Path,
        environment: &[(&'static str, PathBuf)],
    ) -> Self {
        let build = Build {
            binary: binary.to_owned(),
            environment: environment.to_vec(),
        };
        Self::launch(directory, namespace, config, build, None)
    }

    fn launch(
        directory: TempDir,
        namespace: &Namespace,
        config: &str,
        build: Build,
        files: Option<u32>,
    ) -> Self {
        write_configuration(directory.path(), config);
        let mut gateway = Self {
            child: spawn(namespace, directory.path(), &build, files),
            directory,
            namespace: namespace.name().to_owned(),
            build,
        };
        gateway.wait_ready();
        gateway
    }

    /// Starts it once more after [`Gateway::stop`], and waits until it says that it is ready.
    pub fn start_again(&mut self, namespace: &Namespace) {
        self.child = spawn(namespace, self.directory(), &self.build, None);
        self.wait_ready();
    }

    /// Its directory, with `sluice.toml`, `gateway.log` and its state.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory().join("gateway.log")).unwrap_or_default()
    }

    /// The last of it, for a test that fails.
    pub fn last_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// The process that was started: the keeper.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_ready(&mut self) {
        wait_for("the gateway to be ready", Duration::from_secs(30), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            let status = self.status()?;
            (status["ready"] == true).then_some(())
        });
    }

    /// What `sluice status` says; `None` where no worker answers.
    pub fn status(&self) -> Option<Value> {
        let text = self.cli(&["status", "--json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Restarts the worker by `sluice restart` and waits until the next one is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        let before = self.status().unwrap();
        self.must(&["restart"]);
        wait_for("the next worker", Duration::from_secs(20), || {
            let status = self.status()?;
            (status["restarts"] != before["restarts"] && status["ready"] == true).then_some(())
        });
    }

    /// Puts another configuration in place of the file; the gateway does not read it yet.
    pub fn configure(&self, config: &str) {
        write_configuration(self.directory(), config);
    }

    /// Runs the command line against this gateway; its standard output.
    pub fn cli(&self, words: &[&str]) -> Result<String, String> {
        run(self.cli_command(words).stdin(Stdio::null()))
    }

    /// Runs the command line, which must succeed; its standard output.
    #[track_caller]
    pub fn must(&self, words: &[&str]) -> String {
        self.cli(words)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.last_log()))
    }

    /// Runs the command line, which must succeed and print JSON.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut words = words.to_vec();
        words.push("--json");
        let text = self.must(&words);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    fn cli_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(&self.build.binary);
        command
            .args(words)
            .arg("--socket")
            .arg(self.directory().join("state/admin.sock"));
        command
    }

    /// Adds a user through the command line.
    #[track_caller]
    pub fn add_user(&self, user: &str, password: &str) {
        self.with_password(&["users", "add", user], password);
    }

    /// Runs a command that reads a password from its standard input.
    #[track_caller]
    pub fn with_password(&self, words: &[&str], password: &str) {
        use std::io::Write;
        let mut child = self
            .cli_command(words)
            .arg("--password-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(format!("{password}\n").as_bytes()).unwrap();
        drop(input);
        let status = child.wait().unwrap();
        assert!(status.success(), "{words:?}: {status}\n{}", self.log());
    }

    /// The sessions as the command line gives them to programs.
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        items(&self.json(&["sessions", "list"]))
    }

    /// Waits until there is one session, and that established.
    #[track_caller]
    pub fn wait_session(&self) -> Value {
        wait_for(
            "one established session",
            Duration::from_secs(10),
            || match &self.sessions()[..] {
                [session] if session["state"] == "established" => Some(session.clone()),
                _ => None,
            },
        )
    }

    /// Waits until a session is in the history, as it is there.
    #[track_caller]
    pub fn wait_ended(&self, session: &Value) -> Value {
        wait_for("a session to end", Duration::from_secs(20), || {
            items(&self.json(&["sessions", "list", "--history"]))
                .into_iter()
                .find(|ended| ended["id"] == session["id"])
        })
    }

    /// A token of the API with these scopes.
    #[track_caller]
    pub fn token(&self, scopes: &[&str]) -> String {
        let mut words = vec!["tokens", "add"];
        words.extend(scopes);
        self.must(&words).trim().to_owned()
    }

    /// A request to the REST API over TCP; status and body.
    #[track_caller]
    pub fn rest(&self, token: Option<&str>, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.namespace, "curl"])
            .args(["-s", "--max-time", "20", "-X", method, "-w", "\n%{http_code}"])
            .arg(format!("http://127.0.0.1:8701{path}"));
        if let Some(token) = token {
            curl.args(["-H", &format!("authorization: Bearer {token}")]);
        }
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        }
        let text = run(&mut curl).unwrap_or_else(|error| panic!("{error}"));
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// A request that must be answered with this status and JSON.
    #[track_caller]
    pub fn rest_json(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        expected: u16,
    ) -> Value {
        let (status, text) = self.rest(Some(token), method, path, body);
        assert_eq!(status, expected, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The value of a series of `/metrics` over TCP, such as `sluice_sessions{protocol="l2tp",state="established"}`.
    #[track_caller]
    pub fn metric(&self, token: &str, series: &str) -> f64 {
        let (status, text) = self.rest(Some(token), "GET", "/metrics", None);
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in\n{text}"))
    }

    /// Sends a signal to the keeper.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
    }

    /// Ends the gateway in order and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
        }
        for _ in 0..2000 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.stop().is_none() {
            eprintln!("the gateway did not end in time");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- gateway.log\n{}", self.last_log());
        }
    }
}

fn spawn(namespace: &Namespace, directory: &Path, build: &Build, files: Option<u32>) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("gateway.log"))
        .unwrap();
    let mut command = match files {
        Some(files) => {
            let mut command = namespace.command("prlimit");
            command.arg(format!("--nofile={files}")).arg(&build.binary);
            command
        }
        None => namespace.command(&build.binary),
    };
    command
        .args(["run", "--config"])
        .arg(directory.join("sluice.toml"))
        .current_dir(directory)
        .envs(build.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn write_configuration(directory: &Path, config: &str) {
    let text = config.replace("{dir}", &directory.display().to_string());
    std::fs::write(directory.join("sluice.toml"), text).unwrap();
}

/// The items of a list.
#[track_caller]
fn items(list: &Value) -> Vec<Value> {
    list["items"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| panic!("no list: {list}"))
}
