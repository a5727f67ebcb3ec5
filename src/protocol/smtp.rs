//! SMTP with STARTTLS (RFC 5321, RFC 3207), and what LMTP shares with it ([`Kin`]).
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
use super::upgrade::Words;
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
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; \
             where a listener has TLS, STARTTLS before AUTH and MAIL ends there",
};

/// What SMTP and LMTP have each in their own way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kin {
    /// For a person.
    pub(super) title: &'static str,
    /// How a client asks what the server can do.
    pub(super) hello: &'static str,
    /// What is awaited then.
    pub(super) answer_to_hello: &'static str,
    /// What would bring STARTTLS into the server's offer.
    pub(super) switch_on: &'static str,
    /// A port that speaks TLS from its first byte, as a mend has it.
    pub(super) if_direct: &'static str,
    /// What may be amiss where no greeting comes.
    pub(super) if_late: &'static str,
    /// A client that begins with TLS.
    pub(super) began_with_tls: &'static str,
    /// How a client is refused that may not come at all: code and enhanced status.
    pub(super) forbids: (&'static str, &'static str),
    /// How a client asks for TLS of its own.
    pub(super) upgrade: Words,
}

const SMTP: Kin = Kin {
    title: "SMTP",
    hello: "EHLO",
    answer_to_hello: "the server's answer to EHLO",
    switch_on: "switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: \
                tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = \"direct\"",
    if_direct: "if this port speaks TLS from its first byte (465), set tls = \"direct\"",
    if_late: "if this port speaks TLS from its first byte (465), set tls = \"direct\"; if the server greets late on \
              purpose or looks its clients up in a slow DNS, raise timeouts.negotiate",
    began_with_tls: "the client began with TLS where plaintext SMTP is expected",
    // Mail that meets 421 is tried again, mail that meets 554 is returned.
    forbids: ("554", "5.7.1"),
    upgrade: upgrade(
        &["EHLO", "HELO", "HELP", "NOOP", "QUIT", "RSET"],
        "the client began with TLS where it has to ask for it, in SMTP",
    ),
};

/// A client's request for TLS (RFC 3207). What XCLIENT says a server would keep for what comes inside, so that it does not
/// go on before.
pub(super) const fn upgrade(goes_on: &'static [&'static str], began_with_tls: &'static str) -> Words {
    Words {
        request: "STARTTLS",
        goes_on,
        goes_on_bare: &[],
        is_tagged: false,
        ready: "220 2.0.0 Ready to start TLS\r\n",
        not_bare: "501 5.5.4 STARTTLS takes no parameters\r\n",
        first: "530 5.7.0 Must issue a STARTTLS command first\r\n",
        began_with_tls,
    }
}

pub(super) struct Smtp;

impl Dialect for Smtp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(&SMTP, asking.as_host)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(&SMTP, meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(&SMTP, refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

/// A server that is left without it logs a lost connection.
pub(super) const FAREWELL: &[u8] = b"QUIT\r\n";

/// The first word of a line of the answer to EHLO, and what stands behind that, without the line's end.
fn keyword(line: &[u8]) -> (&[u8], &[u8]) {
    let text = text(line);
    text.split_at(text.iter().position(is_separator).unwrap_or(text.len()))
}

/// Between a keyword and its arguments: `AUTH PLAIN`, and `AUTH=PLAIN` as before RFC 2554.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'=')
}
