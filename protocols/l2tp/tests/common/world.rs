//! One gateway and peers whose every message is written by the test.

use super::factory;
use bytes::BytesMut;
use sluice_auth::Secret;
use sluice_l2tp::wire::header::{ControlHeader, DataTemplate};
use sluice_l2tp::wire::hidden::challenge_response;
use sluice_l2tp::wire::message::{
    Cdn, Connected, Icrq, Message, PROTOCOL_VERSION, Scccn, Start, StopCcn, number,
};
use sluice_l2tp::wire::result::ResultCode;
use sluice_l2tp::wire::{decode, encode};
use sluice_l2tp::{L2tp, L2tpFactory};
use sluice_spi::{Event, PeerAddr};
use sluice_testkit::{Clock, Node, Pair};
use std::net::SocketAddr;
use std::time::Duration;

/// A gateway in virtual time.
pub struct World {
    /// It.
    pub node: Node,
    /// Its factory.
    pub factory: L2tpFactory,
    /// Time.
    pub clock: Clock,
}

/// A packet that the gateway sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where to.
    pub to: SocketAddr,
    /// Its control header; `None`: a data message.
    pub header: Option<ControlHeader>,
    /// The message; `None`: an acknowledgement or data.
    pub message: Option<Message>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl World {
    /// A gateway with a configuration.
    pub fn new(config: &str) -> Self {
        let factory = factory(config);
        let clock = Clock::new();
        let (_, address) = Pair::addresses();
        let node = Node::new(&L2tp, &factory, address, 7, clock);
        Self { node, factory, clock }
    }

    /// Gives it a packet, and takes what it sends.
    pub fn give(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<Answer> {
        let local = self.node.address();
        let now = self.clock.now();
        self.node.receive(PeerAddr { remote: from, local }, bytes, now);
        self.node.advance(self.clock);
        self.answers()
    }

    /// What it has sent.
    pub fn answers(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.node.pop_out())
            .map(|packet| {
                let control = ControlHeader::decode(&packet.bytes).ok();
                let secret = Secret::new("tunnel-secret");
                Answer {
                    to: packet.to,
                    header: control.map(|(header, _)| header),
                    message: control.and_then(|(_, body)| decode(body, Some(&secret)).ok()),
                    bytes: packet.bytes.clone(),
                }
            })
            .collect()
    }

    /// Lets time pass, step by step, and takes what it sends meanwhile.
    pub fn pass(&mut self, span: Duration) -> Vec<Answer> {
        let end = self.clock.now() + span;
        let mut answers = self.answers();
        let mut steps = 0;
        while let Some(next) = self.node.next_timeout().filter(|&next| next <= end) {
            self.clock.advance_to(next);
            self.node.advance(self.clock);
            answers.extend(self.answers());
            steps += 1;
            assert!(steps < 100_000, "time does not move on");
        }
        self.clock.advance_to(end);
        self.node.advance(self.clock);
        answers.extend(self.answers());
        answers
    }

    /// How often a reason for dropping was given.
    pub fn dropped(&self, reason: &str) -> usize {
        self.node.log.dropped(reason)
    }
}

/// The messages among answers.
pub fn messages(answers: &[Answer]) -> Vec<Message> {
    answers
        .iter()
        .filter_map(|answer| answer.message.clone())
        .collect()
}

/// The result codes of the StopCCNs among answers.
pub fn stops(answers: &[Answer]) -> Vec<(u16, Option<u16>)> {
    messages(answers)
        .into_iter()
        .filter_map(|message| match message {
            Message::StopCcn(stop) => Some((stop.result.result, stop.result.error)),
            _ => None,
        })
        .collect()
}

/// The result codes of the CDNs among answers.
pub fn cdns(answers: &[Answer]) -> Vec<(u16, Option<u16>)> {
    messages(answers)
        .into_iter()
        .filter_map(|message| match message {
            Message::Cdn(cdn) => Some((cdn.result.result, cdn.result.error)),
            _ => None,
        })
        .collect()
}

/// A peer written by hand.
pub struct Peer {
    /// Where it sends from.
    pub address: SocketAddr,
    /// Its tunnel id.
    pub tunnel: u16,
    /// The gateway's tunnel id.
    pub remote: u16,
    /// Number of its next message.
    pub ns: u16,
    /// Number it expects.
    pub nr: u16,
}

impl Peer {
    /// A peer at an address with a tunnel id.
    pub fn new(address: &str, tunnel: u16) -> Self {
        Self {
            address: address.parse().unwrap(),
            tunnel,
            remote: 0,
            ns: 0,
            nr: 0,
        }
    }

    /// The least an SCCRQ has.
    pub fn start(&self) -> Start {
        Start {
            version: PROTOCOL_VERSION,
            host_name: b"peer".to_vec(),
            framing: 3,
            tunnel_id: self.tunnel,
            ..Start::default()
        }
    }

    /// A message as it goes on the wire now, without counting it.
    pub fn packet(&self, session: u16, message: &Message) -> Vec<u8> {
        self.raw(session, &encode(message, None))
    }

    /// A body as it goes on the wire now.
    pub fn raw(&self, session: u16, body: &[u8]) -> Vec<u8> {
        let header = ControlHeader {
            tunnel: self.remote,
            session,
            ns: self.ns,
            nr: self.nr,
        };
        let mut out = BytesMut::new();
        header.encode(body, &mut out);
        out.to_vec()
    }

    /// Takes note of what the gateway sent.
    fn note(&mut self, answers: &[Answer]) {
        for answer in answers {
            let Some(header) = answer.header else { continue };
            if answer.message.is_some() && header.ns == self.nr {
                self.nr = self.nr.wrapping_add(1);
            }
        }
    }

    /// Sends a message, and takes what comes back.
    pub fn send(&mut self, world: &mut World, session: u16, message: &Message) -> Vec<Answer> {
        let packet = self.packet(session, message);
        self.ns = self.ns.wrapping_add(1);
        let answers = world.give(self.address, &packet);
        self.note(&answers);
        answers
    }

    /// Sends a body, and takes what comes back.
    pub fn send_raw(&mut self, world: &mut World, session: u16, body: &[u8]) -> Vec<Answer> {
        let packet = self.raw(session, body);
        self.ns = self.ns.wrapping_add(1);
        let answers = world.give(self.address, &packet);
        self.note(&answers);
        answers
    }

    /// Acknowledges what was received.
    pub fn acknowledge(&self, world: &mut World) -> Vec<Answer> {
        world.give(self.address, &self.raw(0, &[]))
    }

    /// Lets time pass, and acknowledges what the gateway sends.
    pub fn pass(&mut self, world: &mut World, span: Duration) -> Vec<Answer> {
        let answers = world.pass(span);
        self.note(&answers);
        self.acknowledge(world);
        answers
    }

    /// Sends an SCCRQ; gives the SCCRP.
    pub fn request(&mut self, world: &mut World, start: Start) -> Option<Start> {
        let answers = self.send(world, 0, &Message::Sccrq(start));
        match messages(&answers).into_iter().next() {
            Some(Message::Sccrp(reply)) => {
                self.remote = reply.tunnel_id;
                Some(reply)
            }
            _ => None,
        }
    }

    /// Sends an SCCCN; gives what came back.
    pub fn connect(&mut self, world: &mut World, reply: &Start, secret: &str) -> Vec<Answer> {
        let response = reply
            .challenge
            .as_ref()
            .map(|challenge| challenge_response(number::SCCCN, &Secret::new(secret), challenge));
        self.send(world, 0, &Message::Scccn(Scccn { response }))
    }

    /// Establishes the tunnel.
    pub fn establish(&mut self, world: &mut World) {
        let start = self.start();
        let reply = self.request(world, start).expect("an SCCRP");
        self.connect(world, &reply, "tunnel-secret");
        let up = world
            .node
            .log
            .events()
            .filter(|event| matches!(event, Event::TunnelUp(_)))
            .count();
        assert!(up > 0, "the tunnel is not up");
    }

    /// Sends an ICRQ with a session id; gives what came back.
    pub fn ring(&mut self, world: &mut World, session: u16) -> Vec<Answer> {
        let icrq = Icrq {
            session_id: session,
            serial: 1,
            ..Icrq::default()
        };
        self.send(world, 0, &Message::Icrq(icrq))
    }

    /// Makes a call up to ICCN; gives the gateway's session id.
    pub fn call(&mut self, world: &mut World, session: u16) -> u16 {
        let answers = self.ring(world, session);
        let Some(Message::Icrp(reply)) = messages(&answers).into_iter().next() else {
            panic!("no ICRP: {answers:?}")
        };
        self.send(world, reply.session_id, &Message::Iccn(line()));
        reply.session_id
    }

    /// A StopCCN of this peer.
    pub fn stop(&self, result: u16) -> Message {
        Message::StopCcn(StopCcn {
            tunnel_id: self.tunnel,
            result: ResultCode::plain(result),
        })
    }

    /// A data message with a PPP frame.
    pub fn data(&self, session: u16, ppp: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        DataTemplate::new(self.remote, session, false).put(None, &mut out);
        out.extend_from_slice(ppp);
        out.to_vec()
    }
}

/// A synchronous line.
pub fn line() -> Connected {
    Connected {
        tx_speed: 1_000_000,
        framing: 1,
        ..Connected::default()
    }
}

/// A CDN with a session id.
pub fn cdn(session: u16) -> Message {
    Message::Cdn(Cdn {
        session_id: session,
        result: ResultCode::plain(3),
        ..Cdn::default()
    })
}

/// A gateway and a peer with an established tunnel.
pub fn established(config: &str) -> (World, Peer) {
    let mut world = World::new(config);
    let mut peer = Peer::new("198.51.100.7:1701", 77);
    peer.establish(&mut world);
    (world, peer)
}

/// Whether no tunnel has ended.
pub fn alive(world: &World) -> bool {
    world.node.log.tunnels_down().is_empty()
}
