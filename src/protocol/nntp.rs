//! NNTP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "nntp",
    title: "NNTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    ports: Ports { plain: Some(119), direct: Some(563) },
    refuses_with: "400",
    limits: "TBD",
};

pub(super) struct Nntp;

impl Dialect for Nntp {
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
