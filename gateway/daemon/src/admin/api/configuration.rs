//! The configuration.

use super::{Result, blocking};
use crate::admin::call::{Call, json, noted};
use crate::admin::configs::ReloadError;
use crate::admin::problem::{Detail, Problem};
use crate::admin::views;
use crate::config::{Change, Impact};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One value.
#[derive(Serialize, ToSchema)]
pub(crate) struct Setting {
    /// The key with its tables.
    key: String,
    /// The value as TOML writes it; `(secret)` for secrets.
    value: String,
    /// Whether the file did not give it.
    default: bool,
}

/// One difference between two configurations.
#[derive(Serialize, ToSchema)]
#[schema(as = ConfigChange)]
pub(crate) struct ChangeView {
    key: String,
    /// The value before; null: there was none.
    before: Option<String>,
    /// The value after; null: there is none any more.
    after: Option<String>,
    /// `now`, `new_sessions` (those that start from then on) or `restart`.
    applies: &'static str,
}

impl From<Change> for ChangeView {
    fn from(change: Change) -> Self {
        Self {
            key: change.key,
            before: change.before,
            after: change.after,
            applies: match change.applies {
                Impact::Now => "now",
                Impact::NewSessions => "new_sessions",
                Impact::Restart => "restart",
            },
        }
    }
}

fn change_views(changes: Vec<Change>) -> Vec<ChangeView> {
    changes.into_iter().map(ChangeView::from).collect()
}

/// One thing wrong with a configuration.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConfigProblem {
    file: String,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The key meant; empty where no single one is.
    key: String,
    message: String,
}

fn problem_view(problem: sluice_spi::config::Problem) -> ConfigProblem {
    ConfigProblem {
        file: problem.file,
        line: problem.line,
        column: problem.column,
        key: problem.key,
        message: problem.message,
    }
}

/// How the last reload went.
#[derive(Serialize, ToSchema)]
pub(crate) struct LastReload {
    time: String,
    /// What was wrong; null: it went well.
    error: Option<String>,
}

/// The configuration in use.
#[derive(Serialize, ToSchema)]
#[schema(as = Config)]
pub(crate) struct Shown {
    /// Where it came from.
    source: String,
    settings: Vec<Setting>,
    /// What waits for a restart.
    pending: Vec<ChangeView>,
    /// null: there was none since the worker started.
    last_reload: Option<LastReload>,
}

pub(crate) async fn show(call: Call) -> Result {
    let configs = call.plane.configs();
    let config = configs.current();
    let settings = config.redacted().into_iter().map(|shown| Setting {
        key: shown.key,
        value: shown.value,
        default: shown.default,
    });
    let last_reload = configs.last_reload().map(|last| LastReload {
        time: views::time(last.at),
        error: last.error,
    });
    json(
        StatusCode::OK,
        &Shown {
            source: config.source.clone(),
            settings: settings.collect(),
            pending: change_views(configs.pending()),
            last_reload,
        },
    )
}

/// What to check.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CheckConfig)]
pub(crate) struct Check {
    /// A whole configuration; null: the gateway's own file as it is now.
    text: Option<String>,
}

/// What was found.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckedConfig)]
pub(crate) struct Checked {
    valid: bool,
    problems: Vec<ConfigProblem>,
    /// What would change.
    changes: Vec<ChangeView>,
}

pub(crate) async fn check(call: Call) -> Result {
    let Check { text } = call.json()?;
    let configs = call.plane.configs().clone();
    let checked = blocking(move || configs.check(text.as_deref())).await?;
    let (problems, changes) = match checked {
        Ok(changes) => (Vec::new(), changes),
        Err(problems) => (problems, Vec::new()),
    };
    json(
        StatusCode::OK,
        &Checked {
            valid: problems.is_empty(),
            problems: problems.into_iter().map(problem_view).collect(),
            changes: change_views(changes),
        },
    )
}

/// What a reload did.
#[derive(Serialize, ToSchema)]
#[schema(as = ReloadedConfig)]
pub(crate) struct Reloaded {
    changes: Vec<ChangeView>,
    /// Whether some of the changes wait for a restart.
    restart_needed: bool,
    /// Sessions that keep an address which no pool has any more.
    orphans: usize,
    /// What did not take effect, and why.
    notes: Vec<String>,
}

pub(crate) async fn reload(call: Call) -> Result {
    let reload = call.plane.reload().await.map_err(reload_problem)?;
    let restart_needed = reload
        .changes
        .iter()
        .any(|change| change.applies == Impact::Restart);
    let keys: Vec<&str> = reload.changes.iter().map(|change| change.key.as_str()).collect();
    let note = format!(
        "changes: {}",
        if keys.is_empty() {
            "none".to_owned()
        } else {
            keys.join(", ")
        }
    );
    let answer = json(
        StatusCode::OK,
        &Reloaded {
            changes: change_views(reload.changes),
            restart_needed,
            orphans: reload.applied.orphans,
            notes: reload.applied.notes,
        },
    )?;
    Ok(noted(answer, note))
}

fn reload_problem(error: ReloadError) -> Problem {
    match error {
        ReloadError::Control(error) => error.into(),
        ReloadError::Problems(error) => {
            let errors = error.problems().into_iter().map(Detail::from);
            let mut problem = Problem::invalid(errors.collect());
            problem.detail = match problem.errors.len() {
                1 => "the configuration has a problem".to_owned(),
                count => format!("the configuration has {count} problems"),
            };
            problem.detail.push_str("; the former one stays in use");
            problem
        }
    }
}
