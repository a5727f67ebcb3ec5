//! A child process whose output is kept line by line, and that ends with its owner.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::eventually;

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it with nothing on its standard input. A program that is missing fails the test: `tests/run` installs it.
    pub fn start(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{name} cannot be started ({error}): tests/run installs what is missing")
            });
        let lines = Arc::default();
        collect(child.stdout.take(), &lines);
        collect(child.stderr.take(), &lines);
        Process { name: name.to_owned(), child, lines }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far on both outputs, in the order in which it was read.
    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().expect("the reading threads do not panic")
    }

    /// The end of its output, for the message of a failing test.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits until `ask` answers; fails with the output when that takes too long or the process ends before.
    #[track_caller]
    pub fn wait<T>(&mut self, what: &str, limit: Duration, mut ask: impl FnMut(&Process) -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            // Asked after that: what it wrote before it ended counts, once the pipes have been read.
            if let Some(answer) = ask(self) {
                return answer;
            }
            let name = &self.name;
            if let Some(status) = ended.filter(|_| Arc::strong_count(&self.lines) == 1) {
                panic!("{name} ended ({status}) before: {what}. It wrote:\n{}", self.tail());
            }
            assert!(
                Instant::now() < deadline,
                "{name}: not within {limit:?}: {what}. It wrote:\n{}",
                self.tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> String {
        self.wait(&format!("a line with {text:?}"), limit, |process| {
            process.lines().iter().find(|line| line.contains(text)).cloned()
        })
    }

    /// Sends a signal by name: "TERM", "HUP".
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        // By the shell's own kill: sending a signal from here takes unsafe code.
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "{kill}: {status}. {} wrote:\n{}", self.name, self.tail());
    }

    /// Waits until it has ended and its output was read.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), limit, || {
            let status = self.child.try_wait().expect("a child can be waited for")?;
            (Arc::strong_count(&self.lines) == 1).then_some(status)
        })
    }

    /// Sends a signal and waits for the end, unless it has ended already. One that is late is killed with its owner.
    #[cfg(unix)]
    pub fn end(&mut self, signal: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // An error: it ends just now.
        Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status().ok();
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its open descriptors.
    #[cfg(target_os = "linux")]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process lives").count()
    }

    /// Its own memory in KiB: what it was given to write to. Not the program's pages, of which its share grows whenever
    /// another test's process ends.
    #[cfg(target_os = "linux")]
    pub fn memory_kib(&self) -> u64 {
        let rollup =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("the process lives");
        let own = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("a line of it");
        own.trim().trim_end_matches(" kB").trim().parse().expect("a number of kB")
    }
}

/// Puts a program before the command, which it is to replace itself with: setpriv, a line of shell.
pub fn run_by(command: &mut Command, program: &str, arguments: &[&str]) {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    *command = outer;
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors: it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(from: Option<impl Read + Send + 'static>, into: &Arc<Mutex<Vec<String>>>) {
    let (from, into) = (from.expect("the output is piped"), into.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            into.lock().expect("nobody panics with the lock").push(line);
        }
    });
}
