//! What a serving worker does from second to second, and how it ends.

use super::connections;
use super::control::RestartWanted;
use super::serve::Gateway;
use crate::admin::Listeners;
use crate::host::HostConfig;
use crate::shard::KeptConnection;
use sluice_core::Journal;
use sluice_keeper::Order;
use sluice_spi::TerminateCause;
use sluice_store::News;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long an orderly end waits for peers to acknowledge it: less than the keeper's grace, and enough for two
/// retransmissions of a control message, after 1 s and 2 s more (RFC 2661, 5.8).
const GOODBYE: Duration = Duration::from_secs(4);

/// How often an orderly end looks whether all peers have gone.
const LOOK: Duration = Duration::from_millis(20);

/// How long requests under way may take to be answered at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long the store may take to recover amid a restart: peers do not miss a gateway that is away for so long
/// (RFC 2661, 5.8: five retransmissions take 31 s).
const LAST_CHANCE: Duration = Duration::from_secs(5);

/// Between two signs of life to the keeper, and how long it may wait for the next.
const TICK: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(30);

/// After so many ticks it is journalled what was used of quotas: what is lost when the process is killed.
const SAVE_QUOTAS: u32 = 5;

/// Why serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A new worker follows; sessions stay.
    Restart,
    /// For good, with a word to every peer.
    Shutdown,
    /// For good, at once.
    Stop,
    /// The keeper is gone: nobody would start another worker.
    Orphaned,
}

/// What is looked at once a second.
#[derive(Default)]
struct Chores {
    /// How often it was looked.
    looks: u32,
    /// What was wrong with the users file when it was last read.
    complaint: Option<String>,
    status: String,
}

impl Gateway {
    /// Serves the admin plane and does what the keeper says, until the end.
    pub(super) async fn run(
        mut self,
        admin: Listeners,
        mut orders: mpsc::Receiver<Order>,
        mut wishes: mpsc::Receiver<RestartWanted>,
    ) {
        let serving = tokio::spawn(self.plane.clone().serve(admin));
        let mut end = self.watch(&mut orders, &mut wishes).await;
        match end {
            End::Restart | End::Orphaned => {
                self.close_admin(serving).await;
                let left = self.hand_over(end).await;
                self.freeze().await;
                // Whoever ends the gateway amid a restart wants no new worker.
                if matches!(orders.try_recv(), Ok(Order::Shutdown | Order::Stop)) {
                    end = End::Stop;
                }
                if end != End::Restart {
                    left.into_iter().for_each(KeptConnection::abandon);
                }
            }
            End::Shutdown | End::Stop => {
                self.say_goodbye(end, &mut orders).await;
                self.close_admin(serving).await;
            }
        }
        self.finish(end);
    }

    async fn watch(
        &self,
        orders: &mut mpsc::Receiver<Order>,
        wishes: &mut mpsc::Receiver<RestartWanted>,
    ) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut chores = Chores::default();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Reload) => self.reload().await,
                    Some(Order::Shutdown) => return End::Shutdown,
                    Some(Order::Stop) => return End::Stop,
                    Some(Order::Refused { name, why }) => {
                        tracing::warn!("the keeper does not hold {name}, so a restart interrupts it: {why}");
                    }
                    Some(Order::KeeperGone) | None => {
                        tracing::error!("the keeper is gone: the gateway ends, and keeps its sessions on record");
                        return End::Orphaned;
                    }
                },
                Some(RestartWanted) = wishes.recv() => {
                    tracing::info!("the worker restarts; sessions stay");
                    return End::Restart;
                }
                _ = tick.tick() => self.look_after(&mut chores).await,
            }
        }
    }

    /// SIGHUP.
    async fn reload(&self) {
        // What came of it is in the log by now.
        let _ = self.plane.reload().await;
        self.tell("that the reload is done", self.link.ready());
    }

    fn tell(&self, what: &str, told: Result<(), sluice_keeper::LinkError>) {
        if let Err(error) = told {
            tracing::warn!("the keeper could not be told {what}: {error}");
        }
    }

    async fn look_after(&self, chores: &mut Chores) {
        self.tell("that the worker is alive", self.link.alive(SILENCE));
        self.users.expire_cache(SystemTime::now());
        self.tell_store_news();
        chores.looks = chores.looks.wrapping_add(1);
        if chores.looks.is_multiple_of(SAVE_QUOTAS) {
            self.ledger.save(&*self.store);
        }
        // A file that is not there, or cannot be looked at, is one that cannot be read.
        if self.users.file().is_stale().unwrap_or(true) {
            let complaint = self.plane.reload_users().await.err();
            if complaint != chores.complaint {
                match &complaint {
                    Some(text) => tracing::error!("the users stay as they were: {text}"),
                    None => tracing::info!("users read again"),
                }
                chores.complaint = complaint;
            }
        }
        let totals = self.engine.totals();
        let (sessions, tunnels): (u64, u64) = (totals.sessions.values().sum(), totals.tunnels.values().sum());
        let status = format!("{sessions} sessions in {tunnels} tunnels");
        if status != chores.status {
            self.tell("how many sessions there are", self.link.status(&status));
            chores.status = status;
        }
    }

    /// What happened to the store, once each.
    fn tell_store_news(&self) {
        for news in self.store.take_news() {
            match news {
                News::Alarm(alarm) => tracing::error!(code = alarm.code(), "{alarm}"),
                News::Recovered { records, after } => tracing::info!(
                    records,
                    after_seconds = after.as_secs(),
                    "the session store works again, and all that lives was written to it anew"
                ),
            }
        }
    }

    /// Makes all changes durable. Where a new worker or a later start goes on from them, a store that has failed gets
    /// one more chance while everything is still known.
    fn save(&self, end: End) {
        self.ledger.save(&*self.store);
        let mut saved = self.store.flush();
        let goes_on = matches!(end, End::Restart | End::Orphaned);
        if saved.is_err() && goes_on && self.store.recover(LAST_CHANCE).is_ok() {
            saved = self.store.flush();
        }
        self.tell_store_news();
        if let Err(error) = saved {
            tracing::error!("the last changes are not on record: {error}");
        }
    }

    /// Ends the API: requests under way are answered, event streams end.
    async fn close_admin(&self, serving: JoinHandle<std::io::Result<()>>) {
        self.plane.stop();
        if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
            tracing::debug!("some requests were not answered any more");
        }
    }

    /// Stops all connections and gives them to the keeper, if there is to be another worker.
    async fn hand_over(&self, end: End) -> Vec<KeptConnection> {
        let handing = self.shards.iter().map(|shard| shard.hand_over());
        let mut connections = Vec::new();
        for (number, handed) in futures_util::future::join_all(handing)
            .await
            .into_iter()
            .enumerate()
        {
            match handed {
                Ok(mut handed) => connections.append(&mut handed),
                Err(silent) => {
                    tracing::error!(shard = number, "its connections end with this restart: {silent}")
                }
            }
        }
        match end {
            End::Restart => connections::keep(&self.link, connections),
            _ => connections,
        }
    }

    /// Stops all shards where they are, with every tunnel on record.
    async fn freeze(&self) {
        let begun = Instant::now();
        let freezing = self.shards.iter().map(|shard| shard.freeze());
        for (number, frozen) in futures_util::future::join_all(freezing)
            .await
            .into_iter()
            .enumerate()
        {
            if frozen.is_err() {
                tracing::error!(
                    shard = number,
                    "a shard did not stop; its last changes are not on record"
                );
            }
        }
        self.metrics
            .checkpoint_duration
            .observe(begun.elapsed().as_secs_f64());
    }

    /// Ends all sessions, telling the peers, and waits a little for them to acknowledge it.
    async fn say_goodbye(&self, end: End, orders: &mut mpsc::Receiver<Order>) {
        self.engine.set_draining(true);
        for shard in &self.shards {
            if shard.close_all(TerminateCause::NasReboot).await.is_err() {
                tracing::error!("a shard does not answer; its peers are told nothing");
            }
        }
        let until = tokio::time::Instant::now() + GOODBYE;
        while end == End::Shutdown && self.has_peers() && tokio::time::Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                order = orders.recv() => if matches!(order, Some(Order::Stop | Order::KeeperGone) | None) { break },
            }
        }
        for shard in &self.shards {
            // One that does not answer ends with the process.
            let _ = shard.end().await;
        }
    }

    fn has_peers(&self) -> bool {
        let totals = self.engine.totals();
        !totals.sessions.is_empty() || !totals.tunnels.is_empty()
    }

    /// The last steps, when nothing is served any more.
    fn finish(&mut self, end: End) {
        self.save(end);
        match end {
            End::Restart => self.tell("to start a new worker", self.link.request_restart()),
            End::Shutdown | End::Stop => {
                if self.device {
                    super::network::revert(&HostConfig::new(&self.config.network, &self.config.engine.pools));
                }
                tracing::info!("the gateway ends");
            }
            End::Orphaned => {}
        }
    }
}
