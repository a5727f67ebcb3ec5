//! PostgreSQL's frontend/backend protocol, version 3, as far as TLS in the middle concerns it.
//!
//! The client may ask for encryption, and is told no, or gets TLS where its listener has that to give; then it says who it is,
//! or whose query to cancel ([`preface`]). The server
//! is asked for TLS ([`negotiate`]). The client's first message goes up, and what the server answers is read until the
//! client has its session's key ([`greet`]); from there on no byte is looked at. [`refuse`] says no as the server would.
//!
//! Owns the numbers and the framing that these have in common. Leaves all that TLS does not change to the two peers:
//! versions, parameters, passwords.

mod greet;
mod negotiate;
mod preface;
mod refuse;
#[cfg(test)]
mod tests;

use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Offer, Opening, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

use greet::greet;
use negotiate::Negotiation;
use preface::Preface;
use refuse::refusal;

const FACTS: Facts = Facts {
    name: "postgres",
    title: "PostgreSQL",
    first: First::Client,
    asks_with: Some("SSLRequest"),
    alpn: Some("postgresql"),
    ports: Ports { plain: Some(5432), direct: Some(5432) },
    refuses_with: "FATAL ErrorResponse with SQLSTATE, DETAIL and HINT",
    limits: "the client's own TLS and GSSAPI encryption (both are answered no: sslmode=disable or prefer; TLS where the \
             listener has it); SCRAM's channel binding, since TLS ends here (channel_binding=prefer or disable, with TLS on \
             both sides disable); clients of protocol 2",
};

pub(super) struct Postgres;

impl Dialect for Postgres {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn preface(&self, offer: Offer) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        Some(Box::new(Preface::new(offer)))
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::default()))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(refused))))
    }
}

/// Request codes stand where a StartupMessage has its version; their major half, 1234, will never be one.
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// A session's secret: four bytes, and from protocol 3.2 on up to 256.
const SECRET: std::ops::RangeInclusive<usize> = 4..=256;
/// Stands before the secret.
const PROCESS_ID: usize = 4;

/// The four bytes at a place, if they are there yet.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// A length as it stands before a message, if it is there yet. It counts itself, but not a type's byte before it.
fn length(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

/// On one line, of at most so many bytes, without what could play tricks with a terminal, a log or a field's end.
fn one_line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for letter in text.trim().chars() {
        if line.len() + letter.len_utf8() + '…'.len_utf8() > most {
            line.push('…');
            break;
        }
        line.push(if letter.is_control() { ' ' } else { letter });
    }
    line
}
