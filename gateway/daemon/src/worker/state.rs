//! The state directory: users, tokens and the audit log, made where they are missing.

use super::CannotStart;
use crate::admin::{Audit, Opened, Scope, Tokens};
use crate::config::{Config, EMBEDDED_NAME};
use sluice_auth::{Argon2Cost, Identity, Secret, format_timestamp};
use sluice_auth_backends::{User, UsersFile, generate_password, hash_now};
use sluice_registry::MODULES;
use std::fs::DirBuilder;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// The user that a gateway without a configuration makes, so that a first client can connect at once.
const FIRST_USER: &str = "demo";

/// A user's name and password.
type FirstUser = (&'static str, Secret);

/// What is kept in the state directory.
pub(super) struct State {
    pub(super) users: UsersFile,
    pub(super) tokens: Tokens,
    pub(super) audit: Audit,
    /// Made just now: to be shown once.
    pub(super) first_user: Option<FirstUser>,
    /// Made just now: to be shown once.
    pub(super) first_token: Option<Secret>,
}

/// Opens everything in the state directory.
pub(super) fn open(config: &Config) -> Result<State, CannotStart> {
    let embedded = config.source == EMBEDDED_NAME;
    prepare(&config.gateway.state_dir)?;
    let (users, first_user) = users(config, embedded)?;
    let (tokens, first_token) = tokens(config, embedded)?;
    let audit = &config.admin.audit_file;
    let audit = Audit::open(audit, Instant::now())
        .map_err(|error| CannotStart::because(format!("the audit log {}: {error}", audit.display())))?;
    Ok(State {
        users,
        tokens,
        audit,
        first_user,
        first_token,
    })
}

/// Makes the directory, for nobody else's eyes, and sees whether it can be written.
fn prepare(directory: &Path) -> Result<(), CannotStart> {
    let failed = |error: std::io::Error| {
        let shown = directory.display();
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => {
                "; give this user the directory, or name another as gateway.state_dir"
            }
            ErrorKind::ReadOnlyFilesystem => "; name a directory that can be written as gateway.state_dir",
            ErrorKind::StorageFull => "; free some space there",
            _ => "",
        };
        CannotStart::because(format!(
            "the state directory {shown} cannot be used: {error}{hint}"
        ))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let probe = directory.join(".writable");
    std::fs::write(&probe, b"x").map_err(failed)?;
    std::fs::remove_file(&probe).map_err(failed)
}

fn users(config: &Config, embedded: bool) -> Result<(UsersFile, Option<FirstUser>), CannotStart> {
    let path = &config.users.file;
    let missing = std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if missing {
        UsersFile::create(path).map_err(CannotStart::because)?;
    }
    let protocols = MODULES.iter().map(|module| module.descriptor().name).collect();
    let users = UsersFile::open(path, protocols).map_err(CannotStart::because)?;
    if users.is_exposed().unwrap_or(false) {
        tracing::warn!(
            "the users file {0} holds password hashes and others than its owner can read or write it: chmod 600 {0}",
            path.display()
        );
    }
    if !(missing && embedded) {
        return Ok((users, None));
    }
    let password = generate_password().map_err(CannotStart::because)?;
    let hash = hash_now(Argon2Cost::DEFAULT, &password).map_err(CannotStart::because)?;
    let name = Identity::parse(FIRST_USER.as_bytes());
    let name = name.ok_or_else(|| CannotStart::because("the first user's name is none"))?;
    users
        .create_user(&User::new(name, hash))
        .map_err(CannotStart::because)?;
    Ok((users, Some((FIRST_USER, password))))
}

/// The tokens. A first admin token that nobody would see is not kept: the local socket needs none.
fn tokens(config: &Config, embedded: bool) -> Result<(Tokens, Option<Secret>), CannotStart> {
    let now = format_timestamp(SystemTime::now());
    let opened = Tokens::open(&config.admin.tokens_file, &now).map_err(CannotStart::because)?;
    let Opened {
        tokens,
        first,
        warning,
    } = opened;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let shown = embedded || std::io::stdout().is_terminal();
    if first.is_some() && !shown {
        for token in tokens.list() {
            tokens.delete(&token.id).map_err(CannotStart::because)?;
        }
        tracing::info!(
            "there is no token for the API yet: run `sluice tokens add {}` on this machine to make one",
            Scope::Admin.as_str()
        );
        return Ok((tokens, None));
    }
    Ok((tokens, first))
}
