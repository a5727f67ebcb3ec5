//! What a process and its children have used, from /proc.

use std::fs;

/// /proc counts CPU time in hundredths of a second on every Linux that Rust runs on (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;

/// CPU seconds used so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let ticks: u64 = tree(pid).iter().filter_map(|pid| stat(*pid)).map(|stat| stat.ticks).sum();
    ticks as f64 / TICKS_A_SECOND
}

/// Memory in KiB, shared pages counted by their share.
pub fn pss_kib(pid: u32) -> f64 {
    let of = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    tree(pid).iter().filter_map(of).sum()
}

struct Stat {
    parent: u32,
    ticks: u64,
}

/// proc_pid_stat(5); the program's name, which may hold anything, ends at the last parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks: number(11)? + number(12)? })
}

fn tree(root: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(u32, u32)> = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(all.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}
