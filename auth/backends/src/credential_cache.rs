//! The verified-credential cache: who gave the right password lately, so that a reconnect storm does not cost
//! 20 ms of hashing for each login.
//!
//! It lives in a file without a name (a memfd) that the caller hands in and that outlives the process, because a
//! storm after a restart is when it counts. Nothing in it is a password, or a hash of a password alone: an entry
//! holds HMAC-SHA-256 tags under a random key. The key is in the same file, so whoever can read the file can
//! test guesses faster than against Argon2id; this is why entries live for minutes only, are wiped when they
//! are over, and why the file must never be one on disk.
//!
//! A tag covers the stored password hash as well. A password that was changed, even while no gateway was running,
//! so never matches an entry made before.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sluice_auth::{PasswordHash, Secret};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// "SLCREDC1": says what the file is.
const MAGIC: [u8; 8] = *b"SLCREDC1";

/// Number of the layout. Any other is not read, but replaced.
const FORMAT: u32 = 1;

const KEY_LENGTH: usize = 32;

/// Magic, format, buckets, key, checksum.
const HEADER_LENGTH: usize = 8 + 4 + 4 + KEY_LENGTH + 4;

/// Where the slots start: a whole page, so that buckets never straddle one.
const SLOTS_AT: u64 = 4096;

const USER_TAG: usize = 16;
const CREDENTIAL_TAG: usize = 32;

/// User tag, credential tag, time, and a checksum over them.
const SLOT_LENGTH: usize = 64;
const TIME_AT: usize = USER_TAG + CREDENTIAL_TAG;
const CHECKSUM_AT: usize = TIME_AT + 8;

/// Slots of a bucket. Each user has two buckets, so eight places, and uses one of them.
const BUCKET_SLOTS: usize = 4;
const BUCKET_LENGTH: usize = BUCKET_SLOTS * SLOT_LENGTH;

/// Fewest and most slots: a page's worth, and 256 MiB.
const SLOTS_RANGE: std::ops::RangeInclusive<u32> = 64..=4 << 20;

/// Buckets looked at in one step of [`CredentialCache::expire`]: 64 KiB.
const EXPIRE_BUCKETS: u32 = 256;

type HmacSha256 = Hmac<Sha256>;

/// How large the cache is, and how long an entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Slots of 64 bytes, rounded up to whole buckets. A user takes one.
    pub slots: u32,
    /// Life of an entry after the password was last checked in full. Zero: nothing is remembered.
    pub ttl: Duration,
}

impl Default for CacheConfig {
    /// 262,144 slots, which are 16 MiB and hold 100,000 users with room to spare; 10 minutes.
    fn default() -> Self {
        Self {
            slots: 262_144,
            ttl: Duration::from_secs(600),
        }
    }
}

impl CacheConfig {
    fn buckets(self) -> u32 {
        let slots = self.slots.clamp(*SLOTS_RANGE.start(), *SLOTS_RANGE.end());
        slots.div_ceil(BUCKET_SLOTS as u32)
    }

    /// Length of the file in bytes. A longer one is as good: what is beyond it stays unused.
    pub fn file_length(self) -> u64 {
        file_length(self.buckets())
    }

    /// Room for so many users: twice as many slots, so that hardly one in ten thousand has to give way to
    /// another before its time.
    pub fn for_users(users: u32, ttl: Duration) -> Self {
        Self {
            slots: users.saturating_mul(2),
            ttl,
        }
    }
}

/// One slot as it is in the file.
#[derive(Clone, Copy)]
struct Slot([u8; SLOT_LENGTH]);

impl Slot {
    const EMPTY: Slot = Slot([0; SLOT_LENGTH]);

    fn new(tags: &Tags, verified: u64) -> Self {
        let mut slot = Self::EMPTY;
        slot.0[..USER_TAG].copy_from_slice(&tags.user);
        slot.0[USER_TAG..TIME_AT].copy_from_slice(tags.credential.as_slice());
        slot.0[TIME_AT..CHECKSUM_AT].copy_from_slice(&verified.to_le_bytes());
        let checksum = crc32c::crc32c(&slot.0[..CHECKSUM_AT]);
        slot.0[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// Whether it was never written, or wiped.
    fn is_empty(&self) -> bool {
        self.0 == Self::EMPTY.0
    }

    /// Whether it is as it was written: a write that was cut off, or met a reader half way, is not.
    fn is_sound(&self) -> bool {
        let checksum = crc32c::crc32c(&self.0[..CHECKSUM_AT]);
        self.0[CHECKSUM_AT..CHECKSUM_AT + 4] == checksum.to_le_bytes()
    }

    fn belongs_to(&self, user: &[u8; USER_TAG]) -> bool {
        self.0[..USER_TAG].ct_eq(user).into()
    }

    fn has_credential(&self, credential: &[u8; CREDENTIAL_TAG]) -> bool {
        self.0[USER_TAG..TIME_AT].ct_eq(credential).into()
    }

    /// Seconds since the epoch at which the password was checked.
    fn verified(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[TIME_AT..CHECKSUM_AT]);
        u64::from_le_bytes(bytes)
    }

    /// Whether it holds an entry that still counts. One from the future does not: the clock was set back, and
    /// its life would be longer than it may be.
    fn is_live(&self, now: u64, ttl: u64) -> bool {
        !self.is_empty() && self.is_sound() && now.checked_sub(self.verified()).is_some_and(|age| age < ttl)
    }
}

/// Where a user's entry is, and what proves its password.
struct Tags {
    user: [u8; USER_TAG],
    credential: Zeroizing<[u8; CREDENTIAL_TAG]>,
}

/// The cache. Reading needs no lock; writes of this process take turns.
pub struct CredentialCache {
    file: File,
    key: Zeroizing<[u8; KEY_LENGTH]>,
    buckets: u32,
    ttl: u64,
    writer: Mutex<Writer>,
    evictions: AtomicU64,
}

#[derive(Default)]
struct Writer {
    /// Where [`CredentialCache::expire`] goes on.
    cursor: u32,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn encode_header(buckets: u32, key: &[u8; KEY_LENGTH]) -> Zeroizing<[u8; HEADER_LENGTH]> {
    let mut header = Zeroizing::new([0; HEADER_LENGTH]);
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&buckets.to_le_bytes());
    header[16..16 + KEY_LENGTH].copy_from_slice(key);
    let checksum = crc32c::crc32c(&header[..HEADER_LENGTH - 4]);
    header[HEADER_LENGTH - 4..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The key of a file that is ours, whole, and of the wanted size.
fn read_key(file: &File, buckets: u32) -> Option<Zeroizing<[u8; KEY_LENGTH]>> {
    if file.metadata().ok()?.len() < file_length(buckets) {
        return None;
    }
    let mut found = Zeroizing::new([0; HEADER_LENGTH]);
    file.read_exact_at(found.as_mut_slice(), 0).ok()?;
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    key.copy_from_slice(&found[16..16 + KEY_LENGTH]);
    // The wanted header with the key found: equal only where magic, format, size and checksum are right.
    (*encode_header(buckets, &key) == *found).then_some(key)
}

fn file_length(buckets: u32) -> u64 {
    SLOTS_AT + u64::from(buckets) * BUCKET_LENGTH as u64
}

/// Empties the file and gives it a new key. The file may be one that can grow but never shrink, so that it is
/// overwritten rather than cut.
fn initialise(file: &File, buckets: u32) -> io::Result<Zeroizing<[u8; KEY_LENGTH]>> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    getrandom::fill(key.as_mut_slice()).map_err(|error| io::Error::other(error.to_string()))?;
    let former = file.metadata()?.len();
    let blank = [0; SLOTS_AT as usize];
    for at in (0..former).step_by(blank.len()) {
        let rest = usize::try_from(former - at).unwrap_or(usize::MAX);
        file.write_all_at(blank.get(..rest).unwrap_or(&blank), at)?;
    }
    if former < file_length(buckets) {
        file.set_len(file_length(buckets))?;
    }
    file.write_all_at(encode_header(buckets, &key).as_slice(), 0)?;
    Ok(key)
}

impl CredentialCache {
    /// Goes on with the cache in `file`, or makes an empty one where the file holds none, one of another size,
    /// or a damaged one. The second value says whether entries may have been kept. Only one process at a time
    /// may write.
    pub fn open(file: File, config: CacheConfig) -> io::Result<(Self, bool)> {
        let buckets = config.buckets();
        let (key, kept) = match read_key(&file, buckets) {
            Some(key) => (key, true),
            None => (initialise(&file, buckets)?, false),
        };
        let cache = Self {
            file,
            key,
            buckets,
            ttl: config.ttl.as_secs(),
            writer: Mutex::default(),
            evictions: AtomicU64::new(0),
        };
        Ok((cache, kept))
    }

    fn mac(&self, domain: u8) -> HmacSha256 {
        #[allow(clippy::expect_used)] // HMAC takes keys of any length (RFC 2104, 2).
        let mut mac = HmacSha256::new_from_slice(self.key.as_slice()).expect("HMAC takes any key");
        mac.update(&[domain]);
        mac
    }

    fn user_tag(&self, user: &str) -> [u8; USER_TAG] {
        let mut mac = self.mac(b'u');
        mac.update(user.as_bytes());
        let mut tag = [0; USER_TAG];
        tag.copy_from_slice(&mac.finalize().into_bytes()[..USER_TAG]);
        tag
    }

    fn tags(&self, user: &str, password: &Secret, stored: &PasswordHash) -> Tags {
        let mut mac = self.mac(b'c');
        // Each part with its length, so that no two lists of parts are the same bytes.
        for part in [user.as_bytes(), stored.salt(), stored.output(), password.expose()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Tags {
            user: self.user_tag(user),
            credential: Zeroizing::new(mac.finalize().into_bytes().into()),
        }
    }

    /// The two buckets of a user, from bits of its tag. They may be the same one.
    fn buckets_of(&self, user: &[u8; USER_TAG]) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h, ..] = *user;
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
            .map(|hash| ((u64::from(hash) * u64::from(self.buckets)) >> 32) as u32)
    }

    fn offset(bucket: u32) -> u64 {
        SLOTS_AT + u64::from(bucket) * BUCKET_LENGTH as u64
    }

    fn read_bucket(&self, bucket: u32) -> io::Result<[Slot; BUCKET_SLOTS]> {
        let mut bytes = [0; BUCKET_LENGTH];
        self.file.read_exact_at(&mut bytes, Self::offset(bucket))?;
        let mut slots = [Slot::EMPTY; BUCKET_SLOTS];
        for (slot, chunk) in slots.iter_mut().zip(bytes.chunks_exact(SLOT_LENGTH)) {
            slot.0.copy_from_slice(chunk);
        }
        Ok(slots)
    }

    fn write_slot(&self, _turn: &mut Writer, bucket: u32, index: usize, slot: &Slot) -> io::Result<()> {
        self.file
            .write_all_at(&slot.0, Self::offset(bucket) + (index * SLOT_LENGTH) as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `user` proved this very password against this very stored hash lately. `wall` is the time of day.
    /// A file that cannot be read holds nothing.
    pub fn contains(&self, user: &str, password: &Secret, stored: &PasswordHash, wall: SystemTime) -> bool {
        self.look_up(&self.tags(user, password, stored), seconds(wall))
            .unwrap_or(false)
    }

    fn look_up(&self, tags: &Tags, now: u64) -> io::Result<bool> {
        let mut found = false;
        // Both buckets are read in any case, so that the time taken says nothing of where an entry is.
        for bucket in self.buckets_of(&tags.user) {
            for (index, slot) in self.read_bucket(bucket)?.iter().enumerate() {
                if slot.is_empty() || !slot.belongs_to(&tags.user) {
                    continue;
                }
                if slot.is_live(now, self.ttl) {
                    found |= slot.has_credential(&tags.credential);
                } else {
                    self.wipe_if_dead(bucket, index, now)?;
                }
            }
        }
        Ok(found)
    }

    /// Wipes a slot that was seen dead, unless it was written meanwhile.
    fn wipe_if_dead(&self, bucket: u32, index: usize, now: u64) -> io::Result<()> {
        let mut turn = self.lock();
        match self.read_bucket(bucket)?.get(index) {
            Some(slot) if !slot.is_live(now, self.ttl) => {
                self.write_slot(&mut turn, bucket, index, &Slot::EMPTY)
            }
            _ => Ok(()),
        }
    }

    /// Remembers that `user` proved this password just now, in place of what was remembered of it before. A
    /// file that cannot be written remembers nothing; the next login is checked in full.
    pub fn insert(
        &self,
        user: &str,
        password: &Secret,
        stored: &PasswordHash,
        wall: SystemTime,
    ) -> io::Result<()> {
        if self.ttl == 0 {
            return Ok(());
        }
        let (tags, now) = (self.tags(user, password, stored), seconds(wall));
        let mut turn = self.lock();
        let (bucket, index) = self.place_for(&tags.user, now)?;
        self.write_slot(&mut turn, bucket, index, &Slot::new(&tags, now))
    }

    /// The user's own slot; else a dead one in the emptier bucket; else the oldest of both buckets.
    fn place_for(&self, user: &[u8; USER_TAG], now: u64) -> io::Result<(u32, usize)> {
        let mut free: Option<(usize, u32, usize)> = None;
        let mut oldest = (u64::MAX, 0, 0);
        for bucket in self.buckets_of(user) {
            let slots = self.read_bucket(bucket)?;
            let live = slots.iter().filter(|slot| slot.is_live(now, self.ttl)).count();
            for (index, slot) in slots.iter().enumerate() {
                if !slot.is_empty() && slot.belongs_to(user) {
                    return Ok((bucket, index));
                }
                if !slot.is_live(now, self.ttl) {
                    if free.is_none_or(|(fewest, ..)| live < fewest) {
                        free = Some((live, bucket, index));
                    }
                } else if slot.verified() <= oldest.0 {
                    oldest = (slot.verified(), bucket, index);
                }
            }
        }
        if let Some((_, bucket, index)) = free {
            return Ok((bucket, index));
        }
        self.evictions.fetch_add(1, Ordering::Relaxed);
        Ok((oldest.1, oldest.2))
    }

    /// Forgets a user: it was changed, disabled or deleted.
    pub fn forget(&self, user: &str) -> io::Result<()> {
        let tag = self.user_tag(user);
        let mut turn = self.lock();
        for bucket in self.buckets_of(&tag) {
            for (index, slot) in self.read_bucket(bucket)?.iter().enumerate() {
                if !slot.is_empty() && slot.belongs_to(&tag) {
                    self.write_slot(&mut turn, bucket, index, &Slot::EMPTY)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets everything and changes nothing else.
    pub fn clear(&self) -> io::Result<()> {
        let mut turn = self.lock();
        for bucket in 0..self.buckets {
            self.wipe_where(&mut turn, bucket, |slot| !slot.is_empty())?;
        }
        Ok(())
    }

    /// Wipes entries whose time is over in the next part of the cache: 1,024 slots. Called once a second it
    /// goes through the default cache in less than half the life of an entry.
    pub fn expire(&self, wall: SystemTime) -> io::Result<()> {
        let now = seconds(wall);
        let mut turn = self.lock();
        for _ in 0..EXPIRE_BUCKETS.min(self.buckets) {
            let bucket = turn.cursor;
            self.wipe_where(&mut turn, bucket, |slot| {
                !slot.is_empty() && !slot.is_live(now, self.ttl)
            })?;
            turn.cursor = if bucket + 1 < self.buckets { bucket + 1 } else { 0 };
        }
        Ok(())
    }

    fn wipe_where(&self, turn: &mut Writer, bucket: u32, wipe: impl Fn(&Slot) -> bool) -> io::Result<()> {
        for (index, slot) in self.read_bucket(bucket)?.iter().enumerate() {
            if wipe(slot) {
                self.write_slot(turn, bucket, index, &Slot::EMPTY)?;
            }
        }
        Ok(())
    }

    /// Entries that had to give way to others before their time, since the cache was opened.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "credential_cache_tests.rs"]
mod tests;
