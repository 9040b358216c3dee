//! The audit log: one JSON object a line for each request that changes something, and for each one refused.
//!
//! The file is only ever appended to. At [`MAX_FILE`] it is renamed to `….1`, the older ones move up, and the
//! one after [`KEPT`] is dropped, so that disk use is bounded.

use super::files;
use crate::logs::Limiter;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Size at which a new file is begun, in bytes.
pub(crate) const MAX_FILE: u64 = 16 << 20;

/// Full files that are kept besides the present one.
pub(crate) const KEPT: usize = 8;

/// Room that must be left for an entry, in bytes: more than any takes.
const ROOM: u64 = 8 << 10;

/// Refused requests a second that are written for each cause: a flood of them must not fill the disk.
const REFUSED_A_SECOND: u32 = 10;

/// Causes counted apart.
const CAUSES: usize = 64;

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct AuditEntry {
    /// When, RFC 3339.
    pub(crate) time: String,
    /// The request, as the answer named it.
    pub(crate) request_id: String,
    /// Who: `token:ID`, `local:uid=N`, or `anonymous`.
    pub(crate) who: String,
    /// From where: an address, or `local`.
    pub(crate) from: String,
    /// What: the operation's name in the API description.
    pub(crate) what: String,
    /// On what: the path of the request, or of what it made.
    pub(crate) target: String,
    /// What the path does not say, such as the cause with which a session was ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
    /// The HTTP status of the answer.
    pub(crate) status: u16,
    /// `ok`, or the code of the problem.
    pub(crate) result: String,
    /// Entries like this one that were left out just before, because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) left_out: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The audit log.
pub struct Audit {
    path: PathBuf,
    limiter: Mutex<Limiter<String>>,
    writing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// An audit log in a file.
    pub fn new(path: &Path, now: Instant) -> Self {
        Self {
            path: path.to_owned(),
            limiter: Mutex::new(Limiter::new(REFUSED_A_SECOND, CAUSES, now)),
            writing: Mutex::new(()),
        }
    }

    /// Whether an entry could be written now: asked before a change is made, so that none goes unrecorded.
    pub fn check(&self) -> std::io::Result<()> {
        let file = files::append(&self.path)?;
        let end = file.metadata()?.len();
        // Takes room for an entry on the disk, which stays the file's where it is not used at once.
        match fallocate(&file, FallocateFlags::KEEP_SIZE, end, ROOM) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => result.map_err(Into::into),
        }
    }

    /// Writes an entry.
    pub(crate) fn write(&self, entry: &AuditEntry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let _guard = lock(&self.writing);
        let mut file = files::append(&self.path)?;
        let length = file.metadata()?.len();
        if length > 0 && length + line.len() as u64 > MAX_FILE {
            self.rotate()?;
            file = files::append(&self.path)?;
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Writes an entry about a refused request, unless there were too many of its kind just now.
    pub(crate) fn write_refused(&self, mut entry: AuditEntry, now: Instant) -> std::io::Result<()> {
        let address = entry
            .from
            .rsplit_once(':')
            .map_or(entry.from.as_str(), |(address, _)| address);
        let permit = lock(&self.limiter).permit(format!("{} {address}", entry.result), now);
        match permit {
            Some(permit) => {
                entry.left_out = permit.held_back;
                self.write(&entry)
            }
            None => Ok(()),
        }
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&self) -> std::io::Result<()> {
        for number in (1..KEPT).rev() {
            let from = self.numbered(number);
            if from.exists() {
                std::fs::rename(from, self.numbered(number + 1))?;
            }
        }
        std::fs::rename(&self.path, self.numbered(1))
    }

    /// The last entries of the present file, at most `limit`, the newest first. Lines that are none are skipped.
    pub(crate) fn last(&self, limit: usize) -> std::io::Result<Vec<AuditEntry>> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.path)?).into_owned();
        let lines = text.lines().rev();
        Ok(lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .take(limit)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn entry(request_id: &str) -> AuditEntry {
        AuditEntry {
            time: "2026-01-01T00:00:00Z".to_owned(),
            request_id: request_id.to_owned(),
            who: "token:a".to_owned(),
            from: "127.0.0.1:1".to_owned(),
            what: "endSession".to_owned(),
            target: "/v1/sessions/x:terminate".to_owned(),
            detail: "cause: admin-reset".to_owned(),
            status: 202,
            result: "ok".to_owned(),
            left_out: 0,
        }
    }

    #[test]
    fn entries_are_appended_and_read_back_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for id in ["1", "2", "3"] {
            let audit = Audit::new(&path, Instant::now());
            audit.write(&entry(id)).unwrap();
        }
        let audit = Audit::new(&path, Instant::now());
        assert_eq!(audit.last(2).unwrap(), [entry("3"), entry("2")]);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn refused_requests_cannot_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let audit = Audit::new(&dir.path().join("audit.jsonl"), now);
        for _ in 0..1000 {
            audit.write_refused(entry("x"), now).unwrap();
        }
        audit
            .write_refused(entry("y"), now + Duration::from_secs(1))
            .unwrap();
        let last = audit.last(1000).unwrap();
        assert_eq!(last.len(), 11);
        assert_eq!(last[0].left_out, 990);
    }

    #[test]
    fn a_full_file_is_kept_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::new(&path, Instant::now());
        for _ in 0..KEPT + 3 {
            files::append(&path).unwrap().set_len(MAX_FILE).unwrap();
            audit.write(&entry("x")).unwrap();
        }
        let kept = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(kept, KEPT + 1);
        assert_eq!(audit.last(10).unwrap(), [entry("x")]);
    }
}
