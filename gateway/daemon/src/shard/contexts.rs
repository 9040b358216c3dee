//! Security contexts (GSS-API) of the machines of a shard: tokens go to threads that may read files, and come back as
//! answers of authentication do.

use super::driver::Driver;
use super::slots::Ticket;
use super::{Plane, VERDICT_TIME};
use sluice_auth::gss::{ContextFailure, ContextReason, ContextStep, Contexts};
use sluice_auth_backends::ContextPool;
use sluice_core::Now;
use sluice_spi::{ContextRequest, Input, LocalRef};
use std::sync::Arc;

/// What a token led to.
pub type ContextAnswer = Result<ContextStep, ContextFailure>;

/// Who accepts contexts, for each listener.
pub struct Acceptance {
    pool: ContextPool,
    /// By the listener's number; `None`: it has no keys.
    listeners: Vec<Option<Arc<dyn Contexts>>>,
}

impl Acceptance {
    /// Puts both together.
    pub fn new(pool: ContextPool, listeners: Vec<Option<Arc<dyn Contexts>>>) -> Self {
        Self { pool, listeners }
    }

    /// Takes a token of a listener's machine.
    pub(super) async fn accept(&self, listener: usize, request: ContextRequest) -> ContextAnswer {
        let Some(contexts) = self.listeners.get(listener).cloned().flatten() else {
            return Err(unavailable("the listener has no keys"));
        };
        let answer = self.pool.accept(contexts, request.negotiation, request.token);
        let answer = tokio::time::timeout(VERDICT_TIME, answer).await;
        answer.unwrap_or_else(|_| Err(unavailable("it took too long")))
    }
}

pub(super) fn unavailable(detail: &str) -> ContextFailure {
    ContextFailure::new(ContextReason::Unavailable, detail)
}

impl<P: Plane> Driver<P> {
    /// Hands a token on.
    pub(super) fn context_requested(
        &mut self,
        slot: u32,
        local: LocalRef,
        request: Box<ContextRequest>,
        now: Now,
    ) {
        let generation = self.slots.generation(slot);
        let Some((listener, session)) = self.slots.get(slot).and_then(|tunnel| {
            let entry = tunnel.sessions.get(&local)?;
            Some((tunnel.listener, entry.id))
        }) else {
            // It was not admitted, and the machine knows it or will.
            return;
        };
        let ticket = Ticket {
            slot,
            generation,
            local,
            session,
        };
        if !self.authority.accept(ticket, listener, request) {
            let answer = Err(unavailable("too many questions are open"));
            let session = local;
            self.give(slot, Input::ContextAnswered { session, answer }, now);
        }
    }

    /// The answer to a token that [`super::Authority::accept`] took.
    pub(super) fn context_answered(&mut self, ticket: Ticket, answer: ContextAnswer, now: Now) {
        if self.awaits(&ticket) {
            let session = ticket.local;
            self.input(ticket.slot, Input::ContextAnswered { session, answer }, now);
        }
    }
}

#[cfg(test)]
mod tests;
