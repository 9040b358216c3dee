//! A gateway, a client that speaks SOCKS, and servers to speak to.

use sluice_tests::rig::{Gateway, Namespace, ready};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) const CONFIG: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080"]
[listener.socks]
methods = ["password"]

[pools.default]
ipv4 = ["10.64.0.0/24"]

[[rule]]
name = "own"
action = "allow"
destinations = ["127.0.0.0/8"]
"#;

/// Longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1080);

pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    pub(crate) namespace: Namespace,
}

/// An address of a request or reply: IPv4 alone.
fn put(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else {
        panic!("{address} is not of IPv4")
    };
    let mut octets = vec![1];
    octets.extend_from_slice(&address.ip().octets());
    octets.extend_from_slice(&address.port().to_be_bytes());
    octets
}

fn address(octets: &[u8]) -> SocketAddr {
    let ip: [u8; 4] = octets[..4].try_into().unwrap();
    SocketAddr::new(
        Ipv4Addr::from(ip).into(),
        u16::from_be_bytes([octets[4], octets[5]]),
    )
}

impl Case {
    /// A gateway with the user bob; `None`: this machine is not for such tests.
    pub(crate) fn start() -> Option<Self> {
        Self::within(None)
    }

    /// The same with a limit of open files.
    pub(crate) fn within(files: Option<u32>) -> Option<Self> {
        if !ready() {
            return None;
        }
        let namespace = Namespace::new("restart");
        let directory = tempfile::tempdir().unwrap();
        let gateway = Gateway::start_within(directory, &namespace, CONFIG, &[("bob", PASSWORD)], files);
        Some(Self { gateway, namespace })
    }

    pub(crate) fn restart(&mut self) {
        self.gateway.restart();
    }

    pub(crate) fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = self
            .namespace
            .inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    pub(crate) fn connect_to(&self, address: SocketAddr) -> TcpStream {
        let stream = self.namespace.inside(|| TcpStream::connect(address).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The same from an address of the client's choice.
    pub(crate) fn connect_from(&self, source: SocketAddr, address: SocketAddr) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let stream = self.namespace.inside(|| {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &source).unwrap();
            connect(&socket, &address).unwrap();
            TcpStream::from(socket)
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Whether nobody listens there.
    pub(crate) fn refuses(&self, address: SocketAddr) -> bool {
        self.namespace.inside(|| TcpStream::connect(address).is_err())
    }

    pub(crate) fn datagrams(&self) -> (UdpSocket, SocketAddr) {
        let socket = self
            .namespace
            .inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let at = socket.local_addr().unwrap();
        (socket, at)
    }

    /// A connection to the gateway, logged in as bob.
    pub(crate) fn logged_in(&self) -> TcpStream {
        let mut stream = self.connect_to(PROXY.into());
        stream.write_all(&[5, 1, 2]).unwrap();
        assert_eq!(read(&mut stream, 2), [5, 2]);
        let mut login = vec![1, 3];
        login.extend_from_slice(b"bob");
        login.push(PASSWORD.len() as u8);
        login.extend_from_slice(PASSWORD.as_bytes());
        stream.write_all(&login).unwrap();
        assert_eq!(read(&mut stream, 2), [1, 0]);
        stream
    }

    /// Makes a request; the code and the address of the reply.
    pub(crate) fn ask(&self, stream: &mut TcpStream, command: u8, target: SocketAddr) -> (u8, SocketAddr) {
        stream
            .write_all(&[&[5, command, 0][..], &put(target)].concat())
            .unwrap();
        reply(stream)
    }

    /// A connection to a server, and the server's end of it.
    pub(crate) fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let mut client = self.logged_in();
        let (code, _) = self.ask(&mut client, 1, listener.local_addr().unwrap());
        assert_eq!(code, 0, "{}", self.gateway.last_log());
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, server)
    }

    /// The identifiers of all sessions.
    pub(crate) fn ids(&self) -> Vec<String> {
        let text = self
            .gateway
            .must(&["sessions", "list", "--json", "--limit", "100000"]);
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        let sessions = page["items"].as_array().unwrap();
        let ids = sessions
            .iter()
            .map(|session| session["id"].as_str().unwrap().to_owned());
        ids.collect()
    }
}

pub(crate) fn reply(stream: &mut TcpStream) -> (u8, SocketAddr) {
    let octets = read(stream, 10);
    assert_eq!((octets[0], octets[3]), (5, 1), "{octets:?}");
    (octets[1], address(&octets[4..]))
}

pub(crate) fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut octets = vec![0; count];
    stream.read_exact(&mut octets).unwrap();
    octets
}

/// Says it one way and hears it at the other end.
pub(crate) fn passes(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).unwrap();
    assert_eq!(read(to, text.len()), text);
}

/// A datagram for a target, in the form of RFC 1928, 7.
pub(crate) fn wrapped(target: SocketAddr, text: &[u8]) -> Vec<u8> {
    [&[0, 0, 0][..], &put(target), text].concat()
}
