//! Programs that a test runs to their end, with a time limit: what they answered, and what they said of it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a program has left behind.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its answer.
    pub stdout: String,
    /// What it said of it.
    pub stderr: String,
}

impl Ran {
    /// The answer of a program that ended well.
    #[track_caller]
    pub fn answer(&self) -> &str {
        assert!(self.status.success(), "{self:#?}");
        self.stdout.trim_end()
    }

    /// The words of a program that did not.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert!(!self.status.success(), "{self:#?}");
        self.stderr.trim_end()
    }
}

/// A program under way; it ends with its owner.
pub struct Running {
    name: String,
    child: Child,
    outputs: Option<[JoinHandle<String>; 2]>,
}

impl Running {
    /// Starts it with `input` on its standard input, and nothing of the environment but PATH: neither this machine's
    /// language nor settings of its user decide what it does.
    #[track_caller]
    pub fn start(command: &mut Command, input: &str) -> Running {
        let name = command.get_program().to_string_lossy().into_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut child = command
            .env_clear()
            .envs([("LC_ALL", "C.UTF-8"), ("HOME", "/nonexistent")])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} ({error}): tests/run installs what is missing"));
        let outputs = Some([collect(child.stdout.take()), collect(child.stderr.take())]);
        let mut stdin = child.stdin.take().expect("the input is piped");
        // An error: it has ended without reading all of it.
        stdin.write_all(input.as_bytes()).ok();
        Running { name, child, outputs }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: "INT" is what ^C sends.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "{kill}: {status}: has {} ended?", self.name);
    }

    /// Whether it is still under way.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for its end. Who takes longer is ended, and the test fails with what it has printed.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Ran {
        let deadline = Instant::now() + limit;
        let status = loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if ended.is_some() || Instant::now() > deadline {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if status.is_none() {
            self.child.kill().ok(); // an error: it has ended just now
        }
        let outputs = self.outputs.take().expect("it is finished once");
        let [stdout, stderr] = outputs.map(|output| output.join().expect("the reading threads do not panic"));
        let Some(status) = status else {
            panic!("{} did not end within {limit:?}: {stdout}{stderr}", self.name)
        };
        Ran { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors: it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs it to its end with nothing on its standard input.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    Running::start(command, "").finish(limit)
}

/// A file below the directory where `tests/run` puts what no package has.
#[track_caller]
pub fn tool(file: &str) -> PathBuf {
    let tools = std::env::var_os("NUNCIO_TEST_TOOLS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools")), PathBuf::from);
    let path = tools.join(file);
    assert!(path.exists(), "{} is missing: tests/run puts it there", path.display());
    path
}

/// Lets the command run as a user without rights, when we are root and the program would refuse that.
#[cfg(unix)]
pub fn run_as(command: &mut Command, user: &str) {
    if is_root() {
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        super::process::run_by(command, "setpriv", &[&user, &group, "--init-groups"]);
    }
}

/// Gives a directory and what is in it to the user whom [`run_as`] runs programs as.
#[cfg(unix)]
pub fn give_to(directory: &Path, user: &str) {
    let mut commands = vec![("chmod", "755")];
    commands.extend(is_root().then_some(("chown", user)));
    for (program, argument) in commands {
        let mut command = Command::new(program);
        if program == "chown" {
            command.arg("-R");
        }
        run(command.arg(argument).arg(directory), super::PATIENCE).answer();
    }
}

/// Whether we are root.
#[cfg(unix)]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// For a server that starts with rights and gives them up.
#[cfg(unix)]
#[track_caller]
pub fn must_be_root(server: &str) {
    assert!(is_root(), "{server} gives up rights that it must have: run the tests as root");
}

fn collect(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    let mut from = from.expect("the output is piped");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
