//! SMTP with STARTTLS (RFC 5321, RFC 3207).
//!
//! `negotiate`: greeting, EHLO, STARTTLS. `greet`: the server's greeting replayed, so that the client's own EHLO runs
//! inside TLS, and its answer without what TLS in the middle cannot keep. `refuse`: 421, with the reason in words.

mod greet;
mod negotiate;
mod refuse;

use greet::greet;
use negotiate::Negotiation;
use refuse::refusal;

use super::reply::text;
use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "smtp",
    title: "SMTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    ports: Ports { plain: Some(25), direct: Some(465) },
    refuses_with: "421 with the reason in words (554 where the client may not come at all)",
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers",
};

pub(super) struct Smtp;

impl Dialect for Smtp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(asking.as_host)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(meeting.negotiated, meeting.secured)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

/// A server that is left without it logs a lost connection.
const FAREWELL: &[u8] = b"QUIT\r\n";

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
