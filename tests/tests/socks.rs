//! SOCKS as curl speaks it, against the gateway itself in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use sluice_tests::rig::{Gateway, Namespace, Running, ready, wait_for};
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

const PASSWORD: &str = "correct horse battery";

const CONFIG: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080", "[::1]:1080"]
[listener.socks]
methods = ["password", "none"]
no_auth_from = ["127.0.0.9/32"]

[pools.default]
ipv4 = ["10.64.0.0/24"]

[egress.resolver]
hosts_file = "{dir}/hosts"

[[rule]]
name = "own-web"
action = "allow"
destinations = ["127.0.0.0/8", "::1/128"]
ports = ["8000", "8001", "9000"]
"#;

struct Case {
    gateway: Gateway,
    namespace: Namespace,
    _web: Vec<Running>,
}

impl Case {
    /// A gateway with the user bob, and two web servers that have a file of random bytes.
    fn start() -> Option<Self> {
        if !ready() {
            return None;
        }
        let namespace = Namespace::new("socks");
        let gateway = Gateway::start(&namespace, CONFIG, &[("bob", PASSWORD)]);
        let directory = gateway.directory().to_owned();
        std::fs::write(directory.join("hosts"), "127.0.0.1 web.test\n::1 web.test\n").unwrap();
        let mut random = vec![0; 20_000_000];
        std::fs::File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut random)
            .unwrap();
        std::fs::write(directory.join("file"), random).unwrap();
        let web = [("127.0.0.1", 8000), ("::1", 8001)].map(|(address, port)| {
            let mut command = namespace.command("python3");
            command.args(["-m", "http.server", "--bind", address, "--directory"]);
            command.arg(&directory).arg(port.to_string());
            let running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()), None);
            namespace.wait_listening(port);
            running
        });
        Some(Self {
            gateway,
            namespace,
            _web: web.into(),
        })
    }

    /// curl's exit code with these words, and what it downloaded.
    fn curl(&self, words: &[&str]) -> (i32, Vec<u8>) {
        let mut command = self.namespace.command("curl");
        let output = command
            .args(["-s", "--max-time", "20", "--noproxy", ""])
            .args(words)
            .output()
            .unwrap();
        (output.status.code().unwrap(), output.stdout)
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.gateway.directory().join("file")).unwrap()
    }

    /// What ended last.
    fn last(&self) -> serde_json::Value {
        let text = self
            .gateway
            .cli(&["sessions", "list", "--history", "--limit", "1", "--json"])
            .unwrap();
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        page["items"][0].clone()
    }
}

const AS_BOB: &str = "bob:correct horse battery";

#[test]
fn curl_gets_files_in_every_mode() {
    let Some(case) = Case::start() else { return };
    let file = case.file();
    for (proxy, url) in [
        ("socks5://127.0.0.1:1080", "http://127.0.0.1:8000/file"),
        ("socks5h://127.0.0.1:1080", "http://web.test:8000/file"),
        ("socks5h://[::1]:1080", "http://[::1]:8001/file"),
    ] {
        let (code, got) = case.curl(&["-x", proxy, "--proxy-user", AS_BOB, url]);
        assert_eq!(code, 0, "{proxy} {url}\n{}", case.gateway.log());
        assert!(got == file, "{proxy} {url}: {} bytes", got.len());
    }
    let ended = case.last();
    assert_eq!(ended["user"], "bob", "{ended}");
    assert_eq!(ended["protocol"], "socks");
    assert!(
        ended["counters"]["tx_bytes"].as_u64().unwrap() > 20_000_000,
        "{ended}"
    );
    // SOCKS4 has no password: only where none is asked for.
    for proxy in ["socks4://127.0.0.1:1080", "socks4a://127.0.0.1:1080"] {
        let url = "http://web.test:8000/file";
        let url = if proxy.starts_with("socks4a") {
            url
        } else {
            "http://127.0.0.1:8000/file"
        };
        let (code, got) = case.curl(&["--interface", "127.0.0.9", "-x", proxy, url]);
        assert_eq!(code, 0, "{proxy}");
        assert!(got == file, "{proxy}");
        let (code, _) = case.curl(&["-x", proxy, url]);
        assert_ne!(code, 0, "{proxy} without a password");
    }
    assert!(case.gateway.sessions().is_empty());
}

#[test]
fn what_may_not_be_is_refused_with_its_code() {
    let Some(case) = Case::start() else { return };
    let proxy = ["-x", "socks5h://127.0.0.1:1080", "--proxy-user"];
    let ask = |user: &str, url: &str| case.curl(&[&proxy[..], &[user, url]].concat());
    // 97: the proxy said no.
    let (code, _) = ask("bob:wrong", "http://127.0.0.1:8000/file");
    assert_eq!(code, 97);
    assert_eq!(case.last()["end"]["cause"], "user-error", "{}", case.last());
    // Another port, a private network, and the gateway's own API: denied.
    for url in [
        "http://127.0.0.1:9/",
        "http://10.1.2.3:8000/",
        "http://127.0.0.1:8701/livez",
    ] {
        let (code, _) = ask(AS_BOB, url);
        assert_eq!(code, 97, "{url}");
        let ended = case.last();
        assert!(
            ended["end"]["text"].as_str().unwrap().contains("denied"),
            "{ended}"
        );
    }
    // Nobody listens there.
    let (code, _) = ask(AS_BOB, "http://127.0.0.2:8000/");
    assert_eq!(code, 97);
    assert!(
        case.last()["end"]["text"].as_str().unwrap().contains("refused"),
        "{}",
        case.last()
    );
}

/// A slow download as bob: exit code 7 where it is cut off.
const DOWNLOAD: &str = r#"
import socket, sys, time
s = socket.create_connection(('127.0.0.1', 1080))
s.sendall(b'\x05\x01\x02')
assert s.recv(2) == b'\x05\x02'
user, password = b'bob', b'correct horse battery'
s.sendall(b'\x01' + bytes([len(user)]) + user + bytes([len(password)]) + password)
assert s.recv(2) == b'\x01\x00'
s.sendall(b'\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x40')
assert s.recv(10)[1] == 0
s.sendall(b'GET /file HTTP/1.0\r\n\r\n')
try:
    while s.recv(1000):
        time.sleep(0.01)
except ConnectionResetError:
    sys.exit(7)
"#;

#[test]
fn a_disabled_user_is_off_at_once() {
    let Some(case) = Case::start() else { return };
    let mut command = case.namespace.command("python3");
    let mut download = Running::start(command.arg("-c").arg(DOWNLOAD), None);
    wait_for("the download", Duration::from_secs(20), || {
        let sessions = case.gateway.sessions();
        sessions
            .iter()
            .any(|session| session["state"] == "established")
            .then_some(())
    });
    case.gateway.cli(&["users", "disable", "bob"]).unwrap();
    let status = download.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(7));
    assert!(case.gateway.sessions().is_empty());
}

/// A request and its payload in one segment, and a client that has no more to say: nothing is lost.
#[test]
fn a_client_that_says_all_at_once_and_ends_gets_its_answer() {
    let Some(case) = Case::start() else { return };
    let mut client = case.namespace.command("python3");
    client.arg("-c").arg(
        "import socket, sys\n\
         s = socket.create_connection(('127.0.0.1', 1080), source_address=('127.0.0.9', 0))\n\
         s.sendall(b'\\x05\\x01\\x00' + b'\\x05\\x01\\x00\\x01\\x7f\\x00\\x00\\x01\\x1f\\x40' + b'GET /hosts HTTP/1.0\\r\\n\\r\\n')\n\
         s.shutdown(socket.SHUT_WR)\n\
         data = b''\n\
         while True:\n\
         \x20   got = s.recv(65536)\n\
         \x20   if not got: break\n\
         \x20   data += got\n\
         sys.stdout.buffer.write(data)\n",
    );
    let output = client.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = output.stdout;
    assert_eq!(answer.get(..2), Some(&[5, 0][..]));
    assert_eq!(answer.get(2..4), Some(&[5, 0][..]));
    assert!(
        String::from_utf8_lossy(&answer).contains("web.test"),
        "{answer:?}"
    );
}

/// A datagram there and back by name and by address, one from elsewhere that must not pass, one for a port that is
/// denied, and the end of it all with the connection.
const DATAGRAMS: &str = r#"
import socket, threading
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(('127.0.0.1', 9000))
denied = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
denied.bind(('127.0.0.1', 9001))
denied.settimeout(0.5)
def serve():
    while True:
        data, who = echo.recvfrom(65535)
        echo.sendto(data.upper(), who)
threading.Thread(target=serve, daemon=True).start()
control = socket.create_connection(('127.0.0.1', 1080), source_address=('127.0.0.9', 0))
control.sendall(b'\x05\x01\x00')
assert control.recv(2) == b'\x05\x00'
control.sendall(b'\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00')
reply = control.recv(10)
assert reply[:4] == b'\x05\x00\x00\x01', reply
relay = (socket.inet_ntoa(reply[4:8]), int.from_bytes(reply[8:10], 'big'))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(('127.0.0.9', 0))
client.settimeout(10)
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
other.bind(('127.0.0.8', 0))
by_address = b'\x00\x00\x00\x01\x7f\x00\x00\x01' + (9000).to_bytes(2, 'big')
by_name = b'\x00\x00\x00\x03\x08web.test' + (9000).to_bytes(2, 'big')
to_denied = b'\x00\x00\x00\x01\x7f\x00\x00\x01' + (9001).to_bytes(2, 'big')
other.sendto(by_address + b'stranger', relay)
client.sendto(to_denied + b'denied', relay)
for header, text in [(by_address, b'hello'), (by_name, b'by name'), (by_address, b'x' * 1400)]:
    client.sendto(header + text, relay)
    answer, who = client.recvfrom(65535)
    assert who == relay and answer == by_address + text.upper(), answer
for port in [denied]:
    try:
        print('passed:', port.recvfrom(100))
        raise SystemExit(1)
    except socket.timeout:
        pass
control.close()
print('done')
"#;

#[test]
fn datagrams_go_to_where_they_may_and_back() {
    let Some(case) = Case::start() else { return };
    let mut client = case.namespace.command("python3");
    let output = client.arg("-c").arg(DATAGRAMS).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("done"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    wait_for("the end of the session", Duration::from_secs(10), || {
        case.gateway.sessions().is_empty().then_some(())
    });
    let ended = case.last();
    assert_eq!(ended["counters"]["rx_packets"], 3, "{ended}");
    assert_eq!(ended["counters"]["tx_packets"], 3, "{ended}");
}
