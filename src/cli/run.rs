//! `nuncio run`: the service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::complaint;
use super::inline;
use super::{ConfigFlag, FAILED, REFUSED, complain, runtime, start_logging};
use crate::config::{self, Config};
use crate::service::{self, Service};

#[cfg(unix)]
const SIGNALS: &str = "\
SIGTERM or Ctrl-C stops it: open connections get drain_timeout, a second signal ends them at once.
SIGHUP reads the configuration again; one that is refused changes nothing.";

#[cfg(windows)]
const SIGNALS: &str = "\
Ctrl-C or Ctrl-Break stops it: open connections get drain_timeout, a second one ends them at once.
Where the console is closed they get three seconds. A changed configuration is read at the next start.";

const MORE: &str = "\
NUNCIO_LOG=debug in the environment says more.

Exit codes: 0 stopped, 3 the configuration or what it loads is refused, 2 wrong usage.";

#[derive(clap::Args)]
#[command(after_help = format!("{SIGNALS}\n{MORE}"))]
pub(super) struct Flags {
    #[command(flatten)]
    config: ConfigFlag,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let path = flags.config.path();
    match config::load(&path) {
        Ok(loaded) => {
            let _logging = start_logging(loaded.config.log.format, &loaded.config.log.level);
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            serve(loaded.config, Some(path))
        }
        Err(problems) => {
            complaint::print(&complaint::of_file(&problems));
            ExitCode::from(REFUSED)
        }
    }
}

/// Runs a configuration until it is told to stop.
pub(super) fn serve(config: Config, file: Option<PathBuf>) -> ExitCode {
    if let Err(error) = crate::socket::forbid_core_dumps() {
        // Where the platform decides by policy there is nothing to do; elsewhere keys might reach a dump.
        tracing::debug!("core dumps could not be forbidden: {error}");
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&[format!("the runtime could not be started: {error}")]);
            return ExitCode::from(FAILED);
        }
    };
    let (code, journal) = runtime.block_on(async {
        // Before anything listens, so that a signal during the start is no sudden death.
        let signals = match service::Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                complain(&[format!("signals cannot be listened to: {error}")]);
                return (ExitCode::from(FAILED), None);
            }
        };
        let words = if file.is_none() { inline::complaint } else { str::to_owned };
        match Service::start(config, file).await {
            Ok(service) => {
                service::serve_until_stopped(&service, signals).await;
                (ExitCode::SUCCESS, Some(service.journal().clone()))
            }
            Err(problems) => {
                complain(&problems.iter().map(|problem| words(problem)).collect::<Vec<_>>());
                (ExitCode::from(REFUSED), None)
            }
        }
    });
    // Connections that even the end of the drain did not end write their records as they are dropped here. Nobody waits for
    // threads that read a file or ask for a user: they may hang for ever, and have no record to write.
    runtime.shutdown_background();
    if let Some(journal) = journal
        && !journal.flush(FAREWELL)
    {
        tracing::warn!(
            "nobody read the last records from standard output within {FAREWELL:?}: they are lost"
        );
    }
    code
}

/// How long the end waits for whoever reads the records.
const FAREWELL: Duration = Duration::from_secs(2);
