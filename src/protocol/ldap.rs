//! LDAP

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "ldap",
    title: "LDAP",
    first: First::Client,
    asks_with: Some("StartTLS"),
    alpn: Some("ldap"),
    ports: Ports { plain: Some(389), direct: Some(636) },
    refuses_with: "resultCode 52",
    limits: "TBD",
};

pub(super) struct Ldap;

impl Dialect for Ldap {
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
