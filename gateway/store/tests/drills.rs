//! Faults on purpose: a killed writer, a full disk, a damaged file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use sluice_core::{Journal, JournalError, Record, Table};
use sluice_store::{Alarm, FILE_NAME, Store, StoreError};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells the child process where to write.
const DIRECTORY: &str = "SLUICE_STORE_DRILL";
/// Records put between two barriers.
const GROUP: u64 = 40;
/// Keys that are written again and again.
const KEYS: u64 = 20_000;
/// Where the child gives up to fill the disk, at some 10 MB.
const LAST: u64 = 40_000;

fn record(number: u64) -> Record {
    Record {
        table: Table::ALL[(number % 3) as usize],
        key: Bytes::copy_from_slice(&(number % KEYS).to_be_bytes()),
        value: Bytes::from(
            number
                .to_be_bytes()
                .repeat(8 + usize::try_from(number % 64).unwrap()),
        ),
    }
}

fn put(store: &Store, number: u64) -> Result<(), JournalError> {
    let record = record(number);
    store.put(record.table, record.key, record.value)
}

/// What must be there once everything up to a number is durable.
fn expected(upto: u64) -> BTreeMap<(Table, Bytes), u64> {
    (0..=upto)
        .map(|number| {
            let record = record(number);
            ((record.table, record.key), number)
        })
        .collect()
}

/// Every record that was acknowledged is there, or a later one of its key; and each is one that was written.
fn check(store: &Store, acknowledged: u64) {
    let records = store.load().unwrap();
    let mut found = BTreeMap::new();
    for found_record in records {
        let number = u64::from_be_bytes(*found_record.value.first_chunk().unwrap());
        assert_eq!(found_record, record(number), "a record nobody wrote");
        found.insert((found_record.table, found_record.key), number);
    }
    for (key, number) in expected(acknowledged) {
        let there = found.get(&key).copied();
        assert!(there >= Some(number), "{key:?}: {there:?} instead of {number}");
    }
}

/// Runs as a child process: writes until it cannot, and says on its standard output what is durable.
#[test]
#[ignore = "the child process of the other drills"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("run by the other drills only");
    let store = match Store::open(Path::new(&directory)) {
        Ok(store) => store,
        Err(error) => {
            println!("\nfailed to open: {error}");
            return;
        }
    };
    let mut out = std::io::stdout();
    let records = store.load().unwrap();
    let numbers = records
        .iter()
        .map(|record| u64::from_be_bytes(*record.value.first_chunk().unwrap()));
    let first = numbers.max().map_or(0, |last| last + 1);
    for number in first..=LAST {
        if let Err(error) = put(&store, number) {
            assert!(matches!(error, JournalError::ReadOnly(_)), "{error}");
        }
        if number % GROUP != 0 {
            continue;
        }
        match store.flush() {
            Ok(()) => writeln!(out, "\ndurable: {number}").unwrap(),
            Err(error) => {
                writeln!(out, "\nfailed: {error}").unwrap();
                writeln!(out, "alarm: {:?}", store.alarms()).unwrap();
                return;
            }
        }
    }
    writeln!(out, "\nall written").unwrap();
}

/// The command that runs `child` on a directory, by way of a shell script that may set limits and ends in `"$@"`.
fn child_command(script: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped());
    command
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let out = child.stdout.take().unwrap();
    BufReader::new(out).lines().map_while(Result::ok)
}

fn durable(line: &str) -> Option<u64> {
    line.strip_prefix("durable: ")?.parse().ok()
}

#[test]
fn a_killed_writer_loses_nothing_that_was_durable() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut child = child_command("exec \"$@\"", directory.path()).spawn().unwrap();
        let mut lines = lines(&mut child);
        let mut left = 3 + 5 * round;
        for line in lines.by_ref() {
            if let Some(number) = durable(&line) {
                assert!(number > acknowledged || number == 0);
                acknowledged = number;
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "the child ended by itself");
        // SIGKILL, while it writes.
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            acknowledged = durable(&line).unwrap_or(acknowledged);
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.alarms(), []);
        check(&store, acknowledged);
    }
    assert!(acknowledged > 6 * GROUP);
}

/// What the child said when there was no more room: the last durable number, and all lines.
fn until_full(mut command: Command) -> (u64, String) {
    let mut child = command.spawn().unwrap();
    let (mut acknowledged, mut said) = (0, String::new());
    for line in lines(&mut child) {
        acknowledged = durable(&line).unwrap_or(acknowledged);
        said.push_str(&line);
        said.push('\n');
    }
    assert!(child.wait().unwrap().success(), "{said}");
    (acknowledged, said)
}

#[test]
fn a_limit_on_the_file_makes_the_store_read_only_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // The unit is 512 or 1024 octets; the signal would end the process before it sees the error.
    let script = "trap '' XFSZ; ulimit -f 3000 && exec \"$@\"";
    let (acknowledged, said) = until_full(child_command(script, directory.path()));
    assert!(acknowledged > 0, "{said}");
    assert!(said.contains("failed: the store is read-only"), "{said}");
    assert!(said.contains("free some space"), "{said}");
    assert!(said.contains("ReadOnly"), "{said}");
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.alarms(), []);
    check(&store, acknowledged);
    put(&store, acknowledged + 1).unwrap();
    store.flush().unwrap();
}

#[test]
fn a_file_that_may_not_grow_at_all_cannot_be_opened_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 1 && exec \"$@\"";
    let (_, said) = until_full(child_command(script, directory.path()));
    assert!(
        said.contains("failed to open: no room for the session store"),
        "{said}"
    );
}

#[test]
fn a_full_disk_makes_the_store_read_only_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    // A small disk that only the child sees; what is on it is copied out at the end.
    let mount = format!("mount -t tmpfs -o size=3m tmpfs {}", directory.path().display());
    let able = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .status()
        .is_ok_and(|status| status.success());
    if !able {
        // Only root may mount: without it the limit on the file's size above is what is tested.
        println!("skipped: no file system can be mounted here");
        return;
    }
    let script = format!(
        "exec unshare -m sh -c '{mount} && \"$@\" && cp {}/{FILE_NAME} {}' sh \"$@\"",
        directory.path().display(),
        kept.path().display()
    );
    let (acknowledged, said) = until_full(child_command(&script, directory.path()));
    assert!(acknowledged > 0, "{said}");
    assert!(said.contains("free some space"), "{said}");
    let store = Store::open(kept.path()).unwrap();
    assert_eq!(store.alarms(), []);
    check(&store, acknowledged);
}

#[test]
fn a_directory_that_is_read_only_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let mount = format!(
        "mount -t tmpfs -o ro,size=3m tmpfs {}",
        directory.path().display()
    );
    let able = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .status()
        .is_ok_and(|status| status.success());
    if !able {
        println!("skipped: no file system can be mounted here");
        return;
    }
    let script = format!("exec unshare -m sh -c '{mount} && exec \"$@\"' sh \"$@\"");
    let (_, said) = until_full(child_command(&script, directory.path()));
    assert!(said.contains("is not writable"), "{said}");
}

/// Where the next change of a seeded sequence is.
fn spread(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11
}

#[test]
fn a_damaged_file_gives_what_was_written_or_is_moved_aside_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for number in 0..800 {
        put(&store, number).unwrap();
    }
    store.flush().unwrap();
    drop(store);
    let original = std::fs::read(directory.path().join(FILE_NAME)).unwrap();
    // Pages in use are many, but the file is mostly room to grow: half of the changes go to its beginning.
    let used = original.iter().rposition(|&octet| octet != 0).unwrap() as u64;
    let (mut moved, mut good) = (0, 0);
    for seed in 0..120u64 {
        let mut damaged = original.clone();
        let at = match seed % 3 {
            0 => spread(seed) % 512,
            _ => spread(seed) % used,
        };
        damaged[at as usize] ^= 1 << (seed % 8);
        if seed % 10 == 9 {
            damaged.truncate(at as usize);
        }
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(FILE_NAME), &damaged).unwrap();
        let store = Store::open(place.path()).unwrap();
        match store.alarms().as_slice() {
            [] => {
                for found in store.load().unwrap() {
                    let number = u64::from_be_bytes(*found.value.first_chunk().unwrap());
                    assert_eq!(found, record(number), "seed {seed}");
                }
                good += 1;
            }
            [Alarm::Corrupted { moved_to, .. }] => {
                assert_eq!(std::fs::metadata(moved_to).unwrap().len(), damaged.len() as u64);
                assert_eq!(store.load().unwrap(), []);
                moved += 1;
            }
            alarms => panic!("seed {seed}: {alarms:?}"),
        }
        put(&store, 1).unwrap();
        store.flush().unwrap();
    }
    assert!(moved >= 20, "{moved} moved aside, {good} were still good");
}

#[test]
fn an_unusable_state_directory_is_one_line() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("x"), "").unwrap();
    let error = Store::open(&place.path().join("x/state")).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }));
    assert_eq!(error.to_string().lines().count(), 1);
}
