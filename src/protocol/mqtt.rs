//! MQTT

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "mqtt",
    title: "MQTT",
    first: First::Client,
    asks_with: None,
    alpn: Some("mqtt"),
    ports: Ports { plain: Some(1883), direct: Some(8883) },
    refuses_with: "CONNACK",
    limits: "TBD",
};

pub(super) struct Mqtt;

impl Dialect for Mqtt {
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
