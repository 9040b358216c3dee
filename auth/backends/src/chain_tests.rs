use super::*;
use crate::credential_cache::{CacheConfig, CredentialCache};
use crate::hash_pool::{HashPool, HashPoolConfig, hash_now};
use crate::local::{CacheStats, ChangeError, LocalUsers};
use crate::users_file::{UsersError, UsersFile};
use sluice_auth::RejectReason::*;
use sluice_auth::{
    AddressRule, Argon2Cost, Credentials, Identity, ProfileDefaults, Rate, Secret, Unlisted, parse_timestamp,
};
use std::future::poll_fn;
use std::task::Poll;
use tempfile::TempDir;

/// Every answer in order, as backend and result.
#[derive(Default)]
struct Seen(Mutex<Vec<(&'static str, Result<(), RejectReason>)>>);

impl AuthObserver for Seen {
    fn answered(&self, backend: &'static str, _: Method, result: Result<(), RejectReason>, _: Duration) {
        self.0.lock().unwrap().push((backend, result));
    }
}

/// A backend that gives one answer to everything.
struct Fixed {
    name: &'static str,
    verifiable: Verifiable,
    answer: Answer,
}

impl Fixed {
    fn named(name: &'static str, answer: Answer) -> Arc<dyn Backend> {
        Arc::new(Self {
            name,
            verifiable: Verifiable::default(),
            answer,
        })
    }
}

impl Backend for Fixed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn verifiable(&self) -> Verifiable {
        self.verifiable.clone()
    }

    fn authenticate<'a>(&'a self, _: Query<'a>) -> Pending<'a> {
        Box::pin(async { self.answer.clone() })
    }
}

fn identity(name: &str) -> Identity {
    Identity::parse(name.as_bytes()).unwrap()
}

fn accept(name: &str) -> Answer {
    Answer::Accept(Box::new(Profile::new(identity(name))))
}

fn request(name: &str, password: &str) -> AuthRequest {
    AuthRequest {
        protocol: "l2tp",
        credentials: Credentials::Pap {
            identity: identity(name),
            password: Secret::new(password),
        },
        peer: Some("192.0.2.1:1701".parse().unwrap()),
        calling: None,
        called: None,
    }
}

fn noon() -> SystemTime {
    parse_timestamp("2027-01-31T12:00:00Z").unwrap()
}

/// Users bob and old (expired), gone (disabled) and pptp (another protocol only), all with the password "pw".
fn local() -> (TempDir, Arc<LocalUsers>) {
    local_with(|config| HashPool::start(config).unwrap())
}

/// The same with a pool of the caller's making.
fn local_with(pool: impl FnOnce(HashPoolConfig) -> HashPool) -> (TempDir, Arc<LocalUsers>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    let phc = hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new("pw"))
        .unwrap()
        .to_phc();
    let entry =
        |name: &str, more: &str| format!("[[user]]\nname = \"{name}\"\npassword = \"{phc}\"\n{more}\n");
    let text = [
        entry("bob", ""),
        entry("old", "expires = \"2020-01-01\""),
        entry("gone", "disabled = true"),
        entry("pptp", "protocols = [\"pptp\"]"),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let config = HashPoolConfig {
        threads: 1,
        queue: 100,
        deadline: Duration::from_secs(60),
    };
    let cache = CredentialCache::open(
        tempfile::tempfile().unwrap(),
        CacheConfig::for_users(100, Duration::from_secs(600)),
    );
    let local = LocalUsers::new(
        UsersFile::open(&path, vec!["l2tp", "pptp"]).unwrap(),
        pool(config),
        cache.unwrap().0,
    );
    (directory, Arc::new(local))
}

fn front(backends: Vec<Arc<dyn Backend>>, config: AuthenticatorConfig) -> (Authenticator, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Authenticator::new(backends, config, seen.clone()), seen)
}

fn prompt() -> AuthenticatorConfig {
    AuthenticatorConfig {
        failure_delay: Duration::ZERO,
        ..AuthenticatorConfig::default()
    }
}

async fn reason(front: &Authenticator, name: &str, password: &str) -> Option<RejectReason> {
    front
        .authenticate(&request(name, password), Instant::now(), noon())
        .await
        .err()
}

#[tokio::test]
async fn local_users_are_told_apart_only_when_their_password_is_right() {
    let (_directory, local) = local();
    let (front, seen) = front(vec![local.clone()], prompt());
    assert_eq!(reason(&front, "bob", "pw").await, None);
    assert_eq!(reason(&front, "bob", "no").await, Some(BadCredentials));
    assert_eq!(reason(&front, "nobody", "pw").await, Some(BadCredentials));
    for (name, refusal) in [("old", Expired), ("gone", Disabled), ("pptp", NotPermitted)] {
        assert_eq!(reason(&front, name, "no").await, Some(BadCredentials));
        assert_eq!(reason(&front, name, "pw").await, Some(refusal));
    }
    assert_eq!(
        seen.0.lock().unwrap()[..2],
        [("file", Ok(())), ("file", Err(BadCredentials))]
    );
}

#[tokio::test]
async fn a_right_password_is_answered_at_once_the_second_time() {
    let (_directory, local) = local();
    let (front, _) = front(vec![local.clone()], prompt());
    let cached = |name, password| front.try_cached(&request(name, password), Instant::now(), noon());
    assert_eq!(cached("bob", "pw"), None);
    assert_eq!(reason(&front, "bob", "pw").await, None);
    assert_eq!(cached("bob", "pw"), Some(Ok(Profile::new(identity("bob")))));
    assert_eq!(cached("bob", "no"), None);
    assert_eq!(cached("nobody", "pw"), None);
    // The slow way knows the short cut as well.
    assert_eq!(reason(&front, "bob", "pw").await, None);
    let stats = CacheStats {
        hits: 2,
        misses: 1,
        ..CacheStats::default()
    };
    assert_eq!(local.cache_stats(), stats);
    // Refusals are never remembered.
    assert_eq!(reason(&front, "old", "pw").await, Some(Expired));
    assert_eq!(cached("old", "pw"), None);
}

#[tokio::test]
async fn changes_of_a_user_take_effect_at_once() {
    let (_directory, local) = local();
    let (front, _) = front(vec![local.clone()], prompt());
    let cached = |password| front.try_cached(&request("bob", password), Instant::now(), noon());
    assert_eq!(reason(&front, "bob", "pw").await, None);
    let changes = local
        .update_user("bob", |bob| bob.profile.mtu = Some(1300))
        .unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(cached("pw"), None, "a changed user is checked in full");
    let profile = front
        .authenticate(&request("bob", "pw"), Instant::now(), noon())
        .await
        .unwrap();
    assert_eq!(profile.mtu, Some(1300));

    assert!(matches!(
        local.set_password("bob", Secret::new("short")).await,
        Err(ChangeError::Weak(_))
    ));
    assert!(
        local
            .set_password("bob", Secret::new("correct horse"))
            .await
            .unwrap()[0]
            .ends_sessions()
    );
    assert_eq!(cached("pw"), None);
    assert_eq!(reason(&front, "bob", "pw").await, Some(BadCredentials));
    assert_eq!(reason(&front, "bob", "correct horse").await, None);

    local.update_user("bob", |bob| bob.disabled = true).unwrap();
    assert_eq!(reason(&front, "bob", "correct horse").await, Some(Disabled));
    local.delete_user("bob").unwrap();
    assert_eq!(reason(&front, "bob", "correct horse").await, Some(BadCredentials));

    let created = local.create_user(identity("eve"), Secret::new("battery staple"), |eve| {
        eve.profile.mtu = Some(1400)
    });
    assert_eq!(created.await.unwrap()[0].name, "eve");
    let profile = front
        .authenticate(&request("eve", "battery staple"), Instant::now(), noon())
        .await
        .unwrap();
    assert_eq!(profile.mtu, Some(1400));
    let again = local
        .create_user(identity("eve"), Secret::new("battery staple"), |_| ())
        .await;
    assert!(matches!(again, Err(ChangeError::Users(UsersError::Exists(_)))));
}

/// Lets a future go on until it waits.
async fn until_it_waits(future: &mut Pin<Box<impl Future>>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_password_changed_while_its_check_waits_does_not_count() {
    let (_directory, local) = local_with(HashPool::with_no_threads);
    let (front, _) = front(vec![local.clone()], prompt());
    let asked = request("bob", "pw");
    let mut answer = Box::pin(front.authenticate(&asked, Instant::now(), noon()));
    until_it_waits(&mut answer).await;
    let other = hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new("other")).unwrap();
    local
        .update_user("bob", |bob| bob.password = Arc::new(other))
        .unwrap();
    local.pool.work_off();
    assert_eq!(answer.await.err(), Some(BadCredentials));
}

#[tokio::test]
async fn unavailable_falls_through_and_reject_never_does() {
    let chain = |first, second| vec![Fixed::named("first", first), Fixed::named("second", second)];
    let (falls, seen) = front(chain(Answer::Unavailable, accept("bob")), prompt());
    assert_eq!(reason(&falls, "bob", "pw").await, None);
    assert_eq!(*seen.0.lock().unwrap(), [("second", Ok(()))]);
    let (stops, seen) = front(chain(Answer::Reject(BadCredentials), accept("bob")), prompt());
    assert_eq!(reason(&stops, "bob", "pw").await, Some(BadCredentials));
    assert_eq!(*seen.0.lock().unwrap(), [("first", Err(BadCredentials))]);
    let (none, _) = front(chain(Answer::Unavailable, Answer::Unavailable), prompt());
    assert_eq!(reason(&none, "bob", "pw").await, Some(Unavailable));
}

#[tokio::test]
async fn backends_without_the_method_are_passed_over() {
    let other: Arc<dyn Backend> = Arc::new(Fixed {
        name: "other",
        verifiable: Verifiable::none().with(Method::Chap, Coverage::Some),
        answer: accept("bob"),
    });
    let (alone, _) = front(vec![other.clone()], prompt());
    assert_eq!(alone.verifiable().coverage(Method::Pap), Coverage::None);
    assert_eq!(reason(&alone, "bob", "pw").await, Some(NotPermitted));
    let (both, _) = front(vec![other, Fixed::named("pap", accept("bob"))], prompt());
    let coverage = Method::ALL.map(|method| both.verifiable().coverage(method));
    assert_eq!(
        coverage,
        [
            Coverage::None,
            Coverage::None,
            Coverage::None,
            Coverage::Some,
            Coverage::All
        ]
    );
    assert_eq!(both.backends().collect::<Vec<_>>(), ["other", "pap"]);
    assert_eq!(reason(&both, "bob", "pw").await, None);
}

fn realms() -> RealmTable {
    let realm = |name: &str, backends: &[&str]| Realm {
        name: name.to_owned(),
        strip: true,
        backends: backends.iter().map(|&name| name.to_owned()).collect(),
        defaults: ProfileDefaults {
            ipv4_pool: Some(format!("pool-{name}")),
            ..ProfileDefaults::default()
        },
    };
    let realms = vec![
        realm("a.example", &[]),
        realm("b.example", &["second", "missing", "first"]),
    ];
    RealmTable::new(realms, None, Unlisted::Refuse).unwrap()
}

#[tokio::test]
async fn realms_choose_backends_and_fill_profiles() {
    let backends = vec![
        Fixed::named("first", Answer::Unavailable),
        Fixed::named("second", accept("bob")),
    ];
    let config = AuthenticatorConfig {
        realms: realms(),
        ..prompt()
    };
    let (front, seen) = front(backends, config);
    for name in ["bob@a.example", "bob@B.example"] {
        let profile = front
            .authenticate(&request(name, "pw"), Instant::now(), noon())
            .await
            .unwrap();
        let pool = format!("pool-{}", name[4..].to_ascii_lowercase());
        assert_eq!(profile.ipv4, AddressRule::Pool(pool));
    }
    assert_eq!(reason(&front, "bob@c.example", "pw").await, Some(UnknownRealm));
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            ("second", Ok(())),
            ("second", Ok(())),
            ("none", Err(UnknownRealm))
        ]
    );
}

#[tokio::test]
async fn realms_are_stripped_before_the_users_file_and_the_cache_see_a_name() {
    let (_directory, local) = local();
    let config = AuthenticatorConfig {
        realms: realms(),
        ..prompt()
    };
    let (front, _) = front(vec![local], config);
    let asked = request("bob@a.example", "pw");
    let slow = front.authenticate(&asked, Instant::now(), noon()).await.unwrap();
    let quick = front.try_cached(&asked, Instant::now(), noon()).unwrap().unwrap();
    assert_eq!(slow, quick);
    assert_eq!(quick.ipv4, AddressRule::Pool("pool-a.example".into()));
    assert_eq!(quick.realm.as_deref(), Some("a.example"));
}

#[tokio::test]
async fn users_of_live_sessions_are_looked_up_as_they_are_now() {
    let (_directory, local) = local();
    let config = AuthenticatorConfig {
        realms: realms(),
        ..prompt()
    };
    let (front, _) = front(
        vec![Fixed::named("first", Answer::Unavailable), local.clone()],
        config,
    );
    let look_up = |name: &str, realm| front.look_up(name, realm, "l2tp", noon());
    let profile = look_up("bob", Some(Some("A.example"))).unwrap().unwrap();
    assert_eq!(profile.ipv4, AddressRule::Pool("pool-a.example".into()));
    assert_eq!(profile.realm.as_deref(), Some("a.example"));
    assert_eq!(look_up("bob", Some(None)).unwrap().unwrap().realm, None);
    for (name, refusal) in [("old", Expired), ("gone", Disabled), ("pptp", NotPermitted)] {
        assert_eq!(look_up(name, Some(None)), Some(Err(refusal)));
    }
    // Who is not in the file may be another backend's; and of a name that has lost its realm, nobody knows which it was.
    assert_eq!(look_up("nobody", Some(None)), None);
    assert_eq!(look_up("bob", None), None);
    // The backends of this realm do not have the file among them.
    assert_eq!(look_up("bob", Some(Some("b.example"))), None);
    local.update_user("bob", |user| user.disabled = true).unwrap();
    assert_eq!(look_up("bob", Some(None)), Some(Err(Disabled)));
}

#[tokio::test]
async fn failures_are_throttled_on_both_ways_in() {
    let (_directory, local) = local();
    let (front, seen) = front(vec![local.clone()], prompt());
    let now = Instant::now();
    let ask = async |password: &str, now| {
        front
            .authenticate(&request("bob", password), now, noon())
            .await
            .err()
    };
    assert_eq!(ask("pw", now).await, None);
    for _ in 0..5 {
        assert_eq!(ask("no", now).await, Some(BadCredentials));
    }
    let misses = local.cache_stats().misses;
    assert_eq!(ask("pw", now).await, Some(Throttled));
    assert_eq!(front.try_cached(&request("bob", "pw"), now, noon()), None);
    assert_eq!(local.cache_stats().misses, misses, "nothing is hashed for it");
    assert_eq!(seen.0.lock().unwrap().last(), Some(&("none", Err(Throttled))));
    assert_eq!(ask("pw", now + Duration::from_secs(12)).await, None);
}

#[tokio::test]
async fn guesses_sent_at_once_gain_nothing() {
    let (_directory, local) = local_with(HashPool::with_no_threads);
    let (front, _) = front(vec![local.clone()], prompt());
    let now = Instant::now();
    let requests: Vec<AuthRequest> = (0..20)
        .map(|n| request("bob", if n == 19 { "pw" } else { "no" }))
        .collect();
    let mut answers: Vec<_> = requests
        .iter()
        .map(|asked| Box::pin(front.authenticate(asked, now, noon())))
        .collect();
    for answer in &mut answers {
        until_it_waits(answer).await;
    }
    local.pool.work_off();
    let mut results = Vec::new();
    for answer in answers {
        results.push(answer.await.err());
    }
    assert_eq!(results[18], Some(BadCredentials));
    assert_eq!(results[19], Some(Throttled));
}

#[tokio::test]
async fn good_logins_of_many_users_from_one_source_are_never_throttled() {
    let (front, _) = front(vec![Fixed::named("first", accept("bob"))], prompt());
    for n in 0..1000 {
        assert_eq!(reason(&front, &format!("user{n}"), "pw").await, None);
    }
}

#[tokio::test]
async fn a_new_configuration_applies_and_forgets_failures_only_with_their_limits() {
    let (front, _) = front(
        vec![Fixed::named("first", Answer::Reject(BadCredentials))],
        prompt(),
    );
    for _ in 0..5 {
        reason(&front, "bob", "no").await;
    }
    front.reconfigure(AuthenticatorConfig {
        realms: realms(),
        ..prompt()
    });
    assert_eq!(reason(&front, "bob", "no").await, Some(Throttled));
    assert_eq!(reason(&front, "bob@c.example", "no").await, Some(UnknownRealm));
    front.reconfigure(AuthenticatorConfig {
        throttle: ThrottleConfig {
            per_user: Some(Rate::per_minute(2)),
            ..ThrottleConfig::default()
        },
        ..prompt()
    });
    assert_eq!(reason(&front, "bob", "no").await, Some(BadCredentials));
    assert_eq!(reason(&front, "bob", "no").await, Some(BadCredentials));
    assert_eq!(reason(&front, "bob", "no").await, Some(Throttled));
}

#[tokio::test(start_paused = true)]
async fn refusals_are_held_back_alike_and_good_answers_are_not() {
    let answers = [
        (accept("bob"), 0),
        (Answer::Reject(BadCredentials), 1),
        (Answer::Reject(Disabled), 1),
        (Answer::Unavailable, 0),
    ];
    for (answer, seconds) in answers {
        let (front, _) = front(
            vec![Fixed::named("first", answer)],
            AuthenticatorConfig::default(),
        );
        let before = tokio::time::Instant::now();
        let _ = front
            .authenticate(&request("bob", "pw"), Instant::now(), noon())
            .await;
        assert_eq!(before.elapsed(), Duration::from_secs(seconds));
        assert_eq!(front.held_back(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_holds_no_place_among_the_delayed() {
    let (front, _) = front(
        vec![Fixed::named("first", Answer::Reject(Disabled))],
        AuthenticatorConfig::default(),
    );
    let asked = request("bob", "pw");
    let mut answer = Box::pin(front.authenticate(&asked, Instant::now(), noon()));
    until_it_waits(&mut answer).await;
    assert_eq!(front.held_back(), 1);
    drop(answer);
    assert_eq!(front.held_back(), 0);
    front.held_back.store(MAX_HELD_BACK, Ordering::Relaxed);
    let before = tokio::time::Instant::now();
    assert_eq!(reason(&front, "bob", "pw").await, Some(Disabled));
    assert_eq!(
        before.elapsed(),
        Duration::ZERO,
        "the number held back is bounded"
    );
    assert_eq!(front.held_back(), MAX_HELD_BACK);
}

#[tokio::test]
async fn proven_names_need_an_account_and_no_password() {
    let (_directory, local) = local();
    let config = AuthenticatorConfig {
        realms: RealmTable::new(
            vec![Realm {
                name: "realm.test".to_owned(),
                strip: true,
                ..Realm::default()
            }],
            None,
            Default::default(),
        )
        .unwrap(),
        ..prompt()
    };
    let (front, seen) = front(vec![local], config);
    for (name, refusal) in [
        ("bob", None),
        ("bob@REALM.TEST", None),
        ("bob@ELSEWHERE.TEST", Some(BadCredentials)),
        ("nobody@REALM.TEST", Some(BadCredentials)),
        ("old@REALM.TEST", Some(Expired)),
        ("gone@REALM.TEST", Some(Disabled)),
        ("pptp@REALM.TEST", Some(NotPermitted)),
    ] {
        let request = AuthRequest {
            credentials: Credentials::Gssapi {
                identity: Identity::parse(name.as_bytes()).unwrap(),
            },
            ..request("bob", "pw")
        };
        assert!(front.try_cached(&request, Instant::now(), noon()).is_none());
        let answer = front.authenticate(&request, Instant::now(), noon()).await;
        assert_eq!(answer.err(), refusal, "{name}");
    }
    assert_eq!(seen.0.lock().unwrap()[0], ("file", Ok(())));
}
