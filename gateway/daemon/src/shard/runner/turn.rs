//! The loop of a shard.

use super::super::remote::{Command, Inbox, Reply, Silent};
use super::super::streams::Streams;
use super::super::{Answered, Driver};
use super::Restored;
use super::clock;
use super::ground::Ground;
use super::ready::Watched;
use super::upkeep::Upkeep;
use crate::logs::Limiter;
use sluice_core::Now;
use sluice_dataplane::{Progress, Slow, SocketId, UserPath};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Datagrams of one socket before the other work has its turn. With one batch more (8 trains of 64) they still find
/// room in the data plane's slow queues, whatever they are.
const UDP_BUDGET: usize = 512;
/// Packets and super-packets of the TUN queue before the other work has its turn.
const TUN_BUDGET: usize = 256;
/// Packets of other shards before the other work has its turn: all that may wait.
const MESH_BUDGET: usize = sluice_dataplane::RING;
/// Commands and answers of authentication before the other work has its turn.
const COMMANDS: usize = 64;
const ANSWERS: usize = 256;
/// Lines a second about sockets that fail.
const LINES: u32 = 1;

/// What the loop works with.
pub(super) struct Runner {
    ground: Rc<Ground>,
    streams: Rc<Streams>,
    sockets: Vec<(SocketId, Watched)>,
    tun: Option<Watched>,
    inbox: Inbox,
    answers: mpsc::Receiver<Answered>,
    upkeep: Upkeep,
    commands: Vec<Command>,
    answered: Vec<Answered>,
    /// Somebody asked for something, or rang.
    woken: bool,
    /// Nobody is left to tell this shard anything.
    abandoned: bool,
    /// There is more to do than was done in the last turn.
    busy: bool,
    machines: usize,
    lines: Limiter<usize>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    GoOn,
    End,
}

impl Runner {
    pub(super) fn new(
        ground: Rc<Ground>,
        streams: Rc<Streams>,
        sockets: Vec<(SocketId, Watched)>,
        tun: Option<Watched>,
        inbox: Inbox,
        answers: mpsc::Receiver<Answered>,
        upkeep: Upkeep,
    ) -> Self {
        let lines = Limiter::new(LINES, sockets.len(), Instant::now());
        Self {
            ground,
            streams,
            sockets,
            tun,
            inbox,
            answers,
            upkeep,
            commands: Vec::new(),
            answered: Vec::new(),
            woken: false,
            abandoned: false,
            busy: false,
            machines: 0,
            lines,
        }
    }

    /// Goes on with restored tunnels, then serves until told to end. Restored connections wait for a word.
    pub(super) async fn run(&mut self, restored: Restored) {
        for (listener, tunnel, connection) in restored.tunnels {
            match connection {
                Some(connection) => self.streams.take_up_tunnel(listener, &tunnel, connection),
                None => {
                    self.ground.driver().restore(listener, &tunnel, None, clock());
                }
            }
        }
        self.streams.take_up(restored.connections);
        let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        // What the restored tunnels have to say goes out with the first turn.
        self.busy = true;
        loop {
            let deadline = self.deadline(clock());
            self.wait(deadline, sleep.as_mut()).await;
            let now = clock();
            self.upkeep
                .lag
                .note(now.instant.saturating_duration_since(deadline));
            if self.turn(now) == After::End {
                return;
            }
            self.upkeep.lag.note(now.instant.elapsed());
        }
    }

    /// When there is something to do, whatever comes.
    fn deadline(&mut self, now: Now) -> Instant {
        let mut driver = self.ground.driver();
        let upkeep = self.upkeep.next(&driver, now.instant);
        let others = driver.next_timeout(now).into_iter();
        let deadline = others
            .chain(driver.plane().next_deadline())
            .fold(upkeep, Instant::min);
        self.ground.arm(deadline);
        deadline
    }

    async fn wait(&mut self, deadline: Instant, mut sleep: Pin<&mut Sleep>) {
        if self.busy {
            // The tasks that ask for authentication run on this thread too, and so does what finds readiness.
            tokio::task::yield_now().await;
        }
        sleep.as_mut().reset(deadline.into());
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await;
    }

    /// Looks at everything that is waited for.
    fn poll(&mut self, cx: &mut Context<'_>, sleep: Pin<&mut Sleep>) -> Poll<()> {
        let mut is_ready = self.busy;
        match self.inbox.poll(cx, &mut self.commands, COMMANDS) {
            Poll::Ready(Ok(())) => self.woken = true,
            Poll::Ready(Err(Silent)) => self.abandoned = true,
            Poll::Pending => {}
        }
        is_ready |= self.woken || self.abandoned || self.ground.is_rung(cx);
        let answers = self.answers.poll_recv_many(cx, &mut self.answered, ANSWERS);
        is_ready |= answers.is_ready();
        let mut driver = self.ground.driver();
        for (id, watched) in &self.sockets {
            is_ready |= watched.poll_read(cx).is_ready();
            is_ready |= driver.plane().wants_write(*id) && watched.poll_write(cx).is_ready();
        }
        drop(driver);
        is_ready |= self.tun.as_ref().is_some_and(|tun| tun.poll_read(cx).is_ready());
        is_ready |= sleep.poll(cx).is_ready();
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Does what there is to do, each kind within its bound, control first.
    fn turn(&mut self, now: Now) -> After {
        let ground = self.ground.clone();
        let driver = &mut *ground.driver();
        self.busy = false;
        if self.obey(driver, now) == After::End {
            return After::End;
        }
        for (ticket, answer) in self.answered.drain(..) {
            driver.answer(ticket, answer, now);
        }
        let due = driver.next_timeout(now).is_some_and(|at| at <= now.instant);
        if std::mem::take(&mut self.woken) || due {
            driver.timeout(now);
        }
        let is_second = self.upkeep.run(driver, now);
        self.cross(driver, now);
        self.read_sockets(driver, is_second, now);
        self.read_tun(driver, is_second, now);
        self.write_out(driver);
        if is_second || self.machines != driver.machines() {
            self.publish(driver);
        }
        After::GoOn
    }

    /// Does what it is told.
    fn obey(&mut self, driver: &mut Driver<UserPath>, now: Now) -> After {
        if self.abandoned {
            tracing::info!("nobody is left to tell this shard anything: it ends");
            self.finish(driver);
            return After::End;
        }
        let mut commands = std::mem::take(&mut self.commands).into_iter();
        let end = commands.any(|command| self.command(driver, command, now) == After::End);
        if end { After::End } else { After::GoOn }
    }

    fn command(&mut self, driver: &mut Driver<UserPath>, command: Command, now: Now) -> After {
        match command {
            Command::DescribeSession(id, reply) => tell(reply, driver.describe_session(id, now)),
            Command::DescribeTunnel(id, reply) => tell(reply, driver.describe_tunnel(id, now)),
            Command::Call(tunnel, call, reply) => tell(reply, driver.call(tunnel, &call, now)),
            Command::Dial(listener, peer, call, reply) => {
                tell(reply, driver.dial(listener, peer, &call, now));
            }
            Command::Trace(id, on, reply) => tell(reply, driver.trace(id, on, now)),
            Command::CloseAll(cause, reply) => {
                driver.close_all(cause, now);
                tell(reply, ());
            }
            Command::Ready(reply) => tell(reply, ()),
            Command::GoOn(reply) => tell(reply, self.streams.go_on()),
            Command::HandOver(reply) => {
                let streams = self.streams.clone();
                tokio::task::spawn_local(async move { tell(reply, streams.hand_over().await) });
            }
            Command::Freeze(reply) => {
                driver.look_at_all(now);
                self.finish(driver);
                driver.checkpoint_all(now);
                tell(reply, ());
                return After::End;
            }
            Command::End(reply) => {
                self.finish(driver);
                tell(reply, ());
                return After::End;
            }
        }
        After::GoOn
    }

    /// Sends what waits, and shows how everything is, for the last time.
    fn finish(&mut self, driver: &mut Driver<UserPath>) {
        driver.plane().flush();
        self.upkeep.finish(driver);
        self.publish(driver);
    }

    fn publish(&mut self, driver: &mut Driver<UserPath>) {
        self.machines = driver.machines();
        self.inbox.publish(self.upkeep.status(driver));
    }

    /// Takes what other shards received for this one, and lets go on what waited for packets before it.
    fn cross(&mut self, driver: &mut Driver<UserPath>, now: Now) {
        let plane = driver.plane();
        let progress = plane.poll_mesh(MESH_BUDGET, now.instant);
        plane.handle_timeout(now.instant);
        self.busy |= matches!(progress, Progress::More);
        deliver(driver, now);
    }

    /// Reads the sockets that are ready; with `all`, the others too: an ICMP report alone does not make one ready.
    fn read_sockets(&mut self, driver: &mut Driver<UserPath>, all: bool, now: Now) {
        for (index, (id, watched)) in self.sockets.iter().enumerate() {
            let (lines, busy) = (&mut self.lines, &mut self.busy);
            let read = || match driver.plane().poll_udp(*id, UDP_BUDGET, now.instant) {
                Progress::Idle => false,
                Progress::More => {
                    *busy = true;
                    true
                }
                Progress::Failed(error) => {
                    complain(lines, index, &error, now);
                    false
                }
            };
            watched.read(all, read);
            deliver(driver, now);
        }
    }

    /// Reads the TUN queue if it is ready; with `anyway`, in any case: that its device is gone does not make it ready.
    fn read_tun(&mut self, driver: &mut Driver<UserPath>, anyway: bool, now: Now) {
        let Some(tun) = &self.tun else { return };
        let mut failed = None;
        let busy = &mut self.busy;
        tun.read(anyway, || {
            match driver.plane().poll_tun(TUN_BUDGET, now.instant) {
                Progress::Idle => false,
                Progress::More => {
                    *busy = true;
                    true
                }
                Progress::Failed(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        if let Some(error) = failed {
            tracing::error!(
                "the TUN device failed ({error}): no user data flows in this shard until the gateway is restarted"
            );
            self.tun = None;
            driver.plane().set_tun(None);
        }
        deliver(driver, now);
    }

    /// Sends what waits. A socket that takes nothing more is waited for.
    fn write_out(&mut self, driver: &mut Driver<UserPath>) {
        driver.plane().flush();
        for (id, watched) in &self.sockets {
            let plane = driver.plane();
            if plane.wants_write(*id) {
                watched.write(|| {
                    plane.flush();
                    !plane.wants_write(*id)
                });
            }
        }
    }
}

/// Answers whoever asked. Where that one has given up by now, nobody takes the answer.
fn tell<T>(reply: Reply<T>, answer: T) {
    let _ = reply.send(answer);
}

/// Gives the driver what the data plane left to it.
fn deliver(driver: &mut Driver<UserPath>, now: Now) {
    while let Some(item) = driver.plane().pop_slow() {
        match item {
            Slow::Datagram {
                listener,
                from,
                packet,
            } => driver.datagram(usize::from(listener.0), from, &packet, now),
            Slow::Frame { frame, .. } => driver.frame(frame.machine, frame.session, &frame.frame, now),
            Slow::Tapped {
                machine,
                session,
                direction,
                peer,
                packet,
            } => driver.tapped(machine, session, direction, peer, &packet, now),
            Slow::Unreachable { listener, peer } => driver.unreachable(usize::from(listener.0), peer, now),
        }
    }
}

/// Says that a socket fails, but not too often.
fn complain(lines: &mut Limiter<usize>, socket: usize, error: &io::Error, now: Now) {
    if let Some(permit) = lines.permit(socket, now.instant) {
        let held_back = permit.held_back;
        tracing::warn!(socket, held_back, "a UDP socket cannot be read: {error}");
    }
}
