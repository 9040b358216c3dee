//! Packets in any order, with any content: no panic, bounded output, and always an end.

use crate::harness::{Script, Seeded, login};
use sluice_auth::{RejectReason, Verdict};
use sluice_ppp::wire::Packet;
use sluice_ppp::{PppConfig, Role, protocol};
use sluice_spi::TerminateCause;
use std::time::Duration;

/// Most frames that one input may cause: an answer, requests of two network protocols, their answers to frames
/// kept until then, a termination.
const MAX_BURST: usize = 40;

fn option_body(random: &mut Seeded, number: u16) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.below(5) {
        let kinds: &[u8] = match number {
            protocol::LCP => &[1, 2, 3, 4, 5, 7, 8, 13, 17, 18, 19, 99],
            protocol::IPCP => &[1, 2, 3, 129, 130, 131, 132, 99],
            _ => &[1, 2, 99],
        };
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let length = match (number, kind) {
            (protocol::LCP, 1 | 3 | 17) => 2,
            (protocol::LCP, 7 | 8 | 18) => 0,
            (protocol::IPV6CP, 1) => 8,
            _ => 4,
        };
        let data: Vec<u8> = (0..length).map(|_| (random.next() % 3) as u8).collect();
        body.extend_from_slice(&[kind, (2 + length) as u8]);
        body.extend_from_slice(&data);
    }
    body
}

/// A packet that looks like one, or does not.
fn packet(random: &mut Seeded, script: &Script) -> Vec<u8> {
    let numbers = [
        protocol::LCP,
        protocol::LCP,
        protocol::LCP,
        protocol::PAP,
        protocol::IPCP,
        protocol::IPV6CP,
        protocol::CCP,
        protocol::IPV6,
        protocol::IPV4,
        random.next() as u16,
    ];
    let number = numbers[random.below(numbers.len() as u64) as usize];
    let mut code = random.below(15) as u8;
    let mut id = random.below(6) as u8;
    let mut body = match random.below(4) {
        0 => (0..random.below(40)).map(|_| random.next() as u8).collect(),
        _ => option_body(random, number),
    };
    // What ends a link is rare, and many packets carry a negotiation on.
    if matches!(code, 5..=8) && random.chance(90) {
        code = 9;
    }
    if random.chance(40)
        && let Some((asked, options)) = script.requests.get(&number)
    {
        code = if random.chance(90) {
            2
        } else {
            3 + random.below(2) as u8
        };
        (id, body) = (*asked, options.clone());
    } else if random.chance(25) {
        code = 1;
    }
    if number == protocol::PAP && random.chance(70) {
        (code, body) = (1, vec![1, b'a', 1, b'b']);
    }
    let mut bytes = if random.chance(50) {
        vec![0xff, 0x03]
    } else {
        Vec::new()
    };
    bytes.extend_from_slice(&number.to_be_bytes());
    Packet {
        code,
        id,
        body: &body,
    }
    .encode(&mut bytes);
    if random.chance(5) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    bytes
}

fn check_progress(script: &Script) {
    if let Some(at) = script.link.poll_timeout() {
        assert!(at > script.now, "a timeout that is due was not dealt with");
    }
}

fn run(seed: u64, role: Role) -> (usize, bool) {
    let mut random = Seeded(seed);
    let server = matches!(role, Role::Server);
    let mut script = Script::new(role, PppConfig::default());
    // Some begin in a later phase.
    match seed % 5 {
        0 => {}
        1 | 2 => script.start(None),
        3 if server => {
            script.start(None);
            script.authenticate();
        }
        _ if server => {
            script.start(None);
            script.establish();
        }
        _ => {
            script.start(None);
            script.open_lcp();
            if seed % 5 == 4 {
                script.packet(protocol::IPCP, 3, 1, "0306 0a400007 8106 0a400035 8306 0a400036");
                script.packet(protocol::IPCP, 1, 1, "0306 0a400001");
                script.acknowledge(protocol::IPCP);
            }
        }
    }
    for _ in 0..300 {
        script.forget();
        match random.below(20) {
            0 => {
                script.start(None);
            }
            1..=2 => script.pass(Duration::from_millis(random.below(8000))),
            3 if random.chance(3) => {
                script.link.close(TerminateCause::AdminReset, script.now);
                script.drain();
            }
            4 => {
                script.verdict = match random.below(3) {
                    0 => None,
                    1 => Some(Verdict::Reject(RejectReason::BadCredentials)),
                    _ => Some(Verdict::accept(Box::new(crate::harness::grants()))),
                };
            }
            5 => {
                // A verdict that nobody asked for, or late.
                script
                    .link
                    .auth_verdict(Verdict::accept(Box::default()), script.now);
                script.drain();
            }
            _ => {
                let bytes = packet(&mut random, &script);
                script.wire(&bytes);
                assert!(script.frames.len() <= MAX_BURST, "{:?}", script.sent());
            }
        }
        script.link.handle_timeout(script.now);
        script.drain();
        check_progress(&script);
    }
    let ups = script.said.ups;
    let links = script.said.links;
    script.link.close(TerminateCause::AdminReset, script.now);
    script.drain();
    script.pass(Duration::from_secs(60));
    assert!(script.link.is_closed(), "seed {seed}");
    assert!(script.said.down.is_some());
    script.forget();
    for _ in 0..20 {
        let bytes = packet(&mut random, &script);
        script.wire(&bytes);
    }
    assert!(script.frames.is_empty(), "a closed link is silent");
    (links, ups > 0)
}

#[test]
fn packets_in_any_order_are_survived_as_the_server() {
    let outcomes: Vec<_> = (0..400).map(|seed| run(seed, Role::Server)).collect();
    // The noise reaches every phase, or it would prove little.
    assert!(outcomes.iter().filter(|(links, _)| *links > 0).count() > 100);
    assert!(outcomes.iter().filter(|(_, up)| *up).count() > 20);
}

#[test]
fn packets_in_any_order_are_survived_as_the_client() {
    let outcomes: Vec<_> = (0..400).map(|seed| run(seed, login())).collect();
    assert!(outcomes.iter().filter(|(links, _)| *links > 0).count() > 100);
    assert!(outcomes.iter().filter(|(_, up)| *up).count() > 20);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = || {
        let mut random = Seeded(5);
        let mut script = Script::server(PppConfig::default());
        script.establish();
        script.link.set_trace(true);
        for _ in 0..200 {
            let bytes = packet(&mut random, &script);
            script.wire(&bytes);
            script.pass(Duration::from_millis(50));
        }
        script.said.traced
    };
    let first = trace();
    assert!(first.len() > 50);
    assert_eq!(first, trace());
}

#[test]
fn a_carrier_that_does_not_drain_does_not_make_us_grow() {
    let mut link = Script::server(PppConfig::default());
    link.open_lcp();
    let mut request = vec![0xc0, 0x21];
    Packet {
        code: 9,
        id: 1,
        body: &[0, 0, 0, 1, 2, 3],
    }
    .encode(&mut request);
    let now = link.now;
    for _ in 0..10_000 {
        link.link.handle_frame(&request, now);
    }
    let mut events = 0;
    while link.link.poll_event().is_some() {
        events += 1;
    }
    let mut frames = 0;
    let mut out = bytes::BytesMut::new();
    while link.link.poll_frame(&mut out) {
        frames += 1;
    }
    assert!(events <= 80 && frames <= 64, "{events} events, {frames} frames");
}
