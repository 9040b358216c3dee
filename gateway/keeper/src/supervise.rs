//! The keeper's loop: start the worker, listen to it and to signals, decide what its end means.

use crate::channel::{self, Received};
use crate::held::{Held, Outgoing};
use crate::notify::{self, Notify};
use crate::signals::Signals;
use crate::wire::{Refusal, StartReason, ToKeeper, ToWorker, VERSION};
use crate::{
    ENVIRONMENT, EXIT_CANNOT_START, EXIT_CONFIGURATION, EXIT_FAILED, MAX_DESCRIPTORS, OWN_DESCRIPTORS,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Messages read from the worker before signals and timers are looked at again.
const READ_BURST: usize = 64;
/// Messages read from a worker that has ended: more than its socket can hold, so that nothing it sent is lost,
/// yet a child it left behind cannot keep the keeper reading for ever.
const LAST_WORDS: usize = 16_384;
/// Notices waiting for a worker that does not read; further ones are dropped.
const MAX_WAITING: usize = 64;
/// Log lines about malformed messages of one worker.
const MAX_COMPLAINTS: u32 = 5;
/// Pause before a message is sent again that the kernel refused for too many descriptors in flight.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(10);

/// How much a log line of the keeper matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// What happened.
    Info,
    /// Something went wrong and is being dealt with.
    Warning,
    /// The keeper gives up.
    Error,
}

/// Takes a log line of the keeper.
pub type Log = Box<dyn Fn(Severity, &str)>;

/// What to run and how patient to be.
pub struct KeeperOptions {
    /// The worker's program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Time an orderly shutdown may take before the worker is killed.
    pub shutdown_grace: Duration,
    /// Pause after the first crash; it doubles with each further crash within `crash_window`.
    pub backoff_first: Duration,
    /// The longest pause.
    pub backoff_most: Duration,
    /// Crashes within `crash_window` at which the keeper gives up.
    pub crash_limit: usize,
    /// How long a crash counts.
    pub crash_window: Duration,
    /// Descriptors held in all, at most. Each counts against the process's own limit of open files, which [`run`]
    /// raises to the hard limit: where that is lower, what it leaves after [`OWN_DESCRIPTORS`] is the limit.
    pub descriptor_limit: u32,
    /// Where log lines go.
    pub log: Log,
}

impl KeeperOptions {
    /// The usual patience: 15 s for a shutdown, 100 ms doubling to 5 s between crashes, giving up at 10 crashes in
    /// 60 s, [`MAX_DESCRIPTORS`] descriptors.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = OsString>,
        log: impl Fn(Severity, &str) + 'static,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().collect(),
            shutdown_grace: Duration::from_secs(15),
            backoff_first: Duration::from_millis(100),
            backoff_most: Duration::from_secs(5),
            crash_limit: 10,
            crash_window: Duration::from_secs(60),
            descriptor_limit: MAX_DESCRIPTORS,
            log: Box::new(log),
        }
    }
}

/// Runs workers until one ends for good, and gives the exit code for this process: 0 after a shutdown,
/// [`EXIT_CONFIGURATION`], [`EXIT_CANNOT_START`], or [`EXIT_FAILED`].
///
/// It takes over the process: SIGTERM and SIGINT (orderly shutdown; a second one stops at once), SIGHUP (reload),
/// SIGCHLD, and all children, which it reaps, so that it can be process 1. Call it before any thread is started.
pub fn run(mut options: KeeperOptions) -> u8 {
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            (options.log)(Severity::Error, &format!("cannot take over signals: {error}"));
            return EXIT_FAILED;
        }
    };
    options.descriptor_limit = options.descriptor_limit.min(raise_descriptor_limit());
    Keeper {
        held: Held::new(options.descriptor_limit as usize),
        notify: Notify::from_environment(),
        watchdog: notify::watchdog_interval(),
        watchdog_due: Instant::now(),
        terminal: io::stdin().is_terminal(),
        signals,
        restarts: 0,
        crashes: VecDeque::new(),
        ever_ready: false,
        options,
    }
    .run()
}

/// Raises the soft limit of open files to the hard one; the worker inherits it. Gives the number of descriptors that
/// can be held within it.
fn raise_descriptor_limit() -> u32 {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    limit.saturating_sub(OWN_DESCRIPTORS)
}

struct Keeper {
    options: KeeperOptions,
    signals: Signals,
    held: Held,
    notify: Notify,
    watchdog: Option<Duration>,
    watchdog_due: Instant,
    /// Standard input was a terminal at the start.
    terminal: bool,
    restarts: u32,
    crashes: VecDeque<Instant>,
    ever_ready: bool,
}

/// A running worker.
struct Worker {
    pid: Pid,
    /// `None` once it is closed or failed.
    link: Option<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    /// Do not try to send before this.
    send_after: Option<Instant>,
    status: Option<WaitStatus>,
    ready: bool,
    wants_restart: bool,
    wants_stop: bool,
    complaints: u32,
    /// Kill it then: it was told to go, or fell silent, or left the link.
    deadline: Option<(Instant, Deadline)>,
    alive_until: Option<Instant>,
    killed: Option<Deadline>,
    stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    Shutdown,
    Silent,
    LinkLost,
}

/// What follows the end of a worker.
enum Next {
    Exit(u8),
    Start { reason: StartReason, after: Duration },
}

impl Keeper {
    fn run(mut self) -> u8 {
        let mut reason = StartReason::First;
        loop {
            let next = match self.start(reason) {
                Ok(worker) => {
                    let worker = self.watch(worker);
                    self.judge(&worker)
                }
                Err(error) => {
                    let how = format!("cannot start {}: {error}", self.options.program.display());
                    self.log(Severity::Warning, &how);
                    if self.ever_ready {
                        self.crashed(how)
                    } else {
                        Next::Exit(EXIT_CANNOT_START)
                    }
                }
            };
            match next {
                Next::Exit(code) => return code,
                Next::Start { reason: why, after } => {
                    if !self.pause(after) {
                        return 0;
                    }
                    self.restarts = self.restarts.saturating_add(1);
                    reason = why;
                }
            }
        }
    }

    fn log(&self, severity: Severity, line: &str) {
        (self.options.log)(severity, line);
    }

    fn start(&self, reason: StartReason) -> io::Result<Worker> {
        let (ours, theirs) = channel::pair()?;
        let mut command = Command::new(&self.options.program);
        command
            .args(&self.options.arguments)
            .stdin(Stdio::from(theirs))
            .env(ENVIRONMENT, VERSION.to_string())
            // Its own group: Ctrl-C at a terminal comes to the keeper, which tells the worker in good order.
            .process_group(0);
        for variable in notify::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process identifier"))?;
        let start = ToWorker::Start {
            restarts: self.restarts,
            limit: self.options.descriptor_limit,
            reason,
        };
        let mut outgoing = VecDeque::from([Outgoing::plain(&start)]);
        outgoing.extend(self.held.handover());
        if self.restarts > 0 {
            self.log(
                Severity::Info,
                &format!("worker {pid} started with {} descriptors", self.held.count()),
            );
        }
        Ok(Worker {
            pid,
            link: Some(ours),
            outgoing,
            send_after: None,
            status: None,
            ready: false,
            wants_restart: false,
            wants_stop: false,
            complaints: 0,
            deadline: None,
            alive_until: None,
            killed: None,
            stopping: false,
        })
    }

    /// Serves a worker until it has ended and everything it said is read.
    fn watch(&mut self, mut worker: Worker) -> Worker {
        while worker.status.is_none() {
            self.wait(&worker);
            self.signals.clear();
            self.reap(&mut worker);
            self.obey_signals(&mut worker);
            for _ in 0..READ_BURST {
                if !self.read(&mut worker) {
                    break;
                }
            }
            worker.send();
            self.enforce(&mut worker);
        }
        for _ in 0..LAST_WORDS {
            if !self.read(&mut worker) {
                break;
            }
        }
        worker
    }

    /// Waits for a signal, the link or the next moment something is due.
    fn wait(&mut self, worker: &Worker) {
        let now = Instant::now();
        let mut until = self.watchdog_tick(now);
        let deadlines = [
            worker.deadline.map(|(at, _)| at),
            worker.alive_until,
            worker.send_after,
        ];
        until = deadlines.into_iter().flatten().chain(until).min();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(link) = &worker.link {
            let mut flags = PollFlags::IN;
            if !worker.outgoing.is_empty() && worker.send_after.is_none() {
                flags |= PollFlags::OUT;
            }
            fds.push(PollFd::new(link, flags));
        }
        sleep_on(&mut fds, until.map(|at| at.saturating_duration_since(now)));
    }

    /// Feeds the service manager's watchdog when it is time; gives the time of the next feeding.
    fn watchdog_tick(&mut self, now: Instant) -> Option<Instant> {
        let interval = self.watchdog?;
        if now >= self.watchdog_due {
            self.notify.send("WATCHDOG=1");
            self.watchdog_due = now + interval;
        }
        Some(self.watchdog_due)
    }

    /// Collects every child that has ended, ours or, as process 1, anybody's.
    fn reap(&self, worker: &mut Worker) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == worker.pid {
                worker.status = Some(status);
            }
        }
    }

    fn obey_signals(&mut self, worker: &mut Worker) {
        let mut stop = self.signals.take_stop();
        if self.signals.take_reload() {
            if self.terminal && terminal_gone() {
                stop = true;
            } else if !worker.stopping {
                self.announce_reload();
                worker.outgoing.push_back(Outgoing::plain(&ToWorker::Reload));
            }
        }
        if !stop {
            return;
        }
        let again = std::mem::replace(&mut worker.stopping, true);
        let order = if again { ToWorker::Stop } else { ToWorker::Shutdown };
        worker.outgoing.push_back(Outgoing::plain(&order));
        if !again {
            self.notify.send("STOPPING=1");
            worker.deadline = Some((Instant::now() + self.options.shutdown_grace, Deadline::Shutdown));
        }
    }

    fn announce_reload(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.notify.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Reads one message; `false` when there is none.
    fn read(&mut self, worker: &mut Worker) -> bool {
        let Some(link) = &worker.link else { return false };
        match channel::receive(link.as_fd(), false) {
            Ok(Received::Nothing) => false,
            Ok(Received::Packet {
                bytes,
                descriptors,
                cut,
            }) => {
                match ToKeeper::decode(&bytes) {
                    Ok(message) => self.take(worker, message, descriptors, cut),
                    Err(error) => self.complain(worker, &error.to_string()),
                }
                true
            }
            Ok(Received::Closed) => {
                worker.lose_link();
                false
            }
            Err(error) => {
                self.complain(worker, &error.to_string());
                worker.lose_link();
                false
            }
        }
    }

    fn complain(&self, worker: &mut Worker, what: &str) {
        worker.complaints = worker.complaints.saturating_add(1);
        if worker.complaints <= MAX_COMPLAINTS {
            self.log(
                Severity::Warning,
                &format!("worker {} sent a bad message: {what}", worker.pid),
            );
        }
    }

    fn take(&mut self, worker: &mut Worker, message: ToKeeper, fds: Vec<OwnedFd>, cut: bool) {
        match message {
            ToKeeper::Store { kind, name, count } => {
                let outcome = if cut || fds.len() != count {
                    Err(Refusal::Lost)
                } else {
                    self.held.store(kind, name.clone(), fds)
                };
                if let Err(why) = outcome {
                    self.complain(worker, &format!("{name} not kept: {why}"));
                    worker.notice(&ToWorker::Refused { name, why });
                }
            }
            ToKeeper::Remove { name } => self.held.remove(&name),
            ToKeeper::Ready => {
                worker.ready = true;
                self.ever_ready = true;
                self.notify.send("READY=1");
            }
            ToKeeper::Restart => worker.wants_restart = true,
            ToKeeper::Stop => worker.wants_stop = true,
            ToKeeper::Status(text) => {
                let line: String = text
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                self.notify.send(&format!("STATUS={line}"));
            }
            ToKeeper::Alive(within) if within.is_zero() => worker.alive_until = None,
            ToKeeper::Alive(within) => worker.alive_until = Some(Instant::now() + within),
        }
    }

    /// Kills a worker whose time is up.
    fn enforce(&self, worker: &mut Worker) {
        let now = Instant::now();
        if worker.send_after.is_some_and(|at| now >= at) {
            worker.send_after = None;
        }
        let silent = worker
            .alive_until
            .filter(|&at| now >= at)
            .map(|_| Deadline::Silent);
        let due = worker.deadline.filter(|&(at, _)| now >= at).map(|(_, why)| why);
        let Some(why) = due.or(silent) else { return };
        (worker.deadline, worker.alive_until, worker.killed) = (None, None, Some(why));
        let because = match why {
            Deadline::Shutdown => "it did not end in time",
            Deadline::Silent => "it fell silent",
            Deadline::LinkLost => "it closed its link to the keeper",
        };
        self.log(
            Severity::Warning,
            &format!("killing worker {}: {because}", worker.pid),
        );
        // It is not reaped yet, so the identifier is still its own.
        let _ = rustix::process::kill_process(worker.pid, Signal::KILL);
    }

    /// Decides what the end of a worker means.
    fn judge(&mut self, worker: &Worker) -> Next {
        let code = worker.status.and_then(|status| status.exit_status());
        if worker.stopping {
            if worker.killed.is_none() && code == Some(0) {
                return Next::Exit(0);
            }
            self.log(
                Severity::Error,
                &format!("the worker {} at shutdown", worker.ending()),
            );
            return Next::Exit(EXIT_FAILED);
        }
        match code {
            Some(0) if worker.wants_stop => {
                self.notify.send("STOPPING=1");
                Next::Exit(0)
            }
            // A restart asked for before the worker was ready would be asked for again and again.
            Some(0) if worker.wants_restart && worker.ready => Next::Start {
                reason: StartReason::Requested,
                after: Duration::ZERO,
            },
            Some(code) if code == i32::from(EXIT_CONFIGURATION) => Next::Exit(EXIT_CONFIGURATION),
            Some(code) if code == i32::from(EXIT_CANNOT_START) && !self.ever_ready => {
                Next::Exit(EXIT_CANNOT_START)
            }
            _ => self.crashed(worker.ending()),
        }
    }

    fn crashed(&mut self, how: String) -> Next {
        let now = Instant::now();
        self.crashes.push_back(now);
        while self
            .crashes
            .front()
            .is_some_and(|&at| now.duration_since(at) > self.options.crash_window)
        {
            self.crashes.pop_front();
        }
        let crashes = self.crashes.len();
        if crashes >= self.options.crash_limit {
            let window = self.options.crash_window.as_secs();
            let line =
                format!("giving up: {crashes} crashes of the worker within {window} s; the last: {how}");
            self.log(Severity::Error, &line);
            return Next::Exit(EXIT_FAILED);
        }
        let doublings = u32::try_from(crashes.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let after = self
            .options
            .backoff_first
            .saturating_mul(factor)
            .min(self.options.backoff_most);
        self.log(
            Severity::Warning,
            &format!("the worker {how}; starting it again in {} ms", after.as_millis()),
        );
        Next::Start {
            reason: StartReason::Crashed(how),
            after,
        }
    }

    /// Waits between workers; `false` if told to stop meanwhile.
    fn pause(&mut self, length: Duration) -> bool {
        let end = Instant::now() + length;
        loop {
            self.signals.clear();
            if self.signals.take_stop() {
                self.notify.send("STOPPING=1");
                return false;
            }
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
            let now = Instant::now();
            let next = self.watchdog_tick(now);
            if now >= end {
                return true;
            }
            let until = next.map_or(end, |at| at.min(end));
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            sleep_on(&mut fds, Some(until.saturating_duration_since(now)));
        }
    }
}

impl Worker {
    /// Queues what the worker may miss: dropped if it does not read.
    fn notice(&mut self, message: &ToWorker) {
        if self.outgoing.len() < MAX_WAITING {
            self.outgoing.push_back(Outgoing::plain(message));
        }
    }

    /// Sends what its socket takes.
    fn send(&mut self) {
        let Some(link) = &self.link else { return };
        while self.send_after.is_none()
            && let Some(message) = self.outgoing.front()
        {
            let fds: Vec<_> = message.descriptors.iter().map(|fd| fd.as_fd()).collect();
            match channel::send(link.as_fd(), &message.bytes, &fds, false) {
                Ok(()) => {
                    self.outgoing.pop_front();
                }
                Err(Errno::AGAIN) => return,
                // Descriptors in flight are bounded per user; they land as the worker reads.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => {
                    self.send_after = Some(Instant::now() + IN_FLIGHT_PAUSE);
                }
                Err(_) => return self.lose_link(),
            }
        }
    }

    /// The link is gone. A worker that is ending closes it on its way; one that lives on without it is beyond
    /// control and has a second left.
    fn lose_link(&mut self) {
        self.link = None;
        self.outgoing.clear();
        self.send_after = None;
        let soon = Instant::now() + Duration::from_secs(1);
        if self.deadline.is_none() && self.killed.is_none() {
            self.deadline = Some((soon, Deadline::LinkLost));
        }
    }

    /// How it ended, in words.
    fn ending(&self) -> String {
        match (self.killed, self.status) {
            (Some(Deadline::Shutdown), _) => "was killed: it did not end in time".into(),
            (Some(Deadline::Silent), _) => "was killed: it fell silent".into(),
            (Some(Deadline::LinkLost), _) => "was killed: it closed its link".into(),
            (None, None) => "ended".into(),
            (None, Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exited with code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended".into(),
            },
        }
    }
}

/// Whether standard input's terminal has been closed: the SIGHUP then means "your user left", not "reload".
fn terminal_gone() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
    sleep_on(&mut fds, Some(Duration::ZERO));
    fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Polls; an interrupted or failed poll is a short sleep to the caller, which looks at everything again anyway.
fn sleep_on(fds: &mut [PollFd<'_>], length: Option<Duration>) {
    // One millisecond more, so that what is due then is due when we wake.
    let timeout = length.and_then(|length| {
        let length = if length.is_zero() {
            length
        } else {
            length + Duration::from_millis(1)
        };
        Timespec::try_from(length).ok()
    });
    let _ = poll(fds, timeout.as_ref());
}
