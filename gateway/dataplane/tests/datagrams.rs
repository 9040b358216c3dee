//! What the data plane makes of single datagrams: what it lets through, what it hands to the driver, what it drops.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use sluice_dataplane::{DATA_QUOTA, Dropped, Slow, SocketId, Tun, UdpSocket, UserPath};
use sluice_spi::{
    DataPath, Direction, LocalRef, MachineKey, PathError, PathKey, PathRef, PathSpec, PathUpdate, PeerAddr,
};
use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::OwnedFd;
use std::time::Instant;
use support::*;

const KEY: u32 = 0x0002_0010;

/// A data plane with one socket and one path, and a plain socket that is its peer.
struct Station {
    outside: Netns,
    path: UserPath,
    socket: SocketId,
    address: SocketAddr,
    peer: StdSocket,
    reference: PathRef,
    /// Datagrams with any content that were sent to it.
    sent: Cell<u64>,
}

impl Station {
    fn ends(&self) -> PeerAddr {
        PeerAddr {
            remote: self.peer.local_addr().unwrap(),
            local: self.address,
        }
    }

    fn send(&self, kind: u8, key: u32, payload: &[u8]) {
        self.send_from(&self.peer, &datagram(kind, key, payload));
    }

    fn send_from(&self, socket: &StdSocket, datagram: &[u8]) {
        socket.send_to(datagram, self.address).unwrap();
        self.sent.set(self.sent.get() + u64::from(!datagram.is_empty()));
    }

    /// Works until all that was sent to it has come.
    fn work(&mut self) {
        let sent = self.sent.get();
        until(&mut [&mut self.path], "all that was sent comes", |paths| {
            paths[0].totals().datagrams_in >= sent
        });
    }

    /// The same for its socket alone, as if it were `now`.
    fn work_at(&mut self, now: Instant) {
        while self.path.totals().datagrams_in < self.sent.get() {
            readable(self.path.socket_fd(self.socket).unwrap());
            let _ = self.path.poll_udp(self.socket, 64, now);
        }
    }
}

fn station(tun: bool) -> Option<Station> {
    stay_on_one_cpu();
    let outside = Netns::new()?;
    let mut path = alone();
    let (socket, address, peer) = outside.within(|| {
        let (socket, address) = bind(&mut path, "127.0.0.1:0");
        let peer = StdSocket::bind("127.0.0.1:0").unwrap();
        peer.set_nonblocking(true).unwrap();
        if tun {
            add_tun(&mut path);
        }
        (socket, address, peer)
    });
    if tun {
        outside.run("ip link set sluice0 up");
        outside.add_address("sluice0", "10.9.1.1/16");
        outside.set("ipv4/conf/all/rp_filter", "0");
    }
    let ends = PeerAddr {
        remote: peer.local_addr().unwrap(),
        local: address,
    };
    let reference = install(&mut path, KEY, ends, filter("10.9.0.2", "2001:db8:5::/64"), 1400);
    Some(Station {
        outside,
        path,
        socket,
        address,
        peer,
        reference,
        sent: Cell::new(0),
    })
}

fn sum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 packet with UDP (without a checksum) to 10.9.1.1.
fn ipv4(source: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source);
    packet.extend([10, 9, 1, 1]);
    let checksum = sum(&packet);
    packet[10..12].copy_from_slice(&checksum);
    packet.extend([0x13, 0x88]);
    packet.extend(port.to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn ipv6(source: &str, destination: &str) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    packet.extend(source.parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(destination.parse::<Ipv6Addr>().unwrap().octets());
    packet
}

/// A socket behind the TUN device, and its port.
fn inside(station: &Station) -> (StdSocket, u16) {
    let socket = station.outside.within(|| StdSocket::bind("10.9.1.1:0").unwrap());
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn only_the_session_s_own_packets_get_in() {
    let Some(mut station) = station(true) else { return };
    let (inside, port) = inside(&station);
    let good = ipv4([10, 9, 0, 2], port, b"good");
    let stranger = station.outside.within(|| StdSocket::bind("127.0.0.1:0").unwrap());
    station.send_from(&stranger, &datagram(KIND_IP, KEY, &good));
    station.send(KIND_IP, KEY, &ipv4([10, 9, 0, 3], port, b"spoofed"));
    station.send(KIND_IP, KEY, &ipv6("2001:db8:6::1", "2001:db8::1"));
    station.send(KIND_IP, KEY, &good[..27]);
    station.send(KIND_IP, KEY, b"");
    station.send(9, KEY, b"");
    station.send_from(&station.peer, b"nonsense");
    station.send_from(&station.peer, b"");
    station.send(KIND_IP, KEY, &good);
    station.work();
    let (payload, from) = receive(&inside);
    assert_eq!(
        (&payload[..], from.ip().to_string()),
        (&b"good"[..], "10.9.0.2".to_owned())
    );
    assert!(inside.recv(&mut [0; 100]).is_err());
    let mut expected = vec![
        ("wrong_peer", 1),
        ("malformed", 2),
        ("spoofed_source", 2),
        ("magic", 1),
        ("empty", 1),
        ("kind", 1),
    ];
    let mut counted = reasons(&station.path);
    counted.retain(|&(reason, _)| reason != "multicast");
    counted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(counted, expected);
    let stats = station.path.stats(station.reference).unwrap();
    assert_eq!(
        (stats.rx_packets, stats.rx_bytes, stats.dropped),
        (1, good.len() as u64, 6)
    );
    assert!(slow(&mut station.path).is_empty());
}

/// Thousands of packets that are nearly right, of one session, between good ones.
#[test]
fn damaged_packets_harm_nobody() {
    let Some(mut station) = station(true) else { return };
    let (inside, port) = inside(&station);
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&inside, 16 << 20).unwrap();
    let mut random = pattern(400_000, 99).into_iter();
    let mut number = move || usize::from(random.next().unwrap()) << 8 | usize::from(random.next().unwrap());
    let tcp = |seq: u8| {
        let mut packet = ipv4([10, 9, 0, 2], port, &[seq; 60]);
        packet[9] = 6;
        packet[24..28].copy_from_slice(&[0, 0, 0, seq]);
        packet[32..34].copy_from_slice(&[0x50, 0x10]);
        packet
    };
    let mut six = ipv6("2001:db8:5::1", "2001:db8::1");
    six[4..7].copy_from_slice(&[0, 24, 44]);
    six.extend([
        6, 0, 0, 0, 0, 0, 0, 1, 60, 0, 0, 0, 0, 0, 0, 0, 17, 1, 2, 3, 4, 5, 6, 7,
    ]);
    let mut good = 0;
    for round in 0..3000 {
        let mut packet = match round % 3 {
            0 => ipv4([10, 9, 0, 2], port, &[1; 40]),
            1 => tcp(round as u8),
            _ => six.clone(),
        };
        for _ in 0..number() % 4 {
            let place = number() % packet.len();
            packet[place] ^= 1 << (number() % 8);
        }
        if number() % 4 == 0 {
            packet.truncate(number() % (packet.len() + 1));
        }
        station.send([KIND_IP, KIND_HELD, KIND_FRAME][number() % 3], KEY, &packet);
        if round % 50 == 0 {
            station.send(KIND_IP, KEY, &ipv4([10, 9, 0, 2], port, b"good"));
            good += 1;
            station.work();
            slow(&mut station.path);
        }
    }
    station.work();
    let (mut buffer, mut received) = ([0; 200], 0);
    until(&mut [&mut station.path], "all good packets get in", |_| {
        while let Ok(length) = inside.recv(&mut buffer) {
            received += usize::from(buffer[..length] == *b"good");
        }
        received >= good
    });
    assert_eq!(received, good);
    assert!(station.path.drops().count(Dropped::Malformed) > 100);
}

#[test]
fn without_a_device_control_and_frames_still_work() {
    let Some(mut station) = station(false) else { return };
    station.send(KIND_IP, KEY, &ipv4([10, 9, 0, 2], 9, b"user data"));
    station.send(KIND_FRAME, KEY, b"frame");
    station.send(KIND_CONTROL, 0, b"control");
    station.work();
    assert_eq!(reasons(&station.path), [("no_tun", 1)]);
    let items = slow(&mut station.path);
    assert!(matches!(&items[0], Slow::Frame { listener: LISTENER, frame }
        if frame.frame[..] == b"frame"[..] && frame.machine == MachineKey(2) && frame.session == LocalRef(16)));
    let from = station.ends();
    assert!(
        matches!(&items[1], Slow::Datagram { listener: LISTENER, from: found, packet }
        if *found == from && packet[..] == datagram(KIND_CONTROL, 0, b"control"))
    );
    assert_eq!(items.len(), 2);
}

#[test]
fn packets_with_frames_are_copied_where_wanted() {
    let Some(mut station) = station(true) else { return };
    let local = ipv6("fe80::1", "fe80::2");
    for on in [true, false] {
        station.path.tap(station.reference, on);
        station.send(KIND_IP, KEY, &ipv4([10, 9, 0, 2], 9, b"user data"));
        station.send(KIND_FRAME, KEY, b"frame");
        station.send(KIND_IP, KEY, &local);
        station.work();
        station.path.send_frame(station.reference, b"answer");
        let peer = station.ends();
        let items = slow(&mut station.path);
        // A frame may end its session, so that its packet comes before it.
        assert_eq!(matches!(items[0], Slow::Tapped { .. }), on);
        let copies: Vec<_> = items
            .into_iter()
            .filter_map(|item| match item {
                Slow::Tapped {
                    machine: MachineKey(2),
                    session: LocalRef(16),
                    direction,
                    peer: found,
                    packet,
                } if found == peer => Some((direction, packet.to_vec())),
                _ => None,
            })
            .collect();
        let wanted = [
            (Direction::In, datagram(KIND_FRAME, KEY, b"frame")),
            (Direction::In, datagram(KIND_IP, KEY, &local)),
            (Direction::Out, datagram(KIND_FRAME, KEY, b"answer")),
        ];
        assert_eq!(copies, if on { &wanted[..] } else { &[] });
    }
}

#[test]
fn data_without_a_path_stays_in_order_with_control() {
    let Some(mut station) = station(false) else { return };
    for step in 0..4 {
        station.send(KIND_CONTROL, 0, &[step]);
        station.send(KIND_IP, 0x0999_0000, &[step]);
    }
    station.work();
    let order: Vec<(u8, u8)> = slow(&mut station.path)
        .iter()
        .map(|item| match item {
            Slow::Datagram { packet, .. } => (packet[1], packet[HEADER]),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<(u8, u8)> = (0..4)
        .flat_map(|step| [(KIND_CONTROL, step), (KIND_IP, step)])
        .collect();
    assert_eq!(order, expected);
}

#[test]
fn a_flood_of_data_does_not_displace_control() {
    let Some(mut station) = station(false) else { return };
    // The driver is slow: it works on many batches before it looks at what is for it.
    for number in 0..DATA_QUOTA + 50 {
        station.send(KIND_IP, 0x0999_0000, b"junk");
        if number % 64 == 0 {
            station.work();
        }
    }
    station.send(KIND_CONTROL, 0, b"important");
    station.work();
    assert_eq!(station.path.drops().count(Dropped::SlowQueueFull), 50);
    let items = slow(&mut station.path);
    assert_eq!(items.len(), DATA_QUOTA + 1);
    assert!(matches!(items.last(), Some(Slow::Datagram { packet, .. }) if packet[1] == KIND_CONTROL));
}

#[test]
fn local_ipv6_goes_to_the_machine() {
    let Some(mut station) = station(true) else { return };
    let packets = [
        ipv6("fe80::1", "2001:db8::1"),
        ipv6("2001:db8:5::1", "fe80::2"),
        ipv6("::", "ff02::1:ff00:1"),
    ];
    for packet in &packets {
        station.send(KIND_IP, KEY, packet);
    }
    station.work();
    let items = slow(&mut station.path);
    assert_eq!(items.len(), packets.len());
    for (item, packet) in items.iter().zip(&packets) {
        assert!(matches!(item, Slow::Frame { frame, .. }
            if frame.frame[..2] == [0, 0x57] && frame.frame[2..] == packet[..]));
    }
    assert_eq!(station.path.stats(station.reference).unwrap().rx_packets, 0);
}

#[test]
fn held_packets_go_on_with_the_next_or_when_their_time_is_over() {
    let Some(mut station) = station(true) else { return };
    let (inside, port) = inside(&station);
    let nothing_came = || inside.recv(&mut [0; 100]).is_err();
    let first = ipv4([10, 9, 0, 2], port, b"first");
    let second = ipv4([10, 9, 0, 2], port, b"second");
    station.send(KIND_HELD, KEY, &first);
    let now = Instant::now();
    station.work_at(now);
    assert!(nothing_came());
    assert_eq!(station.path.next_deadline(), Some(now + HOLD));
    station.send(KIND_IP, KEY, &second);
    station.work_at(now);
    let mut both = [receive(&inside).0, receive(&inside).0];
    both.sort();
    assert_eq!(both, [b"first".to_vec(), b"second".to_vec()]);
    station.path.handle_timeout(now + HOLD);
    assert_eq!(station.path.next_deadline(), None);
    station.send(KIND_HELD, KEY, &first);
    station.work_at(now);
    station.path.handle_timeout(now + HOLD / 2);
    assert!(nothing_came());
    station.path.handle_timeout(now + HOLD);
    assert_eq!(receive(&inside).0, b"first");
    assert_eq!(station.path.next_deadline(), None);
}

#[test]
fn control_leaves_before_data() {
    let Some(mut station) = station(false) else { return };
    station.path.send_frame(station.reference, b"data");
    let ends = station.ends();
    assert!(station.path.send(LISTENER, ends, b"control"));
    station.path.flush();
    assert_eq!(receive(&station.peer).0, b"control");
    assert_eq!(receive(&station.peer).0, datagram(KIND_FRAME, KEY, b"data"));
    let nowhere = PeerAddr {
        local: ([127, 0, 0, 1], 1).into(),
        ..ends
    };
    assert!(!station.path.send(LISTENER, nowhere, b"x"));
    assert_eq!(reasons(&station.path), [("no_socket", 1)]);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let Some(outside) = Netns::new() else { return };
    outside.add_address("lo", "fd00:c::5/128");
    for (bound, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "fd00:c::5")] {
        let mut path = alone();
        let (_, address) = outside.within(|| bind(&mut path, bound));
        let client = outside.within(|| match bound {
            "0.0.0.0:0" => StdSocket::bind("127.0.0.1:0").unwrap(),
            _ => StdSocket::bind("[::1]:0").unwrap(),
        });
        let target = SocketAddr::new(asked.parse().unwrap(), address.port());
        client.send_to(&datagram(KIND_CONTROL, 0, b"?"), target).unwrap();
        let mut items = Vec::new();
        until(&mut [&mut path], "the question comes", |paths| {
            items.extend(slow(paths[0]));
            !items.is_empty()
        });
        let Some(Slow::Datagram { from, .. }) = items.pop() else {
            panic!("no datagram");
        };
        assert_eq!(from.local, target);
        assert_eq!(from.remote, client.local_addr().unwrap());
        assert!(path.send(LISTENER, from, b"!"));
        path.flush();
        assert_eq!(receive(&client), (b"!".to_vec(), target));
    }
}

#[test]
fn unreachable_peers_are_reported() {
    let Some(outside) = Netns::new() else { return };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut path = alone();
        let (_, local) = outside.within(|| bind(&mut path, address));
        let gone = outside.within(|| StdSocket::bind(address).unwrap().local_addr().unwrap());
        let peer = PeerAddr { remote: gone, local };
        assert!(path.send(LISTENER, peer, b"anyone?"));
        path.flush();
        let mut items = Vec::new();
        until(&mut [&mut path], "a report comes", |paths| {
            items.extend(slow(paths[0]));
            !items.is_empty()
        });
        assert!(
            matches!(items[0], Slow::Unreachable { listener: LISTENER, peer: found } if found == peer),
            "{items:?}"
        );
        // An error about one peer does not keep a datagram to another from leaving.
        let other = outside.within(|| StdSocket::bind(address).unwrap());
        for _ in 0..3 {
            assert!(path.send(LISTENER, peer, b"anyone?"));
            path.flush();
            let there = PeerAddr {
                remote: other.local_addr().unwrap(),
                local,
            };
            assert!(path.send(LISTENER, there, b"hello"));
            path.flush();
            assert_eq!(receive(&other).0, b"hello");
        }
    }
}

#[test]
fn a_blocked_socket_bounds_what_waits_and_lets_control_go_first() {
    let Some(mut station) = station(false) else { return };
    // Slower than any machine sends, until the socket is blocked.
    let shape = |what, rate| format!("tc qdisc {what} dev lo root tbf rate {rate} burst 128k limit 400m");
    station.outside.run(&shape("add", "1mbit"));
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&station.peer, 64 << 20).unwrap();
    let frame = [7; 1300];
    let mut sent = 0;
    while station.path.drops().count(Dropped::SendQueueFull) == 0 {
        station.path.send_frame(station.reference, &frame);
        sent += 1;
        if sent % 64 == 0 {
            station.path.flush();
        }
        assert!(sent < 100_000, "nothing ever blocked");
    }
    assert!(station.path.wants_write(station.socket));
    let ends = station.ends();
    assert!(station.path.send(LISTENER, ends, b"control"));
    station.outside.run(&shape("change", "400mbit"));
    let mut after_control = None;
    let mut received = 0;
    let path = &mut station.path;
    let peer = &station.peer;
    let socket = station.socket;
    let mut buffer = [0; 2000];
    until(&mut [path], "all that waited leaves", |paths| {
        while let Ok(length) = peer.recv(&mut buffer) {
            match &buffer[..length] {
                b"control" => after_control = Some(0),
                _ => {
                    received += 1;
                    after_control = after_control.map(|count| count + 1);
                }
            }
        }
        !paths[0].wants_write(socket) && after_control.is_some_and(|count| count > 500)
    });
    assert!(received < sent);
}

#[test]
fn paths_need_a_socket_and_distinct_keys_and_addresses() {
    let Some(mut station) = station(false) else { return };
    let ends = station.ends();
    let spec = |key, peer, addresses| PathSpec {
        key: PathKey(key),
        peer,
        codec: ToyCodec::boxed(key, peer),
        filter: addresses,
        mtu: 1400,
    };
    let mut try_install = |spec| station.path.install(MachineKey(1), LocalRef(1), spec);
    let elsewhere = PeerAddr {
        local: ([127, 0, 0, 1], 9).into(),
        ..ends
    };
    assert_eq!(
        try_install(spec(1, elsewhere, filter("", ""))),
        Err(PathError::NoSocket(elsewhere.local))
    );
    assert_eq!(
        try_install(spec(KEY, ends, filter("", ""))),
        Err(PathError::KeyTaken)
    );
    assert_eq!(
        try_install(spec(1, ends, filter("10.9.0.2", ""))),
        Err(PathError::AddressTaken("10.9.0.2".parse().unwrap()))
    );
    let second = try_install(spec(1, ends, filter("10.9.0.9", ""))).unwrap();
    let moved = PathUpdate::Filter(filter("10.9.0.2", ""));
    assert!(station.path.update(second, moved).is_err());
    assert!(station.path.remove(station.reference).is_some());
    station
        .path
        .update(second, PathUpdate::Filter(filter("10.9.0.2", "")))
        .unwrap();
    assert_eq!(
        station.path.update(station.reference, PathUpdate::Mtu(9)),
        Err(PathError::Unknown)
    );
}

#[test]
fn devices_and_sockets_are_adopted() {
    let Some(outside) = Netns::new() else { return };
    outside.within(|| {
        let tun = Tun::create(None, 3).unwrap();
        let offloads = tun.offloads();
        assert!(offloads.tcp);
        let copies: Vec<OwnedFd> = tun
            .descriptors()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        let copies_again: Vec<OwnedFd> = copies.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let name = tun.name().to_owned();
        drop(tun);
        let fewer = Tun::adopt(copies, 1).unwrap();
        assert_eq!(
            (fewer.name(), fewer.offloads(), fewer.descriptors().count()),
            (&*name, offloads, 1)
        );
        drop(fewer);
        let more = Tun::adopt(copies_again, 4).unwrap();
        assert_eq!((more.name(), more.descriptors().count()), (&*name, 4));
        assert!(Tun::create(Some("much-too-long-for-a-name"), 1).is_err());
        assert!(Tun::create(None, 0).is_err());
        let plain = StdSocket::bind("127.0.0.1:0").unwrap();
        let address = plain.local_addr().unwrap();
        assert!(Tun::adopt(vec![plain.try_clone().unwrap().into()], 1).is_err());
        let adopted = UdpSocket::adopt(plain.into()).unwrap();
        assert_eq!(adopted.local_addr(), address);
        assert!(adopted.segments() && adopted.coalesces());
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(UdpSocket::adopt(stream.into()).is_err());
    });
}

#[test]
fn a_peer_that_moved_is_followed_and_its_old_address_refused() {
    let Some(mut station) = station(false) else { return };
    let moved = station.outside.within(|| StdSocket::bind("127.0.0.1:0").unwrap());
    let ends = PeerAddr {
        remote: moved.local_addr().unwrap(),
        local: station.address,
    };
    let reference = station.reference;
    station.path.update(reference, PathUpdate::Peer(ends)).unwrap();
    station.send(KIND_FRAME, KEY, b"old");
    station.send_from(&moved, &datagram(KIND_FRAME, KEY, b"new"));
    station.work();
    let items = slow(&mut station.path);
    assert!(matches!(&items[..], [Slow::Frame { frame, .. }] if frame.frame[..] == b"new"[..]));
    assert_eq!(reasons(&station.path), [("wrong_peer", 1)]);
    station.path.send_frame(reference, b"back");
    station.path.flush();
    assert_eq!(receive(&moved).0, datagram(KIND_FRAME, KEY, b"back"));
    let unbound = PeerAddr {
        local: ([127, 0, 0, 1], 9).into(),
        ..ends
    };
    assert_eq!(
        station.path.update(reference, PathUpdate::Peer(unbound)),
        Err(PathError::NoSocket(unbound.local))
    );
}

/// A data plane is made on one thread and used on another.
#[test]
fn data_planes_can_be_sent() {
    fn sendable<T: Send>(_: &T) {}
    sendable(&alone());
}
