use super::*;
use redb::Database;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::SystemTime;

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn put(store: &Store, name: &str) {
    store.put(Table::Tunnels, key(name), key("value")).unwrap();
}

#[test]
fn a_newer_layout_is_moved_aside_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a");
    store.flush().unwrap();
    let newer = |database: &Database| {
        database::set_schema(database, database::SCHEMA + 1);
        Ok(())
    };
    store.shared.with_database(newer).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.load(), Ok(Vec::new()));
    let alarms = store.alarms();
    let [Alarm::Newer { moved_to, schema }] = alarms.as_slice() else {
        panic!("{alarms:?}");
    };
    assert_eq!(*schema, database::SCHEMA + 1);
    drop(store);
    // Its records are all there for the version that wrote it.
    let moved = Database::open(moved_to).unwrap();
    assert_eq!(database::read_all(&moved).unwrap().len(), 1);
}

#[test]
fn a_table_that_an_older_version_did_not_have_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a");
    store.flush().unwrap();
    let older = |database: &Database| {
        database::drop_table(database, Table::Quotas);
        Ok(())
    };
    store.shared.with_database(older).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    store.put(Table::Quotas, key("b"), key("value")).unwrap();
    store.flush().unwrap();
    let tables: Vec<Table> = store.load().unwrap().iter().map(|record| record.table).collect();
    assert_eq!(tables, [Table::Tunnels, Table::Quotas]);
}

#[test]
fn a_store_in_use_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Store::open(directory.path()).unwrap();
    let second = Store::open(directory.path()).unwrap_err();
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("another gateway runs"));
}

#[test]
fn a_directory_that_is_none_is_said_to_be_not_writable() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = Store::open(&file.join("state")).unwrap_err();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn the_directory_and_the_file_are_for_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("a/b");
    let store = Store::open(&state).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(store.path()), 0o600);
}

#[test]
fn files_that_are_no_store_are_moved_aside_each_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    let mut names = Vec::new();
    for content in [&b"not a store"[..], &[0xa5; 20_000], b"x"] {
        std::fs::write(&path, content).unwrap();
        let store = Store::open(directory.path()).unwrap();
        let alarms = store.alarms();
        let [Alarm::Corrupted { moved_to, .. }] = alarms.as_slice() else {
            panic!("{alarms:?}");
        };
        assert_eq!(std::fs::read(moved_to).unwrap(), content);
        names.push(moved_to.clone());
        put(&store, "a");
        store.flush().unwrap();
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3);
}

#[test]
fn many_changes_are_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    {
        // The writer cannot look while we have the queue.
        let mut queue = lock(&store.shared.queue);
        for number in 0..1000 {
            let name = number.to_string();
            queue
                .push(Table::Counters, key(&name), Change::Put(key("v")))
                .unwrap();
        }
    }
    store.shared.work.notify_one();
    store.flush().unwrap();
    let stats = store.stats();
    assert_eq!((stats.commits, stats.changes, stats.queued), (1, 1000, 0));
    assert_eq!(store.take_commit_durations().len(), 1);
    assert_eq!(store.take_commit_durations().len(), 0);
    assert!(stats.longest_commit >= stats.last_commit && !stats.last_commit.is_zero());
}

#[test]
fn a_change_does_not_wait_for_a_flush_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "a");
    let queue = lock(&store.shared.queue);
    let number = queue.accepted();
    let (queue, waited) = store
        .shared
        .done
        .wait_timeout_while(queue, Duration::from_secs(20), |queue| !queue.is_durable(number))
        .unwrap();
    assert!(!waited.timed_out());
    drop(queue);
    assert_eq!(store.load().unwrap().len(), 1);
}

/// What lives, as a test says.
#[derive(Default)]
struct Lives {
    records: Mutex<Vec<Record>>,
    /// Panics after so many records.
    breaks_after: Mutex<Option<usize>>,
    /// Called once, amid giving records.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Lives {
    fn set(&self, names: &[&str]) {
        let record = |name: &&str| Record {
            table: Table::Tunnels,
            key: key(name),
            value: key("anew"),
        };
        *lock(&self.records) = names.iter().map(record).collect();
    }
}

impl Living for Lives {
    fn records(&self, _: &dyn Fn() -> SystemTime, put: &mut dyn FnMut(Record) -> ControlFlow<()>) {
        let breaks_after = *lock(&self.breaks_after);
        for (number, record) in lock(&self.records).iter().enumerate() {
            assert_ne!(breaks_after, Some(number), "broken on purpose");
            assert!(put(record.clone()).is_continue());
        }
        let meanwhile = lock(&self.meanwhile).take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }
}

fn living_store(directory: &Path) -> (Arc<Store>, Arc<Lives>) {
    let store = Arc::new(Store::open(directory).unwrap());
    let lives = Arc::new(Lives::default());
    let living: Arc<dyn Living> = lives.clone();
    store.set_living(Arc::downgrade(&living));
    (store, lives)
}

/// Makes the next commit fail: the database is gone, and the writer does not know.
fn break_next_commit(store: &Store) {
    store.shared.close();
    put(store, "lost");
    assert!(matches!(store.flush(), Err(JournalError::ReadOnly(_))));
}

fn names(store: &Store) -> Vec<String> {
    let records = store.load().unwrap().into_iter();
    let name = |record: Record| String::from_utf8_lossy(&record.key).into_owned();
    records.map(name).collect()
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_store_that_failed_takes_nothing_until_it_has_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    put(&store, "ended");
    put(&store, "goes on");
    store.flush().unwrap();
    break_next_commit(&store);
    let refused = store.put(Table::Tunnels, key("a"), key("b"));
    assert!(matches!(refused, Err(JournalError::ReadOnly(_))), "{refused:?}");
    assert!(matches!(store.alarms().as_slice(), [Alarm::ReadOnly { .. }]));
    assert!(matches!(
        store.take_news().as_slice(),
        [News::Alarm(Alarm::ReadOnly { .. })]
    ));
    assert!(store.stats().read_only);

    lives.set(&["goes on", "new"]);
    assert_eq!(store.recover(LONG), Ok(()));
    // What lives is there, what does not is gone, and what failed was not tried again.
    assert_eq!(names(&store), ["goes on", "new"]);
    assert_eq!(store.alarms(), []);
    let news = store.take_news();
    assert!(
        matches!(news.as_slice(), [News::Recovered { records: 2, .. }]),
        "{news:?}"
    );
    let stats = store.stats();
    assert_eq!((stats.read_only, stats.failures, stats.recoveries), (false, 1, 1));
    put(&store, "more");
    store.flush().unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(names(&store), ["goes on", "more", "new"]);
}

#[test]
fn a_store_recovers_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    lives.set(&["a"]);
    break_next_commit(&store);
    let queue = lock(&store.shared.queue);
    let waiting = store
        .shared
        .done
        .wait_timeout_while(queue, LONG, |queue| queue.failed().is_some());
    assert!(!waiting.unwrap().1.timed_out());
    assert_eq!(names(&store), ["a"]);
}

#[test]
fn changes_made_while_what_lives_is_written_go_on_top_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    lives.set(&["ends meanwhile", "stays"]);
    let at_work = store.clone();
    *lock(&lives.meanwhile) = Some(Box::new(move || {
        at_work.delete(Table::Tunnels, key("ends meanwhile")).unwrap();
        put(&at_work, "begins meanwhile");
    }));
    break_next_commit(&store);
    assert_eq!(store.recover(LONG), Ok(()));
    store.flush().unwrap();
    assert_eq!(names(&store), ["begins meanwhile", "stays"]);
}

#[test]
fn a_rewriting_that_breaks_off_leaves_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    put(&store, "old");
    store.flush().unwrap();
    break_next_commit(&store);
    lives.set(&["new", "never given"]);
    *lock(&lives.breaks_after) = Some(1);
    let error = store.recover(LONG).unwrap_err();
    assert!(error.contains("broken on purpose"), "{error}");
    assert!(matches!(
        store.put(Table::Tunnels, key("a"), key("b")),
        Err(JournalError::ReadOnly(_))
    ));
    // As it is on the disk at this moment, such as after a crash.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(store.path(), copy.path().join(FILE_NAME)).unwrap();
    assert_eq!(names(&Store::open(copy.path()).unwrap()), ["old"]);
    *lock(&lives.breaks_after) = None;
    assert_eq!(store.recover(LONG), Ok(()));
    assert_eq!(names(&store), ["never given", "new"]);
    assert_eq!(store.stats().failures, 1, "one outage");
}

#[test]
fn a_file_that_is_damaged_when_the_store_recovers_is_moved_aside() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    lives.set(&["a"]);
    break_next_commit(&store);
    std::fs::write(store.path(), [0xa5; 20_000]).unwrap();
    assert_eq!(store.recover(LONG), Ok(()));
    assert_eq!(names(&store), ["a"]);
    let alarms = store.alarms();
    let [Alarm::Corrupted { moved_to, .. }] = alarms.as_slice() else {
        panic!("{alarms:?}");
    };
    assert_eq!(std::fs::read(moved_to).unwrap(), [0xa5; 20_000]);
    let news = store.take_news();
    assert!(
        matches!(
            news.as_slice(),
            [
                News::Alarm(Alarm::ReadOnly { .. }),
                News::Alarm(Alarm::Corrupted { .. }),
                News::Recovered { .. }
            ]
        ),
        "{news:?}"
    );
}

#[test]
fn without_anybody_to_ask_what_lives_a_store_stays_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "kept");
    store.flush().unwrap();
    break_next_commit(&store);
    assert!(store.recover(LONG).is_err());
    drop(store);
    assert_eq!(names(&Store::open(directory.path()).unwrap()), ["kept"]);
}

#[test]
fn what_was_set_aside_while_the_store_failed_is_kept_for_a_person() {
    let directory = tempfile::tempdir().unwrap();
    let (store, lives) = living_store(directory.path());
    lives.set(&["a"]);
    break_next_commit(&store);
    let record = Record {
        table: Table::Tunnels,
        key: key("bad"),
        value: key("x"),
    };
    assert!(store.set_aside(record, "reason").is_err());
    assert_eq!(store.recover(LONG), Ok(()));
    store.flush().unwrap();
    assert_eq!(store.aside(), Ok(vec!["reason".to_owned()]));
    assert_eq!(names(&store), ["a"]);
}
