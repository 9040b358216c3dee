//! The contract tests of machines of streams. [`StreamNode`] watches the rest all the time.

use crate::{Seeded, StreamNode, mutate};
use sluice_spi::{ChannelRef, Event, Factory, JoinEnd, LocalRef, StreamEnd, TerminateCause};
use std::time::Duration;

/// Virtual time after which nothing may be left of a client that fell silent.
const SILENCE: Duration = Duration::from_secs(3600);

/// Cutting a stream in any way changes nothing: gives `script` at once, octet by octet, and cut by `seeds` seeds, with
/// and without time passing in between, and looks that the same events and the same bytes come out.
pub fn any_chunking_same_result(make: impl Fn() -> StreamNode, script: &[u8], seeds: u64) {
    let whole = {
        let mut node = make();
        node.give(ChannelRef::FIRST, script);
        node.pass(Duration::from_secs(1));
        node.summary()
    };
    let check = |node: StreamNode, how: &str| {
        let got = node.summary();
        assert_eq!(got, whole, "{how}:\n{}", node.log.text());
    };
    for pause in [Duration::ZERO, Duration::from_millis(1)] {
        let mut node = make();
        for octet in script {
            node.give(ChannelRef::FIRST, &[*octet]);
            node.pass(pause);
        }
        node.pass(Duration::from_secs(1));
        check(node, "octet by octet");
        for seed in 0..seeds {
            let mut node = make();
            node.give_cut(script, &mut Seeded::new(seed), pause);
            node.pass(Duration::from_secs(1));
            check(node, &format!("cut by seed {seed}"));
        }
    }
}

/// A client may end at any octet, in order or not, and at any time after: gives every beginning of `script`, then the
/// end, and looks that nothing is left, and that each session has had one end.
pub fn ends_anywhere(make: impl Fn() -> StreamNode, script: &[u8]) {
    for length in 0..=script.len() {
        for end in [StreamEnd::Finished, StreamEnd::Reset] {
            for pause in [
                Duration::ZERO,
                Duration::from_millis(15),
                Duration::from_millis(150),
            ] {
                let mut node = make();
                node.give(ChannelRef::FIRST, &script[..length]);
                node.pass(pause);
                node.end(ChannelRef::FIRST, end);
                finish(node, &format!("{length} octets, {pause:?}, {end:?}"));
            }
        }
    }
}

/// The gateway may end a machine at any octet: gives every beginning of `script`, then closes the machine.
pub fn closes_anywhere(make: impl Fn() -> StreamNode, script: &[u8]) {
    for length in 0..=script.len() {
        for pause in [
            Duration::ZERO,
            Duration::from_millis(15),
            Duration::from_millis(150),
        ] {
            let mut node = make();
            node.give(ChannelRef::FIRST, &script[..length]);
            node.pass(pause);
            node.close(TerminateCause::AdminReboot);
            assert!(
                node.is_gone(),
                "closed after {length} octets:\n{}",
                node.log.text()
            );
            node.log.check_order(true);
        }
    }
}

/// Waits until a node has nothing left, ending what is joined.
fn finish(mut node: StreamNode, what: &str) {
    node.pass(SILENCE);
    for session in node.joined() {
        node.part(session, JoinEnd::Finished);
    }
    assert!(node.is_gone(), "{what}: something is left\n{}", node.log.text());
    node.log.check_order(true);
}

/// No panic, bounded memory and an end for any bytes: gives a machine every damaged version of every script of
/// `corpus`, and noise, each to a connection of its own and cut by the seed. What the machine holds at any such point
/// may be `bound` bytes at the most. The test binary must install [`crate::memory::CountingAllocator`].
pub fn any_bytes(make: impl Fn() -> StreamNode, corpus: &[Vec<u8>], seed: u64, count: usize, bound: isize) {
    let mut random = Seeded::new(seed);
    let noise: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let length = random.below(600);
            random.bytes(length)
        })
        .collect();
    let damaged = corpus.iter().flat_map(|script| mutate::all(script, seed, count));
    for (number, bytes) in damaged.chain(noise).enumerate() {
        let mut node = make();
        node.give_cut(&bytes, &mut random, Duration::ZERO);
        if number.is_multiple_of(4) {
            let held = node.into_machine_size();
            assert!(held <= bound, "{held} bytes are held after {bytes:?}");
            continue;
        }
        if number.is_multiple_of(2) {
            let end = if random.chance(0.5) {
                StreamEnd::Finished
            } else {
                StreamEnd::Reset
            };
            node.end(ChannelRef::FIRST, end);
        }
        finish_relays(&mut node);
        finish(node, &format!("{bytes:?}"));
    }
}

/// Ends what lives as long as its client's connection.
fn finish_relays(node: &mut StreamNode) {
    node.pass(SILENCE);
    if !node.is_gone() && node.joined().is_empty() {
        node.end(ChannelRef::FIRST, StreamEnd::Reset);
    }
}

/// Memory of an established machine: what `make` gives must hold `bound` bytes at the most once the events of its
/// handshake are drained. The test binary must install [`crate::memory::CountingAllocator`].
pub fn is_small(node: StreamNode, bound: isize) {
    assert!(!node.is_gone(), "nothing is established:\n{}", node.log.text());
    let held = node.into_machine_size();
    assert!(held <= bound, "{held} bytes are held");
}

/// A machine fed `restore` behaves as the original: restarts it from its checkpoint and looks that the checkpoint of
/// the restored machine says the same, that its channels are joined or relayed again, and that nothing is repeated.
pub fn restored_goes_on(node: &mut StreamNode, factory: &dyn Factory) {
    let before = node.checkpoint().expect("something is established");
    let joined = node.joined();
    let sessions = node.log.sessions_up();
    let sent = node.sent(ChannelRef::FIRST).len();
    node.restart(factory).expect("a usable checkpoint");
    assert_eq!(node.checkpoint().expect("something is established"), before);
    assert_eq!(node.joined(), joined);
    assert_eq!(
        node.sent(ChannelRef::FIRST).len(),
        sent,
        "the client is told something again"
    );
    let recovered: Vec<&Vec<LocalRef>> = node
        .log
        .events()
        .filter_map(|event| match event {
            Event::Recovered { sessions, .. } => Some(sessions),
            _ => None,
        })
        .collect();
    assert_eq!(recovered.last(), Some(&&sessions));
    assert_eq!(node.log.sessions_up(), sessions, "a session came up again");
    node.pass(SILENCE);
    assert!(!node.is_gone(), "a restored machine ended by itself");
    node.log.check_order(false);
}
