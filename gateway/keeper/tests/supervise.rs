//! The keeper with real workers: this test program runs itself as keeper and as worker. A worker does what the test
//! tells it over a control socket, so nothing here waits for time to pass.

#![allow(clippy::unwrap_used, clippy::panic)]

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use sluice_keeper::{
    EXIT_CANNOT_START, EXIT_CONFIGURATION, EXIT_FAILED, KeeperOptions, Link, OWN_DESCRIPTORS, run,
};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

// ---- what runs in the keeper and worker processes ----

/// Not a test of its own: the keeper process and the worker process of the tests below.
#[test]
#[ignore = "started by the other tests as keeper and worker"]
fn process() {
    match std::env::var("KEEPER_TEST_ROLE").as_deref() {
        Ok("keeper") => keeper(),
        Ok("worker") => worker(),
        _ => panic!("this is started by the other tests"),
    }
}

fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "process", "--ignored", "--nocapture", "--quiet"])
        .env("KEEPER_TEST_ROLE", role);
    command
}

fn keeper() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let worker = again("worker");
    let arguments: Vec<OsString> = worker.get_args().map(Into::into).collect();
    let mut options = KeeperOptions::new(worker.get_program(), arguments, |_, line| {
        eprintln!("keeper: {line}")
    });
    options.backoff_first = Duration::from_millis(1);
    options.backoff_most = Duration::from_millis(5);
    options.crash_limit = number("KEEPER_TEST_CRASHES", 10) as usize;
    options.shutdown_grace = Duration::from_millis(number("KEEPER_TEST_GRACE", 15_000));
    options.descriptor_limit = number("KEEPER_TEST_LIMIT", 4096) as u32;
    if let Ok(text) = std::env::var("KEEPER_TEST_FILES") {
        let most = Some(text.parse().unwrap());
        let (current, maximum) = (Some(100), most);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }
    std::process::exit(run(with_role(options)).into());
}

/// Has the worker started by env(1), which sets its role.
fn with_role(mut options: KeeperOptions) -> KeeperOptions {
    let program = std::mem::replace(&mut options.program, PathBuf::from("/usr/bin/env"));
    options
        .arguments
        .splice(0..0, ["KEEPER_TEST_ROLE=worker".into(), program.into_os_string()]);
    options
}

fn worker() {
    let link = Link::connect().unwrap();
    let adopted = link.adopt().unwrap();
    let control = UnixStream::connect(std::env::var("KEEPER_TEST_CONTROL").unwrap()).unwrap();
    let mut lines = BufReader::new(control.try_clone().unwrap());
    let say = |line: String| (&control).write_all(format!("{line}\n").as_bytes()).unwrap();
    say(format!(
        "{} {} {:?}",
        std::process::id(),
        adopted.restarts,
        adopted.reason
    ));
    let mut held = adopted.descriptors;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            // The test is over.
            std::process::exit(0);
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        say(obey(&link, &mut held, &words));
    }
}

fn obey(link: &Link, held: &mut Vec<(String, OwnedFd)>, words: &[&str]) -> String {
    match words {
        ["names"] => format!("{:?}", held.iter().map(|(name, _)| name).collect::<Vec<_>>()),
        ["count"] => held.len().to_string(),
        ["room"] => link.room().to_string(),
        ["listen"] => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            link.store("listener", &[listener.as_fd()]).unwrap();
            let address = listener.local_addr().unwrap().to_string();
            held.push(("listener".into(), listener.into()));
            address
        }
        ["accept"] => {
            let (mut stream, _) = TcpListener::from(find(held, "listener")).accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        }
        ["udp"] => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            link.store("udp", &[socket.as_fd()]).unwrap();
            let address = socket.local_addr().unwrap().to_string();
            held.push(("udp".into(), socket.into()));
            address
        }
        ["receive"] => {
            let mut buffer = [0; 64];
            let n = UdpSocket::from(find(held, "udp")).recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        }
        ["store", first, last] => {
            let file = std::fs::File::open("/dev/null").unwrap();
            for i in first.parse::<u32>().unwrap()..last.parse().unwrap() {
                link.store(&format!("fd-{i}"), &[file.as_fd()]).unwrap();
            }
            "stored".into()
        }
        ["store-two", name] => {
            let file = std::fs::File::open("/dev/null").unwrap();
            format!(
                "{:?}",
                link.store(name, &[file.as_fd(), file.as_fd()])
                    .map_err(|e| e.to_string())
            )
        }
        ["remove", name] => format!("{:?}", link.remove(name)),
        ["put", text] => {
            let file = link.memory("hot", 4096).unwrap();
            file.write_all_at(text.as_bytes(), 100).unwrap();
            format!("{} {}", file.metadata().unwrap().len(), file.set_len(10).is_err())
        }
        ["get", size, n] => {
            let file = link.memory("hot", size.parse().unwrap()).unwrap();
            let mut text = vec![0; n.parse().unwrap()];
            file.read_exact_at(&mut text, 100).unwrap();
            format!(
                "{} {}",
                file.metadata().unwrap().len(),
                String::from_utf8_lossy(&text)
            )
        }
        ["raw", count, text] => {
            let bytes = text.as_bytes().to_vec();
            let file = std::fs::File::open("/dev/null").unwrap();
            let fds = vec![file.as_fd(); count.parse().unwrap()];
            raw_send(link, &bytes, &fds);
            "sent".into()
        }
        ["lie", count] => {
            // "Store 200 descriptors", with none or another number beside it.
            let message = [&[1, 1, 0, 3][..], b"lie", &[200]].concat();
            let file = std::fs::File::open("/dev/null").unwrap();
            raw_send(link, &message, &vec![file.as_fd(); count.parse().unwrap()]);
            "sent".into()
        }
        ["order"] => format!("{:?}", link.recv().unwrap()),
        ["ready"] => format!("{:?}", link.ready().map_err(|e| e.to_string())),
        ["status", text] => format!("{:?}", link.status(text).map_err(|e| e.to_string())),
        ["alive", ms] => {
            link.alive(Duration::from_millis(ms.parse().unwrap())).unwrap();
            "alive".into()
        }
        ["restart"] => {
            link.request_restart().unwrap();
            std::process::exit(0)
        }
        ["stop"] => {
            link.request_stop().unwrap();
            std::process::exit(0)
        }
        ["close-link"] => {
            rustix::net::shutdown(link, rustix::net::Shutdown::Both).unwrap();
            "closed".into()
        }
        ["orphan"] => {
            // The shell leaves a child behind, which becomes process 1's, and ends.
            let shell = Command::new("sh")
                .args(["-c", "true & echo $!"])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let orphan = PathBuf::from("/proc").join(String::from_utf8(shell.stdout).unwrap().trim());
            let start = Instant::now();
            while orphan.exists() && start.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            format!(
                "process {}, gone {}",
                std::os::unix::process::parent_id(),
                !orphan.exists()
            )
        }
        ["environment"] => format!("{:?}", std::env::var_os("NOTIFY_SOCKET")),
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn find(held: &[(String, OwnedFd)], name: &str) -> OwnedFd {
    held.iter()
        .find(|(other, _)| other == name)
        .unwrap()
        .1
        .try_clone()
        .unwrap()
}

fn raw_send(link: &Link, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(
        link,
        &[std::io::IoSlice::new(bytes)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}

// ---- the test's hold on them ----

struct Gateway {
    keeper: Child,
    control: UnixListener,
    folder: tempfile::TempDir,
}

struct Worker {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    pid: i32,
    /// Restarts and reason as the keeper told them.
    told: String,
}

impl Gateway {
    fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_as(again("keeper"), settings)
    }

    fn start_as(mut command: Command, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = UnixListener::bind(&path).unwrap();
        command
            .env("KEEPER_TEST_CONTROL", path)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET").envs(settings.iter().copied());
        Self {
            keeper: command.spawn().unwrap(),
            control,
            folder,
        }
    }

    fn worker(&self) -> Worker {
        wait_readable(&self.control);
        let (stream, _) = self.control.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let (pid, told) = line.trim_end().split_once(' ').unwrap();
        Worker {
            stream,
            lines,
            pid: pid.parse().unwrap(),
            told: told.to_owned(),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(self.keeper.id() as i32, signal);
    }

    /// Waits for the keeper's end; gives its status and what it logged.
    fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        self.keeper
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (self.keeper.wait().unwrap(), log)
    }
}

impl Worker {
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn tell(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits until the process has ended.
    fn gone(mut self) {
        let mut rest = Vec::new();
        let _ = self.lines.read_to_end(&mut rest);
    }
}

fn kill(pid: i32, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn wait_readable(fd: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "nothing came in time");
}

// ---- the tests ----

#[test]
fn descriptors_survive_a_kill_and_a_restart() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    assert_eq!(worker.told, "0 First");
    let tcp = worker.ask("listen");
    let udp = worker.ask("udp");
    worker.ask("ready");
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"before", &udp).unwrap();
    assert_eq!(worker.ask("receive"), "before");

    // The client is in the backlog and the datagram in the buffer before the worker dies.
    let send = |text: &str| {
        let mut client = TcpStream::connect(&tcp).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        sender.send_to(text.as_bytes(), &udp).unwrap();
        client
    };
    let client = send("killed");
    kill(worker.pid, Signal::KILL);
    worker.gone();
    sender.send_to(b"gap", &udp).unwrap();
    let mut worker = gateway.worker();
    assert_eq!(worker.told, "1 Crashed(\"was ended by signal 9\")");
    assert_eq!(worker.ask("names"), r#"["listener", "udp"]"#);
    assert_eq!(worker.ask("accept"), "killed");
    assert_eq!(worker.ask("receive"), "killed");
    assert_eq!(worker.ask("receive"), "gap");
    drop(client);

    worker.ask("ready");
    let client = send("restarted");
    worker.tell("restart");
    worker.gone();
    let mut worker = gateway.worker();
    assert_eq!(worker.told, "2 Requested");
    assert_eq!(worker.ask("accept"), "restarted");
    assert_eq!(worker.ask("receive"), "restarted");
    drop(client);

    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn memory_survives_grows_and_never_shrinks() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("put counters"), "4096 true");
    assert_eq!(worker.ask("get 10 8"), "4096 counters");
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("names"), "[]", "a memory is no descriptor to adopt");
    assert_eq!(worker.ask("get 8192 8"), "8192 counters");
    assert_eq!(worker.ask("remove hot"), "Ok(())");
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("get 4096 8"), format!("4096 {}", "\0".repeat(8)));
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn a_thousand_descriptors_are_handed_over() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("store 0 1000"), "stored");
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("count"), "1000");
    assert_eq!(worker.ask("remove fd-0"), "Ok(())");
    assert_eq!(worker.ask("store-two fd-1"), "Ok(())");
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("count"), "1000");
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn the_descriptor_limit_holds_on_both_sides() {
    let gateway = Gateway::start(&[("KEEPER_TEST_LIMIT", "3")]);
    let mut worker = gateway.worker();
    worker.ask("store 0 2");
    assert!(worker.ask("store-two x").contains("may hold 3 descriptors"));
    // Past the worker's own check: the keeper refuses too, and says so.
    assert_eq!(worker.ask("lie 200"), "sent");
    assert_eq!(worker.ask("order"), r#"Refused { name: "lie", why: Full }"#);
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("count"), "2");
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn the_descriptor_limit_is_within_the_hard_limit_of_open_files() {
    let gateway = Gateway::start(&[("KEEPER_TEST_FILES", "500")]);
    let mut worker = gateway.worker();
    let room = 500 - OWN_DESCRIPTORS;
    assert_eq!(worker.ask("room"), room.to_string());
    assert_eq!(worker.ask(&format!("store 0 {room}")), "stored");
    assert!(worker.ask("store-two x").contains("they are used up"));
    assert_eq!(worker.ask("room"), "0");
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("count"), room.to_string());
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn bad_messages_cost_a_log_line_and_nothing_else() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    worker.ask("store 0 1");
    for text in ["x", "garbage-garbage", &"y".repeat(30_000)] {
        worker.ask(&format!("raw 0 {text}"));
        worker.ask(&format!("raw 7 {text}"));
    }
    worker.ask("lie 0");
    worker.ask("lie 12");
    assert_eq!(worker.ask("order"), r#"Refused { name: "lie", why: Lost }"#);
    assert_eq!(worker.ask("order"), r#"Refused { name: "lie", why: Lost }"#);
    kill(worker.pid, Signal::KILL);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("names"), r#"["fd-0"]"#);
    worker.tell("stop");
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(log.matches("sent a bad message").count(), 5, "{log}");
}

#[test]
fn a_crash_loop_ends_with_a_clear_line() {
    let gateway = Gateway::start(&[("KEEPER_TEST_CRASHES", "3")]);
    for restarts in 0..3 {
        let mut worker = gateway.worker();
        assert!(
            worker.told.starts_with(&format!("{restarts} ")),
            "{}",
            worker.told
        );
        worker.tell(["exit 101", "exit 0", "restart"][restarts]);
    }
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(EXIT_FAILED.into()));
    assert!(
        log.contains("giving up: 3 crashes of the worker within 60 s"),
        "{log}"
    );
}

#[test]
fn a_configuration_error_and_a_failed_first_start_end_the_keeper() {
    for code in [EXIT_CONFIGURATION, EXIT_CANNOT_START] {
        let gateway = Gateway::start(&[]);
        gateway.worker().tell(&format!("exit {code}"));
        assert_eq!(gateway.end().0.code(), Some(code.into()));
    }
    // Once a worker was ready, a start that fails is tried again.
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    worker.ask("ready");
    worker.tell(&format!("exit {EXIT_CANNOT_START}"));
    gateway.worker().tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn signals_become_orders() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    gateway.signal(Signal::HUP);
    assert_eq!(worker.ask("order"), "Reload");
    gateway.signal(Signal::TERM);
    assert_eq!(worker.ask("order"), "Shutdown");
    gateway.signal(Signal::INT);
    assert_eq!(worker.ask("order"), "Stop");
    worker.tell("exit 0");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn a_worker_that_does_not_end_is_killed() {
    let gateway = Gateway::start(&[("KEEPER_TEST_GRACE", "30")]);
    let worker = gateway.worker();
    gateway.signal(Signal::TERM);
    worker.gone();
    let (status, log) = gateway.end();
    assert_eq!(status.code(), Some(EXIT_FAILED.into()));
    assert!(log.contains("it did not end in time"), "{log}");
}

#[test]
fn a_worker_that_falls_silent_or_leaves_its_link_is_replaced() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    worker.ask("alive 60000");
    worker.ask("alive 0");
    worker.ask("alive 30");
    let mut worker = gateway.worker();
    assert_eq!(worker.told, "1 Crashed(\"was killed: it fell silent\")");
    worker.ask("close-link");
    let mut worker = gateway.worker();
    assert_eq!(worker.told, "2 Crashed(\"was killed: it closed its link\")");
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn a_worker_learns_that_its_keeper_died() {
    let gateway = Gateway::start(&[]);
    let mut worker = gateway.worker();
    gateway.signal(Signal::KILL);
    assert_eq!(worker.ask("order"), "KeeperGone");
    assert!(worker.ask("ready").contains("the keeper is gone"));
    drop(worker);
    assert_eq!(gateway.end().0.signal(), Some(9));
}

#[test]
fn it_is_a_good_process_one() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a process namespace needs root");
        return;
    }
    let keeper = again("keeper");
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "env",
        "KEEPER_TEST_ROLE=keeper",
    ]);
    command.arg(keeper.get_program()).args(keeper.get_args());
    let gateway = Gateway::start_as(command, &[]);
    let mut worker = gateway.worker();
    assert_eq!(worker.ask("orphan"), "process 1, gone true");
    worker.tell("stop");
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn the_service_manager_is_told() {
    for abstract_name in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (manager, name) = manager_socket(folder.path(), abstract_name);
        let gateway = Gateway::start(&[("NOTIFY_SOCKET", &name), ("WATCHDOG_USEC", "40000")]);
        let manager = listen(manager);
        // Heard without any worker's doing, again and again.
        assert_eq!(heard(&manager, ""), "WATCHDOG=1");
        assert_eq!(heard(&manager, ""), "WATCHDOG=1");
        let mut worker = gateway.worker();
        assert_eq!(worker.ask("environment"), "None");
        worker.ask("ready");
        assert_eq!(heard(&manager, "WATCHDOG=1"), "READY=1");
        worker.ask("status 12-sessions");
        assert_eq!(heard(&manager, "WATCHDOG=1"), "STATUS=12-sessions");
        gateway.signal(Signal::HUP);
        assert!(heard(&manager, "WATCHDOG=1").starts_with("RELOADING=1\nMONOTONIC_USEC="));
        worker.ask("ready");
        assert_eq!(heard(&manager, "WATCHDOG=1"), "READY=1");
        gateway.signal(Signal::TERM);
        assert_eq!(heard(&manager, "WATCHDOG=1"), "STOPPING=1");
        worker.tell("exit 0");
        assert!(gateway.folder.path().exists());
        assert_eq!(gateway.end().0.code(), Some(0));
    }
}

fn manager_socket(folder: &Path, abstract_name: bool) -> (UnixDatagram, String) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let path = folder.join("notify").to_str().unwrap().to_owned();
    let address = if abstract_name {
        SocketAddr::from_abstract_name(&path).unwrap()
    } else {
        SocketAddr::from_pathname(&path).unwrap()
    };
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, if abstract_name { format!("@{path}") } else { path })
}

/// Reads all messages as they come, like a service manager: the kernel keeps only ten for one that does not read.
fn listen(manager: UnixDatagram) -> Receiver<String> {
    let (messages, heard) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok(length) = manager.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if messages.send(text).is_err() {
                break;
            }
        }
    });
    heard
}

/// The next message that is not `but`.
fn heard(manager: &Receiver<String>, but: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = manager.recv_timeout(PATIENCE).unwrap();
        if text != but {
            return text;
        }
        assert!(Instant::now() < end, "nothing but {but} came");
    }
}
