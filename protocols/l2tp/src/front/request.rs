//! Requests for tunnels (SCCRQ): rates, shares, rules, and the one answer to each.

use super::half_open::{HalfOpen, HalfOpenTable, Room};
use super::{L2tpFront, Route};
use crate::bucket::Bucket;
use crate::config::{Config, Limits, PeerIndex};
use crate::names::{counts, drops};
use crate::ties::Tied;
use crate::wire::header::ControlHeader;
use crate::wire::message::{Message, PROTOCOL_VERSION, Start};
use crate::wire::result::{ResultCode, error, stop};
use crate::wire::{self, DecodeError, Refused};
use bytes::BytesMut;
use sluice_spi::{DropReason, Event, MachineKey, PeerAddr, random_u16, random_u32};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources whose rate is watched one by one. What comes from others beyond this is under the common rate only.
const MAX_SOURCES: usize = 4096;
/// Shortest time between two looks for sources that are at rest, so that a flood from ever new sources does not
/// pay for one with each packet.
const SWEEP: Duration = Duration::from_secs(1);
/// For so long after a tunnel was established, an SCCRQ with the ids of its own is taken for a copy that was
/// delayed on the way (the peer's first retransmission among them); later, for a peer that has started anew and would
/// wait for its answer. A copy that comes later still costs a half-open record, and the peer knows our answer to it
/// for a duplicate.
const DELAYED: Duration = Duration::from_secs(2);

/// The rates at which requests are served.
#[derive(Debug, Default)]
pub(super) struct Rates {
    sources: HashMap<IpAddr, Bucket>,
    /// When sources that are at rest were last forgotten.
    swept: Option<Instant>,
    unknown: Option<Bucket>,
    known: Option<Bucket>,
}

impl Rates {
    fn take(&mut self, source: IpAddr, known: bool, limits: &Limits, now: Instant) -> bool {
        let rate = limits.source_rate;
        let swept_lately = self
            .swept
            .is_some_and(|at| now.saturating_duration_since(at) < SWEEP);
        if self.sources.len() >= MAX_SOURCES && !swept_lately {
            self.swept = Some(now);
            self.sources.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&source) {
            let bucket = self.sources.entry(source);
            if !bucket.or_insert_with(|| Bucket::full(rate, now)).take(rate, now) {
                return false;
            }
        }
        let (bucket, rate) = if known {
            (&mut self.known, limits.known_rate)
        } else {
            (&mut self.unknown, limits.unknown_rate)
        };
        bucket
            .get_or_insert_with(|| Bucket::full(rate, now))
            .take(rate, now)
    }
}

impl L2tpFront {
    /// Handles an SCCRQ.
    pub(super) fn request(
        &mut self,
        from: PeerAddr,
        header: &ControlHeader,
        body: &[u8],
        now: Instant,
    ) -> Route {
        let Some(host_name) = wire::host_name(body).filter(|_| header.ns == 0) else {
            return self.drop_packet(drops::MALFORMED);
        };
        let rule = self.config().find_peer(host_name, from.remote.ip());
        let known = rule != Config::EVERYONE;
        let source = HalfOpenTable::source(from.remote);
        if !self.rates.take(source, known, &self.shared.config.limits, now) {
            return self.drop_packet(drops::RATE);
        }
        if !known && !self.config().accept_unknown {
            return self.drop_packet(drops::NOT_SERVED);
        }
        match wire::decode(body, self.config().peer(rule).secret.as_ref()) {
            Ok(Message::Sccrq(start)) => self.sound_request(from, rule, &start, now),
            Err(DecodeError::Refused(refused)) => self.unsound_request(from, refused),
            _ => self.drop_packet(drops::MALFORMED),
        }
    }

    /// An SCCRQ that cannot be accepted as it is written.
    fn unsound_request(&mut self, from: PeerAddr, refused: Refused) -> Route {
        if let Some(peer_tunnel) = refused.assigned_tunnel {
            let result = ResultCode::with_error(stop::ERROR, refused.error, refused.message);
            self.turn_away(from, peer_tunnel, result);
        }
        self.drop_packet(drops::MALFORMED)
    }

    fn sound_request(&mut self, from: PeerAddr, rule: PeerIndex, start: &Start, now: Instant) -> Route {
        if start.version >> 8 != PROTOCOL_VERSION >> 8 {
            let result = ResultCode {
                result: stop::VERSION,
                error: Some(PROTOCOL_VERSION),
                message: String::new(),
            };
            return self.turn_away(from, start.tunnel_id, result);
        }
        let has_secret = self.config().peer(rule).secret.is_some();
        if !has_secret && (start.challenge.is_some() || !self.config().allow_no_secret) {
            let why = match start.challenge {
                Some(_) => "it asks for a tunnel secret, and none is configured for it",
                None => "no tunnel secret is configured for it",
            };
            self.not_authorized(from, &start.host_name, why);
            return self.turn_away(from, start.tunnel_id, ResultCode::plain(stop::NOT_AUTHORIZED));
        }
        if let Some(tunnel) = self.half_open.find(from.remote, start.tunnel_id) {
            return self.repeated(from, tunnel, start);
        }
        let former = self.by_peer.get(&(from.remote, start.tunnel_id));
        let recent = former.filter(|tunnel| {
            let origin = self.machines.get(tunnel).and_then(Option::as_ref);
            origin.is_some_and(|origin| now.saturating_duration_since(origin.at) < DELAYED)
        });
        match recent {
            Some(&tunnel) => Route::Machine(MachineKey(tunnel.into())),
            None => self.new_request(from, rule, start, now),
        }
    }

    /// A copy of a request that was answered: it gets the same answer once more.
    fn repeated(&mut self, from: PeerAddr, tunnel: u16, start: &Start) -> Route {
        let Some(record) = self.half_open.get(tunnel).copied() else {
            return Route::Done;
        };
        if record.refused {
            return self.drop_packet(drops::NOT_SERVED);
        }
        self.event(Event::Counted(counts::REPEATED_REQUESTS));
        self.send_answer(from, &record, start);
        Route::Done
    }

    fn new_request(&mut self, from: PeerAddr, rule: PeerIndex, start: &Start, now: Instant) -> Route {
        let known = rule != Config::EVERYONE;
        if let Some(reason) = self.no_room_for_tunnel(from.remote) {
            return self.over(from, start, known, reason);
        }
        match self
            .half_open
            .room(from.remote, known, &self.shared.config.limits)
        {
            Room::Free => {}
            Room::Share | Room::Full => return self.over(from, start, known, drops::SHARE),
        }
        match self.shared.ties.resolve(from.remote.ip(), start.tie_breaker) {
            Tied::TheirsGoesOn => {}
            Tied::TheirsIsDropped => return self.drop_packet(drops::TIE),
        }
        let Some(tunnel) = self.take_id(now) else {
            return self.over(from, start, known, drops::TUNNEL_LIMIT);
        };
        let record = HalfOpen::new(&from, tunnel, rule, start);
        let random = random_u32(&mut *self.entropy);
        let life = self.config().half_open_timeout;
        let limits = self.config().limits;
        if let Some(evicted) = self.half_open.insert(record, known, &limits, random, life, now) {
            self.ids.forget(evicted);
            self.event(Event::Dropped(drops::EVICTED));
        }
        self.event(Event::Counted(counts::TUNNEL_REQUESTS));
        self.send_answer(from, &record, start);
        Route::Done
    }

    fn send_answer(&mut self, to: PeerAddr, record: &HalfOpen, start: &Start) {
        let answer = self.answer(record, start.challenge.as_deref());
        let body = self.encode_answer(answer, record.rule);
        let header = ControlHeader {
            tunnel: record.peer_tunnel,
            session: 0,
            ns: 0,
            nr: 1,
        };
        let mut out = BytesMut::new();
        header.encode(&body, &mut out);
        self.send(to, out);
    }

    /// Over a limit: peers that a rule names are told to come back later, others hear nothing.
    fn over(&mut self, from: PeerAddr, start: &Start, known: bool, reason: DropReason) -> Route {
        if known {
            let result = ResultCode::with_error(stop::ERROR, error::NO_RESOURCES, "too many tunnels for now");
            self.turn_away(from, start.tunnel_id, result);
        }
        self.drop_packet(reason)
    }

    /// Refuses a request without keeping anything of it. The tunnel id in the answer is nobody's.
    fn turn_away(&mut self, to: PeerAddr, peer_tunnel: u16, result: ResultCode) -> Route {
        self.event(Event::Counted(counts::REFUSED));
        let nobody = random_u16(&mut *self.entropy).max(1);
        self.stop(to, peer_tunnel, nobody, (0, 1), result);
        Route::Done
    }
}
