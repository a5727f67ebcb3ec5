//! The real binary with a configuration of the test's own, and the facts that it gives away.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::process::Process;
use super::{PATIENCE, eventually};

/// A running `nuncio run`.
pub struct Ambassador {
    process: Process,
    directory: TempDir,
    listeners: HashMap<String, Vec<SocketAddr>>,
    admin: Option<SocketAddr>,
}

impl Ambassador {
    /// Starts it with this file and waits until it listens. Listeners are told `127.0.0.1:0`. Where the file says
    /// nothing about them, records are JSON and the admin listens.
    #[track_caller]
    pub fn start(config: &str) -> Ambassador {
        Ambassador::start_with(config, |_| {})
    }

    /// The same with a command that `change` has had its hands on: environment, arguments.
    #[track_caller]
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Ambassador {
        Ambassador::start_within(PATIENCE, config, change)
    }

    /// The same for a command that takes longer to start.
    #[track_caller]
    pub fn start_within(limit: Duration, config: &str, change: impl FnOnce(&mut Command)) -> Ambassador {
        let directory = TempDir::with_prefix("nuncio-").expect("a directory for the configuration");
        let file = directory.path().join("nuncio.toml");
        std::fs::write(&file, complete(config)).expect("the configuration is written");
        let mut command = program();
        command.arg("run").arg("--config").arg(&file);
        change(&mut command);
        let mut process = Process::start("nuncio", &mut command);
        // The admin's line is the last of the start.
        let (listeners, admin) = process.wait("it listens everywhere", limit, |process| {
            let lines = process.lines();
            lines.iter().any(|line| is_admin(line)).then(|| bound(&lines))
        });
        Ambassador { process, directory, listeners, admin }
    }

    /// Where a listener accepts.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.addresses(name).first().copied().unwrap_or_else(|| panic!("no listener {name}"))
    }

    /// All TCP addresses where a listener accepts, the one that was bound last first.
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        self.listeners.get(name).into_iter().flatten().rev().copied().collect()
    }

    /// Where the admin answers.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("the admin was waited for")
    }

    /// The process beneath: descriptors, memory, lines.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The configuration file, to be rewritten before a reload.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("nuncio.toml")
    }

    /// Asks the admin.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.admin(), path)
            .unwrap_or_else(|error| panic!("GET {path}: {error}. nuncio wrote:\n{}", self.process.tail()))
    }

    /// A metric's samples with these labels, added up; 0 where there is none yet.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        http::metric(&self.get("/metrics").body, name, labels).unwrap_or(0.0)
    }

    /// Waits until a metric is as `fits` wants it, and returns it.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], fits: impl Fn(f64) -> bool) -> f64 {
        eventually(&format!("{name} {labels:?} fits"), PATIENCE, || {
            Some(self.metric(name, labels)).filter(|value| fits(*value))
        })
    }

    /// Waits until something holds of the admin's JSON at `path`.
    #[track_caller]
    pub fn wait_state<T>(&self, path: &str, what: &str, ask: impl Fn(&Value) -> Option<T>) -> T {
        eventually(what, PATIENCE, || ask(&self.get(path).json()))
    }

    /// The records written so far.
    pub fn records(&self) -> Vec<Value> {
        self.process.lines().iter().filter_map(|line| record(line)).collect()
    }

    /// Waits until there are so many records, and returns them all.
    #[track_caller]
    pub fn wait_records(&mut self, count: usize) -> Vec<Value> {
        self.process.wait(&format!("{count} records"), PATIENCE, |process| {
            let records: Vec<_> = process.lines().iter().filter_map(|line| record(line)).collect();
            (records.len() >= count).then_some(records)
        })
    }

    /// Waits for a line in its output.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str) -> String {
        self.process.wait_line(text, PATIENCE)
    }

    /// SIGTERM, and the end.
    #[cfg(unix)]
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait_exit(limit)
    }

    /// Rewrites the file and sends SIGHUP. What became of it is in the metrics and the log.
    #[cfg(unix)]
    pub fn reload(&self, config: &str) {
        std::fs::write(self.config_file(), complete(config)).expect("the configuration is written");
        self.process.signal("HUP");
    }

    /// The same, and waits until it has taken effect.
    #[cfg(unix)]
    #[track_caller]
    pub fn reloaded(&mut self, config: &str) {
        let times = |process: &Process| {
            process.lines().iter().filter(|line| line.contains("configuration reloaded")).count()
        };
        let before = times(&self.process);
        self.reload_comes_to("success", config);
        // The last line of a reload: those that tell of new listeners have been read then.
        self.process.wait("it says so", PATIENCE, |process| (times(process) > before).then_some(()));
        self.listeners = bound(&self.process.lines()).0;
    }

    /// The same, and waits until it was refused.
    #[cfg(unix)]
    #[track_caller]
    pub fn reload_refused(&mut self, config: &str) {
        self.reload_comes_to("failure", config);
    }

    #[cfg(unix)]
    #[track_caller]
    fn reload_comes_to(&self, result: &str, config: &str) {
        let labels = [("result", result)];
        let before = self.metric("nuncio_config_reloads_total", &labels);
        self.reload(config);
        self.wait_metric("nuncio_config_reloads_total", &labels, |now| now > before);
    }
}

/// The binary under test, with nothing of the caller's environment that could change what it writes. `NUNCIO_TEST_PROGRAM`
/// names another build of it: a release build where a test measures.
pub fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_nuncio").into();
    let mut command = Command::new(std::env::var_os("NUNCIO_TEST_PROGRAM").unwrap_or_else(built));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
    command
}

/// The configuration with what the harness needs, where it says nothing of it: records in JSON, an admin.
fn complete(config: &str) -> String {
    let mut config = config.to_owned();
    if !config.contains("[log]") {
        config.push_str("\n[log]\nformat = \"json\"\n");
    }
    if !config.contains("[admin]") {
        config.push_str("\n[admin]\naddress = [\"127.0.0.1:0\"]\n");
    }
    config
}

/// `run` with a configuration that it refuses: exit code and standard error.
#[track_caller]
pub fn refused(config: &str, change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let directory = TempDir::with_prefix("nuncio-").expect("a directory for the configuration");
    let file = directory.path().join("nuncio.toml");
    std::fs::write(&file, complete(config)).expect("the configuration is written");
    let mut command = program();
    command.arg("run").arg("--config").arg(&file);
    change(&mut command);
    let mut process = Process::start("nuncio", &mut command);
    let status = process.wait_exit(PATIENCE);
    (status.code(), process.tail())
}

/// Runs a subcommand to its end: exit code, standard output, standard error.
pub fn run(arguments: &[&str], directory: &Path) -> (Option<i32>, String, String) {
    let output = program().args(arguments).current_dir(directory).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

type Bound = (HashMap<String, Vec<SocketAddr>>, Option<SocketAddr>);

/// What is bound, from lines like `listening listener=NAME address=IP:PORT` and `admin address=IP:PORT`, in text or JSON.
fn bound(lines: &[String]) -> Bound {
    let mut bound: Bound = Default::default();
    for line in lines {
        let Some(address) = field(line, "address").and_then(|address| address.parse().ok()) else { continue };
        if let (true, Some(name)) = (line.contains("listening"), field(line, "listener")) {
            bound.0.entry(name).or_default().push(address);
        } else if is_admin(line) {
            bound.1 = Some(address);
        }
    }
    bound
}

/// Whether the line tells where the admin answers.
fn is_admin(line: &str) -> bool {
    field(line, "address").is_some() && line.contains("admin") && !line.contains("listening")
}

/// A field of a log line, in either format.
fn field(line: &str, key: &str) -> Option<String> {
    if let Ok(json) = serde_json::from_str::<Value>(line) {
        let value = json.get(key)?;
        return Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// A record is the JSON object that says how a connection ended.
fn record(line: &str) -> Option<Value> {
    let json: Value = serde_json::from_str(line).ok()?;
    (json.get("outcome").is_some() && json.get("id").is_some()).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_addresses_are_read_in_either_format() {
        let lines = [
            "2026-01-01T00:00:00Z  INFO nuncio: listening listener=orders address=127.0.0.1:5001".to_owned(),
            r#"{"level":"info","message":"listening","listener":"mail","address":"[::1]:5002"}"#.to_owned(),
            r#"{"level":"info","message":"admin","address":"127.0.0.1:5003"}"#.to_owned(),
        ];
        let (listeners, admin) = bound(&lines);
        assert_eq!(listeners["orders"], ["127.0.0.1:5001".parse().unwrap()]);
        assert_eq!(listeners["mail"], ["[::1]:5002".parse().unwrap()]);
        assert_eq!(admin, Some("127.0.0.1:5003".parse().unwrap()));
    }
}
