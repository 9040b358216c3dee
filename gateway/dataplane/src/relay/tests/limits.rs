//! That limits hold to the byte, for copied and for spliced streams.

use super::*;
use std::cell::RefCell;
use std::num::NonZeroU64;

/// What was asked and told of a limit.
#[derive(Default)]
struct Log {
    allowed: u64,
    spent: u64,
    largest: usize,
    open: Option<usize>,
}

/// Allows random numbers of bytes, and now and then none for a while.
struct Moody {
    random: Seeded,
    most: usize,
    log: Rc<RefCell<Log>>,
}

impl Limit for Moody {
    fn allow(&mut self, want: usize, now: Instant) -> Allowance {
        assert!(want > 0);
        let bytes = if self.random.chance(0.1) {
            0
        } else {
            1 + self.random.below(self.most)
        };
        let mut log = self.log.borrow_mut();
        assert_eq!(log.open, None, "what was read is told before more is asked for");
        log.open = (bytes > 0).then_some(bytes);
        Allowance {
            bytes,
            retry_at: now + Duration::from_millis(1),
        }
    }

    fn spent(&mut self, bytes: usize, _: Instant) {
        let mut log = self.log.borrow_mut();
        let allowed = log.open.take().expect("asked before");
        assert!(bytes <= allowed, "{bytes} of {allowed}");
        log.allowed += allowed as u64;
        log.spent += bytes as u64;
        log.largest = log.largest.max(bytes);
    }
}

#[test]
fn reads_never_take_more_than_was_allowed() {
    on_one_thread(async {
        for (most, is_spliced) in [(20_000, false), (300_000, true)] {
            let pool = pool();
            let log = Rc::new(RefCell::new(Log::default()));
            let moody = Moody {
                random: Seeded::new(most as u64),
                most,
                log: log.clone(),
            };
            let options = Options {
                up: Some(Box::new(moody)),
                ..Options::default()
            };
            let running = Running::new(&pool, options).await;
            let bytes = Seeded::new(7).bytes(4 << 20);
            let (_client_read, client_write) = running.client.into_split();
            let (received, ()) = tokio::join!(
                receive(running.target, Seeded::new(8), 100_000, 1),
                send(client_write, &bytes, Seeded::new(9), 1 << 20),
            );
            assert_same(&received, &bytes);
            let (log, stats) = (log.borrow(), pool.stats());
            assert_eq!(log.spent, 4 << 20);
            assert!(log.largest <= most);
            assert_eq!(stats.spliced > 0, is_spliced, "{stats:?}");
            assert_eq!(stats.spliced + stats.copied, 4 << 20);
        }
    });
}

#[test]
fn several_relays_share_one_limit() {
    on_one_thread(async {
        let pool = pool();
        let start = Instant::now();
        // Half a mebibyte at once and two mebibytes in each second after that.
        let rate = NonZeroU64::new(2 << 20).unwrap();
        let bucket = Bucket::new(rate, 512 << 10, start);
        let mut tasks = Vec::new();
        for seed in 0..4 {
            let bytes = Seeded::new(seed).bytes(300 << 10);
            let options = Options {
                early_up: bytes[..1000].to_vec(),
                up: Some(Box::new(Share::new(&bucket))),
                ..Options::default()
            };
            let running = Running::new(&pool, options).await;
            tasks.push(spawn_local(async move {
                let (_client_read, client_write) = running.client.into_split();
                let (received, ()) = tokio::join!(
                    receive(running.target, Seeded::new(8), 100_000, 0),
                    send(client_write, &bytes[1000..], Seeded::new(seed), 100_000),
                );
                assert_same(&received, &bytes);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        // 1,200 KiB of which 512 came at once: no machine can be faster than the limit.
        let least = Duration::from_secs_f64((1_200.0 - 512.0) / 2_048.0);
        assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    });
}

#[test]
fn a_limit_is_not_asked_when_there_is_nothing_to_read() {
    struct Counting(Rc<RefCell<usize>>);
    impl Limit for Counting {
        fn allow(&mut self, want: usize, now: Instant) -> Allowance {
            *self.0.borrow_mut() += 1;
            Allowance {
                bytes: want,
                retry_at: now,
            }
        }
        fn spent(&mut self, _: usize, _: Instant) {}
    }
    on_one_thread(async {
        let asked = Rc::new(RefCell::new(0));
        let options = Options {
            up: Some(Box::new(Counting(asked.clone()))),
            ..Options::default()
        };
        let mut running = Running::new(&pool(), options).await;
        // A fresh connection may have something to read.
        settle().await;
        let before = *asked.borrow();
        assert!(before <= 1);
        for _ in 0..10 {
            running.target.write_all(b"x").await.unwrap();
            running.client.read_exact(&mut [0]).await.unwrap();
        }
        assert_eq!(*asked.borrow(), before);
        running.client.write_all(b"x").await.unwrap();
        running.target.read_exact(&mut [0]).await.unwrap();
        assert_eq!(*asked.borrow(), before + 1);
    });
}

#[test]
fn a_relay_that_may_not_read_waits_as_long_as_it_was_told() {
    struct Later(Instant);
    impl Limit for Later {
        fn allow(&mut self, want: usize, now: Instant) -> Allowance {
            let bytes = if now >= self.0 { want } else { 0 };
            Allowance {
                bytes,
                retry_at: self.0,
            }
        }
        fn spent(&mut self, _: usize, _: Instant) {}
    }
    in_virtual_time(async {
        let options = Options {
            down: Some(Box::new(Later(now() + Duration::from_secs(100)))),
            ..Options::default()
        };
        let running = Running::new(&pool(), options).await;
        tokio::time::pause();
        assert_eq!(running.target.try_write(b"x").unwrap(), 1);
        settle().await;
        assert_eq!(running.handle.stats().down.received, 0);
        tokio::time::advance(Duration::from_secs(99)).await;
        settle().await;
        assert_eq!(running.handle.stats().down.received, 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        settle().await;
        assert_eq!(running.handle.stats().down.delivered, 1);
    });
}
