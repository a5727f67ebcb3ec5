//! AMQP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "amqp",
    title: "AMQP",
    first: First::Client,
    asks_with: None,
    alpn: Some("amqp"),
    ports: Ports { plain: Some(5672), direct: Some(5671) },
    refuses_with: "connection.close",
    limits: "TBD",
};

pub(super) struct Amqp;

impl Dialect for Amqp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn greet(&self, _: Meeting) -> Greeting {
        Greeting::default()
    }

    fn refusal(&self, _: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        None
    }
}
