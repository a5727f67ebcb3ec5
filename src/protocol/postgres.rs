//! PostgreSQL: stub, to be replaced.
use super::{Facts, First, KeepKey, Negotiated, Opening, Refusal, Talk};
use crate::failure::Failure;
use crate::relay::Greeting;

pub(super) const FACTS: Facts = Facts {
    name: "postgres",
    title: "PostgreSQL",
    first: First::Client,
    asks_with: Some("SSLRequest"),
    alpn: Some("postgresql"),
    refuses_with: "FATAL ErrorResponse with SQLSTATE, DETAIL and HINT",
    limits: "",
};

#[derive(Default)]
pub(super) struct Preface;

impl Talk for Preface {
    type Outcome = Opening;
    fn hear(&mut self, _heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        Ok(None)
    }
    fn awaits(&self) -> &'static str {
        "the client's startup message"
    }
}

#[derive(Default)]
pub(super) struct Negotiation;

impl Talk for Negotiation {
    type Outcome = Negotiated;
    fn hear(&mut self, _heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        Ok(None)
    }
    fn awaits(&self) -> &'static str {
        "the server's answer to SSLRequest"
    }
}

pub(super) fn greet(_opening: Opening, _keep_key: KeepKey) -> Greeting {
    Greeting::default()
}

pub(super) fn refusal(_refusal: Refusal<'_>) -> Vec<u8> {
    Vec::new()
}
