//! Wrong passwords, wrong secrets, disabled users.

use crate::case::{Case, PASSWORD, POOL, config, dial, ping};
use sluice_tests::rig::{Gateway, Guest, Lab, Xl2tpd, wait_for};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A user dials and is refused by PAP.
#[track_caller]
fn refused(guest: &mut Guest, user: &str, password: &str) {
    Xl2tpd::new(Lab::GATEWAY, user, password).start(guest);
    let told = guest.until(15, "grep -q 'PAP AuthNak' /mnt/pppd.log");
    assert!(told, "the client was not told");
    Xl2tpd::wait_hung_up(guest, 15);
    assert!(guest.read("pppd.log").contains("PAP authentication failed"));
    assert_eq!(guest.must("wc -l </run/ip-up").trim(), "0");
    Xl2tpd::stop(guest);
}

#[track_caller]
fn wait_counted(gateway: &Gateway, token: &str, series: &str, at_least: f64) {
    wait_for(series, SOON, || {
        (gateway.metric(token, series) >= at_least).then_some(())
    });
}

#[test]
fn a_wrong_password_is_told_by_pap() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let token = case.gateway.token(&["read"]);
    let result = |reason: &str| {
        format!("sluice_auth_requests_total{{backend=\"file\",method=\"pap\",result=\"{reason}\"}}")
    };
    refused(&mut guest, "alice", "wrong battery");
    refused(&mut guest, "nobody", PASSWORD);
    let gateway = &case.gateway;
    wait_counted(gateway, &token, &result("bad_credentials"), 2.0);
    assert_eq!(gateway.metric(&token, &result("accepted")), 0.0);
    assert!(gateway.log().contains("user refused"), "no line in the log");
    let sessions = "sluice_session_setups_total{protocol=\"l2tp\",reason=\"none\",result=\"established\"}";
    assert_eq!(gateway.metric(&token, sessions), 0.0);
    assert!(gateway.sessions().is_empty());

    // The client's own fault leaves nothing behind: the right password is good at once.
    let link = case.alice(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    wait_counted(&case.gateway, &token, &result("accepted"), 1.0);
    Xl2tpd::stop(&mut guest);
    let log = case.gateway.log();
    for password in ["wrong battery", PASSWORD] {
        assert!(!log.contains(password), "a password is in the log");
    }
    let recorded = case.end();
    let naks = recorded.must(0, "pap.code == 3");
    assert_eq!(naks.len(), 2, "{naks:?}");
    // After each, the link ends with Terminate-Request and the call with CDN.
    recorded.must(0, "lcp && ppp.code == 5 && ip.src == 10.99.0.1");
    recorded.must(0, "l2tp.avp.message_type == 14 && ip.src == 10.99.0.1");
}

#[test]
fn tunnel_secrets_are_checked_both_ways() {
    let secret = "allow_no_secret = false\n[[listener.l2tp.peers]]\nsource = \"10.99.0.0/24\"\nsecret = \"right secret\"";
    // xl2tpd reads a secret up to the first blank.
    let secret = secret.replace("right secret", "rightsecret");
    let Some(mut case) = Case::start(&config(&secret, POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let token = case.gateway.token(&["read"]);
    let with = |secret: &str, challenge| Xl2tpd {
        secret: Some(secret.to_owned()),
        challenge,
        ..dial("alice")
    };

    // Each side challenges the other.
    let link = with("rightsecret", true).connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    let session = case.gateway.wait_session();
    Xl2tpd::stop(&mut guest);
    case.gateway.wait_ended(&session);
    let failed = "sluice_protocol_events_total{event=\"tunnel_auth_failed\",protocol=\"l2tp\"}";
    assert_eq!(case.gateway.metric(&token, failed), 0.0);

    // The gateway refuses a wrong response to its challenge.
    with("wrongsecret", false).start(&mut guest);
    let refused = guest.until(15, "grep -q 'closed to 10.99.0.1' /mnt/xl2tpd.log");
    assert!(refused, "the tunnel was not closed");
    wait_counted(&case.gateway, &token, failed, 1.0);
    assert!(
        case.gateway.log().contains("it has another tunnel secret"),
        "no line in the log"
    );
    Xl2tpd::stop(&mut guest);

    // A client that checks too refuses the gateway first.
    with("wrongsecret", true).start(&mut guest);
    let refuses = guest.until(15, "grep -q 'Invalid challenge auth' /mnt/xl2tpd.log");
    assert!(refuses, "xl2tpd did not refuse the gateway");
    assert!(guest.read("pppd.log").is_empty(), "pppd was started");
    assert!(case.gateway.sessions().is_empty());
    Xl2tpd::stop(&mut guest);
    let log = case.gateway.log();
    assert!(!log.contains("rightsecret"), "a secret is in the log");

    let recorded = case.end();
    let stop = "l2tp.avp.message_type == 4 && l2tp.result_code == 4 && ip.src == 10.99.0.1";
    recorded.must(0, stop);
}

#[test]
fn a_disabled_user_is_off_at_once_and_a_new_password_counts() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let link = case.alice(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    let session = case.gateway.wait_session();
    case.gateway.must(&["users", "disable", "alice"]);
    Xl2tpd::wait_hung_up(&mut guest, 15);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["cause"], "admin-reset", "{ended}");
    Xl2tpd::stop(&mut guest);
    refused(&mut guest, "alice", PASSWORD);

    case.gateway.must(&["users", "enable", "alice"]);
    case.gateway
        .with_password(&["users", "passwd", "alice"], "battery staple");
    refused(&mut guest, "alice", PASSWORD);
    let link = Xl2tpd::new(Lab::GATEWAY, "alice", "battery staple").connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    Xl2tpd::stop(&mut guest);
    let recorded = case.end();
    recorded.must(0, "lcp && ppp.code == 5 && ip.src == 10.99.0.1");
    assert_eq!(recorded.must(0, "pap.code == 3").len(), 2);
}
