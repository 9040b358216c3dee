//! More than the gateway can serve: it stays bounded, tells why, and goes on by itself.

use crate::case::{Case, PATIENCE, STRANGER, TRUSTED, Wanted, at, finish, read, request, to_end};
use sluice_tests::rig::wait_for;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Connections that say too little, and some of them that say it very slowly.
const SILENT: usize = 400;
const SLOW: usize = 40;

#[test]
fn clients_that_say_too_little_are_cut_in_time_and_keep_nobody_away() {
    let wanted = Wanted {
        more: "handshake_timeout = \"2s\"",
        ..Wanted::default()
    };
    let Some(case) = Case::with(&wanted) else { return };
    let start = Instant::now();
    let mut silent: Vec<TcpStream> = (0..SILENT)
        .map(|number| {
            let mut client = case.client(STRANGER);
            // Nothing at all, half a greeting, and half a login.
            let said: [&[u8]; 3] = [&[], &[5, 2], &[5, 1, 2, 1, 3, b'b']];
            client.write_all(said[number % 3]).unwrap();
            client
        })
        .collect();
    let mut slow: Vec<TcpStream> = (0..SLOW).map(|_| case.client(STRANGER)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A greeting of as many methods as there can be, which lasts longer than anybody may take.
            for octet in [5, 255].into_iter().chain([2; 255]) {
                let alive = slow
                    .iter_mut()
                    .filter_map(|client| client.write_all(&[octet]).ok())
                    .count();
                if alive == 0 || start.elapsed() > PATIENCE {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for _ in 0..20 {
            assert_eq!(case.code(&request(1, at([127, 0, 0, 1], 9))), 5);
        }
    });
    for (number, client) in silent.iter_mut().enumerate() {
        let answer = to_end(client).unwrap();
        let expected: &[u8] = if number % 3 == 2 { &[5, 2] } else { &[] };
        assert_eq!(answer, expected, "{number}");
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    case.wait_counted("handshake_timeout", (SILENT + SLOW) as u64);
    case.wait_counted("reply_05", 20);
    case.calm();
}

/// Files that a gateway may have open that has too few of them, and connections that are more.
const FILES: u32 = 400;
const TOO_MANY: usize = 600;

/// Longest silence of a gateway that has said all it can say for now.
const QUIET: Duration = Duration::from_secs(1);

const TUNNELS: &str = "[[listener]]\nprotocol = \"l2tp\"\naddresses = [\"127.0.0.1:1701\"]\n";

/// A tunnel that is asked for (RFC 2661, 6.1): SCCRQ with what it must have.
fn sccrq(tunnel: u8) -> Vec<u8> {
    let avp = |kind: u8, value: &[u8]| [&[0x80, 6 + value.len() as u8, 0, 0, 0, kind], value].concat();
    let avps = [
        avp(0, &[0, 1]),
        avp(2, &[1, 0]),
        avp(3, &[0, 0, 0, 3]),
        avp(7, b"lac"),
        avp(9, &[0, tunnel]),
    ]
    .concat();
    let length = 12 + avps.len() as u8;
    [&[0xc8, 2, 0, length, 0, 0, 0, 0, 0, 0, 0, 0][..], &avps].concat()
}

#[test]
fn without_descriptors_accepting_waits_and_nobody_is_lost() {
    let wanted = Wanted {
        more: "handshake_timeout = \"2m\"",
        rest: TUNNELS,
        files: Some(FILES),
        ..Wanted::default()
    };
    let Some(case) = Case::with(&wanted) else { return };
    let (listener, target) = case.listen("127.0.0.1:0");
    let asks = [&[5, 1, 0][..], &request(1, target)].concat();
    let mut served = case.client(TRUSTED);
    served.write_all(&asks).unwrap();
    assert_eq!(read(&mut served, 12)[3], 0);
    let (mut server, _) = listener.accept().unwrap();
    // More connections than there are descriptors: some are answered, and the others wait.
    let start = Instant::now();
    let mut clients: Vec<TcpStream> = (0..TOO_MANY)
        .map(|_| {
            let mut client = case.client(TRUSTED);
            client.write_all(&[5, 1, 0]).unwrap();
            client
        })
        .collect();
    wait_for("the end of the descriptors", PATIENCE, || {
        let log = case.gateway.log();
        log.contains("no connection is accepted for now").then_some(())
    });
    let mut answered = Vec::new();
    let mut waiting = Vec::new();
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET {
        for mut client in std::mem::take(&mut clients) {
            client.set_nonblocking(true).unwrap();
            let mut octets = [0; 2];
            let got = client.read(&mut octets);
            client.set_nonblocking(false).unwrap();
            match got {
                Ok(2) => {
                    answered.push(client);
                    quiet_since = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => waiting.push(client),
                other => panic!("{other:?} {octets:?}"),
            }
        }
        clients.append(&mut waiting);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        !answered.is_empty() && clients.len() > TOO_MANY / 3,
        "{} wait",
        clients.len()
    );
    // Those who are served are served on, and other protocols as well.
    served.write_all(b"still").unwrap();
    assert_eq!(read(&mut server, 5), b"still");
    let tunnel = case.udp(Ipv4Addr::LOCALHOST);
    let gateway = at([127, 0, 0, 1], 1701);
    let mut answer = [0; 1500];
    tunnel.send_to(&sccrq(7), gateway).unwrap();
    let (length, _) = tunnel.recv_from(&mut answer).unwrap();
    assert!(length > 20 && answer[18..20] == [0, 2], "{:?}", &answer[..length]);
    // A target cannot be connected to now; the client is told so.
    let mut unlucky = answered.pop().unwrap();
    unlucky.write_all(&request(1, target)).unwrap();
    assert_eq!(read(&mut unlucky, 10)[1], 1);
    drop(unlucky);
    // As descriptors come back, everybody is served who waited.
    let rest = clients.len();
    drop(answered);
    let mut last = None;
    for mut client in clients {
        assert_eq!(read(&mut client, 2), [5, 0]);
        last = Some(client);
    }
    let mut last = last.unwrap();
    last.write_all(&request(1, target)).unwrap();
    assert_eq!(read(&mut last, 10)[1], 0, "of {rest}");
    finish(&served);
    assert_eq!(to_end(&mut server).unwrap(), b"");
    drop((served, server, last, listener));
    // It tried again now and then, not all the time: ten times a second and shard.
    let shards = std::thread::available_parallelism().unwrap().get() as u64;
    let most = (start.elapsed().as_secs() + 1) * 10 * shards;
    let tries = case.dropped("accept_failed");
    assert!((1..=most).contains(&tries), "{tries} of {most}");
    case.calm();
}
