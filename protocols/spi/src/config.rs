//! Reading configuration: a walk over a TOML document that finds *all* problems at once, each with its file,
//! line, column and key, and that notices keys nobody asked for.

use sluice_auth::Secret;
use std::cell::RefCell;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key meant, with its tables: `listener[0].l2tp.hello_interval`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// One value that a configuration was read to, whether the file gave it or it is a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key with its tables: `listener[0].l2tp.hello_interval`.
    pub key: String,
    /// The value.
    pub value: SettingValue,
    /// Whether the file gave it.
    pub given: bool,
}

/// The value of a [`Setting`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// As TOML would write it.
    Plain(String),
    /// Read by [`Section::secret`]: it can be compared, and is never shown.
    Secret(Secret),
}

/// A configuration that was read without a problem.
#[derive(Debug)]
pub struct Document<R> {
    /// What the reading function gave.
    pub value: R,
    /// Every value it was read to, in the order of reading.
    pub settings: Vec<Setting>,
}

/// What all sections of one document share.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    /// `None`: nobody wants them.
    settings: Option<RefCell<Vec<Setting>>>,
}

/// Most problems reported of one document. Each costs a count of lines, and nobody reads more.
const MAX_PROBLEMS: usize = 1000;

impl Source<'_> {
    fn record(&self, key: String, value: SettingValue, given: bool) {
        if let Some(settings) = &self.settings {
            settings.borrow_mut().push(Setting { key, value, given });
        }
    }

    /// Line and column of a byte, from 1.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    fn report(&self, at: usize, key: String, message: String) {
        if self.problems.borrow().len() >= MAX_PROBLEMS {
            return;
        }
        let (line, column) = self.place(at);
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line,
            column,
            key,
            message,
        });
    }
}

/// Reads a document by `read`, which is given its root. `Err` holds every problem found by `read`, by the
/// parser, and every key that `read` did not ask for, in the order of the file.
pub fn read<R>(file: &str, text: &str, read: impl FnOnce(&Section<'_>) -> R) -> Result<R, Vec<Problem>> {
    read_source(file, text, None, read).map(|document| document.value)
}

/// Like [`read`], and gives the values it was read to as well, for showing and comparing configurations.
pub fn read_document<R>(
    file: &str,
    text: &str,
    read: impl FnOnce(&Section<'_>) -> R,
) -> Result<Document<R>, Vec<Problem>> {
    read_source(file, text, Some(RefCell::default()), read)
}

fn read_source<R>(
    file: &str,
    text: &str,
    settings: Option<RefCell<Vec<Setting>>>,
    read: impl FnOnce(&Section<'_>) -> R,
) -> Result<Document<R>, Vec<Problem>> {
    let source = Source {
        file,
        text,
        problems: RefCell::new(Vec::new()),
        settings,
    };
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let at = error.span().map_or(0, |span| span.start);
        source.report(
            at,
            String::new(),
            format!("not valid TOML: {}", error.message().trim()),
        );
    }
    let root = root.into_inner();
    let value = {
        let section = Section::new(&source, String::new(), Some(&root), 0);
        read(&section)
    };
    let mut problems = source.problems.into_inner();
    if problems.is_empty() {
        let settings = source.settings.map(RefCell::into_inner).unwrap_or_default();
        return Ok(Document { value, settings });
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(problems)
}

/// One table of a configuration. Every key is asked for by one of the methods; when the section is dropped,
/// the keys nobody asked for are reported. Each method reports what is wrong with its value and then gives the
/// default, so that reading goes on to the next problem.
pub struct Section<'a> {
    source: &'a Source<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    at: usize,
    asked: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    fn new(source: &'a Source<'a>, path: String, table: Option<&'a DeTable<'a>>, at: usize) -> Self {
        Self {
            source,
            path,
            table,
            at,
            asked: RefCell::new(Vec::new()),
        }
    }

    fn full_key(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    fn find(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key.to_owned());
        self.table?
            .iter()
            .find(|(name, _)| name.get_ref().as_ref() == key)
            .map(|(_, value)| value)
    }

    fn record(&self, key: &str, value: impl fmt::Display, given: bool) {
        let value = SettingValue::Plain(value.to_string());
        self.source.record(self.full_key(key), value, given);
    }

    fn report_at(&self, key: &str, span: Range<usize>, message: impl Into<String>) {
        self.source.report(span.start, self.full_key(key), message.into());
    }

    /// Where this section came from, with its tables, such as `listener[0].l2tp`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line of the file on which this section begins, from 1; that of the table around it where the file does
    /// not have it.
    pub fn line(&self) -> usize {
        self.source.place(self.at).0
    }

    /// Whether the file has this key.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Reports a problem with a key, such as one that contradicts another; at the section's own place where
    /// the key is not in the file. With an empty key the problem is the section itself.
    pub fn report(&self, key: &str, message: impl Into<String>) {
        let at = self.find(key).map_or(self.at..self.at, Spanned::span);
        self.report_at(key, at, message);
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.report_at(
            key,
            value.span(),
            format!("must be {wanted}, not {} {found}", article(found)),
        );
    }

    /// A string, where the file has one.
    pub fn text(&self, key: &str) -> Option<String> {
        let text = self.read_text(key)?;
        self.record(key, quoted(&text), true);
        Some(text)
    }

    fn read_text(&self, key: &str) -> Option<String> {
        let value = self.find(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    /// A string, or a default.
    pub fn text_or(&self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| {
            self.record(key, quoted(default), false);
            default.to_owned()
        })
    }

    /// A string that must be there.
    pub fn required_text(&self, key: &str) -> String {
        if !self.has(key) {
            self.report(key, "is missing");
        }
        self.text_or(key, "")
    }

    /// A boolean, or a default.
    pub fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.find(key) else {
            self.record(key, default, false);
            return default;
        };
        let boolean = value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false");
            default
        });
        self.record(key, boolean, true);
        boolean
    }

    /// A whole number in a range, or a default.
    pub fn integer(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional_integer(key, range).unwrap_or_else(|| {
            self.record(key, default, false);
            default
        })
    }

    /// A whole number in a range, where the file has one.
    pub fn optional_integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.find(key)?;
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, &wanted);
            return None;
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => {
                self.record(key, number, true);
                Some(number)
            }
            _ => {
                self.report_at(key, value.span(), format!("must be {wanted}"));
                None
            }
        }
    }

    /// A duration such as `"200ms"`, `"5s"`, `"1h30m"` in a range, or a default.
    pub fn duration(&self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.optional_duration(key, range).unwrap_or_else(|| {
            self.record(key, quoted(&format_duration(default)), false);
            default
        })
    }

    /// A duration in a range, where the file has one.
    pub fn optional_duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.find(key)?;
        let wanted = format!(
            "a duration such as \"5s\" from {} to {}",
            format_duration(*range.start()),
            format_duration(*range.end())
        );
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, &wanted);
            return None;
        };
        match parse_duration(text) {
            Some(duration) if range.contains(&duration) => {
                self.record(key, quoted(&format_duration(duration)), true);
                Some(duration)
            }
            _ => {
                self.report_at(key, value.span(), format!("must be {wanted}, not {text:?}"));
                None
            }
        }
    }

    /// A string that reads as a `T`, where the file has one; `wanted` says what that is: "an IPv4 address".
    pub fn parsed<T: FromStr>(&self, key: &str, wanted: &str) -> Option<T> {
        let value = self.find(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, wanted);
            return None;
        };
        self.record(key, quoted(text), true);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.report_at(key, value.span(), format!("must be {wanted}, not {text:?}"));
        }
        parsed
    }

    /// An array of strings that read as `T`s; empty where the file has none.
    pub fn list<T: FromStr>(&self, key: &str, wanted: &str) -> Vec<T> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("an array, each {wanted}"));
            return Vec::new();
        };
        let words: Vec<String> = array
            .iter()
            .filter_map(|item| item.get_ref().as_str().map(quoted))
            .collect();
        self.record(key, format_args!("[{}]", words.join(", ")), true);
        let mut list = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str().map(str::parse) {
                Some(Ok(parsed)) => list.push(parsed),
                Some(Err(_)) => {
                    let text = item.get_ref().as_str().unwrap_or("");
                    self.report_at(key, item.span(), format!("must be {wanted}, not {text:?}"));
                }
                None => self.wrong_type(key, item, wanted),
            }
        }
        list
    }

    /// Like [`Section::list`], where an empty array is a mistake: it says the opposite of none at all.
    pub fn non_empty_list<T: FromStr>(&self, key: &str, wanted: &str) -> Vec<T> {
        let empty = self.find(key).is_some_and(|value| {
            let array = value.get_ref().as_array();
            array.is_some_and(|array| array.iter().next().is_none())
        });
        if empty {
            self.report(key, format!("must not be empty: leave it out, or give {wanted}"));
        }
        self.list(key, wanted)
    }

    /// One of several words, or a default.
    ///
    /// The default is shown by the word that stands for an equal choice.
    pub fn choice<T: Copy + PartialEq>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(value) = self.find(key) else {
            if let Some((word, _)) = choices.iter().find(|(_, choice)| *choice == default) {
                self.record(key, quoted(word), false);
            }
            return default;
        };
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let wanted = format!("one of {}", words.join(", "));
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(key, value, &wanted);
            return default;
        };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((word, choice)) => {
                self.record(key, quoted(word), true);
                *choice
            }
            None => {
                self.report_at(key, value.span(), format!("must be {wanted}, not {text:?}"));
                default
            }
        }
    }

    /// A secret: the string under `key`, or the first line of the file named by `key` with `_file` added.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        let secret = self.read_secret(key)?;
        self.source
            .record(self.full_key(key), SettingValue::Secret(secret.clone()), true);
        Some(secret)
    }

    fn read_secret(&self, key: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let inline = self.read_text(key);
        let Some(file) = self.text(&file_key) else {
            return inline.map(Secret::new);
        };
        if inline.is_some() {
            self.report(
                &file_key,
                format!("only one of {key} and {file_key} may be given"),
            );
        }
        match std::fs::read_to_string(&file) {
            Ok(text) => Some(Secret::new(text.lines().next().unwrap_or("").to_owned())),
            Err(error) => {
                self.report(&file_key, format!("cannot read {file}: {error}"));
                None
            }
        }
    }

    /// A table below this one; where the file has none, an empty one, so that its defaults are read.
    pub fn section(&self, key: &str) -> Section<'a> {
        let path = self.full_key(key);
        let Some(value) = self.find(key) else {
            return Section::new(self.source, path, None, self.at);
        };
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(key, value, "a table");
        }
        Section::new(self.source, path, table, value.span().start)
    }

    /// The tables of a table of tables, such as `[pools.home]` and `[pools.office]`, with their names, in the
    /// order of the names; empty where the file has none.
    pub fn named_sections(&self, key: &str) -> Vec<(String, Section<'a>)> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(
                key,
                value,
                &format!("a table of tables: [{}.NAME]", self.full_key(key)),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, item) in table.iter() {
            let name = name.get_ref().as_ref();
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}.{name}", self.full_key(key));
                    let section = Section::new(self.source, path, Some(table), item.span().start);
                    sections.push((name.to_owned(), section));
                }
                None => self.wrong_type(&format!("{key}.{name}"), item, "a table"),
            }
        }
        sections
    }

    /// An array of tables below this one; empty where the file has none.
    pub fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(
                key,
                value,
                &format!("an array of tables: [[{}]]", self.full_key(key)),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in array.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}[{index}]", self.full_key(key));
                    sections.push(Section::new(self.source, path, Some(table), item.span().start));
                }
                None => self.wrong_type(key, item, "a table"),
            }
        }
        sections
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let Some(table) = self.table else { return };
        let asked = self.asked.borrow();
        for (name, _) in table.iter() {
            let key = name.get_ref().as_ref();
            if asked.iter().any(|asked| asked == key) {
                continue;
            }
            let mut message = "is not a key of this table".to_owned();
            if let Some(near) = asked
                .iter()
                .filter(|asked| distance(asked, key) <= 2)
                .min_by_key(|a| distance(a, key))
            {
                message.push_str(&format!("; did you mean {near}?"));
            }
            self.report_at(key, name.span(), message);
        }
    }
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// Reads a duration written as numbers with units: `ms`, `s`, `m`, `h`, `d`. `None` where the text is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_length = match rest.get(..unit)? {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86400),
            _ => return None,
        };
        total = total.checked_add(unit_length.checked_mul(number)?)?;
        rest = rest.get(unit..)?;
    }
    Some(total)
}

/// Writes a duration so that [`parse_duration`] reads it back, to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    let mut out = String::new();
    let mut seconds = duration.as_secs();
    for (length, unit) in [(86400, "d"), (3600, "h"), (60, "m"), (1, "s")] {
        if seconds >= length {
            out.push_str(&format!("{}{unit}", seconds / length));
            seconds %= length;
        }
    }
    if duration.subsec_millis() > 0 || out.is_empty() {
        out.push_str(&format!("{}ms", duration.subsec_millis()));
    }
    out
}

/// Number of single-character edits between two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
