//! The gateway as it runs in production: from its package under systemd, and as the container runs it.
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_tests::rig::{Gateway, ready, run, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest time of everything in the guest; a busy machine is slow with it.
const GUEST: Duration = Duration::from_secs(240);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// A process that is ended with its scope, and with it those it started, which are in its process group.
struct Ended(Child);

impl Ended {
    fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // A group that is empty by now is no failure.
        let group = format!("-{}", self.0.id());
        let _ = run(Command::new("kill").args(["-KILL", "--", &group]));
        let _ = self.0.wait();
    }
}

#[test]
fn the_package_serves_under_systemd() {
    if !ready() {
        return;
    }
    let job = tempfile::tempdir().unwrap();
    // Symbols for debuggers are most of a program, and would be copied into the guest's memory three times.
    let program = job.path().join("sluice");
    run(Command::new("cp").arg(Gateway::binary()).arg(&program)).unwrap();
    if let Err(error) = run(Command::new("strip").arg("--strip-debug").arg(&program)) {
        eprintln!("not stripped: {error}");
    }
    for folder in ["one", "two"] {
        let mut build = Command::new(root().join("deploy/debian/build.sh"));
        build
            .arg(&program)
            .arg(job.path().join(folder))
            .env("COMPRESSION", "none");
        run(&mut build).unwrap();
    }
    fs::copy(
        root().join("tests/guest/service.sh"),
        job.path().join("script.sh"),
    )
    .unwrap();
    let console = fs::File::create(job.path().join("console.log")).unwrap();
    let mut guest = Command::new("linux.uml");
    guest
        .args([
            "mem=768M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
        ])
        .args([
            "quiet",
            "loglevel=3",
            "con=null",
            "con0=null,fd:1",
            "umid=service",
        ])
        .arg(format!("uml_dir={}/", job.path().display()))
        .arg(format!(
            "init={}",
            root().join("tests/guest/systemd.sh").display()
        ))
        .arg(format!("JOBDIR={}", job.path().display()))
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(Stdio::null());
    let mut guest = Ended::start(&mut guest);
    let text = |name: &str| fs::read(job.path().join(name)).unwrap_or_default();
    let text = |name: &str| String::from_utf8_lossy(&text(name)).into_owned();
    wait_for("the guest's script to end", GUEST, || {
        let ended = guest.0.try_wait().unwrap();
        let finished = job.path().join("finished").exists();
        if let (Some(status), false) = (ended, finished) {
            panic!("the guest ended with {status}: {}", text("init.log"));
        }
        finished.then_some(())
    });
    // It leaves no process behind where it switches itself off.
    wait_for("the guest to end", Duration::from_secs(30), || {
        guest.0.try_wait().unwrap()
    });
    let said = text("out.log");
    let failed: Vec<&str> = said.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(
        failed.is_empty() && said.ends_with("end\n"),
        "{said}\n{}",
        text("console.log")
    );
    assert!(
        said.lines().filter(|line| line.starts_with("ok: ")).count() >= 20,
        "{said}"
    );
}

/// The values that follow a word wherever it stands in a text.
fn all_after<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let found = text.split(word).skip(1);
    found.filter_map(|rest| rest.split_whitespace().next()).collect()
}

/// Namespaces, a user other than root, one capability in the bounding set, a program that carries it, settings that
/// cannot be written from inside: what `podman run` of the manual makes, but for the image itself.
#[test]
fn the_container_serves_without_root() {
    if !ready() {
        return;
    }
    let manual = read("gateway/docs/operations.md");
    let settings = all_after(&manual, "--sysctl ");
    assert!(settings.len() >= 3, "{settings:?}");
    assert_eq!(all_after(&manual, "--cap-add "), ["NET_ADMIN"]);
    assert_eq!(all_after(&manual, "--device "), ["/dev/net/tun"]);
    let recipe = read("deploy/container/Containerfile");
    let user = all_after(&recipe, "--uid ")[0];

    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    let config = read("deploy/config/first.toml").replace("/var/lib/sluice", &format!("{at}/state"));
    fs::write(folder.path().join("sluice.toml"), config).unwrap();
    let mut script = format!(
        "set -e\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\ncp {} {at}/sluice\nsetcap cap_net_admin+ep {at}/sluice\n\
         install -d -o {user} -m 700 {at}/state\nmkdir {at}/net\n\
         mknod -m 666 {at}/net/tun c 10 200\nmount --bind {at}/net /dev/net\n\
         mount -t proc proc /proc\nip link set lo up\n",
        Gateway::binary().display()
    );
    for setting in settings {
        script += &format!("sysctl -qw {setting}\n");
    }
    let user = format!("setpriv --reuid {user} --regid {user} --clear-groups");
    script += &format!(
        "mount --bind /proc/sys /proc/sys\nmount -o remount,ro,bind /proc/sys\n\
         exec {user} --inh-caps -all --ambient-caps -all --bounding-set -all,+net_admin \
         {at}/sluice run --config {at}/sluice.toml\n"
    );
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut namespaces = Command::new("unshare");
    namespaces
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
        ])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut outside = Ended::start(&mut namespaces);
    let log = || fs::read_to_string(folder.path().join("log")).unwrap();
    let inside = wait_for("the gateway to serve", Duration::from_secs(30), || {
        if let Ok(Some(status)) = outside.0.try_wait() {
            panic!("it ended with {status}: {}", log());
        }
        let children = format!("/proc/{0}/task/{0}/children", outside.0.id());
        let keeper = fs::read_to_string(children).unwrap();
        log().contains("\"serving\"").then(|| keeper.trim().to_owned())
    });
    let ask = |words: &str| {
        let enter = format!("nsenter --target {inside} --mount --net --pid {user}");
        let line = format!("{enter} {at}/sluice {words} --socket {at}/state/admin.sock");
        let mut words = line.split_whitespace();
        run(Command::new(words.next().unwrap()).args(words))
    };
    let status = ask("status").unwrap_or_else(|error| panic!("{error}\n{}", log()));
    assert!(status.contains("ready: yes"), "{status}\n{}", log());
    let processes = fs::read_to_string(format!("/proc/{inside}/status")).unwrap();
    assert!(processes.contains("\nNSpid:\t"), "{processes}");
    let line_of = |name: &str| {
        let mut lines = processes.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert!(line_of("NSpid:").ends_with("\t1"), "the keeper is process 1");
    assert!(!line_of("Uid:").split_whitespace().any(|uid| uid == "0"));
    assert_eq!(line_of("CapEff:"), "0000000000001000");
    // What stops a container: SIGTERM to process 1.
    run(Command::new("kill").args(["-TERM", &inside])).unwrap();
    let ended = wait_for("the end", Duration::from_secs(20), || {
        outside.0.try_wait().unwrap()
    });
    assert!(ended.success(), "{ended}: {}", log());
}
