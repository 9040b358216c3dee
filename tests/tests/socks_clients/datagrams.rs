//! Datagrams of programs that have them from a library.

use crate::case::{Case, PASSWORD, PROXY, PYTHON};
use sluice_tests::rig::{Lab, Names, Say};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

/// What the DNS server in the world says of the name that clients ask for.
const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 55);

/// Asks for a name over `s`, which is made by what stands before this, and prints its address.
const QUERY: &str = r#"
s.settimeout(20)
question = b'\x06answer\x04test\x00\x00\x01\x00\x01'
for host in HOSTS:
    s.sendto(b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00' + question, (host, 53))
    message, who = s.recvfrom(2000)
    assert message[:2] == b'\x12\x34', message
    assert who == ('198.51.100.2', 53), who
    print(socket.inet_ntoa(message[-4:]))
"#;

fn names(case: &Case) -> Names {
    let at: SocketAddr = (Lab::WORLD.parse::<IpAddr>().unwrap(), 53).into();
    Names::serve(
        &case.lab.world,
        at,
        &[("answer.test", Say::Address(ANSWER.into()))],
    )
}

#[track_caller]
fn answered(case: &Case, client: &mut Command, times: usize) {
    let got = String::from_utf8(case.run(client)).unwrap();
    let expected = format!("{ANSWER}\n").repeat(times);
    assert_eq!(got, expected);
    case.all_ended_well(Some("bob"), 1);
}

#[test]
fn pysocks_asks_a_dns_server() {
    let Some(case) = Case::start() else { return };
    let _names = names(&case);
    let script = format!(
        "import socket, socks\nHOSTS = ['198.51.100.2', 'web4.test']\n\
         s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.set_proxy(socks.SOCKS5, '{PROXY}', 1080, True, 'bob', '{PASSWORD}')\n{QUERY}"
    );
    let mut client = case.clients.command(PYTHON);
    answered(&case, client.args(["-c", &script]), 2);
}

#[test]
fn a_program_under_socksify_asks_a_dns_server() {
    let Some(case) = Case::start() else { return };
    let _names = names(&case);
    let script = format!(
        "import socket\nHOSTS = ['198.51.100.2']\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n{QUERY}"
    );
    let mut client = case.socksify();
    answered(&case, client.args([PYTHON, "-c", &script]), 1);
}
