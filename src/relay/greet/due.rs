//! due: the time within which a client has to ask for TLS where nobody is served without: it holds an upstream meanwhile.
//!
//! Owns when that time begins. What the client does with it is its greeter's to tell.

use std::time::Duration;

use tokio::time::Instant;

use super::{Greeter, Objection, Onward, Remark, Upgrade};

/// A greeter, and since when it is the client's turn to ask.
pub(super) struct Due {
    greeter: Box<dyn Greeter>,
    limit: Duration,
    since: Option<Instant>,
}

impl Due {
    pub(super) fn new(greeter: Box<dyn Greeter>, limit: Duration) -> Due {
        let mut due = Due { greeter, limit, since: None };
        due.look();
        due
    }

    /// What is refused, or comes in pieces, buys no more time. What the server is asked does, and is bounded by the greeter: a
    /// slow server's answer is nothing that the client could help.
    fn look(&mut self) {
        self.since = self.greeter.awaits_tls().then(|| self.since.unwrap_or_else(Instant::now));
    }
}

impl Greeter for Due {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let said = self.greeter.client_said(heard, onward);
        self.look();
        said
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let said = self.greeter.upstream_said(heard, onward);
        self.look();
        said
    }

    fn is_done(&self) -> bool {
        self.greeter.is_done()
    }

    fn may_refuse(&self) -> bool {
        self.greeter.may_refuse()
    }

    fn unanswered(&self) -> Vec<u8> {
        self.greeter.unanswered()
    }

    fn upgrade(&self) -> Upgrade {
        self.greeter.upgrade()
    }

    fn upgraded(&mut self, onward: &mut Onward) {
        self.greeter.upgraded(onward);
        self.look();
    }

    fn awaits_tls(&self) -> bool {
        self.greeter.awaits_tls()
    }

    fn tls_due(&self) -> Option<Instant> {
        self.since?.checked_add(self.limit)
    }

    fn why_ended(&self) -> Option<Remark> {
        self.greeter.why_ended()
    }
}
