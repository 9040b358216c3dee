//! The keeper process: what `sluice run` starts.

use crate::cli::RunArgs;
use crate::config::Config;
use crate::logs;
use sluice_keeper::{EXIT_CANNOT_START, EXIT_CONFIGURATION, KeeperOptions, Severity};
use sluice_registry::MODULES;
use std::ffi::OsString;
use std::process::ExitCode;

/// Checks the configuration, so that its problems are told at once and by one process, and then keeps a worker
/// running.
pub fn main(args: &RunArgs) -> ExitCode {
    let config = match Config::load(args.config.as_deref(), MODULES) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    if let Err(error) = logs::start(&config.log) {
        eprintln!("{error}");
        return ExitCode::from(EXIT_CONFIGURATION);
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            tracing::error!("this program's own file cannot be found: {error}");
            return ExitCode::from(EXIT_CANNOT_START);
        }
    };
    let mut words: Vec<OsString> = vec!["worker".into()];
    if let Some(path) = &args.config {
        words.push("--config".into());
        words.push(path.into());
    }
    let options = KeeperOptions::new(program, words, |severity, text| match severity {
        Severity::Info => tracing::info!("keeper: {text}"),
        Severity::Warning => tracing::warn!("keeper: {text}"),
        Severity::Error => tracing::error!("keeper: {text}"),
    });
    ExitCode::from(sluice_keeper::run(options))
}
