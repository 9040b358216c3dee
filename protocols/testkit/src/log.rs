//! What a node saw and did, in order.

use crate::vectors::to_hex;
use sluice_spi::{
    AddressFilter, ChannelRef, Direction, Event, LocalRef, MachineKey, PathKey, PathStats, PathUpdate,
    PeerAddr, Refusal,
};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// One line of a node's log.
#[derive(Debug)]
pub struct Entry {
    /// Virtual time since the start.
    pub at: Duration,
    /// The machine it is about; `None`: the front.
    pub machine: Option<MachineKey>,
    /// What happened.
    pub what: Seen,
}

/// Something that a node saw or did.
#[derive(Debug)]
pub enum Seen {
    /// A packet came in.
    Received {
        /// Both ends.
        from: PeerAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A packet went out.
    Sent {
        /// Both ends.
        to: PeerAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A machine or front gave an event other than those below.
    Event(Event),
    /// A path was installed ([`Event::InstallPath`]).
    PathInstalled {
        /// The session.
        session: LocalRef,
        /// What identifies its packets.
        key: PathKey,
        /// The bound peer.
        peer: PeerAddr,
        /// Its addresses.
        filter: AddressFilter,
        /// Largest IP packet towards the peer.
        mtu: u16,
    },
    /// A path was changed ([`Event::UpdatePath`]).
    PathUpdated {
        /// The session.
        session: LocalRef,
        /// What changed.
        update: PathUpdate,
    },
    /// A path was removed ([`Event::RemovePath`]).
    PathRemoved {
        /// The session.
        session: LocalRef,
        /// What it had carried.
        stats: PathStats,
    },
    /// A session was refused by the policy of the test.
    Refused {
        /// The session.
        session: LocalRef,
        /// Why.
        refusal: Refusal,
    },
    /// Bytes went through a channel of a machine, not counting those that pass joined channels.
    Stream {
        /// The channel.
        channel: ChannelRef,
        /// Which way.
        direction: Direction,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A relay of datagrams was asked for ([`Event::OpenRelay`]).
    RelayOpened {
        /// The session.
        session: LocalRef,
        /// The channel.
        channel: ChannelRef,
        /// Where the client says it will send from.
        client: SocketAddr,
    },
    /// A token for a security context came ([`Event::ContextRequested`]).
    ContextRequested {
        /// The session.
        session: LocalRef,
        /// The token.
        token: Vec<u8>,
    },
    /// A machine could not go on.
    Fault(String),
    /// A drained machine was dropped.
    MachineGone,
}

/// The log of one node.
#[derive(Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
}

impl Log {
    pub(crate) fn push(&mut self, at: Duration, machine: Option<MachineKey>, what: Seen) {
        self.entries.push(Entry { at, machine, what });
    }

    /// Everything, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The events of fronts and machines, in order, other than those about paths.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            Seen::Event(event) => Some(event),
            _ => None,
        })
    }

    /// How many entries a test counts.
    pub fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.entries.iter().filter(|entry| wanted(&entry.what)).count()
    }

    /// How many packets were dropped for a reason.
    pub fn dropped(&self, reason: &str) -> usize {
        self.count(|seen| matches!(seen, Seen::Event(Event::Dropped(why)) if why.0 == reason))
    }

    /// How often something was counted by a name ([`Event::Counted`]).
    pub fn counted(&self, name: &str) -> usize {
        self.count(|seen| matches!(seen, Seen::Event(Event::Counted(what)) if *what == name))
    }

    /// Sessions that came up, in order.
    pub fn sessions_up(&self) -> Vec<LocalRef> {
        self.events()
            .filter_map(|event| match event {
                Event::SessionUp { session, .. } => Some(*session),
                _ => None,
            })
            .collect()
    }

    /// The codes with which sessions ended, in order.
    pub fn sessions_down(&self) -> Vec<&'static str> {
        self.events()
            .filter_map(|event| match event {
                Event::SessionDown { ended, .. } => Some(ended.code),
                _ => None,
            })
            .collect()
    }

    /// The codes with which tunnels ended, in order.
    pub fn tunnels_down(&self) -> Vec<&'static str> {
        self.events()
            .filter_map(|event| match event {
                Event::TunnelDown(ended) => Some(ended.code),
                _ => None,
            })
            .collect()
    }

    /// The bytes of all packets sent, in order.
    pub fn sent(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            Seen::Sent { bytes, .. } => Some(&bytes[..]),
            _ => None,
        })
    }

    /// The log as text: one line for each entry. Two runs behaved alike if their texts are equal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            let _ = write!(text, "{:>12.6} ", entry.at.as_secs_f64());
            let _ = match entry.machine {
                Some(key) => write!(text, "{:08x} ", key.0),
                None => write!(text, "front    "),
            };
            let _ = match &entry.what {
                Seen::Received { from, bytes } => {
                    writeln!(text, "received from {}: {}", from.remote, to_hex(bytes))
                }
                Seen::Sent { to, bytes } => writeln!(text, "sent to {}: {}", to.remote, to_hex(bytes)),
                Seen::Stream {
                    channel,
                    direction,
                    bytes,
                } => writeln!(text, "{direction:?} {channel:?}: {}", to_hex(bytes)),
                other => writeln!(text, "{other:?}"),
            };
        }
        text
    }

    /// Checks the order of events that the contract promises, and panics where it is broken: one `SessionDown`
    /// for each `SessionOpening`; `SessionUp` once at most and in between; nothing of a session after its end;
    /// no path of an ended session; no session left when its tunnel ends. With `finished`, everything must
    /// have ended. Sessions of restored machines are known from `Recovered`.
    pub fn check_order(&self, finished: bool) {
        let mut open: BTreeMap<(Option<MachineKey>, LocalRef), Stage> = BTreeMap::new();
        for entry in &self.entries {
            let key = |session: &LocalRef| (entry.machine, *session);
            match &entry.what {
                Seen::Event(Event::SessionOpening { session, .. }) => {
                    let former = open.insert(key(session), Stage::Opening);
                    assert!(former.is_none(), "{session:?} opened twice at {:?}", entry.at);
                }
                Seen::Event(Event::Recovered { sessions, .. }) => {
                    open.extend(
                        sessions
                            .iter()
                            .map(|session| (key(session), Stage::Up { path: false })),
                    );
                }
                Seen::Event(Event::SessionUp { session, .. }) => {
                    let stage = open
                        .get_mut(&key(session))
                        .unwrap_or_else(|| panic!("{session:?} up, not open"));
                    assert!(!matches!(stage, Stage::Up { .. }), "{session:?} came up twice");
                    let path = matches!(stage, Stage::Early);
                    *stage = Stage::Up { path };
                }
                Seen::PathInstalled { session, .. } => match open.get_mut(&key(session)) {
                    Some(stage @ Stage::Opening) => *stage = Stage::Early,
                    Some(Stage::Up { path }) if !*path => *path = true,
                    other => panic!("{session:?}: path installed in stage {other:?}"),
                },
                Seen::PathRemoved { session, .. } => match open.get_mut(&key(session)) {
                    Some(stage @ Stage::Early) => *stage = Stage::Opening,
                    Some(Stage::Up { path }) if *path => *path = false,
                    other => panic!("{session:?}: path removed in stage {other:?}"),
                },
                Seen::Event(Event::SessionDown { session, .. }) => match open.remove(&key(session)) {
                    Some(Stage::Opening | Stage::Up { path: false }) => {}
                    other => panic!("{session:?} down in stage {other:?}"),
                },
                Seen::Event(Event::AuthRequested { session, .. }) => {
                    assert!(open.contains_key(&key(session)), "{session:?} asks after its end");
                }
                Seen::Event(Event::TunnelDown(_)) | Seen::MachineGone => {
                    let left: Vec<_> = open
                        .keys()
                        .filter(|(machine, _)| *machine == entry.machine)
                        .collect();
                    assert!(left.is_empty(), "the tunnel ended with sessions {left:?}");
                }
                _ => {}
            }
        }
        assert!(!finished || open.is_empty(), "sessions without an end: {open:?}");
    }
}

/// How far a session has come.
#[derive(Debug)]
enum Stage {
    Opening,
    /// The path is there already, `SessionUp` is not.
    Early,
    Up {
        path: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::{Ended, TerminateCause};

    fn log(events: Vec<Event>) -> Log {
        let mut log = Log::default();
        for event in events {
            log.push(Duration::ZERO, Some(MachineKey(1)), Seen::Event(event));
        }
        log
    }

    fn opening() -> Event {
        let address = "192.0.2.1:1".parse().unwrap();
        Event::SessionOpening {
            session: LocalRef(1),
            call: sluice_spi::CallInfo {
                kind: sluice_spi::SessionKind::Connection,
                peer: PeerAddr {
                    remote: address,
                    local: address,
                },
                calling: None,
                called: None,
                label: None,
            },
        }
    }

    fn up() -> Event {
        Event::SessionUp {
            session: LocalRef(1),
            facts: Vec::new(),
        }
    }

    fn down() -> Event {
        Event::SessionDown {
            session: LocalRef(1),
            ended: Ended::new(TerminateCause::UserRequest, "done", ""),
        }
    }

    #[test]
    fn good_orders_pass() {
        log(vec![opening(), down()]).check_order(true);
        log(vec![opening(), up(), down(), opening()]).check_order(false);
    }

    #[test]
    #[should_panic(expected = "sessions without an end")]
    fn a_session_without_an_end_is_found() {
        log(vec![opening(), up()]).check_order(true);
    }

    #[test]
    #[should_panic(expected = "down in stage None")]
    fn two_ends_are_found() {
        log(vec![opening(), down(), down()]).check_order(true);
    }

    #[test]
    #[should_panic(expected = "the tunnel ended with sessions")]
    fn a_tunnel_that_forgets_a_session_is_found() {
        let ended = Ended::new(TerminateCause::UserRequest, "done", "");
        log(vec![opening(), Event::TunnelDown(ended)]).check_order(true);
    }
}
