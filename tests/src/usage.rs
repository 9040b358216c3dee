//! Memory and processor time of a running process and its children, from `/proc` (proc(5)).

use std::io::{self, ErrorKind};
use std::time::Duration;

/// Unit of the times in `/proc/PID/stat`: USER_HZ, which is 100 on every Linux platform Sluice runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a process and its children use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory without pages shared with others, in bytes.
    pub memory: u64,
    /// Processor time so far, in user and kernel mode, with that of children that have ended.
    pub processor: Duration,
}

impl Usage {
    /// That of the process `pid` and all below it. An error where there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        let processes = processes()?;
        let mut tree = vec![pid];
        let mut next = 0;
        while let Some(&pid) = tree.get(next) {
            next += 1;
            tree.extend(
                processes
                    .iter()
                    .filter(|process| process.parent == pid)
                    .map(|process| process.pid),
            );
            if let Some(process) = processes.iter().find(|process| process.pid == pid) {
                usage.processor += Duration::from_secs(process.ticks) / TICKS_PER_SECOND as u32;
                usage.memory += memory(pid).unwrap_or_default();
            } else if next == 1 {
                return Err(io::Error::new(
                    ErrorKind::NotFound,
                    format!("there is no process {pid}"),
                ));
            }
        }
        Ok(usage)
    }
}

struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
}

fn processes() -> io::Result<Vec<Process>> {
    let names = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    // A process that ends in between is left out.
    let stats = names.filter_map(|name| {
        let pid = name.parse().ok()?;
        parse_stat(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    });
    Ok(stats.collect())
}

/// Fields 4 (parent), 14 and 15 (times), 16 and 17 (those of children that have ended); the name before them may hold anything, even parentheses.
fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    Some(Process {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        ticks,
    })
}

/// Private resident memory.
fn memory(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    Some(
        private
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
            * 1024,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194304 1 2 3 4 150 50 6 1 20 0 1 0 9 1 1";
        let process = parse_stat(7, stat).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 207));
    }

    #[test]
    fn our_own_memory_grows_with_what_we_hold() {
        let before = Usage::of(std::process::id()).unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let during = Usage::of(std::process::id()).unwrap();
        assert!(
            during.memory >= before.memory + (60 << 20),
            "{before:?} {during:?}"
        );
        assert!(during.processor >= before.processor);
        drop(held);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
