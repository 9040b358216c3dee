//! One control connection in virtual time, whose peer is written by the test.
#![allow(unreachable_pub)]

use bytes::BytesMut;
use sluice_pptp::PptpFactory;
use sluice_pptp::config::Config;
use sluice_pptp::wire::message::{Message, OutgoingRequest, Start, VERSION};
use sluice_pptp::wire::{Decoded, Stream, encode};
use sluice_spi::{
    ChannelRef, Close, Event, Factory, Input, LocalRef, Machine, MachineKey, Open, PeerAddr, Refusal,
    ShardId, Via, config,
};
use sluice_testkit::{Clock, Seeded};
use std::time::Duration;

pub fn factory(text: &str) -> PptpFactory {
    PptpFactory::new(config::read("test", text, Config::from_section).unwrap())
}

pub fn peer(host: u8, port: u16) -> PeerAddr {
    PeerAddr {
        remote: ([192, 0, 2, host], port).into(),
        local: ([192, 0, 2, 1], 1723).into(),
    }
}

/// A machine, and what came out of it.
pub struct World {
    pub machine: Box<dyn Machine>,
    pub clock: Clock,
    /// The messages that the peer was sent.
    pub messages: Vec<Message>,
    /// The GRE packets that the peer was sent.
    pub packets: Vec<Vec<u8>>,
    pub events: Vec<Event>,
    pub closed: Option<Close>,
    pub admission: Result<(), Refusal>,
    stream: Stream,
}

impl World {
    pub fn new(factory: &PptpFactory, key: u32, peer: PeerAddr) -> Self {
        let clock = Clock::new();
        let key = MachineKey(key);
        let entropy = Box::new(Seeded::new(u64::from(key.0)));
        let open = Open::Accepted { key, peer };
        let machine = factory.machine(open, ShardId(0), entropy, clock.now()).unwrap();
        Self::around(machine, clock)
    }

    pub fn restored(factory: &PptpFactory, checkpoint: &[u8], clock: Clock) -> Self {
        let open = Open::Restored { checkpoint };
        let machine = factory.machine(open, ShardId(0), Box::new(Seeded::new(9)), clock.now());
        Self::around(machine.unwrap(), clock)
    }

    fn around(machine: Box<dyn Machine>, clock: Clock) -> Self {
        let mut world = Self {
            machine,
            clock,
            messages: Vec::new(),
            packets: Vec::new(),
            events: Vec::new(),
            closed: None,
            admission: Ok(()),
            stream: Stream::default(),
        };
        world.drain();
        world
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.machine.handle_input(input, self.clock.now()).unwrap();
        self.drain();
    }

    pub fn octets(&mut self, bytes: &[u8]) {
        let channel = ChannelRef::FIRST;
        self.input(Input::Stream { channel, bytes });
    }

    /// Gives a message, and what was answered.
    pub fn say(&mut self, message: &Message) -> Vec<Message> {
        let mut out = BytesMut::new();
        encode(message, &mut out);
        self.messages.clear();
        self.octets(&out);
        self.messages.clone()
    }

    pub fn start(&mut self) -> Vec<Message> {
        self.say(&Message::StartRequest(Start {
            version: VERSION,
            framing: 3,
            bearer: 3,
            host: b"client".to_vec(),
            vendor: b"test".to_vec(),
            ..Start::default()
        }))
    }

    /// Has a call placed; gives the gateway's name of it.
    pub fn call(&mut self, call_id: u16) -> u16 {
        match &self.say(&request(call_id))[..] {
            [Message::OutgoingReply(reply)] => {
                assert_eq!((reply.peer_call_id, reply.outcome.result), (call_id, 1));
                reply.call_id
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn pass(&mut self, span: Duration) {
        let end = self.clock.now() + span;
        while let Some(at) = self.machine.poll_timeout().filter(|&at| at <= end) {
            self.clock.advance_to(at.max(self.clock.now()));
            self.machine.handle_timeout(self.clock.now());
            self.drain();
        }
        self.clock.advance_to(end);
    }

    pub fn dropped(&self, reason: &str) -> usize {
        let of = |event: &&Event| matches!(event, Event::Dropped(found) if found.0 == reason);
        self.events.iter().filter(of).count()
    }

    /// How sessions ended.
    pub fn downs(&self) -> Vec<(LocalRef, &'static str)> {
        let down = |event: &Event| match event {
            Event::SessionDown { session, ended } => Some((*session, ended.code)),
            _ => None,
        };
        self.events.iter().filter_map(down).collect()
    }

    pub fn drain(&mut self) {
        for _ in 0..10_000 {
            let mut out = BytesMut::new();
            let sent = self.machine.poll_transmit(self.clock.now(), &mut out);
            match sent.map(|transmit| transmit.via) {
                Some(Via::Channel(_)) => self.sent(&out),
                Some(_) => self.packets.push(out.to_vec()),
                None => {}
            }
            let event = self.machine.poll_event();
            if sent.is_none() && event.is_none() {
                return;
            }
            match &event {
                Some(Event::SessionOpening { session, .. }) => {
                    let admitted = Input::Admission {
                        session: *session,
                        verdict: self.admission,
                        verifiable: Default::default(),
                    };
                    self.machine.handle_input(admitted, self.clock.now()).unwrap();
                }
                Some(Event::CloseChannel { close, .. }) => {
                    assert!(self.closed.is_none(), "closed twice");
                    self.closed = Some(*close);
                }
                _ => {}
            }
            self.events.extend(event);
        }
        panic!("the drain does not end");
    }

    fn sent(&mut self, mut octets: &[u8]) {
        assert!(self.closed.is_none(), "sent after the end");
        while let Some(decoded) = self.stream.next(&mut octets).unwrap() {
            match decoded {
                Decoded::Message(message) => self.messages.push(message),
                other => panic!("{other:?}"),
            }
        }
    }
}

pub fn request(call_id: u16) -> Message {
    Message::OutgoingRequest(OutgoingRequest {
        call_id,
        serial: 3,
        minimum_bps: 2400,
        maximum_bps: 10_000_000,
        bearer: 3,
        framing: 3,
        window: 32,
        ..OutgoingRequest::default()
    })
}
