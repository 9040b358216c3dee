//! Relays that are taken apart and go on.

use super::*;
use proptest::prelude::*;
use sluice_spi::checkpoint::CheckpointError;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

async fn parked(task: JoinHandle<Outcome>) -> Parked {
    match task.await.unwrap() {
        Outcome::Parked(parked) => *parked,
        Outcome::Ended(ended) => panic!("{ended:?}"),
    }
}

/// As another process gets it.
fn carried(parked: Parked) -> Parked {
    Parked {
        state: ParkedState::decode(&parked.state.encode()).unwrap(),
        ..parked
    }
}

impl Rig {
    /// Hands the relay over to another owner and pool.
    async fn hand_over(self, options: Options) -> Self {
        self.handle.pause();
        let stopped = carried(parked(self.task).await);
        let (owner, pool) = (Rc::new(Owner::default()), pool());
        let codec = Box::new(Toy::default());
        let relay = DatagramRelay::resume(stopped, codec, &pool, owner.clone(), options).unwrap();
        assert_eq!(relay.local_addr(), self.relay);
        Self {
            owner,
            pool,
            handle: relay.handle(),
            task: spawn_local(relay.run()),
            ..self
        }
    }
}

#[test]
fn a_relay_goes_on_with_its_sockets_and_its_counters() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let far = socket(Ipv6Addr::LOCALHOST).await;
        rig.send(far.local_addr().unwrap(), b"six").await;
        let from6 = receive(&far).await.1;
        let from4 = rig.reach(b"four").await;
        rig.send("host.example:7", b"waits").await;
        rig.until(|_| rig.owner.asked().len() == 3).await;
        let before = rig.handle.stats();
        // These come in between, and wait in the sockets.
        rig.handle.pause();
        rig.target.try_send_to(b"between", from4).unwrap();
        rig.client
            .try_send_to(&toy(rig.target_address(), b"between"), rig.relay)
            .unwrap();
        let old = rig.handle.clone();
        let rig = rig.hand_over(Options::default()).await;
        assert_eq!(old.stats().drops.count(Reason::Backlog), 1);
        assert_eq!(receive(&rig.target).await, (b"between".to_vec(), from4));
        assert_eq!(
            receive(&rig.client).await.0,
            toy(rig.target_address(), b"between")
        );
        far.send_to(b"answer", from6).await.unwrap();
        assert_eq!(
            receive(&rig.client).await.0,
            toy(far.local_addr().unwrap(), b"answer")
        );
        assert_eq!(rig.owner.asked().len(), 1, "targets are decided about anew");
        let after = rig.handle.stats();
        assert_eq!(after.client, rig.client.local_addr().unwrap());
        assert_eq!(after.up.received.packets, before.up.received.packets + 1);
        assert_eq!(after.up.delivered.bytes, before.up.delivered.bytes + 7);
        assert_eq!(
            after.down.received,
            Volume {
                packets: 2,
                bytes: 13
            }
        );
        // Strangers are still strangers.
        let stranger = local().await;
        stranger.send_to(b"unasked", from4).await.unwrap();
        stranger
            .send_to(&toy(rig.target_address(), b"x"), rig.relay)
            .await
            .unwrap();
        rig.until(|stats| stats.drops.total() == 2).await;
        assert_eq!(rig.drops(), [("wrong_source", 1), ("no_flow", 1)]);
    });
}

#[test]
fn sockets_of_all_ways_are_known_again() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let ways = [
            Way::default(),
            Way {
                source4: Some(Ipv4Addr::new(127, 0, 48, 20)),
                ..Way::default()
            },
            Way {
                interface: Some("lo".into()),
                ..Way::default()
            },
        ];
        let mut before = Vec::new();
        for way in &ways {
            rig.handle.forget_flows();
            rig.owner.way.replace(way.clone());
            before.push(rig.reach(b"before").await);
        }
        let rig = rig.hand_over(Options::default()).await;
        for (way, from) in ways.iter().zip(before) {
            rig.handle.forget_flows();
            rig.owner.way.replace(way.clone());
            assert_eq!(rig.reach(b"after").await, from);
        }
    });
}

#[test]
fn a_relay_whose_client_has_not_spoken_is_handed_over() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let rig = rig.hand_over(Options::default()).await;
        assert_eq!(rig.handle.stats().client.port(), 0);
        rig.reach(b"x").await;
    });
}

#[test]
fn timeouts_go_on_where_they_were() {
    in_virtual_time(async {
        let options = || Options {
            idle: Some(Duration::from_secs(10)),
            lifetime: Some(Duration::from_secs(25)),
            ..Options::default()
        };
        let rig = Rig::new(options()).await;
        tokio::time::pause();
        settle().await;
        let mut rig = rig;
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(9)).await;
            rig = rig.hand_over(options()).await;
            rig.client
                .try_send_to(&toy(rig.target_address(), b"x"), rig.relay)
                .unwrap();
            settle().await;
            assert!(!rig.task.is_finished());
        }
        tokio::time::advance(Duration::from_millis(7_010)).await;
        settle().await;
        assert_eq!(ended(rig.task).await.cause, Cause::Lifetime);

        let rig = Rig::new(options()).await;
        settle().await;
        tokio::time::advance(Duration::from_secs(9)).await;
        let rig = rig.hand_over(options()).await;
        settle().await;
        tokio::time::advance(Duration::from_millis(1_010)).await;
        settle().await;
        assert_eq!(ended(rig.task).await.cause, Cause::Idle);
    });
}

#[test]
fn what_is_no_relay_is_refused() {
    on_one_thread(async {
        let udp = |ip: IpAddr| OwnedFd::from(std::net::UdpSocket::bind((ip, 0)).unwrap());
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let tcp = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let resume = |client: OwnedFd, targets: Vec<OwnedFd>| {
            let state = ParkedState {
                client: "127.0.0.1:9".parse().unwrap(),
                up: Traffic::default(),
                down: Traffic::default(),
                peers: Vec::new(),
                silent: Duration::ZERO,
                age: Duration::ZERO,
            };
            let parked = Parked {
                client,
                targets,
                state,
            };
            let owner = Rc::new(Owner::default());
            DatagramRelay::resume(
                parked,
                Box::new(Toy::default()),
                &pool(),
                owner,
                Options::default(),
            )
        };
        assert!(resume(udp(v4), vec![udp(v4), udp(v6)]).is_ok());
        for (client, targets) in [(v6, vec![]), (v4, vec![v4, v4])] {
            let result = resume(udp(client), targets.into_iter().map(udp).collect());
            assert!(matches!(result, Err(DatagramError::Unsound)));
        }
        for (client, targets) in [(tcp(), vec![]), (udp(v4), vec![tcp()])] {
            assert!(matches!(resume(client, targets), Err(DatagramError::Socket(_))));
        }
    });
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16, u32)>()
            .prop_map(|(ip, port, scope)| { std::net::SocketAddrV6::new(ip.into(), port, 0, scope).into() }),
    ]
}

fn volume() -> impl Strategy<Value = Volume> {
    any::<(u64, u64)>().prop_map(|(packets, bytes)| Volume { packets, bytes })
}

fn state() -> impl Strategy<Value = ParkedState> {
    let volumes = (volume(), volume(), volume(), volume());
    let times = (0..1_u64 << 40, 0..1_u64 << 40);
    let peers = proptest::collection::vec(address(), 0..20);
    (address(), volumes, times, peers).prop_map(|(client, (one, two, three, four), times, peers)| {
        ParkedState {
            client,
            up: Traffic {
                received: one,
                delivered: two,
            },
            down: Traffic {
                received: three,
                delivered: four,
            },
            peers,
            silent: Duration::from_millis(times.0),
            age: Duration::from_millis(times.1),
        }
    })
}

proptest! {
    #[test]
    fn a_state_is_what_it_was(state in state()) {
        prop_assert_eq!(ParkedState::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sealed = sluice_spi::checkpoint::seal(1, &body);
        if let Ok(state) = ParkedState::decode(&sealed) {
            prop_assert!(state.peers.len() <= MAX_FLOWS);
        }
    }

    #[test]
    fn damage_is_seen(state in state(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = state.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(ParkedState::decode(&bytes).is_err());
        bytes.truncate(at);
        prop_assert!(ParkedState::decode(&bytes).is_err());
    }
}

#[test]
fn more_peers_than_a_relay_has_are_refused() {
    let mut state = ParkedState {
        client: "127.0.0.1:9".parse().unwrap(),
        up: Traffic::default(),
        down: Traffic::default(),
        peers: vec!["127.0.0.1:9".parse().unwrap(); MAX_FLOWS],
        silent: Duration::ZERO,
        age: Duration::ZERO,
    };
    assert_eq!(ParkedState::decode(&state.encode()), Ok(state.clone()));
    let mut body = sluice_spi::checkpoint::open(&state.encode())
        .unwrap()
        .1
        .rest()
        .to_vec();
    let at = body.len() - MAX_FLOWS * 7 - 4;
    body[at..at + 4].copy_from_slice(&(MAX_FLOWS as u32 + 1).to_be_bytes());
    body.extend_from_slice(&[4, 127, 0, 0, 1, 0, 9]);
    let refused = ParkedState::decode(&sluice_spi::checkpoint::seal(1, &body));
    assert_eq!(refused, Err(CheckpointError::Invalid("peers")));
    // What is more is not written.
    state.peers.push("127.0.0.1:9".parse().unwrap());
    assert_eq!(
        ParkedState::decode(&state.encode()).unwrap().peers.len(),
        MAX_FLOWS
    );
}
