//! Many clients at once against the gateway as it is run, and what is left of them afterwards.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use sluice_tests::load::Load;
use sluice_tests::rig::{Running, ready};
use std::process::Stdio;
use std::time::Duration;

/// Within this time a thousand clients are up on two cores.
const THOUSAND_UP: f64 = 10_000.0;
/// How long the end of a tunnel is kept, and some time to look (RFC 2661, 5.7).
const QUIET: Duration = Duration::from_secs(60);

fn count(report: &Value, what: &str) -> u64 {
    report[what].as_u64().unwrap()
}

/// The sum over all reasons, each of which must be one of these.
fn reasons(report: &Value, what: &str, known: &[&str]) -> u64 {
    let found = report[what].as_object().unwrap();
    for reason in found.keys() {
        assert!(known.contains(&reason.as_str()), "{what} {reason}: {report}");
    }
    found.values().filter_map(Value::as_u64).sum()
}

#[test]
fn a_thousand_clients_at_once_are_up_in_time_and_leave_nothing() {
    if !ready() {
        return;
    }
    let load = Load::start("");
    load.warm_up();
    let storm = load.storm("--clients 1000 --limit 30 --check");
    eprintln!("1,000 clients, warm cache: {storm}");
    assert_eq!(count(&storm, "up"), 1000, "{storm}");
    assert_eq!(reasons(&storm, "failed", &[]) + reasons(&storm, "lost", &[]), 0);
    assert!(storm["elapsed_ms"].as_f64().unwrap() < THOUSAND_UP, "{storm}");
    // Each has an address that works.
    assert_eq!(count(&storm, "served_at_end"), 1000, "{storm}");
    assert_eq!(count(&storm, "closed_tunnels"), 1000, "{storm}");

    let token = load.gateway().token(&["read"]);
    load.wait_quiet(QUIET);
    let half_open = load
        .gateway()
        .metric(&token, "sluice_half_open_peers{protocol=\"l2tp\"}");
    assert_eq!(half_open, 0.0);
    assert!(load.gateway().sessions().is_empty());
}

#[test]
fn clients_whose_passwords_must_all_be_hashed_come_up_one_after_the_other() {
    if !ready() {
        return;
    }
    let load = Load::start("");
    load.add_users("cold", 100);
    let storm = load.storm("--user cold{} --clients 100 --limit 60 --redial 5");
    eprintln!("100 clients, cold cache: {storm}");
    assert_eq!(count(&storm, "up"), 100, "{storm}");
    assert_eq!(reasons(&storm, "failed", &[]) + reasons(&storm, "lost", &[]), 0);
    load.wait_ended(QUIET);
}

#[test]
fn through_a_bad_network_every_client_comes_up_or_learns_why_not() {
    if !ready() {
        return;
    }
    let load = Load::start("");
    load.warm_up();
    let faults = [
        "--loss",
        "10",
        "--duplicate",
        "10",
        "--reorder",
        "10",
        "--seed",
        "7",
    ];
    let mut relay = load.namespace().command(Load::program("relay"));
    relay
        .args(["udp", "127.0.0.1:1800", Load::SERVER])
        .args(faults)
        .stdout(Stdio::null());
    let relay = Running::start(&mut relay, None);
    let storm = load.storm("--server 127.0.0.1:1800 --clients 300 --limit 120");
    eprintln!("300 clients, 10 % lost, doubled and reordered: {storm}");
    // No answer to several messages in a row, or PPP that could not be agreed within its retries, whichever side was
    // the first to give up.
    let known = [
        "no_answer",
        "control_timeout",
        "no_icrp",
        "lcp_timeout",
        "pap_timeout",
        "ncp_timeout",
        "terminated_by_peer",
        "cdn_3",
    ];
    let failed = reasons(&storm, "failed", &known);
    assert_eq!(count(&storm, "up") + failed, 300, "{storm}");
    assert!(failed <= 15, "{storm}");
    assert!(
        count(&storm, "retransmissions") > 100,
        "nothing was lost: {storm}"
    );
    drop(relay);
    // StopCCN or its answer may have been lost for good: then HELLO finds out.
    load.wait_quiet(Duration::from_secs(180));
}

#[test]
fn clients_that_vanish_are_found_out_in_bounded_time() {
    if !ready() {
        return;
    }
    let keys = "[listener.l2tp]\nhello_interval = \"5s\"\nretransmit_tries = 2\n";
    let load = Load::with_protocol(keys, "");
    load.warm_up();
    // The network is silent as well: no ICMP message tells the gateway that nobody listens any more.
    let storming = load.storming("--clients 300 --hold 5 --vanish");
    load.wait_established(300, Duration::from_secs(60));
    load.silence();
    let storm = storming.finish(Duration::from_secs(90));
    assert_eq!(count(&storm, "up"), 300, "{storm}");
    // A HELLO after 5 s of silence, sent again after 1 and 3 s, given up at 7 s.
    let took = load.wait_ended(Duration::from_secs(40));
    eprintln!("300 clients that vanished were found out within {took:?}");
    let token = load.gateway().token(&["read"]);
    let terminated = |cause: &str| {
        let series = format!("sluice_session_terminations_total{{cause=\"{cause}\",protocol=\"l2tp\"}}");
        load.gateway().metric(&token, &series)
    };
    // All of them, and nobody else: the one that warmed the cache ended its tunnel itself.
    assert_eq!(
        (terminated("lost-carrier"), terminated("nas-request")),
        (300.0, 1.0)
    );
    load.wait_quiet(QUIET);
}
