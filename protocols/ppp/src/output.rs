//! What a link has to say: frames for the peer and events for the carrier, in bounded queues.

use crate::api::PppEvent;
use crate::config::PppConfig;
use crate::drops;
use crate::limit::Limits;
use crate::wire::{Packet, describe};
use bytes::BytesMut;
use sluice_spi::{Direction, DropReason, Entropy, Severity};
use std::collections::VecDeque;
use std::time::Instant;

/// Most frames kept for a carrier that does not drain: several times what one input can cause.
const MAX_FRAMES: usize = 64;
/// Events beyond which the ones that only inform are left out.
const MAX_EVENTS: usize = 64;

/// Queues of one link. Both are empty, and take no memory, whenever the carrier has drained them.
#[derive(Default)]
pub(crate) struct Output {
    frames: VecDeque<Vec<u8>>,
    events: VecDeque<PppEvent>,
    pub(crate) trace: bool,
}

impl Output {
    /// Queues a frame.
    pub(crate) fn send(&mut self, protocol: u16, information: &[u8]) {
        if self.frames.len() >= MAX_FRAMES {
            return self.dropped(drops::OUTPUT_FULL);
        }
        self.traced(Direction::Out, protocol, information);
        let mut frame = Vec::with_capacity(2 + information.len());
        frame.extend_from_slice(&protocol.to_be_bytes());
        frame.extend_from_slice(information);
        self.frames.push_back(frame);
    }

    /// Queues a control packet.
    pub(crate) fn send_packet(&mut self, protocol: u16, code: u8, id: u8, body: &[u8]) {
        let mut information = Vec::with_capacity(crate::wire::HEADER + body.len());
        Packet { code, id, body }.encode(&mut information);
        self.send(protocol, &information);
    }

    /// Queues an event that the carrier must see.
    pub(crate) fn event(&mut self, event: PppEvent) {
        self.events.push_back(event);
    }

    fn inform(&mut self, event: PppEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Counts a refused frame.
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.inform(PppEvent::Dropped(reason));
    }

    /// A line for the log.
    pub(crate) fn notice(&mut self, severity: Severity, text: impl Into<String>) {
        self.inform(PppEvent::Notice {
            severity,
            text: text.into(),
        });
    }

    /// Shows a frame in words, where somebody wants to see it.
    pub(crate) fn traced(&mut self, direction: Direction, protocol: u16, information: &[u8]) {
        if self.trace {
            let text = describe(protocol, information);
            self.inform(PppEvent::Traced { direction, text });
        }
    }

    /// Appends the next frame to `out`.
    pub(crate) fn poll_frame(&mut self, out: &mut BytesMut) -> bool {
        let Some(frame) = self.frames.pop_front() else {
            return false;
        };
        out.extend_from_slice(&frame);
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        true
    }

    /// The next event.
    pub(crate) fn poll_event(&mut self) -> Option<PppEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        event
    }
}

/// What every part of a link works with.
pub(crate) struct Env<'a> {
    pub(crate) config: &'a PppConfig,
    pub(crate) entropy: &'a mut dyn Entropy,
    pub(crate) out: &'a mut Output,
    pub(crate) limits: &'a mut Limits,
    /// Largest information field that the peer takes.
    pub(crate) peer_mru: u16,
    pub(crate) now: Instant,
}
