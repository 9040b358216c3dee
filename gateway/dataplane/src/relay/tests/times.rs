//! Timeouts, in virtual time. The clock stands still while bytes move and is set forward by hand.

use super::*;
use tokio::time::{advance, pause};

const SECOND: Duration = Duration::from_secs(1);
const ALMOST: Duration = Duration::from_millis(9_990);
const REST: Duration = Duration::from_millis(20);

fn timeouts() -> Timeouts {
    Timeouts {
        idle: Some(40 * SECOND),
        half_closed: Some(10 * SECOND),
        lifetime: Some(1_000 * SECOND),
    }
}

async fn started(pool: &Rc<Pool>, timeouts: Timeouts) -> Running {
    let options = Options {
        timeouts,
        ..Options::default()
    };
    let (client, target) = (pair().await, pair().await);
    pause();
    let running = Rig::between(client, target, pool, options).start();
    settle().await;
    running
}

/// Sets the clock forward, and lets what is due happen.
async fn pass(time: Duration) {
    advance(time).await;
    settle().await;
}

/// One byte from one end to the other, without waiting.
async fn tick(from: &TcpStream, to: &TcpStream) {
    assert_eq!(from.try_write(b"x").unwrap(), 1);
    settle().await;
    assert_eq!(to.try_read(&mut [0; 9]).unwrap(), 1);
}

#[test]
fn silence_ends_a_relay_and_every_byte_breaks_it() {
    in_virtual_time(async {
        let mut running = started(&pool(), timeouts()).await;
        for round in 0..4 {
            pass(30 * SECOND).await;
            assert!(!running.task.is_finished());
            if round % 2 == 0 {
                tick(&running.client, &running.target).await;
            } else {
                tick(&running.target, &running.client).await;
            }
        }
        pass(30 * SECOND + ALMOST).await;
        assert!(!running.task.is_finished());
        pass(REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::Idle);
        for stream in [&mut running.client, &mut running.target] {
            assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0, "an orderly end");
        }
    });
}

#[test]
fn silence_with_bytes_on_their_way_ends_in_a_reset() {
    in_virtual_time(async {
        let mut running = started(&pool(), timeouts()).await;
        stuff(&running).await;
        pass(40 * SECOND + REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::Idle);
        let mut bytes = Vec::new();
        let error = running.target.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_half_closed_relay_ends_after_its_own_time_of_silence() {
    in_virtual_time(async {
        let running = started(&pool(), timeouts()).await;
        SockRef::from(&running.client)
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        settle().await;
        for _ in 0..5 {
            pass(ALMOST).await;
            assert!(!running.task.is_finished());
            tick(&running.target, &running.client).await;
        }
        pass(ALMOST).await;
        assert!(!running.task.is_finished());
        pass(REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::HalfClosed);
    });
}

#[test]
fn without_a_time_for_half_closed_relays_that_for_idle_ones_holds() {
    in_virtual_time(async {
        let timeouts = Timeouts {
            half_closed: None,
            ..timeouts()
        };
        let running = started(&pool(), timeouts).await;
        SockRef::from(&running.target)
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        settle().await;
        pass(30 * SECOND + ALMOST).await;
        assert!(!running.task.is_finished());
        pass(REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::Idle);
    });
}

#[test]
fn a_lifetime_ends_whatever_moves() {
    in_virtual_time(async {
        let mut running = started(&pool(), timeouts()).await;
        for _ in 0..33 {
            pass(30 * SECOND).await;
            tick(&running.client, &running.target).await;
        }
        pass(ALMOST).await;
        assert!(!running.task.is_finished());
        pass(REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::Lifetime);
        let error = running.client.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn other_timeouts_and_limits_hold_from_the_next_turn_on() {
    in_virtual_time(async {
        let mut running = started(&pool(), Timeouts::default()).await;
        pass(100 * SECOND).await;
        tick(&running.client, &running.target).await;
        let change = |lifetime| Change {
            timeouts: Timeouts {
                lifetime,
                ..timeouts()
            },
            up: Shares::of([Bucket::new(
                std::num::NonZeroU64::new(1_000).unwrap(),
                5_000,
                now(),
            )]),
            down: None,
        };
        running.handle.change(change(Some(1_000 * SECOND)));
        settle().await;
        assert_eq!(running.client.try_write(&[7; 8_000]).unwrap(), 8_000);
        settle().await;
        let mut got = vec![0; 9_000];
        assert_eq!(running.target.try_read(&mut got).unwrap(), 5_000, "the burst");
        pass(3 * SECOND).await;
        for _ in 0..10 {
            pass(100 * Duration::from_millis(1)).await;
        }
        let rest = running.target.try_read(&mut got).unwrap();
        assert!((1_000..=3_000).contains(&rest), "{rest}");
        // It has been there for longer than it may from now on.
        running.handle.change(change(Some(60 * SECOND)));
        settle().await;
        assert_eq!(ended(running.task).await.cause, Cause::Lifetime);
        let error = running.client.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn without_timeouts_a_relay_stays() {
    in_virtual_time(async {
        let running = started(&pool(), Timeouts::default()).await;
        pass(1_000_000 * SECOND).await;
        tick(&running.client, &running.target).await;
        assert!(!running.task.is_finished());
    });
}

#[test]
fn a_reset_is_seen_although_nothing_is_awaited_from_that_side() {
    in_virtual_time(async {
        // The target takes nothing, so that the client is not read from when it resets.
        let running = started(&pool(), Timeouts::default()).await;
        stuff(&running).await;
        running.client.set_zero_linger().unwrap();
        drop(running.client);
        settle().await;
        assert!(!running.task.is_finished());
        pass(CHECK + REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::ResetByClient);
    });
    in_virtual_time(async {
        // The target ended its stream before, and is looked at more than once.
        let running = started(&pool(), Timeouts::default()).await;
        SockRef::from(&running.target)
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        settle().await;
        for _ in 0..5 {
            pass(CHECK).await;
            assert!(!running.task.is_finished());
        }
        running.target.set_zero_linger().unwrap();
        drop(running.target);
        pass(CHECK + REST).await;
        assert_eq!(ended(running.task).await.cause, Cause::ResetByTarget);
    });
}
