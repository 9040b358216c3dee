//! The client's side: who may send, and what is made of it.

use super::*;

#[test]
fn the_first_datagram_that_can_be_read_says_which_port_is_the_clients() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let other = local().await;
        other.send_to(b"\x09nonsense", rig.relay).await.unwrap();
        rig.until(|stats| stats.drops.total() == 1).await;
        assert_eq!(rig.handle.stats().client.port(), 0, "that does not count");
        rig.reach(b"first").await;
        assert_eq!(rig.handle.stats().client, rig.client.local_addr().unwrap());
        other
            .send_to(&toy(rig.target_address(), b"stranger"), rig.relay)
            .await
            .unwrap();
        rig.reach(b"second").await;
        assert_eq!(rig.drops(), [("wrong_source", 1), ("toy_bad", 1)]);
    });
}

#[test]
fn only_the_clients_address_is_heard() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let stranger = socket(Ipv4Addr::new(127, 0, 0, 2)).await;
        stranger
            .send_to(&toy(rig.target_address(), b"stranger"), rig.relay)
            .await
            .unwrap();
        rig.reach(b"client").await;
        assert_eq!(rig.drops(), [("wrong_source", 1)]);
        assert_eq!(rig.handle.stats().up.received.packets, 1);
        assert_eq!(rig.owner.asked().len(), 1, "its target is not even looked at");
    });
}

#[test]
fn a_stated_port_is_the_only_one() {
    on_one_thread(async {
        let client = local().await;
        let stated = client.local_addr().unwrap().port();
        let mut rig = Rig::at(Ipv4Addr::LOCALHOST.into(), stated, Options::default()).await;
        rig.send(rig.target_address(), b"from another port").await;
        rig.client = client;
        rig.reach(b"from the one").await;
        assert_eq!(rig.drops(), [("wrong_source", 1)]);
    });
}

#[test]
fn a_client_and_our_address_are_of_one_family() {
    on_one_thread(async {
        let open = |client: &str, local: &str| {
            let spec = RelaySpec {
                client: client.parse().unwrap(),
                codec: Box::new(Toy::default()),
            };
            let owner = Rc::new(Owner::default());
            DatagramRelay::open(spec, local.parse().unwrap(), &pool(), owner, Options::default())
        };
        for (client, local) in [("127.0.0.1:0", "::1"), ("[::1]:0", "127.0.0.1")] {
            assert!(matches!(open(client, local), Err(DatagramError::Family(..))));
        }
        // As a socket of both families has them.
        let (_, address) = open("[::ffff:127.0.0.1]:0", "::ffff:127.0.0.1").unwrap();
        assert!(address.is_ipv4());
        let error = open("203.0.113.9:0", "203.0.113.1").unwrap_err();
        assert!(
            matches!(error, DatagramError::Socket(_)),
            "no address of ours: {error}"
        );
    });
}

#[test]
fn what_is_held_is_given_up_in_time() {
    in_virtual_time(async {
        let rig = Rig::new(Options::default()).await;
        tokio::time::pause();
        settle().await;
        for _ in 0..2 {
            rig.client.try_send_to(&[1, 2, 3], rig.relay).unwrap();
        }
        settle().await;
        let stats = rig.handle.stats();
        assert_eq!((stats.up.received.packets, stats.drops.total()), (2, 0));
        assert_eq!(stats.client, rig.client.local_addr().unwrap(), "a part counts");
        tokio::time::advance(HOLD + Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(rig.drops(), [("fragment", 2)]);
    });
}

#[test]
fn a_port_is_of_the_configured_range() {
    on_one_thread(async {
        let ports = Ports::new(47_320, 47_323).unwrap();
        let ip = Ipv4Addr::new(127, 0, 47, 2).into();
        let mut rigs = Vec::new();
        for _ in 0..4 {
            let settings = Settings {
                client_ports: ports,
                ..Settings::default()
            };
            rigs.push(Rig::at(ip, 0, with(settings)).await);
        }
        let mut all: Vec<u16> = rigs.iter().map(|rig| rig.relay.port()).collect();
        all.sort_unstable();
        assert_eq!(all, [47_320, 47_321, 47_322, 47_323]);
        // A relay that has ended gives its port back.
        let rig = rigs.remove(0);
        rig.handle.end();
        assert_eq!(ended(rig.task).await.cause, Cause::Asked);
        let settings = Settings {
            client_ports: ports,
            ..Settings::default()
        };
        assert_eq!(Rig::at(ip, 0, with(settings)).await.relay, rig.relay);
    });
}
