//! The connections of a shard: each is accepted, lives and ends on the shard's own thread, as one task.
//!
//! `accept.rs` takes connections in, `task.rs` moves their bytes and does what their machines ask for, `way.rs` says
//! where their users may go and by which way, `out.rs` is that way. `handover.rs` takes all of them to the next worker, in the form of
//! `state.rs`.

mod accept;
mod datagrams;
mod handover;
mod limits;
mod out;
mod state;
mod tally;
mod task;
mod way;

use self::handover::Handover;
use self::out::Out;
use super::runner::Ground;
use crate::limits::Ledger;
use arc_swap::ArcSwap;
use sluice_auth::policy::Policy;
use sluice_core::Origin;
use sluice_dataplane::relay::Pool;
use sluice_dataplane::relay::datagrams::DatagramPool;
use sluice_metrics::Metrics;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes read from a connection at once before its streams are joined: more than any handshake has.
const READ: usize = 16 << 10;

/// What the connections of a shard share.
pub(super) struct Streams {
    /// The driver of their machines.
    pub(super) ground: Rc<Ground>,
    /// How targets are reached.
    reach: Arc<ArcSwap<Reach>>,
    /// The same with sockets, as it was when it was needed last.
    out: RefCell<Rc<Out>>,
    /// Who may go where.
    pub(super) policy: Arc<ArcSwap<Policy>>,
    /// What sessions share.
    pub(super) ledger: Arc<Ledger>,
    /// The pipes and the buffer of joined streams.
    pub(super) pool: Rc<Pool>,
    /// The memory of datagrams on their way.
    pub(super) datagrams: Rc<DatagramPool>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
    /// Where what is read goes for a moment: nothing is awaited while it is in use.
    buffer: RefCell<Box<[u8]>>,
    /// What there is of connections between two workers.
    pub(super) handover: Handover,
}

impl Streams {
    pub(super) fn new(
        ground: Rc<Ground>,
        reach: Arc<ArcSwap<Reach>>,
        policy: Arc<ArcSwap<Policy>>,
        pool: Rc<Pool>,
        datagrams: Rc<DatagramPool>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        let ledger = ground.look(|driver| driver.ledger.clone());
        Rc::new(Self {
            ground,
            out: RefCell::new(Out::new(reach.load_full())),
            reach,
            policy,
            ledger,
            pool,
            datagrams,
            metrics,
            buffer: RefCell::new(vec![0; READ].into_boxed_slice()),
            handover: Handover::default(),
        })
    }
}

/// A listener of streams, as its connections know it.
#[derive(Clone)]
pub(super) struct Source {
    /// The listener's number in the driver.
    pub(super) listener: usize,
    /// Where its sessions come from.
    pub(super) origin: Rc<Origin>,
}

pub use accept::ACCEPT_FAILED;
pub(super) use accept::accept;
pub use out::Reach;
