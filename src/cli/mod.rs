//! The face: commands, flags, exit codes. Only this module ends the process, by what [`main`] returns.
//!
//! Owns wording and exit codes. Leaves all doing to the library: a command parses, calls, prints.

mod ask;
mod bridge;
mod check;
mod complaint;
mod connections;
mod demo;
mod examine;
mod inline;
mod log;
mod overview;
mod probe;
mod protocols;
mod rows;
mod run;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::log::start_logging;

/// A connection ambassador: plaintext in, a healthy endpoint, mutual TLS out, one record a connection.
#[derive(Parser)]
#[command(name = "nuncio", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
First steps:
  nuncio demo                                   what it does, with nothing installed
  nuncio probe db.example.com:5433 --ca ca.pem  can that server be reached, and what does it show?
  nuncio bridge --help                          one program, one server, no configuration
  nuncio check --config nuncio.toml             does that configuration hold?

Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 the configuration or what it loads is refused,
4 it loads, but a fault was found.";

#[derive(Subcommand)]
enum Command {
    /// Run the service that a configuration describes.
    Run(run::Flags),
    /// Run one listener and one upstream, without a configuration.
    Bridge(bridge::Flags),
    /// Read a configuration and every file that it names, and say everything that is wrong.
    Check(check::Flags),
    /// Dial a server as the service would: what each step took, the certificates, what is wrong and what mends it.
    Probe(probe::Flags),
    /// Print what runs, where it listens, and how its upstreams are.
    Status(status::Flags),
    /// Print the open connections, or what became of one.
    Connections(connections::Flags),
    /// Print what this version speaks: how TLS begins, how a client is told no, what does not pass.
    Protocols(protocols::Flags),
    /// Show it at work, with nothing installed: three servers that misbehave, an ambassador, live traffic.
    Demo(demo::Flags),
}

/// `--config`, where a command reads a file.
#[derive(Args, Clone)]
struct ConfigFlag {
    #[arg(long, short, value_name = "FILE", help = config_help())]
    config: Option<PathBuf>,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = with_hint(error);
            // clap's own code for usage is 2, and 0 for --help and --version. A closed pipe is no failure of ours.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Run(flags) => run::run(&flags),
        Command::Bridge(flags) => bridge::run(&flags),
        Command::Check(flags) => check::run(&flags),
        Command::Probe(flags) => probe::run(&flags),
        Command::Status(flags) => status::run(&flags),
        Command::Connections(flags) => connections::run(&flags),
        Command::Protocols(flags) => protocols::run(&flags),
        Command::Demo(flags) => demo::run(&flags),
    }
}

/// Whoever gives the configuration without its flag is told the flag.
fn with_hint(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let reads_a_file =
        std::env::args_os().nth(1).is_some_and(|command| command == "check" || command == "run");
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
        && reads_a_file
        && !word.starts_with('-')
    {
        let hint = format!("the configuration is named with a flag: --config {word}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint]));
    }
    error
}

/// Wrong usage, as clap has it.
const USAGE: u8 = 2;
/// It failed.
const FAILED: u8 = 1;
/// The file, or something that it loads, is refused.
const REFUSED: u8 = 3;
/// It loads, but a fault was found.
const FAULT: u8 = 4;

fn config_help() -> String {
    let file = crate::config::default_file();
    format!(
        "The configuration. Without it: {}; for an ordinary user on a terminal also ./nuncio.toml",
        file.display()
    )
}

impl ConfigFlag {
    /// It was on the command line.
    fn is_given(&self) -> bool {
        self.config.is_some()
    }

    /// The file that is meant.
    ///
    /// A file of the current directory counts only for an ordinary user at a terminal: a service must not change what it
    /// does with the directory that it happens to be started in.
    fn path(&self) -> PathBuf {
        use std::io::IsTerminal;
        if let Some(path) = &self.config {
            return path.clone();
        }
        let system = crate::config::default_file();
        let here = PathBuf::from("nuncio.toml");
        let at_a_terminal = std::io::stdin().is_terminal() && !crate::socket::users::is_privileged();
        if !system.exists() && at_a_terminal && here.exists() { here } else { system }
    }
}

/// The runtime of the first reactor; everything that is not a connection runs there too.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn complain(problems: &[String]) {
    for problem in problems {
        eprintln!("nuncio: {problem}");
    }
}
