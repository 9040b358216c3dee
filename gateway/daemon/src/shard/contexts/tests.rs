//! Tokens of the real SOCKS module through a driver.

use super::super::tests::{Counted, Failed, FakePlane, OnePassword};
use super::super::{Answer, Ask, Authority, Connection, Listener, Parts, Ticket};
use super::*;
use sluice_auth::gss::Negotiation;
use sluice_auth::{AuthRequest, Identity, Profile, RejectReason, Verifiable};
use sluice_core::{Engine, EngineConfig, MemoryJournal, Origin};
use sluice_spi::{ChannelRef, PeerAddr, ShardId, TerminateCause, config};
use sluice_testkit::Seeded;
use sluice_testkit::gss::{Begun, Context};
use std::sync::Mutex;
use std::time::{Duration, Instant, UNIX_EPOCH};

const CLIENT: ChannelRef = ChannelRef::FIRST;

type Questions<T> = Arc<Mutex<Vec<T>>>;

/// What was asked for.
#[derive(Clone, Default)]
struct Asked {
    tokens: Questions<(Ticket, usize, ContextRequest)>,
    names: Questions<(Ticket, Box<AuthRequest>)>,
}

/// Keeps all questions for the test; with `full`, it takes none.
struct Keeps {
    asked: Asked,
    full: bool,
}

impl Authority for Keeps {
    fn verifiable(&self) -> Verifiable {
        Verifiable::default()
    }

    fn try_cached(&self, _: &AuthRequest, _: Now) -> Option<Result<Profile, RejectReason>> {
        None
    }

    fn ask(&self, ticket: Ticket, request: Box<AuthRequest>) -> bool {
        self.asked.names.lock().unwrap().push((ticket, request));
        true
    }

    fn accept(&self, ticket: Ticket, listener: usize, request: Box<ContextRequest>) -> bool {
        let mut tokens = self.asked.tokens.lock().unwrap();
        tokens.push((ticket, listener, *request));
        !self.full
    }
}

struct World {
    now: Now,
    driver: Driver<FakePlane>,
    asked: Asked,
}

fn world(authority: impl FnOnce(Asked) -> Box<dyn Authority>) -> World {
    let now = Now {
        instant: Instant::now(),
        wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
    };
    let asked = Asked::default();
    let (journal, observer) = (Arc::new(MemoryJournal::new()), Arc::new(Failed::default()));
    let entropy = || Box::new(Seeded::new(1));
    let engine = Engine::new(EngineConfig::new(&["socks"]), journal, observer, entropy());
    let module = sluice_registry::module("socks").unwrap();
    let text = "methods = [\"gssapi\"]\ngssapi_keytab = \"/keytab\"\n";
    let factory = config::read("test", text, |root| module.configure(root)).unwrap();
    assert!(factory.context_keys().is_some());
    let shard = ShardId(0);
    let parts = Parts {
        shard,
        engine: Arc::new(engine),
        plane: FakePlane::default(),
        authority: authority(asked.clone()),
        counters: Box::new(Counted::default()),
        entropy: entropy(),
        traces: Arc::default(),
        policy: Arc::default(),
        ledger: Arc::default(),
        listeners: vec![Listener {
            origin: Origin {
                protocol: "socks",
                listener: "test".into(),
                shard,
            },
            module,
            factory: factory.into(),
            front: None,
        }],
    };
    let driver = Driver::new(parts, now);
    World { now, driver, asked }
}

impl World {
    fn connected(&mut self) -> Connection {
        let peer = PeerAddr {
            remote: "192.0.2.1:50000".parse().unwrap(),
            local: "192.0.2.2:1080".parse().unwrap(),
        };
        self.driver.connected(0, peer, self.now).unwrap()
    }

    fn say(&mut self, connection: &Connection, bytes: &[u8]) {
        let channel = CLIENT;
        let input = Input::Stream { channel, bytes };
        self.driver.tell(connection, input, self.now);
    }
}

/// What a connection's client is sent next.
fn sent(connection: &Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(ask) = connection.outbox.pop() {
        if let Ask::Send(_, bytes) = ask {
            all.extend_from_slice(&bytes);
        }
    }
    all
}

#[test]
fn tokens_go_out_with_their_listener_and_come_back_to_their_connection() {
    let mut world = world(|asked| Box::new(Keeps { asked, full: false }));
    let connection = world.connected();
    world.say(&connection, &[5, 1, 1]);
    world.say(&connection, b"\x01\x01\x00\x04more");
    for (token, reply) in [(&b"more"[..], &b"and what else"[..]), (b"bob@REALM", b"welcome")] {
        if token != b"more" {
            world.say(&connection, &[&[1, 1, 0, 9], token].concat());
        }
        let (ticket, listener, request) = world.asked.tokens.lock().unwrap().pop().unwrap();
        assert_eq!((listener, &request.token[..]), (0, token));
        let negotiation = request.negotiation.unwrap_or_else(|| Box::new(Begun));
        let answer = Answer::Context(negotiation.accept(&request.token));
        world.driver.answer(ticket, answer, world.now);
        if token == b"bob@REALM" {
            let (ticket, request) = world.asked.names.lock().unwrap().pop().unwrap();
            assert_eq!(request.credentials.identity().as_str(), "bob@REALM");
            let profile = Profile::new(Identity::parse(b"bob").unwrap());
            world
                .driver
                .answer(ticket, Answer::Profile(Ok(profile)), world.now);
        }
        assert!(sent(&connection).ends_with(reply));
    }
    let mut client = Context::client();
    let level = client.token(false, &[2]);
    let header = [1, 2, 0, u8::try_from(level.len()).unwrap()];
    world.say(&connection, &[&header[..], &level].concat());
    let request = client.token(true, &[5, 1, 0, 1, 198, 51, 100, 7, 0, 80]);
    let header = [1, 3, 0, u8::try_from(request.len()).unwrap()];
    world.say(&connection, &[&header[..], &request].concat());
    let opens = std::iter::from_fn(|| connection.outbox.pop()).any(|ask| matches!(ask, Ask::Open { .. }));
    assert!(opens);
    let opened = Input::ChannelOpened {
        channel: ChannelRef(1),
        local: "192.0.2.2:40000".parse().unwrap(),
        remote: "198.51.100.7:80".parse().unwrap(),
    };
    world.driver.tell(&connection, opened, world.now);
    let mut asks = std::iter::from_fn(|| connection.outbox.pop());
    assert!(asks.any(|ask| matches!(ask, Ask::Join { codec: Some(_), .. })));
    // It is none of those that the next worker goes on with, also when it carries something.
    let carried = std::rc::Rc::new(sluice_spi::PathStats::default);
    world.driver.set_carried(&connection, LocalRef(1), carried);
    assert_eq!(world.driver.unsettled(world.now).len(), 1);
    world.driver.close_unsettled(TerminateCause::NasReboot, world.now);
    assert!(world.driver.unsettled(world.now).is_empty());
}

#[test]
fn an_answer_that_comes_too_late_misses() {
    let mut world = world(|asked| Box::new(Keeps { asked, full: false }));
    let connection = world.connected();
    world.say(&connection, b"\x05\x01\x01\x01\x01\x00\x04more");
    let (ticket, _, _) = world.asked.tokens.lock().unwrap().pop().unwrap();
    let end = sluice_spi::StreamEnd::Reset;
    let channel = CLIENT;
    world
        .driver
        .tell(&connection, Input::StreamEnded { channel, end }, world.now);
    let other = world.connected();
    let answer = Answer::Context(Box::new(Begun).accept(b"bob@REALM"));
    world.driver.answer(ticket, answer, world.now);
    assert_eq!(sent(&other), b"");
}

#[test]
fn a_client_is_refused_where_nobody_can_take_its_token() {
    for full in [true, false] {
        let mut world = world(|asked| match full {
            true => Box::new(Keeps { asked, full: true }),
            false => Box::new(OnePassword { later: None }),
        });
        let connection = world.connected();
        world.say(&connection, b"\x05\x01\x01\x01\x01\x00\x04more");
        assert_eq!(sent(&connection), [5, 1, 1, 0xff]);
    }
}
