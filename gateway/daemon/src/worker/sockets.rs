//! Sockets to listen on: taken over from the worker before, or bound.

use super::CannotStart;
use super::held::{Held, forget, store};
use crate::admin::{Certificate, Listeners, StartError};
use crate::config::{Config, Listener};
use sluice_dataplane::UdpSocket;
use sluice_egress::accept_with_first_bytes;
use sluice_keeper::Link;
use sluice_spi::{Shards, Transport};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an address that this gateway itself gave up a moment ago may take to become free: the keeper reads
/// its orders one after the other.
const GIVEN_UP: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(5);

const UNIX: &str = "admin-unix";

/// Connections that wait to be accepted, for each socket: as many as the kernel allows by default
/// (net.core.somaxconn). A burst of new clients waits there while a shard is busy.
const BACKLOG: libc::c_int = 4096;

/// One shard's socket of an address.
pub(super) enum Bound {
    /// Of a protocol of datagrams.
    Datagrams(UdpSocket),
    /// Of a protocol of streams.
    Streams(TcpListener),
}

impl Bound {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Bound::Datagrams(socket) => Some(socket.local_addr()),
            Bound::Streams(listener) => listener.local_addr().ok(),
        }
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Bound::Datagrams(socket) => socket.as_fd(),
            Bound::Streams(listener) => listener.as_fd(),
        }
    }
}

/// One address of one listener.
pub(super) struct Listening {
    /// The listener's place in the configuration.
    pub(super) listener: usize,
    /// The address, with the port that was chosen where none was given.
    pub(super) address: SocketAddr,
    /// One socket for each shard, or why there is none.
    pub(super) sockets: Result<Vec<Bound>, String>,
    /// One raw socket for each shard, where the data of sessions travels beside connections.
    pub(super) packets: Vec<UdpSocket>,
}

/// What the admin plane is served on.
pub(super) struct AdminPlane {
    pub(super) listeners: Listeners,
    pub(super) certificate: Option<Certificate>,
    /// What of it is missing, and why.
    pub(super) missing: Vec<String>,
}

/// The admin plane's listeners. One that cannot be had ends the first worker; a later one goes on without it, as
/// its sessions matter more.
pub(super) fn admin(
    config: &Config,
    link: &Link,
    held: &mut Held,
    first: bool,
) -> Result<AdminPlane, CannotStart> {
    let mut missing = Vec::new();
    let mut bear = |error: StartError| match error {
        StartError::Unsafe(_) if first => Err(CannotStart::configuration(error)),
        error if first => Err(CannotStart::because(error)),
        error => {
            tracing::error!("{error}");
            missing.push(error.to_string());
            Ok(())
        }
    };
    let mut listeners = Listeners {
        tcp: config
            .admin
            .listen
            .and_then(|address| taken_tcp(held, "admin", address)),
        unix: taken_unix(held, &config.admin.socket),
        metrics: config
            .metrics
            .listen
            .and_then(|address| taken_tcp(held, "metrics", address)),
    };
    for error in listeners.bind_missing(&config.admin, &config.metrics) {
        bear(error)?;
    }
    if let (Some(address), Some(listener)) = (config.admin.listen, &listeners.tcp) {
        store(link, &tcp_name("admin", address), &[listener.as_fd()]);
    }
    if let (Some(address), Some(listener)) = (config.metrics.listen, &listeners.metrics) {
        store(link, &tcp_name("metrics", address), &[listener.as_fd()]);
    }
    if let Some(listener) = &listeners.unix {
        store(link, UNIX, &[listener.as_fd()]);
    }
    let certificate = match config.admin.tls.as_ref().map(Certificate::load).transpose() {
        Ok(certificate) => certificate,
        Err(error) => {
            bear(error)?;
            // Never without TLS where it is wanted.
            listeners.tcp = None;
            None
        }
    };
    Ok(AdminPlane {
        listeners,
        certificate,
        missing,
    })
}

fn tcp_name(what: &str, address: SocketAddr) -> String {
    format!("{what}:{address}")
}

fn taken_tcp(held: &mut Held, what: &str, address: SocketAddr) -> Option<TcpListener> {
    let descriptor = held.take(&tcp_name(what, address)).pop()?;
    Some(TcpListener::from(descriptor))
}

/// The local socket, if it is still what the file leads to.
fn taken_unix(held: &mut Held, path: &Path) -> Option<UnixListener> {
    let listener = UnixListener::from(held.take(UNIX).pop()?);
    let same = listener.local_addr().ok()?.as_pathname() == Some(path);
    (same && path.exists()).then_some(listener)
}

/// The listeners' own addresses. One that another program has ends the first worker; a later one goes on without
/// it, as its other sessions matter more.
pub(super) fn listen(
    config: &Config,
    shards: Shards,
    link: &Link,
    held: &mut Held,
    first: bool,
) -> Result<Vec<Listening>, CannotStart> {
    let mut all = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        for &address in &listener.addresses {
            let found = raw_group(listener, address, shards, link, held)
                .and_then(|packets| Ok((group(listener, address, shards, link, held)?, packets)));
            let mut packets = Vec::new();
            let sockets = match found {
                Ok((sockets, raw)) => {
                    packets = raw;
                    Ok(sockets)
                }
                Err(error) => {
                    let text = explain(listener, address, &error);
                    let fatal = matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied);
                    if first && fatal {
                        return Err(CannotStart::because(text));
                    }
                    tracing::warn!("{text}");
                    Err(text)
                }
            };
            let bound = sockets
                .as_ref()
                .ok()
                .and_then(|sockets: &Vec<Bound>| sockets.first()?.address());
            all.push(Listening {
                listener: index,
                address: bound.unwrap_or(address),
                sockets,
                packets,
            });
        }
    }
    Ok(all)
}

/// The raw sockets of a listener whose sessions' data travels beside its connections.
fn raw_group(
    listener: &Listener,
    address: SocketAddr,
    shards: Shards,
    link: &Link,
    held: &mut Held,
) -> io::Result<Vec<UdpSocket>> {
    let (Some(protocol), IpAddr::V4(ip)) = (listener.module.descriptor().packets, address.ip()) else {
        return Ok(Vec::new());
    };
    // Each address and port has sockets of its own: each listener has calls of its own.
    let name = format!("raw{protocol}:{address}");
    let taken = held.take(&name);
    let (had, same) = (!taken.is_empty(), taken.len() == usize::from(shards.count()));
    let adopted = same.then(|| UdpSocket::adopt_raw(taken, shards, listener.module));
    let sockets = match adopted {
        Some(Ok(sockets)) => sockets,
        _ => {
            if had {
                forget(link, &name);
            }
            UdpSocket::raw_group(ip, protocol, shards, listener.module).map_err(|error| {
                let why = match error.kind() {
                    ErrorKind::PermissionDenied => "it needs CAP_NET_RAW: start as root".to_owned(),
                    _ => error.to_string(),
                };
                // Not a reason to end: other listeners serve without it.
                io::Error::other(format!(
                    "no raw socket for IP protocol {protocol}, so it is off: {why}"
                ))
            })?
        }
    };
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(UdpSocket::as_fd).collect();
    store(link, &name, &descriptors);
    Ok(sockets)
}

fn group(
    listener: &Listener,
    address: SocketAddr,
    shards: Shards,
    link: &Link,
    held: &mut Held,
) -> io::Result<Vec<Bound>> {
    let transport = listener.module.descriptor().transport;
    let name = match transport {
        Transport::Udp => format!("udp:{address}"),
        Transport::Tcp => format!("tcp:{address}"),
    };
    let taken = held.take(&name);
    let given_up = !taken.is_empty();
    let sockets = match adopt(taken, listener, shards) {
        Some(sockets) => sockets,
        None => {
            if given_up {
                forget(link, &name);
            }
            wait_until_free(address, transport, given_up)?;
            bind(listener, address, shards)?
        }
    };
    // Of sockets from the worker before as well: the configuration may have changed.
    for socket in &sockets {
        if let Bound::Streams(stream) = socket {
            accept_with_first_bytes(stream, listener.intake.fast_open)?;
        }
    }
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(Bound::as_fd).collect();
    store(link, &name, &descriptors);
    Ok(sockets)
}

/// A whole group as it was, or nothing: a group of another size would be given packets that nobody reads.
fn adopt(taken: Vec<OwnedFd>, listener: &Listener, shards: Shards) -> Option<Vec<Bound>> {
    if taken.len() != usize::from(shards.count()) {
        return None;
    }
    if listener.module.descriptor().transport == Transport::Tcp {
        let listeners = taken.into_iter().map(TcpListener::from);
        return Some(listeners.map(Bound::Streams).collect());
    }
    let sockets: io::Result<Vec<UdpSocket>> = taken.into_iter().map(UdpSocket::adopt).collect();
    let sockets = sockets.ok()?;
    let first = sockets.first()?;
    first.attach_steering(shards, listener.module).ok()?;
    Some(sockets.into_iter().map(Bound::Datagrams).collect())
}

/// One socket for each shard.
fn bind(listener: &Listener, address: SocketAddr, shards: Shards) -> io::Result<Vec<Bound>> {
    if listener.module.descriptor().transport == Transport::Udp {
        let group = UdpSocket::bind_group(address, shards, listener.module)?;
        return Ok(group.into_iter().map(Bound::Datagrams).collect());
    }
    let mut group: Vec<TcpListener> = Vec::new();
    while group.len() < usize::from(shards.count()) {
        let address = match group.first() {
            Some(first) => first.local_addr()?,
            None => address,
        };
        group.push(bind_stream(address)?);
    }
    Ok(group.into_iter().map(Bound::Streams).collect())
}

fn bind_stream(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.cloexec().nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a gateway that is gone may linger on the address (TIME_WAIT, RFC 9293, 3.6.1).
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Sees to it that nobody else has an address: sockets of a group share theirs with every other process of the same
/// user, which would then take a part of the packets.
fn wait_until_free(address: SocketAddr, transport: Transport, given_up: bool) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let socket = match transport {
            Transport::Udp => datagram_socket(address)?,
            Transport::Tcp => stream_socket(address)?,
        };
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && given_up && begun.elapsed() < GIVEN_UP => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn datagram_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.cloexec(),
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn explain(listener: &Listener, address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "; another program, such as another gateway or xl2tpd, has this port: end it, or give the listener \
             another address or port"
        }
        ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE: start as root",
        ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
        _ => "",
    };
    format!(
        "listener {} cannot listen on {address}: {error}{hint}",
        listener.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_somebody_has_is_not_shared() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = wait_until_free(address, Transport::Udp, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(taken);
        wait_until_free(address, Transport::Udp, false).unwrap();
    }

    #[test]
    fn an_address_given_up_may_take_a_moment() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let (gone, wait) = std::sync::mpsc::channel();
        let keeper = std::thread::spawn(move || {
            wait.recv().unwrap();
            drop(taken);
        });
        gone.send(()).unwrap();
        wait_until_free(address, Transport::Udp, true).unwrap();
        keeper.join().unwrap();
    }
}
