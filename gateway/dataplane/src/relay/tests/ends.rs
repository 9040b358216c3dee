//! How relays end: FIN stays FIN, RST stays RST.

use super::*;
use std::io::ErrorKind;

fn reset_now(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn read_error(stream: &mut TcpStream) -> ErrorKind {
    loop {
        match stream.read(&mut [0; 4096]).await {
            Ok(0) => panic!("a good end"),
            Ok(_) => {}
            Err(error) => return error.kind(),
        }
    }
}

async fn read_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn each_direction_ends_by_itself() {
    on_one_thread(async {
        for client_is_first in [true, false] {
            let mut running = Running::new(&pool(), Options::default()).await;
            let (first, second) = if client_is_first {
                (&mut running.client, &mut running.target)
            } else {
                (&mut running.target, &mut running.client)
            };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(read_end(second).await, b"question");
            settle().await;
            assert!(!running.task.is_finished(), "the other direction is open");
            for _ in 0..3 {
                second.write_all(b"answer").await.unwrap();
                let mut answer = [0; 6];
                first.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"answer");
            }
            second.shutdown().await.unwrap();
            assert_eq!(read_end(first).await, b"");
            let ended = ended(running.task).await;
            assert_eq!(ended.cause, Cause::FinBoth);
            let octets = |bytes| Octets {
                received: bytes,
                delivered: bytes,
            };
            let (up, down) = if client_is_first { (8, 18) } else { (18, 8) };
            assert_eq!((ended.stats.up, ended.stats.down), (octets(up), octets(down)));
        }
    });
}

#[test]
fn the_end_comes_after_the_last_byte_that_had_to_wait() {
    on_one_thread(async {
        for pipes in [0, 8] {
            let pool = Pool::new(PoolConfig {
                pipes,
                ..PoolConfig::default()
            });
            let running = Running::new(&pool, Options::default()).await;
            let bytes = Seeded::new(3).bytes(12 << 20);
            let mut target = running.target;
            let (_client_read, client_write) = running.client.into_split();
            tokio::join!(send(client_write, &bytes, Seeded::new(4), 1 << 20), async {
                // The client has sent all it can, and perhaps its end, before anything is read.
                settle().await;
                assert_same(&receive(&mut target, Seeded::new(5), 50_000, 0).await, &bytes);
            });
        }
    });
}

#[test]
fn a_reset_stays_a_reset() {
    on_one_thread(async {
        let mut running = Running::new(&pool(), Options::default()).await;
        running.client.write_all(b"x").await.unwrap();
        assert_eq!(running.target.read(&mut [0; 9]).await.unwrap(), 1);
        reset_now(running.client);
        assert_eq!(read_error(&mut running.target).await, ErrorKind::ConnectionReset);
        let over = ended(running.task).await;
        assert_eq!((over.cause, over.stats.up.delivered), (Cause::ResetByClient, 1));

        let mut running = Running::new(&pool(), Options::default()).await;
        reset_now(running.target);
        assert_eq!(read_error(&mut running.client).await, ErrorKind::ConnectionReset);
        assert_eq!(ended(running.task).await.cause, Cause::ResetByTarget);
    });
}

#[test]
fn a_reset_is_passed_on_even_where_the_descriptor_is_held_elsewhere() {
    on_one_thread(async {
        let rig = Rig::new(&pool(), Options::default()).await;
        let held = SockRef::from(&rig.relay.target).try_clone().unwrap();
        let mut running = rig.start();
        reset_now(running.client);
        assert_eq!(read_error(&mut running.target).await, ErrorKind::ConnectionReset);
        assert_eq!(ended(running.task).await.cause, Cause::ResetByClient);
        drop(held);
    });
}

#[test]
fn a_reset_by_a_receiver_with_bytes_on_their_way_is_seen() {
    on_one_thread(async {
        for pipes in [0, 8] {
            let pool = Pool::new(PoolConfig {
                pipes,
                ..PoolConfig::default()
            });
            let mut running = Running::new(&pool, Options::default()).await;
            stuff(&running).await;
            reset_now(running.target);
            assert_eq!(read_error(&mut running.client).await, ErrorKind::ConnectionReset);
            assert_eq!(ended(running.task).await.cause, Cause::ResetByTarget);
            let stats = pool.stats();
            assert_eq!(
                (stats.pipes_in_use, stats.pipes_idle),
                (0, 0),
                "the pipe is closed"
            );
        }
    });
}

#[test]
fn data_after_an_end_that_nobody_takes_is_a_reset() {
    on_one_thread(async {
        // The client is gone after its end; what the target sends is answered by a reset.
        let mut running = Running::new(&pool(), Options::default()).await;
        running.client.shutdown().await.unwrap();
        drop(running.client);
        assert_eq!(running.target.read(&mut [0; 9]).await.unwrap(), 0);
        let error = loop {
            if let Err(error) = running.target.write_all(&[0; 1000]).await {
                break error.kind();
            }
            yield_now().await;
        };
        assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error));
        assert_eq!(ended(running.task).await.cause, Cause::ResetByClient);
    });
}

#[test]
fn an_owner_can_end_a_relay() {
    on_one_thread(async {
        let mut running = Running::new(&pool(), Options::default()).await;
        running.client.write_all(b"one").await.unwrap();
        running.target.read_exact(&mut [0; 3]).await.unwrap();
        running.handle.end();
        // It is final.
        running.handle.pause();
        let over = ended(running.task).await;
        assert_eq!((over.cause, over.stats.up.delivered), (Cause::Asked, 3));
        assert_eq!(read_error(&mut running.client).await, ErrorKind::ConnectionReset);
        assert_eq!(read_error(&mut running.target).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn causes_name_the_side_that_failed() {
    let cases = [
        (
            Direction::Up,
            Place::Sender,
            ErrorKind::ConnectionReset,
            Cause::ResetByClient,
        ),
        (
            Direction::Up,
            Place::Receiver,
            ErrorKind::BrokenPipe,
            Cause::ResetByTarget,
        ),
        (
            Direction::Down,
            Place::Sender,
            ErrorKind::ConnectionReset,
            Cause::ResetByTarget,
        ),
        (
            Direction::Down,
            Place::Receiver,
            ErrorKind::NotConnected,
            Cause::ResetByClient,
        ),
        (
            Direction::Up,
            Place::Sender,
            ErrorKind::TimedOut,
            Cause::Error(Side::Client, ErrorKind::TimedOut),
        ),
        (
            Direction::Down,
            Place::Sender,
            ErrorKind::HostUnreachable,
            Cause::Error(Side::Target, ErrorKind::HostUnreachable),
        ),
    ];
    for (direction, place, kind, cause) in cases {
        let reason = None;
        assert_eq!(Failure { place, kind, reason }.cause(direction), cause);
    }
}
