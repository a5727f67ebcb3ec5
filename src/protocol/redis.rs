//! Redis

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "redis",
    title: "Redis",
    first: First::Client,
    asks_with: None,
    alpn: None,
    ports: Ports { plain: Some(6379), direct: Some(6379) },
    refuses_with: "-ERR",
    limits: "TBD",
};

pub(super) struct Redis;

impl Dialect for Redis {
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
