//! Descriptors that an earlier worker left with the keeper.

use sluice_keeper::Link;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What was handed over and is not taken yet.
pub(super) struct Held(BTreeMap<String, Vec<OwnedFd>>);

impl Held {
    pub(super) fn new(descriptors: Vec<(String, OwnedFd)>) -> Self {
        let mut names: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, descriptor) in descriptors {
            names.entry(name).or_default().push(descriptor);
        }
        Self(names)
    }

    /// Takes what is held under a name; empty: nothing is.
    pub(super) fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.0.remove(name).unwrap_or_default()
    }

    /// Takes what is held under all names that begin so.
    pub(super) fn take_all(&mut self, beginning: &str) -> Vec<(String, Vec<OwnedFd>)> {
        let all = self.0.extract_if(.., |name, _| name.starts_with(beginning));
        all.collect()
    }

    /// Has the keeper let go of what nobody took: the configuration names it no more.
    pub(super) fn release(self, link: &Link) {
        for name in self.0.into_keys() {
            forget(link, &name);
        }
    }
}

/// Has the keeper let go of a name.
pub(super) fn forget(link: &Link, name: &str) {
    if let Err(error) = link.remove(name) {
        tracing::warn!("the keeper does not let go of {name}: {error}");
    }
}

/// Has the keeper hold descriptors, so that they outlive this worker. Where it does not, a restart opens them
/// anew, which sessions feel.
pub(super) fn store(link: &Link, name: &str, descriptors: &[BorrowedFd<'_>]) {
    if let Err(error) = link.store(name, descriptors) {
        tracing::warn!("the keeper does not hold {name}, so a restart interrupts it: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn gives_all_of_a_name_once() {
        let fd = || std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let mut held = Held::new(vec![
            ("tun".to_owned(), fd()),
            ("admin".to_owned(), fd()),
            ("tun".to_owned(), fd()),
            ("batch:1".to_owned(), fd()),
            ("batch:2".to_owned(), fd()),
        ]);
        let batches = held.take_all("batch:");
        assert_eq!(batches.len(), 2);
        assert_eq!((&*batches[1].0, batches[1].1.len()), ("batch:2", 1));
        assert_eq!(held.take("tun").len(), 2);
        assert!(held.take("tun").is_empty());
        assert_eq!(held.0.len(), 1);
    }
}
