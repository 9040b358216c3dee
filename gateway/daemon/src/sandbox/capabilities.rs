//! Capabilities down to those a gateway needs.

use super::SandboxConfig;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a gateway needs: TUN device, routes and nftables; raw sockets of GRE; ports below 1024.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::NET_ADMIN, "net_admin"),
    (CapabilitySet::NET_RAW, "net_raw"),
    (CapabilitySet::NET_BIND_SERVICE, "net_bind_service"),
];

/// Capabilities a set can hold.
const BITS: u32 = u64::BITS;

/// Entries of a directory looked at for files of others.
const MAX_ENTRIES: usize = 1024;

pub(super) fn drop_all_but_needed(config: &SandboxConfig) -> Result<String, String> {
    let had = capabilities(None).map_err(|error| error.to_string())?;
    let mut kept: Vec<(CapabilitySet, &str)> = NEEDED
        .into_iter()
        .filter(|(capability, _)| had.permitted.contains(*capability))
        .collect();
    let foreign = had.permitted.contains(CapabilitySet::DAC_OVERRIDE) && has_files_of_others(config);
    if foreign {
        kept.push((
            CapabilitySet::DAC_OVERRIDE,
            "dac_override (files in its directories are not its own)",
        ));
    }
    let keep = kept
        .iter()
        .fold(CapabilitySet::empty(), |all, (capability, _)| all | *capability);
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            // An error means that this kernel has no such capability.
            if !keep.contains(capability) && capability_is_in_bounding_set(capability) == Ok(true) {
                remove_capability_from_bounding_set(capability).map_err(|error| error.to_string())?;
            }
        }
    }
    // Kernels before 4.3 have no ambient set, and then nothing in it.
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(|error| error.to_string())?;
    let names: Vec<&str> = kept.iter().map(|(_, name)| *name).collect();
    Ok(if names.is_empty() {
        "none left".to_owned()
    } else {
        format!("only {}", names.join(", "))
    })
}

/// Whether something this process works with belongs to another user, so that root needs more than ownership to
/// reach it: a directory of the user who called sudo, say.
fn has_files_of_others(config: &SandboxConfig) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let foreign = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.uid() != own);
    config.read.iter().chain(&config.write).any(|path| {
        let entries = path.read_dir().into_iter().flatten().take(MAX_ENTRIES).flatten();
        foreign(path) || entries.map(|entry| entry.path()).any(|path| foreign(&path))
    })
}
