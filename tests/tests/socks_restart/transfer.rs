//! Large transfers over restarts.

use crate::case::{Case, PASSWORD, PATIENCE};
use sluice_testkit::Seeded;
use sluice_tests::rig::{Running, wait_for};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const RESTARTS: usize = 3;
const LENGTH: usize = 48 << 20;
/// What a throttled reader takes at once, and its pause after that.
const SIP: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(3);

fn throttled(stream: &mut TcpStream, done: &AtomicUsize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; SIP]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..count]);
        done.store(all.len(), Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

/// Bulk in both directions, far ahead of slow readers: sockets are full, and so are pipes.
#[test]
fn bulk_both_ways_arrives_byte_for_byte() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let (client, server) = case.pair(&listener);
    let (up, down) = (Seeded::new(1).bytes(LENGTH), Seeded::new(2).bytes(LENGTH));
    let done = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let (got_up, got_down) = std::thread::scope(|scope| {
        let send = |mut to: TcpStream, bytes: Vec<u8>| {
            scope.spawn(move || {
                to.write_all(&bytes).unwrap();
                to.shutdown(Shutdown::Write).unwrap();
            });
        };
        send(client.try_clone().unwrap(), up.clone());
        send(server.try_clone().unwrap(), down.clone());
        let take = |mut from: TcpStream, done| scope.spawn(move || throttled(&mut from, done));
        let (to_server, to_client) = (take(server, &done[0]), take(client, &done[1]));
        for _ in 0..RESTARTS {
            let before = done.each_ref().map(|done| done.load(Ordering::Relaxed));
            wait_for("bytes to flow", PATIENCE, || {
                let now = done.each_ref().map(|done| done.load(Ordering::Relaxed));
                (now[0] > before[0] + (4 << 20) && now[1] > before[1] + (4 << 20)).then_some(())
            });
            case.restart();
        }
        let under_way = done.each_ref().map(|done| done.load(Ordering::Relaxed));
        assert!(under_way.iter().all(|done| *done < LENGTH), "{under_way:?}");
        (to_server.join().unwrap(), to_client.join().unwrap())
    });
    assert!(got_up == up && got_down == down, "{}", case.gateway.last_log());
    wait_for("the session to end", PATIENCE, || {
        case.gateway.sessions().is_empty().then_some(())
    });
}

#[test]
fn curl_notices_nothing_of_restarts() {
    let Some(mut case) = Case::start() else { return };
    let directory = case.gateway.directory().to_owned();
    let file = Seeded::new(3).bytes(LENGTH);
    std::fs::write(directory.join("file"), &file).unwrap();
    let mut web = case.namespace.command("python3");
    web.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .arg(&directory)
        .arg("8000")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _web = Running::start(&mut web, None);
    case.namespace.wait_listening(8000);
    let got = directory.join("got");
    let mut curl = case.namespace.command("curl");
    curl.args(["-s", "--max-time", "60", "--limit-rate", "12M", "--noproxy", ""])
        .args(["-x", "socks5h://127.0.0.1:1080", "--proxy-user"])
        .arg(format!("bob:{PASSWORD}"))
        .arg("-o")
        .arg(&got)
        .arg("http://127.0.0.1:8000/file");
    let mut curl = Running::start(&mut curl, None);
    let length = || std::fs::metadata(&got).map_or(0, |file| file.len());
    for _ in 0..RESTARTS {
        let before = length();
        wait_for("the download to go on", PATIENCE, || {
            (length() > before + (2 << 20)).then_some(())
        });
        case.restart();
    }
    assert!(curl.is_running(), "it was too quick to be restarted under");
    let status = curl.wait(PATIENCE);
    assert!(status.success(), "{status}\n{}", case.gateway.last_log());
    assert!(std::fs::read(&got).unwrap() == file);
}
