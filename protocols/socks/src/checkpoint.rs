//! What is kept of a connection over a restart: who is served what, in the envelope of `sluice_spi::checkpoint`. The
//! sockets are the gateway's to keep. A connection that is being set up is not kept, except where it waits for the peer
//! of a BIND, and no secret is.
//!
//! Without its sockets a checkpoint is worth nothing, so `Event::CheckpointDue` is never given: the gateway asks for
//! checkpoints when it hands the sockets over.

use crate::config::AuthMethod;
use crate::machine::{Connection, Established, Version, Wait};
use crate::wire::{Command, method};
use bytes::{BufMut, Bytes, BytesMut};
use sluice_auth::Host;
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::{MAX_TEXT, Reader, put_string16};
use sluice_spi::{MachineKey, PeerAddr, Target};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// Number of this format.
const FORMAT: u16 = 2;
/// Longest name of a user in octets: [`MAX_TEXT`] characters, each escaped to the longest form (`\u{10ffff}`).
const MAX_USER: usize = MAX_TEXT * 10;

/// A connection read from a checkpoint.
pub(crate) struct Saved {
    pub(crate) key: MachineKey,
    pub(crate) peer: PeerAddr,
    pub(crate) established: Established,
}

/// Writes a connection's checkpoint; `None` where nothing is established.
pub(crate) fn write(connection: &Connection, now: Instant) -> Option<Bytes> {
    let established = connection.established(now)?;
    let early = established.wait.as_ref().map_or(0, |wait| wait.early.len());
    let mut out = BytesMut::with_capacity(160 + early);
    out.put_u32(connection.key.0);
    put_address(connection.peer.remote, &mut out);
    put_address(connection.peer.local, &mut out);
    out.put_u8(established.version.number());
    out.put_u8(established.method.number());
    out.put_u8(established.command as u8);
    put_string16(&mut out, established.target.host.to_string().as_bytes());
    out.put_u16(established.target.port);
    put_string16(
        &mut out,
        established.user.as_deref().unwrap_or_default().as_bytes(),
    );
    put_optional(established.local, &mut out);
    put_optional(established.remote, &mut out);
    match &established.wait {
        Some(wait) => {
            out.put_u8(1);
            out.put_u64(u64::try_from(wait.left.as_millis()).unwrap_or(u64::MAX));
            out.put_u32(u32::try_from(wait.early.len()).unwrap_or(u32::MAX));
            out.put_slice(&wait.early);
        }
        None => out.put_u8(0),
    }
    Some(checkpoint::seal(FORMAT, &out))
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

fn put_optional(address: Option<SocketAddr>, out: &mut BytesMut) {
    match address {
        Some(address) => put_address(address, out),
        None => out.put_u8(0),
    }
}

/// Reads a checkpoint. Nothing in it is believed before it was looked at.
pub(crate) fn read(bytes: &[u8]) -> Result<Saved, CheckpointError> {
    let (format, mut reader) = checkpoint::open(bytes)?;
    if format != FORMAT {
        return Err(CheckpointError::Format(format));
    }
    let reader = &mut reader;
    let key = MachineKey(reader.u32()?);
    let peer = PeerAddr {
        remote: address(reader)?,
        local: address(reader)?,
    };
    let established = established(reader)?;
    if !reader.is_empty() {
        return Err(CheckpointError::Truncated);
    }
    let is_relay = established.command == Command::UdpAssociate;
    if is_relay && !matches!(established.target.host, Host::Address(_)) {
        return Err(CheckpointError::Invalid("client of a relay"));
    }
    if is_relay && established.version == Version::V4 {
        return Err(CheckpointError::Invalid("command"));
    }
    if established.wait.is_some() && established.command != Command::Bind {
        return Err(CheckpointError::Invalid("wait"));
    }
    Ok(Saved {
        key,
        peer,
        established,
    })
}

fn established(reader: &mut Reader<'_>) -> Result<Established, CheckpointError> {
    let version = match reader.u8()? {
        4 => Version::V4,
        5 => Version::V5,
        _ => return Err(CheckpointError::Invalid("version")),
    };
    let method = match reader.u8()? {
        method::NONE => AuthMethod::None,
        method::LOGIN => AuthMethod::Password,
        method::GSSAPI => AuthMethod::Gssapi,
        _ => return Err(CheckpointError::Invalid("method")),
    };
    let command = Command::from_number(reader.u8()?).ok_or(CheckpointError::Invalid("command"))?;
    let host = Host::parse(string(reader)?).map_err(|_| CheckpointError::Invalid("target"))?;
    let target = Target {
        host,
        port: reader.u16()?,
    };
    let user = string(reader)?;
    if user.len() > MAX_USER {
        return Err(CheckpointError::Invalid("user"));
    }
    let user = str::from_utf8(user).map_err(|_| CheckpointError::Invalid("user"))?;
    Ok(Established {
        version,
        method,
        command,
        target,
        user: (!user.is_empty()).then(|| user.into()),
        local: optional(reader)?,
        remote: optional(reader)?,
        wait: wait(reader)?,
    })
}

fn wait(reader: &mut Reader<'_>) -> Result<Option<Wait>, CheckpointError> {
    match reader.u8()? {
        0 => Ok(None),
        1 => {
            let left = Duration::from_millis(reader.u64()?);
            let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            let early = reader.take(length)?.to_vec();
            Ok(Some(Wait { left, early }))
        }
        _ => Err(CheckpointError::Invalid("flag")),
    }
}

fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], CheckpointError> {
    let length = reader.u16()?;
    Ok(reader.take(length.into())?)
}

fn optional(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, CheckpointError> {
    if reader.rest().first() == Some(&0) {
        reader.u8()?;
        return Ok(None);
    }
    address(reader).map(Some)
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
