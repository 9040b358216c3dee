//! The target for the front and the machines of L2TP.

use super::l2tp::bodies;
use super::link::Program;
use sluice_l2tp::config::Config;
use sluice_l2tp::{L2tp, L2tpFactory};
use sluice_spi::{Input, PeerAddr, TerminateCause, config};
use sluice_testkit::lac::wire::{self, Avps, Body, Packet, avp, message};
use sluice_testkit::{Clock, Node, Policy};
use std::net::SocketAddr;
use std::time::Duration;

/// Virtual time after which nothing may be left of a peer that fell silent.
const SILENCE: Duration = Duration::from_secs(3600);
/// Steps within that time at the most.
const MAX_STEPS: usize = 20_000;

/// A peer that says anything at any time, but knows the identifiers and numbers that make it heard.
struct Peer {
    node: Node,
    clock: Clock,
    from: PeerAddr,
    tunnel: u16,
    sessions: Vec<u16>,
    /// Configure-Requests that came: protocol and packet.
    requests: Vec<(u16, Vec<u8>)>,
    ns: u16,
    nr: u16,
}

/// Fronts and machines fed with messages in any order: no panic, every drain ends, events keep their order, and
/// everything is over some time after the peer fell silent.
pub fn l2tp_tunnel(data: &[u8]) {
    run(data);
}

/// Gives the node as it is in the end, with its log.
fn run(data: &[u8]) -> Node {
    let mut program = Program(data);
    let read = config::read("fuzz", "host_name = \"lns\"\n", Config::from_section);
    let factory = L2tpFactory::new(read.expect("a configuration"));
    let clock = Clock::new();
    let address = SocketAddr::from(([192, 0, 2, 1], 1701));
    let mut node = Node::new(&L2tp, &factory, address, u64::from(program.byte()), clock);
    node.policy = Policy::accept_all();
    let remote = SocketAddr::from(([198, 51, 100, 1], 1701));
    let from = PeerAddr {
        remote,
        local: address,
    };
    let mut peer = Peer {
        node,
        clock,
        from,
        tunnel: 0,
        sessions: Vec::new(),
        requests: Vec::new(),
        ns: 0,
        nr: 0,
    };
    while !program.is_over() {
        peer.step(&mut program);
        peer.node.advance(peer.clock);
        peer.listen();
    }
    let end = peer.clock.elapsed() + SILENCE;
    for _ in 0..MAX_STEPS {
        let Some(at) = peer.node.next_timeout() else {
            break;
        };
        peer.clock.advance_to(at);
        if peer.clock.elapsed() > end {
            break;
        }
        peer.node.advance(peer.clock);
        while peer.node.pop_out().is_some() {}
    }
    let left = (peer.node.machines(), peer.node.half_open());
    assert!(
        left.0.is_empty() && left.1 == 0,
        "left of a silent peer: {left:?}"
    );
    peer.node.log.check_order(true);
    peer.node
}

impl Peer {
    fn step(&mut self, program: &mut Program<'_>) {
        let now = self.clock.now();
        let (op, argument) = (program.byte(), program.byte());
        let own_session = (u16::from(argument % 4) + 1).to_be_bytes();
        match op % 16 {
            0 => {
                (self.ns, self.nr, self.tunnel) = (0, 0, 0);
                self.control(0, sccrq(u16::from(argument % 3) + 1));
            }
            1 => self.control(0, Body::new(message::SCCCN)),
            2 => {
                let body = Body::new(message::ICRQ).with(avp::ASSIGNED_SESSION_ID, &own_session);
                self.control(0, body.with(avp::CALL_SERIAL_NUMBER, &[0, 0, 0, argument]));
            }
            3 => {
                let body = Body::new(message::ICCN).with(avp::TX_CONNECT_SPEED, &[0, 0, 0, 9]);
                self.control(
                    self.session(argument),
                    body.with(avp::FRAMING_TYPE, &[0, 0, 0, 1]),
                );
            }
            4 => {
                let body = Body::new(message::CDN).with(avp::RESULT_CODE, &[0, argument]);
                self.control(
                    self.session(argument),
                    body.with(avp::ASSIGNED_SESSION_ID, &own_session),
                );
            }
            5 if argument > 200 => {
                let body = Body::new(message::STOPCCN).with(avp::ASSIGNED_TUNNEL_ID, &[0, argument % 4]);
                self.control(0, body.with(avp::RESULT_CODE, &[0, 1]));
            }
            6 => self.control(0, Body::new(message::HELLO)),
            7 => self.packet(&wire::control(
                self.tunnel,
                0,
                self.ns,
                self.nr.wrapping_add(self.nr),
                &[],
            )),
            8 => {
                let number = [0xc021u16, 0xc023, 0x8021, 0x8057, 0x0021, 0x0057][usize::from(op / 16) % 6];
                let frame = [&[0xff, 3][..], &number.to_be_bytes(), &ppp_packet(program)].concat();
                self.packet(&wire::data(self.tunnel, self.session(argument), &frame));
            }
            9 => {
                // Acknowledges, refuses or rejects what was asked.
                let pick = usize::from(argument) % self.requests.len().max(1);
                if let Some((number, mut packet)) = self.requests.get(pick).cloned() {
                    if let Some(code) = packet.first_mut() {
                        *code = 2 + op / 16 % 3;
                    }
                    let frame = [&[0xff, 3][..], &number.to_be_bytes(), &packet].concat();
                    self.packet(&wire::data(self.tunnel, self.session(0), &frame));
                }
            }
            10 | 11 => {
                let bodies = bodies();
                let body = bodies[usize::from(argument) % bodies.len()].clone();
                self.send_body(self.session(op / 16), &body);
            }
            12 => {
                self.clock
                    .advance(Duration::from_millis(u64::from(argument) * 40));
                self.node.advance(self.clock);
            }
            13 => self.ns = self.ns.wrapping_add(u16::from(argument)).wrapping_sub(4),
            14 if argument > 230 => {
                for key in self.node.machines() {
                    self.node.close(key, TerminateCause::AdminReset, now);
                }
            }
            14 => {
                for key in self.node.machines() {
                    self.node.input(key, Input::PeerUnreachable, now);
                }
            }
            15 => {
                let bytes = program.bytes();
                self.packet(&bytes);
            }
            _ => {}
        }
    }

    fn session(&self, pick: u8) -> u16 {
        self.sessions
            .get(usize::from(pick) % self.sessions.len().max(1))
            .copied()
            .unwrap_or(u16::from(pick))
    }

    fn control(&mut self, session: u16, body: Body) {
        self.send_body(session, &body.finish());
    }

    fn send_body(&mut self, session: u16, body: &[u8]) {
        let packet = wire::control(self.tunnel, session, self.ns, self.nr, body);
        self.ns = self.ns.wrapping_add(1);
        self.packet(&packet);
    }

    fn packet(&mut self, bytes: &[u8]) {
        self.node.receive(self.from, bytes, self.clock.now());
    }

    /// Learns identifiers and numbers from what the node says.
    fn listen(&mut self) {
        while let Some(packet) = self.node.pop_out() {
            let (ns, body) = match wire::parse(&packet.bytes) {
                Some(Packet::Control { ns, body, .. }) => (ns, body),
                Some(Packet::Data {
                    frame: [0xff, 3, high, low, request @ ..],
                    ..
                }) if request.first() == Some(&1) => {
                    let number = u16::from_be_bytes([*high, *low]);
                    self.requests.retain(|(known, _)| *known != number);
                    self.requests.push((number, request.to_vec()));
                    continue;
                }
                _ => continue,
            };
            let Some(avps) = Avps::parse(body).filter(|_| !body.is_empty()) else {
                continue;
            };
            self.nr = ns.wrapping_add(1);
            match avps.message_type() {
                Some(message::SCCRP) => self.tunnel = avps.u16(avp::ASSIGNED_TUNNEL_ID).unwrap_or(0),
                Some(message::ICRP) => self.sessions.extend(avps.u16(avp::ASSIGNED_SESSION_ID)),
                _ => {}
            }
        }
    }
}

fn sccrq(tunnel: u16) -> Body {
    Body::new(message::SCCRQ)
        .with(avp::PROTOCOL_VERSION, &[1, 0])
        .with(avp::HOST_NAME, b"fuzz")
        .with(avp::FRAMING_CAPABILITIES, &[0, 0, 0, 3])
        .with(avp::ASSIGNED_TUNNEL_ID, &tunnel.to_be_bytes())
}

/// A PPP control packet with the program's code, identifier and body.
fn ppp_packet(program: &mut Program<'_>) -> Vec<u8> {
    let (code, id, body) = (program.byte() % 16, program.byte(), program.bytes());
    [&[code, id][..], &(body.len() as u16 + 4).to_be_bytes(), &body].concat()
}

/// Programs: a tunnel, a call that comes up, two calls that do not, and disorder.
pub(super) fn programs() -> Vec<Vec<u8>> {
    let lcp = [8, 0, 1, 1, 10, 5, 6, 1, 2, 3, 4, 1, 4, 5, 220];
    let acknowledge = |pick| [9, pick];
    let pap = [24, 0, 1, 1, 7, 1, b'u', 4, b'p', b'a', b's', b's'];
    let ipcp = [40, 0, 1, 1, 6, 3, 6, 10, 0, 0, 1];
    let tunnel = [1, 0, 0, 1, 0, 2, 0, 3, 0];
    let mut call = [&tunnel[..], &lcp, &acknowledge(0), &pap, &[12, 1], &ipcp].concat();
    call.extend([acknowledge(0), acknowledge(1), acknowledge(2)].concat());
    let two = [&tunnel[..], &[2, 1, 3, 1], &lcp, &[4, 3, 6, 0, 12, 255, 5, 255]].concat();
    vec![
        tunnel.to_vec(),
        call,
        two,
        vec![0, 0, 0, 10, 1, 11, 2, 13, 3, 15, 9, 1, 2, 3],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_reach_an_established_session() {
        let ups: Vec<usize> = programs()
            .iter()
            .map(|program| run(program).log.sessions_up().len())
            .collect();
        assert_eq!(ups, [0, 1, 0, 0], "{}", run(&programs()[1]).log.text());
    }
}
