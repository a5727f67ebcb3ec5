//! MySQL

use super::{Dialect, Facts, First, Meeting, Ports, Refusal, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "mysql",
    title: "MySQL and MariaDB",
    first: First::Server,
    asks_with: Some("CLIENT_SSL"),
    alpn: None,
    ports: Ports { plain: Some(3306), direct: None },
    refuses_with: "ERR packet",
    limits: "TBD",
};

pub(super) struct Mysql;

impl Dialect for Mysql {
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
