//! Real TCP and UDP through two data planes back to back, each with its TUN device in a network namespace.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use sluice_dataplane::{Dropped, UserPath};
use sluice_spi::{DataPath, PathRef, PathUpdate, PeerAddr};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket as StdSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;

const KEY: u32 = 0x0001_0001;
const NEAR: [&str; 2] = ["10.9.0.2", "fd00:a::2"];
const FAR: [&str; 2] = ["10.9.1.1", "fd00:b::1"];

/// Two hosts joined by a tunnel: `near` reaches the addresses of `far` through both data planes and back.
struct Link {
    outside: Netns,
    near: Netns,
    far: Netns,
    near_path: UserPath,
    far_path: UserPath,
    near_ref: PathRef,
    far_ref: PathRef,
}

fn link(mtu: u16) -> Option<Link> {
    let (outside, near, far) = (Netns::new()?, Netns::new()?, Netns::new()?);
    let (mut near_path, mut far_path) = (alone(), alone());
    let (near_address, far_address) = outside.within(|| {
        let (_, near_address) = bind(&mut near_path, "127.0.0.1:0");
        let (_, far_address) = bind(&mut far_path, "127.0.0.1:0");
        (near_address, far_address)
    });
    for (host, path, own, other) in [
        (&near, &mut near_path, NEAR, FAR),
        (&far, &mut far_path, FAR, NEAR),
    ] {
        let tun = host.within(|| add_tun(path));
        host.run(&format!("ip link set {tun} up"));
        host.add_address(&tun, &format!("{}/32", own[0]));
        host.add_address(&tun, &format!("{}/128", own[1]));
        host.run(&format!("ip route add {}/32 dev {tun} src {}", other[0], own[0]));
        host.run(&format!(
            "ip -6 route add {}/128 dev {tun} src {}",
            other[1], own[1]
        ));
    }
    let ends = |remote, local| PeerAddr { remote, local };
    let near_ref = install(
        &mut near_path,
        KEY,
        ends(far_address, near_address),
        filter(FAR[0], "fd00:b::/64"),
        mtu,
    );
    let far_ref = install(
        &mut far_path,
        KEY,
        ends(near_address, far_address),
        filter(NEAR[0], "fd00:a::/64"),
        mtu,
    );
    Some(Link {
        outside,
        near,
        far,
        near_path,
        far_path,
        near_ref,
        far_ref,
    })
}

/// Sends `data` over one TCP connection each way at once, and gives what arrived.
fn exchange(near: &Netns, far: &Netns, address: IpAddr, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let listener = far.within(|| TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let both_ways = |mut stream: TcpStream| {
        let mut writer = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                writer.write_all(data).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        })
    };
    std::thread::scope(|scope| {
        let served = scope.spawn(move || both_ways(listener.accept().unwrap().0));
        let client = scope.spawn(move || {
            let stream = near.within(|| TcpStream::connect_timeout(&target, PATIENCE));
            both_ways(stream.unwrap())
        });
        (client.join().unwrap(), served.join().unwrap())
    })
}

#[test]
fn tcp_both_ways_is_whole_and_crosses_in_bulk() {
    for (version, address) in FAR.into_iter().enumerate() {
        let Some(mut link) = link(1400) else { return };
        // On a slow machine TCP would make super-packets of two segments: what it thinks it can send in a millisecond.
        for host in [&link.near, &link.far] {
            host.set("ipv4/tcp_min_tso_segs", "32");
        }
        let data = pattern(6 << 20, 7 + version as u64);
        let stop = AtomicBool::new(false);
        let (to_near, to_far) = std::thread::scope(|scope| {
            spawn_driver(scope, &mut link.near_path, &stop);
            spawn_driver(scope, &mut link.far_path, &stop);
            let arrived = exchange(&link.near, &link.far, address.parse().unwrap(), &data);
            stop.store(true, Ordering::Relaxed);
            arrived
        });
        assert!(to_near == data && to_far == data, "bytes were changed");
        for (path, reference) in [(&link.near_path, link.near_ref), (&link.far_path, link.far_ref)] {
            let (stats, totals) = (path.stats(reference).unwrap(), path.totals());
            assert!(stats.rx_bytes > data.len() as u64 && stats.tx_bytes > data.len() as u64);
            assert_eq!(
                (stats.rx_packets, stats.tx_packets),
                (totals.rx_packets, totals.tx_packets)
            );
            assert_eq!(
                reasons(path)
                    .iter()
                    .filter(|(reason, _)| *reason != "multicast")
                    .count(),
                0
            );
            println!("{totals:?}");
            assert!(
                totals.tun_writes * 3 < totals.rx_packets,
                "few packets were joined"
            );
            assert!(
                totals.tun_reads * 3 < totals.tx_packets,
                "few packets came joined"
            );
            assert!(
                totals.send_calls * 3 < totals.datagrams_out,
                "few trains were sent"
            );
            assert!(totals.receive_calls * 3 < totals.datagrams_in, "few trains came");
        }
    }
}

#[test]
fn tcp_adapts_to_the_smaller_link_by_its_segment_size() {
    let Some(mut link) = link(1100) else { return };
    let data = pattern(1 << 20, 3);
    let stop = AtomicBool::new(false);
    let (to_near, to_far) = std::thread::scope(|scope| {
        spawn_driver(scope, &mut link.near_path, &stop);
        spawn_driver(scope, &mut link.far_path, &stop);
        let arrived = exchange(&link.near, &link.far, FAR[0].parse().unwrap(), &data);
        stop.store(true, Ordering::Relaxed);
        arrived
    });
    assert!(to_near == data && to_far == data);
    // The devices have an MTU of 1500: without the clamp there would have been packets too large.
    assert_eq!(link.near_path.drops().count(Dropped::TooBig), 0);
    assert_eq!(link.far_path.drops().count(Dropped::TooBig), 0);
}

#[test]
fn an_outer_path_that_is_too_narrow_is_crossed_in_fragments() {
    let Some(mut link) = link(1400) else { return };
    link.outside.run("ip link set lo mtu 1000");
    let data = pattern(1 << 20, 11);
    let stop = AtomicBool::new(false);
    let (to_near, to_far) = std::thread::scope(|scope| {
        spawn_driver(scope, &mut link.near_path, &stop);
        spawn_driver(scope, &mut link.far_path, &stop);
        let arrived = exchange(&link.near, &link.far, FAR[0].parse().unwrap(), &data);
        stop.store(true, Ordering::Relaxed);
        arrived
    });
    assert!(to_near == data && to_far == data);
    assert_eq!(link.near_path.drops().count(Dropped::SendFailed), 0);
    assert_eq!(link.far_path.drops().count(Dropped::SendFailed), 0);
}

/// Sends UDP datagrams from `far` to `near`, each after the one before was refused, until one arrives whole; gives how
/// many were sent.
fn send_until_received(link: &mut Link, version: usize, length: usize) -> usize {
    let socket = link.near.within(|| StdSocket::bind((NEAR[version], 0)).unwrap());
    socket.set_nonblocking(true).unwrap();
    let target = socket.local_addr().unwrap();
    let sender = link.far.within(|| StdSocket::bind((FAR[version], 0)).unwrap());
    let data = pattern(length, 5);
    let mut buffer = vec![0; 4000];
    for sent in 1..20 {
        let refused = link.far_path.drops().count(Dropped::TooBig);
        sender.send_to(&data, target).unwrap();
        let mut arrived = None;
        until(
            &mut [&mut link.far_path, &mut link.near_path],
            "a datagram comes or is refused",
            |paths| {
                arrived = socket.recv(&mut buffer).ok();
                arrived.is_some() || paths[0].drops().count(Dropped::TooBig) > refused
            },
        );
        if let Some(length) = arrived {
            assert_eq!(buffer[..length], data[..]);
            return sent;
        }
    }
    panic!("nothing arrived");
}

#[test]
fn senders_are_told_that_packets_are_too_large() {
    for version in 0..2 {
        let Some(mut link) = link(1300) else { return };
        let sent = send_until_received(&mut link, version, 1400);
        assert_eq!(sent, 2, "the second comes in fragments that the sender made");
        assert_eq!(link.far_path.drops().count(Dropped::TooBig), 1);
        assert_eq!(link.far_path.stats(link.far_ref).unwrap().dropped, 1);
        assert_eq!(link.near_path.totals().rx_packets, 2);
    }
}

#[test]
fn packets_that_may_be_fragmented_are() {
    let Some(mut link) = link(1300) else { return };
    // Datagrams of this host leave without DF.
    link.far.set("ipv4/ip_no_pmtu_disc", "1");
    assert_eq!(send_until_received(&mut link, 0, 1400), 1);
    assert_eq!(link.far_path.drops().count(Dropped::TooBig), 0);
    assert_eq!(link.near_path.totals().rx_packets, 2);
}

#[test]
fn udp_of_equal_size_crosses_joined_and_unchanged() {
    stay_on_one_cpu();
    let Some(mut link) = link(1400) else { return };
    let receiver = link.far.within(|| StdSocket::bind((FAR[0], 0)).unwrap());
    receiver.set_nonblocking(true).unwrap();
    let target = receiver.local_addr().unwrap();
    let sender = link.near.within(|| StdSocket::bind((NEAR[0], 0)).unwrap());
    let data: Vec<Vec<u8>> = (0..200).map(|seed| pattern(700, seed)).collect();
    for datagram in &data {
        sender.send_to(datagram, target).unwrap();
    }
    let mut received = Vec::new();
    let mut buffer = vec![0; 2000];
    until(
        &mut [&mut link.near_path, &mut link.far_path],
        "all datagrams arrive",
        |_| {
            while let Ok((length, _)) = receiver.recv_from(&mut buffer) {
                received.push(buffer[..length].to_vec());
            }
            received.len() == data.len()
        },
    );
    assert_eq!(received, data);
    let totals = link.far_path.totals();
    println!("{totals:?}");
    assert!(totals.tun_writes < totals.rx_packets / 2);
}

#[test]
fn changes_to_a_path_take_effect() {
    let Some(mut link) = link(1400) else { return };
    assert_eq!(send_until_received(&mut link, 0, 1000), 1);
    let (near_ref, far_ref) = (link.near_ref, link.far_ref);
    link.far_path.update(far_ref, PathUpdate::Mtu(900)).unwrap();
    assert_eq!(send_until_received(&mut link, 0, 1000), 2);
    assert_eq!(link.far_path.drops().count(Dropped::TooBig), 1);
    link.far_path
        .update(far_ref, PathUpdate::Sequencing(true))
        .unwrap();
    let (stats, state) = link.far_path.remove(far_ref).unwrap();
    assert!(stats.tx_packets > 0);
    assert_eq!(state, KEY.to_be_bytes());
    assert!(link.far_path.stats(far_ref).is_none());
    assert!(link.near_path.stats(near_ref).is_some());
    assert_eq!(link.far_path.path_count(), 0);
}
