//! Tunnels that go on from their checkpoints, and what is not believed of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::Bytes;
use common::{Bench, DIALS, LAC, LNS};
use sluice_spi::checkpoint::{CheckpointError, open, seal};
use sluice_spi::{Factory, Open, OpenError, ShardId, TerminateCause};
use sluice_testkit::{Impairment, Seeded, Side, contract};
use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_secs(400);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_restored_lns_goes_on_and_the_peer_notices_nothing() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    bench.run(seconds(5));
    let lns = bench.lns.clone();
    let pair = contract::restored_goes_on(bench.pair, Side::Server, &lns, QUIET);
    contract::everything_ends_once(pair, Side::Client, seconds(200));
}

#[test]
fn a_restored_lac_goes_on() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    bench.run(seconds(5));
    let lac = bench.lac.clone();
    contract::restored_goes_on(bench.pair, Side::Client, &lac, QUIET);
}

#[test]
fn outgoing_calls_with_hidden_avps_are_restored() {
    let secret = "secret = \"tunnel-secret\"\nhide_avps = true\n";
    let mut bench = Bench::good(&format!("{DIALS}{secret}"), &format!("{LNS}{secret}"));
    let key = bench.dial_from_lns();
    bench.call(Side::Server, key, "out", false);
    assert!(bench.wait(seconds(60), |pair| pair.client.log.sessions_up().len() == 1));
    bench.run(seconds(5));
    let lns = bench.lns.clone();
    contract::restored_goes_on(bench.pair, Side::Server, &lns, QUIET);
}

#[test]
fn sequence_numbers_go_on_over_a_restart() {
    let mut bench = Bench::good(LAC, &format!("{LNS}sequencing = \"required\"\n"));
    let key = bench.connect();
    bench.run(seconds(5));
    let client = bench.pair.client.log.sessions_up()[0];
    let server_key = bench.pair.server.only_machine();
    let server = bench.pair.server.log.sessions_up()[0];
    for number in 0..500 {
        let packet = contract::ipv4_packet(number, 64);
        assert!(bench.pair.send_ip(Side::Client, key, client, &packet));
        assert!(bench.pair.send_ip(Side::Server, server_key, server, &packet));
        bench.run(Duration::from_millis(1));
    }
    let lns = bench.lns.clone();
    bench.pair.restart(Side::Server, &lns);
    bench.run(Duration::from_millis(100));
    contract::user_packets_flow(&mut bench.pair);
    assert_eq!(bench.pair.client.log.dropped("sequence_old"), 0);
    assert_eq!(bench.pair.server.log.dropped("sequence_old"), 0);
}

#[test]
fn restarts_in_the_middle_of_anything_over_a_bad_link() {
    for seed in 0..12 {
        let mut bench = Bench::new(LAC, LNS, Impairment::all(0.1), seed);
        let key = bench.dial();
        bench.call(Side::Client, key, "a", true);
        let up = bench.wait(seconds(200), |pair| pair.server.log.sessions_up().len() == 1);
        if !up {
            continue;
        }
        let mut random = Seeded::new(seed);
        for round in 0..6 {
            // A second call is on its way, or not.
            if random.chance(0.5) {
                bench.call(Side::Client, key, &format!("call {round}"), true);
            }
            bench.run(Duration::from_millis(random.below(3000) as u64));
            let lns = bench.lns.clone();
            bench.pair.restart(Side::Server, &lns);
        }
        bench.run(seconds(100));
        let first_lives = !bench.pair.client.paths(key).is_empty();
        assert!(
            first_lives,
            "seed {seed}: the established call is gone\n{}",
            bench.pair.trace()
        );
        bench.pair.set_impairment(Impairment::NONE);
        bench.pair.close_all(Side::Client, TerminateCause::AdminReset);
        bench.wait(seconds(300), |pair| {
            pair.client.machines().is_empty() && pair.server.machines().is_empty()
        });
        assert!(bench.pair.client.machines().is_empty() && bench.pair.server.machines().is_empty());
        bench.pair.client.log.check_order(true);
    }
}

#[test]
fn half_open_peers_and_calls_are_forgotten_without_a_word() {
    let mut bench = Bench::good(LAC, LNS);
    bench.pair.server.policy.admission_delay = seconds(5);
    let key = bench.dial();
    bench.call(Side::Client, key, "slow", true);
    bench.run(seconds(1));
    let lns = bench.lns.clone();
    let restored = bench.pair.restart(Side::Server, &lns);
    assert_eq!(restored.len(), 1, "the tunnel lives on");
    bench.run(seconds(1));
    assert!(bench.pair.client.log.tunnels_down().is_empty());
    // A machine that is not established has no checkpoint.
    let mut fresh = Bench::good(LAC, LNS);
    let key = fresh.dial();
    let now = fresh.pair.now();
    assert!(fresh.pair.client.machine(key).checkpoint(now).is_none());
}

/// A checkpoint of an established tunnel with one call.
fn sample() -> (Bench, Bytes) {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    bench.run(seconds(5));
    let key = bench.pair.server.only_machine();
    let now = bench.pair.now();
    let checkpoint = bench.pair.server.machine(key).checkpoint(now).unwrap();
    (bench, checkpoint)
}

fn restore(bench: &Bench, checkpoint: &[u8]) -> Result<(), OpenError> {
    let entropy = Box::new(Seeded::new(1));
    bench
        .lns
        .machine(Open::Restored { checkpoint }, ShardId(0), entropy, Instant::now())
        .map(|_| ())
}

#[test]
fn r38_damaged_checkpoints_are_refused() {
    let (bench, checkpoint) = sample();
    assert!(restore(&bench, &checkpoint).is_ok());
    for length in 0..checkpoint.len() {
        assert!(restore(&bench, &checkpoint[..length]).is_err());
    }
    for bit in (0..checkpoint.len() * 8).step_by(3) {
        let mut damaged = checkpoint.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(restore(&bench, &damaged).is_err(), "bit {bit}");
    }
    let (_, body) = open(&checkpoint).unwrap();
    let newer = seal(2, body.rest());
    assert_eq!(
        restore(&bench, &newer),
        Err(OpenError::Checkpoint(CheckpointError::Format(2)))
    );
}

#[test]
fn r38_checkpoints_with_a_right_checksum_are_looked_at_all_the_same() {
    let (bench, checkpoint) = sample();
    let (format, body) = open(&checkpoint).unwrap();
    let body = body.rest().to_vec();
    for length in 0..body.len() {
        assert!(
            restore(&bench, &seal(format, &body[..length])).is_err(),
            "length {length}"
        );
    }
    let mut longer = body.clone();
    longer.push(0);
    assert!(restore(&bench, &seal(format, &longer)).is_err());
    // The tunnel's ids, then the address family.
    for (at, value) in [(0, [0, 0]), (2, [0, 0]), (4, [9, 9])] {
        let mut wrong = body.clone();
        wrong[at..at + 2].copy_from_slice(&value);
        assert!(restore(&bench, &seal(format, &wrong)).is_err(), "at {at}");
    }
    // Anything else must at least not panic.
    let mut random = Seeded::new(5);
    for _ in 0..3000 {
        let mut wrong = body.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(wrong.len());
            wrong[at] = random.bytes(1)[0];
        }
        let _ = restore(&bench, &seal(format, &wrong));
    }
}

#[test]
fn the_rule_of_a_peer_outlives_what_is_kept_of_its_name() {
    // The pattern looks at the end of a name of 60 octets, of which a half-open record keeps 32.
    let name = format!("{}-end", "x".repeat(56));
    let rule = "[[peers]]\nhost_name = \"*-end\"\nsecret = \"tunnel-secret\"\nhide_avps = true\n";
    let lac =
        format!("host_name = \"{name}\"\nrole = \"lac\"\nsecret = \"tunnel-secret\"\nhide_avps = true\n");
    let mut bench = Bench::good(&lac, &format!("{LNS}{rule}"));
    let key = bench.connect();
    bench.run(seconds(5));
    let lns = bench.lns.clone();
    bench.pair.restart(Side::Server, &lns);
    bench.call(Side::Client, key, "after", true);
    let up = bench.wait(seconds(30), |pair| pair.client.log.sessions_up().len() == 2);
    assert!(
        up,
        "hidden AVPs are read after the restart:\n{}",
        bench.pair.trace()
    );
}
