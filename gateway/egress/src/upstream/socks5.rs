//! The client's side of SOCKS5 (RFC 1928) with user and password (RFC 1929).

use super::{Fault, Handshake, Login, Progress, Refusal};
use sluice_auth::Host;
use sluice_spi::{ChannelFailure, Target};
use std::net::{IpAddr, SocketAddr};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
/// The version of the login itself (RFC 1929, 2).
const LOGIN_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

enum State {
    Method,
    Login,
    Reply,
}

/// One handshake.
pub(crate) struct Client {
    state: State,
    /// The login's message; `None`: there is none.
    login: Option<Vec<u8>>,
    request: Vec<u8>,
    /// What is to be sent now.
    out: Vec<u8>,
    /// What was received of the present message: never more than that.
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(target: &Target, login: Option<&Login>) -> Self {
        let out = match login {
            Some(_) => vec![VERSION, 2, NO_LOGIN, PASSWORD],
            None => vec![VERSION, 1, NO_LOGIN],
        };
        Self {
            state: State::Method,
            login: login.map(login_message),
            request: request(target),
            out,
            buffer: Vec::new(),
        }
    }

    /// Goes on with the present message, if it is whole.
    fn step(&mut self) -> Result<Progress, Refusal> {
        match (&self.state, self.buffer.as_slice()) {
            (State::Method, [VERSION, NO_LOGIN]) => self.ask(),
            (State::Method, [VERSION, PASSWORD]) => {
                let message = self.login.take().ok_or(Refusal::Fault(Fault::Malformed))?;
                self.next(State::Login, message);
            }
            (State::Method, [VERSION, 0xff]) => return Err(Refusal::Fault(Fault::Login)),
            // Its version should be the login's own; there are servers that say theirs.
            (State::Login, [LOGIN_VERSION | VERSION, 0]) => self.ask(),
            (State::Login, [LOGIN_VERSION | VERSION, _]) => return Err(Refusal::Fault(Fault::Login)),
            (_, [VERSION] | []) | (State::Login, [LOGIN_VERSION]) | (State::Reply, [VERSION, 0]) => {}
            (State::Reply, [VERSION, 0, _, rest @ ..]) => return bound(rest),
            // The rest of a refusal says nothing more, and some leave it out.
            (State::Reply, [VERSION, code, ..]) => {
                return Err(Refusal::Reply(u16::from(*code), meaning(*code)));
            }
            _ => return Err(Refusal::Fault(Fault::Malformed)),
        }
        Ok(Progress::Going)
    }

    fn next(&mut self, state: State, out: Vec<u8>) {
        self.state = state;
        self.out = out;
        self.buffer.clear();
    }

    fn ask(&mut self) {
        let request = std::mem::take(&mut self.request);
        self.next(State::Reply, request);
    }
}

impl Handshake for Client {
    fn transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    fn receive(&mut self, input: &[u8]) -> Result<(usize, Progress), Refusal> {
        for (index, octet) in input.iter().enumerate() {
            self.buffer.push(*octet);
            let progress = self.step()?;
            if progress != Progress::Going {
                return Ok((index + 1, progress));
            }
        }
        Ok((input.len(), Progress::Going))
    }
}

/// The login's message (RFC 1929, 2). Both lengths were checked with the configuration.
fn login_message(login: &Login) -> Vec<u8> {
    let mut out = vec![LOGIN_VERSION];
    for octets in [login.user.as_bytes(), login.password.expose()] {
        let length = u8::try_from(octets.len()).unwrap_or(u8::MAX);
        out.push(length);
        out.extend(octets.iter().take(usize::from(length)));
    }
    out
}

/// The request (RFC 1928, 4). A name has 253 octets at the most.
fn request(target: &Target) -> Vec<u8> {
    let mut out = vec![VERSION, CONNECT, 0];
    match &target.host {
        Host::Address(IpAddr::V4(address)) => {
            out.push(IPV4);
            out.extend(address.octets());
        }
        Host::Address(IpAddr::V6(address)) => {
            out.push(IPV6);
            out.extend(address.octets());
        }
        Host::Name(name) => {
            out.push(NAME);
            out.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
            out.extend(name.as_str().bytes().take(usize::from(u8::MAX)));
        }
    }
    out.extend(target.port.to_be_bytes());
    out
}

/// The address and port of a reply that means success (RFC 1928, 6), from the address type on.
fn bound(rest: &[u8]) -> Result<Progress, Refusal> {
    let address = match rest {
        [] => return Ok(Progress::Going),
        [IPV4, rest @ ..] => address::<4>(rest),
        [IPV6, rest @ ..] => address::<16>(rest),
        [NAME, length, rest @ ..] if rest.len() >= usize::from(*length) + 2 => {
            return Ok(Progress::Reached(None));
        }
        [NAME, ..] => None,
        _ => return Err(Refusal::Fault(Fault::Malformed)),
    };
    Ok(address.map_or(Progress::Going, |address| {
        let known = !address.ip().is_unspecified() && address.port() != 0;
        Progress::Reached(known.then_some(address))
    }))
}

fn address<const N: usize>(octets: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (address, rest) = octets.split_first_chunk::<N>()?;
    let port = rest.first_chunk::<2>()?;
    Some(SocketAddr::new(
        IpAddr::from(*address).to_canonical(),
        u16::from_be_bytes(*port),
    ))
}

/// What a reply code (RFC 1928, 6) means to the client.
fn meaning(code: u8) -> ChannelFailure {
    match code {
        2 => ChannelFailure::Denied,
        3 => ChannelFailure::NetworkUnreachable,
        4 => ChannelFailure::HostUnreachable,
        5 => ChannelFailure::Refused,
        6 => ChannelFailure::TimedOut,
        7 => ChannelFailure::UpstreamCommand,
        8 => ChannelFailure::UpstreamAddress,
        _ => ChannelFailure::Upstream,
    }
}
