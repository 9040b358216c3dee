//! A gateway, what it reaches, and who asks it.

use serde_json::Value;
use sluice_tests::rig::{Gateway, Namespace, Running, ready};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// What the tests have in common. Rules and upstreams follow.
pub(super) const BASE: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"
shards = 1

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080"]
proxy_protocol_from = ["127.0.0.20/32"]
proxy_protocol_timeout = "1s"
fast_open = true
[listener.socks]
methods = ["none"]
no_auth_from = ["127.0.0.0/8", "203.0.113.0/24", "2001:db8::/32"]

[pools.default]
ipv4 = ["10.64.0.0/24"]

[egress.resolver]
hosts_file = "{dir}/names/hosts"
"#;

pub(super) const OWN_WEB: &str = r#"
[[rule]]
name = "own-web"
action = "allow"
destinations = ["127.0.0.0/8"]
ports = ["8000", "9000", "9"]
"#;

/// A gateway with a configuration, and a web server that has a file.
pub(super) struct Case {
    pub(super) gateway: Gateway,
    pub(super) namespace: Namespace,
    _web: Running,
}

impl Case {
    pub(super) fn start(rules: &str) -> Option<Self> {
        if !ready() {
            return None;
        }
        let namespace = Namespace::new("egress");
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("names")).unwrap();
        std::fs::write(directory.path().join("names/hosts"), "127.0.0.1 web.test\n").unwrap();
        std::fs::write(directory.path().join("file"), "hello").unwrap();
        let gateway = Gateway::start_in(directory, &namespace, &format!("{BASE}{rules}"), &[]);
        let mut web = namespace.command("python3");
        web.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        web.arg(gateway.directory()).arg("8000");
        let web = Running::start(web.stdout(Stdio::null()).stderr(Stdio::null()), None);
        namespace.wait_listening(8000);
        Some(Self {
            gateway,
            namespace,
            _web: web,
        })
    }

    /// A program of the namespace that listens on a port.
    pub(super) fn serve(&self, port: u16, program: &str, words: &[&str]) -> Running {
        let mut command = self.namespace.command(tool(program));
        let running = Running::start(
            command.args(words).stdout(Stdio::null()).stderr(Stdio::null()),
            None,
        );
        self.namespace.wait_listening(port);
        running
    }

    /// A file of the case's directory.
    pub(super) fn write(&self, name: &str, text: &str) -> String {
        let path = self.gateway.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// curl's exit code with these words, what it downloaded, and what it said.
    pub(super) fn curl(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = self.namespace.command("curl");
        command.args(["-sS", "--max-time", "15", "--noproxy", ""]);
        let output = command.args(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Gets the file through the gateway by a name.
    #[track_caller]
    pub(super) fn must_get(&self, url: &str) {
        let (code, text, said) = self.curl(&["-x", "socks5h://127.0.0.1:1080", url]);
        assert_eq!(
            (code, text.as_str()),
            (0, "hello"),
            "{said}\n{}",
            self.gateway.log()
        );
    }

    /// The code of the reply that a request for a URL gets.
    #[track_caller]
    pub(super) fn refused(&self, url: &str) -> String {
        let (code, _, said) = self.curl(&["-x", "socks5h://127.0.0.1:1080", url]);
        assert_eq!(code, 97, "{said}");
        said.trim()
            .rsplit('(')
            .next()
            .unwrap()
            .trim_matches([')', '.'])
            .to_owned()
    }

    /// What ended last.
    #[track_caller]
    pub(super) fn last(&self) -> Value {
        let page = self
            .gateway
            .json(&["sessions", "list", "--history", "--limit", "1"]);
        page["items"][0].clone()
    }

    /// Sums of the series that begin so.
    pub(super) fn metric(&self, token: &str, series: &str) -> f64 {
        self.gateway.metric(token, series)
    }

    /// Connects to the gateway from an address, says something, and gives all that is answered.
    pub(super) fn say(&self, from: &str, said: &[&[u8]]) -> Vec<u8> {
        let from = format!("{from}:0").parse().unwrap();
        self.namespace.inside(|| {
            let mut stream = connect(from, "127.0.0.1:1080".parse().unwrap());
            for piece in said {
                // The gateway may have closed already.
                let _ = stream.write_all(piece);
            }
            // And it may have reset what it will not read.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut told = Vec::new();
            let _ = stream.read_to_end(&mut told);
            told
        })
    }
}

/// A program that `make test-deps` fetched, or an installed one.
fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools")
        .join(name);
    let installed = Path::new("/usr/sbin").join(name);
    [fetched, installed]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| name.into())
}

pub(super) fn connect(from: std::net::SocketAddr, to: std::net::SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}
