//! What the keeper holds for the worker.

use crate::MAX_PER_MESSAGE;
use crate::wire::{Kind, Refusal, ToWorker};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A message to the worker with the descriptors that go with it.
pub(crate) struct Outgoing {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<Rc<OwnedFd>>,
}

impl Outgoing {
    pub(crate) fn plain(message: &ToWorker) -> Self {
        Self {
            bytes: message.encode(),
            descriptors: Vec::new(),
        }
    }
}

/// Descriptors and memories by name. A name holds what was stored under it last.
pub(crate) struct Held {
    names: BTreeMap<String, (Kind, Vec<Rc<OwnedFd>>)>,
    count: usize,
    limit: usize,
}

impl Held {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            count: 0,
            limit,
        }
    }

    /// Descriptors held.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Puts descriptors under a name in place of what it held. On refusal the name keeps what it held.
    pub(crate) fn store(&mut self, kind: Kind, name: String, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let before = self.names.get(&name).map_or(0, |(_, fds)| fds.len());
        let count = self.count - before + fds.len();
        if count > self.limit {
            return Err(Refusal::Full);
        }
        self.count = count;
        self.names
            .insert(name, (kind, fds.into_iter().map(Rc::new).collect()));
        Ok(())
    }

    /// Lets a name and its descriptors go. A name not held is no error: the outcome is the same.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some((_, fds)) = self.names.remove(name) {
            self.count -= fds.len();
        }
    }

    /// The messages that hand everything to a new worker, each within the kernel's limit of descriptors.
    pub(crate) fn handover(&self) -> Vec<Outgoing> {
        let mut messages = Vec::new();
        let (mut batch, mut fds) = (Vec::new(), Vec::new());
        for (name, (kind, held)) in &self.names {
            if fds.len() + held.len() > MAX_PER_MESSAGE {
                messages.push(batched(&mut batch, &mut fds));
            }
            batch.push((*kind, name.clone(), held.len()));
            fds.extend(held.iter().cloned());
        }
        if !batch.is_empty() {
            messages.push(batched(&mut batch, &mut fds));
        }
        messages.push(Outgoing::plain(&ToWorker::HeldEnd));
        messages
    }
}

fn batched(batch: &mut Vec<(Kind, String, usize)>, fds: &mut Vec<Rc<OwnedFd>>) -> Outgoing {
    Outgoing {
        bytes: ToWorker::Held(std::mem::take(batch)).encode(),
        descriptors: std::mem::take(fds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn fds(n: usize) -> Vec<OwnedFd> {
        (0..n).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn the_limit_counts_what_is_replaced_and_removed() {
        let mut held = Held::new(3);
        held.store(Kind::Descriptors, "a".into(), fds(2)).unwrap();
        assert_eq!(
            held.store(Kind::Descriptors, "b".into(), fds(2)),
            Err(Refusal::Full)
        );
        held.store(Kind::Descriptors, "a".into(), fds(1)).unwrap();
        held.store(Kind::Descriptors, "b".into(), fds(2)).unwrap();
        assert_eq!(
            held.store(Kind::Descriptors, "a".into(), fds(2)),
            Err(Refusal::Full)
        );
        assert_eq!(held.count(), 3);
        held.remove("b");
        held.remove("b");
        assert_eq!(held.count(), 1);
    }

    #[test]
    fn a_handover_keeps_each_message_within_the_kernel_limit() {
        let mut held = Held::new(1000);
        for (name, n) in [("a", 200), ("b", 53), ("c", 1), ("d", 253)] {
            held.store(Kind::Descriptors, name.into(), fds(n)).unwrap();
        }
        let sizes: Vec<usize> = held.handover().iter().map(|m| m.descriptors.len()).collect();
        assert_eq!(sizes, [253, 1, 253, 0]);
    }
}
