//! The far end of a shard: how other threads ask it for something and see how it is.

use super::handover::{KeptConnection, TakenUp};
use futures_util::task::AtomicWaker;
use sluice_core::{SessionId, TunnelId};
use sluice_dataplane::Waker;
use sluice_spi::{Fact, OpenError, Originate, PeerAddr, TerminateCause};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for a shard's answer. A healthy one answers within a millisecond; whoever asks is a person or a
/// program with a time limit of its own.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Longest wait for a shard to put all its tunnels into the engine, or to take them out of it: a record of a tunnel
/// takes some microseconds for each session, and there may be tens of thousands.
pub const FREEZE_TIME: Duration = Duration::from_secs(10);
/// Questions that may wait for a shard.
pub const INBOX: usize = 256;

/// A shard did not answer within [`ANSWER_TIME`] ([`FREEZE_TIME`] where it is to freeze, or to come up), or is gone, or its inbox
/// is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard does not answer")]
pub struct Silent;

/// How a shard is, about once a second and after it gained or lost machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Machines it runs.
    pub machines: usize,
    /// Installed paths.
    pub paths: usize,
    /// Peers that have proven nothing yet, by listener.
    pub half_open: Vec<usize>,
    /// How late its loop was at worst in the last ten seconds.
    pub lag: Duration,
}

/// Where an answer goes. Whoever asked may have given up by then.
pub(super) type Reply<T> = oneshot::Sender<T>;

/// What a shard is asked for.
pub(super) enum Command {
    DescribeSession(SessionId, Reply<Option<Vec<Fact>>>),
    DescribeTunnel(TunnelId, Reply<Option<Vec<Fact>>>),
    Call(TunnelId, Box<Originate>, Reply<bool>),
    Dial(usize, PeerAddr, Box<Originate>, Reply<Result<(), OpenError>>),
    Trace(SessionId, bool, Reply<bool>),
    CloseAll(TerminateCause, Reply<()>),
    Ready(Reply<()>),
    GoOn(Reply<TakenUp>),
    HandOver(Reply<Vec<KeptConnection>>),
    Freeze(Reply<()>),
    End(Reply<()>),
}

/// A bell that any thread may ring, and that stays rung until it was heard.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.rung.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[derive(Default)]
struct Shared {
    bell: Bell,
    status: Mutex<Status>,
}

/// A shard as other threads see it.
#[derive(Clone)]
pub struct Remote {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// The near end, for the shard itself.
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
}

/// The near and the far end of a shard's inbox; made before the shards, since each needs the others' wakers.
pub fn inbox() -> (Remote, Inbox) {
    let (sender, receiver) = mpsc::channel(INBOX);
    let shared = Arc::new(Shared::default());
    let remote = Remote {
        commands: sender,
        shared: shared.clone(),
    };
    let inbox = Inbox {
        commands: receiver,
        shared,
    };
    (remote, inbox)
}

impl Remote {
    /// Wakes the shard for packets that another one passed to it.
    pub fn waker(&self) -> Waker {
        let shared = self.shared.clone();
        Arc::new(move || shared.bell.ring())
    }

    /// The engine has something due for this shard. Never waits.
    pub fn wake(&self) {
        self.shared.bell.ring();
    }

    async fn ask<T>(&self, limit: Duration, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Silent> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|_| Silent)?;
        let answer = tokio::time::timeout(limit, answer).await;
        answer.map_err(|_| Silent)?.map_err(|_| Silent)
    }

    /// What its machine knows of a session, with the engine's counters of it brought up to date; `None`: it is not
    /// one of this shard's.
    pub async fn describe_session(&self, id: SessionId) -> Result<Option<Vec<Fact>>, Silent> {
        self.ask(ANSWER_TIME, |reply| Command::DescribeSession(id, reply))
            .await
    }

    /// What its machine knows of a tunnel; `None`: it is not one of this shard's.
    pub async fn describe_tunnel(&self, id: TunnelId) -> Result<Option<Vec<Fact>>, Silent> {
        self.ask(ANSWER_TIME, |reply| Command::DescribeTunnel(id, reply))
            .await
    }

    /// Places a call in a tunnel; false: it is not one of this shard's.
    pub async fn call(&self, tunnel: TunnelId, call: Originate) -> Result<bool, Silent> {
        let call = Box::new(call);
        self.ask(ANSWER_TIME, |reply| Command::Call(tunnel, call, reply))
            .await
    }

    /// Opens a tunnel from a listener to a peer and places a call in it.
    pub async fn dial(
        &self,
        listener: usize,
        peer: PeerAddr,
        call: Originate,
    ) -> Result<Result<(), OpenError>, Silent> {
        let call = Box::new(call);
        self.ask(ANSWER_TIME, |reply| Command::Dial(listener, peer, call, reply))
            .await
    }

    /// Switches the trace of a session; false: it is not one of this shard's.
    pub async fn trace(&self, id: SessionId, on: bool) -> Result<bool, Silent> {
        self.ask(ANSWER_TIME, |reply| Command::Trace(id, on, reply)).await
    }

    /// Begins to end all tunnels, telling their peers. The shard goes on until [`Status::machines`] is 0 and beyond.
    pub async fn close_all(&self, cause: TerminateCause) -> Result<(), Silent> {
        self.ask(ANSWER_TIME, |reply| Command::CloseAll(cause, reply))
            .await
    }

    /// Waits until the shard goes on with its restored tunnels and serves.
    pub async fn ready(&self) -> Result<(), Silent> {
        self.ask(FREEZE_TIME, Command::Ready).await
    }

    /// Has the connections of the worker before go on: nothing of them moves before.
    pub async fn go_on(&self) -> Result<TakenUp, Silent> {
        self.ask(FREEZE_TIME, Command::GoOn).await
    }

    /// Accepts no more connections, ends those that are being set up, and stops the others where they are, for the next
    /// worker.
    pub async fn hand_over(&self) -> Result<Vec<KeptConnection>, Silent> {
        self.ask(FREEZE_TIME, Command::HandOver).await
    }

    /// Stops reading and sending, puts every tunnel's checkpoint into the engine and ends the thread: for a restart.
    pub async fn freeze(&self) -> Result<(), Silent> {
        self.ask(FREEZE_TIME, Command::Freeze).await
    }

    /// Ends the thread as it is.
    pub async fn end(&self) -> Result<(), Silent> {
        self.ask(ANSWER_TIME, Command::End).await
    }

    /// How the shard is. Never waits for it.
    pub fn status(&self) -> Status {
        let status = self.shared.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inbox {
    /// Takes up to `limit` commands, or waits for the first or the bell. Ready: there is something to do; with
    /// `Err`, nobody can ask for anything any more.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        commands: &mut Vec<Command>,
        limit: usize,
    ) -> Poll<Result<(), Silent>> {
        let rung = self.shared.bell.poll(cx).is_ready();
        match self.commands.poll_recv_many(cx, commands, limit) {
            Poll::Ready(0) => Poll::Ready(Err(Silent)),
            Poll::Pending if !rung => Poll::Pending,
            Poll::Ready(_) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Shows how the shard is.
    pub(super) fn publish(&self, status: Status) {
        let shown = self.shared.status.lock();
        *shown.unwrap_or_else(PoisonError::into_inner) = status;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shard_that_is_overrun_or_gone_is_silent_at_once() {
        let (remote, inbox) = inbox();
        for _ in 0..INBOX {
            let (reply, _) = oneshot::channel();
            assert!(remote.commands.try_send(Command::End(reply)).is_ok());
        }
        assert_eq!(remote.close_all(TerminateCause::AdminReset).await, Err(Silent));
        drop(inbox);
        assert_eq!(remote.freeze().await, Err(Silent));
    }

    #[tokio::test]
    async fn a_bell_stays_rung_until_it_is_heard() {
        let (remote, mut inbox) = inbox();
        let wake = remote.waker();
        let mut commands = Vec::new();
        wake();
        remote.wake();
        for rung in [true, false] {
            let heard =
                std::future::poll_fn(|cx| Poll::Ready(inbox.poll(cx, &mut commands, 1).is_ready())).await;
            assert_eq!(heard, rung);
        }
        assert!(commands.is_empty());
        drop(remote);
        let gone = std::future::poll_fn(|cx| inbox.poll(cx, &mut commands, 1)).await;
        assert_eq!(gone, Err(Silent));
    }
}
