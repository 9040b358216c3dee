//! The only list of protocol modules, and the election between modules that share a port.
//!
//! L2F, L2TPv2 and L2TPv3 share UDP port 1701 and are told apart by the version in their first two octets.
//! Adding a protocol is one more line in [`MODULES`].

use sluice_l2tp::L2tp;
use sluice_pptp::Pptp;
use sluice_socks::Socks;
use sluice_spi::{Claim, Demux, Module};

/// All protocol modules, in the order in which they are asked about a packet.
pub static MODULES: &[&dyn Module] = &[&L2tp, &Pptp, &Socks];

/// The module with a name, as configuration gives it.
pub fn module(name: &str) -> Option<&'static dyn Module> {
    MODULES
        .iter()
        .copied()
        .find(|module| module.descriptor().name == name)
}

/// The one among modules that share a port whose protocol the first bytes are; `None`: nobody's, or too few
/// bytes to say.
pub fn elect<'a>(modules: &[&'a dyn Module], first: &[u8]) -> Option<&'a dyn Module> {
    modules
        .iter()
        .copied()
        .find(|module| module.classify(first) == Claim::Mine)
}

/// What a datagram is for the modules that share a port. What none of them claims is dropped under the reason
/// that the first of them has for it.
pub fn demux<'a>(modules: &[&'a dyn Module], packet: &[u8]) -> Option<(&'a dyn Module, Demux)> {
    let module = elect(modules, packet).or_else(|| modules.first().copied())?;
    Some((module, module.demux(packet)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::{DropReason, PathKey};
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_found() {
        let names: HashSet<&str> = MODULES.iter().map(|module| module.descriptor().name).collect();
        assert_eq!(names.len(), MODULES.len());
        for name in names {
            assert_eq!(module(name).map(|module| module.descriptor().name), Some(name));
        }
        assert!(module("nonsense").is_none());
    }

    #[test]
    fn names_of_reasons_and_counters_are_unique() {
        for module in MODULES {
            let descriptor = module.descriptor();
            for names in [descriptor.drop_reasons, descriptor.counters] {
                let unique: HashSet<&&str> = names.iter().collect();
                assert_eq!(unique.len(), names.len(), "{}", descriptor.name);
            }
        }
    }

    #[test]
    fn protocols_on_one_port_are_told_apart() {
        let demux = |packet: &[u8]| demux(MODULES, packet).map(|(_, demux)| demux);
        let dropped = |reason| Some(Demux::Drop(DropReason(reason)));
        assert_eq!(
            demux(&[0xc8, 2, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0]),
            Some(Demux::Control)
        );
        assert_eq!(
            demux(&[0, 2, 0, 3, 0, 4, 0xff]),
            Some(Demux::Data(PathKey(0x0003_0004)))
        );
        // L2F has three bits of version (RFC 2341, 4.1); L2TPv3 is version 3 (RFC 3931, 4.1.2.1).
        assert_eq!(demux(&[0xd0, 0x01, 1, 0]), dropped("l2f"));
        assert_eq!(demux(&[0xd0, 0x09, 1, 0]), dropped("l2f"));
        assert_eq!(demux(&[0xc8, 0x03, 0, 12]), dropped("l2tpv3"));
        assert_eq!(demux(&[0x00, 0x04]), dropped("version"));
        assert_eq!(demux(&[]), dropped("version"));
        assert!(elect(MODULES, &[0xd0, 0x01]).is_none());
        assert!(elect(MODULES, &[0xc8, 0x02]).is_some());
    }
}
