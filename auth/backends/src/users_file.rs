//! The users file: a TOML file of `[[user]]` tables, read without a restart and changed without a moment in which
//! it is not whole.
//!
//! Readers get a snapshot and never wait. A file that cannot be used changes nothing: the users stay as they
//! were, and all that is wrong is reported. Before a change is written the file is read anew, so that what
//! another editor did meanwhile is kept and takes effect with it.

use crate::replace::{self, Stamp};
use crate::user::User;
use crate::users_edit::UsersText;
use crate::users_table::{UserChange, UserTable};
use arc_swap::ArcSwap;
use sluice_spi::config::Problem;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Largest users file read, in bytes: some 300,000 users. Beyond that a database is the right place for them.
pub const MAX_USERS_FILE: u64 = 64 << 20;

/// What a new file begins with.
const HEADING: &str = "\
# Users of this gateway. Changes made here take effect within seconds; those made by the API and by `sluice users`
# keep comments and everything else as it is. Passwords are Argon2id hashes, never clear text.
";

/// Why the users could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file, or what it would become, is not valid; the users stay as they were.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// There is such a user already.
    #[error("there is a user {0:?} already")]
    Exists(String),
    /// There is no such user.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// A user's name is what sessions and accounting know it by, and never changes.
    #[error("a user cannot be renamed")]
    Renamed,
    /// Another editor wrote the file at the same time; try again.
    #[error("{} was changed by another editor at the same time; nothing was written", .0.display())]
    Changed(PathBuf),
    /// The change has no place in the file as it is written, such as a user in a table of another form.
    #[error("{} is written in a form that cannot be changed here: use [[user]] tables", .0.display())]
    Form(PathBuf),
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// Takes each text that comes into effect, so that a later process can go on with it.
pub type Keep = Box<dyn Fn(&str) + Send + Sync>;

/// A users file and the users read from it.
pub struct UsersFile {
    path: PathBuf,
    protocols: Vec<&'static str>,
    table: ArcSwap<UserTable>,
    /// The state of the file that `table` was read from, held while it is read or written; `None`: the users are
    /// not from the file as it is.
    stamp: Mutex<Option<Stamp>>,
    keep: Keep,
}

impl UsersFile {
    /// Makes a file without users, mode 0600, that must not be there yet.
    pub fn create(path: &Path) -> Result<(), UsersError> {
        replace::create(path, HEADING).map_err(|source| UsersError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the file. `protocols` are the names that a user's `protocols` may have.
    pub fn open(path: &Path, protocols: Vec<&'static str>) -> Result<Self, UsersError> {
        Self::open_keeping(path, protocols, Box::new(|_| {}))
    }

    /// Reads the file, and hands its text and each that follows it to `keep`.
    pub fn open_keeping(path: &Path, protocols: Vec<&'static str>, keep: Keep) -> Result<Self, UsersError> {
        let fail = |source| UsersError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        // Where the file is a link, what it points to is what will be replaced.
        let path = std::fs::canonicalize(path).map_err(fail)?;
        let (text, stamp) = replace::read(&path, MAX_USERS_FILE).map_err(fail)?;
        let table =
            UserTable::read(&path.to_string_lossy(), &text, &protocols).map_err(UsersError::Invalid)?;
        keep(&text);
        Ok(Self {
            path,
            protocols,
            table: ArcSwap::from_pointee(table),
            stamp: Mutex::new(Some(stamp)),
            keep,
        })
    }

    /// Goes on with the users of an earlier process, from a text that it was given to keep. The file itself is
    /// stale: the next [`UsersFile::reload`] says what changed meanwhile, or what is wrong with it.
    pub fn resume(
        path: &Path,
        protocols: Vec<&'static str>,
        text: &str,
        keep: Keep,
    ) -> Result<Self, UsersError> {
        // A file that is away for the moment is looked for where it was.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let table =
            UserTable::read(&path.to_string_lossy(), text, &protocols).map_err(UsersError::Invalid)?;
        Ok(Self {
            path,
            protocols,
            table: ArcSwap::from_pointee(table),
            stamp: Mutex::new(None),
            keep,
        })
    }

    /// The file, with links followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The users as they are now. The snapshot does not change.
    pub fn table(&self) -> Arc<UserTable> {
        self.table.load_full()
    }

    /// A user as it is now, by its exact name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.table.load().get(name).cloned()
    }

    /// Whether others than the owner may read or write the file, which holds password hashes.
    pub fn is_exposed(&self) -> io::Result<bool> {
        let mode = std::fs::metadata(&self.path)?.permissions().mode();
        Ok(mode & 0o077 != 0)
    }

    /// Whether the file is another one than was read last.
    pub fn is_stale(&self) -> io::Result<bool> {
        Ok(Some(Stamp::at(&self.path)?) != *self.lock())
    }

    /// Reads the file again and gives what changed. Where it has problems the users stay as they are.
    pub fn reload(&self) -> Result<Vec<UserChange>, UsersError> {
        let mut stamp = self.lock();
        let (text, read) = self.read_text()?;
        let table = self.parse(&text)?;
        Ok(self.install(&mut stamp, table, read, &text))
    }

    /// Adds a user. The changes are this one, and those that others made to the file since it was last read.
    pub fn create_user(&self, user: &User) -> Result<Vec<UserChange>, UsersError> {
        self.write(|users, text| match users.get(user.name()) {
            Some(_) => Err(UsersError::Exists(user.name().to_owned())),
            None => Ok(text.add(user)),
        })
    }

    /// Changes a user.
    pub fn update_user(
        &self,
        name: &str,
        edit: impl FnOnce(&mut User),
    ) -> Result<Vec<UserChange>, UsersError> {
        self.write(|users, text| {
            let before = users
                .get(name)
                .ok_or_else(|| UsersError::Unknown(name.to_owned()))?;
            let mut after = User::clone(before);
            edit(&mut after);
            if after.name() != name {
                return Err(UsersError::Renamed);
            }
            Ok(text.change(before, &after))
        })
    }

    /// Deletes a user.
    pub fn delete_user(&self, name: &str) -> Result<Vec<UserChange>, UsersError> {
        self.write(|users, text| match users.get(name) {
            Some(_) => Ok(text.remove(name)),
            None => Err(UsersError::Unknown(name.to_owned())),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stamp>> {
        self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_text(&self) -> Result<(String, Stamp), UsersError> {
        replace::read(&self.path, MAX_USERS_FILE).map_err(|source| UsersError::Io {
            action: "read",
            path: self.path.clone(),
            source,
        })
    }

    fn parse(&self, text: &str) -> Result<UserTable, UsersError> {
        UserTable::read(&self.path.to_string_lossy(), text, &self.protocols).map_err(UsersError::Invalid)
    }

    fn install(
        &self,
        held: &mut Option<Stamp>,
        table: UserTable,
        stamp: Stamp,
        text: &str,
    ) -> Vec<UserChange> {
        let changes = self.table.load().changes_to(&table);
        self.table.store(Arc::new(table));
        *held = Some(stamp);
        (self.keep)(text);
        changes
    }

    /// Changes the file as it is *now*, checks what would come out, and only then writes and installs it. `edit`
    /// says whether it found its place in the text.
    fn write(
        &self,
        edit: impl FnOnce(&UserTable, &mut UsersText) -> Result<bool, UsersError>,
    ) -> Result<Vec<UserChange>, UsersError> {
        let mut held = self.lock();
        let (text, read) = self.read_text()?;
        let present = self.parse(&text)?;
        let mut document = UsersText::parse(&text).map_err(|_| UsersError::Form(self.path.clone()))?;
        if !edit(&present, &mut document)? {
            return Err(UsersError::Form(self.path.clone()));
        }
        let text = document.into_text();
        let table = self.parse(&text)?;
        let written = replace::replace(&self.path, &text, read).map_err(|source| UsersError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        let written = written.ok_or_else(|| UsersError::Changed(self.path.clone()))?;
        Ok(self.install(&mut held, table, written, &text))
    }
}

#[cfg(test)]
#[path = "users_file_tests.rs"]
mod tests;
