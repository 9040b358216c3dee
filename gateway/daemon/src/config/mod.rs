//! The gateway's configuration: read as a whole, with all its problems at once, each with its place.
//!
//! The tables of the file and what they hold are documented by the commented samples in `deploy/config`. The
//! section of a listener that is named after its protocol is read by that protocol's module.

mod amounts;
mod changes;
mod egress;
mod engine;
mod listeners;
mod policy;
mod pools;
mod sections;
mod users;

pub use changes::{Change, Impact, changes};
pub use egress::{Egress, Ports};
pub use listeners::{Intake, ListenAddress, Listener};
pub use policy::{QuotaLimit, Quotas};
pub use pools::DEFAULT_POOL;
pub use sections::{Admin, Demand, Forwarding, Gateway, Log, LogFormat, Metrics, Network, Sandbox, Tls};
pub use users::Users;

use sluice_auth::policy::Policy;
use sluice_core::EngineConfig;
use sluice_spi::Module;
use sluice_spi::config::{Problem, Section, Setting, SettingValue, read_document};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a gateway without a configuration file runs with.
pub const EMBEDDED: &str = include_str!("embedded.toml");

/// The name by which problems with [`EMBEDDED`] and the API call it.
pub const EMBEDDED_NAME: &str = "(embedded default)";

/// Largest configuration file that is read, in bytes: far above any real one, far below what would hurt.
pub const MAX_FILE: u64 = 4 << 20;

/// What stands where a secret would, in everything that is shown.
pub const REDACTED: &str = "(secret)";

/// The protocol modules a configuration may name.
pub type Modules<'a> = &'a [&'static dyn Module];

/// A configuration without a problem.
pub struct Config {
    /// Where it came from: a file's name, or [`EMBEDDED_NAME`].
    pub source: String,
    /// Who the gateway is and where it keeps its state.
    pub gateway: Gateway,
    /// What it listens on, in the order of the file.
    pub listeners: Vec<Listener>,
    /// The admin plane.
    pub admin: Admin,
    /// The metrics listener.
    pub metrics: Metrics,
    /// Pools, limits and what sessions get by default.
    pub engine: EngineConfig,
    /// Where users are kept.
    pub users: Users,
    /// Who may do what, without the gateway's own addresses.
    pub policy: Policy,
    /// How targets are reached for clients.
    pub egress: Egress,
    /// The quotas that the policy names.
    pub quotas: Quotas,
    /// What the host is told about the clients' addresses.
    pub network: Network,
    /// What is logged, and how.
    pub log: Log,
    /// What the gateway gives up after its start.
    pub sandbox: Sandbox,
    /// Every value the file was read to. Listeners are named here by their names.
    pub settings: Vec<Setting>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("source", &self.source)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read at all.
    #[error("{file}: {error}")]
    Unreadable {
        /// The file's name as it was given.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// What is wrong with its content: never empty, in the order of the file.
    #[error("{}", join(.0))]
    Problems(Vec<Problem>),
}

impl LoadError {
    /// Everything wrong, as one list: an unreadable file is one problem at its first line.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            LoadError::Problems(problems) => problems.clone(),
            LoadError::Unreadable { file, error } => vec![Problem {
                file: file.clone(),
                line: 1,
                column: 1,
                key: String::new(),
                message: format!("cannot be read: {error}"),
            }],
        }
    }
}

fn join(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

impl Config {
    /// Reads the file at `path`, or the embedded default where there is none.
    pub fn load(path: Option<&Path>, modules: Modules<'_>) -> Result<Self, LoadError> {
        let Some(path) = path else {
            return Self::parse(EMBEDDED_NAME, EMBEDDED, modules);
        };
        Self::parse(&path.display().to_string(), &Self::read(path)?, modules)
    }

    /// The text of a configuration file.
    pub fn read(path: &Path) -> Result<String, LoadError> {
        read_bounded(path).map_err(|error| LoadError::Unreadable {
            file: path.display().to_string(),
            error,
        })
    }

    /// Reads a configuration from its text; `file` is the name that problems are reported under.
    pub fn parse(file: &str, text: &str, modules: Modules<'_>) -> Result<Self, LoadError> {
        let document =
            read_document(file, text, |root| read_root(file, root, modules)).map_err(LoadError::Problems)?;
        let mut config = document.value;
        config.settings = name_tables(document.settings, &config);
        Ok(config)
    }

    /// Every value as `key = value`, with a mark on defaults and without any secret.
    pub fn redacted(&self) -> Vec<Shown> {
        self.settings.iter().map(Shown::new).collect()
    }
}

/// One value of a configuration, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The key with its tables.
    pub key: String,
    /// The value as TOML writes it, or [`REDACTED`].
    pub value: String,
    /// Whether the file did not give it.
    pub default: bool,
}

impl Shown {
    fn new(setting: &Setting) -> Self {
        Self {
            key: setting.key.clone(),
            value: shown_value(&setting.value),
            default: !setting.given,
        }
    }
}

fn shown_value(value: &SettingValue) -> String {
    match value {
        SettingValue::Plain(text) => text.clone(),
        SettingValue::Secret(_) => REDACTED.to_owned(),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(std::io::Error::other(format!(
            "has {length} bytes, more than the {MAX_FILE} a configuration may have"
        )));
    }
    std::fs::read_to_string(path)
}

/// Renames `listener[0].…` to `listener.NAME.…`, and upstreams likewise, so that two configurations with another order
/// of them compare equal.
fn name_tables(settings: Vec<Setting>, config: &Config) -> Vec<Setting> {
    let listeners = config.listeners.iter().map(|listener| listener.name.as_str());
    let upstreams = config
        .egress
        .config
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name);
    let tables: [(&str, Vec<&str>); 2] = [
        ("listener", listeners.collect()),
        ("upstream", upstreams.collect()),
    ];
    let named = |key: &str| {
        tables.iter().find_map(|(table, names)| {
            let (index, rest) = key.strip_prefix(table)?.strip_prefix('[')?.split_once(']')?;
            let name = names.get(index.parse::<usize>().ok()?)?;
            Some(format!("{table}.{name}{rest}"))
        })
    };
    let rename = |mut setting: Setting| {
        if let Some(key) = named(&setting.key) {
            setting.key = key;
        }
        setting
    };
    settings.into_iter().map(rename).collect()
}

fn read_root(file: &str, root: &Section<'_>, modules: Modules<'_>) -> Config {
    let gateway = sections::gateway(&root.section("gateway"));
    let pools = pools::read(root);
    let users = users::read(root, &gateway.state_dir, &pools);
    let protocols: Vec<&'static str> = modules.iter().map(|module| module.descriptor().name).collect();
    let listeners = listeners::read(root, modules);
    let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    let (policy, quotas) = policy::read(root, &names, &protocols);
    Config {
        source: file.to_owned(),
        egress: egress::read(root, &policy),
        admin: sections::admin(&root.section("admin"), &gateway.state_dir),
        metrics: sections::metrics(&root.section("metrics")),
        engine: engine::read(root, pools, &protocols),
        network: sections::network(&root.section("network")),
        log: sections::log(&root.section("log")),
        sandbox: sections::sandbox(&root.section("sandbox")),
        settings: Vec::new(),
        gateway,
        listeners,
        users,
        policy,
        quotas,
    }
}

/// A path of the configuration: relative ones are taken from `base`.
fn resolve(base: &Path, path: &str) -> PathBuf {
    base.join(path)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
