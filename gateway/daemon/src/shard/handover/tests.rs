//! Connections of the real SOCKS module between two drivers.

use super::super::Standing;
use super::super::tests::{Counted, Failed, FakePlane, OnePassword};
use super::super::{Listener, Parts};
use super::*;
use crate::limits::{Held, Ledger, Who};
use sluice_auth::policy::{Command, Effects};
use sluice_core::{Engine, EngineConfig, MemoryJournal, Session as Known, State};
use sluice_spi::{ChannelRef, Close, Input, JoinEnd, PathStats, ShardId, config};
use sluice_testkit::Seeded;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

const GREETING: &[u8] = &[5, 1, 0];
const CONNECT: &[u8] = &[5, 1, 0, 1, 198, 51, 100, 7, 0, 80];
const BIND: &[u8] = &[5, 2, 0, 1, 198, 51, 100, 7, 0, 80];
const OTHER: ChannelRef = ChannelRef(1);
const LISTENER: usize = 0;

pub(in super::super) struct World {
    pub(in super::super) now: Now,
    shard: ShardId,
    pub(in super::super) engine: Arc<Engine>,
    pub(in super::super) driver: Driver<FakePlane>,
}

pub(in super::super) fn world(shard: u16, later: Duration) -> World {
    let now = Now {
        instant: Instant::now() + later,
        wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000) + later,
    };
    let (journal, observer) = (Arc::new(MemoryJournal::new()), Arc::new(Failed::default()));
    let entropy = || Box::new(Seeded::new(1));
    let engine = Engine::new(EngineConfig::new(&["socks"]), journal, observer, entropy());
    let engine = Arc::new(engine);
    let module = sluice_registry::module("socks").unwrap();
    let open = "methods = [\"none\"]\nno_auth_from = [\"192.0.2.0/24\"]\n";
    let factory = config::read("test", open, |root| module.configure(root)).unwrap();
    let shard = ShardId(shard);
    let parts = Parts {
        shard,
        engine: engine.clone(),
        plane: FakePlane::default(),
        authority: Box::new(OnePassword { later: None }),
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
    World {
        now,
        shard,
        engine,
        driver,
    }
}

fn peer() -> PeerAddr {
    PeerAddr {
        remote: "192.0.2.1:50000".parse().unwrap(),
        local: "192.0.2.2:1080".parse().unwrap(),
    }
}

/// What a connection stands on.
pub(in super::super) fn standing(ledger: &Ledger, effects: &Effects) -> Rc<Standing> {
    let asked = Asked {
        command: Command::Connect,
        name: None,
        // No special address, so that rules alone decide.
        address: Some([192, 1, 2, 80].into()),
        port: 80,
    };
    let who = Who::new(None, peer().remote.ip());
    Standing::new(asked, who, Held::default(), effects, ledger.generation(), ledger)
}

fn carried() -> PathStats {
    PathStats {
        rx_bytes: 1000,
        tx_bytes: 70_000,
        ..PathStats::default()
    }
}

impl World {
    fn tell(&mut self, connection: &Connection, input: Input<'_>) {
        self.driver.tell(connection, input, self.now);
    }

    /// A connection whose client has asked for a target.
    pub(in super::super) fn asking(&mut self) -> Connection {
        self.told(CONNECT)
    }

    /// A connection whose client has made a request.
    fn told(&mut self, request: &[u8]) -> Connection {
        let connection = self.driver.connected(LISTENER, peer(), self.now).unwrap();
        for bytes in [GREETING, request] {
            let channel = ChannelRef::FIRST;
            self.tell(&connection, Input::Stream { channel, bytes });
        }
        connection
    }

    /// One whose streams are joined.
    pub(in super::super) fn joined(&mut self) -> Connection {
        let connection = self.asking();
        let opened = Input::ChannelOpened {
            channel: OTHER,
            local: "192.0.2.2:40000".parse().unwrap(),
            remote: "198.51.100.7:80".parse().unwrap(),
        };
        self.tell(&connection, opened);
        self.driver
            .set_carried(&connection, LocalRef(1), Rc::new(carried));
        let standing = standing(&self.driver.ledger, &Effects::default());
        self.driver.set_standing(&connection, LocalRef(1), standing);
        connection
    }

    fn only_session(&self) -> Known {
        let sessions = self.engine.sessions(&Default::default()).items;
        let [session] = &sessions[..] else {
            panic!("{sessions:?}")
        };
        session.clone()
    }

    /// Takes a connection up that another left.
    fn take_up(&mut self, left: &Left) -> Result<Connection, String> {
        let taken = self
            .engine
            .take_in_connection(&left.session, self.shard, self.now);
        let from = GoOn {
            listener: LISTENER,
            session: taken.unwrap().id,
            local: left.local,
            profile: left.profile.as_deref().cloned(),
            checkpoint: left.checkpoint.clone(),
        };
        let (connection, at, origin) = self.driver.go_on(from, self.now)?;
        assert_eq!((at, origin.shard), (peer(), self.shard));
        Ok(connection)
    }
}

fn asked(connection: &Connection) -> Vec<Ask> {
    std::iter::from_fn(|| connection.outbox.pop()).collect()
}

#[test]
fn a_joined_connection_goes_on_in_another_driver() {
    let mut old = world(3, Duration::ZERO);
    let connection = old.joined();
    assert_eq!(old.driver.unsettled(old.now), Vec::<u32>::new());
    asked(&connection);
    old.driver.ask_for_handover();
    assert!(matches!(asked(&connection)[..], [Ask::HandOver]));
    let left = old.driver.leave(&connection, None, old.now).unwrap();
    assert_eq!(old.driver.connection_count(), 0);
    assert!(connection.outbox.is_over(), "its task ends");
    assert!(old.driver.leave(&connection, None, old.now).is_none());
    let before = old.only_session();
    assert_eq!(before.counters, carried());

    let mut new = world(0, Duration::from_secs(1));
    let connection = new.take_up(&left).unwrap();
    let expected = Known {
        restored: 1,
        origin: Origin {
            shard: new.shard,
            ..before.origin.clone()
        },
        ..before
    };
    assert_eq!(new.only_session(), expected);
    assert!(matches!(
        &asked(&connection)[..],
        [Ask::Join { first: ChannelRef::FIRST, second: OTHER, early, .. }] if early.is_empty()
    ));
    // An operator still finds it.
    assert!(
        !new.driver
            .describe_session(expected.id, new.now)
            .unwrap()
            .is_empty()
    );
    let (session, end) = (left.local, JoinEnd::Finished);
    new.tell(&connection, Input::JoinEnded { session, end });
    assert!(new.engine.totals().sessions.is_empty());
    assert_eq!(new.driver.connection_count(), 0);
    assert_eq!(new.driver.sessions(), 0);
}

#[test]
fn a_connection_that_waits_for_its_peer_goes_on_in_another_driver() {
    let mut old = world(3, Duration::ZERO);
    let connection = old.told(BIND);
    assert_eq!(old.driver.unsettled(old.now).len(), 1, "it does not listen yet");
    let (channel, local) = (OTHER, "192.0.2.2:40000".parse().unwrap());
    let listening = Input::ChannelListening { channel, local };
    old.tell(&connection, listening);
    assert_eq!(old.driver.unsettled(old.now), Vec::<u32>::new());
    assert!(
        old.driver.leave(&connection, None, old.now).is_none(),
        "nobody says what it stands on"
    );
    let waits = Asked::without_destination(Command::Bind);
    let left = old
        .driver
        .leave(&connection, Some(waits.clone()), old.now)
        .unwrap();
    assert_eq!(left.asked, waits);

    let mut new = world(0, Duration::from_secs(1));
    let connection = new.take_up(&left).unwrap();
    assert_eq!(new.only_session().state, State::Establishing);
    assert!(matches!(
        &asked(&connection)[..],
        [Ask::Listen { channel: OTHER, from, .. }] if from.port == 80
    ));
    let opened = Input::ChannelOpened {
        channel,
        local,
        remote: "198.51.100.7:20".parse().unwrap(),
    };
    new.tell(&connection, opened);
    assert_eq!(new.only_session().state, State::Established);
    assert!(matches!(
        &asked(&connection)[..],
        [Ask::Send(ChannelRef::FIRST, reply), Ask::Join { .. }] if reply[..2] == [5, 0]
    ));
}

#[test]
fn what_is_not_joined_yet_ends_with_a_reply() {
    let mut world = world(0, Duration::ZERO);
    let (asking, joined) = (world.asking(), world.joined());
    assert_eq!(world.driver.unsettled(world.now).len(), 1);
    assert!(world.driver.leave(&asking, None, world.now).is_none());
    asked(&asking);
    world.driver.close_unsettled(TerminateCause::NasReboot, world.now);
    let asks = asked(&asking);
    assert!(
        matches!(&asks[..], [Ask::Send(ChannelRef::FIRST, reply), Ask::Close(OTHER, _),
            Ask::Close(ChannelRef::FIRST, Close::Finish)] if reply[..2] == [5, 1]),
        "{asks:?}"
    );
    assert!(asking.outbox.is_over());
    assert!(!joined.outbox.is_over());
    assert_eq!(world.only_session().state, State::Established);
}

#[test]
fn a_connection_that_is_being_ended_is_not_left_to_another() {
    let mut world = world(0, Duration::ZERO);
    let connection = world.joined();
    let id = world.only_session().id;
    assert!(world.engine.end_session(id, TerminateCause::AdminReset));
    assert!(world.driver.leave(&connection, None, world.now).is_none());
    assert_eq!(world.driver.connection_count(), 1);
    world.driver.timeout(world.now);
    asked(&connection);
    assert!(connection.outbox.is_over());
    assert!(world.engine.totals().sessions.is_empty());
}

#[test]
fn a_session_whose_machine_cannot_be_made_ends() {
    let mut old = world(0, Duration::ZERO);
    let connection = old.joined();
    let mut left = old.driver.leave(&connection, None, old.now).unwrap();
    left.checkpoint = Bytes::from_static(b"not what it was");
    let mut new = world(0, Duration::ZERO);
    assert!(new.take_up(&left).is_err());
    assert_eq!(new.engine.totals().sessions.len(), 0);
    let ended = new.engine.history(&Default::default()).items;
    let end = ended[0].end.as_ref().unwrap();
    assert_eq!((end.cause, end.code), (TerminateCause::NasReboot, "not_restored"));
    assert_eq!(
        ended[0].counters,
        carried(),
        "what it had carried is not forgotten"
    );
    assert_eq!(new.driver.connection_count(), 0);
}
