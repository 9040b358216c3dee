//! CHAP, MS-CHAPv2 and EAP with pppd, and what users' credentials allow.

use crate::case::{Case, PASSWORD, POOL, config, dial, ping};
use sluice_tests::rig::{Guest, Xl2tpd};

/// New passwords are kept for all methods.
const VERIFIERS: &str = "\n[users]\nverifiers = [\"argon2id\", \"chap\", \"nt\"]\n";

/// Alice dials, and proves who she is by one method only, by pppd's name for it.
fn only(method: &'static str) -> Xl2tpd {
    let all = ["pap", "chap", "mschap", "mschap-v2", "eap"];
    Xl2tpd {
        refuses: all.into_iter().filter(|other| *other != method).collect(),
        ..dial("alice")
    }
}

/// What the one session says of how its user came in.
#[track_caller]
fn came_in_by(case: &Case) -> String {
    let session = case.gateway.wait_session();
    let shown = case
        .gateway
        .json(&["sessions", "show", session["id"].as_str().unwrap()]);
    shown["facts"]["auth"]
        .as_str()
        .unwrap_or_else(|| panic!("{shown}"))
        .to_owned()
}

/// A user dials with a wrong password, and pppd says so.
#[track_caller]
fn refused(guest: &mut Guest, dial: &Xl2tpd) {
    dial.start(guest);
    Xl2tpd::wait_hung_up(guest, 20);
    let log = guest.read("pppd.log");
    assert!(log.contains("CHAP authentication failed"), "{log}");
    assert_eq!(guest.must("wc -l </run/ip-up").trim(), "0");
    Xl2tpd::stop(guest);
}

#[test]
fn clients_prove_themselves_by_the_method_they_know() {
    let Some(mut case) = Case::start(&config("", &format!("{POOL}{VERIFIERS}"))) else {
        return;
    };
    let mut guest = case.guest(50);
    for (method, name) in [("mschap-v2", "mschapv2"), ("chap", "chap"), ("pap", "pap")] {
        let link = only(method).connect(&mut guest);
        ping(&mut guest, &link.remote.to_string());
        assert_eq!(came_in_by(&case), name);
        let session = case.gateway.wait_session();
        Xl2tpd::stop(&mut guest);
        case.gateway.wait_ended(&session);
    }
    for method in ["mschap-v2", "chap"] {
        let wrong = Xl2tpd {
            password: "wrong battery".to_owned(),
            ..only(method)
        };
        refused(&mut guest, &wrong);
    }
    // MS-CHAP version 1 alone: there is nothing in common.
    only("mschap").start(&mut guest);
    Xl2tpd::wait_hung_up(&mut guest, 20);
    assert_eq!(guest.must("wc -l </run/ip-up").trim(), "0");
    Xl2tpd::stop(&mut guest);

    let users = std::fs::read_to_string(case.gateway.directory().join("state/users.toml")).unwrap();
    assert!(users.contains("enc:v1:") && !users.contains(PASSWORD));
    let log = case.gateway.log();
    for password in ["wrong battery", PASSWORD] {
        assert!(!log.contains(password), "a password is in the log");
    }
    let recorded = case.end();
    // The first that the gateway asks for is the strongest that everybody can be checked by.
    let first = recorded.must(0, "lcp.opt.auth_protocol && ppp.code == 1 && ip.src == 10.99.0.1");
    assert!(!first.is_empty());
    recorded.must(0, "chap.code == 3 && ip.src == 10.99.0.1");
    recorded.must(0, "chap.code == 4 && ip.src == 10.99.0.1");
}

#[test]
fn clients_prove_themselves_by_eap() {
    let methods = "[listener.l2tp.ppp]\nauth_methods = [\"eap\"]\neap_methods = [\"md5\"]";
    for (chosen, packets) in [("", "eap.type == 26"), (methods, "eap.type == 4")] {
        let Some(mut case) = Case::start(&config(chosen, &format!("{POOL}{VERIFIERS}"))) else {
            return;
        };
        let mut guest = case.guest(50);
        let link = only("eap").connect(&mut guest);
        ping(&mut guest, &link.remote.to_string());
        assert_eq!(came_in_by(&case), "eap");
        let session = case.gateway.wait_session();
        Xl2tpd::stop(&mut guest);
        case.gateway.wait_ended(&session);
        let wrong = Xl2tpd {
            password: "wrong battery".to_owned(),
            ..only("eap")
        };
        wrong.start(&mut guest);
        Xl2tpd::wait_hung_up(&mut guest, 20);
        let log = guest.read("pppd.log");
        assert!(log.contains("EAP: peer reports authentication failure"), "{log}");
        Xl2tpd::stop(&mut guest);
        let recorded = case.end();
        recorded.must(0, packets);
        recorded.must(0, "eap.code == 3 && ip.src == 10.99.0.1");
        recorded.must(0, "eap.code == 4 && ip.src == 10.99.0.1");
    }
}

#[test]
fn what_users_have_decides_what_is_offered_and_policy_what_is_allowed() {
    let only_mschap = "[listener.l2tp.ppp]\nauth_methods = [\"mschapv2\"]";
    // Nobody has a verifier: MS-CHAPv2 is asked for all the same, since nothing else is allowed, and fails.
    let Some(mut case) = Case::start(&config(only_mschap, POOL)) else {
        return;
    };
    let mut guest = case.guest(50);
    let any = Xl2tpd {
        refuses: Vec::new(),
        ..dial("alice")
    };
    refused(&mut guest, &any);
    let recorded = case.end();
    assert!(
        recorded.found(0, "pap").is_empty(),
        "a password went over the wire"
    );

    // Users that are kept for Argon2id alone are asked for PAP, whatever else the client speaks.
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let mut guest = case.guest(51);
    let link = any.connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    assert_eq!(came_in_by(&case), "pap");
    Xl2tpd::stop(&mut guest);
    case.end().must(0, "pap.code == 2");
}

/// Makes an authority, and certificates of the gateway, of alice and of a stranger, by openssl.
fn certificates(directory: &std::path::Path) {
    let script = r#"
        set -e
        new() { openssl req -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout $1.key -out $1.csr; }
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout ca.key -out ca.pem -days 30
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=alice -keyout stranger.key -out stranger.pem -days 30
        for name in gw alice; do
            new $name $name
            printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:%s\n' $name >$name.ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile $name.ext -out $name.pem
        done
        chmod 644 *.key"#;
    let made = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn a_certificate_lets_its_user_in() {
    let files = tempfile::tempdir().unwrap();
    let tables = format!(
        "{POOL}\n[users]\ntls_certificate = \"{0}/gw.pem\"\ntls_key = \"{0}/gw.key\"\ntls_client_ca = \"{0}/ca.pem\"\n",
        files.path().display()
    );
    certificates(files.path());
    let only_eap = "[listener.l2tp.ppp]\nauth_methods = [\"eap\"]";
    let Some(mut case) = Case::start(&config(only_eap, &tables)) else {
        return;
    };
    let mut guest = case.guest(50);
    for name in ["ca.pem", "alice.pem", "alice.key", "stranger.pem", "stranger.key"] {
        std::fs::copy(files.path().join(name), guest.path(name)).unwrap();
    }
    let with = |name: &str| Xl2tpd {
        ppp: vec![
            "ca /mnt/ca.pem".to_owned(),
            format!("cert /mnt/{name}.pem"),
            format!("key /mnt/{name}.key"),
            "need-peer-eap".to_owned(),
        ],
        ..only("eap")
    };
    let link = with("alice").connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    assert_eq!(came_in_by(&case), "eap");
    let session = case.gateway.wait_session();
    Xl2tpd::stop(&mut guest);
    case.gateway.wait_ended(&session);
    // The name is right, and nobody knows who says so.
    with("stranger").start(&mut guest);
    Xl2tpd::wait_hung_up(&mut guest, 20);
    assert_eq!(guest.must("wc -l </run/ip-up").trim(), "0");
    Xl2tpd::stop(&mut guest);
    assert!(case.gateway.log().contains("the peer's certificate is refused"));
    let recorded = case.end();
    recorded.must(0, "eap.type == 13");
    recorded.must(0, "eap.code == 3 && ip.src == 10.99.0.1");
}
