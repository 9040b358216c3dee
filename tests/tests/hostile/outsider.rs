//! What an outsider has: sockets on any address and port it likes, and L2TP written by hand.

use sluice_testkit::Seeded;
use sluice_testkit::lac::wire::{self, Avps, Body, Packet, avp, message};
use sluice_testkit::lac::{Lac, LacConfig, LacEvent};
use sluice_tests::rig::Namespace;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The gateway's listener.
pub(crate) const GATEWAY: &str = "10.99.0.1:1701";
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(3);

/// A socket outside, connected to the gateway.
pub(crate) fn socket(outside: &Namespace, local: &str) -> UdpSocket {
    let local: SocketAddr = local.parse().unwrap();
    outside.inside(|| {
        let socket = UdpSocket::bind(local).unwrap();
        socket.connect(GATEWAY).unwrap();
        socket
    })
}

/// What a control message said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Message type; `None`: an acknowledgement only.
    pub(crate) message: Option<u16>,
    /// Session id in its header.
    pub(crate) session: u16,
    /// Its number and what its sender expects next.
    pub(crate) ns: u16,
    pub(crate) nr: u16,
    /// Result and error code of a StopCCN or CDN.
    pub(crate) result: Option<(u16, u16)>,
    /// The tunnel or session id it assigns.
    pub(crate) assigned: Option<u16>,
}

fn hear(packet: &[u8]) -> Option<Heard> {
    let Packet::Control {
        session,
        ns,
        nr,
        body,
        ..
    } = wire::parse(packet)?
    else {
        return None;
    };
    let avps = Avps::parse(body)?;
    let assigned = avps.u16(avp::ASSIGNED_TUNNEL_ID);
    Some(Heard {
        message: avps.message_type(),
        session,
        ns,
        nr,
        result: avps.result(),
        assigned: assigned.or_else(|| avps.u16(avp::ASSIGNED_SESSION_ID)),
    })
}

/// Everything that comes within a time.
pub(crate) fn listen(socket: &UdpSocket, span: Duration) -> Vec<Vec<u8>> {
    let end = Instant::now() + span;
    let mut packets = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return packets;
        }
        socket
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            packets.push(buffer[..length].to_vec());
        }
    }
}

/// An SCCRQ's body as it should be.
pub(crate) fn sccrq(tunnel: u16) -> Body {
    Body::new(message::SCCRQ)
        .with(avp::PROTOCOL_VERSION, &[1, 0])
        .with(avp::FRAMING_CAPABILITIES, &[0, 0, 0, 3])
        .with(avp::HOST_NAME, b"outsider")
        .with(avp::ASSIGNED_TUNNEL_ID, &tunnel.to_be_bytes())
}

/// An ICRQ's body as it should be.
pub(crate) fn icrq(session: u16) -> Body {
    Body::new(message::ICRQ)
        .with(avp::ASSIGNED_SESSION_ID, &session.to_be_bytes())
        .with(avp::CALL_SERIAL_NUMBER, &[0, 0, 0, 1])
}

/// A tunnel whose every message is written by hand.
pub(crate) struct Tunnel {
    pub(crate) socket: UdpSocket,
    /// Our id, and the gateway's.
    pub(crate) ours: u16,
    pub(crate) theirs: u16,
    pub(crate) ns: u16,
    pub(crate) nr: u16,
}

impl Tunnel {
    /// Establishes one from an address; `None`: the gateway does not want it.
    pub(crate) fn open(outside: &Namespace, local: &str, ours: u16) -> Option<Self> {
        let mut tunnel = Self {
            socket: socket(outside, local),
            ours,
            theirs: 0,
            ns: 0,
            nr: 0,
        };
        for _ in 0..3 {
            tunnel.ns = 0;
            tunnel.send(0, &sccrq(ours).finish());
            let answer = tunnel.wait(Duration::from_millis(500), |heard| {
                heard.message == Some(message::SCCRP)
            });
            if let Some(answer) = answer {
                tunnel.theirs = answer.assigned.unwrap();
                tunnel.send(0, &Body::new(message::SCCCN).finish());
                return tunnel.is_acknowledged().then_some(tunnel);
            }
        }
        None
    }

    /// Sends the next message.
    pub(crate) fn send(&mut self, session: u16, body: &[u8]) {
        let packet = wire::control(self.theirs, session, self.ns, self.nr, body);
        self.ns = self.ns.wrapping_add(1);
        self.raw(&packet);
    }

    /// Sends bytes. That nobody listens any more shows in what comes back.
    pub(crate) fn raw(&self, packet: &[u8]) {
        let _ = self.socket.send(packet);
    }

    /// Takes a packet in: what it says, once it was acknowledged.
    fn take(&mut self, packet: &[u8]) -> Option<Heard> {
        let heard = hear(packet)?;
        if heard.message.is_some() && heard.ns == self.nr {
            self.nr = self.nr.wrapping_add(1);
            self.raw(&wire::control(self.theirs, 0, self.ns, self.nr, &[]));
        }
        Some(heard)
    }

    /// The control messages that come within a time.
    pub(crate) fn listen(&mut self, span: Duration) -> Vec<Heard> {
        let packets = listen(&self.socket, span);
        packets.iter().filter_map(|packet| self.take(packet)).collect()
    }

    /// Waits for a message.
    pub(crate) fn wait(&mut self, limit: Duration, wanted: impl Fn(&Heard) -> bool) -> Option<Heard> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            for packet in listen(&self.socket, Duration::from_millis(5)) {
                if let Some(heard) = self.take(&packet).filter(|heard| wanted(heard)) {
                    return Some(heard);
                }
            }
        }
        None
    }

    /// Whether all that was sent is acknowledged within [`ANSWER`].
    fn is_acknowledged(&mut self) -> bool {
        let ns = self.ns;
        self.wait(ANSWER, |heard| heard.nr == ns).is_some()
    }

    /// Whether the gateway still answers.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.send(0, &Body::new(message::HELLO).finish());
        self.is_acknowledged()
    }

    /// Sends a message and gives the result code of the StopCCN or CDN that answers it.
    pub(crate) fn refused(&mut self, session: u16, body: &[u8]) -> Option<(u16, u16)> {
        self.send(session, body);
        self.wait(ANSWER, |heard| heard.result.is_some())?.result
    }

    /// Asks for a call; the gateway's session id.
    pub(crate) fn ring(&mut self, session: u16) -> Option<u16> {
        self.send(0, &icrq(session).finish());
        let wanted = [message::ICRP, message::CDN];
        let answer = self.wait(ANSWER, |heard| {
            heard.session == session && heard.message.is_some_and(|message| wanted.contains(&message))
        });
        answer
            .filter(|answer| answer.message == Some(message::ICRP))?
            .assigned
    }
}

/// A client with a session that is up, whose socket can say more than it would.
pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    lac: Lac,
    /// The gateway's ids of tunnel and session.
    pub(crate) tunnel: u16,
    pub(crate) session: u16,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// PPP frames from the gateway since somebody looked.
    frames: Vec<Vec<u8>>,
}

impl Client {
    /// Brings a session up, in a tunnel with this id of its own.
    pub(crate) fn connect(outside: &Namespace, local: &str, ours: u16) -> Self {
        let config = LacConfig {
            user: "alice".to_owned(),
            password: b"correct horse".to_vec(),
            ..LacConfig::default()
        };
        let lac = Lac::dial(Arc::new(config), ours, Seeded::new(ours.into()), Instant::now());
        let mut client = Self {
            socket: socket(outside, local),
            lac,
            tunnel: 0,
            session: 0,
            address: Ipv4Addr::UNSPECIFIED,
            frames: Vec::new(),
        };
        let end = Instant::now() + Duration::from_secs(10);
        while client.address.is_unspecified() {
            assert!(Instant::now() < end, "a client did not come up");
            client.run(Duration::from_millis(10));
        }
        client.run(Duration::from_millis(100));
        client
    }

    /// Does what a client does for a time.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let now = Instant::now();
            self.lac.handle_timeout(now);
            while let Some(packet) = self.lac.poll_transmit() {
                if let Some(Packet::Control { session, .. }) = wire::parse(&packet.bytes)
                    && session != 0
                {
                    self.session = session;
                }
                let _ = self.socket.send(&packet.bytes);
            }
            for packet in listen(&self.socket, Duration::from_millis(2)) {
                if let Some(Packet::Data { frame, .. }) = wire::parse(&packet) {
                    self.frames.push(frame.to_vec());
                }
                self.lac.handle_datagram(&packet, Instant::now());
            }
            while let Some(event) = self.lac.poll_event() {
                match event {
                    LacEvent::CallUp { learned, .. } => self.address = learned.ipv4.unwrap(),
                    LacEvent::TunnelUp | LacEvent::Ip { .. } => {}
                    LacEvent::CallDown { reason, .. } | LacEvent::TunnelDown { reason } => {
                        panic!("a client's session ended: {reason}")
                    }
                }
            }
            self.tunnel = self.lac.peer_tunnel();
        }
    }

    /// Sends a PPP frame on the session, in a data message of the plainest form.
    pub(crate) fn frame(&self, frame: &[u8]) {
        let packet = wire::data(self.tunnel, self.session, frame);
        let _ = self.socket.send(&packet);
    }

    /// Sends a whole packet.
    pub(crate) fn raw(&self, packet: &[u8]) {
        let _ = self.socket.send(packet);
    }

    /// Frames that the gateway has sent since the last look.
    pub(crate) fn frames(&mut self, span: Duration) -> Vec<Vec<u8>> {
        self.frames.clear();
        self.run(span);
        std::mem::take(&mut self.frames)
    }

    /// Whether an LCP Echo-Request, as `wrap` puts it on the wire, is answered within a second.
    pub(crate) fn echoes(&mut self, id: u8, wrap: impl Fn(&[u8]) -> Vec<u8>) -> bool {
        let request = [0xff, 0x03, 0xc0, 0x21, 9, id, 0, 8, 0, 0, 0, 0];
        self.raw(&wrap(&request));
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let is_answer = |frame: &Vec<u8>| frame.windows(4).any(|window| window == [0xc0, 0x21, 10, id]);
            if self.frames(Duration::from_millis(10)).iter().any(is_answer) {
                return true;
            }
        }
        false
    }

    /// Whether the session still works.
    pub(crate) fn is_alive(&mut self, id: u8) -> bool {
        let (tunnel, session) = (self.tunnel, self.session);
        self.echoes(id, |frame| wire::data(tunnel, session, frame))
    }
}
