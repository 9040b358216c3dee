//! The readers of the wire format against damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use proptest::prelude::*;
use sluice_socks::wire::{self, v4};
use sluice_testkit::mutate;
use std::fmt::Debug;

/// A reader takes what there is and says the same of it however much follows: nothing, then one answer for ever.
/// `read` gives an answer in words, or `None` while there is none.
fn is_steady(bytes: &[u8], read: impl Fn(&[u8]) -> Option<String>) {
    let mut answer: Option<String> = None;
    for length in 0..=bytes.len() {
        let read = read(&bytes[..length]);
        if answer.is_some() {
            assert_eq!(answer, read, "{bytes:?} after {length}");
        }
        answer = read;
    }
}

/// The answer of a reader that may refuse.
fn words<T: Debug, E: Debug>(read: Result<Option<T>, E>) -> Option<String> {
    read.map_or_else(
        |error| Some(format!("{error:?}")),
        |read| read.map(|read| format!("{read:?}")),
    )
}

fn all_are_steady(bytes: &[u8]) {
    is_steady(bytes, |bytes| {
        wire::greeting(bytes).map(|read| format!("{read:?}"))
    });
    is_steady(bytes, |bytes| words(wire::login(bytes)));
    is_steady(bytes, |bytes| words(wire::request(bytes)));
    is_steady(bytes, |bytes| words(v4::request(bytes)));
}

#[test]
fn what_was_read_stays_as_it_was_read() {
    for vector in corpus() {
        all_are_steady(&vector);
        for damaged in mutate::seeded(&vector, 5, 100) {
            all_are_steady(&damaged);
        }
    }
}

#[test]
fn what_is_read_lies_within_what_is_there() {
    for vector in corpus() {
        for damaged in mutate::all(&vector, 7, 300) {
            let lengths = [
                wire::greeting(&damaged).map(|(_, length)| length),
                wire::login(&damaged).ok().flatten().map(|(_, length)| length),
                wire::request(&damaged).ok().flatten().map(|(_, length)| length),
                v4::request(&damaged).ok().flatten().map(|(_, length)| length),
            ];
            assert!(
                lengths
                    .into_iter()
                    .flatten()
                    .all(|length| length <= damaged.len())
            );
        }
    }
}

proptest! {
    #[test]
    fn noise_is_read_steadily(bytes in proptest::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..60)) {
        all_are_steady(&bytes);
    }

    #[test]
    fn names_and_passwords_are_read_as_written(name in any::<Vec<u8>>(), password in any::<Vec<u8>>()) {
        prop_assume!(name.len() < 256 && password.len() < 256);
        let bytes = login(&name, &password);
        let (read, length) = wire::login(&bytes).unwrap().unwrap();
        prop_assert_eq!((read.name, read.password, length), (&name[..], &password[..], bytes.len()));
    }
}
