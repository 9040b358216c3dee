//! Answers for people.

use super::{Done, Failure};
use serde_json::Value;
use std::io::Write;

/// Widest cell of a table, in characters; longer ones are cut.
const MAX_CELL: usize = 60;

/// A value as a cell shows it.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    printable(&text)
}

/// A text that cannot command a terminal. The gateway escapes what peers say; what else a server sends must not
/// either.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The value at a pointer of an item, as a cell.
pub(super) fn at(item: &Value, pointer: &str) -> String {
    cell(item.pointer(pointer).unwrap_or(&Value::Null))
}

/// A table: titles in capitals, columns as wide as they need.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>], out: &mut dyn Write) -> Done {
    let cut = |text: &String| -> String {
        match text.chars().count() > MAX_CELL {
            true => text.chars().take(MAX_CELL - 1).chain(['…']).collect(),
            false => text.clone(),
        }
    };
    let head = titles.iter().map(|title| (*title).to_owned()).collect();
    let body = rows.iter().map(|row| row.iter().map(cut).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    for line in lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// A table of items: for each column its title and the pointer to its value.
pub(super) fn items(items: &[Value], columns: &[(&str, &str)], out: &mut dyn Write) -> Done {
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| columns.iter().map(|(_, pointer)| at(item, pointer)).collect())
        .collect();
    table(&titles, &rows, out)
}

/// What a policy decides and why.
pub(super) fn explanation(answer: &Value, out: &mut dyn Write) -> Done {
    let (verdict, by) = (at(answer, "/verdict"), at(answer, "/by"));
    let special = answer.get("special").and_then(Value::as_str).is_some();
    match (verdict.as_str(), by.as_str()) {
        ("depends", _) => writeln!(
            out,
            "depends on what the name resolves to: ask again with --address, or for an address"
        )?,
        (_, "rule") => writeln!(out, "{verdict}: rule {}", at(answer, "/rule"))?,
        (_, "default") => writeln!(out, "{verdict}: no rule decides, so the default does")?,
        _ => writeln!(
            out,
            "{verdict}: the destination is special ({by}), and no rule opens it"
        )?,
    }
    if special && by == "rule" {
        writeln!(out, "the destination is special ({})", at(answer, "/special"))?;
    }
    if let Some(effects) = answer.get("effects").and_then(Value::as_object) {
        for (key, value) in effects {
            writeln!(out, "  {key}  {}", cell(value))?;
        }
    }
    let passed = answer.get("passed").and_then(Value::as_array);
    let passed = passed.map_or(&[][..], Vec::as_slice);
    if passed.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let columns = [
        ("PASSED RULE", "/rule"),
        ("ACTION", "/action"),
        ("BECAUSE OF", "/key"),
        ("MAY STILL HOLD", "/open"),
    ];
    items(passed, &columns, out)
}

/// One thing with all it has, a line each; what is in it is indented.
pub(super) fn thing(value: &Value, out: &mut dyn Write) -> Done {
    nested(value, 0, out)
}

fn nested(value: &Value, depth: usize, out: &mut dyn Write) -> Done {
    let Some(object) = value.as_object() else {
        writeln!(out, "{}", cell(value))?;
        return Ok(());
    };
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let indent = "  ".repeat(depth);
    for (key, value) in object {
        match value {
            Value::Object(inner) if inner.is_empty() => {}
            Value::Object(_) => {
                writeln!(out, "{indent}{key}:")?;
                nested(value, depth + 1, out)?;
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                writeln!(out, "{indent}{key}:")?;
                for item in list {
                    writeln!(out, "{indent}  -")?;
                    nested(item, depth + 2, out)?;
                }
            }
            Value::Null => {}
            other => writeln!(out, "{indent}{key:<width$}  {}", cell(other))?,
        }
    }
    Ok(())
}

/// A list of differences between configurations.
pub(super) fn changes(changes: &Value, out: &mut dyn Write) -> Done {
    let Some(list) = changes.as_array().filter(|list| !list.is_empty()) else {
        writeln!(out, "no difference")?;
        return Ok(());
    };
    let columns = [
        ("KEY", "/key"),
        ("BEFORE", "/before"),
        ("AFTER", "/after"),
        ("APPLIES", "/applies"),
    ];
    items(list, &columns, out)
}

/// The answer as the gateway gave it.
pub(super) fn json(value: &Value, out: &mut dyn Write) -> Done {
    writeln!(out, "{value:#}").map_err(Failure::from)
}

/// Seconds as people say them.
pub(super) fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_line_up_and_hold_no_control_character() {
        let list = [
            json!({ "a": "x\u{1b}[31m", "b": 5 }),
            json!({ "a": null, "b": ["1", "2"] }),
            json!({ "a": "y".repeat(100) }),
        ];
        let mut out = Vec::new();
        items(&list, &[("A", "/a"), ("B", "/b")], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let pad = " ".repeat(60 - 6);
        assert_eq!(lines[1], format!("x?[31m{pad}  5"));
        assert_eq!(lines[2], format!("-{}  1 2", " ".repeat(59)));
        assert_eq!(lines[3], format!("{}…  -", "y".repeat(59)));
    }

    #[test]
    fn time_is_told_in_two_units_at_most() {
        let shown: Vec<String> = [5, 65, 3_700, 90_000].into_iter().map(seconds).collect();
        assert_eq!(shown, ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
