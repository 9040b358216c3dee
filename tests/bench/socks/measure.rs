//! Measures the SOCKS side of the gateway beside other servers, in turns, and writes the results as a document.
#![allow(clippy::unwrap_used, clippy::panic)]

mod servers;

use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use servers::{Kind, PASSWORD, Server, USER, wait_line};
use sluice_tests::load::Load;
use sluice_tests::results::{Results, median};
use sluice_tests::rig::{Namespace, Running, run};
use sluice_tests::usage::Usage;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Processor of the servers, and of the load and its targets.
const SERVER_CPU: usize = 0;
const LOAD_CPU: usize = 1;
/// What a server still does after a load, such as ending its sessions, counts too.
const AFTERMATH: Duration = Duration::from_millis(400);
/// Sessions held for the measure of memory, and what the result is scaled to.
const HELD: usize = 3_500;
const SCALED: f64 = 10_000.0;
/// Longer than an idle hashing thread keeps its memory.
const HASH_MEMORY: Duration = Duration::from_secs(7);
/// Runs of the measure of memory.
const MEMORY_RUNS: usize = 3;

/// Measure SOCKS servers in turns and write the results.
#[derive(Parser)]
#[command(name = "measure-socks")]
struct Options {
    /// The document to write.
    #[arg(default_value = "tests/bench/SOCKS.md")]
    out: PathBuf,
    /// Rounds, in each of which every server has its turn with every load.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds of each load.
    #[arg(long, default_value_t = 1500)]
    time: u64,
    /// Servers to measure; left out: all.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Loads to measure, by the beginnings of their words; left out: all, and memory.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
}

impl Options {
    fn wants(&self, words: &str) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|wanted| words.starts_with(wanted))
    }
}

/// A kind of load.
struct Kinds {
    /// What socks-storm is told.
    words: &'static str,
    what: &'static str,
    /// What processor time is given in, and how many seconds that is.
    unit: &'static str,
    seconds: f64,
    /// Units of the load that it is given for.
    per: f64,
    /// What the rate is given in, and how many units that is.
    rate: (&'static str, f64),
    /// Highest share of the cheapest other server's.
    bar: f64,
}

const GIGA: f64 = 1e9;

const fn bulk(words: &'static str, what: &'static str) -> Kinds {
    Kinds {
        words,
        what,
        unit: "s/GB",
        seconds: 1.0,
        per: GIGA,
        rate: ("GB/s", GIGA),
        bar: 0.5,
    }
}

const fn each(words: &'static str, what: &'static str, bar: f64) -> Kinds {
    Kinds {
        words,
        what,
        unit: "µs",
        seconds: 1e-6,
        per: 1.0,
        rate: ("/s", 1.0),
        bar,
    }
}

const LOADS: [Kinds; 8] = [
    each(
        "connect",
        "a connection: log in, connect, echo 1 byte, close",
        0.9,
    ),
    bulk("bulk down", "1 stream to the client"),
    bulk("bulk up", "1 stream from the client"),
    bulk("bulk down --streams 64", "64 streams to the clients"),
    bulk("bulk up --streams 64", "64 streams from the clients"),
    each("echo", "a round trip of 64 bytes, 64 connections", 1.0),
    each(
        "udp",
        "a datagram of 512 bytes, 8 flows, 16 on their way in each",
        0.9,
    ),
    each(
        "udp --window 1",
        "a datagram of 512 bytes, 8 flows, 1 on its way in each",
        0.9,
    ),
];

const MEMORY: &str = "memory";

/// Processor time for each unit, and rate, round by round.
#[derive(Default)]
struct Figures {
    costs: Vec<f64>,
    rates: Vec<f64>,
}

type Measured = BTreeMap<(usize, usize), Figures>;

fn main() {
    let options = Options::parse();
    let kinds: Vec<Kind> = if options.servers.is_empty() {
        Kind::ALL.into()
    } else {
        options.servers.clone()
    };
    let all_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit {
        current: all_files,
        maximum: all_files,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    // What is started from here inherits it.
    let mut only = CpuSet::new();
    only.set(SERVER_CPU);
    sched_setaffinity(None, &only).unwrap();
    let namespace = Namespace::new("socks");
    let mut results = Results::new("SOCKS measurements", include_str!("results_head.md"));
    let measured = rounds(&options, &kinds, &namespace);
    costs(&mut results, &kinds, &measured);
    rates(&mut results, &kinds, &measured);
    if options.wants(MEMORY) {
        memory(&mut results, &kinds, &namespace);
    }
    if options.loads.is_empty() && options.servers.is_empty() {
        results.write(&options.out);
    }
}

fn storm(namespace: &Namespace, kind: Kind, time: u64, words: &str) -> Command {
    let mut command = namespace.command("taskset");
    command.args(["-c", &LOAD_CPU.to_string()]);
    command.arg(Load::program("socks-storm"));
    command.args(["--server", &format!("127.0.0.1:{}", kind.port())]);
    command.args([
        "--user",
        USER,
        "--password",
        PASSWORD,
        "--time",
        &time.to_string(),
    ]);
    command.args(words.split_whitespace());
    command
}

fn rounds(options: &Options, kinds: &[Kind], namespace: &Namespace) -> Measured {
    let mut measured = Measured::new();
    let loads: Vec<(usize, &Kinds)> = LOADS
        .iter()
        .enumerate()
        .filter(|(_, load)| options.wants(load.words))
        .collect();
    if loads.is_empty() {
        return measured;
    }
    let servers: Vec<Server> = kinds.iter().map(|&kind| Server::start(kind, namespace)).collect();
    for server in &servers {
        // The first log-in is the one whose password is hashed.
        run(&mut storm(namespace, server.kind, 200, "connect --parallel 1")).unwrap();
    }
    std::thread::sleep(HASH_MEMORY);
    for round in 0..options.rounds {
        for (load_index, load) in &loads {
            for (index, server) in servers.iter().enumerate() {
                if load.words.starts_with("udp") && !server.kind.has_datagrams() {
                    continue;
                }
                let (cost, rate) = one(namespace, server, load, options.time);
                eprintln!(
                    "round {round}, {}, {}: {cost:.2} {}, {rate:.2} {}",
                    load.words,
                    server.kind.name(),
                    load.unit,
                    load.rate.0
                );
                let figures = measured.entry((*load_index, index)).or_default();
                figures.costs.push(cost);
                figures.rates.push(rate);
            }
        }
    }
    measured
}

fn one(namespace: &Namespace, server: &Server, load: &Kinds, time: u64) -> (f64, f64) {
    let before = Usage::of(server.pid()).unwrap();
    let text = run(&mut storm(namespace, server.kind, time, load.words)).unwrap();
    std::thread::sleep(AFTERMATH);
    let spent = Usage::of(server.pid()).unwrap().processor - before.processor;
    let report: Value = serde_json::from_str(&text).unwrap();
    let number = |what: &str| report[what].as_f64().unwrap_or_else(|| panic!("{report}"));
    if number("failed") > 0.0 {
        eprintln!("{} with {}: {report}", server.kind.name(), load.words);
        assert_ne!(server.kind, Kind::Sluice, "nothing may fail");
    }
    let units = number("units");
    (
        spent.as_secs_f64() / units * load.per / load.seconds,
        units / (number("ms") / 1e3) / load.rate.1,
    )
}

fn figure(value: f64) -> String {
    let places = if value < 1.0 {
        3
    } else if value < 20.0 {
        2
    } else {
        1
    };
    format!("{value:.places$}")
}

/// The heads of a table of all servers.
fn columns(first: &'static str, kinds: &[Kind], last: &[&'static str]) -> Vec<&'static str> {
    let servers = kinds.iter().map(|kind| kind.name());
    [first]
        .into_iter()
        .chain(servers)
        .chain(last.iter().copied())
        .collect()
}

/// The share of the cheapest other server's that Sluice takes.
fn share(kinds: &[Kind], values: &[Option<f64>]) -> Option<f64> {
    let of = |wanted: bool| {
        let pairs = kinds.iter().zip(values);
        let of = pairs.filter(move |(kind, _)| (**kind == Kind::Sluice) == wanted);
        of.filter_map(|(_, value)| *value).min_by(f64::total_cmp)
    };
    Some(of(true)? / of(false)?)
}

fn costs(results: &mut Results, kinds: &[Kind], measured: &Measured) {
    let before =
        "Processor time, and what Sluice takes of the cheapest other server's, with the bar for that.";
    results.table(before, &columns("processor time for", kinds, &["share", "bar"]));
    for (index, load) in LOADS.iter().enumerate() {
        let values = medians(kinds, |server| Some(&measured.get(&(index, server))?.costs));
        if values.iter().all(Option::is_none) {
            continue;
        }
        let share = share(kinds, &values).map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let row = row(format!("{}, {}", load.what, load.unit), &values);
        results.row(&[row, vec![share, format!("{:.0} %", load.bar * 100.0)]].concat());
    }
}

fn rates(results: &mut Results, kinds: &[Kind], measured: &Measured) {
    results.table("Rates.", &columns("rate of", kinds, &[]));
    for (index, load) in LOADS.iter().enumerate() {
        let values = medians(kinds, |server| Some(&measured.get(&(index, server))?.rates));
        if values.iter().any(Option::is_some) {
            results.row(&row(format!("{}, {}", load.what, load.rate.0), &values));
        }
    }
}

fn medians<'a>(kinds: &[Kind], of: impl Fn(usize) -> Option<&'a Vec<f64>>) -> Vec<Option<f64>> {
    let all = (0..kinds.len()).map(of);
    all.map(|values| values.map(|values| median(values.clone())))
        .collect()
}

fn row(what: String, values: &[Option<f64>]) -> Vec<String> {
    let values = values.iter().map(|value| value.map_or("–".to_owned(), figure));
    [what].into_iter().chain(values).collect()
}

/// How much memory the processes of a server have to themselves for sessions that are held and idle.
fn memory(results: &mut Results, kinds: &[Kind], namespace: &Namespace) {
    let files = tempfile::tempdir().unwrap();
    let mut all = vec![Vec::new(); kinds.len()];
    for run_number in 0..MEMORY_RUNS {
        for (index, &kind) in kinds.iter().enumerate() {
            let server = Server::start(kind, namespace);
            // A server that has served for a while: its lists of what was last are full.
            run(&mut storm(namespace, kind, 1000, "connect")).unwrap();
            std::thread::sleep(HASH_MEMORY);
            let before = Usage::of(server.pid()).unwrap().memory;
            let out = files.path().join(format!("{run_number}-{index}"));
            let mut command = storm(namespace, kind, 0, &format!("hold {HELD}"));
            let mut held = Running::start(command.stdout(File::create(&out).unwrap()), None);
            wait_line(&out, "held");
            std::thread::sleep(Duration::from_secs(2));
            assert!(held.is_running());
            let grown = Usage::of(server.pid()).unwrap().memory as f64 - before as f64;
            let scaled = grown / HELD as f64 * SCALED / f64::from(1 << 20);
            eprintln!("memory, {}: {scaled:.1} MiB", kind.name());
            all[index].push(scaled);
        }
    }
    let values: Vec<_> = all.into_iter().map(|values| Some(median(values))).collect();
    let before = format!(
        "User memory of idle sessions: private resident memory of the server's processes with {HELD} sessions held less \
         that after a storm of connections, scaled to 10,000; median of {MEMORY_RUNS} runs. What the kernel holds for \
         sockets and threads is not in it."
    );
    results.table(&before, &columns("memory of", kinds, &["bar"]));
    let row = row("10,000 idle sessions, MiB".to_owned(), &values);
    results.row(&[row, vec!["20".to_owned()]].concat());
}
