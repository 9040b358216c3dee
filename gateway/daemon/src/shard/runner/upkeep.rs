//! What a shard does from time to time: checkpoints, counters, its status and its load.

use super::super::report::Report;
use super::super::{Driver, Status};
use super::lag::{Lag, load};
use sluice_core::{Engine, Now};
use sluice_dataplane::UserPath;
use sluice_metrics::Metrics;
use sluice_spi::ShardId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a change may wait for its checkpoint: what is lost when the process is killed.
const CHECKPOINT: Duration = Duration::from_millis(250);
/// Sessions in the records of one step: some milliseconds at the most, unless one tunnel has more.
const CHECKPOINT_STEP: usize = 512;
/// Checkpoints take a shard's time at most one part in so many, however large tunnels are.
const CHECKPOINT_SHARE: u32 = 10;
/// Each session is looked at about once a second, in parts, so that no look takes long.
const SWEEP: Duration = Duration::from_millis(100);
const SWEEP_PARTS: usize = 10;
/// How often all else is done.
const SECOND: Duration = Duration::from_secs(1);

/// When what is to be done.
pub(super) struct Upkeep {
    shard: ShardId,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    report: Report,
    pub(super) lag: Lag,
    second: Instant,
    sweep: Option<Instant>,
    checkpoint: Option<Instant>,
    /// No checkpoints before.
    rested: Instant,
}

impl Upkeep {
    pub(super) fn new(
        shard: ShardId,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        report: Report,
        now: Instant,
    ) -> Self {
        Self {
            shard,
            engine,
            metrics,
            report,
            lag: Lag::default(),
            second: now,
            sweep: None,
            checkpoint: None,
            rested: now,
        }
    }

    /// When [`Upkeep::run`] wants to be called. Ask after whatever changed the driver.
    pub(super) fn next(&mut self, driver: &Driver<UserPath>, now: Instant) -> Instant {
        if self.sweep.is_none() && driver.sessions() > 0 {
            self.sweep = Some(now + SWEEP);
        }
        if self.checkpoint.is_none() && driver.has_changed() {
            self.checkpoint = Some(self.rested.max(now + CHECKPOINT));
        }
        let others = self.sweep.into_iter().chain(self.checkpoint);
        others.fold(self.second, Instant::min)
    }

    /// Does what is due; true: a second is over.
    pub(super) fn run(&mut self, driver: &mut Driver<UserPath>, now: Now) -> bool {
        if self.checkpoint.is_some_and(|at| at <= now.instant) {
            driver.checkpoint_changed(CHECKPOINT_STEP, now);
            let took = now.instant.elapsed();
            self.metrics.checkpoint_duration.observe(took.as_secs_f64());
            self.rested = now.instant + took * CHECKPOINT_SHARE;
            self.checkpoint = driver.has_changed().then_some(self.rested);
        }
        if self.sweep.is_some_and(|at| at <= now.instant) {
            self.sweep = None;
            driver.look_through(driver.sessions().div_ceil(SWEEP_PARTS), now);
        }
        let is_second = self.second <= now.instant;
        if is_second {
            self.second = now.instant + SECOND;
            let worst = self.lag.turn_over();
            self.engine.set_load(self.shard, load(self.lag.lasting()));
            self.metrics.shard_loop_lag.observe(worst.as_secs_f64());
            self.report.take(driver.plane());
        }
        is_second
    }

    /// Takes over what was counted last.
    pub(super) fn finish(&mut self, driver: &mut Driver<UserPath>) {
        self.report.take(driver.plane());
    }

    /// How the shard is.
    pub(super) fn status(&self, driver: &mut Driver<UserPath>) -> Status {
        Status {
            machines: driver.machines(),
            paths: driver.plane().path_count(),
            half_open: driver.half_open(),
            lag: self.lag.worst(),
        }
    }
}
