//! `nuncio check`: read the file and everything that it names; with `--online`, dial too.

use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;

use super::examine;
use super::{ConfigFlag, FAILED, FAULT, REFUSED, complain, runtime};
use crate::config;
use crate::service;
use crate::tls::Date;

#[derive(clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    config: ConfigFlag,
    /// Resolve and dial every endpoint too.
    #[arg(long)]
    online: bool,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let path = flags.config.path();
    let loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            match flags.json {
                true => println!("{}", json!({ "file": path, "fine": false, "problems": problems })),
                false => eprint!("{problems}"),
            }
            return ExitCode::from(REFUSED);
        }
    };
    let mut warnings = loaded.warnings.clone();
    let problems = match service::load_everything(&loaded.config) {
        Ok(identities) => {
            for identity in identities {
                warnings.extend(identity.warnings.iter().cloned());
                for fact in identity.facts() {
                    let now = Date::of(SystemTime::now());
                    if fact.not_after.0 < now.0 + SOON {
                        warnings.push(format!(
                            "identity.{}: {} is valid only until {}: {} from now",
                            identity.name,
                            fact.subject,
                            fact.not_after,
                            fact.not_after.apart(now),
                        ));
                    }
                }
            }
            Vec::new()
        }
        Err(problems) => problems,
    };
    if !problems.is_empty() {
        match flags.json {
            true => println!(
                "{}",
                json!({ "file": path, "fine": false, "problems": problems, "warnings": warnings })
            ),
            false => complain(&problems),
        }
        return ExitCode::from(REFUSED);
    }
    let seen = match flags.online {
        false => Vec::new(),
        true => match look(&loaded.config) {
            Ok(seen) => seen,
            Err(problems) => {
                complain(&problems);
                return ExitCode::from(FAILED);
            }
        },
    };
    let fine = seen.iter().all(|endpoint| endpoint.fault.is_none());
    match flags.json {
        true => {
            println!("{}", json!({ "file": path, "fine": fine, "warnings": warnings, "endpoints": seen }))
        }
        false => {
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            for endpoint in &seen {
                println!("{}\n", endpoint.to_text());
            }
            let (listeners, upstreams) = (loaded.config.listeners.len(), loaded.config.upstreams.len());
            println!(
                "{}: {listeners} listener{}, {upstreams} upstream{}, {}",
                path.display(),
                plural(listeners),
                plural(upstreams),
                if fine { "fine" } else { "a fault was found" },
            );
        }
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::from(FAULT) }
}

fn look(config: &config::Config) -> Result<Vec<examine::Examination>, Vec<String>> {
    let runtime = runtime().map_err(|error| vec![format!("the runtime could not be started: {error}")])?;
    runtime.block_on(examine::examine(config, None))
}

/// A certificate that ends within so many seconds is worth a word.
const SOON: i64 = 30 * 24 * 3600;

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}
