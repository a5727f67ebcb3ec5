//! `nuncio run`: the service.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{ConfigFlag, FAILED, REFUSED, complain, runtime, start_logging};
use crate::config::{self, Config};
use crate::service::{self, Service};

#[derive(clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    config: ConfigFlag,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let path = flags.config.path();
    match config::load(&path) {
        Ok(loaded) => {
            start_logging(loaded.config.log.format, &loaded.config.log.level);
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            serve(loaded.config, Some(path))
        }
        Err(problems) => {
            eprint!("{problems}");
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
    runtime.block_on(async {
        let service = match Service::start(config, file).await {
            Ok(service) => service,
            Err(problems) => {
                complain(&problems);
                return ExitCode::from(REFUSED);
            }
        };
        match service::serve_until_stopped(service).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&[format!("signals cannot be listened to: {error}")]);
                ExitCode::from(FAILED)
            }
        }
    })
}
