//! LMTP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "lmtp",
    title: "LMTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    ports: Ports { plain: Some(24), direct: None },
    refuses_with: "421",
    limits: "TBD",
};

pub(super) struct Lmtp;

impl Dialect for Lmtp {
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
