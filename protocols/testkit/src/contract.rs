//! The contract tests that every module's crate calls with its own machines.
//!
//! Each is a function that panics where a module breaks the contract of `sluice_spi`. [`Pair`] and
//! [`crate::Node`] watch the rest all the time: that drains end, that fronts only route to machines that live,
//! that paths are installed once, that time moves on.

pub mod stream;

use crate::node::Node;
use crate::pair::{Pair, Side};
use crate::{Seeded, memory, mutate};
use sluice_spi::{Event, Factory, PeerAddr, TerminateCause};
use std::net::SocketAddr;
use std::time::Duration;

/// Same seed, same trace: runs a scenario twice with the same seed, and once with another to see that the seed
/// matters at all.
pub fn same_seed_same_trace(scenario: impl Fn(u64) -> Pair) {
    let first = scenario(1).trace();
    let again = scenario(1).trace();
    if let Some((line, (a, b))) = first
        .lines()
        .zip(again.lines())
        .enumerate()
        .find(|(_, (a, b))| a != b)
    {
        panic!("the runs part at line {line}:\n{a}\n{b}");
    }
    assert_eq!(first, again);
    assert_ne!(first, scenario(2).trace(), "the seed does not reach the machines");
}

/// No panic, and bounded memory, for any bytes: gives a node every damaged version of every message of
/// `corpus`, and plain noise, from `sources` in turn, and lets timers run in between. Afterwards, when all has
/// timed out, no more than `bound` bytes may be held beyond what was held before. The test binary must install
/// [`memory::CountingAllocator`].
///
/// `count` is the number of seeded mutations for each message, on top of the systematic ones.
pub fn any_bytes(
    make: impl Fn() -> Pair,
    corpus: &[Vec<u8>],
    sources: &[SocketAddr],
    seed: u64,
    count: usize,
    bound: isize,
) {
    let mut pair = make();
    let before = memory::live();
    let mut random = Seeded::new(seed);
    let mut given = 0usize;
    let noise: Vec<Vec<u8>> = (0..count.max(100))
        .map(|_| {
            let length = random.below(120);
            random.bytes(length)
        })
        .collect();
    let damaged = corpus
        .iter()
        .flat_map(|message| mutate::all(message, seed, count));
    for bytes in damaged.chain(noise) {
        let from = sources[given % sources.len()];
        pair.inject(Side::Server, from, &bytes);
        // What the server answers goes nowhere, and its log would grow without end.
        discard(&mut pair.server);
        given += 1;
        if given.is_multiple_of(64) {
            pair.clock.advance(Duration::from_millis(500));
            pair.server.advance(pair.clock);
            discard(&mut pair.server);
        }
    }
    // Everything half open or torn down is over after some minutes of virtual time.
    for _ in 0..600 {
        pair.clock.advance(Duration::from_secs(1));
        pair.server.advance(pair.clock);
        discard(&mut pair.server);
    }
    let held = memory::live() - before;
    assert!(
        held <= bound,
        "{held} bytes are still held after {given} messages"
    );
}

fn discard(node: &mut Node) {
    while node.pop_out().is_some() {}
    node.delivered.clear();
    node.log = Default::default();
}

/// Any bytes on an established tunnel or session: gives `side` damaged versions of what it received so far, from
/// its real peer. Nothing may panic, and the order of events must hold. The session may well end.
pub fn any_bytes_from_the_peer(mut pair: Pair, side: Side, seed: u64, count: usize) {
    let received: Vec<(PeerAddr, Vec<u8>)> = pair
        .node(side)
        .log
        .entries()
        .iter()
        .filter_map(|entry| match &entry.what {
            crate::log::Seen::Received { from, bytes } => Some((*from, bytes.clone())),
            _ => None,
        })
        .collect();
    assert!(!received.is_empty(), "the node has not received anything yet");
    for (from, message) in received {
        for bytes in mutate::seeded(&message, seed, count).chain(mutate::truncations(&message)) {
            pair.inject(side, from.remote, &bytes);
        }
        pair.run_for(Duration::from_millis(100));
    }
    pair.node(side).log.check_order(false);
}

/// A machine fed `restore` behaves as the original: restarts `side` from its checkpoints and looks that the
/// checkpoint of the restored machine says the same, that sessions and their paths are there again, that user
/// packets flow both ways, that nothing is repeated, and that the peer notices nothing for `quiet`, which
/// should be several times the longest keepalive.
pub fn restored_goes_on(mut pair: Pair, side: Side, factory: &dyn Factory, quiet: Duration) -> Pair {
    let now = pair.now();
    let machines = pair.node(side).machines();
    let before: Vec<_> = machines
        .iter()
        .map(|&key| pair.node(side).checkpoint(key, now))
        .collect();
    let paths: Vec<_> = machines.iter().map(|&key| pair.node(side).paths(key)).collect();
    assert!(
        paths.iter().any(|paths| !paths.is_empty()),
        "nothing is established yet"
    );
    let other = match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    };
    let ended = pair.node(other).log.sessions_down().len();

    assert_eq!(pair.restart(side, factory), machines);
    let now = pair.now();
    let node = pair.node(side);
    let after: Vec<_> = machines.iter().map(|&key| node.checkpoint(key, now)).collect();
    assert_eq!(before, after, "the checkpoint of the restored machine differs");
    assert_eq!(
        machines.iter().map(|&key| node.paths(key)).collect::<Vec<_>>(),
        paths
    );
    let recovered = node
        .log
        .events()
        .filter(|event| matches!(event, Event::Recovered { .. }))
        .count();
    assert_eq!(recovered, machines.len());

    pair.run_for(quiet);
    assert_eq!(
        pair.node(side).machines(),
        machines,
        "a restored machine ended by itself"
    );
    assert_eq!(
        pair.node(other).log.sessions_down().len(),
        ended,
        "the peer noticed"
    );
    user_packets_flow(&mut pair);
    pair.client.log.check_order(false);
    pair.server.log.check_order(false);
    pair
}

/// Sends one IPv4 packet through every path of both nodes, from the addresses of the session where the path has
/// a filter, and looks that each comes out on the other side unchanged.
pub fn user_packets_flow(pair: &mut Pair) {
    for side in [Side::Client, Side::Server] {
        pair.client.delivered.clear();
        pair.server.delivered.clear();
        let node = pair.node(side);
        let paths: Vec<_> = node
            .machines()
            .into_iter()
            .flat_map(|key| {
                node.paths(key)
                    .into_iter()
                    .map(move |session| (key, session))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(!paths.is_empty(), "{side:?} has no path");
        let mut sent = Vec::new();
        for (number, &(machine, session)) in paths.iter().enumerate() {
            let packet = ipv4_packet(number as u16, 64);
            assert!(
                pair.send_ip(side, machine, session, &packet),
                "{side:?}: {session:?} may not send"
            );
            sent.push(packet);
        }
        pair.run_for(Duration::from_secs(2));
        let receiver = match side {
            Side::Client => &pair.server,
            Side::Server => &pair.client,
        };
        let mut got: Vec<_> = receiver
            .delivered
            .iter()
            .map(|delivered| delivered.packet.clone())
            .collect();
        got.sort();
        sent.sort();
        assert_eq!(got, sent, "packets sent by {side:?}");
    }
}

/// A whole IPv4 packet (protocol 253, for experiments by RFC 3692) of `length` bytes, told apart by `number`.
/// From 10.0.0.1 to 10.0.0.2. `length` is at least 20.
pub fn ipv4_packet(number: u16, length: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) as u16).wrapping_add((sum >> 16) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend((20..length).map(|at| (at ^ number) as u8));
    packet
}

/// One SessionDown for each SessionOpening, and an end to everything: closes all machines of `side`, waits until
/// both nodes are empty, and checks the order of all events. `limit` must cover the longest hold time after
/// the end of a tunnel.
pub fn everything_ends_once(mut pair: Pair, side: Side, limit: Duration) {
    pair.close_all(side, TerminateCause::AdminReset);
    pair.run_until(limit, |pair| {
        pair.client.machines().is_empty() && pair.server.machines().is_empty()
    });
    for node in [&pair.client, &pair.server] {
        assert_eq!(node.machines(), [], "machines are left");
        node.log.check_order(true);
    }
}

/// No secret in `Debug`, in events, in descriptions or in checkpoints: looks for each secret as text, as a list
/// of decimal bytes, as hexadecimal digits and as raw bytes. What went over the wire is not looked at.
pub fn no_secret_shown(pair: &mut Pair, secrets: &[&[u8]]) {
    let now = pair.now();
    for side in [Side::Client, Side::Server] {
        let node = pair.node(side);
        let mut shown: Vec<Vec<u8>> = node
            .log
            .events()
            .map(|event| format!("{event:?}").into_bytes())
            .collect();
        for key in node.machines() {
            let machine = node.machine(key);
            shown.push(format!("{:?}", machine.describe()).into_bytes());
            for session in node.paths(key) {
                shown.push(format!("{:?}", machine.describe_session(session)).into_bytes());
            }
            shown.extend(node.checkpoint(key, now).map(|checkpoint| checkpoint.to_vec()));
        }
        for secret in secrets {
            assert!(secret.len() >= 4, "too short to tell from chance");
            let decimal = format!("{secret:?}");
            let forms = [
                secret.to_vec(),
                decimal.trim_matches(['[', ']']).as_bytes().to_vec(),
                crate::vectors::to_hex(secret).into_bytes(),
            ];
            for text in &shown {
                for form in &forms {
                    let found = text.windows(form.len()).any(|window| window == form);
                    assert!(
                        !found,
                        "{side:?} shows a secret in {}",
                        String::from_utf8_lossy(text)
                    );
                }
            }
        }
    }
}
