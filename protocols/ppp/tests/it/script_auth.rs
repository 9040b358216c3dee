//! Scripted peers: authentication by PAP in both roles, and what a LAC has done before.

use crate::harness::{Script, hex, login};
use sluice_auth::{RejectReason, Verdict};
use sluice_ppp::{PppConfig, Proxy, ProxyPolicy, Role, protocol};
use sluice_spi::TerminateCause;
use std::time::Duration;

const LCP: u16 = protocol::LCP;
const PAP: u16 = protocol::PAP;
const SECOND: Duration = Duration::from_secs(1);

fn opened() -> Script {
    let mut script = Script::server(PppConfig::default());
    script.open_lcp();
    script.forget();
    script
}

fn proxy(auth_type: u16) -> Proxy {
    Proxy {
        initial_received: Some(hex("0104 05dc 0506 11223344")),
        last_sent: Some(hex("0104 05d4 0304 c023 0506 0badcafe")),
        last_received: Some(hex("0104 05dc 0506 11223344 0702 0802")),
        auth_type: Some(auth_type),
        name: Some(b"alice".to_vec()),
        challenge: None,
        id: Some(42),
        response: Some(sluice_auth::Secret::new("hunter2")),
    }
}

#[test]
fn a_login_that_overtakes_the_last_acknowledgement_is_not_lost() {
    let mut script = Script::server(PppConfig::default());
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    assert_eq!(script.said.dropped["ppp_phase"], 1);
    script.packet(LCP, 1, 1, "0506 11223344");
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    assert_eq!(script.said.asked, 0);
    script.packet(LCP, 2, 1, "0104 05b4 0206 00000000 0304 c023 0506 cb021cd7");
    assert_eq!(script.said.asked, 1);
    assert!(script.sent().contains(&"PAP Ack id=1 \"\"".to_owned()));
}

#[test]
fn a_repeated_login_gets_the_same_answer() {
    let mut script = opened();
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    script.forget();
    script.packet(PAP, 1, 2, "05 616c696365 07 68756e74657232");
    assert_eq!(script.sent(), ["PAP Ack id=2 \"\""]);
    assert_eq!(script.said.asked, 1);
}

#[test]
fn while_the_verdict_is_out_a_repetition_only_moves_the_identifier() {
    let mut script = opened();
    script.verdict = None;
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    script.packet(PAP, 1, 2, "05 616c696365 07 68756e74657232");
    assert_eq!((script.said.asked, script.sent().len()), (1, 0));
    script
        .link
        .auth_verdict(Verdict::Reject(RejectReason::BadCredentials), script.now);
    script.drain();
    assert_eq!(
        script.sent(),
        [
            "PAP Nak id=2 \"Login incorrect\"",
            "LCP Terminate-Request id=2 \"Authentication failed\""
        ]
    );
    // Nothing more is looked at while the link ends.
    script.packet(PAP, 1, 3, "05 616c696365 07 68756e74657232");
    assert_eq!((script.said.asked, script.sent().len()), (1, 0));
}

#[test]
fn no_reason_tells_users_apart() {
    let mut answers = Vec::new();
    let judged = |reason: &RejectReason| *reason != RejectReason::Unavailable;
    for reason in RejectReason::ALL.into_iter().filter(judged) {
        let mut script = opened();
        script.verdict = Some(Verdict::Reject(reason));
        script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
        answers.push(script.frames.clone());
    }
    // A name that no user has is not even asked about, and answered alike.
    let mut script = opened();
    script.packet(PAP, 1, 1, "02 6100 00");
    assert_eq!(script.said.asked, 0);
    answers.push(script.frames.clone());
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn wrong_passwords_may_be_given_as_often_as_configured() {
    let mut script = Script::server(PppConfig {
        auth_attempts: 3,
        ..PppConfig::default()
    });
    script.open_lcp();
    script.forget();
    script.verdict = Some(Verdict::Reject(RejectReason::BadCredentials));
    for id in 1..=3 {
        script.packet(PAP, 1, id, "05 616c696365 01 78");
    }
    let sent = script.sent();
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert_eq!(sent[3], "LCP Terminate-Request id=2 \"Authentication failed\"");
}

#[test]
fn malformed_logins_are_dropped() {
    let mut script = opened();
    for body in ["", "05 616c", "05 616c696365", "05 616c696365 09 00"] {
        script.packet(PAP, 1, 1, body);
    }
    script.packet(PAP, 2, 1, "00");
    script.packet(PAP, 9, 1, "");
    assert_eq!(
        (
            script.said.asked,
            script.said.dropped["ppp_malformed"],
            script.said.dropped["ppp_phase"]
        ),
        (0, 4, 2)
    );
    script.pass(31 * SECOND);
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("auth_timeout"));
}

#[test]
fn a_login_that_nobody_could_judge_is_not_called_wrong() {
    let mut script = opened();
    script.verdict = Some(Verdict::Reject(RejectReason::Unavailable));
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    assert_eq!(script.sent(), ["LCP Terminate-Request id=2 \"Try again later\""]);
}

#[test]
fn a_verdict_that_never_comes_ends_the_link() {
    let mut script = opened();
    script.verdict = None;
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    script.pass(31 * SECOND);
    assert!(!script.sent().iter().any(|sent| sent.starts_with("PAP")));
    script.pass(10 * SECOND);
    let down = script.said.down.as_ref().unwrap();
    assert_eq!(
        (down.cause, down.code),
        (TerminateCause::ServiceUnavailable, "auth_unavailable")
    );
}

#[test]
fn a_verdict_about_a_past_negotiation_lets_nobody_in() {
    let mut script = opened();
    script.verdict = None;
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    // The peer negotiates LCP anew before the verdict comes.
    script.packet(LCP, 1, 2, "0506 55667788");
    script.acknowledge(LCP);
    assert_eq!(script.said.links, 2);
    script
        .link
        .auth_verdict(Verdict::accept(Box::default()), script.now);
    script.drain();
    script.forget();
    script.packet(protocol::IPCP, 1, 1, "0306 00000000");
    assert!(script.sent().is_empty());
    script.packet(PAP, 1, 2, "05 616c696365 07 68756e74657232");
    assert_eq!(script.said.asked, 2);
}

#[test]
fn negotiating_lcp_anew_authenticates_anew() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(LCP, 1, 2, "0506 55667788");
    assert!(script.said.path.is_none());
    let sent = script.sent();
    assert!(
        sent[0].starts_with("LCP Configure-Request") && sent[1].starts_with("LCP Configure-Ack id=2"),
        "{sent:?}"
    );
    script.packet(protocol::IPCP, 1, 5, "0306 0a400007");
    script.pass(3 * SECOND);
    script.acknowledge(LCP);
    // Another user than before is not let in on the same link.
    script.packet(PAP, 1, 1, "03 626f62 01 78");
    assert_eq!(script.said.asked, 1);
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("auth_rejected"));
}

#[test]
fn traces_are_made_on_demand_and_hide_passwords() {
    let mut script = Script::server(PppConfig::default());
    script.open_lcp();
    assert!(script.said.traced.is_empty());
    script.link.set_trace(true);
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    assert_eq!(
        script.said.traced[..2],
        [
            "PAP Request id=1 name=\"alice\" password=<hidden>",
            "PAP Ack id=1 \"\""
        ]
    );
    assert!(!format!("{:?}", script.said).contains("hunter2"));
}

#[test]
fn a_proxied_login_is_accepted_without_a_word_of_lcp() {
    let mut script = Script::new(Role::Server, PppConfig::default());
    script.start(Some(proxy(3)));
    assert_eq!((script.said.links, script.said.asked), (1, 1));
    let sent = script.sent();
    assert_eq!(
        sent,
        [
            "PAP Ack id=42 \"\"",
            "IPCP Configure-Request id=1 <address 10.64.0.1>",
            "IPV6CP Configure-Request id=1 <interface-id 0:0:0:1>"
        ]
    );
    // The magic number that the LAC negotiated is ours.
    script.packet(LCP, 9, 1, "11223344");
    assert_eq!(script.sent(), ["LCP Echo-Reply id=1 magic=0x0badcafe"]);
    assert!(!format!("{:?}", proxy(3)).contains("hunter2"));
}

#[test]
fn a_proxied_text_login_expects_no_answer_by_pap() {
    let mut script = Script::new(Role::Server, PppConfig::default());
    let text = Proxy {
        last_sent: Some(hex("0506 0badcafe")),
        ..proxy(1)
    };
    script.start(Some(text));
    assert_eq!((script.said.links, script.said.asked), (1, 1));
    assert!(!script.sent().iter().any(|line| line.starts_with("PAP")));
}

#[test]
fn a_refused_proxied_login_is_told_and_ends() {
    let mut script = Script::new(Role::Server, PppConfig::default());
    script.verdict = Some(Verdict::Reject(RejectReason::BadCredentials));
    script.start(Some(proxy(3)));
    let sent = script.sent();
    assert_eq!(sent[0], "PAP Nak id=42 \"Login incorrect\"");
    assert!(sent[1].starts_with("LCP Terminate-Request"));
}

#[test]
fn what_cannot_be_gone_on_with_is_negotiated_anew() {
    let with = |change: &dyn Fn(&mut Proxy)| {
        let mut proxy = proxy(3);
        change(&mut proxy);
        let mut script = Script::new(Role::Server, PppConfig::default());
        script.start(Some(proxy));
        script
    };
    let cases: [&dyn Fn(&mut Proxy); 7] = [
        &|proxy| proxy.auth_type = Some(2),
        &|proxy| proxy.auth_type = Some(4),
        &|proxy| proxy.last_sent = Some(hex("0305 c22305 0506 0badcafe")),
        &|proxy| proxy.last_received = Some(hex("1104 05dc")),
        &|proxy| proxy.last_received = Some(hex("0104 05")),
        &|proxy| proxy.last_received = Some(hex("0304 c023")),
        &|proxy| (proxy.last_sent, proxy.last_received) = (None, None),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut script = with(change);
        assert_eq!((script.said.links, script.said.asked), (0, 0), "case {index}");
        let sent = script.sent();
        assert!(
            sent[0].starts_with("LCP Configure-Request id=1 ") && sent[0].contains("<auth pap>"),
            "case {index}: {sent:?}"
        );
    }
    // A LAC that says nothing of authentication has left the peer waiting for it.
    let script = with(&|proxy| proxy.auth_type = None);
    assert_eq!((script.said.links, script.said.asked), (1, 0));
}

#[test]
fn the_policy_decides_what_a_lac_is_believed() {
    for policy in [ProxyPolicy::Renegotiate, ProxyPolicy::Ignore] {
        let mut script = Script::new(
            Role::Server,
            PppConfig {
                proxy: policy,
                ..PppConfig::default()
            },
        );
        let small = Proxy {
            last_sent: Some(hex("0104 0400 0304 c023 0506 0badcafe")),
            ..proxy(3)
        };
        script.start(Some(small));
        assert_eq!(script.said.asked, 0);
        let mru = if policy == ProxyPolicy::Renegotiate {
            "<mru 1024>"
        } else {
            "<mru 1460>"
        };
        assert!(script.sent()[0].contains(mru));
    }
}

#[test]
fn as_the_client_pap_is_accepted_and_mschap_version_1_is_not() {
    let mut script = Script::new(login(), PppConfig::default());
    script.start(None);
    script.forget();
    script.packet(LCP, 1, 1, "0305 c22380 0506 11223344");
    assert_eq!(script.sent(), ["LCP Configure-Nak id=1 <auth mschapv2>"]);
    script.packet(LCP, 1, 2, "0304 c023 0506 11223344");
    assert_eq!(
        script.sent(),
        ["LCP Configure-Ack id=2 <auth pap> <magic 0x11223344>"]
    );
    script.packet(LCP, 2, 1, "0104 05b4 0206 00000000 0506 cb021cd7");
    assert_eq!(
        script.sent(),
        ["PAP Request id=1 name=\"alice@example.net\" password=<hidden>"]
    );
    // Repeated until answered; an answer to any of them counts.
    script.pass(4 * SECOND);
    assert_eq!(
        script.sent(),
        ["PAP Request id=2 name=\"alice@example.net\" password=<hidden>"]
    );
    script.packet(PAP, 2, 7, "00");
    assert_eq!(script.said.dropped["ppp_stale"], 1);
    script.packet(PAP, 2, 1, "00");
    assert!(script.sent()[0].starts_with("IPCP Configure-Request"));
    assert_eq!(script.said.asked, 0);
}
