//! XMPP between client and server (RFC 6120), as far as TLS in the middle concerns it.
//!
//! The client's stream header is read ([`preface`]): it names the domain, to which a stream of our own is opened to ask the
//! server for TLS ([`negotiate`]). Inside TLS the client's own header goes up as it came, and the server's features come back
//! without what TLS in the middle cannot keep ([`greet`], [`mend`]). [`refuse`] says no with a stream's error.
//!
//! [`xml`] and [`stream`] own how a stream is read and written. Stanzas, logins and what follows them are the peers' own.

mod greet;
mod mend;
mod negotiate;
mod preface;
mod refuse;
mod stream;
#[cfg(test)]
mod tests;
mod upgrade;
mod xml;

use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Offer, Opening, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

use greet::greet;
use negotiate::Negotiation;
use preface::Preface;
use refuse::refusal;

const FACTS: Facts = Facts {
    name: "xmpp",
    title: "XMPP",
    first: First::Client,
    asks_with: Some("starttls"),
    alpn: Some("xmpp-client"),
    ports: Ports { plain: Some(5222), direct: Some(5223) },
    refuses_with: "a stream error (remote-connection-failed, resource-constraint, system-shutdown) with the reason in words",
    limits: "clients only, no streams between servers and no components; starttls (but where the listener has TLS) and \
             mechanisms bound to the server's TLS (SCRAM-…-PLUS) are taken out of what the server offers, which a client \
             that checks the list (XEP-0474) takes for an attack; a server's see-other-host leads past nuncio; a check asks \
             for the domain that server_name names",
};

pub(super) struct Xmpp;

impl Dialect for Xmpp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn never_warm(&self) -> Option<&'static str> {
        Some("the server is asked for the domain that the client names first")
    }

    fn preface(&self, _: Offer) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        Some(Box::new(Preface::default()))
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(asking)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(refused))))
    }
}
