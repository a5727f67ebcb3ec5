//! SMTP with STARTTLS (RFC 5321, RFC 3207).
//!
//! `negotiate`: greeting, EHLO, STARTTLS. `greet`: the server's greeting replayed, so that the client's own EHLO runs
//! inside TLS, and its answer without what TLS in the middle cannot keep. `refuse`: 421, with the reason in words.

mod greet;
mod negotiate;
mod refuse;

pub(super) use greet::greet;
pub(super) use negotiate::Negotiation;
pub(super) use refuse::refusal;

use super::reply::text;
use super::{Facts, First};

pub(super) const FACTS: Facts = Facts {
    name: "smtp",
    title: "SMTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    refuses_with: "421 with the reason in words (554 where the client may not come at all)",
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers",
};

/// A server that is left without it logs a lost connection.
pub(super) const FAREWELL: &[u8] = b"QUIT\r\n";

/// How a client asks what the server can do.
const HELLO: &str = "EHLO";

/// The first word of a line of the answer to it, and what stands behind that, without the line's end.
fn keyword(line: &[u8]) -> (&[u8], &[u8]) {
    let text = text(line);
    text.split_at(text.iter().position(is_separator).unwrap_or(text.len()))
}

/// Between a keyword and its arguments: `AUTH PLAIN`, and `AUTH=PLAIN` as before RFC 2554.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'=')
}
