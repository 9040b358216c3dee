//! The front of a listener's shard: peers that have proven nothing yet, and whose a datagram is.
//!
//! An SCCRQ costs a record of at most 128 bytes and one answer. The challenge in the answer is computed from a key
//! and the record, so that it need not be kept. A machine is made once a valid SCCCN has come.

mod half_open;
mod request;
mod sources;

use crate::config::{Config, PeerIndex};
use crate::machine::{Accept, Tunnel};
use crate::module::Shared;
use crate::names::{counts, drops};
use crate::wire::header::{ControlHeader, Family, data_ids, family};
use crate::wire::message::{Message, Start, StopCcn, number};
use crate::wire::result::{ResultCode, error, stop};
use crate::wire::{self, Hider, hidden, message_type};
use bytes::{Bytes, BytesMut};
use half_open::{HalfOpen, HalfOpenTable};
use sluice_spi::wire::display_text;
use sluice_spi::{
    Accepted, DropReason, Entropy, Event, Front, Identifiers, MachineKey, PeerAddr, Route, Severity, ShardId,
    Shards, Transmit, Via, random_bytes, random_u16,
};
use sources::Sources;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Answers waiting to be sent at the most; the driver drains them after each datagram.
const MAX_OUT: usize = 64;
/// Events waiting at the most.
const MAX_EVENTS: usize = 256;

/// What is remembered of a machine that came from here.
#[derive(Clone, Debug)]
struct Origin {
    remote: SocketAddr,
    peer_tunnel: u16,
    at: Instant,
    /// Set once the peer has begun another tunnel with the same id: it does not know this one any more.
    superseded: Arc<AtomicBool>,
}

/// The front of one shard.
pub(crate) struct L2tpFront {
    shared: Arc<Shared>,
    shard: ShardId,
    shards: Shards,
    entropy: Box<dyn Entropy>,
    /// Key of the challenges.
    key: [u8; 16],
    ids: Identifiers,
    half_open: HalfOpenTable,
    machines: HashMap<u16, Option<Origin>>,
    by_peer: HashMap<(SocketAddr, u16), u16>,
    /// Machines by where their peers are.
    sources: Sources,
    rates: request::Rates,
    out: VecDeque<(PeerAddr, BytesMut)>,
    events: VecDeque<Event>,
}

impl L2tpFront {
    /// A front with nothing in it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        shard: ShardId,
        shards: Shards,
        mut entropy: Box<dyn Entropy>,
    ) -> Self {
        let key = random_bytes(&mut *entropy);
        Self {
            shared,
            shard,
            shards,
            entropy,
            key,
            ids: Identifiers::default(),
            half_open: HalfOpenTable::default(),
            machines: HashMap::new(),
            by_peer: HashMap::new(),
            sources: Sources::default(),
            rates: request::Rates::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    fn config(&self) -> &Config {
        &self.shared.config
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn drop_packet(&mut self, reason: DropReason) -> Route {
        self.event(Event::Dropped(reason));
        Route::Done
    }

    /// Why a peer may have no tunnel more: there is no place left, or its source has as many as there are places left
    /// already. Whoever comes from elsewhere finds a place so, however many tunnels one source opens.
    fn no_room_for_tunnel(&self, remote: SocketAddr) -> Option<DropReason> {
        let left = self.config().limits.tunnels.saturating_sub(self.machines.len());
        match left {
            0 => Some(drops::TUNNEL_LIMIT),
            left if self.sources.count(remote.ip()) >= left => Some(drops::TUNNEL_SHARE),
            _ => None,
        }
    }

    fn take_id(&mut self, now: Instant) -> Option<u16> {
        let (shards, shard) = (self.shards, self.shard);
        let entropy = &mut *self.entropy;
        self.ids
            .mint(now, || random_u16(entropy), |random| shards.mint(shard, random))
    }

    fn control(&mut self, from: PeerAddr, packet: &[u8], now: Instant) -> Route {
        let Ok((header, body)) = ControlHeader::decode(packet) else {
            return self.drop_packet(drops::HEADER);
        };
        if header.tunnel == 0 {
            return match message_type(body) {
                Some((number::SCCRQ, _)) => self.request(from, &header, body, now),
                Some((number::STOPCCN, _)) => self.withdrawn(from, &header, body),
                _ => self.drop_packet(drops::UNKNOWN_TUNNEL),
            };
        }
        if self.machines.contains_key(&header.tunnel) {
            return Route::Machine(MachineKey(header.tunnel.into()));
        }
        match self.half_open.get(header.tunnel).copied() {
            Some(record) => self.half_open_message(&record, from, &header, body, now),
            None => self.drop_packet(drops::UNKNOWN_TUNNEL),
        }
    }

    /// A message of a peer that has our answer.
    fn half_open_message(
        &mut self,
        record: &HalfOpen,
        from: PeerAddr,
        header: &ControlHeader,
        body: &[u8],
        now: Instant,
    ) -> Route {
        if from.remote != SocketAddr::from(record.remote) {
            return self.drop_packet(drops::WRONG_PEER);
        }
        if body.is_empty() {
            // The acknowledgement of our SCCRP, or of the StopCCN that refused the peer.
            if record.refused && header.nr == 2 {
                self.forget(record.tunnel);
            }
            return Route::Done;
        }
        if record.refused {
            return self.drop_packet(drops::NOT_SERVED);
        }
        let sent_so_far = 1;
        if header.nr > sent_so_far {
            return self.drop_packet(drops::WRONG_NR);
        }
        match message_type(body) {
            None => self.drop_packet(drops::NO_TYPE),
            _ if header.ns != 1 => self.drop_packet(drops::HALF_OPEN),
            Some((number::SCCCN, _)) if header.nr == 1 => self.connected(record, from, header, body, now),
            Some((number::STOPCCN, _)) => self.withdrawn(from, header, body),
            Some((number::SCCRQ | number::SCCRP, _)) => {
                self.refuse(record, ResultCode::plain(stop::STATE_MACHINE));
                self.drop_packet(drops::HALF_OPEN)
            }
            Some(_) => self.drop_packet(drops::HALF_OPEN),
        }
    }

    /// An SCCCN: the moment of proof.
    fn connected(
        &mut self,
        record: &HalfOpen,
        from: PeerAddr,
        header: &ControlHeader,
        body: &[u8],
        now: Instant,
    ) -> Route {
        let secret = self.config().peer(record.rule).secret.clone();
        let scccn = match wire::decode(body, secret.as_ref()) {
            Ok(Message::Scccn(scccn)) => scccn,
            Err(wire::DecodeError::Refused(refused)) => {
                let result = ResultCode::with_error(stop::ERROR, refused.error, refused.message);
                self.refuse(record, result);
                return self.drop_packet(drops::MALFORMED);
            }
            _ => return self.drop_packet(drops::MALFORMED),
        };
        if let Some(secret) = &secret {
            let challenge = self.challenge(record);
            let right = scccn.response.as_ref().is_some_and(|response| {
                hidden::response_matches(number::SCCCN, secret, &challenge, response)
            });
            if !right {
                let why = match scccn.response {
                    Some(_) => "it has another tunnel secret",
                    None => "it does not answer the challenge",
                };
                self.not_authorized(from, record.host_name(), why);
                self.refuse(record, ResultCode::plain(stop::NOT_AUTHORIZED));
                return Route::Done;
            }
        }
        if let Some(reason) = self.no_room_for_tunnel(from.remote) {
            // The last free places were taken while this peer was half open.
            let text = "too many tunnels for now";
            self.refuse(
                record,
                ResultCode::with_error(stop::ERROR, error::NO_RESOURCES, text),
            );
            return self.drop_packet(reason);
        }
        self.half_open.remove(record.tunnel);
        let superseded = Arc::new(AtomicBool::new(false));
        let origin = Origin {
            remote: from.remote,
            peer_tunnel: record.peer_tunnel,
            at: now,
            superseded: Arc::clone(&superseded),
        };
        self.sources.add(from.remote.ip());
        self.machines.insert(record.tunnel, Some(origin));
        let key = (from.remote, record.peer_tunnel);
        let former = self.by_peer.insert(key, record.tunnel);
        if let Some(Some(former)) = former.and_then(|tunnel| self.machines.get(&tunnel)) {
            former.superseded.store(true, Ordering::Release);
        }
        let accept = Accept {
            tunnel: record.tunnel,
            peer_tunnel: record.peer_tunnel,
            peer: record.peer(),
            rule: record.rule,
            window: record.window,
            framing: record.framing.into(),
            bearer: (record.bearer & HalfOpen::HAS_BEARER != 0).then_some(u32::from(record.bearer & 3)),
            firmware: (record.firmware != 0).then_some(record.firmware),
            host_name: record.host_name().to_vec(),
            vendor: record.vendor().to_vec(),
            superseded,
        };
        let entropy = self.entropy.fork();
        let mut machine = Tunnel::accepted(Arc::clone(&self.shared), accept, entropy, now);
        machine.note_connected(header, body, now);
        Route::Accept(Accepted {
            key: MachineKey(record.tunnel.into()),
            machine: Box::new(machine),
        })
    }

    /// A StopCCN of a peer whose tunnel is not established.
    fn withdrawn(&mut self, from: PeerAddr, header: &ControlHeader, body: &[u8]) -> Route {
        // An id may be hidden: look for the record by the header first.
        let rule = self.half_open.get(header.tunnel).map_or_else(
            || self.config().find_address(from.remote.ip()),
            |record| record.rule,
        );
        let secret = self.config().peer(rule).secret.as_ref();
        let Ok(Message::StopCcn(stop)) = wire::decode(body, secret) else {
            return self.drop_packet(drops::MALFORMED);
        };
        let Some(tunnel) = self.half_open.find(from.remote, stop.tunnel_id) else {
            return self.drop_packet(drops::UNKNOWN_TUNNEL);
        };
        if header.tunnel != 0 && header.tunnel != tunnel {
            return self.drop_packet(drops::WRONG_ID);
        }
        let acknowledgement = ControlHeader {
            tunnel: stop.tunnel_id,
            session: 0,
            ns: 1,
            nr: header.ns.wrapping_add(1),
        };
        self.forget(tunnel);
        let mut out = BytesMut::new();
        acknowledgement.encode(&[], &mut out);
        self.send(from, out);
        Route::Done
    }

    /// A peer failed to authenticate: counts it and says which, as far as it has told us.
    fn not_authorized(&mut self, from: PeerAddr, host_name: &[u8], why: &str) {
        self.event(Event::Counted(counts::AUTH_FAILED));
        let (peer, name) = (from.remote, display_text(host_name));
        self.event(Event::Notice {
            session: None,
            severity: Severity::Warning,
            text: format!("the peer {peer} (\"{name}\") may not open a tunnel: {why}"),
        });
    }

    /// Ends a half-open peer's attempt with a StopCCN. The record stays, so that nothing more is tried with it.
    fn refuse(&mut self, record: &HalfOpen, result: ResultCode) {
        self.event(Event::Counted(counts::REFUSED));
        self.half_open.refuse(record.tunnel);
        self.stop(record.peer(), record.peer_tunnel, record.tunnel, (1, 2), result);
    }

    /// Sends a StopCCN with these Ns and Nr.
    fn stop(
        &mut self,
        to: PeerAddr,
        peer_tunnel: u16,
        tunnel: u16,
        (ns, nr): (u16, u16),
        result: ResultCode,
    ) {
        let body = wire::encode(
            &Message::StopCcn(StopCcn {
                tunnel_id: tunnel,
                result,
            }),
            None,
        );
        let header = ControlHeader {
            tunnel: peer_tunnel,
            session: 0,
            ns,
            nr,
        };
        let mut out = BytesMut::new();
        header.encode(&body, &mut out);
        self.send(to, out);
    }

    fn send(&mut self, to: PeerAddr, packet: BytesMut) {
        if self.out.len() < MAX_OUT {
            self.out.push_back((to, packet));
        }
    }

    fn forget(&mut self, tunnel: u16) {
        if self.half_open.remove(tunnel).is_some() {
            self.ids.forget(tunnel);
        }
    }

    /// The challenge for a half-open peer: not to be guessed without the key, and the same each time it is
    /// computed.
    fn challenge(&self, record: &HalfOpen) -> [u8; 16] {
        use md5::{Digest, Md5};
        let remote = SocketAddr::from(record.remote);
        Md5::new()
            .chain_update(self.key)
            .chain_update(record.tunnel.to_be_bytes())
            .chain_update(record.peer_tunnel.to_be_bytes())
            .chain_update(remote.to_string())
            .chain_update(self.key)
            .finalize()
            .into()
    }

    /// What we say of ourselves in an SCCRP.
    fn answer(&self, record: &HalfOpen, challenge: Option<&[u8]>) -> Start {
        let config = self.config();
        let secret = config.peer(record.rule).secret.as_ref();
        let mut start = crate::machine::introduction(config, record.tunnel);
        start.challenge = secret.map(|_| self.challenge(record).to_vec());
        start.response = secret
            .zip(challenge)
            .map(|(secret, challenge)| hidden::challenge_response(number::SCCRP, secret, challenge));
        start
    }

    fn encode_answer(&mut self, start: Start, rule: PeerIndex) -> Bytes {
        let shared = Arc::clone(&self.shared);
        let peer = shared.config.peer(rule);
        let secret = peer.secret.as_ref().filter(|_| peer.hide_avps);
        let hider = secret.map(|secret| Hider {
            secret,
            entropy: &mut *self.entropy,
        });
        wire::encode(&Message::Sccrp(start), hider).freeze()
    }
}

impl Front for L2tpFront {
    fn handle_datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) -> Route {
        match family(packet) {
            Family::Control => self.control(from, packet, now),
            Family::Data => match data_ids(packet) {
                Some((tunnel, _)) if self.machines.contains_key(&tunnel) => {
                    Route::Machine(MachineKey(tunnel.into()))
                }
                Some((tunnel, _)) if self.half_open.get(tunnel).is_some() => {
                    self.drop_packet(drops::HALF_OPEN)
                }
                Some(_) => self.drop_packet(drops::UNKNOWN_TUNNEL),
                None => self.drop_packet(drops::HEADER),
            },
            Family::L2f => self.drop_packet(drops::L2F),
            Family::L2tpV3 => self.drop_packet(drops::L2TPV3),
            Family::Unknown => self.drop_packet(drops::VERSION),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(tunnel) = self.half_open.pop_expired(now) {
            self.ids.forget(tunnel);
        }
    }

    fn poll_transmit(&mut self, _now: Instant, out: &mut BytesMut) -> Option<Transmit> {
        let (to, packet) = self.out.pop_front()?;
        out.extend_from_slice(&packet);
        Some(Transmit {
            via: Via::Socket(to),
            length: packet.len(),
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.half_open.next_expiry()
    }

    fn mint(&mut self, now: Instant) -> Option<MachineKey> {
        if self.machines.len() >= self.config().limits.tunnels {
            return None;
        }
        let tunnel = self.take_id(now)?;
        self.machines.insert(tunnel, None);
        Some(MachineKey(tunnel.into()))
    }

    fn reserve(&mut self, key: MachineKey) -> bool {
        let Ok(tunnel) = u16::try_from(key.0) else {
            return false;
        };
        if tunnel == 0 || !self.ids.reserve(tunnel) {
            return false;
        }
        self.machines.insert(tunnel, None);
        true
    }

    fn release(&mut self, key: MachineKey, now: Instant) {
        let Ok(tunnel) = u16::try_from(key.0) else {
            return;
        };
        let Some(origin) = self.machines.remove(&tunnel) else {
            return;
        };
        self.ids.release(tunnel, now);
        if let Some(origin) = origin {
            self.sources.remove(origin.remote.ip());
            let key = (origin.remote, origin.peer_tunnel);
            if self.by_peer.get(&key) == Some(&tunnel) {
                self.by_peer.remove(&key);
            }
        }
    }

    fn half_open(&self) -> usize {
        self.half_open.len()
    }
}
