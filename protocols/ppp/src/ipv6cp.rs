//! The options of IPV6CP (RFC 5072, 4).

use crate::cp::{Failure, Judge, Judgement, Options};
use crate::header::protocol;
use crate::output::Env;
use crate::wire::{Ipv6cpOption, OptionWalk};
use sluice_spi::{Entropy, random_u64};
use std::net::Ipv6Addr;

/// Our interface identifier as the server: the same at each start, as RFC 5072, 4.1 recommends, and one that an
/// operator knows by heart. Its "u" bit is zero, as the RFC demands of what is no IEEE identifier.
const SERVER_ID: u64 = 1;
/// What a peer without an identifier is told to use, and what takes its place where that is our own.
const SUGGESTED_ID: u64 = 2;
const OTHER_SUGGESTED_ID: u64 = 3;
/// The "u" bit: globally unique (RFC 5072, 4.1).
const UNIVERSAL: u64 = 1 << 57;

/// IPV6CP's side of a negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipv6cp {
    /// Our interface identifier, never 0.
    pub(crate) local: u64,
    /// The peer's; 0: it has told none.
    pub(crate) peer: u64,
    /// Whether the option is left out, since the peer rejected it.
    silent: bool,
    /// Whether the peer was asked for an identifier it had left out.
    asked: bool,
    /// What we suggested in the last Configure-Nak.
    suggested: u64,
}

impl Ipv6cp {
    pub(crate) fn new(local: u64) -> Self {
        Self {
            local,
            peer: 0,
            silent: false,
            asked: false,
            suggested: 0,
        }
    }

    /// As the server.
    pub(crate) fn server() -> Self {
        Self::new(SERVER_ID)
    }

    /// As the client: a random identifier.
    pub(crate) fn client(entropy: &mut dyn Entropy) -> Self {
        Self::new(random_id(entropy, 0))
    }

    /// Our link-local address.
    pub(crate) fn local_address(&self) -> Ipv6Addr {
        link_local(self.local)
    }

    fn suggestion(&mut self) -> u64 {
        self.suggested = if self.local == SUGGESTED_ID {
            OTHER_SUGGESTED_ID
        } else {
            SUGGESTED_ID
        };
        self.suggested
    }
}

/// The link-local address with an interface identifier (RFC 5072, 5).
pub(crate) fn link_local(id: u64) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(id))
}

fn random_id(entropy: &mut dyn Entropy, not: u64) -> u64 {
    let mut id = random_u64(entropy) & !UNIVERSAL;
    // 0 is no identifier; the low ones are what servers and suggestions have.
    while id <= OTHER_SUGGESTED_ID || id == not {
        id = id.wrapping_add(OTHER_SUGGESTED_ID + 1) & !UNIVERSAL;
    }
    id
}

impl Options for Ipv6cp {
    const PROTOCOL: u16 = protocol::IPV6CP;

    fn restart(&mut self, _: &mut Env<'_>) {
        self.silent = false;
        self.asked = false;
    }

    fn request(&self, out: &mut Vec<u8>) {
        if !self.silent {
            Ipv6cpOption::InterfaceId(self.local).encode(out);
        }
    }

    fn judge(&mut self, options: OptionWalk<'_>, mut judge: Judge, _: &mut Env<'_>) -> Judgement {
        let mut peer = None;
        for option in options.flatten() {
            match Ipv6cpOption::decode(option) {
                Ipv6cpOption::InterfaceId(id) if id != 0 && id != self.local => peer = Some(id),
                Ipv6cpOption::InterfaceId(_) | Ipv6cpOption::BadLength(Ipv6cpOption::INTERFACE_ID) => {
                    let suggestion = self.suggestion();
                    judge.nak(option, |out| Ipv6cpOption::InterfaceId(suggestion).encode(out));
                }
                _ => judge.reject(option),
            }
        }
        let mentioned = options
            .flatten()
            .any(|option| option.kind == Ipv6cpOption::INTERFACE_ID);
        if !mentioned && !self.asked {
            self.asked = true;
            let suggestion = self.suggestion();
            judge.ask(|out| Ipv6cpOption::InterfaceId(suggestion).encode(out));
        }
        let judgement = judge.conclude();
        if matches!(judgement, Judgement::Ack) {
            self.peer = peer.unwrap_or(0);
        }
        judgement
    }

    fn acked(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn naked(&mut self, options: OptionWalk<'_>, env: &mut Env<'_>) -> Result<(), Failure> {
        for option in options.flatten() {
            if let Ipv6cpOption::InterfaceId(id) = Ipv6cpOption::decode(option) {
                // The peer's suggestion is taken, unless it is what we have just suggested to the peer.
                let usable = id != 0 && id != self.suggested && id != self.peer;
                self.local = if usable {
                    id
                } else {
                    random_id(env.entropy, self.peer)
                };
            }
        }
        Ok(())
    }

    fn rejected(&mut self, _: OptionWalk<'_>) -> Result<(), Failure> {
        self.silent = true;
        Ok(())
    }
}
