//! `nuncio protocols`: what this version speaks, printed from the definitions that it works by.

use std::process::ExitCode;

use serde::Serialize;

use super::rows::Rows;
use crate::protocol::{BEYOND, Beyond, Facts, First, Ports, Protocol};

const USE: &str = "\
In a file: protocol = \"NAME\" in [upstream.…]. For bridge and probe: --protocol NAME.

What is not here and speaks TLS from its first byte, or none at all, passes as tcp; --beyond says what does not pass at all.";

#[derive(clap::Args)]
#[command(after_help = USE)]
pub(super) struct Flags {
    /// What cannot pass, why, and what can be done instead.
    #[arg(long)]
    beyond: bool,
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
    /// Where servers listen that begin in plaintext.
    port: Option<u16>,
    /// Where servers listen that begin with TLS.
    direct_port: Option<u16>,
    speaks_first: &'static str,
    refuses_with: &'static str,
    limits: &'static str,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    if flags.beyond {
        return beyond(flags.json);
    }
    let all = Protocol::ALL.map(Spoken::of);
    match flags.json {
        // It cannot fail: there is no map in it.
        true => println!("{}", serde_json::to_string(&all).unwrap_or_default()),
        false => println!("{}", all.map(|spoken| spoken.to_text()).join("\n\n")),
    }
    ExitCode::SUCCESS
}

/// What cannot pass. Its JSON is part of the face, too.
#[derive(Serialize)]
struct Impossible {
    what: &'static str,
    why: &'static str,
    instead: &'static str,
}

fn beyond(json: bool) -> ExitCode {
    let all = BEYOND.map(|Beyond { what, names: _, why, instead }| Impossible { what, why, instead });
    match json {
        // It cannot fail: there is no map in it.
        true => println!("{}", serde_json::to_string(&all).unwrap_or_default()),
        false => {
            let texts = all.map(|Impossible { what, why, instead }| {
                let mut rows = Rows::titled(what);
                rows.row("why", why);
                rows.row("instead", instead);
                rows.into_text()
            });
            println!("{}", texts.join("\n\n"));
        }
    }
    ExitCode::SUCCESS
}

impl Spoken {
    fn of(protocol: Protocol) -> Spoken {
        let Facts {
            name,
            title,
            first,
            asks_with,
            alpn,
            ports: Ports { plain, direct },
            refuses_with,
            limits,
        } = *protocol.facts();
        Spoken {
            name,
            title,
            tls: if protocol.negotiates() { "negotiate" } else { "direct" },
            asks_with,
            alpn,
            port: plain,
            direct_port: direct,
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
        let Spoken {
            name,
            title,
            tls,
            asks_with,
            alpn,
            port,
            direct_port,
            speaks_first,
            refuses_with,
            limits,
        } = self;
        let mut rows = Rows::titled(format!("{name}: {title}"));
        let offered = alpn.map(|alpn| format!(", with the ALPN {alpn}")).unwrap_or_default();
        let at = |port: &Option<u16>| port.map(|port| format!(", port {port}")).unwrap_or_default();
        let (port, direct_port) = (at(port), at(direct_port));
        match asks_with {
            Some(words) => {
                rows.row("TLS", format!("asked for by {words} (tls = \"{tls}\", the default){port}"));
                rows.row("", format!("or from the first byte (tls = \"direct\"){offered}{direct_port}"));
            }
            None => rows.row(
                "TLS",
                format!("from the first byte (tls = \"{tls}\", the default){offered}{direct_port}"),
            ),
        }
        rows.row("first word", speaks_first);
        rows.row("no", refuses_with);
        rows.row("limits", limits);
        rows.into_text()
    }
}
