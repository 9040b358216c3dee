//! The kernel's network settings under /proc/sys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where they are.
const ROOT: &str = "/proc/sys";

/// A setting by its path under /proc/sys, such as `net/ipv4/ip_forward`.
fn path(key: &str) -> PathBuf {
    Path::new(ROOT).join(key)
}

/// The value; `None` if this kernel or this host has no such setting.
pub(super) fn read(key: &str) -> Option<String> {
    fs::read_to_string(path(key))
        .ok()
        .map(|value| value.trim().to_owned())
}

pub(super) fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value)
}

/// The name as sysctl(8) takes it: with dots, unless a part of it (`eth0.7`) has one.
pub(super) fn name(key: &str) -> String {
    if key.contains('.') {
        key.to_owned()
    } else {
        key.replace('/', ".")
    }
}

/// A setting of one interface.
pub(super) fn of_link(family: &str, link: &str, setting: &str) -> String {
    format!("net/{family}/conf/{link}/{setting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_sysctl_takes() {
        assert_eq!(name("net/ipv4/ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(
            name(&of_link("ipv4", "eth0.7", "rp_filter")),
            "net/ipv4/conf/eth0.7/rp_filter"
        );
        assert_eq!(read("net/ipv4/no_such_setting"), None);
    }
}
