//! An LNS written by hand for one purpose: to see that the LAC does what it should. It knows just enough L2TP and
//! PPP, checks what it is told, and panics at what no LAC may do.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::panic)]

use md5::{Digest, Md5};
use std::collections::BTreeMap;

/// What the LNS does differently from serving everyone.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    pub secret: Option<&'static [u8]>,
    pub lies_in_response: bool,
    pub silent: bool,
    pub cdn: Option<[u8; 4]>,
    pub stop: bool,
    pub password: &'static [u8],
    pub refuses_ipv6: bool,
    pub rejects_compression: bool,
    pub window: u16,
}

pub struct Lns {
    pub habits: Habits,
    pub tunnels: BTreeMap<u16, Tunnel>,
    pub log: Vec<String>,
    out: Vec<Vec<u8>>,
}

#[derive(Default)]
pub struct Tunnel {
    pub peer: u16,
    ns: u16,
    nr: u16,
    pub calls: BTreeMap<u16, Call>,
    pub duplicates: usize,
    pub zlbs: usize,
    pub last_ppp: Vec<String>,
}

#[derive(Default)]
pub struct Call {
    peer: u16,
    connected: bool,
    pub user: String,
    authenticated: bool,
    pub ip: Vec<Vec<u8>>,
}

const CHALLENGE: [u8; 16] = [0x5a; 16];

fn be(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn md5(pieces: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    pieces.iter().for_each(|piece| md5.update(piece));
    md5.finalize().into()
}

fn avp(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut avp = vec![0x80, 6 + value.len() as u8, 0, 0, 0, kind];
    avp.extend_from_slice(value);
    avp
}

fn avps(mut body: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut avps = BTreeMap::new();
    while !body.is_empty() {
        let length = usize::from(be(body) & 0x3ff);
        avps.insert(be(&body[4..]), body[6..length].to_vec());
        body = &body[length..];
    }
    avps
}

fn ppp(protocol: u16, code: u8, id: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 4).to_be_bytes();
    [
        &[0xff, 3][..],
        &protocol.to_be_bytes(),
        &[code, id],
        &length,
        data,
    ]
    .concat()
}

impl Lns {
    pub fn new(habits: Habits) -> Self {
        Self {
            habits,
            tunnels: BTreeMap::new(),
            log: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Answers to one datagram. Our tunnel id is the peer's plus 1000, our session ids are the peer's plus 100.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        if self.habits.silent {
            return Vec::new();
        }
        let flags = be(bytes);
        assert_eq!(usize::from(be(&bytes[2..])), bytes.len(), "length field");
        match flags {
            0xc802 => self.control(bytes),
            0x4002 => self.data(be(&bytes[4..]), be(&bytes[6..]), &bytes[8..]),
            other => panic!("flags {other:04x}"),
        }
        std::mem::take(&mut self.out)
    }

    fn control(&mut self, bytes: &[u8]) {
        let (id, ns) = (be(&bytes[4..]), be(&bytes[8..]));
        let avps = avps(&bytes[12..]);
        let kind = avps.get(&0).map(|value| be(value));
        let id = if id == 0 {
            assert_eq!(kind, Some(1), "only SCCRQ goes to tunnel 0");
            let peer = be(&avps[&9]);
            self.tunnels.entry(peer + 1000).or_insert_with(|| Tunnel {
                peer,
                ..Tunnel::default()
            });
            peer + 1000
        } else {
            id
        };
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some(kind) = kind else {
            tunnel.zlbs += 1;
            return;
        };
        if ns != tunnel.nr {
            tunnel.duplicates += 1;
            return self.acknowledge(id);
        }
        tunnel.nr += 1;
        self.log.push(format!("{kind}"));
        match kind {
            1 => self.sccrq(id, &avps),
            3 => self.scccn(id, &avps),
            10 => self.icrq(id, &avps),
            12 => {
                let session = be(&bytes[6..]);
                self.tunnels
                    .get_mut(&id)
                    .unwrap()
                    .calls
                    .get_mut(&session)
                    .unwrap()
                    .connected = true;
                self.acknowledge(id);
                let asked = [1, 4, 5, 0xdc, 3, 4, 0xc0, 0x23, 5, 6, 1, 2, 3, 4];
                self.frame(id, session, &ppp(0xc021, 1, 1, &asked));
            }
            4 | 6 | 14 => self.acknowledge(id),
            other => panic!("message {other}"),
        }
    }

    fn sccrq(&mut self, id: u16, avps: &BTreeMap<u16, Vec<u8>>) {
        let mut body = [
            avp(0, &[0, 2]),
            avp(2, &[1, 0]),
            avp(3, &[0, 0, 0, 3]),
            avp(7, b"lns"),
        ]
        .concat();
        body.extend(avp(9, &id.to_be_bytes()));
        if self.habits.window > 0 {
            body.extend(avp(10, &self.habits.window.to_be_bytes()));
        }
        if let Some(secret) = self.habits.secret {
            let challenge = &avps[&11];
            let salt = if self.habits.lies_in_response { 9 } else { 2 };
            body.extend(avp(13, &md5(&[&[salt], secret, challenge])));
            body.extend(avp(11, &CHALLENGE));
        }
        self.message(id, 0, &body);
    }

    fn scccn(&mut self, id: u16, avps: &BTreeMap<u16, Vec<u8>>) {
        if let Some(secret) = self.habits.secret {
            assert_eq!(avps[&13], md5(&[&[3], secret, &CHALLENGE]), "challenge response");
        }
        if self.habits.stop {
            let body = [avp(0, &[0, 4]), avp(9, &id.to_be_bytes()), avp(1, &[0, 6])].concat();
            return self.message(id, 0, &body);
        }
        self.acknowledge(id);
    }

    fn icrq(&mut self, id: u16, avps: &BTreeMap<u16, Vec<u8>>) {
        let peer = be(&avps[&14]);
        let own = (peer + 100).to_be_bytes();
        let body = match self.habits.cdn {
            Some(result) => [avp(0, &[0, 14]), avp(1, &result), avp(14, &own)].concat(),
            None => [avp(0, &[0, 11]), avp(14, &own)].concat(),
        };
        let call = Call {
            peer,
            ..Call::default()
        };
        self.tunnels.get_mut(&id).unwrap().calls.insert(peer + 100, call);
        self.message(id, peer, &body);
    }

    fn message(&mut self, id: u16, session: u16, body: &[u8]) {
        let tunnel = self.tunnels.get_mut(&id).unwrap();
        let fields = [
            0xc802,
            12 + body.len() as u16,
            tunnel.peer,
            session,
            tunnel.ns,
            tunnel.nr,
        ];
        tunnel.ns += 1;
        self.out
            .push([&fields.map(u16::to_be_bytes).concat(), body].concat());
    }

    fn acknowledge(&mut self, id: u16) {
        let tunnel = &self.tunnels[&id];
        self.out.push(
            [0xc802, 12, tunnel.peer, 0, tunnel.ns, tunnel.nr]
                .map(u16::to_be_bytes)
                .concat(),
        );
    }

    /// Ends a tunnel from this side.
    pub fn stop(&mut self, id: u16) -> Vec<Vec<u8>> {
        self.message(
            id,
            0,
            &[avp(0, &[0, 4]), avp(9, &id.to_be_bytes()), avp(1, &[0, 6])].concat(),
        );
        std::mem::take(&mut self.out)
    }

    /// Sends a PPP frame of the test's choice.
    pub fn send(&mut self, id: u16, session: u16, protocol: u16, code: u8, data: &[u8]) -> Vec<Vec<u8>> {
        self.frame(id, session, &ppp(protocol, code, 77, data));
        std::mem::take(&mut self.out)
    }

    fn frame(&mut self, id: u16, session: u16, frame: &[u8]) {
        let peer = self.tunnels[&id].peer;
        let call = &self.tunnels[&id].calls[&session];
        let fields = [0x0002, peer, call.peer].map(u16::to_be_bytes).concat();
        self.out.push([&fields, frame].concat());
    }

    fn data(&mut self, id: u16, session: u16, frame: &[u8]) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let Some(call) = tunnel.calls.get_mut(&session).filter(|call| call.connected) else {
            self.log.push("data before ICCN".into());
            return;
        };
        assert_eq!(&frame[..2], &[0xff, 3], "address and control");
        let protocol = be(&frame[2..]);
        if protocol == 0x0021 {
            call.ip.push(frame[4..].to_vec());
            return;
        }
        let (code, ident) = (frame[4], frame[5]);
        let data = frame[8..8 + usize::from(be(&frame[6..])) - 4].to_vec();
        tunnel.last_ppp.push(format!("{protocol:04x}/{code}"));
        match (protocol, code) {
            (0xc021, 1) if self.habits.rejects_compression && data.ends_with(&[7, 2, 8, 2]) => {
                self.frame(id, session, &ppp(0xc021, 4, ident, &[7, 2, 8, 2]));
            }
            (0xc021, 1) => self.frame(id, session, &ppp(0xc021, 2, ident, &data)),
            (0xc021, 5) => self.frame(id, session, &ppp(0xc021, 6, ident, b"")),
            (0xc023, 1) => {
                let (name, rest) = data[1..].split_at(usize::from(data[0]));
                call.user = String::from_utf8(name.to_vec()).unwrap();
                call.authenticated = &rest[1..] == self.habits.password;
                let code = if call.authenticated { 2 } else { 3 };
                self.frame(id, session, &ppp(0xc023, code, ident, &[0]));
            }
            (0x8021 | 0x8057, 1) if !call.authenticated => self.log.push("network too early".into()),
            (0x8021, 1) => self.ipcp(id, session, ident, &data),
            (0x8057, 1) if self.habits.refuses_ipv6 => {
                self.frame(id, session, &ppp(0xc021, 8, 1, &frame[2..]));
            }
            (0x8057, 1) => {
                self.frame(id, session, &ppp(0x8057, 2, ident, &data));
                self.frame(id, session, &ppp(0x8057, 1, 1, &[1, 10, 0, 0, 0, 0, 0, 0, 0, 1]));
            }
            _ => {}
        }
    }

    fn ipcp(&mut self, id: u16, session: u16, ident: u8, data: &[u8]) {
        let right = [3, 6, 10, 0, 0, 7, 129, 6, 192, 0, 2, 53, 131, 6, 192, 0, 2, 54];
        if data == right {
            self.frame(id, session, &ppp(0x8021, 2, ident, data));
        } else {
            self.frame(id, session, &ppp(0x8021, 1, 1, &[3, 6, 10, 0, 0, 254]));
            self.frame(id, session, &ppp(0x8021, 3, ident, &right));
        }
    }
}
