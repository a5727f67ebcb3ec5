//! `nuncio probe`: dial one upstream as the service would, and print what was seen on the way.

use std::process::ExitCode;

use serde_json::json;

use super::complaint::{self, Complaint};
use super::examine::{self, Examination};
use super::inline::{self, ServerFlags};
use super::{ConfigFlag, FAILED, FAULT, REFUSED, USAGE, runtime};
use crate::addr::EndpointAddr;
use crate::config::{self, Config};

const EXAMPLES: &str = "\
Examples:
  What certificate does this server show, and does it take mine?
    nuncio probe db.example.com:5433 --ca ca.pem --cert client.pem --key client.key
  A mail server, whose TLS begins with STARTTLS:
    nuncio probe mail.example.com:25 --protocol smtp
  The server is reached by its address, and its certificate names it:
    nuncio probe 10.0.0.5:8443 --ca ca.pem --server-name db.example.com
  Every endpoint of [upstream.orders] in the file, as the service dials it:
    nuncio probe orders

Exit codes: 0 every endpoint is fine, 4 one is not, 3 a file is refused, 2 wrong usage.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Flags {
    /// An upstream of the file, or HOST:PORT and the flags below. Without it: every upstream of the file.
    #[arg(value_name = "UPSTREAM|HOST:PORT")]
    target: Option<String>,
    #[command(flatten)]
    config: ConfigFlag,
    #[command(flatten)]
    server: ServerFlags,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What is dialled, and how it is spoken of.
struct What {
    config: Config,
    only: Option<String>,
    by_flags: bool,
}

/// Why nothing is dialled.
struct Refused {
    code: u8,
    problems: Vec<Complaint>,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    match flags.what().and_then(|what| look(&what)) {
        Ok(seen) => {
            let fine = seen.iter().all(|endpoint| endpoint.fine);
            match flags.json {
                true => println!("{}", json!({ "fine": fine, "problems": [], "endpoints": seen })),
                false => print(&seen, flags.target.as_deref()),
            }
            if fine { ExitCode::SUCCESS } else { ExitCode::from(FAULT) }
        }
        Err(Refused { code, problems }) => {
            match flags.json {
                true => println!("{}", json!({ "fine": false, "problems": problems, "endpoints": [] })),
                false => complaint::print(&problems),
            }
            ExitCode::from(code)
        }
    }
}

fn print(seen: &[Examination], target: Option<&str>) {
    for (place, endpoint) in seen.iter().enumerate() {
        let title = match target {
            Some(target) if *target == endpoint.endpoint => target.to_owned(),
            Some(_) | None => format!("upstream {} at {}", endpoint.upstream, endpoint.endpoint),
        };
        let gap = if place > 0 { "\n" } else { "" };
        println!("{gap}{}", endpoint.to_text(&title));
    }
    if seen.len() > 1 {
        println!("\n{}", examine::tally(seen));
    }
}

fn look(what: &What) -> Result<Vec<Examination>, Refused> {
    let runtime = runtime().map_err(|error| Refused {
        code: FAILED,
        problems: complaint::of_load(vec![format!("the runtime could not be started: {error}")]),
    })?;
    let words = if what.by_flags { inline::complaint } else { str::to_owned };
    let mut seen =
        runtime.block_on(examine::examine(&what.config, what.only.as_deref())).map_err(|problems| {
            let problems = problems.iter().map(|problem| words(problem)).collect();
            Refused { code: REFUSED, problems: complaint::of_load(problems) }
        })?;
    if what.by_flags {
        seen.iter_mut().for_each(|endpoint| endpoint.reword(inline::in_flags));
    }
    Ok(seen)
}

impl Flags {
    fn what(&self) -> Result<What, Refused> {
        match self.target.as_deref() {
            // No name of an upstream has a colon or a dot in it.
            Some(target) if target.contains([':', '.']) => self.by_flags(target),
            target => self.by_file(target),
        }
    }

    /// HOST:PORT becomes a configuration of its own.
    fn by_flags(&self, target: &str) -> Result<What, Refused> {
        // Without a port it may have its protocol's: that is looked at with the rest.
        let has_port = target.contains(':') || self.server.protocol.is_none();
        if has_port && let Err(problem) = target.parse::<EndpointAddr>() {
            return Err(usage(problem));
        }
        if self.config.is_given() {
            return Err(usage(format!(
                "--config has no say in {target}: name an upstream of the file, or leave --config out"
            )));
        }
        let upstream = inline::upstream("probe", &[target.to_owned()], &self.server);
        let text = format!("{upstream}\n[listener.probe]\naddress = \"127.0.0.1:0\"\nupstream = \"probe\"\n");
        let loaded = config::from_text("the flags", &text).map_err(|problems| Refused {
            code: USAGE,
            problems: complaint::of_load(inline::complaints(&problems)),
        })?;
        Ok(What { config: loaded.config, only: None, by_flags: true })
    }

    fn by_file(&self, upstream: Option<&str>) -> Result<What, Refused> {
        if let Some(flag) = self.server.any() {
            let of = upstream.map_or("every upstream".to_owned(), |name| format!("upstream '{name}'"));
            return Err(usage(format!("{flag} is for HOST:PORT: the file says how {of} is dialled")));
        }
        let path = self.config.path();
        let config = match config::load(&path) {
            Ok(loaded) => loaded.config,
            Err(problems) => {
                let mut problems = complaint::of_file(&problems);
                if let Some(name) = upstream.filter(|_| !path.exists()) {
                    let hint =
                        format!("to dial a server without a file, name its port: nuncio probe {name}:PORT");
                    problems.push(hint.into());
                }
                return Err(Refused { code: REFUSED, problems });
            }
        };
        if let Some(name) = upstream.filter(|name| !config.upstreams.contains_key(*name)) {
            let known: Vec<_> = config.upstreams.keys().map(|name| &**name).collect();
            let (file, known) = (path.display(), known.join(", "));
            return Err(usage(format!(
                "there is no upstream '{name}' in {file}, which has {known}; a server is named as HOST:PORT"
            )));
        }
        Ok(What { config, only: upstream.map(str::to_owned), by_flags: false })
    }
}

fn usage(problem: String) -> Refused {
    Refused { code: USAGE, problems: vec![problem.into()] }
}
