//! PPP and user data of calls: frames before, on and after the path, and what PPP wants done.

use super::{Call, Control, Farewell, Kind, Timer, pop};
use crate::codec::{Codec, CodecSpec, DataState};
use crate::names::drops;
use crate::wire::gre::Header;
use crate::wire::message::{FRAMING_ASYNC, LinkInfo, Message};
use bytes::BytesMut;
use sluice_auth::Verdict;
use sluice_ppp::{Accm, Carrier, Ppp, PppEvent, PppPath, Role};
use sluice_spi::{AddressFilter, Event, LocalRef, PathKey, PathSpec, PathUpdate, PeerAddr, Transmit, Via};
use std::sync::Arc;
use std::time::Instant;

impl Control {
    /// What carries a call, for PPP.
    pub(super) fn carrier(&self, call: &Call) -> Carrier {
        Carrier {
            protocol: crate::module::NAME,
            peer: Some(self.peer.remote),
            calling: call.calling.clone(),
            called: call.called.clone(),
            mtu: self.config().inner_mtu(),
            verifiable: call.verifiable.clone(),
        }
    }

    /// Starts PPP on a call.
    pub(super) fn start_link(&mut self, id: u16, now: Instant) {
        let entropy = self.entropy.fork();
        let config = Arc::clone(&self.config().ppp);
        let Some(call) = self.calls.get(&id) else { return };
        let mut ppp = Ppp::new(config, Role::Server, self.carrier(call), entropy);
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        ppp.set_trace(call.trace);
        ppp.start(None, now);
        call.ppp = Some(Box::new(ppp));
        self.pump(id, now);
    }

    /// A GRE packet that no path has taken: there is none yet, or none any more.
    pub(super) fn datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) {
        if from.remote.ip() != self.data_peer().remote.ip() {
            return self.wrong_peer();
        }
        let Some(header) = Header::decode(packet) else {
            return self.dropped(drops::HEADER);
        };
        let Some(call) = self.calls.get_mut(&header.call_id) else {
            return self.dropped(drops::LATE_DATA);
        };
        let is_wrong = header
            .acknowledged
            .is_some_and(|number| !call.data.has_sent(number));
        let Some(number) = header.sequence else {
            if is_wrong {
                self.dropped(drops::WRONG_ACK);
            }
            return;
        };
        let Some(ppp) = &mut call.ppp else {
            return self.dropped(drops::EARLY_DATA);
        };
        if let Err(reason) = call.data.note_received(number) {
            return self.dropped(reason);
        }
        ppp.handle_frame(packet.get(header.payload).unwrap_or_default(), now);
        let limit = self.config().ack_delay;
        if self.timers.get(Timer::Acknowledge(header.call_id)).is_none() {
            self.timers.set(Timer::Acknowledge(header.call_id), now + limit);
        }
        self.pump(header.call_id, now);
    }

    /// Acknowledges what came before there is a path, where nothing was sent that did.
    pub(super) fn acknowledge(&mut self, id: u16) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| !call.path.wanted) else {
            return;
        };
        let mut packet = BytesMut::new();
        if call.data.put_acknowledgement(call.peer_id, &mut packet) {
            self.farewell.push_back(Farewell::Packet(packet));
        }
    }

    /// A frame that an installed path has left to us.
    pub(super) fn path_frame(&mut self, session: LocalRef, frame: &[u8], now: Instant) {
        let Some(id) = self.find(session) else {
            return self.dropped(drops::LATE_DATA);
        };
        if let Some(ppp) = self.calls.get_mut(&id).and_then(|call| call.ppp.as_mut()) {
            ppp.handle_frame(frame, now);
        }
        self.pump(id, now);
    }

    /// User data has come from the peer: the client need not be asked for a sign of life.
    pub(super) fn path_active(&mut self, session: LocalRef, now: Instant) {
        let Some(id) = self.find(session) else { return };
        if let Some(ppp) = self.calls.get_mut(&id).and_then(|call| call.ppp.as_mut()) {
            ppp.note_activity(now);
        }
    }

    /// The answer of authentication.
    pub(super) fn judged(&mut self, session: LocalRef, verdict: Verdict, now: Instant) {
        let Some(id) = self.find(session) else { return };
        if let Some(ppp) = self.calls.get_mut(&id).and_then(|call| call.ppp.as_mut()) {
            ppp.auth_verdict(verdict, now);
        }
        self.pump(id, now);
    }

    /// PPP's time has come.
    pub(super) fn link_timeout(&mut self, id: u16, now: Instant) {
        if let Some(ppp) = self.calls.get_mut(&id).and_then(|call| call.ppp.as_mut()) {
            ppp.handle_timeout(now);
        }
        self.pump(id, now);
    }

    /// Does what PPP of a call wants done, and sets its timer.
    pub(super) fn pump(&mut self, id: u16, now: Instant) {
        while let Some(event) = self
            .calls
            .get_mut(&id)
            .and_then(|call| call.ppp.as_mut())
            .and_then(|ppp| ppp.poll_event())
        {
            self.link_event(id, event, now);
        }
        let Some(ppp) = self.calls.get(&id).and_then(|call| call.ppp.as_ref()) else {
            return;
        };
        match ppp.poll_timeout() {
            Some(at) => self.timers.set(Timer::Ppp(id), at),
            None => {
                self.timers.clear(Timer::Ppp(id));
            }
        }
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    fn link_event(&mut self, id: u16, event: PppEvent, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let session = call.local;
        match event {
            PppEvent::AuthRequested(request) => self.event(Event::AuthRequested { session, request }),
            PppEvent::LinkUp { accm, .. } => self.link_up(id, accm),
            PppEvent::Up { path, facts } => {
                call.up = true;
                self.install(id, path, now);
                self.event(Event::SessionUp { session, facts });
                self.checkpoint_due = true;
            }
            PppEvent::PathChanged(path) => {
                self.change_path(id, path, now);
                self.checkpoint_due = true;
            }
            PppEvent::Down(ended) => self.link_down(id, ended, now),
            PppEvent::Dropped(reason) => self.dropped(reason),
            PppEvent::Notice { severity, text } => self.notice(Some(session), severity, text),
            PppEvent::Traced { direction, text } => self.event(Event::Traced {
                session,
                direction,
                text,
            }),
        }
    }

    /// LCP is open: a PAC with an asynchronous line is told the maps (RFC 2637, 2.15).
    fn link_up(&mut self, id: u16, accm: Accm) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let told = call.accm == Some(accm);
        if call.kind != Kind::Incoming || call.framing & FRAMING_ASYNC == 0 || told {
            return;
        }
        call.accm = Some(accm);
        let peer_call_id = call.peer_id;
        self.send(&Message::LinkInfo(LinkInfo {
            peer_call_id,
            send: accm.send,
            receive: accm.receive,
        }));
    }

    /// Asks for a path. Its codec goes on with the numbers that frames used so far.
    pub(super) fn install(&mut self, id: u16, ppp: PppPath, now: Instant) {
        let peer = self.data_peer();
        let config = self.config();
        let (reorder, ack_delay, window) = (config.reorder, config.ack_delay, config.window);
        self.timers.clear(Timer::Acknowledge(id));
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let spec = CodecSpec {
            peer,
            call_id: call.peer_id,
            header: ppp.header,
            reorder,
            ack_delay,
            window,
            state: call.data,
        };
        call.path.wanted = true;
        call.header = ppp.header;
        let session = call.local;
        self.event(Event::InstallPath {
            session,
            path: Box::new(PathSpec {
                key: PathKey(id.into()),
                peer,
                codec: Box::new(Codec::new(spec, now)),
                filter: ppp.filter,
                mtu: ppp.mtu,
            }),
        });
    }

    fn change_path(&mut self, id: u16, path: Option<PppPath>, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let (session, wanted) = (call.local, call.path.wanted);
        let same_header = path.as_ref().is_none_or(|path| path.header == call.header);
        match path {
            Some(path) if !wanted => self.install(id, path, now),
            Some(path) if !same_header => {
                // The codec's numbers are its own; they come back with its end.
                call.next_path = Some(path);
                self.remove_path(id);
            }
            Some(path) => {
                for update in [PathUpdate::Filter(path.filter), PathUpdate::Mtu(path.mtu)] {
                    self.event(Event::UpdatePath { session, update });
                }
            }
            None if wanted => self.event(Event::UpdatePath {
                session,
                update: PathUpdate::Filter(AddressFilter::default()),
            }),
            None => {}
        }
    }

    /// Ends the flow of user data of a call.
    pub(super) fn remove_path(&mut self, id: u16) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.path.wanted) else {
            return;
        };
        call.path.wanted = false;
        let session = call.local;
        self.event(Event::RemovePath { session });
    }

    /// The driver has taken an event about a path.
    pub(super) fn path_is_live(&mut self, session: LocalRef, live: bool) {
        if let Some(id) = self.find(session)
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.path.live = live;
        }
    }

    /// The numbers of an installed path, for the next checkpoint, or of one that was removed.
    pub(super) fn path_state(&mut self, session: LocalRef, state: &[u8], now: Instant) {
        let Some(id) = self.find(session) else { return };
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if let Some(state) = DataState::from_bytes(state) {
            call.data = state;
        }
        if !call.path.wanted
            && let Some(path) = call.next_path.take()
        {
            self.install(id, path, now);
        }
    }

    pub(super) fn trace(&mut self, session: LocalRef, on: bool) {
        if let Some(id) = self.find(session)
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.trace = on;
            if let Some(ppp) = &mut call.ppp {
                ppp.set_trace(on);
            }
        }
    }

    /// The next frame of PPP, on its path where the driver has one, else in a packet of our own.
    pub(super) fn transmit_frame(&mut self, out: &mut BytesMut) -> Option<Transmit> {
        let peer = self.data_peer();
        while let Some(&id) = self.ready.front() {
            if let Some(call) = self.calls.get_mut(&id)
                && let Some(ppp) = &mut call.ppp
            {
                if call.path.wanted != call.path.live && !self.events.is_empty() {
                    // The driver is about to take the event that decides which way frames go.
                    return None;
                }
                let before = out.len();
                if call.path.live {
                    if ppp.poll_frame(out) {
                        let via = Via::Path(call.local);
                        let length = out.len() - before;
                        return Some(Transmit { via, length });
                    }
                } else {
                    let mut frame = BytesMut::new();
                    if ppp.poll_frame(&mut frame) {
                        call.data.put_frame(call.peer_id, ppp.header(), &frame, out);
                        let via = Via::Socket(peer);
                        let length = out.len() - before;
                        return Some(Transmit { via, length });
                    }
                }
            }
            pop(&mut self.ready);
        }
        None
    }

    /// Keeps what PPP of a call that ends still has to say, to be sent before the call's end.
    pub(super) fn keep_last_frames(&mut self, id: u16) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let mut frame = BytesMut::new();
        while let Some(ppp) = call.ppp.as_mut()
            && ppp.poll_frame(&mut frame)
        {
            // On a path the numbers are its codec's. It is there until its end is told, which comes after.
            let last = if call.path.live {
                Farewell::OnPath(call.local, frame.split())
            } else {
                let mut packet = BytesMut::new();
                call.data
                    .put_frame(call.peer_id, ppp.header(), &frame.split(), &mut packet);
                Farewell::Packet(packet)
            };
            self.farewell.push_back(last);
        }
    }
}
