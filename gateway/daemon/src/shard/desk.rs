//! The shard's way to the authentication backends.

use super::contexts::unavailable;
use super::{Acceptance, Again, Authority, ContextAnswer, Ticket};
use sluice_auth::{AuthRequest, Profile, RejectReason, Verifiable};
use sluice_auth_backends::Authenticator;
use sluice_core::Now;
use sluice_spi::ContextRequest;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc};

/// Questions open at once on a shard: as many as set-ups may be under way there. Each holds one small task.
pub const MAX_OPEN: usize = 10_000;
/// Longest wait for an answer. A PPP client repeats its request every 3 s and gives up after about 30 s
/// (RFC 1334, 2.2.1 leaves the counts to the implementation; pppd sends ten).
pub const VERDICT_TIME: Duration = Duration::from_secs(20);

/// The answer to a question.
#[derive(Debug)]
pub enum Answer {
    /// To one about somebody's proof.
    Profile(Result<Profile, RejectReason>),
    /// To one about a token of a security context.
    Context(ContextAnswer),
}

/// An answer for [`super::Driver::answer`].
pub type Answered = (Ticket, Answer);

/// Asks an [`Authenticator`] on the tokio runtime it is used from, and sends answers to the shard's loop.
pub struct Desk {
    authenticator: Arc<Authenticator>,
    acceptance: Option<Arc<Acceptance>>,
    answers: mpsc::Sender<Answered>,
    open: Arc<Semaphore>,
}

impl Desk {
    /// A desk, and where its answers come out. Every open question has room for its answer.
    pub fn new(
        authenticator: Arc<Authenticator>,
        acceptance: Option<Arc<Acceptance>>,
    ) -> (Self, mpsc::Receiver<Answered>) {
        let (answers, received) = mpsc::channel(MAX_OPEN);
        (
            Self {
                authenticator,
                acceptance,
                answers,
                open: Arc::new(Semaphore::new(MAX_OPEN)),
            },
            received,
        )
    }
}

impl Authority for Desk {
    fn verifiable(&self) -> Verifiable {
        self.authenticator.verifiable()
    }

    fn try_cached(&self, request: &AuthRequest, now: Now) -> Option<Result<Profile, RejectReason>> {
        self.authenticator.try_cached(request, now.instant, now.wall)
    }

    fn again(&self, user: &str, realm: Option<Option<&str>>, protocol: &str, now: Now) -> Again {
        match self.authenticator.look_up(user, realm, protocol, now.wall) {
            Some(Ok(profile)) => Again::Is(Box::new(profile)),
            Some(Err(reason)) => Again::Refused(reason),
            None => Again::Unknown,
        }
    }

    fn ask(&self, ticket: Ticket, request: Box<AuthRequest>) -> bool {
        let Ok(permit) = self.open.clone().try_acquire_owned() else {
            return false;
        };
        let (authenticator, answers) = (self.authenticator.clone(), self.answers.clone());
        tokio::spawn(async move {
            let answer = authenticator.authenticate(&request, Instant::now(), SystemTime::now());
            let result = tokio::time::timeout(VERDICT_TIME, answer).await;
            let result = result.unwrap_or(Err(RejectReason::Unavailable));
            // Where the shard is gone, nobody waits for the answer.
            let _ = answers.send((ticket, Answer::Profile(result))).await;
            drop(permit);
        });
        true
    }

    fn accept(&self, ticket: Ticket, listener: usize, request: Box<ContextRequest>) -> bool {
        let Ok(permit) = self.open.clone().try_acquire_owned() else {
            return false;
        };
        let (acceptance, answers) = (self.acceptance.clone(), self.answers.clone());
        tokio::spawn(async move {
            let answer = match &acceptance {
                Some(acceptance) => acceptance.accept(listener, *request).await,
                None => Err(unavailable("no listener has keys")),
            };
            let _ = answers.send((ticket, Answer::Context(answer))).await;
            drop(permit);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_auth::{Credentials, Identity, Method, Secret};
    use sluice_auth_backends::{AuthObserver, AuthenticatorConfig};
    use sluice_core::SessionId;
    use sluice_spi::LocalRef;

    struct Unseen;

    impl AuthObserver for Unseen {
        fn answered(&self, _: &'static str, _: Method, _: Result<(), RejectReason>, _: Duration) {}
    }

    fn request() -> Box<AuthRequest> {
        let identity = Identity::parse(b"somebody").unwrap();
        Box::new(AuthRequest {
            protocol: "l2tp",
            credentials: Credentials::Pap {
                identity,
                password: Secret::new("x"),
            },
            peer: None,
            calling: None,
            called: None,
        })
    }

    #[tokio::test]
    async fn every_question_gets_its_answer_under_its_ticket() {
        let config = AuthenticatorConfig {
            failure_delay: Duration::ZERO,
            ..AuthenticatorConfig::default()
        };
        let authenticator = Arc::new(Authenticator::new(Vec::new(), config, Arc::new(Unseen)));
        let (desk, mut answers) = Desk::new(authenticator, None);
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        assert!(desk.try_cached(&request(), now).is_none());
        let session: SessionId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        for local in 0..10 {
            assert!(desk.ask(
                Ticket {
                    slot: 1,
                    generation: 2,
                    local: LocalRef(local),
                    session
                },
                request()
            ));
        }
        let mut locals = Vec::new();
        for _ in 0..10 {
            let (ticket, answer) = answers.recv().await.unwrap();
            assert!(matches!(answer, Answer::Profile(Err(_))));
            locals.push(ticket.local.0);
        }
        locals.sort_unstable();
        assert_eq!(locals, (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn too_many_open_questions_are_refused() {
        let config = AuthenticatorConfig {
            failure_delay: Duration::ZERO,
            ..AuthenticatorConfig::default()
        };
        let authenticator = Arc::new(Authenticator::new(Vec::new(), config, Arc::new(Unseen)));
        let (desk, _answers) = Desk::new(authenticator, None);
        let session: SessionId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let ticket = Ticket {
            slot: 1,
            generation: 2,
            local: LocalRef(3),
            session,
        };
        // The tasks do not run before this one waits, so that all questions stay open.
        for _ in 0..MAX_OPEN {
            assert!(desk.ask(ticket, request()));
        }
        assert!(!desk.ask(ticket, request()));
    }
}
