//! What `deploy/` has for production: the unit, the package and the container, each held against the code it runs.
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_keeper::{EXIT_CANNOT_START, EXIT_CONFIGURATION, EXIT_FAILED, KeeperOptions};
use sluice_tests::rig::SKIP;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const UNIT: &str = "deploy/systemd/sluice.service";

/// Where the program is and what it reads, in the package, the unit and the container.
const PROGRAM: &str = "/usr/bin/sluice";
const CONFIG: &str = "/etc/sluice/sluice.toml";
const STATE: &str = "/var/lib/sluice";

/// What `systemd-analyze security` may say at most, in tenths of its points from 0 (safe) to 10.
const EXPOSURE: u32 = 23;

/// System calls that come before the worker's own list is in force, and those of the keeper, which has none.
const OTHER_CALLS: &[&str] = &[
    "capget",
    "capset",
    "clone3",
    "execve",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "prctl",
    "prlimit64",
    "seccomp",
    "setpgid",
    "vfork",
    "wait4",
    "waitid",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Runs a command that must succeed; what it wrote.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap() + &errors
}

/// The settings of a unit, in order.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    unit.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect()
}

/// The values of a setting, those of several lines together.
fn values<'a>(settings: &[(&'a str, &'a str)], key: &str) -> Vec<&'a str> {
    let lines = settings.iter().filter(|(name, _)| *name == key);
    lines.flat_map(|(_, value)| value.split_whitespace()).collect()
}

/// The words of a source file that follow a prefix: `libc::SYS_read` gives `read`.
fn words_after<'a>(source: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    source
        .split(prefix)
        .skip(1)
        .filter_map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
        })
        .collect()
}

#[test]
fn the_unit_ends_as_the_keeper_does() {
    let unit = read(UNIT);
    let unit = settings(&unit);
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "NotifyAccess"), ["main"]);
    // The keeper alone is told to end, and is there to see to the worker.
    assert_eq!(values(&unit, "KillMode"), ["mixed"]);
    let grace = KeeperOptions::new(PROGRAM, [], |_, _| ()).shutdown_grace;
    let stop = values(&unit, "TimeoutStopSec")[0];
    let stop = Duration::from_secs(stop.trim_end_matches('s').parse().unwrap());
    assert!(stop > grace + Duration::from_secs(5), "{stop:?} after {grace:?}");
    assert_eq!(values(&unit, "Restart"), ["on-failure"]);
    let never: Vec<u8> = values(&unit, "RestartPreventExitStatus")
        .iter()
        .map(|code| code.parse().unwrap())
        .collect();
    assert_eq!(never, [EXIT_CONFIGURATION, EXIT_CANNOT_START]);
    assert!(!never.contains(&EXIT_FAILED));
    let start = ["run", "--config", CONFIG];
    assert_eq!(values(&unit, "ExecStart"), [&[PROGRAM], &start[..]].concat());
    let reload = [PROGRAM, "check-config", CONFIG, "/bin/kill", "-HUP", "$MAINPID"];
    assert_eq!(values(&unit, "ExecReload"), reload);
}

#[test]
fn the_unit_gives_what_the_worker_needs() {
    let unit = read(UNIT);
    let unit = settings(&unit);
    let needed = read("gateway/daemon/src/sandbox/capabilities.rs");
    let needed = words_after(&needed, "CapabilitySet::");
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let given = values(&unit, key);
        assert!(given.contains(&"CAP_NET_ADMIN"), "{key}");
        for capability in given {
            let name = capability.strip_prefix("CAP_").unwrap();
            assert!(needed.contains(name), "no gateway needs {capability}");
        }
    }
    let seccomp = read("gateway/daemon/src/sandbox/seccomp.rs");
    let families = words_after(&seccomp, "libc::AF_").into_iter();
    let families: BTreeSet<String> = families.map(|name| format!("AF_{name}")).collect();
    let given = values(&unit, "RestrictAddressFamilies").into_iter();
    assert_eq!(given.map(str::to_owned).collect::<BTreeSet<_>>(), families);

    let landlock = read("gateway/daemon/src/sandbox/landlock.rs");
    let (tun, tunables) = ("/dev/net/tun", "/proc/sys/net");
    for path in [tun, tunables] {
        assert!(
            landlock.contains(path),
            "the worker itself no longer reaches {path}"
        );
    }
    assert_eq!(values(&unit, "DeviceAllow"), [tun, "rw"]);
    assert!(values(&unit, "PrivateDevices").is_empty(), "it hides {tun}");
    assert_eq!(values(&unit, "ReadWritePaths"), [tunables]);
    assert_eq!(values(&unit, "StateDirectory"), ["sluice"]);
    assert_eq!(values(&unit, "WorkingDirectory"), [STATE]);
    let client = read("gateway/daemon/src/cli/client.rs");
    assert!(client.contains(&format!("\"{STATE}/admin.sock\"")));
    let config = read("deploy/config/first.toml");
    assert!(config.contains(&format!("state_dir = \"{STATE}\"")));
}

/// The sets of system calls as systemd has them: its listing has a name without indent, and what belongs to it with.
fn call_sets() -> Vec<(String, Vec<String>)> {
    let listing = run(Command::new("systemd-analyze").args(["--no-pager", "syscall-filter"]));
    let mut sets: Vec<(String, Vec<String>)> = Vec::new();
    for line in listing.lines() {
        let word = line.trim();
        if line.starts_with('@') {
            sets.push((word.to_owned(), Vec::new()));
        } else if line.starts_with(' ') && !word.starts_with('#') {
            let (_, members) = sets.last_mut().unwrap();
            members.push(word.to_owned());
        }
    }
    sets
}

#[test]
fn the_unit_allows_every_system_call_the_worker_makes() {
    let sets = call_sets();
    let unit = read(UNIT);
    let mut open: Vec<String> = values(&settings(&unit), "SystemCallFilter")
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut allowed = BTreeSet::new();
    while let Some(name) = open.pop() {
        if allowed.insert(name.clone()) && name.starts_with('@') {
            let set = sets.iter().find(|(set, _)| *set == name);
            open.extend(set.unwrap_or_else(|| panic!("systemd knows no {name}")).1.clone());
        }
    }
    let seccomp = read("gateway/daemon/src/sandbox/seccomp.rs");
    let worker = words_after(&seccomp, "libc::SYS_");
    assert!(worker.len() > 100);
    let missing: Vec<&&str> = worker
        .iter()
        .chain(OTHER_CALLS)
        .filter(|call| !allowed.contains(**call))
        .collect();
    assert_eq!(missing, [&""; 0]);
    for forbidden in ["mount", "init_module", "ptrace", "reboot", "bpf"] {
        let given = allowed.contains(forbidden);
        assert!(!given, "{forbidden}");
    }
}

/// A unit with a program that is there, with the example of a drop-in where that is wanted, as a file of its own.
fn unit_in(folder: &Path, drop_in: Option<&str>) -> PathBuf {
    let program = folder.join("sluice");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    let unit = folder.join("sluice.service");
    fs::write(&unit, read(UNIT).replace(PROGRAM, program)).unwrap();
    if let Some(text) = drop_in {
        let drop_ins = folder.join("sluice.service.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("override.conf"), text.replace(PROGRAM, program)).unwrap();
    }
    unit
}

/// What systemd says about a unit; other units of this machine are not our concern.
fn verify(unit: &Path) -> String {
    let said = run(Command::new("systemd-analyze")
        .args(["--no-pager", "--man=no", "verify"])
        .arg(unit));
    let lines = said.lines().filter(|line| line.contains("sluice"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn systemd_takes_the_unit_and_the_drop_in() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(verify(&unit_in(folder.path(), None)), "");
    // With every setting that the example has only as a comment.
    let example = read("deploy/systemd/drop-in.conf.example");
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_uppercase()) => setting,
        _ => line,
    });
    let all: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(all.contains("\nLoadCredential="), "{all}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(verify(&unit_in(folder.path(), Some(&all))), "");
    // Such a check finds something where there is something.
    let folder = tempfile::tempdir().unwrap();
    let wrong = all.replace("MemoryMax=", "MemoryMost=");
    assert_ne!(verify(&unit_in(folder.path(), Some(&wrong))), "");
}

#[test]
fn the_unit_is_exposed_to_little() {
    let unit = root().join(UNIT);
    run(Command::new("systemd-analyze")
        .args(["--no-pager", "security", "--offline=true"])
        .arg(format!("--threshold={EXPOSURE}"))
        .arg(unit));
}

/// A package of a stand-in for the gateway, whose text names symbols of a C library.
fn package(folder: &Path) -> PathBuf {
    let program = folder.join("stand-in");
    fs::write(&program, "#!/bin/sh\n# GLIBC_2.4 GLIBC_2.34 GLIBC_2.28\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let built = run(Command::new(root().join("deploy/debian/build.sh"))
        .arg(&program)
        .arg(folder.join("out"))
        .env("SOURCE_DATE_EPOCH", "1800000000"));
    PathBuf::from(built.trim())
}

#[test]
fn the_package_has_what_it_should() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deb = package(one.path());
    assert!(
        fs::read(&deb).unwrap() == fs::read(package(two.path())).unwrap(),
        "two builds give the same package"
    );
    let field = |name: &str| run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg(name));
    assert_eq!(field("Package").trim(), "sluice");
    assert_eq!(field("Version").trim(), env!("CARGO_PKG_VERSION"));
    assert!(
        field("Depends").starts_with("libc6 (>= 2.34), "),
        "{}",
        field("Depends")
    );
    let contents = run(Command::new("dpkg-deb").arg("--contents").arg(&deb));
    let mode_of = |path: &str| {
        let line = contents
            .lines()
            .find(|line| line.ends_with(&format!(" .{path}")))
            .unwrap_or_else(|| panic!("no {path} in\n{contents}"));
        assert_eq!(line.split_whitespace().nth(1), Some("root/root"), "{line}");
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(mode_of(PROGRAM), "-rwxr-xr-x");
    assert_eq!(mode_of(CONFIG), "-rw-r-----");
    assert_eq!(mode_of("/etc/sluice/"), "drwxr-x---");
    for example in [
        "first.toml",
        "reference.toml",
        "wholesale.toml",
        "rules.yml",
        "sluice.json",
    ] {
        assert_eq!(
            mode_of(&format!("/usr/share/doc/sluice/examples/{example}")),
            "-rw-r--r--"
        );
    }
    let unpacked = one.path().join("unpacked");
    run(Command::new("dpkg-deb")
        .arg("--raw-extract")
        .arg(&deb)
        .arg(&unpacked));
    let same = |inside: &str, source: &str| {
        assert_eq!(
            fs::read_to_string(unpacked.join(inside)).unwrap(),
            read(source),
            "{inside}"
        );
    };
    same("usr/lib/systemd/system/sluice.service", UNIT);
    same("usr/lib/sysusers.d/sluice.conf", "deploy/systemd/sluice.sysusers");
    same("etc/sluice/sluice.toml", "deploy/config/first.toml");
    let conffiles = fs::read_to_string(unpacked.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(conffiles, format!("{CONFIG}\n"));
    let manual = "file:///usr/share/doc/sluice/operations.md";
    assert_eq!(values(&settings(&read(UNIT)), "Documentation"), [manual]);
    mode_of(manual.trim_start_matches("file://"));
}

/// Runs dpkg on a root directory of its own; the scripts run outside of it and find it in `DPKG_ROOT`.
fn dpkg(host: &Path, arguments: &[&str]) -> String {
    run(Command::new("dpkg")
        .arg(format!("--root={}", host.display()))
        .args(["--force-script-chrootless", "--force-depends", "--log=/dev/null"])
        .args(arguments))
}

#[test]
fn the_package_comes_and_goes_cleanly() {
    if std::env::var_os(SKIP).is_some_and(|value| !value.is_empty()) {
        eprintln!("left out, because {SKIP} is set");
        return;
    }
    assert_eq!(
        run(Command::new("id").arg("-u")).trim(),
        "0",
        "only root can install packages"
    );
    let folder = tempfile::tempdir().unwrap();
    let deb = package(folder.path());
    let host = folder.path().join("host");
    fs::create_dir_all(host.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(host.join("var/lib/dpkg/updates")).unwrap();
    fs::write(host.join("var/lib/dpkg/status"), "").unwrap();
    let inside = |path: &str| host.join(path.trim_start_matches('/'));
    dpkg(&host, &["--install", deb.to_str().unwrap()]);
    let line_of = |file: &str| {
        let text = fs::read_to_string(inside(file)).unwrap();
        let line = text.lines().find(|line| line.starts_with("sluice:")).unwrap();
        line.split(':').map(str::to_owned).collect::<Vec<_>>()
    };
    let (user, group) = (line_of("/etc/passwd"), line_of("/etc/group"));
    assert_eq!(user[5..], [STATE, "/usr/sbin/nologin"]);
    let group: u32 = group[2].parse().unwrap();
    for path in ["/etc/sluice", CONFIG] {
        let metadata = inside(path).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, group), "{path}");
        assert_eq!(
            metadata.mode() & 0o027,
            0,
            "{path} is not for everyone, nor for the gateway to change"
        );
    }
    assert!(
        !inside("/etc/systemd").exists(),
        "nothing starts before somebody has read the configuration"
    );

    // What the operator changed stays, over an upgrade and a removal, and so do the gateway's users and sessions.
    let changed = "# changed\n";
    fs::write(inside(CONFIG), changed).unwrap();
    fs::set_permissions(inside(CONFIG), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(inside(STATE)).unwrap();
    fs::write(inside(STATE).join("users.toml"), "").unwrap();
    dpkg(&host, &["--install", deb.to_str().unwrap()]);
    dpkg(&host, &["--remove", "sluice"]);
    assert!(!inside(PROGRAM).exists());
    assert_eq!(fs::read_to_string(inside(CONFIG)).unwrap(), changed);
    assert_eq!(inside(CONFIG).metadata().unwrap().mode() & 0o777, 0o600);
    assert!(inside(STATE).join("users.toml").exists());
    dpkg(&host, &["--purge", "sluice"]);
    assert!(!inside("/etc/sluice").exists());
    assert!(!inside(STATE).exists());
}

/// An instruction of a Containerfile, with lines that go on joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            (name.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

#[test]
fn the_container_is_made_of_what_there_is() {
    let text = read("deploy/container/Containerfile");
    let list = instructions(&text);
    let all = |name: &str| -> Vec<&str> {
        let some = list.iter().filter(|(instruction, _)| instruction == name);
        some.map(|(_, rest)| rest.as_str()).collect()
    };
    let mut sources = BTreeSet::new();
    let mut targets = Vec::new();
    for copy in all("COPY") {
        let words: Vec<&str> = copy.split_whitespace().collect();
        let paths: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !word.starts_with("--"))
            .collect();
        let (target, from) = paths.split_last().unwrap();
        targets.push(*target);
        if !words.iter().any(|word| word.starts_with("--from=")) {
            sources.extend(from.iter().copied());
        }
    }
    for source in &sources {
        assert!(root().join(source).exists(), "{source} is not there");
    }
    // The whole workspace is there to be built, in the Rust it asks for.
    let manifest = read("Cargo.toml");
    let members = manifest
        .split_once("\nmembers = [")
        .unwrap()
        .1
        .split_once(']')
        .unwrap()
        .0;
    for member in members.split('"').skip(1).step_by(2) {
        let top = member.split('/').next().unwrap();
        assert!(sources.contains(top), "{member} is not copied");
    }
    let rust = manifest.split_once("rust-version = \"").unwrap().1;
    let rust = rust.split('"').next().unwrap();
    let image = format!("docker.io/library/rust:{rust}-bookworm AS build");
    assert_eq!(
        all("FROM"),
        [image.as_str(), "docker.io/library/debian:bookworm-slim"]
    );
    assert!(
        targets.contains(&PROGRAM) && targets.contains(&CONFIG),
        "{targets:?}"
    );
    assert_eq!(all("USER"), ["sluice"]);
    let words = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap();
    assert_eq!(words(all("ENTRYPOINT")[0]), [PROGRAM]);
    assert_eq!(words(all("CMD")[0]), ["run", "--config", CONFIG]);
    let (_, check) = all("HEALTHCHECK")[0].split_once("CMD ").unwrap();
    assert_eq!(words(check), [PROGRAM, "status"]);
    let port = sluice_registry::module("l2tp").unwrap().descriptor().default_port;
    assert_eq!(all("EXPOSE"), [format!("{port}/udp")]);
    assert_eq!(all("VOLUME"), [STATE]);
    assert!(
        all("RUN")
            .iter()
            .any(|run| run.contains(&format!("setcap cap_net_admin+ep {PROGRAM}")))
    );
}
