//! What is kept of a control connection over a restart: the connection with its established calls, in the envelope of
//! `sluice_spi::checkpoint`. The socket is the gateway's to keep; what was read of a message that is not whole, and
//! what the socket had not taken, goes with the connection. Calls that are being set up are not kept, and no secret is.

use crate::codec::DataState;
use crate::machine::{Call, CallState, Control, Kind};
use crate::wire::Stream;
use crate::wire::message::{Start, TEXT};
use bytes::{BufMut, Bytes, BytesMut};
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::{Reader, put_string16};
use sluice_spi::{LocalRef, PeerAddr};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Number of this format.
const FORMAT: u16 = 1;

/// A control connection read from a checkpoint.
pub(crate) struct Saved {
    pub(crate) key: u16,
    pub(crate) peer: PeerAddr,
    pub(crate) remote: Start,
    pub(crate) generation: u16,
    pub(crate) stream: Stream,
    pub(crate) unsent: Vec<u8>,
    pub(crate) calls: Vec<SavedCall>,
}

/// A call read from a checkpoint, and its PPP.
pub(crate) struct SavedCall {
    pub(crate) call: Call,
    pub(crate) ppp: Vec<u8>,
}

/// Writes an established connection's checkpoint.
pub(crate) fn write(control: &Control, now: Instant) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_u16(control.key);
    put_address(control.peer.remote, &mut out);
    put_address(control.peer.local, &mut out);
    let remote = &control.remote;
    out.put_u16(remote.version);
    out.put_u32(remote.framing);
    out.put_u32(remote.bearer);
    out.put_u16(remote.channels);
    out.put_u16(remote.firmware);
    put_string16(&mut out, &remote.host);
    put_string16(&mut out, &remote.vendor);
    out.put_u16(control.generation);
    put_string16(&mut out, control.stream.held());
    let unsent = [&control.unsent[..], &control.output].concat();
    put_bytes(&mut out, &unsent);
    let place = out.len();
    out.put_u16(0);
    let mut count = 0u16;
    for call in control.calls.values() {
        if call.state == CallState::Established && call.up && put_call(call, &mut out, now) {
            count += 1;
        }
    }
    sluice_spi::wire::patch_u16(&mut out, place, count);
    checkpoint::seal(FORMAT, &out)
}

fn put_address(address: SocketAddr, out: &mut BytesMut) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// Appends a call; false and nothing where its PPP is not up.
fn put_call(call: &Call, out: &mut BytesMut, now: Instant) -> bool {
    let Some(ppp) = &call.ppp else { return false };
    let mut link = BytesMut::new();
    if !ppp.checkpoint(&mut link, now) {
        return false;
    }
    out.put_u32(call.local.0);
    out.put_u16(call.peer_id);
    out.put_u8(match call.kind {
        Kind::Outgoing => 0,
        Kind::Incoming => 1,
    });
    out.put_u16(call.serial);
    for text in [&call.calling, &call.called] {
        put_string16(out, text.as_deref().unwrap_or_default().as_bytes());
    }
    out.put_u32(call.framing);
    out.put_u32(call.speed);
    out.put_u16(call.window);
    put_string16(out, &call.data.to_bytes());
    put_bytes(out, &link);
    true
}

/// Reads a checkpoint. Nothing in it is believed before it was looked at.
pub(crate) fn read(bytes: &[u8]) -> Result<Saved, CheckpointError> {
    let (format, mut reader) = checkpoint::open(bytes)?;
    if format != FORMAT {
        return Err(CheckpointError::Format(format));
    }
    let reader = &mut reader;
    let key = id(reader)?;
    let peer = PeerAddr {
        remote: address(reader)?,
        local: address(reader)?,
    };
    let remote = Start {
        version: reader.u16()?,
        framing: reader.u32()?,
        bearer: reader.u32()?,
        channels: reader.u16()?,
        firmware: reader.u16()?,
        host: name(reader)?,
        vendor: name(reader)?,
    };
    let generation = reader.u16()?;
    let stream = Stream::resume(&string(reader)?).ok_or(CheckpointError::Invalid("message"))?;
    let unsent = octets(reader)?;
    let count = reader.u16()?;
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.push(call(reader)?);
    }
    if !reader.is_empty() {
        return Err(CheckpointError::Truncated);
    }
    Ok(Saved {
        key,
        peer,
        remote,
        generation,
        stream,
        unsent,
        calls,
    })
}

fn id(reader: &mut Reader<'_>) -> Result<u16, CheckpointError> {
    match reader.u16()? {
        0 => Err(CheckpointError::Invalid("identifier")),
        id => Ok(id),
    }
}

fn address(reader: &mut Reader<'_>) -> Result<SocketAddr, CheckpointError> {
    let ip = match reader.u8()? {
        4 => IpAddr::from(reader.array::<4>()?),
        6 => IpAddr::from(reader.array::<16>()?),
        _ => return Err(CheckpointError::Invalid("address family")),
    };
    Ok(SocketAddr::new(ip, reader.u16()?))
}

fn string(reader: &mut Reader<'_>) -> Result<Vec<u8>, CheckpointError> {
    let length = reader.u16()?;
    Ok(reader.take(length.into())?.to_vec())
}

fn name(reader: &mut Reader<'_>) -> Result<Vec<u8>, CheckpointError> {
    let name = string(reader)?;
    match name.len() <= TEXT {
        true => Ok(name),
        false => Err(CheckpointError::Invalid("name")),
    }
}

fn octets(reader: &mut Reader<'_>) -> Result<Vec<u8>, CheckpointError> {
    let length = usize::try_from(reader.u32()?).map_err(|_| CheckpointError::Truncated)?;
    Ok(reader.take(length)?.to_vec())
}

/// A text for display; an empty one is none.
fn text(reader: &mut Reader<'_>) -> Result<Option<String>, CheckpointError> {
    let text = String::from_utf8(string(reader)?).map_err(|_| CheckpointError::Invalid("text"))?;
    Ok((!text.is_empty()).then_some(text))
}

fn call(reader: &mut Reader<'_>) -> Result<SavedCall, CheckpointError> {
    let local = LocalRef(reader.u32()?);
    let [_, _, high, low] = local.0.to_be_bytes();
    let id = u16::from_be_bytes([high, low]);
    let peer_id = reader.u16()?;
    let kind = match reader.u8()? {
        0 => Kind::Outgoing,
        1 => Kind::Incoming,
        _ => return Err(CheckpointError::Invalid("kind of call")),
    };
    let mut call = Call::new(local, id, peer_id, kind);
    call.state = CallState::Established;
    call.up = true;
    call.serial = reader.u16()?;
    call.calling = text(reader)?;
    call.called = text(reader)?;
    call.framing = reader.u32()?;
    call.speed = reader.u32()?;
    call.window = reader.u16()?;
    let data = string(reader)?;
    call.data = DataState::from_bytes(&data).ok_or(CheckpointError::Invalid("data numbers"))?;
    let ppp = octets(reader)?;
    Ok(SavedCall { call, ppp })
}
