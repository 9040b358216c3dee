//! Peers that have proven nothing yet, authentication, and floods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::world::{Peer, World, messages, stops};
use sluice_l2tp::wire::message::{Message, Start};
use sluice_l2tp::wire::result::{error, stop};
use sluice_l2tp::wire::{Hider, encode};
use sluice_spi::{Event, MachineKey, ShardId, Shards};
use sluice_testkit::{Seeded, memory, mutate};
use std::time::Duration;

sluice_testkit::count_memory!();

const SECRET: &str = "secret = \"tunnel-secret\"\n";

fn peer(number: u16) -> Peer {
    Peer::new(
        &format!("198.51.100.{}:{}", number % 250 + 1, 1024 + number),
        number + 1,
    )
}

#[test]
fn r20_no_machine_before_a_valid_scccn() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let start = peer.start();
    let reply = peer.request(&mut world, start).unwrap();
    assert_eq!(
        (world.node.front().half_open(), world.node.machines().len()),
        (1, 0)
    );
    peer.connect(&mut world, &reply, "");
    assert_eq!(
        (world.node.front().half_open(), world.node.machines().len()),
        (0, 1)
    );
    assert_eq!(world.node.only_machine(), MachineKey(reply.tunnel_id.into()));
}

#[test]
fn r20_r21_a_repeated_sccrq_is_the_same_peer_and_is_answered_once_each() {
    let mut world = World::new(SECRET);
    let mut peer = peer(0);
    let packet = peer.packet(0, &Message::Sccrq(peer.start()));
    let start = peer.start();
    let first = peer.request(&mut world, start).unwrap();
    for _ in 0..5 {
        let answers = world.give(peer.address, &packet);
        assert_eq!(answers.len(), 1);
        assert_eq!(messages(&answers), [Message::Sccrp(first.clone())]);
    }
    assert_eq!(world.node.front().half_open(), 1);
    // And nothing is sent on our own.
    assert!(world.pass(Duration::from_secs(29)).is_empty());
    // The same id from another port is another peer.
    let mut other = Peer::new("198.51.100.1:9", peer.tunnel);
    let start = other.start();
    assert_ne!(
        other.request(&mut world, start).unwrap().tunnel_id,
        first.tunnel_id
    );
    world.pass(Duration::from_secs(31));
    assert_eq!(world.node.front().half_open(), 0);
}

#[test]
fn records_live_for_their_time_and_no_longer() {
    let mut world = World::new("half_open_timeout = \"10s\"\n");
    for number in 0..3 {
        let mut peer = peer(number);
        let start = peer.start();
        peer.request(&mut world, start).unwrap();
        world.pass(Duration::from_secs(2));
        // A look at the clock before its time changes nothing.
        let now = world.clock.now();
        world.node.front().handle_timeout(now);
    }
    assert_eq!(world.node.front().half_open(), 3);
    // They came at 0, 2 and 4 s; it is 6 s now.
    for left in [3, 3, 3, 2, 2, 1, 1, 0] {
        world.pass(Duration::from_secs(1));
        assert_eq!(
            world.node.front().half_open(),
            left,
            "{:?}",
            world.clock.elapsed()
        );
    }
}

#[test]
fn r19_peers_behind_one_address_differ_by_port_and_id() {
    let mut world = World::new("");
    for number in 0..20 {
        let address = format!("203.0.113.9:{}", 2000 + number / 2);
        Peer::new(&address, 1 + number % 2).establish(&mut world);
    }
    assert_eq!(world.node.machines().len(), 20);
}

#[test]
fn a_delayed_copy_of_an_sccrq_is_acknowledged_by_the_tunnel() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let packet = peer.packet(0, &Message::Sccrq(peer.start()));
    peer.establish(&mut world);
    let answers = world.give(peer.address, &packet);
    assert!(answers.iter().any(|answer| answer.header.unwrap().nr == 2));
    assert!(
        !messages(&answers)
            .iter()
            .any(|message| matches!(message, Message::Sccrp(_)))
    );
    assert_eq!(world.node.front().half_open(), 0);
}

#[test]
fn a_peer_that_starts_anew_gets_a_new_tunnel_and_the_old_one_ends() {
    let mut world = World::new("");
    let mut peer = peer(0);
    peer.establish(&mut world);
    peer.pass(&mut world, Duration::from_secs(3));
    let mut anew = self::peer(0);
    anew.establish(&mut world);
    assert_eq!(world.node.machines().len(), 2);
    // The old tunnel vanishes with its next timer, and says nothing: its messages would be taken for the new
    // tunnel's.
    for _ in 0..70 {
        let answers = anew.pass(&mut world, Duration::from_secs(1));
        assert!(stops(&answers).is_empty());
    }
    assert_eq!(world.node.log.tunnels_down(), ["peer_restarted"]);
    assert_eq!(world.node.only_machine(), MachineKey(anew.remote.into()));
}

#[test]
fn the_secret_is_chosen_by_name_and_source() {
    let config = "accept_unknown = true\nallow_no_secret = false\n\
                  [[peers]]\nhost_name = \"peer\"\nsource = \"198.51.100.0/24\"\nsecret = \"right\"\n";
    for (secret, address, up) in [
        ("right", "198.51.100.9:1701", true),
        ("wrong", "198.51.100.9:1701", false),
        ("right", "203.0.113.9:1701", false),
    ] {
        let mut world = World::new(config);
        let mut peer = Peer::new(address, 5);
        let start = peer.start();
        let codes = match peer.request(&mut world, start) {
            Some(reply) => stops(&peer.connect(&mut world, &reply, secret)),
            None => vec![(stop::NOT_AUTHORIZED, None)],
        };
        assert_eq!(world.node.machines().len(), usize::from(up), "{secret} {address}");
        let wanted = if up {
            vec![]
        } else {
            vec![(stop::NOT_AUTHORIZED, None)]
        };
        assert_eq!(codes, wanted);
        assert_eq!(world.node.log.counted("tunnel_auth_failed"), usize::from(!up));
        let said = world.node.log.events().any(|event| {
            matches!(event, Event::Notice { text, .. } if text.contains(address) && text.contains("tunnel secret"))
        });
        assert_eq!(said, !up);
    }
}

#[test]
fn a_wrong_response_ends_the_attempt_and_allows_no_second_guess() {
    let mut world = World::new(SECRET);
    let mut peer = peer(0);
    let start = peer.start();
    let reply = peer.request(&mut world, start).unwrap();
    assert_eq!(
        stops(&peer.connect(&mut world, &reply, "guess")),
        [(stop::NOT_AUTHORIZED, None)]
    );
    peer.ns = 1;
    assert!(stops(&peer.connect(&mut world, &reply, "tunnel-secret")).is_empty());
    assert_eq!(world.node.machines().len(), 0);
    // Without any response as well.
    let mut silent = self::peer(1);
    let start = silent.start();
    let mut reply = silent.request(&mut world, start).unwrap();
    reply.challenge = None;
    assert_eq!(
        stops(&silent.connect(&mut world, &reply, "")),
        [(stop::NOT_AUTHORIZED, None)]
    );
}

#[test]
fn a_challenge_is_answered_or_the_tunnel_is_refused() {
    let challenge = Some(vec![9; 16]);
    let mut world = World::new(SECRET);
    let mut peer = peer(0);
    let start = Start {
        challenge: challenge.clone(),
        ..peer.start()
    };
    let reply = peer.request(&mut world, start).unwrap();
    let secret = sluice_auth::Secret::new("tunnel-secret");
    let right = sluice_l2tp::wire::hidden::challenge_response(2, &secret, &[9; 16]);
    assert_eq!(reply.response, Some(right));
    let mut world = World::new("");
    let start = Start {
        challenge,
        ..peer.start()
    };
    peer.ns = 0;
    peer.remote = 0;
    let answers = peer.send(&mut world, 0, &Message::Sccrq(start));
    assert_eq!(stops(&answers), [(stop::NOT_AUTHORIZED, None)]);
}

#[test]
fn another_protocol_version_is_told_the_highest() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let start = Start {
        version: 0x0200,
        ..peer.start()
    };
    let answers = peer.send(&mut world, 0, &Message::Sccrq(start));
    assert_eq!(stops(&answers), [(stop::VERSION, Some(0x0100))]);
    let start = Start {
        version: 0x0105,
        ..peer.start()
    };
    peer.ns = 0;
    assert!(
        peer.request(&mut world, start).is_some(),
        "another revision is none"
    );
}

#[test]
fn r15_an_sccrq_with_an_unknown_mandatory_avp_is_refused() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let mut body = encode(&Message::Sccrq(peer.start()), None);
    body.extend_from_slice(&[0x80, 7, 0, 0, 0, 99, 1]);
    let answers = peer.send_raw(&mut world, 0, &body);
    assert_eq!(stops(&answers), [(stop::ERROR, Some(error::UNKNOWN_MANDATORY))]);
    assert!(format!("{answers:?}").contains("attribute 99"));
    assert_eq!(world.node.front().half_open(), 0);
}

#[test]
fn hidden_avps_before_anything_is_known_are_revealed_or_refused() {
    for (secret, accepted) in [("tunnel-secret", true), ("other", false)] {
        let mut world = World::new(SECRET);
        let peer = peer(0);
        let mut entropy = Seeded::new(1);
        let secret = sluice_auth::Secret::new(secret);
        let hider = Hider {
            secret: &secret,
            entropy: &mut entropy,
        };
        let body = encode(&Message::Sccrq(peer.start()), Some(hider));
        let answers = world.give(peer.address, &peer.raw(0, &body));
        assert_eq!(answers.len(), usize::from(accepted));
        assert_eq!(world.node.front().half_open(), usize::from(accepted));
    }
}

#[test]
fn r17_only_the_peer_itself_can_prove_itself() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let start = peer.start();
    let reply = peer.request(&mut world, start).unwrap();
    let scccn = peer.packet(0, &Message::Scccn(Default::default()));
    let thief = "198.51.100.1:1".parse().unwrap();
    assert!(world.give(thief, &scccn).is_empty());
    assert_eq!((world.dropped("wrong_peer"), world.node.machines().len()), (1, 0));
    peer.connect(&mut world, &reply, "");
    assert_eq!(world.node.machines().len(), 1);
}

#[test]
fn messages_in_the_wrong_state_before_the_tunnel_is_up() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let start = peer.start();
    peer.request(&mut world, start).unwrap();
    // A call before SCCCN is dropped, and taken once SCCCN has come.
    peer.ns = 2;
    assert!(peer.ring(&mut world, 9).is_empty());
    peer.ns = 1;
    let answers = peer.send(&mut world, 0, &Message::Sccrp(peer.start()));
    assert_eq!(stops(&answers), [(stop::STATE_MACHINE, None)]);
    assert_eq!(world.node.machines().len(), 0);
}

#[test]
fn a_withdrawn_request_is_acknowledged_and_forgotten() {
    let mut world = World::new("");
    let mut peer = peer(0);
    let start = peer.start();
    peer.request(&mut world, start).unwrap();
    let mut other = peer.stop(1);
    if let Message::StopCcn(stop) = &mut other {
        stop.tunnel_id += 1;
    }
    assert!(
        world.give(peer.address, &peer.packet(0, &other)).is_empty(),
        "R-14"
    );
    let stop = peer.stop(1);
    let answers = peer.send(&mut world, 0, &stop);
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].header.unwrap().nr, &answers[0].message), (2, &None));
    assert_eq!(world.node.front().half_open(), 0);
}

#[test]
fn r23_over_the_limit_known_peers_are_told_and_others_hear_nothing() {
    let config = "max_tunnels = 1\n[[peers]]\nsource = \"203.0.113.0/24\"\n";
    let mut world = World::new(config);
    peer(0).establish(&mut world);
    let mut unknown = peer(1);
    let sccrq = Message::Sccrq(unknown.start());
    assert!(unknown.send(&mut world, 0, &sccrq).is_empty());
    let mut known = Peer::new("203.0.113.1:1701", 3);
    let sccrq = Message::Sccrq(known.start());
    let answers = known.send(&mut world, 0, &sccrq);
    assert_eq!(stops(&answers), [(stop::ERROR, Some(error::NO_RESOURCES))]);
    assert_eq!(world.dropped("tunnel_limit"), 2);
}

#[test]
fn r23_one_source_leaves_places_for_others() {
    let mut world = World::new("max_tunnels = 8\n");
    let greedy = |port: u16| Peer::new(&format!("192.0.2.66:{port}"), port);
    for port in 1..=4 {
        greedy(port).establish(&mut world);
    }
    let mut one_more = greedy(5);
    let sccrq = Message::Sccrq(one_more.start());
    assert!(one_more.send(&mut world, 0, &sccrq).is_empty());
    assert_eq!(world.dropped("tunnel_share"), 1);
    for other in 0..2 {
        Peer::new(&format!("198.51.100.{other}:1701"), 9).establish(&mut world);
    }
    assert_eq!(world.node.machines().len(), 6);
}

#[test]
fn r23_the_limit_holds_for_peers_that_were_half_open_before_it_was_reached() {
    let mut world = World::new("max_tunnels = 1\n");
    let (mut first, mut second) = (peer(0), peer(1));
    let start = first.start();
    let to_first = first.request(&mut world, start).unwrap();
    let start = second.start();
    let to_second = second.request(&mut world, start).unwrap();
    first.connect(&mut world, &to_first, "");
    let answers = second.connect(&mut world, &to_second, "");
    assert_eq!(stops(&answers), [(stop::ERROR, Some(error::NO_RESOURCES))]);
    assert_eq!(world.node.machines().len(), 1);
}

#[test]
fn peers_without_a_rule_can_be_refused_in_silence() {
    let mut world = World::new("accept_unknown = false\n[[peers]]\nhost_name = \"pe*\"\n");
    let mut stranger = peer(0);
    let start = Start {
        host_name: b"stranger".to_vec(),
        ..stranger.start()
    };
    assert!(stranger.request(&mut world, start).is_none());
    assert_eq!(world.dropped("peer_not_served"), 1);
    peer(1).establish(&mut world);
}

#[test]
fn r20_a_full_table_makes_room_at_random_and_shares_hold() {
    let config = "max_half_open = 100\nmax_half_open_per_source = 10\nmax_half_open_per_prefix = 50\n";
    let mut world = World::new(config);
    let ask = |world: &mut World, address: &str, tunnel: u16| {
        let mut peer = Peer::new(address, tunnel);
        let start = peer.start();
        peer.request(world, start).is_some()
    };
    let served = (1..=30)
        .filter(|&id| ask(&mut world, "192.0.2.77:1701", id))
        .count();
    assert_eq!(served, 10, "share of a source");
    let served = (1..=200u16)
        .filter(|&id| ask(&mut world, &format!("192.0.2.{}:1701", id % 60 + 1), 100 + id))
        .count();
    assert_eq!(served, 40, "share of a prefix");
    for number in 0..1000u16 {
        let address = format!("10.{}.{}.1:1701", number / 250, number % 250);
        assert!(ask(&mut world, &address, 1));
        assert!(world.node.front().half_open() <= 100);
    }
    assert_eq!(world.dropped("half_open_evicted"), 950);
    // The same with IPv6, by /56.
    let mut world = World::new(config);
    let served = (1..=200u16)
        .filter(|&id| ask(&mut world, &format!("[2001:db8:0:{:x}::1]:1701", id % 256), id))
        .count();
    assert_eq!(served, 50);
}

#[test]
fn r22_a_flood_is_limited_and_does_not_lock_out_known_peers() {
    let config = "max_half_open = 1000\nunknown_rate = 100\nunknown_burst = 500\nsource_rate = 10\n\
                  source_burst = 20\n[[peers]]\nsource = \"203.0.113.0/24\"\n";
    let mut world = World::new(config);
    let mut random = Seeded::new(3);
    let before = memory::live();
    let mut answered = 0usize;
    for number in 0..20_000u32 {
        let source = 0x0a00_0000 + random.below(0xff_ffff) as u32;
        let address = std::net::SocketAddr::from((source.to_be_bytes(), 1701));
        let mut peer = Peer::new("0.0.0.0:1", (number % 65_535) as u16 + 1);
        peer.address = address;
        let packet = peer.packet(0, &Message::Sccrq(peer.start()));
        answered += world.give(address, &packet).len();
        world.node.log = Default::default();
    }
    assert_eq!(answered, 500, "the burst of all strangers together");
    let held = memory::live() - before;
    assert!(held < 2_000_000, "{held} bytes are held");
    let mut known = Peer::new("203.0.113.1:1701", 3);
    known.establish(&mut world);
    // One source alone.
    let mut one = World::new(config);
    let answered: usize = (1..200)
        .map(|id| {
            let peer = Peer::new("192.0.2.1:1701", id);
            one.give(peer.address, &peer.packet(0, &Message::Sccrq(peer.start())))
                .len()
        })
        .sum();
    assert_eq!(answered, 20);
}

#[test]
fn ids_survive_a_flood() {
    // Far more requests than there are ids, none of them proven.
    let config = "max_half_open = 50\nunknown_rate = 1000000\nunknown_burst = 1000000\nsource_rate = 1000000\n\
                  source_burst = 1000000\nmax_half_open_per_source = 65535\nmax_half_open_per_prefix = 65535\n";
    let mut world = World::new(config);
    for number in 0..70_000u32 {
        let mut peer = Peer::new("192.0.2.1:1", (number % 65_535) as u16 + 1);
        peer.address.set_port((number / 65_535) as u16 + 1);
        let packet = peer.packet(0, &Message::Sccrq(peer.start()));
        assert_eq!(world.give(peer.address, &packet).len(), 1, "request {number}");
        world.node.log = Default::default();
    }
}

#[test]
fn r17_keys_of_a_shard_belong_to_it() {
    let factory = common::factory("");
    let shards = Shards::new(3);
    for shard in 0..3 {
        let entropy = Box::new(Seeded::new(shard.into()));
        let mut front = sluice_spi::Factory::front(&factory, ShardId(shard), shards, entropy).unwrap();
        let now = std::time::Instant::now();
        for _ in 0..200 {
            let key = front.mint(now).unwrap();
            assert_eq!(shards.of_id(u16::try_from(key.0).unwrap()), ShardId(shard));
            assert!(!front.reserve(key));
        }
    }
}

#[test]
fn restored_keys_are_taken_once() {
    let mut world = World::new("");
    let now = world.clock.now();
    let front = world.node.front();
    assert!(front.reserve(MachineKey(7)) && !front.reserve(MachineKey(7)));
    assert!(!front.reserve(MachineKey(0)) && !front.reserve(MachineKey(65_536)));
    front.release(MachineKey(7), now);
    assert!(!front.reserve(MachineKey(7)), "it rests first");
}

#[test]
fn r01_any_bytes_at_the_front() {
    let mut world = World::new(SECRET);
    let mut peer = peer(0);
    let start = peer.start();
    let reply = peer.request(&mut world, start).unwrap();
    let corpus = [
        peer.packet(0, &Message::Sccrq(peer.start())),
        peer.packet(0, &Message::Scccn(Default::default())),
        peer.packet(0, &peer.stop(1)),
        peer.data(0, &[0xff, 3, 0xc0, 0x21, 1, 1, 0, 4]),
    ];
    for message in &corpus {
        for bytes in mutate::all(message, 5, 200) {
            world.give(peer.address, &bytes);
            world.node.log = Default::default();
        }
    }
    assert_eq!(
        world.node.machines().len(),
        0,
        "nobody knew the secret of {reply:?}"
    );
}
