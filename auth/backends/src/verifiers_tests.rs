//! Logins by CHAP and MS-CHAPv2 against a users file.

use super::*;
use crate::chain::{Answer, Backend, Query};
use crate::credential_cache::{CacheConfig, CredentialCache};
use crate::hash_pool::{HashPool, HashPoolConfig, hash_now};
use crate::local::LocalUsers;
use crate::users_file::UsersFile;
use sluice_auth::chap::{nt_hash, nt_hash_hash};
use sluice_auth::{Argon2Cost, AuthRequest, Coverage, SessionKeys};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

fn identity(name: &str) -> Identity {
    Identity::parse(name.as_bytes()).unwrap()
}

fn users(directory: &Path, kinds: VerifierKinds) -> LocalUsers {
    let path = directory.join("users.toml");
    if !path.exists() {
        UsersFile::create(&path).unwrap();
    }
    let pool = HashPoolConfig {
        threads: 1,
        queue: 10,
        deadline: Duration::from_secs(60),
    };
    let cache = CacheConfig::for_users(10, Duration::from_secs(600));
    let file = tempfile::tempfile().unwrap();
    file.set_len(cache.file_length()).unwrap();
    let keys = KeyRing::open(&directory.join("users.key")).unwrap();
    LocalUsers::new(
        UsersFile::open(&path, vec!["l2tp", "socks"]).unwrap(),
        HashPool::start(pool).unwrap(),
        CredentialCache::open(file, cache).unwrap().0,
    )
    .with_verifiers(Verifiers::new(keys, kinds))
}

/// Adds a user with a hash that is cheap, and the verifiers of its kinds.
fn add(users: &LocalUsers, verifiers: &Verifiers, name: &str, edit: impl FnOnce(&mut User)) {
    let password = Secret::new(PASSWORD);
    let hash = hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &password).unwrap();
    let sealed = verifiers.seal(&identity(name), &hash, &password).unwrap();
    let mut user = User::new(identity(name), hash);
    sealed.give(&mut user);
    edit(&mut user);
    users.file().create_user(&user).unwrap();
}

const BOTH: VerifierKinds = VerifierKinds { chap: true, nt: true };

/// Users: both (all verifiers), nt and chap (one of them), plain (none), gone (disabled), socks (another protocol).
fn full() -> (TempDir, LocalUsers) {
    let directory = tempfile::tempdir().unwrap();
    let users = users(directory.path(), BOTH);
    let with = |kinds| Verifiers::new(KeyRing::open(&directory.path().join("users.key")).unwrap(), kinds);
    add(&users, &with(BOTH), "both", |_| ());
    add(
        &users,
        &with(VerifierKinds {
            nt: true,
            chap: false,
        }),
        "nt",
        |_| (),
    );
    add(
        &users,
        &with(VerifierKinds {
            chap: true,
            nt: false,
        }),
        "chap",
        |_| (),
    );
    add(&users, &with(VerifierKinds::default()), "plain", |_| ());
    add(&users, &with(BOTH), "gone", |user| user.disabled = true);
    add(&users, &with(BOTH), "socks", |user| {
        user.protocols = Some(vec!["socks".to_owned()]);
    });
    users.reload().unwrap();
    (directory, users)
}

fn chap(name: &str, password: &str) -> Credentials {
    let challenge = vec![7; 16];
    Credentials::Chap {
        identity: identity(name),
        id: 9,
        response: Box::new(chap_response(9, &Secret::new(password), &challenge)),
        challenge,
    }
}

fn mschap(name: &str, password: &str) -> Credentials {
    let (challenge, peer_challenge) = ([7; 16], [8; 16]);
    let hash = nt_hash(&Secret::new(password)).unwrap();
    Credentials::MsChapV2 {
        identity: identity(name),
        exchange: Box::new(MsChapExchange {
            challenge,
            peer_challenge,
            nt_response: nt_response(&hash, &peer_challenge, &challenge, name.as_bytes()),
        }),
    }
}

async fn ask(users: &LocalUsers, name: &str, credentials: Credentials) -> Result<Proof, RejectReason> {
    let request = AuthRequest {
        protocol: "l2tp",
        credentials,
        peer: None,
        calling: None,
        called: None,
    };
    let query = Query {
        name,
        realm: None,
        request: &request,
        wall: SystemTime::now(),
    };
    let quick = users.try_cached(&query);
    let answer = users.authenticate(query).await;
    // Only what is right has a quick answer, and it is the same.
    match (&answer, quick) {
        (Answer::Accept(_), quick) => assert_eq!(quick.as_ref(), Some(&answer)),
        (_, quick) => assert_eq!(quick, None),
    }
    match answer {
        Answer::Accept(profile) => {
            assert_eq!(profile.identity.as_str(), name);
            Ok(profile.proof)
        }
        Answer::Reject(reason) => Err(reason),
        Answer::Unavailable => panic!("unavailable"),
    }
}

#[tokio::test]
async fn each_method_is_checked_against_what_the_user_has() {
    use RejectReason::*;
    let (_directory, users) = full();
    for (name, by_chap, by_mschap) in [
        ("both", Ok(()), Ok(())),
        ("nt", Err(NoVerifier), Ok(())),
        ("chap", Ok(()), Ok(())),
        ("plain", Err(NoVerifier), Err(NoVerifier)),
        ("gone", Err(Disabled), Err(Disabled)),
        ("socks", Err(NotPermitted), Err(NotPermitted)),
        ("nobody", Err(BadCredentials), Err(BadCredentials)),
    ] {
        assert_eq!(
            ask(&users, name, chap(name, PASSWORD)).await.map(drop),
            by_chap,
            "{name}"
        );
        assert_eq!(
            ask(&users, name, mschap(name, PASSWORD)).await.map(drop),
            by_mschap,
            "{name}"
        );
    }
    for name in ["both", "chap", "gone", "socks"] {
        assert_eq!(ask(&users, name, chap(name, "wrong")).await, Err(BadCredentials));
        assert_eq!(
            ask(&users, name, mschap(name, "wrong")).await,
            Err(BadCredentials)
        );
    }
    // An answer under another name than is looked up, as with a realm that is stripped.
    let proof = ask(&users, "both", mschap("DOMAIN\\both@isp.example", PASSWORD))
        .await
        .unwrap();
    assert!(proof.authenticator_response.unwrap().starts_with("S="));
    let hash = nt_hash(&Secret::new(PASSWORD)).unwrap();
    let credentials = mschap("DOMAIN\\both@isp.example", PASSWORD);
    let Credentials::MsChapV2 { exchange, .. } = credentials else {
        panic!("not MS-CHAPv2");
    };
    let keys = SessionKeys::of_mschap(&nt_hash_hash(&hash), &exchange.nt_response);
    assert_eq!(proof.keys, Some(Box::new(keys)));
}

#[tokio::test]
async fn methods_are_offered_as_far_as_users_have_verifiers() {
    let coverage = |users: &LocalUsers| {
        [sluice_auth::Method::MsChapV2, Method::Chap, Method::Pap].map(|m| users.verifiable().coverage(m))
    };
    let directory = tempfile::tempdir().unwrap();
    let users = users(
        directory.path(),
        VerifierKinds {
            nt: true,
            chap: false,
        },
    );
    assert_eq!(coverage(&users), [Coverage::None, Coverage::None, Coverage::All]);
    users
        .create_user(identity("a"), Secret::new(PASSWORD), |_| ())
        .await
        .unwrap();
    assert_eq!(coverage(&users), [Coverage::All, Coverage::None, Coverage::All]);
    let verifiers = Verifiers::new(
        KeyRing::open(&directory.path().join("users.key")).unwrap(),
        VerifierKinds::default(),
    );
    add(&users, &verifiers, "b", |_| ());
    assert_eq!(coverage(&users), [Coverage::Some, Coverage::None, Coverage::All]);
    // Who is locked out does not count.
    users.update_user("b", |user| user.disabled = true).unwrap();
    assert_eq!(coverage(&users), [Coverage::All, Coverage::None, Coverage::All]);
    let (_other, full) = full();
    assert_eq!(coverage(&full), [Coverage::Some, Coverage::Some, Coverage::All]);
}

#[tokio::test]
async fn verifiers_go_with_their_password() {
    let directory = tempfile::tempdir().unwrap();
    let users_both = users(directory.path(), BOTH);
    users_both
        .create_user(identity("a"), Secret::new(PASSWORD), |_| ())
        .await
        .unwrap();
    let text = std::fs::read_to_string(directory.path().join("users.toml")).unwrap();
    assert!(
        text.contains("chap = \"enc:v1:") && text.contains("nt_hash = \"enc:v1:"),
        "{text}"
    );
    assert!(!text.contains(PASSWORD));
    users_both
        .set_password("a", Secret::new("battery staple"))
        .await
        .unwrap();
    for (password, result) in [
        (PASSWORD, Err(RejectReason::BadCredentials)),
        ("battery staple", Ok(())),
    ] {
        assert_eq!(ask(&users_both, "a", chap("a", password)).await.map(drop), result);
        assert_eq!(
            ask(&users_both, "a", mschap("a", password)).await.map(drop),
            result
        );
    }
    // A hash that was set by hand leaves them behind, and they are of no use.
    let hash = hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new("third")).unwrap();
    users_both
        .update_user("a", |user| user.password = Arc::new(hash))
        .unwrap();
    let answer = ask(&users_both, "a", chap("a", "battery staple")).await;
    assert_eq!(answer, Err(RejectReason::NoVerifier));
    drop(users_both);
    // Kinds that are configured no more go away with the next password.
    let users_none = users(directory.path(), VerifierKinds::default());
    users_none.set_password("a", Secret::new(PASSWORD)).await.unwrap();
    let text = std::fs::read_to_string(directory.path().join("users.toml")).unwrap();
    assert!(!text.contains("enc:v1:"), "{text}");
}

#[tokio::test]
async fn verifiers_without_their_key_prove_nothing() {
    let (directory, users_full) = full();
    drop(users_full);
    std::fs::rename(directory.path().join("users.key"), directory.path().join("away")).unwrap();
    let users = users(directory.path(), BOTH);
    let answer = ask(&users, "both", mschap("both", PASSWORD)).await;
    assert_eq!(answer, Err(RejectReason::NoVerifier));
    std::fs::rename(directory.path().join("away"), directory.path().join("users.key")).unwrap();
    users.reload().unwrap();
    assert!(ask(&users, "both", mschap("both", PASSWORD)).await.is_ok());
}
