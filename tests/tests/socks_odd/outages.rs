//! What the gateway needs of others is not there: each request is told so, and all is well again by itself.

use crate::case::{Case, DNS, NAMES, PATIENCE, TRUSTED, Wanted, at, by_name, finish, read, request, to_end};
use sluice_tests::rig::{Names, wait_for};
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn without_a_dns_server_names_are_unreachable_and_addresses_are_not() {
    let Some(mut case) = Case::start() else { return };
    case.names = None;
    for _ in 0..5 {
        assert_eq!(case.code(&by_name(b"web.test", 9)), 4);
        assert_eq!(case.code(&request(1, at([127, 0, 0, 1], 9))), 5);
    }
    case.wait_counted("reply_04", 5);
    case.names = Some(Names::serve(&case.namespace, DNS.parse().unwrap(), NAMES));
    wait_for("names to be known again", PATIENCE, || {
        (case.code(&by_name(b"web.test", 9)) == 5).then_some(())
    });
    case.calm();
}

/// A proxy, and where it leads to.
const UPSTREAM: &str = r#"
[[upstream]]
name = "other"
protocol = "socks5"
servers = ["127.0.0.70:1081"]

[[rule]]
name = "through"
action = "allow"
destinations = ["127.0.0.71/32"]
upstream = "other"
"#;

/// Takes one client, lets it through and says what it says.
fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let methods = read(&mut stream, 2)[1];
    read(&mut stream, methods.into());
    stream.write_all(&[5, 0]).unwrap();
    assert_eq!(read(&mut stream, 10), request(1, at([127, 0, 0, 71], 80)));
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    stream.write_all(&said).unwrap();
}

#[test]
fn without_its_upstream_a_target_fails_and_others_do_not() {
    let wanted = Wanted {
        rest: UPSTREAM,
        ..Wanted::default()
    };
    let Some(case) = Case::with(&wanted) else { return };
    let through = request(1, at([127, 0, 0, 71], 80));
    // Often enough for the gateway to leave it alone for a while.
    for _ in 0..4 {
        assert_eq!(case.code(&through), 1);
        assert_eq!(case.code(&request(1, at([127, 0, 0, 1], 9))), 5);
    }
    case.wait_counted("reply_01", 4);
    let (listener, _) = case.listen("127.0.0.70:1081");
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener));
        let said = [&[5, 1, 0][..], &through].concat();
        let mut client = wait_for("the upstream to be used again", PATIENCE, || {
            let mut client = case.client(TRUSTED);
            client.write_all(&said).unwrap();
            (read(&mut client, 12)[3] == 0).then_some(client)
        });
        client.write_all(b"echo").unwrap();
        finish(&client);
        assert_eq!(to_end(&mut client).unwrap(), b"echo");
    });
    case.calm();
}
