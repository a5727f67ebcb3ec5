//! Microsoft SQL Server's TDS 7 ([MS-TDS]), as far as TLS in the middle concerns it; and TDS 8, where TLS comes first.
//!
//! The client's PRELOGIN is read ([`preface`]) and sent on with encryption asked for ([`negotiate`]); the TLS handshake then
//! travels inside PRELOGIN packets ([`wrap`]), and TLS alone behind that. The client is given the server's answer with "no
//! encryption" in it, and logs in ([`greet`]). [`refuse`] says no as the server would.
//!
//! [`packet`] is the framing, [`prelogin`] the one message that is looked into.

mod greet;
mod negotiate;
mod packet;
mod preface;
mod prelogin;
mod refuse;
#[cfg(test)]
mod tests;
mod token;
mod wrap;

use super::{
    Asking, Dialect, Facts, First, Meeting, Negotiated, Offer, Opening, Ports, Refusal, Talk, Wrapping,
};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "sqlserver",
    title: "Microsoft SQL Server (TDS)",
    first: First::Client,
    asks_with: Some("PRELOGIN"),
    alpn: Some("tds/8.0"),
    ports: Ports { plain: Some(1433), direct: Some(1433) },
    refuses_with: "an error (class 20) in answer to the login",
    limits: "a client's own encryption (Encrypt=no or optional), but where its listener has TLS (and then neither MARS nor \
             federated logins); clients of TDS 4.2 and 5.0; TLS 1.3 where TLS is asked \
             for (TDS 7 has none); what leads a client to other addresses (Azure's redirect, read-only routing, the SQL \
             Browser's ports of named instances); Windows logins where Extended Protection is required. Proven with FreeTDS \
             and Microsoft's mock server: no real one has seen a certificate of ours, and it may log health checks (17830)",
};

pub(super) struct Sqlserver;

impl Dialect for Sqlserver {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn never_warm(&self) -> Option<&'static str> {
        Some("the server is asked for what the client's own PRELOGIN names")
    }

    fn preface(&self, offer: Offer) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        Some(Box::new(preface::Preface { offer }))
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(negotiate::Negotiation::new(asking.opening)))
    }

    fn wrapping(&self) -> Option<Box<dyn Wrapping>> {
        Some(Box::new(wrap::InPackets))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet::greet(meeting.opening, meeting.negotiated, meeting.secured)
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(refuse::Refusing::new(refusal)))
    }
}
