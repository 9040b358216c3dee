//! The chain of backends, and the one object that the gateway asks: [`Authenticator`].

use arc_swap::ArcSwap;
use sluice_auth::tls::TlsAcceptor;
use sluice_auth::{
    AuthRequest, Coverage, Method, Profile, Realm, RealmTable, RejectReason, Resolved, Throttle,
    ThrottleConfig, Verifiable,
};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Most refusals held back at once. Each is a timer and a few hundred bytes; beyond that they go out at once,
/// and the throttle alone slows the sender.
const MAX_HELD_BACK: usize = 10_000;

/// How long a refusal is held back where nothing else is said: a guesser at one connection is slowed to one
/// guess a second, and a person who mistyped hardly notices.
pub const DEFAULT_FAILURE_DELAY: Duration = Duration::from_secs(1);

/// What a backend is asked.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The name to look up: with its realm, or without where the realm is stripped.
    pub name: &'a str,
    /// The realm's entry, where one applies.
    pub realm: Option<&'a Realm>,
    /// The request.
    pub request: &'a AuthRequest,
    /// The time of day, for expiry.
    pub wall: SystemTime,
}

/// A backend's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The peer is who it says, and may have this.
    Accept(Box<Profile>),
    /// It is refused, and no other backend is asked.
    Reject(RejectReason),
    /// The backend cannot say: the next one is asked.
    Unavailable,
}

/// An answer to come.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Where credentials can be checked.
pub trait Backend: Send + Sync {
    /// Its name in metrics, and in a realm's list of backends.
    fn name(&self) -> &'static str;

    /// The methods it can check at present, and for how many users.
    fn verifiable(&self) -> Verifiable;

    /// Checks a proof. It answers in bounded time, with [`Answer::Unavailable`] where it must.
    fn authenticate<'a>(&'a self, query: Query<'a>) -> Pending<'a>;

    /// The answer where it is at hand, within microseconds and without waiting. Only for a right proof.
    fn try_cached(&self, _query: &Query<'_>) -> Option<Answer> {
        None
    }

    /// What a user that authenticated before may have now, within microseconds and without waiting; `None`: it cannot
    /// say. `name` is as in [`Query::name`].
    fn look_up(
        &self,
        _name: &str,
        _protocol: &str,
        _wall: SystemTime,
    ) -> Option<Result<Profile, RejectReason>> {
        None
    }
}

/// Who is told of every answer, for metrics. Called on the thread that asked: quick.
pub trait AuthObserver: Send + Sync {
    /// `backend` is [`NO_BACKEND`] where none was asked.
    fn answered(
        &self,
        backend: &'static str,
        method: Method,
        result: Result<(), RejectReason>,
        took: Duration,
    );
}

/// Stands for the backend in counts of requests that were refused before one was asked.
pub const NO_BACKEND: &str = "none";

/// What can be changed while requests are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatorConfig {
    /// The realms.
    pub realms: RealmTable,
    /// Failures that are tolerated.
    pub throttle: ThrottleConfig,
    /// How long a refusal is held back, whatever its reason.
    pub failure_delay: Duration,
}

impl Default for AuthenticatorConfig {
    fn default() -> Self {
        Self {
            realms: RealmTable::default(),
            throttle: ThrottleConfig::default(),
            failure_delay: DEFAULT_FAILURE_DELAY,
        }
    }
}

/// Answers authentication requests: realm, throttle, then the backends in order.
pub struct Authenticator {
    backends: Vec<Arc<dyn Backend>>,
    config: ArcSwap<AuthenticatorConfig>,
    throttle: Mutex<Throttle>,
    held_back: AtomicUsize,
    observer: Arc<dyn AuthObserver>,
    tls: Option<Arc<dyn TlsAcceptor>>,
}

fn source_of(request: &AuthRequest) -> Option<IpAddr> {
    request.peer.map(|peer| peer.ip())
}

impl Authenticator {
    /// Asks `backends` in this order.
    pub fn new(
        backends: Vec<Arc<dyn Backend>>,
        config: AuthenticatorConfig,
        observer: Arc<dyn AuthObserver>,
    ) -> Self {
        Self {
            backends,
            throttle: Mutex::new(Throttle::new(config.throttle.clone())),
            config: ArcSwap::from_pointee(config),
            held_back: AtomicUsize::new(0),
            observer,
            tls: None,
        }
    }

    /// Lets users prove themselves by certificate.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<Arc<dyn TlsAcceptor>>) -> Self {
        self.tls = tls;
        self
    }

    /// Changes the configuration for requests from now on. Failures are remembered unless their limits change.
    pub fn reconfigure(&self, config: AuthenticatorConfig) {
        let mut throttle = self.throttle();
        if self.config.load().throttle != config.throttle {
            *throttle = Throttle::new(config.throttle.clone());
        }
        self.config.store(Arc::new(config));
    }

    /// The names of the backends, in order.
    pub fn backends(&self) -> impl Iterator<Item = &'static str> {
        self.backends.iter().map(|backend| backend.name())
    }

    /// The methods that may be offered to a peer: those that some backend can check, and for how many users one
    /// backend can.
    pub fn verifiable(&self) -> Verifiable {
        let all = self.backends.iter().map(|backend| backend.verifiable());
        let methods = all.fold(Verifiable::none(), |union, of_one| {
            let methods = Method::ALL.into_iter();
            methods.fold(union, |union, method| union.with(method, of_one.coverage(method)))
        });
        methods.with_tls(self.tls.clone())
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backends for a realm that can check a method, in the order in which they are asked.
    fn chain<'a>(
        &'a self,
        realm: Option<&'a Realm>,
        method: Method,
    ) -> impl Iterator<Item = &'a dyn Backend> {
        let named = realm
            .map(|realm| realm.backends.as_slice())
            .filter(|names| !names.is_empty());
        let listed = named.into_iter().flatten().filter_map(|name| {
            let found = self
                .backends
                .iter()
                .find(|backend| backend.name() == name.as_str());
            found.map(Arc::as_ref)
        });
        let all = self
            .backends
            .iter()
            .map(Arc::as_ref)
            .take(if named.is_some() { 0 } else { usize::MAX });
        listed
            .chain(all)
            .filter(move |backend| backend.verifiable().coverage(method) != Coverage::None)
    }

    /// The answer where it can be given at once, without leaving the calling thread: a right password that was
    /// given lately. `None`: ask [`Authenticator::authenticate`]; that is the answer to everything else, so that
    /// it is no answer for a guesser.
    pub fn try_cached(
        &self,
        request: &AuthRequest,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Result<Profile, RejectReason>> {
        let started = Instant::now();
        let config = self.config.load();
        let Resolved { name, realm } = config.realms.resolve(request.credentials.identity())?;
        // A guess that is right is as good by this way as by the other: the same throttle stands before it.
        self.throttle().check(&name, source_of(request), now).ok()?;
        let method = request.credentials.method();
        let backend = self.chain(realm, method).next()?;
        let query = Query {
            name: &name,
            realm,
            request,
            wall,
        };
        let result = match backend.try_cached(&query)? {
            Answer::Accept(profile) => Ok(completed(*profile, realm)),
            Answer::Reject(reason) => Err(reason),
            Answer::Unavailable => return None,
        };
        let outcome = result.as_ref().map(|_| ()).map_err(|reason| *reason);
        self.observer
            .answered(backend.name(), method, outcome, started.elapsed());
        Some(result)
    }

    /// What a user that authenticated before, under the name that backends know, may have now; `None`: nobody can say.
    /// `realm` is the one it was looked up in; where nobody remembers that, it is taken from the name, if that is
    /// certain.
    pub fn look_up(
        &self,
        name: &str,
        realm: Option<Option<&str>>,
        protocol: &str,
        wall: SystemTime,
    ) -> Option<Result<Profile, RejectReason>> {
        let config = self.config.load();
        let realm = match realm {
            Some(realm) => realm,
            None => match name.rsplit_once('@') {
                Some((_, realm)) => Some(realm),
                None if config.realms.iter().any(|realm| realm.strip) => return None,
                None => None,
            },
        };
        let realm = realm.and_then(|name| {
            config
                .realms
                .iter()
                .find(|one| one.name.eq_ignore_ascii_case(name))
        });
        let is_asked = |backend: &&Arc<dyn Backend>| match realm {
            Some(realm) if !realm.backends.is_empty() => {
                realm.backends.iter().any(|one| one == backend.name())
            }
            _ => true,
        };
        let mut backends = self.backends.iter().filter(is_asked);
        let found = backends.find_map(|backend| backend.look_up(name, protocol, wall))?;
        Some(found.map(|profile| completed(profile, realm)))
    }

    /// Answers a request. A refusal is held back by the configured delay without holding a thread, which needs
    /// the timers of a tokio runtime. Dropping the future gives the request up.
    pub async fn authenticate(
        &self,
        request: &AuthRequest,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Profile, RejectReason> {
        let config = self.config.load_full();
        let started = Instant::now();
        let (backend, result) = self.decide(&config, request, now, wall).await;
        let outcome = result.as_ref().map(|_| ()).map_err(|reason| *reason);
        self.observer
            .answered(backend, request.credentials.method(), outcome, started.elapsed());
        // An overloaded gateway has answered late enough.
        if !matches!(result, Ok(_) | Err(RejectReason::Unavailable)) {
            self.hold_back(config.failure_delay).await;
        }
        result
    }

    async fn decide(
        &self,
        config: &AuthenticatorConfig,
        request: &AuthRequest,
        now: Instant,
        wall: SystemTime,
    ) -> (&'static str, Result<Profile, RejectReason>) {
        let identity = request.credentials.identity();
        let source = source_of(request);
        let Some(Resolved { name, realm }) = config.realms.resolve(identity) else {
            self.throttle().failed(identity.as_str(), source, now);
            return (NO_BACKEND, Err(RejectReason::UnknownRealm));
        };
        if self.throttle().check(&name, source, now).is_err() {
            return (NO_BACKEND, Err(RejectReason::Throttled));
        }
        let query = Query {
            name: &name,
            realm,
            request,
            wall,
        };
        let (backend, answer) = self.ask(query).await;
        let result = match answer {
            // Guesses sent at the same time all passed the first check: right or wrong, they are too many now.
            Answer::Accept(_) if self.throttle().check(&name, source, now).is_err() => {
                Err(RejectReason::Throttled)
            }
            Answer::Accept(profile) => Ok(completed(*profile, realm)),
            Answer::Reject(reason) => Err(reason),
            Answer::Unavailable => Err(RejectReason::Unavailable),
        };
        if matches!(
            result,
            Err(RejectReason::BadCredentials | RejectReason::NoVerifier)
        ) {
            self.throttle().failed(&name, source, now);
        }
        (backend, result)
    }

    /// Asks the backends in order until one can say.
    async fn ask(&self, query: Query<'_>) -> (&'static str, Answer) {
        // Where nobody can check the method, it should not have been offered.
        let mut last = (NO_BACKEND, Answer::Reject(RejectReason::NotPermitted));
        for backend in self.chain(query.realm, query.request.credentials.method()) {
            last = (backend.name(), backend.authenticate(query).await);
            if last.1 != Answer::Unavailable {
                break;
            }
        }
        last
    }

    async fn hold_back(&self, delay: Duration) {
        let held = HeldBack::enter(&self.held_back);
        if held.is_some() && delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
    }

    /// Refusals held back at present.
    pub fn held_back(&self) -> usize {
        self.held_back.load(Ordering::Relaxed)
    }
}

fn completed(mut profile: Profile, realm: Option<&Realm>) -> Profile {
    if let Some(realm) = realm {
        profile.realm = Some(realm.name.clone());
        realm.defaults.fill(&mut profile);
    }
    profile
}

/// A place among the refusals held back, given up when dropped, as when the session is gone meanwhile.
struct HeldBack<'a>(&'a AtomicUsize);

impl<'a> HeldBack<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (held < MAX_HELD_BACK).then_some(held + 1)
            })
            .ok()
            .map(|_| Self(count))
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
