//! The engine's events as log lines.

use super::{Limiter, Permit};
use sluice_core::{EngineEvent, JournalError, Observer, Session};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Peers whose lines are counted apart.
const PEERS: usize = 1024;

/// Writes a line for what an operator wants to follow. Each line of a session carries its id, peer and user.
///
/// Lines that a peer can cause without having proven anything are limited for each peer address; the next one that
/// is written says how many were left out.
#[derive(Debug)]
pub struct EventLog {
    limiter: Mutex<Limiter<IpAddr>>,
}

impl EventLog {
    /// Lets `lines` lines a second through for each peer address.
    pub fn new(lines: u32, now: Instant) -> Self {
        Self {
            limiter: Mutex::new(Limiter::new(lines, PEERS, now)),
        }
    }

    /// Writes a line about a peer, unless there were too many just now.
    fn limited(&self, peer: SocketAddr, line: impl FnOnce(Option<u64>)) {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = limiter.permit(peer.ip(), Instant::now());
        drop(limiter);
        if let Some(Permit { held_back }) = permit {
            line((held_back > 0).then_some(held_back));
        }
    }
}

/// A line about a session: its id, peer and user stand before what else is said. As fields of the line itself they cost
/// a fraction of what a span would, and there is a line for each connection.
macro_rules! about {
    ($level:ident, $session:expr, $($said:tt)+) => {{
        let session: &Session = $session;
        tracing::$level!(
            session = %session.id,
            peer = %session.peer.remote,
            user = session.user(),
            $($said)+
        )
    }};
}

fn addresses(session: &Session) -> String {
    let addresses: Vec<String> = session.addresses().iter().map(ToString::to_string).collect();
    addresses.join(" ")
}

/// Where a connection was to lead; tunnels lead to all the world.
fn destination(session: &Session) -> Option<&str> {
    let target = session.facts.iter().find(|(name, _)| *name == "target");
    target.map(|(_, value)| value)
}

fn down(session: &Session, left_out: Option<u64>) {
    let (counters, end) = (&session.counters, session.end.as_ref());
    let cause = end.map_or("", |end| end.cause.as_str());
    let (code, why) = end.map_or(("", ""), |end| (end.code, end.text.as_str()));
    let (rx_bytes, tx_bytes) = (counters.rx_bytes, counters.tx_bytes);
    let destination = destination(session);
    match session.established {
        Some(_) => about!(
            info,
            session,
            cause,
            code,
            destination,
            rx_bytes,
            tx_bytes,
            "session ended: {why}"
        ),
        // The one line that there is about a connection; tunnels have others.
        None if session.tunnel.is_none() => {
            about!(info, session, cause, code, left_out, "connection refused: {why}")
        }
        None => about!(debug, session, cause, code, "session set-up ended: {why}"),
    }
}

impl Observer for EventLog {
    fn on_event(&self, event: &EngineEvent) {
        match event {
            EngineEvent::TunnelUp(tunnel) => {
                let (id, peer, name) = (tunnel.id, tunnel.peer.remote, &tunnel.peer_name);
                self.limited(peer, |left_out| {
                    tracing::info!(tunnel = %id, %peer, peer_name = name, left_out, "tunnel established");
                });
            }
            EngineEvent::TunnelDown { tunnel, ended } => {
                let (id, peer, code) = (tunnel.id, tunnel.peer.remote, ended.code);
                self.limited(peer, |left_out| {
                    tracing::info!(tunnel = %id, %peer, code, left_out, "tunnel ended: {}", ended.text);
                });
            }
            EngineEvent::TunnelRecovered {
                tunnel,
                sessions,
                lost,
            } => {
                let (id, peer) = (tunnel.id, tunnel.peer.remote);
                // One line says how many there are; only what went wrong is told tunnel by tunnel.
                match lost {
                    0 => tracing::debug!(tunnel = %id, %peer, sessions, "tunnel goes on after a restart"),
                    _ => {
                        tracing::warn!(tunnel = %id, %peer, sessions, lost, "tunnel goes on without all its sessions")
                    }
                }
            }
            EngineEvent::TunnelRefused { peer, reason, .. } => {
                let (peer, reason) = (peer.remote, reason.as_str());
                self.limited(
                    peer,
                    |left_out| tracing::info!(%peer, reason, left_out, "tunnel refused"),
                );
            }
            EngineEvent::SessionRefused { peer, reason, .. } => {
                let (peer, reason) = (peer.remote, reason.as_str());
                self.limited(
                    peer,
                    |left_out| tracing::info!(%peer, reason, left_out, "session refused"),
                );
            }
            EngineEvent::SessionOpened(session) => {
                about!(debug, session, "session set-up begins");
            }
            EngineEvent::AuthDecided { session, result } => match result {
                Ok(()) => about!(debug, session, "user accepted"),
                Err(reason) => self.limited(session.peer.remote, |left_out| {
                    about!(info, session, reason = reason.as_str(), left_out, "user refused");
                }),
            },
            EngineEvent::SessionUp(session) if session.tunnel.is_none() => {
                about!(
                    debug,
                    session,
                    destination = destination(session),
                    "connection established"
                );
            }
            EngineEvent::SessionUp(session) => {
                about!(
                    info,
                    session,
                    addresses = addresses(session),
                    "session established"
                );
            }
            EngineEvent::SessionDown(session) if session.established.is_none() => {
                self.limited(session.peer.remote, |left_out| down(session, left_out));
            }
            EngineEvent::SessionDown(session) => down(session, None),
            EngineEvent::CallFailed { label, reason } => {
                tracing::info!(label, "a call could not be placed: {reason}");
            }
            // Told by what follows: the decision, and the session's end.
            EngineEvent::AuthRequested { .. } | EngineEvent::EndRequested { .. } => {}
            EngineEvent::ConnectionsRecovered { sessions, lost: 0 } => {
                tracing::info!(sessions, "connections go on after a restart");
            }
            EngineEvent::ConnectionsRecovered { sessions, lost } => {
                tracing::warn!(
                    sessions,
                    lost,
                    "connections go on after a restart, but not all of them"
                );
            }
            EngineEvent::RecordSetAside { table, reason } => {
                tracing::warn!(
                    table = table.as_str(),
                    "a record of the store cannot be used and is kept aside: {reason}"
                );
            }
            EngineEvent::PoolExhausted { pool } => {
                tracing::warn!(pool, "no address is free: enlarge the pool, or end sessions");
            }
            EngineEvent::PoolUnknown { pool, identity } => {
                tracing::warn!(pool, user = identity.as_str(), "a user's pool is not configured");
            }
            // Told with the store's own news.
            EngineEvent::JournalFailing {
                error: Some(JournalError::ReadOnly(_)),
                ..
            }
            | EngineEvent::JournalFailing {
                error: None,
                before: Some(JournalError::ReadOnly(_)),
            } => {}
            EngineEvent::JournalFailing {
                error: Some(error), ..
            } => tracing::error!("sessions go on, but a restart would lose what changed: {error}"),
            EngineEvent::JournalFailing { error: None, .. } => {
                tracing::info!("the store takes changes again");
            }
            EngineEvent::Draining(true) => tracing::info!("new sessions are refused from now on"),
            EngineEvent::Draining(false) => tracing::info!("new sessions are admitted again"),
            EngineEvent::Reconfigured(report) => {
                // The changes themselves are told by whoever made them.
                if report.orphans > 0 {
                    let orphans = report.orphans;
                    tracing::warn!(orphans, "sessions keep addresses that no pool has any more");
                }
            }
        }
    }
}
