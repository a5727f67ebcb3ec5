//! SMTP: stub, to be replaced.
use super::{Facts, First, Negotiated, Refusal, Talk};
use crate::failure::Failure;
use crate::relay::Greeting;

pub(super) const FACTS: Facts = Facts {
    name: "smtp",
    title: "SMTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    refuses_with: "421",
    limits: "",
};

pub(super) const FAREWELL: &[u8] = b"QUIT\r\n";

pub(super) struct Negotiation;

impl Negotiation {
    pub(super) fn new(_as_host: &str) -> Negotiation {
        Negotiation
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;
    fn hear(&mut self, _heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        Ok(None)
    }
    fn awaits(&self) -> &'static str {
        "the server's greeting"
    }
}

pub(super) fn greet(_negotiated: Negotiated) -> Greeting {
    Greeting::default()
}

pub(super) fn refusal(_refusal: Refusal<'_>) -> Vec<u8> {
    Vec::new()
}
