//! The configuration a worker starts with, and the one it falls back to.
//!
//! A worker that takes over from another must not fail because somebody is in the middle of editing the file: it
//! goes on with the text that the worker before had read without a problem. The keeper holds that text.

use super::CannotStart;
use crate::config::{Config, LoadError, MAX_FILE};
use sluice_keeper::{Link, StartReason};
use sluice_registry::MODULES;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The name of the text with the keeper: its length in eight octets, then the text.
const MEMORY: &str = "configuration";
const LENGTH: u64 = 8;

/// Reads the configuration; what is to be logged about it comes with it. The first worker does not start with a
/// wrong one.
pub(super) fn load(
    path: Option<&Path>,
    link: &Link,
    reason: &StartReason,
) -> Result<(Config, Option<String>), CannotStart> {
    let Some(path) = path else {
        let config = Config::load(None, MODULES).map_err(CannotStart::configuration)?;
        return Ok((config, None));
    };
    let memory = link.memory(MEMORY, LENGTH + MAX_FILE);
    match read(path) {
        Ok((config, text)) => {
            let kept = memory
                .map_err(io::Error::other)
                .and_then(|memory| keep(&memory, &text));
            let complaint = kept
                .err()
                .map(|error| format!("the configuration cannot be kept for the next worker: {error}"));
            Ok((config, complaint))
        }
        Err(error) => {
            let former = match (reason, memory) {
                (StartReason::First, _) | (_, Err(_)) => None,
                (_, Ok(memory)) => recall(&memory),
            };
            let file = path.display().to_string();
            let config = former.and_then(|text| Config::parse(&file, &text, MODULES).ok());
            let config = config.ok_or_else(|| CannotStart::configuration(&error))?;
            let complaint = format!(
                "the configuration that was in use before stays in use, because the file has problems: {error}"
            );
            Ok((config, Some(complaint)))
        }
    }
}

fn read(path: &Path) -> Result<(Config, String), LoadError> {
    let text = Config::read(path)?;
    let config = Config::parse(&path.display().to_string(), &text, MODULES)?;
    Ok((config, text))
}

fn keep(memory: &File, text: &str) -> io::Result<()> {
    // The length is zero while the text is written: one cut short is none.
    memory.write_all_at(&0u64.to_le_bytes(), 0)?;
    memory.write_all_at(text.as_bytes(), LENGTH)?;
    let length = u64::try_from(text.len()).map_err(io::Error::other)?;
    memory.write_all_at(&length.to_le_bytes(), 0)
}

fn recall(memory: &File) -> Option<String> {
    let mut length = [0; LENGTH as usize];
    memory.read_exact_at(&mut length, 0).ok()?;
    let length = u64::from_le_bytes(length);
    if !(1..=MAX_FILE).contains(&length) {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    memory.read_exact_at(&mut text, LENGTH).ok()?;
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_what_was_cut_short_does_not() {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(LENGTH + MAX_FILE).unwrap();
        assert_eq!(recall(&memory), None);
        keep(&memory, "[gateway]\nname = \"a\"\n").unwrap();
        keep(&memory, "[gateway]\n").unwrap();
        assert_eq!(recall(&memory).as_deref(), Some("[gateway]\n"));
        memory.write_all_at(&(MAX_FILE + 1).to_le_bytes(), 0).unwrap();
        assert_eq!(recall(&memory), None);
    }
}
