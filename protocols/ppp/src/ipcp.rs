//! The options of IPCP (RFC 1332, 3; RFC 1877).

use crate::cp::{Failure, Judge, Judgement, Options};
use crate::header::protocol;
use crate::output::Env;
use crate::wire::{IpcpOption, OptionWalk};
use sluice_auth::Grants;
use std::net::Ipv4Addr;

/// Servers in the order of their option types: DNS 1, NBNS 1, DNS 2, NBNS 2.
pub(crate) type Servers = [Option<Ipv4Addr>; 4];

/// Types of the servers' options, in the same order.
const SERVER_TYPES: [u8; 4] = [
    IpcpOption::DNS1,
    IpcpOption::NBNS1,
    IpcpOption::DNS2,
    IpcpOption::NBNS2,
];

/// IPCP's side of a negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipcp {
    /// Whether we give the addresses.
    pub(crate) server: bool,
    /// Our own address as we ask for it; `None`: the option is left out. Unspecified: the peer is to say.
    pub(crate) local: Option<Ipv4Addr>,
    /// The peer's address: as the server the one it was assigned, as the client what it said.
    pub(crate) peer: Option<Ipv4Addr>,
    /// As the server what we tell, as the client what we ask for and were told.
    pub(crate) servers: Servers,
    /// Whether the peer was asked for an address option it had left out.
    asked_address: bool,
}

impl Ipcp {
    /// Serves what was granted; `None`: nothing of this family was.
    pub(crate) fn server(grants: &Grants) -> Option<Self> {
        let dns = |index: usize| grants.dns4.get(index).copied();
        let nbns = |index: usize| grants.nbns.get(index).copied();
        Some(Self {
            server: true,
            local: grants.ipv4_gateway,
            peer: Some(grants.ipv4?),
            servers: [dns(0), nbns(0), dns(1), nbns(1)],
            asked_address: false,
        })
    }

    /// Asks for an address and for name servers.
    pub(crate) fn client() -> Self {
        let unknown = Some(Ipv4Addr::UNSPECIFIED);
        Self {
            server: false,
            local: unknown,
            peer: None,
            servers: [unknown, None, unknown, None],
            asked_address: false,
        }
    }

    fn server_slot(&mut self, kind: u8) -> Option<&mut Option<Ipv4Addr>> {
        let index = SERVER_TYPES.iter().position(|&known| known == kind)?;
        self.servers.get_mut(index)
    }

    fn judge_as_server(&mut self, options: OptionWalk<'_>, judge: &mut Judge) {
        let mut has_address = false;
        for option in options.flatten() {
            match IpcpOption::decode(option) {
                IpcpOption::Address(address) => {
                    has_address = true;
                    if let Some(assigned) = self.peer
                        && assigned != address
                    {
                        judge.nak(option, |out| IpcpOption::Address(assigned).encode(out));
                    }
                }
                IpcpOption::Server(kind, address) => match self.server_slot(kind).copied().flatten() {
                    Some(ours) if ours == address => {}
                    Some(ours) => judge.nak(option, |out| IpcpOption::Server(kind, ours).encode(out)),
                    None => judge.reject(option),
                },
                _ => judge.reject(option),
            }
        }
        if let Some(assigned) = self.peer
            && !has_address
            && !self.asked_address
        {
            // Once only: a peer that still leaves it out is served all the same.
            self.asked_address = true;
            judge.ask(|out| IpcpOption::Address(assigned).encode(out));
        }
    }

    fn judge_as_client(&self, options: OptionWalk<'_>, judge: &mut Judge) -> Option<Ipv4Addr> {
        let mut peer = None;
        for option in options.flatten() {
            match IpcpOption::decode(option) {
                IpcpOption::Address(address) if !address.is_unspecified() => peer = Some(address),
                _ => judge.reject(option),
            }
        }
        peer
    }
}

impl Options for Ipcp {
    const PROTOCOL: u16 = protocol::IPCP;

    fn restart(&mut self, _: &mut Env<'_>) {
        self.asked_address = false;
        if !self.server {
            *self = Self {
                local: self.local.or(Some(Ipv4Addr::UNSPECIFIED)),
                ..Self::client()
            };
        }
    }

    fn request(&self, out: &mut Vec<u8>) {
        if let Some(local) = self.local {
            IpcpOption::Address(local).encode(out);
        }
        if !self.server {
            for (kind, server) in SERVER_TYPES.into_iter().zip(self.servers) {
                if let Some(server) = server {
                    IpcpOption::Server(kind, server).encode(out);
                }
            }
        }
    }

    fn judge(&mut self, options: OptionWalk<'_>, mut judge: Judge, _: &mut Env<'_>) -> Judgement {
        if self.server {
            self.judge_as_server(options, &mut judge);
            return judge.conclude();
        }
        let peer = self.judge_as_client(options, &mut judge);
        let judgement = judge.conclude();
        if matches!(judgement, Judgement::Ack) {
            self.peer = peer;
        }
        judgement
    }

    fn acked(&mut self) -> Result<(), Failure> {
        if !self.server && self.local.is_none_or(|local| local.is_unspecified()) {
            return Err(Failure::NoAddress);
        }
        Ok(())
    }

    fn naked(&mut self, options: OptionWalk<'_>, _: &mut Env<'_>) -> Result<(), Failure> {
        if self.server {
            // Our own address is not the peer's to choose: ask for the same again.
            return Ok(());
        }
        for option in options.flatten() {
            match IpcpOption::decode(option) {
                IpcpOption::Address(address) => self.local = self.local.map(|_| address),
                IpcpOption::Server(kind, address) => {
                    if let Some(slot) = self.server_slot(kind) {
                        *slot = slot.map(|_| address);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rejected(&mut self, options: OptionWalk<'_>) -> Result<(), Failure> {
        for option in options.flatten() {
            match option.kind {
                IpcpOption::ADDRESS if self.server => self.local = None,
                IpcpOption::ADDRESS => return Err(Failure::NoAddress),
                kind if !self.server => {
                    if let Some(slot) = self.server_slot(kind) {
                        *slot = None;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
