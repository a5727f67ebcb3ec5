//! `nuncio status`: what runs, where it listens, and how its upstreams are, on one screen.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::ask::AdminFlags;
use super::table::{Table, text};

const MORE: &str = "Exit codes: 0 it answered, 1 it did not, 2 wrong usage, 3 the configuration is refused.";

#[derive(clap::Args)]
#[command(after_help = MORE)]
pub(super) struct Flags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Answer as JSON: what /api/v1/status and /api/v1/upstreams say.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let answers = match flags.admin.ask(&["/api/v1/status", "/api/v1/upstreams"]) {
        Ok(answers) => answers,
        Err(code) => return code,
    };
    let [status, upstreams] = answers.as_slice() else { return ExitCode::FAILURE };
    match flags.json {
        true => println!("{}", json!({ "status": status, "upstreams": upstreams })),
        false => print!("{}", shown(status, upstreams)),
    }
    ExitCode::SUCCESS
}

fn shown(status: &Value, upstreams: &Value) -> String {
    let up = humantime::format_duration(Duration::from_secs(status["uptime_seconds"].as_u64().unwrap_or(0)));
    let mut all = format!(
        "nuncio {}, pid {}, up {up}: {} of {} connections{}\n",
        text(&status["version"]),
        text(&status["pid"]),
        text(&status["connections_open"]),
        text(&status["connections_limit"]),
        if status["draining"] == true { ", draining" } else { "" },
    );
    if let Some(file) = status["file"].as_str() {
        all += &format!("{file}, reloaded {} times\n", text(&status["reloads"]));
    }
    if let Some(problem) = status["last_reload_problem"].as_str() {
        all += &format!("the last reload was refused, and changed nothing:\n{problem}\n");
    }
    let mut listeners = Table::new(&["LISTENER", "ADDRESS", "TLS"]);
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let addresses: Vec<_> = listener["addresses"].as_array().into_iter().flatten().map(text).collect();
        let tls = if listener["tls"] == true { "yes" } else { "no" };
        listeners.row([text(&listener["name"]), addresses.join(", "), tls.to_owned()]);
    }
    all += &format!("\n{listeners}");
    let mut endpoints =
        Table::new(&["UPSTREAM", "ENDPOINT", "HEALTH", "CIRCUIT", "OPEN", "ESTABLISHED", "FAILED", "NOW"]);
    for upstream in upstreams.as_array().into_iter().flatten() {
        let name = text(&upstream["name"]);
        for endpoint in upstream["endpoints"].as_array().into_iter().flatten() {
            let column = |key: &str| text(&endpoint[key]);
            endpoints.row([
                name.clone(),
                column("address"),
                column("health"),
                column("breaker"),
                column("open"),
                column("established_total"),
                column("failed_total"),
                now(endpoint),
            ]);
        }
        if upstream["endpoints"].as_array().is_none_or(Vec::is_empty) {
            let none = "no endpoints yet".to_owned();
            let dash = || "-".to_owned();
            endpoints.row([name.clone(), dash(), dash(), dash(), dash(), dash(), dash(), none]);
        }
    }
    all += &format!("\n{endpoints}");
    for upstream in upstreams.as_array().into_iter().flatten() {
        let name = text(&upstream["name"]);
        if let Some(why) = upstream["source"]["last_error"].as_str() {
            all += &format!("{name}: the source of its endpoints fails, and the last set is kept: {why}\n");
        }
        if let Some(waiting) = upstream["waiting"].as_u64().filter(|waiting| *waiting > 0) {
            all += &format!("{name}: {waiting} connections wait for a place\n");
        }
    }
    all
}

/// Whether it is used, and if not, why.
fn now(endpoint: &Value) -> String {
    let circuit = &endpoint["operator"]["circuit"];
    let mut words = Vec::new();
    if endpoint["operator"]["drained"] == true {
        words.push("drained by an operator".to_owned());
    }
    if circuit == "open" || circuit == "closed" {
        words.push(format!("circuit held {} by an operator", text(circuit)));
    }
    if let Some(most) = endpoint["full_at"].as_u64() {
        words.push(format!("full at {most}"));
    }
    if let Some(ms) = endpoint["reopens_in_ms"].as_u64() {
        words.push(format!("tried again in {} s", ms.div_ceil(1000)));
    }
    let is_ready = endpoint["ready"] == true;
    if !is_ready && let Some(detail) = endpoint["last_failure"]["detail"].as_str() {
        words.push(detail.to_owned());
    }
    let state = match (is_ready, endpoint["panicking"] == true) {
        (true, _) => "ready",
        (false, true) => "used all the same: too many others are out",
        (false, false) => "not used",
    };
    [vec![state.to_owned()], words].concat().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody at three in the morning: what is not used, and why, in one line.
    #[test]
    fn an_endpoint_that_is_not_used_says_why() {
        let of = |endpoint: Value| now(&endpoint);
        assert_eq!(of(json!({"ready": true})), "ready");
        assert_eq!(of(json!({"ready": true, "full_at": 5})), "ready; full at 5");
        let last = json!({"detail": "db1:1 refused the connection"});
        assert_eq!(
            of(json!({"ready": false, "reopens_in_ms": 1200, "last_failure": last})),
            "not used; tried again in 2 s; db1:1 refused the connection"
        );
        assert_eq!(of(json!({"ready": true, "last_failure": last})), "ready");
        let operator = json!({"drained": true, "circuit": "open"});
        assert_eq!(
            of(json!({"ready": false, "operator": operator})),
            "not used; drained by an operator; circuit held open by an operator"
        );
        assert!(of(json!({"ready": false, "panicking": true})).starts_with("used all the same"));
    }
}
