//! Streams: how requests may come, and how connections may end.

use crate::case::{
    Case, PASSWORD, PATIENCE, SILENT, STRANGER, TRUSTED, at, finish, login, read, request, reset, to_end,
};
use sluice_tests::rig::wait_for;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Everything that a client with a password says up to its request.
fn opening(target: SocketAddr) -> Vec<u8> {
    let login = login(b"bob", PASSWORD.as_bytes());
    [&[5, 1, 2][..], &login, &request(1, target)].concat()
}

/// What it is answered, where all is well: up to the address in the reply.
const WELCOME: [u8; 8] = [5, 2, 1, 0, 5, 0, 0, 1];

/// Octets of a whole welcome.
const WELCOME_LENGTH: usize = WELCOME.len() + 6;

#[track_caller]
fn welcomed(client: &mut TcpStream) {
    assert_eq!(read(client, WELCOME_LENGTH)[..8], WELCOME);
}

/// A connection through the gateway, and the server's end of it.
fn pair(case: &Case, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = case.client(STRANGER);
    client
        .write_all(&opening(listener.local_addr().unwrap()))
        .unwrap();
    welcomed(&mut client);
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, server)
}

/// The code of the end of what ended last.
fn last_end(case: &Case) -> serde_json::Value {
    let page = case
        .gateway
        .json(&["sessions", "list", "--history", "--limit", "1"]);
    page["items"][0].clone()
}

#[test]
fn a_request_may_come_octet_by_octet() {
    let Some(case) = Case::start() else { return };
    let (listener, target) = case.listen("127.0.0.1:0");
    let mut client = case.client(STRANGER);
    for octet in opening(target) {
        client.write_all(&[octet]).unwrap();
    }
    for octet in b"payload" {
        client.write_all(&[*octet]).unwrap();
    }
    welcomed(&mut client);
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(read(&mut server, 7), b"payload");
    drop((client, server));
    // SOCKS4a, its strings included.
    let mut client = case.client(TRUSTED);
    let [high, low] = target.port().to_be_bytes();
    for octet in [&[4, 1, high, low, 0, 0, 0, 9][..], b"me\0web.test\0x"].concat() {
        client.write_all(&[octet]).unwrap();
    }
    assert_eq!(read(&mut client, 8)[..2], [0, 0x5a]);
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(read(&mut server, 1), b"x");
    drop((client, server));
    case.calm();
}

#[test]
fn all_in_one_segment_and_half_closed_loses_nothing_of_what_comes_back() {
    let Some(case) = Case::start() else { return };
    let (listener, target) = case.listen("127.0.0.1:0");
    let payload = vec![7; 5_000];
    let mut client = case.client(STRANGER);
    client
        .write_all(&[opening(target), payload.clone()].concat())
        .unwrap();
    finish(&client);
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(to_end(&mut server).unwrap(), payload);
    let back: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_be_bytes()[2]).collect();
    let answer = std::thread::scope(|scope| {
        let reader = scope.spawn(|| to_end(&mut client).unwrap());
        server.write_all(&back).unwrap();
        finish(&server);
        reader.join().unwrap()
    });
    assert!(answer[WELCOME_LENGTH..] == back, "{} octets", answer.len());
    case.calm();
    let ended = last_end(&case);
    assert_eq!(ended["end"]["code"], "finished", "{ended}");
    assert_eq!(ended["counters"]["rx_bytes"], payload.len(), "{ended}");
    assert_eq!(ended["counters"]["tx_bytes"], back.len(), "{ended}");
}

#[test]
fn a_server_that_ends_first_still_hears_its_client() {
    let Some(case) = Case::start() else { return };
    let (listener, _) = case.listen("127.0.0.1:0");
    let (mut client, mut server) = pair(&case, &listener);
    server.write_all(b"bye").unwrap();
    finish(&server);
    assert_eq!(to_end(&mut client).unwrap(), b"bye");
    client.write_all(b"one thing more").unwrap();
    finish(&client);
    assert_eq!(to_end(&mut server).unwrap(), b"one thing more");
    case.calm();
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let Some(case) = Case::start() else { return };
    let (listener, _) = case.listen("127.0.0.1:0");
    for (by_client, code) in [(true, "client_reset"), (false, "target_reset")] {
        let (client, server) = pair(&case, &listener);
        let (ends, mut hears) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        reset(ends);
        assert_eq!(
            to_end(&mut hears).unwrap_err().kind(),
            ErrorKind::ConnectionReset,
            "{code}"
        );
        case.calm();
        assert_eq!(last_end(&case)["end"]["code"], code);
    }
}

#[test]
fn a_client_that_leaves_while_its_target_is_connected_to_frees_everything() {
    let Some(case) = Case::start() else { return };
    let asking = || {
        case.namespace
            .sh("ss -Htn state syn-sent")
            .unwrap()
            .lines()
            .count()
    };
    for (count, by_reset) in [(1, false), (2, true)] {
        let mut client = case.client(TRUSTED);
        let said = [&[5, 1, 0][..], &request(1, at(SILENT, 80))].concat();
        client.write_all(&said).unwrap();
        wait_for("the connection to begin", PATIENCE, || {
            (asking() == 1).then_some(())
        });
        if by_reset {
            reset(client);
        } else {
            drop(client);
        }
        wait_for("the connection to be given up", PATIENCE, || {
            (asking() == 0).then_some(())
        });
        case.wait_counted("client_gone", count);
        case.calm();
        assert_eq!(last_end(&case)["end"]["code"], "client_gone");
    }
    // It did not take the time that a connection may take.
    assert_eq!(case.counted("reply_06"), 0);
}

#[test]
fn clients_that_leave_after_any_octet_of_the_handshake_are_nobodys_trouble() {
    let Some(case) = Case::start() else { return };
    let (_listener, target) = case.listen("127.0.0.1:0");
    let whole = opening(target);
    for length in 0..whole.len() {
        for by_reset in [false, true] {
            let mut client = case.client(STRANGER);
            client.write_all(&whole[..length]).unwrap();
            if by_reset {
                reset(client);
            } else {
                finish(&client);
                let answer = to_end(&mut client).unwrap();
                assert!(WELCOME.starts_with(&answer), "{length}: {answer:?}");
            }
        }
    }
    case.calm();
    case.wait_counted("client_gone", 2 * whole.len() as u64);
    let log = case.gateway.log();
    assert!(!log.contains("WARN"), "{log}");
}
