//! A bounded pool of threads for Argon2id, off the threads that move packets.
//!
//! One hash of the default cost takes about 20 ms and 19 MiB. As many run at once as there are threads, the
//! queue has an end, and a job that waited too long is not computed at all: its peer has given up.

use sluice_auth::{Argon2Cost, PasswordHash, PasswordHashError, Secret};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Length of the salts made here, in bytes (RFC 9106, 3.1 recommends 16).
const SALT_LENGTH: usize = 16;

/// Length of the hashes made here, in bytes (RFC 9106, 4 uses 32).
const OUTPUT_LENGTH: usize = 32;

/// How long an idle thread keeps its 19 MiB for the next hash. Getting them from the kernel anew costs about as
/// much as the hash saves in a storm.
const KEEP_MEMORY: Duration = Duration::from_secs(5);

/// Priority of the threads beside those that move packets, which have 0: hashing takes what is left first.
const NICE: i32 = 5;

/// How large the pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPoolConfig {
    /// Hashes computed at once. Each takes up to [`Argon2Cost::MAX_MEMORY_KIB`], and 19 MiB by default.
    pub threads: usize,
    /// Most jobs waiting.
    pub queue: usize,
    /// Longest a job waits. It must be shorter than the time a peer waits for its answer.
    pub deadline: Duration,
}

impl Default for HashPoolConfig {
    /// One thread per core, ten seconds, and no more jobs than that time can serve at 20 ms each.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            queue: threads * 500,
            deadline: Duration::from_secs(10),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full.
    #[error("too many passwords are waiting to be checked")]
    QueueFull,
    /// The job waited longer than allowed.
    #[error("the password could not be checked in time")]
    Late,
    /// The pool was stopped.
    #[error("the hashing pool was stopped")]
    Stopped,
    /// The kernel gave no random bytes for a salt, or no memory.
    #[error("no randomness or no memory for a hash")]
    Resources,
}

/// What a thread is asked for.
enum Work {
    Verify(Arc<PasswordHash>, oneshot::Sender<Result<bool, PoolError>>),
    Create(Argon2Cost, oneshot::Sender<Result<PasswordHash, PoolError>>),
}

struct Job {
    password: Secret,
    queued: Instant,
    work: Work,
}

impl Job {
    fn refuse(self, error: PoolError) {
        // The asker may be gone; then nobody wants the answer.
        match self.work {
            Work::Verify(_, reply) => drop(reply.send(Err(error))),
            Work::Create(_, reply) => drop(reply.send(Err(error))),
        }
    }

    fn abandoned(&self) -> bool {
        match &self.work {
            Work::Verify(_, reply) => reply.is_closed(),
            Work::Create(_, reply) => reply.is_closed(),
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    config: HashPoolConfig,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, job: Job) -> Result<(), PoolError> {
        let mut queue = self.lock();
        if queue.stopped {
            return Err(PoolError::Stopped);
        }
        if queue.jobs.len() >= self.config.queue {
            queue.jobs.retain(|job| !job.abandoned());
        }
        if queue.jobs.len() >= self.config.queue {
            return Err(PoolError::QueueFull);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// The next job worth computing, if one is waiting. Those that are not are answered and dropped.
    fn take(&self, queue: &mut Queue) -> Option<Job> {
        while let Some(job) = queue.jobs.pop_front() {
            if job.abandoned() {
                continue;
            }
            if job.queued.elapsed() < self.config.deadline {
                return Some(job);
            }
            job.refuse(PoolError::Late);
        }
        None
    }

    /// Waits for the next job worth computing; `None`: the pool was stopped.
    fn next(&self, memory: &mut Memory) -> Option<Job> {
        let mut queue = self.lock();
        while !queue.stopped {
            if let Some(job) = self.take(&mut queue) {
                return Some(job);
            }
            let (guard, wait) = self
                .wake
                .wait_timeout(queue, KEEP_MEMORY)
                .unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            if wait.timed_out() {
                memory.release();
            }
        }
        None
    }
}

/// The blocks that one thread computes in.
#[derive(Default)]
struct Memory(Vec<argon2::Block>);

impl Memory {
    fn release(&mut self) {
        self.0 = Vec::new();
    }

    /// Hashes `password` into `output`. Fails only where there is no memory: lengths and cost were checked when
    /// the cost and the hash were made.
    fn compute(
        &mut self,
        cost: Argon2Cost,
        password: &Secret,
        salt: &[u8],
        output: &mut [u8],
    ) -> Result<(), PoolError> {
        let params = argon2::Params::new(cost.memory_kib(), cost.passes(), cost.lanes(), Some(output.len()))
            .map_err(|_| PoolError::Resources)?;
        let blocks = params.block_count();
        if blocks > self.0.len() {
            self.0
                .try_reserve_exact(blocks - self.0.len())
                .map_err(|_| PoolError::Resources)?;
            self.0.resize(blocks, argon2::Block::new());
        }
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into_with_memory(password.expose(), salt, output, &mut self.0)
            .map_err(|_| PoolError::Resources)
    }

    fn verify(&mut self, hash: &PasswordHash, password: &Secret) -> Result<bool, PoolError> {
        let mut computed = zeroize::Zeroizing::new(vec![0; hash.output_length()]);
        self.compute(hash.cost(), password, hash.salt(), &mut computed)?;
        Ok(hash.matches(&computed))
    }

    fn perform(&mut self, job: Job) {
        match job.work {
            Work::Verify(hash, reply) => drop(reply.send(self.verify(&hash, &job.password))),
            Work::Create(cost, reply) => drop(reply.send(self.create(cost, &job.password))),
        }
    }

    fn create(&mut self, cost: Argon2Cost, password: &Secret) -> Result<PasswordHash, PoolError> {
        let mut salt = vec![0; SALT_LENGTH];
        getrandom::fill(&mut salt).map_err(|_| PoolError::Resources)?;
        let mut output = vec![0; OUTPUT_LENGTH];
        self.compute(cost, password, &salt, &mut output)?;
        PasswordHash::new(cost, salt, Secret::new(output))
            .map_err(|_: PasswordHashError| PoolError::Resources)
    }
}

fn run(shared: &Shared) {
    // On Linux this is the calling thread alone. Lower priority is a kindness, not a need.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut memory = Memory::default();
    while let Some(job) = shared.next(&mut memory) {
        memory.perform(job);
    }
}

/// Waits for the answer to a job that was queued.
async fn settle<T>(
    queued: Result<(), PoolError>,
    answer: oneshot::Receiver<Result<T, PoolError>>,
) -> Result<T, PoolError> {
    queued?;
    answer.await.unwrap_or(Err(PoolError::Stopped))
}

/// The pool. Dropping it stops its threads; waiting jobs are answered with [`PoolError::Stopped`].
pub struct HashPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl HashPool {
    /// Starts the threads.
    pub fn start(config: HashPoolConfig) -> std::io::Result<Self> {
        let mut pool = Self::with_no_threads(config);
        for index in 0..config.threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("hash-{index}"))
                .spawn(move || run(&shared))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// A pool that does nothing by itself.
    pub(crate) fn with_no_threads(config: HashPoolConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                wake: Condvar::new(),
                config,
            }),
            threads: Vec::new(),
        }
    }

    /// Whether `password` is the one that was hashed. The job is queued before this returns; the future only
    /// waits, on any runtime.
    pub fn verify(
        &self,
        hash: Arc<PasswordHash>,
        password: Secret,
    ) -> impl Future<Output = Result<bool, PoolError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        settle(self.submit(password, Work::Verify(hash, reply)), answer)
    }

    /// Hashes a new password with a fresh salt.
    pub fn create(
        &self,
        cost: Argon2Cost,
        password: Secret,
    ) -> impl Future<Output = Result<PasswordHash, PoolError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        settle(self.submit(password, Work::Create(cost, reply)), answer)
    }

    fn submit(&self, password: Secret, work: Work) -> Result<(), PoolError> {
        self.shared.submit(Job {
            password,
            queued: Instant::now(),
            work,
        })
    }

    /// Computes all that waits, on the calling thread, so that tests say when.
    #[cfg(test)]
    pub(crate) fn work_off(&self) {
        let mut memory = Memory::default();
        loop {
            let job = self.shared.take(&mut self.shared.lock());
            let Some(job) = job else { return };
            memory.perform(job);
        }
    }

    /// Jobs waiting, without those being computed.
    pub fn queue_depth(&self) -> usize {
        self.shared.lock().jobs.len()
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.lock();
            queue.stopped = true;
            std::mem::take(&mut queue.jobs)
        };
        self.shared.wake.notify_all();
        for job in waiting {
            job.refuse(PoolError::Stopped);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say than its panic message.
            let _ = thread.join();
        }
    }
}

/// Hashes a password on the calling thread, which takes about 20 ms: for the command line and the first start,
/// where there is no pool yet.
pub fn hash_now(cost: Argon2Cost, password: &Secret) -> Result<PasswordHash, PoolError> {
    Memory::default().create(cost, password)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cheap, so that tests are quick.
    fn cheap() -> Argon2Cost {
        Argon2Cost::new(64, 1, 1).unwrap()
    }

    fn config(threads: usize, queue: usize) -> HashPoolConfig {
        HashPoolConfig {
            threads,
            queue,
            deadline: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn agrees_with_the_reference_implementation() {
        let pool = HashPool::start(config(2, 10)).unwrap();
        // "correct horse", hashed by the reference implementation in C.
        for phc in [
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$k9ohroejZy1PN5E1SbHNPug6vB8eQAahb5SOAp6iGF4",
            "$argon2id$v=19$m=256,t=3,p=4$c29tZXNhbHQ$nJmcDk4ucVMH5aujw+A61LBwLUscoqlr2mkVuwZzos4",
        ] {
            let hash: Arc<PasswordHash> = Arc::new(phc.parse().unwrap());
            assert_eq!(
                pool.verify(hash.clone(), Secret::new("correct horse")).await,
                Ok(true)
            );
            assert_eq!(
                pool.verify(hash.clone(), Secret::new("correct horsf")).await,
                Ok(false)
            );
            assert_eq!(pool.verify(hash, Secret::new("")).await, Ok(false));
        }
    }

    #[tokio::test]
    async fn a_new_hash_verifies_and_has_its_own_salt() {
        let pool = HashPool::start(config(1, 10)).unwrap();
        let first = pool.create(cheap(), Secret::new("pw")).await.unwrap();
        let second = pool.create(cheap(), Secret::new("pw")).await.unwrap();
        assert_ne!(first.salt(), second.salt());
        assert_eq!(first.output_length(), 32);
        assert_eq!(pool.verify(Arc::new(first), Secret::new("pw")).await, Ok(true));
        let third = hash_now(cheap(), &Secret::new("pw")).unwrap();
        assert_eq!(pool.verify(Arc::new(third), Secret::new("pw")).await, Ok(true));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_but_not_for_those_who_left() {
        let pool = HashPool::with_no_threads(config(1, 2));
        let hash = Arc::new(hash_now(cheap(), &Secret::new("pw")).unwrap());
        let first = pool.verify(hash.clone(), Secret::new("pw"));
        let _second = pool.verify(hash.clone(), Secret::new("pw"));
        assert_eq!(pool.queue_depth(), 2);
        assert_eq!(
            pool.verify(hash.clone(), Secret::new("pw")).await,
            Err(PoolError::QueueFull)
        );
        drop(first);
        let _third = pool.verify(hash, Secret::new("pw"));
        assert_eq!(pool.queue_depth(), 2);
    }

    #[tokio::test]
    async fn jobs_over_their_deadline_are_not_computed() {
        let late = HashPoolConfig {
            deadline: Duration::ZERO,
            ..config(1, 10)
        };
        let pool = HashPool::start(late).unwrap();
        let hash = Arc::new(hash_now(cheap(), &Secret::new("pw")).unwrap());
        assert_eq!(pool.verify(hash, Secret::new("pw")).await, Err(PoolError::Late));
    }

    #[tokio::test]
    async fn a_stopped_pool_answers_those_who_wait() {
        let pool = HashPool::with_no_threads(config(1, 10));
        let hash = Arc::new(hash_now(cheap(), &Secret::new("pw")).unwrap());
        let waiting = pool.verify(hash, Secret::new("pw"));
        drop(pool);
        assert_eq!(waiting.await, Err(PoolError::Stopped));
    }

    #[tokio::test]
    async fn many_jobs_at_once_are_all_answered_right() {
        let pool = HashPool::start(config(2, 1000)).unwrap();
        let hash = Arc::new(hash_now(cheap(), &Secret::new("pw7")).unwrap());
        let answers: Vec<_> = (0..300)
            .map(|n| {
                (
                    n % 10 == 7,
                    pool.verify(hash.clone(), Secret::new(format!("pw{}", n % 10))),
                )
            })
            .collect();
        for (right, answer) in answers {
            assert_eq!(answer.await, Ok(right));
        }
        assert_eq!(pool.queue_depth(), 0);
    }
}
