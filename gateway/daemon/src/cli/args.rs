//! The commands and their options.

use crate::admin::Scope;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A multi-protocol session gateway and tunnel concentrator.
///
/// Without a command it starts the gateway with its embedded default. Exit codes: 0 done; 1 refused or failed;
/// 2 wrong usage or configuration; 3 no gateway answers; 4 not allowed.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// The gateway's UNIX socket [default: $SLUICE_SOCKET, or where the configuration has it]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,

    /// Talk to a gateway over the network instead, such as https://gw.example:8701
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket")]
    pub(super) url: Option<String>,

    /// The token to use with --url [default: $SLUICE_TOKEN, which other users of this machine cannot see]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub(super) token: Option<String>,

    /// The certificates (PEM) to trust with an https URL
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,

    /// Look in this configuration for the gateway's socket
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) gateway_config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start the gateway
    Run(RunArgs),
    /// The worker process; started by the keeper alone
    #[command(hide = true)]
    Worker(RunArgs),
    /// Check a configuration and list everything that is wrong with it
    CheckConfig(CheckArgs),
    /// Show what a gateway would change on this host, and change nothing
    DryRun(ConfigArgs),
    /// List, show, end and watch sessions
    #[command(subcommand)]
    Sessions(Sessions),
    /// List and show tunnels
    #[command(subcommand)]
    Tunnels(Tunnels),
    /// List and change users
    #[command(subcommand)]
    Users(Users),
    /// List address pools and their use
    Pools(Listing),
    /// List addresses in use or kept for a user
    Leases(Leases),
    /// List what is listened on
    Listeners(Listing),
    /// List and change tokens of the API
    #[command(subcommand)]
    Tokens(Tokens),
    /// Show which rule decides a request, and why those before it do not
    Explain(Explain),
    /// Show how the gateway is
    Status,
    /// Put the configuration file into effect
    Reload,
    /// Restart the worker; sessions stay
    Restart {
        /// Restart even while the session store takes no changes, and lose the sessions it does not know
        #[arg(long)]
        lose_sessions: bool,
    },
    /// Refuse new sessions; those that are there go on
    Drain {
        /// Admit new sessions again
        #[arg(long)]
        off: bool,
    },
    /// Place a call
    Call(Call),
    /// Trace a session's negotiation
    Trace(Trace),
    /// Follow what happens
    Events {
        /// Only these types, separated by commas
        #[arg(long, value_name = "TYPES")]
        types: Option<String>,
        /// Only events about this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
    },
    /// Show the last entries of the audit log
    Audit {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
}

/// Options of starting a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration file [default: embedded, on loopback only]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file [default: embedded]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file [default: embedded]
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The same as FILE
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    pub(super) config: Option<PathBuf>,
    /// Show every value it is read to, without secrets
    #[arg(long)]
    pub(super) show: bool,
    /// Show what differs from this configuration, and when it would take effect
    #[arg(long, value_name = "FILE", conflicts_with = "show")]
    pub(super) against: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SessionFilter {
    /// Only sessions of this user, realm included
    #[arg(long)]
    pub(super) user: Option<String>,
    /// Only sessions of users of this realm
    #[arg(long)]
    pub(super) realm: Option<String>,
    /// Only sessions in this state, such as established
    #[arg(long)]
    pub(super) state: Option<String>,
    /// Only sessions of this protocol
    #[arg(long)]
    pub(super) protocol: Option<String>,
    /// Only sessions of this listener
    #[arg(long)]
    pub(super) listener: Option<String>,
    /// Only sessions whose peer has this outer address
    #[arg(long)]
    pub(super) peer: Option<String>,
    /// Only the session that holds this address
    #[arg(long)]
    pub(super) address: Option<String>,
    /// Only sessions in this tunnel
    #[arg(long)]
    pub(super) tunnel: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sessions {
    /// List sessions
    List {
        #[command(flatten)]
        filter: SessionFilter,
        /// List those that have ended instead, the newest first
        #[arg(long)]
        history: bool,
        /// List this many at most
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Show a session with what was negotiated
    Show {
        /// The session's id
        id: String,
    },
    /// End sessions
    End {
        /// The sessions' ids
        #[arg(required = true)]
        ids: Vec<String>,
        /// The terminate cause, by RFC 2866's name
        #[arg(long, default_value = "admin-reset")]
        cause: String,
    },
    /// Watch sessions come and go
    Watch,
}

#[derive(Debug, Subcommand)]
pub(super) enum Tunnels {
    /// List tunnels
    List,
    /// Show a tunnel
    Show {
        /// The tunnel's id
        id: String,
    },
    /// End all sessions of a tunnel
    End {
        /// The tunnel's id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// List users
    List,
    /// Show a user
    Show {
        /// The user's name, realm included
        name: String,
    },
    /// Add a user
    Add(AddUser),
    /// Change what a user is given; an empty value takes back what was said
    Change(ChangeUser),
    /// Disable a user and end its sessions
    Disable {
        /// The user's name, realm included
        name: String,
    },
    /// Enable a user
    Enable {
        /// The user's name, realm included
        name: String,
    },
    /// Give a user another password and end its sessions
    Passwd {
        /// The user's name, realm included
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Delete a user and end its sessions
    Delete {
        /// The user's name, realm included
        name: String,
    },
    /// Hash a password for a users file that is written by hand
    Hash {
        #[command(flatten)]
        password: PasswordArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the password from standard input: its first line
    #[arg(long)]
    pub(super) password_stdin: bool,
    /// Make a password up and print it
    #[arg(long, conflicts_with = "password_stdin")]
    pub(super) generate: bool,
}

#[derive(Debug, Args)]
pub(super) struct AddUser {
    /// The user's name, realm included
    pub(super) name: String,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    /// Its IPv4 address: pool, pool:NAME, none, or an address
    #[arg(long)]
    pub(super) ipv4: Option<String>,
    /// Its IPv6 prefix: pool, pool:NAME, none, or a prefix
    #[arg(long)]
    pub(super) ipv6: Option<String>,
    /// Simultaneous sessions
    #[arg(long)]
    pub(super) max_sessions: Option<u32>,
    /// The last day it may log in, or a time (RFC 3339)
    #[arg(long)]
    pub(super) expires: Option<String>,
    /// A group that it is in, for rules; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    pub(super) groups: Vec<String>,
    /// Add it disabled
    #[arg(long)]
    pub(super) disabled: bool,
}

#[derive(Debug, Args)]
pub(super) struct ChangeUser {
    /// The user's name, realm included
    pub(super) name: String,
    #[command(flatten)]
    pub(super) change: UserChange,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct UserChange {
    /// Its IPv4 address: pool, pool:NAME, none, or an address
    #[arg(long)]
    pub(super) ipv4: Option<String>,
    /// Its IPv6 prefix: pool, pool:NAME, none, or a prefix
    #[arg(long)]
    pub(super) ipv6: Option<String>,
    /// Simultaneous sessions
    #[arg(long)]
    pub(super) max_sessions: Option<String>,
    /// The last day it may log in, or a time (RFC 3339)
    #[arg(long)]
    pub(super) expires: Option<String>,
    /// Longest life of a session, in seconds
    #[arg(long)]
    pub(super) session_timeout: Option<String>,
    /// Longest silence of a session, in seconds
    #[arg(long)]
    pub(super) idle_timeout: Option<String>,
    /// The protocols it may use, separated by commas
    #[arg(long)]
    pub(super) protocols: Option<String>,
    /// The groups that it is in, for rules, separated by commas
    #[arg(long)]
    pub(super) groups: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Where to: a name or an IP address, with its port, such as example.com:443
    #[arg(required_unless_present = "command")]
    pub(super) target: Option<String>,
    /// What is wanted: connect, bind, udp, or session for one of a tunnel [default: connect]
    #[arg(long)]
    pub(super) command: Option<String>,
    /// The listener the client comes to; needed where there are several
    #[arg(long)]
    pub(super) listener: Option<String>,
    /// The client's IP address
    #[arg(long)]
    pub(super) client: Option<String>,
    /// The user, realm included
    #[arg(long)]
    pub(super) user: Option<String>,
    /// An address that the target's name resolves to
    #[arg(long)]
    pub(super) address: Option<String>,
}

/// What can only be listed: saying so is optional.
#[derive(Debug, Args)]
pub(super) struct Listing {
    #[arg(value_name = "list", value_parser = ["list"], hide = true)]
    pub(super) list: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Leases {
    #[command(flatten)]
    pub(super) listing: Listing,
    /// Only from this pool
    #[arg(long)]
    pub(super) pool: Option<String>,
    /// Only of this user, realm included
    #[arg(long)]
    pub(super) user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Tokens {
    /// List tokens
    List,
    /// Make a token and print it, this once
    Add {
        /// What it allows
        #[arg(required = true, value_name = "SCOPE", value_parser = PossibleValuesParser::new(Scope::NAMES.iter().copied()))]
        scopes: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Delete a token
    Delete {
        /// The token's id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Call {
    /// The number to call
    pub(super) called: String,
    /// The listener to call from
    #[arg(long)]
    pub(super) listener: String,
    /// The peer's address and port
    #[arg(long, required_unless_present = "tunnel", conflicts_with = "tunnel")]
    pub(super) peer: Option<String>,
    /// The tunnel to use
    #[arg(long)]
    pub(super) tunnel: Option<String>,
    /// The name of the call
    #[arg(long)]
    pub(super) label: String,
    /// The sub-address to call
    #[arg(long, default_value = "")]
    pub(super) sub_address: String,
}

#[derive(Debug, Args)]
pub(super) struct Trace {
    /// The session's id
    pub(super) id: String,
    /// How long, in seconds
    #[arg(long, default_value_t = 300)]
    pub(super) seconds: u64,
    /// Write the packets to this file when the trace ends
    #[arg(long, value_name = "FILE")]
    pub(super) pcap: Option<PathBuf>,
}
