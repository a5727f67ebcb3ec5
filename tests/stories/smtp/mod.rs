//! SMTP behind nuncio: plaintext clients, and servers that want STARTTLS and a certificate.

mod clients;
#[cfg(unix)]
mod delivery;
mod hostile;
#[cfg(unix)]
mod refusals;

use std::net::SocketAddr;

use serde_json::Value;

use super::harness::wording::redacted;
use super::harness::{Pki, config};

/// The file of an ambassador in front of mail servers. Unless `keys` say something of health, the only connections are those
/// of the test.
fn behind(pki: &Pki, servers: &[SocketAddr], keys: &str) -> String {
    config::mtls(pki, &upstream(servers, keys))
}

/// The upstream's keys.
fn upstream(servers: &[SocketAddr], keys: &str) -> String {
    let health = if keys.contains("health.") { "" } else { "health.kind = \"off\"\n" };
    format!("protocol = \"smtp\"\n{}{health}{keys}", config::endpoints(servers))
}

/// A record as the log's reader meets it.
fn told(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("-");
    format!(
        "{} at {}: {} ({})\n  {}\n  {}",
        text("outcome"),
        text("stage"),
        text("reason"),
        text("side"),
        text("detail"),
        text("next_step")
    )
}

/// Without what differs from run to run: ids too.
pub(super) fn unnumbered(pki: &Pki, text: &str) -> String {
    let text = redacted(&text.replace(&pki.directory().display().to_string(), "/etc/nuncio"));
    let mut parts = text.split("connection ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let id = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        shown.push_str("connection ");
        shown.push_str(if id == 16 { "ID" } else { &part[..id] });
        shown.push_str(&part[id..]);
    }
    shown
}
