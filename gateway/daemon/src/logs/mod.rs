//! Logging: one subscriber for the whole process, for people on a terminal and as JSON elsewhere.
//!
//! The words of a log line come from the code that writes it; what a peer said reaches a line only after
//! [`sluice_spi::wire::display_text`]. Lines that the network can cause at will go through a [`Limiter`].

mod events;
mod limit;

pub use events::EventLog;
pub use limit::{Limiter, Permit};

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The environment variable that overrides the configured level.
pub const LEVEL_VARIABLE: &str = "SLUICE_LOG";

/// Changes the level of a running process.
#[derive(Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Level")
    }
}

/// Logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("{0}")]
    Level(String),
    /// A subscriber is there already, or is gone.
    #[error("logging cannot be set up: {0}")]
    Subscriber(String),
}

impl Level {
    /// Sets another level, unless the environment sets it.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        self.0
            .reload(filter)
            .map_err(|error| LogError::Subscriber(error.to_string()))
    }
}

/// Starts logging to standard error, for the life of the process.
pub fn start(log: &Log) -> Result<Level, LogError> {
    let human = match log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let lines: Box<dyn Layer<_> + Send + Sync> = if human {
        let colours = std::io::stderr().is_terminal() && colours_wanted(std::env::var_os("NO_COLOR"));
        Box::new(
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(colours)
                .with_target(false),
        )
    } else {
        Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_writer(std::io::stderr),
        )
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::Subscriber(error.to_string()))?;
    Ok(Level(handle))
}

/// Has a panic logged as one line, with its place: it is a mistake in the gateway that its authors want to hear of.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic: {}", text.unwrap_or("without a word"));
    }));
}

/// Whether colours are wanted, from the value of `NO_COLOR`: any that is not empty says no.
pub fn colours_wanted(no_color: Option<std::ffi::OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty())
}

/// What is wrong with a level, if anything.
pub(crate) fn check_level(level: &str) -> Result<(), String> {
    EnvFilter::builder()
        .parse(level)
        .map(drop)
        .map_err(|_| format!("must be a level (error, warn, info, debug, trace) or a list such as \"info,sluice::admin=debug\", not {level:?}"))
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let overridden = std::env::var(LEVEL_VARIABLE).ok();
    let level = overridden.as_deref().unwrap_or(level);
    check_level(level).map_err(LogError::Level)?;
    Ok(EnvFilter::new(level))
}

#[cfg(test)]
mod tests;
