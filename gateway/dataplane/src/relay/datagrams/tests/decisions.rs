//! That targets are asked for once, and what happens until and after the answer.

use super::*;

#[test]
fn a_target_is_asked_for_once() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for round in 0..50 {
            rig.reach(&[round]).await;
        }
        assert_eq!(rig.owner.asked(), [rig.target_address().to_string()]);
    });
}

#[test]
fn datagrams_wait_for_the_decision_in_order_and_within_bounds() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for number in 0..40 {
            rig.send("host.example:7", &[number]).await;
        }
        // Others do not wait for it.
        rig.reach(b"elsewhere").await;
        assert_eq!(rig.drops(), [("backlog", 8)]);
        rig.owner.tell("host.example", Ok(rig.target_address().into()));
        for number in 0..32 {
            assert_eq!(receive(&rig.target).await.0, [number]);
        }
        rig.send("host.example:7", b"later").await;
        assert_eq!(receive(&rig.target).await.0, b"later");
        assert_eq!(rig.owner.asked().len(), 2);
        let up = rig.handle.stats().up;
        assert_eq!((up.received.packets, up.delivered.packets), (42, 34));
    });
}

#[test]
fn octets_that_wait_are_bounded_too() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for name in ["one", "two", "three"] {
            rig.send(format!("{name}:7"), &[0; 60_000]).await;
            rig.until(|stats| rig.owner.asked().contains(&format!("{name}:7")) || stats.drops.total() > 0)
                .await;
        }
        rig.reach(b"small").await;
        assert_eq!(rig.drops(), [("backlog", 1)]);
        for name in ["one", "two"] {
            rig.owner.tell(name, Ok(rig.target_address().into()));
            assert_eq!(receive(&rig.target).await.0.len(), 60_000);
        }
        // There is room again, and the third is asked for anew.
        rig.send("three:7", b"again").await;
        rig.until(|_| rig.owner.asked().len() == 5).await;
        rig.owner.tell("three", Ok(rig.target_address().into()));
        assert_eq!(receive(&rig.target).await.0, b"again");
    });
}

#[test]
fn a_denial_is_remembered_for_a_while() {
    in_virtual_time(async {
        let rig = Rig::new(Options::default()).await;
        tokio::time::pause();
        let send = |name: &str| {
            rig.client.try_send_to(&toy(name, b"x"), rig.relay).unwrap();
        };
        for (seconds, denied, lost, asked) in [(0, 1, 1, 3), (1, 2, 2, 3), (3, 3, 3, 4), (11, 4, 4, 7)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            send("denied:7");
            send("elsewhere:7");
            send("lost:7");
            settle().await;
            assert_eq!(
                rig.drops(),
                [("denied", denied), ("upstream", denied), ("unresolved", lost)]
            );
            assert_eq!(rig.owner.asked().len(), asked);
        }
    });
}

#[test]
fn what_waits_is_dropped_when_the_answer_is_no() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for (name, verdict) in [("one", Refusal::Denied), ("two", Refusal::Failed)] {
            for _ in 0..3 {
                rig.send(format!("{name}:7"), b"x").await;
            }
            rig.until(|stats| stats.up.received.packets % 3 == 0 && !rig.owner.open.borrow().is_empty())
                .await;
            rig.owner.tell(name, Err(verdict));
        }
        rig.until(|stats| stats.drops.total() == 6).await;
        assert_eq!(rig.drops(), [("denied", 3), ("unresolved", 3)]);
    });
}

#[test]
fn an_owner_that_fails_or_never_answers_harms_nothing_else() {
    in_virtual_time(async {
        let rig = Rig::new(Options::default()).await;
        rig.reach(b"before").await;
        rig.send("panics:7", b"x").await;
        rig.until(|stats| stats.drops.count(Reason::Unresolved) == 1)
            .await;
        rig.send("silent:7", b"x").await;
        rig.until(|_| rig.owner.asked().len() == 3).await;
        tokio::time::pause();
        tokio::time::advance(PATIENCE + Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(rig.drops(), [("unresolved", 2)]);
        rig.reach(b"after").await;
    });
}

#[test]
fn a_target_that_cannot_be_read_is_dropped_with_the_codecs_reason() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        rig.send("no port", b"x").await;
        rig.reach(b"good").await;
        assert_eq!(rig.drops(), [("toy_target", 1)]);
        assert_eq!(rig.owner.asked().len(), 1);
    });
}

#[test]
fn flows_are_forgotten_when_the_owner_says_so() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"one").await;
        for _ in 0..3 {
            rig.send("host.example:7", b"waits").await;
        }
        rig.until(|_| rig.owner.asked().len() == 2).await;
        settle().await;
        rig.handle.forget_flows();
        rig.until(|stats| stats.drops.total() == 3).await;
        assert_eq!(rig.drops(), [("backlog", 3)]);
        let waiting = rig.owner.open.borrow_mut().remove("host.example").unwrap();
        assert!(waiting.send(Ok(from.into())).is_err(), "nobody waits any more");
        assert_eq!(rig.owner.asked().len(), 3, "it is asked for the peer at once");
        rig.target.send_to(b"answer", from).await.unwrap();
        assert_eq!(receive(&rig.client).await.0, toy(rig.target_address(), b"answer"));
        assert_eq!(rig.reach(b"two").await, from, "the mapping stays");
        assert_eq!(rig.owner.asked().len(), 4, "it is asked for anew");
    });
}

#[test]
fn nothing_is_taken_from_a_peer_that_is_not_allowed_any_more() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"one").await;
        rig.owner.denies.set(true);
        rig.handle.forget_flows();
        rig.until(|_| rig.owner.asked().len() == 2).await;
        rig.target.send_to(b"answer", from).await.unwrap();
        rig.until(|stats| stats.drops.count(Reason::NoFlow) == 1).await;
        rig.owner.denies.set(false);
        assert_eq!(rig.reach(b"two").await, from, "the mapping stays");
        rig.target.send_to(b"answer", from).await.unwrap();
        assert_eq!(receive(&rig.client).await.0, toy(rig.target_address(), b"answer"));
    });
}

#[test]
fn flows_are_bounded_and_the_oldest_make_room() {
    on_one_thread(async {
        let settings = Settings {
            flows: 16,
            ..Settings::default()
        };
        let rig = Rig::new(with(settings)).await;
        for round in 0..200 {
            // Other targets come and go; one is used all the time.
            rig.send(format!("127.0.77.1:{}", 2_000 + round), b"x").await;
            rig.reach(b"kept").await;
        }
        let target = rig.target_address().to_string();
        let asked = rig.owner.asked();
        assert_eq!(asked.iter().filter(|asked| **asked == target).count(), 1);
        assert_eq!(asked.len(), 201);
        rig.send("127.0.77.1:2000", b"x").await;
        rig.until(|_| rig.owner.asked().len() == 202).await;
    });
}

#[test]
fn decisions_waited_for_are_bounded() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for number in 0..140 {
            rig.send(format!("host{number}:7"), b"x").await;
            settle().await;
        }
        rig.until(|stats| stats.up.received.packets == 140).await;
        assert_eq!(rig.drops(), [("backlog", 12)]);
        rig.handle.end();
        let stats = ended(rig.task).await.stats;
        assert_eq!(stats.drops.count(Reason::Backlog), 140, "none is lost unseen");
    });
}
