//! `nuncio connections`: who is connected to what, and what became of one of them.

use std::process::ExitCode;

use serde_json::Value;

use super::ask::AdminFlags;
use super::rows::Rows;
use super::table::{Table, text};
use crate::record::ConnectionId;

const MORE: &str = "\
Examples:
  What became of the connection from my local port?
    nuncio connections --client 127.0.0.1:40512
  The one that a refusal or a log line names:
    nuncio connections 6f1c0e9a4b7d2358

Exit codes: 0 it answered, 1 it did not or there is no such connection, 2 wrong usage, 3 the configuration is refused.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub(super) struct Flags {
    /// One connection, open or lately ended.
    #[arg(conflicts_with_all = ["client", "upstream", "listener", "limit"])]
    id: Option<ConnectionId>,
    /// The newest connection from there, as the client's own socket has it.
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["upstream", "listener", "limit"])]
    client: Option<std::net::SocketAddr>,
    /// Only those to this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only those through this listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The newest so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 30)]
    limit: u32,
    #[command(flatten)]
    admin: AdminFlags,
    /// Answer as JSON, as the API has it.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let path = flags.path();
    let answer = match flags.admin.ask(&[&path]) {
        Ok(answers) => answers.into_iter().next().unwrap_or_default(),
        Err(code) => return code,
    };
    match flags.json {
        true => println!("{answer}"),
        false if flags.client.is_some() || flags.id.is_some() => print!("{}", one(&answer)),
        false => print!("{}", many(&answer)),
    }
    ExitCode::SUCCESS
}

impl Flags {
    fn path(&self) -> String {
        const ALL: &str = "/api/v1/connections";
        match (&self.id, &self.client) {
            (Some(id), _) => return format!("{ALL}/{id}"),
            (_, Some(client)) => return format!("{ALL}/by-client/{}", encoded(&client.to_string())),
            _ => {}
        }
        let mut path = format!("{ALL}?limit={}", self.limit);
        for (key, value) in [("upstream", &self.upstream), ("listener", &self.listener)] {
            if let Some(value) = value {
                path += &format!("&{key}={}", encoded(value));
            }
        }
        path
    }
}

/// For a part of a path or a query: all but letters, digits and `-._~` in percent signs (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    each.collect()
}

fn many(answer: &Value) -> String {
    let mut table = Table::new(&[
        "ID", "STATE", "CLIENT", "LISTENER", "UPSTREAM", "ENDPOINT", "SECONDS", "SENT", "RECEIVED",
    ]);
    let connections = answer["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    for connection in connections {
        let column = |key: &str| text(&connection[key]);
        table.row([
            column("id"),
            column("state"),
            column("client"),
            column("listener"),
            column("upstream"),
            column("endpoint"),
            format!("{:.1}", connection["duration_ms"].as_f64().unwrap_or(0.0) / 1000.0),
            column("bytes_sent"),
            column("bytes_received"),
        ]);
    }
    let total = answer["total"].as_u64().unwrap_or(0);
    match (total, connections.len() as u64) {
        (0, _) => "no connection is open\n".to_owned(),
        (total, shown) if shown < total => {
            format!("{table}the newest {shown} of {total}: --limit {total} shows all\n")
        }
        _ => table.to_string(),
    }
}

fn one(connection: &Value) -> String {
    let mut rows =
        Rows::titled(format!("connection {}, {}", text(&connection["id"]), text(&connection["state"])));
    let mut row = |label: &str, words: Option<String>| {
        if let Some(words) = words {
            rows.row(label, words);
        }
    };
    let known = |key: &str| connection.get(key).map(text);
    row("opened", known("opened"));
    row("client", known("client"));
    row("listener", known("listener"));
    row("upstream", known("upstream"));
    row("endpoint", known("endpoint"));
    row("outcome", known("outcome"));
    let at = [known("stage"), known("reason"), known("side").map(|side| format!("({side})"))];
    let failed: Vec<_> = at.into_iter().flatten().collect();
    row("failed at", (!failed.is_empty()).then(|| failed.join(" ")));
    row("detail", known("detail"));
    row("next step", known("next_step"));
    row("closed by", known("closed_by"));
    for attempt in connection["attempts"].as_array().into_iter().flatten() {
        let came_to = match attempt.get("reason") {
            Some(reason) => format!("{} {}", text(&attempt["stage"]), text(reason)),
            None => "established".to_owned(),
        };
        row(
            "tried",
            Some(format!("{}: {came_to} after {} ms", text(&attempt["endpoint"]), text(&attempt["ms"]))),
        );
    }
    if let Some(tls) = connection.get("tls") {
        let peer = tls["peer"]["subject"].as_str().map(|_| format!(", {}", text(&tls["peer"]["subject"])));
        row(
            "tls",
            Some(format!("{} {}{}", text(&tls["version"]), text(&tls["suite"]), peer.unwrap_or_default())),
        );
    }
    row("lasted", known("duration_ms").map(|ms| format!("{ms} ms")));
    row(
        "bytes",
        Some(format!(
            "{} sent, {} received",
            text(&connection["bytes_sent"]),
            text(&connection["bytes_received"])
        )),
    );
    rows.into_text() + "\n"
}
