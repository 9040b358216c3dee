//! What the worker gives up after its start, so that a fault in it is worth little to whoever finds it.
//!
//! Four layers, each where the kernel has it: no way to new privileges (no_new_privs), capabilities down to the
//! three a gateway needs, files outside its own directories out of reach (Landlock), and only the system calls it
//! makes (seccomp). A system call that is refused fails with EPERM, as an error of that operation; it does not end
//! the process.
//!
//! The kernel keeps all of this per thread, and new threads inherit it. [`apply`] therefore comes first in the
//! worker, while it has one thread: after the configuration is read, before any runtime, and in any order with
//! what needs no thread, such as adopting descriptors. What is open stays usable. The keeper is not confined: it
//! has to start the next worker.

mod capabilities;
mod landlock;
mod seccomp;
#[cfg(test)]
mod tests;

use crate::config::{Config, Demand, EMBEDDED_NAME, Sandbox};
use serde::Serialize;
use sluice_egress::{NameServers, ResolverConfig};
use std::path::{Path, PathBuf};

/// What is wanted, and what stays within reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Which layers are wanted.
    pub layers: Sandbox,
    /// Files, and directories with all in them, that stay readable. Those missing are passed over.
    pub read: Vec<PathBuf>,
    /// Directories in which everything but execution stays possible. Those missing are passed over.
    pub write: Vec<PathBuf>,
}

impl SandboxConfig {
    /// What a configuration needs. Directories rather than files, as files are replaced by renaming, which leaves
    /// a permission on the former file behind.
    pub fn new(config: &Config) -> Self {
        let admin = &config.admin;
        let changed = [
            &admin.socket,
            &admin.tokens_file,
            &admin.audit_file,
            &config.users.file,
            &config.users.key_file,
        ];
        let (names, meant) = names(&config.egress.config.resolver);
        let names = names.into_iter().chain(meant.iter().map(PathBuf::as_path));
        let source = (config.source != EMBEDDED_NAME).then(|| Path::new(&config.source));
        let tls = admin
            .tls
            .iter()
            .flat_map(|tls| [tls.certificate.as_path(), tls.key.as_path()]);
        let certificates = config.users.certificates.iter();
        let certificates = certificates
            .flat_map(|files| [&files.certificate, &files.key, &files.client_ca].map(PathBuf::as_path));
        let tls = tls.chain(certificates);
        Self {
            layers: config.sandbox,
            read: directories(
                None,
                source.into_iter().chain(tls).chain(names).chain(keytabs(config)),
            ),
            write: directories(Some(&config.gateway.state_dir), changed.map(PathBuf::as_path)),
        }
    }
}

/// The keytabs of listeners.
fn keytabs(config: &Config) -> impl Iterator<Item = &Path> {
    let keys = config
        .listeners
        .iter()
        .filter_map(|listener| listener.factory.context_keys());
    keys.map(|keys| keys.keytab.as_path())
}

/// The files that say where and what names are, and what they are where they are links: often another program keeps
/// them.
fn names(resolver: &ResolverConfig) -> (Vec<&Path>, Vec<PathBuf>) {
    let servers = match &resolver.servers {
        NameServers::File(path) => Some(path.as_path()),
        NameServers::Listed(_) => None,
    };
    let names: Vec<&Path> = servers.into_iter().chain(resolver.hosts.as_deref()).collect();
    let meant = names.iter().filter_map(|file| file.canonicalize().ok());
    let meant = meant.collect();
    (names, meant)
}

/// A directory and those of some files, each once.
fn directories<'a>(own: Option<&Path>, files: impl IntoIterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = own.map(Path::to_owned).into_iter().collect();
    list.extend(files.into_iter().map(directory_of));
    list.sort();
    list.dedup();
    list
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether a layer protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// It does.
    Active,
    /// It was wanted and cannot be had.
    Unavailable,
    /// The configuration does not want it.
    Off,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Whether it protects.
    pub state: LayerState,
    /// What it covers, or why it is not there.
    pub detail: String,
}

impl Layer {
    fn of(demand: Demand, outcome: impl FnOnce() -> Result<String, String>) -> Self {
        if demand == Demand::Off {
            return Self {
                state: LayerState::Off,
                detail: "switched off by the configuration".to_owned(),
            };
        }
        match outcome() {
            Ok(detail) => Self {
                state: LayerState::Active,
                detail,
            },
            Err(detail) => Self {
                state: LayerState::Unavailable,
                detail,
            },
        }
    }
}

/// All layers, as the admin plane shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SandboxStatus {
    /// The way to new privileges is closed.
    pub no_new_privs: Layer,
    /// Capabilities.
    pub capabilities: Layer,
    /// Files.
    pub landlock: Layer,
    /// System calls.
    pub seccomp: Layer,
}

/// A layer that the configuration requires cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sandbox.{layer} is required and cannot be had: {reason}")]
pub struct SandboxError {
    /// Its key in the configuration.
    pub layer: &'static str,
    /// Why.
    pub reason: String,
}

/// Applies all layers to this thread and those it will start. Call it once, while the process has one thread;
/// otherwise nothing is applied and the status says so. It fails if a required layer cannot be had; then the others
/// are applied and the process should end.
pub fn apply(config: &SandboxConfig) -> Result<SandboxStatus, SandboxError> {
    apply_with(config, threads())
}

fn apply_with(config: &SandboxConfig, threads: Option<usize>) -> Result<SandboxStatus, SandboxError> {
    let layers = config.layers;
    let layer = |demand: Demand, outcome: &dyn Fn() -> Result<String, String>| {
        Layer::of(demand, || match threads {
            Some(1) => outcome(),
            Some(n) => Err(format!("{n} threads run already, which it would not cover")),
            None => Err("the threads of this process cannot be counted: /proc is not there".to_owned()),
        })
    };
    // Capabilities after no_new_privs, files after capabilities: the later steps need less than the earlier give
    // up. System calls last, as their list has no place for those of the steps before.
    let status = SandboxStatus {
        no_new_privs: layer(layers.capabilities, &no_new_privs),
        capabilities: layer(layers.capabilities, &|| capabilities::drop_all_but_needed(config)),
        landlock: layer(layers.landlock, &|| landlock::restrict(config)),
        seccomp: layer(layers.seccomp, &seccomp::restrict),
    };
    for (name, demand, layer) in [
        ("capabilities", layers.capabilities, &status.no_new_privs),
        ("capabilities", layers.capabilities, &status.capabilities),
        ("landlock", layers.landlock, &status.landlock),
        ("seccomp", layers.seccomp, &status.seccomp),
    ] {
        if demand == Demand::Required && layer.state != LayerState::Active {
            return Err(SandboxError {
                layer: name,
                reason: layer.detail.clone(),
            });
        }
    }
    Ok(status)
}

/// Threads of this process.
fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

fn no_new_privs() -> Result<String, String> {
    match rustix::thread::set_no_new_privs(true) {
        Ok(()) => Ok("no program can be started with more privileges".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
