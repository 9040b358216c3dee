//! What relays cost: heap memory while they are idle, and descriptors. It is one test, alone in its process, for it
//! counts what all threads do.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

use sluice_dataplane::relay::{Cause, Options, Outcome, Pool, PoolConfig, Relay, Timeouts};
use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::size_of;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

/// Most heap memory of an idle relay in bytes, with its task, its timers and what the runtime keeps of its sockets.
const MOST_MEMORY: usize = 1_536;

/// How long all of this may take.
const LIMIT: Duration = Duration::from_secs(60);

struct Counting;

static HEAP: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator; counting changes nothing about that.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Two connected streams. All are connected by one listener: a port for each would leave few to whatever else runs,
/// for as long as the kernel remembers them.
async fn pair() -> (TcpStream, TcpStream) {
    static LISTENER: OnceCell<TcpListener> = OnceCell::const_new();
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = LISTENER.get_or_init(listen).await;
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn options() -> Options {
    let second = Duration::from_secs(1);
    Options {
        timeouts: Timeouts {
            idle: Some(3_600 * second),
            half_closed: Some(60 * second),
            lifetime: Some(86_400 * second),
        },
        ..Options::default()
    }
}

struct Session {
    client: TcpStream,
    target: TcpStream,
    task: JoinHandle<Outcome>,
}

/// Relays that have moved something each way.
async fn sessions(pool: &Rc<Pool>, count: usize) -> Vec<Session> {
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        let ((client, accepted), (connected, target)) = (pair().await, pair().await);
        let relay = Relay::new(accepted, connected, pool, options()).unwrap();
        let task = spawn_local(relay.run());
        let mut session = Session { client, target, task };
        session.client.write_all(b"question").await.unwrap();
        session.target.read_exact(&mut [0; 8]).await.unwrap();
        session.target.write_all(b"answer").await.unwrap();
        session.client.read_exact(&mut [0; 6]).await.unwrap();
        sessions.push(session);
    }
    sessions
}

/// The heap that a stream outside of a relay takes.
async fn memory_of_a_stream() -> usize {
    let mut streams = Vec::with_capacity(200);
    let before = HEAP.load(Ordering::Relaxed);
    for _ in 0..100 {
        let (near, far) = pair().await;
        streams.extend([near, far]);
    }
    (HEAP.load(Ordering::Relaxed) - before) / 200
}

async fn an_idle_relay_is_small(pool: &Rc<Pool>) {
    let per_stream = memory_of_a_stream().await;
    let before = HEAP.load(Ordering::Relaxed);
    let sessions = sessions(pool, 500).await;
    let list = sessions.capacity() * size_of::<Session>();
    let all = (HEAP.load(Ordering::Relaxed) - before - list) / sessions.len();
    // The far ends of both connections are not the relay's.
    let memory = all - 2 * per_stream;
    println!(
        "an idle relay takes {memory} bytes of heap, of which its sockets {}",
        2 * per_stream
    );
    assert!(memory <= MOST_MEMORY, "{memory}");
}

async fn bulk(pool: &Rc<Pool>) {
    let ((mut client, accepted), (connected, mut target)) = (pair().await, pair().await);
    let relay = Relay::new(accepted, connected, pool, options()).unwrap();
    let task = spawn_local(relay.run());
    let (sent, mut received) = (vec![1; 8 << 20], vec![0; 8 << 20]);
    let (written, read) = tokio::join!(client.write_all(&sent), target.read_exact(&mut received));
    written.and(read).unwrap();
    drop((client, target));
    let Outcome::Ended(ended) = task.await.unwrap() else {
        panic!("parked");
    };
    assert_eq!(ended.cause, Cause::FinBoth);
}

async fn no_descriptor_is_left(pool: &Rc<Pool>) {
    bulk(pool).await;
    let (before, pipes) = (descriptors(), pool.stats().pipes_idle);
    assert!(pipes > 0);
    for session in sessions(pool, 100).await {
        drop((session.client, session.target));
        session.task.await.unwrap();
    }
    bulk(pool).await;
    // A bulk stream whose target never reads, ended with bytes in its pipe.
    let ((client, accepted), (connected, target)) = (pair().await, pair().await);
    let relay = Relay::new(accepted, connected, pool, options()).unwrap();
    let (handle, task) = (relay.handle(), spawn_local(relay.run()));
    let junk = vec![0; 1 << 20];
    while pool.stats().pipes_in_use == 0 {
        let _ = client.try_write(&junk);
        yield_now().await;
    }
    handle.end();
    task.await.unwrap();
    drop((client, target));
    // One that is paused, and whose parts are dropped.
    let ((client, accepted), (connected, target)) = (pair().await, pair().await);
    let relay = Relay::new(accepted, connected, pool, options()).unwrap();
    drop((relay.pause().unwrap(), client, target));
    let stats = pool.stats();
    assert_eq!(stats.pipes_in_use, 0);
    assert_eq!(descriptors() + 2 * pipes, before + 2 * stats.pipes_idle);
}

#[test]
fn relays_are_small_and_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        let pool = Pool::new(PoolConfig::default());
        no_descriptor_is_left(&pool).await;
        an_idle_relay_is_small(&pool).await;
    };
    let limited = async { tokio::time::timeout(LIMIT, test).await.unwrap() };
    LocalSet::new().block_on(&runtime, limited);
}
