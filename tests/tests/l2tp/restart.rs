//! The worker restarts under traffic, and clients notice nothing but a pause.

use crate::case::{Case, POOL, config};
use sluice_testkit::Seeded;
use sluice_tests::rig::{Capture, Lab, Running, Xl2tpd};
use std::time::Duration;

const RESTARTS: usize = 3;
/// The longest pause that a restart may cost.
const PAUSE: f64 = 1.0;
/// What a client sends again and again while it sees no stop.
const CHUNK: usize = 100_000;

/// Longest time between two answers in the output of `ping -D`, in seconds.
fn longest_gap(output: &str) -> f64 {
    let stamps: Vec<f64> = output
        .lines()
        .filter(|line| line.contains("icmp_seq="))
        .filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse().ok())
        .collect();
    assert!(stamps.len() > 20, "{output}");
    stamps
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(0.0, f64::max)
}

#[test]
fn sessions_stay_over_clean_restarts_under_traffic() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    case.lab.route_back("10.64.0.0/24");
    let mut guest = case.guest_with(50, Capture::SMALL);
    let link = case.alice(&mut guest);
    link.wait_advertised(&mut guest, 10);
    guest.must(&format!("ip route add {} dev {}", Lab::WORLD, link.interface));
    let before = case.gateway.wait_session();
    let process = guest.must("pidof pppd");
    let negotiated = guest.read("pppd.log");

    let chunk = Seeded::new(7).bytes(CHUNK);
    std::fs::write(guest.path("chunk"), &chunk).unwrap();
    let received = case.file("received");
    let mut sink = case.lab.world.command("busybox");
    sink.args(["nc", "-l", "-p", "5001"])
        .stdout(std::fs::File::create(&received).unwrap());
    let mut sink = Running::start(&mut sink, None);
    case.lab.world.wait_listening(5001);
    guest.must(&format!(
        "cat >/tmp/send <<'E'\n\
         n=0\n\
         until [ -e /mnt/enough ]; do cat /mnt/chunk; n=$((n + 1)); busybox usleep 20000; done\n\
         echo $n >/mnt/chunks\n\
         E\n\
         bash -c '. /tmp/send >/dev/tcp/{}/5001' >/dev/null 2>&1 &\n\
         ping -D -n -i 0.05 {} </dev/null >/mnt/ping.log 2>&1 &",
        Lab::WORLD,
        Lab::WORLD
    ));
    for restart in 0..RESTARTS {
        let arrived = std::fs::metadata(&received).unwrap().len();
        let answers = guest.read("ping.log").lines().count();
        sluice_tests::rig::wait_for("traffic to flow", Duration::from_secs(20), || {
            let flows = std::fs::metadata(&received).unwrap().len() > arrived + 5 * CHUNK as u64;
            (flows && guest.read("ping.log").lines().count() > answers + 10).then_some(())
        });
        case.gateway.restart();
        let session = case.gateway.wait_session();
        assert_eq!(session["id"], before["id"]);
        assert_eq!(
            session["restored"].as_u64(),
            Some(restart as u64 + 1),
            "{session}"
        );
        assert_eq!(session["grants"], before["grants"]);
    }
    guest.must("pkill -INT -x ping; touch /mnt/enough");
    assert!(guest.until(30, "[ -s /mnt/chunks ]"), "the client still sends");
    assert!(sink.wait(Duration::from_secs(60)).success());

    // Every byte of the connection that lived through all of it.
    let chunks: usize = guest.read("chunks").trim().parse().unwrap();
    let bytes = std::fs::read(&received).unwrap();
    assert_eq!(bytes.len(), chunks * CHUNK);
    assert!(bytes.chunks(CHUNK).all(|part| part == chunk), "bytes are wrong");

    assert!(guest.until(5, "grep -q 'packets transmitted' /mnt/ping.log"));
    let pings = guest.read("ping.log");
    let gap = longest_gap(&pings);
    let summary = pings.lines().find(|line| line.contains("packets transmitted"));
    eprintln!(
        "longest pause of {RESTARTS} restarts: {gap:.3} s; {}",
        summary.unwrap_or("?")
    );
    assert!(gap < PAUSE, "a pause of {gap:.3} s\n{pings}");

    // The client has noticed nothing: the same process, and nothing negotiated anew.
    assert_eq!(guest.must("pidof pppd"), process);
    let requests = |log: &str| log.matches("ConfReq").count();
    assert_eq!(requests(&guest.read("pppd.log")), requests(&negotiated));
    let after = case.gateway.wait_session();
    let received = |session: &serde_json::Value| session["counters"]["rx_bytes"].as_u64().unwrap();
    assert!(received(&after) >= bytes.len() as u64, "{after}");
    Xl2tpd::stop(&mut guest);
    case.gateway.wait_ended(&before);
    let recorded = case.end();
    for kind in [1, 10] {
        let found = recorded.must(0, &format!("l2tp.avp.message_type == {kind}"));
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
