//! The Windows build of the program, run by wine.
//!
//! `tests/run --long` builds it. What wine lacks is built here, from `tests/harness/wine/`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A Windows for the tests to share, kept between them: making it takes longer than most of them.
pub struct Wine {
    prefix: PathBuf,
    keeper: Option<Child>,
}

impl Drop for Wine {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            // Errors: it has ended already.
            keeper.kill().ok();
            keeper.wait().ok();
        }
    }
}

impl Wine {
    /// Makes it, or finds the one that is there.
    pub fn start() -> Wine {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wine");
        fs::create_dir_all(&directory).expect("a directory for wine");
        // Tests are processes: the first makes it, the others wait.
        let lock = File::create(directory.join("lock")).expect("a lock");
        lock.lock().expect("the lock is there to be had");
        let (mut wine, done) =
            (Wine { prefix: directory.join("prefix"), keeper: None }, directory.join("made"));
        if !done.exists() {
            succeeds(wine.command("wineboot").arg("--init"));
            let library = wine.system().join("bcryptprimitives.dll");
            compile("process_prng.c", &library, &["-shared", "-nostartfiles", "-Wl,-e,0", "-ladvapi32"]);
            compile("console_event.c", &wine.system().join("console_event.exe"), &[]);
            fs::write(done, "").expect("a mark");
        }
        // Wine's services end with the last program, and each start would have to wait for them. Worse, they hold on to
        // the output of the program that they were started with. So this one is the first, and then waits for input.
        let mut keeper = wine.command("wine");
        keeper.arg("cmd").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = keeper.spawn().expect("wine runs");
        let mut greeting = String::new();
        let output = keeper.stdout.as_mut().expect("its output is piped");
        BufReader::new(output).read_line(&mut greeting).expect("its output is text");
        assert!(greeting.contains("Windows"), "wine's cmd says {greeting:?}");
        wine.keeper = Some(keeper);
        wine
    }

    /// The program. Paths of this system are good there as well: they are those of drive Z.
    pub fn program(&self) -> Command {
        self.run(&windows_program())
    }

    /// The program by a name of the test's own, at which [`Wine::closes_console_of`] finds it.
    pub fn program_as(&self, name: &Path) -> Command {
        fs::hard_link(windows_program(), name)
            .or_else(|_| fs::copy(windows_program(), name).map(drop))
            .expect("the program has another name");
        self.run(name)
    }

    /// Tells every program of that name that its console was closed.
    pub fn closes_console_of(&self, name: &Path) {
        let name = name.file_name().expect("a file's name");
        succeeds(self.run(&self.system().join("console_event.exe")).arg(name).arg("2"));
    }

    fn run(&self, program: &Path) -> Command {
        let mut command = self.command("wine");
        command.arg(program).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // No display, and not a word of wine's own on the error output.
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env_remove("DISPLAY");
        command
    }

    fn system(&self) -> PathBuf {
        self.prefix.join("drive_c/windows/system32")
    }
}

/// Where `tests/run --long` has put it.
fn windows_program() -> PathBuf {
    let built = "target/windows/x86_64-pc-windows-gnu/debug/nuncio.exe";
    let program = std::env::var_os("NUNCIO_TEST_WINDOWS_PROGRAM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(built), PathBuf::from);
    assert!(program.is_file(), "there is no {}: tests/run --long builds it", program.display());
    program
}

fn compile(source: &str, to: &Path, options: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/wine").join(source);
    let mut command = Command::new("x86_64-w64-mingw32-gcc");
    succeeds(command.args(["-Wall", "-Werror", "-o"]).arg(to).arg(source).args(options));
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} cannot be started ({error}): tests/run --long installs what is missing")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}
