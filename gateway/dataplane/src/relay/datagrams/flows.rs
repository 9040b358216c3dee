//! What is known of the targets that a client sends to: the address of each or that there is none, and from whom
//! answers are taken.

use super::drops::Reason;
use super::options::{MAX_FLOWS, Settings};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::task::Id;

/// Most decisions that one relay waits for.
pub(super) const MAX_PENDING: usize = 128;
/// Most datagrams that wait for one decision: what a client sends before the first answer can be there.
const MAX_WAITING: usize = 32;
/// Most octets that wait for the decisions of one relay: two of the largest datagrams.
const MAX_WAITING_BYTES: usize = 128 << 10;
/// That an address is in use is noted so many times in the time that it is remembered for.
const NOTES: u32 = 8;

/// Where datagrams go: an address, and the number of the outlet that they leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) to: SocketAddr,
    pub(super) outlet: u8,
}

/// What is known of a target.
#[derive(Debug)]
enum Flow {
    Open {
        to: Place,
        used: Instant,
        /// When it was last noted for the address too.
        noted: Instant,
    },
    Refused {
        reason: Reason,
        until: Instant,
    },
    Waiting {
        datagrams: Vec<Box<[u8]>>,
        task: Id,
    },
}

/// What becomes of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Send(Place),
    Drop(Reason),
    /// It was kept.
    Waits,
    /// Nothing is known of its target.
    Unknown,
}

/// A target was decided about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) to: Result<Place, Reason>,
    /// What waited for it.
    pub(super) datagrams: Vec<Box<[u8]>>,
}

/// The flows of one relay. Both tables are bounded; empty, they take no memory. Their hashes are keyed at random, as
/// it is clients and strangers who choose what is in them.
#[derive(Debug, Default)]
pub(super) struct Flows {
    targets: HashMap<Box<[u8]>, Flow>,
    /// Whom the client has sent to, and when something was exchanged last.
    peers: HashMap<(IpAddr, u16), Instant>,
    pending: usize,
    waiting_bytes: usize,
}

impl Flows {
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.peers.is_empty()
    }

    /// Decisions waited for.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// What becomes of a datagram from the client to the target with these octets.
    pub(super) fn find(&mut self, target: &[u8], payload: &[u8], settings: &Settings, now: Instant) -> Found {
        match self.targets.get_mut(target) {
            Some(Flow::Open { to, used, noted }) if !is_over(*used, settings.flow_idle, now) => {
                *used = now;
                let to = *to;
                if now.saturating_duration_since(*noted) >= settings.flow_idle / NOTES {
                    *noted = now;
                    self.note_peer(to.to, settings, now);
                }
                Found::Send(to)
            }
            Some(Flow::Refused { reason, until }) if *until > now => Found::Drop(*reason),
            Some(Flow::Waiting { datagrams, .. }) => {
                let bytes = self.waiting_bytes + payload.len();
                if datagrams.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
                    return Found::Drop(Reason::Backlog);
                }
                self.waiting_bytes = bytes;
                datagrams.push(payload.into());
                Found::Waits
            }
            _ => Found::Unknown,
        }
    }

    /// A decision about a target is waited for; `payload` waits with it. `false`: there is no room.
    pub(super) fn wait(
        &mut self,
        target: Box<[u8]>,
        payload: Box<[u8]>,
        task: Id,
        settings: &Settings,
    ) -> bool {
        let bytes = self.waiting_bytes + payload.len();
        if bytes > MAX_WAITING_BYTES || !self.make_room(settings) {
            return false;
        }
        self.waiting_bytes = bytes;
        self.pending += 1;
        let datagrams = vec![payload];
        self.targets.insert(target, Flow::Waiting { datagrams, task });
        true
    }

    /// A target was decided about.
    pub(super) fn settle(
        &mut self,
        target: Box<[u8]>,
        verdict: Result<Place, Reason>,
        settings: &Settings,
        now: Instant,
    ) -> Settled {
        let datagrams = match self.targets.remove(&target) {
            Some(Flow::Waiting { datagrams, .. }) => {
                self.pending = self.pending.saturating_sub(1);
                let bytes: usize = datagrams.iter().map(|datagram| datagram.len()).sum();
                self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
                datagrams
            }
            _ => Vec::new(),
        };
        let (flow, to) = match verdict {
            Ok(to) => {
                self.note_peer(to.to, settings, now);
                let (used, noted) = (now, now);
                (Flow::Open { to, used, noted }, Ok(to))
            }
            Err(reason) => {
                let time = match reason {
                    Reason::Denied | Reason::Upstream => settings.denied_for,
                    _ => settings.failed_for,
                };
                let until = now.checked_add(time).unwrap_or(now);
                (Flow::Refused { reason, until }, Err(reason))
            }
        };
        // Where all places are taken by targets that are waited for, this one is not remembered.
        if self.make_room(settings) {
            self.targets.insert(target, flow);
        }
        Settled { to, datagrams }
    }

    /// The target that a task was to decide about.
    pub(super) fn target_of(&self, wanted: Id) -> Option<Box<[u8]>> {
        let mut waiting = self.targets.iter();
        waiting.find_map(|(target, flow)| match flow {
            Flow::Waiting { task, .. } if *task == wanted => Some(target.clone()),
            _ => None,
        })
    }

    /// Whether the client has sent to this address not long ago. That it answers is noted.
    pub(super) fn is_peer(&mut self, from: SocketAddr, settings: &Settings, now: Instant) -> bool {
        match self.peers.get_mut(&(from.ip(), from.port())) {
            Some(used) if !is_over(*used, settings.flow_idle, now) => {
                *used = now;
                true
            }
            _ => false,
        }
    }

    /// The client sends to an address.
    pub(super) fn note_peer(&mut self, to: SocketAddr, settings: &Settings, now: Instant) {
        if settings.full_cone {
            return;
        }
        let key = (to.ip(), to.port());
        let most = most(settings);
        if self.peers.len() >= most && !self.peers.contains_key(&key) {
            drop_oldest(&mut self.peers, most, |used| Some(*used));
        }
        self.peers.insert(key, now);
    }

    /// The addresses that the client has sent to not long ago.
    pub(super) fn peers(&self, settings: &Settings, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let known = self.peers.iter();
        let known = known.filter(move |(_, used)| !is_over(**used, settings.flow_idle, now));
        known.map(|((ip, port), _)| SocketAddr::new(*ip, *port))
    }

    /// Forgets what is over.
    pub(super) fn sweep(&mut self, settings: &Settings, now: Instant) {
        let idle = settings.flow_idle;
        self.targets.retain(|_, flow| match flow {
            Flow::Open { used, .. } => !is_over(*used, idle, now),
            Flow::Refused { until, .. } => *until > now,
            Flow::Waiting { .. } => true,
        });
        self.peers.retain(|_, used| !is_over(*used, idle, now));
        shrink(&mut self.targets);
        shrink(&mut self.peers);
    }

    /// Forgets what was decided, but not the peers that may stay; gives the number of datagrams that waited.
    pub(super) fn forget(&mut self, may_stay: impl Fn(SocketAddr) -> bool) -> u64 {
        let mut peers = std::mem::take(&mut self.peers);
        peers.retain(|(ip, port), _| may_stay(SocketAddr::new(*ip, *port)));
        let waited = self.clear();
        self.peers = peers;
        waited
    }

    /// Forgets everything; gives the number of datagrams that waited.
    pub(super) fn clear(&mut self) -> u64 {
        let waited = self.targets.values().map(|flow| match flow {
            Flow::Waiting { datagrams, .. } => datagrams.len() as u64,
            _ => 0,
        });
        let waited = waited.sum();
        *self = Self::default();
        waited
    }

    fn make_room(&mut self, settings: &Settings) -> bool {
        let most = most(settings);
        if self.targets.len() >= most {
            drop_oldest(&mut self.targets, most, |flow| match flow {
                Flow::Open { used, .. } => Some(*used),
                Flow::Refused { until, .. } => Some(*until),
                Flow::Waiting { .. } => None,
            });
        }
        self.targets.len() < most
    }
}

fn most(settings: &Settings) -> usize {
    settings.flows.clamp(1, MAX_FLOWS)
}

fn is_over(used: Instant, idle: Duration, now: Instant) -> bool {
    now.saturating_duration_since(used) >= idle
}

/// Makes room in a table of `most` entries: the eighth that is oldest goes, so that the search for it is paid for once
/// in many entries. What has no age stays.
fn drop_oldest<K: Eq + Hash, V>(table: &mut HashMap<K, V>, most: usize, age: impl Fn(&V) -> Option<Instant>) {
    let mut ages: Vec<Instant> = table.values().filter_map(&age).collect();
    if ages.is_empty() {
        return;
    }
    let last = (most / 8).min(ages.len() - 1);
    let (_, newest, _) = ages.select_nth_unstable(last);
    let newest = *newest;
    let mut left = last + 1;
    table.retain(|_, value| {
        let goes = left > 0 && age(value).is_some_and(|age| age <= newest);
        left -= usize::from(goes);
        !goes
    });
}

/// Gives the memory of a table back that was much fuller once.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.is_empty() || table.capacity() / 4 > table.len() {
        table.shrink_to_fit();
    }
}
