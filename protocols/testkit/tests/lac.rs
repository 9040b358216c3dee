//! The scriptable LAC against an LNS written by hand, in virtual time and over loopback.

#![allow(clippy::unwrap_used)]

mod lns;

use lns::{Habits, Lns};
use sluice_testkit::lac::storm::{self, StormConfig};
use sluice_testkit::lac::wire::message;
use sluice_testkit::lac::{Act, CallId, Damage, Lac, LacConfig, LacEvent, Script, When};
use sluice_testkit::{Clock, Impairment, Link, Seeded};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn good() -> Habits {
    Habits {
        password: b"password",
        window: 8,
        ..Habits::default()
    }
}

/// One LAC and one LNS on a link.
struct Bench {
    clock: Clock,
    lac: Lac,
    lns: Lns,
    up: Link<Vec<u8>>,
    down: Link<Vec<u8>>,
    events: Vec<LacEvent>,
}

impl Bench {
    fn new(config: LacConfig, habits: Habits, impairment: Impairment) -> Self {
        let clock = Clock::new();
        Self {
            clock,
            lac: Lac::dial(Arc::new(config), 7, Seeded::new(1), clock.now()),
            lns: Lns::new(habits),
            up: Link::new(impairment, 2),
            down: Link::new(impairment, 3),
            events: Vec::new(),
        }
    }

    fn pump(&mut self) {
        let now = self.clock.now();
        while let Some(packet) = self.lac.poll_transmit() {
            let length = packet.bytes.len();
            self.up.send(packet.bytes, length, now);
        }
        while let Some(event) = self.lac.poll_event() {
            self.events.push(event);
        }
    }

    fn answer(&mut self, packets: Vec<Vec<u8>>) {
        let now = self.clock.now();
        packets
            .into_iter()
            .for_each(|packet| self.down.send(packet.clone(), packet.len(), now));
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.clock.now() + LIMIT;
        loop {
            self.pump();
            if done(self) {
                return true;
            }
            let links = self.up.next_arrival().into_iter().chain(self.down.next_arrival());
            let Some(next) = links
                .chain(self.lac.poll_timeout())
                .min()
                .filter(|&next| next < end)
            else {
                return false;
            };
            self.clock.advance_to(next);
            let now = self.clock.now();
            while let Some(packet) = self.up.receive(now) {
                let answers = self.lns.receive(&packet);
                self.answer(answers);
            }
            while let Some(packet) = self.down.receive(now) {
                self.lac.handle_datagram(&packet, now);
            }
            self.lac.handle_timeout(now);
        }
    }

    fn ups(&self) -> usize {
        self.events
            .iter()
            .filter(|event| matches!(event, LacEvent::CallUp { .. }))
            .count()
    }

    fn reasons<'a>(&'a self) -> Vec<&'a str> {
        let reason = |event: &'a LacEvent| match event {
            LacEvent::CallDown { reason, .. } => Some(reason.as_str()),
            _ => None,
        };
        self.events.iter().filter_map(reason).collect()
    }
}

fn connected(config: LacConfig, habits: Habits) -> Bench {
    let calls = config.calls;
    let mut bench = Bench::new(config, habits, Impairment::NONE);
    assert!(
        bench.run_until(|bench| bench.ups() == calls),
        "{:?}",
        bench.events
    );
    bench
}

/// The reason with which the only call fails.
fn failure(config: LacConfig, habits: Habits) -> String {
    let mut bench = Bench::new(config, habits, Impairment::NONE);
    assert!(bench.run_until(|bench| !bench.reasons().is_empty()));
    assert_eq!(bench.ups(), 0);
    bench.reasons()[0].to_owned()
}

#[test]
fn a_client_gets_on_the_network_in_ten_round_trips() {
    let bench = connected(LacConfig::default(), good());
    let Some(LacEvent::CallUp {
        call: CallId(0),
        learned,
    }) = bench.events.last()
    else {
        panic!("{:?}", bench.events);
    };
    assert_eq!(learned.ipv4, Some([10, 0, 0, 7].into()));
    assert_eq!(learned.gateway, Some([10, 0, 0, 254].into()));
    assert_eq!(
        learned.dns,
        [[192, 0, 2, 53].into(), [192, 0, 2, 54].into()].map(|ip: std::net::Ipv4Addr| ip)
    );
    assert!(learned.interface.is_some_and(|interface| interface != 0));
    assert_eq!(learned.mru, Some(1500));
    assert_eq!(
        bench.lns.log,
        ["1", "3", "10", "12"],
        "in order, each once, and nothing too early"
    );
    assert!(
        bench.clock.elapsed() < Duration::from_millis(20),
        "{:?}",
        bench.clock.elapsed()
    );
    assert_eq!(bench.lac.retransmissions(), 0);
}

#[test]
fn tunnels_authenticate_both_ways() {
    let secret = LacConfig {
        secret: Some(b"shared".to_vec()),
        ..LacConfig::default()
    };
    let asks = Habits {
        secret: Some(b"shared"),
        ..good()
    };
    connected(secret.clone(), asks.clone());
    let lies = Habits {
        lies_in_response: true,
        ..asks
    };
    assert_eq!(failure(secret, lies), "wrong_challenge_response");
}

#[test]
fn failures_have_their_reasons() {
    let config = LacConfig::default();
    let habits = |change: fn(&mut Habits)| {
        let mut habits = good();
        change(&mut habits);
        habits
    };
    assert_eq!(
        failure(config.clone(), habits(|h| h.password = b"other")),
        "auth_rejected"
    );
    assert_eq!(
        failure(config.clone(), habits(|h| h.cdn = Some([0, 2, 0, 4]))),
        "cdn_2_4"
    );
    assert_eq!(failure(config.clone(), habits(|h| h.stop = true)), "stopccn_6");
    assert_eq!(failure(config, habits(|h| h.silent = true)), "no_answer");
}

#[test]
fn calls_share_a_tunnel_and_have_names_of_their_own() {
    let config = LacConfig {
        calls: 20,
        user: "u{}".into(),
        first_call: 40,
        ..LacConfig::default()
    };
    // A window of 2 makes ICCNs wait for their turn: their data must wait as well.
    let bench = connected(config, Habits { window: 2, ..good() });
    let calls = &bench.lns.tunnels[&1007].calls;
    let users: Vec<&str> = calls.values().map(|call| call.user.as_str()).collect();
    assert_eq!((users.len(), users[0], users[19]), (20, "u40", "u59"));
    assert!(
        !bench.lns.log.iter().any(|line| line.contains("before")),
        "{:?}",
        bench.lns.log
    );
}

#[test]
fn refused_options_and_protocols_are_given_up() {
    let config = LacConfig {
        compression: true,
        ..LacConfig::default()
    };
    let bench = connected(
        config,
        Habits {
            refuses_ipv6: true,
            rejects_compression: true,
            ..good()
        },
    );
    let Some(LacEvent::CallUp { learned, .. }) = bench.events.last() else {
        panic!("{:?}", bench.events);
    };
    assert_eq!(learned.interface, None);
}

#[test]
fn user_packets_go_both_ways() {
    let mut bench = connected(LacConfig::default(), good());
    let packet = sluice_testkit::contract::ipv4_packet(1, 60);
    let now = bench.clock.now();
    assert!(bench.lac.send_ip(CallId(0), &packet, now));
    assert!(!bench.lac.send_ip(CallId(9), &packet, now) && !bench.lac.send_ip(CallId(0), &[0x10], now));
    assert!(bench.run_until(|bench| !bench.lns.tunnels[&1007].calls[&101].ip.is_empty()));
    assert_eq!(bench.lns.tunnels[&1007].calls[&101].ip, [packet]);
    // From the LNS: no FF03, compressed protocol field, sequence numbers and offset.
    let mut data = [0x0a02u16, 7, 1, 0, 0, 2, 0].map(u16::to_be_bytes).concat();
    data.push(0x21);
    data.extend_from_slice(&[0x45; 20]);
    bench.lac.handle_datagram(&data, now);
    bench.pump();
    assert_eq!(
        bench.events.last(),
        Some(&LacEvent::Ip {
            call: CallId(0),
            packet: vec![0x45; 20]
        })
    );
}

#[test]
fn echo_is_answered_and_hello_is_sent() {
    let mut bench = connected(LacConfig::default(), good());
    let echo = bench.lns.send(1007, 101, 0xc021, 9, &[1, 2, 3, 4, b'x']);
    bench.answer(echo);
    assert!(bench.run_until(|bench| bench.lns.tunnels[&1007].last_ppp.contains(&"c021/10".into())));
    assert!(bench.run_until(|bench| bench.lns.log.contains(&"6".into())));
    assert!(bench.clock.elapsed() >= Duration::from_secs(60));
}

#[test]
fn calls_and_tunnels_end_as_told() {
    let mut bench = connected(
        LacConfig {
            calls: 2,
            ..LacConfig::default()
        },
        good(),
    );
    let now = bench.clock.now();
    bench.lac.hang_up(CallId(1), now);
    assert!(bench.run_until(|bench| bench.reasons() == ["terminated"]));
    let stop = bench.lns.stop(1007);
    bench.answer(stop);
    assert!(bench.run_until(|bench| bench.lac.is_over()));
    bench.pump();
    assert_eq!(bench.reasons(), ["terminated", "stopccn_6"]);
    assert_eq!(
        bench.events.last(),
        Some(&LacEvent::TunnelDown {
            reason: "stopccn_6".into()
        })
    );

    let mut bench = connected(LacConfig::default(), good());
    let now = bench.clock.now();
    bench.lac.close(now);
    assert!(
        bench.run_until(|bench| bench.lac.is_over()),
        "StopCCN is acknowledged"
    );
    bench.pump();
    assert_eq!(bench.reasons(), ["closed"]);
}

#[test]
fn a_bad_link_is_overcome() {
    let links = Impairment {
        loss: 0.0,
        duplicate: 0.3,
        reorder: 0.3,
        ..Impairment::NONE
    };
    let mut bench = Bench::new(
        LacConfig {
            calls: 5,
            ..LacConfig::default()
        },
        good(),
        links,
    );
    // The LNS of this test takes messages in order only and repeats nothing, so nothing may be lost for good;
    // what it lacks the LAC sends again.
    bench.run_until(|bench| bench.ups() + bench.reasons().len() == 5);
    assert_eq!(bench.ups(), 5, "{:?}", bench.events);
    assert!(bench.lns.tunnels[&1007].duplicates > 0);
}

#[test]
fn scripts_misbehave_as_told() {
    let script = Script::one(When::FirstMessage(message::SCCRQ), Act::Drop)
        .and(When::FirstMessage(message::ICRQ), Act::Duplicate);
    let bench = connected(
        LacConfig {
            script,
            ..LacConfig::default()
        },
        good(),
    );
    assert_eq!(bench.lac.retransmissions(), 1);
    assert!(bench.clock.elapsed() > Duration::from_secs(1));
    assert_eq!(bench.lns.tunnels[&1007].duplicates, 1);

    let script = Script::one(When::Zlb, Act::Drop);
    let bench = connected(
        LacConfig {
            script,
            ..LacConfig::default()
        },
        good(),
    );
    assert_eq!(bench.lns.tunnels[&1007].zlbs, 0);

    let early = LacConfig {
        eager_ncp: true,
        ..LacConfig::default()
    };
    let mut bench = Bench::new(
        early,
        Habits {
            password: b"other",
            ..good()
        },
        Impairment::NONE,
    );
    bench.run_until(|bench| !bench.reasons().is_empty());
    assert!(
        bench.lns.log.contains(&"network too early".into()),
        "{:?}",
        bench.lns.log
    );
}

#[test]
fn scripts_reach_every_field() {
    let first = |act| {
        let script = Script::one(When::FirstMessage(message::SCCRQ), act);
        let config = Arc::new(LacConfig {
            script,
            ..LacConfig::default()
        });
        Lac::dial(config, 7, Seeded::new(1), Clock::new().now())
            .poll_transmit()
            .unwrap()
    };
    assert_eq!(first(Act::Tunnel(0x1234)).bytes[4..6], [0x12, 0x34]);
    assert_eq!(first(Act::Session(0x1234)).bytes[6..8], [0x12, 0x34]);
    assert_eq!(first(Act::Ns(0x1234)).bytes[8..10], [0x12, 0x34]);
    assert_eq!(first(Act::Nr(0x1234)).bytes[10..12], [0x12, 0x34]);
    assert_eq!(first(Act::Damage(Damage::Type(99))).bytes[18..20], [0, 99]);
    assert!(first(Act::OtherPort).other_port);
}

#[test]
fn hostile_answers_never_panic() {
    let bench = connected(LacConfig::default(), good());
    let mut lns = Lns::new(good());
    let mut lac = Lac::dial(
        Arc::new(LacConfig::default()),
        7,
        Seeded::new(1),
        bench.clock.now(),
    );
    let now = bench.clock.now();
    for _ in 0..8 {
        let sent: Vec<_> = std::iter::from_fn(|| lac.poll_transmit()).collect();
        for answer in sent
            .iter()
            .flat_map(|packet| lns.receive(&packet.bytes))
            .collect::<Vec<_>>()
        {
            for damaged in sluice_testkit::mutate::all(&answer, 5, 300) {
                let mut victim = Lac::dial(Arc::new(LacConfig::default()), 7, Seeded::new(1), now);
                victim.handle_datagram(&damaged, now);
            }
            lac.handle_datagram(&answer, now);
        }
    }
}

/// Serves over a socket until told to stop. Clients of one socket differ by tunnel id.
fn serve(habits: Habits, stop: Arc<AtomicBool>) -> (std::net::SocketAddr, std::thread::JoinHandle<usize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    storm::grow_buffer(&socket);
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut lns = Lns::new(habits);
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                for answer in lns.receive(&buffer[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        }
        lns.tunnels.len()
    });
    (address, thread)
}

fn storm_config(server: std::net::SocketAddr) -> StormConfig {
    StormConfig {
        server,
        tunnels: 60,
        sockets: 4,
        local: None,
        ramp: Duration::ZERO,
        limit: Duration::from_secs(60),
        hold: Duration::ZERO,
        close: true,
        seed: 1,
        lac: LacConfig {
            calls: 2,
            ..LacConfig::default()
        },
    }
}

#[test]
fn a_storm_reports_what_came_up_and_what_did_not() {
    let stop = Arc::new(AtomicBool::new(false));
    let (server, thread) = serve(good(), stop.clone());
    let report = storm::run(storm_config(server)).unwrap();
    stop.store(true, Ordering::Relaxed);
    assert_eq!(thread.join().unwrap(), 60);
    assert_eq!(
        (report.calls, report.up, report.closed),
        (120, 120, 60),
        "{report:?}"
    );
    assert_eq!(
        (report.failed.len(), report.lost.len(), report.times.len()),
        (0, 0, 120)
    );
    assert!(report.percentile(0.5) <= report.percentile(0.99) && report.percentile(1.0) == report.times[119]);
    assert!(report.rate() > 0.0 && report.datagrams.0 > 120);
}

#[test]
fn a_storm_counts_failures_by_reason() {
    let stop = Arc::new(AtomicBool::new(false));
    let (server, thread) = serve(
        Habits {
            password: b"other",
            ..good()
        },
        stop.clone(),
    );
    let report = storm::run(storm_config(server)).unwrap();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert_eq!(
        (report.up, report.failed.get("auth_rejected")),
        (0, Some(&120)),
        "{report:?}"
    );
    assert_eq!(report.percentile(0.5), Duration::ZERO);
}

#[test]
fn clients_that_fail_dial_again_as_often_as_they_may() {
    let stop = Arc::new(AtomicBool::new(false));
    let habits = Habits {
        password: b"other",
        ..good()
    };
    let (server, thread) = serve(habits, stop.clone());
    let mut config = storm_config(server);
    (config.tunnels, config.lac.calls) = (5, 1);
    let mut storm = storm::Storm::new(config).unwrap();
    storm.redial(1);
    storm.set_up().unwrap();
    let report = storm.end().unwrap();
    stop.store(true, Ordering::Relaxed);
    // Each attempt is a tunnel of its own, and the first ones were ended.
    assert_eq!(thread.join().unwrap(), 10);
    assert_eq!(report.redialled.get("auth_rejected"), Some(&5), "{report:?}");
    assert_eq!((report.up, report.failed.get("auth_rejected")), (0, Some(&5)));
}
