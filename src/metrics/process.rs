//! What the kernel knows of this process, under the names that every Prometheus client uses (Linux only).

use std::fs;
use std::path::Path;

/// Units of the kernel's tick counts in /proc: a constant of its interface, whatever the timer runs at.
const TICKS: f64 = 100.0;

/// One look at /proc. What could not be read is `None` and not shown.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    /// User and system time.
    pub(super) cpu_seconds: Option<f64>,
    /// Memory that is in RAM.
    pub(super) resident_bytes: Option<u64>,
    /// Memory mapped.
    pub(super) virtual_bytes: Option<u64>,
    /// Open descriptors.
    pub(super) open_fds: Option<u64>,
    /// Limit of open descriptors.
    pub(super) max_fds: Option<u64>,
    /// Threads.
    pub(super) threads: Option<u64>,
    /// When it started, in seconds since 1970.
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    /// Looks. Nothing is found where there is no /proc.
    pub(super) fn look() -> Process {
        let me = Path::new("/proc/self");
        let text = |name: &str| fs::read_to_string(me.join(name)).unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        // The directory handle of this very look is among the entries.
        let open = fs::read_dir(me.join("fd")).ok().map(|entries| (entries.count() as u64).saturating_sub(1));
        Process { open_fds: open, ..Process::read(&text("stat"), &text("status"), &text("limits"), &boot) }
    }

    fn read(stat: &str, status: &str, limits: &str, boot: &str) -> Process {
        // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        // proc_pid_stat(5) counts from one, and the first left here is its third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let kilobytes =
            |name: &str| value(status, name)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024);
        let booted = value(boot, "btime").and_then(|seconds| seconds.parse::<f64>().ok());
        Process {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: None,
            max_fds: value(limits, "Max open files").and_then(|limit| limit.parse().ok()),
            threads: value(status, "Threads:").and_then(|threads| threads.parse().ok()),
            start_seconds: booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS),
        }
    }
}

/// The first word behind `name` at the start of a line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_name_has_a_parenthesis_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 5 0 1000 1 1 1";
        let status = "Name:\ta\nVmSize:\t   200 kB\nVmRSS:\t     100 kB\nThreads:\t5\n";
        let limits = "Max open files            1024                 524288               files\n";
        let process = Process::read(stat, status, limits, "cpu 1\nbtime 1700000000\n");
        let expected = Process {
            cpu_seconds: Some(3.0),
            resident_bytes: Some(102_400),
            virtual_bytes: Some(204_800),
            open_fds: None,
            max_fds: Some(1024),
            threads: Some(5),
            start_seconds: Some(1_700_000_010.0),
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn without_proc_nothing_is_claimed() {
        assert_eq!(Process::read("", "", "", ""), Process::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen_whole() {
        let process = Process::look();
        assert!(process.open_fds.is_some_and(|open| open >= 3), "{process:?}");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.cpu_seconds.is_some() && process.start_seconds.is_some(), "{process:?}");
        assert!(process.threads.is_some() && process.max_fds.is_some(), "{process:?}");
    }
}
