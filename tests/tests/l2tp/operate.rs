//! What an operator does while clients are on.

use crate::case::{Case, POOL, config, dial, ping};
use serde_json::json;
use sluice_tests::rig::{Xl2tpd, wait_for};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_session_ended_by_rest_is_told_to_the_client() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let link = case.alice(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    let session = case.gateway.wait_session();
    let token = case.gateway.token(&["session:write"]);
    let path = format!("/v1/sessions/{}:terminate", session["id"].as_str().unwrap());
    let body = json!({ "cause": "admin-reboot" });
    let answer = case.gateway.rest_json(&token, "POST", &path, Some(&body), 202);
    assert_eq!(answer["requested"], true, "{answer}");
    Xl2tpd::wait_hung_up(&mut guest, 10);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["cause"], "admin-reboot", "{ended}");
    assert_eq!(ended["state"], "closed");
    let log = guest.read("pppd.log");
    assert!(
        log.contains("rcvd [LCP TermReq"),
        "the client saw no Terminate-Request"
    );
    assert!(log.contains("LCP terminated by peer"), "{log}");
    // A second time there is nothing to end any more.
    case.gateway.rest_json(&token, "POST", &path, Some(&body), 409);
    Xl2tpd::stop(&mut guest);
    let recorded = case.end();
    recorded.must(0, "lcp && ppp.code == 5 && ip.src == 10.99.0.1");
    recorded.must(
        0,
        "l2tp.avp.message_type == 14 && l2tp.result_code == 3 && ip.src == 10.99.0.1",
    );
}

#[test]
fn a_reload_counts_for_new_sessions_and_leaves_the_old() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let mut other = case.guest(51);
    let link = case.alice(&mut guest);
    let session = case.gateway.wait_session();

    // Less of everything: no more sessions, and other addresses.
    let pool = POOL.replace("10.64.0.0/24", "10.65.0.0/24");
    let full = config("", &format!("{pool}\n[limits]\nsessions = 1\n"));
    case.gateway.configure(&full);
    case.gateway.signal("HUP");
    let pools = wait_for("the new pool", SOON, || {
        let pools = case.gateway.json(&["pools", "list"]);
        (pools["items"][0]["ipv4_gateway"] == "10.65.0.1").then_some(pools)
    });
    assert_eq!(pools["items"].as_array().unwrap().len(), 1, "{pools}");
    ping(&mut guest, &link.remote.to_string());
    assert_eq!(case.gateway.wait_session()["id"], session["id"]);
    dial("bob").start(&mut other);
    assert!(other.until(15, "grep -q 'Call.*closed\\|CDN\\|closed to' /mnt/xl2tpd.log"));
    Xl2tpd::stop(&mut other);

    // What is wrong changes nothing, and is said.
    case.expect_error("the configuration has problems");
    case.gateway
        .configure(&full.replace("sessions = 1", "sessions = \"many\""));
    case.gateway.signal("HUP");
    wait_for("the warning", SOON, || {
        let status = case.gateway.status()?;
        let warnings = status["warnings"].as_array()?;
        warnings
            .iter()
            .any(|warning| warning["code"] == "reload_failed")
            .then_some(())
    });

    case.gateway
        .configure(&full.replace("sessions = 1", "sessions = 2"));
    let report = case.gateway.json(&["reload"]);
    let changes = report["changes"].to_string();
    assert!(
        changes.contains("limits.sessions") && changes.contains("new_sessions"),
        "{report}"
    );
    let second = dial("bob").connect(&mut other);
    assert_eq!(second.local.octets()[..3], [10, 65, 0]);
    ping(&mut other, &second.remote.to_string());
    ping(&mut guest, &link.remote.to_string());
    let sessions = case.gateway.sessions();
    assert!(
        sessions.iter().any(|found| found["id"] == session["id"]),
        "{sessions:?}"
    );
    Xl2tpd::stop(&mut guest);
    Xl2tpd::stop(&mut other);
    let recorded = case.end();
    // CDN with result 4 (no facilities for now), or result 2 with a general error, refused the call.
    recorded.must(1, "l2tp.avp.message_type == 14 && ip.src == 10.99.0.1");
}
