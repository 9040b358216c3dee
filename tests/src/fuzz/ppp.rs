//! Targets for PPP: its decoders, and a link fed with frames in any order.

use bytes::BytesMut;
use sluice_auth::{Grants, Secret, Verdict};
use sluice_ppp::wire::{IpcpOption, Ipv6cpOption, LcpOption, OptionWalk, Packet, describe, pap};
use sluice_ppp::{Carrier, Login, Ppp, PppConfig, PppEvent, PppHeader, Role, protocol};
use sluice_testkit::Seeded;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most frames that one frame may cause.
const MAX_BURST: usize = 40;

/// A frame from the wire: header, packet, options, PAP, and the words for all of it.
pub fn ppp_frame(data: &[u8]) {
    let Some((number, range)) = PppHeader::open(data) else {
        return;
    };
    let information = data.get(range).expect("the information lies in the packet");
    describe(number, information);
    let Ok(packet) = Packet::decode(information) else {
        return;
    };
    assert!(packet.body.len() + 4 <= information.len());
    let mut again = Vec::new();
    packet.encode(&mut again);
    assert_eq!(Packet::decode(&again), Ok(packet));
    let _ = (packet.magic(), packet.rejected_protocol(), packet.rejected_code());
    if let Ok(request) = pap::Request::decode(packet.body) {
        let mut out = Vec::new();
        request.encode(packet.id, &mut out);
        assert_eq!(pap::Request::decode(&out[4..]), Ok(request));
    }
    let _ = pap::message(packet.body);
    ppp_options(packet.body);
}

/// The walk over options, and each option read by all three protocols: what is written of it reads as the same.
pub fn ppp_options(data: &[u8]) {
    let mut consumed = 0;
    for option in OptionWalk::new(data).map_while(Result::ok) {
        consumed += option.whole.len();
        assert!(option.whole.len() >= 2 && consumed <= data.len());
        let mut out = Vec::new();
        let lcp = LcpOption::decode(option);
        lcp.encode(&mut out);
        if let Some(Ok(again)) = OptionWalk::new(&out).next() {
            assert_eq!(LcpOption::decode(again), lcp);
        }
        out.clear();
        let ipcp = IpcpOption::decode(option);
        ipcp.encode(&mut out);
        if let Some(Ok(again)) = OptionWalk::new(&out).next() {
            assert_eq!(IpcpOption::decode(again), ipcp);
        }
        out.clear();
        let ipv6cp = Ipv6cpOption::decode(option);
        ipv6cp.encode(&mut out);
        if let Some(Ok(again)) = OptionWalk::new(&out).next() {
            assert_eq!(Ipv6cpOption::decode(again), ipv6cp);
        }
    }
}

fn grants() -> Grants {
    Grants {
        ipv4: Some([10, 64, 0, 7].into()),
        ipv4_gateway: Some([10, 64, 0, 1].into()),
        ipv6_prefix: "2001:db8:64:7::/64".parse().ok(),
        dns4: vec![[10, 64, 0, 53].into()],
        ..Grants::default()
    }
}

/// A link at work. The first octet says which role; then come frames, each after an octet with its length. A
/// length of zero lets time pass.
pub fn ppp_link(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else {
        return;
    };
    let login = Login {
        name: "alice".to_owned(),
        password: Secret::new("secret"),
    };
    let role = match first & 1 {
        0 => Role::Server,
        _ => Role::Client { login: Some(login) },
    };
    let carrier = Carrier {
        protocol: "test",
        peer: None,
        calling: None,
        called: None,
        mtu: 1460,
        verifiable: Default::default(),
    };
    let mut now = Instant::now();
    let entropy = Box::new(Seeded::new(1));
    let mut link = Ppp::new(Arc::new(PppConfig::default()), role, carrier, entropy);
    link.set_trace(true);
    link.start(None, now);
    drain(&mut link, now);
    while let Some((&length, after)) = rest.split_first() {
        if length == 0 {
            rest = after;
            now += Duration::from_secs(4);
        } else {
            let (frame, after) = after.split_at(usize::from(length).min(after.len()));
            rest = after;
            link.handle_frame(frame, now);
        }
        link.handle_timeout(now);
        drain(&mut link, now);
        assert!(link.poll_timeout().is_none_or(|at| at > now));
    }
    let _ = (link.facts(), link.checkpoint(&mut BytesMut::new(), now));
}

fn drain(link: &mut Ppp, now: Instant) {
    let mut frames = 0;
    loop {
        let mut out = BytesMut::new();
        while link.poll_frame(&mut out) {
            frames += 1;
            assert!(frames <= MAX_BURST);
        }
        let Some(event) = link.poll_event() else {
            return;
        };
        if let PppEvent::AuthRequested(_) = event {
            link.auth_verdict(Verdict::accept(Box::new(grants())), now);
        }
    }
}

fn packet(number: u16, code: u8, id: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    Packet { code, id, body }.encode(&mut frame);
    frame
}

/// Frames of a client from its first request to the end.
pub(super) fn frames() -> Vec<Vec<u8>> {
    vec![
        packet(
            protocol::LCP,
            1,
            1,
            &[2, 6, 0, 0, 0, 0, 5, 6, 1, 2, 3, 4, 7, 2, 8, 2],
        ),
        packet(
            protocol::LCP,
            1,
            2,
            &[1, 4, 5, 180, 3, 5, 0xc2, 0x23, 5, 13, 3, 6, 17, 4, 5, 220, 18, 2],
        ),
        packet(protocol::PAP, 1, 1, b"\x05alice\x06secret"),
        packet(
            protocol::IPCP,
            1,
            1,
            &[2, 6, 0, 45, 15, 1, 3, 6, 0, 0, 0, 0, 129, 6, 0, 0, 0, 0],
        ),
        packet(protocol::IPV6CP, 1, 1, &[1, 10, 0, 0, 0, 0, 0, 0, 0, 9]),
        packet(protocol::LCP, 9, 3, &[1, 2, 3, 4, 0xaa]),
        packet(protocol::LCP, 8, 4, &[0x80, 0x57, 1, 1, 0, 4]),
        packet(protocol::LCP, 7, 5, &[12, 1, 0, 4]),
        packet(protocol::LCP, 5, 6, b"bye"),
    ]
}

/// Bodies of Configure packets.
pub(super) fn options() -> Vec<Vec<u8>> {
    frames().into_iter().map(|frame| frame[6..].to_vec()).collect()
}

/// Whole conversations, in both roles.
pub(super) fn conversations() -> Vec<Vec<u8>> {
    // Our first Configure-Request is known, since the link's randomness is: acknowledge what it says.
    [0, 1]
        .into_iter()
        .map(|role| {
            let mut data = vec![role];
            let mut frames = frames();
            frames.insert(1, acknowledgement(role));
            for frame in frames {
                data.push(u8::try_from(frame.len()).expect("short frames"));
                data.extend_from_slice(&frame);
                data.push(0);
            }
            data
        })
        .collect()
}

/// The Configure-Ack for the first Configure-Request of the link that [`ppp_link`] makes.
fn acknowledgement(role: u8) -> Vec<u8> {
    let carrier = Carrier {
        protocol: "test",
        peer: None,
        calling: None,
        called: None,
        mtu: 1460,
        verifiable: Default::default(),
    };
    let role = match role {
        0 => Role::Server,
        _ => Role::Client { login: None },
    };
    let mut link = Ppp::new(
        Arc::new(PppConfig::default()),
        role,
        carrier,
        Box::new(Seeded::new(1)),
    );
    link.start(None, Instant::now());
    let mut frame = BytesMut::new();
    assert!(link.poll_frame(&mut frame));
    frame[2] = 2;
    frame.to_vec()
}
