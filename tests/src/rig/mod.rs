//! The interop rig: network namespaces made by the test, the gateway running natively in one of them, and
//! clients nobody here wrote, each in a user-mode-linux guest with a real kernel, `pppd` and `xl2tpd`.
//!
//! It needs root and the packages that `make test` installs. All traffic stays in the namespaces.

mod capture;
mod gateway;
mod guest;
mod net;

pub use capture::Capture;
pub use gateway::Gateway;
pub use guest::{Guest, Xl2tpd};
pub use net::{Lab, Namespace};

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Runs a command to its end; its standard output, or what it said when it failed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    Err(format!(
        "{command:?}: {status}\n{stdout}{}",
        String::from_utf8_lossy(&stderr)
    ))
}

/// Runs words split at spaces as a command.
pub fn sh(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    run(Command::new(words.next().unwrap_or("true")).args(words))
}

/// Waits until `done` gives something, looking every few milliseconds; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Why the rig cannot run here, if it cannot: it needs root and the packages of `make test`.
pub fn missing() -> Option<String> {
    if run(Command::new("id").arg("-u")).ok()?.trim() != "0" {
        return Some("the interop rig needs root".to_owned());
    }
    for tool in [
        "linux.uml",
        "pppd",
        "xl2tpd",
        "ip",
        "nft",
        "tshark",
        "tcpdump",
        "busybox",
        "ping",
    ] {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(tool).exists())
        });
        if !found {
            return Some(format!("{tool} is not installed: run make test-deps"));
        }
    }
    None
}
