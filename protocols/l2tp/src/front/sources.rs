//! How many tunnels each source has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Counts by source. It has as many entries as there are tunnels at the most.
#[derive(Debug, Default)]
pub(super) struct Sources {
    counts: HashMap<IpAddr, usize>,
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, of which a single line has one at least (RFC 6177).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Sources {
    pub(super) fn count(&self, address: IpAddr) -> usize {
        self.counts.get(&source(address)).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, address: IpAddr) {
        *self.counts.entry(source(address)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        let source = source(address);
        if let Some(count) = self.counts.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_source_and_nothing_is_left_of_what_is_gone() {
        let mut sources = Sources::default();
        let [a, b, other, v4, mapped]: [IpAddr; 5] = [
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:0:1::1",
            "192.0.2.1",
            "::ffff:192.0.2.1",
        ]
        .map(|text| text.parse().unwrap());
        for address in [a, b, v4, mapped] {
            sources.add(address);
        }
        assert_eq!([a, other, v4].map(|address| sources.count(address)), [2, 0, 2]);
        for address in [b, a, v4, v4, other] {
            sources.remove(address);
        }
        assert!(sources.counts.is_empty());
    }
}
