//! The module: facts, telling packets apart, steering, and its factory.

use crate::config::Config;
use crate::front::L2tpFront;
use crate::machine::Tunnel;
use crate::names::{counts, drops};
use crate::steering::SHORTEST;
use crate::ties::Ties;
use crate::wire::header::{Family, data_ids, family};
use sluice_spi::config::Section;
use sluice_spi::{
    Claim, Demux, Descriptor, Entropy, Factory, Front, Machine, Module, Open, OpenError, PathKey, Resumption,
    ShardId, Shards, Transport,
};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Name of the module.
pub(crate) const NAME: &str = "l2tp";
/// The port of L2TP and L2F (RFC 2661, 8.1).
pub const PORT: u16 = 1701;

static DROP_REASONS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| [drops::ALL, sluice_ppp::DROP_REASONS].concat());

static DESCRIPTOR: LazyLock<Descriptor> = LazyLock::new(|| Descriptor {
    name: NAME,
    title: "L2TPv2",
    transport: Transport::Udp,
    packets: None,
    default_port: PORT,
    specifications: &["RFC 2661", "RFC 3145"],
    resumption: Resumption::Checkpoint,
    drop_reasons: &DROP_REASONS,
    counters: counts::ALL,
});

/// L2TPv2.
#[derive(Clone, Copy, Debug)]
pub struct L2tp;

/// What all fronts and machines of a listener share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) ties: Ties,
}

/// Makes fronts and machines with one configuration.
#[derive(Clone, Debug)]
pub struct L2tpFactory {
    shared: Arc<Shared>,
}

impl L2tpFactory {
    /// A factory for a configuration.
    pub fn new(config: Config) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                ties: Ties::default(),
            }),
        }
    }
}

/// The tunnel id in a packet's header, by which its shard is known; 0: there is none yet.
fn tunnel_id(packet: &[u8]) -> Option<u16> {
    match family(packet) {
        Family::Control | Family::Data if packet.len() >= SHORTEST as usize => {
            data_ids(packet).map(|(tunnel, _)| tunnel)
        }
        _ => None,
    }
}

impl Module for L2tp {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn classify(&self, first: &[u8]) -> Claim {
        match family(first) {
            Family::Control | Family::Data => Claim::Mine,
            _ => Claim::NotMine,
        }
    }

    fn steer(&self, packet: &[u8], shards: Shards) -> Option<ShardId> {
        tunnel_id(packet)
            .filter(|&tunnel| tunnel != 0)
            .map(|tunnel| shards.of_id(tunnel))
    }

    #[inline]
    fn demux(&self, packet: &[u8]) -> Demux {
        match family(packet) {
            Family::Data => match data_ids(packet) {
                Some((tunnel, session)) => Demux::Data(PathKey(u32::from(tunnel) << 16 | u32::from(session))),
                None => Demux::Drop(drops::HEADER),
            },
            Family::Control => Demux::Control,
            Family::L2f => Demux::Drop(drops::L2F),
            Family::L2tpV3 => Demux::Drop(drops::L2TPV3),
            Family::Unknown => Demux::Drop(drops::VERSION),
        }
    }

    fn conceal(&self, packet: &mut [u8]) {
        crate::wire::conceal(packet);
    }

    fn steering_program(&self, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        (shards.count() > 1).then(|| crate::steering::program(shards))
    }

    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory> {
        Box::new(L2tpFactory::new(Config::from_section(section)))
    }
}

impl Factory for L2tpFactory {
    fn front(&self, shard: ShardId, shards: Shards, entropy: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        let front = L2tpFront::new(Arc::clone(&self.shared), shard, shards, entropy);
        Some(Box::new(front))
    }

    fn machine(
        &self,
        open: Open<'_>,
        _shard: ShardId,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        let shared = Arc::clone(&self.shared);
        let tunnel = match open {
            Open::Initiated { key, peer } => {
                let key = u16::try_from(key.0).map_err(|_| OpenError::NotSupported)?;
                Tunnel::initiated(shared, key, peer, entropy, now)
            }
            Open::Accepted { .. } => return Err(OpenError::Transport),
            Open::Restored { checkpoint } => {
                let saved = crate::checkpoint::read(checkpoint)?;
                Tunnel::restored(shared, saved, entropy, now)?
            }
        };
        Ok(Box::new(tunnel))
    }
}
