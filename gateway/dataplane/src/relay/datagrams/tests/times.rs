//! Timeouts, in virtual time: the clock stands still while datagrams move and is set forward by hand.

use super::*;
use tokio::time::{advance, pause};

const SECOND: Duration = Duration::from_secs(1);
const ALMOST: Duration = Duration::from_millis(9_990);
const REST: Duration = Duration::from_millis(20);

async fn pass(time: Duration) {
    advance(time).await;
    settle().await;
}

#[test]
fn silence_both_ways_ends_a_relay() {
    in_virtual_time(async {
        let options = Options {
            idle: Some(10 * SECOND),
            ..Options::default()
        };
        let rig = Rig::new(options).await;
        let from = rig.reach(b"x").await;
        let stranger = local().await;
        pause();
        settle().await;
        pass(ALMOST).await;
        rig.target.try_send_to(b"answer", from).unwrap();
        settle().await;
        pass(ALMOST).await;
        rig.client
            .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
            .unwrap();
        settle().await;
        pass(ALMOST).await;
        assert!(!rig.task.is_finished());
        // What is dropped does not count.
        stranger.try_send_to(b"unasked", from).unwrap();
        stranger
            .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
            .unwrap();
        settle().await;
        assert_eq!(rig.drops(), [("wrong_source", 1), ("no_flow", 1)]);
        pass(REST).await;
        let ended = ended(rig.task).await;
        assert_eq!(ended.cause, Cause::Idle);
        assert_eq!(ended.stats, rig.handle.stats());
        assert_eq!(
            (
                ended.stats.up.delivered.packets,
                ended.stats.down.delivered.packets
            ),
            (2, 1)
        );
    });
}

#[test]
fn the_most_patient_target_says_how_long_silence_may_last() {
    in_virtual_time(async {
        for (idles, ends_after) in [
            (&[Some(2)][..], 2),
            (&[Some(30), Some(2)], 30),
            (&[Some(2), None], 10),
        ] {
            let options = Options {
                idle: Some(10 * SECOND),
                ..Options::default()
            };
            let rig = Rig::new(options).await;
            for idle in idles {
                rig.owner.idle.set(idle.map(|idle: u32| idle * SECOND));
                rig.reach(b"x").await;
                rig.handle.forget_flows();
            }
            pause();
            settle().await;
            pass(ends_after * SECOND - REST).await;
            assert!(!rig.task.is_finished(), "{idles:?}");
            pass(2 * REST).await;
            assert_eq!(ended(rig.task).await.cause, Cause::Idle);
            tokio::time::resume();
        }
    });
}

#[test]
fn a_lifetime_is_over_whatever_happens() {
    in_virtual_time(async {
        let options = Options {
            idle: Some(10 * SECOND),
            lifetime: Some(30 * SECOND),
            ..Options::default()
        };
        let rig = Rig::new(options).await;
        pause();
        settle().await;
        for _ in 0..3 {
            rig.client
                .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
                .unwrap();
            settle().await;
            pass(ALMOST).await;
            assert!(!rig.task.is_finished());
        }
        pass(2 * REST).await;
        assert_eq!(ended(rig.task).await.cause, Cause::Lifetime);
    });
}

#[test]
fn without_timeouts_a_relay_stays() {
    in_virtual_time(async {
        let rig = Rig::new(Options::default()).await;
        rig.reach(b"x").await;
        pause();
        settle().await;
        for _ in 0..10 {
            pass(1_000_000 * SECOND).await;
        }
        assert!(!rig.task.is_finished());
        rig.handle.end();
        assert_eq!(ended(rig.task).await.cause, Cause::Asked);
    });
}

#[test]
fn a_flow_is_forgotten_after_silence_and_answers_keep_the_way_open() {
    in_virtual_time(async {
        let settings = Settings {
            flow_idle: 10 * SECOND,
            ..Settings::default()
        };
        let rig = Rig::new(with(settings)).await;
        let from = rig.reach(b"x").await;
        pause();
        settle().await;
        for _ in 0..5 {
            pass(ALMOST).await;
            rig.target.try_send_to(b"answer", from).unwrap();
            settle().await;
        }
        assert_eq!(rig.drops(), []);
        assert_eq!(rig.handle.stats().down.delivered.packets, 5);
        pass(10 * SECOND + REST).await;
        rig.target.try_send_to(b"too late", from).unwrap();
        settle().await;
        assert_eq!(rig.drops(), [("no_flow", 1)]);
        rig.client
            .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
            .unwrap();
        settle().await;
        assert_eq!(rig.owner.asked().len(), 2, "it is asked for anew");
        rig.target.try_send_to(b"answer", from).unwrap();
        settle().await;
        assert_eq!(rig.handle.stats().down.delivered.packets, 6);
    });
}

#[test]
fn a_flow_in_use_keeps_the_way_open_for_answers() {
    in_virtual_time(async {
        let settings = Settings {
            flow_idle: 10 * SECOND,
            ..Settings::default()
        };
        let rig = Rig::new(with(settings)).await;
        let from = rig.reach(b"x").await;
        pause();
        settle().await;
        for _ in 0..30 {
            pass(SECOND).await;
            rig.client
                .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
                .unwrap();
            settle().await;
        }
        pass(8 * SECOND).await;
        rig.target.try_send_to(b"answer", from).unwrap();
        settle().await;
        assert_eq!((rig.drops(), rig.owner.asked().len()), (vec![], 1));
    });
}
