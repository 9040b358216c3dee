//! A bounded pool of threads that accept security contexts, off the threads that move packets: that reads a keytab, and
//! writes down what must not be used again.

use sluice_auth::gss::{ContextFailure, ContextReason, ContextStep, Contexts, Negotiation};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Threads: while one waits for a disk, the other goes on.
const THREADS: usize = 2;
/// Most tokens waiting: of half a second's work, at a fraction of a millisecond each.
const QUEUE: usize = 1000;
/// Longest a token waits. It must be shorter than the time a client waits for its answer.
const DEADLINE: Duration = Duration::from_secs(5);

type Answer = Result<ContextStep, ContextFailure>;

struct Job {
    contexts: Arc<dyn Contexts>,
    negotiation: Option<Box<dyn Negotiation>>,
    token: Vec<u8>,
    queued: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Job {
    fn run(self) {
        // Whoever asked may be gone; then nobody wants the answer.
        if self.reply.is_closed() {
            return;
        }
        let answer = if self.queued.elapsed() > DEADLINE {
            Err(unavailable("it waited for too long"))
        } else {
            let negotiation = match self.negotiation {
                Some(negotiation) => Ok(negotiation),
                None => self.contexts.begin(),
            };
            negotiation.and_then(|negotiation| negotiation.accept(&self.token))
        };
        let _ = self.reply.send(answer);
    }
}

fn unavailable(detail: &str) -> ContextFailure {
    ContextFailure::new(ContextReason::Unavailable, detail)
}

/// The pool. Its threads end with it.
#[derive(Debug)]
pub struct ContextPool {
    jobs: SyncSender<Job>,
}

impl ContextPool {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// Where the kernel gives none.
    pub fn start() -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..THREADS {
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name(format!("contexts-{number}"));
            // It ends by itself when nobody can send it anything.
            drop(thread.spawn(move || work(&waiting))?);
        }
        Ok(Self { jobs })
    }

    /// Takes an initiator's token; without a negotiation it is the first of a context with the keys of `contexts`.
    ///
    /// # Errors
    ///
    /// Where there will be no context, or nobody could look at the token in time.
    pub async fn accept(
        &self,
        contexts: Arc<dyn Contexts>,
        negotiation: Option<Box<dyn Negotiation>>,
        token: Vec<u8>,
    ) -> Answer {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            contexts,
            negotiation,
            token,
            queued: Instant::now(),
            reply,
        };
        if self.jobs.try_send(job).is_err() {
            return Err(unavailable("too many tokens wait"));
        }
        let gone = |_| Err(unavailable("the thread that had it is gone"));
        answer.await.unwrap_or_else(gone)
    }
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = {
            let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.recv()
        };
        match job {
            Ok(job) => job.run(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Contexts that wait for a word, and then fail with it.
    struct Slow {
        word: Arc<Mutex<Receiver<&'static str>>>,
    }

    impl Contexts for Slow {
        fn begin(&self) -> Result<Box<dyn Negotiation>, ContextFailure> {
            Ok(Box::new(Waits(self.word.clone())))
        }
    }

    struct Waits(Arc<Mutex<Receiver<&'static str>>>);

    impl Negotiation for Waits {
        fn accept(self: Box<Self>, token: &[u8]) -> Answer {
            let word = self.0.lock().unwrap().recv().unwrap();
            let detail = format!("{word} {}", String::from_utf8_lossy(token));
            Err(ContextFailure::new(ContextReason::Other, detail))
        }
    }

    fn slow() -> (Arc<dyn Contexts>, Sender<&'static str>) {
        let (sender, receiver) = channel();
        let word = Arc::new(Mutex::new(receiver));
        (Arc::new(Slow { word }), sender)
    }

    #[tokio::test]
    async fn tokens_are_accepted_elsewhere() {
        let (contexts, words) = slow();
        let pool = ContextPool::start().unwrap();
        let accept = pool.accept(contexts, None, b"token".to_vec());
        let say = async { words.send("no").unwrap() };
        let (answer, ()) = tokio::join!(accept, say);
        let failure = answer.unwrap_err();
        assert_eq!(
            (failure.reason, &*failure.detail),
            (ContextReason::Other, "no token")
        );
    }

    #[tokio::test]
    async fn too_many_tokens_are_refused_at_once_and_abandoned_ones_cost_nothing() {
        let (contexts, words) = slow();
        let pool = Arc::new(ContextPool::start().unwrap());
        let waiting: Vec<_> = (0..QUEUE + THREADS + 1)
            .map(|_| {
                let (pool, contexts) = (pool.clone(), contexts.clone());
                tokio::spawn(async move { pool.accept(contexts, None, Vec::new()).await })
            })
            .collect();
        // Only what finds no room has an answer before anybody says a word.
        let mut refused = None;
        while refused.is_none() {
            tokio::task::yield_now().await;
            let (pool, contexts) = (pool.clone(), contexts.clone());
            let late = tokio::spawn(async move { pool.accept(contexts, None, Vec::new()).await });
            tokio::task::yield_now().await;
            if late.is_finished() {
                refused = Some(late.await.unwrap().unwrap_err());
            } else {
                late.abort();
                let _ = late.await;
            }
        }
        assert_eq!(refused.unwrap().reason, ContextReason::Unavailable);
        for waiting in waiting {
            waiting.abort();
            let _ = waiting.await;
        }
        // Those that are at work already, and the next that somebody wants.
        for _ in 0..THREADS + 1 {
            words.send("now").unwrap();
        }
        let answer = loop {
            match pool.accept(contexts.clone(), None, b"wanted".to_vec()).await {
                Err(failure) if failure.reason == ContextReason::Unavailable => {
                    tokio::task::yield_now().await;
                }
                answer => break answer,
            }
        };
        assert_eq!(answer.unwrap_err().detail, "now wanted");
    }
}
