//! POP3

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "pop3",
    title: "POP3",
    first: First::Server,
    asks_with: Some("STLS"),
    alpn: Some("pop3"),
    ports: Ports { plain: Some(110), direct: Some(995) },
    refuses_with: "-ERR",
    limits: "TBD",
};

pub(super) struct Pop3;

impl Dialect for Pop3 {
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
