//! Files out of reach (Landlock, Linux 5.13 and later).

use super::SandboxConfig;
use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use std::path::PathBuf;

/// The newest interface used. An older kernel gives what it has of it.
const INTERFACE: ABI = ABI::V6;

/// What stays readable on every host: names, certificates and time zones, libraries that name resolution loads,
/// what the runtime reads of the machine, and the state of the process and the network.
const READ: [&str; 12] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/proc",
    "/sys",
    "/dev/urandom",
];

/// What stays writable on every host: the network settings, for a reload.
const SETTINGS: &str = "/proc/sys/net";

/// Devices.
const DEVICES: [&str; 2] = ["/dev/net/tun", "/dev/null"];

pub(super) fn restrict(config: &SandboxConfig) -> Result<String, String> {
    let status = enforce(config).map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Ok("only its own directories can be written".to_owned()),
        (RulesetStatus::PartiallyEnforced, _) => {
            Ok("only its own directories can be written, as far as this kernel's Landlock goes".to_owned())
        }
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("Landlock is not enabled; start the kernel with lsm=landlock,… to have it".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("this kernel has no Landlock (5.13 or later has)".to_owned()),
    }
}

fn enforce(config: &SandboxConfig) -> Result<landlock::RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(INTERFACE);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write: BitFlags<AccessFs> = all & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let settings = read | AccessFs::WriteFile | AccessFs::Truncate;
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    // The program itself, so that a panic can name its lines.
    let program: Option<PathBuf> = std::env::current_exe().ok();
    Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(INTERFACE))?
        .create()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(program, AccessFs::ReadFile))?
        .add_rules(path_beneath_rules([SETTINGS], settings))?
        .add_rules(path_beneath_rules(DEVICES, devices))?
        .add_rules(path_beneath_rules(&config.read, read))?
        .add_rules(path_beneath_rules(&config.write, write))?
        .restrict_self()
}
