//! Asking an IMAP server for TLS: its greeting, STARTTLS.
//!
//! STARTTLS is asked for whatever the greeting offers: many a server lists nothing there, and what stands there nobody has
//! vouched for. Of all that comes before TLS only the greeting's words are kept; bytes behind the answer to STARTTLS are
//! refused (CVE-2011-0411).

use std::mem;

use super::response::{Kind, Response, may_announce};
use super::{FAREWELL, TAG};
use crate::failure::{Failure, Reason, Stage};
use crate::protocol::literal::{Lines, MAX_LINE, Seen};
use crate::protocol::reply::{glimpse, quoted};
use crate::protocol::{Negotiated, Talk};

/// What would bring STARTTLS into the server's offer.
const SWITCH_ON: &str = "switch STARTTLS on at the server (Dovecot: ssl = yes and a certificate; Cyrus: tls_server_cert); or, \
                         if this port speaks TLS from its first byte (993), set tls = \"direct\"";
/// Lines that may come in between. A server has nothing to say there.
const MAX_LINES: usize = 32;

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    lines: Lines,
    /// Empty: it is awaited.
    greeting: Vec<u8>,
    between: usize,
}

impl Default for Negotiation {
    fn default() -> Self {
        Negotiation { lines: Lines::new(may_announce), greeting: Vec::new(), between: 0 }
    }
}

impl Negotiation {
    fn is_greeted(&self) -> bool {
        !self.greeting.is_empty()
    }

    /// The next line; `None`: it is not whole yet.
    fn next_line(&mut self, heard: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        let (count, seen) = self.lines.read(heard);
        heard.drain(..count);
        if let Some(odd) = self.odd_line(false) {
            return Err(self.not_a_line(odd));
        }
        match seen {
            None => Ok(None),
            Some(Seen::Line) => Ok(Some(self.lines.take())),
            Some(Seen::TooLong) => {
                Err(error(format!("{} goes on beyond {MAX_LINE} bytes a line", self.awaits())))
            }
        }
    }

    /// The line that is kept, where it is none of IMAP's.
    fn odd_line(&self, is_all: bool) -> Option<&[u8]> {
        let line = self.lines.kept();
        let begins = |with: &[u8]| line.iter().zip(with).all(|(byte, with)| byte == with);
        let fits = begins(b"* ") || self.is_greeted() && (begins(TAG) || begins(b"+"));
        if fits { None } else { glimpse(line, is_all) }
    }

    fn not_a_line(&self, odd: &[u8]) -> Failure {
        let what = if self.is_greeted() { self.awaits() } else { "what the server said first" };
        let failure = error(format!("{what} is not IMAP, but begins with \"{}\"", quoted(odd)));
        match odd {
            // An alert or a handshake record, and nothing else that a server would say in plaintext.
            [0x15 | 0x16, ..] => {
                failure.mend("the port speaks TLS from its first byte: set tls = \"direct\"")
            }
            _ => failure,
        }
    }

    /// `Err` with what is said before leaving.
    fn judge_greeting(response: &Response<'_>) -> Result<(), (Failure, &'static [u8])> {
        match response.kind {
            Kind::Ok => Ok(()),
            Kind::Preauth => Err((
                refused(format!(
                    "the server takes this connection for logged in ({}), and a server that does so cannot be asked for TLS any more",
                    response.told()
                ))
                .mend(
                    "let the server want a login here, or use its port that speaks TLS from its first byte (993) with \
                     tls = \"direct\"",
                ),
                FAREWELL,
            )),
            Kind::Bye => Err((leaves(response), b"")),
            _ => Err((
                error(format!("what the server said first is no IMAP greeting: {}", response.told())),
                FAREWELL,
            )),
        }
    }

    /// `Ok(true)`: TLS begins.
    fn judge_answer(&self, response: &Response<'_>) -> Result<bool, (Failure, &'static [u8])> {
        let failure = match (response.tag, response.kind) {
            (TAG, Kind::Ok) => return Ok(true),
            (b"*", Kind::Bye) => return Err((leaves(response), b"")),
            (b"*", _) => return Ok(false),
            (TAG, Kind::No) => refused(format!("the server said no to STARTTLS: {}", response.told()))
                .mend("look in the server's log for why: its certificate or key may not load"),
            (TAG, Kind::Bad) => {
                let greeting = Response::of(&self.greeting);
                let list = greeting.list().map(|list| &greeting.text[list]);
                let offers = list.map(|list| format!("; it offers only: {}", quoted(list.trim_ascii())));
                refused(format!(
                    "the server has no STARTTLS here: {}{}",
                    response.told(),
                    offers.unwrap_or_default()
                ))
                .mend(SWITCH_ON)
            }
            _ => error(format!("the server's answer to STARTTLS is none: {}", response.told())),
        };
        Err((failure, FAREWELL))
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        while let Some(line) = self.next_line(heard)? {
            let response = Response::of(&line);
            let judged = match self.is_greeted() {
                false => Self::judge_greeting(&response).map(|()| false),
                true => self.judge_answer(&response),
            };
            let begins = judged.map_err(|(failure, last_words)| {
                say.extend_from_slice(last_words);
                failure
            })?;
            if begins && heard.is_empty() {
                return Ok(Some(Negotiated { greeting: mem::take(&mut self.greeting) }));
            }
            if begins {
                return Err(error(
                    "bytes in plaintext came behind the server's answer to STARTTLS: somebody on the way may have injected them"
                        .to_owned(),
                )
                .mend("update the server (CVE-2011-0411), or find out who stands between here and there"));
            }
            if !self.is_greeted() {
                self.greeting = line;
                say.extend_from_slice(TAG);
                say.extend_from_slice(b" STARTTLS\r\n");
                continue;
            }
            self.between += 1;
            if self.between > MAX_LINES {
                return Err(error(format!("more than {MAX_LINES} lines came before {}", self.awaits())));
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.is_greeted() {
            false => "the server's greeting",
            true => "the server's answer to STARTTLS",
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        (!self.is_greeted() && self.lines.kept().is_empty()).then_some(
            "if this port speaks TLS from its first byte (993), set tls = \"direct\"; if the server greets late, raise \
             timeouts.negotiate",
        )
    }

    fn ended(&self, _: &[u8]) -> Option<Failure> {
        if let Some(odd) = self.odd_line(true) {
            return Some(self.not_a_line(odd));
        }
        let (when, mend) = match self.is_greeted() {
            false => (
                "before its greeting",
                "look in the server's log: it may not allow this host's address, or have too many connections; \
                 or, if this port speaks TLS from its first byte (993), set tls = \"direct\"",
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

fn leaves(response: &Response<'_>) -> Failure {
    refused(format!("the server does not serve now: {}", response.told())).mend(
        "look in the server's log for why; it may have too many connections, or not allow this host's address",
    )
}

fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

fn error(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

#[cfg(test)]
mod tests;
