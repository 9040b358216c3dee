//! A server and a client on one path, in virtual time.

use crate::harness::{Impairment, Pair, grants, login};
use sluice_auth::{RejectReason, Verdict};
use sluice_ppp::{PppConfig, PppHeader, Role};
use sluice_spi::TerminateCause;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn pair(seed: u64) -> Pair {
    Pair::new(seed, PppConfig::default(), PppConfig::default(), login())
}

#[test]
fn a_clean_path_takes_no_timer() {
    let mut pair = pair(1);
    pair.start();
    assert!(pair.run(SECOND, |pair| pair.both_up()
        && pair.links[0].path().unwrap().filter.ipv6.is_some()));
    let took = pair.now.duration_since(pair.started);
    assert!(took < Duration::from_millis(200), "{took:?}\n{}", pair.tail());
    let grants = grants();
    let server = pair.links[0].path().unwrap();
    assert_eq!(
        (server.filter.ipv4, server.filter.ipv6),
        (grants.ipv4, grants.ipv6_prefix)
    );
    assert_eq!((server.mtu, server.header), (1460, PppHeader::default()));
    assert_eq!(server.local_ipv4, grants.ipv4_gateway);
    let client = pair.links[1].path().unwrap();
    assert_eq!(
        (client.local_ipv4, client.filter.ipv4),
        (grants.ipv4, grants.ipv4_gateway)
    );
    let facts = pair.links[1].facts();
    assert!(
        facts
            .iter()
            .any(|fact| fact.name == "dns" && fact.value == "10.64.0.53"),
        "{facts:?}"
    );
    assert_eq!((pair.said[0].asked, pair.said[0].links), (1, 1));
}

#[test]
fn nothing_is_said_twice_on_a_link_at_rest() {
    let mut pair = pair(2);
    pair.start();
    assert!(pair.run(SECOND, Pair::both_up));
    pair.run(60 * SECOND, |_| false);
    let advertisements = pair
        .trace
        .iter()
        .filter(|line| line.contains("router advertisement"));
    assert_eq!(advertisements.count(), 3);
    let before = pair.trace.len();
    pair.run(3600 * SECOND, |_| false);
    // An hour: two ends that hear of each other twice in 30 s, and six or seven advertisements.
    let said = pair.trace.len() - before;
    assert!((200..=500).contains(&said), "{said}\n{}", pair.tail());
    assert!(pair.both_up());
}

#[test]
fn a_wrong_password_ends_the_link_with_the_reason() {
    let mut pair = pair(3);
    pair.verdict = Verdict::Reject(RejectReason::BadCredentials);
    pair.start();
    assert!(pair.run(10 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[0].code(), Some("auth_rejected"));
    assert_eq!(pair.said[1].code(), Some("login_rejected"));
    assert_eq!(
        pair.said[0].down.as_ref().unwrap().cause,
        TerminateCause::UserError
    );
    assert!(
        pair.trace
            .iter()
            .any(|line| line.contains("PAP Nak id=1 \"Login incorrect\""))
    );
    assert!(!pair.trace.iter().any(|line| line.contains("hunter2")));
}

#[test]
fn a_client_without_a_login_is_not_let_in() {
    let mut pair = Pair::new(
        4,
        PppConfig::default(),
        PppConfig::default(),
        Role::Client { login: None },
    );
    pair.start();
    assert!(pair.run(60 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[0].code(), Some("auth_refused"));
    assert_eq!((pair.said[0].asked, pair.said[0].ups), (0, 0));
}

#[test]
fn a_slow_verdict_costs_no_timer_of_the_network_protocols() {
    let mut pair = pair(5);
    pair.thinking = Duration::from_secs(10);
    pair.start();
    assert!(pair.run(11 * SECOND, Pair::both_up), "{}", pair.tail());
    assert_eq!(pair.said[0].asked, 1);
}

#[test]
fn closing_either_end_closes_both() {
    for end in 0..2 {
        let mut pair = pair(6);
        pair.start();
        assert!(pair.run(SECOND, Pair::both_up));
        let now = pair.now;
        pair.links[end].close(TerminateCause::IdleTimeout, now);
        pair.drain(end);
        assert!(pair.said[end].path.is_none());
        assert!(pair.run(10 * SECOND, Pair::both_down), "{}", pair.tail());
        assert_eq!(pair.said[end].code(), Some("idle_timeout"));
        assert_eq!(pair.said[1 - end].code(), Some("peer_request"));
        // The end that was told waits one restart interval at least, in case its answer is lost.
        let waited = pair.now.duration_since(now);
        assert!(waited >= 3 * SECOND, "{waited:?}");
    }
}

#[test]
fn header_compression_is_used_when_both_ends_want_it() {
    let config = PppConfig {
        pfc: true,
        acfc: true,
        ..PppConfig::default()
    };
    let mut pair = Pair::new(7, config.clone(), config, login());
    pair.start();
    assert!(pair.run(SECOND, Pair::both_up), "{}", pair.tail());
    let header = PppHeader {
        acfc: true,
        pfc: true,
    };
    assert_eq!(pair.links.each_ref().map(|link| link.header()), [header; 2]);
}

#[test]
fn a_dead_peer_is_noticed_and_a_quiet_one_is_not_taken_for_dead() {
    let mut pair = pair(8);
    pair.start();
    assert!(pair.run(SECOND, Pair::both_up));
    pair.run(600 * SECOND, |_| false);
    assert!(pair.both_up());
    pair.impairment.loss = 100;
    let cut = pair.now;
    assert!(pair.run(300 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[0].code(), Some("lcp_echo_timeout"));
    let took = pair.now.duration_since(cut);
    assert!((100 * SECOND..200 * SECOND).contains(&took), "{took:?}");
}

#[test]
fn nobody_there_ends_after_ten_requests() {
    let mut pair = pair(9);
    pair.impairment.loss = 100;
    pair.start();
    assert!(pair.run(31 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[0].code(), Some("lcp_timeout"));
    assert_eq!(
        pair.trace
            .iter()
            .filter(|line| line.contains("server: LCP Configure-Request"))
            .count(),
        10
    );
}

/// Under any impairment a link comes up, or ends with a cause; it never hangs.
#[test]
fn an_impaired_path_brings_every_link_up_or_to_an_end() {
    let mut up = 0;
    let mut runs = 0;
    for (loss, duplication, reordering) in [
        (0, 30, 30),
        (10, 10, 10),
        (20, 20, 20),
        (30, 30, 30),
        (0, 0, 30),
        (30, 0, 0),
    ] {
        for seed in 0..60 {
            let mut pair = pair(1000 + seed);
            pair.impairment = Impairment {
                loss,
                duplication,
                reordering,
            };
            pair.start();
            let settled = pair.run(180 * SECOND, |pair| pair.both_up() || pair.both_down());
            // Where IPv4 ran out of tries, IPv6 alone keeps the link.
            let settled = settled || pair.said.iter().all(|said| said.path.is_some());
            assert!(
                settled,
                "loss {loss} duplication {duplication} reordering {reordering} seed {seed}\n{}",
                pair.tail()
            );
            runs += 1;
            up += usize::from(pair.both_up());
            // It can be closed from there, and both ends notice.
            let now = pair.now;
            pair.links[1].close(TerminateCause::UserRequest, now);
            pair.drain(1);
            assert!(pair.run(400 * SECOND, Pair::both_down), "{}", pair.tail());
        }
    }
    // Of 360, a few run out of tries where a third of all frames is lost.
    assert!(up * 100 >= runs * 99, "{up} of {runs} came up with IPv4");
}

/// Duplication and reordering alone never cost a restart timer of LCP's, nor a second authentication.
#[test]
fn duplicates_and_stragglers_do_not_take_a_link_down_again() {
    let mut slow = 0;
    for seed in 0..100 {
        let mut pair = pair(5000 + seed);
        pair.impairment = Impairment {
            loss: 0,
            duplication: 30,
            reordering: 30,
        };
        pair.start();
        assert!(
            pair.run(30 * SECOND, Pair::both_up),
            "seed {seed}\n{}",
            pair.tail()
        );
        slow += usize::from(pair.now.duration_since(pair.started) > SECOND);
        pair.run(20 * SECOND, |_| false);
        assert!(pair.both_up(), "seed {seed}\n{}", pair.tail());
    }
    assert!(slow <= 5, "{slow} of 100 needed a timer");
}
