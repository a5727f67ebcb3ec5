//! IMAP (RFC 3501, RFC 9051) with STARTTLS (RFC 2595).
//!
//! `negotiate`: greeting, STARTTLS. `greet`: CAPABILITY asked inside TLS, the server's greeting with that answer, and every
//! later list without what TLS in the middle cannot keep, until the client is logged in. `refuse`: an untagged BYE.
//! `response`: a server's line taken apart.

mod greet;
mod negotiate;
mod refuse;
mod response;

use negotiate::Negotiation;

use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "imap",
    title: "IMAP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: Some("imap"),
    ports: Ports { plain: Some(143), direct: Some(993) },
    refuses_with: "an untagged BYE with the reason in words",
    limits: "STARTTLS, LOGINDISABLED and mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the \
             server offers; a server that greets with PREAUTH cannot be asked for TLS; referrals lead clients past nuncio; \
             where a listener has TLS, STARTTLS before the login ends there",
};

pub(super) struct Imap;

impl Dialect for Imap {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::default()))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet::greet(meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refuse::refusal(refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

/// A server that is left without it may log a lost connection.
const FAREWELL: &[u8] = b"nuncio LOGOUT\r\n";
/// Of our commands. Each is answered before the next is given.
const TAG: &[u8] = b"nuncio";
