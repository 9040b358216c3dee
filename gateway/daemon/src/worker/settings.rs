//! The configuration a worker starts with, and the one it falls back to.

use super::CannotStart;
use super::kept::KeptText;
use crate::config::{Config, LoadError, MAX_FILE};
use sluice_keeper::{Link, StartReason};
use sluice_registry::MODULES;
use std::path::Path;

/// What a worker starts with.
pub(super) struct Loaded {
    pub(super) config: Config,
    /// Where the text in effect is kept for the next worker; `None`: it is the embedded one.
    pub(super) kept: Option<KeptText>,
    /// What is to be logged about it.
    pub(super) complaint: Option<String>,
}

/// The name of the text with the keeper.
const MEMORY: &str = "configuration";

/// Reads the configuration. The first worker does not start with a wrong one.
pub(super) fn load(path: Option<&Path>, link: &Link, reason: &StartReason) -> Result<Loaded, CannotStart> {
    let Some(path) = path else {
        let config = Config::load(None, MODULES).map_err(CannotStart::configuration)?;
        return Ok(Loaded {
            config,
            kept: None,
            complaint: None,
        });
    };
    let kept = KeptText::open(link, MEMORY, MAX_FILE)?;
    let (config, complaint) = match read(path) {
        Ok((config, text)) => {
            let failed = kept.keep(&text).err();
            let complaint =
                failed.map(|error| format!("the configuration cannot be kept for the next worker: {error}"));
            (config, complaint)
        }
        Err(error) => {
            let former = match reason {
                StartReason::First => None,
                StartReason::Requested | StartReason::Crashed(_) => kept.recall(),
            };
            let file = path.display().to_string();
            let config = former.and_then(|text| Config::parse(&file, &text, MODULES).ok());
            let config = config.ok_or_else(|| CannotStart::configuration(&error))?;
            let complaint = format!(
                "the configuration that was in use before stays in use, because the file has problems: {error}"
            );
            (config, Some(complaint))
        }
    };
    let kept = Some(kept);
    Ok(Loaded {
        config,
        kept,
        complaint,
    })
}

fn read(path: &Path) -> Result<(Config, String), LoadError> {
    let text = Config::read(path)?;
    let config = Config::parse(&path.display().to_string(), &text, MODULES)?;
    Ok((config, text))
}
