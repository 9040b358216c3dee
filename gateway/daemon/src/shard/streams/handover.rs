//! Taking a shard's connections to the next worker, and going on with those of the worker before.
//!
//! Connections are accepted no more: they wait in the kernel's queue, as the keeper has the listeners too. Those that
//! are being set up get a moment to come to an end of that, while all others go on; what is not done then ends with a
//! reply. Only then the relays stop, and from there to the moment that the next worker's go on is the pause that users
//! see.

use super::super::handover::{GoOn, KeptConnection, RestoredConnection, TakenUp, reset};
use super::super::standing::Asked;
use super::state::{Doing, State};
use super::task::Task;
use super::{Source, Streams};
use sluice_core::{Origin, RestoredTunnel};
use sluice_spi::TerminateCause;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long connections that are being set up may take to be done with it: about the round trip to a target on the
/// other side of the earth.
const SETTLE: Duration = Duration::from_millis(250);

/// How long clients may take to read the reply that their request comes to nothing.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the tasks of all connections may take to stop: each does so when it runs next.
const STOP: Duration = Duration::from_secs(5);

/// How often it is looked whether that has happened.
const LOOK: Duration = Duration::from_millis(2);

/// What there is of connections between two workers.
#[derive(Default)]
pub(in super::super) struct Handover {
    accepting: RefCell<Vec<AbortHandle>>,
    begun: Cell<bool>,
    /// Tasks that send their last bytes.
    pub(super) finishing: Cell<usize>,
    left: RefCell<Vec<KeptConnection>>,
    waiting: RefCell<Vec<Waiting>>,
    tunnels: RefCell<Vec<(Task, OwnedFd)>>,
    lost: Cell<usize>,
}

/// A connection of the worker before that goes on when it is told to.
struct Waiting {
    task: Task,
    doing: Doing,
    asked: Asked,
    descriptors: Vec<OwnedFd>,
}

impl Handover {
    /// Notes a task that accepts connections.
    pub(in super::super) fn accepts(&self, task: AbortHandle) {
        self.accepting.borrow_mut().push(task);
    }

    /// Whether no connection is taken in any more.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Notes what there is of a connection.
    pub(super) fn leave(&self, connection: KeptConnection) {
        self.left.borrow_mut().push(connection);
    }
}

impl Streams {
    /// Stops all connections, and gives what the next worker needs to go on with them.
    pub(in super::super) async fn hand_over(&self) -> Vec<KeptConnection> {
        let unsettled = || self.ground.with(|driver, now| driver.unsettled(now).len());
        self.handover.begun.set(true);
        for task in self.handover.accepting.take() {
            task.abort();
        }
        until(SETTLE, || unsettled() == 0).await;
        self.ground
            .with(|driver, now| driver.close_unsettled(TerminateCause::NasReboot, now));
        until(LAST_WORDS, || {
            unsettled() == 0 && self.handover.finishing.get() == 0
        })
        .await;
        self.ground.with(|driver, _| driver.ask_for_handover());
        let connections = || self.ground.with(|driver, _| driver.connection_count());
        until(STOP, || connections() == 0).await;
        let lost = connections();
        if lost > 0 {
            tracing::error!(lost, "connections did not stop for the restart, and end with it");
        }
        self.handover.left.take()
    }

    /// Makes the machines of the connections of the worker before. Nothing of them moves yet.
    pub(in super::super) fn take_up(self: &Rc<Self>, connections: Vec<RestoredConnection>) {
        let mut origins = HashMap::new();
        for restored in connections {
            let (session, sockets) = (restored.session, restored.descriptors);
            let state = match State::decode(&restored.state) {
                Ok(state) => state,
                Err(error) => {
                    let reason = error.to_string();
                    self.ground
                        .with(|driver, now| driver.end_lost(session, &reason, now));
                    self.give_up(&sockets, &reason);
                    continue;
                }
            };
            let go_on = GoOn {
                listener: restored.listener,
                session,
                local: state.local,
                profile: state.profile,
                checkpoint: state.checkpoint,
            };
            match self.ground.with(|driver, now| driver.go_on(go_on, now)) {
                Ok((connection, peer, origin)) => {
                    let source = source(&mut origins, restored.listener, origin);
                    self.handover.waiting.borrow_mut().push(Waiting {
                        task: Task::restored(self.clone(), source, connection, peer),
                        doing: state.doing,
                        asked: state.asked,
                        descriptors: sockets,
                    });
                }
                Err(reason) => self.give_up(&sockets, &reason),
            }
        }
    }

    /// Makes the machine of a tunnel of the worker before, with its connection, of which nothing moves yet.
    pub(in super::super) fn take_up_tunnel(
        self: &Rc<Self>,
        listener: usize,
        tunnel: &RestoredTunnel,
        connection: OwnedFd,
    ) {
        let made = self
            .ground
            .with(|driver, now| driver.restore_connection(listener, tunnel, now));
        match made {
            Some((handle, peer, origin)) => {
                let origin = Rc::new(origin);
                let task = Task::restored(self.clone(), Source { listener, origin }, handle, peer);
                self.handover.tunnels.borrow_mut().push((task, connection));
            }
            None => reset(&[connection]),
        }
    }

    fn give_up(&self, sockets: &[OwnedFd], reason: &str) {
        tracing::warn!("a connection does not go on after a restart: {reason}");
        self.handover.lost.update(|count| count + 1);
        reset(sockets);
    }

    /// Has all that was taken up go on.
    pub(in super::super) fn go_on(&self) -> TakenUp {
        let waiting = self.handover.waiting.take();
        let went_on = waiting.len();
        for one in waiting {
            tokio::task::spawn_local(one.task.resume(one.doing, one.asked, one.descriptors));
        }
        for (task, connection) in self.handover.tunnels.take() {
            tokio::task::spawn_local(task.resume_tunnel(connection));
        }
        TakenUp {
            went_on,
            lost: self.handover.lost.take(),
        }
    }
}

/// One origin for all connections of a listener.
fn source(origins: &mut HashMap<usize, Rc<Origin>>, listener: usize, origin: Origin) -> Source {
    let origin = origins.entry(listener).or_insert_with(|| Rc::new(origin));
    Source {
        listener,
        origin: origin.clone(),
    }
}

/// Waits until it is done, at most so long.
async fn until(limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    // The tasks that are to do it run meanwhile.
    while !done() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
}
