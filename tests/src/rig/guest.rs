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
        wait_for("a guest to boot", BOOT, || ready.exists().then_some(()));
        guest
    }

    /// A file of the guest's `/mnt`, as the host sees it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.job.path().join(name)
    }

    /// The text of a file in the guest's `/mnt`, empty where there is none.
    pub fn read(&self, name: &str) -> String {
        std::fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
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
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the guest ended with {status}: {}", self.read("console.log"));
            }
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
            .status();
    }
}

/// How `xl2tpd` and `pppd` in a guest dial the gateway.
#[derive(Clone, Debug)]
pub struct Xl2tpd {
    /// Address of the gateway.
    pub server: String,
    /// PPP user name.
    pub user: String,
    /// PPP password.
    pub password: String,
    /// Tunnel secret; `None`: no challenge.
    pub secret: Option<String>,
    /// More lines for the `[lac]` section of xl2tpd.conf.
    pub lac: Vec<String>,
    /// More lines for pppd's options.
    pub ppp: Vec<String>,
}

impl Xl2tpd {
    /// Dials with PAP and IPv6.
    pub fn new(server: &str, user: &str, password: &str) -> Self {
        Self {
            server: server.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            secret: None,
            lac: Vec::new(),
            ppp: Vec::new(),
        }
    }

    /// Starts xl2tpd in the guest; it dials at once.
    pub fn start(&self, guest: &mut Guest) {
        let options = [
            "noauth",
            "debug",
            "logfile /mnt/pppd.log",
            "noipdefault",
            "nodefaultroute",
            "noproxyarp",
            "usepeerdns",
            "maxfail 1",
            "refuse-chap",
            "refuse-mschap",
            "refuse-mschap-v2",
            "refuse-eap",
            "+ipv6",
        ];
        let mut ppp = options.join("\n");
        ppp.push_str(&format!(
            "\nuser \"{}\"\npassword \"{}\"\n",
            self.user, self.password
        ));
        for line in &self.ppp {
            ppp.push_str(&format!("{line}\n"));
        }
        let mut conf = format!(
            "[global]\nport = 1701\nauth file = /run/l2tp-secrets\n[lac gateway]\nlns = {}\n\
             pppoptfile = /mnt/ppp.opts\nlength bit = yes\nautodial = yes\nredial = no\nname = rigclient\n",
            self.server
        );
        if self.secret.is_some() {
            conf.push_str("challenge = yes\n");
        }
        for line in &self.lac {
            conf.push_str(&format!("{line}\n"));
        }
        let secrets = self
            .secret
            .as_ref()
            .map(|secret| format!("* * {secret}\n"))
            .unwrap_or_default();
        std::fs::write(guest.path("ppp.opts"), ppp).unwrap();
        std::fs::write(guest.path("xl2tpd.conf"), conf).unwrap();
        std::fs::write(guest.path("secrets"), secrets).unwrap();
        for log in ["pppd.log", "xl2tpd.log"] {
            let _ = std::fs::remove_file(guest.path(log));
        }
        guest.must(
            "umask 077; cp /mnt/secrets /run/l2tp-secrets; : >/run/ip-up; : >/run/ipv6-up\n\
             busybox setsid xl2tpd -D -c /mnt/xl2tpd.conf -C /run/l2tp-control -p /run/xl2tpd.pid >/mnt/xl2tpd.log 2>&1 &",
        );
    }

    /// Ends xl2tpd in the guest as a user would: it closes its call and tunnel.
    pub fn stop(guest: &mut Guest) -> bool {
        guest.run("kill -TERM $(pidof xl2tpd)");
        guest.until(10, "! pidof xl2tpd pppd >/dev/null")
    }

    /// Waits until IPCP is up; interface, our address, the gateway's address, name servers.
    #[track_caller]
    pub fn wait_up(guest: &mut Guest, seconds: u32) -> Vec<String> {
        assert!(
            guest.until(seconds, "[ -s /run/ip-up ]"),
            "the link did not come up"
        );
        guest
            .must("tail -n 1 /run/ip-up")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}
