//! PPP and user data of calls: frames before, on and after the path, and what PPP wants done.

use super::call::EARLY_FRAMES;
use super::channel::Priority;
use super::{Call, CallState, Kind, Timer, Tunnel, pop};
use crate::codec::{Codec, CodecSpec, DataState, Sequencing};
use crate::names::drops;
use crate::wire::header::{DataHeader, DataTemplate};
use crate::wire::message::{FRAMING_ASYNC, LinkInfo, Message};
use bytes::{Bytes, BytesMut};
use sluice_auth::Verdict;
use sluice_ppp::{Accm, Carrier, Ppp, PppEvent, PppHeader, PppPath, Proxy, Role};
use sluice_spi::{AddressFilter, Event, LocalRef, PathKey, PathSpec, PathUpdate, PeerAddr, Transmit, Via};
use std::sync::Arc;
use std::time::Instant;

/// Longest PPP frame kept before its call may carry data.
const MAX_EARLY: usize = 2048;

impl Tunnel {
    /// What carries a call, for PPP.
    pub(crate) fn carrier(&self, call: &Call) -> Carrier {
        Carrier {
            protocol: crate::module::NAME,
            peer: Some(self.peer.remote),
            calling: call.calling.clone(),
            called: call.called.clone(),
            mtu: self.config().inner_mtu(self.peer.remote.ip()),
            verifiable: call.verifiable.clone(),
        }
    }

    /// Starts PPP on a call, and gives it the frames that came too early.
    pub(super) fn start_link(&mut self, sid: u16, proxy: Option<Proxy>, now: Instant) {
        let entropy = self.entropy.fork();
        let config = Arc::clone(&self.config().ppp);
        let Some(call) = self.calls.get(&sid) else { return };
        let role = match (call.kind, &call.login) {
            (Kind::IncomingLns | Kind::OutgoingLns, None) => Role::Server,
            (_, login) => Role::Client { login: login.clone() },
        };
        let mut ppp = Ppp::new(config, role, self.carrier(call), entropy);
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        ppp.set_trace(call.trace);
        ppp.start(proxy, now);
        for frame in std::mem::take(&mut call.early) {
            ppp.handle_frame(&frame, now);
        }
        call.ppp = Some(Box::new(ppp));
        self.pump(sid, now);
    }

    /// A data message that no path has taken: there is none yet, or none any more.
    pub(super) fn data(&mut self, from: PeerAddr, packet: &[u8], now: Instant) {
        if from.remote != self.peer.remote {
            return self.wrong_peer();
        }
        let Ok(header) = DataHeader::decode(packet) else {
            return self.dropped(drops::HEADER);
        };
        let Some(payload) = packet.get(header.payload) else {
            return self.dropped(drops::HEADER);
        };
        let Some(call) = self.calls.get_mut(&header.session) else {
            return self.dropped(drops::UNKNOWN_SESSION);
        };
        self.last_heard = now;
        match (&mut call.ppp, call.state) {
            (Some(ppp), _) => {
                call.data.note_received(call.sequencing, header.ns);
                ppp.handle_frame(payload, now);
                self.pump(header.session, now);
            }
            (None, CallState::WaitConnect | CallState::WaitReply)
                if call.early.len() < EARLY_FRAMES && payload.len() <= MAX_EARLY =>
            {
                call.early.push(Bytes::copy_from_slice(payload));
            }
            _ => self.dropped(drops::EARLY_DATA),
        }
    }

    /// A frame that an installed path has left to us.
    pub(super) fn path_frame(&mut self, session: LocalRef, frame: &[u8], now: Instant) {
        let Some(sid) = self.find(session) else {
            return self.dropped(drops::LATE_DATA);
        };
        self.last_heard = now;
        if let Some(ppp) = self.calls.get_mut(&sid).and_then(|call| call.ppp.as_mut()) {
            ppp.handle_frame(frame, now);
        }
        self.pump(sid, now);
    }

    /// User data has come from the peer: neither it nor the client need be asked for a sign of life.
    pub(super) fn path_active(&mut self, session: LocalRef, now: Instant) {
        let Some(sid) = self.find(session) else { return };
        self.last_heard = now;
        if let Some(ppp) = self.calls.get_mut(&sid).and_then(|call| call.ppp.as_mut()) {
            ppp.note_activity(now);
        }
    }

    /// The answer of authentication.
    pub(super) fn judged(&mut self, session: LocalRef, verdict: Verdict, now: Instant) {
        let Some(sid) = self.find(session) else { return };
        if let Some(ppp) = self.calls.get_mut(&sid).and_then(|call| call.ppp.as_mut()) {
            ppp.auth_verdict(verdict, now);
        }
        self.pump(sid, now);
    }

    /// PPP's time has come.
    pub(super) fn link_timeout(&mut self, sid: u16, now: Instant) {
        if let Some(ppp) = self.calls.get_mut(&sid).and_then(|call| call.ppp.as_mut()) {
            ppp.handle_timeout(now);
        }
        self.pump(sid, now);
    }

    /// Does what PPP of a call wants done, and sets its timer.
    pub(crate) fn pump(&mut self, sid: u16, now: Instant) {
        while let Some(event) = self
            .calls
            .get_mut(&sid)
            .and_then(|call| call.ppp.as_mut())
            .and_then(|ppp| ppp.poll_event())
        {
            self.link_event(sid, event, now);
        }
        let Some(call) = self.calls.get(&sid) else { return };
        let Some(ppp) = &call.ppp else { return };
        match ppp.poll_timeout() {
            Some(at) => self.timers.set(Timer::Ppp(sid), at),
            None => {
                self.timers.clear(Timer::Ppp(sid));
            }
        }
        if !self.ready.contains(&sid) {
            self.ready.push_back(sid);
        }
    }

    fn link_event(&mut self, sid: u16, event: PppEvent, now: Instant) {
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        let session = call.local;
        match event {
            PppEvent::AuthRequested(request) => self.event(Event::AuthRequested { session, request }),
            PppEvent::LinkUp { accm, .. } => self.link_up(sid, accm),
            PppEvent::Up { path, facts } => {
                call.up = true;
                self.install(sid, path);
                self.event(Event::SessionUp { session, facts });
                self.checkpoint_due = true;
            }
            PppEvent::PathChanged(path) => {
                self.change_path(sid, path);
                self.checkpoint_due = true;
            }
            PppEvent::Down(ended) => self.link_down(sid, ended, now),
            PppEvent::Dropped(reason) => self.dropped(reason),
            PppEvent::Notice { severity, text } => self.notice(Some(session), severity, text),
            PppEvent::Traced { direction, text } => self.event(Event::Traced {
                session,
                direction,
                text,
            }),
        }
    }

    /// LCP is open: a LAC with an asynchronous line is told the maps (RFC 2661, 6.14).
    fn link_up(&mut self, sid: u16, accm: Accm) {
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        let told = call.accm == Some(accm);
        if !call.kind.is_lns() || call.framing & FRAMING_ASYNC == 0 || told {
            return;
        }
        call.accm = Some(accm);
        let peer_sid = call.peer_sid;
        let message = Message::Sli(LinkInfo {
            send: accm.send,
            receive: accm.receive,
        });
        self.send_for(sid, peer_sid, &message, Priority::Normal);
    }

    fn path_key(&self, sid: u16) -> PathKey {
        PathKey(u32::from(self.key) << 16 | u32::from(sid))
    }

    /// Asks for a path. Its codec goes on with the numbers that frames used so far.
    pub(crate) fn install(&mut self, sid: u16, ppp: PppPath) {
        let key = self.path_key(sid);
        let (peer, peer_tunnel) = (self.peer, self.peer_tunnel);
        let (with_length, reorder) = (self.config().length_bit, self.config().reorder);
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        let codec = Codec::new(CodecSpec {
            peer,
            template: DataTemplate::new(peer_tunnel, call.peer_sid, with_length),
            header: ppp.header,
            sequencing: call.sequencing,
            reorder,
            state: call.data,
        });
        call.path.wanted = true;
        call.header = ppp.header;
        let session = call.local;
        self.event(Event::InstallPath {
            session,
            path: Box::new(PathSpec {
                key,
                peer,
                codec: Box::new(codec),
                filter: ppp.filter,
                mtu: ppp.mtu,
            }),
        });
    }

    fn change_path(&mut self, sid: u16, path: Option<PppPath>) {
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        let session = call.local;
        let wanted = call.path.wanted;
        let same_header = path.as_ref().is_none_or(|path| path.header == call.header);
        match path {
            Some(path) if !wanted => self.install(sid, path),
            Some(path) if !same_header => {
                // The codec's numbers are its own: where they are in use, the next path takes what comes.
                call.data.rx_next = None;
                self.remove_path(sid);
                self.install(sid, path);
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
    pub(super) fn remove_path(&mut self, sid: u16) {
        let Some(call) = self.calls.get_mut(&sid).filter(|call| call.path.wanted) else {
            return;
        };
        call.path.wanted = false;
        let session = call.local;
        self.event(Event::RemovePath { session });
    }

    /// The driver has taken an event about a path.
    pub(super) fn path_is_live(&mut self, session: LocalRef, live: bool) {
        if let Some(sid) = self.find(session)
            && let Some(call) = self.calls.get_mut(&sid)
        {
            call.path.live = live;
        }
    }

    /// The peer has moved: so do all paths.
    pub(super) fn move_paths(&mut self) {
        let peer = self.peer;
        let sessions: Vec<LocalRef> = self
            .calls
            .values()
            .filter(|call| call.path.wanted)
            .map(|call| call.local)
            .collect();
        for session in sessions {
            self.event(Event::UpdatePath {
                session,
                update: PathUpdate::Peer(peer),
            });
        }
    }

    /// The numbers of an installed path, for the next checkpoint.
    pub(super) fn path_state(&mut self, session: LocalRef, state: &[u8]) {
        if let Some(sid) = self.find(session)
            && let Some(call) = self.calls.get_mut(&sid)
            && let Some(state) = DataState::from_bytes(state)
        {
            call.data = state;
        }
    }

    pub(super) fn trace(&mut self, session: LocalRef, on: bool) {
        if let Some(sid) = self.find(session)
            && let Some(call) = self.calls.get_mut(&sid)
        {
            call.trace = on;
            if let Some(ppp) = &mut call.ppp {
                ppp.set_trace(on);
            }
        }
    }

    /// The next frame of PPP, on its path where the driver has one, else in a data message of our own.
    pub(super) fn transmit_frame(&mut self, out: &mut BytesMut) -> Option<Transmit> {
        let (peer, peer_tunnel, with_length) = (self.peer, self.peer_tunnel, self.config().length_bit);
        while let Some(&sid) = self.ready.front() {
            let call = self.calls.get_mut(&sid);
            if let Some(call) = call
                && let Some(ppp) = &mut call.ppp
            {
                if call.path.wanted != call.path.live {
                    // The driver is about to take the event that decides which way frames go.
                    if !self.events.is_empty() {
                        return None;
                    }
                }
                if call.path.live {
                    let before = out.len();
                    if ppp.poll_frame(out) {
                        return Some(Transmit {
                            via: Via::Path(call.local),
                            length: out.len() - before,
                        });
                    }
                } else {
                    let mut frame = BytesMut::new();
                    if ppp.poll_frame(&mut frame) {
                        let header = ppp.header();
                        return Some(Self::data_message(
                            call,
                            header,
                            peer,
                            peer_tunnel,
                            with_length,
                            &frame,
                            out,
                        ));
                    }
                }
            }
            pop(&mut self.ready);
        }
        None
    }

    /// What PPP of a call that ends still has to say, as whole packets.
    pub(super) fn last_frames(&mut self, sid: u16) -> Vec<BytesMut> {
        let (peer, peer_tunnel, with_length) = (self.peer, self.peer_tunnel, self.config().length_bit);
        let mut packets = Vec::new();
        let Some(call) = self.calls.get_mut(&sid) else {
            return packets;
        };
        let mut frame = BytesMut::new();
        while call.ppp.as_mut().is_some_and(|ppp| ppp.poll_frame(&mut frame)) {
            let header = call
                .ppp
                .as_ref()
                .map_or_else(PppHeader::default, |ppp| ppp.header());
            let mut packet = BytesMut::new();
            Self::data_message(call, header, peer, peer_tunnel, with_length, &frame, &mut packet);
            packets.push(packet);
            frame.clear();
        }
        packets
    }

    fn data_message(
        call: &mut Call,
        header: PppHeader,
        peer: PeerAddr,
        peer_tunnel: u16,
        with_length: bool,
        frame: &[u8],
        out: &mut BytesMut,
    ) -> Transmit {
        let before = out.len();
        let template = DataTemplate::new(peer_tunnel, call.peer_sid, with_length);
        let ns = if call.sequencing == Sequencing::Off {
            None
        } else {
            call.data.take_number()
        };
        let start = template.put(ns, out);
        header.seal_frame(frame, out);
        template.finish(start, out);
        Transmit {
            via: Via::Socket(peer),
            length: out.len() - before,
        }
    }
}
