//! A protocol small enough to see that it is right: `O` opens, `A` accepts, `X` ends, `D` carries an IP packet.
//! Every message starts with its kind and the receiver's key.

#![allow(unreachable_pub, missing_docs, clippy::unwrap_used)]

use bytes::{BufMut, Bytes, BytesMut};
use sluice_auth::{AuthRequest, Credentials, Identity, Secret, Verdict};
use sluice_spi::config::Section;
use sluice_spi::wire::Reader;
use sluice_spi::*;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

pub const SESSION: LocalRef = LocalRef(1);
const RETRY: Duration = Duration::from_secs(1);
const TRIES: u8 = 8;
const DESCRIPTOR: Descriptor = Descriptor {
    name: "toy",
    title: "Toy",
    transport: Transport::Udp,
    packets: None,
    default_port: 1701,
    specifications: &[],
    resumption: Resumption::Checkpoint,
    drop_reasons: &["toy"],
    counters: &[],
};

/// What is wrong with a toy machine on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// Never says that its session ended.
    SilentEnd,
    /// Keeps every byte it receives.
    Hoards,
    /// Shows its password when described.
    Tells,
    /// Sends for ever.
    Chatters,
}

pub struct Toy;

impl Module for Toy {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }
    fn classify(&self, _: &[u8]) -> Claim {
        Claim::Mine
    }
    fn steer(&self, _: &[u8], _: Shards) -> Option<ShardId> {
        None
    }
    fn demux(&self, packet: &[u8]) -> Demux {
        match packet {
            [b'D', rest @ ..] => match Reader::new(rest).u32() {
                Ok(key) => Demux::Data(PathKey(key)),
                Err(_) => Demux::Drop(DropReason("toy")),
            },
            _ => Demux::Control,
        }
    }
    fn steering_program(&self, _: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        None
    }
    fn configure(&self, _: &Section<'_>) -> Box<dyn Factory> {
        Box::new(ToyFactory(Flaw::None))
    }
}

pub struct ToyFactory(pub Flaw);

impl Factory for ToyFactory {
    fn front(&self, _: ShardId, _: Shards, entropy: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        Some(Box::new(ToyFront {
            entropy,
            flaw: self.0,
            keys: BTreeSet::new(),
            events: VecDeque::new(),
        }))
    }

    fn machine(
        &self,
        open: Open<'_>,
        _: ShardId,
        _: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        match open {
            Open::Initiated { key, peer } => Ok(Box::new(ToyMachine::new(key, peer, 0, true, self.0, now))),
            Open::Accepted { .. } => Err(OpenError::Transport),
            Open::Restored { checkpoint } => {
                let (_, mut body) = checkpoint::open(checkpoint)?;
                let (key, far) = (body.u32().unwrap(), body.u32().unwrap());
                let initiated = body.u8().unwrap() == 1;
                let text = std::str::from_utf8(body.rest()).unwrap();
                let (remote, local) = text.split_once(' ').unwrap();
                let peer = PeerAddr {
                    remote: remote.parse().unwrap(),
                    local: local.parse().unwrap(),
                };
                let mut machine = ToyMachine::new(MachineKey(key), peer, far, initiated, self.0, now);
                machine.events.clear();
                machine.out.clear();
                machine.retry = None;
                let tunnel = machine.describe();
                machine.events.push_back(Event::Recovered {
                    tunnel,
                    sessions: vec![SESSION],
                });
                machine.install();
                Ok(Box::new(machine))
            }
        }
    }
}

struct ToyFront {
    entropy: Box<dyn Entropy>,
    flaw: Flaw,
    keys: BTreeSet<MachineKey>,
    events: VecDeque<Event>,
}

impl Front for ToyFront {
    fn handle_datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) -> Route {
        let mut reader = Reader::new(packet);
        let (Ok(kind), Ok(key)) = (reader.u8(), reader.u32()) else {
            self.events.push_back(Event::Dropped(DropReason("toy")));
            return Route::Done;
        };
        if self.keys.contains(&MachineKey(key)) {
            return Route::Machine(MachineKey(key));
        }
        match (kind, key, reader.u32()) {
            (b'O', 0, Ok(far)) if self.keys.len() < 50 => {
                let key = self.mint(now).unwrap();
                let machine = Box::new(ToyMachine::new(key, from, far, false, self.flaw, now));
                Route::Accept(Accepted { key, machine })
            }
            _ => Route::Done,
        }
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_transmit(&mut self, _: Instant, _: &mut BytesMut) -> Option<Transmit> {
        None
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn mint(&mut self, _: Instant) -> Option<MachineKey> {
        let key = MachineKey(random_u32(&mut *self.entropy) | 1);
        self.keys.insert(key);
        Some(key)
    }
    fn reserve(&mut self, key: MachineKey) -> bool {
        self.keys.insert(key)
    }
    fn release(&mut self, key: MachineKey, _: Instant) {
        self.keys.remove(&key);
    }
    fn half_open(&self) -> usize {
        0
    }
}

struct ToyMachine {
    key: MachineKey,
    peer: PeerAddr,
    far: u32,
    initiated: bool,
    flaw: Flaw,
    up: bool,
    over: bool,
    tries: u8,
    retry: Option<Instant>,
    hoard: Vec<u8>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl ToyMachine {
    fn new(key: MachineKey, peer: PeerAddr, far: u32, initiated: bool, flaw: Flaw, now: Instant) -> Self {
        let call = CallInfo {
            kind: SessionKind::Connection,
            peer,
            calling: None,
            called: None,
            label: None,
        };
        let mut machine = Self {
            key,
            peer,
            far,
            initiated,
            flaw,
            up: false,
            over: false,
            tries: 0,
            retry: Some(now + RETRY),
            hoard: Vec::new(),
            out: VecDeque::new(),
            events: VecDeque::from([Event::SessionOpening {
                session: SESSION,
                call,
            }]),
        };
        if initiated {
            machine.say(b'O');
        }
        machine
    }

    fn say(&mut self, kind: u8) {
        let mut message = vec![kind];
        message.put_u32(self.far);
        message.put_u32(self.key.0);
        self.out.push_back(message);
    }

    fn install(&mut self) {
        self.up = true;
        let spec = PathSpec {
            key: PathKey(self.key.0),
            peer: self.peer,
            codec: Box::new(ToyCodec(self.far)),
            filter: AddressFilter::default(),
            mtu: 1400,
        };
        self.events.push_back(Event::InstallPath {
            session: SESSION,
            path: Box::new(spec),
        });
    }

    fn come_up(&mut self) {
        if !self.up {
            self.retry = None;
            self.install();
            self.events.push_back(Event::SessionUp {
                session: SESSION,
                facts: Vec::new(),
            });
        }
    }

    fn end(&mut self, code: &'static str) {
        if self.over {
            return;
        }
        self.over = true;
        self.retry = None;
        if self.up {
            self.events.push_back(Event::RemovePath { session: SESSION });
        }
        if self.flaw != Flaw::SilentEnd {
            let ended = Ended::new(TerminateCause::UserRequest, code, "");
            self.events.push_back(Event::SessionDown {
                session: SESSION,
                ended,
            });
        }
    }
}

impl Machine for ToyMachine {
    fn key(&self) -> MachineKey {
        self.key
    }

    fn handle_input(&mut self, input: Input<'_>, _: Instant) -> Result<(), Fault> {
        match input {
            Input::Datagram { packet, .. } => {
                if self.flaw == Flaw::Hoards {
                    self.hoard.extend_from_slice(packet);
                }
                match packet {
                    [b'A', _, _, _, _, far @ ..] if self.initiated && !self.up && far.len() == 4 => {
                        self.far = Reader::new(far).u32().unwrap();
                        self.come_up();
                    }
                    [b'X', ..] => self.end("peer"),
                    _ => {}
                }
            }
            Input::Admission { verdict: Err(_), .. } => self.end("refused"),
            Input::Admission { .. } if !self.initiated => {
                let credentials = Credentials::Pap {
                    identity: Identity::parse(b"toy").unwrap(),
                    password: Secret::new("hunter22"),
                };
                let request = AuthRequest {
                    protocol: "toy",
                    credentials,
                    peer: None,
                    calling: None,
                    called: None,
                };
                self.events.push_back(Event::AuthRequested {
                    session: SESSION,
                    request: Box::new(request),
                });
            }
            Input::AuthVerdict {
                verdict: Verdict::Accept { .. },
                ..
            } => {
                self.say(b'A');
                self.come_up();
            }
            Input::AuthVerdict { .. } => {
                self.say(b'X');
                self.end("auth_rejected");
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.tries += 1;
        if self.tries > TRIES {
            return self.end("timeout");
        }
        self.retry = Some(now + RETRY);
        if self.initiated {
            self.say(b'O');
        }
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut BytesMut) -> Option<Transmit> {
        if self.flaw == Flaw::Chatters {
            self.say(b'?');
        }
        let message = self.out.pop_front()?;
        out.extend_from_slice(&message);
        Some(Transmit {
            via: Via::Socket(self.peer),
            length: message.len(),
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.retry
    }

    fn checkpoint(&self, _: Instant) -> Option<Bytes> {
        let mut body = BytesMut::new();
        body.put_u32(self.key.0);
        body.put_u32(self.far);
        body.put_u8(u8::from(self.initiated));
        body.extend_from_slice(format!("{} {}", self.peer.remote, self.peer.local).as_bytes());
        self.up.then(|| checkpoint::seal(1, &body))
    }

    fn close(&mut self, _: TerminateCause, _: Instant) {
        self.say(b'X');
        self.end("closed");
    }

    fn is_drained(&self) -> bool {
        self.over && self.out.is_empty() && self.events.is_empty()
    }

    fn describe(&self) -> TunnelInfo {
        let told = if self.flaw == Flaw::Tells { "hunter22" } else { "" };
        TunnelInfo {
            key: self.key,
            peer: self.peer,
            peer_name: told.into(),
            initiated: self.initiated,
            facts: Vec::new(),
        }
    }

    fn describe_session(&self, _: LocalRef) -> Vec<Fact> {
        Vec::new()
    }
}

struct ToyCodec(u32);

impl PathCodec for ToyCodec {
    fn open(&mut self, packet: &mut [u8], _: &PeerAddr, _: Instant) -> Opened {
        match packet.get(5) {
            Some(first) if first >> 4 == 4 => Opened::Ip(Range {
                start: 5,
                end: packet.len(),
            }),
            _ => Opened::Drop(DropReason("toy")),
        }
    }
    fn release(&mut self, _: Instant) -> Option<Released> {
        None
    }
    fn held_until(&self) -> Option<Instant> {
        None
    }
    fn seal(&mut self, payload: Payload<'_>, out: &mut BytesMut) -> bool {
        let Payload::Ip(packet) = payload else {
            return false;
        };
        out.put_u8(b'D');
        out.put_u32(self.0);
        out.extend_from_slice(packet);
        true
    }
    fn overhead(&self) -> usize {
        5
    }
    fn hot_state(&self) -> Vec<u8> {
        Vec::new()
    }
}
