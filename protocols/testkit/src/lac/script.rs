//! Misbehaviour on order.

use super::wire::{self, Packet};

/// Which of the packets a LAC sends a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All of them.
    Always,
    /// The n-th one, from 1, retransmissions counted.
    Nth(u32),
    /// Every n-th one.
    Every(u32),
    /// Control messages of this type, each time.
    Message(u16),
    /// The first control message of this type.
    FirstMessage(u16),
    /// Empty acknowledgements.
    Zlb,
    /// Data messages.
    Data,
}

/// What a rule does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is not sent.
    Drop,
    /// It is sent twice.
    Duplicate,
    /// It is sent after the one that follows it.
    Postpone,
    /// It is sent from another port (by runners that have one; elsewhere see [`Outgoing::other_port`]).
    OtherPort,
    /// It goes to this tunnel id.
    Tunnel(u16),
    /// It goes to this session id.
    Session(u16),
    /// It carries this sequence number.
    Ns(u16),
    /// It acknowledges up to this sequence number.
    Nr(u16),
    /// It is damaged.
    Damage(Damage),
}

/// Ways to damage a control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its last `n` bytes are cut off, while its length field stays.
    Cut(usize),
    /// Its last AVP says that it is longer than what is left.
    LongAvp,
    /// An AVP of length 0 follows its others.
    ZeroAvp,
    /// An unknown mandatory AVP follows its others.
    UnknownMandatory,
    /// An unknown AVP that is not mandatory follows its others.
    UnknownOptional,
    /// Its message type is this.
    Type(u16),
    /// A hidden AVP whose inner length is a lie follows its others, without any Random Vector.
    BadHidden,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which packets.
    pub when: When,
    /// What happens to them.
    pub act: Act,
}

/// The rules of one LAC; all that match a packet are applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Script {
    /// A script of one rule.
    pub fn one(when: When, act: Act) -> Self {
        Self::default().and(when, act)
    }

    /// Adds a rule.
    pub fn and(mut self, when: When, act: Act) -> Self {
        self.rules.push(Rule { when, act });
        self
    }
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is to leave from another port than the others.
    pub other_port: bool,
}

/// Applies a script to the packets of one LAC.
#[derive(Debug)]
pub(super) struct Player {
    script: Script,
    count: u32,
    seen: Vec<u16>,
    postponed: Vec<Outgoing>,
}

impl Player {
    pub(super) fn new(script: Script) -> Self {
        Self {
            script,
            count: 0,
            seen: Vec::new(),
            postponed: Vec::new(),
        }
    }

    /// Puts what is to be sent in place of `bytes` into `out`.
    pub(super) fn play(&mut self, bytes: Vec<u8>, out: &mut impl Extend<Outgoing>) {
        self.count += 1;
        if self.script.rules.is_empty() {
            out.extend([Outgoing {
                bytes,
                other_port: false,
            }]);
            return;
        }
        let (message, zlb) = match wire::parse(&bytes) {
            Some(Packet::Control { body: [], .. }) => (None, true),
            Some(Packet::Control { body, .. }) => {
                (body.get(6..8).map(|t| u16::from_be_bytes([t[0], t[1]])), false)
            }
            _ => (None, false),
        };
        let first = message.is_some_and(|message| !self.seen.contains(&message));
        self.seen.extend(message.filter(|_| first));
        let is_data = message.is_none() && !zlb;
        let mut packet = Outgoing {
            bytes,
            other_port: false,
        };
        let (mut copies, mut postpone) = (1, false);
        for rule in &self.script.rules {
            let matches = match rule.when {
                When::Always => true,
                When::Nth(n) => self.count == n,
                When::Every(n) => self.count.is_multiple_of(n),
                When::Message(wanted) => message == Some(wanted),
                When::FirstMessage(wanted) => first && message == Some(wanted),
                When::Zlb => zlb,
                When::Data => is_data,
            };
            if !matches {
                continue;
            }
            match rule.act {
                Act::Drop => copies = 0,
                Act::Duplicate => copies *= 2,
                Act::Postpone => postpone = true,
                Act::OtherPort => packet.other_port = true,
                Act::Tunnel(id) => put(&mut packet.bytes, 4, id),
                Act::Session(id) => put(&mut packet.bytes, 6, id),
                Act::Ns(number) => put(&mut packet.bytes, 8, number),
                Act::Nr(number) => put(&mut packet.bytes, 10, number),
                Act::Damage(damage) => apply(&mut packet.bytes, damage),
            }
        }
        let copies = std::iter::repeat_n(packet, copies);
        if postpone {
            self.postponed.extend(copies);
        } else {
            out.extend(copies);
            out.extend(self.postponed.drain(..));
        }
    }
}

/// Every packet this LAC sends has a length field, so that tunnel, session, Ns and Nr are at 4, 6, 8 and 10.
fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn append(bytes: &mut Vec<u8>, avp: &[u8]) {
    bytes.extend_from_slice(avp);
    let length = bytes.len() as u16;
    put(bytes, 2, length);
}

fn apply(bytes: &mut Vec<u8>, damage: Damage) {
    match damage {
        Damage::Cut(count) => bytes.truncate(bytes.len().saturating_sub(count)),
        Damage::LongAvp => append(bytes, &[0x80, 100, 0, 0, 0, 8, 1]),
        Damage::ZeroAvp => append(bytes, &[0x80, 0, 0, 0, 0, 8]),
        Damage::UnknownMandatory => append(bytes, &[0x80, 8, 0, 0, 0x7f, 0xff, 0, 0]),
        Damage::UnknownOptional => append(bytes, &[0, 8, 0, 0, 0x7f, 0xff, 0, 0]),
        Damage::Type(message) => put(bytes, 18, message),
        Damage::BadHidden => append(bytes, &[0xc0, 8, 0, 0, 0, 9, 0xff, 0xff]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Body, control, data, message};
    use super::*;

    fn hello(ns: u16) -> Vec<u8> {
        control(1, 0, ns, 0, &Body::new(message::HELLO).finish())
    }

    fn play(script: Script, packets: &[Vec<u8>]) -> Vec<Outgoing> {
        let mut player = Player::new(script);
        let mut out = Vec::new();
        packets
            .iter()
            .for_each(|packet| player.play(packet.clone(), &mut out));
        out
    }

    fn numbers(out: &[Outgoing]) -> Vec<u16> {
        let ns = |packet: &Outgoing| u16::from_be_bytes([packet.bytes[8], packet.bytes[9]]);
        out.iter().map(ns).collect()
    }

    #[test]
    fn rules_choose_and_change_packets() {
        let packets: Vec<_> = (0..4).map(hello).collect();
        let sent = |when, act| numbers(&play(Script::one(when, act), &packets));
        assert_eq!(sent(When::Nth(2), Act::Drop), [0, 2, 3]);
        assert_eq!(sent(When::Every(2), Act::Duplicate), [0, 1, 1, 2, 3, 3]);
        assert_eq!(sent(When::Nth(1), Act::Postpone), [1, 0, 2, 3]);
        assert_eq!(sent(When::FirstMessage(message::HELLO), Act::Ns(9)), [9, 1, 2, 3]);
        assert_eq!(sent(When::Message(message::ICRQ), Act::Drop), [0, 1, 2, 3]);
        assert_eq!(sent(When::Zlb, Act::Drop), [0, 1, 2, 3]);
    }

    #[test]
    fn kinds_of_packets_are_told_apart() {
        let packets = [hello(0), control(1, 0, 1, 1, &[]), data(1, 2, b"frame")];
        for (when, left) in [
            (When::Zlb, 2),
            (When::Data, 2),
            (When::Message(6), 2),
            (When::Always, 0),
        ] {
            assert_eq!(
                play(Script::one(when, Act::Drop), &packets).len(),
                left,
                "{when:?}"
            );
        }
    }

    #[test]
    fn damage_keeps_the_length_field_right_but_for_the_cut() {
        for damage in [
            Damage::LongAvp,
            Damage::ZeroAvp,
            Damage::UnknownMandatory,
            Damage::BadHidden,
        ] {
            let out = play(Script::one(When::Always, Act::Damage(damage)), &[hello(0)]);
            assert_eq!(
                usize::from(u16::from_be_bytes([out[0].bytes[2], out[0].bytes[3]])),
                out[0].bytes.len()
            );
        }
        let out = play(
            Script::one(When::Always, Act::Damage(Damage::Cut(3))),
            &[hello(0)],
        );
        assert_eq!(out[0].bytes.len(), 17);
    }
}
