//! Asking a POP3 or NNTP server for TLS: its greeting, then STLS or STARTTLS.
//!
//! The greeting is kept for the client, byte for byte: APOP needs its stamp. Everything else the client asks again inside
//! TLS. Bytes behind the answer are refused (CVE-2011-0411).

use std::mem;

use super::{FAREWELL, Kin, error};
use crate::failure::{Failure, Reason, Stage};
use crate::protocol::reply::{MAX_LINE, glimpse, quoted};
use crate::protocol::{Negotiated, Talk};

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    kin: &'static Kin,
    awaited: Awaited,
    /// What the client gets to see.
    greeting: Vec<u8>,
    is_handed_over: bool,
}

/// Which line comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Greeting,
    Answer,
}

impl Negotiation {
    pub(in crate::protocol) fn new(kin: &'static Kin) -> Negotiation {
        Negotiation { kin, awaited: Awaited::Greeting, greeting: Vec::new(), is_handed_over: false }
    }

    /// The next line, with its end; `None`: it is not whole yet.
    fn next_line(&self, heard: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(odd) = self.odd_line(heard, false) {
            return Err(self.not_an_answer(odd));
        }
        let longest = heard.len().min(MAX_LINE);
        match heard[..longest].iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(heard.drain(..=end).collect())),
            None if longest == MAX_LINE => {
                Err(error(format!("{} goes on beyond {MAX_LINE} bytes", self.awaits())))
            }
            None => Ok(None),
        }
    }

    /// The beginning of a line that is no answer, once there is enough of it to be told: the same, however it came.
    fn odd_line<'h>(&self, heard: &'h [u8], is_all: bool) -> Option<&'h [u8]> {
        let line = heard.split_inclusive(|byte| *byte == b'\n').next()?;
        if (self.kin.may_begin)(line) { None } else { glimpse(line, is_all) }
    }

    fn not_an_answer(&self, odd: &[u8]) -> Failure {
        let failure = error(format!(
            "{} is no {} answer, but begins with \"{}\"",
            match self.awaited {
                Awaited::Greeting => "what the server said first",
                Awaited::Answer => self.awaits(),
            },
            self.kin.title,
            quoted(odd)
        ));
        // An alert or a handshake record, and nothing else that a server would say in plaintext.
        match odd {
            [0x15 | 0x16, ..] => {
                failure.mend("the port speaks TLS from its first byte: set tls = \"direct\"")
            }
            _ => failure,
        }
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        let Kin { asks_with, .. } = self.kin;
        while let Some(line) = self.next_line(heard)? {
            if self.awaited == Awaited::Greeting {
                // Who does not greet leaves.
                (self.kin.judge_greeting)(&line)?;
                self.greeting = line;
                self.awaited = Awaited::Answer;
                say.extend_from_slice(format!("{asks_with}\r\n").as_bytes());
                continue;
            }
            if !self.is_handed_over
                && let Some(command) = (self.kin.hands_over)(&line)
            {
                self.is_handed_over = true;
                self.awaited = Awaited::Greeting;
                say.extend_from_slice(format!("{command}\r\n").as_bytes());
                continue;
            }
            if let Err(failure) = (self.kin.judge_answer)(&line) {
                say.extend_from_slice(FAREWELL);
                return Err(failure);
            }
            if heard.is_empty() {
                return Ok(Some(Negotiated { greeting: mem::take(&mut self.greeting) }));
            }
            return Err(error(format!(
                "bytes in plaintext came behind {}: somebody on the way may have injected them",
                self.awaits()
            ))
            .mend("update the server (CVE-2011-0411), or find out who stands between here and there"));
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.awaited {
            Awaited::Greeting => "the server's greeting",
            Awaited::Answer => self.kin.answer_to_it,
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        (self.awaited == Awaited::Greeting).then_some(self.kin.if_late)
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        if let Some(odd) = self.odd_line(heard, true) {
            return Some(self.not_an_answer(odd));
        }
        let Kin { asks_with, if_gone, .. } = self.kin;
        let (when, mend) = match self.awaited {
            Awaited::Greeting => ("before its greeting".to_owned(), *if_gone),
            Awaited::Answer => (
                format!("instead of answering {asks_with}"),
                "look in the server's log for why: its certificate or key may not load",
            ),
        };
        let detail = format!("the server hung up {when}");
        Some(Failure::upstream(Stage::Negotiate, Reason::ConnectionTerminated, detail).mend(mend))
    }
}

#[cfg(test)]
mod tests;
