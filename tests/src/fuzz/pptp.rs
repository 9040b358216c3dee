//! Targets for PPTP: octets of a control connection, in any pieces, and GRE packets.

use bytes::BytesMut;
use sluice_pptp::config::Config;
use sluice_pptp::wire::message::{HEADER, LONGEST, Message, OutgoingRequest, Start, VERSION};
use sluice_pptp::wire::{Decoded, Stream, encode, gre};
use sluice_pptp::{Pptp, PptpFactory};
use sluice_spi::{
    ChannelRef, Demux, Event, Factory, Input, Machine, MachineKey, Module, Open, PeerAddr, ShardId, config,
};
use sluice_testkit::{Clock, Seeded};
use std::time::Duration;

/// Virtual time after which nothing may be left of a peer that fell silent.
const SILENCE: Duration = Duration::from_secs(3600);

fn octets(messages: &[Message]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for message in messages {
        encode(message, &mut out);
    }
    out.to_vec()
}

/// What peers say on their control connections.
pub(super) fn streams() -> Vec<Vec<u8>> {
    let start = Message::StartRequest(Start {
        version: VERSION,
        host: b"client".to_vec(),
        ..Start::default()
    });
    let call = Message::OutgoingRequest(OutgoingRequest {
        call_id: 7,
        maximum_bps: 1_000_000,
        bearer: 3,
        framing: 3,
        window: 32,
        ..OutgoingRequest::default()
    });
    vec![
        octets(std::slice::from_ref(&start)),
        octets(&[
            start.clone(),
            call.clone(),
            Message::EchoRequest(1),
            Message::ClearRequest(7),
        ]),
        octets(&[start, call, Message::StopRequest(1)]),
    ]
}

/// GRE packets with and without each number.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let packet = |sequence: Option<u32>, acknowledged: Option<u32>, payload: &[u8]| {
        let mut out = BytesMut::new();
        let start = gre::put(7, sequence, acknowledged, &mut out);
        out.extend_from_slice(payload);
        gre::finish(
            start,
            [sequence, acknowledged].into_iter().flatten().count(),
            &mut out,
        );
        out.to_vec()
    };
    vec![
        packet(Some(1), Some(2), &[0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 4]),
        packet(Some(u32::MAX), None, b"\x21E"),
        packet(None, Some(9), b""),
    ]
}

/// A GRE packet: what is decoded lies within it, and telling packets apart agrees with decoding.
pub fn pptp_gre(data: &[u8]) {
    let call = gre::call_id(data);
    if let Some(header) = gre::Header::decode(data) {
        assert_eq!(call, Some(header.call_id));
        assert!(header.payload.end <= data.len());
        assert_eq!(header.sequence.is_some(), !header.payload.is_empty());
    }
    assert_eq!(matches!(Pptp.demux(data), Demux::Data(_)), call.is_some());
    let mut shown = data.to_vec();
    Pptp.conceal(&mut shown);
    assert_eq!(shown.len(), data.len());
}

/// The octets of a control connection, cut where the first octet says: messages are found alike however they are cut,
/// and a machine that hears them comes to an end.
pub fn pptp_control(data: &[u8]) {
    let Some((&size, octets)) = data.split_first() else {
        return;
    };
    let size = usize::from(size).max(1);
    assert_eq!(found(octets, size), found(octets, octets.len().max(1)));
    hear(octets, size);
}

fn found(octets: &[u8], size: usize) -> (Vec<Decoded>, bool) {
    let (mut stream, mut all) = (Stream::default(), Vec::new());
    for mut piece in octets.chunks(size) {
        loop {
            match stream.next(&mut piece) {
                Ok(Some(decoded)) => all.push(decoded),
                Ok(None) => break,
                Err(_) => return (all, false),
            }
        }
        assert!(stream.held().len() < LONGEST.max(HEADER));
    }
    (all, true)
}

fn hear(octets: &[u8], size: usize) {
    let text = "empty_timeout = \"10s\"\n";
    let factory =
        PptpFactory::new(config::read("fuzz", text, Config::from_section).expect("a configuration"));
    let mut clock = Clock::new();
    let peer = PeerAddr {
        remote: ([192, 0, 2, 7], 40_000).into(),
        local: ([192, 0, 2, 1], 1723).into(),
    };
    let open = Open::Accepted {
        key: MachineKey(5),
        peer,
    };
    let machine = factory.machine(open, ShardId(0), Box::new(Seeded::new(1)), clock.now());
    let mut machine = machine.expect("a machine");
    let (mut opened, mut ended) = (0, 0);
    for bytes in octets.chunks(size) {
        let channel = ChannelRef::FIRST;
        let heard = machine.handle_input(Input::Stream { channel, bytes }, clock.now());
        heard.expect("a machine of streams takes bytes");
        drain(&mut *machine, &clock, &mut opened, &mut ended);
    }
    let end = clock.now() + SILENCE;
    while let Some(at) = machine.poll_timeout().filter(|&at| at <= end) {
        clock.advance_to(at);
        machine.handle_timeout(clock.now());
        drain(&mut *machine, &clock, &mut opened, &mut ended);
    }
    assert!(machine.is_drained(), "something is left");
    assert_eq!(opened, ended, "sessions that began and ended");
}

/// Takes all that a machine has to say, and admits its sessions.
fn drain(machine: &mut dyn Machine, clock: &Clock, opened: &mut usize, ended: &mut usize) {
    let now = clock.now();
    for _ in 0..10_000 {
        let mut out = BytesMut::new();
        let sent = machine.poll_transmit(now, &mut out);
        match machine.poll_event() {
            Some(Event::SessionOpening { session, .. }) => {
                *opened += 1;
                let admitted = Input::Admission {
                    session,
                    verdict: Ok(()),
                    verifiable: Default::default(),
                };
                machine.handle_input(admitted, now).expect("an answer");
            }
            Some(Event::SessionDown { .. }) => *ended += 1,
            Some(_) => {}
            None if sent.is_none() => return,
            None => {}
        }
    }
    panic!("a machine does not come to rest");
}
