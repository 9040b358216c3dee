//! The data path of one session: L2TP data header, sequence numbers with bounded reordering, and PPP header.

use crate::config::{Reorder, SequencingPolicy};
use crate::names::drops;
use crate::wire::header::{DataHeader, DataTemplate, MAX_DATA_HEADER};
use bytes::{BufMut, BytesMut};
use sluice_ppp::{PppHeader, UserData, protocol};
use sluice_spi::wire::Reader;
use sluice_spi::{Opened, PathCodec, Payload, PeerAddr, Released};
use std::collections::VecDeque;
use std::time::Instant;

/// Half of the number space: what lies further ahead is behind (RFC 2661, 5.8).
const HALF: u16 = 0x8000;
/// So many packets in a row whose turn seems over mean that the peer counts anew.
const RESYNCHRONIZE: u16 = 32;
/// Format of [`DataState`].
const STATE_FORMAT: u8 = 1;
const STATE_SENDS: u8 = 1;
const STATE_KNOWS_NEXT: u8 = 2;
const STATE_SAW: u8 = 4;

/// The numbers of a session's data channel, handed from machine to codec and kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataState {
    /// Number of the next numbered message to send.
    pub(crate) tx_next: u16,
    /// Number expected next; `None`: whichever comes.
    pub(crate) rx_next: Option<u16>,
    /// Whether messages are sent with numbers now.
    pub(crate) sends: bool,
    /// Whether the peer has sent numbers yet.
    pub(crate) saw: bool,
}

impl DataState {
    /// A fresh session's: numbers begin at 0 (RFC 2661, 3.1).
    pub(crate) fn new(sequencing: Sequencing) -> Self {
        Self {
            tx_next: 0,
            rx_next: Some(0),
            sends: sequencing == Sequencing::Always,
            saw: false,
        }
    }

    /// Writes what a restart must not lose.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut flags = 0;
        flags |= if self.sends { STATE_SENDS } else { 0 };
        flags |= if self.rx_next.is_some() {
            STATE_KNOWS_NEXT
        } else {
            0
        };
        flags |= if self.saw { STATE_SAW } else { 0 };
        let mut out = Vec::with_capacity(6);
        out.put_u8(STATE_FORMAT);
        out.put_u8(flags);
        out.put_u16(self.tx_next);
        out.put_u16(self.rx_next.unwrap_or_default());
        out
    }

    /// Reads it back; `None` where it is not whole or has an unknown format.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8().ok()?;
        let flags = reader.u8().ok()?;
        let state = Self {
            tx_next: reader.u16().ok()?,
            rx_next: reader.u16().ok().filter(|_| flags & STATE_KNOWS_NEXT != 0),
            sends: flags & STATE_SENDS != 0,
            saw: flags & STATE_SAW != 0,
        };
        let known = STATE_SENDS | STATE_KNOWS_NEXT | STATE_SAW;
        (format == STATE_FORMAT && flags & !known == 0 && bytes.len() == 6).then_some(state)
    }

    /// The number for the next message, where it is to have one.
    pub(crate) fn take_number(&mut self) -> Option<u16> {
        self.sends.then(|| {
            let number = self.tx_next;
            self.tx_next = number.wrapping_add(1);
            number
        })
    }

    /// Follows a message that is not put in order: before the path is installed, each is handled as it comes.
    pub(crate) fn note_received(&mut self, sequencing: Sequencing, ns: Option<u16>) {
        if sequencing == Sequencing::Mirror {
            self.sends = ns.is_some();
        }
        let Some(ns) = ns else { return };
        self.saw = true;
        let next = ns.wrapping_add(1);
        if self
            .rx_next
            .is_none_or(|expected| ns.wrapping_sub(expected) < HALF)
        {
            self.rx_next = Some(next);
        }
    }
}

/// How a session uses sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequencing {
    /// None are sent, and those received are not looked at.
    Off,
    /// As the peer does.
    Mirror,
    /// Always sent, and expected from the peer once it has begun.
    Always,
}

impl Sequencing {
    /// What follows from our policy and from whether the LAC requires it (RFC 2661, 5.4).
    pub(crate) fn new(policy: SequencingPolicy, required: bool) -> Self {
        match policy {
            _ if required => Sequencing::Always,
            SequencingPolicy::Off => Sequencing::Off,
            SequencingPolicy::OnRequest => Sequencing::Mirror,
            SequencingPolicy::Required => Sequencing::Always,
        }
    }
}

/// A packet that waits for those before it.
#[derive(Debug)]
struct Held {
    ns: u16,
    at: Instant,
    payload: BytesMut,
}

/// What a codec is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodecSpec {
    /// The bound peer.
    pub(crate) peer: PeerAddr,
    /// Header towards the peer.
    pub(crate) template: DataTemplate,
    /// PPP header towards the peer.
    pub(crate) header: PppHeader,
    /// Use of sequence numbers.
    pub(crate) sequencing: Sequencing,
    /// Reordering.
    pub(crate) reorder: Reorder,
    /// Where the numbers stand.
    pub(crate) state: DataState,
}

/// The codec of one session.
#[derive(Debug)]
pub(crate) struct Codec {
    spec: CodecSpec,
    held: VecDeque<Held>,
    old_in_a_row: u16,
}

impl Codec {
    pub(crate) fn new(spec: CodecSpec) -> Self {
        Self {
            spec,
            held: VecDeque::new(),
            old_in_a_row: 0,
        }
    }

    /// Puts a numbered packet in order. `None`: its turn has come.
    fn sequence(&mut self, ns: u16, payload: &[u8], now: Instant) -> Option<Opened> {
        let expected = self.spec.state.rx_next.unwrap_or(ns);
        let distance = ns.wrapping_sub(expected);
        if distance == 0 {
            self.old_in_a_row = 0;
            self.spec.state.rx_next = Some(ns.wrapping_add(1));
            return None;
        }
        if distance >= HALF {
            self.old_in_a_row += 1;
            if self.old_in_a_row < RESYNCHRONIZE {
                return Some(Opened::Drop(drops::OLD_SEQUENCE));
            }
            // The peer counts anew: go on from where it is.
            self.old_in_a_row = 0;
            self.held.clear();
            self.spec.state.rx_next = Some(ns.wrapping_add(1));
            return None;
        }
        self.old_in_a_row = 0;
        if self.spec.reorder.packets == 0 {
            self.spec.state.rx_next = Some(ns.wrapping_add(1));
            return None;
        }
        let place = self
            .held
            .partition_point(|held| held.ns.wrapping_sub(expected) < distance);
        if self.held.get(place).is_some_and(|held| held.ns == ns) {
            return Some(Opened::Drop(drops::OLD_SEQUENCE));
        }
        let held = Held {
            ns,
            at: now,
            payload: BytesMut::from(payload),
        };
        self.held.insert(place, held);
        if self.held.len() > self.spec.reorder.packets
            && let Some(first) = self.held.front()
        {
            // No room to wait any longer: what is missing is given up.
            self.spec.state.rx_next = Some(first.ns);
        }
        Some(Opened::Held)
    }

    /// Whether the first held packet may go on.
    fn first_is_due(&self, now: Instant) -> bool {
        let Some(first) = self.held.front() else {
            return false;
        };
        self.spec.state.rx_next == Some(first.ns) || self.held_until().is_some_and(|at| at <= now)
    }
}

impl PathCodec for Codec {
    fn open(&mut self, packet: &mut [u8], from: &PeerAddr, now: Instant) -> Opened {
        if from.remote != self.spec.peer.remote {
            return Opened::Drop(drops::WRONG_PEER);
        }
        let Ok(header) = DataHeader::decode(packet) else {
            return Opened::Drop(drops::HEADER);
        };
        let start = header.payload.start;
        let Some(payload) = packet.get(header.payload) else {
            return Opened::Drop(drops::HEADER);
        };
        match (self.spec.sequencing, header.ns) {
            (Sequencing::Off, _) => {}
            (Sequencing::Always, None) if self.spec.state.saw => return Opened::Drop(drops::NO_SEQUENCE),
            (Sequencing::Always, None) => {}
            (Sequencing::Mirror, None) => self.spec.state.sends = false,
            (_, Some(ns)) => {
                self.spec.state.saw = true;
                self.spec.state.sends = true;
                if let Some(opened) = self.sequence(ns, payload, now) {
                    return opened;
                }
            }
        }
        match UserData::inspect(payload) {
            UserData::Ip(range) => Opened::Ip(start + range.start..start + range.end),
            UserData::Frame(number, range) => {
                // There is always room before the information: the L2TP header alone has six octets.
                let information = start + range.start;
                let place = information.saturating_sub(2)..information;
                if let Some(place) = packet.get_mut(place) {
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
            self.spec.state.rx_next = Some(held.ns.wrapping_add(1));
            match UserData::inspect(&held.payload) {
                UserData::Ip(range) => {
                    let mut packet = held.payload.split_to(range.end.min(held.payload.len()));
                    let start = range.start.min(packet.len());
                    bytes::Buf::advance(&mut packet, start);
                    return Some(Released::Ip(packet));
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
        out.reserve(MAX_DATA_HEADER + PppHeader::MAX + information.len());
        let ns = self.spec.state.take_number();
        let start = self.spec.template.put(ns, out);
        self.spec.header.seal(number, out);
        out.extend_from_slice(information);
        self.spec.template.finish(start, out);
        true
    }

    fn set_sequencing(&mut self, on: bool) {
        self.spec.sequencing = if on { Sequencing::Always } else { Sequencing::Off };
        self.spec.state.sends = on;
    }

    fn set_peer(&mut self, peer: PeerAddr) {
        self.spec.peer = peer;
    }

    fn overhead(&self) -> usize {
        let sequence = if self.spec.sequencing == Sequencing::Off {
            0
        } else {
            4
        };
        self.spec.template.size() + sequence + self.spec.header.len(protocol::IPV4)
    }

    fn hot_state(&self) -> Vec<u8> {
        self.spec.state.to_bytes()
    }
}

#[cfg(test)]
mod tests;
