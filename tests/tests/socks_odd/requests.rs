//! The table of greetings, logins and requests: each with its exact answer.

use crate::case::{Case, PASSWORD, SILENT, STRANGER, TRUSTED, Wanted, at, by_name, login, read, request};
use std::io::Write;
use std::net::SocketAddr;

/// What a client gets where none of its methods may be used.
const NO_METHOD: &[u8] = &[5, 0xff];

#[test]
fn first_octets_of_other_protocols_are_closed_without_an_octet() {
    let Some(case) = Case::start() else { return };
    let strange: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT web.test:80 HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3],
        &[0],
        &[6, 1, 0],
    ];
    for said in strange {
        assert_eq!(case.answer(TRUSTED, said), b"", "{said:?}");
    }
    case.wait_dropped("bad_version", strange.len() as u64);
    case.calm();
}

#[test]
fn the_server_picks_of_the_methods_offered_or_none() {
    let Some(case) = Case::start() else { return };
    let all: Vec<u8> = [5, 255].into_iter().chain(0..=254).collect();
    // No methods at all, only unknown ones, one of the gateway's that is not there, one that this client may not use.
    let refused = [
        vec![5, 0],
        vec![5, 3, 0x80, 0xfe, 3],
        vec![5, 1, 1],
        vec![5, 1, 0],
        vec![5, 1, 0xff],
    ];
    for greeting in &refused {
        assert_eq!(case.answer(STRANGER, greeting), NO_METHOD, "{greeting:?}");
    }
    case.wait_counted("no_acceptable_method", refused.len() as u64);
    for (from, greeting, method) in [
        (TRUSTED, vec![5, 1, 0], 0),
        (TRUSTED, vec![5, 4, 0, 0, 2, 2], 2),
        (TRUSTED, all.clone(), 2),
        (STRANGER, all, 2),
        (STRANGER, vec![5, 3, 0x80, 1, 2], 2),
    ] {
        let mut client = case.client(from);
        client.write_all(&greeting).unwrap();
        assert_eq!(read(&mut client, 2), [5, method], "{greeting:?}");
    }
    case.wait_counted("client_gone", 5);
    case.calm();
}

#[test]
fn logins_that_are_none_and_logins_that_are_wrong_get_the_same_answer() {
    let Some(case) = Case::start() else { return };
    let long = [b'a'; 255];
    let correct = login(b"bob", PASSWORD.as_bytes());
    let wrong = [
        [&[5][..], &correct[1..]].concat(),
        login(b"", b""),
        login(b"bob", b""),
        login(b"", PASSWORD.as_bytes()),
        login(b"bob", b"wrong"),
        login(b"nobody", b"wrong"),
        login(&long, &long),
        login(b"bob\0", PASSWORD.as_bytes()),
        login(&[0xff, 0xfe], &[0x80, 0]),
    ];
    for login in &wrong {
        let said = [&[5, 1, 2][..], login].concat();
        assert_eq!(case.answer(STRANGER, &said), [5, 2, 1, 1], "{login:?}");
    }
    case.wait_counted("auth_failed", wrong.len() as u64);
    let said = [&[5, 1, 2][..], &correct, &request(1, at([127, 0, 0, 1], 9))].concat();
    assert_eq!(case.answer(STRANGER, &said)[..6], [5, 2, 1, 0, 5, 5]);
    case.calm();
    assert!(!case.gateway.log().contains(PASSWORD));
}

#[test]
fn passwords_of_255_octets_work() {
    let Some(case) = Case::start() else { return };
    let (name, password) = ("n".repeat(60), "p".repeat(255));
    case.gateway.add_user(&name, &password);
    let login = login(name.as_bytes(), password.as_bytes());
    let said = [&[5, 1, 2][..], &login, &request(1, at([127, 0, 0, 1], 9))].concat();
    assert_eq!(case.answer(STRANGER, &said)[..6], [5, 2, 1, 0, 5, 5]);
    case.calm();
}

#[test]
fn each_failure_has_its_code() {
    let Some(case) = Case::start() else { return };
    let six: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:9".parse().unwrap();
    let mapped_denied: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
    let table = [
        ("refused", request(1, at([127, 0, 0, 1], 9)), 5),
        ("no route", request(1, at([203, 0, 113, 1], 80)), 3),
        ("no route for IPv6", request(1, six), 3),
        ("no host", request(1, at([192, 0, 2, 1], 80)), 4),
        ("forbidden by a router", request(1, at([192, 0, 2, 2], 80)), 2),
        ("silent", request(1, at(SILENT, 80)), 6),
        ("denied by a rule", request(1, at([127, 0, 0, 66], 80)), 2),
        ("denied as private", request(1, at([10, 1, 2, 3], 80)), 2),
        ("denied as metadata", request(1, at([169, 254, 169, 254], 80)), 2),
        ("denied by what the name has", by_name(b"private.test", 80), 2),
        ("denied, found by a name", by_name(b"metadata.test", 80), 2),
        ("no such name", by_name(b"none.test", 80), 4),
        ("a DNS server that fails", by_name(b"broken.test", 80), 4),
        ("a DNS server that is silent", by_name(b"silent.test", 80), 4),
        ("port 0", request(1, at([127, 0, 0, 1], 0)), 1),
        ("port 0 of a name", by_name(b"web.test", 0), 1),
        ("mapped", request(1, mapped), 5),
        ("mapped and denied", request(1, mapped_denied), 2),
        ("another version", vec![4, 1, 0, 1, 127, 0, 0, 1, 0, 9], 1),
        ("command 0", vec![5, 0, 0, 1, 127, 0, 0, 1, 0, 9], 7),
        ("command 4", vec![5, 4, 0, 1, 127, 0, 0, 1, 0, 9], 7),
        (
            "RESOLVE",
            [&[5, 0xf0][..], &by_name(b"web.test", 0)[2..]].concat(),
            7,
        ),
        ("address type 0", vec![5, 1, 0, 0, 127, 0, 0, 1, 0, 9], 8),
        ("address type 2", vec![5, 1, 0, 2, 127, 0, 0, 1, 0, 9], 8),
        ("address type 255", vec![5, 1, 0, 255], 8),
    ];
    let mut expected = [0_u64; 9];
    for (what, request, code) in &table {
        assert_eq!(case.code(request), *code, "{what}");
        expected[usize::from(*code)] += 1;
    }
    for (code, times) in expected.into_iter().enumerate().skip(1) {
        case.wait_counted(&format!("reply_0{code}"), times);
    }
    case.calm();
}

#[test]
fn an_answer_has_the_address_that_the_target_sees() {
    let Some(case) = Case::start() else { return };
    for (place, kind, length) in [("127.0.0.1:0", 1, 4), ("[::1]:0", 4, 16)] {
        let (listener, target) = case.listen(place);
        // RSV may be anything.
        let said = [&[5, 1, 0, 5, 1, 7][..], &request(1, target)[3..]].concat();
        let mut client = case.client(TRUSTED);
        client.write_all(&said).unwrap();
        let answer = read(&mut client, 2 + 4 + length + 2);
        assert_eq!(answer[..6], [5, 0, 5, 0, 0, kind], "{answer:?}");
        let (_, seen) = listener.accept().unwrap();
        assert_eq!(answer[2..], [&[5, 0, 0][..], &request(1, seen)[3..]].concat());
    }
    case.calm();
}

#[test]
fn what_names_no_host_is_refused_and_never_looked_up() {
    let Some(case) = Case::start() else { return };
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", &label[..61]);
    assert_eq!(longest.len(), 253);
    let refused: [Vec<u8>; 15] = [
        b"".to_vec(),
        b"web.test\0.example".to_vec(),
        b"\0".to_vec(),
        format!("{longest}a").into_bytes(),
        format!("{longest}aa").into_bytes(),
        vec![b'a'; 255],
        b"0x7f.1".to_vec(),
        b"2130706433".to_vec(),
        b"127.1".to_vec(),
        b"0177.0.0.1".to_vec(),
        b"127.0.0.1:80".to_vec(),
        b"[::1".to_vec(),
        b"fe80::1%lo".to_vec(),
        b"a b.test".to_vec(),
        b"\xff\xfe.test".to_vec(),
    ];
    for name in &refused {
        let shown = String::from_utf8_lossy(name).into_owned();
        assert_eq!(case.code(&by_name(name, 80)), 4, "{shown:?}");
    }
    let names = case.names.as_ref().unwrap();
    assert_eq!(names.asked(), Vec::<String>::new());
    // Addresses written as names are addresses before any rule sees them.
    for (name, code) in [
        ("127.0.0.1", 5),
        ("::1", 5),
        ("[::1]", 5),
        ("::ffff:127.0.0.1", 5),
        ("127.0.0.66", 2),
        ("::ffff:127.0.0.66", 2),
        ("10.1.2.3", 2),
    ] {
        assert_eq!(case.code(&by_name(name.as_bytes(), 9)), code, "{name}");
    }
    assert_eq!(names.asked(), Vec::<String>::new());
    // The longest name that there can be, and one with a dot at its end, are looked up.
    assert_eq!(case.code(&by_name(longest.as_bytes(), 80)), 4);
    assert_eq!(case.code(&by_name(b"WEB.test.", 9)), 5);
    assert_eq!(case.code(&by_name(b"six.test", 9)), 5);
    for name in [&longest, "web.test", "six.test"] {
        assert!(names.asked().iter().any(|asked| asked == name), "{name}");
    }
    case.calm();
}

#[test]
fn socks4_has_one_code_for_what_fails() {
    let Some(case) = Case::start() else { return };
    let v4 = |command: u8, ip: [u8; 4], port: u16, rest: &[u8]| {
        [&[4, command][..], &port.to_be_bytes(), &ip, rest].concat()
    };
    let long = [&[b'u'; 256][..], &[0]].concat();
    let long_name = [&[0][..], &[b'n'; 256], &[0]].concat();
    let table = [
        ("refused", v4(1, [127, 0, 0, 1], 9, b"me\0")),
        ("refused, without a user", v4(1, [127, 0, 0, 1], 9, b"\0")),
        ("no route", v4(1, [203, 0, 113, 1], 80, b"\0")),
        ("no host", v4(1, [192, 0, 2, 1], 80, b"\0")),
        ("silent", v4(1, SILENT, 80, b"\0")),
        ("denied", v4(1, [127, 0, 0, 66], 80, b"\0")),
        ("no such name", v4(1, [0, 0, 0, 1], 80, b"\0none.test\0")),
        ("a name of IPv6 alone", v4(1, [0, 0, 0, 1], 9, b"\0six.test\0")),
        ("an empty name", v4(1, [0, 0, 0, 1], 80, b"\0\0")),
        ("an odd address", v4(1, [0, 0, 0, 1], 80, b"\x002130706433\0")),
        ("no address", v4(1, [0, 0, 0, 0], 80, b"\0")),
        ("port 0", v4(1, [127, 0, 0, 1], 0, b"\0")),
        ("command 3", v4(3, [127, 0, 0, 1], 9, b"\0")),
        ("command 0", v4(0, [127, 0, 0, 1], 9, b"\0")),
        ("a long user", v4(1, [127, 0, 0, 1], 9, &long)),
        ("a long name", v4(1, [0, 0, 0, 1], 9, &long_name)),
    ];
    for (what, said) in &table {
        let answer = case.answer(TRUSTED, said);
        assert_eq!(answer.get(..2), Some(&[0, 0x5b][..]), "{what}: {answer:?}");
        assert_eq!(answer.len(), 8, "{what}: {answer:?}");
    }
    // Who must authenticate cannot do so here.
    let answer = case.answer(STRANGER, &v4(1, [127, 0, 0, 1], 9, b"bob\0"));
    assert_eq!(answer[..2], [0, 0x5b]);
    case.wait_counted("socks4_auth_required", 1);
    case.wait_counted("reply_5b", table.len() as u64 + 1);
    case.calm();
}

#[test]
fn ipv6_targets_have_a_code_of_their_own_where_ipv6_is_off() {
    let wanted = Wanted {
        egress: "ipv6 = false",
        ..Wanted::default()
    };
    let Some(case) = Case::with(&wanted) else { return };
    assert_eq!(case.code(&request(1, "[::1]:9".parse().unwrap())), 8);
    assert_eq!(case.code(&by_name(b"::1", 9)), 8);
    assert_eq!(case.code(&by_name(b"six.test", 9)), 3);
    case.calm();
}
