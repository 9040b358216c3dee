//! Load on a SOCKS5 server: clients that log in by name and password, and the targets that they reach through it, all
//! on one thread. Every load ends by itself.

mod client;
mod target;

use self::client::Client;
use self::target::{Mode, Target};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// Bytes of a message of an echo.
const MESSAGE: usize = 64;
/// Payload of a datagram.
const DATAGRAM: usize = 512;
/// After so long without an answer, datagrams are taken for lost and others sent.
const LOST: Duration = Duration::from_millis(50);
/// Bytes that bulk clients and targets read and write at once, before others have their turns.
const CHUNK: usize = 256 << 10;
/// What the kernel keeps for each socket, at the most: the rest of a bulk load must not be in buffers.
const SOCKET_BUFFER: u32 = 512 << 10;

/// A socket for a connection or for a listener.
fn socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub struct Login {
    /// The SOCKS5 server.
    pub server: SocketAddr,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Which way a bulk stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Connections, so many at once: log in, connect, send a byte, get it back, close. The unit is a connection.
    Connect {
        /// How many at once.
        parallel: usize,
    },
    /// Streams as fast as they go. The unit is a byte that arrived.
    Bulk {
        /// How many at once.
        streams: usize,
        /// Which way.
        direction: Direction,
    },
    /// Messages of 64 bytes to and fro on connections that stay. The unit is a round trip.
    Echo {
        /// How many connections.
        streams: usize,
    },
    /// Datagrams of 512 bytes to a target that sends them back. The unit is a datagram that arrived, at either end.
    Datagrams {
        /// How many associations.
        flows: usize,
        /// How many datagrams of each are on their way at once.
        window: usize,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Units done.
    pub units: u64,
    /// What failed.
    pub failed: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What the tasks of a load share.
struct Share {
    login: Login,
    target: Target,
    units: Rc<Cell<u64>>,
    failed: Cell<u64>,
    end: Instant,
}

impl Share {
    fn count(&self, units: usize) {
        self.units.set(self.units.get() + units as u64);
    }

    async fn client(&self) -> io::Result<Client> {
        Client::connect(&self.login).await
    }

    /// A connection to the target, of which so much is asked.
    async fn reach(&self, mode: Mode) -> io::Result<TcpStream> {
        let mut stream = self.client().await?.reach(self.target.address()).await?;
        stream.write_all(&[mode as u8]).await?;
        Ok(stream)
    }
}

/// Does the work for so long. Fails where not even its connections are there.
pub fn run(login: Login, work: Work, time: Duration) -> io::Result<Done> {
    on_a_thread(async move {
        let units = Rc::new(Cell::new(0));
        let share = Rc::new(Share {
            login,
            target: Target::start(&units).await?,
            units,
            failed: Cell::new(0),
            end: Instant::now() + time,
        });
        let start = Instant::now();
        let count = match work {
            Work::Connect { parallel: count }
            | Work::Bulk { streams: count, .. }
            | Work::Echo { streams: count }
            | Work::Datagrams { flows: count, .. } => count,
        };
        let tasks: Vec<_> = (0..count)
            .map(|_| tokio::task::spawn_local(one(share.clone(), work)))
            .collect();
        for task in tasks {
            if !matches!(task.await, Ok(Ok(()))) {
                share.failed.set(share.failed.get() + 1);
            }
        }
        Ok(Done {
            units: share.units.get(),
            failed: share.failed.get(),
            elapsed: start.elapsed(),
        })
    })
}

/// Opens so many sessions, says that they are held, and holds them until `until` is over.
pub fn hold(
    login: Login,
    sessions: usize,
    held: impl FnOnce(),
    until: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    /// How many connect at once: more than a listener's queue would have some wait for a second.
    const AT_ONCE: usize = 32;
    /// How often one tries, and how long it waits in between: some servers refuse whoever comes too fast.
    const TRIES: u32 = 5;
    const PAUSE: Duration = Duration::from_millis(200);
    on_a_thread(async move {
        let target = Target::start(&Rc::default()).await?;
        let mut streams = Vec::with_capacity(sessions);
        while streams.len() < sessions {
            let more = AT_ONCE.min(sessions - streams.len());
            let opening: Vec<_> = (0..more)
                .map(|_| {
                    let (login, address) = (login.clone(), target.address());
                    tokio::task::spawn_local(async move {
                        let mut left = TRIES;
                        loop {
                            left -= 1;
                            match held_session(&login, address).await {
                                Err(_) if left > 0 => tokio::time::sleep(PAUSE).await,
                                result => return result,
                            }
                        }
                    })
                })
                .collect();
            for one in opening {
                streams.push(one.await.map_err(io::Error::other)??);
            }
        }
        held();
        tokio::task::spawn_blocking(until).await.map_err(io::Error::other)
    })
}

async fn held_session(login: &Login, address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = Client::connect(login).await?.reach(address).await?;
    stream.write_all(&[Mode::Echo as u8]).await?;
    stream.read_u8().await?;
    Ok(stream)
}

fn on_a_thread<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn one(share: Rc<Share>, work: Work) -> io::Result<()> {
    match work {
        Work::Connect { .. } => connections(&share).await,
        Work::Bulk { direction, .. } => bulk(&share, direction).await,
        Work::Echo { .. } => echo(&share).await,
        Work::Datagrams { window, .. } => datagrams(&share, window).await,
    }
}

async fn connections(share: &Share) -> io::Result<()> {
    /// Longest time of one connection.
    const LIMIT: Duration = Duration::from_secs(10);
    while Instant::now() < share.end {
        let connection = async {
            let mut stream = share.reach(Mode::Echo).await?;
            stream.read_u8().await
        };
        match timeout(LIMIT, connection).await {
            Ok(Ok(_)) => share.count(1),
            _ => share.failed.set(share.failed.get() + 1),
        }
    }
    Ok(())
}

async fn bulk(share: &Share, direction: Direction) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mode = match direction {
        Direction::Up => Mode::Sink,
        Direction::Down => Mode::Source,
    };
    let mut stream = share.reach(mode).await?;
    let endless = async {
        loop {
            match direction {
                Direction::Up => drop(stream.write(&buffer).await?),
                Direction::Down => match stream.read(&mut buffer).await? {
                    0 => return Err::<(), io::Error>(io::ErrorKind::UnexpectedEof.into()),
                    bytes => share.count(bytes),
                },
            }
            yield_now().await;
        }
    };
    if let Ok(result) = tokio::time::timeout_at(share.end, endless).await {
        result?;
    }
    Ok(())
}

async fn echo(share: &Share) -> io::Result<()> {
    let mut stream = share.reach(Mode::Echo).await?;
    stream.read_u8().await?;
    let mut message = [7; MESSAGE];
    while Instant::now() < share.end {
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        share.count(1);
    }
    Ok(())
}

async fn datagrams(share: &Share, window: usize) -> io::Result<()> {
    let local = SocketAddr::new(share.login.server.ip(), 0);
    let socket = UdpSocket::bind(local).await?;
    let (relay, _control) = share.client().await?.associate().await?;
    socket.connect(relay).await?;
    let datagram = client::datagram(share.target.datagrams(), DATAGRAM);
    let mut buffer = vec![0; 2 * DATAGRAM];
    let mut due = window;
    while Instant::now() < share.end {
        for _ in 0..std::mem::take(&mut due) {
            // What the socket does not take is lost as on any way.
            drop(socket.send(&datagram).await);
        }
        if timeout(LOST, socket.readable()).await.is_err() {
            due = window;
            continue;
        }
        while let Ok(length) = socket.try_recv(&mut buffer) {
            if length != datagram.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            share.count(1);
            due += 1;
        }
    }
    Ok(())
}
