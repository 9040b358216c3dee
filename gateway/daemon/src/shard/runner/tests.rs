//! Shards on loopback sockets, with the real L2TP module, engine and users, against the testkit's LAC. Nothing is
//! waited for by sleeping: each wait ends with what it waits for, or fails after [`LIMIT`].

use super::super::tests::Fragile;
use super::super::{Remote, inbox};
use super::*;
use sluice_auth::{Argon2Cost, Identity, Method, RejectReason, Secret};
use sluice_auth_backends::{
    AuthObserver, AuthenticatorConfig, CacheConfig, CredentialCache, HashPool, HashPoolConfig, LocalUsers,
    User, UsersFile, hash_now,
};
use sluice_core::{
    Allocation, EngineConfig, EngineEvent, Ipv4Block, Journal, MemoryJournal, Observer, PoolConfig, Session,
    SessionQuery, State, TunnelQuery,
};
use sluice_dataplane::mesh;
use sluice_metrics::{Labels, ProtocolLabels};
use sluice_spi::{Originate, PeerAddr, Shards, TerminateCause, config};
use sluice_testkit::Seeded;
use sluice_testkit::lac::storm::{self, StormConfig};
use sluice_testkit::lac::{CallId, Lac, LacConfig, LacEvent};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::sync::OnceLock;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const PASSWORD: &[u8] = b"password";
const CONFIG: &str = "answer_outgoing = true\n\
    answer_login = \"gateway\"\n\
    answer_password = \"unused-here\"\n\
    [ppp]\n\
    echo_interval = \"200ms\"\n\
    echo_failures = 100\n";

fn ask<T>(question: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(question)
}

struct Unseen;

impl AuthObserver for Unseen {
    fn answered(&self, _: &'static str, _: Method, _: Result<(), RejectReason>, _: Duration) {}
}

/// Wakes a shard where the engine has something due for it, as the gateway's own observer does.
#[derive(Default)]
struct Waking(OnceLock<Vec<Remote>>);

impl Observer for Waking {
    fn on_event(&self, event: &EngineEvent) {
        if let (EngineEvent::EndRequested { shard, .. }, Some(remotes)) = (event, self.0.get()) {
            remotes[usize::from(shard.0)].wake();
        }
    }
}

/// A gateway of a few shards.
struct Gateway {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
    remotes: Vec<Remote>,
    threads: Vec<JoinHandle<()>>,
    address: SocketAddr,
    _users: tempfile::TempDir,
}

fn authenticator() -> (tempfile::TempDir, Arc<Authenticator>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    UsersFile::create(&path).unwrap();
    let file = UsersFile::open(&path, vec!["l2tp"]).unwrap();
    for number in 0..4 {
        let name = Identity::parse(format!("user{number}").as_bytes()).unwrap();
        let hash = hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new(PASSWORD)).unwrap();
        file.create_user(&User::new(name, hash)).unwrap();
    }
    let pool = HashPool::start(HashPoolConfig {
        threads: 1,
        queue: 100,
        deadline: Duration::from_secs(10),
    });
    let cache = CacheConfig::for_users(100, Duration::from_secs(600));
    let cache = CredentialCache::open(tempfile::tempfile().unwrap(), cache);
    let users = LocalUsers::new(file, pool.unwrap(), cache.unwrap().0);
    let config = AuthenticatorConfig {
        failure_delay: Duration::ZERO,
        ..AuthenticatorConfig::default()
    };
    let authenticator = Authenticator::new(vec![Arc::new(users)], config, Arc::new(Unseen));
    (directory, Arc::new(authenticator))
}

fn engine(journal: &Arc<MemoryJournal>, observer: Arc<Waking>) -> Arc<Engine> {
    let mut settings = EngineConfig::new(&["l2tp"]);
    settings.defaults.ipv4_pool = Some("default".to_owned());
    settings.pools = vec![PoolConfig {
        name: "default".to_owned(),
        ipv4: vec![Ipv4Block::prefix(Ipv4Addr::new(10, 64, 0, 0), 24).unwrap()],
        ipv4_gateway: None,
        ipv6: Vec::new(),
        dns4: Vec::new(),
        dns6: Vec::new(),
        nbns: Vec::new(),
        allocation: Allocation::default(),
        sticky: Duration::from_secs(60),
        hold_down: Duration::ZERO,
    }];
    // A test must not depend on how busy its host is.
    settings.limits.overload_start = 1001;
    settings.limits.overload_full = 1002;
    Arc::new(Engine::new(
        settings,
        journal.clone(),
        observer,
        Box::new(Seeded::new(1)),
    ))
}

fn metrics() -> Arc<Metrics> {
    let descriptor = sluice_registry::module("l2tp").unwrap().descriptor();
    let labels = Labels {
        protocols: vec![ProtocolLabels {
            name: descriptor.name,
            drop_reasons: descriptor.drop_reasons.to_vec(),
            events: descriptor.counters,
        }],
        ..Labels::default()
    };
    Arc::new(Metrics::new(&labels).unwrap())
}

/// The part of a group of sockets that is one shard's.
/// How targets would be reached: as the embedded default says.
fn reach() -> Arc<ArcSwap<Reach>> {
    let config = crate::config::Config::load(None, sluice_registry::MODULES).unwrap();
    Arc::new(ArcSwap::from_pointee(Reach {
        egress: sluice_egress::Egress::new(Default::default(), None).unwrap(),
        config: config.egress,
    }))
}

fn listener(
    module: &'static dyn Module,
    factory: &Arc<dyn Factory>,
    shard: ShardId,
    shards: Shards,
    socket: UdpSocket,
) -> ListenerSetup {
    let seed = 2 + u64::from(shard.0);
    ListenerSetup {
        streams: Vec::new(),
        intake: Intake::default(),
        origin: Origin {
            protocol: "l2tp",
            listener: "test".into(),
            shard,
        },
        module,
        factory: factory.clone(),
        front: factory.front(shard, shards, Box::new(Seeded::new(seed))),
        sockets: vec![socket],
    }
}

impl Gateway {
    /// Starts shards that go on with what the journal has. With port 0, any port.
    fn start(journal: &Arc<MemoryJournal>, address: &str, count: u16) -> Self {
        Self::with_front(journal, address, count, |front| front)
    }

    /// The same with a change to each front.
    fn with_front(
        journal: &Arc<MemoryJournal>,
        address: &str,
        count: u16,
        change: impl Fn(Box<dyn Front>) -> Box<dyn Front>,
    ) -> Self {
        let observer = Arc::new(Waking::default());
        let engine = engine(journal, observer.clone());
        let shards = Shards::new(count);
        let shard_of = |key: sluice_spi::MachineKey| shards.of_id(u16::try_from(key.0).unwrap());
        let loaded = engine.load(journal.load().unwrap(), &shard_of, clock());
        let module = sluice_registry::module("l2tp").unwrap();
        let factory: Arc<dyn Factory> = config::read("test", CONFIG, |root| module.configure(root))
            .unwrap()
            .into();
        let group = UdpSocket::bind_group(address.parse().unwrap(), shards, module).unwrap();
        let address = group[0].local_addr();
        let (users, authenticator) = authenticator();
        let (metrics, traces, routes) = (metrics(), Arc::new(Traces::default()), Arc::new(Routes::new(64)));
        let (remotes, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| inbox()).unzip();
        assert!(observer.0.set(remotes.clone()).is_ok());
        let ports = mesh(remotes.iter().map(Remote::waker).collect());
        let parts = (0..).zip(group).zip(ports).zip(inboxes);
        let threads = parts.map(|(((number, socket), mesh), inbox)| {
            let shard = ShardId(number);
            let mut listener = listener(module, &factory, shard, shards, socket);
            listener.front = listener.front.map(&change);
            let own = loaded
                .tunnels
                .iter()
                .filter(|tunnel| tunnel.origin.shard == shard);
            let setup = Setup {
                reach: reach(),
                policy: Arc::default(),
                ledger: Arc::default(),
                shard,
                engine: engine.clone(),
                authenticator: authenticator.clone(),
                acceptance: None,
                metrics: metrics.clone(),
                traces: traces.clone(),
                entropy: Box::new(Seeded::new(100 + u64::from(number))),
                listeners: vec![listener],
                tun: None,
                mesh,
                routes: routes.clone(),
                path_capacity: 1024,
                restored: Restored {
                    tunnels: own.map(|tunnel| (0, tunnel.clone(), None)).collect(),
                    connections: Vec::new(),
                },
            };
            start(setup, inbox).unwrap()
        });
        Self {
            threads: threads.collect(),
            engine,
            metrics,
            traces,
            remotes,
            address,
            _users: users,
        }
    }

    fn sessions(&self) -> Vec<Session> {
        self.engine.sessions(&SessionQuery::default()).items
    }

    fn established(&self) -> usize {
        let sessions = self.sessions().into_iter();
        sessions
            .filter(|session| session.state == State::Established)
            .count()
    }

    /// Waits for the threads, which were told to end.
    fn join(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A LAC with its socket.
struct Client {
    socket: std::net::UdpSocket,
    lac: Lac,
    up: usize,
    down: Vec<String>,
    over: bool,
}

impl Client {
    fn dial(gateway: SocketAddr, seed: u64, config: LacConfig) -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(gateway).unwrap();
        Self {
            socket,
            lac: Lac::dial(Arc::new(config), 7, Seeded::new(seed), Instant::now()),
            up: 0,
            down: Vec::new(),
            over: false,
        }
    }

    /// Runs until something is so.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + LIMIT;
        loop {
            let now = Instant::now();
            self.lac.handle_timeout(now);
            while let Some(packet) = self.lac.poll_transmit() {
                // While nobody listens, the kernel may say so here.
                let _ = self.socket.send(&packet.bytes);
            }
            while let Some(event) = self.lac.poll_event() {
                match event {
                    LacEvent::CallUp { .. } => self.up += 1,
                    LacEvent::CallDown { reason, .. } => self.down.push(reason),
                    LacEvent::TunnelDown { .. } => self.over = true,
                    LacEvent::TunnelUp | LacEvent::Ip { .. } => {}
                }
            }
            if is_so(self) {
                return;
            }
            assert!(now < limit, "waited for: {what}; ended: {:?}", self.down);
            self.read_for(Duration::from_millis(5));
        }
    }

    fn read_for(&mut self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 2000];
        if let Ok(length) = self.socket.recv(&mut buffer) {
            self.lac.handle_datagram(&buffer[..length], Instant::now());
        }
    }
}

fn lac() -> LacConfig {
    LacConfig {
        calls: 3,
        ipv6: false,
        user: "user{}".to_owned(),
        password: PASSWORD.to_vec(),
        retransmit: Duration::from_millis(500),
        ..LacConfig::default()
    }
}

fn call() -> Originate {
    Originate {
        label: "somebody".to_owned(),
        called: "5551234".to_owned(),
        sub_address: String::new(),
        speed: (9600, 64_000),
        login: None,
    }
}

#[test]
fn clients_come_up_are_described_and_ended() {
    let gateway = Gateway::start(&Arc::new(MemoryJournal::new()), "127.0.0.1:0", 1);
    let remote = gateway.remotes[0].clone();
    let mut client = Client::dial(gateway.address, 4, lac());
    client.until("three calls are up", |client| client.up == 3);
    client.until("three sessions are established", |_| gateway.established() == 3);
    let session = gateway.sessions()[0].clone();
    assert!(
        !ask(remote.describe_session(session.id))
            .unwrap()
            .unwrap()
            .is_empty()
    );
    assert!(
        !ask(remote.describe_tunnel(session.tunnel.unwrap()))
            .unwrap()
            .unwrap()
            .is_empty()
    );
    client.until("the status is shown", |_| {
        let status = remote.status();
        (status.machines, status.paths, status.half_open) == (1, 3, vec![0])
    });

    let dropped = &gateway.metrics.protocol("l2tp").unwrap().dropped;
    let dropped: Vec<_> = dropped.iter().filter(|(_, count)| count.get() > 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");

    assert!(gateway.engine.end_session(session.id, TerminateCause::AdminReset));
    client.until("one call is ended", |client| client.down.len() == 1);
    client.until("two sessions are left", |_| gateway.sessions().len() == 2);
    assert_eq!(ask(remote.describe_session(session.id)), Ok(None));
    assert_eq!(ask(remote.trace(session.id, true)), Ok(false));

    assert_eq!(ask(remote.close_all(TerminateCause::AdminReboot)), Ok(()));
    client.until("the tunnel is over", |client| client.over);
    assert_eq!((client.down.len(), gateway.sessions().len()), (3, 0));
    assert_eq!(ask(remote.describe_tunnel(session.tunnel.unwrap())), Ok(None));
    assert_eq!(ask(remote.end()), Ok(()));
    gateway.join();
    assert!(ask(remote.end()).is_err());
}

#[test]
fn a_wrong_password_is_refused() {
    let gateway = Gateway::start(&Arc::new(MemoryJournal::new()), "127.0.0.1:0", 1);
    let config = LacConfig {
        calls: 1,
        password: b"wrong".to_vec(),
        ..lac()
    };
    let mut client = Client::dial(gateway.address, 5, config);
    client.until("the call is refused", |client| client.down.len() == 1);
    assert_eq!(client.up, 0);
    client.until("nothing is left", |_| gateway.sessions().is_empty());
    assert_eq!(ask(gateway.remotes[0].end()), Ok(()));
    gateway.join();
}

#[test]
fn the_gateway_calls_and_counts_what_it_refuses() {
    let gateway = Gateway::start(&Arc::new(MemoryJournal::new()), "127.0.0.1:0", 1);
    let remote = gateway.remotes[0].clone();
    let far = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    far.set_read_timeout(Some(LIMIT)).unwrap();
    let peer = PeerAddr {
        remote: far.local_addr().unwrap(),
        local: gateway.address,
    };
    assert_eq!(ask(remote.dial(0, peer, call())), Ok(Ok(())));
    assert!(ask(remote.dial(1, peer, call())).unwrap().is_err());
    let mut buffer = [0; 2000];
    let (length, from) = far.recv_from(&mut buffer).unwrap();
    assert_eq!(from, gateway.address);
    // A control message whose first AVP says that it is an SCCRQ (RFC 2661, 6.1).
    assert_eq!(
        (buffer[..2].to_vec(), buffer[12..20].to_vec(), length > 60),
        (vec![0xc8, 0x02], vec![0x80, 0x08, 0, 0, 0, 0, 0, 1], true)
    );
    assert_eq!(
        ask(remote.call("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), call())),
        Ok(false)
    );

    // L2F (RFC 2341) and something of no known version.
    far.send_to(&[0xd0, 0x01, 1, 0], gateway.address).unwrap();
    far.send_to(&[0, 4], gateway.address).unwrap();
    let limit = Instant::now() + LIMIT;
    let dropped = |reason| {
        gateway
            .metrics
            .protocol("l2tp")
            .unwrap()
            .dropped
            .get(reason)
            .get()
    };
    while (dropped("l2f"), dropped("version")) != (1, 1) {
        assert!(Instant::now() < limit, "the drops are not counted");
        std::thread::yield_now();
    }
    assert_eq!(ask(remote.end()), Ok(()));
    gateway.join();
}

#[test]
fn sessions_go_on_in_a_new_shard_and_are_traced() {
    let journal = Arc::new(MemoryJournal::new());
    let gateway = Gateway::start(&journal, "127.0.0.1:0", 1);
    let mut client = Client::dial(gateway.address, 6, lac());
    client.until("three sessions are established", |client| {
        client.up == 3 && gateway.established() == 3
    });
    let names = |gateway: &Gateway| -> Vec<_> {
        let sessions = gateway.sessions().into_iter();
        sessions
            .map(|session| (session.id, session.addresses()))
            .collect()
    };
    let (before, address) = (names(&gateway), gateway.address);
    assert_eq!(ask(gateway.remotes[0].freeze()), Ok(()));
    gateway.join();

    let gateway = Gateway::start(&journal, &address.to_string(), 1);
    client.until("all are established again", |_| gateway.established() == 3);
    assert_eq!(names(&gateway), before);
    let id = before[0].0;
    let (now, wall) = (Instant::now(), SystemTime::now());
    gateway
        .traces
        .start(id, Duration::from_secs(60), true, now, wall)
        .unwrap();
    assert_eq!(ask(gateway.remotes[0].trace(id, true)), Ok(true));
    let lines = || gateway.traces.view(id, 0, 100, Instant::now()).unwrap();
    client.until("an echo is answered over the restored path", |_| {
        let text = serde_json::to_string(&lines()).unwrap();
        text.contains("Echo-Request") && text.contains("Echo-Reply")
    });
    assert_eq!((client.down.len(), client.over), (0, false));
    // The packets too, as they were on the wire: LCP, Echo-Request and Echo-Reply (RFC 1661, 5.8).
    let capture = gateway.traces.capture(id).unwrap();
    for code in [9, 10] {
        let frame = [0xff, 0x03, 0xc0, 0x21, code];
        assert!(capture.windows(frame.len()).any(|bytes| bytes == frame), "{code}");
    }

    client.lac.hang_up(CallId(0), Instant::now());
    client.until("a call has ended", |_| gateway.sessions().len() == 2);
    client.lac.close(Instant::now());
    client.until("the tunnel is over", |client| client.over);
    assert_eq!(gateway.sessions().len(), 0);
    assert_eq!(gateway.engine.tunnels(&TunnelQuery::default()).items.len(), 0);
    assert_eq!(ask(gateway.remotes[0].end()), Ok(()));
    gateway.join();
}

/// Tells the test below that it is to be the process that ends.
const DOOMED: &str = "SLUICE_TEST_DOOMED";

#[test]
fn a_loop_that_panics_ends_the_process_with_a_word() {
    if std::env::var_os(DOOMED).is_some() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        let gateway = Gateway::with_front(&Arc::new(MemoryJournal::new()), "127.0.0.1:0", 1, |front| {
            let doomed = Some(Instant::now());
            Box::new(Fragile { front, doomed })
        });
        gateway.join();
        return;
    }
    let name = "shard::runner::tests::a_loop_that_panics_ends_the_process_with_a_word";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let command = command.args(["--exact", name, "--nocapture"]).env(DOOMED, "1");
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{words}");
    assert!(words.contains("the loop of a shard panicked"), "{words}");
}

#[test]
fn many_clients_come_up_on_two_shards() {
    let gateway = Gateway::start(&Arc::new(MemoryJournal::new()), "127.0.0.1:0", 2);
    let report = storm::run(StormConfig {
        server: gateway.address,
        tunnels: 16,
        sockets: 16,
        local: None,
        ramp: Duration::ZERO,
        limit: LIMIT,
        hold: Duration::ZERO,
        close: true,
        seed: 8,
        lac: LacConfig {
            calls: 4,
            user: "user1".to_owned(),
            ..lac()
        },
    });
    let report = report.unwrap();
    assert_eq!(
        (report.up, report.lost.len(), report.closed),
        (64, 0, 16),
        "{report:?}"
    );
    assert!(gateway.sessions().is_empty());
    // Which shard gets a tunnel is up to the kernel, by the client's port; that all 16 go to one does not happen.
    for remote in &gateway.remotes {
        assert_eq!(ask(remote.freeze()), Ok(()));
        assert!(remote.status().machines > 0, "one shard did all the work");
    }
    gateway.join();
}
