//! Keys in files, and what is sealed by them.

use super::*;

const BOUND: Bound<'static> = Bound {
    kind: "chap",
    user: "alice",
    password: "$argon2id$one",
};

fn secret() -> Secret {
    Secret::new("correct horse")
}

#[test]
fn the_key_is_made_at_first_need_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.key");
    let ring = KeyRing::open(&path).unwrap();
    assert!(!path.exists());
    let envelope = ring.seal(BOUND, &secret()).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    let written = envelope.to_string();
    assert!(written.starts_with("enc:v1:k") && !format!("{envelope:?}").contains(&written[20..]));
    let read: Envelope = written.parse().unwrap();
    assert_eq!(
        KeyRing::open(&path).unwrap().open_sealed(BOUND, &read),
        Some(secret())
    );
    // The same secret never looks the same.
    assert_ne!(ring.seal(BOUND, &secret()).unwrap(), envelope);
}

#[test]
fn a_sealed_secret_is_of_no_use_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let ring = KeyRing::open(&directory.path().join("users.key")).unwrap();
    let envelope = ring.seal(BOUND, &secret()).unwrap();
    let others = [
        Bound {
            kind: "nt_hash",
            ..BOUND
        },
        Bound { user: "bob", ..BOUND },
        Bound {
            password: "$argon2id$two",
            ..BOUND
        },
    ];
    for other in others {
        assert_eq!(ring.open_sealed(other, &envelope), None, "{other:?}");
    }
    for at in 0..envelope.sealed.len() {
        let mut damaged = envelope.clone();
        damaged.sealed[at] ^= 1;
        assert_eq!(ring.open_sealed(BOUND, &damaged), None);
    }
    let foreign = KeyRing::open(&directory.path().join("other.key")).unwrap();
    foreign.seal(BOUND, &secret()).unwrap();
    assert_eq!(foreign.open_sealed(BOUND, &envelope), None);
}

#[test]
fn a_new_key_seals_and_the_old_one_still_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.key");
    let ring = KeyRing::open(&path).unwrap();
    let old = ring.seal(BOUND, &secret()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let fresh = Base64Unpadded::encode_string(&[7; 32]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("next {fresh}=\n{text}")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let new = ring.seal(BOUND, &secret()).unwrap();
    assert!(new.to_string().starts_with("enc:v1:next:"));
    for envelope in [old, new] {
        assert_eq!(ring.open_sealed(BOUND, &envelope), Some(secret()));
    }
}

#[test]
fn files_that_cannot_be_trusted_are_refused_without_showing_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.key");
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = Base64Unpadded::encode_string(&[7; 32]);
    for mode in [0o644, 0o660, 0o604] {
        write(&format!("a {key}\n"), mode);
        assert!(matches!(KeyRing::open(&path), Err(KeyRingError::Exposed(_))));
    }
    // As systemd hands a credential to a service.
    write(&format!("a {key}\n"), 0o440);
    assert!(KeyRing::open(&path).is_ok());
    for text in [
        "a",
        "a c2VjcmV0",
        &format!("a:b {key}"),
        &format!("a {key}\na {key}"),
    ] {
        write(text, 0o600);
        let Err(error) = KeyRing::open(&path) else {
            panic!("{text}")
        };
        assert!(matches!(error, KeyRingError::Line { .. }), "{error}");
        assert!(!error.to_string().contains("c2VjcmV0") && !error.to_string().contains(&key));
    }
    write(&format!("# one\n\na\t{key}\n"), 0o600);
    assert!(KeyRing::open(&path).is_ok());
}

#[test]
fn nonsense_is_no_envelope() {
    let nonce = "A".repeat(32);
    let sealed = "A".repeat(24);
    assert!(format!("enc:v1:k:{nonce}:{sealed}").parse::<Envelope>().is_ok());
    for text in [
        "",
        "correct horse",
        "enc:v1:",
        &format!("enc:v2:k:{nonce}:{sealed}"),
        &format!("enc:v1::{nonce}:{sealed}"),
        &format!("enc:v1:k:{nonce}A:{sealed}"),
        &format!("enc:v1:k:{nonce}:AAAA"),
        &format!("enc:v1:k:{nonce}:{sealed}:"),
        &format!("enc:v1:k:{nonce}:{}", "A".repeat(8000)),
    ] {
        assert_eq!(text.parse::<Envelope>(), Err(NoEnvelope), "{text}");
    }
}
