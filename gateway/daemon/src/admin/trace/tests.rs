use super::*;

fn session(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

fn peer() -> PeerAddr {
    PeerAddr {
        remote: "192.0.2.7:1701".parse().unwrap(),
        local: "192.0.2.1:1701".parse().unwrap(),
    }
}

#[test]
fn a_trace_ends_by_itself_and_is_forgotten_later() {
    let (traces, start, wall) = (Traces::default(), Instant::now(), SystemTime::UNIX_EPOCH);
    let id = session(1);
    assert!(!traces.is_on(id, start));
    traces
        .start(id, Duration::from_secs(10), true, start, wall)
        .unwrap();
    assert_eq!(
        traces.start(id, Duration::from_secs(10), true, start, wall),
        Err(TraceError::Running)
    );
    assert!(traces.is_on(id, start) && !traces.is_on(session(2), start));
    traces.line(id, Direction::In, "a".to_owned(), start, wall);
    let end = start + Duration::from_secs(10);
    assert!(!traces.is_on(id, end));
    traces.line(id, Direction::In, "late".to_owned(), end, wall);
    let view = traces.view(id, 0, 100, end).unwrap();
    assert_eq!((view.state, view.lines.len(), view.next), ("ended", 1, 1));
    assert_eq!(view.lines[0].time, "1970-01-01T00:00:00.000000Z");
    assert_eq!(traces.view(id, 7, 100, end).unwrap().next, 1);
    let gone = end + KEPT;
    traces.start(session(2), MAX_TIME, true, gone, wall).unwrap();
    assert!(traces.view(id, 0, 100, gone).is_none());
}

#[test]
fn traces_lines_and_packets_are_bounded() {
    let (traces, now, wall) = (Traces::default(), Instant::now(), SystemTime::UNIX_EPOCH);
    for number in 0..16 {
        traces
            .start(session(number), DEFAULT_TIME, true, now, wall)
            .unwrap();
    }
    assert_eq!(
        traces.start(session(99), DEFAULT_TIME, true, now, wall),
        Err(TraceError::TooMany)
    );
    for _ in 0..MAX_LINES + 5 {
        traces.line(session(0), Direction::Out, String::new(), now, wall);
    }
    let packet = [0; 60_000];
    for _ in 0..200 {
        traces.datagram(session(0), Direction::In, peer(), &packet, now, wall);
    }
    let view = traces.view(session(0), 0, 1, now).unwrap();
    assert_eq!(view.packets, MAX_CAPTURE / (60_000 + 28 + 16));
    assert_eq!(view.left_out, 5 + 200 - view.packets as u64);
    assert!(traces.capture(session(0)).unwrap().len() <= MAX_CAPTURE + 24);
    assert!(traces.delete(session(0), now));
    assert!(traces.capture(session(0)).is_none());
}

#[test]
fn a_captured_datagram_has_right_headers() {
    let (traces, now, wall) = (Traces::default(), Instant::now(), SystemTime::UNIX_EPOCH);
    let id = session(1);
    traces.start(id, DEFAULT_TIME, true, now, wall).unwrap();
    let at = wall + Duration::from_micros(1_000_002);
    traces.datagram(id, Direction::In, peer(), b"abc", now, at);
    let v6 = PeerAddr {
        remote: "[2001:db8::7]:1701".parse().unwrap(),
        local: "[2001:db8::1]:1701".parse().unwrap(),
    };
    traces.datagram(id, Direction::Out, v6, b"abc", now, at);
    let mixed = PeerAddr {
        remote: v6.remote,
        local: peer().local,
    };
    traces.datagram(id, Direction::Out, mixed, b"abc", now, at);
    let file = traces.capture(id).unwrap();
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    assert_eq!(file[24..40], [1, 0, 0, 0, 2, 0, 0, 0, 31, 0, 0, 0, 31, 0, 0, 0]);
    let v4 = &file[40..71];
    assert_eq!(sum(&v4[..20]), 0xffff);
    assert_eq!(v4[12..20], [192, 0, 2, 7, 192, 0, 2, 1]);
    assert_eq!(&v4[28..], b"abc");
    let v6 = &file[71 + 16..];
    assert_eq!(v6.len(), 51);
    // Pseudo header and datagram add up to all ones (RFC 8200, 8.1).
    let pseudo = [&v6[8..40], &[0, 0, 0, 11, 0, 0, 0, 17], &v6[40..]].concat();
    assert_eq!(sum(&pseudo), 0xffff);
    assert_eq!(traces.view(id, 0, 1, now).unwrap().left_out, 1);
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u64 = words.sum();
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn gre_is_captured_as_what_it_is() {
    let (traces, now, wall) = (Traces::default(), Instant::now(), SystemTime::UNIX_EPOCH);
    let id = session(1);
    traces.start(id, DEFAULT_TIME, true, now, wall).unwrap();
    let bare = |host: &str| std::net::SocketAddr::new(host.parse().unwrap(), 0);
    let peer = PeerAddr {
        remote: bare("192.0.2.7"),
        local: bare("192.0.2.1"),
    };
    traces.datagram(id, Direction::In, peer, &[0x30, 0x01, 0x88, 0x0b], now, wall);
    let file = traces.capture(id).unwrap();
    let packet = &file[24 + 16..];
    assert_eq!((packet.len(), packet[9]), (24, 47));
    assert_eq!(packet[12..], [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x01, 0x88, 0x0b]);
}
