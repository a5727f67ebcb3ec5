//! `nuncio probe`: dial one upstream as the service would, and print what was seen on the way.

use std::process::ExitCode;

use serde_json::json;

use super::bridge::{TlsFlags, upstream_as_file};
use super::{ConfigFlag, FAILED, FAULT, REFUSED, complain, examine, runtime};
use crate::addr::EndpointAddr;
use crate::config::{self, Loaded, Problems};

#[derive(clap::Args)]
pub(super) struct Flags {
    /// An upstream of the file, or HOST:PORT with the flags below. Without it: every upstream of the file.
    #[arg(value_name = "UPSTREAM|HOST:PORT")]
    target: Option<String>,
    #[command(flatten)]
    config: ConfigFlag,
    #[command(flatten)]
    tls: TlsFlags,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let (loaded, only) = match flags.what() {
        Ok(what) => what,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(REFUSED);
        }
    };
    if let Some(name) = only.as_deref().filter(|name| !loaded.config.upstreams.contains_key(*name)) {
        let known: Vec<_> = loaded.config.upstreams.keys().map(|name| &**name).collect();
        complain(&[format!("there is no upstream '{name}'; the file has: {}", known.join(", "))]);
        return ExitCode::from(super::USAGE);
    }
    let seen = runtime()
        .map_err(|error| (FAILED, vec![format!("the runtime could not be started: {error}")]))
        .and_then(|runtime| {
            runtime
                .block_on(examine::examine(&loaded.config, only.as_deref()))
                .map_err(|problems| (REFUSED, problems))
        });
    let seen = match seen {
        Ok(seen) => seen,
        Err((code, problems)) => {
            complain(&problems);
            return ExitCode::from(code);
        }
    };
    match flags.json {
        true => println!("{}", json!(seen)),
        false => seen.iter().for_each(|endpoint| println!("{}", endpoint.to_text())),
    }
    let fine = seen.iter().all(|endpoint| endpoint.fault.is_none());
    if fine { ExitCode::SUCCESS } else { ExitCode::from(FAULT) }
}

impl Flags {
    /// The configuration, and the upstream of it that is meant. HOST:PORT becomes a configuration of its own.
    fn what(&self) -> Result<(Loaded, Option<String>), Problems> {
        match &self.target {
            Some(target) if target.parse::<EndpointAddr>().is_ok() => {
                let upstream = upstream_as_file("probe", std::slice::from_ref(target), "tcp", &self.tls);
                let text = format!(
                    "{upstream}\n[listener.probe]\naddress = \"127.0.0.1:0\"\nupstream = \"probe\"\n"
                );
                Ok((config::from_text("the command line", &text)?, None))
            }
            target => Ok((config::load(&self.config.path())?, target.clone())),
        }
    }
}
