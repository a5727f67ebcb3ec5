//! The beginning of a client's conversation with a server that is reached through TLS.
//!
//! CAPABILITY is asked first, in our own name: what the greeting said before TLS is no longer so, and its words can be shown
//! to the client only with what is. From then on every list is passed without what TLS in the middle cannot keep, until
//! the client is logged in, or asks for anything else that changes what is spoken. The client's bytes stay as they are.

use std::mem;

use super::TAG;
use super::response::{Capabilities, Kind, Response, greeting_onward, may_announce, mended};
use crate::protocol::literal::{Commands, Lines, MAX_LINE, Seen};
use crate::protocol::upgrade::{Beginning, Words, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
/// Commands that may end the beginning and are not answered yet. Who says more at once is past it.
const MAX_AWAITED: usize = 64;

/// A client's request for TLS of its own (RFC 9051, 6.2.1).
const UPGRADE: Words = Words {
    request: "STARTTLS",
    goes_on: &["CAPABILITY", "LOGOUT", "NOOP"],
    // What it says of itself could be anybody's words before TLS, and servers act on some of them.
    goes_on_bare: &["ID"],
    is_tagged: true,
    ready: "OK Begin TLS negotiation now\r\n",
    not_bare: "BAD STARTTLS takes no parameters\r\n",
    first: "NO [PRIVACYREQUIRED] STARTTLS is required first\r\n",
    began_with_tls: "the client began with TLS where it has to ask for it, in IMAP",
};

/// The server's greeting for the client, and who reads along. Where neither the server is reached through TLS nor the listener
/// has some to give, nothing is changed: a client's own STARTTLS is then all the protection there is.
pub(in crate::protocol) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { negotiated, secured, offer, .. } = meeting;
    let mut reading = Reading::new(secured, offer);
    let mut onward = Onward::default();
    if !negotiated.greeting.is_empty() {
        onward.up = [TAG, b" CAPABILITY\r\n"].concat();
        let greeting = negotiated.greeting;
        reading.question = Some(Question { greeting, offer: None, later: Vec::new() });
    }
    let inside = Box::new(move |_, _: &mut Onward| Reading {
        has_answered: true,
        ..Reading::new(secured, Offer::Taken)
    });
    Greeting { onward, greeter: Some(upgradable(&UPGRADE, offer, b"", reading, inside)) }
}

/// Reads along.
struct Reading {
    secured: bool,
    /// The client's own TLS.
    offer: Offer,
    /// The server's.
    lines: Lines,
    /// The client's.
    commands: Commands,
    /// We have asked, and the client awaits its greeting.
    question: Option<Question>,
    /// The tags of commands that end the beginning once the server says OK to them.
    awaited: Vec<Vec<u8>>,
    /// Of these, the one whose client answers challenges: what it says meanwhile are no commands.
    exchange: Option<Vec<u8>>,
    has_begun: bool,
    /// Commands that the server has not ended its answer to, as long as the client may ask for TLS.
    unanswered: usize,
    /// The server has said something inside TLS.
    has_answered: bool,
    /// What follows is of no interest, or cannot be followed.
    is_past: bool,
    /// The client has said LOGOUT.
    is_leaving: bool,
    /// The server has said BYE, and no more is to be said in its name.
    has_ended: bool,
    why: WhyEnded,
}

/// What is known while the server has not answered our question.
struct Question {
    /// As it came before TLS.
    greeting: Vec<u8>,
    offer: Option<Capabilities>,
    /// What else the server said.
    later: Vec<u8>,
}

/// What was said that may be the reason of an end.
#[derive(Default)]
struct WhyEnded {
    /// BYE instead of an answer to our question, or of a greeting.
    refused: Option<String>,
    said_starttls: bool,
    /// The client asked what the server offers.
    asks: bool,
    /// The last that it was told is that.
    knows_offer: bool,
    /// And that was no way to log in.
    is_bare: bool,
}

impl Greeter for Reading {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let begins = !self.has_begun && !self.is_done() && self.offer == Offer::No;
        if self.secured && begins && heard.first() == Some(&0x16) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client began with TLS where plaintext IMAP is expected",
                mend: SWITCH_OFF,
            });
        }
        self.has_begun |= !heard.is_empty();
        onward.up.extend_from_slice(heard);
        let mut rest = heard;
        while !rest.is_empty() && !self.is_past {
            let (count, command) = self.commands.read(rest);
            rest = &rest[count..];
            if let Some(head) = command
                && self.exchange.is_none()
            {
                self.take_command(&head);
            }
        }
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let mut rest = heard;
        while !rest.is_empty() && !self.is_done() {
            let (count, seen) = self.lines.read(rest);
            rest = &rest[count..];
            match seen {
                None => {}
                Some(Seen::Line) => {
                    let line = self.lines.take();
                    match self.question.take() {
                        Some(question) => self.take_answer(question, &line, onward)?,
                        None => self.take_line(&line, onward),
                    }
                }
                Some(Seen::TooLong) if self.question.is_some() => return Err(no_answer()),
                Some(Seen::TooLong) => {
                    onward.down.append(&mut self.lines.take());
                    self.is_past = true;
                }
            }
        }
        onward.down.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_past && self.question.is_none() && self.lines.kept().is_empty()
    }

    /// BYE may come at any time, and the client is given whole lines only.
    fn may_refuse(&self) -> bool {
        // Many a server answers LOGOUT by hanging up; and what it has said itself is not said again.
        !self.is_done() && !self.is_leaving && !self.has_ended
    }

    fn why_ended(&self) -> Option<Remark> {
        let WhyEnded { refused, said_starttls, knows_offer, is_bare, asks: _ } = &self.why;
        let by_client =
            |detail: &'static str, mend| Remark { of: Party::Client, detail: detail.into(), mend };
        if !self.secured {
            return None;
        }
        if let Some(told) = refused {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!("the server took the handshake and then said no: {told}").into(),
                mend: "look in the server's log for why; it may not trust our certificate, or miss one",
            });
        }
        if *said_starttls && self.offer == Offer::No {
            return Some(by_client("the client insists on STARTTLS", SWITCH_OFF));
        }
        match (knows_offer, is_bare) {
            (true, false) if self.offer != Offer::No => None,
            (false, _) => None,
            (true, true) => Some(by_client(
                "the client was offered no way to log in: the server's only mechanisms are bound to its own TLS (-PLUS)",
                "let the server offer a mechanism without -PLUS, such as SCRAM-SHA-256",
            )),
            (true, false) => Some(by_client(
                "the client left when it saw what the server offers: it may insist on STARTTLS",
                SWITCH_OFF,
            )),
        }
    }
}

impl Beginning for Reading {
    fn is_settled(&self) -> bool {
        self.question.is_none() && self.has_answered && self.unanswered == 0 && self.lines.kept().is_empty()
    }

    fn goes_without(&mut self) {
        self.offer = Offer::Taken;
    }
}

impl Reading {
    fn new(secured: bool, offer: Offer) -> Reading {
        Reading {
            secured,
            offer,
            unanswered: 0,
            lines: Lines::new(may_announce),
            commands: Commands::new(2),
            question: None,
            awaited: Vec::new(),
            exchange: None,
            has_begun: false,
            has_answered: false,
            is_past: false,
            is_leaving: false,
            has_ended: false,
            why: WhyEnded::default(),
        }
    }

    fn take_command(&mut self, head: &[u8]) {
        let mut words = head.split(|byte| *byte == b' ');
        let (Some(tag), Some(word)) = (words.next(), words.next()) else { return };
        if tag.is_empty() || word.is_empty() {
            return;
        }
        self.unanswered += 1;
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        self.why.said_starttls |= is("STARTTLS");
        self.is_leaving |= is("LOGOUT");
        self.why.asks |= is("CAPABILITY");
        // Who takes its leave is asked why it leaves.
        self.why.knows_offer &= is("LOGOUT");
        if is("CAPABILITY") || is("NOOP") || is("ID") || is("LOGOUT") {
            return;
        }
        if is("AUTHENTICATE") {
            self.exchange = Some(tag.to_vec());
        }
        self.awaited.push(tag.to_vec());
        self.is_past |= self.awaited.len() == MAX_AWAITED;
    }

    /// A line of the answer to our question; whoever took the question puts it back until it is answered.
    fn take_answer(
        &mut self,
        mut question: Question,
        line: &[u8],
        onward: &mut Onward,
    ) -> Result<(), Objection> {
        let response = Response::of(line);
        let list = response.list().map(|list| Capabilities::of(&response.text[list], self.offer));
        match (response.tag, response.kind) {
            (TAG, Kind::Ok | Kind::No | Kind::Bad) => {
                let offer = question.offer.or(list).filter(|_| response.kind == Kind::Ok);
                onward.down.extend(greeting_onward(&question.greeting, offer.as_ref()));
                onward.down.append(&mut question.later);
                self.has_answered = true;
                return Ok(());
            }
            (b"*", Kind::Bye) => {
                self.take_line(line, onward);
                return Ok(());
            }
            (b"*", Kind::Capability) => question.offer = list,
            (b"*", _) if question.later.len() + line.len() <= MAX_LINE => {
                question.later.extend(mended(line, self.offer).0);
            }
            _ => return Err(no_answer()),
        }
        self.question = Some(question);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], onward: &mut Onward) {
        let response = Response::of(line);
        match mended(line, self.offer) {
            (line, Some(offer)) if self.secured || self.offer != Offer::No => {
                onward.down.extend(line);
                self.why.knows_offer = mem::take(&mut self.why.asks);
                self.why.is_bare = offer.is_bare;
            }
            _ => onward.down.extend_from_slice(line),
        }
        let is_end = matches!(response.kind, Kind::Ok | Kind::No | Kind::Bad);
        if is_end && !matches!(response.tag, b"*" | b"+") {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        match (response.tag, response.kind) {
            (b"+", _) => self.commands.go_ahead(),
            (b"*", Kind::Bye) => {
                self.has_ended = true;
                self.why.refused = (!self.has_answered).then(|| response.told());
            }
            (b"*", Kind::Preauth) => self.is_past = true,
            (b"*", _) => {}
            (tag, Kind::Ok) => self.is_past |= self.awaited.iter().any(|awaited| awaited == tag),
            (tag, Kind::No | Kind::Bad) => self.take_no(tag),
            _ => {}
        }
        self.has_answered = true;
    }

    /// The server said no to a command: another one may follow.
    fn take_no(&mut self, tag: &[u8]) {
        self.awaited.retain(|awaited| awaited != tag);
        if self.exchange.as_deref() == Some(tag) {
            self.exchange = None;
        }
        if self.commands.waiting().is_some_and(|head| head.split(|byte| *byte == b' ').next() == Some(tag)) {
            self.commands.give_up();
        }
    }
}

fn no_answer() -> Objection {
    Objection {
        to: Party::Upstream,
        detail: "the server's answer to CAPABILITY inside TLS is not IMAP, or goes on beyond all bounds",
        mend: "is `protocol` the one that this server speaks?",
    }
}

#[cfg(test)]
mod tests;
