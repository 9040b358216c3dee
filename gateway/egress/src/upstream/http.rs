//! The client's side of HTTP's CONNECT (RFC 9110, 9.3.6; RFC 9112).
//!
//! Where the answer ends, the target's bytes begin, so its reading is strict: lines end in CR LF, fields have a name
//! and a colon, nothing is folded, and lengths that an answer to CONNECT gives count for nothing.

use super::{Fault, Handshake, Login, Progress, Refusal};
use base64ct::{Base64, Encoding};
use sluice_spi::{ChannelFailure, Target};
use zeroize::Zeroizing;

/// Most octets of all answers together, up to the empty line. Common servers have this limit for requests.
const MAX_ANSWER: usize = 8192;

/// One handshake.
pub(crate) struct Client {
    out: Vec<u8>,
    /// The present line without its end.
    line: Vec<u8>,
    /// Whether the last octet was a CR.
    cr: bool,
    /// Octets received of all answers.
    received: usize,
    /// The status of the present answer; `None`: its first line is still to come.
    status: Option<u16>,
}

impl Client {
    pub(crate) fn new(target: &Target, login: Option<&Login>) -> Self {
        // A target has no octet that could end a line or a field: it is an address, or a name of a few characters.
        let mut out = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(login) = login {
            let mut pair = Zeroizing::new(login.user.clone().into_bytes());
            pair.push(b':');
            pair.extend_from_slice(login.password.expose());
            out.extend_from_slice(b"Proxy-Authorization: Basic ");
            out.extend_from_slice(Base64::encode_string(&pair).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Self {
            out,
            line: Vec::new(),
            cr: false,
            received: 0,
            status: None,
        }
    }

    fn octet(&mut self, octet: u8) -> Result<Progress, Refusal> {
        self.received += 1;
        if self.received > MAX_ANSWER {
            return Err(MALFORMED);
        }
        match (self.cr, octet) {
            (true, b'\n') => {
                self.cr = false;
                let line = std::mem::take(&mut self.line);
                return self.end_of_line(&line);
            }
            (false, b'\r') => self.cr = true,
            (true, _) | (false, b'\n' | 0) => return Err(MALFORMED),
            (false, _) => self.line.push(octet),
        }
        Ok(Progress::Going)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Result<Progress, Refusal> {
        match (self.status, line) {
            (None, line) => self.status = Some(status(line).ok_or(MALFORMED)?),
            // An interim answer: the real one follows (RFC 9110, 15.2). 101 would mean another protocol.
            (Some(101), []) => return Err(MALFORMED),
            (Some(100..=199), []) => self.status = None,
            (Some(200..=299), []) => return Ok(Progress::Reached(None)),
            (Some(status), []) => return Err(refusal(status)),
            (Some(_), field) if is_field(field) => {}
            _ => return Err(MALFORMED),
        }
        Ok(Progress::Going)
    }
}

const MALFORMED: Refusal = Refusal::Fault(Fault::Malformed);

impl Handshake for Client {
    fn transmit(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    fn receive(&mut self, input: &[u8]) -> Result<(usize, Progress), Refusal> {
        for (index, octet) in input.iter().enumerate() {
            let progress = self.octet(*octet)?;
            if progress != Progress::Going {
                return Ok((index + 1, progress));
            }
        }
        Ok((input.len(), Progress::Going))
    }
}

/// The status of a first line: `HTTP/1.1 200 reason`, where the reason may be left out (RFC 9112, 4).
fn status(line: &[u8]) -> Option<u16> {
    let [
        b'H',
        b'T',
        b'T',
        b'P',
        b'/',
        b'1',
        b'.',
        b'0'..=b'9',
        b' ',
        rest @ ..,
    ] = line
    else {
        return None;
    };
    let ([a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
    | [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..]) = rest
    else {
        return None;
    };
    let digit = |octet: &u8| u16::from(octet - b'0');
    Some(digit(a) * 100 + digit(b) * 10 + digit(c))
}

/// A name of token characters and a colon (RFC 9112, 5; RFC 9110, 5.6.2).
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|octet| *octet == b':') else {
        return false;
    };
    let token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    line.get(..colon)
        .is_some_and(|name| !name.is_empty() && name.iter().all(token))
}

/// What a status (RFC 9110, 15) means to the client.
fn refusal(status: u16) -> Refusal {
    let failure = match status {
        401 | 407 => return Refusal::Fault(Fault::Login),
        403 | 451 => ChannelFailure::Denied,
        // That the target, or the proxy's way to it, is not there.
        404 | 410 | 502 | 503 => ChannelFailure::HostUnreachable,
        408 | 504 => ChannelFailure::TimedOut,
        _ => ChannelFailure::Upstream,
    };
    Refusal::Reply(status, failure)
}
