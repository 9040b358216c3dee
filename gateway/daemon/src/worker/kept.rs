//! Texts that outlive a worker: the last configuration and the last users file that were read without a problem.
//!
//! A worker that takes over from another must not fail because somebody is in the middle of editing a file: it goes
//! on with the text that the worker before had read. The keeper holds that text.

use super::CannotStart;
use sluice_keeper::Link;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A text is kept as its length in eight octets, then the text.
const LENGTH: u64 = 8;

/// Memory of the keeper with one text in it.
#[derive(Debug)]
pub(super) struct KeptText {
    memory: File,
    /// Longest text, in bytes.
    most: u64,
}

impl KeptText {
    /// The memory of this name with the keeper. `most` is always the same for a name.
    pub(super) fn open(link: &Link, name: &str, most: u64) -> Result<Self, CannotStart> {
        let memory = link.memory(name, LENGTH + most).map_err(CannotStart::because)?;
        Ok(Self { memory, most })
    }

    /// Puts another text in place of the one that is kept.
    pub(super) fn keep(&self, text: &str) -> io::Result<()> {
        // The length is zero while the text is written: one cut short is none.
        self.memory.write_all_at(&0u64.to_le_bytes(), 0)?;
        let length = u64::try_from(text.len()).map_err(io::Error::other)?;
        if length > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.memory.write_all_at(text.as_bytes(), LENGTH)?;
        self.memory.write_all_at(&length.to_le_bytes(), 0)
    }

    /// The text that is kept, if any.
    pub(super) fn recall(&self) -> Option<String> {
        let mut length = [0; LENGTH as usize];
        self.memory.read_exact_at(&mut length, 0).ok()?;
        let length = u64::from_le_bytes(length);
        if !(1..=self.most).contains(&length) {
            return None;
        }
        let mut text = vec![0; usize::try_from(length).ok()?];
        self.memory.read_exact_at(&mut text, LENGTH).ok()?;
        String::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_what_was_cut_short_does_not() {
        let most = 64;
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(LENGTH + most).unwrap();
        let kept = KeptText { memory, most };
        assert_eq!(kept.recall(), None);
        kept.keep("[gateway]\nname = \"a\"\n").unwrap();
        kept.keep("[gateway]\n").unwrap();
        assert_eq!(kept.recall().as_deref(), Some("[gateway]\n"));
        kept.memory.write_all_at(&(most + 1).to_le_bytes(), 0).unwrap();
        assert_eq!(kept.recall(), None);
        kept.keep(&"x".repeat(65)).unwrap_err();
        assert_eq!(kept.recall(), None);
    }
}
