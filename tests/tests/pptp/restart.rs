//! The worker restarts under traffic, and the client notices nothing but a pause; much is moved both ways over a bad
//! network.

use crate::case::{Case, config, dial};
use sluice_spi::Entropy;
use sluice_testkit::Seeded;
use sluice_tests::rig::{Lab, Pptp, Running};
use std::time::Duration;

/// 20 MiB each way.
const LENGTH: usize = 20 << 20;

#[test]
fn sessions_stay_over_a_clean_restart_under_traffic() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    let mut guest = case.guest(50);
    let link = dial("alice").connect(&mut guest);
    let before = case.gateway.wait_session();
    let processes = guest.must("pidof pppd; pidof pptp");
    guest.must(&format!(
        "ping -D -n -i 0.05 {} </dev/null >/mnt/ping.log 2>&1 &",
        link.remote
    ));
    for restart in 1..=2u64 {
        let answers = guest.read("ping.log").lines().count();
        sluice_tests::rig::wait_for("traffic to flow", Duration::from_secs(20), || {
            (guest.read("ping.log").lines().count() > answers + 20).then_some(())
        });
        case.gateway.restart();
        let session = case.gateway.wait_session();
        assert_eq!(session["id"], before["id"]);
        assert_eq!(session["restored"].as_u64(), Some(restart), "{session}");
        assert_eq!(session["grants"], before["grants"]);
    }
    let answers = guest.read("ping.log").lines().count();
    sluice_tests::rig::wait_for("traffic to flow on", Duration::from_secs(20), || {
        (guest.read("ping.log").lines().count() > answers + 20).then_some(())
    });
    guest.must("pkill -INT -x ping");
    assert_eq!(guest.must("pidof pppd; pidof pptp"), processes);
    // The control connection lives on as well: the call is cleared by it.
    Pptp::hang_up(&mut guest);
    let ended = case.gateway.wait_ended(&before);
    assert_eq!(ended["end"]["cause"], "user-request", "{ended}");
    let found = case.end(&["pptp.control_message_type == 1", "pptp.control_message_type == 7"]);
    assert!(found.iter().all(|packets| packets.len() == 1), "{found:?}");
}

#[test]
fn twenty_megabytes_arrive_whole_each_way_over_a_lossy_network() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    case.lab.route_back("10.64.0.0/24");
    let mut guest = case.guest(50);
    // One GRE packet of a hundred is lost on its way to the gateway.
    case.lab.edge.nft(
        "add table bridge bad; add chain bridge bad pre { type filter hook prerouting priority 0; }; \
         add rule bridge bad pre ip protocol gre numgen random mod 100 == 0 drop",
    );
    let link = dial("alice").connect(&mut guest);
    guest.must(&format!("ip route add {} dev {}", Lab::WORLD, link.interface));
    let mut bytes = vec![0; LENGTH];
    Seeded::new(0x5eed).fill(&mut bytes);
    std::fs::write(guest.path("data"), &bytes).unwrap();
    let received = case.file("received");
    let world = &case.lab.world;
    let mut sink = world.command("busybox");
    sink.args(["nc", "-l", "-p", "5001"])
        .stdout(std::fs::File::create(&received).unwrap());
    let mut sink = Running::start(&mut sink, None);
    world.wait_listening(5001);
    guest.must(&format!("bash -c 'cat /mnt/data >/dev/tcp/{}/5001'", Lab::WORLD));
    assert!(sink.wait(Duration::from_secs(120)).success());
    assert!(
        std::fs::read(&received).unwrap() == bytes,
        "what arrived is not what was sent"
    );

    let mut source = world.command("busybox");
    source.args(["nc", "-l", "-p", "5002"]);
    let input = std::fs::File::open(guest.path("data")).unwrap();
    let mut source = Running::start(&mut source, Some(input.into()));
    world.wait_listening(5002);
    guest.must(&format!("bash -c 'cat </dev/tcp/{}/5002 >/mnt/back'", Lab::WORLD));
    assert!(source.wait(Duration::from_secs(120)).success());
    assert!(
        std::fs::read(guest.path("back")).unwrap() == bytes,
        "what arrived is not what was sent"
    );
    Pptp::hang_up(&mut guest);
    case.end(&[]);
}
