//! The command line: starting the gateway, checking its configuration, and talking to a running one.
//!
//! Answers go to standard output, everything else to standard error. Exit codes are those of [`Failure::code`].

mod args;
mod client;
mod local;
mod password;
mod remote;
mod render;
mod stream;
mod trust;

pub use args::RunArgs;

use self::args::{Arguments, Command, Users};
use crate::admin::HostChange;
use crate::config::{Config, Modules};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// What the command line starts but does not do itself.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// `sluice run`, and `sluice` alone.
    pub run: fn(&RunArgs) -> ExitCode,
    /// The worker process, which only a keeper starts.
    pub worker: fn(&RunArgs) -> ExitCode,
    /// What a gateway with a configuration would change on the host.
    pub dry_run: fn(&Config) -> Result<Vec<HostChange>, String>,
    /// The protocol modules.
    pub modules: Modules<'static>,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The gateway, or this command, says no.
    #[error("{0}")]
    Refused(String),
    /// A configuration has problems, one a line; or the command line itself is wrong.
    #[error("{0}")]
    Usage(String),
    /// No gateway answers.
    #[error("{0}")]
    Unreachable(String),
    /// The gateway does not let us.
    #[error("{0}")]
    Forbidden(String),
    /// Whoever read our output has gone: nothing to report.
    #[error("the output was closed")]
    Closed,
}

impl Failure {
    /// 1: refused or failed. 2: wrong usage or configuration. 3: no gateway answers. 4: not allowed.
    fn code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Forbidden(_) => 4,
            Failure::Closed => 0,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::Refused(error.to_string()),
        }
    }
}

/// What a command gives.
type Done = Result<(), Failure>;

/// Runs the command line of this process.
pub fn main(hooks: &Hooks) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match Arguments::try_parse() {
        Ok(arguments) => run(arguments, hooks, &mut out),
        Err(error) => usage(&error),
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version are errors to clap, and no failure to their user.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(arguments: Arguments, hooks: &Hooks, out: &mut dyn Write) -> ExitCode {
    match &arguments.command {
        None => return (hooks.run)(&RunArgs::default()),
        Some(Command::Run(args)) => return (hooks.run)(args),
        Some(Command::Worker(args)) => return (hooks.worker)(args),
        Some(_) => {}
    }
    match execute(&arguments, hooks, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Closed) {
                eprintln!("{failure}");
            }
            ExitCode::from(failure.code())
        }
    }
}

/// Runs every command but those that start a gateway.
fn execute(arguments: &Arguments, hooks: &Hooks, out: &mut dyn Write) -> Done {
    match &arguments.command {
        Some(Command::CheckConfig(args)) => local::check_config(args, arguments.json, hooks.modules, out),
        Some(Command::DryRun(args)) => local::dry_run(args, arguments.json, hooks, out),
        Some(Command::Users(Users::Hash { password })) => local::hash(password, out),
        Some(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(remote::run(command, arguments, hooks.modules, out))
        }
        None => Ok(()),
    }
}

/// Runs a command line in this process and gives its exit code and output.
#[cfg(test)]
fn run_captured(words: &[&str], hooks: &Hooks) -> (u8, String, String) {
    let words = std::iter::once("sluice").chain(words.iter().copied());
    let mut out = Vec::new();
    let text = |out: &[u8]| String::from_utf8_lossy(out).into_owned();
    match Arguments::try_parse_from(words) {
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            (code, String::new(), error.to_string())
        }
        Ok(arguments) => match execute(&arguments, hooks, &mut out) {
            Ok(()) => (0, text(&out), String::new()),
            Err(failure) => (failure.code(), text(&out), failure.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
