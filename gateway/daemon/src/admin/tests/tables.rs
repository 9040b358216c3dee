//! Lists, pages and filters.

use super::*;
use serde_json::Value;

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn pages_follow_one_another_by_cursor_and_by_link() {
    let harness = Harness::start();
    let made: Vec<String> = (0..5)
        .map(|n| harness.session(n, "ann@home").to_string())
        .collect();
    let first = harness.ask("GET", "/v1/sessions?limit=2&user=ann%40home", "");
    let link = first.header("link").unwrap();
    let target = link
        .strip_prefix('<')
        .unwrap()
        .strip_suffix(">; rel=\"next\"")
        .unwrap()
        .to_owned();
    let mut found = ids(&first.json());
    assert_eq!(found.len(), 2);
    let second = harness.ask("GET", &target, "").json();
    found.extend(ids(&second));
    let cursor = second["next"].as_str().unwrap();
    let last = harness.ask("GET", &format!("/v1/sessions?limit=2&cursor={cursor}"), "");
    found.extend(ids(&last.json()));
    assert_eq!(found, made);
    assert_eq!(last.json()["next"], Value::Null);
    assert_eq!(last.header("link"), None);
}

#[test]
fn filters_choose_and_wrong_ones_are_all_named() {
    let harness = Harness::start();
    let ann = harness.session(1, "ann@home").to_string();
    let bob = harness.session(2, "bob@work").to_string();
    let opening = harness.opening(3, None).to_string();
    let list = |query: &str| ids(&harness.ask("GET", &format!("/v1/sessions?{query}"), "").json());
    assert_eq!(list("realm=home"), std::slice::from_ref(&ann));
    assert_eq!(list("state=opening"), std::slice::from_ref(&opening));
    assert_eq!(list("order=newest"), [opening, bob.clone(), ann.clone()]);
    let address = harness.engine.session(bob.parse().unwrap()).unwrap().addresses()[0];
    assert_eq!(list(&format!("address={address}")), [bob]);
    assert_eq!(list(&format!("tunnel={}", harness.tunnel())).len(), 3);
    assert!(list("protocol=other").is_empty());
    let reply = harness.ask("GET", "/v1/sessions?state=up&limit=0&peer=x&cursor=1", "");
    let errors = reply.json()["errors"].clone();
    let pointers: Vec<&str> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        (reply.status, pointers),
        (400, vec!["?state", "?peer", "?cursor", "?limit"])
    );
    let reply = harness.ask("GET", "/v1/sessions?limt=1", "");
    assert_eq!(
        (reply.status, reply.json()["errors"][0]["pointer"].clone()),
        (400, "?limt".into())
    );
}

#[test]
fn a_session_is_shown_with_facts_of_its_machine_and_after_its_end() {
    let harness = Harness::start();
    let id = harness.session(1, "ann");
    let shown = harness.ask("GET", &format!("/v1/sessions/{id}"), "").json();
    assert_eq!(shown["state"], "established");
    assert_eq!(shown["facts"]["mru"], "1400");
    assert_eq!(shown["facts"]["lcp_state"], "opened");
    assert_eq!(shown["grants"]["ipv4_pool"], "default");
    assert_eq!(shown["counters"]["rx_bytes"], 0);
    let ended = sluice_spi::Ended::new(
        sluice_spi::TerminateCause::UserRequest,
        "lcp_terminate",
        "it hung up",
    );
    let stats = sluice_spi::PathStats {
        rx_bytes: 77,
        ..Default::default()
    };
    harness.engine.session_down(id, &ended, stats, now());
    let shown = harness.ask("GET", &format!("/v1/sessions/{id}"), "").json();
    assert_eq!(
        (shown["state"].clone(), shown["end"]["cause"].clone()),
        ("closed".into(), "user-request".into())
    );
    assert_eq!(shown["counters"]["rx_bytes"], 77);
    assert_eq!(
        ids(&harness.ask("GET", "/v1/history?order=newest&limit=1", "").json()),
        [id.to_string()]
    );
    assert_eq!(harness.ask("GET", "/v1/sessions/nonsense", "").status, 404);
    let reply = harness.ask("POST", &format!("/v1/sessions/{id}:terminate"), "");
    assert_eq!(reply.status, 409);
}

#[test]
fn tunnels_pools_leases_listeners_and_protocols_are_shown() {
    let harness = Harness::start();
    let id = harness.session(1, "ann").to_string();
    let tunnel = harness.tunnel().to_string();
    assert_eq!(
        ids(&harness.ask("GET", "/v1/tunnels?peer=192.0.2.1", "").json()),
        std::slice::from_ref(&tunnel)
    );
    let shown = harness.ask("GET", &format!("/v1/tunnels/{tunnel}"), "").json();
    assert_eq!(
        (shown["sessions"].clone(), shown["facts"]["window"].clone()),
        (1.into(), "4".into())
    );
    let pools = harness.ask("GET", "/v1/pools", "").json();
    assert_eq!(pools["items"][0]["ipv4"]["held"], 1);
    let leases = harness.ask("GET", "/v1/leases?user=ann&limit=1", "").json();
    assert_eq!(leases["items"][0]["session"], id);
    let cursor = leases["next"].as_str().unwrap().replace('/', "%2F");
    let leases = harness
        .ask("GET", &format!("/v1/leases?user=ann&cursor={cursor}"), "")
        .json();
    assert_eq!(leases["items"][0]["session"], id);
    assert!(
        leases["items"][0]["address"].as_str().unwrap().ends_with("/64"),
        "{leases}"
    );
    let listeners = harness.ask("GET", "/v1/listeners", "").json();
    assert_eq!(listeners["items"][0]["detail"], "the port is in use");
    let protocols = harness.ask("GET", "/v1/protocols", "").json();
    assert_eq!(protocols["items"][0]["specifications"][0], "RFC 862");
    let host = harness.ask("GET", "/v1/host", "").json();
    assert_eq!(host["items"][0]["done"], false);
}

#[test]
fn readiness_gives_its_reasons() {
    let harness = Harness::start();
    let reply = harness.ask_as(None, "GET", "/readyz", "");
    assert_eq!((reply.status, reply.json()["ready"].clone()), (200, true.into()));
    harness.not_ready.lock().unwrap().push(Reason {
        code: "store_failing",
        text: "the disk is full".to_owned(),
    });
    harness.ask("POST", "/v1/drain", "{\"draining\": true}");
    let reply = harness.ask_as(None, "GET", "/readyz", "");
    let reasons = reply.json()["reasons"].clone();
    let codes: Vec<&str> = reasons
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["code"].as_str().unwrap())
        .collect();
    assert_eq!((reply.status, codes), (503, vec!["store_failing", "draining"]));
    let status = harness.ask("GET", "/v1/status", "").json();
    assert_eq!(
        (status["draining"].clone(), status["restarts"].clone()),
        (true.into(), 2.into())
    );
    assert_eq!(status["services"][0]["detail"], "no TUN device: run as root");
    assert_eq!(status["totals"]["tunnels"]["echo"]["established"], 1);
    let reply = harness.ask_as(None, "HEAD", "/readyz", "");
    assert_eq!((reply.status, reply.body.len()), (503, 0));
}
