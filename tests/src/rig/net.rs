//! Namespaces and the links between them.

use super::{run, sh, wait_for};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace made by this process, deleted when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    pub fn new(purpose: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-it-{}-{number}-{purpose}", std::process::id());
        sh(&format!("ip netns add {name}")).unwrap_or_else(|error| panic!("{error}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Moves the calling thread inside, for good: the sockets it opens belong to the namespace.
    pub fn enter(&self) {
        let place = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs something in a thread of its own inside, such as opening a socket that is used elsewhere.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// Runs `ip` with these words inside; panics with its words where it fails.
    pub fn ip(&self, words: &str) -> String {
        sh(&format!("ip -n {} {words}", self.name)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs words split at spaces inside.
    pub fn sh(&self, line: &str) -> Result<String, String> {
        sh(&format!("ip netns exec {} {line}", self.name))
    }

    /// Loads an nftables rule set inside.
    pub fn nft(&self, rules: &str) {
        run(self.command("nft").arg(rules)).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Lets the namespace forward IPv4, as a router does.
    pub fn forward(&self) {
        self.sh("sysctl -qw net.ipv4.ip_forward=1")
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until something inside listens on a TCP port.
    #[track_caller]
    pub fn wait_listening(&self, port: u16) {
        wait_for("a TCP listener", Duration::from_secs(10), || {
            let lines = self.sh(&format!("ss -Hltn sport = :{port}")).ok()?;
            (!lines.trim().is_empty()).then_some(())
        });
    }

    /// Joins two namespaces by a pair of interfaces.
    pub fn join(&self, interface: &str, other: &Namespace, other_interface: &str) {
        self.ip(&format!(
            "link add {interface} type veth peer name {other_interface} netns {}",
            other.name
        ));
        self.ip(&format!("link set {interface} up"));
        other.ip(&format!("link set {other_interface} up"));
    }
}

/// A program in a namespace; killed when dropped. Its standard input is open, and silent, until then.
pub struct Running {
    child: Child,
    _input: Option<ChildStdin>,
}

impl Running {
    /// Starts a command. Its input is a pipe that nothing is written to, unless `input` says otherwise.
    #[track_caller]
    pub fn start(command: &mut Command, input: Option<Stdio>) -> Self {
        let mut child = command
            .stdin(input.unwrap_or_else(Stdio::piped))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            _input: child.stdin.take(),
            child,
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end in order, and waits for that; it is killed where it does not.
    pub fn end(&mut self, limit: Duration) {
        let start = Instant::now();
        let _ = sh(&format!("kill -TERM {}", self.pid()));
        while self.is_running() && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait_for("a program to end", limit, || self.child.try_wait().ok().flatten())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = sh(&format!("ip netns del {}", self.name)) {
            eprintln!("{error}");
        }
    }
}

/// Where the gateway and its clients live: `edge` with the clients' bridge `br0` (10.99.0.1/24, fd99::1/64),
/// and `world` beyond the gateway (198.51.100.2, 2001:db8:99::2), which knows no way back to the pools.
pub struct Lab {
    /// The gateway's namespace.
    pub edge: Namespace,
    /// A host beyond the gateway.
    pub world: Namespace,
}

impl Lab {
    /// Address of the gateway on the clients' bridge.
    pub const GATEWAY: &'static str = "10.99.0.1";
    /// The same for IPv6 as outer transport.
    pub const GATEWAY6: &'static str = "fd99::1";
    /// Address of the host beyond the gateway.
    pub const WORLD: &'static str = "198.51.100.2";
    /// The same for IPv6.
    pub const WORLD6: &'static str = "2001:db8:99::2";

    /// Makes both namespaces.
    pub fn new() -> Self {
        let (edge, world) = (Namespace::new("edge"), Namespace::new("world"));
        edge.ip("link add br0 type bridge forward_delay 0");
        edge.ip("addr add 10.99.0.1/24 dev br0");
        edge.ip("addr add fd99::1/64 dev br0 nodad");
        edge.ip("link set br0 up");
        edge.join("up0", &world, "up0");
        edge.ip("addr add 198.51.100.1/24 dev up0");
        edge.ip("addr add 2001:db8:99::1/64 dev up0 nodad");
        world.ip("addr add 198.51.100.2/24 dev up0");
        world.ip("addr add 2001:db8:99::2/64 dev up0 nodad");
        Self { edge, world }
    }

    /// Tells the world the way back to a prefix of the gateway's pools.
    pub fn route_back(&self, prefix: &str) {
        let via = if prefix.contains(':') {
            "2001:db8:99::1"
        } else {
            "198.51.100.1"
        };
        self.world.ip(&format!("route add {prefix} via {via}"));
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}
