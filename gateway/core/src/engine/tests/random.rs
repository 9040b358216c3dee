//! Random lives of a gateway, restarts included, and what must hold in all of them.

use super::*;
use crate::table::lock;
use crate::{Address, Journal, JournalError, Limits, SessionQuery, State, WhenFull};
use bytes::Bytes;
use proptest::prelude::*;
use sluice_auth::AddressRule;
use sluice_spi::checkpoint;
use std::collections::{BTreeMap, BTreeSet};

type Pick = prop::sample::Index;

#[derive(Clone, Debug)]
enum Step {
    TunnelUp,
    TunnelDown(Pick),
    Open { tunnel: Pick, peer: u32 },
    Authorize { session: Pick, user: u8, fixed: bool },
    Refuse(Pick),
    Up(Pick),
    Counters { session: Pick, packets: u64 },
    Down(Pick),
    EndUser(u8),
    Pass { seconds: u64 },
    Checkpoint(Pick),
    StoreFails,
    StoreRecovers,
    Restart { recovered: u8 },
    Reconfigure(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Pick>;
    prop_oneof![
        2 => Just(Step::TunnelUp),
        1 => pick().prop_map(Step::TunnelDown),
        8 => (pick(), 0u32..3).prop_map(|(tunnel, peer)| Step::Open { tunnel, peer }),
        8 => (pick(), 0u8..4, prop::bool::weighted(0.2))
            .prop_map(|(session, user, fixed)| Step::Authorize { session, user, fixed }),
        1 => pick().prop_map(Step::Refuse),
        8 => pick().prop_map(Step::Up),
        4 => (pick(), 0u64..1000).prop_map(|(session, packets)| Step::Counters { session, packets }),
        3 => pick().prop_map(Step::Down),
        1 => (0u8..4).prop_map(Step::EndUser),
        2 => (1u64..400).prop_map(|seconds| Step::Pass { seconds }),
        3 => pick().prop_map(Step::Checkpoint),
        1 => Just(Step::StoreFails),
        1 => Just(Step::StoreRecovers),
        1 => any::<u8>().prop_map(|recovered| Step::Restart { recovered }),
        1 => any::<bool>().prop_map(Step::Reconfigure),
    ]
}

fn settings(wide: bool, when_full: WhenFull) -> EngineConfig {
    let mut config = config();
    config.pools = vec![match wide {
        true => pool("home", "10.0.0.0/28", "2001:db8::/60"),
        false => pool("home", "10.0.0.8/29", "2001:db8::/61"),
    }];
    config.limits = Limits {
        sessions: 12,
        opening: 5,
        tunnels: 3,
        per_user: Some(3),
        user_full: when_full,
        per_peer: Some(6),
        ..Limits::default()
    };
    config.defaults.idle_timeout = Some(Duration::from_secs(900));
    config.defaults.session_timeout = Some(Duration::from_secs(3000));
    config
}

/// What an outside observer knows.
struct Life {
    small: Small,
    wide: bool,
    when_full: WhenFull,
    tunnels: Vec<(TunnelId, u32)>,
    sessions: Vec<SessionId>,
    next: u32,
    opened: BTreeSet<SessionId>,
    closed: BTreeSet<SessionId>,
    /// The largest counters seen of each session.
    counters: BTreeMap<SessionId, u64>,
    /// The counters that each session's path says.
    paths: BTreeMap<SessionId, u64>,
    /// Tunnels with a record.
    recorded: BTreeSet<TunnelId>,
    /// The counters of each session when its record was last written.
    saved: BTreeMap<SessionId, u64>,
    store_fails: bool,
}

impl Life {
    fn new(when_full: WhenFull) -> Self {
        Self {
            small: Small::new(settings(true, when_full)),
            wide: true,
            when_full,
            tunnels: Vec::new(),
            sessions: Vec::new(),
            next: 0,
            opened: BTreeSet::new(),
            closed: BTreeSet::new(),
            counters: BTreeMap::new(),
            paths: BTreeMap::new(),
            recorded: BTreeSet::new(),
            saved: BTreeMap::new(),
            store_fails: false,
        }
    }

    fn config(&self) -> EngineConfig {
        settings(self.wide, self.when_full)
    }

    fn checkpoint(&mut self, tunnel: TunnelId) {
        let small = &self.small;
        let state = checkpoint::seal(1, b"machine");
        assert!(small.engine.checkpoint(tunnel, Some(state), small.now));
        self.recorded.insert(tunnel);
        for id in &self.sessions {
            let session = small.session(*id);
            if session.tunnel == Some(tunnel) && session.state == State::Established {
                self.saved.insert(*id, session.counters.rx_packets);
            }
        }
    }

    /// Reads the events: each session opens once and ends once. A tunnel of which a session ended has a new
    /// checkpoint, as its machine asks for it.
    fn listen(&mut self) -> Result<(), TestCaseError> {
        let mut changed = BTreeSet::new();
        for event in self.small.heard.take() {
            match event {
                EngineEvent::SessionOpened(session) => {
                    prop_assert!(self.opened.insert(session.id), "opened twice");
                }
                EngineEvent::SessionDown(session) => {
                    prop_assert!(self.opened.contains(&session.id), "never opened");
                    prop_assert!(self.closed.insert(session.id), "ended twice");
                    prop_assert_eq!(session.state, State::Closed);
                    changed.extend(session.tunnel);
                }
                EngineEvent::TunnelDown { tunnel, .. } => {
                    self.recorded.remove(&tunnel.id);
                }
                _ => {}
            }
        }
        let closed = &self.closed;
        self.sessions.retain(|id| !closed.contains(id));
        for tunnel in changed.intersection(&self.recorded.clone()) {
            self.checkpoint(*tunnel);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let small = &self.small;
        let (engine, now) = (&small.engine, small.now);
        let session = |pick: &Pick| (!self.sessions.is_empty()).then(|| *pick.get(&self.sessions));
        let tunnel = |pick: &Pick| (!self.tunnels.is_empty()).then(|| *pick.get(&self.tunnels));
        match step {
            Step::TunnelUp => {
                self.next += 1;
                let up = engine.tunnel_up(&origin(0), &tunnel_info(self.next, self.next), now);
                self.tunnels.extend(up.map(|id| (id, self.next)));
            }
            Step::TunnelDown(pick) => {
                if let Some((id, _)) = tunnel(&pick) {
                    engine.tunnel_down(id, &ended(), now);
                    self.tunnels.retain(|(other, _)| *other != id);
                }
            }
            Step::Open { tunnel: pick, peer } => {
                if let Some((id, _)) = tunnel(&pick) {
                    self.next += 1;
                    let opened =
                        engine.session_opening(&origin(0), Some(id), LocalRef(self.next), &call(peer), now);
                    self.sessions.extend(opened);
                }
            }
            Step::Authorize {
                session: pick,
                user,
                fixed,
            } => {
                if let Some(id) = session(&pick) {
                    let mut profile = profile(["a", "b", "c", "d"][usize::from(user)]);
                    if fixed {
                        profile.ipv4 = AddressRule::Static([10, 0, 0, 10 + user].into());
                    }
                    engine.auth_requested(id, &request(profile.identity.as_str()));
                    engine.authorize(id, Ok(profile), now);
                }
            }
            Step::Refuse(pick) => {
                if let Some(id) = session(&pick) {
                    engine.auth_requested(id, &request("mallory"));
                    engine.authorize(id, Err(RejectReason::BadCredentials), now);
                }
            }
            Step::Up(pick) => {
                if let Some(id) = session(&pick).filter(|id| small.session(*id).grants.is_some()) {
                    engine.session_up(id, &[], now);
                }
            }
            Step::Counters {
                session: pick,
                packets,
            } => {
                if let Some(id) = session(&pick) {
                    let path = self.paths.entry(id).or_default();
                    *path += packets;
                    engine.update_counters(id, stats(*path), now);
                }
            }
            Step::Down(pick) => {
                if let Some(id) = session(&pick) {
                    prop_assert!(small.down(id));
                    prop_assert!(!small.down(id));
                }
            }
            Step::EndUser(user) => {
                engine.end_user(
                    ["a", "b", "c", "d"][usize::from(user)],
                    TerminateCause::AdminReset,
                );
                self.end_due()?;
            }
            Step::Pass { seconds } => {
                self.small.tick(seconds);
                self.end_due()?;
            }
            Step::Checkpoint(pick) => {
                if let Some((id, _)) = tunnel(&pick) {
                    self.checkpoint(id);
                }
            }
            Step::StoreFails => {
                let error = JournalError::ReadOnly("full".to_owned());
                small.journal.fail_with(Some(error));
                self.store_fails = true;
            }
            Step::StoreRecovers => self.recover_store(),
            Step::Restart { recovered } => self.restart(recovered)?,
            Step::Reconfigure(wide) => {
                self.wide = wide;
                engine.reconfigure(self.config());
            }
        }
        Ok(())
    }

    /// Does what a shard does: ends what is due.
    fn end_due(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeSet::new();
        for (id, _) in self.small.engine.due(ShardId(0), self.small.now) {
            prop_assert!(seen.insert(id), "due twice");
            prop_assert_eq!(self.small.session(id).state, State::Closing);
            prop_assert!(self.small.down(id));
        }
        Ok(())
    }

    /// Whatever the journal missed or did not, it has what lives afterwards.
    fn recover_store(&mut self) {
        let wall = self.small.now.wall;
        self.small.journal.recover(&self.small.engine, &|| wall);
        self.store_fails = false;
    }

    /// A crash: what has no record is gone, and of the rest only some comes back.
    fn restart(&mut self, recovered: u8) -> Result<(), TestCaseError> {
        self.listen()?;
        if self.store_fails {
            self.recover_store();
        }
        let before: BTreeMap<SessionId, Session> = self
            .sessions
            .iter()
            .map(|id| (*id, self.small.session(*id)))
            .collect();
        self.small = self.small.restart(self.config(), Duration::from_secs(5));
        let (engine, now) = (&self.small.engine, self.small.now);
        let records = self.small.journal.load().unwrap();
        let loaded = engine.load(records, &shard_of, now);
        prop_assert_eq!(loaded.set_aside, 0);
        self.tunnels.clear();
        self.paths.clear();
        self.recorded.clear();
        let mut back = BTreeSet::new();
        for tunnel in loaded.tunnels {
            self.tunnels.push((tunnel.tunnel, tunnel.key.0));
            for (_, id) in &tunnel.sessions {
                prop_assert!(before.contains_key(id), "it had ended");
                back.insert(*id);
                let counted = engine.session(*id).unwrap().counters.rx_packets;
                prop_assert!(counted >= *self.saved.get(id).unwrap());
                prop_assert!(counted <= before[id].counters.rx_packets);
                self.counters.insert(*id, counted);
            }
            let alive = |local: &LocalRef| recovered >> (local.0 % 8) & 1 == 1;
            let locals = tunnel.sessions.iter().map(|(local, _)| *local).filter(alive);
            let locals: Vec<LocalRef> = locals.collect();
            engine.recovered(tunnel.tunnel, &tunnel_info(tunnel.key.0, 1), &locals, now);
            self.recorded.insert(tunnel.tunnel);
        }
        // Those without a record have ended without a word.
        self.closed.extend(before.keys().filter(|id| !back.contains(id)));
        self.sessions = back.into_iter().collect();
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.listen()?;
        let engine = &self.small.engine;
        let live = engine.sessions(&SessionQuery::default()).items;
        let ids: Vec<SessionId> = live.iter().map(|session| session.id).collect();
        let mut known = self.sessions.clone();
        known.sort();
        prop_assert_eq!(&ids, &known);
        let opening = live.iter().filter(|s| s.established.is_none()).count();
        let counts = lock(&engine.admission).counts();
        prop_assert_eq!((counts.0 as usize, counts.1 as usize), (live.len(), opening));
        prop_assert_eq!(counts.2 as usize, self.tunnels.len());
        prop_assert!(live.len() <= 12 && opening <= 5 && self.tunnels.len() <= 3);
        for user in ["a", "b", "c", "d"] {
            prop_assert!(engine.table.user_counting(user) <= 3);
        }
        for number in 0..3 {
            let of_peer = live.iter().filter(|s| s.peer == peer(number)).count();
            prop_assert!(of_peer <= 6);
        }
        let mut addresses = BTreeSet::new();
        for session in &live {
            for address in session.addresses() {
                prop_assert!(addresses.insert(address), "{address} twice");
                let ip = match address {
                    Address::V4(address) => IpAddr::V4(address),
                    Address::V6(prefix) => IpAddr::V6(prefix.address()),
                };
                prop_assert_eq!(engine.holder(ip), Some(session.id));
            }
            let seen = self.counters.entry(session.id).or_default();
            prop_assert!(session.counters.rx_packets >= *seen);
            *seen = session.counters.rx_packets;
        }
        let held: u64 = engine
            .leases(&Default::default())
            .items
            .iter()
            .filter(|lease| matches!(lease.status, crate::LeaseStatus::Held { .. }))
            .count() as u64;
        prop_assert_eq!(held, addresses.len() as u64);
        Ok(())
    }

    fn finish(mut self) -> Result<(), TestCaseError> {
        for (id, _) in std::mem::take(&mut self.tunnels) {
            self.small.engine.tunnel_down(id, &ended(), self.small.now);
        }
        self.check()?;
        if self.store_fails {
            self.recover_store();
        }
        prop_assert_eq!(&self.opened, &self.closed);
        prop_assert_eq!(self.small.engine.table.sizes(), [0; 6]);
        prop_assert_eq!(lock(&self.small.engine.admission).counts(), (0, 0, 0, 0));
        prop_assert_eq!(self.small.engine.due(ShardId(0), self.small.now), []);
        let left = self.small.journal.load().unwrap();
        prop_assert!(left.iter().all(|record| record.table == crate::Table::Leases));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happens_the_rules_hold(
        replace in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut life = Life::new(if replace { WhenFull::ReplaceOldest } else { WhenFull::Deny });
        for step in steps {
            life.step(step)?;
            life.check()?;
        }
        life.finish()?;
    }

    /// What a record says of a session is what the session was, whatever it was.
    #[test]
    fn a_record_gives_back_what_was_written(
        names in prop::collection::vec("[a-z]{1,20}(@[a-z.]{1,20})?", 1..5),
        texts in prop::collection::vec("\\PC{0,40}", 4),
        packets in any::<u64>(),
        millis in 0u64..1 << 40,
        timeout in prop::option::of(0u64..1 << 40),
        mtu in prop::option::of(any::<u16>()),
        state in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut small = Small::new(config());
        small.now.wall = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let tunnel = small.tunnel(16);
        let mut ids = Vec::new();
        for (local, name) in (0u32..).zip(&names) {
            let call = CallInfo {
                calling: Some(texts[0].clone()),
                called: Some(texts[1].clone()),
                label: (local % 2 == 0).then(|| texts[2].clone()),
                ..call(1)
            };
            let id = small.engine.session_opening(&origin(0), Some(tunnel), LocalRef(local), &call, small.now).unwrap();
            let profile = Profile {
                mtu,
                session_timeout: timeout.map(Duration::from_nanos),
                idle_timeout: timeout.map(Duration::from_millis),
                ..profile(name)
            };
            small.authorize(id, profile).unwrap();
            small.engine.session_up(id, &[Fact::new("text", texts[3].clone())], small.now);
            let counted = PathStats { rx_packets: packets, tx_bytes: packets / 3, ..PathStats::default() };
            small.engine.update_counters(id, counted, small.now);
            ids.push(id);
        }
        let module = Bytes::from(state);
        small.engine.checkpoint(tunnel, Some(module.clone()), small.now);
        let after = small.restart(config(), Duration::ZERO);
        let loaded = after.engine.load(after.journal.load().unwrap(), &shard_of, after.now);
        prop_assert_eq!(loaded.set_aside, 0);
        prop_assert_eq!(&loaded.tunnels[0].checkpoint, &module);
        for id in ids {
            let expected = Session { state: State::Recovering, restored: 1, ..small.session(id) };
            prop_assert_eq!(after.session(id), expected);
        }
    }
}
