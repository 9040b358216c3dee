//! Sets up thousands of L2TP tunnels with PPP clients against a server and reports how that went.

use clap::Parser;
use serde_json::{Map, Value, json};
use sluice_testkit::lac::LacConfig;
use sluice_testkit::lac::storm::{ProbeReport, Storm, StormConfig, StormReport};
use sluice_tests::usage::Usage;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// Set up many L2TP clients at once and report set-ups per second, times and failures.
#[derive(Parser)]
#[command(name = "lac-storm")]
struct Options {
    /// Address and port of the L2TP server.
    #[arg(long, default_value = "127.0.0.1:1701")]
    server: SocketAddr,
    /// Number of clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// User name; `{}` in it stands for the number of the client.
    #[arg(long)]
    user: String,
    /// Password.
    #[arg(long)]
    password: String,
    /// Tunnel secret.
    #[arg(long)]
    secret: Option<String>,
    /// Host Name given to the server.
    #[arg(long, default_value = "lac-storm")]
    host_name: String,
    /// Clients in each tunnel.
    #[arg(long, default_value_t = 1)]
    calls_per_tunnel: usize,
    /// Milliseconds over which the tunnels are started; 0: all at once.
    #[arg(long, default_value_t = 0)]
    ramp: u64,
    /// Seconds to wait until all are up.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Seconds to stay up.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Times that a client which failed dials again, after 1, 2, 4, 8 and then each 16 s.
    #[arg(long, default_value_t = 0)]
    redial: u16,
    /// Milliseconds between echo requests of the first client to the gateway while all are held: the longest time
    /// without an answer is reported.
    #[arg(long)]
    probe: Option<u64>,
    /// Have each client send an echo request to the gateway at the end, and report how many got an answer.
    #[arg(long)]
    check: bool,
    /// Sockets, each with a source port of its own.
    #[arg(long, default_value_t = 16)]
    sockets: usize,
    /// Source address.
    #[arg(long)]
    local: Option<IpAddr>,
    /// Ask for IPv4 only.
    #[arg(long)]
    no_ipv6: bool,
    /// Leave without a word instead of ending the tunnels.
    #[arg(long)]
    vanish: bool,
    /// Process of the server: its memory and processor time, with those of its children, are reported as well.
    #[arg(long)]
    pid: Option<u32>,
    /// Seed of identifiers and challenges.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let calls = options.calls_per_tunnel.max(1);
    let Ok(tunnels) = u16::try_from(options.clients.div_ceil(calls)) else {
        eprintln!("lac-storm: at most 65535 tunnels; use --calls-per-tunnel");
        return ExitCode::from(2);
    };
    let config = StormConfig {
        server: options.server,
        tunnels,
        sockets: options.sockets,
        local: options.local,
        ramp: Duration::from_millis(options.ramp),
        limit: Duration::from_secs(options.limit),
        hold: Duration::from_secs(options.hold),
        close: !options.vanish,
        seed: options.seed,
        lac: LacConfig {
            host_name: options.host_name,
            secret: options.secret.map(String::into_bytes),
            calls,
            user: options.user,
            password: options.password.into_bytes(),
            ipv6: !options.no_ipv6,
            ..LacConfig::default()
        },
    };
    let extras = Extras {
        pid: options.pid,
        redial: options.redial,
        probe: options.probe.map(Duration::from_millis),
        check: options.check,
    };
    let outcome = match run(config, &extras) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("lac-storm: {error}");
            return ExitCode::from(2);
        }
    };
    if options.json {
        println!("{}", as_json(&outcome));
    } else {
        print(&outcome);
    }
    let report = &outcome.report;
    if report.up == report.calls && report.lost.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What is done beside the storm itself.
struct Extras {
    pid: Option<u32>,
    redial: u16,
    probe: Option<Duration>,
    check: bool,
}

/// All that was seen.
struct Outcome {
    report: StormReport,
    server: Option<Server>,
    probe: Option<ProbeReport>,
    /// Clients whose echo request was answered at the end.
    served: Option<usize>,
}

/// Runs the storm, and measures the server before and after the set-up.
fn run(config: StormConfig, extras: &Extras) -> io::Result<Outcome> {
    let before = extras.pid.map(Usage::of).transpose()?;
    let mut storm = Storm::new(config)?;
    storm.redial(extras.redial);
    storm.set_up()?;
    let after = extras.pid.map(Usage::of).transpose()?;
    let up = storm.up();
    let server = before.zip(after).map(|(before, after)| Server {
        memory: after.memory,
        memory_per_call: after.memory.saturating_sub(before.memory) / up.max(1) as u64,
        processor: after.processor.saturating_sub(before.processor),
    });
    let probe = match extras.probe {
        Some(interval) => Some(storm.hold_probing(interval)?),
        None => {
            storm.hold()?;
            None
        }
    };
    let served = extras.check.then(|| storm.check()).transpose()?;
    Ok(Outcome {
        report: storm.end()?,
        server,
        probe,
        served,
    })
}

/// What the set-up cost the server.
#[derive(Clone, Copy)]
struct Server {
    /// Resident memory after it, in bytes.
    memory: u64,
    /// Resident memory taken for each call that came up, in bytes.
    memory_per_call: u64,
    /// Processor time it took.
    processor: Duration,
}

const SHARES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p999", 0.999),
    ("max", 1.0),
];

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn as_json(outcome: &Outcome) -> Value {
    let Outcome { report, server, .. } = outcome;
    let times: Map<String, Value> = SHARES
        .iter()
        .map(|&(name, share)| (name.to_owned(), json!(milliseconds(report.percentile(share)))))
        .collect();
    json!({
        "calls": report.calls,
        "up": report.up,
        "failed": report.failed,
        "redialled": report.redialled,
        "lost": report.lost,
        "closed_tunnels": report.closed,
        "elapsed_ms": milliseconds(report.elapsed),
        "per_second": report.rate().round(),
        "time_to_up_ms": times,
        "datagrams_sent": report.datagrams.0,
        "datagrams_received": report.datagrams.1,
        "retransmissions": report.retransmissions,
        "send_errors": report.send_errors,
        "ip_packets": report.ip_packets,
        "server": server.map(|server| json!({
            "memory_bytes": server.memory,
            "memory_bytes_per_call": server.memory_per_call,
            "processor_ms": milliseconds(server.processor),
        })),
        "probe": outcome.probe.map(|probe| json!({
            "sent": probe.sent,
            "answered": probe.answered,
            "longest_gap_ms": milliseconds(probe.longest_gap),
        })),
        "served_at_end": outcome.served,
    })
}

fn print(outcome: &Outcome) {
    let Outcome { report, server, .. } = outcome;
    println!(
        "up {} of {} in {:.3} s",
        report.up,
        report.calls,
        report.elapsed.as_secs_f64()
    );
    println!("set-ups per second {:.0}", report.rate());
    let times: Vec<String> = SHARES
        .iter()
        .map(|&(name, share)| format!("{name} {:.1} ms", milliseconds(report.percentile(share))))
        .collect();
    println!("time to up: {}", times.join(", "));
    println!(
        "datagrams sent {}, received {}, control messages sent again {}, refused by the kernel {}",
        report.datagrams.0, report.datagrams.1, report.retransmissions, report.send_errors
    );
    let table = |title: &str, reasons: &BTreeMap<String, usize>| {
        for (reason, count) in reasons {
            println!("{title} {count}: {reason}");
        }
    };
    table("dialled again", &report.redialled);
    table("failed", &report.failed);
    table("lost", &report.lost);
    if let Some(probe) = outcome.probe {
        println!(
            "echoes answered {} of {}, longest time without one {:.1} ms",
            probe.answered,
            probe.sent,
            milliseconds(probe.longest_gap)
        );
    }
    if let Some(served) = outcome.served {
        println!("served at the end {served}");
    }
    println!("tunnels closed cleanly {}", report.closed);
    if let Some(server) = server {
        println!(
            "server: {} KiB resident, {} bytes for each call, {:.0} ms of processor time",
            server.memory / 1024,
            server.memory_per_call,
            milliseconds(server.processor)
        );
    }
}
