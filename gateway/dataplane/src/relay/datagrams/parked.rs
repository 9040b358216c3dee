//! A relay between two processes.

use super::super::parked::{duration, millis};
use super::handle::{Traffic, Volume};
use super::options::MAX_FLOWS;
use bytes::{BufMut, Bytes, BytesMut};
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::Reader;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The format of an encoded [`ParkedState`].
const FORMAT: u16 = 1;

const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// A relay that was stopped for a handover: its sockets, and all else. Datagrams in the sockets' buffers go with them.
#[derive(Debug)]
pub struct Parked {
    /// The socket that the client sends to.
    pub client: OwnedFd,
    /// The sockets that send to targets: at most one for each family and way.
    pub targets: Vec<OwnedFd>,
    /// All else.
    pub state: ParkedState,
}

/// What there is of a relay beside its sockets, its codec and what its owner gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedState {
    /// Where the client sends from; port 0: not known yet.
    pub client: SocketAddr,
    /// From the client to targets.
    pub up: Traffic,
    /// From targets to the client.
    pub down: Traffic,
    /// Who may answer, at most [`MAX_FLOWS`].
    pub peers: Vec<SocketAddr>,
    /// How long nothing had been received.
    pub silent: Duration,
    /// How long there had been a relay.
    pub age: Duration,
}

impl ParkedState {
    /// As bytes, with a format number and a checksum.
    pub fn encode(&self) -> Bytes {
        let peers = self.peers.get(..MAX_FLOWS).unwrap_or(&self.peers);
        let mut out = BytesMut::with_capacity(160 + peers.len() * 24);
        put_address(&mut out, self.client);
        for traffic in [self.up, self.down] {
            for volume in [traffic.received, traffic.delivered] {
                out.put_u64(volume.packets);
                out.put_u64(volume.bytes);
            }
        }
        out.put_u64(millis(self.silent));
        out.put_u64(millis(self.age));
        out.put_u32(u32::try_from(peers.len()).unwrap_or(u32::MAX));
        for &peer in peers {
            put_address(&mut out, peer);
        }
        checkpoint::seal(FORMAT, &out)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// Where they are damaged, of another format, or hold what no relay can be in.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (format, mut body) = checkpoint::open(bytes)?;
        if format != FORMAT {
            return Err(CheckpointError::Format(format));
        }
        let state = Self {
            client: address(&mut body)?,
            up: traffic(&mut body)?,
            down: traffic(&mut body)?,
            silent: duration(&mut body)?.ok_or(CheckpointError::Invalid("silence"))?,
            age: duration(&mut body)?.ok_or(CheckpointError::Invalid("age"))?,
            peers: peers(&mut body)?,
        };
        if !body.is_empty() {
            return Err(CheckpointError::Invalid("length"));
        }
        Ok(state)
    }
}

fn traffic(body: &mut Reader<'_>) -> Result<Traffic, CheckpointError> {
    let mut volume = || -> Result<Volume, CheckpointError> {
        Ok(Volume {
            packets: body.u64()?,
            bytes: body.u64()?,
        })
    };
    Ok(Traffic {
        received: volume()?,
        delivered: volume()?,
    })
}

fn peers(body: &mut Reader<'_>) -> Result<Vec<SocketAddr>, CheckpointError> {
    let count = usize::try_from(body.u32()?).unwrap_or(usize::MAX);
    if count > MAX_FLOWS {
        return Err(CheckpointError::Invalid("peers"));
    }
    (0..count).map(|_| address(body)).collect()
}

fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            out.put_u8(IPV4);
            out.put_slice(&address.ip().octets());
            out.put_u16(address.port());
        }
        SocketAddr::V6(address) => {
            out.put_u8(IPV6);
            out.put_slice(&address.ip().octets());
            out.put_u16(address.port());
            out.put_u32(address.scope_id());
        }
    }
}

fn address(body: &mut Reader<'_>) -> Result<SocketAddr, CheckpointError> {
    match body.u8()? {
        IPV4 => {
            let ip = Ipv4Addr::from(body.array::<4>()?);
            Ok((ip, body.u16()?).into())
        }
        IPV6 => {
            let ip = Ipv6Addr::from(body.array::<16>()?);
            Ok(SocketAddrV6::new(ip, body.u16()?, 0, body.u32()?).into())
        }
        _ => Err(CheckpointError::Invalid("address")),
    }
}
