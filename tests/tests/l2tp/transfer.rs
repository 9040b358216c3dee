//! Moving much.

use crate::case::{Case, POOL, config};
use sluice_spi::Entropy;
use sluice_testkit::Seeded;
use sluice_tests::rig::{Capture, Lab, Running, Xl2tpd, run, wait_for};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// 100 MiB, no two kilobytes of it alike.
const LENGTH: usize = 100 << 20;
const LIMIT: Duration = Duration::from_secs(120);

fn checksum(file: &Path) -> String {
    let text = run(Command::new("sha256sum").arg(file)).unwrap_or_else(|error| panic!("{error}"));
    text.split_whitespace().next().unwrap().to_owned()
}

fn report(way: &str, took: Duration) {
    let rate = LENGTH as f64 * 8.0 / took.as_secs_f64() / 1e6;
    eprintln!("{way}: 100 MiB in {:.1} s, {rate:.0} Mbit/s", took.as_secs_f64());
}

#[test]
fn a_hundred_megabytes_arrive_whole_each_way() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    case.lab.route_back("10.64.0.0/24");
    let mut guest = case.guest_with(50, Capture::SMALL);
    let link = case.alice(&mut guest);
    guest.must(&format!("ip route add {} dev {}", Lab::WORLD, link.interface));
    let session = case.gateway.wait_session();

    let data = guest.path("data");
    let mut bytes = vec![0; LENGTH];
    Seeded::new(0x5eed).fill(&mut bytes);
    std::fs::write(&data, &bytes).unwrap();
    drop(bytes);
    let expected = checksum(&data);

    let received = case.file("received");
    let world = &case.lab.world;
    let mut sink = world.command("busybox");
    sink.args(["nc", "-l", "-p", "5001"])
        .stdout(std::fs::File::create(&received).unwrap());
    let mut sink = Running::start(&mut sink, None);
    world.wait_listening(5001);
    let start = Instant::now();
    guest.must(&format!("bash -c 'cat /mnt/data >/dev/tcp/{}/5001'", Lab::WORLD));
    assert!(sink.wait(LIMIT).success());
    report("to the gateway", start.elapsed());
    assert_eq!(checksum(&received), expected);

    let mut source = world.command("busybox");
    source.args(["nc", "-l", "-p", "5002"]);
    let input = std::fs::File::open(&data).unwrap();
    let mut source = Running::start(&mut source, Some(input.into()));
    world.wait_listening(5002);
    let start = Instant::now();
    let text = guest.must(&format!("bash -c 'sha256sum </dev/tcp/{}/5002'", Lab::WORLD));
    assert!(source.wait(LIMIT).success());
    report("from the gateway", start.elapsed());
    assert_eq!(text.split_whitespace().next(), Some(expected.as_str()));

    let id = session["id"].as_str().unwrap();
    wait_for("the session's counters", Duration::from_secs(10), || {
        let counters = &case.gateway.json(&["sessions", "show", id])["counters"];
        let enough = |name: &str| counters[name].as_u64().unwrap() >= LENGTH as u64;
        (enough("rx_bytes") && enough("tx_bytes")).then_some(())
    });
    assert_eq!(case.gateway.wait_session()["id"], session["id"]);
    Xl2tpd::stop(&mut guest);
    case.end();
}
