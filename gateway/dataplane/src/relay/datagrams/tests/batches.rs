//! Sizes, trains and limits.

use super::super::pool::Work;
use super::*;
use crate::sys::udp::Received;
use socket2::SockRef;
use std::net::Ipv6Addr;
use std::num::NonZeroU64;

/// A burst within a receive buffer of the default size.
const BURST: usize = 60;

#[test]
fn runs_of_one_length_cross_as_trains() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"first").await;
        let before = rig.pool.stats();
        for number in 0..BURST {
            let packet = toy(rig.target_address(), &[number as u8; 500]);
            rig.client.try_send_to(&packet, rig.relay).unwrap();
        }
        for number in 0..BURST {
            assert_eq!(receive(&rig.target).await.0, [number as u8; 500]);
        }
        let up = rig.pool.stats();
        assert_eq!(up.datagrams_in - before.datagrams_in, BURST as u64);
        assert_eq!(up.datagrams_out - before.datagrams_out, BURST as u64);
        let calls = (up.receive_calls - before.receive_calls) as usize;
        assert!(calls <= BURST / 8 + 3, "{calls} calls to receive");
        assert!(up.send_calls - before.send_calls <= calls as u64);

        for number in 0..BURST {
            rig.target.try_send_to(&[number as u8; 500], from).unwrap();
        }
        for number in 0..BURST {
            let sealed = toy(rig.target_address(), &[number as u8; 500]);
            assert_eq!(receive(&rig.client).await.0, sealed);
        }
        let down = rig.pool.stats();
        assert!((down.send_calls - up.send_calls) as usize <= BURST / 8 + 3);
        assert_eq!(rig.drops(), []);
    });
}

/// Asks the kernel to cut what is sent into datagrams of this length.
fn cut(socket: &UdpSocket, length: i32) {
    use std::os::fd::AsFd;
    crate::sys::udp::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, length).unwrap();
}

#[test]
fn trains_are_taken_apart_for_the_codec_and_put_together_again() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"first").await;
        let packets = 40;
        let one = |number: usize| toy(rig.target_address(), &[number as u8; 1_000]);
        let before = rig.pool.stats();
        cut(&rig.client, i32::try_from(one(0).len()).unwrap());
        let train: Vec<u8> = (0..packets).flat_map(one).collect();
        rig.client.send_to(&train, rig.relay).await.unwrap();
        for number in 0..packets {
            assert_eq!(receive(&rig.target).await.0, [number as u8; 1_000]);
        }
        let up = rig.pool.stats();
        assert_eq!(up.receive_calls - before.receive_calls, 1, "one train came");
        assert_eq!(up.send_calls - before.send_calls, 1, "and went");

        // The last of a train may be shorter.
        cut(&rig.target, 1_000);
        let train: Vec<u8> = (0..packets).flat_map(|number| [number as u8; 1_000]).collect();
        rig.target.send_to(&train[..train.len() - 1], from).await.unwrap();
        for number in 0..packets {
            let length = 1_000 - usize::from(number == packets - 1);
            let sealed = toy(rig.target_address(), &vec![number as u8; length]);
            assert_eq!(receive(&rig.client).await.0, sealed);
        }
        let stats = rig.handle.stats();
        assert_eq!(
            (stats.up.delivered.packets, stats.down.delivered.packets),
            (41, 40)
        );
        assert_eq!(stats.up.delivered.bytes, 40_005);
        assert_eq!(stats.down.received.bytes, 39_999);
        assert_eq!(stats.drops.total(), 0);
    });
}

#[test]
fn receivers_and_lengths_that_alternate_are_not_mixed_up() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let other = local().await;
        let ends = [&rig.target, &other];
        let mut random = Seeded::new(3);
        let mut wanted = [Vec::new(), Vec::new()];
        for _ in 0..6 {
            for _ in 0..20 {
                let (to, length) = (random.below(2), random.below(3) * 100);
                let payload = random.bytes(length);
                let packet = toy(ends[to].local_addr().unwrap(), &payload);
                rig.client.try_send_to(&packet, rig.relay).unwrap();
                wanted[to].push(payload);
            }
            for (end, wanted) in ends.iter().zip(&mut wanted) {
                for payload in wanted.drain(..) {
                    assert_eq!(receive(end).await.0, payload);
                }
            }
        }
    });
}

#[test]
fn all_sizes_pass() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let header = toy(rig.target_address(), b"").len();
        for size in [0, 1, 1_472, 1_473, 9_000, 65_507 - header] {
            let payload = Seeded::new(size as u64).bytes(size);
            let from = rig.reach(&payload).await;
            rig.target.send_to(&payload, from).await.unwrap();
            assert_eq!(receive(&rig.client).await.0, toy(rig.target_address(), &payload));
        }
        assert_eq!(rig.drops(), []);
    });
}

#[test]
fn an_answer_that_is_too_large_with_its_header_is_dropped() {
    on_one_thread(async {
        let rig = Rig::new(Options::default()).await;
        let from = rig.reach(b"x").await;
        let header = toy(rig.target_address(), b"").len();
        let payload = vec![7; 65_507];
        rig.target.send_to(&payload[header - 1..], from).await.unwrap();
        rig.target.send_to(&payload[header..], from).await.unwrap();
        let fitting = toy(rig.target_address(), &payload[header..]);
        assert_eq!(receive(&rig.client).await.0, fitting);
        assert_eq!(rig.drops(), [("too_big", 1)]);
        let down = rig.handle.stats().down;
        assert_eq!((down.received.packets, down.delivered.packets), (2, 1));
    });
}

#[test]
fn what_only_ipv6_carries_does_not_go_to_ipv4() {
    on_one_thread(async {
        let rig = Rig::at(Ipv6Addr::LOCALHOST.into(), 0, Options::default()).await;
        let target = local().await;
        let address = target.local_addr().unwrap();
        rig.send(address, &[1; 65_508 - 20]).await;
        assert_eq!(receive(&target).await.0.len(), 65_488);
        let header = toy("127.0.0.1:1", b"").len();
        rig.send("127.0.0.1:1", &vec![1; 65_527 - header]).await;
        rig.until(|stats| stats.up.delivered.packets + stats.drops.total() == 2)
            .await;
        let is_larger = 65_527 - header > 65_507;
        assert_eq!(rig.drops(), [("too_big", 1)][..usize::from(is_larger)]);
        assert!(is_larger);
    });
}

#[test]
fn what_was_cut_off_or_has_no_sender_is_dropped() {
    on_one_thread(async {
        let (owner, pool) = (Rc::new(Owner::default()), pool());
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let spec = RelaySpec {
            client: (ip, 5_000).into(),
            codec: Box::new(Toy::default()),
        };
        let (mut relay, _) = DatagramRelay::open(spec, ip, &pool, owner, Options::default()).unwrap();
        let whole = Received {
            remote: Some((ip, 5_000).into()),
            ..Received::NONE
        };
        let cut_off = Received {
            truncated: true,
            ..whole
        };
        let packet = toy("127.0.0.1:9", b"x");
        pool.with_work(|Work { queues, .. }| {
            relay.relay_up(&packet, &cut_off, queues, now());
            relay.relay_up(&packet, &Received::NONE, queues, now());
            assert_eq!(queues[0].datagrams(), 0);
            relay.relay_up(&packet, &whole, queues, now());
            assert_eq!(queues[0].datagrams(), 1);
            let [_, queue, ..] = queues;
            let answer = Received {
                remote: Some((ip, 9).into()),
                ..whole
            };
            let cut_off = Received {
                truncated: true,
                segment: 2,
                ..answer
            };
            relay.relay_down(b"abcde", &cut_off, queue, now());
            relay.relay_down(b"abcde", &Received::NONE, queue, now());
            assert_eq!(queue.datagrams(), 0);
            relay.relay_down(b"abcde", &answer, queue, now());
            assert_eq!(queue.datagrams(), 1);
        });
        let drops: Vec<_> = relay.handle().stats().drops.iter().collect();
        assert_eq!(drops, [("truncated", 2 + 3 + 1)]);
    });
}

#[test]
fn a_limit_delays_and_drops_nothing() {
    in_virtual_time(async {
        let rate = NonZeroU64::new(100_000).unwrap();
        let bucket = || super::super::super::Bucket::new(rate, 10_000, now());
        let (up, down) = (bucket(), bucket());
        let options = Options {
            up: Some(Box::new(super::super::super::Share::new(&up))),
            down: Some(Box::new(super::super::super::Share::new(&down))),
            ..Options::default()
        };
        let rig = Rig::new(options).await;
        tokio::time::pause();
        let address = rig.target_address();
        SockRef::from(&rig.target).set_recv_buffer_size(1 << 20).unwrap();
        for _ in 0..100 {
            rig.client
                .try_send_to(&toy(address, &[0; 1_000]), rig.relay)
                .unwrap();
        }
        let packet = toy(address, &[0; 1_000]).len() as u64;
        let mut last = 0;
        for tick in 1..=100_u64 {
            settle().await;
            let bytes = rig.handle.stats().up.received.bytes;
            // Its burst, and what flows; at most a batch is ahead.
            let most = 10_000 + 1_000 * (tick - 1) + 8 * packet;
            assert!(bytes <= most, "{bytes} of {most} after {tick}");
            last = bytes;
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!(last >= 95_000, "{last}");
        tokio::time::advance(Duration::from_secs(1)).await;
        settle().await;
        let stats = rig.handle.stats();
        assert_eq!((stats.up.delivered.packets, stats.drops.total()), (100, 0));
    });
}
