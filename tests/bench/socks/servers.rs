//! The servers that are measured, all with the same user.

use sluice_tests::load::Load;
use sluice_tests::rig::{Gateway, Namespace, Running, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const USER: &str = "storm";
pub(crate) const PASSWORD: &str = "pass-of-all-clients";
/// Rules before the one that decides.
const RULES: usize = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Sluice,
    Microsocks,
    Dante,
    FastSocks5,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Sluice, Kind::Microsocks, Kind::Dante, Kind::FastSocks5];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Sluice => "Sluice",
            Kind::Microsocks => "microsocks",
            Kind::Dante => "Dante",
            Kind::FastSocks5 => "fast-socks5",
        }
    }

    /// Whether it relays datagrams.
    pub(crate) fn has_datagrams(self) -> bool {
        self != Kind::Microsocks
    }

    /// Where it listens.
    pub(crate) fn port(self) -> u16 {
        match self {
            Kind::Sluice => 1080,
            Kind::Microsocks => 1081,
            Kind::Dante => 1082,
            Kind::FastSocks5 => 1083,
        }
    }
}

/// A running server; ended in order when dropped.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    process: Process,
    _files: TempDir,
}

enum Process {
    Gateway(Box<Gateway>),
    Peer(Running),
}

impl Server {
    /// Starts a server on the processors that this thread may use, and waits until it listens.
    pub(crate) fn start(kind: Kind, namespace: &Namespace) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut command = match kind {
            Kind::Sluice => {
                let gateway = Gateway::start(namespace, &configuration(), &[(USER, PASSWORD)]);
                return Self {
                    kind,
                    process: Process::Gateway(Box::new(gateway)),
                    _files: files,
                };
            }
            Kind::Microsocks => {
                let mut command = namespace.command(tool("microsocks"));
                command.args(["-i", "127.0.0.1", "-u", USER, "-P", PASSWORD]);
                // It has a line for each connection, and no way to leave it out.
                command
                    .args(["-p", &kind.port().to_string()])
                    .stderr(Stdio::null());
                command
            }
            Kind::Dante => dante(namespace, files.path(), kind.port()),
            Kind::FastSocks5 => {
                let mut command = namespace.command(Load::program("socks-peer"));
                command.args(["--listen", &format!("127.0.0.1:{}", kind.port())]);
                command.args(["--user", USER, "--password", PASSWORD]);
                command
            }
        };
        let process = Running::start(&mut command, None);
        namespace.wait_listening(kind.port());
        Self {
            kind,
            process: Process::Peer(process),
            _files: files,
        }
    }

    /// The process above all others of the server.
    pub(crate) fn pid(&self) -> u32 {
        match &self.process {
            Process::Gateway(gateway) => gateway.pid(),
            Process::Peer(running) => running.pid(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Peer(running) = &mut self.process {
            running.end(Duration::from_secs(5));
        }
    }
}

/// A policy as a small company has it, of which the last rule decides.
fn configuration() -> String {
    let mut text = format!(
        "[gateway]\nstate_dir = \"{{dir}}/state\"\n\
         [[listener]]\nname = \"socks\"\nprotocol = \"socks\"\naddresses = [\"127.0.0.1:{}\"]\n\
         [listener.socks]\nmethods = [\"password\"]\n",
        Kind::Sluice.port()
    );
    for number in 0..RULES {
        let (action, what) = match number % 4 {
            0 => ("deny", format!("ports = [\"{}\"]", 25 + number)),
            1 => (
                "allow",
                format!("groups = [\"staff{number}\"]\ndestinations = [\"10.{number}.0.0/16\"]"),
            ),
            2 => ("deny", format!("domains = [\".example{number}.com\"]")),
            _ => (
                "allow",
                format!("clients = [\"192.0.2.{number}/32\"]\nusers = [\"*\"]"),
            ),
        };
        text.push_str(&format!(
            "[[rule]]\nname = \"rule{number}\"\naction = \"{action}\"\n{what}\n"
        ));
    }
    text.push_str(&format!(
        "[[rule]]\nname = \"targets\"\naction = \"allow\"\nusers = [\"{USER}\"]\ndestinations = [\"127.0.0.0/8\"]\n"
    ));
    text
}

/// Dante checks users of the system: it gets a list of them with the one user, which it alone sees. The password's
/// hash is of the cheapest kind, for hashing is not what is compared.
fn dante(namespace: &Namespace, files: &Path, port: u16) -> Command {
    let hash = sluice_tests::rig::run(Command::new("openssl").args(["passwd", "-1", "-salt", "s", PASSWORD]));
    let file = |name: &str, text: &str| {
        let path = files.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let lists: String = [
        ("passwd", "x", "1099:1099::/:/usr/sbin/nologin"),
        ("shadow", hash.unwrap().trim(), "19000:0:99999:7:::"),
    ]
    .into_iter()
    .map(|(name, secret, rest)| {
        let known = std::fs::read_to_string(format!("/etc/{name}")).unwrap();
        let list = file(name, &format!("{known}{USER}:{secret}:{rest}\n"));
        format!("mount --bind {list} /etc/{name} && ")
    })
    .collect();
    let config = file(
        "danted.conf",
        &format!(
            "errorlog: stderr\ninternal: 127.0.0.1 port = {port}\nexternal: lo\n\
             clientmethod: none\nsocksmethod: username\nuser.privileged: root\nuser.unprivileged: root\n\
             client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect udpassociate udpreply }}\n"
        ),
    );
    let pid = files.join("pid");
    let mut command = namespace.command("unshare");
    command
        .args(["-m", "sh", "-c"])
        .arg(format!(
            "{lists}exec {} -f {config} -p {}",
            tool("danted").display(),
            pid.display()
        ))
        .stdout(Stdio::null());
    command
}

/// A program that `make test-deps` fetched, or an installed one.
fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools")
        .join(name);
    if fetched.exists() { fetched } else { name.into() }
}

/// Waits until a held load says so.
pub(crate) fn wait_line(file: &Path, line: &str) {
    wait_for("a load to be held", Duration::from_secs(120), || {
        let text = std::fs::read_to_string(file).ok()?;
        text.contains(line).then_some(())
    });
}
