//! A store whose disk is full for a while: it recovers, whatever happens meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_core::{Journal, JournalError, Living, Record, Table};
use sluice_store::{Alarm, News, Store};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Tells the child process where to write, and how the disk gets full.
const DIRECTORY: &str = "SLUICE_STORE_RECOVERY";
const FULL_BY: &str = "SLUICE_STORE_FULL_BY";
/// Records of each generation that lives.
const LIVING: u64 = 2000;
/// Changes after which a full disk must have been noticed.
const NOTICED: u64 = 100_000;
const LONG: Duration = Duration::from_secs(60);

/// What lives.
#[derive(Default)]
struct Lives(Mutex<BTreeMap<(Table, Bytes), Bytes>>);

impl Living for Lives {
    fn records(&self, _: &dyn Fn() -> SystemTime, put: &mut dyn FnMut(Record) -> ControlFlow<()>) {
        for ((table, key), value) in self.0.lock().unwrap().clone() {
            if put(Record { table, key, value }).is_break() {
                return;
            }
        }
    }
}

/// Something lives, or another thing of its key.
fn put(lives: &Lives, store: &Store, number: u64, value: u64) -> Result<(), JournalError> {
    let table = Table::ALL[(number % 3) as usize];
    let key = Bytes::copy_from_slice(&number.to_be_bytes());
    let value = Bytes::from(value.to_be_bytes().repeat(20));
    let mut all = lives.0.lock().unwrap();
    all.insert((table, key.clone()), value.clone());
    store.put(table, key, value)
}

fn delete(lives: &Lives, store: &Store, number: u64) -> Result<(), JournalError> {
    let table = Table::ALL[(number % 3) as usize];
    let key = Bytes::copy_from_slice(&number.to_be_bytes());
    lives.0.lock().unwrap().remove(&(table, key.clone()));
    store.delete(table, key)
}

fn content(store: &Store) -> BTreeMap<(Table, Bytes), Bytes> {
    let records = store.load().unwrap().into_iter();
    records
        .map(|record| ((record.table, record.key), record.value))
        .collect()
}

/// Makes the disk full, and makes room again.
enum Fill {
    File(PathBuf),
    Limit(Rlimit),
}

impl Fill {
    fn new(directory: &Path) -> Self {
        if std::env::var(FULL_BY).unwrap() == "limit" {
            Self::Limit(getrlimit(Resource::Fsize))
        } else {
            Self::File(directory.join("filler"))
        }
    }

    fn fill(&self, store: &Store) {
        match self {
            Self::File(path) => {
                let mut file = File::create(path).unwrap();
                while file.write_all(&[1; 4096]).is_ok() {}
            }
            Self::Limit(limit) => {
                let size = std::fs::metadata(store.path()).unwrap().len();
                let current = Some(size);
                setrlimit(Resource::Fsize, Rlimit { current, ..*limit }).unwrap();
            }
        }
    }

    fn empty(&self) {
        match self {
            Self::File(path) => std::fs::remove_file(path).unwrap(),
            Self::Limit(limit) => setrlimit(Resource::Fsize, *limit).unwrap(),
        }
    }
}

fn open(directory: &Path) -> (Store, Arc<Lives>) {
    let store = Store::open(directory).unwrap();
    let lives = Arc::new(Lives::default());
    let living: Arc<dyn Living> = lives.clone();
    store.set_living(Arc::downgrade(&living));
    (store, lives)
}

fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY)
        .expect("run by the other drills only")
        .into()
}

/// Runs as a child process: the disk gets full, things go on, room is made.
#[test]
#[ignore = "the child process of the other drills"]
fn full_for_a_while() {
    let directory = directory();
    let (store, lives) = open(&directory);
    for number in 0..LIVING {
        put(&lives, &store, number, 0).unwrap();
    }
    store.flush().unwrap();
    let fill = Fill::new(&directory);
    for round in 1..=3 {
        fill.fill(&store);
        let failed = (0..NOTICED).find(|number| {
            let _ = put(&lives, &store, round * NOTICED + number, round);
            number % 50 == 0 && store.flush().is_err()
        });
        let failed = failed.expect("a disk that is never full");
        // Nobody stops coming and going while it is.
        for number in 0..LIVING / 2 {
            assert!(put(&lives, &store, number, round).is_err());
        }
        for number in 0..failed / 2 {
            assert!(delete(&lives, &store, round * NOTICED + number).is_err());
        }
        assert!(delete(&lives, &store, LIVING - round).is_err());
        let error = store.recover(LONG).unwrap_err();
        assert!(error.contains("free some space"), "{error}");
        assert!(matches!(store.alarms().as_slice(), [Alarm::ReadOnly { .. }]));
        fill.empty();
        assert_eq!(store.recover(LONG), Ok(()));
        assert_eq!(store.alarms(), []);
        let news = store.take_news();
        let [
            News::Alarm(Alarm::ReadOnly { .. }),
            News::Recovered { records, .. },
        ] = news.as_slice()
        else {
            panic!("{news:?}");
        };
        assert_eq!(*records, lives.0.lock().unwrap().len());
        assert_eq!(content(&store), *lives.0.lock().unwrap());
        put(&lives, &store, round, round).unwrap();
        store.flush().unwrap();
    }
    drop(store);
    let (store, _) = open(&directory);
    assert_eq!(content(&store), *lives.0.lock().unwrap());
    println!("\nrecovered");
}

/// Runs as a child process until it is killed: everything that lives is written anew again and again, each time with
/// another number.
#[test]
#[ignore = "the child process of the other drills"]
fn again_and_again() {
    let directory = directory();
    let (store, lives) = open(&directory);
    let fill = Fill::new(&directory);
    let first = content(&store).into_values().next();
    let first = first.map_or(0, |value| u64::from_be_bytes(*value.first_chunk().unwrap()));
    let mut out = std::io::stdout();
    for generation in first + 1.. {
        fill.fill(&store);
        let large = Bytes::from(vec![0; 4 << 20]);
        store
            .put(Table::Leases, Bytes::from_static(b"large"), large)
            .unwrap();
        assert!(store.flush().is_err());
        fill.empty();
        let mut all = lives.0.lock().unwrap();
        for number in 0..LIVING {
            let key = Bytes::copy_from_slice(&number.to_be_bytes());
            let value = Bytes::from(generation.to_be_bytes().repeat(20));
            all.insert((Table::ALL[(number % 3) as usize], key), value);
        }
        drop(all);
        assert_eq!(store.recover(LONG), Ok(()));
        writeln!(out, "\ngeneration: {generation}").unwrap();
    }
}

fn child(script: &str, test: &str, directory: &Path, full_by: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FULL_BY, full_by);
    command
}

/// The signal would end the process before it sees the error.
const LIMITED: &str = "trap '' XFSZ; exec \"$@\"";

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains("\nrecovered\n"), "{said}");
}

#[test]
fn a_store_recovers_from_a_limit_on_its_file() {
    let directory = tempfile::tempdir().unwrap();
    succeeds(child(LIMITED, "full_for_a_while", directory.path(), "limit"));
}

#[test]
fn a_store_recovers_from_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    // A small disk that only the child sees.
    let mount = format!("mount -t tmpfs -o size=12m tmpfs {}", directory.path().display());
    let able = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount])
        .status()
        .is_ok_and(|status| status.success());
    if !able {
        // Only root may mount: without it the limit on the file's size above is what is tested.
        println!("skipped: no file system can be mounted here");
        return;
    }
    let script = format!("exec unshare -m sh -c '{mount} && exec \"$@\"' sh \"$@\"");
    succeeds(child(&script, "full_for_a_while", directory.path(), "file"));
}

#[test]
fn a_store_that_is_killed_while_it_recovers_has_the_old_or_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..6u64 {
        let mut command = child(LIMITED, "again_and_again", directory.path(), "limit");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let generation = |line: String| line.strip_prefix("generation: ")?.parse::<u64>().ok();
        let mut generations = lines.map_while(Result::ok).filter_map(generation);
        last = generations.by_ref().nth(2).expect("a child that goes on");
        // Somewhere in the next round.
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        last = generations.last().unwrap_or(last);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.alarms(), []);
        let content = content(&store);
        assert_eq!(content.len() as u64, LIVING);
        let first = content.values().next().unwrap();
        assert!(content.values().all(|value| value == first), "a mix");
        let found = u64::from_be_bytes(*first.first_chunk().unwrap());
        assert!(found == last || found == last + 1, "{found} after {last}");
    }
    assert!(last >= 18);
}
