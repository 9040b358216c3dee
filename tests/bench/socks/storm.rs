//! Puts load on a SOCKS5 server and reports how much of it was done.

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;
use sluice_tests::socks_load::{self, Direction, Login, Work};
use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Put load on a SOCKS5 server; the targets that clients reach through it are in this process. Reports as JSON.
#[derive(Parser)]
#[command(name = "socks-storm")]
struct Options {
    /// Address and port of the server.
    #[arg(long, default_value = "127.0.0.1:1080")]
    server: SocketAddr,
    /// User name.
    #[arg(long)]
    user: String,
    /// Password.
    #[arg(long)]
    password: String,
    /// Milliseconds for which load is put on the server.
    #[arg(long, default_value_t = 1000)]
    time: u64,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Connections: log in, connect, send a byte, get it back, close.
    Connect {
        /// How many at once.
        #[arg(long, default_value_t = 32)]
        parallel: usize,
    },
    /// Streams as fast as they go.
    Bulk {
        /// Which way: from the client or to it.
        direction: Way,
        /// How many.
        #[arg(long, default_value_t = 1)]
        streams: usize,
    },
    /// Messages to and fro.
    Echo {
        /// On how many connections.
        #[arg(long, default_value_t = 64)]
        streams: usize,
    },
    /// Datagrams to and fro.
    Udp {
        /// Associations.
        #[arg(long, default_value_t = 8)]
        flows: usize,
        /// Datagrams of each that are on their way at once.
        #[arg(long, default_value_t = 16)]
        window: usize,
    },
    /// Open sessions, say "held", and hold them until the standard input ends.
    Hold {
        /// How many.
        sessions: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Up,
    Down,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let login = Login {
        server: options.server,
        user: options.user,
        password: options.password,
    };
    let work = match options.kind {
        Kind::Connect { parallel } => Work::Connect { parallel },
        Kind::Bulk { direction, streams } => Work::Bulk {
            streams,
            direction: match direction {
                Way::Up => Direction::Up,
                Way::Down => Direction::Down,
            },
        },
        Kind::Echo { streams } => Work::Echo { streams },
        Kind::Udp { flows, window } => Work::Datagrams { flows, window },
        Kind::Hold { sessions } => {
            let input_ends = || drop(std::io::stdin().read_to_end(&mut Vec::new()));
            let held = socks_load::hold(login, sessions, || println!("held"), input_ends);
            return exit(held.map_err(|error| error.to_string()));
        }
    };
    let done = socks_load::run(login, work, Duration::from_millis(options.time));
    exit(done.map_err(|error| error.to_string()).and_then(|done| {
        println!(
            "{}",
            json!({"units": done.units, "failed": done.failed, "ms": done.elapsed.as_secs_f64() * 1e3})
        );
        (done.units > 0)
            .then_some(())
            .ok_or("nothing was done".to_owned())
    }))
}

fn exit(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("socks-storm: {error}");
            ExitCode::from(1)
        }
    }
}
