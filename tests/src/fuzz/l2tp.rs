//! Targets for the decoders of L2TP.

use bytes::BytesMut;
use sluice_auth::Secret;
use sluice_l2tp::wire::avp::{AVP_HEADER, Avps};
use sluice_l2tp::wire::header::{ControlHeader, DataHeader, data_ids, family};
use sluice_l2tp::wire::{Hider, decode, encode, hidden, host_name, message_type};
use sluice_testkit::Seeded;
use sluice_testkit::lac::wire::{self, Body, avp, message};

const SECRET: &[u8] = b"fuzz secret";
const VECTOR: [u8; 16] = [0x36; 16];

/// Headers of control and data messages: what is read lies within the packet, and is read again from what is
/// written of it.
pub fn l2tp_header(data: &[u8]) {
    let _ = family(data);
    let ids = data_ids(data);
    if let Ok((header, body)) = ControlHeader::decode(data) {
        assert!(body.len() + 12 <= data.len());
        let mut out = BytesMut::new();
        assert_eq!(header.encode(body, &mut out), out.len());
        assert_eq!(ControlHeader::decode(&out), Ok((header, body)));
    }
    if let Ok(header) = DataHeader::decode(data) {
        assert_eq!(ids, Some((header.tunnel, header.session)));
        assert!(data.get(header.payload.clone()).is_some());
        // The LAC's own reading must come to the same.
        match wire::parse(data) {
            Some(wire::Packet::Data {
                tunnel,
                session,
                frame,
            }) => {
                assert_eq!((tunnel, session), (header.tunnel, header.session));
                assert_eq!(data.get(header.payload), Some(frame));
            }
            other => panic!("the two readers differ: {other:?}"),
        }
    }
}

/// The walk over AVPs: it always ends, and never gives more than there is.
pub fn l2tp_avps(data: &[u8]) {
    let mut consumed = 0;
    for avp in Avps::new(data).map_while(Result::ok) {
        consumed += AVP_HEADER + avp.value.len();
        assert!(consumed <= data.len());
    }
    let _ = (message_type(data), host_name(data));
}

/// Hidden values: the first two bytes are the attribute, the rest is what was hidden.
pub fn l2tp_hidden(data: &[u8]) {
    let Some((&kind, value)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (kind, secret) = (u16::from_be_bytes(kind), Secret::new(SECRET));
    if let Some(open) = hidden::reveal(kind, &secret, &VECTOR, value) {
        assert!(open.len() + 2 <= value.len());
    }
    let value = &value[..value.len().min(1000)];
    let mut out = BytesMut::new();
    hidden::hide(kind, &secret, &VECTOR, value, &mut Seeded::new(1), &mut out);
    assert_eq!(
        hidden::reveal(kind, &secret, &VECTOR, &out).as_deref(),
        Some(value)
    );
}

/// Whole message bodies, with and without a secret: what was understood is understood again from what is written
/// of it, plain and hidden.
pub fn l2tp_message(data: &[u8]) {
    let secret = Secret::new(SECRET);
    let _ = decode(data, None);
    let Ok(message) = decode(data, Some(&secret)) else {
        return;
    };
    let plain = encode(&message, None);
    let hider = Hider {
        secret: &secret,
        entropy: &mut Seeded::new(1),
    };
    let hidden = encode(&message, Some(hider));
    for again in [decode(&plain, None), decode(&hidden, Some(&secret))] {
        let again = again.unwrap_or_else(|error| panic!("{error:?} on what was written of {message:?}"));
        // Text of the peer is escaped when it is read, and so once more when it is read again.
        if !format!("{message:?}").contains('\\') {
            assert_eq!(again, message);
        }
    }
}

/// Bodies of all kinds, written by the independent LAC.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let id = 7u16.to_be_bytes();
    let word = 3u32.to_be_bytes();
    let start = |kind| {
        Body::new(kind)
            .with(avp::PROTOCOL_VERSION, &[1, 0])
            .with(avp::HOST_NAME, b"fuzz")
            .with(avp::FRAMING_CAPABILITIES, &word)
    };
    let connected = |kind| {
        Body::new(kind)
            .with(avp::TX_CONNECT_SPEED, &word)
            .with(avp::FRAMING_TYPE, &word)
    };
    let bodies = [
        start(message::SCCRQ)
            .with(avp::ASSIGNED_TUNNEL_ID, &id)
            .with(avp::CHALLENGE, b"challenge"),
        start(message::SCCRQ).with(avp::RANDOM_VECTOR, &VECTOR).hidden(
            avp::ASSIGNED_TUNNEL_ID,
            &id,
            SECRET,
            &VECTOR,
            4,
        ),
        start(message::SCCRP)
            .with(avp::ASSIGNED_TUNNEL_ID, &id)
            .with(avp::CHALLENGE_RESPONSE, &[9; 16]),
        Body::new(message::SCCCN).with(avp::CHALLENGE_RESPONSE, &[9; 16]),
        Body::new(message::STOPCCN)
            .with(avp::ASSIGNED_TUNNEL_ID, &id)
            .with(avp::RESULT_CODE, b"\0\x02\0\x08text"),
        Body::new(message::HELLO),
        Body::new(message::ICRQ)
            .with(avp::ASSIGNED_SESSION_ID, &id)
            .with(avp::CALL_SERIAL_NUMBER, &word)
            .with(avp::CALLING_NUMBER, b"100")
            .with(avp::CALLED_NUMBER, b"200"),
        Body::new(message::ICRP).with(avp::ASSIGNED_SESSION_ID, &id),
        connected(message::ICCN)
            .optional(26, &[1, 4, 5, 220])
            .optional(27, &[3, 4, 0xc0, 0x23])
            .optional(29, &[0, 3])
            .optional(30, b"name")
            .optional(33, b"password"),
        Body::new(message::CDN)
            .with(avp::RESULT_CODE, &[0, 3])
            .with(avp::ASSIGNED_SESSION_ID, &id),
        Body::new(message::WEN).with(34, &[0; 26]),
        Body::new(message::SLI).with(35, &[0; 10]),
        Body::new(7)
            .with(avp::ASSIGNED_SESSION_ID, &id)
            .with(avp::CALL_SERIAL_NUMBER, &word)
            .with(16, &word)
            .with(17, &word)
            .with(18, &word)
            .with(avp::FRAMING_TYPE, &word)
            .with(avp::CALLED_NUMBER, b"200"),
        Body::new(8).with(avp::ASSIGNED_SESSION_ID, &id),
        connected(9).with(39, b""),
    ];
    bodies.into_iter().map(Body::finish).collect()
}

/// Whole packets, control and data.
pub(super) fn packets() -> Vec<Vec<u8>> {
    let control = bodies().into_iter().map(|body| wire::control(1, 2, 3, 4, &body));
    let data = [
        wire::data(1, 2, b"\xff\x03\xc0\x21\x01\x01\x00\x04"),
        b"\x0a\x02\0\x01\0\x02\0\x03\0\x04\0\x01\0frame".to_vec(),
        b"\0\x02\0\x01\0\x02frame".to_vec(),
    ];
    control.chain(data).collect()
}

/// Hidden values of several lengths after their attribute.
pub(super) fn hidden_values() -> Vec<Vec<u8>> {
    let hide = |length: usize| {
        let body = Body::new(message::HELLO)
            .hidden(9, &vec![5; length], SECRET, &VECTOR, 3)
            .finish();
        [&[0, 9][..], &body[14..]].concat()
    };
    [0, 2, 13, 14, 15, 30, 200].into_iter().map(hide).collect()
}
