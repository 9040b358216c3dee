//! The gateway's L2TP and PPP against an implementation that shares no code with them.
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_auth::RejectReason;
use sluice_testkit::lac::wire::message::{ICCN, ICRQ, SCCCN, SCCRQ};
use sluice_testkit::lac::{Act, CallId, Damage, LacConfig, LacEvent, Script, When};
use sluice_testkit::{Impairment, Policy, contract};
use sluice_tests::field::Field;
use sluice_tests::rig::Capture;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const LNS: &str = "host_name = \"lns\"\n";
const LNS_SECRET: &str = "host_name = \"lns\"\n[[peers]]\nhost_name = \"lac.test\"\nsecret = \"shared\"\n";
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than every hold time after the end of a tunnel.
const END: Duration = Duration::from_secs(300);

fn connected(lns: &str, lac: LacConfig) -> Field {
    let calls = lac.calls;
    let mut field = Field::one(lns, lac);
    assert!(field.settle(MINUTE), "{}", field.server.log.text());
    assert_eq!(
        field.sites[0].ups(),
        calls,
        "{:?}\n{}",
        field.sites[0].events,
        field.server.log.text()
    );
    field
}

/// The reason with which the only call fails.
fn failure(lns: &str, lac: LacConfig) -> String {
    let mut field = Field::one(lns, lac);
    assert!(field.settle(3 * MINUTE));
    assert_eq!(field.sites[0].ups(), 0);
    let reason = field.sites[0].reasons()[0].to_owned();
    field.end(END);
    reason
}

#[test]
fn a_client_learns_its_addresses_and_moves_packets() {
    let mut field = connected(LNS, LacConfig::default());
    assert!(
        field.clock.elapsed() < Duration::from_millis(60),
        "{:?}",
        field.clock.elapsed()
    );
    let Some(LacEvent::CallUp { learned, .. }) = field.sites[0]
        .events
        .iter()
        .find(|event| matches!(event, LacEvent::CallUp { .. }))
        .cloned()
    else {
        panic!("{:?}", field.sites[0].events);
    };
    assert_eq!(learned.ipv4, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(learned.gateway, Some(Ipv4Addr::new(10, 0, 0, 254)));
    assert_eq!(
        learned.dns,
        [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)]
    );
    assert!(learned.interface.is_some());

    let machine = field.server.only_machine();
    let session = field.server.paths(machine)[0];
    let packet = contract::ipv4_packet(5, 900);
    let now = field.clock.now();
    assert!(field.sites[0].lac.send_ip(CallId(0), &packet, now));
    assert!(field.server.send_ip(machine, session, &packet, now));
    field.run_for(Duration::from_secs(1));
    assert!(
        field
            .server
            .delivered
            .iter()
            .any(|delivered| delivered.packet == packet)
    );
    assert!(field.sites[0].events.contains(&LacEvent::Ip {
        call: CallId(0),
        packet
    }));
    field.end(END);
}

#[test]
fn ipv6_routers_advertise_the_prefix() {
    let mut field = connected(LNS, LacConfig::default());
    field.run_for(Duration::from_secs(30));
    let prefix = "2001:db8:0:1::".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let advertised = field.sites[0].events.iter().any(|event| match event {
        // ICMPv6 type 134 with the granted prefix in one of its options.
        LacEvent::Ip { packet, .. } => {
            packet.get(6) == Some(&58)
                && packet.get(40) == Some(&134)
                && packet.windows(16).any(|part| part == prefix)
        }
        _ => false,
    });
    assert!(advertised, "{:?}", field.sites[0].events);
}

#[test]
fn secrets_are_checked_and_hidden_identifiers_understood() {
    let lac = LacConfig {
        secret: Some(b"shared".to_vec()),
        ..LacConfig::default()
    };
    connected(LNS_SECRET, lac.clone()).end(END);
    connected(LNS_SECRET, LacConfig { hide: true, ..lac }).end(END);
    let wrong = LacConfig {
        secret: Some(b"other".to_vec()),
        ..LacConfig::default()
    };
    let reason = failure(LNS_SECRET, wrong);
    assert!(
        ["wrong_challenge_response", "stopccn_4"].contains(&reason.as_str()),
        "{reason}"
    );
    assert_eq!(failure(LNS_SECRET, LacConfig::default()), "stopccn_4");
}

#[test]
fn a_refused_user_is_told_by_pap_and_the_call_ends() {
    let mut field = Field::one(LNS, LacConfig::default());
    field.server.policy = Policy::reject_all(RejectReason::BadCredentials);
    assert!(field.settle(MINUTE));
    assert_eq!(field.sites[0].reasons(), ["auth_rejected"]);
    field.end(END);
}

#[test]
fn many_calls_share_a_tunnel() {
    let mut field = connected(
        LNS,
        LacConfig {
            calls: 60,
            ..LacConfig::default()
        },
    );
    assert_eq!(field.server.log.sessions_up().len(), 60);
    assert_eq!(field.server.machines().len(), 1);
    let now = field.clock.now();
    field.sites[0].lac.hang_up(CallId(7), now);
    field.run_for(Duration::from_secs(10));
    assert_eq!(field.sites[0].reasons(), ["terminated"]);
    // The client ended its link; that the LAC ended the call too is but a consequence.
    assert_eq!(field.server.log.sessions_down(), ["peer_request"]);
    field.end(END);
}

#[test]
fn lacs_behind_one_address_are_told_apart() {
    let mut field = Field::new(LNS, 1);
    for number in 0..20u16 {
        // Half of them share address and port, the others the address.
        let port = 4000 + number.saturating_sub(9) * 10;
        field.dial(
            LacConfig::default(),
            SocketAddr::from(([198, 51, 100, 1], port)),
            Impairment::NONE,
        );
    }
    assert!(field.settle(MINUTE));
    assert!(
        field.sites.iter().all(|site| site.ups() == 1),
        "{}",
        field.server.log.text()
    );
    field.end(END);
}

#[test]
fn every_link_leads_to_service_or_to_a_reason() {
    let (mut up, mut calls) = (0, 0);
    for seed in 0..30 {
        let faults = [0.1, 0.2, 0.3][seed as usize % 3];
        let mut field = Field::new(LNS, seed);
        for number in 0..4u8 {
            let address = SocketAddr::from(([198, 51, 100, number + 1], 1701));
            let lac = LacConfig {
                calls: 2,
                ..LacConfig::default()
            };
            field.dial(lac, address, Impairment::all(faults));
            calls += 2;
        }
        assert!(
            field.settle(5 * MINUTE),
            "seed {seed} hangs\n{}",
            field.server.log.text()
        );
        up += field.sites.iter().map(|site| site.ups()).sum::<usize>();
        field.end(END);
    }
    assert!(up * 10 >= calls * 9, "only {up} of {calls} came up");
}

#[test]
fn quirks_that_do_no_harm_do_no_harm() {
    let quirks = [
        (
            "drops its SCCRQ",
            Script::one(When::FirstMessage(SCCRQ), Act::Drop),
        ),
        (
            "drops its SCCCN",
            Script::one(When::FirstMessage(SCCCN), Act::Drop),
        ),
        ("drops its ICRQ", Script::one(When::FirstMessage(ICRQ), Act::Drop)),
        (
            "drops its ICCN, so that PPP comes first",
            Script::one(When::FirstMessage(ICCN), Act::Drop),
        ),
        (
            "sends its ICCN after the first PPP frame",
            Script::one(When::FirstMessage(ICCN), Act::Postpone),
        ),
        (
            "sends everything twice",
            Script::one(When::Always, Act::Duplicate),
        ),
        ("never acknowledges", Script::one(When::Zlb, Act::Drop)),
        ("swaps packets", Script::one(When::Every(3), Act::Postpone)),
        (
            "adds an optional AVP",
            Script::one(When::Message(ICRQ), Act::Damage(Damage::UnknownOptional)),
        ),
        (
            "sends an odd packet from another port",
            Script::one(When::Nth(9), Act::OtherPort),
        ),
        (
            "names a wrong tunnel once",
            Script::one(When::Nth(7), Act::Tunnel(0x7777)),
        ),
        (
            "names a wrong session once",
            Script::one(When::Nth(8), Act::Session(0x7777)),
        ),
    ];
    for (what, script) in quirks {
        let mut field = Field::one(
            LNS,
            LacConfig {
                script,
                ..LacConfig::default()
            },
        );
        assert!(field.settle(2 * MINUTE), "{what}");
        assert_eq!(
            field.sites[0].ups(),
            1,
            "{what}: {:?}\n{}",
            field.sites[0].events,
            field.server.log.text()
        );
        field.end(END);
    }
    connected(
        LNS,
        LacConfig {
            eager_ncp: true,
            ..LacConfig::default()
        },
    )
    .end(END);
    connected(
        LNS,
        LacConfig {
            ask_address: false,
            ..LacConfig::default()
        },
    )
    .end(END);
    connected(
        LNS,
        LacConfig {
            compression: true,
            ..LacConfig::default()
        },
    )
    .end(END);
    connected(
        LNS,
        LacConfig {
            ipv4: false,
            ..LacConfig::default()
        },
    )
    .end(END);
    connected(
        LNS,
        LacConfig {
            ipv6: false,
            ..LacConfig::default()
        },
    )
    .end(END);
}

#[test]
fn broken_messages_get_the_code_of_the_rfc() {
    let unknown = |when| LacConfig {
        script: Script::one(when, Act::Damage(Damage::UnknownMandatory)),
        ..LacConfig::default()
    };
    // RFC 2661, 4.1: an unrecognized mandatory AVP ends the call or the tunnel of its message, with error 8.
    assert_eq!(failure(LNS, unknown(When::Message(SCCRQ))), "stopccn_2_8");
    assert_eq!(failure(LNS, unknown(When::Message(ICRQ))), "cdn_2_8");
    assert_eq!(failure(LNS, unknown(When::Message(ICCN))), "cdn_2_8");
}

#[test]
fn a_thousand_at_once_behind_one_address_are_all_up() {
    let mut field = Field::new(LNS, 3);
    for number in 0..1000u16 {
        let address = SocketAddr::from(([198, 51, 100, 1], 5000 + number % 16 * 2));
        field.dial(LacConfig::default(), address, Impairment::NONE);
    }
    assert!(field.settle(Duration::from_secs(1)), "not within a second");
    assert!(field.sites.iter().all(|site| site.ups() == 1));
    field.end(END);
}

#[test]
fn clients_do_not_notice_that_the_gateway_went_on_from_its_checkpoints() {
    let mut field = connected(
        LNS,
        LacConfig {
            calls: 3,
            ..LacConfig::default()
        },
    );
    field.run_for(Duration::from_secs(20));
    let (machine, now) = (field.server.only_machine(), field.clock.now());
    let sessions = field.server.paths(machine);
    let checkpoint = field.server.checkpoint(machine, now).unwrap();
    let factory = field.factory.clone();
    field.server.crash(&factory);
    // What is on its way while nobody listens is lost.
    field.run_for(Duration::from_millis(800));
    let now = field.clock.now();
    assert_eq!(field.server.restore(&factory, &checkpoint, now).unwrap(), machine);
    assert_eq!(field.server.paths(machine), sessions);

    field.run_for(10 * MINUTE);
    assert_eq!(field.sites[0].reasons(), [""; 0], "{}", field.server.log.text());
    assert_eq!(
        field.server.log.sessions_up().len(),
        3,
        "no session came up again"
    );
    let now = field.clock.now();
    for (number, &session) in sessions.iter().enumerate() {
        let packet = contract::ipv4_packet(number as u16, 100);
        assert!(field.sites[0].lac.send_ip(CallId(number), &packet, now));
        assert!(field.server.send_ip(machine, session, &packet, now));
    }
    field.run_for(Duration::from_secs(1));
    assert_eq!(field.server.delivered.len(), 3);
    let received = field.sites[0].events.iter().filter(|event| match event {
        LacEvent::Ip { packet, .. } => packet.first() == Some(&0x45),
        _ => false,
    });
    assert_eq!(received.count(), 3);
    field.end(END);
}

#[test]
fn a_third_decoder_finds_nothing_wrong() {
    let lac = LacConfig {
        secret: Some(b"shared".to_vec()),
        calls: 2,
        calling: "100".into(),
        ..LacConfig::default()
    };
    let mut field = connected(LNS_SECRET, lac);
    field.run_for(5 * MINUTE);
    let now = field.clock.now();
    field.sites[0].lac.hang_up(CallId(0), now);
    field.run_for(Duration::from_secs(10));
    field.sites[0].lac.close(now);
    field.run_for(Duration::from_secs(10));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("virtual.pcap");
    std::fs::write(&file, field.capture()).unwrap();
    Capture::assert_clean(&file);
    for filter in [
        "l2tp.avp.message_type == 1",
        "pap",
        "ipcp",
        "ipv6cp",
        "icmpv6.type == 134",
        "lcp",
        "udp.checksum",
    ] {
        assert!(
            !Capture::filter(&file, filter).is_empty(),
            "no packet matches {filter}"
        );
    }
}
