use super::*;
use crate::hash_pool::hash_now;
use proptest::prelude::*;
use sluice_auth::Argon2Cost;
use std::collections::HashSet;

const MINUTE: Duration = Duration::from_secs(60);

fn config(slots: u32) -> CacheConfig {
    CacheConfig {
        slots,
        ..CacheConfig::default()
    }
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn open(file: &File, slots: u32) -> (CredentialCache, bool) {
    CredentialCache::open(file.try_clone().unwrap(), config(slots)).unwrap()
}

fn stored(password: &str) -> PasswordHash {
    hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new(password)).unwrap()
}

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn remembers_exactly_what_was_proven_for_as_long_as_it_may() {
    let (cache, kept) = open(&file(), 1024);
    assert!(!kept);
    let (bob, pw) = (stored("pw"), Secret::new("pw"));
    assert!(!cache.contains("bob", &pw, &bob, start()));
    cache.insert("bob", &pw, &bob, start()).unwrap();
    assert!(cache.contains("bob", &pw, &bob, start()));
    assert!(cache.contains("bob", &pw, &bob, start() + 10 * MINUTE - Duration::from_secs(1)));
    assert!(!cache.contains("bob", &Secret::new("pW"), &bob, start()));
    assert!(!cache.contains("bo", &Secret::new("bpw"), &bob, start()));
    assert!(!cache.contains("eve", &pw, &bob, start()));
    // The same password hashed anew is another credential: the stored one was changed.
    assert!(!cache.contains("bob", &pw, &stored("pw"), start()));
    assert!(!cache.contains("bob", &pw, &bob, start() + 10 * MINUTE));
}

#[test]
fn an_entry_from_the_future_is_wiped_and_does_not_come_back() {
    let (cache, _) = open(&file(), 1024);
    let (bob, pw) = (stored("pw"), Secret::new("pw"));
    cache.insert("bob", &pw, &bob, start()).unwrap();
    assert!(!cache.contains("bob", &pw, &bob, start() - MINUTE));
    assert!(!cache.contains("bob", &pw, &bob, start()));
}

#[test]
fn forgetting_a_user_touches_no_other() {
    let (cache, _) = open(&file(), 1024);
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    for user in ["bob", "eve"] {
        cache.insert(user, &pw, &hash, start()).unwrap();
    }
    cache.forget("bob").unwrap();
    assert!(!cache.contains("bob", &pw, &hash, start()));
    assert!(cache.contains("eve", &pw, &hash, start()));
    cache.clear().unwrap();
    assert!(!cache.contains("eve", &pw, &hash, start()));
}

#[test]
fn outlives_the_process_and_holds_no_password() {
    let file = file();
    let (hash, pw) = (
        stored("correct horse battery"),
        Secret::new("correct horse battery"),
    );
    open(&file, 1024).0.insert("bobby", &pw, &hash, start()).unwrap();
    let (again, kept) = open(&file, 1024);
    assert!(kept);
    assert!(again.contains("bobby", &pw, &hash, start() + MINUTE));
    let bytes = contents(&file);
    for secret in [&b"correct"[..], b"bobby", &hash.output()[..8], &hash.salt()[..8]] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn foreign_damaged_or_resized_files_start_empty() {
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    let fill = |file: &File| open(file, 1024).0.insert("bob", &pw, &hash, start()).unwrap();
    let reopened_empty = |file: &File, slots| {
        let (cache, kept) = open(file, slots);
        assert!(!kept);
        assert!(!cache.contains("bob", &pw, &hash, start()));
        cache.insert("bob", &pw, &hash, start()).unwrap();
        assert!(cache.contains("bob", &pw, &hash, start()));
    };
    let foreign = file();
    foreign.write_all_at(&[0x5a; 10_000], 0).unwrap();
    reopened_empty(&foreign, 1024);
    let resized = file();
    fill(&resized);
    reopened_empty(&resized, 2048);
    for bit in 0..HEADER_LENGTH * 8 {
        let damaged = file();
        fill(&damaged);
        let mut byte = [0];
        damaged.read_exact_at(&mut byte, bit as u64 / 8).unwrap();
        damaged
            .write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit as u64 / 8)
            .unwrap();
        reopened_empty(&damaged, 1024);
    }
    let cut = file();
    fill(&cut);
    cut.set_len(5000).unwrap();
    reopened_empty(&cut, 1024);
}

#[test]
fn a_damaged_slot_is_a_miss_and_only_that() {
    let file = file();
    let (cache, _) = open(&file, 64);
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    cache.insert("bob", &pw, &hash, start()).unwrap();
    let bytes = contents(&file);
    let at = (SLOTS_AT as usize..bytes.len())
        .step_by(SLOT_LENGTH)
        .find(|&at| bytes[at..at + 64] != [0; 64])
        .unwrap();
    for bit in 0..(CHECKSUM_AT + 4) * 8 {
        let damaged = bytes[at + bit / 8] ^ (1 << (bit % 8));
        file.write_all_at(&[damaged], (at + bit / 8) as u64).unwrap();
        assert!(!cache.contains("bob", &pw, &hash, start()), "bit {bit}");
        file.write_all_at(&bytes[at..at + 64], at as u64).unwrap();
        assert!(cache.contains("bob", &pw, &hash, start()));
    }
}

#[test]
fn a_file_that_shrank_under_us_answers_nothing_and_does_not_panic() {
    let file = file();
    let (cache, _) = open(&file, 1024);
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    file.set_len(10).unwrap();
    assert!(!cache.contains("bob", &pw, &hash, start()));
    assert!(cache.insert("bob", &pw, &hash, start()).is_err());
    assert!(cache.forget("bob").is_err());
    assert!(cache.expire(start()).is_err());
}

#[test]
fn expired_entries_are_wiped_from_the_file() {
    let file = file();
    let (cache, _) = open(&file, 2048);
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    for n in 0..100 {
        cache.insert(&format!("user{n}"), &pw, &hash, start()).unwrap();
    }
    cache.insert("late", &pw, &hash, start() + 5 * MINUTE).unwrap();
    for _ in 0..2048 / 4 / EXPIRE_BUCKETS {
        cache.expire(start() + 10 * MINUTE).unwrap();
    }
    let used = contents(&file)[SLOTS_AT as usize..]
        .chunks(SLOT_LENGTH)
        .filter(|slot| **slot != [0; 64])
        .count();
    assert_eq!(used, 1);
    assert!(cache.contains("late", &pw, &hash, start() + 10 * MINUTE));
}

#[test]
fn a_full_cache_drops_the_oldest_of_its_buckets() {
    let (cache, _) = open(&file(), 64);
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    let user = |n: u32| format!("user{n}");
    for n in 0..1000 {
        let now = start() + Duration::from_millis(100) * n;
        cache.insert(&user(n), &pw, &hash, now).unwrap();
        assert!(cache.contains(&user(n), &pw, &hash, now));
    }
    let end = start() + Duration::from_secs(100);
    let left = (0..1000)
        .filter(|&n| cache.contains(&user(n), &pw, &hash, end))
        .count();
    assert!((50..=64).contains(&left), "{left}");
    assert_eq!(cache.evictions() as usize, 1000 - left);
}

#[test]
fn a_cache_for_ten_thousand_users_holds_them() {
    let (cache, _) = CredentialCache::open(file(), CacheConfig::for_users(10_000, 10 * MINUTE)).unwrap();
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    for n in 0..10_000 {
        cache
            .insert(&format!("user{n}@isp.example"), &pw, &hash, start())
            .unwrap();
    }
    assert!(cache.evictions() <= 10, "{}", cache.evictions());
    let held = |n: &u32| cache.contains(&format!("user{n}@isp.example"), &pw, &hash, start());
    let left = (0..10_000).filter(held).count() as u64;
    assert_eq!(left, 10_000 - cache.evictions());
}

#[test]
fn no_life_means_nothing_is_kept() {
    let config = CacheConfig {
        ttl: Duration::ZERO,
        ..config(64)
    };
    let (cache, _) = CredentialCache::open(file(), config).unwrap();
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    cache.insert("bob", &pw, &hash, start()).unwrap();
    assert!(!cache.contains("bob", &pw, &hash, start()));
}

#[test]
fn writers_and_readers_at_once_never_see_a_wrong_entry() {
    let (cache, _) = open(&file(), 64);
    let (hash, right, wrong) = (stored("pw"), Secret::new("pw"), Secret::new("wrong"));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (cache, hash, right, wrong) = (&cache, &hash, &right, &wrong);
            scope.spawn(move || {
                for n in 0..2000 {
                    let user = format!("user{}", (n * 7 + thread) % 40);
                    cache.insert(&user, right, hash, start()).unwrap();
                    assert!(!cache.contains(&user, wrong, hash, start()));
                    if n % 3 == 0 {
                        cache.forget(&user).unwrap();
                    }
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Against a plain set: a cache with room for all answers as the set does.
    #[test]
    fn agrees_with_a_set(steps in proptest::collection::vec((0u8..3, 0u8..20, 0u8..2), 0..150)) {
        let (cache, _) = open(&file(), 4096);
        let hash = stored("pw");
        let mut model: HashSet<(u8, u8)> = HashSet::new();
        for (step, user, password) in steps {
            let (name, secret) = (format!("user{user}"), Secret::new(vec![password]));
            match step {
                0 => {
                    cache.insert(&name, &secret, &hash, start()).unwrap();
                    model.retain(|entry| entry.0 != user);
                    model.insert((user, password));
                }
                1 => {
                    cache.forget(&name).unwrap();
                    model.retain(|entry| entry.0 != user);
                }
                _ => prop_assert_eq!(cache.contains(&name, &secret, &hash, start()), model.contains(&(user, password))),
            }
        }
    }
}

#[test]
fn a_file_that_can_only_grow_serves_every_size() {
    let file = file();
    let (hash, pw) = (stored("pw"), Secret::new("pw"));
    let grown = |slots: u32| {
        let wanted = config(slots).file_length();
        if file.metadata().unwrap().len() < wanted {
            file.set_len(wanted).unwrap();
        }
        let (cache, kept) = open(&file, slots);
        assert_eq!(file.metadata().unwrap().len(), config(4096).file_length());
        (cache, kept)
    };
    assert!(!grown(4096).1);
    let (cache, kept) = grown(1024);
    assert!(!kept);
    cache.insert("bob", &pw, &hash, start()).unwrap();
    let (cache, kept) = grown(1024);
    assert!(kept && cache.contains("bob", &pw, &hash, start()));
    let (cache, kept) = grown(4096);
    assert!(!kept && !cache.contains("bob", &pw, &hash, start()));
    let slots = contents(&file).split_off(SLOTS_AT as usize);
    assert!(slots.iter().all(|&byte| byte == 0), "what is given up is wiped");
}
