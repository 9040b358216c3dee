//! What every case needs: a gateway, guests with a capture of what each exchanges with it, and the verdict.

use sluice_tests::rig::{Capture, Gateway, Guest, Lab, Link, Namespace, Xl2tpd, ready};
use std::path::PathBuf;
use tempfile::TempDir;

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse";

/// The pool that users get their addresses from where a case says nothing else.
pub(crate) const POOL: &str = r#"
[pools.default]
ipv4 = ["10.64.0.0/24"]
ipv6 = ["2001:db8:64::/48"]
dns = ["192.0.2.53", "192.0.2.54"]
"#;

/// A configuration: lines of the listener's own table, then other tables.
pub(crate) fn config(l2tp: &str, tables: &str) -> String {
    format!(
        r#"
[gateway]
name = "lns.test"
state_dir = "{{dir}}/state"

[[listener]]
protocol = "l2tp"
addresses = ["10.99.0.1", "fd99::1"]

[listener.l2tp]
{l2tp}

[network]
forwarding = "enable"
{tables}
"#
    )
}

/// A gateway and what is around it.
pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    pub(crate) lab: Lab,
    captures: Vec<Capture>,
    files: TempDir,
    expected: Option<&'static str>,
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
                expected: None,
            }
        })
    }

    /// Boots a guest on the gateway's own network, and captures all L2TP it exchanges.
    pub(crate) fn guest(&mut self, host: u8) -> Guest {
        self.guest_with(host, Capture::ALL)
    }

    /// Boots a guest on the gateway's own network, and captures what matches the filter.
    pub(crate) fn guest_with(&mut self, host: u8, filter: &str) -> Guest {
        let guest = Guest::boot(&self.lab.edge, "br0", "10.99.0", host, None);
        let file = self.file(guest.tap());
        self.captures
            .push(Capture::start(&self.lab.edge, guest.tap(), filter, &file));
        guest
    }

    /// Captures elsewhere; part of the verdict too.
    pub(crate) fn capture(&mut self, namespace: &Namespace, interface: &str) {
        let file = self.file(&format!("{}-{interface}", namespace.name()));
        self.captures
            .push(Capture::start(namespace, interface, Capture::ALL, &file));
    }

    /// A file of the case.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The gateway will log an error with these words, which is right.
    pub(crate) fn expect_error(&mut self, words: &'static str) {
        self.expected = Some(words);
    }

    /// Alice dials from a guest, and is up.
    #[track_caller]
    pub(crate) fn alice(&self, guest: &mut Guest) -> Link {
        dial("alice").connect(guest)
    }

    /// Ends the case: the gateway ends in order and has logged no error, and tshark finds nothing wrong in what was
    /// captured. Gives the captures, in the order they were begun, for a closer look.
    #[track_caller]
    pub(crate) fn end(mut self) -> Recorded {
        let status = self.gateway.stop();
        let log = self.gateway.log();
        assert_eq!(status, Some(0), "the gateway's exit status");
        let is_bad = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        let mut bad = log.lines().filter(is_bad);
        let is_expected = |line: &str| self.expected.is_some_and(|expected| line.contains(expected));
        if let Some(line) = bad.find(|line| !is_expected(line)) {
            panic!("the gateway has logged {line}");
        }
        let files: Vec<PathBuf> = self.captures.drain(..).map(Capture::stop).collect();
        for file in &files {
            Capture::assert_clean(file);
        }
        Recorded { files, _case: self }
    }
}

/// How a user dials the gateway's IPv4 address.
pub(crate) fn dial(user: &str) -> Xl2tpd {
    Xl2tpd::new(Lab::GATEWAY, user, PASSWORD)
}

/// The captures of a case that is over.
pub(crate) struct Recorded {
    files: Vec<PathBuf>,
    _case: Case,
}

impl Recorded {
    /// The packets of a capture that match one of tshark's filters.
    pub(crate) fn found(&self, capture: usize, filter: &str) -> Vec<String> {
        Capture::filter(&self.files[capture], filter)
    }

    /// The packets of a capture that match one of tshark's filters; there must be some.
    #[track_caller]
    pub(crate) fn must(&self, capture: usize, filter: &str) -> Vec<String> {
        let found = self.found(capture, filter);
        assert!(!found.is_empty(), "no packet matches {filter}");
        found
    }
}

/// Pings from a guest: all must be answered. Once one was, ping waits no longer for the last than for the next.
#[track_caller]
pub(crate) fn ping(guest: &mut Guest, words: &str) {
    let text = guest.must(&format!("ping -n -c 3 -i 0.4 -W 3 {words}"));
    assert!(text.contains(" 0% packet loss"), "{text}");
}
