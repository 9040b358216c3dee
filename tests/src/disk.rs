//! A disk that gets full while clients come and go.

use crate::load::Load;
use crate::rig::{sh, wait_for};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
/// How long clients stay, in seconds: until the store has recovered, which it tries within some seconds, and two
/// restarts are over.
const STAY: u64 = 30;

/// A file system of its own for the gateway's state; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes the directory and mounts a file system of this size there, such as `8m`.
    pub fn mount(state: &Path, size: &str) -> Self {
        std::fs::create_dir(state).unwrap();
        let mount = format!("mount -t tmpfs -o size={size},mode=700 tmpfs {}", state.display());
        sh(&mount).unwrap();
        Self(state.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no room.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    /// Makes room again.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = sh(&format!("umount {}", self.0.display()));
    }
}

fn store_is_on(load: &Load) -> Option<bool> {
    load.gateway().status()?["store"]["on"].as_bool()
}

fn lines(load: &Load, part: &str) -> usize {
    load.gateway()
        .log()
        .lines()
        .filter(|line| line.contains(part))
        .count()
}

/// The disk gets full under half of the clients, the others come while it is, and a fifth as many come and go. A restart
/// is refused meanwhile. When there is room again the store recovers by itself, and a restart keeps all. What came of it,
/// in words; panics where it went otherwise.
pub fn full_for_a_while(clients: u64) -> String {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&directory.path().join("state"), "8m");
    let mut load = Load::start_in(directory, "", "");
    load.warm_up();
    let token = load.gateway().token(&["read"]);
    load.wait_ended(MINUTE);
    let (before, passing, meanwhile) = (clients / 2, clients / 5, clients - clients / 2);
    let first = load.storming(&format!("--clients {before} --hold {STAY} --check"));
    load.wait_established(before, MINUTE);
    disk.fill();
    let report = load.storm(&format!("--clients {passing}"));
    assert_eq!(report["up"], passing, "{report}");
    let second = load.storming(&format!("--clients {meanwhile} --hold {STAY} --check"));
    load.wait_established(clients, MINUTE);
    wait_for("the store to say that it is read-only", MINUTE, || {
        (store_is_on(&load) == Some(false)).then_some(())
    });
    let status = load.gateway().status().unwrap();
    assert_eq!(status["reasons"][0]["code"], "store_read_only", "{status}");
    assert_eq!(load.gateway().metric(&token, "sluice_store_read_only"), 1.0);

    let refused = load.gateway().cli(&["restart"]).unwrap_err();
    assert!(
        refused.contains("nothing was restarted") && refused.contains("--lose-sessions"),
        "{refused}"
    );
    let after = load.gateway().status().unwrap();
    assert_eq!(after["worker_started"], status["worker_started"]);
    assert_eq!(load.sessions("established"), clients);

    disk.make_room();
    let room = Instant::now();
    wait_for("the store to recover", MINUTE, || {
        (store_is_on(&load) == Some(true)).then_some(())
    });
    let took = room.elapsed().as_secs_f64();
    let metric = |name: &str| load.gateway().metric(&token, name);
    assert_eq!(metric("sluice_store_read_only"), 0.0);
    assert_eq!(metric("sluice_store_failures_total"), 1.0);
    assert_eq!(metric("sluice_store_recoveries_total"), 1.0);
    wait_for("the log to tell it", MINUTE, || {
        (lines(&load, "the session store works again") == 1).then_some(())
    });
    // It is said once, whatever else was tried meanwhile.
    assert_eq!(
        lines(&load, "takes no more changes"),
        1,
        "{}",
        load.gateway().log()
    );
    assert_eq!(
        lines(&load, "a restart would lose"),
        0,
        "{}",
        load.gateway().log()
    );

    for _ in 0..2 {
        load.gateway_mut().restart();
        wait_for("all sessions to go on", MINUTE, || {
            (load.sessions("established") == clients).then_some(())
        });
    }
    for (storm, count) in [(first, before), (second, meanwhile)] {
        let report = storm.finish(2 * MINUTE);
        assert_eq!(report["served_at_end"], count, "{report}");
        assert_eq!(
            report["lost"].as_object().map(|lost| lost.len()),
            Some(0),
            "{report}"
        );
    }
    load.wait_quiet(MINUTE);
    drop(load);
    drop(disk);
    format!(
        "{clients} of {clients} go on; `sluice restart` is refused while it is full; the store is on again {took:.0} s \
         after room was made; 2 restarts then: {clients} of {clients} served, none lost"
    )
}

/// Somebody ends the gateway while its disk is full: it ends as it should.
pub fn ends_while_full() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&directory.path().join("state"), "8m");
    let mut load = Load::start_in(directory, "", "");
    load.warm_up();
    let storm = load.storming("--clients 20 --hold 8");
    load.wait_established(20, MINUTE);
    disk.fill();
    // The file itself has some room left.
    wait_for("the store to say that it is read-only", MINUTE, || {
        load.storm("--clients 50");
        (store_is_on(&load) == Some(false)).then_some(())
    });
    assert_eq!(load.gateway_mut().stop(), Some(0));
    let report = storm.finish(2 * MINUTE);
    // Each was told.
    assert_eq!(report["lost"]["terminated_by_peer"], 20, "{report}");
    disk.make_room();
    load.start_again();
    load.warm_up();
    drop(load);
    drop(disk);
}
