//! Waiting for a connection from a peer, as SOCKS BIND and the like do.

use crate::counters::{Counter, Counters};
use crate::dial::set_way;
use crate::failure::{Cause, Failed};
use crate::request::Way;
use sluice_spi::ChannelFailure;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Most ports that are tried for one listener. A range with fewer is tried whole; in a larger one so many taken ports
/// in random order mean that it is as good as full.
const MAX_TRIES: u32 = 1024;

/// A port that is asked for a route: which one makes no difference (discard, RFC 863).
const DISCARD: u16 = 9;

/// A wait for a connection.
#[derive(Clone, Debug)]
pub struct BindSpec<'a> {
    /// The address to listen on, where [`BindSpec::peers`] and [`BindSpec::way`] do not say another of its family: the
    /// one that the first of the peers would see connections of this host come from.
    pub listen: IpAddr,
    /// The ports to choose from; `0..=0`: whatever the system gives.
    pub ports: RangeInclusive<u16>,
    /// The address that peers reach it by, where that is another.
    pub external: Option<IpAddr>,
    /// Whose connections are taken; empty: anybody's.
    pub peers: Vec<IpAddr>,
    /// Whose source address, interface and mark are used.
    pub way: &'a Way,
    /// A random number: where in the range the search starts.
    pub random: u64,
}

/// A listener between two processes.
#[derive(Debug)]
pub struct ParkedWait {
    /// Its socket.
    pub listener: OwnedFd,
    /// Where peers reach it.
    pub told: SocketAddr,
    /// Whose connections are taken; empty: anybody's.
    pub peers: Vec<IpAddr>,
}

/// A listener for one connection. Dropped, it is closed.
pub struct Waiting {
    listener: TcpListener,
    told: SocketAddr,
    peers: Vec<IpAddr>,
    counters: Arc<Counters>,
}

/// Starts to listen, with a backlog of one.
pub(crate) fn bind(mut spec: BindSpec<'_>, counters: Arc<Counters>) -> Result<Waiting, Failed> {
    spec.listen = facing(&spec);
    let listener = match listen(&spec) {
        Ok(Some(listener)) => listener,
        Ok(None) => {
            counters.add(Counter::NoPort);
            return Err(Failed::new(ChannelFailure::Resources, Cause::NoPort));
        }
        Err(error) => return Err(Failed::socket(&error)),
    };
    let port = listener
        .local_addr()
        .map_err(|error| Failed::socket(&error))?
        .port();
    let told = SocketAddr::new(spec.external.unwrap_or(spec.listen), port);
    if told.ip().is_unspecified() {
        // No peer could be told where to connect to.
        return Err(Failed::socket(&io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)));
    }
    Ok(Waiting {
        listener,
        told,
        peers: spec.peers.iter().map(IpAddr::to_canonical).collect(),
        counters,
    })
}

/// The address to listen on. A host with one network of clients and another of peers has an address in each, and the
/// peers cannot know, or reach, the one that the clients know.
fn facing(spec: &BindSpec<'_>) -> IpAddr {
    let mut peers = spec.peers.iter().map(IpAddr::to_canonical);
    let peer = peers.find(|peer| peer.is_ipv4() == spec.listen.is_ipv4());
    let seen = peer.and_then(|peer| {
        let given = spec.way.source(peer);
        given.or_else(|| source_towards(peer, spec.way).ok())
    });
    // Where there is no way to them they will not come either.
    seen.unwrap_or(spec.listen)
}

/// The source address that the routes have towards an address.
fn source_towards(address: IpAddr, way: &Way) -> io::Result<IpAddr> {
    let to = SockAddr::from(SocketAddr::new(address, DISCARD));
    let socket = Socket::new(to.domain(), Type::DGRAM, None)?;
    set_way(&socket, way)?;
    // This finds the route, and sends nothing.
    socket.connect(&to)?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| local.ip())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn listen(spec: &BindSpec<'_>) -> io::Result<Option<TcpListener>> {
    let mut socket = None;
    for port in order(&spec.ports, spec.random) {
        let fresh = match socket.take() {
            Some(socket) => socket,
            None => new_socket(spec)?,
        };
        let address = SockAddr::from(SocketAddr::new(spec.listen, port));
        match fresh.bind(&address) {
            // Another that is bound, but did not listen yet, is noticed only here; the socket is used up then.
            Ok(()) => match fresh.listen(1) {
                Ok(()) => return TcpListener::from_std(fresh.into()).map(Some),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
            },
            Err(error) if is_taken(&error) => socket = Some(fresh),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// In use, or reserved: a range may start below 1024.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EACCES))
}

fn new_socket(spec: &BindSpec<'_>) -> io::Result<Socket> {
    let domain = if spec.listen.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
    // Connections that ended a moment ago do not keep their port from the next listener.
    socket.set_reuse_address(true)?;
    set_way(&socket, spec.way)?;
    Ok(socket)
}

/// Ports of a range in a random order, each once, [`MAX_TRIES`] at most: it goes round by a step that has no divisor
/// in common with the number of ports.
fn order(ports: &RangeInclusive<u16>, random: u64) -> impl Iterator<Item = u16> {
    let first = u64::from(*ports.start());
    let count = u64::from(*ports.end()).saturating_sub(first) + 1;
    let count = if ports.is_empty() { 0 } else { count };
    let start = random.checked_rem(count).unwrap_or(0);
    let wish = (random >> 32).checked_rem(count).unwrap_or(0).max(1);
    let step = (wish..=count)
        .find(|step| divisor(*step, count) == 1)
        .unwrap_or(1);
    let port = move |index: u64| u16::try_from(first + (start + index * step) % count).ok();
    (0..count.min(u64::from(MAX_TRIES))).filter_map(port)
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

impl Waiting {
    /// Where peers reach it.
    pub fn told(&self) -> SocketAddr {
        self.told
    }

    /// Stops to wait, for another process to go on: who comes meanwhile waits in the kernel's queue.
    pub fn park(self) -> io::Result<ParkedWait> {
        Ok(ParkedWait {
            listener: self.listener.into_std()?.into(),
            told: self.told,
            peers: self.peers,
        })
    }

    /// Goes on to wait.
    pub(crate) fn resume(parked: ParkedWait, counters: Arc<Counters>) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(parked.listener);
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            told: parked.told,
            peers: parked.peers,
            counters,
        })
    }

    /// Waits for the connection of an expected peer. Others are closed, and the wait goes on.
    pub async fn accept(&self, timeout: Duration) -> Result<(TcpStream, SocketAddr), Failed> {
        let deadline = Instant::now() + timeout;
        loop {
            match tokio::time::timeout_at(deadline, self.listener.accept()).await {
                Err(_) => {
                    self.counters.add(Counter::NobodyCame);
                    return Err(Failed::new(ChannelFailure::TimedOut, Cause::NobodyCame));
                }
                Ok(Ok((stream, peer))) => {
                    let ip = peer.ip().to_canonical();
                    if self.peers.is_empty() || self.peers.contains(&ip) {
                        self.counters.add(Counter::Accepted);
                        stream.set_nodelay(true).map_err(|error| Failed::socket(&error))?;
                        return Ok((stream, SocketAddr::new(ip, peer.port())));
                    }
                    self.counters.add(Counter::ForeignPeer);
                }
                Ok(Err(error)) if is_passing(&error) => {}
                Ok(Err(error)) => return Err(Failed::socket(&error)),
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted (accept(2)).
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use tokio::io::AsyncReadExt;

    const SECOND: Duration = Duration::from_secs(1);

    fn spec(way: &Way) -> BindSpec<'_> {
        BindSpec {
            listen: Ipv4Addr::LOCALHOST.into(),
            ports: 0..=0,
            external: None,
            peers: Vec::new(),
            way,
            random: 7,
        }
    }

    async fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
        let way = Way {
            source4: Some(source),
            ..Way::default()
        };
        let dial = crate::dial::Dial {
            way: &way,
            fast_open: false,
            timeout: SECOND,
        };
        dial.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn foreign_peers_are_closed_and_the_wait_goes_on() {
        let (way, counters) = (Way::default(), Arc::new(Counters::default()));
        let expected = Ipv4Addr::new(127, 0, 0, 2);
        let waiting = BindSpec {
            peers: vec![expected.to_ipv6_mapped().into()],
            external: Some("192.0.2.1".parse().unwrap()),
            ..spec(&way)
        };
        let waiting = bind(waiting, counters.clone()).unwrap();
        assert_eq!(waiting.told().ip(), "192.0.2.1".parse::<IpAddr>().unwrap());
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), waiting.told().port());
        let coming = async {
            let mut foreign = connect_from(Ipv4Addr::new(127, 0, 0, 3), at).await;
            let mut octet = [0];
            assert!(matches!(foreign.read(&mut octet).await, Ok(0) | Err(_)));
            connect_from(expected, at).await
        };
        let (accepted, coming) = tokio::join!(waiting.accept(5 * SECOND), coming);
        let (stream, peer) = accepted.unwrap();
        assert_eq!(peer, coming.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        assert_eq!(counters.get(Counter::ForeignPeer), 1);
        assert_eq!(counters.get(Counter::Accepted), 1);
        // The listener is gone with the wait.
        drop(waiting);
        assert!(TcpStream::connect(at).await.is_err());
    }

    #[tokio::test]
    async fn a_wait_that_was_parked_finds_who_came_meanwhile() {
        let (way, counters) = (Way::default(), Arc::new(Counters::default()));
        let expected = Ipv4Addr::new(127, 0, 0, 2);
        let waiting = BindSpec {
            peers: vec![expected.into()],
            ..spec(&way)
        };
        let waiting = bind(waiting, counters.clone()).unwrap();
        let at = waiting.told();
        let parked = waiting.park().unwrap();
        let coming = connect_from(expected, at).await;
        let waiting = Waiting::resume(parked, counters.clone()).unwrap();
        assert_eq!(waiting.told(), at);
        let (_, peer) = waiting.accept(SECOND).await.unwrap();
        assert_eq!(peer, coming.local_addr().unwrap());
        assert_eq!(counters.get(Counter::Accepted), 1);
        drop(waiting);
        assert!(TcpStream::connect(at).await.is_err());
    }

    #[tokio::test]
    async fn it_waits_where_its_peers_would_look() {
        let counters = Arc::new(Counters::default());
        let routed = Way::default();
        let given = Way {
            source4: Some(Ipv4Addr::new(127, 0, 0, 5)),
            ..Way::default()
        };
        let peer = || vec!["::1".parse().unwrap(), Ipv4Addr::new(127, 0, 0, 2).into()];
        for (way, peers, expected) in [
            (&routed, Vec::new(), [127, 0, 0, 9]),
            (&given, Vec::new(), [127, 0, 0, 9]),
            (&routed, peer(), [127, 0, 0, 1]),
            (&given, peer(), [127, 0, 0, 5]),
        ] {
            let waiting = BindSpec {
                listen: Ipv4Addr::new(127, 0, 0, 9).into(),
                peers,
                ..spec(way)
            };
            let waiting = bind(waiting, counters.clone()).unwrap();
            assert_eq!(waiting.told().ip(), IpAddr::from(expected));
            let other = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 44).into(), waiting.told().port());
            assert!(TcpStream::connect(other).await.is_err());
            assert!(TcpStream::connect(waiting.told()).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes() {
        let (way, counters) = (Way::default(), Arc::new(Counters::default()));
        let waiting = bind(spec(&way), counters.clone()).unwrap();
        let start = Instant::now();
        let failed = waiting.accept(120 * SECOND).await.unwrap_err();
        assert_eq!(
            (failed.failure, failed.cause),
            (ChannelFailure::TimedOut, Cause::NobodyCame)
        );
        assert_eq!(start.elapsed(), 120 * SECOND);
        assert_eq!(counters.get(Counter::NobodyCame), 1);
    }

    #[tokio::test]
    async fn a_range_is_used_up_and_no_further() {
        // A range of the tests' own would collide with other programs: three neighbours that happen to be free.
        let (way, counters) = (Way::default(), Arc::new(Counters::default()));
        let listen = IpAddr::from(Ipv4Addr::new(127, 0, 0, 44));
        let ports = 45_001..=45_003;
        let of_range = |random| BindSpec {
            listen,
            ports: ports.clone(),
            random,
            ..spec(&way)
        };
        let taken: Vec<_> = [5, 77, 1 << 40]
            .map(|random| bind(of_range(random), counters.clone()).unwrap())
            .into();
        let mut told: Vec<u16> = taken.iter().map(|waiting| waiting.told().port()).collect();
        told.sort_unstable();
        assert_eq!(told, [45_001, 45_002, 45_003]);
        let Err(failed) = bind(of_range(9), counters.clone()) else {
            panic!("a fourth port")
        };
        assert_eq!(
            (failed.failure, failed.cause),
            (ChannelFailure::Resources, Cause::NoPort)
        );
        assert_eq!(counters.get(Counter::NoPort), 1);
        drop(taken);
        assert!(bind(of_range(9), counters).is_ok());
    }

    #[tokio::test]
    async fn an_address_that_nobody_can_connect_to_is_not_told() {
        let (way, counters) = (Way::default(), Arc::new(Counters::default()));
        let any = BindSpec {
            listen: Ipv4Addr::UNSPECIFIED.into(),
            ..spec(&way)
        };
        assert!(bind(any.clone(), counters.clone()).is_err());
        let external = Some("192.0.2.1".parse().unwrap());
        assert!(
            bind(
                BindSpec {
                    external,
                    ..any.clone()
                },
                counters.clone()
            )
            .is_ok()
        );
        let elsewhere = BindSpec {
            listen: "192.0.2.1".parse().unwrap(),
            ..any
        };
        let Err(failed) = bind(elsewhere, counters) else {
            panic!("not our address")
        };
        assert_eq!(failed.cause, Cause::Socket(libc::EADDRNOTAVAIL));
    }

    proptest! {
        #[test]
        fn each_port_is_tried_once(first: u16, more in 0u16..3000, random: u64) {
            let ports = first..=first.saturating_add(more);
            let tried: Vec<u16> = order(&ports, random).collect();
            let set: std::collections::HashSet<u16> = tried.iter().copied().collect();
            prop_assert_eq!(set.len(), tried.len());
            prop_assert!(tried.iter().all(|port| ports.contains(port)));
            prop_assert_eq!(tried.len(), ports.len().min(1024));
        }
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a range without ports")]
    fn an_empty_range_has_no_ports() {
        assert_eq!(order(&(5..=4), 3).count(), 0);
    }
}
