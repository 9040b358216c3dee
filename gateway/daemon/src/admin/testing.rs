//! An admin plane on real sockets, with a real engine and users, and a gateway behind it that only plays along.

use super::*;
use crate::config::{Change, Config};
use sluice_auth::policy::Policy;
use sluice_auth::{AuthRequest, Credentials, Identity, Profile, Secret};
use sluice_auth_backends::{CacheConfig, CredentialCache, HashPool, HashPoolConfig, UsersFile};
use sluice_core::{MemoryJournal, Now, Origin, SessionId, TunnelId};
use sluice_spi::{
    CallInfo, Direction, Fact, LocalRef, MachineKey, PeerAddr, SessionKind, ShardId, TunnelInfo,
};
use sluice_testkit::Seeded;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

/// What the gateway behind the plane was asked to do, in words.
#[derive(Default)]
pub(crate) struct Asked(Mutex<Vec<String>>);

impl Asked {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A gateway that does nothing but say that it did.
struct Player {
    asked: Arc<Asked>,
    engine: Arc<Engine>,
    traces: Arc<Traces>,
    not_ready: Arc<Mutex<Vec<Reason>>>,
    policy: Arc<Policy>,
}

impl Control for Player {
    fn status(&self) -> Answer<'_, RuntimeStatus> {
        let service = |name, on, detail: &str| ServiceStatus {
            name,
            on,
            detail: detail.to_owned(),
        };
        let status = RuntimeStatus {
            started: SystemTime::now() - Duration::from_secs(3700),
            worker_started: SystemTime::now(),
            restarts: 2,
            shards: vec![ShardStatus {
                shard: ShardId(0),
                machines: 1,
                paths: 1,
                lag: Duration::from_millis(3),
            }],
            services: vec![service("data_plane", false, "no TUN device: run as root")],
            sandbox: vec![service("landlock", true, "")],
            store: service("store", true, "redb"),
        };
        Box::pin(async { status })
    }

    fn not_ready(&self) -> Vec<Reason> {
        self.not_ready.lock().unwrap().clone()
    }

    fn warnings(&self) -> Vec<Reason> {
        Vec::new()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let listener = ListenerStatus {
            name: "echo".to_owned(),
            protocol: "echo",
            address: "127.0.0.1:7".parse().unwrap(),
            off: Some("the port is in use".to_owned()),
            half_open: 4,
        };
        vec![listener]
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.clone()
    }

    fn users_changed(&self) {}

    fn describe_session(&self, session: SessionId) -> Answer<'_, Option<Vec<Fact>>> {
        let found = self
            .engine
            .session(session)
            .map(|_| vec![Fact::new("lcp_state", "opened")]);
        Box::pin(async { found })
    }

    fn describe_tunnel(&self, tunnel: TunnelId) -> Answer<'_, Option<Vec<Fact>>> {
        let found = self.engine.tunnel(tunnel).map(|_| vec![Fact::new("window", "4")]);
        Box::pin(async { found })
    }

    fn place_call(&self, call: PlaceCall) -> Answer<'_, Result<(), ControlError>> {
        let label = &call.call.label;
        self.asked.note(format!(
            "call {} from {} as {label}",
            call.call.called, call.listener
        ));
        let result = match call.listener.as_str() {
            "echo" => Ok(()),
            other => Err(ControlError::NotFound(format!("there is no listener {other}"))),
        };
        Box::pin(async { result })
    }

    fn set_trace(&self, session: SessionId, on: bool) -> Answer<'_, Result<(), ControlError>> {
        self.asked.note(format!("trace {on}"));
        if on {
            let (now, at) = (Instant::now(), SystemTime::UNIX_EPOCH);
            self.traces.line(
                session,
                Direction::In,
                "LCP Configure-Request".to_owned(),
                now,
                at,
            );
            self.traces
                .datagram(session, Direction::In, peer(1), b"abc", now, at);
        }
        Box::pin(async { Ok(()) })
    }

    fn apply(&self, config: Arc<Config>, changes: Vec<Change>) -> Answer<'_, Result<Applied, ControlError>> {
        self.asked.note(format!(
            "apply {} changes of {}",
            changes.len(),
            config.gateway.name
        ));
        let notes = vec!["said by the gateway".to_owned()];
        Box::pin(async { Ok(Applied { orphans: 0, notes }) })
    }

    fn restart(&self, lose_sessions: bool) -> Answer<'_, Result<(), ControlError>> {
        self.asked.note(match lose_sessions {
            true => "restart, and lose sessions".to_owned(),
            false => "restart".to_owned(),
        });
        Box::pin(async { Ok(()) })
    }

    fn host_changes(&self) -> Answer<'_, Vec<HostChange>> {
        let change = HostChange {
            what: "route 10.64.0.0/24 dev sluice0".to_owned(),
            done: false,
            detail: String::new(),
        };
        Box::pin(async { vec![change] })
    }
}

pub(crate) fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

pub(crate) fn peer(number: u8) -> PeerAddr {
    PeerAddr {
        remote: SocketAddr::from(([192, 0, 2, number], 1701)),
        local: SocketAddr::from(([192, 0, 2, 254], 1701)),
    }
}

/// The admin plane under test. Ends when dropped.
pub(crate) struct Harness {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) plane: Arc<Plane>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) not_ready: Arc<Mutex<Vec<Reason>>>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) admin_token: String,
    tunnel: TunnelId,
    origin: Origin,
    runtime: Option<tokio::runtime::Runtime>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(crate) const CONFIG: &str = "\
[gateway]
name = \"test\"
state_dir = \"STATE\"
[[listener]]
protocol = \"echo\"
addresses = [\"127.0.0.1\"]
[listener.echo]
secret = \"hunter2hunter2\"
[admin]
listen = \"127.0.0.1:0\"
request_timeout = \"2s\"
max_connections = 8
max_body = 4096
[metrics]
listen = \"127.0.0.1:0\"
[pools.default]
ipv4 = [\"10.64.0.0/24\"]
ipv6 = [\"2001:db8::/56\"]
";

impl Harness {
    pub(crate) fn start() -> Self {
        Self::start_with(|text| text)
    }

    /// Starts with an edited configuration.
    pub(crate) fn start_with(edit: impl FnOnce(String) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let file = dir.join("sluice.toml");
        let text = edit(CONFIG.replace("STATE", &dir.display().to_string()));
        std::fs::write(&file, &text).unwrap();
        let modules = crate::config::testing::MODULES;
        let config = Arc::new(Config::load(Some(&file), modules).unwrap());
        let events = Arc::new(Events::new(7));
        let engine = Arc::new(Engine::new(
            config.engine.clone(),
            Arc::new(MemoryJournal::new()),
            events.clone(),
            Box::new(Seeded::new(1)),
        ));
        let (asked, traces) = (Arc::new(Asked::default()), Arc::new(Traces::default()));
        let not_ready = Arc::new(Mutex::new(Vec::new()));
        let opened = Tokens::open(&config.admin.tokens_file, "2026-01-01T00:00:00Z").unwrap();
        let audit = Audit::new(&config.admin.audit_file, Instant::now());
        audit.check().unwrap();
        let parts = Parts {
            engine: engine.clone(),
            control: Arc::new(Player {
                asked: asked.clone(),
                engine: engine.clone(),
                traces: traces.clone(),
                not_ready: not_ready.clone(),
                policy: Arc::new(config.policy.clone()),
            }),
            users: Arc::new(users(dir)),
            events,
            traces,
            metrics: Arc::new(|| "sluice_build_info 1\n".to_owned()),
            configs: Arc::new(Configs::new(Some(file), modules, config.clone())),
            tokens: opened.tokens,
            audit,
            certificate: config
                .admin
                .tls
                .as_ref()
                .map(|tls| Certificate::load(tls).unwrap()),
        };
        let plane = Plane::new(parts, 9);
        let listeners = Listeners::bind(&config.admin, &config.metrics).unwrap();
        let address = listeners.tcp.as_ref().unwrap().local_addr().unwrap();
        let metrics = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let serving = runtime.spawn(plane.clone().serve(listeners));
        let origin = Origin {
            protocol: "echo",
            listener: "echo".into(),
            shard: ShardId(0),
        };
        let info = TunnelInfo {
            key: MachineKey(1),
            peer: peer(1),
            peer_name: "lac".to_owned(),
            initiated: false,
            facts: Vec::new(),
        };
        let tunnel = engine.tunnel_up(&origin, &info, now()).unwrap();
        Self {
            directory,
            plane,
            engine,
            asked,
            not_ready,
            address,
            metrics,
            admin_token: text_of(&opened.first.unwrap()),
            tunnel,
            origin,
            runtime: Some(runtime),
            serving,
        }
    }

    /// Starts with TLS: with the certificate and key of `keys` in the files `cert.pem` and `key.pem`.
    pub(crate) fn start_with_tls(keys: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Self {
        Self::start_with(|text| {
            let dir = text
                .lines()
                .find_map(|line| line.strip_prefix("state_dir = \""))
                .unwrap();
            let dir = dir.trim_end_matches('"');
            let (certificate, key) = (format!("{dir}/cert.pem"), format!("{dir}/key.pem"));
            std::fs::write(&certificate, keys.cert.pem()).unwrap();
            std::fs::write(&key, keys.signing_key.serialize_pem()).unwrap();
            let tls = format!("[admin]\ntls_certificate = \"{certificate}\"\ntls_key = \"{key}\"\n");
            text.replacen("[admin]\n", &tls, 1)
        })
    }

    /// Whether the plane has ended serving.
    pub(crate) fn is_over(&self) -> bool {
        self.serving.is_finished()
    }

    pub(crate) fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// A session that is being set up.
    pub(crate) fn opening(&self, local: u32, label: Option<&str>) -> SessionId {
        let call = CallInfo {
            kind: SessionKind::Connection,
            peer: peer(1),
            calling: None,
            called: None,
            label: label.map(str::to_owned),
        };
        let opened =
            self.engine
                .session_opening(&self.origin, Some(self.tunnel), LocalRef(local), &call, now());
        opened.unwrap()
    }

    /// An established session of a user.
    pub(crate) fn session(&self, local: u32, user: &str) -> SessionId {
        let id = self.opening(local, None);
        let identity = Identity::parse(user.as_bytes()).unwrap();
        let request = AuthRequest {
            protocol: "echo",
            credentials: Credentials::Pap {
                identity: identity.clone(),
                password: Secret::new("correct horse"),
            },
            peer: Some(peer(1).remote),
            calling: None,
            called: None,
        };
        self.engine.auth_requested(id, &request);
        self.engine.authorize(id, Ok(Profile::new(identity)), now());
        self.engine.session_up(id, &[Fact::new("mru", "1400")], now());
        id
    }

    /// A token with scopes.
    pub(crate) fn token(&self, scopes: &[Scope]) -> String {
        let made = self.plane.tokens().create(scopes.to_vec(), "test", "");
        text_of(&made.unwrap().1)
    }

    /// Asks as the admin.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.ask_as(Some(&self.admin_token), method, path, body)
    }

    /// Asks with a token, or without.
    pub(crate) fn ask_as(&self, token: Option<&str>, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        exchange(&mut stream, &request(token, method, path, body))
    }

    /// Asks over the local socket.
    pub(crate) fn ask_local(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        exchange(&mut stream, &request(None, method, path, body))
    }

    /// Opens an event stream.
    pub(crate) fn follow(&self, query: &str, last: Option<&str>) -> EventLines {
        self.follow_as(&self.admin_token, query, last)
    }

    /// Opens an event stream with a token.
    pub(crate) fn follow_as(&self, token: &str, query: &str, last: Option<&str>) -> EventLines {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        let text = format!(
            "GET /v1/events{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        );
        stream.write_all(text.as_bytes()).unwrap();
        EventLines {
            stream,
            seen: String::new(),
        }
    }

    /// All that is in the audit log.
    pub(crate) fn audit(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("audit.jsonl")).unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.plane.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// The lines of an event stream.
pub(crate) struct EventLines {
    stream: TcpStream,
    seen: String,
}

impl EventLines {
    /// Reads on until the stream has said something, and gives all since the last time.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let mut buffer = [0; 4096];
        while !self.seen.contains(text) {
            let length = self.stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the stream ended: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        std::mem::take(&mut self.seen)
    }

    /// Whether the server ends the stream.
    pub(crate) fn ends(mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }
}

fn text_of(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

fn users(dir: &Path) -> LocalUsers {
    let path = dir.join("users.toml");
    UsersFile::create(&path).unwrap();
    let cache = CacheConfig {
        slots: 64,
        ..CacheConfig::default()
    };
    let hashing = HashPoolConfig {
        threads: 1,
        ..HashPoolConfig::default()
    };
    LocalUsers::new(
        UsersFile::open(&path, vec!["echo"]).unwrap(),
        HashPool::start(hashing).unwrap(),
        CredentialCache::open(tempfile::tempfile().unwrap(), cache)
            .unwrap()
            .0,
    )
}

pub(crate) fn request(token: Option<&str>, method: &str, path: &str, body: &str) -> String {
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}{kind}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request and reads the answer until the server closes.
pub(crate) fn exchange(stream: &mut (impl Read + Write), request: &str) -> Reply {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A server that refuses a request early may reset the connection after its answer.
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply {
        status,
        head,
        body: answer[end + 4..].to_vec(),
    }
}
