//! Answers for operators. What is given is a copy: nothing here holds a lock while the caller looks at it.

use super::Engine;
use crate::model::{Address, Session, Tunnel};
use crate::query::{
    Lease, LeaseQuery, Order, Owner, Page, PoolStatus, SessionQuery, Totals, TunnelQuery, page_size,
};
use crate::table::lock;
use crate::{SessionId, TunnelId};
use sluice_spi::LocalRef;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Engine {
    /// A page of sessions that have not ended, in the order of their identifiers. A session that is there all the
    /// time is on exactly one page, whatever comes and goes meanwhile.
    pub fn sessions(&self, query: &SessionQuery) -> Page<Session, SessionId> {
        if let Some(address) = query.filter.address {
            return self.session_at(address, query);
        }
        let limit = page_size(query.limit);
        let mut items = Vec::new();
        let mut cursor = query.after;
        loop {
            let ids = self.table.candidates(&query.filter, cursor, query.order);
            if ids.is_empty() {
                return Page { items, next: None };
            }
            for id in ids {
                if items.len() >= limit {
                    return Page { items, next: cursor };
                }
                cursor = Some(id);
                let session = self.table.snapshot(id);
                items.extend(session.filter(|session| query.filter.matches(session)));
            }
        }
    }

    /// At most one session holds an address.
    fn session_at(&self, address: IpAddr, query: &SessionQuery) -> Page<Session, SessionId> {
        let id = self
            .holder(address)
            .filter(|id| match (query.after, query.order) {
                (None, _) => true,
                (Some(after), Order::OldestFirst) => *id > after,
                (Some(after), Order::NewestFirst) => *id < after,
            });
        let session = id.and_then(|id| self.table.snapshot(id));
        let wanted = session.filter(|session| query.filter.matches(session));
        Page {
            items: wanted.into_iter().collect(),
            next: None,
        }
    }

    /// A page of sessions that have ended, as far as the history goes back.
    pub fn history(&self, query: &SessionQuery) -> Page<Arc<Session>, SessionId> {
        let limit = page_size(query.limit);
        let mut items = Vec::new();
        let mut cursor = query.after;
        loop {
            let sessions = lock(&self.history).next(cursor, query.order);
            if sessions.is_empty() {
                return Page { items, next: None };
            }
            for session in sessions {
                if items.len() >= limit {
                    return Page { items, next: cursor };
                }
                cursor = Some(session.id);
                if query.filter.matches(&session) {
                    items.push(session);
                }
            }
        }
    }

    /// A session, or what the history knows of it.
    pub fn session(&self, id: SessionId) -> Option<Session> {
        let live = self.table.snapshot(id);
        live.or_else(|| lock(&self.history).get(id).map(Arc::unwrap_or_clone))
    }

    /// The session that a machine of a tunnel calls by this name.
    pub fn session_of(&self, tunnel: TunnelId, local: LocalRef) -> Option<SessionId> {
        self.table
            .tunnel(tunnel, |tunnel| tunnel.sessions.get(&local).copied())?
    }

    /// Whom to tell something about a session that has not ended.
    pub fn find_owner(&self, id: SessionId) -> Option<Owner> {
        let session = self.table.snapshot(id)?;
        Some(Owner {
            shard: session.origin.shard,
            tunnel: session.tunnel,
            local: session.local,
        })
    }

    /// A page of tunnels, the oldest first.
    pub fn tunnels(&self, query: &TunnelQuery) -> Page<Tunnel, TunnelId> {
        let limit = page_size(query.limit);
        let mut items = Vec::new();
        let mut cursor = query.after;
        loop {
            let ids = self.table.tunnel_ids(cursor);
            if ids.is_empty() {
                return Page { items, next: None };
            }
            for id in ids {
                if items.len() >= limit {
                    return Page { items, next: cursor };
                }
                cursor = Some(id);
                items.extend(self.tunnel(id).filter(|tunnel| query.matches(tunnel)));
            }
        }
    }

    /// A tunnel.
    pub fn tunnel(&self, id: TunnelId) -> Option<Tunnel> {
        self.table.tunnel(id, |tunnel| tunnel.snapshot())
    }

    /// All pools with their use.
    pub fn pools(&self) -> Vec<PoolStatus> {
        lock(&self.leases).status()
    }

    /// A page of leases. It may be short, or empty, while `next` says that there is more.
    pub fn leases(&self, query: &LeaseQuery) -> Page<Lease, Address> {
        lock(&self.leases).page(query)
    }

    /// The session that holds an address, or the prefix that it is in.
    pub fn holder(&self, address: IpAddr) -> Option<SessionId> {
        lock(&self.leases).holder(address)
    }

    /// Numbers of everything.
    pub fn totals(&self) -> Totals {
        let (refused, draining) = {
            let admission = lock(&self.admission);
            (admission.refused(), admission.draining())
        };
        Totals {
            sessions: self.table.session_counts(),
            tunnels: self.table.tunnel_counts(),
            refused,
            opened: self.opened.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
            recovered: self.recovered.load(Ordering::Relaxed),
            set_aside: self.set_aside.load(Ordering::Relaxed),
            journal_failures: self.saver.failures(),
            draining,
        }
    }
}
