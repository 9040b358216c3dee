//! What policy limits for SOCKS sessions, as curl and plain clients meet it. Rates are asserted as upper bounds alone, so
//! that a slow machine proves nothing wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use serde_json::Value;
use sluice_tests::rig::{Gateway, Namespace, Running, ready, wait_for};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";

const CONFIG: &str = r#"
[gateway]
name = "limits"
state_dir = "{dir}/state"
shards = 2

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080"]
[listener.socks]
methods = ["password", "none"]
no_auth_from = ["127.0.0.9/32"]

[pools.default]
ipv4 = ["10.64.0.0/24"]
"#;

/// A rule that opens the web servers, with some more keys.
fn web(more: &str) -> String {
    format!(
        "{CONFIG}\n[[rule]]\nname = \"web\"\naction = \"allow\"\ndestinations = [\"127.0.0.0/8\"]\n\
         ports = [\"8000\", \"8001\", \"9000\"]\n{more}\n"
    )
}

/// A client as a user, or nobody: says the reply to its CONNECT, and where it is 0 downloads a file, slowly where it is
/// told to. It says how it ended.
const CLIENT: &str = r#"
import socket, sys, time
user, port, pace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
source = '127.0.0.9' if user == '-' else '127.0.0.1'
s = socket.create_connection(('127.0.0.1', 1080), source_address=(source, 0))
if user == '4':
    s.close()
    s = socket.create_connection(('127.0.0.1', 1080), source_address=('127.0.0.9', 0))
    s.sendall(b'\x04\x01' + port.to_bytes(2, 'big') + b'\x7f\x00\x00\x01\x00')
    print('reply', s.recv(8)[1], flush=True)
    sys.exit(0)
if user == '-':
    s.sendall(b'\x05\x01\x00')
    assert s.recv(2) == b'\x05\x00'
else:
    s.sendall(b'\x05\x01\x02')
    assert s.recv(2) == b'\x05\x02'
    password = b'correct horse battery'
    s.sendall(b'\x01' + bytes([len(user)]) + user.encode() + bytes([len(password)]) + password)
    assert s.recv(2) == b'\x01\x00'
s.sendall(b'\x05\x01\x00\x01\x7f\x00\x00\x01' + port.to_bytes(2, 'big'))
reply = s.recv(10)
print('reply', reply[1], flush=True)
if reply[1] != 0 or pace < 0:
    sys.exit(0)
s.sendall(b'GET /file HTTP/1.0\r\n\r\n')
total = 0
try:
    while True:
        data = s.recv(2000)
        if not data: break
        total += len(data)
        time.sleep(pace)
    print('end', total, flush=True)
except ConnectionResetError:
    print('reset', total, flush=True)
"#;

struct Case {
    gateway: Gateway,
    namespace: Namespace,
    _web: Vec<Running>,
}

impl Case {
    /// A gateway with the users bob and ann, and two web servers with a file of 20 MB.
    fn start(config: &str) -> Option<Self> {
        if !ready() {
            return None;
        }
        let namespace = Namespace::new("limits");
        let gateway = Gateway::start(&namespace, config, &[("bob", PASSWORD), ("ann", PASSWORD)]);
        let directory = gateway.directory().to_owned();
        std::fs::write(directory.join("file"), vec![b'x'; 20_000_000]).unwrap();
        std::fs::write(directory.join("small"), vec![b'y'; 1_500_000]).unwrap();
        std::fs::write(directory.join("client.py"), CLIENT).unwrap();
        let web = [8000, 8001].map(|port: u16| serve(&namespace, &directory, port));
        Some(Self {
            gateway,
            namespace,
            _web: web.into(),
        })
    }

    /// Begins to download a file by curl, as a user.
    fn curl(&self, user: &str, file: &str) -> Client {
        let mut command = self.namespace.command("curl");
        command
            .args(["-s", "--max-time", "60", "-o", "/dev/null"])
            .args(["-w", "%{size_download}"])
            .args(["-x", "socks5h://127.0.0.1:1080", "--noproxy", "", "--proxy-user"])
            .arg(format!("{user}:{PASSWORD}"))
            .arg(format!("http://127.0.0.1:8000/{file}"));
        Client(Some(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// A client that takes its download so slowly, in seconds for each 2,000 bytes; below 0: not at all.
    fn client(&self, user: &str, port: u16, pace: f64) -> Client {
        let mut command = self.namespace.command("python3");
        command.arg(self.gateway.directory().join("client.py")).args([
            user,
            &port.to_string(),
            &pace.to_string(),
        ]);
        Client(Some(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// The reply to a request of a user, in words.
    fn reply(&self, user: &str) -> String {
        ended(self.client(user, 8000, -1.0))
    }

    /// What ended last for this reason; it may take a moment until it is known.
    #[track_caller]
    fn ended_with(&self, code: &str) -> Value {
        wait_for(code, Duration::from_secs(20), || {
            let page = self.gateway.json(&["sessions", "list", "--history"]);
            let items = page["items"].as_array().unwrap();
            items.iter().find(|ended| ended["end"]["code"] == code).cloned()
        })
    }

    fn wait_sessions(&self, count: usize) {
        wait_for("sessions", Duration::from_secs(20), || {
            let sessions = self.gateway.sessions();
            let up = sessions.iter().filter(|one| one["state"] == "established");
            (up.count() == count).then_some(())
        });
    }

    fn metric(&self, series: &str) -> f64 {
        let token = self.gateway.token(&["read"]);
        self.gateway.metric(&token, series)
    }
}

/// A client that ends with the test.
struct Client(Option<Child>);

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn serve(namespace: &Namespace, directory: &Path, port: u16) -> Running {
    let mut command = namespace.command("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
    command.arg(directory).arg(port.to_string());
    let running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()), None);
    namespace.wait_listening(port);
    running
}

/// What a client said until it ended.
fn ended(mut client: Client) -> String {
    let output = client.0.take().unwrap().wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const RATE: f64 = 500_000.0;
const BURST: f64 = 65_536.0;

/// The least time that so many bytes take.
fn least(bytes: f64, bursts: f64) -> Duration {
    Duration::from_secs_f64((bytes - bursts * BURST) / RATE)
}

#[test]
fn a_session_is_no_faster_than_its_rate_also_over_a_restart() {
    let rule = web("rate_down = \"500kB\"\nburst_down = \"64KiB\"");
    let Some(mut case) = Case::start(&rule) else {
        return;
    };
    let begun = Instant::now();
    let curl = case.curl("bob", "small");
    case.wait_sessions(1);
    case.gateway.restart();
    assert_eq!(ended(curl), "1500000");
    // The bucket is a new one after the restart.
    let (took, least) = (begun.elapsed(), least(1_500_000.0, 2.0));
    assert!(took >= least, "{took:?} of {least:?}");
}

#[test]
fn all_sessions_of_a_user_share_a_rate() {
    let rule = web("per_user = { rate_down = \"500kB\", burst_down = \"64KiB\" }");
    let Some(case) = Case::start(&rule) else { return };
    let begun = Instant::now();
    let clients = [(); 3].map(|()| case.curl("bob", "small"));
    for client in clients {
        assert_eq!(ended(client), "1500000");
    }
    let (took, least) = (begun.elapsed(), least(4_500_000.0, 1.0));
    assert!(took >= least, "{took:?} of {least:?}");
}

#[test]
fn users_and_sources_have_so_many_sessions_and_no_more() {
    let Some(case) = Case::start(&web("per_user = { sessions = 2 }\nper_source = { sessions = 3 }")) else {
        return;
    };
    let first = case.client("bob", 8000, 0.05);
    let second = case.client("bob", 8000, 0.05);
    case.wait_sessions(2);
    assert_eq!(case.reply("bob"), "reply 2");
    let refused = case.ended_with("user_sessions");
    assert_eq!(refused["end"]["cause"], "nas-request", "{refused}");
    let series = "sluice_policy_refusals_total{protocol=\"socks\",reason=\"user_sessions\"}";
    assert_eq!(case.metric(series), 1.0);
    let third = case.client("ann", 8000, 0.05);
    case.wait_sessions(3);
    assert_eq!(case.reply("ann"), "reply 2", "three from one address");
    case.ended_with("source_sessions");
    drop(first);
    case.wait_sessions(2);
    assert_eq!(case.reply("bob"), "reply 0");
    // SOCKS4 has one word for it: 91.
    let others = [(); 3].map(|()| case.client("-", 8000, 0.05));
    case.wait_sessions(5);
    assert_eq!(case.reply("4"), "reply 91");
    drop((second, third, others));
}

#[test]
fn new_sessions_come_no_faster_than_they_may() {
    let rule = web("per_user = { new_sessions_per_second = 1, new_sessions_burst = 2 }");
    let Some(case) = Case::start(&rule) else { return };
    let begun = Instant::now();
    let clients = [(); 20].map(|()| case.client("bob", 8000, -1.0));
    let replies = clients.map(ended);
    let took = begun.elapsed().as_secs() as usize;
    let admitted = replies.iter().filter(|reply| *reply == "reply 0").count();
    assert!((2..=3 + took).contains(&admitted), "{replies:?} in {took} s");
    assert!(
        admitted == 20 || replies.iter().any(|reply| reply == "reply 2"),
        "{replies:?}"
    );
    assert_eq!(case.reply("ann"), "reply 0", "others are not concerned");
}

#[test]
fn a_quota_ends_a_session_and_refuses_the_next_until_its_period_is_over() {
    let quotas = "rate_down = \"500kB\"\nper_user = { quota = \"day\" }\n[quotas.day]\nbytes = \"800kB\"\nperiod = \"day\"";
    let Some(mut case) = Case::start(&web(quotas)) else {
        return;
    };
    let got: u64 = ended(case.curl("bob", "file")).parse().unwrap();
    // At most what flows in the second until it is found, and what was on its way.
    assert!((400_000..3_000_000).contains(&got), "{got}");
    let cut = case.ended_with("quota_used_up");
    assert_eq!(cut["end"]["cause"], "nas-request", "{cut}");
    let revoked = "sluice_policy_terminations_total{protocol=\"socks\",reason=\"quota_used_up\"}";
    assert_eq!(case.metric(revoked), 1.0);
    assert_eq!(case.reply("bob"), "reply 2");
    case.ended_with("user_quota");
    assert_eq!(case.reply("ann"), "reply 0");
    case.gateway.restart();
    assert_eq!(case.reply("bob"), "reply 2", "after a restart");
    case.gateway.stop();
    case.gateway.start_again(&case.namespace);
    assert_eq!(case.reply("bob"), "reply 2", "after the end");
}

#[test]
fn a_crash_forgets_no_more_of_a_quota_than_some_seconds() {
    let quotas = "per_user = { quota = \"day\" }\n[quotas.day]\nbytes = \"1MB\"\nperiod = \"day\"";
    let Some(case) = Case::start(&web(quotas)) else {
        return;
    };
    ended(case.curl("bob", "small"));
    wait_for("the quota", Duration::from_secs(10), || {
        (case.reply("bob") == "reply 2").then_some(())
    });
    // Until it is on record; ann's first bytes on record do not matter.
    std::thread::sleep(Duration::from_secs(7));
    let restarts = case.gateway.status().unwrap()["restarts"].clone();
    let workers =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", case.gateway.pid())).unwrap();
    for worker in workers.split_whitespace() {
        std::process::Command::new("kill")
            .args(["-9", worker])
            .status()
            .unwrap();
    }
    wait_for("the next worker", Duration::from_secs(20), || {
        let status = case.gateway.status()?;
        (status["restarts"] != restarts && status["ready"] == true).then_some(())
    });
    assert_eq!(case.reply("bob"), "reply 2");
    assert_eq!(case.reply("ann"), "reply 0");
}

#[test]
fn rules_and_timeouts_that_come_later_hold_for_live_sessions() {
    let Some(case) = Case::start(&web("")) else { return };
    let (kept, cut) = (case.client("bob", 8000, 60.0), case.client("bob", 8001, 0.005));
    case.wait_sessions(2);
    let deny = web("").replace(
        "[[rule]]",
        "[[rule]]\nname = \"not-there\"\naction = \"deny\"\nports = [\"8001\"]\n[[rule]]",
    );
    case.gateway.configure(&deny);
    case.gateway.must(&["reload"]);
    assert!(ended(cut).contains("reset"));
    let end = case.ended_with("denied");
    assert!(end["end"]["text"].as_str().unwrap().contains("any more"), "{end}");
    case.wait_sessions(1);
    // And a timeout holds for what goes on: this client takes nothing any more, so that nothing moves.
    case.gateway.configure(&web("idle_timeout = \"1s\""));
    case.gateway.must(&["reload"]);
    case.ended_with("idle");
    drop(kept);
}

#[test]
fn a_user_in_another_group_loses_what_the_group_had() {
    let groups = web("groups = [\"staff\"]");
    let Some(case) = Case::start(&groups) else { return };
    assert_eq!(case.reply("bob"), "reply 2");
    case.gateway
        .must(&["users", "change", "bob", "--groups", "staff"]);
    case.gateway
        .must(&["users", "change", "ann", "--groups", "staff"]);
    let (bobs, anns) = (case.client("bob", 8000, 0.005), case.client("ann", 8000, 0.005));
    case.wait_sessions(2);
    case.gateway
        .must(&["users", "change", "bob", "--groups", "guests"]);
    assert!(ended(bobs).contains("reset"));
    case.wait_sessions(1);
    case.gateway.must(&["users", "disable", "ann"]);
    assert!(ended(anns).contains("reset"));
}

/// Datagrams as fast as they go, echoed by a server of our own; says how many bytes came back in some seconds.
const DATAGRAMS: &str = r#"
import socket, threading, time
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echo.bind(('127.0.0.1', 9000))
def serve():
    while True:
        data, who = echo.recvfrom(65535)
        echo.sendto(data, who)
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
client.settimeout(0.05)
header = b'\x00\x00\x00\x01\x7f\x00\x00\x01' + (9000).to_bytes(2, 'big')
begun, back = time.monotonic(), 0
while time.monotonic() - begun < 3:
    client.sendto(header + b'x' * 1000, relay)
    try:
        while True:
            data, _ = client.recvfrom(65535)
            back += len(data) - 10
            client.settimeout(0)
    except (BlockingIOError, socket.timeout):
        client.settimeout(0.001)
print(back, time.monotonic() - begun)
"#;

#[test]
fn datagrams_are_no_faster_than_the_rule_of_their_target_says() {
    let rule = web("commands = [\"udp\"]\nrate_up = \"50kB\"\nburst_up = \"64KiB\"");
    let Some(case) = Case::start(&rule) else { return };
    let mut client = case.namespace.command("python3");
    let output = client.arg("-c").arg(DATAGRAMS).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = said
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let [bytes, seconds] = numbers[..] else {
        panic!("{said}")
    };
    // The first batch passes before the rule of its target is known, and one more may be ahead.
    let most = 50_000.0 * seconds + BURST + 2.0 * 65_536.0;
    assert!(bytes > 0.0 && bytes <= most, "{bytes} of {most} in {seconds} s");
}
