//! TDS

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "sqlserver",
    title: "Microsoft SQL Server",
    first: First::Client,
    asks_with: Some("PRELOGIN"),
    alpn: Some("tds/8.0"),
    ports: Ports { plain: Some(1433), direct: Some(1433) },
    refuses_with: "ERROR token",
    limits: "TBD",
};

pub(super) struct Sqlserver;

impl Dialect for Sqlserver {
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
