//! Repeats fault drills and storms at full count, and writes what came of them as a document.
#![allow(clippy::unwrap_used, clippy::panic)]

use clap::Parser;
use serde_json::Value;
use sluice_tests::disk;
use sluice_tests::load::{Load, ONE_SOURCE};
use sluice_tests::results::Results;
use sluice_tests::rig::{Running, run, sh, wait_for};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
/// How often the drills of single crates are repeated.
const REPEATED: usize = 5;

/// Run all drills and write the results.
#[derive(Parser)]
#[command(name = "drill")]
struct Options {
    /// The document to write.
    #[arg(default_value = "tests/drill/RESULTS.md")]
    out: PathBuf,
    /// Run only drills whose name contains this, and write no document.
    #[arg(long)]
    only: Option<String>,
}

/// What is done, how that is told, and what does it: it gives its result in words, or panics.
type Drill = (&'static str, &'static str, fn() -> String);

const DRILLS: &[Drill] = &[
    (
        "the store: killed writers, full disks, damaged files, read-only directories, recovery from full disks",
        "`cargo test -p sluice-store --test drills`, and `--test recovery`",
        store_drills,
    ),
    (
        "the keeper: killed and silent workers, crash loops, bad messages, a dead keeper",
        "`cargo test -p sluice-keeper --test supervise`",
        keeper_drills,
    ),
    (
        "the worker is killed (SIGKILL) with 200 sessions that were established some time before",
        "each time: 200 new clients, kill, wait for the next worker, have every client ask for an echo",
        || kill_after(&[2000, 1000, 2000, 1000, 2000]),
    ),
    (
        "the worker is killed with 200 sessions that were established just now",
        "the same",
        || kill_after(&[0, 250, 500]),
    ),
    (
        "20 restarts in 1 min with 500 held sessions and one client that pings each 5 ms",
        "`sluice restart`, again as soon as the next worker is ready",
        restarts_under_load,
    ),
    (
        "the disk becomes full while 500 clients come and stay",
        "state directory on a file system of 8 MiB; a file takes the rest once 250 are up; 100 others come and go",
        full_disk,
    ),
    (
        "the session store is damaged while the gateway is down",
        "64 octets in the middle of the file changed; start",
        damaged_store,
    ),
    (
        "the users file becomes unreadable rubbish",
        "reload, 50 clients, restart of the worker, 50 clients",
        rubbish_users,
    ),
    (
        "1,000 clients at once, 10 times",
        "lac-storm --clients 1000 --check, limits of an unconfigured gateway",
        thousand_again,
    ),
    (
        "10,000 clients at once",
        "lac-storm --clients 10000 --sockets 64 --redial 5, limits on one address raised",
        ten_thousand,
    ),
    (
        "1,000 clients through a network that loses, doubles and reorders 10 %",
        "relay --loss 10 --duplicate 10 --reorder 10",
        || through_relay(10, 1000),
    ),
    (
        "300 clients through a network that loses, doubles and reorders 30 %",
        "relay --loss 30 --duplicate 30 --reorder 30",
        || through_relay(30, 300),
    ),
    (
        "1,000 clients vanish without a word",
        "hello_interval = 5s, retransmit_tries = 2; the network drops what the gateway sends",
        vanish,
    ),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let mut results = Results::new("Drills", include_str!("results_head.md"));
    let mut failed = 0;
    for (what, how, drill) in DRILLS {
        if options.only.as_ref().is_some_and(|only| !what.contains(only)) {
            continue;
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(drill)).unwrap_or_else(|_| {
            failed += 1;
            "**failed**".to_owned()
        });
        let took = start.elapsed().as_secs();
        results.add(what, &result, &format!("{how}; {took} s"));
    }
    if options.only.is_none() {
        results.write(&options.out);
    }
    if failed > 0 {
        eprintln!("{failed} drills failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn count(report: &Value, what: &str) -> u64 {
    report[what]
        .as_u64()
        .unwrap_or_else(|| panic!("no {what} in {report}"))
}

fn reasons(report: &Value, what: &str) -> (u64, String) {
    let found = report[what].as_object().unwrap();
    let words: Vec<String> = found
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    (found.values().filter_map(Value::as_u64).sum(), words.join(", "))
}

fn cargo_test(package: &str, test: &str) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    for _ in 0..REPEATED {
        let mut command = Command::new(&cargo);
        command.args(["test", "--quiet", "-p", package, "--test", test]);
        run(&mut command).unwrap_or_else(|error| panic!("{error}"));
    }
    format!("passed {REPEATED} of {REPEATED} times")
}

fn store_drills() -> String {
    cargo_test("sluice-store", "drills");
    cargo_test("sluice-store", "recovery")
}

fn keeper_drills() -> String {
    cargo_test("sluice-keeper", "supervise")
}

fn kill_worker(load: &Load) {
    let before = load.gateway().status().unwrap();
    sh(&format!("kill -KILL {}", load.worker())).unwrap();
    wait_for("the next worker", MINUTE, || {
        let status = load.gateway().status()?;
        (status["restarts"] != before["restarts"] && status["ready"] == true).then_some(())
    });
}

/// The worker is killed so many milliseconds after the last of 200 clients came up.
fn kill_after(pauses: &[u64]) -> String {
    let load = Load::start("");
    load.warm_up();
    let mut told = Vec::new();
    for &pause in pauses {
        let storming = load.storming("--clients 200 --hold 8 --probe 5 --check");
        load.wait_established(200, MINUTE);
        std::thread::sleep(Duration::from_millis(pause));
        kill_worker(&load);
        let report = storming.finish(MINUTE);
        let (served, gap) = (
            count(&report, "served_at_end"),
            &report["probe"]["longest_gap_ms"],
        );
        // Whoever was killed after a second has lost nobody: all of them are in the journal by then.
        assert!(pause < 1000 || served == 200, "after {pause} ms: {report}");
        told.push(match served {
            0 => format!("after {pause} ms: 0"),
            _ => format!(
                "after {pause} ms: {served} (pause {:.0} ms)",
                gap.as_f64().unwrap()
            ),
        });
        load.wait_ended(3 * MINUTE);
    }
    load.wait_quiet(3 * MINUTE);
    format!(
        "of 200 are served afterwards: {}; nothing left over",
        told.join(", ")
    )
}

fn restarts_under_load() -> String {
    let mut load = Load::start("");
    load.warm_up();
    let mut storming = load.storming("--clients 500 --hold 45 --probe 5 --check");
    load.wait_established(500, MINUTE);
    for _ in 0..20 {
        load.gateway_mut().restart();
    }
    assert!(
        storming.is_running(),
        "the clients were gone before the last restart"
    );
    let report = storming.finish(2 * MINUTE);
    let (lost, words) = reasons(&report, "lost");
    assert_eq!(
        (count(&report, "served_at_end"), lost),
        (500, 0),
        "{words}: {report}"
    );
    let gap = report["probe"]["longest_gap_ms"].as_f64().unwrap();
    let quiet = load.wait_quiet(MINUTE).as_secs();
    format!(
        "500 of 500 served afterwards, none lost; longest pause {gap:.0} ms; nothing left over after {quiet} s"
    )
}

fn full_disk() -> String {
    disk::full_for_a_while(500)
}

fn damaged_store() -> String {
    let mut load = Load::start("");
    load.warm_up();
    let file = load.gateway().directory().join("state/sessions.redb");
    assert_eq!(load.gateway_mut().stop(), Some(0));
    let mut bytes = std::fs::read(&file).unwrap();
    // The head of the file says where everything is.
    bytes.iter_mut().take(64).for_each(|octet| *octet ^= 0x5a);
    std::fs::write(&file, &bytes).unwrap();
    let namespace = load.namespace().name().to_owned();
    load.start_again();
    let state = load.gateway().directory().join("state");
    let kept = std::fs::read_dir(state).unwrap().flatten().find(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.contains("corrupt")
    });
    let kept = kept.unwrap_or_else(|| panic!("no file kept aside in {namespace}"));
    assert_eq!(std::fs::read(kept.path()).unwrap(), bytes, "not the file it was");
    let report = load.storm("--clients 100 --check");
    assert_eq!(count(&report, "served_at_end"), 100, "{report}");
    "kept aside as it was; the gateway starts with an empty one and serves".to_owned()
}

fn rubbish_users() -> String {
    let load = Load::start("");
    load.warm_up();
    let file = load.gateway().directory().join("state/users.toml");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "[[user]\nname = 'x\n\u{0}").unwrap();
    let refused = load.gateway().cli(&["reload"]).is_err();
    let report = load.storm("--clients 50");
    let known = count(&report, "up");
    kill_worker(&load);
    let report = load.storm("--clients 50");
    let anew = count(&report, "up");
    let reasons = match reasons(&report, "failed") {
        (0, _) => String::new(),
        (_, words) => format!(" (the others: {words})"),
    };
    std::fs::write(&file, good).unwrap();
    load.gateway().must(&["reload"]);
    let report = load.storm("--clients 50");
    assert_eq!(count(&report, "up"), 50, "{report}");
    let refused = if refused { "refused" } else { "accepted" };
    format!(
        "reload {refused}; {known} of 50 come up with the users read before; after a crash of the worker {anew} of 50{reasons}; once the file is mended and reloaded 50 of 50"
    )
}

fn thousand_again() -> String {
    let load = Load::start("");
    load.warm_up();
    let mut slowest = 0.0f64;
    for _ in 0..10 {
        let report = load.storm("--clients 1000 --limit 60 --check");
        assert_eq!(
            (count(&report, "up"), count(&report, "served_at_end")),
            (1000, 1000),
            "{report}"
        );
        slowest = slowest.max(report["elapsed_ms"].as_f64().unwrap());
        // As many as one address may ask for are let in again within two seconds.
        load.wait_ended(MINUTE);
        std::thread::sleep(Duration::from_secs(2));
    }
    load.wait_quiet(MINUTE);
    format!(
        "10,000 of 10,000 up and served; slowest storm {:.2} s; nothing left over",
        slowest / 1e3
    )
}

fn ten_thousand() -> String {
    let load = Load::with_protocol(ONE_SOURCE, "");
    load.warm_up();
    let report = load.storm("--clients 10000 --sockets 64 --limit 90 --redial 5 --check");
    let (again, words) = reasons(&report, "redialled");
    assert_eq!(
        (count(&report, "up"), count(&report, "served_at_end")),
        (10_000, 10_000),
        "{report}"
    );
    load.wait_quiet(MINUTE);
    let all = report["elapsed_ms"].as_f64().unwrap() / 1e3;
    let again = if again == 0 {
        "none had to dial again".to_owned()
    } else {
        format!("dialled again: {words}")
    };
    format!("all up and served, within {all:.1} s; {again}; nothing left over")
}

fn through_relay(percent: u32, clients: u64) -> String {
    let load = Load::start("");
    load.warm_up();
    let mut relay = load.namespace().command(Load::program("relay"));
    let percent = percent.to_string();
    relay.args(["udp", "127.0.0.1:1800", Load::SERVER]);
    for fault in ["--loss", "--duplicate", "--reorder"] {
        relay.args([fault, &percent]);
    }
    let relay = Running::start(relay.stdout(Stdio::null()), None);
    let report = load.storm(&format!(
        "--server 127.0.0.1:1800 --clients {clients} --limit 150"
    ));
    let (failed, words) = reasons(&report, "failed");
    let up = count(&report, "up");
    assert_eq!(up + failed, clients, "{report}");
    assert!(!words.contains("not_up_in_time"), "a client hangs: {report}");
    drop(relay);
    let quiet = load.wait_quiet(4 * MINUTE).as_secs();
    let words = if failed == 0 {
        "none failed".to_owned()
    } else {
        format!("ended: {words}")
    };
    format!("{up} up; {words}; nothing left over after {quiet} s")
}

fn vanish() -> String {
    let load = Load::with_protocol(
        "[listener.l2tp]\nhello_interval = \"5s\"\nretransmit_tries = 2\n",
        "",
    );
    load.warm_up();
    let storming = load.storming("--clients 1000 --hold 4 --vanish");
    load.wait_established(1000, MINUTE);
    load.silence();
    let report = storming.finish(MINUTE);
    assert_eq!(count(&report, "up"), 1000, "{report}");
    let took = load.wait_ended(MINUTE).as_secs_f64();
    load.wait_quiet(MINUTE);
    format!("all found out within {took:.0} s of the last packet; nothing left over")
}
