//! Writing a header.

use super::{SIGNATURE, Version};
use crate::request::Endpoints;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};

/// Appends a header. Where there are no endpoints to tell, it says so: UNKNOWN, or LOCAL.
///
/// A header has one family: if one end is of IPv4 and the other of IPv6, the former is written as a mapped address.
pub fn encode(version: Version, endpoints: Option<Endpoints>, out: &mut Vec<u8>) {
    match version {
        Version::V1 => encode_v1(endpoints, out),
        Version::V2 => encode_v2(endpoints, out),
    }
}

fn encode_v1(endpoints: Option<Endpoints>, out: &mut Vec<u8>) {
    let Some(Endpoints { source, destination }) = endpoints else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let (ports, ends) = (
        (source.port(), destination.port()),
        (source.ip(), destination.ip()),
    );
    // Writing to a vector cannot fail.
    let _ = match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            write!(out, "PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1)
        }
        (from, to) => {
            let (from, to) = (ipv6(from), ipv6(to));
            write!(out, "PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1)
        }
    };
}

fn encode_v2(endpoints: Option<Endpoints>, out: &mut Vec<u8>) {
    out.extend_from_slice(&SIGNATURE);
    let Some(Endpoints { source, destination }) = endpoints else {
        out.extend_from_slice(&[0x20, 0x00, 0, 0]);
        return;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&ipv6(from).octets());
            out.extend_from_slice(&ipv6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
