//! A gateway, clients that say what the tests have them say, and servers to speak to.

use sluice_tests::rig::{Gateway, Names, Namespace, Say, ready, wait_for};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// `MORE` stands for more keys of the listener, `EGRESS` for more of the outgoing side, and `REST` for more sections.
const CONFIG: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080", "[::1]:1080"]
[listener.socks]
methods = ["password", "none"]
no_auth_from = ["127.0.0.9/32", "::1/128"]
MORE

[pools.default]
ipv4 = ["10.64.0.0/24"]

[egress]
connect_timeout = "2s"
overall_timeout = "4s"
EGRESS
[egress.resolver]
servers = ["127.0.0.53:53"]
hosts = false
timeout = "500ms"
tries = 1

[[rule]]
name = "not-there"
action = "deny"
destinations = ["127.0.0.66/32"]

REST

[[rule]]
name = "own"
action = "allow"
destinations = ["127.0.0.0/8", "::1/128", "192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"]
"#;

/// Longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A client that need not authenticate, and one that must.
pub(crate) const TRUSTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

/// Where nobody answers: packets to it are dropped.
pub(crate) const SILENT: [u8; 4] = [127, 0, 0, 77];
const SILENCE: &str =
    "table ip silence { chain input { type filter hook input priority 0; ip daddr 127.0.0.77 drop; }; }";

/// Where the DNS server is, and what it knows.
pub(crate) const DNS: &str = "127.0.0.53:53";
pub(crate) const NAMES: &[(&str, Say)] = &[
    ("web.test", Say::Address(IpAddr::V4(Ipv4Addr::LOCALHOST))),
    ("six.test", Say::Address(IpAddr::V6(Ipv6Addr::LOCALHOST))),
    (
        "private.test",
        Say::Address(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))),
    ),
    (
        "metadata.test",
        Say::Address(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))),
    ),
    ("broken.test", Say::Failure),
    ("silent.test", Say::Nothing),
];

/// What a test needs beside the usual.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    /// More keys of the listener.
    pub(crate) more: &'a str,
    /// More keys of the outgoing side.
    pub(crate) egress: &'a str,
    /// More sections, before the rule that allows everything of this host.
    pub(crate) rest: &'a str,
    /// The limit of open files.
    pub(crate) files: Option<u32>,
}

pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    pub(crate) names: Option<Names>,
    pub(crate) namespace: Namespace,
    token: String,
}

impl Case {
    /// A gateway with the user bob; `None`: this machine is not for such tests.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&Wanted::default())
    }

    /// The same with more than that.
    pub(crate) fn with(wanted: &Wanted<'_>) -> Option<Self> {
        if !ready() {
            return None;
        }
        let namespace = Namespace::new("odd");
        // Of one host its router says that it is not there, of another that it is forbidden; of others nobody knows.
        namespace.ip("route add unreachable 192.0.2.1/32");
        namespace.ip("route add prohibit 192.0.2.2/32");
        namespace.nft(SILENCE);
        let names = Names::serve(&namespace, DNS.parse().unwrap(), NAMES);
        let config = CONFIG
            .replace("MORE", wanted.more)
            .replace("EGRESS", wanted.egress)
            .replace("REST", wanted.rest);
        let directory = tempfile::tempdir().unwrap();
        let users = [("bob", PASSWORD)];
        let gateway = Gateway::start_within(directory, &namespace, &config, &users, wanted.files);
        let token = gateway.token(&["read"]);
        Some(Self {
            gateway,
            names: Some(names),
            namespace,
            token,
        })
    }

    /// A connection to the gateway from an address of this host.
    pub(crate) fn client(&self, from: Ipv4Addr) -> TcpStream {
        use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};
        let stream = self.namespace.inside(|| {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
            connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1080)).unwrap();
            TcpStream::from(socket)
        });
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A server that takes connections.
    pub(crate) fn listen(&self, at: &str) -> (TcpListener, SocketAddr) {
        let listener = self.namespace.inside(|| TcpListener::bind(at).unwrap());
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    /// A socket for datagrams at an address of this host.
    pub(crate) fn udp(&self, ip: Ipv4Addr) -> UdpSocket {
        let socket = self.namespace.inside(|| UdpSocket::bind((ip, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Everything that the gateway answers to a client that says this and waits for the end.
    #[track_caller]
    pub(crate) fn answer(&self, from: Ipv4Addr, said: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut client = self.client(from);
        client.write_all(said).unwrap();
        to_end(&mut client).unwrap_or_else(|error| panic!("{said:?}: {error}"))
    }

    /// The code of the reply to a request of a client that need not authenticate; the client gets nothing after it.
    #[track_caller]
    pub(crate) fn code(&self, request: &[u8]) -> u8 {
        let answer = self.answer(TRUSTED, &[&[5, 1, 0][..], request].concat());
        let [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0] = answer[..] else {
            panic!("{request:?}: {answer:?}");
        };
        code
    }

    /// How often something was counted.
    pub(crate) fn counted(&self, event: &str) -> u64 {
        let series = format!("sluice_protocol_events_total{{event=\"{event}\",protocol=\"socks\"}}");
        self.gateway.metric(&self.token, &series) as u64
    }

    /// How much was dropped for a reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let series = format!("sluice_packets_dropped_total{{protocol=\"socks\",reason=\"{reason}\"}}");
        self.gateway.metric(&self.token, &series) as u64
    }

    /// Waits until something was counted so often, and not more.
    #[track_caller]
    pub(crate) fn wait_counted(&self, event: &str, times: u64) {
        wait_for(event, PATIENCE, || (self.counted(event) >= times).then_some(()));
        assert_eq!(self.counted(event), times, "{event}");
    }

    /// Waits until so much was dropped for a reason, and not more.
    #[track_caller]
    pub(crate) fn wait_dropped(&self, reason: &str, count: u64) {
        wait_for(reason, PATIENCE, || (self.dropped(reason) >= count).then_some(()));
        assert_eq!(self.dropped(reason), count, "{reason}");
    }

    /// Waits until no session is left; nothing that happened may be an error of the gateway.
    #[track_caller]
    pub(crate) fn calm(&self) {
        wait_for("all sessions to end", PATIENCE, || {
            self.gateway.sessions().is_empty().then_some(())
        });
        let log = self.gateway.log();
        let wrong = log
            .lines()
            .find(|line| line.contains("ERROR") || line.contains("panicked"));
        assert_eq!(wrong, None);
    }
}

/// Reads up to the end of a stream. A reset is an error.
pub(crate) fn to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[track_caller]
pub(crate) fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut octets = vec![0; count];
    stream.read_exact(&mut octets).unwrap();
    octets
}

/// A name and password as RFC 1929 has them.
pub(crate) fn login(user: &[u8], password: &[u8]) -> Vec<u8> {
    let mut message = vec![1, user.len() as u8];
    message.extend_from_slice(user);
    message.push(password.len() as u8);
    message.extend_from_slice(password);
    message
}

/// A request of SOCKS5 for an address.
pub(crate) fn request(command: u8, target: SocketAddr) -> Vec<u8> {
    let mut message = vec![5, command, 0];
    match target {
        SocketAddr::V4(target) => {
            message.push(1);
            message.extend_from_slice(&target.ip().octets());
        }
        SocketAddr::V6(target) => {
            message.push(4);
            message.extend_from_slice(&target.ip().octets());
        }
    }
    message.extend_from_slice(&target.port().to_be_bytes());
    message
}

/// A request of SOCKS5 to connect to a name.
pub(crate) fn by_name(name: &[u8], port: u16) -> Vec<u8> {
    let mut message = vec![5, 1, 0, 3, name.len() as u8];
    message.extend_from_slice(name);
    message.extend_from_slice(&port.to_be_bytes());
    message
}

/// An address of IPv4.
pub(crate) fn at(ip: [u8; 4], port: u16) -> SocketAddr {
    (Ipv4Addr::from(ip), port).into()
}

/// Ends with a reset, not with a FIN.
pub(crate) fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Ends the sending side.
pub(crate) fn finish(stream: &TcpStream) {
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}
