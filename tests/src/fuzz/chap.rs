//! Targets for CHAP and EAP: their packets, and the Authenticate phase of a link fed with them.

use bytes::BytesMut;
use sluice_auth::tls::{Handshake, HandshakeFailed, TlsAcceptor, TlsExchange, TlsPeer};
use sluice_auth::{Coverage, Method, Proof, RejectReason, Secret, SessionKeys, Verdict, Verifiable};
use sluice_ppp::wire::{LcpOption, Packet, chap, describe, eap};
use sluice_ppp::{AuthProtocol, Carrier, Login, Ppp, PppConfig, PppEvent, PppHeader, Role, protocol};
use sluice_testkit::Seeded;
use sluice_testkit::policy::grants;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most frames that one frame may cause.
const MAX_BURST: usize = 20;

/// CHAP and EAP packets: what is read is read again from what is written of it, no description depends on an answer, and what
/// is concealed is.
pub fn ppp_chap(data: &[u8]) {
    packet(data);
    link(data);
}

fn packet(data: &[u8]) {
    let Ok(packet) = Packet::decode(data) else {
        return;
    };
    let _ = (chap::failure_code(packet.body), describe(protocol::CHAP, data));
    describe(protocol::EAP, data);
    eap_packet(packet);
    let Ok(valued) = chap::Valued::decode(packet.body) else {
        return;
    };
    let mut out = Vec::new();
    valued.encode(chap::RESPONSE, packet.id, &mut out);
    let again = Packet::decode(&out).expect("what was written");
    assert!(chap::Valued::decode(again.body).ok() == Some(valued));
    let mut other = Vec::new();
    let value = vec![b'*'; valued.value.len()];
    chap::Valued {
        value: &value,
        ..valued
    }
    .encode(chap::RESPONSE, packet.id, &mut other);
    assert_eq!(describe(protocol::CHAP, &out), describe(protocol::CHAP, &other));
    chap::conceal(&mut out);
    assert_eq!(out, other);
    if let Ok(exchange) = chap::decode_mschap(valued.value, [7; 16]) {
        let value = chap::encode_mschap(&exchange);
        assert!(chap::decode_mschap(&value, [7; 16]).ok() == Some(exchange));
    }
}

fn eap_packet(packet: Packet<'_>) {
    let Ok(typed) = eap::Typed::decode(packet.body) else {
        return;
    };
    let mut out = typed.encode(packet.code, packet.id);
    assert_eq!(Packet::decode(&out), Ok(packet));
    if let Ok(inner) = eap::MsChap::decode(typed.data)
        && typed.data.len() > 1
    {
        let data = inner.encode();
        assert!(eap::MsChap::decode(&data).ok() == Some(inner));
    }
    let length = out.len();
    eap::conceal(&mut out);
    assert_eq!(out.len(), length);
}

/// A link in its Authenticate phase. The first octet says which end it is, by which method, and how its questions are
/// answered; then come CHAP or EAP packets, each after an octet with its length. A length of zero lets time pass.
fn link(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else {
        return;
    };
    let mut now = Instant::now();
    let mut link = opened(first, now);
    let accepts = first & 4 == 0;
    while let Some((&length, after)) = rest.split_first() {
        if length == 0 {
            rest = after;
            now += Duration::from_secs(4);
        } else {
            let (packet, after) = after.split_at(usize::from(length).min(after.len()));
            rest = after;
            let number = if first & 8 == 0 {
                protocol::CHAP
            } else {
                protocol::EAP
            };
            let frame = [&number.to_be_bytes()[..], packet].concat();
            link.handle_frame(&frame, now);
        }
        link.handle_timeout(now);
        drain(&mut link, accepts, now);
        assert!(link.poll_timeout().is_none_or(|at| at > now));
    }
}

/// A handshake that answers anything with more than fits into a request, and ends with what begins with "end".
struct Handshakes;

impl TlsAcceptor for Handshakes {
    fn accept(&self) -> Option<Box<dyn TlsExchange>> {
        Some(Box::new(Handshakes))
    }
}

impl TlsExchange for Handshakes {
    fn take(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<Handshake, HandshakeFailed> {
        out.extend_from_slice(&[7; 1500]);
        if octets.starts_with(b"bad") {
            return Err(HandshakeFailed("bad".to_owned()));
        }
        if !octets.starts_with(b"end") {
            return Ok(Handshake::Going);
        }
        let key = Secret::new([1; 32]);
        Ok(Handshake::Done(TlsPeer {
            names: vec!["alice".to_owned()],
            keys: SessionKeys {
                send: key.clone(),
                receive: key,
            },
        }))
    }
}

/// A link whose LCP is open: both ends have said and acknowledged the least.
fn opened(first: u8, now: Instant) -> Ppp {
    let method = match (first & 8, first & 2) {
        (8, _) => AuthProtocol::Eap,
        (_, 0) => AuthProtocol::Chap,
        _ => AuthProtocol::MsChapV2,
    };
    let login = Login {
        name: "alice".to_owned(),
        password: Secret::new("secret"),
    };
    let is_server = first & 1 == 0;
    let role = match is_server {
        true => Role::Server,
        false => Role::Client { login: Some(login) },
    };
    let all = Method::ALL.into_iter();
    let carrier = Carrier {
        protocol: "fuzz",
        peer: None,
        calling: None,
        called: None,
        mtu: 1400,
        verifiable: all.fold(Verifiable::none(), |all, method| all.with(method, Coverage::All)),
    };
    let tls: Option<Arc<dyn TlsAcceptor>> = match first & 16 {
        0 => None,
        _ => Some(Arc::new(Handshakes)),
    };
    let carrier = Carrier {
        verifiable: carrier.verifiable.with_tls(tls),
        ..carrier
    };
    let config = PppConfig {
        auth_methods: vec![method],
        chap_rechallenge: true,
        ..PppConfig::default()
    };
    let mut link = Ppp::new(Arc::new(config), role, carrier, Box::new(Seeded::new(1)));
    link.set_trace(true);
    link.start(None, now);
    let mut request = BytesMut::new();
    assert!(link.poll_frame(&mut request));
    // Their request with another code is its acknowledgement.
    request[2] = 2;
    link.handle_frame(&request, now);
    let mut options = Vec::new();
    if !is_server {
        LcpOption::Auth(method.into()).encode(&mut options);
    }
    let mut frame = protocol::LCP.to_be_bytes().to_vec();
    let (code, id, body) = (1, 1, &options[..]);
    Packet { code, id, body }.encode(&mut frame);
    link.handle_frame(&frame, now);
    drain(&mut link, true, now);
    link
}

fn drain(link: &mut Ppp, accepts: bool, now: Instant) {
    let mut frames = 0;
    loop {
        let mut out = BytesMut::new();
        while link.poll_frame(&mut out) {
            frames += 1;
            assert!(frames <= MAX_BURST);
            let (number, range) = PppHeader::open(&out).expect("a frame has a protocol");
            let information = out.get(range).unwrap_or_default();
            assert!(number == protocol::IPV6 || Packet::decode(information).is_ok());
            out.clear();
        }
        match link.poll_event() {
            Some(PppEvent::AuthRequested(_)) if accepts => {
                let proof = Proof {
                    authenticator_response: Some(format!("S={}", "0".repeat(40))),
                    keys: None,
                };
                let grants = Box::new(grants(7));
                link.auth_verdict(Verdict::Accept { grants, proof }, now);
            }
            Some(PppEvent::AuthRequested(_)) => {
                link.auth_verdict(Verdict::Reject(RejectReason::BadCredentials), now);
            }
            Some(_) => {}
            None => return,
        }
    }
}

fn conversation(first: u8, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut data = vec![first];
    for packet in packets {
        data.push(u8::try_from(packet.len()).expect("short packets"));
        data.extend_from_slice(packet);
        data.push(0);
    }
    data
}

/// Packets alone, and conversations of both ends by both methods.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let valued = |code: u8, id: u8, length: usize| {
        let mut packet = Vec::new();
        let value = vec![3; length];
        chap::Valued {
            value: &value,
            name: b"alice",
        }
        .encode(code, id, &mut packet);
        packet
    };
    let told = |code: u8, id: u8, body: &[u8]| {
        let mut packet = Vec::new();
        Packet { code, id, body }.encode(&mut packet);
        packet
    };
    let failure = chap::failure_message(691, [7; 16], "no");
    let alone = [
        valued(chap::CHALLENGE, 1, 16),
        valued(chap::RESPONSE, 1, 16),
        valued(chap::RESPONSE, 1, 49),
        told(chap::SUCCESS, 1, b"S=0011 M=Welcome"),
        told(chap::FAILURE, 1, failure.as_bytes()),
    ];
    let typed = |code: u8, id: u8, kind: u8, data: &[u8]| eap::Typed { kind, data }.encode(code, id);
    let mschap = |op: u8, body: &[u8]| eap::MsChap { op, id: 2, body }.encode();
    let spoken = [
        typed(eap::RESPONSE, 1, eap::IDENTITY, b"alice"),
        typed(eap::RESPONSE, 2, eap::NAK, &[eap::MD5]),
        typed(
            eap::RESPONSE,
            2,
            eap::MSCHAP_V2,
            &mschap(2, &eap::valued(&[7; 49], b"alice")),
        ),
        typed(eap::RESPONSE, 3, eap::MSCHAP_V2, &[3]),
        typed(eap::RESPONSE, 3, eap::MD5, &eap::valued(&[7; 16], b"alice")),
        typed(eap::REQUEST, 5, eap::IDENTITY, b""),
        typed(eap::REQUEST, 6, eap::MD5, &eap::valued(&[7; 16], b"gw")),
        typed(
            eap::REQUEST,
            7,
            eap::MSCHAP_V2,
            &mschap(1, &eap::valued(&[7; 16], b"gw")),
        ),
        typed(eap::REQUEST, 8, eap::MSCHAP_V2, &mschap(3, b"S=00")),
        told(eap::SUCCESS, 6, b""),
    ];
    let shown = [
        typed(eap::RESPONSE, 1, eap::IDENTITY, b"alice"),
        typed(eap::RESPONSE, 2, eap::TLS, b"\xc0\0\0\0\x06be"),
        typed(eap::RESPONSE, 3, eap::TLS, b"\0gin!"),
        typed(eap::RESPONSE, 4, eap::TLS, b"\0"),
        typed(eap::RESPONSE, 5, eap::TLS, b"\0end"),
        typed(eap::RESPONSE, 6, eap::TLS, b"\0"),
        typed(eap::RESPONSE, 7, eap::TLS, b"\0"),
    ];
    let by_tls = [24, 28].map(|first| conversation(first, &shown));
    let by_eap = [8, 9, 12].map(|first| conversation(first, &spoken));
    let by_eap = by_eap.into_iter().chain(by_tls);
    let by_chap = (0..8).map(|first| conversation(first, &alone));
    let alone = alone.iter().chain(&spoken).chain(&shown).cloned();
    alone.chain(by_chap.collect::<Vec<_>>()).chain(by_eap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_begin_in_the_authenticate_phase() {
        for first in 0..32 {
            let link = opened(first, Instant::now());
            let state = link.facts().into_iter().find(|fact| fact.name == "lcp_state");
            assert!(state.is_some_and(|fact| fact.value == "Opened"), "{first}");
        }
    }

    #[test]
    fn the_handshake_of_the_seeds_comes_to_its_end() {
        let now = Instant::now();
        let mut link = opened(24, now);
        let seeds = packets();
        let conversation = seeds.iter().find(|seed| seed.first() == Some(&24));
        let mut rest = &conversation.expect("a seed by EAP-TLS")[1..];
        while let Some((&length, after)) = rest.split_first() {
            let (packet, after) = after.split_at(usize::from(length));
            let frame = [&protocol::EAP.to_be_bytes()[..], packet].concat();
            if length > 0 {
                link.handle_frame(&frame, now);
                drain(&mut link, true, now);
            }
            rest = after;
        }
        assert!(link.session_keys().is_some());
    }
}
