//! Passwords in packets that a person is to see.

use super::avp::{AVP_HEADER, Avps, kind};
use super::header::{CONTROL_HEADER, DataHeader, Family, family};
use sluice_ppp::PppHeader;
use sluice_ppp::wire::pap::CONCEALED;
use std::ops::Range;

/// Overwrites what a packet holds of passwords: that of a PAP request, and what a LAC passes on of a login (proxy
/// authentication, RFC 2661, 4.4.5). Hidden AVPs stay: only who has the tunnel's secret can read them.
pub(crate) fn conceal(packet: &mut [u8]) {
    match family(packet) {
        Family::Data => {
            let payload = DataHeader::decode(packet).ok().map(|header| header.payload);
            if let Some(frame) = payload.and_then(|payload| packet.get_mut(payload)) {
                PppHeader::conceal(frame);
            }
        }
        Family::Control => {
            for response in proxy_responses(packet) {
                if let Some(response) = packet.get_mut(response) {
                    response.fill(CONCEALED);
                }
            }
        }
        Family::L2f | Family::L2tpV3 | Family::Unknown => {}
    }
}

/// Where the Proxy Authen Response AVPs of a control message have their values.
fn proxy_responses(packet: &[u8]) -> Vec<Range<usize>> {
    let body = packet.get(CONTROL_HEADER..).unwrap_or_default();
    let (mut found, mut end) = (Vec::new(), CONTROL_HEADER);
    for avp in Avps::new(body).map_while(Result::ok) {
        let start = end + AVP_HEADER;
        end = start + avp.value.len();
        if avp.vendor == 0 && avp.kind == kind::PROXY_AUTHEN_RESPONSE && !avp.hidden {
            found.push(start..end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::header::ControlHeader;
    use super::*;
    use bytes::BytesMut;

    fn concealed(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        conceal(&mut packet);
        packet
    }

    /// A packet with `hunter2` in it, and the same with stars instead.
    fn with_stars(packet: &[u8]) -> Vec<u8> {
        let at = packet.windows(7).position(|window| window == b"hunter2").unwrap();
        let mut packet = packet.to_vec();
        packet[at..at + 7].fill(b'*');
        packet
    }

    #[test]
    fn r39_the_password_of_a_pap_request_is_not_shown() {
        let pap = b"\xc0\x23\x01\x07\x00\x12\x05alice\x07hunter2";
        let plain = [&[0x00, 0x02, 0, 1, 0, 2][..], pap].concat();
        let framed = [&[0x00, 0x02, 0, 1, 0, 2, 0xff, 0x03][..], pap].concat();
        // Length, sequence and offset of two octets.
        let header = [0x4a, 0x02, 0, 36, 0, 1, 0, 2, 0, 5, 0, 0, 0, 2, 9, 9];
        let long = [&header[..], pap].concat();
        for packet in [&plain, &framed, &long] {
            assert_eq!(concealed(packet), with_stars(packet));
        }
        // One whose length says less than there is, and ones that are cut anywhere, show nothing either.
        let mut lying = plain.clone();
        lying[9] = 0xff;
        lying[11] = 4;
        for length in 0..=lying.len() {
            let shown = concealed(&lying[..length]);
            assert!(!shown.ends_with(b"h") && !shown.windows(2).any(|window| window == b"hu"));
        }
        let ack = b"\x00\x02\x00\x01\x00\x02\xc0\x23\x02\x07\x00\x0c\x07hunter2";
        assert_eq!(concealed(ack), ack);
    }

    #[test]
    fn r39_the_answer_to_a_challenge_is_not_shown() {
        let chap = b"\x00\x02\x00\x01\x00\x02\xc2\x23\x02\x07\x00\x11\x07hunter2alice";
        assert_eq!(concealed(chap), with_stars(chap));
        let change = b"\x00\x02\x00\x01\x00\x02\xc2\x23\x07\x07\x00\x0bhunter2";
        assert_eq!(concealed(change), with_stars(change));
        for length in 0..chap.len() {
            let shown = concealed(&chap[..length]);
            assert!(shown.len() == length && !shown.windows(2).any(|window| window == b"hu"));
        }
        // A challenge and an answer's answer are no secrets.
        for code in [1, 3, 4] {
            let mut other = chap.to_vec();
            other[8] = code;
            assert_eq!(concealed(&other), other);
        }
    }

    #[test]
    fn r39_a_passed_on_password_is_not_shown() {
        let avp = |flags: u16, kind: u16, value: &[u8]| {
            let bits = flags | u16::try_from(6 + value.len()).unwrap();
            let mut avp = bits.to_be_bytes().to_vec();
            avp.extend([0, 0]);
            avp.extend(kind.to_be_bytes());
            avp.extend(value);
            avp
        };
        let header = ControlHeader {
            tunnel: 1,
            session: 2,
            ns: 3,
            nr: 4,
        };
        let message = |response: Vec<u8>| {
            let body = [
                avp(0x8000, 0, &[0, 12]),
                avp(0, 30, b"alice"),
                response,
                avp(0, 32, &[0, 7]),
            ]
            .concat();
            let mut packet = BytesMut::new();
            header.encode(&body, &mut packet);
            packet.to_vec()
        };
        let packet = message(avp(0, 33, b"hunter2"));
        assert_eq!(concealed(&packet), with_stars(&packet));
        let hidden = message(avp(0x4000, 33, b"hunter2"));
        assert_eq!(concealed(&hidden), hidden);
        for length in 0..packet.len() {
            // One that is cut is never taken for a message, whatever is in it: it must only do no harm.
            assert_eq!(concealed(&packet[..length]).len(), length);
        }
    }
}
