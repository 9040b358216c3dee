use super::*;
use std::os::unix::fs::PermissionsExt;

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
    database::set_schema(&store.database, database::SCHEMA + 1);
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

#[test]
fn a_store_that_failed_takes_nothing_and_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, "kept");
    store.flush().unwrap();
    lock(&store.shared.queue).fail("input/output error".to_owned());
    let refused = store.put(Table::Tunnels, key("a"), key("b"));
    assert_eq!(refused, Err(JournalError::ReadOnly("input/output error".into())));
    assert!(matches!(store.flush(), Err(JournalError::ReadOnly(_))));
    assert_eq!(store.load().unwrap().len(), 1);
}
