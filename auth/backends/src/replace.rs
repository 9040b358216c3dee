//! Reading a small file whole, and replacing it so that there is never a moment without a whole file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Mode of the file written: it holds password hashes.
const MODE: u32 = 0o600;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The present state of the file at `path`.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata))
    }
}

/// Reads a regular file of at most `limit` bytes of UTF-8. The stamp is the one it had before it was read, so
/// that a change meanwhile is seen later.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<(String, Stamp)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    let length = file.take(limit + 1).read_to_string(&mut text)?;
    if length as u64 > limit {
        let message = format!("larger than {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok((text, Stamp::of(&metadata)))
}

/// A new file beside the one it is to replace; removed again where that does not happen.
struct Temporary {
    path: PathBuf,
    placed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing better can be done about a file that cannot be removed than to leave it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn create_beside(path: &Path) -> io::Result<(Temporary, File)> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let path = path.with_file_name(format!(".{name}.{:016x}", u64::from_le_bytes(random)));
    // Created anew or not at all: nobody's prepared file or link is followed.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&path)?;
    Ok((Temporary { path, placed: false }, file))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes a file that must not be there yet.
pub(crate) fn create(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link, unlike a rename, fails where the name is taken. The temporary name goes away with its guard.
    std::fs::hard_link(&temporary.path, path)?;
    drop(temporary);
    sync_directory(path)
}

/// Replaces the file at `path`, if it is still the one with this stamp, and gives the new stamp; `None`: it is
/// another one by now, and nothing was written. The owner stays, the mode becomes 0600. `path` must not be a
/// symbolic link, or the link would be replaced.
pub(crate) fn replace(path: &Path, text: &str, expected: Stamp) -> io::Result<Option<Stamp>> {
    let (mut temporary, mut file) = create_beside(path)?;
    file.write_all(text.as_bytes())?;
    let former = std::fs::metadata(path)?;
    let ours = file.metadata()?;
    if (former.uid(), former.gid()) != (ours.uid(), ours.gid()) {
        fchown(&file, Some(former.uid()), Some(former.gid()))?;
    }
    file.sync_all()?;
    if Stamp::of(&std::fs::metadata(path)?) != expected {
        return Ok(None);
    }
    std::fs::rename(&temporary.path, path)?;
    temporary.placed = true;
    sync_directory(path)?;
    Stamp::at(path).map(Some)
}
