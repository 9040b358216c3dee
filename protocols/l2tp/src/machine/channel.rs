//! The reliable control channel (RFC 2661, 5.8 and Appendix A): numbers, windows, acknowledgements,
//! retransmission and congestion avoidance of one tunnel.
//!
//! The channel knows nothing of message types. It is given bodies with the peer's session id of their header and
//! puts numbers on them as they leave; it is given received bodies and gives them back in order.

use super::pop;
use crate::wire::header::{ControlHeader, MAX_CONTROL};
use crate::wire::message::DEFAULT_WINDOW;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Most messages waiting for their first transmission. A peer that asks for more answers than it acknowledges
/// is beyond this at some time.
pub(crate) const MAX_QUEUE: usize = 4096;
/// Largest send window used, whatever the peer offers: nobody needs more messages on their way at once.
pub(crate) const MAX_SEND_WINDOW: u16 = 256;
/// Most octets of messages that are kept until those before them arrive. Two of the longest find room, or a hundred
/// of the usual ones; what does not is dropped, acknowledged as far as its turn has come, and sent again by the peer.
pub(crate) const MAX_AHEAD: usize = 2 * MAX_CONTROL;
/// Half of the number space: what lies further ahead is behind (RFC 2661, 5.8).
const HALF: u16 = 0x8000;

/// Retransmission times of a tunnel, by whether it is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmit {
    /// Time to the first retransmission; doubles from there.
    pub initial: Duration,
    /// Longest time between two.
    pub maximum: Duration,
    /// Retransmissions without an answer that end the tunnel.
    pub tries: u32,
}

/// What the channel is told once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelConfig {
    /// Our receive window: how far ahead of its turn a message is kept.
    pub(crate) window: u16,
    /// Longest time that an acknowledgement waits for a message to travel with.
    pub(crate) ack_delay: Duration,
    /// While the tunnel is not established.
    pub(crate) setup: Retransmit,
    /// From then on.
    pub(crate) established: Retransmit,
}

/// What became of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// It is next in order: handle it, then ask [`Channel::pop_ready`] for those that waited for it.
    InOrder,
    /// It is an acknowledgement only.
    Acknowledgement,
    /// It was received before.
    Duplicate,
    /// It is kept until those before it have arrived.
    Queued,
    /// It is further ahead than our window, or there is no room to keep it.
    OutsideWindow,
    /// It acknowledges what was never sent: nothing of it may be used.
    WrongNr,
}

/// How urgent a message is (the first goes first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// HELLO, CDN and StopCCN: they go before new calls.
    Urgent,
    /// Everything else.
    Normal,
}

/// A message not sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The peer's session id for the header.
    pub(crate) session: u16,
    /// Our session that it belongs to; 0: the tunnel.
    pub(crate) owner: u16,
    /// Where it goes instead of the peer on every other transmission: a probe of an address.
    pub(crate) probe: bool,
    /// The AVPs.
    pub(crate) body: Bytes,
}

/// A message sent and not acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// Its number.
    pub(crate) ns: u16,
    /// The message.
    pub(crate) message: Pending,
    /// How often it was sent.
    pub(crate) sends: u32,
    /// For a probe: whether the next copy goes to the address in question, and not to the peer.
    pub(crate) to_candidate_next: bool,
    /// When it was sent for the first time.
    pub(crate) first_sent: Instant,
}

/// A message to put on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Peer's session id for the header.
    pub(crate) session: u16,
    /// Number; for an acknowledgement the number of the next message.
    pub(crate) ns: u16,
    /// What we expect next.
    pub(crate) nr: u16,
    /// The AVPs; none: an acknowledgement only.
    pub(crate) body: Bytes,
    /// Whether this copy goes to the address that is being probed.
    pub(crate) to_candidate: bool,
}

impl Outgoing {
    /// Appends the packet for the peer's tunnel id.
    pub(crate) fn encode(&self, tunnel: u16, out: &mut BytesMut) -> usize {
        let header = ControlHeader {
            tunnel,
            session: self.session,
            ns: self.ns,
            nr: self.nr,
        };
        header.encode(&self.body, out)
    }
}

/// The state of a channel that a restart must not lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChannelState {
    /// Number of the oldest message that is not acknowledged.
    pub(crate) unacknowledged_from: u16,
    /// Number expected from the peer.
    pub(crate) nr: u16,
    /// The peer's receive window.
    pub(crate) peer_window: u16,
    /// Messages sent and not acknowledged, in order.
    pub(crate) flight: Vec<Pending>,
    /// Messages not sent yet, in order.
    pub(crate) queue: Vec<Pending>,
}

/// One tunnel's control channel.
#[derive(Debug)]
pub(crate) struct Channel {
    config: ChannelConfig,
    established: bool,
    next_ns: u16,
    nr: u16,
    peer_window: u16,
    urgent: VecDeque<Pending>,
    normal: VecDeque<Pending>,
    flight: VecDeque<Flight>,
    /// How many of `flight`, from its front, count as on their way; the others are to be sent again.
    on_the_way: usize,
    cwnd: u16,
    ssthresh: u16,
    acks_in_avoidance: u16,
    tries: u32,
    retransmit_at: Option<Instant>,
    ahead: BTreeMap<u16, (ControlHeader, Bytes)>,
    /// Octets in `ahead`.
    ahead_octets: usize,
    unacknowledged: u16,
    ack_at: Option<Instant>,
    round_trip: Option<Duration>,
    unreachable: bool,
    changed: bool,
}

/// Retransmissions that remain once the network says that the peer is unreachable: the budget is
/// shortened, and the tunnel ends only where the peer is silent as well.
const UNREACHABLE_TRIES: u32 = 3;

/// How far `number` is ahead of `from`; `None`: it is behind.
fn ahead_of(from: u16, number: u16) -> Option<u16> {
    let distance = number.wrapping_sub(from);
    (distance < HALF).then_some(distance)
}

impl Channel {
    pub(crate) fn new(config: ChannelConfig) -> Self {
        Self {
            config,
            established: false,
            next_ns: 0,
            nr: 0,
            peer_window: DEFAULT_WINDOW,
            urgent: VecDeque::new(),
            normal: VecDeque::new(),
            flight: VecDeque::new(),
            on_the_way: 0,
            cwnd: 1,
            ssthresh: DEFAULT_WINDOW,
            acks_in_avoidance: 0,
            tries: 0,
            retransmit_at: None,
            ahead: BTreeMap::new(),
            ahead_octets: 0,
            unacknowledged: 0,
            ack_at: None,
            round_trip: None,
            unreachable: false,
            changed: false,
        }
    }

    /// A channel that goes on after one message each way was exchanged for it elsewhere (SCCRQ and SCCRP).
    pub(crate) fn after_exchange(config: ChannelConfig, peer_window: u16) -> Self {
        let mut channel = Self::new(config);
        channel.next_ns = 1;
        channel.nr = 1;
        channel.set_peer_window(peer_window);
        // The SCCRP was acknowledged: slow start has grown the window once.
        channel.cwnd = 2.min(channel.window_limit());
        channel
    }

    /// A channel from its state: what was not acknowledged is sent again at once.
    pub(crate) fn restore(config: ChannelConfig, state: ChannelState, now: Instant) -> Self {
        let mut channel = Self::new(config);
        channel.established = true;
        channel.nr = state.nr;
        channel.next_ns = state.unacknowledged_from;
        channel.set_peer_window(state.peer_window);
        for message in state.flight {
            channel.flight.push_back(Flight {
                ns: channel.next_ns,
                message,
                sends: 1,
                to_candidate_next: true,
                first_sent: now,
            });
            channel.next_ns = channel.next_ns.wrapping_add(1);
        }
        channel.normal.extend(state.queue);
        channel
    }

    /// What a restart must not lose.
    pub(crate) fn state(&self) -> ChannelState {
        ChannelState {
            unacknowledged_from: self.first_unacknowledged(),
            nr: self.nr,
            peer_window: self.peer_window,
            flight: self.flight.iter().map(|flight| flight.message.clone()).collect(),
            queue: self.urgent.iter().chain(&self.normal).cloned().collect(),
        }
    }

    /// The peer's receive window, from its SCCRQ or SCCRP.
    pub(crate) fn set_peer_window(&mut self, window: u16) {
        self.peer_window = window.max(1);
        self.ssthresh = self.window_limit();
        self.cwnd = self.cwnd.min(self.window_limit());
    }

    /// The tunnel is established: from now on the other retransmission times count.
    pub(crate) fn set_established(&mut self) {
        self.established = true;
    }

    /// Whether numbers or the queue have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Number of the next new message.
    pub(crate) fn next_ns(&self) -> u16 {
        self.next_ns
    }

    /// Number expected from the peer.
    pub(crate) fn nr(&self) -> u16 {
        self.nr
    }

    /// The peer's window.
    pub(crate) fn peer_window(&self) -> u16 {
        self.peer_window
    }

    /// Congestion window and threshold.
    #[cfg(test)]
    pub(crate) fn congestion(&self) -> (u16, u16) {
        (self.cwnd, self.ssthresh)
    }

    /// Round-trip time of the last message that was sent once only.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Whether everything sent was acknowledged and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.urgent.is_empty() && self.normal.is_empty()
    }

    /// Whether more messages wait than any honest peer needs.
    pub(crate) fn is_overrun(&self) -> bool {
        self.urgent.len() + self.normal.len() > MAX_QUEUE
    }

    fn window_limit(&self) -> u16 {
        self.peer_window.min(MAX_SEND_WINDOW)
    }

    fn first_unacknowledged(&self) -> u16 {
        self.flight.front().map_or(self.next_ns, |first| first.ns)
    }

    fn schedule(&self) -> Retransmit {
        if self.established {
            self.config.established
        } else {
            self.config.setup
        }
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: Pending, priority: Priority) {
        self.changed = true;
        match priority {
            Priority::Urgent => self.urgent.push_back(message),
            Priority::Normal => self.normal.push_back(message),
        }
    }

    /// Takes back the messages of one of our sessions that were not sent yet. Whether there were any.
    pub(crate) fn cancel(&mut self, owner: u16) -> bool {
        let before = self.normal.len();
        self.normal.retain(|message| message.owner != owner);
        self.normal.len() != before
    }

    /// Takes back everything that was not sent yet.
    pub(crate) fn cancel_all(&mut self) {
        self.urgent.clear();
        self.normal.clear();
    }

    /// Looks at the numbers of a received message. `body` is kept where its turn has not come.
    pub(crate) fn receive(&mut self, header: &ControlHeader, body: &[u8], now: Instant) -> Received {
        let Some(accepted) = ahead_of(self.first_unacknowledged(), header.nr) else {
            // An old Nr acknowledges nothing new; the message itself may still be of use.
            return self.take_in(header, body, now);
        };
        if usize::from(accepted) > self.flight.len() {
            return Received::WrongNr;
        }
        if accepted > 0 {
            self.acknowledge(usize::from(accepted), now);
        }
        self.take_in(header, body, now)
    }

    fn take_in(&mut self, header: &ControlHeader, body: &[u8], now: Instant) -> Received {
        self.unreachable = false;
        if body.is_empty() {
            return Received::Acknowledgement;
        }
        match ahead_of(self.nr, header.ns) {
            Some(0) => {
                self.advance();
                let delay = self.config.ack_delay;
                // A peer with a small window waits for us: acknowledge at once when half of it is used up.
                let at = if self.unacknowledged >= 2.max(self.config.window / 2) {
                    now
                } else {
                    now + delay
                };
                self.ack_at = Some(self.ack_at.map_or(at, |former| former.min(at)));
                Received::InOrder
            }
            None => {
                self.ack_at = Some(now);
                Received::Duplicate
            }
            Some(_) if self.ahead.contains_key(&header.ns) => {
                self.ack_at = Some(now);
                Received::Queued
            }
            Some(distance)
                if distance < self.config.window && self.ahead_octets + body.len() <= MAX_AHEAD =>
            {
                self.ack_at = Some(now);
                self.ahead_octets += body.len();
                self.ahead
                    .insert(header.ns, (*header, Bytes::copy_from_slice(body)));
                Received::Queued
            }
            Some(_) => {
                self.ack_at = Some(now);
                Received::OutsideWindow
            }
        }
    }

    fn advance(&mut self) {
        self.nr = self.nr.wrapping_add(1);
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        self.changed = true;
    }

    /// The next message that waited for those before it.
    pub(crate) fn pop_ready(&mut self) -> Option<(ControlHeader, Bytes)> {
        let (header, body) = self.ahead.remove(&self.nr)?;
        self.ahead_octets = self.ahead_octets.saturating_sub(body.len());
        self.advance();
        Some((header, body))
    }

    fn acknowledge(&mut self, count: usize, now: Instant) {
        for _ in 0..count {
            let Some(flight) = pop(&mut self.flight) else {
                break;
            };
            if flight.sends == 1 {
                self.round_trip = Some(now.saturating_duration_since(flight.first_sent));
            }
        }
        self.changed = true;
        self.on_the_way = self.on_the_way.saturating_sub(count);
        self.tries = 0;
        self.grow();
        self.retransmit_at = (!self.flight.is_empty()).then(|| now + self.schedule().initial);
    }

    /// Slow start below the threshold, congestion avoidance above (Appendix A).
    fn grow(&mut self) {
        let limit = self.window_limit();
        if self.cwnd < self.ssthresh {
            self.cwnd = self.cwnd.saturating_add(1).min(limit);
            return;
        }
        self.acks_in_avoidance += 1;
        if self.acks_in_avoidance >= self.cwnd {
            self.acks_in_avoidance = 0;
            self.cwnd = self.cwnd.saturating_add(1).min(limit);
        }
    }

    /// When [`Channel::handle_timeout`] or an acknowledgement is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retransmit_at.into_iter().chain(self.ack_at).min()
    }

    /// Whether the retransmission timer has expired.
    pub(crate) fn retransmits_at(&self, now: Instant) -> bool {
        self.retransmit_at.is_some_and(|at| at <= now)
    }

    /// Lets the retransmission timer expire where it is due. False: the peer has not answered for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.retransmit_at.is_none_or(|at| at > now) {
            return true;
        }
        let schedule = self.schedule();
        let budget = if self.unreachable {
            schedule.tries.min(UNREACHABLE_TRIES)
        } else {
            schedule.tries
        };
        if self.tries >= budget {
            self.retransmit_at = None;
            return false;
        }
        self.tries += 1;
        self.ssthresh = (self.cwnd / 2).max(1);
        self.cwnd = 1;
        self.acks_in_avoidance = 0;
        self.on_the_way = 0;
        let factor = 1u32.checked_shl(self.tries).unwrap_or(u32::MAX);
        let wait = schedule.initial.saturating_mul(factor).min(schedule.maximum);
        self.retransmit_at = Some(now + wait);
        true
    }

    /// The network says that the peer is unreachable.
    pub(crate) fn note_unreachable(&mut self) {
        self.unreachable = true;
    }

    /// The next message to send now: retransmissions, then new messages as the windows allow, then an
    /// acknowledgement that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        let window = usize::from(self.cwnd.min(self.window_limit()));
        if self.on_the_way < window {
            if self.on_the_way >= self.flight.len() {
                self.launch(now);
            }
            let at = self.on_the_way;
            if let Some(flight) = self.flight.get_mut(at) {
                self.on_the_way += 1;
                flight.sends += 1;
                let to_candidate = flight.message.probe && flight.to_candidate_next;
                flight.to_candidate_next = !flight.to_candidate_next;
                let outgoing = Outgoing {
                    session: flight.message.session,
                    ns: flight.ns,
                    nr: self.nr,
                    body: flight.message.body.clone(),
                    to_candidate,
                };
                if self.retransmit_at.is_none() {
                    self.retransmit_at = Some(now + self.schedule().initial);
                }
                self.acknowledged();
                return Some(outgoing);
            }
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            return Some(self.acknowledgement());
        }
        None
    }

    /// Gives the first waiting message its number.
    fn launch(&mut self, now: Instant) {
        let Some(message) = pop(&mut self.urgent).or_else(|| pop(&mut self.normal)) else {
            return;
        };
        self.flight.push_back(Flight {
            ns: self.next_ns,
            message,
            sends: 0,
            to_candidate_next: true,
            first_sent: now,
        });
        self.next_ns = self.next_ns.wrapping_add(1);
        self.changed = true;
    }

    fn acknowledged(&mut self) {
        self.ack_at = None;
        self.unacknowledged = 0;
    }

    /// An acknowledgement without a message.
    pub(crate) fn acknowledgement(&mut self) -> Outgoing {
        self.acknowledged();
        Outgoing {
            session: 0,
            ns: self.next_ns,
            nr: self.nr,
            body: Bytes::new(),
            to_candidate: false,
        }
    }

    /// Acknowledges once more, such as for a message that was handled elsewhere.
    pub(crate) fn acknowledge_again(&mut self, now: Instant) {
        self.ack_at = Some(now);
    }

    /// Whether a message is the next one of the peer, by its numbers, or a bare acknowledgement.
    pub(crate) fn could_be_next(&self, header: &ControlHeader) -> bool {
        header.ns == self.nr
            && ahead_of(self.first_unacknowledged(), header.nr)
                .is_some_and(|accepted| usize::from(accepted) <= self.flight.len())
    }

    /// Makes a probe of the oldest message that is not acknowledged, and sends it again at once. False: there is
    /// none.
    pub(crate) fn probe_with_oldest(&mut self) -> bool {
        let Some(oldest) = self.flight.front_mut() else {
            return false;
        };
        oldest.message.probe = true;
        oldest.to_candidate_next = true;
        self.on_the_way = 0;
        true
    }

    /// Whether a probe waits or is on its way.
    pub(crate) fn has_probe(&self) -> bool {
        self.urgent.iter().any(|message| message.probe)
            || self.flight.iter().any(|flight| flight.message.probe)
    }

    /// Whether a message acknowledges the probe.
    pub(crate) fn answers_probe(&self, header: &ControlHeader) -> bool {
        let probe = self.flight.iter().find(|flight| flight.message.probe);
        probe.is_some_and(|flight| {
            let accepted = ahead_of(self.first_unacknowledged(), header.nr).unwrap_or(0);
            ahead_of(self.first_unacknowledged(), flight.ns).is_some_and(|place| place < accepted)
        })
    }

    /// Stops sending and retransmitting: only acknowledgements from here on.
    pub(crate) fn silence(&mut self) {
        self.cancel_all();
        self.flight.clear();
        self.on_the_way = 0;
        self.retransmit_at = None;
    }
}

#[cfg(test)]
mod tests;
