//! Many connections over a restart at once.

use crate::case::{Case, passes};
use sluice_testkit::Seeded;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections; `SLUICE_CONNECTIONS` says otherwise.
const CONNECTIONS: usize = 600;

fn connections() -> usize {
    let wanted = std::env::var("SLUICE_CONNECTIONS").ok();
    wanted.map_or(CONNECTIONS, |wanted| wanted.parse().unwrap())
}

/// Sends one octet again and again and gives the longest wait for its echo.
fn longest_pause(stream: &mut TcpStream, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(b".").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        longest = longest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    longest
}

fn echo(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..count]).unwrap();
    }
}

#[test]
fn hundreds_of_connections_go_on_with_every_byte_and_the_same_sessions() {
    let Some(mut case) = Case::start() else { return };
    let (listener, _) = case.listen();
    let mut pairs: Vec<(TcpStream, TcpStream)> = (0..connections()).map(|_| case.pair(&listener)).collect();
    let (mut watched, mut echoing) = case.pair(&listener);
    let mut random = Seeded::new(5);
    for (client, server) in &mut pairs {
        let text = random.bytes(100);
        passes(client, server, &text);
    }
    let before = case.ids();
    assert_eq!(before.len(), connections() + 1);
    // On its way while the worker changes: said by half of them, and heard only afterwards.
    let amid: Vec<Vec<u8>> = pairs.iter().map(|_| random.bytes(3000)).collect();
    for ((client, server), text) in pairs.iter_mut().zip(&amid).step_by(2) {
        client.write_all(text).unwrap();
        server.write_all(text).unwrap();
    }
    let stop = AtomicBool::new(false);
    let pause = std::thread::scope(|scope| {
        scope.spawn(|| echo(&mut echoing));
        let watching = scope.spawn(|| {
            let longest = longest_pause(&mut watched, &stop);
            watched.shutdown(std::net::Shutdown::Both).unwrap();
            longest
        });
        case.restart();
        stop.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    println!("longest pause with {} connections: {pause:?}", connections());
    assert!(pause < Duration::from_secs(3), "{pause:?}");
    for ((client, server), text) in pairs.iter_mut().zip(&amid).step_by(2) {
        assert_eq!(&crate::case::read(server, text.len()), text);
        assert_eq!(&crate::case::read(client, text.len()), text);
    }
    for (client, server) in &mut pairs {
        let text = random.bytes(100);
        passes(client, server, &text);
        passes(server, client, &text);
    }
    let mut after = case.ids();
    after.retain(|id| before.contains(id));
    assert!(
        after.len() >= connections(),
        "{} of {}",
        after.len(),
        before.len()
    );
    drop((pairs, watched, echoing));
    sluice_tests::rig::wait_for("all sessions to end", Duration::from_secs(20), || {
        case.gateway.sessions().is_empty().then_some(())
    });
}

/// Open files of a gateway that has too few, and of its keeper, which keeps some of them for itself.
const FILES: u32 = 800;
const TOO_MANY: usize = 300;

#[test]
fn connections_for_which_there_is_no_room_end_and_the_others_stay() {
    let Some(mut case) = Case::within(Some(FILES)) else {
        return;
    };
    let (listener, _) = case.listen();
    let mut pairs: Vec<(TcpStream, TcpStream)> = (0..TOO_MANY).map(|_| case.pair(&listener)).collect();
    let before = case.ids();
    case.restart();
    let after = case.ids();
    assert!(after.iter().all(|id| before.contains(id)));
    let room = (FILES - sluice_keeper::OWN_DESCRIPTORS) as usize / 2;
    assert!(
        (room - 20..=room).contains(&after.len()),
        "{}\n{}",
        after.len(),
        case.gateway.last_log()
    );
    let lost = TOO_MANY - after.len();
    let log = case.gateway.log();
    assert!(log.contains(&format!("\"lost\":{lost}")), "{log}");
    let token = case.gateway.token(&["read"]);
    let series = "sluice_restore_sessions_total{result=\"lost\"}";
    assert_eq!(case.gateway.metric(&token, series), lost as f64);
    let ended = case.gateway.json(&["sessions", "list", "--history"]);
    let ended = ended["items"].as_array().unwrap();
    let not_restored = ended.iter().filter(|session| {
        session["end"]["code"] == "not_restored" && session["end"]["cause"] == "nas-reboot"
    });
    assert_eq!(not_restored.count(), lost);
    let mut went_on = 0;
    for (client, server) in &mut pairs {
        let reset = client.write_all(b"hello").is_err();
        if reset {
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            continue;
        }
        assert_eq!(crate::case::read(server, 5), b"hello");
        passes(server, client, b"and back");
        went_on += 1;
    }
    assert_eq!(went_on, after.len());
}
