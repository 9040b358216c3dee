//! A shell through ncat, as people go to hosts beyond a proxy.

use crate::case::{Case, PASSWORD, PROXY, TRUSTED, tool};
use sluice_tests::rig::{Lab, Running};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The only users that the server knows of: its host's are not its business.
const USERS: &str = "root:x:0:0::/:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n";

const SERVER: &str = "ListenAddress 198.51.100.2:22\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/key.pub\n\
    PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n";

/// A server in the world with keys of its own.
fn server(case: &Case) -> Running {
    let directory = case.gateway.directory();
    for key in ["host", "key"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        case.run(keygen.arg(directory.join(key)));
    }
    let users = case.write("users", USERS);
    let config = SERVER.replace("{dir}", &directory.display().to_string());
    let config = case.write("sshd_config", &config);
    // In a mount namespace, as all commands in a network namespace have one.
    let script = format!(
        "mount --bind {} /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd && exec {} -D -e -f {}",
        users.display(),
        tool("sshd").display(),
        config.display()
    );
    let mut command = case.lab.world.command("sh");
    let log = std::fs::File::create(directory.join("sshd.log")).unwrap();
    let running = Running::start(command.arg("-c").arg(script).stderr(log), None);
    case.lab.world.wait_listening(22);
    running
}

/// Sends a file to a command at the server that sends it back.
#[track_caller]
fn there_and_back(case: &Case, proxy: &str, host: &str) {
    let directory: &Path = case.gateway.directory();
    let mut ssh = case.clients.command("ssh");
    ssh.args([
        "-F",
        "none",
        "-q",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
    ])
    .arg("UserKnownHostsFile=/dev/null")
    .arg("-o")
    .arg(format!("ProxyCommand=ncat {proxy} %h %p"))
    .arg("-i")
    .arg(directory.join("key"))
    .args([&format!("root@{host}"), "cat"])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped());
    let mut child = ssh.spawn().unwrap();
    let (file, mut input) = (case.file(), child.stdin.take().unwrap());
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Where it ends early the output says so.
            let _ = input.write_all(&file);
            drop(input);
        });
        child.wait_with_output().unwrap()
    });
    let log = std::fs::read_to_string(directory.join("sshd.log")).unwrap();
    assert!(output.status.success(), "{proxy}: {}\n{log}", output.status);
    assert!(output.stdout == file, "{proxy}: {} octets", output.stdout.len());
}

#[test]
fn ssh_goes_through_ncat_by_socks5_with_a_password() {
    let Some(case) = Case::start() else { return };
    let _server = server(&case);
    let proxy = format!("--proxy {PROXY}:1080 --proxy-type socks5 --proxy-auth bob:{PASSWORD}");
    there_and_back(&case, &proxy, Lab::WORLD);
    there_and_back(&case, &format!("{proxy} --proxy-dns remote"), "web.test");
    case.all_ended_well(Some("bob"), 2);
}

#[test]
fn ssh_goes_through_ncat_by_socks4() {
    let Some(case) = Case::start() else { return };
    let _server = server(&case);
    let proxy = format!("--source {TRUSTED} --proxy {PROXY}:1080 --proxy-type socks4");
    there_and_back(&case, &proxy, Lab::WORLD);
    there_and_back(&case, &format!("{proxy} --proxy-dns remote"), "web.test");
    case.all_ended_well(None, 2);
}
