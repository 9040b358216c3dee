//! What clients reach: on each connection the first byte says what they want of it.

use super::CHUNK;
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::yield_now;

/// Ports to connect to: each has ephemeral ports of its own for connections that have just ended.
const PORTS: usize = 8;

/// What a connection is for.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Mode {
    /// Everything comes back, this byte included.
    Echo = b'e',
    /// Bytes without an end.
    Source = b's',
    /// Everything is counted and thrown away.
    Sink = b'k',
}

/// The targets, on this thread.
pub(super) struct Target {
    addresses: Vec<SocketAddr>,
    next: Cell<usize>,
    datagrams: SocketAddr,
}

impl Target {
    /// Starts the targets. Bytes that are thrown away and datagrams that come are counted as units.
    pub(super) async fn start(units: &Rc<Cell<u64>>) -> io::Result<Self> {
        /// Connections that wait to be accepted.
        const BACKLOG: u32 = 1024;
        let anywhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let mut addresses = Vec::new();
        for _ in 0..PORTS {
            let socket = super::socket()?;
            socket.bind(anywhere)?;
            let listener = socket.listen(BACKLOG)?;
            addresses.push(listener.local_addr()?);
            tokio::task::spawn_local(accept(listener, units.clone()));
        }
        let socket = UdpSocket::bind(anywhere).await?;
        let datagrams = socket.local_addr()?;
        tokio::task::spawn_local(send_back(socket, units.clone()));
        Ok(Self {
            addresses,
            next: Cell::new(0),
            datagrams,
        })
    }

    /// Where to connect to, each port in turn.
    pub(super) fn address(&self) -> SocketAddr {
        let next = self.next.get();
        self.next.set((next + 1) % self.addresses.len());
        self.addresses[next]
    }

    /// Where to send datagrams to.
    pub(super) fn datagrams(&self) -> SocketAddr {
        self.datagrams
    }
}

async fn accept(listener: TcpListener, units: Rc<Cell<u64>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let units = units.clone();
        // The client sees an end too early.
        tokio::task::spawn_local(async move { drop(serve(stream, &units).await) });
    }
}

async fn serve(mut stream: TcpStream, units: &Cell<u64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut small = [0; 4096];
    let mut length = stream.read(&mut small).await?;
    match small.first() {
        Some(b's') => {
            let buffer = vec![0; CHUNK];
            loop {
                stream.write_all(&buffer).await?;
                yield_now().await;
            }
        }
        Some(b'k') => {
            let mut buffer = vec![0; CHUNK];
            while length > 0 {
                units.set(units.get() + length as u64);
                yield_now().await;
                length = stream.read(&mut buffer).await?;
            }
        }
        _ => {
            while let Some(bytes) = small.get(..length).filter(|bytes| !bytes.is_empty()) {
                stream.write_all(bytes).await?;
                length = stream.read(&mut small).await?;
            }
        }
    }
    Ok(())
}

async fn send_back(socket: UdpSocket, units: Rc<Cell<u64>>) {
    let mut buffer = [0; 4096];
    // What cannot be sent is lost as on any way.
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        units.set(units.get() + 1);
        drop(socket.send_to(&buffer[..length], from).await);
    }
}
