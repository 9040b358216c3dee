//! The module: facts, the election of connections, and its factory.

use crate::checkpoint;
use crate::config::Config;
use crate::machine::Connection;
use crate::names::{counts, drops};
use crate::wire::{VERSION4, VERSION5};
use sluice_auth::gss::ContextKeys;
use sluice_spi::config::Section;
use sluice_spi::{
    Claim, Descriptor, Entropy, Factory, Front, Machine, Module, Open, OpenError, Resumption, ShardId,
    Shards, Transport,
};
use std::sync::Arc;
use std::time::Instant;

/// Name of the module.
pub(crate) const NAME: &str = "socks";
/// The port of SOCKS (RFC 1928, 3).
pub const PORT: u16 = 1080;

static DESCRIPTOR: Descriptor = Descriptor {
    name: NAME,
    title: "SOCKS",
    transport: Transport::Tcp,
    packets: None,
    default_port: PORT,
    specifications: &["RFC 1928", "RFC 1929", "RFC 1961", "SOCKS4", "SOCKS4a"],
    resumption: Resumption::Connections,
    drop_reasons: drops::ALL,
    counters: counts::ALL,
};

/// SOCKS of all versions.
#[derive(Clone, Copy, Debug)]
pub struct Socks;

/// Makes machines with one configuration.
#[derive(Clone, Debug)]
pub struct SocksFactory {
    config: Arc<Config>,
}

impl SocksFactory {
    /// A factory for a configuration.
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }
}

impl Module for Socks {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn classify(&self, first: &[u8]) -> Claim {
        match first.first() {
            None => Claim::NeedMore,
            Some(&(VERSION5 | VERSION4)) => Claim::Mine,
            Some(_) => Claim::NotMine,
        }
    }

    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory> {
        Box::new(SocksFactory::new(Config::from_section(section)))
    }
}

impl Factory for SocksFactory {
    fn front(&self, _: ShardId, _: Shards, _: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        None
    }

    fn context_keys(&self) -> Option<&ContextKeys> {
        self.config.gssapi.as_ref().map(|gssapi| &gssapi.keys)
    }

    fn machine(
        &self,
        open: Open<'_>,
        _: ShardId,
        _: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        let config = Arc::clone(&self.config);
        let connection = match open {
            Open::Accepted { key, peer } => Connection::accepted(config, key, peer, now),
            Open::Restored { checkpoint } => Connection::restored(config, checkpoint::read(checkpoint)?, now),
            Open::Initiated { .. } => return Err(OpenError::NotSupported),
        };
        Ok(Box::new(connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_octet_decides() {
        for first in 0..=255u8 {
            let expected = match first {
                4 | 5 => Claim::Mine,
                _ => Claim::NotMine,
            };
            assert_eq!(Socks.classify(&[first]), expected);
            assert_eq!(Socks.classify(&[first, 1, 2]), expected);
        }
        assert_eq!(Socks.classify(&[]), Claim::NeedMore);
    }
}
