//! What the process takes of its host, read from /proc when metrics are gathered.

use crate::labels::registered;
use prometheus::{Counter, Gauge, IntGauge, Registry};
use std::sync::Mutex;

/// Clock ticks a second in /proc/PID/stat: a constant of the interface, whatever the kernel's own (proc_pid_stat(5),
/// sysconf(3)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Columns of /proc/PID/stat behind the name, from 0 (proc_pid_stat(5): state is the third).
const UTIME: usize = 11;
const STIME: usize = 12;
const START_TIME: usize = 19;

/// One reading. What could not be read is `None` and changes nothing.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: Option<f64>,
    started: Option<f64>,
    resident_bytes: Option<i64>,
    open_descriptors: Option<i64>,
    max_descriptors: Option<i64>,
}

/// CPU seconds and seconds from boot to start, from the text of /proc/PID/stat.
fn parse_stat(text: &str) -> Option<(f64, f64)> {
    // The name may hold blanks and parentheses; the last one ends it.
    let (_, columns) = text.rsplit_once(')')?;
    let columns: Vec<&str> = columns.split_ascii_whitespace().collect();
    let ticks = |index: usize| columns.get(index)?.parse::<f64>().ok();
    let cpu = (ticks(UTIME)? + ticks(STIME)?) / TICKS_PER_SECOND;
    Some((cpu, ticks(START_TIME)? / TICKS_PER_SECOND))
}

/// A number of KiB in /proc/PID/status, in bytes.
fn parse_kib(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: i64 = line.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit of open files in /proc/PID/limits.
fn parse_max_files(text: &str) -> Option<i64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The time of boot in seconds since the epoch, from /proc/stat.
fn parse_boot(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn read_usage() -> Usage {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = parse_stat(&read("/proc/self/stat"));
    let boot = parse_boot(&read("/proc/stat"));
    let descriptors = std::fs::read_dir("/proc/self/fd").ok();
    Usage {
        cpu_seconds: stat.map(|(cpu, _)| cpu),
        started: stat.zip(boot).map(|((_, start), boot)| boot + start),
        resident_bytes: parse_kib(&read("/proc/self/status"), "VmRSS:"),
        // One of them is the directory being read.
        open_descriptors: descriptors
            .and_then(|fds| i64::try_from(fds.count()).ok())
            .map(|count| count - 1),
        max_descriptors: parse_max_files(&read("/proc/self/limits")),
    }
}

/// The families.
pub(crate) struct Process {
    cpu: Counter,
    cpu_last: Mutex<f64>,
    started: Gauge,
    resident: IntGauge,
    open: IntGauge,
    max: IntGauge,
}

impl Process {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        Ok(Self {
            cpu: registered(
                registry,
                Counter::new(
                    "sluice_process_cpu_seconds_total",
                    "CPU time used by the worker, user and system.",
                ),
            )?,
            cpu_last: Mutex::new(0.0),
            started: registered(
                registry,
                Gauge::new(
                    "sluice_process_start_time_seconds",
                    "When the worker was started, since the epoch.",
                ),
            )?,
            resident: gauge(
                "sluice_process_resident_memory_bytes",
                "Memory of the worker in RAM.",
            )?,
            open: gauge("sluice_process_open_fds", "Descriptors that the worker has open.")?,
            max: gauge(
                "sluice_process_max_fds",
                "Descriptors that the worker may have open.",
            )?,
        })
    }

    /// Reads anew.
    pub(crate) fn refresh(&self) {
        let usage = read_usage();
        if let (Some(cpu), Ok(mut last)) = (usage.cpu_seconds, self.cpu_last.lock()) {
            self.cpu.inc_by((cpu - *last).max(0.0));
            *last = last.max(cpu);
        }
        if let Some(started) = usage.started {
            self.started.set(started);
        }
        let readings = [
            (&self.resident, usage.resident_bytes),
            (&self.open, usage.open_descriptors),
            (&self.max, usage.max_descriptors),
        ];
        for (gauge, value) in readings {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_that_try_to_look_like_columns() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 1200 99 98";
        assert_eq!(parse_stat(stat), Some((3.0, 12.0)));
        assert_eq!(parse_stat("42 (a"), None);
        assert_eq!(parse_stat("42 (a) S 1"), None);
        assert_eq!(
            parse_kib("VmPeak:\t 9 kB\nVmRSS:\t   7 kB\n", "VmRSS:"),
            Some(7168)
        );
        assert_eq!(parse_kib("VmRSS: x kB", "VmRSS:"), None);
        assert_eq!(
            parse_max_files("Limit  Soft\nMax open files            20000    20000   files\n"),
            Some(20000)
        );
        assert_eq!(parse_boot("cpu 1\nbtime 1800000000\n"), Some(1_800_000_000.0));
    }

    #[test]
    fn reads_this_process() {
        let usage = read_usage();
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(usage.open_descriptors.is_some_and(|open| open >= 3));
        assert!(usage.max_descriptors >= usage.open_descriptors);
        assert!(usage.cpu_seconds.is_some());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - usage.started.unwrap();
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
