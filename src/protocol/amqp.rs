//! AMQP 0-9-1 and 1.0: TLS begins with the first byte, and changes nothing behind it.
//!
//! [`refuse`] says no: both versions have words for it, but clients read them only where a connection is opened, so that
//! one has to be let in as far as that.

mod refuse;

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk, first_words};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "amqp",
    title: "AMQP 0-9-1, AMQP 1.0",
    first: First::Client,
    asks_with: None,
    alpn: Some("amqp"),
    ports: Ports { plain: Some(5672), direct: Some(5671) },
    refuses_with: "connection.close 320 (0-9-1), close with amqp:connection:forced (1.0), once the connection is opened",
    limits: "what leads a client to other addresses (AMQP 1.0's redirect, RabbitMQ's streams); health checks end with TLS (a \
             connection would need a password)",
};

pub(super) struct Amqp;

impl Dialect for Amqp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        first_words::greet(meeting.opening, meeting.secured)
    }

    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(refuse::Refusing::new(refusal)))
    }
}

#[cfg(test)]
mod tests;
