//! Commands that need no running gateway.

use super::args::{CheckArgs, ConfigArgs, PasswordArgs};
use super::{Done, Failure, Hooks, password, render};
use crate::config::{Config, LoadError, Modules, changes};
use serde_json::json;
use sluice_auth::{Argon2Cost, Secret, check_new_password};
use sluice_auth_backends::hash_now;
use std::io::Write;

fn problems(error: &LoadError, json_wanted: bool, out: &mut dyn Write) -> Failure {
    let problems = error.problems();
    if json_wanted {
        let list: Vec<_> = problems
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.file, "line": problem.line, "column": problem.column,
                    "key": problem.key, "message": problem.message,
                })
            })
            .collect();
        let printed = writeln!(out, "{:#}", json!({ "valid": false, "problems": list }));
        if printed.is_err() {
            return Failure::Closed;
        }
    }
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::Usage(lines.join("\n"))
}

pub(super) fn check_config(
    args: &CheckArgs,
    json_wanted: bool,
    modules: Modules<'_>,
    out: &mut dyn Write,
) -> Done {
    let file = args.file.as_deref().or(args.config.as_deref());
    let load = |file| Config::load(file, modules);
    let config = load(file).map_err(|error| problems(&error, json_wanted, out))?;
    if let Some(other) = &args.against {
        let other = load(Some(other.as_path())).map_err(|error| problems(&error, json_wanted, out))?;
        let changes = changes(&other, &config);
        let values = serde_json::to_value(&changes).unwrap_or_default();
        if json_wanted {
            return Ok(writeln!(
                out,
                "{:#}",
                json!({ "valid": true, "changes": values })
            )?);
        }
        return render::changes(&values, out);
    }
    let settings = config.redacted();
    if json_wanted {
        let shown = if args.show { settings } else { Vec::new() };
        return Ok(writeln!(
            out,
            "{:#}",
            json!({ "valid": true, "problems": [], "settings": shown })
        )?);
    }
    if args.show {
        for shown in settings {
            let mark = if shown.default { "  # default" } else { "" };
            writeln!(out, "{} = {}{mark}", shown.key, shown.value)?;
        }
        return Ok(());
    }
    writeln!(out, "{}: no problem", config.source)?;
    Ok(())
}

pub(super) fn dry_run(args: &ConfigArgs, json_wanted: bool, hooks: &Hooks, out: &mut dyn Write) -> Done {
    let config = Config::load(args.config.as_deref(), hooks.modules)
        .map_err(|error| problems(&error, json_wanted, out))?;
    let changes = (hooks.dry_run)(&config).map_err(Failure::Refused)?;
    if json_wanted {
        let items: Vec<_> = changes
            .iter()
            .map(|change| json!({ "what": change.what, "done": change.done, "detail": change.detail }))
            .collect();
        return Ok(writeln!(out, "{:#}", json!({ "items": items, "next": null }))?);
    }
    if changes.is_empty() {
        return Ok(writeln!(out, "nothing: this host is as the gateway wants it")?);
    }
    for change in changes {
        let sign = if change.done {
            "is there already"
        } else {
            "would be made"
        };
        let detail = match change.detail.as_str() {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        writeln!(out, "{}: {sign}{detail}", change.what)?;
    }
    Ok(())
}

/// Prints the hash of a new password, as a users file has it.
pub(super) fn hash(args: &PasswordArgs, out: &mut dyn Write) -> Done {
    let (password, made_up) = password::get(args)?;
    let secret = Secret::new(password.clone());
    check_new_password(&secret).map_err(|weak| Failure::Refused(weak.to_string()))?;
    let hash = hash_now(Argon2Cost::DEFAULT, &secret).map_err(|error| Failure::Refused(error.to_string()))?;
    if made_up {
        writeln!(out, "{password}")?;
    }
    writeln!(out, "{}", hash.to_phc())?;
    Ok(())
}
