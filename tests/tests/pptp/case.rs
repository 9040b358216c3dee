//! What every case needs: a gateway, guests with a capture of what each exchanges with it, and the verdict.

use sluice_tests::rig::{Capture, Gateway, Guest, Lab, Namespace, Pptp, ready};
use std::path::PathBuf;
use tempfile::TempDir;

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse";

/// A configuration with more lines of the listener's own table.
pub(crate) fn config(pptp: &str) -> String {
    format!(
        r#"
[gateway]
name = "pptp.test"
state_dir = "{{dir}}/state"

[[listener]]
protocol = "pptp"
addresses = ["10.99.0.1"]

[listener.pptp]
{pptp}

[network]
forwarding = "enable"

[pools.default]
ipv4 = ["10.64.0.0/24"]
ipv6 = ["2001:db8:64::/48"]
dns = ["192.0.2.53"]
"#
    )
}

/// A gateway and what is around it.
pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    pub(crate) lab: Lab,
    captures: Vec<Capture>,
    files: TempDir,
}

impl Case {
    /// Starts a gateway with users alice and bob. `None` where tests with real clients are left out.
    pub(crate) fn start(config: &str) -> Option<Self> {
        ready().then(|| {
            let lab = Lab::new();
            Self {
                gateway: Gateway::start(&lab.edge, config, &[("alice", PASSWORD), ("bob", PASSWORD)]),
                lab,
                captures: Vec::new(),
                files: tempfile::tempdir().unwrap(),
            }
        })
    }

    /// Boots a guest on the gateway's own network, and captures all PPTP it exchanges.
    pub(crate) fn guest(&mut self, host: u8) -> Guest {
        let guest = Guest::boot(&self.lab.edge, "br0", "10.99.0", host, None);
        let (edge, tap) = (&self.lab.edge, guest.tap());
        let file = self.files.path().join(tap);
        self.captures
            .push(Capture::start(edge, tap, Capture::PPTP, &file));
        guest
    }

    /// Captures elsewhere; part of the verdict too.
    pub(crate) fn capture(&mut self, namespace: &Namespace, interface: &str) {
        let file = self
            .files
            .path()
            .join(format!("{}-{interface}", namespace.name()));
        self.captures
            .push(Capture::start(namespace, interface, Capture::PPTP, &file));
    }

    /// A file of the case.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Ends the case: the gateway ends in order and has logged no error, and tshark finds nothing wrong in what was
    /// captured. Gives the packets of the first capture that match each filter.
    #[track_caller]
    pub(crate) fn end(mut self, filters: &[&str]) -> Vec<Vec<String>> {
        let status = self.gateway.stop();
        let log = self.gateway.log();
        assert_eq!(status, Some(0), "the gateway's exit status");
        let mut bad = log
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("panicked"));
        if let Some(line) = bad.next() {
            panic!("the gateway has logged {line}");
        }
        let files: Vec<PathBuf> = self.captures.drain(..).map(Capture::stop).collect();
        for file in &files {
            Capture::assert_clean(file);
        }
        let found = filters.iter().map(|filter| Capture::filter(&files[0], filter));
        found.collect()
    }
}

/// How a user dials the gateway.
pub(crate) fn dial(user: &str) -> Pptp {
    Pptp::new(Lab::GATEWAY, user, PASSWORD)
}

/// Pings from a guest: all must be answered.
#[track_caller]
pub(crate) fn ping(guest: &mut Guest, words: &str) {
    let text = guest.must(&format!("ping -n -c 3 -i 0.4 -W 3 {words}"));
    assert!(text.contains(" 0% packet loss"), "{text}");
}
