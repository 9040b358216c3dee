//! An outsider's tools against a running gateway that has other things to do: malformed, unexpected and forged packets,
//! and floods. Whatever comes, the good sessions live on, somebody new gets in, every refusal is counted by its
//! reason, the log stays short, and memory stays bounded.
//!
//! All that is random comes from seeds which are printed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod data;
mod outsider;

use data::{data_messages, unreachable, user_data};
use outsider::{Client, GATEWAY, Heard, Tunnel, icrq, listen, sccrq, socket};
use sluice_testkit::lac::LacConfig;
use sluice_testkit::lac::storm::{Storm, StormConfig, StormReport};
use sluice_testkit::lac::wire::{self, Body, avp, message};
use sluice_testkit::{Seeded, mutate};
use sluice_tests::rig::{Gateway, Namespace, ready};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where all that is random here comes from.
const SEED: u64 = 2661;
/// Sessions that must not notice anything.
const GOOD: u16 = 40;
/// Where the outsider usually is.
const OUTSIDER: &str = "10.6.0.1:0";
/// The most that memory may grow by under all of this, in bytes. The floods alone would be beyond it if a request cost
/// a kilobyte.
const MEMORY: f64 = 48e6;

const CONFIG: &str = r#"
[gateway]
state_dir = "{dir}/state"
shards = 2

[[listener]]
protocol = "l2tp"
addresses = ["10.99.0.1"]

[listener.l2tp]
max_tunnels = 120
max_half_open = 2000
max_half_open_per_source = 500

[pools.default]
ipv4 = ["10.64.0.0/20"]
ipv6 = ["2001:db8:64::/48"]

[network]
forwarding = "enable"

[limits]
opening = 100
# The machine that tests run on has other work, which is no load of the gateway's own.
overload_start = 10000
overload_full = 10000

[users]
hash_threads = 1
"#;

/// The gateway, and everything outside.
struct Case {
    gateway: Gateway,
    outside: Namespace,
    token: String,
    _inside: Namespace,
}

impl Case {
    fn start() -> Self {
        let (inside, outside) = (Namespace::new("gateway"), Namespace::new("outside"));
        inside.join("l0", &outside, "l0");
        inside.ip("addr add 10.99.0.1/24 dev l0");
        outside.ip("addr add 10.99.0.2/24 dev l0");
        // Every address of these is the outsider's, to send from and to be answered at.
        outside.ip("route add local 10.0.0.0/10 dev lo");
        outside.ip("route add local 10.128.0.0/9 dev lo");
        outside.ip("route add 10.99.0.1/32 dev l0");
        inside.ip("route add 10.0.0.0/8 via 10.99.0.2");
        let gateway = Gateway::start(&inside, CONFIG, &[("alice", "correct horse")]);
        let token = gateway.token(&["read"]);
        Self {
            gateway,
            outside,
            token,
            _inside: inside,
        }
    }

    fn metric(&self, series: &str) -> f64 {
        self.gateway.metric(&self.token, series)
    }

    /// Packets dropped for a reason so far.
    fn dropped(&self, protocol: &str, reason: &str) -> f64 {
        self.metric(&format!(
            "sluice_packets_dropped_total{{protocol=\"{protocol}\",reason=\"{reason}\"}}"
        ))
    }

    /// Waits until at least so many packets more than `before` were dropped for a reason. The data plane's own counters
    /// are shown once a second.
    #[track_caller]
    fn counted(&self, protocol: &str, reason: &str, before: f64, count: f64) {
        let end = Instant::now() + Duration::from_secs(3);
        while self.dropped(protocol, reason) < before + count {
            let now = self.dropped(protocol, reason);
            assert!(
                Instant::now() < end,
                "{protocol} {reason}: {before}, then {now}, not {count} more"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Clients from an address: set up, then held until told to end. What came of them is their report.
    fn clients(&self, address: Ipv4Addr, count: u16) -> Clients {
        let config = StormConfig {
            server: GATEWAY.parse().unwrap(),
            tunnels: count,
            sockets: 4.min(usize::from(count)),
            local: Some(IpAddr::V4(address)),
            ramp: Duration::ZERO,
            limit: Duration::from_secs(10),
            hold: Duration::from_millis(50),
            close: true,
            seed: SEED,
            lac: LacConfig {
                user: "alice".to_owned(),
                password: b"correct horse".to_vec(),
                hello: Some(Duration::from_secs(2)),
                ..LacConfig::default()
            },
        };
        let (end, ended) = mpsc::channel::<()>();
        let (up, is_up) = mpsc::channel();
        let place = self.outside.inside(|| Storm::new(config).unwrap());
        let thread = std::thread::spawn(move || {
            let mut storm = place;
            storm.set_up().unwrap();
            up.send(storm.up()).unwrap();
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                storm.hold().unwrap();
            }
            storm.end().unwrap()
        });
        Clients {
            up: is_up.recv().unwrap(),
            end,
            thread,
        }
    }

    /// Somebody new gets in.
    #[track_caller]
    fn newcomer(&self, address: [u8; 4]) {
        let clients = self.clients(address.into(), 1);
        assert_eq!(clients.up, 1, "nobody else gets in");
        let report = clients.finish();
        assert!(report.lost.is_empty(), "{report:?}");
    }

    fn lines(&self) -> usize {
        self.gateway.log().lines().count()
    }
}

/// One kind of attack: it ends once the gateway has shown that it bears it.
type Attack = fn(&Case);

struct Clients {
    up: usize,
    end: mpsc::Sender<()>,
    thread: JoinHandle<StormReport>,
}

impl Clients {
    fn finish(self) -> StormReport {
        let _ = self.end.send(());
        self.thread.join().unwrap()
    }
}

#[test]
fn nothing_an_outsider_sends_harms_anybody_else() {
    if !ready() {
        return;
    }
    println!("seed {SEED}");
    let case = Case::start();
    let good = case.clients([10, 1, 0, 1].into(), GOOD);
    assert_eq!(good.up, usize::from(GOOD));
    let memory = case.metric("sluice_process_resident_memory_bytes");
    let attacks: [(&str, Attack); 9] = [
        ("bytes of all kinds", bytes_of_all_kinds),
        (
            "requests that cannot be accepted",
            requests_that_cannot_be_accepted,
        ),
        ("messages out of place", messages_out_of_place),
        ("impostors", impostors),
        ("data messages", data_messages),
        ("user data", user_data),
        ("unreachable", unreachable),
        ("floods of requests", floods_of_requests),
        ("greed", greed),
    ];
    for (name, attack) in attacks {
        let start = Instant::now();
        attack(&case);
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        assert!(
            !good.thread.is_finished(),
            "the good clients are gone after {name}"
        );
    }
    let grown = case.metric("sluice_process_resident_memory_bytes") - memory;
    println!(
        "memory grew by {:.1} MB, the log has {} lines",
        grown / 1e6,
        case.lines()
    );
    assert!(grown < MEMORY, "memory grew by {grown}");
    let report = good.finish();
    assert!(report.lost.is_empty() && report.failed.is_empty(), "{report:?}");
    assert_eq!(report.closed, usize::from(GOOD));
    let log = case.gateway.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(case.gateway.status().unwrap()["restarts"], 0);
}

/// Every truncation and tampering, and some thousand mutations, of an SCCRQ and of messages on a tunnel; every version.
fn bytes_of_all_kinds(case: &Case) {
    let socket = socket(&case.outside, OUTSIDER);
    let reasons = [
        "bad_header",
        "malformed",
        "l2f",
        "l2tpv3",
        "version",
        "unknown_tunnel",
    ];
    let before = reasons.map(|reason| case.dropped("l2tp", reason));
    let request = wire::control(0, 0, 0, 0, &sccrq(77).finish());
    for packet in mutate::truncations(&request).chain(mutate::length_tampering(&request)) {
        let _ = socket.send(&packet);
    }
    for version in [
        0xc803u16, 0x0003, 0xc801, 0x0001, 0xc800, 0xc80f, 0xca02, 0xc902, 0x8802, 0xc002,
    ] {
        let mut packet = request.clone();
        packet[..2].copy_from_slice(&version.to_be_bytes());
        let _ = socket.send(&packet);
    }
    let _ = socket.send(&wire::control(
        12_345,
        0,
        0,
        0,
        &Body::new(message::HELLO).finish(),
    ));
    let _ = socket.send(&wire::data(
        12_345,
        1,
        &[0xff, 3, 0xc0, 0x21, 9, 1, 0, 8, 0, 0, 0, 0],
    ));
    for (reason, before) in reasons.into_iter().zip(before) {
        case.counted("l2tp", reason, before, 1.0);
    }
    for packet in mutate::seeded(&request, SEED, 1500) {
        let _ = socket.send(&packet);
    }
    for (index, body) in [
        icrq(5).finish(),
        Body::new(message::STOPCCN).finish(),
        Body::new(message::CDN).finish(),
    ]
    .iter()
    .enumerate()
    {
        let number = u16::try_from(index).unwrap() + 1;
        let Some(tunnel) = Tunnel::open(&case.outside, OUTSIDER, number) else {
            panic!("no tunnel for mutations");
        };
        let packet = wire::control(tunnel.theirs, 0, tunnel.ns, tunnel.nr, body);
        for packet in mutate::all(&packet, SEED, 300) {
            tunnel.raw(&packet);
        }
    }
}

/// SCCRQs that must be refused in so many words, and those that must not.
fn requests_that_cannot_be_accepted(case: &Case) {
    let with = |kind, value: &[u8]| sccrq(9).with(kind, value).finish();
    let mut vendor = sccrq(9).with(1, b"x").finish();
    let place = vendor.len() - 5;
    vendor[place] = 9;
    let mut reserved = with(avp::VENDOR_NAME, b"x");
    let place = reserved.len() - 7;
    reserved[place] |= 0x04;
    let mut short = with(avp::VENDOR_NAME, b"");
    let place = short.len() - 5;
    short[place] = 5;
    let many = (0..64)
        .fold(sccrq(9), |body, _| body.optional(avp::VENDOR_NAME, b"x"))
        .finish();
    let version = Body::new(message::SCCRQ)
        .with(avp::PROTOCOL_VERSION, &[2, 0])
        .with(avp::FRAMING_CAPABILITIES, &[0, 0, 0, 3])
        .with(avp::HOST_NAME, b"outsider")
        .with(avp::ASSIGNED_TUNNEL_ID, &[0, 9])
        .finish();
    let hidden = sccrq(9)
        .with(avp::RANDOM_VECTOR, &[7; 16])
        .hidden(avp::CHALLENGE, b"challenge", b"no secret", &[7; 16], 3)
        .finish();
    let refused = [
        (with(999, b"x"), (2, 8)),
        (vendor, (2, 8)),
        (reserved, (2, 8)),
        (short, (2, 2)),
        (many, (2, 2)),
        (with(avp::RECEIVE_WINDOW_SIZE, &[0, 0]), (2, 3)),
        (with(avp::RECEIVE_WINDOW_SIZE, &[0]), (2, 2)),
        (with(avp::CHALLENGE, b"who are you?"), (4, 0)),
        (version, (5, 0x0100)),
        (hidden, (2, 3)),
    ];
    for (index, (body, code)) in refused.into_iter().enumerate() {
        let heard = ask(case, &body);
        let answered: Vec<_> = heard.iter().filter_map(|heard| heard.result).collect();
        assert_eq!(answered, [code], "request {index}: {heard:?}");
    }
    let accepted = [
        sccrq(9).optional(999, b"x").finish(),
        sccrq(9).optional(avp::RANDOM_VECTOR, b"").finish(),
        sccrq(9).with(avp::RECEIVE_WINDOW_SIZE, &[0xff, 0xff]).finish(),
    ];
    for body in accepted {
        let heard = ask(case, &body);
        assert_eq!(
            heard.iter().filter_map(|heard| heard.message).collect::<Vec<_>>(),
            [message::SCCRP]
        );
    }
    // A replayed request gets the same answer again, one for each, and none by itself.
    let socket = socket(&case.outside, OUTSIDER);
    let request = wire::control(0, 0, 0, 0, &sccrq(11).finish());
    for _ in 0..5 {
        socket.send(&request).unwrap();
    }
    let answers = listen(&socket, Duration::from_millis(1500));
    assert_eq!(answers.len(), 5);
    assert!(answers.iter().all(|answer| answer == &answers[0]));
}

fn ask(case: &Case, body: &[u8]) -> Vec<Heard> {
    let mut tunnel = Tunnel {
        socket: socket(&case.outside, OUTSIDER),
        ours: 9,
        theirs: 0,
        ns: 0,
        nr: 0,
    };
    tunnel.send(0, body);
    tunnel.listen(Duration::from_millis(150))
}

/// Messages in wrong states, with wrong ids, unknown attributes and types, numbers from nowhere.
fn messages_out_of_place(case: &Case) {
    let open = || Tunnel::open(&case.outside, OUTSIDER, 21).unwrap();
    let mut tunnel = open();
    // What is about a call costs the call at the most.
    let session = tunnel.ring(5).unwrap();
    assert_eq!(
        tunnel.refused(0, &icrq(5).finish()),
        Some((2, 5)),
        "an ICRQ twice"
    );
    assert_eq!(tunnel.refused(0, &icrq(6).with(777, b"").finish()), Some((2, 8)));
    let wen = Body::new(message::WEN).with(34, &[0; 26]).finish();
    tunnel.send(session, &wen);
    tunnel.send(54_321, &wen);
    let wrong = tunnel.ours ^ 1;
    let cdn = Body::new(message::CDN).with(avp::RESULT_CODE, &[0, 1]);
    tunnel.send(0, &cdn.with(avp::ASSIGNED_SESSION_ID, &[0x77, 0x77]).finish());
    let stop = |id: u16| {
        let body = Body::new(message::STOPCCN).with(avp::RESULT_CODE, &[0, 1]);
        body.with(avp::ASSIGNED_TUNNEL_ID, &id.to_be_bytes())
    };
    tunnel.send(0, &stop(wrong).finish());
    let mut ignored = Body::new(99).finish();
    ignored[0] &= 0x7f;
    tunnel.send(0, &ignored);
    assert!(tunnel.is_alive());
    let reasons = ["wrong_nr", "outside_window", "duplicate"];
    let before = reasons.map(|reason| case.dropped("l2tp", reason));
    let hello = Body::new(message::HELLO).finish();
    let (theirs, ns, nr) = (tunnel.theirs, tunnel.ns, tunnel.nr);
    for (ns, nr) in [
        (ns, nr.wrapping_add(9)),
        (ns.wrapping_add(300), nr),
        (ns.wrapping_sub(1), nr),
    ] {
        tunnel.raw(&wire::control(theirs, 0, ns, nr, &hello));
    }
    for (reason, before) in reasons.into_iter().zip(before) {
        case.counted("l2tp", reason, before, 1.0);
    }
    assert!(tunnel.is_alive());
    // What is about the tunnel costs the tunnel, and only it.
    let mandatory = Body::new(99).finish();
    for (body, code) in [
        (sccrq(21).finish(), (7, 0)),
        (Body::new(message::SCCCN).finish(), (7, 0)),
        (mandatory, (2, 8)),
        (stop(21).with(777, b"").finish(), (2, 8)),
        (Body::new(message::STOPCCN).finish(), (2, 3)),
    ] {
        assert_eq!(open().refused(0, &body), Some(code), "{body:x?}");
    }
    // Data before the call is connected, more than is kept, and then the call comes up all the same.
    let before = case.dropped("l2tp", "early_data");
    let mut tunnel = open();
    let session = tunnel.ring(5).unwrap();
    for id in 0..30 {
        tunnel.raw(&wire::data(
            tunnel.theirs,
            session,
            &[0xff, 3, 0xc0, 0x21, 1, id, 0, 4],
        ));
    }
    case.counted("l2tp", "early_data", before, 20.0);
    let connected = Body::new(message::ICCN).with(avp::TX_CONNECT_SPEED, &[0, 1, 0, 0]);
    tunnel.send(
        session,
        &connected.with(avp::FRAMING_TYPE, &[0, 0, 0, 1]).finish(),
    );
    let acknowledged = listen(&tunnel.socket, Duration::from_millis(300));
    let acks = acknowledged
        .iter()
        .filter(|packet| packet.windows(3).any(|w| w == [0xc0, 0x21, 2]))
        .count();
    assert_eq!(acks, 4, "the frames that were kept are answered");
}

/// The ids of somebody's tunnel and session, from elsewhere.
fn impostors(case: &Case) {
    let mut client = Client::connect(&case.outside, "10.6.0.7:1701", 4242);
    let count = case.dropped("l2tp", "wrong_peer");
    let on_paths = case.dropped("none", "wrong_peer");
    let elsewhere = ["10.6.0.7:1702", "10.6.0.8:1701"].map(|local| socket(&case.outside, local));
    let stop = Body::new(message::STOPCCN)
        .with(avp::ASSIGNED_TUNNEL_ID, &4242u16.to_be_bytes())
        .with(avp::RESULT_CODE, &[0, 1])
        .finish();
    for socket in &elsewhere {
        for ns in 0..16 {
            let _ = socket.send(&wire::control(client.tunnel, 0, ns, 2, &stop));
        }
        for _ in 0..16 {
            let goodbye = [0xff, 3, 0xc0, 0x21, 5, 1, 0, 4];
            let _ = socket.send(&wire::data(client.tunnel, client.session, &goodbye));
        }
    }
    case.counted("l2tp", "wrong_peer", count, 32.0);
    case.counted("none", "wrong_peer", on_paths, 32.0);
    assert!(client.is_alive(1));
    // Its own socket, but a session next to its own.
    let unknown = case.dropped("l2tp", "unknown_session");
    client.raw(&wire::data(
        client.tunnel,
        client.session ^ 1,
        &[0xff, 3, 0, 0x21, 0x45],
    ));
    case.counted("l2tp", "unknown_session", unknown, 1.0);
    assert!(client.is_alive(2));
}

/// Requests by the ten thousand, from many ports of one address, then from everywhere, while somebody new comes.
fn floods_of_requests(case: &Case) {
    let reasons = ["rate_limited", "half_open_share", "half_open_evicted"];
    let before = reasons.map(|reason| case.dropped("l2tp", reason));
    let flood = |from: &(dyn Fn(&mut Seeded) -> String + Sync), sockets: usize, each: usize| {
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                case.outside.enter();
                let mut random = Seeded::new(SEED);
                for _ in 0..sockets {
                    let Ok(socket) = UdpSocket::bind(from(&mut random)) else {
                        continue;
                    };
                    socket.connect(GATEWAY).unwrap();
                    for _ in 0..each {
                        let ids = random.bytes(2);
                        let tunnel = u16::from_be_bytes([ids[0], ids[1]]).max(1);
                        let _ = socket.send(&wire::control(0, 0, 0, 0, &sccrq(tunnel).finish()));
                    }
                }
            });
            case.newcomer([10, 3, 0, 1]);
            flooding.join().unwrap();
        });
    };
    flood(&|_| "10.6.0.1:0".to_owned(), 3000, 10);
    let from_everywhere = |random: &mut Seeded| {
        let octets = random.bytes(3);
        format!("10.{}.{}.{}:1701", 128 + octets[0] % 64, octets[1], octets[2])
    };
    flood(&from_everywhere, 8000, 3);
    for (reason, before) in reasons.into_iter().zip(before) {
        case.counted("l2tp", reason, before, 1.0);
    }
    assert!(case.metric("sluice_half_open_peers{protocol=\"l2tp\"}") <= 4000.0);
    case.newcomer([10, 3, 0, 2]);
}

/// One source takes all it can get: tunnels, calls that are being set up, and lines of the log.
fn greed(case: &Case) {
    let mut tunnels = Vec::new();
    for number in 1..=400 {
        match Tunnel::open(&case.outside, "10.6.0.1:0", number) {
            Some(tunnel) => tunnels.push(tunnel),
            None => break,
        }
    }
    println!("{} tunnels, of 240 for all", tunnels.len());
    assert!((20..200).contains(&tunnels.len()));
    assert!(case.dropped("l2tp", "tunnel_share") > 0.0);
    let refused = "sluice_refusals_total{protocol=\"l2tp\",reason=\"peer_opening\"}";
    let before = case.metric(refused);
    let rung = (1..=100)
        .filter(|&session| tunnels[0].ring(session).is_some())
        .count();
    println!("{rung} calls that are never connected");
    assert!(
        (35..=50).contains(&rung),
        "half of what may be, less what is left of earlier calls"
    );
    assert!(case.metric(refused) - before >= 50.0);
    let lines = case.lines();
    let start = Instant::now();
    for number in 0..200 {
        assert_eq!(
            tunnels[1].refused(0, &icrq(number + 1).with(777, b"").finish()),
            Some((2, 8))
        );
    }
    let seconds = start.elapsed().as_secs() as usize + 1;
    let written = case.lines() - lines;
    println!("{written} lines of the log in {seconds} s");
    assert!(written <= 10 * (seconds + 1), "{written} lines in {seconds} s");
    // As much ahead of its turn as the window allows: two of the longest messages are kept, however many come.
    let tunnel = &mut tunnels[2];
    let first = tunnel.ns;
    let long = (0..7)
        .fold(Body::new(message::HELLO), |body, _| {
            body.optional(200, &[7; 1000])
        })
        .finish();
    for ahead in 1..16 {
        let ns = first.wrapping_add(ahead);
        tunnel.raw(&wire::control(tunnel.theirs, 0, ns, tunnel.nr, &long));
    }
    tunnel.send(0, &Body::new(message::HELLO).finish());
    let kept = tunnel.wait(Duration::from_secs(2), |heard| heard.nr == first.wrapping_add(3));
    assert!(kept.is_some(), "not as much was kept as there is room for");
    tunnel.ns = first.wrapping_add(3);
    assert!(tunnel.is_alive());
    case.newcomer([10, 4, 0, 1]);
}
