//! Relays over loopback sockets, all on one thread. Nothing is waited for by sleeping: each wait ends with what it
//! waits for, or fails after [`LIMIT`].

mod coded;
mod ends;
mod handover;
mod limits;
mod streams;
mod times;

use super::*;
use sluice_testkit::Seeded;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test as a shard runs its connections.
pub(super) fn on_one_thread(test: impl Future<Output = ()>) {
    in_virtual_time(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
}

/// The same for a test that sets the clock; it does not wait for anything but what it does itself.
pub(super) fn in_virtual_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Two connected streams.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    (near, far)
}

/// Makes a stream's buffers so small that much of what is sent has to wait.
fn narrow(stream: &TcpStream) {
    SockRef::from(stream).set_send_buffer_size(32 << 10).unwrap();
    SockRef::from(stream).set_recv_buffer_size(32 << 10).unwrap();
}

/// A relay with the far ends of its connections: the client's and the target's.
struct Rig {
    client: TcpStream,
    relay: Relay,
    target: TcpStream,
}

impl Rig {
    async fn new(pool: &Rc<Pool>, options: Options) -> Self {
        Self::between(pair().await, pair().await, pool, options)
    }

    fn between(
        (client, accepted): (TcpStream, TcpStream),
        (connected, target): (TcpStream, TcpStream),
        pool: &Rc<Pool>,
        options: Options,
    ) -> Self {
        Self {
            client,
            relay: Relay::new(accepted, connected, pool, options).unwrap(),
            target,
        }
    }

    /// Starts the relay's task.
    fn start(self) -> Running {
        Running {
            client: self.client,
            target: self.target,
            handle: self.relay.handle(),
            task: spawn_local(self.relay.run()),
        }
    }
}

struct Running {
    client: TcpStream,
    target: TcpStream,
    handle: Handle,
    task: JoinHandle<Outcome>,
}

impl Running {
    async fn new(pool: &Rc<Pool>, options: Options) -> Self {
        Rig::new(pool, options).await.start()
    }
}

fn pool() -> Rc<Pool> {
    Pool::new(PoolConfig::default())
}

/// Lets all that is ready run.
pub(super) async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// Has the client send until nothing more is taken from it, and something waits for the target, which reads nothing.
async fn stuff(running: &Running) {
    let junk = vec![0; 1 << 20];
    let (mut quiet, mut waits) = (0, false);
    while quiet < 300 || !waits {
        quiet = if running.client.try_write(&junk).is_ok() {
            0
        } else {
            quiet + 1
        };
        yield_now().await;
        let up = running.handle.stats().up;
        waits = up.received > up.delivered;
    }
}

async fn ended(task: JoinHandle<Outcome>) -> Ended {
    match task.await.unwrap() {
        Outcome::Ended(ended) => ended,
        Outcome::Parked(_) => panic!("the relay was parked"),
    }
}

/// Sends in pieces of any size up to `most`, and ends the stream.
async fn send(mut stream: impl AsyncWrite + Unpin, bytes: &[u8], mut random: Seeded, most: usize) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(1 + random.below(most)));
        stream.write_all(piece).await.unwrap();
        rest = after;
        for _ in 0..random.below(3) {
            yield_now().await;
        }
    }
    stream.shutdown().await.unwrap();
}

/// Receives until the stream ends, in pieces of any size up to `most`, with pauses of up to `pause` rounds.
async fn receive(
    mut stream: impl AsyncRead + Unpin,
    mut random: Seeded,
    most: usize,
    pause: usize,
) -> Vec<u8> {
    let mut received = Vec::new();
    let mut piece = vec![0; most];
    loop {
        let room = 1 + random.below(most);
        let length = stream.read(&mut piece[..room]).await.unwrap();
        if length == 0 {
            return received;
        }
        received.extend_from_slice(&piece[..length]);
        for _ in 0..random.below(pause + 1) {
            yield_now().await;
        }
    }
}

/// Compares without printing megabytes.
fn assert_same(received: &[u8], sent: &[u8]) {
    let differ = received.iter().zip(sent).position(|(left, right)| left != right);
    assert_eq!((received.len(), differ), (sent.len(), None));
}
