//! `nuncio protocols`: what this version speaks, printed from the definitions that it works by.

use std::process::ExitCode;

use serde::Serialize;

use super::rows::Rows;
use crate::protocol::{Facts, First, Protocol};

const USE: &str = "\
In a file: protocol = \"NAME\" in [upstream.…]. For bridge and probe: --protocol NAME.";

#[derive(clap::Args)]
#[command(after_help = USE)]
pub(super) struct Flags {
    /// Answer as JSON.
    #[arg(long)]
    json: bool,
}

/// One protocol. Its JSON is part of the face: every field is always there.
#[derive(Serialize)]
struct Spoken {
    name: &'static str,
    title: &'static str,
    /// What `tls` is where the file does not say it.
    tls: &'static str,
    /// How TLS is asked for; `null`: it cannot be.
    asks_with: Option<&'static str>,
    /// Offered where TLS begins with the first byte.
    alpn: Option<&'static str>,
    speaks_first: &'static str,
    refuses_with: &'static str,
    limits: &'static str,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let all = Protocol::ALL.map(Spoken::of);
    match flags.json {
        // It cannot fail: there is no map in it.
        true => println!("{}", serde_json::to_string(&all).unwrap_or_default()),
        false => println!("{}", all.map(|spoken| spoken.to_text()).join("\n\n")),
    }
    ExitCode::SUCCESS
}

impl Spoken {
    fn of(protocol: Protocol) -> Spoken {
        let Facts { name, title, first, asks_with, alpn, ports: _, refuses_with, limits } = *protocol.facts();
        Spoken {
            name,
            title,
            tls: if protocol.negotiates() { "negotiate" } else { "direct" },
            asks_with,
            alpn,
            speaks_first: match first {
                First::Client => "client",
                First::Server => "server",
                First::Either => "either",
            },
            refuses_with,
            limits,
        }
    }

    fn to_text(&self) -> String {
        let Spoken { name, title, tls, asks_with, alpn, speaks_first, refuses_with, limits } = self;
        let mut rows = Rows::titled(format!("{name}: {title}"));
        let offered = alpn.map(|alpn| format!(", with the ALPN {alpn}")).unwrap_or_default();
        match asks_with {
            Some(words) => {
                rows.row("TLS", format!("asked for by {words} (tls = \"{tls}\", the default)"));
                rows.row("", format!("or from the first byte (tls = \"direct\"){offered}"));
            }
            None => rows.row("TLS", format!("from the first byte (tls = \"{tls}\", the default){offered}")),
        }
        rows.row("first word", speaks_first);
        rows.row("no", refuses_with);
        rows.row("limits", limits);
        rows.into_text()
    }
}
