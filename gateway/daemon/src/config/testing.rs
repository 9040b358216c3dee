//! A module that does nothing, for tests of everything around modules.

use super::Modules;
use sluice_spi::config::Section;
use sluice_spi::{
    Claim, Demux, Descriptor, DropReason, Entropy, Factory, Front, Machine, Module, Open, OpenError,
    Resumption, ShardId, Shards, Transport,
};
use std::time::Instant;

/// A module with two keys of its own.
struct Echo;

static ECHO: Descriptor = Descriptor {
    name: "echo",
    title: "Echo",
    transport: Transport::Udp,
    packets: None,
    default_port: 7,
    specifications: &["RFC 862"],
    resumption: Resumption::Checkpoint,
    drop_reasons: &["echo_drop"],
    counters: &[],
};

struct EchoFactory;

impl Factory for EchoFactory {
    fn front(&self, _: ShardId, _: Shards, _: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        None
    }

    fn machine(
        &self,
        _: Open<'_>,
        _: ShardId,
        _: Box<dyn Entropy>,
        _: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        Err(OpenError::NotSupported)
    }
}

impl Module for Echo {
    fn descriptor(&self) -> &'static Descriptor {
        &ECHO
    }

    fn classify(&self, _: &[u8]) -> Claim {
        Claim::NotMine
    }

    fn steer(&self, _: &[u8], _: Shards) -> Option<ShardId> {
        None
    }

    fn demux(&self, _: &[u8]) -> Demux {
        Demux::Drop(DropReason("echo_drop"))
    }

    fn steering_program(&self, _: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        None
    }

    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory> {
        section.secret("secret");
        section.integer("window", 4, 1..=10);
        Box::new(EchoFactory)
    }
}

/// The modules of the tests: this one.
pub(crate) const MODULES: Modules<'static> = &[&Echo];
