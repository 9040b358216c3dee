//! Names to addresses.
//!
//! [`Names`] is shared by all shards: the cache, the look-ups under way and the turns of those who wait. Each shard has
//! its own [`Resolver`], whose sockets are its own.
//!
//! A name is looked up as it is given, as a full one: there is no search list, and a single label is the name of a
//! top-level domain or one of the hosts file. "localhost" and names below it are the loopback addresses (RFC 6761, 6.3).

mod cache;
mod files;
mod query;
mod turns;

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;

use crate::counters::{Counter, Counters};
use crate::race::IpFamily;
use cache::{Cache, Kept};
use files::Files;
use query::Client;
use sluice_auth::HostName;
use sluice_spi::ChannelFailure;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use turns::{Entered, Turn, Turns};

/// Most addresses of one family that a name is known by. The rest of an answer is dropped: nobody tries that many.
pub const MAX_ADDRESSES: usize = 16;

/// Addresses of one family, in the order of the answer.
pub type Addresses = Arc<[IpAddr]>;

/// Where names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameServers {
    /// Those of a file like `/etc/resolv.conf`, which is read again when it changes. Without any, the one on this host
    /// (resolv.conf(5)).
    File(PathBuf),
    /// These, port and all.
    Listed(Vec<SocketAddr>),
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Where.
    pub servers: NameServers,
    /// A file like `/etc/hosts` whose names come before those of the servers; read again when it changes.
    pub hosts: Option<PathBuf>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How often a look-up is tried.
    pub tries: u8,
    /// Most names of one family whose addresses are remembered.
    pub cache: usize,
    /// Most names of one family whose failure is remembered; apart, so that names that do not exist never displace
    /// those that do.
    pub negative_cache: usize,
    /// Least time that addresses are remembered, whatever the answer says.
    pub least_ttl: Duration,
    /// Longest time that addresses are remembered.
    pub longest_ttl: Duration,
    /// Longest time that it is remembered that a name does not exist or has no address.
    pub longest_negative_ttl: Duration,
    /// Most look-ups that ask servers at once.
    pub at_once: usize,
    /// Most look-ups that wait for their turn. One asker has a quarter of both at the most.
    pub waiting: usize,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            servers: NameServers::File("/etc/resolv.conf".into()),
            hosts: Some("/etc/hosts".into()),
            timeout: Duration::from_secs(3),
            tries: 2,
            cache: 16384,
            negative_cache: 4096,
            least_ttl: Duration::from_secs(1),
            longest_ttl: Duration::from_secs(3600),
            longest_negative_ttl: Duration::from_secs(60),
            at_once: 256,
            waiting: 4096,
        }
    }
}

/// Why a name was not found out. The order is that of preference where both families failed: the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LookupFailure {
    /// It has no address of the family.
    NoData,
    /// No server answered in time.
    Timeout,
    /// The servers failed, refused or said nonsense.
    ServerFailure,
    /// It does not exist.
    NotFound,
    /// Too many look-ups are waiting.
    Busy,
}

impl LookupFailure {
    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        self.counter().label()
    }

    /// What a client is told.
    pub(crate) fn meaning(self) -> ChannelFailure {
        match self {
            LookupFailure::Busy => ChannelFailure::Resources,
            _ => ChannelFailure::HostUnreachable,
        }
    }

    fn counter(self) -> Counter {
        match self {
            LookupFailure::NoData => Counter::LookupNoData,
            LookupFailure::Timeout => Counter::LookupTimeout,
            LookupFailure::ServerFailure => Counter::LookupServerFailure,
            LookupFailure::NotFound => Counter::LookupNotFound,
            LookupFailure::Busy => Counter::LookupBusy,
        }
    }
}

/// What is known of a name in one family.
pub(crate) type Found = Result<Addresses, LookupFailure>;

/// What servers say: addresses or a failure, and how long that holds.
pub(crate) struct Answer {
    pub(crate) found: Found,
    /// `None`: not said.
    pub(crate) ttl: Option<Duration>,
}

type Question = (HostName, IpFamily);

/// What the shards share about names.
pub struct Names {
    config: ResolverConfig,
    counters: Arc<Counters>,
    state: Mutex<State>,
    turns: Turns,
    files: Files,
}

struct State {
    cache: Cache,
    /// Look-ups under way, with those who want to know.
    flights: HashMap<Question, Vec<oneshot::Sender<Found>>>,
    /// All of them together.
    wanting: usize,
}

/// What a look-up starts as.
enum Begun {
    Known(Found),
    Joined(oneshot::Receiver<Found>),
    Lead(oneshot::Receiver<Found>, Entered),
}

impl Names {
    /// An empty cache.
    pub fn new(config: ResolverConfig, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                cache: Cache::new(config.cache, config.negative_cache),
                flights: HashMap::new(),
                wanting: 0,
            }),
            turns: Turns::new(config.at_once, config.waiting),
            files: Files::new(&config),
            counters,
            config,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if anything did, the maps would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &HostName, family: IpFamily, asker: u64, now: Instant) -> Begun {
        if let Some(found) = self.files.hosts(name, family, now) {
            self.counters.add(Counter::LookupHosts);
            return Begun::Known(found);
        }
        let mut state = self.lock();
        match state.cache.get(name, family, now) {
            Some(found) => {
                let hit = if found.is_ok() {
                    Counter::LookupHit
                } else {
                    Counter::LookupNegativeHit
                };
                self.counters.add(hit);
                return Begun::Known(found);
            }
            None if state.wanting >= self.most_wanting() => return Begun::Known(Err(LookupFailure::Busy)),
            None => {}
        }
        let (sender, receiver) = oneshot::channel();
        let question = (name.clone(), family);
        if let Some(wanting) = state.flights.get_mut(&question) {
            wanting.push(sender);
            state.wanting += 1;
            self.counters.add(Counter::LookupJoined);
            return Begun::Joined(receiver);
        }
        match self.turns.enter(asker) {
            Some(entered) => {
                state.flights.insert(question, vec![sender]);
                state.wanting += 1;
                Begun::Lead(receiver, entered)
            }
            None => Begun::Known(Err(LookupFailure::Busy)),
        }
    }

    fn most_wanting(&self) -> usize {
        self.config.at_once.saturating_add(self.config.waiting)
    }

    /// Ends a look-up that nobody wants to know any more; `false`: somebody does.
    fn abandon(&self, question: &Question) -> bool {
        let mut state = self.lock();
        let wanting = state.flights.get(question).map_or(&[][..], Vec::as_slice);
        if wanting.iter().any(|sender| !sender.is_closed()) {
            return false;
        }
        let gone = state.flights.remove(question).map_or(0, |wanting| wanting.len());
        state.wanting = state.wanting.saturating_sub(gone);
        true
    }

    /// A look-up ended: it is remembered, and told to those who want to know.
    fn finish(&self, question: &Question, answer: Answer, now: Instant) {
        let kept = Kept {
            until: now + self.ttl(&answer),
            found: answer.found.clone(),
        };
        if let Err(failure) = answer.found {
            self.counters.add(failure.counter());
        }
        let mut state = self.lock();
        if answer.found != Err(LookupFailure::Busy) {
            state.cache.put(&question.0, question.1, kept);
        }
        let wanting = state.flights.remove(question).unwrap_or_default();
        state.wanting = state.wanting.saturating_sub(wanting.len());
        drop(state);
        for sender in wanting {
            // Who does not wait any more does not want to know.
            let _ = sender.send(answer.found.clone());
        }
    }

    /// How long an answer is remembered. That servers do not work is remembered as well, for a short time, so that
    /// they are not asked again and again (RFC 9520, 3.2: at least a second).
    fn ttl(&self, answer: &Answer) -> Duration {
        const FAILURE: Duration = Duration::from_secs(1);
        let longest = match answer.found {
            Ok(_) => self.config.longest_ttl,
            Err(LookupFailure::NotFound | LookupFailure::NoData) => self.config.longest_negative_ttl,
            Err(_) => return FAILURE,
        };
        let least = if answer.found.is_ok() {
            self.config.least_ttl
        } else {
            FAILURE
        };
        answer.ttl.unwrap_or(FAILURE).max(least).min(longest)
    }
}

/// One shard's way to look names up. It must be used within a tokio runtime.
pub struct Resolver {
    names: Arc<Names>,
    client: RefCell<Option<(u64, Client)>>,
}

impl Resolver {
    /// A resolver that shares what is known.
    pub fn new(names: Arc<Names>) -> Self {
        Self {
            names,
            client: RefCell::new(None),
        }
    }

    /// The addresses of a name in one family. The look-up goes on and is remembered if nobody waits for it any more.
    /// `asker`: see [`crate::Request::asker`].
    pub async fn lookup(
        &self,
        name: &HostName,
        family: IpFamily,
        asker: u64,
        deadline: Instant,
    ) -> Result<Addresses, LookupFailure> {
        let receiver = match self.names.begin(name, family, asker, Instant::now()) {
            Begun::Known(found) => {
                if found == Err(LookupFailure::Busy) {
                    self.names.counters.add(Counter::LookupBusy);
                }
                return found;
            }
            Begun::Joined(receiver) => receiver,
            Begun::Lead(receiver, entered) => {
                self.lead((name.clone(), family), entered);
                receiver
            }
        };
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(LookupFailure::ServerFailure),
            Err(_) => Err(LookupFailure::Timeout),
        }
    }

    fn lead(&self, question: Question, entered: Entered) {
        self.names.counters.add(Counter::LookupMiss);
        let flight = Flight {
            names: self.names.clone(),
            question,
            answer: Answer {
                found: Err(LookupFailure::ServerFailure),
                ttl: None,
            },
            abandoned: false,
        };
        tokio::spawn(flight.fly(self.client(), entered));
    }

    /// The client of the servers that count now.
    fn client(&self) -> Client {
        let (generation, servers) = self.names.files.servers(Instant::now());
        let mut client = self.client.borrow_mut();
        match &*client {
            Some((of, client)) if *of == generation => client.clone(),
            _ => {
                let new = Client::new(&servers, &self.names.config);
                *client = Some((generation, new.clone()));
                new
            }
        }
    }
}

/// Longest time that a look-up takes with all its tries.
fn longest(config: &ResolverConfig) -> Duration {
    config.timeout.saturating_mul(u32::from(config.tries.max(1)))
}

/// Waits for a turn, as long as a look-up may take. Who waits longer meets servers that do not keep up.
async fn turn(entered: Entered, config: &ResolverConfig) -> Option<Turn> {
    match entered {
        Entered::Now(turn) => Some(turn),
        Entered::Later(receiver) => tokio::time::timeout(longest(config), receiver).await.ok()?.ok(),
    }
}

/// A look-up under way. However it ends, those who want to know are told.
struct Flight {
    names: Arc<Names>,
    question: Question,
    answer: Answer,
    abandoned: bool,
}

impl Flight {
    async fn fly(mut self, client: Client, entered: Entered) {
        let Some(_turn) = turn(entered, &self.names.config).await else {
            self.answer.found = Err(LookupFailure::Busy);
            return;
        };
        self.abandoned = self.names.abandon(&self.question);
        if self.abandoned {
            return;
        }
        let asking = client.ask(&self.question.0, self.question.1);
        self.answer = match tokio::time::timeout(longest(&self.names.config), asking).await {
            Ok(answer) => answer,
            Err(_) => Answer {
                found: Err(LookupFailure::Timeout),
                ttl: None,
            },
        };
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        let answer = Answer {
            found: self.answer.found.clone(),
            ttl: self.answer.ttl,
        };
        self.names.finish(&self.question, answer, Instant::now());
    }
}
