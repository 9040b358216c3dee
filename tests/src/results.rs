//! Documents of results that are committed: what was measured, on which machine, of which commit.

use crate::rig::sh;
use std::path::Path;

/// Results as they come.
pub struct Results {
    title: String,
    head: String,
    load: String,
    tables: Vec<Table>,
}

struct Table {
    before: String,
    rows: Vec<Vec<String>>,
}

impl Results {
    /// A document with this title, and these paragraphs behind the facts of the machine.
    pub fn new(title: &str, head: &str) -> Self {
        Self {
            title: title.to_owned(),
            head: head.trim().to_owned(),
            load: std::fs::read_to_string("/proc/loadavg").unwrap_or_default(),
            tables: Vec::new(),
        }
    }

    /// Starts a table with these columns, behind this paragraph.
    pub fn table(&mut self, before: &str, columns: &[&str]) {
        let columns: Vec<String> = columns.iter().copied().map(str::to_owned).collect();
        let rule = columns.iter().map(|_| "---".to_owned()).collect();
        self.tables.push(Table {
            before: before.to_owned(),
            rows: vec![columns, rule],
        });
    }

    /// Adds a row to the last table.
    pub fn row(&mut self, row: &[String]) {
        eprintln!("{}", row.join(" | "));
        if let Some(table) = self.tables.last_mut() {
            table.rows.push(row.to_vec());
        }
    }

    /// Adds a result: what, how much, and how it was found.
    pub fn add(&mut self, what: &str, figure: &str, how: &str) {
        if self.tables.is_empty() {
            self.table("", &["what", "result", "how"]);
        }
        self.row(&[what, figure, how].map(str::to_owned));
    }

    /// The document.
    fn text(&self) -> String {
        let mut text = format!("# {}\n\n{}\n{}\n\n", self.title, self.machine(), self.head);
        for (index, table) in self.tables.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            if !table.before.is_empty() {
                text.push_str(&format!("{}\n\n", table.before.trim()));
            }
            for row in &table.rows {
                text.push_str(&format!("| {} |\n", row.join(" | ")));
            }
        }
        text
    }

    fn machine(&self) -> String {
        let said = |line: &str| sh(line).unwrap_or_default().trim().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = model.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
        let changed = said("git status --porcelain --untracked-files=no");
        let changed = if changed.is_empty() { "" } else { " with changes" };
        let busy: Vec<&str> = self.load.split(' ').take(2).collect();
        format!(
            "Date {}, commit {}{changed}. {cores} cores, {model}, kernel {}; load averages before the start {}.\n",
            said("date -u +%F"),
            said("git rev-parse --short=12 HEAD"),
            said("uname -r"),
            busy.join(" and "),
        )
    }

    /// Writes the document.
    #[track_caller]
    pub fn write(&self, file: &Path) {
        std::fs::write(file, self.text()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// The median; of an even number of values the greater of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{Results, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_document_names_the_machine_and_holds_every_row() {
        let mut results = Results::new("Title", "Words.\n");
        results.add("speed", "5", "ran");
        let text = results.text();
        assert!(text.starts_with("# Title\n\nDate 2"), "{text}");
        assert!(text.contains(" cores, ") && text.contains("\nWords.\n"), "{text}");
        let table = "| what | result | how |\n| --- | --- | --- |\n| speed | 5 | ran |\n";
        assert!(text.ends_with(table), "{text}");
        results.table("More.", &["a", "b"]);
        results.row(&["1".to_owned(), "2".to_owned()]);
        let more = "\nMore.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n";
        assert!(results.text().ends_with(&format!("{table}{more}")));
    }
}
