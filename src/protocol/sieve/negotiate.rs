//! Asking a ManageSieve server for TLS: its capabilities, STARTTLS.
//!
//! What comes before TLS is believed only as far as it must be: whether there is STARTTLS, and which server this is. Bytes
//! behind the answer to STARTTLS are refused.

use std::mem;

use super::FAREWELL;
use super::response::{Capability, Status, is_data, status, told};
use crate::failure::{Failure, Reason, Stage};
use crate::protocol::literal::{Lines, MAX_LINE, Seen};
use crate::protocol::reply::{MAX_REPLY, glimpse, quoted};
use crate::protocol::{Negotiated, Talk};

/// What would bring STARTTLS into the server's offer.
const SWITCH_ON: &str =
    "switch STARTTLS on at the server (Dovecot: ssl = yes and a certificate; Cyrus: tls_server_cert)";

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    lines: Lines,
    is_greeted: bool,
    /// The response so far.
    response: Vec<u8>,
    greeting: Vec<u8>,
    /// Names of what the server can do.
    offers: Vec<Vec<u8>>,
}

impl Default for Negotiation {
    fn default() -> Self {
        Negotiation {
            lines: Lines::new(|_| true),
            is_greeted: false,
            response: Vec::new(),
            greeting: Vec::new(),
            offers: Vec::new(),
        }
    }
}

impl Negotiation {
    /// The line that ends the next response, which is then in `self.response`; `None`: it is not whole yet.
    fn next_response(&mut self, heard: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let (count, seen) = self.lines.read(heard);
            heard.drain(..count);
            if let Some(odd) = self.odd_line(seen == Some(Seen::Line), false) {
                return Err(self.not_a_line(odd));
            }
            let too_long = match seen {
                None => return Ok(None),
                Some(Seen::Line) => self.response.len() + self.lines.kept().len() > MAX_REPLY,
                Some(Seen::TooLong) => true,
            };
            if too_long {
                return Err(error(format!(
                    "{} goes on beyond {MAX_LINE} bytes a line or {MAX_REPLY} bytes in all",
                    self.awaits()
                )));
            }
            let line = self.lines.take();
            self.response.extend_from_slice(&line);
            if status(&line).is_some() {
                return Ok(Some(line));
            }
            self.offers.extend(Capability::of(&line).map(|capability| capability.name));
        }
    }

    /// The line that is kept, where it is none of ManageSieve's.
    fn odd_line(&self, is_whole: bool, is_all: bool) -> Option<&[u8]> {
        let line = self.lines.kept();
        let begins = |with: &[u8]| line.iter().zip(with).all(|(byte, with)| byte.eq_ignore_ascii_case(with));
        let fits = match is_whole {
            true => is_data(line) || status(line).is_some(),
            false => is_data(line) || begins(b"OK") || begins(b"NO") || begins(b"BYE"),
        };
        if fits { None } else { glimpse(line, is_all) }
    }

    fn not_a_line(&self, odd: &[u8]) -> Failure {
        let what = if self.is_greeted { self.awaits() } else { "what the server said first" };
        let failure = error(format!("{what} is not ManageSieve, but begins with \"{}\"", quoted(odd)));
        match odd {
            // An alert or a handshake record, and nothing else that a server would say in plaintext.
            [0x15 | 0x16, ..] => {
                failure.mend("the port speaks TLS from its first byte: set tls = \"direct\"")
            }
            _ => failure,
        }
    }

    fn judge(&self, line: &[u8]) -> Result<(), Failure> {
        let said = told(line);
        match (status(line), self.is_greeted) {
            (Some(Status::Ok), true) => Ok(()),
            (Some(Status::Ok), false) => self.judge_offer(),
            (Some(Status::Bye), _) | (_, false) => Err(refused(format!(
                "the server does not serve now: {said}"
            ))
            .mend(
                "look in the server's log for why; it may have too many connections, or not allow this host's address",
            )),
            (_, true) => {
                Err(refused(format!("the server offers STARTTLS and then said no to it: {said}"))
                    .mend("look in the server's log for why: its certificate or key may not load"))
            }
        }
    }

    fn judge_offer(&self) -> Result<(), Failure> {
        if self.offers.iter().any(|name| name.eq_ignore_ascii_case(b"STARTTLS")) {
            return Ok(());
        }
        let offers = match self.offers.is_empty() {
            true => "nothing".to_owned(),
            false => quoted(&self.offers.join(&b' ')),
        };
        Err(refused(format!("the server offers no STARTTLS, only: {offers}")).mend(SWITCH_ON))
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        while let Some(line) = self.next_response(heard)? {
            if let Err(failure) = self.judge(&line) {
                // With BYE it leaves itself.
                if status(&line) != Some(Status::Bye) {
                    say.extend_from_slice(FAREWELL);
                }
                return Err(failure);
            }
            let response = mem::take(&mut self.response);
            if !self.is_greeted {
                self.is_greeted = true;
                self.greeting = response;
                say.extend_from_slice(b"STARTTLS\r\n");
            } else if heard.is_empty() {
                return Ok(Some(Negotiated { greeting: mem::take(&mut self.greeting) }));
            } else {
                return Err(error(
                    "bytes in plaintext came behind the server's answer to STARTTLS: somebody on the way may have injected them"
                        .to_owned(),
                )
                .mend("update the server (CVE-2011-0411), or find out who stands between here and there"));
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.is_greeted {
            false => "the server's greeting",
            true => "the server's answer to STARTTLS",
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        let is_silent = !self.is_greeted && self.response.is_empty() && self.lines.kept().is_empty();
        is_silent.then_some(
            "if this port speaks TLS from its first byte, set tls = \"direct\"; if the server greets late, raise \
             timeouts.negotiate",
        )
    }

    fn ended(&self, _: &[u8]) -> Option<Failure> {
        if let Some(odd) = self.odd_line(false, true) {
            return Some(self.not_a_line(odd));
        }
        let (when, mend) = match self.is_greeted {
            false => (
                "before its greeting",
                "look in the server's log: it may not allow this host's address, or have too many connections; \
                 or, if this port speaks TLS from its first byte, set tls = \"direct\"",
            ),
            true => (
                "instead of answering STARTTLS",
                "look in the server's log for why: its certificate or key may not load",
            ),
        };
        Some(
            Failure::upstream(
                Stage::Negotiate,
                Reason::ConnectionTerminated,
                format!("the server hung up {when}"),
            )
            .mend(mend),
        )
    }
}

fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

fn error(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

#[cfg(test)]
mod tests;
