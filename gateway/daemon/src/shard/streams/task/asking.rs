//! What a connection's task asks of policy, and how it says no.

use super::super::way::Question;
use super::Task;
use crate::limits::Refused;
use sluice_auth::Profile;
use sluice_auth::policy::Command;
use sluice_egress::Failed;
use sluice_spi::{PeerAddr, Target};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

impl Task {
    /// The question whether the user may, by the policy that is there now.
    pub(super) fn question(&self, profile: Option<Rc<Profile>>, command: Command) -> Question {
        Question::new(
            self.streams.rules(),
            self.source.clone(),
            self.peer.remote.ip(),
            profile,
            command,
        )
    }

    /// Who asks, for those who let askers take turns.
    pub(super) fn asker(&self, profile: Option<&Profile>) -> u64 {
        let mut hasher = DefaultHasher::new();
        match profile {
            Some(profile) => profile.identity.as_str().hash(&mut hasher),
            None => self.peer.remote.ip().hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Has the session's end say which limit refused it, and counts that.
    pub(super) fn refused(&self, limit: Refused) {
        let (protocol, peer) = (self.source.origin.protocol, self.peer.remote);
        if let Some(metrics) = self.streams.metrics.protocol(protocol) {
            metrics.limited.get(limit.as_str()).inc();
        }
        tracing::debug!(listener = &*self.source.origin.listener, %peer, code = limit.as_str(), "a request is refused: {limit}");
        let ground = &self.streams.ground;
        ground.look(|driver| driver.explain_refusal(&self.connection, limit));
    }
}

/// Says why a target was not reached.
pub(super) fn log_failure(
    listener: &str,
    peer: PeerAddr,
    target: &Target,
    failed: &Failed,
    question: &Question,
) {
    let (code, cause) = (failed.failure.as_str(), failed.cause.as_str());
    let by = question.by();
    tracing::debug!(listener, peer = %peer.remote, %target, code, cause, by, "a target was not reached");
}
