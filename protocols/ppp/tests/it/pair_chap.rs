//! CHAP and MS-CHAPv2 between a server and a client, in virtual time.

use crate::harness::{Impairment, Pair, carrier, grants, login};
use sluice_auth::chap::{authenticator_response, chap_response, nt_hash, nt_hash_hash, nt_response};
use sluice_auth::{
    AuthRequest, Coverage, Credentials, Method, Proof, RejectReason, Secret, SessionKeys, Verdict, Verifiable,
};
use sluice_ppp::{AuthProtocol, PppConfig};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const PASSWORD: &str = "hunter2";

pub(crate) fn verifiable() -> Verifiable {
    Method::ALL
        .into_iter()
        .fold(Verifiable::none(), |all, method| all.with(method, Coverage::All))
}

/// What a backend says that knows the password.
pub(crate) fn judge(request: &AuthRequest, password: &str) -> Verdict {
    let password = Secret::new(password);
    let name = request.credentials.identity().as_str().as_bytes();
    let proof = match &request.credentials {
        Credentials::Pap { password: given, .. } => (*given == password).then(Proof::default),
        Credentials::Chap {
            id,
            challenge,
            response,
            ..
        } => (chap_response(*id, &password, challenge) == **response).then(Proof::default),
        Credentials::MsChapV2 { exchange, .. } => {
            let hash = nt_hash(&password).unwrap();
            let wanted = nt_response(&hash, &exchange.peer_challenge, &exchange.challenge, name);
            (wanted == exchange.nt_response).then(|| {
                let hash_hash = nt_hash_hash(&hash);
                let answer = authenticator_response(
                    &hash_hash,
                    &exchange.nt_response,
                    &exchange.peer_challenge,
                    &exchange.challenge,
                    name,
                );
                Proof {
                    authenticator_response: Some(answer),
                    keys: Some(Box::new(SessionKeys::of_mschap(
                        &hash_hash,
                        &exchange.nt_response,
                    ))),
                }
            })
        }
        Credentials::Certificate { .. } => Some(Proof::default()),
        Credentials::Gssapi { .. } => None,
    };
    match proof {
        Some(proof) => Verdict::Accept {
            grants: Box::new(grants()),
            proof,
        },
        None => Verdict::Reject(RejectReason::BadCredentials),
    }
}

fn pair(seed: u64, method: AuthProtocol, config: PppConfig) -> Pair {
    let client = PppConfig {
        auth_methods: vec![method],
        ..PppConfig::default()
    };
    let mut at = carrier();
    at.verifiable = verifiable();
    let mut pair = Pair::on(seed, config, client, login(), at);
    pair.password = Some(PASSWORD);
    pair
}

fn count(pair: &Pair, words: &str) -> usize {
    pair.trace.iter().filter(|line| line.contains(words)).count()
}

#[test]
fn each_method_lets_the_right_password_in() {
    for method in AuthProtocol::ALL {
        let mut pair = pair(1, method, PppConfig::default());
        pair.start();
        assert!(pair.run(SECOND, Pair::both_up), "{method:?}\n{}", pair.tail());
        assert_eq!(pair.said[0].asked, 1);
        for end in 0..2 {
            let facts = pair.links[end].facts();
            assert!(
                facts
                    .iter()
                    .any(|fact| fact.name == "auth" && fact.value == method.as_str())
            );
        }
        assert!(!pair.trace.iter().any(|line| line.contains(PASSWORD)));
        let [server, client] = [0, 1].map(|end: usize| pair.links[end].session_keys().cloned());
        let makes_keys = matches!(method, AuthProtocol::MsChapV2 | AuthProtocol::Eap);
        assert_eq!(server.is_some(), makes_keys);
        assert_eq!(server, client.map(SessionKeys::of_peer));
    }
}

#[test]
fn a_wrong_password_is_refused_by_each_method() {
    for method in AuthProtocol::ALL {
        let mut pair = pair(2, method, PppConfig::default());
        pair.password = Some("another");
        pair.start();
        assert!(
            pair.run(10 * SECOND, Pair::both_down),
            "{method:?}\n{}",
            pair.tail()
        );
        assert_eq!(pair.said[0].code(), Some("auth_rejected"));
        assert_eq!(pair.said[1].code(), Some("login_rejected"));
        assert_eq!(pair.said[0].ups + pair.said[1].ups, 0);
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    let mut pair = pair(3, AuthProtocol::MsChapV2, PppConfig::default());
    pair.password = None;
    pair.verdict = Verdict::Accept {
        grants: Box::new(grants()),
        proof: Proof {
            authenticator_response: Some(format!("S={}", "00".repeat(20))),
            keys: None,
        },
    };
    pair.start();
    assert!(pair.run(10 * SECOND, Pair::both_down), "{}", pair.tail());
    assert_eq!(pair.said[1].code(), Some("peer_not_genuine"));
    assert_eq!(pair.said[1].ups, 0);
}

#[test]
fn peers_are_challenged_again_and_never_by_the_same_challenge() {
    for method in [AuthProtocol::Chap, AuthProtocol::MsChapV2] {
        let config = PppConfig {
            chap_rechallenge: true,
            ..PppConfig::default()
        };
        let mut pair = pair(4, method, config);
        pair.start();
        assert!(pair.run(SECOND, Pair::both_up), "{}", pair.tail());
        pair.run(3600 * SECOND, |_| false);
        // An hour has 6 to 12 of 300 to 600 seconds, and there was the first.
        let challenges = count(&pair, "server: CHAP");
        assert!((6..=13).contains(&pair.said[0].asked), "{challenges}");
        assert!(pair.both_up(), "{}", pair.tail());
        assert_eq!(pair.said[0].ups, 1);
        // From now on the password is another one.
        pair.password = Some("another");
        assert!(pair.run(700 * SECOND, Pair::both_down), "{}", pair.tail());
        assert_eq!(pair.said[0].code(), Some("auth_rejected"));
        let values: BTreeSet<_> = pair.challenges.iter().collect();
        assert_eq!(values.len(), pair.challenges.len());
        assert!(values.len() >= 7);
    }
}

#[test]
fn who_passes_no_judgement_again_stays() {
    for reason in [RejectReason::Unavailable, RejectReason::Throttled] {
        let config = PppConfig {
            chap_rechallenge: true,
            ..PppConfig::default()
        };
        let mut pair = pair(5, AuthProtocol::Chap, config);
        pair.start();
        assert!(pair.run(SECOND, Pair::both_up), "{}", pair.tail());
        pair.password = None;
        pair.verdict = Verdict::Reject(reason);
        pair.run(2000 * SECOND, |_| false);
        assert!(pair.both_up(), "{}", pair.tail());
        assert!(pair.said[0].asked >= 3);
    }
}

#[test]
fn an_impaired_path_loses_nobody() {
    for method in [AuthProtocol::Chap, AuthProtocol::MsChapV2] {
        for seed in 0..60 {
            let mut pair = pair(100 + seed, method, PppConfig::default());
            pair.impairment = Impairment {
                loss: 10,
                duplication: 20,
                reordering: 20,
            };
            pair.start();
            let settled = pair.run(180 * SECOND, |pair| {
                pair.said.iter().all(|said| said.path.is_some())
            });
            assert!(settled, "{method:?} seed {seed}\n{}", pair.tail());
        }
    }
}

#[test]
fn a_restart_forgets_no_challenge_to_come() {
    let config = PppConfig {
        chap_rechallenge: true,
        ..PppConfig::default()
    };
    let mut pair = pair(6, AuthProtocol::MsChapV2, config);
    pair.start();
    assert!(pair.run(SECOND, Pair::both_up), "{}", pair.tail());
    pair.run(100 * SECOND, |_| false);
    pair.restart_server();
    pair.run(600 * SECOND, |_| false);
    assert!(pair.both_up(), "{}", pair.tail());
    assert!(pair.said[0].asked >= 2, "{}", pair.tail());
}
