//! Each kind of connection over a restart.

use crate::case::{CONFIG, Case, PATIENCE, passes, read, reply, wrapped};
use sluice_tests::rig::{sh, wait_for};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const RESTARTS: u64 = 3;

/// A request to connect to where nobody answers: packets to it are dropped.
const SILENT: &[u8] = &[5, 1, 0, 1, 127, 0, 0, 77, 0, 80];
const SILENCE: &str =
    "table ip silence { chain input { type filter hook input priority 0; ip daddr 127.0.0.77 drop; }; }";

#[test]
fn an_idle_connection_speaks_after_restarts_and_its_session_is_the_same() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (mut client, mut server) = case.pair(&listener);
    passes(&mut client, &mut server, b"before");
    let before = case.gateway.wait_session();
    for restart in 1..=RESTARTS {
        case.restart();
        let session = case.gateway.wait_session();
        assert_eq!(session["id"], before["id"]);
        assert_eq!(session["restored"], restart, "{session}");
        for field in ["user", "protocol", "listener", "created", "established", "facts"] {
            assert_eq!(session[field], before[field], "{field}");
        }
    }
    passes(&mut client, &mut server, b"after the restarts");
    passes(&mut server, &mut client, b"and back");
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    drop(server);
    let ended = case.gateway.wait_ended(&before);
    assert_eq!(ended["end"]["cause"], "user-request", "{ended}");
    assert_eq!(ended["counters"]["rx_bytes"], 6 + 18, "{ended}");
    assert_eq!(ended["counters"]["tx_bytes"], 8, "{ended}");
}

#[test]
fn a_restored_session_is_ended_like_any_other() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (mut client, mut server) = case.pair(&listener);
    let before = case.gateway.wait_session();
    case.restart();
    passes(&mut client, &mut server, b"still there");
    case.gateway.must(&["users", "disable", "bob"]);
    let ended = case.gateway.wait_ended(&before);
    assert_eq!(ended["end"]["cause"], "admin-reset", "{ended}");
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let error = server.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (mut asking, mut answering) = case.pair(&listener);
    let (mut silent, mut ended) = case.pair(&listener);
    asking.write_all(b"question").unwrap();
    asking.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    answering.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    ended.shutdown(Shutdown::Write).unwrap();
    assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
    case.restart();
    answering.write_all(b"answer").unwrap();
    drop(answering);
    let mut answer = Vec::new();
    asking.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    passes(&mut silent, &mut ended, b"the other half");
    drop((asking, silent, ended));
    wait_for("all sessions to end", Duration::from_secs(20), || {
        case.gateway.sessions().is_empty().then_some(())
    });
}

#[test]
fn a_bound_connection_goes_on() {
    let Some(mut case) = Case::start() else { return };
    let mut client = case.logged_in();
    let anybody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let (code, at) = case.ask(&mut client, 2, anybody);
    assert_eq!(code, 0);
    let mut peer = case.connect_to(at);
    assert_eq!(reply(&mut client), (0, peer.local_addr().unwrap()));
    passes(&mut client, &mut peer, b"before");
    case.restart();
    passes(&mut peer, &mut client, b"after");
    passes(&mut client, &mut peer, b"and back");
}

#[test]
fn a_bind_goes_on_to_wait_for_its_peer() {
    let Some(mut case) = Case::start() else { return };
    let (mut early, mut late, mut left) = (case.logged_in(), case.logged_in(), case.logged_in());
    let only: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let bound = [&mut early, &mut late, &mut left].map(|client| {
        let (code, at) = case.ask(client, 2, only);
        assert_eq!(code, 0);
        at
    });
    early.write_all(b"ahead").unwrap();
    let before = case.gateway.sessions();
    case.restart();
    // A stranger does not end the wait.
    let mut stranger = case.connect_to(bound[0]);
    assert!(matches!(stranger.read(&mut [0; 8]), Ok(0) | Err(_)));
    let mut peer = case.connect_from(only, bound[0]);
    assert_eq!(reply(&mut early), (0, peer.local_addr().unwrap()));
    assert_eq!(read(&mut peer, 5), b"ahead");
    passes(&mut early, &mut peer, b"after");
    passes(&mut peer, &mut early, b"and back");
    for _ in 1..RESTARTS {
        case.restart();
    }
    let mut peer = case.connect_from(only, bound[1]);
    assert_eq!(reply(&mut late), (0, peer.local_addr().unwrap()));
    passes(&mut late, &mut peer, b"at last");
    let after = case.gateway.sessions();
    assert_eq!(after.len(), before.len());
    for session in &before {
        assert!(
            after.iter().any(|other| other["id"] == session["id"]),
            "{session}"
        );
    }
    // Whose client leaves is closed at once.
    drop(left);
    wait_for("the last to close", PATIENCE, || {
        case.refuses(bound[2]).then_some(())
    });
}

#[test]
fn datagrams_go_on() {
    let Some(mut case) = Case::start() else { return };
    let (target, target_at) = case.datagrams();
    let (client, client_at) = case.datagrams();
    let mut control = case.logged_in();
    let (code, relay) = case.ask(&mut control, 3, client_at);
    assert_eq!(code, 0);
    let mut buffer = [0; 2000];
    let mut outside = None;
    for round in 0..=RESTARTS {
        if round > 0 {
            // This one waits in the socket for the next worker, or is answered by this one: it is not lost.
            client.send_to(&wrapped(target_at, b"amid"), relay).unwrap();
            case.restart();
            let (length, _) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"amid");
            // The target may answer before the client has said anything again.
            target.send_to(b"first word", outside.unwrap()).unwrap();
            let (length, _) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], wrapped(target_at, b"first word"));
        }
        client.send_to(&wrapped(target_at, b"hello"), relay).unwrap();
        let (length, from) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        // The client's address outside stays as it was.
        assert_eq!(*outside.get_or_insert(from), from);
        target.send_to(b"answer", from).unwrap();
        let (length, who) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], who), (&*wrapped(target_at, b"answer"), relay));
    }
    let session = case.gateway.wait_session();
    assert_eq!(session["restored"], RESTARTS, "{session}");
    drop(control);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["counters"]["rx_packets"], 2 * RESTARTS + 1, "{ended}");
    assert_eq!(ended["counters"]["tx_packets"], 2 * RESTARTS + 1, "{ended}");
}

/// What is not established yet ends, and its client is told; who has just connected waits and is served.
#[test]
fn a_request_in_progress_is_answered_and_who_connects_meanwhile_is_served() {
    let Some(mut case) = Case::start() else { return };
    let (listener, target) = case.listen();
    let mut connecting = case.logged_in();
    case.namespace.nft(SILENCE);
    connecting.write_all(SILENT).unwrap();
    wait_for("the connection to begin", PATIENCE, || {
        let asking = case.namespace.sh("ss -Htn state syn-sent").unwrap();
        (!asking.is_empty()).then_some(())
    });
    let mut greeted = case.logged_in();
    let (stop, stop_answering) = (AtomicBool::new(false), AtomicBool::new(false));
    let (case_ref, stop_ref, last_ref) = (&mut case, &stop, &stop_answering);
    let served = std::thread::scope(|scope| {
        let namespace = case_ref.namespace.name().to_owned();
        let knocking = scope.spawn(move || {
            let mut served = 0;
            while !stop_ref.load(Ordering::Relaxed) {
                let mut command = std::process::Command::new("ip");
                command.args(["netns", "exec", &namespace, "curl", "-s", "--max-time", "20"]);
                command.args(["-x", "socks5://127.0.0.1:1080", "--proxy-user"]);
                command.args([&format!("bob:{}", crate::case::PASSWORD), "-o", "/dev/null"]);
                let status = command.arg(format!("http://{target}/")).status().unwrap();
                assert!(status.success(), "{status}");
                served += 1;
            }
            served
        });
        let answering = scope.spawn(move || {
            listener.set_nonblocking(true).unwrap();
            while !last_ref.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let _ = stream.read(&mut [0; 2000]).unwrap();
                stream
                    .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK")
                    .unwrap();
            }
        });
        case_ref.restart();
        stop_ref.store(true, Ordering::Relaxed);
        let served = knocking.join();
        last_ref.store(true, Ordering::Relaxed);
        answering.join().unwrap();
        served.unwrap_or_else(|_| panic!("{}", case_ref.gateway.last_log()))
    });
    assert!(served > 0);
    let (code, _) = reply(&mut connecting);
    assert_eq!(code, 1, "general failure");
    assert_eq!(connecting.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(read_to_end(&mut greeted), b"");
    assert!(case.gateway.sessions().is_empty());
}

fn read_to_end(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// A fault is no planned restart: connections end with it, and no rest of them is left.
#[test]
fn a_fault_after_a_restart_ends_connections_and_the_gateway_comes_up() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (mut client, mut server) = case.pair(&listener);
    let shards = |case: &Case| case.gateway.status().unwrap()["shards"].as_array().unwrap().len();
    let former = shards(&case);
    // Their number may change.
    case.gateway
        .configure(&CONFIG.replace("[gateway]", "[gateway]\nshards = 5"));
    case.restart();
    passes(&mut client, &mut server, b"before the fault");
    let status = case.gateway.status().unwrap();
    let worker = sh(&format!("pgrep -P {}", case.gateway.pid())).unwrap();
    sh(&format!("kill -KILL {worker}")).unwrap();
    wait_for("the next worker", Duration::from_secs(20), || {
        let next = case.gateway.status()?;
        (next["restarts"] != status["restarts"] && next["ready"] == true).then_some(())
    });
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    // Two sockets and the records were held for the first of them, and nothing for the second; each shard has a socket to
    // listen on and a queue of the TUN device.
    let log = case.gateway.log();
    let held: Vec<usize> = log
        .split(" started with ")
        .skip(1)
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!((held.len(), shards(&case)), (2, 5), "{log}");
    assert_eq!(held[0] - 3 + 2 * 5, held[1] + 2 * former, "{log}");
    assert!(case.gateway.sessions().is_empty());
    let (mut client, mut server) = case.pair(&listener);
    passes(&mut client, &mut server, b"after the fault");
}

/// The next worker does not live long enough to take anything up, twice: nothing of the connections is lost.
#[test]
fn connections_wait_for_a_worker_that_comes_up() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (mut client, mut server) = case.pair(&listener);
    passes(&mut client, &mut server, b"before");
    let before = case.gateway.wait_session();
    let restarts = case.gateway.status().unwrap()["restarts"].as_u64().unwrap();
    let keeper = case.gateway.pid();
    let worker = move || {
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        children.unwrap().trim().to_owned()
    };
    let first = worker();
    let killing = std::thread::spawn(move || {
        let (mut last, mut killed) = (first, 0);
        while killed < 2 {
            let now = worker();
            if !now.is_empty() && now != last {
                sh(&format!("kill -KILL {now}")).unwrap();
                (last, killed) = (now, killed + 1);
            }
            std::thread::yield_now();
        }
    });
    case.gateway.must(&["restart"]);
    killing.join().unwrap();
    client.write_all(b"amid").unwrap();
    wait_for("a worker that lives", Duration::from_secs(20), || {
        let status = case.gateway.status()?;
        (status["ready"] == true && status["restarts"] == restarts + 3).then_some(())
    });
    assert_eq!(crate::case::read(&mut server, 4), b"amid");
    passes(&mut server, &mut client, b"after");
    assert_eq!(case.gateway.wait_session()["id"], before["id"]);
    case.restart();
    passes(&mut client, &mut server, b"and again");
}
