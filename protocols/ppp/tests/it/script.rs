//! Scripted peers: LCP and the end of a link. Frames are compared in the words of the trace.

use crate::harness::{Script, hex};
use sluice_ppp::{PppConfig, Role, protocol};
use sluice_spi::TerminateCause;
use std::time::Duration;

const LCP: u16 = protocol::LCP;
const PAP: u16 = protocol::PAP;
const SECOND: Duration = Duration::from_secs(1);

fn server() -> Script {
    let mut script = Script::server(PppConfig::default());
    assert_eq!(
        script.sent(),
        ["LCP Configure-Request id=1 <mru 1460> <accm 0x00000000> <auth pap> <magic 0xcb021cd7>"]
    );
    script
}

fn opened() -> Script {
    let mut script = Script::server(PppConfig::default());
    script.open_lcp();
    script.forget();
    script
}

#[test]
fn a_peer_that_starts_later_need_not_wait_for_the_restart_timer() {
    let mut script = server();
    script.pass(Duration::from_millis(40));
    assert!(script.sent().is_empty());
    script.packet(LCP, 1, 7, "0506 11223344");
    assert_eq!(
        script.sent(),
        [
            "LCP Configure-Request id=1 <mru 1460> <accm 0x00000000> <auth pap> <magic 0xcb021cd7>",
            "LCP Configure-Ack id=7 <magic 0x11223344>"
        ]
    );
    // Once: it is heard from now on.
    script.pass(Duration::from_millis(40));
    script.packet(LCP, 1, 8, "0506 11223355");
    assert_eq!(script.sent(), ["LCP Configure-Ack id=8 <magic 0x11223355>"]);
    script.acknowledge(LCP);
    script.pass(10 * SECOND);
    assert!(script.sent().is_empty());
}

#[test]
fn what_we_do_not_want_is_rejected_in_the_peers_order() {
    let mut script = server();
    // Quality, callback, MRRU, short sequence numbers, endpoint discriminator, self-describing padding, and an
    // option of type 200, among good ones.
    script.packet(
        LCP,
        1,
        9,
        "0104 05dc 0408c02500000001 0506 11223344 0d03 06 1104 05dc 1202 1303 00 0a03 01 c804 aabb 0702",
    );
    assert_eq!(
        script.sent(),
        [
            "LCP Configure-Reject id=9 <quality 0xc025> <callback 6> <mrru 1500> <short-sequence> \
             <endpoint 0 > <option 10 01> <option 200 aabb>"
        ]
    );
    script.packet(LCP, 1, 10, "0104 05dc 0506 11223344 0702");
    assert_eq!(
        script.sent(),
        ["LCP Configure-Ack id=10 <mru 1500> <magic 0x11223344> <pfc>"]
    );
}

#[test]
fn bad_values_are_naked_with_good_ones_and_rejected_in_the_end() {
    let mut script = server();
    for id in 1..=5 {
        script.packet(LCP, 1, id, "0104 0040");
        assert_eq!(script.sent(), [format!("LCP Configure-Nak id={id} <mru 128>")]);
    }
    script.packet(LCP, 1, 6, "0104 0040");
    assert_eq!(script.sent(), ["LCP Configure-Reject id=6 <mru 64>"]);
    script.packet(LCP, 1, 7, "");
    assert_eq!(script.sent(), ["LCP Configure-Ack id=7"]);
    script.packet(LCP, 1, 8, "0104 0040");
    assert_eq!(script.sent(), ["LCP Configure-Nak id=8 <mru 128>"]);
}

#[test]
fn known_options_of_wrong_length_are_shown_right() {
    let mut script = server();
    script.packet(LCP, 1, 1, "0103 05 0203 00 0703 00 0804 0000 0303 c0");
    assert_eq!(
        script.sent(),
        ["LCP Configure-Reject id=1 <option 3 of wrong length>"]
    );
    script.packet(LCP, 1, 2, "0103 05 0203 00 0703 00 0804 0000");
    assert_eq!(
        script.sent(),
        ["LCP Configure-Nak id=2 <mru 1500> <accm 0x00000000> <pfc> <acfc>"]
    );
}

#[test]
fn walks_that_go_nowhere_are_dropped() {
    let mut script = server();
    script.packet(LCP, 1, 1, "0104 05dc 0700");
    script.packet(LCP, 1, 1, "0104 05dc 0701");
    script.packet(LCP, 1, 1, "0104 05dc 07ff");
    script.packet(LCP, 1, 1, "07");
    assert!(script.sent().is_empty());
    assert_eq!(script.said.dropped["ppp_malformed"], 4);
    // A length field beyond the frame, or below the header.
    script.wire(&hex("c021 0101 0040 0702"));
    script.wire(&hex("c021 0101 0003"));
    assert_eq!(script.said.dropped["ppp_malformed"], 6);
    // Padding after the stated length is no part of the packet.
    script.wire(&hex("ff03 c021 0101 0006 0702 ffffff"));
    assert_eq!(script.sent(), ["LCP Configure-Ack id=1 <pfc>"]);
}

#[test]
fn answers_to_nothing_we_asked_are_dropped() {
    let mut script = server();
    script.packet(LCP, 2, 77, "0104 05b4 0206 00000000 0304 c023 0506 cb021cd7");
    script.packet(LCP, 3, 77, "0104 05b4");
    script.packet(LCP, 4, 77, "0304 c023");
    assert_eq!(script.said.dropped["ppp_stale"], 3);
    // The right identifier, but other options than ours, or a rejection of what we did not ask for.
    script.packet(LCP, 2, 1, "0104 05b4");
    script.packet(LCP, 4, 1, "0408 c02500000001");
    assert_eq!(script.said.dropped["ppp_malformed"], 2);
    assert!(script.sent().is_empty());
    script.packet(LCP, 1, 1, "");
    script.frames.clear();
    script.packet(LCP, 2, 1, "0104 05b4 0206 00000000 0304 c023 0506 cb021cd7");
    assert_eq!(script.said.links, 1);
    // The same again is no news, and no renegotiation.
    script.packet(LCP, 2, 1, "0104 05b4 0206 00000000 0304 c023 0506 cb021cd7");
    assert_eq!((script.said.links, script.said.dropped["ppp_stale"]), (1, 4));
}

#[test]
fn the_peers_wishes_about_our_options_are_heard_within_bounds() {
    let mut script = server();
    script.packet(LCP, 3, 1, "0104 0500 0206 000a0000 0506 00000001");
    let sent = script.sent();
    assert!(
        sent[0].starts_with("LCP Configure-Request id=2 <mru 1280> <accm 0x000a0000> <auth pap> <magic "),
        "{sent:?}"
    );
    assert!(!sent[0].contains("cb021cd7"), "a new magic number: {sent:?}");
    // More than we offered does not fit the carrier.
    script.packet(LCP, 3, 2, "0104 2000");
    assert!(script.sent()[0].contains("<mru 1280>"));
    script.packet(LCP, 4, 3, "0104 0500 0206 000a0000 0506 00000000");
    assert_eq!(script.sent(), ["LCP Configure-Request id=4 <auth pap>"]);
}

#[test]
fn a_peer_that_will_not_be_authenticated_is_sent_away() {
    let mut script = server();
    script.packet(LCP, 4, 1, "0304 c023");
    assert_eq!(script.sent(), ["LCP Terminate-Request id=2 \"auth_refused\""]);
    script.packet(LCP, 6, 2, "");
    assert_eq!(script.said.code(), Some("auth_refused"));
    assert_eq!(script.said.asked, 0);
}

#[test]
fn a_peer_that_insists_on_chap_is_asked_five_times() {
    let mut script = server();
    for id in 1..=4 {
        script.packet(LCP, 3, id, "0305 c22305");
        assert!(script.sent()[0].contains("<auth pap>"));
    }
    script.packet(LCP, 3, 5, "0305 c22305");
    assert!(script.sent()[0].contains("Terminate-Request"));
}

#[test]
fn equal_magic_numbers_three_times_are_a_loop() {
    let mut script = server();
    script.packet(LCP, 1, 1, "0506 cb021cd7");
    let sent = script.sent();
    assert!(
        sent[0].starts_with("LCP Configure-Nak id=1 <magic ") && !sent[0].contains("cb021cd7"),
        "{sent:?}"
    );
    script.packet(LCP, 1, 2, "0506 00000000");
    assert!(script.sent()[0].contains("Configure-Nak id=2 <magic"));
    script.packet(LCP, 1, 3, "0506 cb021cd7");
    script.packet(LCP, 1, 4, "0506 cb021cd7");
    script.packet(LCP, 1, 5, "0506 cb021cd7");
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("loopback"));
}

#[test]
fn a_link_that_mirrors_every_frame_ends_as_a_loop() {
    let mut script = Script::server(PppConfig::default());
    for _ in 0..200 {
        for (number, information) in std::mem::take(&mut script.frames) {
            let mut frame = number.to_be_bytes().to_vec();
            frame.extend_from_slice(&information);
            script.wire(&frame);
        }
        script.pass(SECOND / 2);
    }
    assert_eq!(script.said.code(), Some("loopback"));
    assert_eq!(script.said.links, 0);
}

#[test]
fn an_echo_with_our_own_magic_number_is_a_loop_too() {
    let mut script = opened();
    script.packet(LCP, 9, 1, "cb021cd7");
    script.packet(LCP, 9, 2, "cb021cd7");
    assert!(script.sent().is_empty());
    script.packet(LCP, 9, 3, "cb021cd7");
    assert_eq!(script.sent(), ["LCP Terminate-Request id=2 \"loopback\""]);
}

#[test]
fn echo_is_answered_only_while_open_and_fits_the_peer() {
    let mut script = server();
    script.packet(LCP, 9, 5, "00000000 616263");
    assert_eq!((script.sent().len(), script.said.dropped["ppp_phase"]), (0, 1));
    script.packet(LCP, 1, 1, "0104 0080 0506 11223344");
    script.packet(LCP, 2, 1, "0104 05b4 0206 00000000 0304 c023 0506 cb021cd7");
    script.forget();
    script.packet(LCP, 9, 5, "11223344 616263");
    assert_eq!(script.frames, [(LCP, hex("0a05 000b cb021cd7 616263"))]);
    script.forget();
    script.packet(LCP, 9, 6, &format!("11223344 {}", "aa".repeat(900)));
    assert_eq!(script.frames[0].1.len(), 128);
    assert_eq!(script.frames[0].1[..8], hex("0a06 0080 cb021cd7"));
}

#[test]
fn unknown_codes_are_rejected_a_bounded_number_of_times() {
    let mut script = opened();
    script.packet(LCP, 99, 5, "01020304");
    assert_eq!(script.frames, [(LCP, hex("0702 000c 6305 0008 01020304"))]);
    for id in 0..100 {
        script.packet(LCP, 99, id, "");
    }
    assert_eq!(script.sent().len(), 8);
    assert!(script.said.dropped["ppp_limit"] > 80);
}

#[test]
fn unknown_protocols_are_rejected_in_the_network_phase_only() {
    let ccp = "80fd 0101 000a 1206 01000060";
    let mut script = Script::server(PppConfig::default());
    script.forget();
    script.wire(&hex(ccp));
    script.open_lcp();
    script.forget();
    // Before authentication a network control protocol is kept, anything else is dropped.
    script.wire(&hex(ccp));
    script.wire(&hex("c223 0101 0004"));
    script.wire(&hex("0031 0102"));
    assert_eq!((script.sent().len(), script.said.dropped["ppp_phase"]), (0, 3));
    script.packet(PAP, 1, 1, "05 616c696365 07 68756e74657232");
    let sent = script.sent();
    assert!(
        sent.contains(&"LCP Protocol-Reject id=2 of 0x80fd".to_owned()),
        "{sent:?}"
    );
    script.wire(&hex("c223 0101 0004"));
    assert_eq!(script.frames, [(LCP, hex("0803 000a c223 0101 0004"))]);
    for _ in 0..100 {
        script.wire(&hex(ccp));
    }
    assert!(script.sent().len() <= 9);
}

#[test]
fn the_peers_first_frames_may_come_before_ours() {
    let mut script = Script::new(Role::Server, PppConfig::default());
    script.packet(LCP, 1, 1, "0206 00000000 0506 11223344 0702 0802");
    assert!(script.sent().is_empty());
    script.start(None);
    let sent = script.sent();
    assert!(sent[0].starts_with("LCP Configure-Request id=1"));
    assert_eq!(
        sent[1],
        "LCP Configure-Ack id=1 <accm 0x00000000> <magic 0x11223344> <pfc> <acfc>"
    );
}

#[test]
fn a_peer_that_negotiates_for_ever_is_cut_off() {
    let mut script = server();
    for id in 0..40 {
        script.packet(LCP, 1, id, &format!("c803 {id:02x}"));
    }
    assert_eq!(
        script
            .sent()
            .iter()
            .filter(|line| line.contains("Reject"))
            .count(),
        32
    );
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("lcp_not_converging"));
}

#[test]
fn a_peer_that_opens_and_renegotiates_for_ever_is_slowed_down() {
    let mut script = Script::server(PppConfig::default());
    script.open_lcp();
    for id in 2..200 {
        script.packet(LCP, 1, id, &format!("0506 112233{id:02x}"));
        script.acknowledge(LCP);
    }
    assert_eq!(script.said.links, 11);
}

#[test]
fn a_terminate_request_is_answered_and_waited_out() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(LCP, 5, 9, "62796520 07");
    assert_eq!(script.sent(), ["LCP Terminate-Ack id=9"]);
    assert!(script.said.path.is_none() && script.said.down.is_none());
    // The answer may have been lost.
    script.packet(LCP, 5, 9, "62796520 07");
    assert_eq!(script.sent(), ["LCP Terminate-Ack id=9"]);
    script.pass(4 * SECOND);
    let down = script.said.down.as_ref().unwrap();
    assert_eq!(
        (down.cause, down.code),
        (TerminateCause::UserRequest, "peer_request")
    );
    assert_eq!(down.text, "ended by the peer: bye \\u{7}");
    assert!(script.link.is_closed() && script.link.poll_timeout().is_none());
}

#[test]
fn our_terminate_request_is_repeated_once() {
    let mut script = opened();
    script.link.close(TerminateCause::AdminReset, script.now);
    script.drain();
    script.pass(20 * SECOND);
    assert_eq!(
        script.sent(),
        [
            "LCP Terminate-Request id=2 \"admin_reset\"",
            "LCP Terminate-Request id=3 \"admin_reset\""
        ]
    );
    assert_eq!(script.said.code(), Some("admin_reset"));
}

#[test]
fn closing_before_the_start_ends_at_once() {
    let mut script = Script::new(Role::Server, PppConfig::default());
    script.link.close(TerminateCause::LostCarrier, script.now);
    script.drain();
    assert_eq!(script.said.code(), Some("lost_carrier"));
    script.start(None);
    assert!(script.sent().is_empty());
}

#[test]
fn a_peer_that_leaves_during_the_negotiation_is_not_waited_for() {
    let mut script = server();
    script.packet(LCP, 5, 1, "");
    assert_eq!(script.sent(), ["LCP Terminate-Ack id=1"]);
    script.pass(4 * SECOND);
    assert_eq!(script.said.code(), Some("peer_refused"));
}

#[test]
fn a_rejected_code_that_nobody_can_do_without_ends_the_link() {
    let mut script = opened();
    script.packet(LCP, 7, 1, "0c01 0004");
    assert!(script.sent().is_empty());
    script.packet(LCP, 7, 2, "0901 0004");
    script.pass(300 * SECOND);
    assert!(!script.sent().iter().any(|line| line.contains("Echo-Request")));
    let mut script = opened();
    script.packet(LCP, 7, 3, "0101 0004");
    assert!(script.sent()[0].contains("Terminate-Request"));
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("code_rejected"));
}

#[test]
fn echo_requests_are_spared_while_there_is_traffic() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    for _ in 0..30 {
        script.pass(10 * SECOND);
        script.link.note_activity(script.now);
    }
    assert!(!script.sent().iter().any(|line| line.contains("Echo")));
    script.pass(40 * SECOND);
    let sent = script.sent();
    assert!(
        sent.iter()
            .any(|line| line == "LCP Echo-Request id=2 magic=0xcb021cd7"),
        "{sent:?}"
    );
    script.packet(LCP, 10, 2, "11223344");
    script.pass(300 * SECOND);
    assert_eq!(script.said.code(), Some("lcp_echo_timeout"));
    let echoes = script
        .sent()
        .iter()
        .filter(|line| line.contains("Echo-Request"))
        .count();
    assert_eq!(echoes, 4);
}

#[test]
fn identification_is_told_and_heard() {
    let mut script = Script::server(PppConfig {
        identification: "gateway 1".to_owned(),
        ..PppConfig::default()
    });
    script.forget();
    script.packet(LCP, 12, 1, "00000000 4d535241 53560a");
    script.open_lcp();
    assert!(
        script
            .sent()
            .contains(&"LCP Identification id=2 magic=0xcb021cd7 \"gateway 1\"".to_owned())
    );
    assert_eq!(
        script.said.notices,
        ["the peer identifies itself as \"MSRASV\\n\""]
    );
    let facts = script.link.facts();
    assert!(
        facts
            .iter()
            .any(|fact| fact.name == "peer_identification" && fact.value == "MSRASV\\n")
    );
    script.packet(LCP, 13, 1, "11223344 0000003c 62796521");
    assert_eq!(
        script.said.notices[1],
        "the peer ends the session in 60 s: \"bye!\""
    );
    for _ in 0..50 {
        script.packet(LCP, 12, 1, "11223344 41");
        script.packet(LCP, 11, 1, "11223344 00");
    }
    assert_eq!(script.said.notices.len(), 4);
    assert!(script.sent().is_empty());
}
