//! The beginning of a client's conversation with a POP3 or NNTP server that is reached through TLS.
//!
//! The client asks inside TLS what the server can do, and is answered without what TLS in the middle cannot keep:
//! mechanisms that are bound to the server's TLS channel, of which the client has none, and another STLS or STARTTLS. Read
//! along until the client is logged in, or was answered to what is no beginning; pipelining, line ends and every other byte
//! stay as they are.

use std::collections::VecDeque;
use std::mem;

use super::reader::{Reader, Seen};
use super::{Answer, Kin, Status};
use crate::protocol::command::{self, Command};
use crate::protocol::mechanisms::{is_bound, unbound, without};
use crate::protocol::reply::{end, lines};
use crate::protocol::upgrade::{Beginning, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
/// Commands whose answers are awaited. Who says more at once is past the beginning.
const MAX_AWAITED: usize = 64;

/// The server's greeting for the client, and who reads along. Where neither the server is reached through TLS nor the listener
/// has some to give, nothing is changed: a client's own STLS or STARTTLS is then all the protection there is.
pub(in crate::protocol) fn greet(kin: &'static Kin, meeting: Meeting) -> Greeting {
    let Meeting { negotiated, secured, offer, .. } = meeting;
    let mut reading = Reading::new(kin, secured, offer);
    if negotiated.greeting.is_empty() {
        // The server's own is still to come.
        reading.awaited.push_back(Answer::Greeting);
    }
    let inside = Box::new(move |_, _: &mut Onward| Reading::new(kin, secured, Offer::Taken));
    let greeter = upgradable(&kin.upgrade, offer, b"", reading, inside);
    Greeting { onward: Onward { up: Vec::new(), down: negotiated.greeting }, greeter: Some(greeter) }
}

/// Reads along.
struct Reading {
    kin: &'static Kin,
    secured: bool,
    /// The client's own TLS.
    offer: Offer,
    commands: command::Reader,
    /// The client's next line is no command, but its response to a challenge.
    is_challenged: bool,
    /// What is still to be answered, in order.
    awaited: VecDeque<Answer>,
    /// The answer that has begun.
    current: Option<Answer>,
    reader: Reader,
    /// The answer to what the server can do so far, of which nothing has gone on yet.
    held: Vec<u8>,
    /// The client is past the beginning: its words are of no more interest.
    is_past: bool,
    /// Nothing more is to be changed, or the server's words could not be followed.
    is_over: bool,
    /// The client has said QUIT.
    is_leaving: bool,
    /// The server has said something since the greeting was replayed.
    is_answering: bool,
    why: WhyEnded,
}

/// What was said that may be the reason of an end.
#[derive(Default)]
struct WhyEnded {
    said_starttls: bool,
    /// The last that the client was told is what the server offers.
    knows_offer: bool,
    /// Nothing was left of the mechanisms.
    without_mechanisms: bool,
}

impl Greeter for Reading {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let begins = self.commands.is_at_start() && !self.is_done() && self.offer == Offer::No;
        if self.secured && begins && heard.first() == Some(&0x16) {
            return Err(Objection { to: Party::Client, detail: self.kin.began_with_tls, mend: SWITCH_OFF });
        }
        onward.up.extend_from_slice(heard);
        for byte in heard {
            if self.is_past || self.is_done() {
                break;
            }
            self.hear_client(*byte);
        }
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let mut rest = heard;
        self.is_answering |= !heard.is_empty();
        while !rest.is_empty() && !self.is_done() {
            let next = || self.awaited.pop_front().unwrap_or(Answer::Unasked);
            let answer = *self.current.get_or_insert_with(next);
            if answer == Answer::Unknown {
                self.is_over = true;
                break;
            }
            let (count, seen) = self.reader.read(rest, |line| (self.kin.status)(answer, line));
            let (of_answer, behind) = rest.split_at(count);
            rest = behind;
            match self.is_held(answer) {
                true => self.held.extend_from_slice(of_answer),
                false => onward.down.extend_from_slice(of_answer),
            }
            match seen {
                None => {}
                Some(Seen::Whole(status)) => self.take_answer(answer, status, onward),
                Some(Seen::Odd | Seen::TooLong) => {
                    onward.down.append(&mut self.held);
                    self.is_over = true;
                }
            }
        }
        onward.down.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_over || self.is_past && self.awaited.is_empty() && self.current.is_none()
    }

    fn may_refuse(&self) -> bool {
        // Many a server answers QUIT by hanging up.
        if self.is_leaving {
            return false;
        }
        match self.current {
            // Before the server's first word inside TLS the client is about to ask: it reads the answer when it has.
            None => !self.awaited.is_empty() || !self.is_answering,
            Some(answer) => self.is_held(answer),
        }
    }

    fn why_ended(&self) -> Option<Remark> {
        let WhyEnded { said_starttls, knows_offer, without_mechanisms } = self.why;
        let asks_with = self.kin.asks_with;
        let (detail, mend) = match self.secured {
            true if said_starttls && self.offer == Offer::No => (format!("the client insists on {asks_with}"), SWITCH_OFF),
            true if self.is_past || !knows_offer => return None,
            true if without_mechanisms => (
                "the client was offered no SASL: the server's only mechanisms are bound to its own TLS (-PLUS)".to_owned(),
                "let the server offer a mechanism without -PLUS, such as SCRAM-SHA-256",
            ),
            true if self.offer != Offer::No => return None,
            true => (
                format!("the client left when it saw what the server offers: it may insist on {asks_with}"),
                SWITCH_OFF,
            ),
            false => return None,
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend })
    }
}

impl Beginning for Reading {
    fn is_settled(&self) -> bool {
        self.current.is_none() && self.awaited.is_empty() && !self.is_challenged
    }

    fn goes_without(&mut self) {
        self.offer = Offer::Taken;
    }
}

impl Reading {
    fn new(kin: &'static Kin, secured: bool, offer: Offer) -> Reading {
        Reading {
            kin,
            secured,
            offer,
            commands: command::Reader::default(),
            is_challenged: false,
            awaited: VecDeque::new(),
            current: None,
            reader: Reader::default(),
            held: Vec::new(),
            is_past: false,
            is_over: false,
            is_leaving: false,
            is_answering: false,
            why: WhyEnded::default(),
        }
    }

    /// Is it kept back until it is whole?
    fn is_held(&self, answer: Answer) -> bool {
        let is_mended = self.secured || self.offer != Offer::No;
        is_mended && matches!(answer, Answer::Capabilities | Answer::Mechanisms)
    }

    fn hear_client(&mut self, byte: u8) {
        if self.is_challenged {
            if byte == b'\n' {
                self.is_challenged = false;
                self.awaited.push_back(Answer::Login);
            }
            return;
        }
        match self.commands.read(byte, self.kin.beginnings.iter().map(|(word, ..)| *word)) {
            None => {}
            Some(Command::Known { word, is_bare }) => self.take_command(word, is_bare),
            Some(Command::Unknown) => {
                self.is_past = true;
                self.awaited.push_back(Answer::Unknown);
            }
        }
    }

    fn take_command(&mut self, word: &str, is_bare: bool) {
        let beginning = self.kin.beginnings.iter().find(|(known, ..)| *known == word);
        let answer = beginning.map_or(Answer::Unknown, |(_, more, bare)| if is_bare { *bare } else { *more });
        self.awaited.push_back(answer);
        self.is_past = self.awaited.len() == MAX_AWAITED;
        self.why.said_starttls |= word == self.kin.asks_with;
        self.is_leaving |= word == "QUIT";
        // Who takes its leave is asked why it leaves.
        self.why.knows_offer &= word == "QUIT";
    }

    fn take_answer(&mut self, answer: Answer, status: Status, onward: &mut Onward) {
        self.current = None;
        let held = mem::take(&mut self.held);
        match status {
            Status::List if self.is_held(answer) => {
                let offer = offer_onward(self.kin, answer, &held, self.offer);
                self.why.knows_offer = true;
                self.why.without_mechanisms = loses_sasl(&held);
                onward.down.extend(offer);
            }
            _ => onward.down.extend(held),
        }
        match status {
            Status::Line | Status::List => {}
            // A client that did not wait for it says something else.
            Status::Challenge if !self.awaited.is_empty() || self.commands.is_within() => self.is_over = true,
            Status::Challenge => self.is_challenged = true,
            Status::LoggedIn | Status::Bye => self.is_over = true,
        }
    }
}

/// What the server can do, without what TLS in the middle cannot keep, and with what the listener has to give. The first line
/// says that a list follows, and stays.
fn offer_onward(kin: &Kin, answer: Answer, list: &[u8], own: Offer) -> Vec<u8> {
    let loses_sasl = loses_sasl(list);
    let ends = |line: &[u8]| line.trim_ascii_end() == b".";
    let mut offer = Vec::with_capacity(list.len());
    for (number, line) in lines(list).enumerate() {
        let (word, arguments) = keyword(line);
        let is = |name: &str| answer == Answer::Capabilities && word.eq_ignore_ascii_case(name.as_bytes());
        if own.is_open() && answer == Answer::Capabilities && ends(line) {
            offer.extend_from_slice(kin.asks_with.as_bytes());
            offer.extend_from_slice(end(line));
        }
        let kept = match number {
            0 => Some(arguments.to_vec()),
            _ if is(kin.asks_with) => None,
            // Who has to ask for TLS first is not to send its password before.
            _ if own == Offer::Required && (is("SASL") || is("USER") || is("AUTHINFO")) => None,
            _ if is("SASL") && arguments.split(is_separator).any(is_bound) => {
                unbound(arguments, is_separator)
            }
            // NNTP's, which names it once more.
            _ if is("AUTHINFO") && loses_sasl => {
                let is_sasl = |word: &[u8]| word.eq_ignore_ascii_case(b"SASL");
                Some(without(arguments, is_separator, is_sasl).unwrap_or_default())
            }
            _ if answer == Answer::Mechanisms && is_bound(word) => None,
            _ => Some(arguments.to_vec()),
        };
        if let Some(arguments) = kept {
            offer.extend_from_slice(word);
            offer.extend(arguments);
            offer.extend_from_slice(end(line));
        }
    }
    offer
}

/// Is every mechanism that it has bound to TLS?
fn loses_sasl(list: &[u8]) -> bool {
    let sasl = lines(list).skip(1).map(keyword).filter(|(word, _)| word.eq_ignore_ascii_case(b"SASL"));
    let mut mechanisms =
        sasl.flat_map(|(_, list)| list.split(is_separator)).filter(|word| !word.is_empty()).peekable();
    mechanisms.peek().is_some() && mechanisms.all(is_bound)
}

/// The first word of a line, and what stands behind that, without the line's end.
fn keyword(line: &[u8]) -> (&[u8], &[u8]) {
    let text = &line[..line.len() - end(line).len()];
    text.split_at(text.iter().position(is_separator).unwrap_or(text.len()))
}

/// Between a keyword and its arguments.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests;
