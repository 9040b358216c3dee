//! Attacks on sessions that are up: data messages, PPP and user data.

use super::{Case, SEED};
use crate::outsider::{Client, listen};
use sluice_testkit::{Seeded, mutate};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// Every form of data header, right and wrong, and PPP that is none.
pub(crate) fn data_messages(case: &Case) {
    let mut client = Client::connect(&case.outside, "10.6.0.7:1701", 4243);
    let ids = [client.tunnel.to_be_bytes(), client.session.to_be_bytes()].concat();
    // Flags, fields before and after the ids as words, and whether it is to be answered.
    let form = |flags: u16, length: Option<usize>, words: &[u16], pad: usize, frame: &[u8]| {
        let mut packet = flags.to_be_bytes().to_vec();
        let header = 6 + 2 * usize::from(length.is_some()) + 2 * words.len() + pad;
        if let Some(wrong_by) = length {
            let length = u16::try_from(header + frame.len() + wrong_by).unwrap();
            packet.extend(length.to_be_bytes());
        }
        packet.extend(&ids);
        packet.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        packet.resize(packet.len() + pad, 0xee);
        packet.extend(frame);
        packet
    };
    assert!(client.echoes(1, |frame| form(0x0002, None, &[], 0, frame)));
    assert!(
        client.echoes(2, |frame| form(0x0102, None, &[], 0, frame)),
        "priority"
    );
    assert!(
        client.echoes(3, |frame| form(0x34f2, None, &[], 0, frame)),
        "reserved bits"
    );
    assert!(
        client.echoes(4, |frame| form(0x4002, Some(0), &[], 0, frame)),
        "length"
    );
    assert!(
        client.echoes(5, |frame| form(0x0202, None, &[3], 3, frame)),
        "offset"
    );
    assert!(
        client.echoes(6, |frame| form(0x4b02, Some(0), &[0, 9, 3], 3, frame)),
        "all of them"
    );
    assert!(
        client.echoes(7, |frame| form(0x0002, None, &[], 0, &frame[2..])),
        "without address and control"
    );
    assert!(
        client.echoes(8, |frame| [form(0x4002, Some(0), &[], 0, frame), vec![1; 9]]
            .concat()),
        "trailer"
    );
    assert!(
        !client.echoes(9, |frame| form(0x4002, Some(1), &[], 0, frame)),
        "longer than it is"
    );
    assert!(
        !client.echoes(10, |frame| form(0x0202, None, &[60_000], 0, frame)),
        "offset beyond the end"
    );
    let bad = case.dropped("l2tp", "bad_payload");
    for frame in [
        &[][..],
        &[0xff],
        &[0xff, 3],
        &[0xff, 3, 0],
        &[0xff, 3, 0, 0x21, 0x65],
        &[0, 0x57, 0x45],
    ] {
        client.frame(frame);
    }
    case.counted("l2tp", "bad_payload", bad, 5.0);
    // Nobody needs a hundred answers at once.
    let limited = case.dropped("l2tp", "ppp_limit");
    let mut rs = vec![0, 0x57, 0x60, 0, 0, 0, 0, 8, 58, 255];
    rs.extend(std::net::Ipv6Addr::UNSPECIFIED.octets());
    rs.extend("ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    rs.extend([133, 0, 0x7b, 0xb8, 0, 0, 0, 0]);
    for _ in 0..200 {
        client.frame(&rs);
    }
    case.counted("l2tp", "ppp_limit", limited, 150.0);
    // Control packets that are none, from the first octet on.
    let reasons = ["ppp_malformed", "ppp_limit", "ppp_protocol"];
    let before = reasons.map(|reason| case.dropped("l2tp", reason));
    let mut random = Seeded::new(SEED);
    for protocol in [
        0xc021u16, 0xc023, 0x8021, 0x8057, 0x80fd, 0xc223, 0xc227, 0x003d, 0x0000,
    ] {
        for code in 0..20u8 {
            // Those that end or renegotiate the link when they are right: cut short.
            let ends = protocol == 0xc021 && matches!(code, 1 | 5..=8);
            for length in [0u8, 1, 3, 4, 9, 200] {
                let mut frame = protocol.to_be_bytes().to_vec();
                frame.extend([code, length, 0, if ends { 200 } else { length }]);
                frame.extend(random.bytes(usize::from(code)));
                client.frame(&frame);
            }
        }
    }
    for (reason, before) in reasons.into_iter().zip(before) {
        case.counted("l2tp", reason, before, 8.0);
    }
    assert!(client.is_alive(11));
    // An Echo-Request larger than what may be sent back is answered with what may.
    let mut huge = vec![0xc0, 0x21, 9, 12];
    huge.extend(5000u16.to_be_bytes());
    huge.resize(2 + 5000, 0);
    client.frame(&huge);
    let longest = client
        .frames(Duration::from_millis(300))
        .iter()
        .map(Vec::len)
        .max();
    assert!(
        longest.is_some_and(|length| (1000..=1504).contains(&length)),
        "{longest:?}"
    );
    assert!(client.is_alive(13));
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap())).to_be_bytes()
}

/// An IPv4 packet with UDP in it.
fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(28 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend([0, 5, 0, 6]);
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// IP packets with other people's addresses, and such as are none.
pub(crate) fn user_data(case: &Case) {
    let mut client = Client::connect(&case.outside, "10.6.0.7:1701", 4244);
    let target: Ipv4Addr = "10.99.0.2".parse().unwrap();
    let receiver = case.outside.inside(|| UdpSocket::bind("10.99.0.2:6").unwrap());
    let ip = |packet: &[u8]| {
        [
            &[0xff, 3, 0, if packet[0] >> 4 == 4 { 0x21 } else { 0x57 }],
            packet,
        ]
        .concat()
    };
    let good = ipv4(client.address, target, b"good");
    let reasons = ["spoofed_source", "malformed"];
    let before = reasons.map(|reason| case.dropped("none", reason));
    let mut forged: Vec<Vec<u8>> = [
        "10.64.0.0",
        "10.99.0.1",
        "0.0.0.0",
        "127.0.0.1",
        "255.255.255.255",
    ]
    .iter()
    .map(|from| ipv4(from.parse().unwrap(), target, b"forged"))
    .collect();
    let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    v6.extend(
        "2001:db8:64:ffff::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    v6.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v6.extend([0, 5, 0, 6, 0, 8, 0, 0]);
    forged.push(v6.clone());
    let mut broken: Vec<Vec<u8>> = mutate::truncations(&good).filter(|cut| !cut.is_empty()).collect();
    for (place, value) in [(0, 0x44), (0, 0x4f), (2, 0xff)] {
        let mut packet = good.clone();
        packet[place] = value;
        broken.push(packet);
    }
    // An extension header that reaches beyond the end.
    v6[6] = 60;
    v6[41] = 200;
    broken.push(v6);
    for packet in forged.iter().chain(&broken) {
        client.frame(&ip(packet));
    }
    client.frame(&ip(&good));
    // As large as UDP carries: it arrives whole, in fragments of the kernel's making.
    client.frame(&ip(&ipv4(client.address, target, &[7; 60_000])));
    case.counted("none", reasons[0], before[0], 6.0);
    case.counted("none", reasons[1], before[1], 25.0);
    let received = listen(&receiver, Duration::from_millis(300));
    assert!(
        received.iter().all(|payload| payload != b"forged"),
        "forged packets went through"
    );
    assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [4, 60_000]);
    assert!(client.is_alive(1));
}

/// The network says that a peer is gone, which is not true.
pub(crate) fn unreachable(case: &Case) {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
    let mut client = Client::connect(&case.outside, "10.6.0.7:1701", 4245);
    let mut quoted = ipv4("10.99.0.1".parse().unwrap(), "10.6.0.7".parse().unwrap(), &[0; 8]);
    quoted[20..24].copy_from_slice(&[0x06, 0xa5, 0x06, 0xa5]);
    let raw = case.outside.inside(|| {
        let (family, kind) = (AddressFamily::INET, SocketType::RAW);
        socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ICMP)).unwrap()
    });
    let hellos = case.metric("sluice_protocol_events_total{event=\"hellos\",protocol=\"l2tp\"}");
    for code in [1, 2, 3, 13] {
        let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
        icmp.extend(&quoted);
        let sum = checksum(&icmp);
        icmp[2..4].copy_from_slice(&sum);
        for _ in 0..50 {
            let to: std::net::SocketAddrV4 = "10.99.0.1:0".parse().unwrap();
            sendto(&raw, &icmp, SendFlags::empty(), &to).unwrap();
        }
        client.run(Duration::from_millis(600));
        assert!(client.is_alive(code));
    }
    let asked = case.metric("sluice_protocol_events_total{event=\"hellos\",protocol=\"l2tp\"}") - hellos;
    println!("asked {asked} times whether it lives");
    assert!((1.0..=30.0).contains(&asked), "{asked}");
}
