//! From the request: frames of the handshake, streams, datagrams, ends, restarts, and the contract.

use super::*;
use bytes::BytesMut;
use sluice_spi::{ChannelFailure, ClientDatagram, JoinEnd, LocalRef, StreamCodec, StreamEnd, TerminateCause};
use sluice_testkit::contract::stream as contract;
use sluice_testkit::gss::OVERHEAD;
use sluice_testkit::stream::reaches_everything;
use std::time::{Duration, Instant};

fn connect() -> Vec<u8> {
    request(1, SOMEWHERE, 80)
}

/// What a joined client is sent for a payload.
fn sealed(client: &mut Client, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let codec: &mut dyn StreamCodec = client.node.codec(CLIENT);
    assert!(payload.len() <= codec.largest());
    codec.seal(payload, &mut out).unwrap();
    out
}

fn unframed(bytes: &[u8]) -> &[u8] {
    match gssapi::message(bytes, Kind::Data) {
        Ok(Some((Message::Token(token), length))) if length == bytes.len() => token,
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_replies_and_data_are_in_frames_at_every_level() {
    for (level, confidential, name) in [
        (1, false, "integrity"),
        (2, true, "confidentiality"),
        (3, true, "selective"),
    ] {
        let mut client = Client::served("", level, &connect());
        client.send(confidential, b"GET /");
        client.send(confidential, b"");
        client.send(confidential, &[7; 0x8000]);
        let expected = [&b"GET /"[..], &[7; 0x8000]].concat();
        assert!(client.node.passed(CLIENT) == expected);
        let out = sealed(&mut client, b"200 OK");
        let message = client.context.message(unframed(&out));
        assert_eq!(message, (b"200 OK".to_vec(), confidential));
        assert_eq!(fact(&client.node, "auth_method").as_deref(), Some("gssapi"));
        assert_eq!(fact(&client.node, "protection").as_deref(), Some(name));
    }
}

#[test]
fn what_is_sent_fits_a_token() {
    let mut client = Client::served("", 2, &connect());
    let largest = client.node.codec(CLIENT).largest();
    assert_eq!(largest, 32 << 10);
    let out = sealed(&mut client, &vec![9; largest]);
    assert_eq!(out.len(), 4 + OVERHEAD + largest);
    // And what comes may be as long as a token can be.
    client.send(true, &vec![1; 0xffff - OVERHEAD]);
    assert_eq!(client.node.passed(CLIENT).len(), 0xffff - OVERHEAD);
}

#[test]
fn without_protection_everything_is_as_without_a_method() {
    let mut client = Client::known("gssapi_protection = \"none\"\n", b"bob@REALM");
    client.ask_level(0);
    assert_eq!(client.level(), 0);
    say(&mut client.node, &[&connect()[..], b"GET"].concat());
    assert_eq!(to_hex(&client.hears(10)), GRANTED);
    assert_eq!(client.node.passed(CLIENT), b"GET");
    assert!(!client.node.machine().unwrap().is_bound());
    let factory = factory(&format!("{KEYTAB}gssapi_protection = \"none\"\n"));
    contract::restored_goes_on(&mut client.node, &factory);
    assert_eq!(fact(&client.node, "auth_method").as_deref(), Some("gssapi"));
}

#[test]
fn a_request_may_come_in_pieces_and_with_its_payload() {
    let mut client = Client::agreed("", 1);
    let request = connect();
    client.send(false, &request[..3]);
    client.send(false, b"");
    client.send(false, &[&request[3..], b"GE"].concat());
    assert_eq!(to_hex(&client.receive(false)), GRANTED);
    client.send(false, b"T");
    assert_eq!(client.node.passed(CLIENT), b"GET");
}

#[test]
fn failures_are_told_in_frames() {
    for (text, message, code) in [
        ("", &[5, 9, 0, 1][..], 7),
        ("", &[5, 1, 0, 9], 8),
        ("commands = [\"bind\"]\n", &connect(), 7),
    ] {
        let mut client = Client::agreed(text, 2);
        client.send(true, message);
        assert_eq!(to_hex(&client.receive(true)), failure(code));
        is_over(&client.node);
    }
    let mut client = Client::agreed("", 1);
    client.node.dialer = sluice_testkit::stream::reaches_nothing(ChannelFailure::Refused);
    client.send(false, &connect());
    assert_eq!(to_hex(&client.receive(false)), failure(5));
    is_over(&client.node);
}

#[test]
fn both_replies_of_bind_are_in_frames() {
    let mut client = Client::agreed("", 2);
    client.node.dialer = reaches_everything(Duration::from_millis(10));
    client.send(true, &request(2, SOMEWHERE, 20));
    assert_eq!(to_hex(&client.receive(true)), GRANTED);
    assert_eq!(to_hex(&client.receive(true)), "05000001c63364090014");
    client.send(true, b"data");
    assert_eq!(client.node.passed(CLIENT), b"data");
}

#[test]
fn a_request_that_is_not_protected_as_agreed_is_refused() {
    type Spoil = fn(&mut Client, &[u8]) -> Vec<u8>;
    let cases: [(u8, Spoil, &str); 5] = [
        (
            2,
            |client, request| client.context.token(false, request),
            "gssapi_protection",
        ),
        (1, |_, request| request.to_vec(), "gssapi_token"),
        (1, |_, _| Vec::new(), "gssapi_token"),
        (
            1,
            |client, request| {
                client.context.skip();
                client.context.token(false, request)
            },
            "gssapi_order",
        ),
        (
            1,
            |_, request| Context::client().token(false, request),
            "gssapi_order",
        ),
    ];
    for (level, spoil, code) in cases {
        let mut client = Client::agreed("", level);
        let token = spoil(&mut client, &connect());
        client.say(Kind::Data, &token);
        assert_eq!(client.is_refused(), code);
        assert_eq!(client.node.log.counted(code), 1);
        assert_eq!(asked(&client.node), None);
    }
}

#[test]
fn a_stream_that_is_changed_ends_for_that_reason() {
    type Spoil = fn(&mut Client) -> Vec<u8>;
    let cases: [(u8, Spoil, &str); 6] = [
        (
            2,
            |client| frame(Kind::Data, &client.context.token(false, b"x")),
            "gssapi_protection",
        ),
        (1, |_| frame(Kind::Data, b"nothing"), "gssapi_token"),
        (
            1,
            |_| frame(Kind::Data, &Context::client().token(false, b"x")),
            "gssapi_order",
        ),
        (
            1,
            |client| {
                client.context.skip();
                frame(Kind::Data, &client.context.token(false, b"x"))
            },
            "gssapi_order",
        ),
        (1, |_| ABORT.to_vec(), "gssapi_abort"),
        (1, |_| b"GET / HTTP/1.1".to_vec(), "gssapi_frame"),
    ];
    for (level, spoil, code) in cases {
        let mut client = Client::served("", level, &connect());
        client.send(level > 1, b"good");
        let bytes = spoil(&mut client);
        say(&mut client.node, &bytes);
        assert_eq!(client.node.passed(CLIENT), b"good");
        assert_eq!(client.node.log.dropped(code), 1);
        let ended = ended(&client.node);
        assert_eq!((ended.code, ended.cause), (code, TerminateCause::UserError));
        is_over(&client.node);
    }
}

#[test]
fn the_end_of_a_stream_is_good_between_frames_only() {
    let mut client = Client::served("", 1, &connect());
    client.send(false, b"all");
    client.node.end(CLIENT, StreamEnd::Finished);
    client.node.part(LocalRef(1), JoinEnd::Finished);
    assert_eq!(ended(&client.node).code, "finished");
    let mut client = Client::served("", 1, &connect());
    let token = client.context.token(false, b"cut");
    say(&mut client.node, &frame(Kind::Data, &token)[..7]);
    client.node.end(CLIENT, StreamEnd::Finished);
    assert_eq!(ended(&client.node).code, "gssapi_cut");
    is_over(&client.node);
}

#[test]
fn a_context_that_is_over_ends_what_it_protects() {
    for command in [1, 3] {
        let mut client = Client::known("", b"ict:bob@REALM");
        client.ask_level(2);
        assert_eq!(client.level(), 2);
        let place = if command == 1 { SOMEWHERE } else { NOWHERE };
        client.send(true, &request(command, place, if command == 1 { 80 } else { 0 }));
        assert_eq!(to_hex(&client.receive(true)), GRANTED);
        client.node.pass(Duration::from_secs(55));
        assert!(!client.node.is_gone());
        client.node.pass(Duration::from_secs(5));
        let ended = ended(&client.node);
        assert_eq!(
            (ended.code, ended.cause),
            ("gssapi_expired", TerminateCause::SessionTimeout)
        );
        is_over(&client.node);
    }
    // Nothing is protected by it: it is as a password that was right once.
    let mut client = Client::known("gssapi_protection = \"none\"\n", b"ict:bob@REALM");
    client.ask_level(0);
    say(&mut client.node, &connect());
    client.node.pass(Duration::from_secs(3600));
    assert_eq!(client.node.joined(), [LocalRef(1)]);
}

#[test]
fn what_has_keys_ends_with_the_worker_for_its_own_reason() {
    for (command, place, port) in [(1, SOMEWHERE, 80), (3, NOWHERE, 0)] {
        let mut client = Client::served("", 1, &request(command, place, port));
        assert!(client.node.machine().unwrap().is_bound());
        assert_eq!(client.node.checkpoint(), None);
        client.node.close(TerminateCause::NasReboot);
        let ended = ended(&client.node);
        assert_eq!(
            (ended.code, ended.cause),
            ("keys_lost", TerminateCause::NasReboot)
        );
        is_over(&client.node);
    }
    let mut client = Client::served("", 1, &connect());
    client.node.close(TerminateCause::AdminReset);
    assert_eq!(ended(&client.node).code, "closed");
}

/// A datagram of the client's for 192.0.2.1:53.
fn datagram(payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1, 192, 0, 2, 1, 0, 53], payload].concat()
}

#[test]
fn each_datagram_is_one_frame_with_its_header() {
    let mut client = Client::served("", 2, &request(3, NOWHERE, 0));
    let first = frame(Kind::Data, &client.context.token(true, &datagram(b"one")));
    client.context.skip();
    let third = frame(Kind::Data, &client.context.token(true, &datagram(b"three")));
    let open = frame(Kind::Data, &client.context.token(false, &datagram(b"open")));
    let now = Instant::now();
    let codec = &mut client.node.relay(OTHER).codec;
    let mut opened = |packet: &[u8]| match codec.open(packet, now) {
        ClientDatagram::To { target, payload } => {
            assert_eq!(target, [1, 192, 0, 2, 1, 0, 53]);
            Ok(payload.to_vec())
        }
        ClientDatagram::Held => panic!("nothing is held"),
        ClientDatagram::Drop(reason) => Err(reason.0),
    };
    assert_eq!(opened(&first), Ok(b"one".to_vec()));
    assert_eq!(opened(&third), Ok(b"three".to_vec()), "one was lost");
    assert_eq!(opened(&first), Err("gssapi_order"), "again");
    assert_eq!(opened(&open), Err("gssapi_protection"));
    assert_eq!(opened(&datagram(b"bare")), Err("gssapi_frame"));
    assert_eq!(opened(&first[..first.len() - 1]), Err("gssapi_frame"));
    assert_eq!(opened(&[&first[..], &[0]].concat()), Err("gssapi_frame"));
    assert_eq!(opened(ABORT), Err("gssapi_frame"));
    assert_eq!(opened(&[]), Err("gssapi_frame"));
    assert_eq!(opened(&frame(Kind::Data, b"else")), Err("gssapi_token"));
    let mut out = BytesMut::from(&b"before"[..]);
    let from = "192.0.2.1:53".parse().unwrap();
    codec.seal(from, b"answer", &mut out).unwrap();
    assert!(out.len() - 6 - 6 <= codec.overhead());
    let mut too_long = BytesMut::new();
    assert!(codec.seal(from, &[0; 0xffff], &mut too_long).is_err() && too_long.is_empty());
    let answer = client.context.message(unframed(&out[6..]));
    assert_eq!(answer, (datagram(b"answer"), true));
}

#[test]
fn fragments_are_put_together_under_protection_too() {
    let mut client = Client::served("udp_fragments = true\n", 1, &request(3, NOWHERE, 0));
    let part = |number: u8, payload: &[u8]| [&[0, 0, number, 1, 192, 0, 2, 1, 0, 53], payload].concat();
    let parts = [part(1, b"one "), part(0x82, b"two")]
        .map(|part| frame(Kind::Data, &client.context.token(false, &part)));
    let codec = &mut client.node.relay(OTHER).codec;
    let now = Instant::now();
    assert_eq!(codec.open(&parts[0], now), ClientDatagram::Held);
    assert!(codec.held_until().is_some());
    match codec.open(&parts[1], now) {
        ClientDatagram::To { payload, .. } => assert_eq!(payload, b"one two"),
        other => panic!("{other:?}"),
    }
    assert_eq!(codec.expire(now), 0);
}

fn gateways() -> Vec<Box<dyn Fn() -> StreamNode>> {
    vec![
        Box::new(|| node(KEYTAB)),
        Box::new(|| {
            let mut node = node(&format!("{KEYTAB}gssapi_nec = true\nearly_bytes = 64\n"));
            node.policy.admission_delay = Duration::from_millis(7);
            node.policy.judging_delay = Duration::from_millis(20);
            node.dialer = reaches_everything(Duration::from_millis(40));
            node
        }),
        Box::new(|| {
            let mut node = node(KEYTAB);
            node.dialer = sluice_testkit::stream::reaches_nothing(ChannelFailure::Denied);
            node
        }),
    ]
}

fn scripts() -> Vec<Vec<u8>> {
    let mut scripts = vec![
        conversation(1, &connect()),
        conversation(2, &connect()),
        conversation(3, &request(2, SOMEWHERE, 20)),
        conversation(2, &request(3, NOWHERE, 0)),
        conversation(2, &[5, 9, 0, 1]),
        conversation(0, &connect()),
        [HELLO_GSSAPI, &frame(Kind::Context, b"!skew")].concat(),
        [HELLO_GSSAPI, ABORT].concat(),
    ];
    let mut spoilt = conversation(1, &connect());
    *spoilt.last_mut().unwrap() ^= 1;
    scripts.push(spoilt);
    scripts
}

#[test]
fn any_chunking_has_the_same_result() {
    for make in gateways() {
        for script in scripts() {
            contract::any_chunking_same_result(&make, &script, 20);
        }
    }
}

#[test]
fn either_side_may_end_anywhere() {
    for make in gateways() {
        for script in scripts() {
            contract::ends_anywhere(&make, &script);
            contract::closes_anywhere(&make, &script);
        }
    }
}

#[test]
fn any_bytes_end_and_hold_little() {
    contract::any_bytes(|| node(KEYTAB), &scripts(), 5, 60, 6000);
}

/// The machine of a client with a context, without the library's part.
#[test]
fn an_established_connection_is_small() {
    let factory = factory(KEYTAB);
    let mut node = StreamNode::accept(&factory, peer());
    say(&mut node, &conversation(2, &connect()));
    let ups = node.log.sessions_up().len();
    assert_eq!(ups, 1);
    contract::is_small(node, 800);
}
