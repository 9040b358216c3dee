//! What stands around a driver in tests.

use super::super::{Authority, Counters, Ticket};
use super::PASSWORD;
use sluice_auth::{AuthRequest, Credentials, Profile, RejectReason, Secret, Verifiable};
use sluice_core::{EngineEvent, Now, Observer};
use sluice_spi::ContextRequest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Knows one password. Answers at once, or keeps the question for the test to answer.
pub(in super::super) struct OnePassword {
    pub(in super::super) later: Option<Arc<Mutex<Vec<Ticket>>>>,
}

fn profile(request: &AuthRequest) -> Result<Profile, RejectReason> {
    match &request.credentials {
        Credentials::Pap { identity, password } if *password == Secret::new(PASSWORD) => {
            Ok(Profile::new(identity.clone()))
        }
        _ => Err(RejectReason::BadCredentials),
    }
}

impl Authority for OnePassword {
    fn verifiable(&self) -> Verifiable {
        Verifiable::default()
    }

    fn try_cached(&self, request: &AuthRequest, _: Now) -> Option<Result<Profile, RejectReason>> {
        self.later.is_none().then(|| profile(request))
    }

    fn ask(&self, ticket: Ticket, _: Box<AuthRequest>) -> bool {
        self.later.as_ref().is_some_and(|later| {
            later.lock().unwrap().push(ticket);
            true
        })
    }

    fn accept(&self, _: Ticket, _: usize, _: Box<ContextRequest>) -> bool {
        false
    }
}

#[derive(Clone, Default)]
pub(in super::super) struct Counted(pub(super) Arc<Mutex<BTreeMap<&'static str, u32>>>);

impl Counters for Counted {
    fn dropped(&self, _: &'static str, reason: &'static str) {
        *self.0.lock().unwrap().entry(reason).or_default() += 1;
    }

    fn counted(&self, protocol: &'static str, name: &'static str) {
        self.dropped(protocol, name);
    }

    fn limited(&self, protocol: &'static str, reason: &'static str) {
        self.dropped(protocol, reason);
    }

    fn revoked(&self, protocol: &'static str, reason: &'static str) {
        self.dropped(protocol, reason);
    }
}

/// What became of calls that came to nothing.
#[derive(Default)]
pub(in super::super) struct Failed(pub(super) Mutex<Vec<(String, String)>>);

impl Observer for Failed {
    fn on_event(&self, event: &EngineEvent) {
        if let EngineEvent::CallFailed { label, reason } = event {
            self.0.lock().unwrap().push((label.clone(), reason.clone()));
        }
    }
}
