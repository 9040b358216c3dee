//! A driver with the real L2TP module and a real engine, against the testkit's LAC, in virtual time.

use super::{Answer, Driver, Listener, Parts, Plane, Ticket};
use sluice_auth::Profile;
use sluice_core::{
    Allocation, Engine, EngineConfig, Ipv4Block, Journal, MemoryJournal, Now, Observer, Origin, PoolConfig,
    SessionQuery, State,
};
use sluice_spi::{
    CallInfo, DataPath, Ended, Event, Fact, Fault, Input, LocalRef, Machine, MachineKey, Module, PathError,
    PathRef, PathSpec, PathStats, PathUpdate, Payload, PeerAddr, SessionKind, ShardId, Shards,
    TerminateCause, Transmit, TunnelInfo, config,
};
use sluice_testkit::Seeded;
use sluice_testkit::lac::{Lac, LacConfig, LacEvent};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

mod fakes;

pub(super) use self::fakes::{Counted, Failed, OnePassword};

const PASSWORD: &[u8] = b"password";

/// A data plane that keeps what is sent.
#[derive(Default)]
pub(super) struct FakePlane {
    sent: VecDeque<Vec<u8>>,
    paths: BTreeMap<u32, PathSpec>,
    tapped: Vec<u32>,
    received: BTreeMap<u32, u64>,
    next: u32,
}

impl DataPath for FakePlane {
    fn install(&mut self, _: MachineKey, _: LocalRef, spec: PathSpec) -> Result<PathRef, PathError> {
        self.next += 1;
        self.paths.insert(self.next, spec);
        Ok(PathRef {
            slot: self.next,
            generation: 0,
        })
    }

    fn update(&mut self, path: PathRef, _: PathUpdate) -> Result<(), PathError> {
        self.paths.get(&path.slot).map(|_| ()).ok_or(PathError::Unknown)
    }

    fn remove(&mut self, path: PathRef) -> Option<(PathStats, Vec<u8>)> {
        let spec = self.paths.remove(&path.slot)?;
        Some((PathStats::default(), spec.codec.hot_state()))
    }

    fn stats(&self, path: PathRef) -> Option<PathStats> {
        self.paths.get(&path.slot).map(|_| PathStats {
            rx_packets: self.received.get(&path.slot).copied().unwrap_or(0),
            ..PathStats::default()
        })
    }

    fn hot_state(&self, path: PathRef) -> Option<Vec<u8>> {
        self.paths.get(&path.slot).map(|spec| spec.codec.hot_state())
    }

    fn send_frame(&mut self, path: PathRef, frame: &[u8]) {
        let Some(spec) = self.paths.get_mut(&path.slot) else {
            return;
        };
        let mut out = bytes::BytesMut::new();
        if spec.codec.seal(Payload::Frame(frame), &mut out) {
            self.sent.push_back(out.to_vec());
        }
    }

    fn tap(&mut self, path: PathRef, on: bool) {
        self.tapped.retain(|&slot| slot != path.slot);
        self.tapped.extend(on.then_some(path.slot));
    }
}

impl Plane for FakePlane {
    fn send(&mut self, _: usize, _: PeerAddr, packet: &[u8]) {
        self.sent.push_back(packet.to_vec());
    }
}

pub(super) struct World {
    pub(super) now: Now,
    journal: Arc<MemoryJournal>,
    pub(super) engine: Arc<Engine>,
    pub(super) driver: Driver<FakePlane>,
    lac: Lac,
    pub(super) up: usize,
    pub(super) down: Vec<String>,
    over: Option<String>,
}

fn peer() -> PeerAddr {
    PeerAddr {
        remote: "192.0.2.1:1701".parse().unwrap(),
        local: "192.0.2.2:1701".parse().unwrap(),
    }
}

fn gateway(
    journal: &Arc<MemoryJournal>,
    later: Option<Arc<Mutex<Vec<Ticket>>>>,
    now: Now,
) -> (Arc<Engine>, Driver<FakePlane>) {
    observed_gateway(journal, later, Arc::new(Failed::default()), now)
}

fn observed_gateway(
    journal: &Arc<MemoryJournal>,
    later: Option<Arc<Mutex<Vec<Ticket>>>>,
    observer: Arc<dyn Observer>,
    now: Now,
) -> (Arc<Engine>, Driver<FakePlane>) {
    let mut settings = EngineConfig::new(&["l2tp"]);
    settings.defaults.ipv4_pool = Some("default".to_owned());
    settings.pools = vec![PoolConfig {
        name: "default".to_owned(),
        ipv4: vec![Ipv4Block::prefix(Ipv4Addr::new(10, 64, 0, 0), 24).unwrap()],
        ipv4_gateway: None,
        ipv6: Vec::new(),
        dns4: Vec::new(),
        dns6: Vec::new(),
        nbns: Vec::new(),
        allocation: Allocation::default(),
        sticky: Duration::from_secs(60),
        hold_down: Duration::ZERO,
    }];
    let engine = Arc::new(Engine::new(
        settings,
        journal.clone(),
        observer,
        Box::new(Seeded::new(1)),
    ));
    let module: &'static dyn Module = sluice_registry::module("l2tp").unwrap();
    let factory = config::read("test", "", |root| module.configure(root)).unwrap();
    let front = factory
        .front(ShardId(0), Shards::new(1), Box::new(Seeded::new(2)))
        .unwrap();
    let origin = Origin {
        protocol: "l2tp",
        listener: "test".into(),
        shard: ShardId(0),
    };
    let parts = Parts {
        shard: ShardId(0),
        engine: engine.clone(),
        plane: FakePlane::default(),
        authority: Box::new(OnePassword { later }),
        counters: Box::new(Counted::default()),
        entropy: Box::new(Seeded::new(3)),
        traces: Arc::default(),
        policy: Arc::default(),
        ledger: Arc::default(),
        listeners: vec![Listener {
            origin,
            module,
            factory: factory.into(),
            front: Some(front),
        }],
    };
    (engine, Driver::new(parts, now))
}

impl World {
    pub(super) fn new(lac: LacConfig, later: Option<Arc<Mutex<Vec<Ticket>>>>) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let journal = Arc::new(MemoryJournal::new());
        let (engine, driver) = gateway(&journal, later, now);
        let lac = Lac::dial(Arc::new(lac), 7, Seeded::new(4), now.instant);
        Self {
            now,
            journal,
            engine,
            driver,
            lac,
            up: 0,
            down: Vec::new(),
            over: None,
        }
    }

    /// Carries packets to and fro until both ends are silent.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut any = false;
            while let Some(packet) = self.lac.poll_transmit() {
                self.driver.datagram(0, peer(), &packet.bytes, self.now);
                any = true;
            }
            while let Some(packet) = self.driver.plane().sent.pop_front() {
                self.lac.handle_datagram(&packet, self.now.instant);
                any = true;
            }
            while let Some(event) = self.lac.poll_event() {
                match event {
                    LacEvent::CallUp { .. } => self.up += 1,
                    LacEvent::CallDown { reason, .. } => self.down.push(reason),
                    LacEvent::TunnelDown { reason } => self.over = Some(reason),
                    LacEvent::TunnelUp | LacEvent::Ip { .. } => {}
                }
            }
            if !any {
                return;
            }
        }
        panic!("the two ends do not come to rest");
    }

    /// Lets time pass, from one timer to the next.
    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        self.settle();
        loop {
            let timers = self
                .lac
                .poll_timeout()
                .into_iter()
                .chain(self.driver.next_timeout(self.now));
            let next = timers.min().unwrap_or(end.instant).min(end.instant);
            self.now = self.now.after(
                next.saturating_duration_since(self.now.instant)
                    .max(Duration::from_millis(1)),
            );
            self.lac.handle_timeout(self.now.instant);
            self.driver.timeout(self.now);
            self.settle();
            if self.now.instant >= end.instant {
                return;
            }
        }
    }

    pub(super) fn sessions(&self) -> Vec<sluice_core::Session> {
        self.engine.sessions(&SessionQuery::default()).items
    }
}

pub(super) fn lac() -> LacConfig {
    LacConfig {
        calls: 3,
        ipv6: false,
        user: "user{}".to_owned(),
        password: PASSWORD.to_vec(),
        ..LacConfig::default()
    }
}

#[test]
fn clients_come_up_and_an_operator_ends_one() {
    let mut world = World::new(lac(), None);
    world.run(Duration::from_secs(2));
    assert_eq!(
        (world.up, world.driver.machines()),
        (3, 1),
        "{:?} {:?}",
        world.down,
        world.over
    );
    let sessions = world.sessions();
    assert!(sessions.iter().all(|session| session.state == State::Established));
    assert_eq!(world.driver.plane().paths.len(), 3);
    let id = sessions[0].id;
    assert!(!world.driver.describe_session(id, world.now).unwrap().is_empty());
    assert!(world.driver.terminate(id, TerminateCause::AdminReset, world.now));
    world.run(Duration::from_secs(10));
    assert_eq!((world.down.len(), world.sessions().len()), (1, 2));
    assert!(!world.driver.terminate(id, TerminateCause::AdminReset, world.now));
    world.lac.close(world.now.instant);
    world.run(Duration::from_secs(60));
    assert_eq!(
        (
            world.sessions().len(),
            world.driver.machines(),
            world.driver.plane().paths.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_late_answer_finds_its_session_and_a_stale_one_nobody() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut world = World::new(LacConfig { calls: 1, ..lac() }, Some(asked.clone()));
    world.run(Duration::from_secs(1));
    let ticket = asked.lock().unwrap().pop().unwrap();
    assert_eq!((world.up, world.sessions().len()), (0, 1));
    let user = sluice_auth::Identity::parse(b"user0").unwrap();
    world
        .driver
        .answer(ticket, Answer::Profile(Ok(Profile::new(user.clone()))), world.now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.up, 1, "{:?}", world.down);
    world.driver.close_all(TerminateCause::AdminReboot, world.now);
    world.run(Duration::from_secs(60));
    assert_eq!((world.sessions().len(), world.driver.machines()), (0, 0));
    world
        .driver
        .answer(ticket, Answer::Profile(Ok(Profile::new(user))), world.now);
    assert_eq!(world.sessions().len(), 0);
}

#[test]
fn a_wrong_password_is_refused_and_nothing_stays() {
    let mut world = World::new(
        LacConfig {
            calls: 1,
            password: b"wrong".to_vec(),
            ..lac()
        },
        None,
    );
    world.run(Duration::from_secs(60));
    assert_eq!((world.up, world.down.len(), world.sessions().len()), (0, 1, 0));
}

#[test]
fn sessions_outlive_a_restart() {
    let mut world = World::new(lac(), None);
    world.run(Duration::from_secs(2));
    assert_eq!(world.up, 3);
    let before: Vec<_> = world
        .sessions()
        .into_iter()
        .map(|session| (session.id, session.addresses()))
        .collect();
    world.driver.checkpoint_all(world.now);
    let (engine, mut driver) = gateway(&world.journal, None, world.now);
    let records = world.journal.load().unwrap();
    let loaded = engine.load(records, &|_| ShardId(0), world.now);
    assert_eq!(loaded.tunnels.len(), 1);
    for tunnel in &loaded.tunnels {
        driver.restore(0, tunnel, None, world.now);
    }
    (world.engine, world.driver) = (engine, driver);
    world.run(Duration::from_secs(120));
    let after: Vec<_> = world
        .sessions()
        .into_iter()
        .map(|session| (session.id, session.addresses()))
        .collect();
    assert_eq!(before, after);
    assert_eq!((world.down.len(), world.over.as_deref()), (0, None));
    assert_eq!(world.driver.plane().paths.len(), 3);
    world.lac.close(world.now.instant);
    world.run(Duration::from_secs(60));
    assert_eq!((world.sessions().len(), world.driver.machines()), (0, 0));
}

/// How often a traced client was asked for a sign of life.
fn echoes(world: &World, id: sluice_core::SessionId) -> usize {
    let view = world.driver.traces.view(id, 0, 1000, world.now.instant).unwrap();
    let text = serde_json::to_string(&view).unwrap();
    text.matches("Echo-Request").count()
}

#[test]
fn a_client_that_sends_is_not_asked_for_a_sign_of_life() {
    let mut world = World::new(LacConfig { calls: 2, ..lac() }, None);
    world.run(Duration::from_secs(2));
    let ids = [0, 1].map(|index| world.sessions()[index].id);
    let (start, time) = (world.now, Duration::from_secs(3600));
    for id in ids {
        let traces = world.driver.traces.clone();
        traces.start(id, time, false, start.instant, start.wall).unwrap();
        assert!(world.driver.trace(id, true, world.now));
    }
    assert_eq!(world.driver.plane().tapped, [1, 2]);
    for _ in 0..120 {
        *world.driver.plane().received.entry(1).or_default() += 1;
        // The sessions are looked at one by one.
        for _ in 0..=world.driver.sessions() {
            world.driver.look_through(1, world.now);
        }
        world.run(Duration::from_secs(1));
    }
    let asked = ids.map(|id| echoes(&world, id));
    assert!(
        asked.contains(&0) && asked.iter().any(|&count| count >= 3),
        "{asked:?}"
    );
    assert!(world.driver.trace(ids[0], false, world.now));
    assert_eq!(world.driver.plane().tapped.len(), 1);
}

#[test]
fn a_report_of_an_unreachable_peer_makes_its_tunnel_ask() {
    let mut world = World::new(lac(), None);
    world.run(Duration::from_secs(2));
    let mut other = peer();
    other.remote.set_port(1702);
    world.driver.unreachable(0, other, world.now);
    world.driver.unreachable(1, peer(), world.now);
    assert!(world.driver.plane().sent.is_empty());
    world.driver.unreachable(0, peer(), world.now);
    let hello = world.driver.plane().sent.pop_front().unwrap();
    // A control message whose type is HELLO (RFC 2661, 6.5).
    assert_eq!(
        (hello[0], &hello[12..20]),
        (0xc8, &[0x80, 0x08, 0, 0, 0, 0, 0, 6][..])
    );
}

/// Panics over one kind of datagram, and where `doomed` also when it is first called; otherwise it leaves things to
/// the front behind it.
pub(super) struct Fragile {
    pub(super) front: Box<dyn sluice_spi::Front>,
    pub(super) doomed: Option<Instant>,
}

impl sluice_spi::Front for Fragile {
    fn handle_datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) -> sluice_spi::Route {
        assert_ne!(packet, b"panic");
        self.front.handle_datagram(from, packet, now)
    }
    fn handle_timeout(&mut self, now: Instant) {
        assert_eq!(self.doomed, None);
        self.front.handle_timeout(now);
    }
    fn poll_transmit(&mut self, now: Instant, out: &mut bytes::BytesMut) -> Option<sluice_spi::Transmit> {
        self.front.poll_transmit(now, out)
    }
    fn poll_event(&mut self) -> Option<sluice_spi::Event> {
        self.front.poll_event()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.doomed.or_else(|| self.front.poll_timeout())
    }
    fn mint(&mut self, now: Instant) -> Option<MachineKey> {
        self.front.mint(now)
    }
    fn reserve(&mut self, key: MachineKey) -> bool {
        self.front.reserve(key)
    }
    fn release(&mut self, key: MachineKey, now: Instant) {
        self.front.release(key, now);
    }
    fn half_open(&self) -> usize {
        self.front.half_open()
    }
}

#[test]
fn a_front_that_panics_serves_the_others() {
    let mut world = World::new(lac(), None);
    let listener = world.driver.listeners.pop().unwrap();
    world.driver.listeners.push(Listener {
        front: Some(Box::new(Fragile {
            front: listener.front.unwrap(),
            doomed: None,
        })),
        ..listener
    });
    world.driver.datagram(0, peer(), b"panic", world.now);
    world.run(Duration::from_secs(2));
    assert_eq!(world.up, 3);
}

#[test]
fn tunnels_that_changed_are_journaled_in_steps() {
    let mut world = World::new(lac(), None);
    world.run(Duration::from_secs(2));
    assert!(world.driver.has_changed());
    world.driver.checkpoint_changed(0, world.now);
    assert!(world.driver.has_changed());
    assert!(world.journal.load().unwrap().is_empty());
    world.driver.checkpoint_changed(1, world.now);
    assert!(!world.driver.has_changed());
    assert_eq!(world.journal.load().unwrap().len(), 1);
}

#[test]
fn a_call_to_nobody_is_told_to_have_failed() {
    let failed = Arc::new(Failed::default());
    let mut world = World::new(lac(), None);
    let (_, driver) = observed_gateway(&world.journal, None, failed.clone(), world.now);
    world.driver = driver;
    let call = sluice_spi::Originate {
        label: "mine".to_owned(),
        called: "5551".to_owned(),
        sub_address: String::new(),
        speed: (0, u32::MAX),
        login: None,
    };
    world.driver.dial(0, peer(), &call, world.now).unwrap();
    for _ in 0..120 {
        world.now = world.now.after(Duration::from_secs(1));
        world.driver.timeout(world.now);
        world.driver.plane().sent.clear();
    }
    assert_eq!(world.driver.machines(), 0);
    let told = failed.0.lock().unwrap().clone();
    let reason = "the peer does not answer control messages".to_owned();
    assert_eq!(told, [("mine".to_owned(), reason)]);
}

#[test]
fn a_trace_ends_with_its_session_and_r39_holds_no_password() {
    let mut world = World::new(LacConfig { calls: 1, ..lac() }, None);
    world.run(Duration::from_secs(2));
    let (id, start) = (world.sessions()[0].id, world.now);
    let traces = world.driver.traces.clone();
    traces
        .start(id, Duration::from_secs(3600), true, start.instant, start.wall)
        .unwrap();
    assert!(world.driver.trace(id, true, world.now));
    assert!(traces.is_on(id, world.now.instant));
    let (slot, local) = world.driver.by_session[&id];
    let pap = b"\x00\x02\x00\x01\x00\x02\xc0\x23\x01\x07\x00\x12\x05alice\x07hunter2";
    let (slot, way) = (MachineKey(slot), sluice_spi::Direction::In);
    world.driver.tapped(slot, local, way, peer(), pap, world.now);
    let file = traces.capture(id).unwrap();
    let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(holds(b"alice\x07*******") && !holds(b"hunter2"));
    world.driver.terminate(id, TerminateCause::AdminReset, world.now);
    world.run(Duration::from_secs(10));
    assert!(world.sessions().is_empty() && !traces.is_on(id, world.now.instant));
    let view = serde_json::to_string(&traces.view(id, 0, 1000, world.now.instant)).unwrap();
    assert!(view.contains("Terminate-Ack"), "{view}");
}

/// A tunnel of many calls whose peer ends all of them with one message.
struct Fat {
    calls: u32,
    events: VecDeque<Event>,
    is_over: bool,
}

impl Fat {
    fn new(calls: u32) -> Self {
        let call = CallInfo {
            kind: SessionKind::Connection,
            peer: peer(),
            calling: None,
            called: None,
            label: None,
        };
        let opening = |call: &CallInfo, number| Event::SessionOpening {
            session: LocalRef(number),
            call: call.clone(),
        };
        let mut fat = Self {
            calls,
            events: VecDeque::new(),
            is_over: false,
        };
        fat.events.push_back(Event::TunnelUp(fat.describe()));
        fat.events.extend((0..calls).map(|number| opening(&call, number)));
        fat
    }
}

impl Machine for Fat {
    fn key(&self) -> MachineKey {
        MachineKey(77)
    }

    fn handle_input(&mut self, input: Input<'_>, _: Instant) -> Result<(), Fault> {
        if let Input::Datagram { .. } = input {
            let ended = Ended::new(TerminateCause::NasRequest, "stopped_by_peer", "all at once");
            for number in 0..self.calls {
                let (session, ended) = (LocalRef(number), ended.clone());
                self.events.push_back(Event::RemovePath { session });
                self.events.push_back(Event::SessionDown { session, ended });
            }
            self.events.push_back(Event::TunnelDown(ended));
            self.is_over = true;
        }
        Ok(())
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self, _: Instant, _: &mut bytes::BytesMut) -> Option<Transmit> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn checkpoint(&self, _: Instant) -> Option<bytes::Bytes> {
        None
    }

    fn close(&mut self, _: TerminateCause, _: Instant) {}

    fn is_drained(&self) -> bool {
        self.is_over && self.events.is_empty()
    }

    fn describe(&self) -> TunnelInfo {
        TunnelInfo {
            key: self.key(),
            peer: peer(),
            peer_name: String::new(),
            initiated: false,
            facts: Vec::new(),
        }
    }

    fn describe_session(&self, _: LocalRef) -> Vec<Fact> {
        Vec::new()
    }
}

#[test]
fn thousands_of_calls_end_with_one_message_and_all_by_its_cause() {
    let calls = 6000;
    let mut world = World::new(lac(), None);
    let now = world.now;
    let origin = world.driver.listeners[0].origin.clone();
    let machine = Box::new(Fat::new(calls));
    let slot = world.driver.insert(0, origin, machine.key(), machine);
    world.driver.drain(slot, now);
    assert_eq!(world.driver.sessions(), calls as usize);
    let input = Input::Datagram {
        from: peer(),
        packet: &[],
    };
    world.driver.input(slot, input, now);
    assert_eq!((world.driver.sessions(), world.driver.machines()), (0, 0));
    let history = world.engine.history(&SessionQuery::default());
    let codes: Vec<_> = history
        .items
        .iter()
        .map(|session| session.end.as_ref().unwrap().code)
        .collect();
    assert!(
        !codes.is_empty() && codes.iter().all(|&code| code == "stopped_by_peer"),
        "{codes:?}"
    );
}
