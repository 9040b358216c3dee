use super::*;
use crate::host;
use rustix::thread::{CapabilitySet, capabilities};
use sluice_store::Store;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

const ALL: Sandbox = Sandbox {
    capabilities: Demand::Required,
    landlock: Demand::Required,
    seccomp: Demand::Required,
};

/// Runs the calling test again in a process of its own, in a network namespace where that is possible; there this
/// gives the directory it may use. The thread that waits for the test there is not confined and does nothing.
fn confined(test: &str) -> Option<PathBuf> {
    const INSIDE: &str = "SLUICE_SANDBOX_TEST_INSIDE";
    if let Some(directory) = std::env::var_os(INSIDE) {
        return Some(directory.into());
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("own")).unwrap();
    fs::write(folder.path().join("outside"), "secret").unwrap();
    let program = std::env::current_exe().unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args([
        "--exact",
        &format!("sandbox::tests::{test}"),
        "--nocapture",
        "--test-threads=1",
    ]);
    let status = command.env(INSIDE, folder.path().join("own")).status().unwrap();
    assert!(status.success());
    None
}

fn config(layers: Sandbox, own: &Path) -> SandboxConfig {
    SandboxConfig {
        layers,
        read: Vec::new(),
        write: vec![own.to_owned()],
    }
}

fn only(capabilities: Demand, landlock: Demand, seccomp: Demand) -> Sandbox {
    Sandbox {
        capabilities,
        landlock,
        seccomp,
    }
}

/// Landlock is required of kernels that have it; on others the rest is tested without.
fn landlock_demand() -> Demand {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_else(|_| "landlock".to_owned());
    if modules.contains("landlock") {
        Demand::Required
    } else {
        eprintln!("without Landlock: this kernel has {modules}");
        Demand::Auto
    }
}

/// Applies as to a process whose only thread is this one.
fn confine(config: &SandboxConfig) -> Result<SandboxStatus, SandboxError> {
    apply_with(config, Some(1))
}

fn denied<T>(outcome: std::io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::PermissionDenied)
}

#[test]
fn a_gateway_works_with_all_layers_on() {
    let Some(own) = confined("a_gateway_works_with_all_layers_on") else {
        return;
    };
    let wanted = only(Demand::Required, landlock_demand(), Demand::Required);
    let status = confine(&config(wanted, &own)).unwrap();
    for layer in [&status.no_new_privs, &status.capabilities, &status.seccomp] {
        assert_eq!(layer.state, LayerState::Active, "{layer:?}");
    }
    threads_and_runtime(&own);
    files(&own);
    if rustix::process::geteuid().is_root() {
        network(&own);
    }
    // Randomness, and what the standard library asks the machine.
    let mut random = [0; 32];
    getrandom::fill(&mut random).unwrap();
    assert_ne!(random, [0; 32]);
    assert!(std::thread::available_parallelism().is_ok());
    assert!(fs::read_to_string("/etc/hosts").is_ok());
    assert!(std::panic::catch_unwind(|| panic!("a panic is still caught and named")).is_err());
}

/// Threads, a multi-threaded runtime, timers, sockets, name resolution, files off the runtime.
fn threads_and_runtime(own: &Path) {
    std::thread::Builder::new()
        .name("shard-0".into())
        .spawn(|| ())
        .unwrap()
        .join()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
        let file = own.join("async");
        tokio::fs::write(&file, "x").await.unwrap();
        assert_eq!(tokio::fs::read(&file).await.unwrap(), b"x");
        assert!(tokio::net::lookup_host("localhost:80").await.unwrap().count() > 0);
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
        assert!(socket.local_addr().unwrap().port() > 0);
    });
}

/// The store, a users file replaced by renaming, a UNIX socket.
fn files(own: &Path) {
    let store = Store::open(&own.join("store")).unwrap();
    drop(store);
    fs::write(own.join("users.new"), "a").unwrap();
    fs::rename(own.join("users.new"), own.join("users")).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(own.join("users"))
        .unwrap()
        .sync_all()
        .unwrap();
    assert_eq!(
        fs::read_dir(own)
            .unwrap()
            .filter_map(Result::ok)
            .filter(|e| e.file_name() == "users")
            .count(),
        1
    );
    let listener = UnixListener::bind(own.join("socket")).unwrap();
    let mut client = UnixStream::connect(own.join("socket")).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    fs::remove_file(own.join("socket")).unwrap();
}

/// Routes, addresses, settings and masquerading, in a network namespace of this test's own, and TCP over it.
fn network(own: &Path) {
    assert!(host::obstacle().is_none());
    let config = host::HostConfig {
        tun: "lo".into(),
        mtu: 9000,
        gateways: vec!["10.64.0.1".parse().unwrap()],
        blocks: vec!["10.64.0.0/16".parse().unwrap()],
        masquerade: vec!["10.64.0.0/16".parse().unwrap()],
        masquerade_interfaces: Vec::new(),
        forwarding: crate::config::Forwarding::Enable,
    };
    let outcome = host::apply(&config).unwrap();
    // The host's own addresses of `lo` go, as it stands for the TUN device here.
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert_eq!(host::masquerade_counts().unwrap().len(), 1);
    let listener = TcpListener::bind("10.64.0.1:80").unwrap();
    let _client = TcpStream::connect("10.64.0.1:80").unwrap();
    listener.accept().unwrap();
    assert!(host::revert(&config).unwrap().failed.is_empty());
    assert!(
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .is_ok()
            || !tun_exists()
    );
    assert!(own.exists());
}

fn tun_exists() -> bool {
    Path::new("/dev/net/tun").exists()
}

#[test]
fn files_elsewhere_are_out_of_reach() {
    let Some(own) = confined("files_elsewhere_are_out_of_reach") else {
        return;
    };
    if landlock_demand() != Demand::Required {
        return;
    }
    let outside = own.parent().unwrap().join("outside");
    assert!(fs::read(&outside).is_ok());
    let status = confine(&config(only(Demand::Off, Demand::Required, Demand::Off), &own)).unwrap();
    assert_eq!(status.capabilities.state, LayerState::Off);
    assert!(denied(fs::read(&outside)));
    assert!(denied(fs::write(&outside, "x")));
    assert!(denied(fs::rename(own.join("../outside"), own.join("stolen"))));
    assert!(denied(fs::write("/etc/sluice-keeper-test", "x")));
    assert!(denied(Command::new("/bin/true").spawn()));
    assert!(fs::write(own.join("inside"), "x").is_ok());
}

#[test]
fn other_system_calls_fail_and_do_not_kill() {
    let Some(own) = confined("other_system_calls_fail_and_do_not_kill") else {
        return;
    };
    use rustix::net::{AddressFamily, SocketType, socket};
    let packet = AddressFamily::from_raw(libc::AF_PACKET as u16);
    let shell = || Command::new("true").spawn();
    let chroot = || rustix::process::chroot("/");
    let root = rustix::process::geteuid().is_root();
    assert!(socket(packet, SocketType::DGRAM, None).is_ok() || !root);
    assert!(chroot().is_ok() || !root);
    shell().unwrap().wait().unwrap();
    confine(&config(only(Demand::Off, Demand::Off, Demand::Required), &own)).unwrap();
    assert_eq!(chroot(), Err(rustix::io::Errno::PERM));
    assert_eq!(
        socket(packet, SocketType::DGRAM, None).err(),
        Some(rustix::io::Errno::PERM)
    );
    assert!(denied(shell()));
    assert_eq!(rustix::process::setsid(), Err(rustix::io::Errno::PERM));
    let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    // A request to a device that no gateway makes.
    assert_eq!(rustix::fs::ioctl_blksszget(&memory), Err(rustix::io::Errno::PERM));
    assert_eq!(rustix::io::ioctl_fionbio(&memory, false), Ok(()));
    // Threads go on working, and inherit the filter.
    assert!(std::thread::spawn(move || denied(shell())).join().unwrap());
}

#[test]
fn capabilities_are_down_to_three() {
    let Some(own) = confined("capabilities_are_down_to_three") else {
        return;
    };
    let had = capabilities(None).unwrap();
    let status = confine(&config(only(Demand::Auto, Demand::Off, Demand::Off), &own)).unwrap();
    assert_eq!(status.no_new_privs.state, LayerState::Active);
    assert!(rustix::thread::no_new_privs().unwrap());
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE;
    let sets = capabilities(None).unwrap();
    assert_eq!(sets.effective, had.permitted & needed);
    assert_eq!(sets.permitted, had.permitted & needed);
    assert_eq!(sets.inheritable, CapabilitySet::empty());
    let bounded = rustix::thread::capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN);
    assert!(!had.effective.contains(CapabilitySet::SETPCAP) || bounded == Ok(false));
    assert!(!status.capabilities.detail.contains("dac_override"), "{status:?}");
}

#[test]
fn root_keeps_access_to_files_of_another_user() {
    let Some(own) = confined("root_keeps_access_to_files_of_another_user") else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this is about root");
        return;
    }
    std::os::unix::fs::chown(&own, Some(12_345), Some(12_345)).unwrap();
    let status = confine(&config(only(Demand::Auto, Demand::Off, Demand::Off), &own)).unwrap();
    assert!(status.capabilities.detail.contains("dac_override"), "{status:?}");
    fs::write(own.join("file"), "x").unwrap();
}

#[test]
fn a_process_with_threads_is_left_alone_and_told_so() {
    let own = Path::new(".");
    let optional = only(Demand::Auto, Demand::Auto, Demand::Off);
    let status = apply_with(&config(optional, own), Some(3)).unwrap();
    assert_eq!(status.capabilities.state, LayerState::Unavailable);
    assert_eq!(
        status.landlock.detail,
        "3 threads run already, which it would not cover"
    );
    assert_eq!(status.seccomp.state, LayerState::Off);
    // The threads that run tests are counted.
    let error = apply(&config(ALL, own)).unwrap_err();
    assert!(
        error
            .reason
            .ends_with("threads run already, which it would not cover")
    );
    let error = apply_with(&config(ALL, own), Some(3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sandbox.capabilities is required and cannot be had: 3 threads run already, which it would not cover"
    );
    assert!(!rustix::thread::no_new_privs().unwrap());
    let shown = serde_json::to_value(&status).unwrap();
    assert_eq!(shown["landlock"]["state"], "unavailable");
}

#[test]
fn files_are_reached_by_their_directories() {
    let files = ["/etc/sluice/users.toml", "/etc/sluice/tokens", "sluice.toml"].map(Path::new);
    let list = directories(Some(Path::new("/var/lib/sluice")), files);
    assert_eq!(list, ["/etc/sluice", "/var/lib/sluice", "."].map(PathBuf::from));
}
