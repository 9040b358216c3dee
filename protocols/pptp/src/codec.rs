//! The data path of one call: enhanced GRE with sequence and acknowledgement numbers, bounded reordering, and PPP
//! header (RFC 2637, 4).
//!
//! The sender's window is not kept to: nothing is sent again, and what PPP carries has a congestion control of its own.

use crate::config::Reorder;
use crate::names::drops;
use crate::wire::gre::{self, Header, MAX_HEADER};
use bytes::{Buf, BufMut, BytesMut};
use sluice_ppp::{PppHeader, UserData, protocol};
use sluice_spi::wire::Reader;
use sluice_spi::{DropReason, Opened, PathCodec, Payload, PeerAddr, Released};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Numbers ahead of the expected one that are taken for loss: what a second of a fast link may lose. What is further
/// away either way is behind, or not the peer's.
const AHEAD: u32 = 1 << 16;
/// So many packets in a row that belong together but not to what came before mean that the peer counts anew.
const RESYNCHRONIZE: u32 = 32;
/// Format of [`DataState`], and its flags.
const STATE_FORMAT: u8 = 1;
const STATE_KNOWS: u8 = 1;
const STATE_OWES: u8 = 2;
const STATE_LENGTH: usize = 10;

/// The numbers of a call, handed from machine to codec and kept over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DataState {
    /// Number of the next packet to send.
    pub(crate) tx_next: u32,
    /// Number expected next; `None`: nothing came yet, and whichever comes first is taken.
    pub(crate) rx_next: Option<u32>,
    /// Whether the peer was not told yet of what came last.
    pub(crate) owes: bool,
}

impl DataState {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let knows = if self.rx_next.is_some() { STATE_KNOWS } else { 0 };
        let owes = if self.owes { STATE_OWES } else { 0 };
        let mut out = Vec::with_capacity(STATE_LENGTH);
        out.put_u8(STATE_FORMAT);
        out.put_u8(knows | owes);
        out.put_u32(self.tx_next);
        out.put_u32(self.rx_next.unwrap_or_default());
        out
    }

    /// `None` where it is not whole or has an unknown format.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (format, flags) = (reader.u8().ok()?, reader.u8().ok()?);
        let state = Self {
            tx_next: reader.u32().ok()?,
            rx_next: reader.u32().ok().filter(|_| flags & STATE_KNOWS != 0),
            owes: flags & STATE_OWES != 0,
        };
        let known = format == STATE_FORMAT && flags & !(STATE_KNOWS | STATE_OWES) == 0;
        (known && bytes.len() == STATE_LENGTH).then_some(state)
    }

    /// Appends the header of a packet with a payload; gives what [`gre::finish`] wants.
    fn put(&mut self, call_id: u16, out: &mut BytesMut) -> (usize, usize) {
        let sequence = self.tx_next;
        self.tx_next = sequence.wrapping_add(1);
        let acknowledged = self.acknowledge();
        let numbers = 1 + usize::from(acknowledged.is_some());
        (gre::put(call_id, Some(sequence), acknowledged, out), numbers)
    }

    /// The number to acknowledge, if that is owed, which it is then no more.
    fn acknowledge(&mut self) -> Option<u32> {
        let last = self.rx_next?.wrapping_sub(1);
        std::mem::take(&mut self.owes).then_some(last)
    }

    /// Appends a packet with a frame (protocol in two octets, information).
    pub(crate) fn put_frame(&mut self, call_id: u16, header: PppHeader, frame: &[u8], out: &mut BytesMut) {
        let (start, numbers) = self.put(call_id, out);
        header.seal_frame(frame, out);
        gre::finish(start, numbers, out);
    }

    /// Appends a packet that only acknowledges; false: nothing is owed.
    pub(crate) fn put_acknowledgement(&mut self, call_id: u16, out: &mut BytesMut) -> bool {
        let acknowledged = self.acknowledge();
        if acknowledged.is_some() {
            gre::put(call_id, None, acknowledged, out);
        }
        acknowledged.is_some()
    }

    /// Whether an acknowledgement is of something that was sent.
    pub(crate) fn has_sent(&self, number: u32) -> bool {
        let sent = self.tx_next.wrapping_sub(number);
        (1..=u32::MAX / 2).contains(&sent)
    }

    /// Takes the number of a packet that is not put in order: before the path is installed, each is handled as it
    /// comes, and late ones are dropped.
    pub(crate) fn note_received(&mut self, number: u32) -> Result<(), DropReason> {
        let distance = number.wrapping_sub(self.rx_next.unwrap_or(number));
        if distance >= AHEAD {
            return Err(out_of_range(distance));
        }
        self.rx_next = Some(number.wrapping_add(1));
        self.owes = true;
        Ok(())
    }
}

fn out_of_range(distance: u32) -> DropReason {
    if distance > u32::MAX / 2 {
        drops::OLD_SEQUENCE
    } else {
        drops::FAR_SEQUENCE
    }
}

/// A packet that waits for those before it.
#[derive(Debug)]
struct Held {
    number: u32,
    at: Instant,
    payload: BytesMut,
}

/// What a codec is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodecSpec {
    /// The bound peer; its ports are 0.
    pub(crate) peer: PeerAddr,
    /// The peer's name of the call.
    pub(crate) call_id: u16,
    /// PPP header towards the peer.
    pub(crate) header: PppHeader,
    /// Reordering.
    pub(crate) reorder: Reorder,
    /// Longest wait of an acknowledgement.
    pub(crate) ack_delay: Duration,
    /// The receive window that the peer was told.
    pub(crate) window: u16,
    /// Where the numbers stand.
    pub(crate) state: DataState,
}

/// The codec of one call.
#[derive(Debug)]
pub(crate) struct Codec {
    spec: CodecSpec,
    held: VecDeque<Held>,
    /// Packets that the peer was not told of, and when the first of them came.
    unacknowledged: u16,
    owed_since: Option<Instant>,
    /// The next number of packets that do not go on with those before, and how many came.
    stray: Option<(u32, u32)>,
}

impl Codec {
    pub(crate) fn new(spec: CodecSpec, now: Instant) -> Self {
        Self {
            held: VecDeque::new(),
            unacknowledged: spec.state.owes.into(),
            owed_since: spec.state.owes.then_some(now),
            stray: None,
            spec,
        }
    }

    fn note(&mut self, number: u32, now: Instant) {
        self.spec.state.rx_next = Some(number.wrapping_add(1));
        self.spec.state.owes = true;
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        self.owed_since.get_or_insert(now);
    }

    fn settled(&mut self) {
        self.unacknowledged = 0;
        self.owed_since = None;
    }

    /// Puts a packet in order. `None`: its turn has come.
    fn sequence(&mut self, number: u32, payload: &[u8], now: Instant) -> Option<Opened> {
        let expected = self.spec.state.rx_next.unwrap_or(number);
        let distance = number.wrapping_sub(expected);
        if distance >= AHEAD {
            return self.astray(number, distance, now);
        }
        self.stray = None;
        if distance == 0 || self.spec.reorder.packets == 0 {
            self.note(number, now);
            return None;
        }
        let place = self
            .held
            .partition_point(|held| held.number.wrapping_sub(expected) < distance);
        if self.held.get(place).is_some_and(|held| held.number == number) {
            return Some(Opened::Drop(drops::OLD_SEQUENCE));
        }
        let held = Held {
            number,
            at: now,
            payload: BytesMut::from(payload),
        };
        self.held.insert(place, held);
        if self.held.len() > self.spec.reorder.packets
            && let Some(first) = self.held.front()
        {
            // No room to wait any longer: what is missing is given up.
            self.spec.state.rx_next = Some(first.number);
        }
        Some(Opened::Held)
    }

    /// A packet too far from the others. Where many of the kind come in a row, the peer counts anew.
    fn astray(&mut self, number: u32, distance: u32, now: Instant) -> Option<Opened> {
        let (next, count) = self.stray.unwrap_or((number, 0));
        let goes_on = number.wrapping_sub(next) < AHEAD;
        let count = if goes_on { count + 1 } else { 1 };
        self.stray = Some((number.wrapping_add(1), count));
        if count < RESYNCHRONIZE {
            return Some(Opened::Drop(out_of_range(distance)));
        }
        self.stray = None;
        self.held.clear();
        self.note(number, now);
        None
    }

    /// Whether the first held packet may go on.
    fn first_is_due(&self, now: Instant) -> bool {
        let Some(first) = self.held.front() else {
            return false;
        };
        self.spec.state.rx_next == Some(first.number) || self.held_until().is_some_and(|at| at <= now)
    }
}

impl PathCodec for Codec {
    fn open(&mut self, packet: &mut [u8], from: &PeerAddr, now: Instant) -> Opened {
        if from.remote.ip() != self.spec.peer.remote.ip() {
            return Opened::Drop(drops::WRONG_PEER);
        }
        let Some(header) = Header::decode(packet) else {
            return Opened::Drop(drops::HEADER);
        };
        let start = header.payload.start;
        let payload = packet.get(header.payload).unwrap_or_default();
        let is_wrong = |number: u32| !self.spec.state.has_sent(number);
        let Some(number) = header.sequence else {
            return match header.acknowledged.is_some_and(is_wrong) {
                true => Opened::Drop(drops::WRONG_ACK),
                false => Opened::Consumed,
            };
        };
        if let Some(opened) = self.sequence(number, payload, now) {
            return opened;
        }
        match UserData::inspect(payload) {
            UserData::Ip(range) => Opened::Ip(start + range.start..start + range.end),
            UserData::Frame(number, range) => {
                // There is always room before the information: the GRE header alone has twelve octets.
                let information = start + range.start;
                if let Some(place) = packet.get_mut(information.saturating_sub(2)..information) {
                    place.copy_from_slice(&number.to_be_bytes());
                }
                Opened::Frame(information.saturating_sub(2)..start + range.end)
            }
            UserData::Bad => Opened::Drop(drops::BAD_PAYLOAD),
        }
    }

    fn release(&mut self, now: Instant) -> Option<Released> {
        while self.first_is_due(now) {
            let mut held = self.held.pop_front()?;
            self.note(held.number, now);
            match UserData::inspect(&held.payload) {
                UserData::Ip(range) => {
                    held.payload.truncate(range.end);
                    held.payload.advance(range.start.min(held.payload.len()));
                    return Some(Released::Ip(held.payload));
                }
                UserData::Frame(number, range) => {
                    let mut frame = BytesMut::with_capacity(2 + range.len());
                    frame.put_u16(number);
                    frame.extend_from_slice(held.payload.get(range).unwrap_or_default());
                    return Some(Released::Frame(frame));
                }
                UserData::Bad => {}
            }
        }
        None
    }

    fn held_until(&self) -> Option<Instant> {
        let oldest = self.held.iter().map(|held| held.at).min()?;
        Some(oldest + self.spec.reorder.wait)
    }

    fn seal(&mut self, payload: Payload<'_>, out: &mut BytesMut) -> bool {
        let (number, information) = match payload {
            Payload::Ip(packet) => match packet.first().map(|first| first >> 4) {
                Some(4) => (protocol::IPV4, packet),
                Some(6) => (protocol::IPV6, packet),
                _ => return false,
            },
            Payload::Frame(frame) => match frame.split_first_chunk::<2>() {
                Some((number, information)) => (u16::from_be_bytes(*number), information),
                None => return false,
            },
        };
        out.reserve(MAX_HEADER + PppHeader::MAX + information.len());
        let (start, numbers) = self.spec.state.put(self.spec.call_id, out);
        self.spec.header.seal(number, out);
        out.extend_from_slice(information);
        gre::finish(start, numbers, out);
        self.settled();
        true
    }

    fn speaks_at(&self) -> Option<Instant> {
        let since = self.owed_since?;
        // A peer that keeps to its window waits for this.
        let many = self.unacknowledged >= self.spec.window / 2;
        Some(if many { since } else { since + self.spec.ack_delay })
    }

    fn speak(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        if self.speaks_at().is_none_or(|at| at > now) {
            return false;
        }
        self.settled();
        self.spec.state.put_acknowledgement(self.spec.call_id, out)
    }

    fn overhead(&self) -> usize {
        MAX_HEADER + self.spec.header.len(protocol::IPV4)
    }

    fn hot_state(&self) -> Vec<u8> {
        self.spec.state.to_bytes()
    }
}

#[cfg(test)]
mod tests;
