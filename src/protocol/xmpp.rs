//! XMPP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "xmpp",
    title: "XMPP",
    first: First::Client,
    asks_with: Some("starttls"),
    alpn: Some("xmpp-client"),
    ports: Ports { plain: Some(5222), direct: Some(5223) },
    refuses_with: "stream error",
    limits: "TBD",
};

pub(super) struct Xmpp;

impl Dialect for Xmpp {
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
