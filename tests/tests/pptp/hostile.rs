//! What an outsider sends, what a crash leaves, and what a gateway without the capability says.

use crate::case::{Case, config, dial, ping};
use sluice_tests::rig::{Gateway, Lab, Namespace, Pptp, Running, Xl2tpd, ready, wait_for};
use std::net::TcpStream;
use std::time::Duration;

/// A host with the address 10.99.0.77 on the gateway's network.
fn outside(lab: &Lab) -> Namespace {
    let outside = Namespace::new("outside");
    outside.join("out", &lab.edge, "outside");
    lab.edge.ip("link set outside master br0");
    outside.ip("addr add 10.99.0.77/24 dev out");
    outside
}

/// Waits until so many packets were dropped for a reason.
#[track_caller]
fn counted(gateway: &Gateway, token: &str, protocol: &str, reason: &str, count: f64) {
    let series = format!("sluice_packets_dropped_total{{protocol=\"{protocol}\",reason=\"{reason}\"}}");
    wait_for(
        &format!("{series} to be {count}"),
        Duration::from_secs(10),
        || (gateway.metric(token, &series) >= count).then_some(()),
    );
}

/// Sends GRE packets of a call with these numbers, each with an IP packet as payload, from an address.
fn send(outside: &Namespace, source: &str, call: &str, numbers: &str) {
    let script = format!(
        "import socket,struct\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n\
         ip=lambda n,p: struct.pack('>BBHHHBBH',0x45,0,20+n,0,0,64,p,0)+socket.inet_aton('{source}')\
         +socket.inet_aton('10.99.0.1')\n\
         for n in {numbers}:\n\
         \x20p=b'\\xff\\x03\\x00\\x21'+b'\\x45'+bytes(27)\n\
         \x20s.sendto(ip(12+len(p),47)+struct.pack('>HHHHI',0x3001,0x880b,len(p),{call},n%(1<<32))+p,('10.99.0.1',0))\n"
    );
    let status = outside.command("python3").args(["-c", &script]).status().unwrap();
    assert!(status.success());
}

#[test]
fn outsiders_packets_are_counted_and_sessions_stay() {
    let Some(mut case) = Case::start(&config("max_half_open_per_source = 32\nstart_timeout = \"2s\"\n"))
    else {
        return;
    };
    let outside = outside(&case.lab);
    let mut guest = case.guest(50);
    let link = dial("alice").connect(&mut guest);
    let session = case.gateway.wait_session();
    let shown = case
        .gateway
        .json(&["sessions", "show", session["id"].as_str().unwrap()]);
    let call = shown["facts"]["local_call_id"].as_str().unwrap().to_owned();
    let token = case.gateway.token(&["read"]);

    // From elsewhere, for a call that there is, and for one that there is not.
    send(&outside, "10.99.0.77", &call, "range(200)");
    counted(&case.gateway, &token, "none", "wrong_peer", 200.0);
    let other: u16 = call.parse::<u16>().unwrap() ^ 0x8000;
    send(&outside, "10.99.0.77", &other.to_string(), "range(200)");
    counted(&case.gateway, &token, "pptp", "unknown_call", 200.0);
    // As if from the peer: numbers far ahead, and of long ago. In no order, as the peer would not count so.
    send(
        &outside,
        "10.99.0.50",
        &call,
        "[(i*0x1000001)+(1<<29) for i in range(100)]",
    );
    counted(&case.gateway, &token, "pptp", "sequence_far_ahead", 50.0);
    send(&outside, "10.99.0.50", &call, "[-5-i*1000 for i in range(100)]");
    counted(&case.gateway, &token, "pptp", "sequence_old", 50.0);
    ping(&mut guest, &link.remote.to_string());

    // Connections that never speak: bounded, closed in time, and in nobody's way.
    let connections: Vec<TcpStream> = outside.inside(|| {
        (0..100)
            .map(|_| TcpStream::connect("10.99.0.1:1723").unwrap())
            .collect()
    });
    counted(&case.gateway, &token, "pptp", "half_open_limit", 68.0);
    Pptp::hang_up(&mut guest);
    case.gateway.wait_ended(&session);
    let link = dial("bob").connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    counted(&case.gateway, &token, "pptp", "start_timeout", 32.0);
    drop(connections);
    Pptp::hang_up(&mut guest);
    case.end(&[]);
}

#[test]
fn sessions_end_with_a_worker_that_is_killed_and_clients_come_back() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    let mut guest = case.guest(50);
    let first = dial("alice").connect(&mut guest);
    let session = case.gateway.wait_session();
    let status = case.gateway.status().unwrap();
    // What was established is on record by now.
    let id = session["id"].as_str().unwrap();
    wait_for("the record", Duration::from_secs(5), || {
        std::thread::sleep(Duration::from_millis(600));
        (case.gateway.json(&["sessions", "show", id])["state"] == "established").then_some(())
    });
    let keeper = case.gateway.pid();
    sluice_tests::rig::sh(&format!("pkill -KILL -P {keeper}")).unwrap();
    wait_for("the next worker", Duration::from_secs(20), || {
        let next = case.gateway.status()?;
        (next["restarts"] != status["restarts"] && next["ready"] == true).then_some(())
    });
    Xl2tpd::wait_hung_up(&mut guest, 20);
    assert!(case.gateway.sessions().is_empty());
    let again = dial("alice").connect(&mut guest);
    assert_eq!(again.local, first.local);
    Pptp::hang_up(&mut guest);
    case.end(&[]);
}

#[test]
fn a_client_proves_itself_by_ms_chap_v2() {
    let text = config("") + "\n[users]\nverifiers = [\"argon2id\", \"nt\"]\n";
    let Some(mut case) = Case::start(&text) else {
        return;
    };
    let mut guest = case.guest(50);
    let methods = ["pap", "chap", "mschap", "eap"];
    let link = dial("alice").refusing(&methods).connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    assert!(guest.read("pppd.log").contains("CHAP authentication succeeded"));
    Pptp::hang_up(&mut guest);
    case.end(&[]);
}

#[test]
fn without_the_capability_one_line_says_that_it_is_off() {
    if !ready() {
        return;
    }
    let lab = Lab::new();
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let text = config("").replace("{dir}", &at.display().to_string());
    std::fs::write(
        at.join("sluice.toml"),
        text + "\n[admin]\ntcp = false\nsocket = \"admin.sock\"\n",
    )
    .unwrap();
    let output = std::fs::File::create(at.join("out")).unwrap();
    let mut command = lab.edge.command("setpriv");
    command
        .args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"])
        .arg(Gateway::binary())
        .args(["run", "--config"])
        .arg(at.join("sluice.toml"))
        .current_dir(at)
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    let mut gateway = Running::start(&mut command, None);
    let off = wait_for("the gateway to say what is off", Duration::from_secs(20), || {
        let text = std::fs::read_to_string(at.join("out")).unwrap();
        let line = text.lines().find(|line| line.trim_start().starts_with("OFF"));
        line.map(str::to_owned)
    });
    assert!(off.contains("CAP_NET_RAW"), "{off}");
    gateway.end(Duration::from_secs(10));
}
