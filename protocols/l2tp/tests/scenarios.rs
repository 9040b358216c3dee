//! Pairs of machines in virtual time: both call directions, teardown, and every fault a network has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Bench, DIALS, LAC, LNS};
use sluice_l2tp::wire::message::number;
use sluice_spi::{Input, TerminateCause};
use sluice_testkit::{Impairment, Policy, Side, contract};
use std::time::Duration;

const SECRETS: [&str; 2] = [
    "secret = \"tunnel-secret\"\n",
    "secret = \"tunnel-secret\"\nhide_avps = true\n",
];

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn an_incoming_call_comes_up_carries_data_and_ends() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    contract::user_packets_flow(&mut bench.pair);
    bench.run(seconds(5));
    bench.pair.client.log.check_order(false);
    bench.pair.server.log.check_order(false);
    contract::everything_ends_once(bench.pair, Side::Client, seconds(120));
}

#[test]
fn an_incoming_call_ends_from_the_lns() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    contract::everything_ends_once(bench.pair, Side::Server, seconds(120));
}

#[test]
fn an_outgoing_call_comes_up_carries_data_and_ends() {
    for secret in ["", SECRETS[0], SECRETS[1]] {
        let mut bench = Bench::good(&format!("{DIALS}{secret}"), &format!("{LNS}{secret}"));
        let key = bench.dial_from_lns();
        bench.call(Side::Server, key, "out", false);
        let up = bench.wait(seconds(60), |pair| {
            pair.client.log.sessions_up().len() == 1 && pair.server.log.sessions_up().len() == 1
        });
        assert!(up, "{}", bench.pair.trace());
        contract::user_packets_flow(&mut bench.pair);
        contract::everything_ends_once(bench.pair, Side::Server, seconds(120));
    }
}

#[test]
fn hidden_avps_and_tunnel_authentication() {
    for secret in SECRETS {
        let mut bench = Bench::good(&format!("{LAC}{secret}"), &format!("{LNS}{secret}"));
        bench.connect();
        contract::user_packets_flow(&mut bench.pair);
        contract::no_secret_shown(&mut bench.pair, &[b"tunnel-secret", b"open-sesame"]);
        contract::everything_ends_once(bench.pair, Side::Client, seconds(120));
    }
}

#[test]
fn many_calls_on_one_tunnel() {
    let mut bench = Bench::good(LAC, LNS);
    let key = bench.dial();
    for number in 0..100 {
        bench.call(Side::Client, key, &format!("call {number}"), true);
    }
    let up = bench.wait(seconds(60), |pair| pair.server.log.sessions_up().len() == 100);
    assert!(up);
    contract::everything_ends_once(bench.pair, Side::Server, seconds(120));
}

#[test]
fn sequenced_data_is_put_in_order() {
    let required = "sequencing = \"required\"\n";
    let impairment = Impairment {
        reorder: 0.3,
        reorder_by: Duration::from_millis(5),
        ..Impairment::NONE
    };
    let mut bench = Bench::new(LAC, &format!("{LNS}{required}"), impairment, 5);
    let key = bench.connect();
    bench.run(seconds(1));
    let session = bench.pair.client.log.sessions_up()[0];
    bench.pair.server.delivered.clear();
    for number in 0..300 {
        let packet = contract::ipv4_packet(number, 64);
        assert!(bench.pair.send_ip(Side::Client, key, session, &packet));
        bench.run(Duration::from_millis(1));
    }
    bench.run(seconds(1));
    let order: Vec<u16> = bench
        .pair
        .server
        .delivered
        .iter()
        .map(|delivered| u16::from_be_bytes([delivered.packet[4], delivered.packet[5]]))
        .collect();
    assert_eq!(order, (0..300).collect::<Vec<u16>>());
}

/// Every way in which a tunnel or call may end because of a bad link.
const BAD_LINK_ENDS: [&str; 8] = [
    "control_timeout",
    "call_timeout",
    "call_ended_by_peer",
    "stopped_by_peer",
    "lcp_echo_timeout",
    "lcp_timeout",
    "auth_timeout",
    "no_network_protocol",
];

/// Which side opens the tunnel and places the calls.
fn opener(outgoing: bool) -> Side {
    if outgoing { Side::Server } else { Side::Client }
}

/// One tunnel with two calls over a bad link. It comes up or ends with a cause, and leaves nothing.
fn bad_link(faults: f64, seed: u64, secret: &str, outgoing: bool) -> bool {
    let lac = if outgoing { DIALS } else { LAC };
    let (lac, lns) = (format!("{lac}{secret}"), format!("{LNS}{secret}"));
    let mut bench = Bench::new(&lac, &lns, Impairment::all(faults), seed);
    let side = opener(outgoing);
    let key = if outgoing {
        bench.dial_from_lns()
    } else {
        bench.dial()
    };
    bench.call(side, key, "a", !outgoing);
    bench.call(side, key, "b", !outgoing);
    let limit = seconds(300);
    bench.wait(limit, |pair| {
        let log = if outgoing {
            &pair.server.log
        } else {
            &pair.client.log
        };
        log.sessions_up().len() + log.sessions_down().len() >= 2
    });
    let log = &bench.pair.node(side).log;
    let (ups, downs) = (log.sessions_up().len(), log.sessions_down());
    assert!(
        ups + downs.len() >= 2,
        "seed {seed}: hangs\n{}",
        bench.pair.trace()
    );
    for code in downs {
        assert!(
            BAD_LINK_ENDS.contains(&code),
            "seed {seed}: {code}\n{}",
            bench.pair.trace()
        );
    }
    bench.pair.close_all(side, TerminateCause::AdminReset);
    let empty = bench.wait(seconds(600), |pair| {
        pair.client.machines().is_empty() && pair.server.machines().is_empty()
    });
    assert!(empty, "seed {seed}: leaves machines\n{}", bench.pair.trace());
    for side in [Side::Client, Side::Server] {
        bench.pair.node(side).log.check_order(true);
    }
    bench.run(seconds(60));
    assert_eq!(bench.pair.server.front().half_open(), 0);
    assert_eq!(bench.pair.client.front().half_open(), 0);
    ups == 2
}

#[test]
fn bad_links_bring_tunnels_up_or_end_them() {
    for outgoing in [false, true] {
        let mut up = [0; 3];
        for seed in 0..40 {
            for (index, faults) in [0.1, 0.2, 0.3].into_iter().enumerate() {
                let secret = ["", SECRETS[0], SECRETS[1]][seed as usize % 3];
                up[index] += u32::from(bad_link(faults, seed, secret, outgoing));
            }
        }
        assert!(up[0] >= 39 && up[1] >= 36 && up[2] >= 25, "came up: {up:?} of 40");
    }
}

#[test]
fn a_refused_user_ends_the_call_only() {
    let mut bench = Bench::good(LAC, LNS);
    bench.pair.server.policy = Policy::reject_all(sluice_auth::RejectReason::BadCredentials);
    let key = bench.dial();
    bench.call(Side::Client, key, "x", true);
    let ended = bench.wait(seconds(60), |pair| {
        pair.client.log.sessions_down().len() == 1 && pair.server.log.sessions_down().len() == 1
    });
    assert!(ended, "{}", bench.pair.trace());
    assert_eq!(bench.pair.server.log.tunnels_down().len(), 0);
    // The next call on the same tunnel is served.
    bench.pair.server.policy = Policy::accept_all();
    bench.call(Side::Client, key, "y", true);
    assert!(bench.wait(seconds(60), |pair| pair.server.log.sessions_up().len() == 1));
}

#[test]
fn a_terminated_session_says_goodbye_on_every_layer() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    let key = bench.pair.server.only_machine();
    let session = bench.pair.server.log.sessions_up()[0];
    let now = bench.pair.now();
    let cause = TerminateCause::AdminReset;
    bench
        .pair
        .server
        .input(key, Input::Terminate { session, cause }, now);
    let ended = bench.wait(seconds(30), |pair| {
        pair.client.log.sessions_down().len() == 1 && pair.server.log.sessions_down().len() == 1
    });
    assert!(ended, "{}", bench.pair.trace());
    // LCP Terminate-Request, then CDN; the tunnel stays.
    let asked = bench
        .pair
        .server
        .log
        .sent()
        .any(|packet| packet.windows(3).any(|window| window == [0xc0, 0x21, 5]));
    assert!(asked, "no Terminate-Request");
    let cdns = common::count_sent(&bench.pair.server, number::CDN)
        + common::count_sent(&bench.pair.client, number::CDN);
    assert!(cdns >= 1);
    assert_eq!(bench.pair.server.log.tunnels_down().len(), 0);
}

#[test]
fn same_seed_same_trace() {
    contract::same_seed_same_trace(|seed| {
        let mut bench = Bench::new(LAC, LNS, Impairment::all(0.1), seed);
        let key = bench.dial();
        bench.call(Side::Client, key, "a", true);
        bench.run(seconds(30));
        bench.pair
    });
}
