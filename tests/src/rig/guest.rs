//! A client: a guest kernel with real `pppd` and `xl2tpd`.

use super::net::Namespace;
use super::wait_for;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const BOOT: Duration = Duration::from_secs(60);
/// Longest time a command may take in a guest; the clock of a busy machine is generous.
const COMMAND: Duration = Duration::from_secs(240);

/// A running guest; ended when dropped.
pub struct Guest {
    job: TempDir,
    child: Child,
    next: u32,
    tap: String,
    namespace: String,
}

/// What a command in a guest gave.
#[derive(Debug)]
pub struct Answer {
    /// Its exit status.
    pub code: i32,
    /// Standard output and error.
    pub output: String,
}

impl Guest {
    /// Boots a guest on `bridge` of `namespace`, with the address `10.99.0.HOST/24` (or that of another
    /// network by `subnet`, such as `192.168.77`) and, where `gateway` says so, a default route.
    pub fn boot(namespace: &Namespace, bridge: &str, subnet: &str, host: u8, gateway: Option<&str>) -> Self {
        let job = tempfile::tempdir().unwrap();
        let tap = format!("tap{host}");
        namespace.sh(&format!("ip tuntap add {tap} mode tap")).unwrap();
        namespace.ip(&format!("link set {tap} master {bridge} up"));
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/init.sh");
        let console = std::fs::File::create(job.path().join("console.log")).unwrap();
        let ipv6 = if subnet == "10.99.0" {
            format!("fd99::{host}/64")
        } else {
            "none".to_owned()
        };
        let child = namespace
            .command("linux.uml")
            .args([
                "mem=192M",
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "ro",
                "quiet",
                "loglevel=3",
            ])
            .args(["con=null", "con0=null,fd:1"])
            .arg(format!("uml_dir={}/", job.path().display()))
            .arg(format!("umid=guest{host}"))
            .arg(format!("init={}", init.display()))
            .arg(format!("vec0:transport=tap,ifname={tap},depth=128,gro=1"))
            .arg(format!("GIP={subnet}.{host}/24"))
            .arg(format!("GIP6={ipv6}"))
            .arg(format!("GGW={}", gateway.unwrap_or("none")))
            .arg(format!("JOBDIR={}", job.path().display()))
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let guest = Self {
            job,
            child,
            next: 1,
            tap,
            namespace: namespace.name().to_owned(),
        };
        let ready = guest.path("ready");
        let boot = |guest: &mut Self| {
            guest.check_alive();
            ready.exists().then_some(())
        };
        let mut guest = guest;
        wait_for("a guest to boot", BOOT, || boot(&mut guest));
        guest
    }

    /// A file of the guest's `/mnt`, as the host sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.job.path().join(name)
    }

    /// Its network interface, as the namespace sees it.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// The text of a file in the guest's `/mnt`, empty where there is none.
    pub fn read(&self, name: &str) -> String {
        std::fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn check_alive(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("the guest ended with {status}: {}", self.read("console.log"));
        }
    }

    /// Starts a shell script in the guest; [`Guest::answer`] waits for its end. One at a time.
    pub fn start(&mut self, script: &str) -> u32 {
        let number = self.next;
        self.next += 1;
        let part = self.path("cmd.part");
        std::fs::write(&part, script).unwrap();
        std::fs::rename(part, self.path(&format!("cmd.{number}"))).unwrap();
        number
    }

    /// Waits for the end of a script.
    pub fn answer(&mut self, number: u32) -> Answer {
        let file = self.path(&format!("rc.{number}"));
        let code = wait_for("a command in a guest", COMMAND, || {
            self.check_alive();
            std::fs::read_to_string(&file).ok()
        });
        Answer {
            code: code.trim().parse().unwrap_or(-1),
            output: self.read(&format!("out.{number}")),
        }
    }

    /// Runs a shell script in the guest to its end.
    pub fn run(&mut self, script: &str) -> Answer {
        let number = self.start(script);
        self.answer(number)
    }

    /// Runs a shell script that must succeed; its output.
    #[track_caller]
    pub fn must(&mut self, script: &str) -> String {
        let Answer { code, output } = self.run(script);
        assert_eq!(code, 0, "in the guest: {script}\n{output}");
        output
    }

    /// Runs a condition again and again in the guest until it holds; false where it does not within `seconds`.
    pub fn until(&mut self, seconds: u32, condition: &str) -> bool {
        let script = format!(
            "e=$(( $(cut -d. -f1 /proc/uptime) + {seconds} ))\n\
             until {condition}; do [ $(cut -d. -f1 /proc/uptime) -ge $e ] && exit 1; busybox usleep 50000; done"
        );
        self.run(&script).code == 0
    }

    /// Writes what is known of the guest to standard error, for a failed test.
    pub fn dump(&self) {
        for name in ["guest.log", "xl2tpd.log", "pppd.log"] {
            eprintln!("--- {name}\n{}", self.read(name));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
        let _ = std::fs::write(self.path("stop"), "");
        for _ in 0..300 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("ip")
            .args(["-n", &self.namespace, "link", "del", &self.tap])
            // The namespace may be gone already, and the interface with it.
            .output();
    }
}
