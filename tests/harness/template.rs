//! Directories of database servers: what takes long to make is made once, kept, and copied.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::PATIENCE;
use super::programs::run;

/// A directory in memory, if that has a gibibyte for us: a busy disk takes seconds for what a database writes when it starts.
pub fn in_memory(prefix: &str) -> TempDir {
    let memory = "/dev/shm";
    let free = run(Command::new("df").args(["-k", "--output=avail", memory]), PATIENCE).stdout;
    let free: u64 = free.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    let at = if free > 1 << 20 { PathBuf::from(memory) } else { std::env::temp_dir() };
    TempDir::with_prefix_in(prefix, at).expect("a directory for the server")
}

/// Makes `directory` a copy of the template of this name. Whoever is first makes it, with `init`, in its own directory.
pub fn copy(name: &str, directory: &Path, init: impl FnOnce(&Path)) {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = cache.join(name);
    let lock = File::create(cache.join(format!("{name}.lock"))).expect("a file to lock");
    lock.lock().expect("the lock is had in the end");
    if template.exists() {
        lock.unlock().expect("it was locked");
        copy_all(&template, directory);
        return;
    }
    init(directory);
    let partial = cache.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).expect("what a killed test left can be removed");
    }
    copy_all(directory, &partial);
    fs::rename(&partial, &template).expect("the template is in place");
}

fn copy_all(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to), PATIENCE * 3).answer();
}
