//! The state of an open link as bytes, and back, so that a restart of the gateway negotiates nothing anew.

use super::auth::Auth;
use super::control::Echo;
use super::network::Network;
use super::{Phase, Ppp, parts};
use crate::api::{Carrier, Role};
use crate::config::{MIN_MRU, PppConfig};
use crate::cp::{Cp, Options};
use crate::fsm::State;
use crate::ipcp::{Ipcp, Servers};
use crate::ipv6cp::Ipv6cp;
use crate::lcp::LcpValues;
use crate::neighbour::{INITIAL_ADVERTISEMENTS, Schedule};
use crate::output::Env;
use crate::wire::AuthProtocol;
use bytes::{BufMut, BytesMut};
use sluice_auth::{Grants, Identity, Ipv6Prefix};
use sluice_spi::Entropy;
use sluice_spi::checkpoint::CheckpointError;
use sluice_spi::wire::{Reader, put_string16};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of the format written here. A change of what is written takes a new one.
const FORMAT: u16 = 2;
/// Servers of one kind kept: more than are ever told to a peer.
const MAX_SERVERS: usize = 8;
/// Stands for a time that is not set.
const NEVER: u32 = u32::MAX;

/// How a network protocol is found again.
const ABSENT: u8 = 0;
const OPEN: u8 = 1;
const STOPPED: u8 = 2;
const NEGOTIATING: u8 = 3;

type Result<T> = std::result::Result<T, CheckpointError>;

impl Ppp {
    /// Appends all that is needed to go on after a restart; false, and nothing appended, while no network
    /// protocol is open. There is no secret in it. Times are written as what remains.
    pub fn checkpoint(&self, out: &mut BytesMut, now: Instant) -> bool {
        let Some(network) = self.network.as_ref().filter(|network| network.path.is_some()) else {
            return false;
        };
        out.put_u16(FORMAT);
        out.put_u8(u8::from(self.server));
        out.put_u8(self.lcp.next_id());
        put_values(out, &self.lcp.options.ours);
        put_values(out, &self.lcp.options.peer);
        put_string16(out, self.auth.identity.as_deref().unwrap_or("").as_bytes());
        put_string16(out, self.peer_identification.as_deref().unwrap_or("").as_bytes());
        out.put_u8(self.auth.id);
        put_remaining(out, self.auth.next_challenge(now), now);
        put_remaining(out, self.echo.at, now);
        out.put_u8(u8::from(self.echo.refused));
        out.put_u8(u8::from(network.grants.is_some()));
        if let Some(grants) = &network.grants {
            put_grants(out, grants);
        }
        if put_state(out, network.ipcp.as_ref())
            && let Some(ipcp) = &network.ipcp
        {
            put_ipv4(out, ipcp.options.local);
            put_ipv4(out, ipcp.options.peer);
            ipcp.options
                .servers
                .into_iter()
                .for_each(|server| put_ipv4(out, server));
        }
        if put_state(out, network.ipv6cp.as_ref())
            && let Some(ipv6cp) = &network.ipv6cp
        {
            out.put_u64(ipv6cp.options.local);
            out.put_u64(ipv6cp.options.peer);
        }
        out.put_u8(network.schedule.initial_left);
        put_remaining(out, network.schedule.next, now);
        true
    }

    /// A link that goes on from what [`Ppp::checkpoint`] wrote. It says nothing by itself: the carrier asks
    /// [`Ppp::path`] what to install. A network protocol that was being negotiated begins anew. As a client it
    /// has no login any more: a peer that negotiates anew and asks for one is refused.
    pub fn restore(
        reader: &mut Reader<'_>,
        config: Arc<PppConfig>,
        carrier: Carrier,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Self> {
        match reader.u16()? {
            FORMAT => {}
            other => return Err(CheckpointError::Format(other)),
        }
        let role = if flag(reader, "role")? {
            Role::Server
        } else {
            Role::Client { login: None }
        };
        let mut link = Self::new(config, role, carrier, entropy);
        let next_id = reader.u8()?;
        let (ours, peer) = (values(reader)?, values(reader)?);
        link.lcp.options.adopt(ours, peer);
        link.lcp.resume(State::Opened, next_id);
        link.peer_mru = peer.mru();
        link.auth = Auth::resumed(identity(reader)?);
        link.peer_identification = text(reader)?;
        link.auth.id = reader.u8()?;
        if let Some(again) = remaining(reader, now)? {
            link.auth.chap().again = Some(again);
        }
        link.echo = Echo::resumed(remaining(reader, now)?, flag(reader, "echo state")?);
        let grants = match flag(reader, "grants")? {
            true => Some(Box::new(grants(reader)?)),
            false => None,
        };
        if grants.is_some() != link.server {
            return Err(CheckpointError::Invalid("grants"));
        }
        link.restore_network(reader, grants, now)?;
        Ok(link)
    }

    fn restore_network(
        &mut self,
        reader: &mut Reader<'_>,
        grants: Option<Box<Grants>>,
        now: Instant,
    ) -> Result<()> {
        let ipcp = self.restore_ipcp(reader, grants.as_deref())?;
        let ipv6cp = self.restore_ipv6cp(reader, grants.as_deref())?;
        let initial_left = reader.u8()?;
        if initial_left > INITIAL_ADVERTISEMENTS {
            return Err(CheckpointError::Invalid("router advertisements"));
        }
        let schedule = Schedule {
            initial_left,
            next: remaining(reader, now)?,
        };
        let mut network = Network {
            grants,
            ipcp,
            ipv6cp,
            schedule,
            deadline: None,
            path: None,
        };
        network.path = self.current_path(&network);
        if network.path.is_none() {
            return Err(CheckpointError::Invalid("network protocols"));
        }
        if let Some(cp) = network.ipcp.as_mut() {
            begin_if_new(cp, parts!(self, now));
        }
        if let Some(cp) = network.ipv6cp.as_mut() {
            begin_if_new(cp, parts!(self, now));
        }
        self.network = Some(Box::new(network));
        self.phase = Phase::Network;
        self.was_up = true;
        Ok(())
    }

    fn restore_ipcp(&mut self, reader: &mut Reader<'_>, grants: Option<&Grants>) -> Result<Option<Cp<Ipcp>>> {
        let Some((state, next_id)) = state(reader)? else {
            return Ok(None);
        };
        let options = match grants {
            Some(grants) => Ipcp::server(grants).ok_or(CheckpointError::Invalid("IPCP"))?,
            None => Ipcp::client(),
        };
        let mut cp = Cp::new(options);
        cp.resume(state, next_id);
        if state == State::Opened {
            let (local, peer) = (ipv4(reader)?, ipv4(reader)?);
            let mut servers = Servers::default();
            for server in &mut servers {
                *server = ipv4(reader)?;
            }
            // As the server, the granted address is the only one the peer may have.
            let is_granted = grants.is_none_or(|grants| grants.ipv4 == peer);
            let has_local = grants.is_some() || local.is_some_and(|local| !local.is_unspecified());
            if !is_granted || !has_local {
                return Err(CheckpointError::Invalid("IPv4 address"));
            }
            (cp.options.local, cp.options.peer, cp.options.servers) = (local, peer, servers);
        }
        Ok(Some(cp))
    }

    fn restore_ipv6cp(
        &mut self,
        reader: &mut Reader<'_>,
        grants: Option<&Grants>,
    ) -> Result<Option<Cp<Ipv6cp>>> {
        let Some((state, next_id)) = state(reader)? else {
            return Ok(None);
        };
        let options = match grants {
            Some(grants) if grants.ipv6_prefix.is_none() => return Err(CheckpointError::Invalid("IPV6CP")),
            Some(_) => Ipv6cp::server(),
            None => Ipv6cp::client(&mut *self.entropy),
        };
        let mut cp = Cp::new(options);
        cp.resume(state, next_id);
        if state == State::Opened {
            let (local, peer) = (reader.u64()?, reader.u64()?);
            if local == 0 || local == peer {
                return Err(CheckpointError::Invalid("interface identifier"));
            }
            (cp.options.local, cp.options.peer) = (local, peer);
        }
        Ok(Some(cp))
    }
}

/// A protocol that was being negotiated begins anew.
fn begin_if_new<O: Options>(cp: &mut Cp<O>, env: &mut Env<'_>) {
    if cp.state() == State::Initial {
        cp.open(env);
        cp.up(env);
    }
}

fn put_values(out: &mut BytesMut, values: &LcpValues) {
    let flags = [
        values.mru.is_some(),
        values.accm.is_some(),
        values.auth.is_some(),
        values.pfc,
        values.acfc,
    ];
    out.put_u8(
        flags
            .iter()
            .rev()
            .fold(0, |bits, &flag| bits << 1 | u8::from(flag)),
    );
    out.put_u8(values.auth.map_or(0, method_number));
    out.put_u16(values.mru.unwrap_or(0));
    out.put_u32(values.accm.unwrap_or(0));
    out.put_u32(values.magic);
}

fn values(reader: &mut Reader<'_>) -> Result<LcpValues> {
    let flags = reader.u8()?;
    let method = reader.u8()?;
    let (mru, accm, magic) = (reader.u16()?, reader.u32()?, reader.u32()?);
    let is_set = |bit: u8| flags >> bit & 1 == 1;
    if flags >= 1 << 5 || (is_set(0) && mru < MIN_MRU) {
        return Err(CheckpointError::Invalid("LCP options"));
    }
    Ok(LcpValues {
        mru: is_set(0).then_some(mru),
        accm: is_set(1).then_some(accm),
        auth: method_of(method, is_set(2))?,
        magic,
        pfc: is_set(3),
        acfc: is_set(4),
    })
}

fn method_number(method: AuthProtocol) -> u8 {
    match method {
        AuthProtocol::Pap => 1,
        AuthProtocol::Chap => 2,
        AuthProtocol::MsChapV2 => 3,
        AuthProtocol::Eap => 4,
    }
}

fn method_of(number: u8, is_set: bool) -> Result<Option<AuthProtocol>> {
    let found = AuthProtocol::ALL
        .into_iter()
        .find(|&method| method_number(method) == number);
    match (is_set, number) {
        (false, 0) => Ok(None),
        (true, _) if found.is_some() => Ok(found),
        _ => Err(CheckpointError::Invalid("authentication method")),
    }
}

fn put_grants(out: &mut BytesMut, grants: &Grants) {
    put_ipv4(out, grants.ipv4);
    put_ipv4(out, grants.ipv4_gateway);
    out.put_u8(u8::from(grants.ipv6_prefix.is_some()));
    if let Some(prefix) = grants.ipv6_prefix {
        out.put_u8(prefix.length());
        out.extend_from_slice(&prefix.address().octets());
    }
    for servers in [&grants.dns4, &grants.nbns] {
        let servers = servers.get(..MAX_SERVERS).unwrap_or(servers);
        put_count(out, servers.len());
        servers
            .iter()
            .for_each(|server| out.extend_from_slice(&server.octets()));
    }
    let servers = grants.dns6.get(..MAX_SERVERS).unwrap_or(&grants.dns6);
    put_count(out, servers.len());
    servers
        .iter()
        .for_each(|server| out.extend_from_slice(&server.octets()));
    out.put_u8(u8::from(grants.mtu.is_some()));
    out.put_u16(grants.mtu.unwrap_or(0));
}

fn grants(reader: &mut Reader<'_>) -> Result<Grants> {
    let (ipv4_peer, ipv4_gateway) = (ipv4(reader)?, ipv4(reader)?);
    let ipv6_prefix = match flag(reader, "prefix")? {
        true => {
            let length = reader.u8()?;
            let address = Ipv6Addr::from(reader.array::<16>()?);
            Some(Ipv6Prefix::new(address, length).ok_or(CheckpointError::Invalid("prefix"))?)
        }
        false => None,
    };
    let mut servers4 = || -> Result<Vec<Ipv4Addr>> {
        (0..count(reader)?)
            .map(|_| Ok(Ipv4Addr::from(reader.array::<4>()?)))
            .collect()
    };
    let (dns4, nbns) = (servers4()?, servers4()?);
    let dns6 = (0..count(reader)?)
        .map(|_| Ok(Ipv6Addr::from(reader.array::<16>()?)))
        .collect::<Result<_>>()?;
    let has_mtu = flag(reader, "MTU")?;
    let mtu = Some(reader.u16()?).filter(|_| has_mtu);
    Ok(Grants {
        ipv4: ipv4_peer,
        ipv4_gateway,
        ipv6_prefix,
        dns4,
        dns6,
        nbns,
        mtu,
    })
}

/// Writes how a protocol stands; whether its options are to follow.
fn put_state<O: Options>(out: &mut BytesMut, cp: Option<&Cp<O>>) -> bool {
    let (state, next_id) = match cp {
        None => (ABSENT, 0),
        Some(cp) if cp.is_given_up() => (ABSENT, 0),
        Some(cp) if cp.is_open() => (OPEN, cp.next_id()),
        Some(cp) if cp.state().is_negotiating() => (NEGOTIATING, cp.next_id()),
        Some(cp) => (STOPPED, cp.next_id()),
    };
    out.put_u8(state);
    out.put_u8(next_id);
    state == OPEN
}

fn state(reader: &mut Reader<'_>) -> Result<Option<(State, u8)>> {
    let (state, next_id) = (reader.u8()?, reader.u8()?);
    match state {
        ABSENT => Ok(None),
        OPEN => Ok(Some((State::Opened, next_id))),
        STOPPED => Ok(Some((State::Stopped, next_id))),
        NEGOTIATING => Ok(Some((State::Initial, next_id))),
        _ => Err(CheckpointError::Invalid("state of a network protocol")),
    }
}

fn put_ipv4(out: &mut BytesMut, address: Option<Ipv4Addr>) {
    out.put_u8(u8::from(address.is_some()));
    out.extend_from_slice(&address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
}

fn ipv4(reader: &mut Reader<'_>) -> Result<Option<Ipv4Addr>> {
    let is_set = flag(reader, "IPv4 address")?;
    let address = Ipv4Addr::from(reader.array::<4>()?);
    Ok(Some(address).filter(|_| is_set))
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u8(u8::try_from(count).unwrap_or(u8::MAX));
}

fn count(reader: &mut Reader<'_>) -> Result<u8> {
    let count = reader.u8()?;
    if usize::from(count) > MAX_SERVERS {
        return Err(CheckpointError::Invalid("number of servers"));
    }
    Ok(count)
}

fn flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CheckpointError::Invalid(what)),
    }
}

fn put_remaining(out: &mut BytesMut, at: Option<Instant>, now: Instant) {
    let remaining = at.map(|at| at.saturating_duration_since(now).as_millis());
    let remaining = remaining.map_or(NEVER, |ms| u32::try_from(ms).unwrap_or(NEVER - 1));
    out.put_u32(remaining);
}

fn remaining(reader: &mut Reader<'_>, now: Instant) -> Result<Option<Instant>> {
    let remaining = reader.u32()?;
    Ok((remaining != NEVER).then(|| now + Duration::from_millis(u64::from(remaining))))
}

fn text(reader: &mut Reader<'_>) -> Result<Option<Box<str>>> {
    let length = usize::from(reader.u16()?);
    let bytes = reader.take(length)?;
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::Invalid("text"))?;
    Ok(Some(text.into()).filter(|_| length > 0))
}

fn identity(reader: &mut Reader<'_>) -> Result<Option<Box<str>>> {
    let identity = text(reader)?;
    match &identity {
        Some(name) if Identity::parse(name.as_bytes()).is_none() => Err(CheckpointError::Invalid("identity")),
        _ => Ok(identity),
    }
}
