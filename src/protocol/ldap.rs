//! LDAP version 3 (RFC 4511), as far as TLS in the middle concerns it.
//!
//! The server is asked for TLS by the StartTLS operation ([`negotiate`]). The client's messages pass as they are, and are
//! read along until the server has served it once ([`greet`]). [`refuse`] answers the client's first request.
//!
//! Nothing is read before the server is dialled: a client may open a connection long before it has a request. So a refusal
//! hears the client first. [`ber`] and [`message`] own how messages are read and written.

mod ber;
mod greet;
mod message;
mod negotiate;
mod refuse;
#[cfg(test)]
mod tests;
mod upgrade;

use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Talk};
use crate::relay::Greeting;

use greet::greet;
use negotiate::Negotiation;
use refuse::Refused;

const FACTS: Facts = Facts {
    name: "ldap",
    title: "LDAP",
    first: First::Client,
    asks_with: Some("StartTLS"),
    alpn: None,
    ports: Ports { plain: Some(389), direct: Some(636) },
    refuses_with: "resultCode 52 unavailable (51 busy at limits) and diagnosticMessage, in the response to the first request",
    limits: "the client's own StartTLS (the server answers operationsError), but where its listener has TLS; the rootDSE passes as it is, with what it says \
             of StartTLS and SASL; Active Directory inside TLS neither signs nor seals (SASL_SECPROPS maxssf=0), and with \
             LdapEnforceChannelBinding = 2 takes simple binds only; referrals lead clients past nuncio",
};

pub(super) struct Ldap;

impl Dialect for Ldap {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::default()))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Refused::new(refused)))
    }

    /// Java's JNDI throws away an answer that it has not looked at when the connection ends, and says "socket closed".
    fn leaves_when_refused(&self) -> bool {
        true
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

/// UnbindRequest, with a number that no request of ours has. A server that is left without it logs a lost connection.
const FAREWELL: &[u8] = b"\x30\x05\x02\x01\x02\x42\x00";
