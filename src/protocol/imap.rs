//! IMAP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "imap",
    title: "IMAP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: Some("imap"),
    ports: Ports { plain: Some(143), direct: Some(993) },
    refuses_with: "BYE",
    limits: "TBD",
};

pub(super) struct Imap;

impl Dialect for Imap {
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
