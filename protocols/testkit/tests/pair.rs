//! The pair and the contract tests, tried on a toy protocol that is right and on ones that are wrong.

#[allow(dead_code)]
mod toy;

use sluice_auth::RejectReason;
use sluice_spi::{PeerAddr, TerminateCause};
use sluice_testkit::{Clock, Impairment, Node, Pair, Policy, Side, Tap, contract};
use std::time::Duration;
use toy::{Flaw, SESSION, Toy, ToyFactory};

sluice_testkit::count_memory!();

const SECOND: Duration = Duration::from_secs(1);

fn pair(flaw: Flaw, impairment: Impairment, seed: u64) -> Pair {
    let clock = Clock::new();
    let (client, server) = Pair::addresses();
    let factory = ToyFactory(flaw);
    let client = Node::new(&Toy, &factory, client, seed, clock);
    let server = Node::new(&Toy, &factory, server, seed + 1000, clock);
    Pair::new(clock, client, server, impairment, seed)
}

fn connected(flaw: Flaw) -> Pair {
    let mut pair = pair(flaw, Impairment::NONE, 1);
    pair.dial(&ToyFactory(flaw));
    assert!(pair.run_until(SECOND, |pair| pair.client.log.sessions_up().len() == 1));
    pair
}

#[test]
fn a_session_comes_up_in_the_time_of_the_link_and_the_policy() {
    let mut pair = connected(Flaw::None);
    assert_eq!(
        pair.clock.elapsed(),
        Duration::from_millis(7),
        "1 ms there, 5 ms to judge, 1 ms back"
    );
    contract::user_packets_flow(&mut pair);
    let key = pair.client.only_machine();
    let stats = pair.client.path_stats(key, SESSION).unwrap();
    assert_eq!(
        (stats.tx_packets, stats.tx_bytes, stats.rx_packets, stats.rx_bytes),
        (1, 64, 1, 64)
    );
    assert_eq!(pair.capture().len(), 24 + 2 * (16 + 28 + 9) + 2 * (16 + 28 + 69));
}

#[test]
fn loss_is_repaired_by_the_machine_and_the_order_of_events_holds() {
    for seed in 0..20 {
        let mut pair = pair(
            Flaw::None,
            Impairment {
                loss: 0.3,
                ..Impairment::NONE
            },
            seed,
        );
        pair.dial(&ToyFactory(Flaw::None));
        pair.run_for(Duration::from_secs(30));
        pair.client.log.check_order(false);
        // The toy has no keepalive: only the server can end what the client never knew of.
        pair.close_all(Side::Client, TerminateCause::UserRequest);
        contract::everything_ends_once(pair, Side::Server, 60 * SECOND);
    }
}

#[test]
fn verdicts_and_admission_are_those_of_the_policy() {
    let mut refused = pair(Flaw::None, Impairment::NONE, 1);
    refused.server.policy = Policy::reject_all(RejectReason::Disabled);
    refused.dial(&ToyFactory(Flaw::None));
    assert!(refused.run_to_rest(SECOND));
    assert_eq!(refused.server.log.sessions_down(), ["auth_rejected"]);
    assert_eq!(refused.client.log.sessions_down(), ["peer"]);

    let mut full = pair(Flaw::None, Impairment::NONE, 1);
    full.server.policy.admit = Box::new(|_| Err(sluice_spi::Refusal::Draining));
    full.dial(&ToyFactory(Flaw::None));
    full.run_for(SECOND / 2);
    assert_eq!(full.server.log.sessions_down(), ["refused"]);
}

#[test]
fn a_tap_drops_and_forges() {
    let mut pair = pair(Flaw::None, Impairment::NONE, 1);
    let mut seen = 0;
    pair.set_tap(move |side, packet| match side {
        Side::Client => {
            seen += 1;
            if seen == 1 {
                Tap::Drop
            } else {
                Tap::Replace(vec![packet.clone(), packet.clone()])
            }
        }
        Side::Server => Tap::Pass,
    });
    pair.dial(&ToyFactory(Flaw::None));
    assert!(pair.run_until(5 * SECOND, |pair| pair.client.log.sessions_up().len() == 1));
    assert_eq!(
        pair.clock.elapsed(),
        Duration::from_millis(1007),
        "the second try, one second later"
    );
    assert_eq!(
        pair.server.log.sessions_up().len(),
        2,
        "the toy takes a duplicate for another client"
    );
}

#[test]
fn the_contract_tests_pass_for_a_module_that_keeps_the_contract() {
    contract::same_seed_same_trace(|seed| {
        let mut pair = pair(Flaw::None, Impairment::all(0.2), seed);
        pair.dial(&ToyFactory(Flaw::None));
        pair.run_for(Duration::from_secs(20));
        pair
    });
    let corpus = vec![b"O\0\0\0\0\0\0\0\x07".to_vec(), b"D\0\0\0\0E".to_vec()];
    let sources = [
        "198.51.100.1:1".parse().unwrap(),
        "198.51.100.2:2".parse().unwrap(),
    ];
    // Up to 50 machines live on in the toy, which has no keepalive.
    contract::any_bytes(
        || pair(Flaw::None, Impairment::NONE, 3),
        &corpus,
        &sources,
        5,
        500,
        100_000,
    );
    contract::any_bytes_from_the_peer(connected(Flaw::None), Side::Server, 5, 50);
    let pair = connected(Flaw::None);
    let pair = contract::restored_goes_on(pair, Side::Server, &ToyFactory(Flaw::None), 60 * SECOND);
    contract::everything_ends_once(pair, Side::Server, 60 * SECOND);
    contract::no_secret_shown(&mut connected(Flaw::None), &[b"hunter22"]);
}

#[test]
#[should_panic(expected = "the tunnel ended with sessions")]
fn a_silent_end_is_found() {
    contract::everything_ends_once(connected(Flaw::SilentEnd), Side::Client, SECOND);
}

#[test]
#[should_panic(expected = "shows a secret")]
fn a_shown_secret_is_found() {
    contract::no_secret_shown(&mut connected(Flaw::Tells), &[b"hunter22"]);
}

#[test]
#[should_panic(expected = "does not end")]
fn an_endless_drain_is_found() {
    connected(Flaw::Chatters);
}

#[test]
#[should_panic(expected = "bytes are still held")]
fn hoarded_memory_is_found() {
    let make = || connected(Flaw::Hoards);
    // Messages that reach the machine: its key is in the first packet that the server sent.
    let answer = make().server.log.sent().next().unwrap().to_vec();
    let mut message = vec![b'?'];
    message.extend_from_slice(&answer[5..9]);
    message.extend_from_slice(&[0; 500]);
    contract::any_bytes(
        make,
        &[message],
        &["192.0.2.2:1701".parse().unwrap()],
        1,
        2000,
        100_000,
    );
}

#[test]
fn a_closed_machine_is_gone_and_its_key_too() {
    let mut pair = connected(Flaw::None);
    pair.close_all(Side::Server, TerminateCause::AdminReset);
    pair.run_for(SECOND);
    assert_eq!((pair.server.machines(), pair.client.machines()), (vec![], vec![]));
    let (from, _) = Pair::addresses();
    let now = pair.now();
    let peer = PeerAddr {
        remote: from,
        local: pair.server.address(),
    };
    pair.server.receive(peer, b"X\0\0\0\x01", now);
}
