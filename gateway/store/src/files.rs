//! The file: making it, opening it, moving it out of the way.

use crate::database;
use crate::error::{Alarm, Failure, StoreError};
use redb::Database;
use rustix::fs::Advice;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the store's file in the state directory.
pub const FILE_NAME: &str = "sessions.redb";
/// Names tried for a file that is moved aside within one second.
const MAX_NAMES: u32 = 1000;

/// Opens the file, making it and its directory where they are missing, with every page checked. A damaged file or one
/// with a newer layout is moved aside, which is told even where no fresh one can take its place.
pub(crate) fn open(
    directory: &Path,
    path: &Path,
    tell: &mut dyn FnMut(Alarm),
) -> Result<Database, StoreError> {
    prepare(directory, path).map_err(|error| refused(directory, error))?;
    match database::open(path) {
        Ok(database) => return Ok(database),
        Err(Failure::Damaged(reason)) => {
            let moved_to = move_aside(directory, path, "corrupt", &reason)?;
            tell(Alarm::Corrupted { moved_to, reason });
        }
        Err(Failure::Newer(schema)) => {
            let reason = format!("layout {schema}");
            let moved_to = move_aside(directory, path, "newer", &reason)?;
            tell(Alarm::Newer { moved_to, schema });
        }
        Err(failure) => return Err(opening(path, failure)),
    }
    prepare(directory, path).map_err(|error| refused(directory, error))?;
    database::open(path).map_err(|failure| opening(path, failure))
}

/// Has the kernel write what it still can of the file, and forget the rest: after a failed write its memory may hold
/// pages that never got to the disk, and whoever checks the file is to see the disk.
pub(crate) fn forget_cached(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    file.sync_all()?;
    // A file system that knows no such advice has no other memory than its own.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Makes the directory and the file, readable by nobody else: they name users and peers.
fn prepare(directory: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.open(path).map(|_| ())
}

fn refused(path: &Path, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match Failure::is_full(&error) {
        true => StoreError::DiskFull { path, error },
        false => StoreError::NotWritable { path, error },
    }
}

pub(crate) fn opening(path: &Path, failure: Failure) -> StoreError {
    let path = path.to_owned();
    match failure {
        Failure::InUse => StoreError::InUse { path },
        Failure::Io(error) if Failure::is_full(&error) => StoreError::DiskFull { path, error },
        Failure::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            StoreError::NotWritable { path, error }
        }
        Failure::Io(error) => StoreError::Other {
            path,
            reason: error.to_string(),
        },
        Failure::Damaged(reason) | Failure::Other(reason) => StoreError::Other { path, reason },
        Failure::Newer(schema) => StoreError::Other {
            path,
            reason: format!("layout {schema}"),
        },
    }
}

/// Renames the file to a name that says why and when, without replacing one that is there.
fn move_aside(directory: &Path, path: &Path, why: &str, reason: &str) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs();
    let moved = (0..MAX_NAMES).find_map(|number| {
        let name = match number {
            0 => format!("{FILE_NAME}.{why}-{seconds}"),
            number => format!("{FILE_NAME}.{why}-{seconds}-{number}"),
        };
        let target = directory.join(name);
        // A second name for the file, made only where there is none; then the first one goes.
        match std::fs::hard_link(path, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => Some(Err(error)),
            Ok(()) => Some(std::fs::remove_file(path).map(|()| target)),
        }
    });
    let moved = moved.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
    let moved = moved.and_then(|target| File::open(directory)?.sync_all().map(|()| target));
    moved.map_err(|error| StoreError::NotMoved {
        path: path.to_owned(),
        reason: reason.to_owned(),
        error,
    })
}
