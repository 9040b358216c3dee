//! The configuration in use, and changing it without a restart.

use super::control::{Applied, Control, ControlError};
use crate::config::{Change, Config, Impact, LoadError, Modules, changes};
use arc_swap::ArcSwap;
use sluice_spi::config::Problem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The configuration in use and where it came from.
pub struct Configs {
    path: Option<PathBuf>,
    modules: Modules<'static>,
    /// What this worker was started with: what needs a restart is still so.
    started: Arc<Config>,
    current: ArcSwap<Config>,
    last: Mutex<Option<LastReload>>,
    /// Held while a reload goes on: one at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Takes each text that comes into effect, so that the next worker can go on with it.
    keep: Box<dyn Fn(&str) + Send + Sync>,
}

/// How the last reload went.
#[derive(Clone, Debug)]
pub(crate) struct LastReload {
    pub(crate) at: SystemTime,
    /// What was wrong; `None`: it went well.
    pub(crate) error: Option<String>,
}

/// A reload did not go well; the former configuration stays in use.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new configuration has problems.
    #[error("the configuration has problems; the former one stays in use:\n{0}")]
    Problems(#[from] LoadError),
    /// It could not be put into effect.
    #[error("{0}")]
    Control(#[from] ControlError),
}

/// What a reload did.
#[derive(Debug)]
pub struct Reload {
    /// What differs from the configuration before.
    pub changes: Vec<Change>,
    /// What the gateway said about it.
    pub applied: Applied,
}

impl Configs {
    /// The configuration that the gateway was started with, and the file it came from, if any.
    pub fn new(path: Option<PathBuf>, modules: Modules<'static>, started: Arc<Config>) -> Self {
        Self {
            path,
            modules,
            current: ArcSwap::new(started.clone()),
            started,
            last: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
            keep: Box::new(|_| {}),
        }
    }

    /// Hands each text that comes into effect to `keep`.
    pub fn keeping(self, keep: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            keep: Box::new(keep),
            ..self
        }
    }

    /// The protocol modules.
    pub(crate) fn modules(&self) -> Modules<'static> {
        self.modules
    }

    /// The configuration in use.
    pub fn current(&self) -> Arc<Config> {
        self.current.load_full()
    }

    /// What waits for a restart.
    pub(crate) fn pending(&self) -> Vec<Change> {
        let all = changes(&self.started, &self.current());
        all.into_iter()
            .filter(|change| change.applies == Impact::Restart)
            .collect()
    }

    fn last(&self) -> MutexGuard<'_, Option<LastReload>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the last reload went; `None`: there was none.
    pub(crate) fn last_reload(&self) -> Option<LastReload> {
        self.last().clone()
    }

    /// When the last reload was, and whether it worked; `None`: there was none.
    pub fn last_attempt(&self) -> Option<(SystemTime, bool)> {
        self.last_reload().map(|last| (last.at, last.error.is_none()))
    }

    /// Reads a text, or the file where there is none, and tells what would change. Reads files: may block.
    pub(crate) fn check(&self, text: Option<&str>) -> Result<Vec<Change>, Vec<Problem>> {
        let read = match text {
            Some(text) => Config::parse("(request)", text, self.modules),
            None => Config::load(self.path.as_deref(), self.modules),
        };
        let config = read.map_err(|error| error.problems())?;
        Ok(changes(&self.current(), &config))
    }

    /// Reads the file anew and puts it into effect, or leaves everything as it is.
    pub(crate) async fn reload(&self, control: &dyn Control) -> Result<Reload, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let result = self.try_reload(control).await;
        let error = result.as_ref().err().map(ToString::to_string);
        *self.last() = Some(LastReload {
            at: SystemTime::now(),
            error,
        });
        result
    }

    async fn try_reload(&self, control: &dyn Control) -> Result<Reload, ReloadError> {
        let (path, modules) = (self.path.clone(), self.modules);
        let read = move || match path {
            Some(path) => Config::read(&path).and_then(|text| {
                let config = Config::parse(&path.display().to_string(), &text, modules)?;
                Ok((config, Some(text)))
            }),
            None => Config::load(None, modules).map(|config| (config, None)),
        };
        let (config, text) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| ControlError::Unavailable(error.to_string()))??;
        let config = Arc::new(config);
        let changes = changes(&self.current(), &config);
        let applied = control.apply(config.clone(), changes.clone()).await?;
        self.current.store(config);
        if let Some(text) = text {
            (self.keep)(&text);
        }
        Ok(Reload { changes, applied })
    }
}
