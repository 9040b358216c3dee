//! A gateway between its clients and the world.

use sluice_tests::rig::{Gateway, Lab, Namespace, Running, ready, wait_for};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Not with spaces, which proxychains has between its fields.
pub(crate) const PASSWORD: &str = "correct-horse-battery";

/// The gateway towards its clients.
pub(crate) const PROXY: &str = "10.99.0.1";

/// An address of the clients that need not authenticate.
pub(crate) const TRUSTED: &str = "10.99.0.9";

/// Debian's own, which has the packages' modules.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

const CONFIG: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"

[[listener]]
protocol = "socks"
addresses = ["10.99.0.1:1080"]
[listener.socks]
no_auth_from = ["10.99.0.9/32"]

[pools.default]
ipv4 = ["10.64.0.0/24"]

[egress.resolver]
hosts_file = "{dir}/hosts"

[[rule]]
name = "world"
action = "allow"
destinations = ["198.51.100.2/32", "2001:db8:99::2/128"]
"#;

/// Octets of the file that is transferred.
const FILE: usize = 3_000_000;

pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    pub(crate) clients: Namespace,
    pub(crate) lab: Lab,
}

impl Case {
    /// A gateway with the user bob, and a file `file` of random octets in its directory; `None`: this machine is not
    /// for such tests.
    pub(crate) fn start() -> Option<Self> {
        if !ready() {
            return None;
        }
        let (lab, clients) = (Lab::new(), Namespace::new("clients"));
        lab.edge.join("c0", &clients, "eth0");
        lab.edge.ip("link set c0 master br0");
        clients.ip("addr add 10.99.0.2/24 dev eth0");
        clients.ip(&format!("addr add {TRUSTED}/24 dev eth0"));
        let gateway = Gateway::start(&lab.edge, CONFIG, &[("bob", PASSWORD)]);
        let directory = gateway.directory();
        std::fs::write(
            directory.join("hosts"),
            format!(
                "{0} web.test\n{0} web4.test\n{1} web.test\n",
                Lab::WORLD,
                Lab::WORLD6
            ),
        )
        .unwrap();
        let mut random = vec![0; FILE];
        let mut source = std::fs::File::open("/dev/urandom").unwrap();
        source.read_exact(&mut random).unwrap();
        std::fs::create_dir(directory.join("world")).unwrap();
        std::fs::write(directory.join("world/file"), random).unwrap();
        Some(Self {
            gateway,
            clients,
            lab,
        })
    }

    /// What is served in the world.
    pub(crate) fn world(&self) -> PathBuf {
        self.gateway.directory().join("world")
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        std::fs::read(self.world().join("file")).unwrap()
    }

    /// Writes a client's configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.gateway.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A web server in the world, at port 8000.
    pub(crate) fn web(&self) -> Running {
        let mut command = self.lab.world.command(PYTHON);
        command.args(["-m", "http.server", "--bind", "::", "--directory"]);
        command.arg(self.world()).arg("8000");
        let running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()), None);
        self.lab.world.wait_listening(8000);
        running
    }

    /// Runs a client to its end, which must be a good one; its standard output.
    #[track_caller]
    pub(crate) fn run(&self, client: &mut Command) -> Vec<u8> {
        let output = client.stdin(Stdio::null()).output().unwrap();
        assert!(
            output.status.success(),
            "{client:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
                .get(..2000)
                .unwrap_or_default(),
        );
        output.stdout
    }

    /// A program with Dante's library before its system's.
    pub(crate) fn socksify(&self) -> Command {
        let config = format!(
            "logoutput: stderr\nresolveprotocol: fake\nroute {{\n from: 0.0.0.0/0 to: 0.0.0.0/0 via: {PROXY} port = 1080\n\
             proxyprotocol: socks_v5\n command: connect bind bindreply udpassociate udpreply\n\
             protocol: tcp udp\n method: username\n}}\n"
        );
        let mut command = self.clients.command("socksify");
        command
            .env("SOCKS_CONF", self.write("socks.conf", &config))
            .env("SOCKS_USERNAME", "bob")
            .env("SOCKS_PASSWORD", PASSWORD);
        command
    }

    /// Waits until no session is left; all that were must have been of this command and user, and have ended well.
    #[track_caller]
    pub(crate) fn all_ended_well(&self, user: Option<&str>, at_least: usize) {
        wait_for("all sessions to end", Duration::from_secs(20), || {
            self.gateway.sessions().is_empty().then_some(())
        });
        let page = self.gateway.json(&["sessions", "list", "--history"]);
        let ended = page["items"].as_array().unwrap();
        assert!(ended.len() >= at_least, "{page}");
        for session in ended {
            assert_eq!(session["user"].as_str(), user, "{session}");
            let code = session["end"]["code"].as_str().unwrap();
            assert!(
                ["finished", "client_reset", "target_reset"].contains(&code),
                "{session}"
            );
        }
        let log = self.gateway.log();
        assert!(!log.contains("ERROR"), "{log}");
    }
}

/// A program that `make test-deps` fetched, or an installed one.
pub(crate) fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools")
        .join(name);
    let installed = Path::new("/usr/sbin").join(name);
    let found = [fetched, installed].into_iter().find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("not there: {name}: run make test-deps"));
    found.canonicalize().unwrap()
}
