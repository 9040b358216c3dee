//! The datagrams that a client exchanges with its relay (RFC 1928, 7).

use crate::config::Reassembly;
use crate::names::drops;
use crate::wire::datagram::{self, BadDatagram, Datagram, Fragment, OVERHEAD};
use bytes::BytesMut;
use sluice_spi::{ClientDatagram, DropReason, RelayCodec, Target};
use std::net::SocketAddr;
use std::time::Instant;

/// Both directions of one association.
#[derive(Debug)]
pub(crate) struct Codec {
    /// `None`: parts of datagrams are dropped, as an implementation without reassembly must.
    reassembly: Option<Reassembly>,
    /// The one that is being put together.
    sequence: Option<Box<Sequence>>,
    /// The one that was put together last, until the next datagram comes.
    whole: Option<Box<Sequence>>,
    /// Parts given up that [`RelayCodec::expire`] has not told of yet.
    given_up: usize,
    /// When it tells of them.
    tell_at: Option<Instant>,
}

/// The parts of one datagram.
#[derive(Debug)]
struct Sequence {
    /// The target, which all parts have.
    target: Vec<u8>,
    payload: Vec<u8>,
    /// Place of the last part that came; its number is that of the parts, for none may be left out.
    highest: u8,
    until: Instant,
}

impl Codec {
    pub(crate) fn new(reassembly: Option<Reassembly>) -> Self {
        Self {
            reassembly,
            sequence: None,
            whole: None,
            given_up: 0,
            tell_at: None,
        }
    }

    fn abandon(&mut self) {
        if let Some(sequence) = self.sequence.take() {
            self.given_up += usize::from(sequence.highest);
            self.tell_at.get_or_insert(sequence.until);
        }
    }

    /// A part came; whether it was the last. A part below the highest that came ends the sequence (RFC 1928, 7), so one
    /// that was left out can never come any more: the sequence is given up as soon as one is left out. A first part
    /// always begins a sequence, for what is there may be the beginning of another that was lost.
    fn part(
        &mut self,
        rules: Reassembly,
        part: &Datagram<'_>,
        position: u8,
        now: Instant,
    ) -> Result<(), DropReason> {
        let same = self
            .sequence
            .as_ref()
            .filter(|sequence| sequence.target == part.target);
        let highest = same.map_or(0, |sequence| sequence.highest);
        if position > 1 && position == highest {
            // The same part again: the network's doing.
            return Err(drops::FRAGMENT_ORDER);
        }
        if position == 1 || position != highest + 1 {
            self.abandon();
            if position != 1 {
                return Err(drops::FRAGMENT_ORDER);
            }
        }
        let held = self
            .sequence
            .as_ref()
            .map_or(0, |sequence| sequence.payload.len());
        if held + part.payload.len() > rules.bytes {
            self.abandon();
            return Err(drops::FRAGMENT_SIZE);
        }
        match &mut self.sequence {
            Some(sequence) => {
                sequence.highest = position;
                sequence.payload.extend_from_slice(part.payload);
            }
            None => {
                self.sequence = Some(Box::new(Sequence {
                    target: part.target.to_vec(),
                    payload: part.payload.to_vec(),
                    highest: position,
                    until: now + rules.timeout,
                }));
            }
        }
        Ok(())
    }

    /// The datagram whose last part came.
    fn whole(&mut self) -> ClientDatagram<'_> {
        self.whole = self.sequence.take();
        match &self.whole {
            Some(whole) => ClientDatagram::To {
                target: &whole.target,
                payload: &whole.payload,
            },
            None => ClientDatagram::Held,
        }
    }

    fn lapse(&mut self, now: Instant) {
        if self
            .sequence
            .as_ref()
            .is_some_and(|sequence| sequence.until <= now)
        {
            self.abandon();
        }
    }
}

impl RelayCodec for Codec {
    fn open<'a>(&'a mut self, packet: &'a [u8], now: Instant) -> ClientDatagram<'a> {
        let datagram = match datagram::decode(packet) {
            Ok(datagram) => datagram,
            Err(BadDatagram::Truncated) => return ClientDatagram::Drop(drops::SHORT),
            Err(BadDatagram::Reserved) => return ClientDatagram::Drop(drops::RESERVED),
            Err(BadDatagram::AddressType) => return ClientDatagram::Drop(drops::ADDRESS_TYPE),
        };
        if datagram.port == 0 {
            return ClientDatagram::Drop(drops::PORT);
        }
        let Some(rules) = self.reassembly else {
            return match datagram.fragment {
                Fragment::Whole => ClientDatagram::To {
                    target: datagram.target,
                    payload: datagram.payload,
                },
                Fragment::Part { .. } => ClientDatagram::Drop(drops::FRAGMENT),
            };
        };
        self.whole = None;
        self.lapse(now);
        match datagram.fragment {
            Fragment::Whole => {
                // Its FRAG is 0, and so below the highest.
                self.abandon();
                ClientDatagram::To {
                    target: datagram.target,
                    payload: datagram.payload,
                }
            }
            Fragment::Part { position, last } => match self.part(rules, &datagram, position, now) {
                Err(reason) => ClientDatagram::Drop(reason),
                Ok(()) if last => self.whole(),
                Ok(()) => ClientDatagram::Held,
            },
        }
    }

    fn target(&self, octets: &[u8]) -> Result<Target, DropReason> {
        let (address, port) = datagram::target(octets).map_err(|_| drops::TARGET)?;
        let host = address.host().map_err(|_| drops::TARGET)?;
        Ok(Target { host, port })
    }

    fn seal(&mut self, from: SocketAddr, payload: &[u8], out: &mut BytesMut) -> Result<(), DropReason> {
        datagram::encode(from, payload, out);
        Ok(())
    }

    fn overhead(&self) -> usize {
        OVERHEAD
    }

    fn held_until(&self) -> Option<Instant> {
        let sequence = self.sequence.as_ref().map(|sequence| sequence.until);
        sequence.into_iter().chain(self.tell_at).min()
    }

    fn expire(&mut self, now: Instant) -> usize {
        self.lapse(now);
        self.tell_at = None;
        std::mem::take(&mut self.given_up)
    }
}

#[cfg(test)]
mod tests;
