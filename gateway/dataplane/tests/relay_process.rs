//! A relay that goes on in another process, in the middle of a transfer. The other process is this test once more,
//! which gets the client's socket as its standard input, the target's as its standard error, and the rest of the
//! relay's state in a file.
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_dataplane::relay::{Cause, Options, Outcome, Parked, ParkedState, Pool, PoolConfig, Relay};
use sluice_testkit::Seeded;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local, yield_now};

const STATE: &str = "SLUICE_TEST_RELAY_STATE";
const LENGTH: usize = 16 << 20;
/// How long each half may take.
const LIMIT: Duration = Duration::from_secs(60);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (near, far)
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(LIMIT, work).await.unwrap() };
    LocalSet::new().block_on(&runtime, limited)
}

fn tokio_stream(stream: TcpStream) -> tokio::net::TcpStream {
    tokio::net::TcpStream::from_std(stream).unwrap()
}

fn pool() -> Rc<Pool> {
    Pool::new(PoolConfig::default())
}

/// The other process: it goes on until both streams have ended.
fn go_on(path: &str) {
    let parked = Parked {
        client: std::io::stdin().as_fd().try_clone_to_owned().unwrap(),
        target: std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
        state: ParkedState::decode(&std::fs::read(path).unwrap()).unwrap(),
    };
    on_one_thread(async {
        let relay = Relay::resume(parked, &pool(), None, None).unwrap();
        let Outcome::Ended(ended) = relay.run().await else {
            panic!("parked");
        };
        assert_eq!(ended.cause, Cause::FinBoth);
        assert_eq!(
            (ended.stats.up.delivered, ended.stats.down.delivered),
            (LENGTH as u64, 6)
        );
    });
}

/// Relays until bytes wait in a pipe, and stops there; gives the client's far end too, and how much it has sent.
async fn first_half(
    client: TcpStream,
    accepted: TcpStream,
    connected: TcpStream,
    bytes: &[u8],
) -> (Parked, TcpStream, usize) {
    let client = tokio_stream(client);
    let pool = pool();
    let relay = Relay::new(
        tokio_stream(accepted),
        tokio_stream(connected),
        &pool,
        Options::default(),
    )
    .unwrap();
    let (handle, task) = (relay.handle(), spawn_local(relay.run()));
    let mut sent = 0;
    while pool.stats().pipes_in_use == 0 {
        sent += client
            .try_write(&bytes[sent..LENGTH.min(sent + 100_000)])
            .unwrap_or(0);
        yield_now().await;
    }
    handle.pause();
    let Outcome::Parked(parked) = task.await.unwrap() else {
        panic!("ended");
    };
    (*parked, client.into_std().unwrap(), sent)
}

#[test]
fn a_relay_goes_on_in_another_process() {
    if let Ok(path) = std::env::var(STATE) {
        return go_on(&path);
    }
    let bytes = Seeded::new(11).bytes(LENGTH);
    let ((client, accepted), (connected, target)) = (pair(), pair());
    // What waits, waits in the relay and not in the kernel.
    socket2::SockRef::from(&connected)
        .set_send_buffer_size(64 << 10)
        .unwrap();
    socket2::SockRef::from(&target)
        .set_recv_buffer_size(64 << 10)
        .unwrap();
    let (parked, client, sent) = on_one_thread(first_half(client, accepted, connected, &bytes));
    assert!(!parked.state.up.unsent.is_empty() && sent < LENGTH);

    let path = std::env::temp_dir().join(format!("sluice-relay-{}", std::process::id()));
    std::fs::write(&path, parked.state.encode()).unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_relay_goes_on_in_another_process"])
        .env(STATE, &path)
        .stdin(Stdio::from(parked.client))
        .stdout(Stdio::null())
        .stderr(Stdio::from(parked.target))
        .spawn()
        .unwrap();
    on_one_thread(async {
        let (mut client, mut target) = (tokio_stream(client), tokio_stream(target));
        let mut received = Vec::new();
        let (written, read) = tokio::join!(
            async {
                client.write_all(&bytes[sent..]).await?;
                client.shutdown().await
            },
            target.read_to_end(&mut received)
        );
        written.unwrap();
        read.unwrap();
        assert!(received == bytes, "{} bytes came, or others", received.len());
        target.write_all(b"answer").await.unwrap();
        target.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    });
    assert!(other.wait().unwrap().success());
    std::fs::remove_file(path).unwrap();
}
