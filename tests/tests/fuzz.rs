//! Every fuzz target over seeded inputs: a short run of what `cargo fuzz` does for hours.
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_testkit::mutate;
use sluice_tests::fuzz::{TARGETS, Target};
use std::collections::BTreeSet;

/// Seeded mutations for each seed, on top of the systematic ones.
const MUTATIONS: usize = 200;

fn run(target: &Target, input: &[u8]) {
    let caught = std::panic::catch_unwind(|| (target.run)(input));
    assert!(
        caught.is_ok(),
        "{} fails on {}",
        target.name,
        sluice_testkit::vectors::to_hex(input)
    );
}

#[test]
fn no_target_fails_on_damaged_seeds() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            run(target, seed);
            for input in mutate::all(seed, number as u64, MUTATIONS) {
                run(target, &input);
            }
        }
    }
}

#[test]
fn no_target_fails_on_noise() {
    let mut random = sluice_testkit::Seeded::new(5);
    for target in TARGETS {
        for _ in 0..1000 {
            let length = random.below(200);
            run(target, &random.bytes(length));
        }
    }
}

#[test]
fn every_target_has_its_file_and_every_file_its_target() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(files, targets);
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
    for name in &targets {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is missing in the manifest"
        );
    }
}
