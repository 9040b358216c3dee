//! Writing the small files of the state directory.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Only the gateway's own user may read what is kept here.
const MODE: u32 = 0o600;

/// Puts `bytes` in place of a file so that a crash leaves the old or the new content, never a mixture.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Opens a file to append to it, and makes it where it is not there.
pub(crate) fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
