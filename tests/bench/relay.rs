//! An impairment relay for UDP or GRE between real peers, in real time.

use clap::{Parser, Subcommand};
use sluice_testkit::Impairment;
use sluice_testkit::relay::{Relay, RelayConfig};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// Relay packets and lose, double, delay and reorder some. Ends with its standard input.
#[derive(Parser)]
#[command(name = "relay")]
struct Options {
    #[command(subcommand)]
    kind: Kind,
    /// Percent of packets lost in each direction.
    #[arg(long, global = true, default_value_t = 0.0)]
    loss: f64,
    /// Percent of packets doubled.
    #[arg(long, global = true, default_value_t = 0.0)]
    duplicate: f64,
    /// Percent of packets held back so that others overtake them.
    #[arg(long, global = true, default_value_t = 0.0)]
    reorder: f64,
    /// Milliseconds by which those are held back.
    #[arg(long, global = true, default_value_t = 20)]
    reorder_by: u64,
    /// Milliseconds every packet takes in each direction.
    #[arg(long, global = true, default_value_t = 0)]
    delay: u64,
    /// Random milliseconds on top, at the most.
    #[arg(long, global = true, default_value_t = 0)]
    jitter: u64,
    /// Largest payload that passes, in bytes.
    #[arg(long, global = true, default_value_t = 65_535)]
    mtu: usize,
    /// Packets on their way in each direction, at the most.
    #[arg(long, global = true, default_value_t = Impairment::QUEUE)]
    queue: usize,
    /// Seed of the faults.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Kind {
    /// Relay UDP for many clients.
    Udp {
        /// Address and port to listen on.
        listen: SocketAddr,
        /// Address and port of the server.
        server: SocketAddr,
    },
    /// Relay GRE for one client; needs CAP_NET_RAW.
    Gre {
        /// Address of this host that the client speaks to.
        listen: Ipv4Addr,
        /// Address of the server.
        server: Ipv4Addr,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let impairment = Impairment {
        loss: options.loss / 100.0,
        duplicate: options.duplicate / 100.0,
        reorder: options.reorder / 100.0,
        reorder_by: Duration::from_millis(options.reorder_by),
        delay: Duration::from_millis(options.delay),
        jitter: Duration::from_millis(options.jitter),
        mtu: options.mtu,
        queue: options.queue,
    };
    let config = RelayConfig {
        up: impairment,
        down: impairment,
        seed: options.seed,
    };
    let started = match options.kind {
        Kind::Udp { listen, server } => Relay::udp(listen, server, config),
        Kind::Gre { listen, server } => Relay::gre(listen, server, config),
    };
    let relay = match started {
        Ok(relay) => relay,
        Err(error) => {
            eprintln!("relay: {error}");
            return ExitCode::from(2);
        }
    };
    println!("relay: listening on {}", relay.address());
    // Whoever started the relay holds its standard input open as long as it wants it.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let (up, down) = relay.stats();
    println!("relay: to the server {up:?}");
    println!("relay: to the clients {down:?}");
    ExitCode::SUCCESS
}
