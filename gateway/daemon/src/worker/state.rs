//! The state directory: users, tokens and the audit log, made where they are missing.

use super::CannotStart;
use super::kept::KeptText;
use crate::admin::{Audit, Opened, Scope, Tokens};
use crate::config::{Config, EMBEDDED_NAME};
use sluice_auth::{Argon2Cost, Identity, Secret, format_timestamp};
use sluice_auth_backends::{Keep, MAX_USERS_FILE, User, UsersFile, generate_password, hash_now};
use sluice_keeper::Link;
use sluice_registry::MODULES;
use std::fs::DirBuilder;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The user that a gateway without a configuration makes, so that a first client can connect at once.
const FIRST_USER: &str = "demo";

/// The name of the users' text with the keeper.
const USERS: &str = "users";

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

/// Opens everything in the state directory. What is wrong with it keeps the first worker from starting; a later
/// one says so and goes on, as live sessions matter more.
pub(super) fn open(config: &Config, link: &Link, first: bool) -> Result<State, CannotStart> {
    let embedded = config.source == EMBEDDED_NAME;
    let bearable = |result: Result<(), CannotStart>| match result {
        Err(error) if !first => {
            tracing::error!("{}", error.text);
            Ok(())
        }
        result => result,
    };
    bearable(prepare(&config.gateway.state_dir))?;
    let (users, first_user) = users(config, link, first)?;
    let (tokens, first_token) = tokens(config, embedded && first)?;
    let audit = Audit::new(&config.admin.audit_file, Instant::now());
    bearable(audit.check().map_err(|error| {
        let file = config.admin.audit_file.display();
        CannotStart::because(format!("the audit log {file}: {error}"))
    }))?;
    Ok(State {
        users,
        tokens,
        audit,
        first_user,
        first_token,
    })
}

/// What keeps a new worker from taking over with everything that this one has, if anything.
pub(super) fn check(config: &Config) -> Result<(), String> {
    prepare(&config.gateway.state_dir).map_err(|error| error.text)?;
    let users = UsersFile::open(&config.users.file, protocols());
    users.map(drop).map_err(|error| error.to_string())
}

/// The protocols that users may be permitted.
fn protocols() -> Vec<&'static str> {
    MODULES.iter().map(|module| module.descriptor().name).collect()
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

/// The users: those that the worker before had, until the file is read anew, or those of the file.
fn users(config: &Config, link: &Link, first: bool) -> Result<(UsersFile, Option<FirstUser>), CannotStart> {
    let path = &config.users.file;
    let kept = Arc::new(KeptText::open(link, USERS, MAX_USERS_FILE)?);
    let keep = |kept: &Arc<KeptText>| -> Keep {
        let kept = kept.clone();
        Box::new(move |text| {
            if let Err(error) = kept.keep(text) {
                tracing::warn!("the users cannot be kept for the next worker: {error}");
            }
        })
    };
    if !first
        && let Some(text) = kept.recall()
        && let Ok(users) = UsersFile::resume(path, protocols(), &text, keep(&kept))
    {
        return Ok((users, None));
    }
    let missing = std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if missing {
        UsersFile::create(path).map_err(CannotStart::because)?;
    }
    let users = UsersFile::open_keeping(path, protocols(), keep(&kept)).map_err(CannotStart::because)?;
    if users.is_exposed().unwrap_or(false) {
        tracing::warn!(
            "the users file {0} holds password hashes and others than its owner can read or write it: chmod 600 {0}",
            path.display()
        );
    }
    if !(missing && first && config.source == EMBEDDED_NAME) {
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
fn tokens(config: &Config, greeted: bool) -> Result<(Tokens, Option<Secret>), CannotStart> {
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
    let shown = greeted || std::io::stdout().is_terminal();
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
