//! EAP between a server and a client, in virtual time, and against scripted peers.

use crate::harness::{Impairment, Pair, Script, carrier, grants, hex, login};
use crate::pair_chap::verifiable;
use sluice_auth::tls::{Handshake, HandshakeFailed, TlsAcceptor, TlsExchange, TlsPeer};
use sluice_auth::{Coverage, Method, Proof, Secret, SessionKeys, Verdict, Verifiable};
use sluice_ppp::wire::eap::{self, EapMethod, MsChap, Typed};
use sluice_ppp::wire::{Packet, chap};
use sluice_ppp::{AuthProtocol, PppConfig, Role, protocol};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "hunter2";
const EAP: u16 = protocol::EAP;
/// The methods of passwords.
const PASSWORDS: [EapMethod; 2] = [EapMethod::MsChapV2, EapMethod::Md5];

fn config(methods: &[EapMethod]) -> PppConfig {
    PppConfig {
        auth_methods: vec![AuthProtocol::Eap],
        eap_methods: methods.to_vec(),
        ..PppConfig::default()
    }
}

fn pair(seed: u64, server: &[EapMethod], client: &[EapMethod]) -> Pair {
    let mut at = carrier();
    at.verifiable = verifiable();
    let mut pair = Pair::on(seed, config(server), config(client), login(), at);
    pair.password = Some(PASSWORD);
    pair
}

#[test]
fn each_method_lets_the_right_password_in_and_no_other() {
    for method in PASSWORDS {
        let mut good = pair(1, &[method], &EapMethod::ALL);
        good.start();
        assert!(good.run(SECOND, Pair::both_up), "{method:?}\n{}", good.tail());
        assert_eq!(good.said[0].asked, 1);
        let [server, client] = [0, 1].map(|end: usize| good.links[end].session_keys().cloned());
        assert_eq!(server.is_some(), method == EapMethod::MsChapV2);
        assert_eq!(server, client.map(|keys| keys.of_peer()));

        let mut wrong = pair(2, &[method], &EapMethod::ALL);
        wrong.password = Some("another");
        wrong.start();
        assert!(
            wrong.run(10 * SECOND, Pair::both_down),
            "{method:?}\n{}",
            wrong.tail()
        );
        assert_eq!(wrong.said[0].code(), Some("auth_rejected"));
        assert_eq!(wrong.said[1].code(), Some("login_rejected"));
        assert!(!wrong.trace.iter().any(|line| line.contains(PASSWORD)));
    }
}

#[test]
fn the_two_ends_agree_on_a_method_or_end() {
    let mut other = pair(3, &EapMethod::ALL, &[EapMethod::Md5]);
    other.start();
    assert!(other.run(SECOND, Pair::both_up), "{}", other.tail());
    assert!(
        other.trace.iter().any(|line| line.contains("nak 04")),
        "{}",
        other.tail()
    );
    let mut none = pair(4, &[EapMethod::MsChapV2], &[EapMethod::Md5]);
    none.start();
    assert!(none.run(10 * SECOND, Pair::both_down), "{}", none.tail());
    assert_eq!(none.said[0].code(), Some("auth_refused"));
    assert_eq!(none.said[0].asked, 0);
}

#[test]
fn an_impaired_path_loses_nobody() {
    for method in PASSWORDS {
        for seed in 0..60 {
            let mut pair = pair(200 + seed, &[method], &EapMethod::ALL);
            pair.impairment = Impairment {
                loss: 10,
                duplication: 20,
                reordering: 20,
            };
            pair.start();
            let settled = pair.run(180 * SECOND, |pair| {
                pair.said.iter().all(|said| said.path.is_some())
            });
            assert!(settled, "{method:?} seed {seed}\n{}", pair.tail());
        }
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    let mut pair = pair(5, &[EapMethod::MsChapV2], &EapMethod::ALL);
    pair.password = None;
    pair.verdict = Verdict::Accept {
        grants: Box::new(grants()),
        proof: Proof {
            authenticator_response: Some(format!("S={}", "00".repeat(20))),
            keys: None,
        },
    };
    pair.start();
    assert!(pair.run(10 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[1].code(), Some("peer_not_genuine"));
    assert_eq!(pair.said[0].ups + pair.said[1].ups, 0);
}

/// An end by EAP whose LCP is open.
fn opened(role: Role, verifiable: Verifiable) -> Script {
    let mut at = carrier();
    at.verifiable = verifiable;
    let is_client = matches!(role, Role::Client { .. });
    let mut script = Script::on(role, config(&EapMethod::ALL), at);
    script.password = Some(PASSWORD);
    script.start(None);
    if is_client {
        script.packet(protocol::LCP, 1, 1, "0304 c227 0506 11223344");
        script.acknowledge(protocol::LCP);
        script.forget();
    } else {
        script.open_lcp();
    }
    script
}

/// Gives a Response or Request, whatever is in it.
fn give(script: &mut Script, code: u8, id: u8, kind: u8, data: &[u8]) {
    let mut frame = EAP.to_be_bytes().to_vec();
    frame.extend(Typed { kind, data }.encode(code, id));
    script.wire(&frame);
}

fn last_id(script: &Script) -> u8 {
    Packet::decode(&script.frames.last().unwrap().1).unwrap().id
}

#[test]
fn requests_are_repeated_and_given_up() {
    let mut script = opened(Role::Server, verifiable());
    script.forget();
    script.pass(9 * SECOND);
    assert_eq!(script.sent(), ["EAP Request id=1 identity \"\""; 3]);
    script.pass(40 * SECOND);
    assert_eq!(script.said.code(), Some("auth_timeout"));
}

#[test]
fn what_is_out_of_turn_is_dropped() {
    let mut script = opened(Role::Server, verifiable());
    let id = last_id(&script);
    script.forget();
    // Another identifier, an answer to no challenge, the server's own packets, no type at all, a name too long.
    give(
        &mut script,
        eap::RESPONSE,
        id.wrapping_add(1),
        eap::IDENTITY,
        b"alice",
    );
    give(
        &mut script,
        eap::RESPONSE,
        id,
        eap::MD5,
        &eap::valued(&[0; 16], b"alice"),
    );
    give(&mut script, eap::RESPONSE, id, eap::NAK, &[4]);
    give(&mut script, eap::REQUEST, id, eap::IDENTITY, b"");
    script.packet(EAP, eap::SUCCESS, id, "");
    script.packet(EAP, eap::RESPONSE, id, "");
    give(&mut script, eap::RESPONSE, id, eap::IDENTITY, &[b'a'; 256]);
    assert!(script.sent().is_empty());
    assert_eq!(script.said.asked, 0);

    give(&mut script, eap::RESPONSE, id, eap::IDENTITY, b"alice");
    let id = last_id(&script);
    // Lengths that do not fit, operations that are not the time's.
    let good = MsChap {
        op: chap::RESPONSE,
        id,
        body: &eap::valued(&[0; 49], b"alice"),
    }
    .encode();
    for length in 0..54 {
        give(&mut script, eap::RESPONSE, id, eap::MSCHAP_V2, &good[..length]);
    }
    give(&mut script, eap::RESPONSE, id, eap::MSCHAP_V2, &[chap::SUCCESS]);
    assert_eq!((script.said.asked, script.frames.len()), (0, 1));
    // A wrong answer is told why, and Failure comes when that was read.
    give(&mut script, eap::RESPONSE, id, eap::MSCHAP_V2, &good);
    assert_eq!(script.said.asked, 1);
    let id = last_id(&script);
    script.forget();
    give(&mut script, eap::RESPONSE, id, eap::MSCHAP_V2, &[chap::FAILURE]);
    let sent = script.sent();
    assert_eq!(sent[0], format!("EAP Failure id={id}"));
    assert!(sent[1].starts_with("LCP Terminate-Request"), "{sent:?}");
}

#[test]
fn each_method_is_asked_for_once_and_only_those_that_can_be_checked() {
    let mut script = opened(Role::Server, verifiable());
    give(&mut script, eap::RESPONSE, 1, eap::IDENTITY, b"alice");
    for id in 2..4 {
        give(
            &mut script,
            eap::RESPONSE,
            id,
            eap::NAK,
            &[eap::MD5, eap::MSCHAP_V2],
        );
    }
    let sent = script.sent();
    let kinds: Vec<&str> = sent[3..5]
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(kinds, ["mschapv2", "md5"], "{sent:?}");
    assert_eq!(sent[5], "EAP Failure id=3");

    let only_md5 = Verifiable::none().with(Method::Chap, Coverage::All);
    let mut script = opened(Role::Server, only_md5);
    give(&mut script, eap::RESPONSE, 1, eap::IDENTITY, b"alice");
    assert_eq!(script.sent().pop().unwrap(), "EAP Request id=2 md5");
    // Nothing by an expanded type.
    give(
        &mut script,
        eap::RESPONSE,
        2,
        eap::EXPANDED,
        &hex("0000000000000003 fe000000000000000d"),
    );
    assert_eq!(script.sent()[0], "EAP Failure id=2");
}

#[test]
fn a_client_believes_no_early_success_and_names_what_it_speaks() {
    let mut script = opened(login(), Verifiable::default());
    script.packet(EAP, eap::SUCCESS, 0, "");
    give(&mut script, eap::REQUEST, 9, eap::IDENTITY, b"who?");
    script.packet(EAP, eap::SUCCESS, 9, "");
    give(&mut script, eap::REQUEST, 10, 13, &[0x20]);
    give(&mut script, eap::REQUEST, 11, eap::NOTIFICATION, b"hear");
    // MS-CHAPv2 without its own Success.
    let challenge = MsChap {
        op: chap::CHALLENGE,
        id: 3,
        body: &eap::valued(&[7; 16], b"gw"),
    }
    .encode();
    give(&mut script, eap::REQUEST, 12, eap::MSCHAP_V2, &challenge);
    script.packet(EAP, eap::SUCCESS, 12, "");
    give(&mut script, eap::REQUEST, 12, eap::MSCHAP_V2, &challenge);
    assert!(script.said.down.is_none() && script.said.ups == 0);
    assert_eq!(
        script.sent(),
        [
            "EAP Response id=9 identity \"alice@example.net\"",
            "EAP Response id=10 nak 1a04",
            "EAP Response id=11 notification \"\"",
            "EAP Response id=12 mschapv2",
            "EAP Response id=12 mschapv2",
        ]
    );
    assert_eq!(script.said.dropped["ppp_stale"], 3);
    script.packet(EAP, eap::FAILURE, 12, "");
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("login_rejected"));
}

#[test]
fn answers_are_not_shown() {
    let mut md5 = Typed {
        kind: eap::MD5,
        data: &eap::valued(b"hunter2", b"alice"),
    }
    .encode(eap::RESPONSE, 1);
    let data = MsChap {
        op: chap::RESPONSE,
        id: 1,
        body: &eap::valued(b"hunter2", b"alice"),
    }
    .encode();
    let mut mschap = Typed {
        kind: eap::MSCHAP_V2,
        data: &data,
    }
    .encode(eap::RESPONSE, 1);
    for packet in [&mut md5, &mut mschap] {
        for length in 0..packet.len() {
            let mut cut = packet[..length].to_vec();
            eap::conceal(&mut cut);
            assert!(!cut.windows(2).any(|window| window == b"hu"));
        }
        eap::conceal(packet);
        assert!(packet.ends_with(b"*******alice"));
    }
    let mut challenge = Typed {
        kind: eap::MD5,
        data: &eap::valued(b"hunter2", b"gw"),
    }
    .encode(eap::REQUEST, 1);
    let before = challenge.clone();
    eap::conceal(&mut challenge);
    assert_eq!(challenge, before);
}

/// A handshake that answers "hello" with 2,500 octets, and ends well with "finish". Everything else is refused.
struct Fake;

impl TlsAcceptor for Fake {
    fn accept(&self) -> Option<Box<dyn TlsExchange>> {
        Some(Box::new(Fake))
    }
}

impl TlsExchange for Fake {
    fn take(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<Handshake, HandshakeFailed> {
        match octets {
            b"hello" => {
                out.extend([7; 2500]);
                Ok(Handshake::Going)
            }
            b"finish" => {
                out.extend(b"finished");
                Ok(Handshake::Done(TlsPeer {
                    names: vec!["alice".to_owned(), "a@b.example".to_owned()],
                    keys: SessionKeys {
                        send: Secret::new([1; 32]),
                        receive: Secret::new([2; 32]),
                    },
                }))
            }
            _ => {
                out.extend(b"alert");
                Err(HandshakeFailed("bad".to_owned()))
            }
        }
    }
}

/// A server that has asked for a certificate, and the name the peer gave.
fn demanding(name: &[u8]) -> Script {
    let all = verifiable().with_tls(Some(Arc::new(Fake)));
    let mut script = opened(Role::Server, all);
    give(&mut script, eap::RESPONSE, 1, eap::IDENTITY, name);
    assert_eq!(script.sent().pop().unwrap(), "EAP Request id=2 tls");
    script
}

/// Gives a response of TLS to the request that is out, and takes what is in the next.
fn exchange(script: &mut Script, id: u8, data: &[u8]) -> Vec<u8> {
    script.forget();
    give(script, eap::RESPONSE, id, eap::TLS, data);
    let (_, packet) = script.frames.first().cloned().unwrap_or_default();
    packet.get(5..).unwrap_or_default().to_vec()
}

#[test]
fn a_certificate_is_shown_in_fragments_both_ways() {
    let mut script = demanding(b"a@b.example");
    // The first part of "hello" is acknowledged, the whole of it answered in three.
    let more = [&[0xc0, 0, 0, 0, 5][..], b"he"].concat();
    assert_eq!(exchange(&mut script, 2, &more), [0]);
    let first = exchange(&mut script, 3, b"\0llo");
    assert_eq!(first[..5], [0xc0, 0, 0, 0x09, 0xc4]);
    // A fragment is no answer to a fragment.
    give(&mut script, eap::RESPONSE, 4, eap::TLS, b"\0no");
    let second = exchange(&mut script, 4, &[0]);
    let third = exchange(&mut script, 5, &[0]);
    assert_eq!((second[0], third[0]), (0x40, 0));
    assert_eq!(first.len() - 5 + second.len() - 1 + third.len() - 1, 2500);
    let last = exchange(&mut script, 6, b"\0finish");
    assert_eq!(last[5..], *b"finished");
    assert_eq!(script.said.asked, 0);
    exchange(&mut script, 7, &[0]);
    assert_eq!(script.said.asked, 1);
    assert_eq!(script.sent()[0], "EAP Success id=7");
    let keys = script.link.session_keys().unwrap();
    assert_eq!(keys.send.expose(), [1; 32]);
}

#[test]
fn certificates_that_are_wrong_or_of_others_are_refused() {
    let mut wrong = demanding(b"alice");
    assert_eq!(exchange(&mut wrong, 2, b"\0nonsense")[5..], *b"alert");
    exchange(&mut wrong, 3, &[0]);
    let mut other = demanding(b"bob");
    exchange(&mut other, 2, b"\0finish");
    exchange(&mut other, 3, &[0]);
    // One that says it is longer than anything, and one that never ends.
    let mut long = demanding(b"alice");
    let part = [&[0xc0, 0xff, 0xff, 0xff, 0xff][..], &[0; 1000]].concat();
    let mut id = 2;
    while long.said.asked == 0 && id < 60 && exchange(&mut long, id, &part) == [0] {
        id += 1;
    }
    assert!((30..40).contains(&id), "{id}");
    for (script, id) in [(&mut wrong, 3), (&mut other, 3), (&mut long, id)] {
        assert_eq!(script.said.asked, 0);
        assert_eq!(script.sent()[0], format!("EAP Failure id={id}"));
        script.pass(10 * SECOND);
        assert_eq!(script.said.code(), Some("auth_rejected"));
    }
}

#[test]
fn no_certificate_is_asked_for_where_there_is_none_of_our_own() {
    let mut script = opened(Role::Server, verifiable());
    give(&mut script, eap::RESPONSE, 1, eap::IDENTITY, b"alice");
    assert_eq!(script.sent().pop().unwrap(), "EAP Request id=2 mschapv2");
}
