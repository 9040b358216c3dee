//! Making one TCP connection.

use crate::failure::{Cause, Failed};
use crate::request::Way;
use crate::sys;
use sluice_spi::ChannelFailure;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How the socket of a connection is made.
#[derive(Clone, Copy)]
pub(crate) struct Dial<'a> {
    /// Whose source, interface and mark are used.
    pub(crate) way: &'a Way,
    /// Whether the SYN waits for the first bytes. Only for those who speak first and need not know before whether
    /// anybody is there.
    pub(crate) fast_open: bool,
    /// How long the peer may take to answer.
    pub(crate) timeout: Duration,
}

impl Dial<'_> {
    /// Connects to an address. The system calls are those it takes and no more: socket, TCP_NODELAY, what the way
    /// asks for, connect, and the registration; the socket's error is asked for only where there is one.
    pub(crate) async fn connect(self, address: SocketAddr) -> Result<TcpStream, Failed> {
        let connecting = self.connect_unlimited(address);
        let result = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Failed::new(ChannelFailure::TimedOut, Cause::ConnectTimeout)),
        };
        result.map_err(|failed| failed.at(address))
    }

    async fn connect_unlimited(self, address: SocketAddr) -> Result<TcpStream, Failed> {
        let socket = self.socket(address).map_err(|error| Failed::socket(&error))?;
        let finished = match socket.connect(&SockAddr::from(address)) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => false,
            Err(error) => return Err(self.failed(address, &error)),
        };
        let stream = TcpStream::from_std(socket.into()).map_err(|error| Failed::socket(&error))?;
        if finished {
            return Ok(stream);
        }
        let ready = stream.ready(Interest::WRITABLE).await;
        let ready = ready.map_err(|error| Failed::socket(&error))?;
        // A connection that failed is ready for writing and closed for it (EPOLLERR and EPOLLHUP, epoll_ctl(2)).
        if !ready.is_write_closed() {
            return Ok(stream);
        }
        match stream.take_error() {
            Ok(None) => Ok(stream),
            Ok(Some(error)) => {
                let unreachable = error.raw_os_error() == Some(libc::EHOSTUNREACH);
                if unreachable && sys::hop_limit_exceeded(&stream) {
                    return Err(Failed::new(ChannelFailure::TimedOut, Cause::HopLimit));
                }
                Err(self.failed(address, &error))
            }
            Err(error) => Err(Failed::socket(&error)),
        }
    }

    fn failed(self, address: SocketAddr, error: &io::Error) -> Failed {
        let failed = Failed::connect(error);
        // Where a host has no IPv6 address at all, the kernel does not say "unreachable" but "no address".
        let no_address = error.raw_os_error() == Some(libc::EADDRNOTAVAIL);
        if no_address && address.is_ipv6() && self.way.source6.is_none() {
            return Failed {
                failure: ChannelFailure::NetworkUnreachable,
                ..failed
            };
        }
        failed
    }

    fn socket(self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_nodelay(true)?;
        set_way(&socket, self.way)?;
        if let Some(source) = self.way.source(address.ip()) {
            sys::bind_address_without_port(&socket)?;
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        if self.fast_open {
            sys::connect_with_first_write(&socket)?;
        }
        Ok(socket)
    }
}

/// Sets a way's interface and mark.
pub(crate) fn set_way(socket: &Socket, way: &Way) -> io::Result<()> {
    if let Some(mark) = way.mark {
        socket.set_mark(mark)?;
    }
    if let Some(interface) = &way.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn dial(way: &Way) -> Dial<'_> {
        Dial {
            way,
            fast_open: false,
            timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn a_listener_is_reached_from_the_source_that_the_way_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Way {
            source4: Some(Ipv4Addr::new(127, 0, 0, 77)),
            ..Way::default()
        };
        let address = listener.local_addr().unwrap();
        let stream = dial(&way).connect(address).await.unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 77));
        assert_eq!(stream.local_addr().unwrap(), peer);
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let failed = dial(&Way::default()).connect(address).await.unwrap_err();
        assert_eq!(failed.failure, ChannelFailure::Refused);
        assert_eq!(failed.cause, Cause::Connect(libc::ECONNREFUSED));
        assert_eq!(failed.address, Some(address));
    }

    #[tokio::test]
    async fn a_full_backlog_is_a_timeout() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
            .unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let way = Way::default();
        let short = Dial {
            timeout: Duration::from_millis(50),
            ..dial(&way)
        };
        let mut taken = Vec::new();
        let failed = loop {
            match short.connect(address).await {
                Ok(stream) => taken.push(stream),
                Err(failed) => break failed,
            }
            assert!(taken.len() < 8, "the backlog is not full");
        };
        assert_eq!(failed.failure, ChannelFailure::TimedOut);
        assert_eq!(failed.cause, Cause::ConnectTimeout);
    }

    #[tokio::test]
    async fn what_the_system_lacks_is_told_apart() {
        let somewhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let source = Way {
            source4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ..Way::default()
        };
        let failed = dial(&source).connect(somewhere).await.unwrap_err();
        assert_eq!(failed.failure, ChannelFailure::Resources);
        assert_eq!(failed.cause, Cause::Socket(libc::EADDRNOTAVAIL));
        let interface = Way {
            interface: Some("no-such-device".into()),
            ..Way::default()
        };
        let failed = dial(&interface).connect(somewhere).await.unwrap_err();
        assert!(
            matches!(failed.cause, Cause::Socket(libc::ENODEV | libc::EPERM)),
            "{failed}"
        );
        let no_interface: SocketAddr = "[fe80::1]:9".parse().unwrap();
        let failed = dial(&Way::default()).connect(no_interface).await.unwrap_err();
        assert!(failed.failure <= ChannelFailure::HostUnreachable, "{failed}");
    }
}
