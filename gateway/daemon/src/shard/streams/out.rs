//! The way out to targets: what the configuration says of it now, on this shard.

use super::Streams;
use sluice_auth::HostName;
use sluice_egress::{Connector, Egress, IpFamily};
use sluice_spi::ChannelFailure;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// How targets are reached, by one configuration. All shards share it.
pub struct Reach {
    /// Names, upstreams and counters.
    pub egress: Arc<Egress>,
    /// What is configured.
    pub config: crate::config::Egress,
}

/// A configuration with this shard's sockets for it. Requests keep to the one that they began with.
pub(super) struct Out {
    pub(super) reach: Arc<Reach>,
    pub(super) connector: Connector,
}

impl Out {
    pub(super) fn new(reach: Arc<Reach>) -> Rc<Self> {
        Rc::new(Self {
            connector: Connector::new(reach.egress.clone()),
            reach,
        })
    }

    /// The address that clients and their peers are told in place of a local one.
    pub(super) fn external(&self, local: IpAddr) -> Option<IpAddr> {
        match local {
            IpAddr::V4(_) => self.reach.config.external_ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.reach.config.external_ipv6.map(IpAddr::V6),
        }
    }

    /// All addresses of a name.
    pub(super) async fn addresses(&self, name: &HostName, asker: u64) -> Result<Vec<IpAddr>, ChannelFailure> {
        let deadline = tokio::time::Instant::now() + self.reach.config.timeouts.resolve;
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

impl Streams {
    /// The way out as it is configured now.
    pub(super) fn out(&self) -> Rc<Out> {
        let now = self.reach.load();
        let mut out = self.out.borrow_mut();
        if !Arc::ptr_eq(&now, &out.reach) {
            *out = Out::new(Arc::clone(&now));
        }
        out.clone()
    }
}
