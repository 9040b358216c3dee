//! What comes from targets.

use super::*;
use std::net::Ipv6Addr;

#[test]
fn answers_have_their_source_and_come_only_from_whom_the_client_has_sent_to() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"question").await;
        assert_ne!(from, rig.relay);
        let (port, address) = (local().await, socket(Ipv4Addr::new(127, 0, 0, 3)).await);
        for stranger in [&port, &address] {
            stranger.send_to(b"unasked", from).await.unwrap();
        }
        rig.target.send_to(b"answer", from).await.unwrap();
        assert_eq!(
            receive(&rig.client).await,
            (toy(rig.target_address(), b"answer"), rig.relay)
        );
        rig.until(|stats| stats.drops.total() == 2).await;
        assert_eq!(rig.drops(), [("no_flow", 2)]);
        let down = rig.handle.stats().down;
        assert_eq!(down.received, Volume { packets: 1, bytes: 6 });
        let sealed = toy(rig.target_address(), b"answer").len() as u64;
        assert_eq!(
            down.delivered,
            Volume {
                packets: 1,
                bytes: sealed
            }
        );
    });
}

#[test]
fn what_cannot_be_sealed_is_dropped_for_the_codecs_reason() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"question").await;
        for payload in [UNSEALABLE, b"answer"] {
            rig.target.send_to(payload, from).await.unwrap();
        }
        assert_eq!(receive(&rig.client).await.0, toy(rig.target_address(), b"answer"));
        assert_eq!(rig.drops(), [("toy_bad", 1)]);
    });
}

#[test]
fn a_full_cone_takes_answers_from_all() {
    on_one_thread(async {
        let settings = Settings {
            full_cone: true,
            ..Settings::default()
        };
        let rig = Rig::new(with(settings)).await;
        let from = rig.reach(b"question").await;
        let stranger = local().await;
        stranger.send_to(b"unasked", from).await.unwrap();
        let sealed = toy(stranger.local_addr().unwrap(), b"unasked");
        assert_eq!(receive(&rig.client).await.0, sealed);
    });
}

#[test]
fn all_targets_see_one_address() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"one").await;
        let other = local().await;
        rig.send(other.local_addr().unwrap(), b"two").await;
        assert_eq!(receive(&other).await, (b"two".to_vec(), from));
        other.send_to(b"answer", from).await.unwrap();
        let sealed = toy(other.local_addr().unwrap(), b"answer");
        assert_eq!(receive(&rig.client).await.0, sealed);
    });
}

#[test]
fn ports_towards_targets_are_of_the_configured_range() {
    on_one_thread(async {
        let source = Ipv4Addr::new(127, 0, 47, 4);
        let settings = Settings {
            source_ports: Ports::new(47_330, 47_330).unwrap(),
            ..Settings::default()
        };
        let rig = Rig::new(with(settings.clone())).await;
        rig.go_by(source);
        assert_eq!(rig.reach(b"x").await, SocketAddr::from((source, 47_330)));
        // There is none left for another; it stays, and goes on when there is one.
        let other = Rig::new(with(settings)).await;
        other.go_by(source);
        for number in 1..=2 {
            other.send(other.target_address(), b"x").await;
            other
                .until(|stats| stats.drops.count(Reason::NoSocket) == number)
                .await;
        }
        rig.handle.end();
        ended(rig.task).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(other.reach(b"x").await, SocketAddr::from((source, 47_330)));
    });
}

impl Rig {
    /// New targets are sent to from this address from now on.
    fn go_by(&self, source: Ipv4Addr) {
        self.owner.way.borrow_mut().source4 = Some(source);
    }

    /// Sends to a target of its own by the present way; gives that and where the datagram came from.
    async fn reach_another(&self) -> (UdpSocket, SocketAddr) {
        let target = local().await;
        self.send(target.local_addr().unwrap(), b"x").await;
        let from = receive(&target).await.1;
        (target, from)
    }
}

#[test]
fn each_way_has_a_socket_that_its_targets_share() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let sources = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 48, last));
        for source in sources {
            rig.go_by(source);
            let (first, from) = rig.reach_another().await;
            assert_eq!(from.ip(), source);
            assert_eq!(rig.reach_another().await.1, from);
            first.send_to(b"answer", from).await.unwrap();
            let sealed = toy(first.local_addr().unwrap(), b"answer");
            assert_eq!(receive(&rig.client).await.0, sealed);
        }
        // What was decided stays so.
        assert_eq!(rig.reach(b"x").await.ip(), sources[2]);
        rig.go_by(sources[0]);
        assert_eq!(rig.reach(b"x").await.ip(), sources[2]);
    });
}

#[test]
fn there_are_only_so_many_ways() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        for last in 1..=8 {
            rig.go_by(Ipv4Addr::new(127, 0, 48, last));
            rig.reach_another().await;
        }
        rig.go_by(Ipv4Addr::new(127, 0, 48, 9));
        rig.send(rig.target_address(), b"x").await;
        rig.until(|stats| stats.drops.count(Reason::NoSocket) == 1).await;
        // Another target by a way that there is.
        rig.go_by(Ipv4Addr::new(127, 0, 48, 8));
        rig.reach_another().await;
    });
}

#[test]
fn an_interface_is_left_by() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        rig.owner.way.borrow_mut().interface = Some("lo".into());
        rig.reach(b"x").await;
        // One that there is not is no reason to leave by another.
        rig.owner.way.borrow_mut().interface = Some("none-such".into());
        rig.send("127.0.0.1:9", b"x").await;
        rig.until(|stats| stats.drops.count(Reason::NoSocket) == 1).await;
    });
}

#[test]
fn both_families_have_a_socket_each() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let far = socket(Ipv6Addr::LOCALHOST).await;
        let far_address = far.local_addr().unwrap();
        rig.send(far_address, b"six").await;
        let (payload, from) = receive(&far).await;
        assert_eq!((&payload[..], from.is_ipv6()), (&b"six"[..], true));
        assert!(rig.reach(b"four").await.is_ipv4());
        far.send_to(b"answer", from).await.unwrap();
        assert_eq!(receive(&rig.client).await.0, toy(far_address, b"answer"));
    });
}

#[test]
fn a_client_with_ipv6_is_served_alike() {
    on_one_thread(async {
        let rig = Rig::at(Ipv6Addr::LOCALHOST.into(), 0, Options::default()).await;
        let from = rig.reach(b"question").await;
        rig.target.send_to(b"answer", from).await.unwrap();
        assert_eq!(receive(&rig.client).await.0, toy(rig.target_address(), b"answer"));
    });
}

#[test]
fn a_target_that_is_not_there_ends_nothing() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        // A port that nobody has: the kernel reports it at once.
        let gone = local().await.local_addr().unwrap();
        for round in 0..20 {
            rig.send(gone, &[round]).await;
            rig.reach(&[round]).await;
        }
        assert_eq!(rig.drops(), []);
        assert_eq!(rig.handle.stats().up.delivered.packets, 40);
        // The same with the client: its answers find nobody.
        let from = rig.reach(b"x").await;
        let client = rig.client.local_addr().unwrap();
        drop(rig.client);
        for _ in 0..20 {
            rig.target.send_to(b"answer", from).await.unwrap();
            settle().await;
        }
        let back = UdpSocket::bind(client).await.unwrap();
        rig.target.send_to(b"there", from).await.unwrap();
        assert_eq!(
            receive(&back).await.0,
            toy(rig.target.local_addr().unwrap(), b"there")
        );
        assert!(!rig.task.is_finished());
    });
}

#[test]
fn what_cannot_be_sent_is_counted() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        // A broadcast address, which needs a right that the socket has not asked for.
        rig.send("255.255.255.255:9", b"x").await;
        rig.reach(b"good").await;
        assert_eq!(rig.drops(), [("send_failed", 1)]);
        assert_eq!(rig.handle.stats().up.delivered, Volume { packets: 1, bytes: 4 });
    });
}
