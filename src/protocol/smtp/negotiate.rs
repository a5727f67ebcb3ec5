//! Asking an SMTP or LMTP server for TLS: its greeting, EHLO or LHLO, STARTTLS.
//!
//! What comes before TLS is believed only as far as it must be: the greeting is kept for the client, who then asks for
//! everything else again inside TLS; bytes behind the answer to STARTTLS are refused (CVE-2011-0411).

use std::mem;

use super::{FAREWELL, Kin, keyword};
use crate::failure::{BreakerClass, Failure, Reason, Stage};
use crate::protocol::reply::{MAX_LINE, MAX_REPLY, Reader, Seen, glimpse, lines, quoted, told};
use crate::protocol::{Negotiated, Talk};

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    kin: &'static Kin,
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
    pub(in crate::protocol) fn new(kin: &'static Kin, as_host: &str) -> Negotiation {
        // A name from the system goes into a command: nothing in it may end the line.
        let mut as_host: String = as_host.chars().filter(char::is_ascii_graphic).take(255).collect();
        if as_host.is_empty() {
            as_host.push_str("[127.0.0.1]");
        }
        Negotiation {
            kin,
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
            "{} is no {} reply, but begins with \"{}\"",
            match self.awaited {
                Awaited::Greeting => "what the server said first",
                Awaited::Hello | Awaited::StartTls => self.awaits(),
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

    fn judge_greeting(&self, code: u16, reply: &[u8]) -> Result<(), Failure> {
        let said = told(code, reply);
        match code {
            220 => Ok(()),
            400..=499 => Err(refused(format!("the server does not serve now: {said}"))
                .mend("look in the server's log for why; it may have too many connections, from this host or in all")),
            500..=599 => Err(refused(format!("the server does not serve this host: {said}"))
                .mend("look in the server's log for why; it may not allow this host's address")),
            _ => Err(error(format!("what the server said first is no {} greeting: {said}", self.kin.title))),
        }
    }

    /// Does the answer to EHLO offer STARTTLS?
    fn judge_offer(&self, code: u16, reply: &[u8]) -> Result<(), Failure> {
        let Kin { hello, switch_on, .. } = self.kin;
        match code {
            250 => {}
            500..=504 => {
                return Err(refused(format!(
                    "the server does not know {hello} ({}), so it has no STARTTLS; its greeting was \"{}\"",
                    told(code, reply),
                    told(220, &self.greeting)
                ))
                .mend(*switch_on));
            }
            _ => {
                return Err(refused(format!(
                    "the server said no to {hello} {}: {}",
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
        Err(refused(format!("the server offers no STARTTLS, only: {offers}")).mend(*switch_on))
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        while let Some(code) = self.next_reply(heard)? {
            let reply = mem::take(&mut self.reply);
            let judged = match self.awaited {
                Awaited::Greeting => self.judge_greeting(code, &reply),
                Awaited::Hello => self.judge_offer(code, &reply),
                Awaited::StartTls => judge_answer(code, &reply),
            };
            if let Err(failure) = judged {
                // It can serve nobody now, and leaves itself.
                if code == 421 {
                    return Err(failure.counted_as(BreakerClass::Overloaded));
                }
                // Left with a word, the server does not log a lost connection.
                say.extend_from_slice(FAREWELL);
                return Err(failure);
            }
            match self.awaited {
                Awaited::Greeting => {
                    self.greeting = reply;
                    self.awaited = Awaited::Hello;
                    say.extend_from_slice(format!("{} {}\r\n", self.kin.hello, self.as_host).as_bytes());
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
                        "bytes in plaintext came behind {}: somebody on the way may have injected them",
                        self.awaits()
                    ))
                    .mend(
                        "update the server (CVE-2011-0411), or find out who stands between here and there",
                    ));
                }
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.awaited {
            Awaited::Greeting => "the server's greeting",
            Awaited::Hello => self.kin.answer_to_hello,
            Awaited::StartTls => "the server's answer to STARTTLS",
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        (self.awaited == Awaited::Greeting && self.reply.is_empty()).then_some(self.kin.if_late)
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        let said = [&self.reply, heard].concat();
        if let Some(odd) = odd_line(&said, true) {
            return Some(self.not_a_reply(odd));
        }
        let Kin { hello, if_direct, .. } = self.kin;
        let (when, mend) = match self.awaited {
            Awaited::Greeting => (
                "before its greeting".to_owned(),
                format!(
                    "look in the server's log: it may not allow this host's address, or have too many connections; \
                     or, {if_direct}"
                ),
            ),
            Awaited::Hello => (
                format!("instead of answering {hello}"),
                "look in the server's log for why it hung up".to_owned(),
            ),
            Awaited::StartTls => (
                "instead of answering STARTTLS".to_owned(),
                "look in the server's log for why: its certificate or key may not load".to_owned(),
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
    glimpse(&said[from..], is_all)
}

fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

fn error(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

#[cfg(test)]
mod tests;
