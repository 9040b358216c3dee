//! The interop rig: network namespaces made by the test, the gateway running natively in one of them, and
//! clients nobody here wrote, each in a user-mode-linux guest with a real kernel, `pppd` and `xl2tpd`.
//!
//! It needs root and the packages that `make test` installs. All traffic stays in the namespaces.

mod capture;
mod dial;
mod gateway;
mod guest;
mod names;
mod net;
mod pptp;

pub use capture::Capture;
pub use dial::{Link, Xl2tpd};
pub use gateway::Gateway;
pub use guest::{Answer, Guest};
pub use names::{Names, Say};
pub use net::{Lab, Namespace, Running};
pub use pptp::Pptp;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Leaves the rig's tests out where it is set, for machines without root or without the packages.
pub const SKIP: &str = "SLUICE_SKIP_INTEROP";

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
#[track_caller]
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

/// Whether to run the rig's tests: false where [`SKIP`] is set. Panics where something is missing, so that tests
/// which cannot run are never taken for tests that pass.
#[track_caller]
pub fn ready() -> bool {
    if std::env::var_os(SKIP).is_some_and(|value| !value.is_empty()) {
        eprintln!("left out, because {SKIP} is set");
        return false;
    }
    if let Some(why) = missing() {
        panic!("{why}; or set {SKIP}=1 to leave the tests with real clients out");
    }
    true
}

/// Why the rig cannot run here, if it cannot.
fn missing() -> Option<String> {
    if run(Command::new("id").arg("-u")).ok()?.trim() != "0" {
        return Some("tests with real clients need root".to_owned());
    }
    let tools = [
        "linux.uml",
        "pppd",
        "xl2tpd",
        "pptp",
        "ip",
        "ss",
        "nft",
        "tshark",
        "tcpdump",
        "busybox",
        "ping",
        "curl",
    ];
    let mut places: Vec<_> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    let absent: Vec<&str> = tools
        .into_iter()
        .filter(|tool| !places.iter().any(|place| place.join(tool).exists()))
        .collect();
    (!absent.is_empty()).then(|| format!("not installed: {}: run make test-deps", absent.join(", ")))
}
