//! Scripted peers: CHAP and MS-CHAPv2 packets out of turn, and what a LAC has collected by them.

use crate::harness::{Script, carrier, hex, login};
use crate::pair_chap::verifiable;
use sluice_auth::chap::{chap_response, nt_hash, nt_response};
use sluice_auth::{Coverage, Method, MsChapExchange, Secret, Verifiable};
use sluice_ppp::wire::chap;
use sluice_ppp::{AuthProtocol, PppConfig, Proxy, Role, protocol};

const LCP: u16 = protocol::LCP;
const CHAP: u16 = protocol::CHAP;
const PASSWORD: &str = "hunter2";

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An end that speaks these methods, which can be checked for everybody.
fn script(role: Role, methods: &[AuthProtocol]) -> Script {
    let config = PppConfig {
        auth_methods: methods.to_vec(),
        ..PppConfig::default()
    };
    let mut at = carrier();
    at.verifiable = verifiable();
    let mut script = Script::on(role, config, at);
    script.password = Some(PASSWORD);
    script
}

/// A server whose LCP is open and that has sent its challenge: the challenge and its identifier.
fn challenging(method: AuthProtocol) -> (Script, u8, Vec<u8>) {
    let mut script = script(Role::Server, &[method]);
    script.start(None);
    script.open_lcp();
    let (number, packet) = script.frames.pop().unwrap();
    assert_eq!((number, packet[0], packet[4]), (CHAP, chap::CHALLENGE, 16));
    script.forget();
    (script, packet[1], packet[5..21].to_vec())
}

/// The value of a right Response.
fn right(method: AuthProtocol, id: u8, challenge: &[u8]) -> Vec<u8> {
    let password = Secret::new(PASSWORD);
    if method == AuthProtocol::Chap {
        return chap_response(id, &password, challenge).to_vec();
    }
    let (challenge, peer_challenge) = (challenge.try_into().unwrap(), [9; 16]);
    let hash = nt_hash(&password).unwrap();
    chap::encode_mschap(&MsChapExchange {
        challenge,
        peer_challenge,
        nt_response: nt_response(&hash, &peer_challenge, &challenge, b"alice"),
    })
}

/// The body of a Response of alice.
fn body(value: &[u8]) -> String {
    format!("{:02x}{}{}", value.len(), digits(value), digits(b"alice"))
}

#[test]
fn answers_out_of_turn_are_dropped_and_the_right_one_counts_once() {
    for method in [AuthProtocol::Chap, AuthProtocol::MsChapV2] {
        let (mut script, id, challenge) = challenging(method);
        let value = right(method, id, &challenge);
        // Another identifier, the server's own packets, values of other lengths.
        script.packet(CHAP, chap::RESPONSE, id.wrapping_add(1), &body(&value));
        for code in [chap::CHALLENGE, chap::SUCCESS, chap::FAILURE, 9] {
            script.packet(CHAP, code, id, &body(&value));
        }
        for length in (0..value.len()).chain([value.len() + 1]) {
            let mut other = value.clone();
            other.resize(length, 0);
            script.packet(CHAP, chap::RESPONSE, id, &body(&other));
        }
        assert_eq!(script.said.asked, 0);
        assert!(script.sent().is_empty());
        assert_eq!(script.said.dropped["ppp_stale"], 1);
        assert_eq!(script.said.dropped["ppp_malformed"], value.len() + 1);

        script.packet(CHAP, chap::RESPONSE, id, &body(&value));
        assert_eq!(script.said.asked, 1);
        let sent = script.sent();
        assert!(sent[0].starts_with(&format!("CHAP Success id={id} ")), "{sent:?}");
        // Its repetition is told the same and asks nobody.
        script.packet(CHAP, chap::RESPONSE, id, &body(&value));
        assert_eq!((script.said.asked, script.sent()), (1, vec![sent[0].clone()]));
    }
}

#[test]
fn no_other_packet_than_that_of_the_method_agreed_on_is_read() {
    let (mut script, ..) = challenging(AuthProtocol::Chap);
    script.packet(protocol::PAP, 1, 1, "05 616c696365 07 68756e74657232");
    assert_eq!(script.said.asked, 0);
    assert!(script.sent().is_empty());
}

#[test]
fn a_client_answers_no_challenge_that_it_cannot() {
    let mut script = script(login(), &[AuthProtocol::MsChapV2]);
    script.start(None);
    script.packet(LCP, 1, 1, "0305 c22381 0506 11223344");
    script.acknowledge(LCP);
    script.forget();
    // MS-CHAPv2 has challenges of 16 octets.
    script.packet(CHAP, chap::CHALLENGE, 1, "08 0011223344556677 6777");
    script.packet(CHAP, chap::CHALLENGE, 1, "00");
    // A Success before any answer proves nothing.
    script.packet(CHAP, chap::SUCCESS, 1, "533d");
    assert!(script.sent().is_empty());
    assert_eq!(script.said.dropped["ppp_malformed"], 2);
    assert_eq!(script.said.dropped["ppp_stale"], 1);
    script.packet(CHAP, chap::CHALLENGE, 1, &format!("10 {} 6777", "5a".repeat(16)));
    let first = script.frames.clone();
    // Once more the same: the same answer, or the Success to the first would not fit the second.
    script.packet(CHAP, chap::CHALLENGE, 1, &format!("10 {} 6777", "5a".repeat(16)));
    assert_eq!(script.frames, [first.clone(), first].concat());
}

/// What a LAC collected of alice by CHAP.
fn proxy(method: AuthProtocol, value: &[u8], challenge: &[u8]) -> Proxy {
    let algorithm = method.algorithm().unwrap();
    Proxy {
        initial_received: None,
        last_sent: Some(hex(&format!("0305 c223{algorithm:02x} 0506 0badcafe"))),
        last_received: Some(hex("0506 11223344")),
        auth_type: Some(2),
        name: Some(b"alice".to_vec()),
        challenge: Some(challenge.to_vec()),
        id: Some(42),
        response: Some(Secret::new(value)),
    }
}

#[test]
fn answers_that_a_lac_collected_are_checked() {
    for (method, challenge) in [
        (AuthProtocol::Chap, &[7; 29][..]),
        (AuthProtocol::MsChapV2, &[7; 16]),
    ] {
        let value = right(method, 42, challenge);
        let mut good = script(Role::Server, &AuthProtocol::ALL);
        good.start(Some(proxy(method, &value, challenge)));
        assert_eq!((good.said.links, good.said.asked), (1, 1));
        let sent = good.sent();
        assert!(sent[0].starts_with("CHAP Success id=42 ") && sent[1].starts_with("IPCP"));
        assert_eq!(
            good.link.session_keys().is_some(),
            method == AuthProtocol::MsChapV2
        );
        good.packet(CHAP, chap::RESPONSE, 42, &body(&value));
        assert_eq!((good.said.asked, good.sent()), (1, vec![sent[0].clone()]));

        let mut wrong = script(Role::Server, &AuthProtocol::ALL);
        let other = vec![0; value.len()];
        wrong.start(Some(proxy(method, &other, challenge)));
        let sent = wrong.sent();
        assert!(sent[0].starts_with("CHAP Failure id=42 ") && sent[1].starts_with("LCP Terminate-Request"));
    }
}

#[test]
fn an_answer_of_a_lac_that_lacks_a_part_is_asked_for_again() {
    let value = right(AuthProtocol::Chap, 42, &[7; 16]);
    let cases: [&dyn Fn(&mut Proxy); 5] = [
        &|proxy| proxy.auth_type = None,
        &|proxy| proxy.name = None,
        &|proxy| proxy.id = None,
        &|proxy| proxy.challenge = None,
        &|proxy| proxy.response = Some(Secret::new([0; 15])),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut proxy = proxy(AuthProtocol::Chap, &value, &[7; 16]);
        change(&mut proxy);
        let mut script = script(Role::Server, &AuthProtocol::ALL);
        script.start(Some(proxy));
        assert_eq!((script.said.links, script.said.asked), (1, 0), "case {index}");
        assert_eq!(
            script.sent(),
            ["CHAP Challenge id=1 name=\"sluice\" value=<hidden>"]
        );
    }
}

#[test]
fn a_lac_cannot_bring_in_a_method_that_is_not_allowed() {
    let login = |kind: u16, asked: &str| Proxy {
        last_sent: Some(hex(asked)),
        auth_type: Some(kind),
        response: Some(Secret::new(PASSWORD)),
        ..proxy(AuthProtocol::Chap, &[], &[])
    };
    for pap in [
        login(3, "0304 c023 0506 0badcafe"),
        login(1, "0506 0badcafe"),
        Proxy {
            auth_type: None,
            ..login(3, "0304 c023")
        },
    ] {
        let mut script = script(Role::Server, &[AuthProtocol::MsChapV2]);
        script.start(Some(pap));
        assert_eq!((script.said.links, script.said.asked), (0, 0));
        let sent = script.sent();
        assert!(sent[0].contains("<auth mschapv2>"), "{sent:?}");
    }
    let mut script = script(Role::Server, &[AuthProtocol::Pap]);
    let value = right(AuthProtocol::Chap, 42, &[7; 16]);
    script.start(Some(proxy(AuthProtocol::Chap, &value, &[7; 16])));
    assert_eq!((script.said.links, script.said.asked), (0, 0));
    assert!(script.sent()[0].contains("<auth pap>"));
}

#[test]
fn what_everybody_can_prove_is_offered_before_what_some_can() {
    let offered = |some: &[Method], all: &[Method]| {
        let known = some.iter().fold(Verifiable::none(), |known, &method| {
            known.with(method, Coverage::Some)
        });
        let mut at = carrier();
        at.verifiable = all
            .iter()
            .fold(known, |known, &method| known.with(method, Coverage::All));
        let mut script = Script::on(Role::Server, PppConfig::default(), at);
        script.start(None);
        let mut offers = Vec::new();
        // The peer wants none of them, and names one that nobody speaks.
        for _ in 0..4 {
            let text = script.sent().pop().unwrap_or_default();
            let offer = text
                .split("<auth ")
                .nth(1)
                .and_then(|rest| rest.split('>').next());
            offers.extend(offer.map(str::to_owned));
            let (id, _) = script.requests[&LCP];
            script.packet(LCP, 3, id, "0305 c22380");
        }
        offers.dedup();
        offers
    };
    let both = [Method::MsChapV2, Method::Pap];
    assert_eq!(offered(&[], &both), ["mschapv2", "pap", "eap"]);
    assert_eq!(
        offered(&[Method::MsChapV2], &[Method::Pap]),
        ["pap", "mschapv2", "eap"]
    );
    assert_eq!(offered(&[], &[Method::Pap]), ["pap"]);
    assert_eq!(
        offered(&[Method::Chap, Method::MsChapV2], &[Method::Pap]),
        ["pap", "mschapv2", "chap", "eap"]
    );
}
