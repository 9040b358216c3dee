//! Asking name servers, by hickory-resolver. Its own cache is off: what is remembered, for how long, and who waits for
//! whom is decided by [`super::Names`], which counts it.

use super::{Answer, LookupFailure, MAX_ADDRESSES, ResolverConfig};
use crate::race::IpFamily;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use sluice_auth::HostName;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client of some name servers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client(Option<Arc<TokioResolver>>);

impl Client {
    pub(crate) fn new(servers: &[SocketAddr], config: &ResolverConfig) -> Self {
        let servers = servers.iter().map(|server| {
            let with_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(with_port);
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let servers = hickory_resolver::config::ResolverConfig::from_name_servers(servers.collect());
        let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = config.timeout;
        // What the library counts are tries after the first.
        options.attempts = usize::from(config.tries.max(1)) - 1;
        options.max_active_requests = config.at_once;
        Self(builder.build().ok().map(Arc::new))
    }

    /// Asks for the addresses of one family.
    pub(crate) async fn ask(&self, name: &HostName, family: IpFamily) -> Answer {
        let failed = |found| Answer {
            found: Err(found),
            ttl: None,
        };
        let Some(resolver) = &self.0 else {
            return failed(LookupFailure::ServerFailure);
        };
        let Ok(name) = Name::from_labels(name.as_str().split('.').map(str::as_bytes)) else {
            return failed(LookupFailure::NotFound);
        };
        let kind = match family {
            IpFamily::V4 => RecordType::A,
            IpFamily::V6 => RecordType::AAAA,
        };
        match resolver.lookup(name, kind).await {
            Ok(lookup) => answer(&lookup, family),
            Err(error) => failure(&error),
        }
    }
}

fn answer(lookup: &Lookup, family: IpFamily) -> Answer {
    let address = |data: &RData| match (data, family) {
        (RData::A(address), IpFamily::V4) => Some(IpAddr::from(address.0)),
        (RData::AAAA(address), IpFamily::V6) => Some(IpAddr::from(address.0)),
        _ => None,
    };
    let addresses = lookup.answers().iter().filter_map(|record| address(&record.data));
    let addresses: Vec<IpAddr> = addresses.take(MAX_ADDRESSES).collect();
    let found = if addresses.is_empty() {
        Err(LookupFailure::NoData)
    } else {
        Ok(addresses.into())
    };
    Answer {
        found,
        ttl: Some(lookup.valid_until().saturating_duration_since(Instant::now())),
    }
}

fn failure(error: &NetError) -> Answer {
    let (failure, ttl) = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => (LookupFailure::NotFound, none.negative_ttl),
            ResponseCode::NoError => (LookupFailure::NoData, none.negative_ttl),
            _ => (LookupFailure::ServerFailure, None),
        },
        NetError::Timeout => (LookupFailure::Timeout, None),
        _ => (LookupFailure::ServerFailure, None),
    };
    Answer {
        found: Err(failure),
        ttl: ttl.map(|seconds| Duration::from_secs(u64::from(seconds))),
    }
}
