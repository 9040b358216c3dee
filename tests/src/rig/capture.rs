//! Packet captures, read by an independent decoder.

use super::net::Namespace;
use super::{run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running capture; stopped when dropped.
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures L2TP on an interface of a namespace into `file`.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path) -> Self {
        let child = namespace
            .command("tcpdump")
            .args(["-U", "-q", "-B", "32768", "-s", "400", "-i", interface, "-w"])
            .arg(file)
            .args(["udp", "port", "1701"])
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
        let _ = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status();
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
            !Self::filter(file, "l2tp").is_empty(),
            "the capture holds no L2TP"
        );
        let bad = Self::filter(file, "_ws.malformed || _ws.expert.severity == error");
        assert!(bad.is_empty(), "tshark finds errors:\n{}", bad.join("\n"));
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}
