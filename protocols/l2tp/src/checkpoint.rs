//! What is kept of a tunnel over a restart: the tunnel with its established calls, in the envelope of
//! `sluice_spi::checkpoint`. Calls that are being set up are not kept, and no secret is.

use crate::codec::{DataState, Sequencing};
use crate::machine::{Call, CallState, ChannelState, Kind, Pending, Remote, Timer, Tunnel};
use crate::wire::header::{CONTROL_HEADER, MAX_CONTROL};
use crate::wire::message::CallErrors;
use bytes::{BufMut, Bytes, BytesMut};
use sluice_ppp::Accm;
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::{Reader, put_string16};
use sluice_spi::{LocalRef, PeerAddr};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// Number of this format.
const FORMAT: u16 = 1;
/// Most messages of a channel: its largest window and its longest queue together.
const MAX_MESSAGES: usize = 8192;
/// Longest silence after which a HELLO is due, as configuration bounds it.
const MAX_HELLO: Duration = Duration::from_secs(2 * 3600);

/// A tunnel read from a checkpoint.
pub(crate) struct SavedTunnel {
    pub(crate) key: u16,
    pub(crate) peer_tunnel: u16,
    pub(crate) peer: PeerAddr,
    pub(crate) initiated: bool,
    /// Host Name pattern and source of the rule for the peer.
    pub(crate) rule: (Option<String>, Option<String>),
    pub(crate) remote: Remote,
    pub(crate) generation: u16,
    pub(crate) serial: u32,
    pub(crate) channel: ChannelState,
    pub(crate) hello_in: Duration,
    pub(crate) calls: Vec<SavedCall>,
}

/// A call read from a checkpoint, and its PPP.
pub(crate) struct SavedCall {
    pub(crate) call: Call,
    pub(crate) ppp: Vec<u8>,
}

fn put_address(address: SocketAddr, out: &mut BytesMut) {
    match address {
        SocketAddr::V4(v4) => {
            out.put_u8(4);
            out.extend_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out.put_u8(6);
            out.extend_from_slice(&v6.ip().octets());
            out.put_u32(v6.scope_id());
        }
    }
    out.put_u16(address.port());
}

fn address(reader: &mut Reader<'_>) -> Result<SocketAddr, CheckpointError> {
    Ok(match reader.u8()? {
        4 => {
            let ip = IpAddr::from(reader.array::<4>()?);
            SocketAddr::new(ip, reader.u16()?)
        }
        6 => {
            let ip = reader.array::<16>()?.into();
            let scope = reader.u32()?;
            SocketAddrV6::new(ip, reader.u16()?, 0, scope).into()
        }
        _ => return Err(CheckpointError::Invalid("address family")),
    })
}

fn put_optional_u32(value: Option<u32>, out: &mut BytesMut) {
    out.put_u8(value.is_some().into());
    out.put_u32(value.unwrap_or_default());
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, CheckpointError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CheckpointError::Invalid("flag")),
    }
}

fn optional_u32(reader: &mut Reader<'_>) -> Result<Option<u32>, CheckpointError> {
    let there = flag(reader)?;
    let value = reader.u32()?;
    Ok(there.then_some(value))
}

fn string(reader: &mut Reader<'_>) -> Result<Vec<u8>, CheckpointError> {
    let length = reader.u16()?;
    Ok(reader.take(length.into())?.to_vec())
}

fn put_text(text: Option<&str>, out: &mut BytesMut) {
    out.put_u8(text.is_some().into());
    put_string16(out, text.unwrap_or_default().as_bytes());
}

fn text(reader: &mut Reader<'_>) -> Result<Option<String>, CheckpointError> {
    let there = flag(reader)?;
    let text = String::from_utf8(string(reader)?).map_err(|_| CheckpointError::Invalid("text"))?;
    Ok(there.then_some(text))
}

fn id(reader: &mut Reader<'_>) -> Result<u16, CheckpointError> {
    match reader.u16()? {
        0 => Err(CheckpointError::Invalid("identifier")),
        id => Ok(id),
    }
}

/// Writes a tunnel's checkpoint.
pub(crate) fn write(tunnel: &Tunnel, now: Instant) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_u16(tunnel.key);
    out.put_u16(tunnel.peer_tunnel);
    put_address(tunnel.peer.remote, &mut out);
    put_address(tunnel.peer.local, &mut out);
    out.put_u8(tunnel.initiated.into());
    let rule = tunnel.rule();
    put_text(rule.host_name.as_deref(), &mut out);
    put_text(rule.source.map(|source| source.to_string()).as_deref(), &mut out);
    out.put_u32(tunnel.remote.framing);
    put_optional_u32(tunnel.remote.bearer, &mut out);
    put_optional_u32(tunnel.remote.firmware.map(u32::from), &mut out);
    put_string16(&mut out, &tunnel.remote.host_name);
    put_string16(&mut out, &tunnel.remote.vendor);
    out.put_u16(tunnel.generation);
    out.put_u32(tunnel.serial);
    put_channel(&tunnel.channel.state(), &mut out);
    let hello = tunnel
        .timers
        .get(Timer::Hello)
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    out.put_u32(u32::try_from(hello.as_millis()).unwrap_or(u32::MAX));
    let place = out.len();
    out.put_u16(0);
    let mut count = 0u16;
    for call in tunnel.calls.values() {
        if call.state == CallState::Established && call.up && put_call(call, &mut out, now) {
            count += 1;
        }
    }
    sluice_spi::wire::patch_u16(&mut out, place, count);
    checkpoint::seal(FORMAT, &out)
}

fn put_channel(state: &ChannelState, out: &mut BytesMut) {
    out.put_u16(state.unacknowledged_from);
    out.put_u16(state.nr);
    out.put_u16(state.peer_window);
    for messages in [&state.flight, &state.queue] {
        out.put_u16(u16::try_from(messages.len()).unwrap_or(u16::MAX));
        for message in messages {
            out.put_u16(message.session);
            out.put_u16(message.owner);
            put_string16(out, &message.body);
        }
    }
}

/// Appends a call; false and nothing where its PPP is not up.
fn put_call(call: &Call, out: &mut BytesMut, now: Instant) -> bool {
    let Some(ppp) = &call.ppp else { return false };
    let mut link = BytesMut::new();
    if !ppp.checkpoint(&mut link, now) {
        return false;
    }
    out.put_u32(call.local.0);
    out.put_u16(call.sid);
    out.put_u16(call.peer_sid);
    out.put_u8(match call.kind {
        Kind::IncomingLns => 0,
        Kind::IncomingLac => 1,
        Kind::OutgoingLns => 2,
        Kind::OutgoingLac => 3,
    });
    out.put_u32(call.serial);
    for text in [
        &call.calling,
        &call.called,
        &call.sub_address,
        &call.private_group,
        &call.label,
    ] {
        put_text(text.as_deref(), out);
    }
    put_optional_u32(call.bearer, out);
    out.put_u32(call.framing);
    put_optional_u32(call.physical_channel, out);
    out.put_u32(call.tx_speed);
    put_optional_u32(call.rx_speed, out);
    out.put_u8(match call.sequencing {
        Sequencing::Off => 0,
        Sequencing::Mirror => 1,
        Sequencing::Always => 2,
    });
    put_string16(out, &call.data.to_bytes());
    for count in [
        call.errors.crc,
        call.errors.framing,
        call.errors.hardware,
        call.errors.buffer,
        call.errors.timeouts,
        call.errors.alignment,
    ] {
        out.put_u32(count);
    }
    out.put_u8(call.accm.is_some().into());
    out.put_u32(call.accm.map_or(0, |accm| accm.send));
    out.put_u32(call.accm.map_or(0, |accm| accm.receive));
    out.put_u32(u32::try_from(link.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&link);
    true
}

/// Reads a checkpoint. Nothing in it is believed before it was looked at.
pub(crate) fn read(bytes: &[u8]) -> Result<SavedTunnel, CheckpointError> {
    let (format, mut reader) = checkpoint::open(bytes)?;
    if format != FORMAT {
        return Err(CheckpointError::Format(format));
    }
    let reader = &mut reader;
    let key = id(reader)?;
    let peer_tunnel = id(reader)?;
    let peer = PeerAddr {
        remote: address(reader)?,
        local: address(reader)?,
    };
    let initiated = flag(reader)?;
    let rule = (text(reader)?, text(reader)?);
    let remote = Remote {
        framing: reader.u32()?,
        bearer: optional_u32(reader)?,
        firmware: optional_u32(reader)?
            .map(|number| u16::try_from(number).map_err(|_| CheckpointError::Invalid("firmware revision")))
            .transpose()?,
        host_name: string(reader)?,
        vendor: string(reader)?,
    };
    let generation = reader.u16()?;
    let serial = reader.u32()?;
    let channel = channel(reader)?;
    let hello_in = Duration::from_millis(reader.u32()?.into());
    if hello_in > MAX_HELLO {
        return Err(CheckpointError::Invalid("HELLO timer"));
    }
    let count = reader.u16()?;
    let mut calls = Vec::new();
    let mut locals = HashSet::new();
    for _ in 0..count {
        let saved = call(reader)?;
        if !locals.insert(saved.call.local) {
            return Err(CheckpointError::Invalid("session name"));
        }
        calls.push(saved);
    }
    if !reader.is_empty() {
        return Err(CheckpointError::Truncated);
    }
    Ok(SavedTunnel {
        key,
        peer_tunnel,
        peer,
        initiated,
        rule,
        remote,
        generation,
        serial,
        channel,
        hello_in,
        calls,
    })
}

fn channel(reader: &mut Reader<'_>) -> Result<ChannelState, CheckpointError> {
    let unacknowledged_from = reader.u16()?;
    let nr = reader.u16()?;
    let peer_window = id(reader)?;
    Ok(ChannelState {
        unacknowledged_from,
        nr,
        peer_window,
        flight: messages(reader)?,
        queue: messages(reader)?,
    })
}

fn messages(reader: &mut Reader<'_>) -> Result<Vec<Pending>, CheckpointError> {
    let count = usize::from(reader.u16()?);
    if count > MAX_MESSAGES {
        return Err(CheckpointError::Invalid("number of messages"));
    }
    let mut messages = Vec::new();
    for _ in 0..count {
        let message = Pending {
            session: reader.u16()?,
            owner: reader.u16()?,
            probe: false,
            body: string(reader)?.into(),
        };
        if message.body.is_empty() || message.body.len() > MAX_CONTROL - CONTROL_HEADER {
            return Err(CheckpointError::Invalid("message"));
        }
        messages.push(message);
    }
    Ok(messages)
}

fn call(reader: &mut Reader<'_>) -> Result<SavedCall, CheckpointError> {
    let local = LocalRef(reader.u32()?);
    let sid = id(reader)?;
    let peer_sid = id(reader)?;
    if local.0 & 0xffff != u32::from(sid) {
        return Err(CheckpointError::Invalid("session name"));
    }
    let kind = match reader.u8()? {
        0 => Kind::IncomingLns,
        1 => Kind::IncomingLac,
        2 => Kind::OutgoingLns,
        3 => Kind::OutgoingLac,
        _ => return Err(CheckpointError::Invalid("kind of call")),
    };
    let mut call = Call::new(local, sid, kind, CallState::Established);
    call.up = true;
    call.peer_sid = peer_sid;
    call.serial = reader.u32()?;
    call.calling = text(reader)?;
    call.called = text(reader)?;
    call.sub_address = text(reader)?;
    call.private_group = text(reader)?;
    call.label = text(reader)?;
    call.bearer = optional_u32(reader)?;
    call.framing = reader.u32()?;
    call.physical_channel = optional_u32(reader)?;
    call.tx_speed = reader.u32()?;
    call.rx_speed = optional_u32(reader)?;
    call.sequencing = match reader.u8()? {
        0 => Sequencing::Off,
        1 => Sequencing::Mirror,
        2 => Sequencing::Always,
        _ => return Err(CheckpointError::Invalid("sequencing")),
    };
    let data = string(reader)?;
    call.data = DataState::from_bytes(&data).ok_or(CheckpointError::Invalid("data numbers"))?;
    call.errors = CallErrors {
        crc: reader.u32()?,
        framing: reader.u32()?,
        hardware: reader.u32()?,
        buffer: reader.u32()?,
        timeouts: reader.u32()?,
        alignment: reader.u32()?,
    };
    let has_accm = flag(reader)?;
    let accm = Accm {
        send: reader.u32()?,
        receive: reader.u32()?,
    };
    call.accm = has_accm.then_some(accm);
    let length = usize::try_from(reader.u32()?).map_err(|_| CheckpointError::Truncated)?;
    let ppp = reader.take(length)?.to_vec();
    Ok(SavedCall { call, ppp })
}
