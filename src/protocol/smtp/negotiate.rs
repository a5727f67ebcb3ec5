//! Asking an SMTP server for TLS: its greeting, EHLO, STARTTLS.
//!
//! What comes before TLS is believed only as far as it must be: the greeting is kept for the client, who then asks for
//! everything else again inside TLS; bytes behind the answer to STARTTLS are refused (CVE-2011-0411).

use std::mem;

use super::offer::keyword;
use super::{FAREWELL, HELLO};
use crate::failure::{Failure, Reason, Stage};
use crate::protocol::reply::{MAX_LINE, MAX_REPLY, Reader, Seen, lines, quoted, told};
use crate::protocol::{Negotiated, Talk};

/// Of what is no reply: enough to see what it is.
const MAX_ODD: usize = 80;

/// What would bring STARTTLS into the server's offer.
const SWITCH_ON: &str = "switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: \
                         tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = \"direct\"";

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    as_host: String,
    awaited: Awaited,
    reader: Reader,
    /// The reply so far.
    reply: Vec<u8>,
    greeting: Vec<u8>,
}

/// Which reply comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Greeting,
    Hello,
    StartTls,
}

impl Negotiation {
    pub(in crate::protocol) fn new(as_host: &str) -> Negotiation {
        // A name from the system goes into a command: nothing in it may end the line.
        let mut as_host: String = as_host.chars().filter(char::is_ascii_graphic).take(255).collect();
        if as_host.is_empty() {
            as_host.push_str("[127.0.0.1]");
        }
        Negotiation {
            as_host,
            awaited: Awaited::Greeting,
            reader: Reader::default(),
            reply: Vec::new(),
            greeting: Vec::new(),
        }
    }

    /// The code of the next reply, which is then in `self.reply`; `None`: it is not whole yet.
    fn next_reply(&mut self, heard: &mut Vec<u8>) -> Result<Option<u16>, Failure> {
        let (count, seen) = self.reader.read(heard);
        self.reply.extend(heard.drain(..count));
        match seen {
            None => Ok(None),
            Some(Seen::Whole(code)) => Ok(Some(code)),
            Some(Seen::TooLong) => Err(error(format!(
                "{} goes on beyond {MAX_LINE} bytes a line or {MAX_REPLY} bytes in all",
                self.awaits()
            ))),
            Some(Seen::Odd) => {
                self.reply.append(heard);
                match odd_line(&self.reply, false) {
                    Some(odd) => Err(self.not_a_reply(odd)),
                    None => Ok(None),
                }
            }
        }
    }

    fn not_a_reply(&self, odd: &[u8]) -> Failure {
        let failure = error(format!(
            "{} is no SMTP reply, but begins with \"{}\"",
            match self.awaited {
                Awaited::Greeting => "what the server said first",
                Awaited::Hello | Awaited::StartTls => self.awaits(),
            },
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

    /// Does the answer to EHLO offer STARTTLS?
    fn judge_offer(&self, code: u16, reply: &[u8]) -> Result<(), Failure> {
        match code {
            250 => {}
            500..=504 => {
                return Err(refused(format!(
                    "the server does not know {HELLO} ({}), so it has no STARTTLS; its greeting was \"{}\"",
                    told(code, reply),
                    told(220, &self.greeting)
                ))
                .mend(SWITCH_ON));
            }
            _ => {
                return Err(refused(format!(
                    "the server said no to {HELLO} {}: {}",
                    self.as_host,
                    told(code, reply)
                ))
                .mend(format!(
                    "look in the server's log for why; it may want another name than {}",
                    self.as_host
                )));
            }
        }
        // The first line is the server's name, whatever it looks like.
        let offered: Vec<&[u8]> =
            lines(reply).skip(1).map(|line| keyword(line).0).filter(|word| !word.is_empty()).collect();
        if offered.iter().any(|word| word.eq_ignore_ascii_case(b"STARTTLS")) {
            return Ok(());
        }
        if let Some(mask) =
            offered.iter().find(|word| word.len() > 3 && word[1..word.len() - 1].iter().all(|x| *x == b'X'))
        {
            return Err(refused(format!(
                "something between here and the server has overwritten its STARTTLS with {}",
                quoted(mask)
            ))
            .mend("let the firewall on the way pass STARTTLS (Cisco: `allow-tls` in its ESMTP inspection, or none)"));
        }
        let offers = match offered.is_empty() {
            true => "nothing".to_owned(),
            false => quoted(&offered.join(&b' ')),
        };
        Err(refused(format!("the server offers no STARTTLS, only: {offers}")).mend(SWITCH_ON))
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        while let Some(code) = self.next_reply(heard)? {
            let reply = mem::take(&mut self.reply);
            let judged = match self.awaited {
                Awaited::Greeting => judge_greeting(code, &reply),
                Awaited::Hello => self.judge_offer(code, &reply),
                Awaited::StartTls => judge_answer(code, &reply),
            };
            if let Err(failure) = judged {
                // Left with a word, the server does not log a lost connection. With 421 it leaves itself.
                if code != 421 {
                    say.extend_from_slice(FAREWELL);
                }
                return Err(failure);
            }
            match self.awaited {
                Awaited::Greeting => {
                    self.greeting = reply;
                    self.awaited = Awaited::Hello;
                    say.extend_from_slice(format!("{HELLO} {}\r\n", self.as_host).as_bytes());
                }
                Awaited::Hello => {
                    self.awaited = Awaited::StartTls;
                    say.extend_from_slice(b"STARTTLS\r\n");
                }
                Awaited::StartTls if heard.is_empty() => {
                    return Ok(Some(Negotiated { greeting: mem::take(&mut self.greeting) }));
                }
                Awaited::StartTls => {
                    return Err(error(format!(
                        "{} bytes in plaintext came behind the server's answer to STARTTLS: somebody on the way may have injected them",
                        heard.len()
                    ))
                    .mend("update the server (CVE-2011-0411), or find out who stands between here and there"));
                }
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.awaited {
            Awaited::Greeting => "the server's greeting",
            Awaited::Hello => "the server's answer to EHLO",
            Awaited::StartTls => "the server's answer to STARTTLS",
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        (self.awaited == Awaited::Greeting && self.reply.is_empty()).then_some(
            "if this port speaks TLS from its first byte (465), set tls = \"direct\"; if the server greets late on \
             purpose or looks its clients up in a slow DNS, raise timeouts.negotiate",
        )
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        let said = [&self.reply, heard].concat();
        if let Some(odd) = odd_line(&said, true) {
            return Some(self.not_a_reply(odd));
        }
        let (when, mend) = match self.awaited {
            Awaited::Greeting => (
                "before its greeting",
                "look in the server's log: it may not allow this host's address, or have too many connections; \
                 or, if this port speaks TLS from its first byte (465), set tls = \"direct\"",
            ),
            Awaited::Hello => ("instead of answering EHLO", "look in the server's log for why it hung up"),
            Awaited::StartTls => (
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

fn judge_greeting(code: u16, reply: &[u8]) -> Result<(), Failure> {
    let said = told(code, reply);
    match code {
        220 => Ok(()),
        400..=499 => Err(refused(format!("the server does not serve now: {said}")).mend(
            "look in the server's log for why; it may have too many connections, from this host or in all",
        )),
        500..=599 => Err(refused(format!("the server does not serve this host: {said}"))
            .mend("look in the server's log for why; it may not allow this host's address")),
        _ => Err(error(format!("what the server said first is no SMTP greeting: {said}"))),
    }
}

fn judge_answer(code: u16, reply: &[u8]) -> Result<(), Failure> {
    if code == 220 {
        return Ok(());
    }
    Err(refused(format!("the server offers STARTTLS and then said no to it: {}", told(code, reply))).mend(
        match code {
            454 => "look in the server's log for why: its certificate or key may not load",
            _ => "look in the server's log for why",
        },
    ))
}

/// The last line where that is no reply, once there is enough of it to be told: the same, however it came.
fn odd_line(said: &[u8], is_all: bool) -> Option<&[u8]> {
    let mut reader = Reader::default();
    let mut rest = said;
    let from = loop {
        let (count, seen) = reader.read(rest);
        match seen {
            Some(Seen::Whole(_)) => rest = &rest[count..],
            Some(Seen::Odd) => {
                let at = said.len() - rest.len() + count;
                break said[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            }
            Some(Seen::TooLong) | None => return None,
        }
    };
    let line = &said[from..];
    let line = &line[..line.len().min(MAX_ODD)];
    match line.iter().position(|byte| !matches!(byte, b' '..=b'~' | b'\t')) {
        Some(at) if matches!(line[at], b'\r' | b'\n') => Some(&line[..at]),
        // What is not text is not SMTP's, and may never have a line's end.
        Some(at) => Some(&line[..=at]),
        None => (is_all || line.len() == MAX_ODD).then_some(line),
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
