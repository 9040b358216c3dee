//! Packet captures, read by an independent decoder.

use super::net::Namespace;
use super::{run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Packets of a capture that are shown where a test fails.
const SHOWN: usize = 120;

/// A running capture; stopped when dropped.
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// What to capture of L2TP where little is said.
    pub const ALL: &'static str = "udp port 1701";
    /// What to capture of PPTP.
    pub const PPTP: &'static str = "tcp port 1723 or proto 47";
    /// L2TP over IPv4 without long data packets: for tests that move much. Bit 15 of the header tells messages
    /// from data (RFC 2661, 3.1).
    pub const SMALL: &'static str = "udp port 1701 and (udp[8] & 0x80 != 0 or less 200)";

    /// Captures what matches `filter` on an interface of a namespace into `file`.
    ///
    /// An interface that leads to another kernel shows packets as they are on the wire; on bridges, and pairs of
    /// interfaces within one kernel, several packets may still be one (segmentation offload).
    #[track_caller]
    pub fn start(namespace: &Namespace, interface: &str, filter: &str, file: &Path) -> Self {
        let child = namespace
            .command("tcpdump")
            .args(["-U", "-q", "--immediate-mode", "-B", "32768", "-s", "400"])
            .args(["-i", interface, "-w"])
            .arg(file)
            .arg(filter)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The file header is written once the capture is running.
        wait_for("a capture to start", Duration::from_secs(10), || {
            std::fs::metadata(file)
                .is_ok_and(|meta| meta.len() >= 24)
                .then_some(())
        });
        Self {
            child,
            file: file.to_owned(),
        }
    }

    /// Ends the capture and gives its file. tcpdump writes what it has when it is told to end.
    pub fn stop(mut self) -> PathBuf {
        self.end();
        self.file.clone()
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill")
                .args(["-INT", &self.child.id().to_string()])
                .status();
        }
        let _ = self.child.wait();
    }

    /// The packets of a capture that match one of tshark's display filters, a line each.
    pub fn filter(file: &Path, filter: &str) -> Vec<String> {
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(file).args(["-Y", filter]);
        run(&mut tshark)
            .unwrap_or_else(|error| panic!("{error}"))
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Panics where tshark finds a malformed packet or a protocol error.
    #[track_caller]
    pub fn assert_clean(file: &Path) {
        assert!(
            !Self::filter(file, "l2tp || pptp").is_empty(),
            "the capture holds neither L2TP nor PPTP"
        );
        let bad = Self::filter(file, "_ws.malformed || _ws.expert.severity == error");
        assert!(bad.is_empty(), "tshark finds errors:\n{}", bad.join("\n"));
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let lines = Self::filter(
                &self.file,
                "l2tp.type == 1 || lcp || pap || ipcp || ipv6cp || icmpv6",
            );
            let from = lines.len().saturating_sub(SHOWN);
            eprintln!("--- {}\n{}", self.file.display(), lines[from..].join("\n"));
        }
    }
}
