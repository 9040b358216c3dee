//! Two shards on one address: each packet comes to the shard that owns it, whichever received it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use sluice_dataplane::{Routes, Slow, Tun, UdpSocket, UserPath, mesh};
use sluice_spi::{DataPath, PeerAddr, Shards};
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::*;

/// Two shards with a socket each on one address.
fn two_shards(outside: &Netns, counter: &Arc<AtomicUsize>) -> (Vec<UserPath>, SocketAddr) {
    let shards = Shards::new(2);
    let routes = Arc::new(Routes::new(16));
    let waker = || -> Arc<dyn Fn() + Send + Sync> {
        let counter = counter.clone();
        Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        })
    };
    let ports = mesh(vec![waker(), waker()]);
    let mut paths: Vec<UserPath> = ports
        .into_iter()
        .map(|port| on_port(port, routes.clone()))
        .collect();
    let sockets =
        outside.within(|| UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), shards, &ToyModule).unwrap());
    let address = sockets[0].local_addr();
    for (path, socket) in paths.iter_mut().zip(sockets) {
        path.add_socket(LISTENER, &ToyModule, socket);
    }
    (paths, address)
}

#[test]
fn datagrams_come_to_their_shard_and_trains_are_taken_apart() {
    let Some(outside) = Netns::new() else { return };
    let woken = Arc::new(AtomicUsize::new(0));
    let (mut paths, address) = two_shards(&outside, &woken);
    let mut sender = alone();
    let (_, from) = outside.within(|| bind(&mut sender, "127.0.0.1:0"));
    let (sender_ends, ends) = (
        PeerAddr {
            remote: address,
            local: from,
        },
        PeerAddr {
            remote: from,
            local: address,
        },
    );
    let (even, odd) = (0x0003_0010, 0x0003_0011);
    for (shard, key) in [(0, even), (1, odd)] {
        install(&mut paths[shard], key, ends, filter("", ""), 1400);
    }
    let to_even = install(&mut sender, even, sender_ends, filter("", ""), 1400);
    let to_odd = install(&mut sender, odd, sender_ends, filter("", ""), 1400);
    let frames = |paths: &mut Vec<UserPath>, expected: [usize; 2]| {
        let [first, second] = &mut paths[..] else { panic!() };
        let mut found = [Vec::new(), Vec::new()];
        until(&mut [first, second], "all frames arrive", |paths| {
            for (found, path) in found.iter_mut().zip(paths.iter_mut()) {
                found.extend(slow(path).into_iter().map(|item| match item {
                    Slow::Frame { frame, .. } => (frame.session.0, frame.frame[0]),
                    other => panic!("{other:?}"),
                }));
            }
            [found[0].len(), found[1].len()] == expected
        });
        found
    };
    // Alone, each comes to its shard at once.
    for _ in 0..10 {
        sender.send_frame(to_odd, b"o");
        sender.flush();
    }
    frames(&mut paths, [0, 10]);
    assert_eq!(paths[0].totals().crossed + paths[1].totals().crossed, 0);
    // In a train, the first decides where all go: the others cross, and keep their order.
    for number in 0..20 {
        sender.send_frame(to_even, &[number]);
        sender.send_frame(to_odd, &[number]);
    }
    sender.flush();
    let found = frames(&mut paths, [20, 20]);
    for (found, session) in found.iter().zip([16, 17]) {
        let expected: Vec<(u32, u8)> = (0..20).map(|number| (session, number)).collect();
        assert_eq!(*found, expected);
    }
    assert_eq!(paths[0].totals().crossed, 20);
    assert!(woken.load(Ordering::Relaxed) > 0);
}

#[test]
fn packets_from_the_wrong_queue_cross_to_the_owner_of_the_address() {
    let Some(outside) = Netns::new() else { return };
    let (mut paths, address) = two_shards(&outside, &Arc::new(AtomicUsize::new(0)));
    let peer = outside.within(|| StdSocket::bind("127.0.0.1:0").unwrap());
    peer.set_nonblocking(true).unwrap();
    let ends = PeerAddr {
        remote: peer.local_addr().unwrap(),
        local: address,
    };
    install(&mut paths[0], 0x10, ends, filter("10.9.0.2", ""), 1400);
    install(&mut paths[1], 0x11, ends, filter("10.9.0.3", ""), 1400);
    let tun = outside.within(|| Tun::create(Some("two%d"), 2).unwrap());
    assert_eq!(tun.name(), "two0");
    outside.run("ip link set two0 up");
    outside.add_address("two0", "10.9.1.1/16");
    for (path, queue) in paths.iter_mut().zip(tun.into_queues()) {
        path.set_tun(Some(queue));
    }
    // Many flows, so that both queues get some for both addresses.
    let mut expected = Vec::new();
    for flow in 0..40u8 {
        let socket = outside.within(|| StdSocket::bind("10.9.1.1:0").unwrap());
        for (key, target) in [(0x10, "10.9.0.2:5000"), (0x11, "10.9.0.3:5000")] {
            socket.send_to(&[flow], target).unwrap();
            expected.push((key, flow));
        }
    }
    let [first, second] = &mut paths[..] else { panic!() };
    let mut found = Vec::new();
    let mut buffer = [0; 2000];
    until(&mut [first, second], "all packets arrive", |_| {
        while let Ok(length) = peer.recv(&mut buffer) {
            found.push((buffer[7], buffer[length - 1]));
        }
        found.len() == expected.len()
    });
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let crossed: Vec<u64> = paths.iter().map(|path| path.totals().crossed).collect();
    assert!(
        crossed.iter().sum::<u64>() > 0,
        "every packet came to its owner's queue"
    );
}
