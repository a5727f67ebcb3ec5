//! ManageSieve

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "sieve",
    title: "ManageSieve",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: Some("managesieve"),
    ports: Ports { plain: Some(4190), direct: None },
    refuses_with: "BYE",
    limits: "TBD",
};

pub(super) struct Sieve;

impl Dialect for Sieve {
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
