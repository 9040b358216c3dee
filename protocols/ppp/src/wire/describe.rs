//! Frames in words, for an operator's trace. No secret is ever shown.

use super::eap::EapMethod;
use super::{IpcpOption, Ipv6cpOption, LcpOption, OptionWalk, Packet, RawOption, chap, code, eap, pap};
use crate::header::protocol;
use crate::wire::AuthOffer;
use sluice_spi::wire::display_text;
use std::fmt::Write;
use std::net::Ipv6Addr;

/// Most options shown of one packet: more than any real one has.
const MAX_OPTIONS: usize = 24;

/// A frame in words: protocol, code, identifier and what is in it.
pub fn describe(protocol: u16, information: &[u8]) -> String {
    let mut text = match protocol::name(protocol) {
        Some(name) => name.to_owned(),
        None => format!("protocol {protocol:#06x}"),
    };
    match protocol {
        protocol::LCP
        | protocol::IPCP
        | protocol::IPV6CP
        | protocol::CCP
        | protocol::PAP
        | protocol::CHAP
        | protocol::EAP => match Packet::decode(information) {
            Ok(packet) => describe_packet(&mut text, protocol, packet),
            Err(_) => put(
                &mut text,
                format_args!(" malformed, {} octets", information.len()),
            ),
        },
        protocol::IPV6 => describe_ipv6(&mut text, information),
        _ => put(&mut text, format_args!(" {} octets", information.len())),
    }
    text
}

/// Writing into a `String` cannot fail.
fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(words);
}

fn describe_packet(text: &mut String, protocol: u16, packet: Packet<'_>) {
    if protocol == protocol::PAP {
        return describe_pap(text, packet);
    }
    if protocol == protocol::CHAP {
        return describe_chap(text, packet);
    }
    if protocol == protocol::EAP {
        return describe_eap(text, packet);
    }
    let name =
        code_name(packet.code).filter(|_| protocol == protocol::LCP || packet.code <= code::CODE_REJECT);
    match name {
        Some(name) => put(text, format_args!(" {name} id={}", packet.id)),
        None => put(text, format_args!(" code {} id={}", packet.code, packet.id)),
    }
    match packet.code {
        code::CONFIGURE_REQUEST..=code::CONFIGURE_REJECT => {
            describe_options(text, protocol, packet.options())
        }
        code::TERMINATE_REQUEST | code::TERMINATE_ACK if !packet.body.is_empty() => {
            put(text, format_args!(" \"{}\"", display_text(packet.body)));
        }
        code::CODE_REJECT => {
            if let Ok(code) = packet.rejected_code() {
                put(text, format_args!(" of code {code}"));
            }
        }
        code::PROTOCOL_REJECT if name.is_some() => {
            if let Ok((number, _)) = packet.rejected_protocol() {
                put(text, format_args!(" of {number:#06x}"));
            }
        }
        code::ECHO_REQUEST..=code::TIME_REMAINING if name.is_some() => describe_link(text, packet),
        _ => {}
    }
}

fn describe_link(text: &mut String, packet: Packet<'_>) {
    let Ok((magic, rest)) = packet.magic() else {
        return text.push_str(" malformed");
    };
    put(text, format_args!(" magic={magic:#010x}"));
    match (packet.code, rest) {
        (code::IDENTIFICATION, message) => put(text, format_args!(" \"{}\"", display_text(message))),
        (code::TIME_REMAINING, &[a, b, c, d, ..]) => {
            put(text, format_args!(" {} s", u32::from_be_bytes([a, b, c, d])));
        }
        _ => {}
    }
}

fn describe_pap(text: &mut String, packet: Packet<'_>) {
    match packet.code {
        pap::REQUEST => {
            put(text, format_args!(" Request id={}", packet.id));
            match pap::Request::decode(packet.body) {
                Ok(request) => put(
                    text,
                    format_args!(" name=\"{}\" password=<hidden>", display_text(request.name)),
                ),
                Err(_) => text.push_str(" malformed"),
            }
        }
        pap::ACK | pap::NAK => {
            let name = if packet.code == pap::ACK { "Ack" } else { "Nak" };
            let message = display_text(pap::message(packet.body));
            put(text, format_args!(" {name} id={} \"{message}\"", packet.id));
        }
        other => put(text, format_args!(" code {other} id={}", packet.id)),
    }
}

/// Challenges, answers and what is made of the password for Success allow to guess at it: none is shown.
fn describe_chap(text: &mut String, packet: Packet<'_>) {
    let name = match packet.code {
        chap::CHALLENGE => "Challenge",
        chap::RESPONSE => "Response",
        chap::SUCCESS => "Success",
        chap::FAILURE => "Failure",
        chap::CHANGE_PASSWORD => "Change-Password",
        other => return put(text, format_args!(" code {other} id={}", packet.id)),
    };
    put(text, format_args!(" {name} id={}", packet.id));
    match packet.code {
        chap::CHALLENGE | chap::RESPONSE => match chap::Valued::decode(packet.body) {
            Ok(valued) => put(
                text,
                format_args!(" name=\"{}\" value=<hidden>", display_text(valued.name)),
            ),
            Err(_) => text.push_str(" malformed"),
        },
        chap::SUCCESS if packet.body.starts_with(b"S=") => text.push_str(" S=<hidden>"),
        chap::SUCCESS | chap::FAILURE => put(text, format_args!(" \"{}\"", display_text(packet.body))),
        _ => {}
    }
}

/// Of EAP only who says to be whom, and what is asked for.
fn describe_eap(text: &mut String, packet: Packet<'_>) {
    let name = match packet.code {
        eap::REQUEST => "Request",
        eap::RESPONSE => "Response",
        eap::SUCCESS => "Success",
        eap::FAILURE => "Failure",
        other => return put(text, format_args!(" code {other} id={}", packet.id)),
    };
    put(text, format_args!(" {name} id={}", packet.id));
    let (eap::REQUEST | eap::RESPONSE, Ok(typed)) = (packet.code, eap::Typed::decode(packet.body)) else {
        return;
    };
    match typed.kind {
        eap::IDENTITY => put(text, format_args!(" identity \"{}\"", display_text(typed.data))),
        eap::NOTIFICATION => put(
            text,
            format_args!(" notification \"{}\"", display_text(typed.data)),
        ),
        eap::NAK => put(text, format_args!(" nak {}", hex(typed.data))),
        kind => match EapMethod::ALL.into_iter().find(|method| method.kind() == kind) {
            Some(method) => put(text, format_args!(" {}", method.as_str())),
            None => put(text, format_args!(" type {kind}")),
        },
    }
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::CONFIGURE_REQUEST => "Configure-Request",
        code::CONFIGURE_ACK => "Configure-Ack",
        code::CONFIGURE_NAK => "Configure-Nak",
        code::CONFIGURE_REJECT => "Configure-Reject",
        code::TERMINATE_REQUEST => "Terminate-Request",
        code::TERMINATE_ACK => "Terminate-Ack",
        code::CODE_REJECT => "Code-Reject",
        code::PROTOCOL_REJECT => "Protocol-Reject",
        code::ECHO_REQUEST => "Echo-Request",
        code::ECHO_REPLY => "Echo-Reply",
        code::DISCARD_REQUEST => "Discard-Request",
        code::IDENTIFICATION => "Identification",
        code::TIME_REMAINING => "Time-Remaining",
        _ => return None,
    })
}

fn describe_options(text: &mut String, protocol: u16, options: OptionWalk<'_>) {
    for (index, option) in options.enumerate() {
        if index == MAX_OPTIONS {
            return text.push_str(" …");
        }
        let Ok(option) = option else {
            return text.push_str(" <malformed>");
        };
        text.push_str(" <");
        match protocol {
            protocol::LCP => describe_lcp_option(text, option),
            protocol::IPCP => describe_ipcp_option(text, option),
            protocol::IPV6CP => describe_ipv6cp_option(text, option),
            _ => put(text, format_args!("option {} {}", option.kind, hex(option.data))),
        }
        text.push('>');
    }
}

fn describe_lcp_option(text: &mut String, option: RawOption<'_>) {
    match LcpOption::decode(option) {
        LcpOption::Mru(mru) => put(text, format_args!("mru {mru}")),
        LcpOption::Accm(accm) => put(text, format_args!("accm {accm:#010x}")),
        LcpOption::Auth(AuthOffer::Pap) => text.push_str("auth pap"),
        LcpOption::Auth(offer @ AuthOffer::Chap(algorithm)) => match offer.spoken() {
            Some(spoken) => put(text, format_args!("auth {}", spoken.as_str())),
            None => put(text, format_args!("auth chap {algorithm:#04x}")),
        },
        LcpOption::Auth(AuthOffer::Eap) => text.push_str("auth eap"),
        LcpOption::Auth(AuthOffer::Other(number)) => put(text, format_args!("auth {number:#06x}")),
        LcpOption::Quality(number) => put(text, format_args!("quality {number:#06x}")),
        LcpOption::Magic(magic) => put(text, format_args!("magic {magic:#010x}")),
        LcpOption::Pfc => text.push_str("pfc"),
        LcpOption::Acfc => text.push_str("acfc"),
        LcpOption::Callback(operation) => put(text, format_args!("callback {operation}")),
        LcpOption::Mrru(mrru) => put(text, format_args!("mrru {mrru}")),
        LcpOption::ShortSequence => text.push_str("short-sequence"),
        LcpOption::Endpoint(class, address) => put(text, format_args!("endpoint {class} {}", hex(address))),
        LcpOption::BadLength(kind) => put(text, format_args!("option {kind} of wrong length")),
        LcpOption::Unknown(kind) => put(text, format_args!("option {kind} {}", hex(option.data))),
    }
}

fn describe_ipcp_option(text: &mut String, option: RawOption<'_>) {
    match IpcpOption::decode(option) {
        IpcpOption::Addresses => text.push_str("addresses"),
        IpcpOption::Compression(number) => put(text, format_args!("compression {number:#06x}")),
        IpcpOption::Address(address) => put(text, format_args!("address {address}")),
        IpcpOption::Server(kind, address) => {
            let name = match kind {
                IpcpOption::DNS1 => "dns1",
                IpcpOption::DNS2 => "dns2",
                IpcpOption::NBNS1 => "nbns1",
                _ => "nbns2",
            };
            put(text, format_args!("{name} {address}"));
        }
        IpcpOption::BadLength(kind) => put(text, format_args!("option {kind} of wrong length")),
        IpcpOption::Unknown(kind) => put(text, format_args!("option {kind} {}", hex(option.data))),
    }
}

fn describe_ipv6cp_option(text: &mut String, option: RawOption<'_>) {
    match Ipv6cpOption::decode(option) {
        Ipv6cpOption::InterfaceId(id) => put(text, format_args!("interface-id {}", interface_id(id))),
        Ipv6cpOption::Compression(number) => put(text, format_args!("compression {number:#06x}")),
        Ipv6cpOption::BadLength(kind) => put(text, format_args!("option {kind} of wrong length")),
        Ipv6cpOption::Unknown(kind) => put(text, format_args!("option {kind} {}", hex(option.data))),
    }
}

/// Link-local IPv6 by its addresses and ICMPv6 type; nothing of user data.
fn describe_ipv6(text: &mut String, packet: &[u8]) {
    let address = |range: std::ops::Range<usize>| {
        let octets: Option<[u8; 16]> = packet.get(range).and_then(|bytes| bytes.try_into().ok());
        octets.map(Ipv6Addr::from)
    };
    let (Some(from), Some(to)) = (address(8..24), address(24..40)) else {
        return put(text, format_args!(" malformed, {} octets", packet.len()));
    };
    put(text, format_args!(" {from} > {to}"));
    if let (Some(58), Some(kind)) = (packet.get(6), packet.get(40)) {
        let name = match kind {
            128 => "echo request",
            129 => "echo reply",
            133 => "router solicitation",
            134 => "router advertisement",
            135 => "neighbour solicitation",
            136 => "neighbour advertisement",
            _ => return put(text, format_args!(" ICMPv6 type {kind}")),
        };
        put(text, format_args!(" {name}"));
    }
}

/// An interface identifier as it is written in an address.
pub(crate) fn interface_id(id: u64) -> String {
    let [a, b, c, d] = [id >> 48, id >> 32, id >> 16, id].map(|part| part & 0xffff);
    format!("{a:x}:{b:x}:{c:x}:{d:x}")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes.iter().take(20) {
        put(&mut text, format_args!("{byte:02x}"));
    }
    text
}
