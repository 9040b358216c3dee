//! The connections of a shard: each is accepted, lives and ends on the shard's own thread, as one task.
//!
//! `accept.rs` takes connections in, `task.rs` moves their bytes and does what their machines ask for, `way.rs` says
//! where their users may go and by which way. `handover.rs` takes all of them to the next worker, in the form of
//! `state.rs`.

mod accept;
mod datagrams;
mod handover;
mod state;
mod task;
mod way;

use self::handover::Handover;
use super::runner::Ground;
use arc_swap::ArcSwap;
use sluice_auth::HostName;
use sluice_auth::policy::Policy;
use sluice_core::Origin;
use sluice_dataplane::relay::Pool;
use sluice_dataplane::relay::datagrams::DatagramPool;
use sluice_egress::{Connector, IpFamily};
use sluice_metrics::Metrics;
use sluice_spi::ChannelFailure;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes read from a connection at once before its streams are joined: more than any handshake has.
const READ: usize = 16 << 10;

/// What the connections of a shard share.
pub(super) struct Streams {
    /// The driver of their machines.
    pub(super) ground: Rc<Ground>,
    /// The way to their targets.
    pub(super) connector: Connector,
    /// What is configured about that.
    pub(super) reach: Arc<crate::config::Egress>,
    /// Who may go where.
    pub(super) policy: Arc<ArcSwap<Policy>>,
    /// The pipes and the buffer of joined streams.
    pub(super) pool: Rc<Pool>,
    /// The memory of datagrams on their way.
    pub(super) datagrams: Rc<DatagramPool>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
    /// Where what is read goes for a moment: nothing is awaited while it is in use.
    buffer: RefCell<Box<[u8]>>,
    /// What there is of connections between two workers.
    pub(super) handover: Handover,
}

impl Streams {
    pub(super) fn new(
        ground: Rc<Ground>,
        connector: Connector,
        reach: Arc<crate::config::Egress>,
        policy: Arc<ArcSwap<Policy>>,
        pool: Rc<Pool>,
        datagrams: Rc<DatagramPool>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        Rc::new(Self {
            ground,
            connector,
            reach,
            policy,
            pool,
            datagrams,
            metrics,
            buffer: RefCell::new(vec![0; READ].into_boxed_slice()),
            handover: Handover::default(),
        })
    }

    /// The address that clients and their peers are told in place of a local one.
    fn external(&self, local: IpAddr) -> Option<IpAddr> {
        match local {
            IpAddr::V4(_) => self.reach.external_ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.reach.external_ipv6.map(IpAddr::V6),
        }
    }

    /// All addresses of a name.
    async fn addresses(&self, name: &HostName, asker: u64) -> Result<Vec<IpAddr>, ChannelFailure> {
        let deadline = tokio::time::Instant::now() + self.reach.timeouts.resolve;
        let look_up = |family| self.connector.resolver().lookup(name, family, asker, deadline);
        let (v6, v4) = tokio::join!(look_up(IpFamily::V6), look_up(IpFamily::V4));
        let found: Vec<IpAddr> = [v6, v4]
            .into_iter()
            .flatten()
            .flat_map(|found| found.to_vec())
            .collect();
        if found.is_empty() {
            return Err(ChannelFailure::HostUnreachable);
        }
        Ok(found)
    }
}

/// A listener of streams, as its connections know it.
#[derive(Clone)]
pub(super) struct Source {
    /// The listener's number in the driver.
    pub(super) listener: usize,
    /// Where its sessions come from.
    pub(super) origin: Rc<Origin>,
}

pub(super) use accept::accept;
