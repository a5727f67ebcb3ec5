//! `nuncio check`: read the file and everything that it names; with `--online`, dial too.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use serde::Serialize;

use super::complaint::{self, Complaint};
use super::examine::{self, Examination};
use super::overview::Overview;
use super::rows::count;
use super::{ConfigFlag, FAILED, FAULT, REFUSED, runtime};
use crate::config::{self, Config};
use crate::service;
use crate::tls::Date;

const EXAMPLES: &str = "\
Exit codes: 0 everything is fine (there may be warnings), 3 the file or what it loads is refused,
4 it loads, but a certificate of ours is out of date or, with --online, an endpoint cannot be used.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Flags {
    #[command(flatten)]
    config: ConfigFlag,
    /// Resolve and dial every endpoint too, and hang up.
    #[arg(long)]
    online: bool,
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What came out. Its JSON is part of the face: every field is always there.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    fine: bool,
    /// What keeps it from being used at all.
    problems: Vec<Complaint>,
    /// What loads and does not work now.
    faults: Vec<String>,
    warnings: Vec<String>,
    #[serde(flatten)]
    overview: Overview,
    /// With `--online`: what was seen of each.
    endpoints: Vec<Examination>,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let (report, code) = match check(&flags.config.path(), flags.online) {
        Ok(report) if report.fine => (report, ExitCode::SUCCESS),
        Ok(report) => (report, ExitCode::from(FAULT)),
        Err((report, code)) => (*report, ExitCode::from(code)),
    };
    match flags.json {
        // It cannot fail: there is no map in it with keys that are no strings.
        true => println!("{}", serde_json::to_string(&report).unwrap_or_default()),
        false => report.print(),
    }
    code
}

fn check(path: &Path, online: bool) -> Result<Report, (Box<Report>, u8)> {
    let mut report = Report {
        file: path.to_owned(),
        fine: false,
        problems: Vec::new(),
        faults: Vec::new(),
        warnings: Vec::new(),
        overview: Overview::default(),
        endpoints: Vec::new(),
    };
    let refused = |report: Report, problems, code| Err((Box::new(Report { problems, ..report }), code));
    let loaded = match config::load(path) {
        Ok(loaded) => loaded,
        Err(problems) => return refused(report, complaint::of_file(&problems), REFUSED),
    };
    report.warnings.extend(loaded.warnings.iter().cloned());
    let identities = match service::load_everything(&loaded.config) {
        Ok(identities) => identities,
        Err(problems) => return refused(report, complaint::of_load(problems), REFUSED),
    };
    for identity in &identities {
        report.faults.extend(identity.faults.iter().cloned());
        report.warnings.extend(identity.warnings.iter().cloned());
    }
    report.warnings.extend(service::warnings(&loaded.config));
    report.overview = Overview::new(&loaded, &identities, Date::of(SystemTime::now()));
    if online {
        report.endpoints = match look(&loaded.config) {
            Ok(seen) => seen,
            Err(problems) => return refused(report, complaint::of_load(problems), FAILED),
        };
        report.warnings.extend(report.endpoints.iter().filter_map(Examination::warning));
    }
    report.fine = report.faults.is_empty() && report.endpoints.iter().all(|endpoint| endpoint.fine);
    Ok(report)
}

fn look(config: &Config) -> Result<Vec<Examination>, Vec<String>> {
    let runtime = runtime().map_err(|error| vec![format!("the runtime could not be started: {error}")])?;
    runtime.block_on(examine::examine(config, None))
}

impl Report {
    /// What was read goes to standard output, what to mend to standard error.
    fn print(&self) {
        let file = self.file.display();
        if !self.problems.is_empty() {
            complaint::print(&self.problems);
            eprintln!("{file}: refused, {}", count(self.problems.len(), "problem"));
            return;
        }
        print!("{}", self.overview.to_text());
        for endpoint in &self.endpoints {
            println!("{}", endpoint.to_short_text());
        }
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
        for fault in &self.faults {
            eprintln!("fault: {fault}");
        }
        let verdict = if self.fine { "fine" } else { "a fault was found" };
        let online = match self.endpoints.as_slice() {
            [] => String::new(),
            seen => format!("; {}", examine::tally(seen)),
        };
        println!("{file}: {verdict} ({}{online})", self.overview.summary());
    }
}
