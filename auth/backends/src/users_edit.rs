//! Changes to the text of a users file that leave everything else in it as it is, comments included.

use crate::user::User;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TomlError, Value};

/// The key of the array of users.
const USERS: &str = "user";

/// A users file as text with its structure.
pub(crate) struct UsersText(DocumentMut);

impl UsersText {
    /// Reads a text that was found to be valid before.
    pub(crate) fn parse(text: &str) -> Result<Self, TomlError> {
        text.parse().map(Self)
    }

    /// The text as it is now.
    pub(crate) fn into_text(self) -> String {
        self.0.to_string()
    }

    /// The array of users; made where there is none, and turned into tables where it was written in line.
    fn users(&mut self) -> Option<&mut ArrayOfTables> {
        let item = self.0.entry(USERS).or_insert_with(|| ArrayOfTables::new().into());
        if !item.is_array_of_tables() {
            let tables = std::mem::take(item).into_array_of_tables();
            *item = tables.map_or_else(|item| item, Item::ArrayOfTables);
        }
        item.as_array_of_tables_mut()
    }

    fn index_of(&mut self, name: &str) -> Option<usize> {
        self.users()?
            .iter()
            .position(|user| user.get("name").and_then(Item::as_str) == Some(name))
    }

    /// Adds a user at the end. False where the text has no place for users.
    pub(crate) fn add(&mut self, user: &User) -> bool {
        let mut table = Table::new();
        for (key, value) in user.fields() {
            if let Some(value) = value {
                table.insert(key, Item::Value(value));
            }
        }
        let first = self.users().is_some_and(|users| users.is_empty());
        if !first {
            table.decor_mut().set_prefix("\n");
        } else if self.0.iter().all(|(key, _)| key == USERS) {
            // All that a text without tables has is its heading, which stays at the top.
            let heading = self.0.trailing().as_str().unwrap_or("").trim_end().to_owned();
            if !heading.is_empty() {
                table.decor_mut().set_prefix(format!("{heading}\n\n"));
                self.0.set_trailing("");
            }
        }
        let Some(users) = self.users() else {
            return false;
        };
        users.push(table);
        true
    }

    /// Writes what is different between two states of a user. False where it is not in the text.
    pub(crate) fn change(&mut self, before: &User, after: &User) -> bool {
        let Some(index) = self.index_of(before.name()) else {
            return false;
        };
        let Some(table) = self.users().and_then(|users| users.get_mut(index)) else {
            return false;
        };
        for ((key, was), (_, is)) in before.fields().into_iter().zip(after.fields()) {
            let shown = |value: &Option<Value>| value.as_ref().map(Value::to_string);
            if shown(&was) == shown(&is) {
                continue;
            }
            match is {
                Some(value) => set(table, key, value),
                None => drop(table.remove(key)),
            }
        }
        true
    }

    /// Takes a user out, with the comment right above it. False where it is not in the text.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(index) = self.index_of(name) else {
            return false;
        };
        let Some(users) = self.users() else {
            return false;
        };
        let removed = users.remove(index);
        let prefix = removed
            .decor()
            .prefix()
            .and_then(|prefix| prefix.as_str())
            .unwrap_or("");
        // What stands at the top of the file, set off by an empty line, is about the file.
        let Some(heading) = (index == 0)
            .then(|| prefix.rfind("\n\n"))
            .flatten()
            .and_then(|at| prefix.get(..at))
        else {
            return true;
        };
        match users.get_mut(0) {
            Some(first) => {
                let own = first
                    .decor()
                    .prefix()
                    .and_then(|prefix| prefix.as_str())
                    .unwrap_or("");
                let joined = format!("{heading}\n\n{}", own.trim_start_matches('\n'));
                first.decor_mut().set_prefix(joined);
            }
            None => {
                let trailing = self.0.trailing().as_str().unwrap_or("").to_owned();
                self.0.set_trailing(format!("{heading}\n{trailing}"));
            }
        }
        true
    }
}

/// Sets a key, keeping the comment behind the value it had.
fn set(table: &mut Table, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(former) => {
            *value.decor_mut() = former.decor().clone();
            *former = value;
        }
        None => drop(table.insert(key, Item::Value(value))),
    }
}
