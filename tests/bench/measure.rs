//! Measures the gateway with storms of clients in a network namespace, and writes the results as a document.
#![allow(clippy::unwrap_used, clippy::panic)]

use clap::Parser;
use serde_json::Value;
use sluice_tests::load::{Load, ONE_SOURCE};
use sluice_tests::results::{Results, median};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs of everything whose median is given.
const RUNS: usize = 5;
/// Runs of what takes long.
const FEW_RUNS: usize = 3;
/// Storms in a row for a rate.
const STORMS: usize = 4;
/// Longer than an idle hashing thread keeps its memory.
const HASH_MEMORY: Duration = Duration::from_secs(7);
const MINUTE: Duration = Duration::from_secs(60);

/// Measure the gateway and write the results.
#[derive(Parser)]
#[command(name = "measure")]
struct Options {
    /// The document to write.
    #[arg(default_value = "tests/bench/RESULTS.md")]
    out: PathBuf,
}

fn main() {
    let options = Options::parse();
    let mut results = Results::new("Measurements", include_str!("results_head.md"));
    at_once(&mut results);
    cold(&mut results);
    for calls in [1, 100] {
        rate_and_processor(&mut results, calls);
        memory(&mut results, calls);
    }
    restart(&mut results);
    results.write(&options.out);
}

fn number(report: &Value, what: &str) -> f64 {
    let mut value = report;
    for key in what.split('.') {
        value = &value[key];
    }
    value.as_f64().unwrap_or_else(|| panic!("no {what} in {report}"))
}

/// Panics where a client did not come up or was lost.
fn must_be_up(report: &Value) {
    assert_eq!(report["up"], report["calls"], "{report}");
    assert!(report["lost"].as_object().unwrap().is_empty(), "{report}");
}

/// The medians of some numbers of several reports.
fn medians<const N: usize>(reports: &[Value], what: [&str; N]) -> [f64; N] {
    what.map(|what| median(reports.iter().map(|report| number(report, what)).collect()))
}

fn at_once(results: &mut Results) {
    let load = Load::start("");
    load.warm_up();
    let words = "--clients 1000";
    let mut reports = Vec::new();
    for _ in 0..RUNS {
        // Within what the gateway allows one address when nothing is configured: 500 tunnels a second, and 2,000 at
        // once.
        load.wait_ended(MINUTE);
        std::thread::sleep(Duration::from_secs(2));
        let report = load.storm(words);
        must_be_up(&report);
        reports.push(report);
    }
    let [all, p50, p99] = medians(&reports, ["elapsed_ms", "time_to_up_ms.p50", "time_to_up_ms.p99"]);
    results.add(
        "1,000 clients at once, PAP, warm credential cache, none failed",
        &format!("all up within {all:.0} ms; p50 {p50:.0} ms, p99 {p99:.0} ms"),
        &format!("lac-storm {words}, {RUNS} runs"),
    );
}

fn cold(results: &mut Results) {
    let load = Load::start("");
    let start = Instant::now();
    let (mut reports, mut again, mut spent) = (Vec::new(), Vec::new(), Vec::new());
    // On a machine that is busy with other things, one run has to do.
    while reports.len() < FEW_RUNS && start.elapsed() < MINUTE / 2 {
        let run = reports.len();
        load.add_users(&format!("cold{run}-"), 1000);
        let before = load.usage();
        let report = load.storm(&format!(
            "--user cold{run}-{{}} --clients 1000 --limit 150 --redial 15"
        ));
        must_be_up(&report);
        spent.push((load.usage().processor - before.processor).as_secs_f64());
        let redialled = report["redialled"].as_object().unwrap().values();
        again.push(redialled.filter_map(Value::as_u64).sum::<u64>() as f64);
        reports.push(report);
    }
    let [all, p50, p99] = medians(&reports, ["elapsed_ms", "time_to_up_ms.p50", "time_to_up_ms.p99"]);
    results.add(
        "1,000 clients at once, 1,000 users whose passwords must all be hashed, none failed for good",
        &format!(
            "all up within {:.1} s; p50 {:.1} s, p99 {:.1} s; {:.0} attempts failed and were repeated by the client; \
             {:.1} s of processor time",
            all / 1e3,
            p50 / 1e3,
            p99 / 1e3,
            median(again),
            median(spent)
        ),
        &format!(
            "lac-storm --user 'cold{{}}' --clients 1000 --redial 15, {} runs",
            reports.len()
        ),
    );
}

fn shape(calls: usize) -> &'static str {
    if calls == 1 {
        "one call per tunnel"
    } else {
        "100 calls per tunnel"
    }
}

/// Several storms in a row: how many set-ups a second, and what a set-up with its tear-down costs.
fn rate_and_processor(results: &mut Results, calls: usize) {
    let load = Load::with_protocol(ONE_SOURCE, "");
    load.warm_up();
    let words = format!("--clients 1000 --calls-per-tunnel {calls}");
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let before = load.usage();
        let (mut up, mut took) = (0.0, 0.0);
        for _ in 0..STORMS {
            let report = load.storm(&words);
            must_be_up(&report);
            up += number(&report, "up");
            took += number(&report, "elapsed_ms") / 1e3;
        }
        load.wait_ended(MINUTE);
        let spent = load.usage().processor - before.processor;
        rates.push(up / took);
        costs.push(spent.as_secs_f64() * 1e6 / up);
    }
    let shape = shape(calls);
    let how = format!("{STORMS} x lac-storm {words} in a row, {RUNS} runs");
    results.add(
        &format!("set-ups per second, {shape}"),
        &format!("{:.0}", median(rates)),
        &how,
    );
    results.add(
        &format!("processor time of a set-up and tear-down, {shape}"),
        &format!("{:.0} µs", median(costs)),
        "the same: processor time of the worker over sessions",
    );
}

/// How much more memory 7,000 sessions take than 3,000, over 4,000. By 2,000 the list of the last events is full.
fn memory(results: &mut Results, calls: usize) {
    let mut slopes = Vec::new();
    for _ in 0..FEW_RUNS {
        let load = Load::with_protocol(ONE_SOURCE, "");
        load.warm_up();
        // The memory of the one hash is given back within this time.
        std::thread::sleep(HASH_MEMORY);
        let first = load.storming(&format!(
            "--clients 3000 --sockets 48 --calls-per-tunnel {calls} --ramp 2000 --hold 14"
        ));
        load.wait_established(3000, MINUTE);
        let before = settled(&load);
        let second = load.storming(&format!(
            "--clients 4000 --sockets 64 --calls-per-tunnel {calls} --ramp 3000 --hold 5 --seed 70000"
        ));
        load.wait_established(7000, MINUTE);
        let after = settled(&load);
        slopes.push((after as f64 - before as f64) / 4000.0 / 1024.0);
        must_be_up(&second.finish(MINUTE));
        must_be_up(&first.finish(MINUTE));
    }
    results.add(
        &format!("memory of a held session, {}", shape(calls)),
        &format!("{:.1} KiB", median(slopes)),
        &format!("private resident memory of the worker with 7,000 sessions less that with 3,000, over 4,000; {FEW_RUNS} runs"),
    );
}

/// Memory once it changes no more, or after a second.
fn settled(load: &Load) -> u64 {
    let start = Instant::now();
    let mut last = load.usage().memory;
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let now = load.usage().memory;
        if now == last || start.elapsed() > Duration::from_secs(1) {
            return now;
        }
        last = now;
    }
}

fn restart(results: &mut Results) {
    let mut load = Load::with_protocol(ONE_SOURCE, "");
    load.warm_up();
    let (mut gaps, mut ready, mut served) = (Vec::new(), Vec::new(), Vec::new());
    let words = "--clients 1000 --hold 6 --probe 5 --check";
    for _ in 0..RUNS {
        let storming = load.storming(words);
        load.wait_established(1000, MINUTE);
        // Everything the clients did is in the journal within a second.
        std::thread::sleep(Duration::from_secs(1));
        let start = Instant::now();
        load.gateway_mut().restart();
        ready.push(start.elapsed().as_secs_f64() * 1e3);
        let report = storming.finish(MINUTE);
        must_be_up(&report);
        gaps.push(number(&report, "probe.longest_gap_ms"));
        served.push(number(&report, "served_at_end"));
        load.wait_ended(MINUTE);
    }
    results.add(
        "restart with 1,000 sessions: longest time without an answer to a client's echo requests, one each 5 ms",
        &format!("{:.0} ms", median(gaps)),
        &format!("lac-storm {words}, `sluice restart` meanwhile, {RUNS} runs"),
    );
    results.add(
        "the same: sessions that carry data afterwards",
        &format!(
            "{:.0} of 1000 at the least",
            served.into_iter().fold(f64::INFINITY, f64::min)
        ),
        "the same: each client's echo request is answered",
    );
    results.add(
        "the same: from the order until the next worker says that it is ready",
        &format!("{:.0} ms", median(ready)),
        "`sluice restart`, then `sluice status` until it is",
    );
}
