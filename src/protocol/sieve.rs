//! ManageSieve (RFC 5804) with STARTTLS.
//!
//! `negotiate`: capabilities, STARTTLS. `greet`: the capabilities once more, as they are inside TLS and without what TLS in
//! the middle cannot keep, until the client is logged in. `refuse`: BYE. `response`: a server's line taken apart.

mod greet;
mod negotiate;
mod refuse;
mod response;

use negotiate::Negotiation;

use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "sieve",
    title: "ManageSieve",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: Some("managesieve"),
    ports: Ports { plain: Some(4190), direct: None },
    refuses_with: "BYE with the reason in words",
    limits: "STARTTLS and mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the server offers; \
             referrals lead clients past nuncio; where a listener has TLS, STARTTLS before the login ends there",
};

pub(super) struct Sieve;

impl Dialect for Sieve {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::default()))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet::greet(&meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refuse::refusal(refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

/// A server that is left without it may log a lost connection.
const FAREWELL: &[u8] = b"LOGOUT\r\n";
