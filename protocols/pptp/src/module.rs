//! The module: facts, telling packets apart, and its factory.

use crate::config::Config;
use crate::front::PptpFront;
use crate::machine::Control;
use crate::names::{counts, drops};
use crate::registry::Shared;
use crate::wire::gre;
use crate::wire::message::{CONTROL, MAGIC};
use sluice_ppp::PppHeader;
use sluice_spi::config::Section;
use sluice_spi::wire::Reader;
use sluice_spi::{
    Claim, Demux, Descriptor, Entropy, Factory, Front, Machine, Module, Open, OpenError, PathKey, Resumption,
    ShardId, Shards, Transport,
};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Name of the module.
pub(crate) const NAME: &str = "pptp";
/// The port of control connections (RFC 2637, 1.3.1).
pub const PORT: u16 = 1723;

static DROP_REASONS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| [drops::ALL, sluice_ppp::DROP_REASONS].concat());

static DESCRIPTOR: LazyLock<Descriptor> = LazyLock::new(|| Descriptor {
    name: NAME,
    title: "PPTP",
    transport: Transport::Tcp,
    packets: Some(gre::IP_PROTOCOL),
    default_port: PORT,
    specifications: &["RFC 2637"],
    resumption: Resumption::Connections,
    drop_reasons: &DROP_REASONS,
    counters: counts::ALL,
});

/// PPTP.
#[derive(Clone, Copy, Debug)]
pub struct Pptp;

/// Makes fronts and machines with one configuration.
#[derive(Clone, Debug)]
pub struct PptpFactory {
    shared: Arc<Shared>,
}

impl PptpFactory {
    /// A factory for a configuration.
    pub fn new(config: Config) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
        }
    }
}

impl Module for Pptp {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn classify(&self, first: &[u8]) -> Claim {
        let mut reader = Reader::new(first);
        let (length, kind, magic) = (reader.u16(), reader.u16(), reader.u32());
        let wrong = |found: Option<u32>, right: u32| found.is_some_and(|found| found != right);
        if wrong(length.ok().map(|length| u32::from(length >> 8)), 0)
            || wrong(kind.ok().map(u32::from), CONTROL.into())
            || wrong(magic.ok(), MAGIC)
        {
            return Claim::NotMine;
        }
        match magic {
            Ok(_) => Claim::Mine,
            Err(_) => Claim::NeedMore,
        }
    }

    #[inline]
    fn demux(&self, packet: &[u8]) -> Demux {
        match gre::call_id(packet) {
            Some(call) => Demux::Data(PathKey(call.into())),
            None => Demux::Drop(drops::HEADER),
        }
    }

    fn conceal(&self, packet: &mut [u8]) {
        if let Some(header) = gre::Header::decode(packet)
            && let Some(payload) = packet.get_mut(header.payload)
        {
            PppHeader::conceal(payload);
        }
    }

    fn packet_filter(&self, shard: ShardId, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        Some(crate::filter::program(shard, shards))
    }

    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory> {
        Box::new(PptpFactory::new(Config::from_section(section)))
    }
}

impl Factory for PptpFactory {
    fn front(&self, shard: ShardId, shards: Shards, entropy: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        let front = PptpFront::new(Arc::clone(&self.shared), shard, shards, entropy);
        Some(Box::new(front))
    }

    fn machine(
        &self,
        open: Open<'_>,
        _: ShardId,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        let shared = Arc::clone(&self.shared);
        let control = match open {
            Open::Accepted { key, peer } => {
                let key = u16::try_from(key.0).map_err(|_| OpenError::Transport)?;
                Control::accepted(shared, key, peer, entropy, now)
            }
            Open::Restored { checkpoint } => {
                let saved = crate::checkpoint::read(checkpoint)?;
                Control::restored(shared, saved, entropy, now)?
            }
            Open::Initiated { .. } => return Err(OpenError::NotSupported),
        };
        Ok(Box::new(control))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_magic_cookie_decides() {
        let start = [0, 156, 0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1];
        for length in 0..start.len() {
            let expected = if length < 8 { Claim::NeedMore } else { Claim::Mine };
            assert_eq!(Pptp.classify(&start[..length]), expected);
        }
        for other in [
            &b"GET / HTTP/1.1"[..],
            &[5, 1, 0],
            &[0xc8, 2],
            &[0, 156, 0, 1, 0x1a, 0x2b, 0x3c, 0],
        ] {
            assert_eq!(Pptp.classify(other), Claim::NotMine);
        }
    }

    #[test]
    fn r39_passwords_in_gre_are_not_shown() {
        let mut packet = bytes::BytesMut::new();
        let start = gre::put(1, Some(1), None, &mut packet);
        packet.extend_from_slice(b"\xc0\x23\x01\x01\x00\x11\x03bob\x08hunter22");
        gre::finish(start, 1, &mut packet);
        Pptp.conceal(&mut packet);
        assert!(!packet.windows(6).any(|part| part == b"hunter"));
    }
}
