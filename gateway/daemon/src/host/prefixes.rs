//! Ranges and lists of blocks as few prefixes.

use sluice_auth::IpPrefix;
use std::net::{IpAddr, Ipv4Addr};

/// The prefixes that cover the addresses from `first` to `last` and no others; at most 62. None if `first` is
/// behind `last`.
pub fn cover(first: Ipv4Addr, last: Ipv4Addr) -> Vec<IpPrefix> {
    let mut prefixes = Vec::new();
    let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
    while next <= last {
        // The largest aligned block that begins here and does not go past the end.
        let aligned = next.trailing_zeros().min(32);
        let fitting = (last - next + 1).ilog2();
        let bits = aligned.min(fitting);
        let address = u32::try_from(next).map(Ipv4Addr::from);
        let length = u8::try_from(32 - bits);
        if let (Ok(address), Ok(length)) = (address, length) {
            prefixes.extend(IpPrefix::new(address.into(), length));
        }
        next += 1 << bits;
    }
    prefixes
}

/// The same addresses in as few prefixes as possible, sorted: without those inside others, halves joined.
pub fn merge(mut prefixes: Vec<IpPrefix>) -> Vec<IpPrefix> {
    prefixes.sort_by_key(|prefix| (prefix.address(), prefix.length()));
    let mut merged: Vec<IpPrefix> = Vec::new();
    for prefix in prefixes {
        if merged.last().is_some_and(|last| covers(last, &prefix)) {
            continue;
        }
        merged.push(prefix);
        while let [.., left, right] = merged.as_slice()
            && let Some(joined) = join(left, right)
        {
            merged.truncate(merged.len() - 2);
            merged.push(joined);
        }
    }
    merged
}

/// Whether all of `inner` lies in `outer`.
pub(super) fn covers(outer: &IpPrefix, inner: &IpPrefix) -> bool {
    outer.length() <= inner.length() && outer.contains(inner.address())
}

/// The prefix of which these are the two halves.
fn join(left: &IpPrefix, right: &IpPrefix) -> Option<IpPrefix> {
    let length = left.length().checked_sub(1)?;
    let whole = IpPrefix::new(left.address(), length)?;
    let halves = left.length() == right.length() && left != right;
    (halves && whole.address() == left.address() && covers(&whole, right)).then_some(whole)
}

/// The prefix of one address.
pub(super) fn host(address: IpAddr) -> Option<IpPrefix> {
    IpPrefix::new(address, if address.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<IpPrefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_are_covered_exactly() {
        let cover = |first: &str, last: &str| cover(first.parse().unwrap(), last.parse().unwrap());
        assert_eq!(cover("10.0.0.0", "10.0.255.255"), list(&["10.0.0.0/16"]));
        assert_eq!(
            cover("10.0.0.10", "10.0.0.20"),
            list(&["10.0.0.10/31", "10.0.0.12/30", "10.0.0.16/30", "10.0.0.20/32"])
        );
        assert_eq!(cover("0.0.0.0", "255.255.255.255"), list(&["0.0.0.0/0"]));
        assert_eq!(
            cover("255.255.255.255", "255.255.255.255"),
            list(&["255.255.255.255/32"])
        );
        assert_eq!(cover("10.0.0.2", "10.0.0.1"), []);
        assert_eq!(cover("0.0.0.1", "255.255.255.254").len(), 62);
    }

    #[test]
    fn blocks_are_merged() {
        let merged = merge(list(&[
            "10.1.0.0/16",
            "10.0.0.0/16",
            "10.0.3.0/24",
            "10.2.0.0/16",
            "fd00::/48",
        ]));
        assert_eq!(merged, list(&["10.0.0.0/15", "10.2.0.0/16", "fd00::/48"]));
        let merged = merge(list(&[
            "10.0.0.0/25",
            "10.0.0.128/26",
            "10.0.0.192/26",
            "10.0.0.0/25",
        ]));
        assert_eq!(merged, list(&["10.0.0.0/24"]));
        assert_eq!(
            merge(list(&["10.0.1.0/24", "10.0.2.0/24"])),
            list(&["10.0.1.0/24", "10.0.2.0/24"])
        );
        assert_eq!(merge(list(&["0.0.0.0/1", "128.0.0.0/1"])), list(&["0.0.0.0/0"]));
    }
}
