//! The gateway under test, run natively in a namespace.

use super::net::Namespace;
use super::{run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running gateway; ended when dropped.
pub struct Gateway {
    directory: TempDir,
    child: Child,
    namespace: String,
}

impl Gateway {
    /// The binary under test: `SLUICE_BIN`, or `sluice` beside the test's own build.
    pub fn binary() -> PathBuf {
        if let Some(path) = std::env::var_os("SLUICE_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().unwrap();
        let beside = test.parent().and_then(Path::parent).unwrap().join("sluice");
        assert!(
            beside.exists(),
            "build the gateway first (cargo build), or set SLUICE_BIN"
        );
        beside
    }

    /// Starts a gateway with a configuration and a users file in which `{dir}` stands for its directory, and
    /// waits until it says that it is ready.
    pub fn start(namespace: &Namespace, config: &str, users: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        std::fs::write(
            dir.join("sluice.toml"),
            config.replace("{dir}", &dir.display().to_string()),
        )
        .unwrap();
        let log = std::fs::File::create(dir.join("gateway.log")).unwrap();
        let child = namespace
            .command(Self::binary())
            .args(["run", "--config"])
            .arg(dir.join("sluice.toml"))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut gateway = Self {
            directory,
            child,
            namespace: namespace.name().to_owned(),
        };
        gateway.wait_ready();
        for (user, password) in users {
            gateway.add_user(user, password);
        }
        gateway
    }

    /// Its directory, with `sluice.toml`, `gateway.log` and its state.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory().join("gateway.log")).unwrap_or_default()
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
            self.cli(&["status", "--json"]).is_ok().then_some(())
        });
    }

    /// Runs the command line against this gateway; its standard output.
    pub fn cli(&self, words: &[&str]) -> Result<String, String> {
        run(self.cli_command(words).stdin(Stdio::null()))
    }

    /// The command line against this gateway.
    pub fn cli_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(Self::binary());
        command
            .args(words)
            .arg("--socket")
            .arg(self.directory().join("state/admin.sock"));
        command
    }

    /// Adds a user through the command line.
    pub fn add_user(&self, user: &str, password: &str) {
        use std::io::Write;
        let mut child = self
            .cli_command(&["users", "add", user, "--password-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(format!("{password}\n").as_bytes())
            .unwrap();
        assert!(
            child.wait().unwrap().success(),
            "the user could not be added:\n{}",
            self.log()
        );
    }

    /// The sessions as the command line gives them to programs.
    pub fn sessions(&self) -> Vec<serde_json::Value> {
        let text = self
            .cli(&["sessions", "list", "--json"])
            .unwrap_or_else(|error| panic!("{error}"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value.get("items").unwrap_or(&value).as_array().cloned().unwrap()
    }

    /// A request to the REST API over the local socket; status and body.
    pub fn rest(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"])
            .arg(self.directory().join("state/admin.sock"))
            .arg(format!("http://localhost{path}"));
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d", body]);
        }
        let text = run(&mut curl).unwrap_or_else(|error| panic!("{error}"));
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Sends a signal to the keeper.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
    }

    /// Ends the gateway in order and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
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
            eprintln!("--- gateway.log\n{}", self.log());
        }
    }
}
