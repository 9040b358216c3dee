//! The program.

use sluice::cli::{self, Hooks};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(&Hooks {
        run: sluice::run::main,
        worker: sluice::worker::main,
        dry_run: sluice::worker::dry_run,
        modules: sluice_registry::MODULES,
    })
}
