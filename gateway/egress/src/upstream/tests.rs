use super::*;
use proptest::prelude::*;
use sluice_auth::Host;

fn target(text: &str) -> Target {
    let (host, port) = text.rsplit_once(':').unwrap();
    Target {
        host: Host::parse(host.as_bytes()).unwrap(),
        port: port.parse().unwrap(),
    }
}

fn upstream(speaks: Speaks, login: Option<(&str, &str)>) -> Upstream {
    Upstream {
        name: "up".into(),
        speaks,
        servers: vec![target("192.0.2.1:1080")],
        login: login.map(|(user, password)| Login {
            user: user.to_owned(),
            password: Secret::new(password),
        }),
        through: None,
        remote_names: true,
        way: Way::default(),
        fast_open: false,
        connect_timeout: Upstream::CONNECT_TIMEOUT,
        reply_timeout: Upstream::REPLY_TIMEOUT,
    }
}

/// What is sent and what is answered, in turns.
type Turns<'a> = &'a [(&'a [u8], &'a [u8])];

/// Plays a handshake whose answers come in pieces of `piece` octets, the last with the target's first bytes behind it,
/// and gives its result. Whatever comes before the last octet of an answer does not end anything.
fn play(mut machine: Box<dyn Handshake>, turns: Turns<'_>, piece: usize) -> Result<Progress, Refusal> {
    const BEHIND: &[u8] = b"\x05\x00HTTP/1.1 200\r\n\r\n";
    for (index, (sent, answered)) in turns.iter().enumerate() {
        let mut out = Vec::new();
        machine.transmit(&mut out);
        assert_eq!(out, *sent, "turn {index}");
        let last = index + 1 == turns.len();
        let mut left = *answered;
        while !left.is_empty() {
            let (now, later) = left.split_at(piece.min(left.len()));
            left = later;
            let ends = last && left.is_empty();
            let input = if ends {
                [now, BEHIND].concat()
            } else {
                now.to_vec()
            };
            let (used, progress) = machine.receive(&input)?;
            assert_eq!(used, now.len(), "only the handshake's own octets are used");
            assert_eq!(progress != Progress::Going, ends);
            if ends {
                return Ok(progress);
            }
        }
    }
    panic!("the handshake did not end");
}

fn in_all_pieces(upstream: &Upstream, to: &str, turns: Turns<'_>) -> Result<Progress, Refusal> {
    let longest = turns.iter().map(|(_, answered)| answered.len()).max().unwrap();
    let results: Vec<_> = (1..=longest)
        .map(|piece| play(handshake(upstream, &target(to)), turns, piece))
        .collect();
    assert!(results.windows(2).all(|two| two[0] == two[1]));
    results[0]
}

fn reached(address: &str) -> Result<Progress, Refusal> {
    Ok(Progress::Reached(Some(address.parse().unwrap())))
}

#[test]
fn socks5_asks_for_addresses_and_names() {
    let plain = upstream(Speaks::Socks5, None);
    let turns: Turns<'_> = &[
        (b"\x05\x01\x00", b"\x05\x00"),
        (
            b"\x05\x01\x00\x01\xc0\x00\x02\x09\x00\x50",
            b"\x05\x00\x00\x01\xc6\x33\x64\x01\x04\x38",
        ),
    ];
    assert_eq!(
        in_all_pieces(&plain, "192.0.2.9:80", turns),
        reached("198.51.100.1:1080")
    );
    let turns: Turns<'_> = &[
        (b"\x05\x01\x00", b"\x05\x00"),
        (
            b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
            b"\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x00\x07",
        ),
    ];
    assert_eq!(
        in_all_pieces(&plain, "[2001:db8::1]:443", turns),
        reached("[2001:db8::2]:7")
    );
    let turns: Turns<'_> = &[
        (b"\x05\x01\x00", b"\x05\x00"),
        (
            b"\x05\x01\x00\x03\x09a.example\x00\x16",
            b"\x05\x00\x00\x03\x05proxy\x00\x16",
        ),
    ];
    assert_eq!(
        in_all_pieces(&plain, "a.example:22", turns),
        Ok(Progress::Reached(None))
    );
    let turns: Turns<'_> = &[
        (b"\x05\x01\x00", b"\x05\x00"),
        (
            b"\x05\x01\x00\x03\x09a.example\x00\x16",
            b"\x05\x00\x00\x01\0\0\0\0\0\0",
        ),
    ];
    assert_eq!(
        in_all_pieces(&plain, "a.example:22", turns),
        Ok(Progress::Reached(None))
    );
}

#[test]
fn socks5_logs_in_where_that_is_wanted() {
    let login = upstream(Speaks::Socks5, Some(("me", "secret")));
    let request: &[u8] = b"\x05\x01\x00\x03\x01a\x00\x01";
    let success: &[u8] = b"\x05\x00\x00\x01\xc6\x33\x64\x01\x04\x38";
    let turns: Turns<'_> = &[
        (b"\x05\x02\x00\x02", b"\x05\x02"),
        (b"\x01\x02me\x06secret", b"\x01\x00"),
        (request, success),
    ];
    assert_eq!(in_all_pieces(&login, "a:1", turns), reached("198.51.100.1:1080"));
    let turns: Turns<'_> = &[(b"\x05\x02\x00\x02", b"\x05\x00"), (request, success)];
    assert_eq!(in_all_pieces(&login, "a:1", turns), reached("198.51.100.1:1080"));
    let turns: Turns<'_> = &[
        (b"\x05\x02\x00\x02", b"\x05\x02"),
        (b"\x01\x02me\x06secret", b"\x01\x01"),
    ];
    assert_eq!(
        in_all_pieces(&login, "a:1", turns),
        Err(Refusal::Fault(Fault::Login))
    );
    let turns: Turns<'_> = &[(b"\x05\x02\x00\x02", b"\x05\xff")];
    assert_eq!(
        in_all_pieces(&login, "a:1", turns),
        Err(Refusal::Fault(Fault::Login))
    );
}

#[test]
fn socks5_failures_are_passed_on() {
    let plain = upstream(Speaks::Socks5, None);
    for (code, failure) in [
        (1, ChannelFailure::Upstream),
        (2, ChannelFailure::Denied),
        (3, ChannelFailure::NetworkUnreachable),
        (4, ChannelFailure::HostUnreachable),
        (5, ChannelFailure::Refused),
        (6, ChannelFailure::TimedOut),
        (7, ChannelFailure::UpstreamCommand),
        (8, ChannelFailure::UpstreamAddress),
        (9, ChannelFailure::Upstream),
        (0xff, ChannelFailure::Upstream),
    ] {
        let answer = [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
        // Some leave the rest out.
        for answer in [&answer[..], &answer[..2]] {
            let turns: Turns<'_> = &[
                (b"\x05\x01\x00", b"\x05\x00"),
                (b"\x05\x01\x00\x03\x01a\x00\x01", answer),
            ];
            assert_eq!(
                in_all_pieces(&plain, "a:1", turns),
                Err(Refusal::Reply(u16::from(code), failure))
            );
        }
    }
}

#[test]
fn what_is_no_socks5_is_noticed() {
    let plain = upstream(Speaks::Socks5, None);
    for answer in [
        &b"\x04\x00"[..],
        b"\x05\x02",
        b"\x05\x01",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00",
    ] {
        let turns: Turns<'_> = &[(b"\x05\x01\x00", answer)];
        assert_eq!(
            in_all_pieces(&plain, "a:1", turns),
            Err(Refusal::Fault(Fault::Malformed))
        );
    }
    for answer in [&b"\x04\x00"[..], b"\x05\x00\x00\x02", b"\x05\x00\x00\x00"] {
        let turns: Turns<'_> = &[
            (b"\x05\x01\x00", b"\x05\x00"),
            (b"\x05\x01\x00\x03\x01a\x00\x01", answer),
        ];
        assert_eq!(
            in_all_pieces(&plain, "a:1", turns),
            Err(Refusal::Fault(Fault::Malformed))
        );
    }
    let login = upstream(Speaks::Socks5, Some(("me", "secret")));
    let turns: Turns<'_> = &[
        (b"\x05\x02\x00\x02", b"\x05\x02"),
        (b"\x01\x02me\x06secret", b"\x02\x00"),
    ];
    assert_eq!(
        in_all_pieces(&login, "a:1", turns),
        Err(Refusal::Fault(Fault::Malformed))
    );
}

#[test]
fn http_asks_for_addresses_and_names() {
    let plain = upstream(Speaks::Http, None);
    for (to, sent) in [
        (
            "a.example:443",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        ),
        (
            "192.0.2.9:80",
            "CONNECT 192.0.2.9:80 HTTP/1.1\r\nHost: 192.0.2.9:80\r\n\r\n",
        ),
        (
            "[2001:db8::1]:80",
            "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
        ),
    ] {
        for answer in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 OK\r\nProxy-Agent: x/1\r\n\r\n",
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 204 \r\nEmpty:\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            // Lengths mean nothing here (RFC 9110, 9.3.6): what follows is the target's.
            "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let turns: Turns<'_> = &[(sent.as_bytes(), answer.as_bytes())];
            assert_eq!(
                in_all_pieces(&plain, to, turns),
                Ok(Progress::Reached(None)),
                "{answer}"
            );
        }
    }
}

#[test]
fn http_sends_the_login() {
    let login = upstream(Speaks::Http, Some(("Aladdin", "open sesame")));
    // The example of RFC 7617, 2.
    let sent = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    let turns: Turns<'_> = &[(sent, b"HTTP/1.1 200 OK\r\n\r\n")];
    assert_eq!(in_all_pieces(&login, "a:1", turns), Ok(Progress::Reached(None)));
}

#[test]
fn http_failures_are_passed_on() {
    let plain = upstream(Speaks::Http, None);
    let sent: &[u8] = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    for (status, failure) in [
        (403, ChannelFailure::Denied),
        (451, ChannelFailure::Denied),
        (404, ChannelFailure::HostUnreachable),
        (502, ChannelFailure::HostUnreachable),
        (503, ChannelFailure::HostUnreachable),
        (504, ChannelFailure::TimedOut),
        (408, ChannelFailure::TimedOut),
        (302, ChannelFailure::Upstream),
        (400, ChannelFailure::Upstream),
        (500, ChannelFailure::Upstream),
        (999, ChannelFailure::Upstream),
    ] {
        let answer = format!("HTTP/1.1 {status} no\r\nContent-Length: 3\r\n\r\n");
        let turns: Turns<'_> = &[(sent, answer.as_bytes())];
        assert_eq!(
            in_all_pieces(&plain, "a:1", turns),
            Err(Refusal::Reply(status, failure))
        );
    }
    for status in [401, 407] {
        let answer = format!("HTTP/1.1 {status} who?\r\n\r\n");
        let turns: Turns<'_> = &[(sent, answer.as_bytes())];
        assert_eq!(
            in_all_pieces(&plain, "a:1", turns),
            Err(Refusal::Fault(Fault::Login))
        );
    }
}

#[test]
fn http_that_could_be_read_in_two_ways_is_not_read() {
    let plain = upstream(Speaks::Http, None);
    let sent: &[u8] = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(9000));
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(400);
    for answer in [
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\r\rA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "\x05\x00\r\n",
        &long,
        &endless,
    ] {
        for piece in [1, 7, 1024] {
            let turns: Turns<'_> = &[(sent, answer.as_bytes())];
            let result = play(handshake(&plain, &target("a:1")), turns, piece);
            assert_eq!(result, Err(Refusal::Fault(Fault::Malformed)), "{answer:.60}");
        }
    }
}

proptest! {
    #[test]
    fn no_octets_are_trouble(octets in proptest::collection::vec(any::<u8>(), 0..600), http: bool, login: bool) {
        let speaks = if http { Speaks::Http } else { Speaks::Socks5 };
        let upstream = upstream(speaks, login.then_some(("me", "secret")));
        let mut machine = handshake(&upstream, &target("a.example:1"));
        let mut left = octets.as_slice();
        while !left.is_empty() {
            let mut out = Vec::new();
            machine.transmit(&mut out);
            match machine.receive(left) {
                Ok((used, Progress::Going)) => { prop_assert_eq!(used, left.len()); break; }
                Ok((used, _)) => { prop_assert!(used <= left.len()); break; }
                Err(_) => left = &[],
            }
        }
    }
}

#[test]
fn a_list_is_checked_as_a_whole() {
    let of = |name: &str, through: Option<&str>| Upstream {
        name: name.into(),
        through: through.map(Into::into),
        ..upstream(Speaks::Http, None)
    };
    let good = [
        of("a", Some("b")),
        of("b", Some("c")),
        of("c", Some("d")),
        of("d", None),
    ];
    assert_eq!(check(&good), []);
    let bad = [
        of("self", Some("self")),
        of("e", Some("a")),
        of("a", Some("b")),
        of("b", Some("c")),
        of("c", Some("d")),
        of("d", None),
        of("d", Some("nobody")),
        Upstream {
            servers: Vec::new(),
            login: Some(Login {
                user: "a:b".into(),
                password: Secret::new("x"),
            }),
            ..of("f", None)
        },
    ];
    let found: Vec<_> = check(&bad)
        .into_iter()
        .map(|bad| (bad.index, bad.wrong))
        .collect();
    assert_eq!(
        found,
        [
            (0, Wrong::Chain),
            (1, Wrong::Chain),
            (6, Wrong::Name),
            (6, Wrong::Through("nobody".into())),
            (7, Wrong::Servers),
            (7, Wrong::Login),
        ]
    );
    assert!(Upstreams::new(bad.to_vec()).is_err());
    let known = Upstreams::new(good.to_vec()).unwrap();
    assert!(known.get("c").is_some() && known.get("e").is_none());
    assert!(!format!("{:?}", upstream(Speaks::Http, Some(("me", "secret")))).contains("secret"));
}
