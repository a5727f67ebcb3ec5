//! The beginning of a client's conversation with a server that is reached through TLS.
//!
//! A server says its capabilities once more when TLS has begun: these are what the client hears first, without what TLS in
//! the middle cannot keep; so is each later list, until the client is logged in or asks for what is no beginning.
//!
//! Old servers do not say them again until they are asked, and one that does may not be asked: its answers would not belong
//! to their commands any more. NOOP decides (RFC 5804, 2.13): whatever answers it, it is one line, with capabilities before it
//! or none. The few that are known to take it badly are told by their names ([`repeats`]).

use std::collections::VecDeque;
use std::mem;

use super::response::{Capability, Status, is_data, mended, status, told};
use crate::protocol::literal::{Commands, Lines, MAX_LINE, Seen};
use crate::protocol::upgrade::{Beginning, Words, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
/// Commands whose answers are awaited. Who says more at once is past the beginning.
const MAX_AWAITED: usize = 64;

/// A client's request for TLS of its own (RFC 5804, 2.2).
const UPGRADE: Words = Words {
    request: "STARTTLS",
    goes_on: &["CAPABILITY", "LOGOUT", "NOOP"],
    goes_on_bare: &[],
    is_tagged: false,
    ready: "OK \"Begin TLS negotiation now.\"\r\n",
    not_bare: "NO \"STARTTLS takes no parameters.\"\r\n",
    first: "NO (ENCRYPT-NEEDED) \"STARTTLS is required first.\"\r\n",
    began_with_tls: "the client began with TLS where it has to ask for it, in ManageSieve",
};

/// Who reads along. Where neither the server is reached through TLS nor the listener has some to give, nothing is changed: a
/// client's own STARTTLS is then all the protection there is.
pub(in crate::protocol) fn greet(meeting: &Meeting) -> Greeting {
    let Meeting { negotiated, secured, offer, .. } = meeting;
    let (secured, offer) = (*secured, *offer);
    let mut reading = Reading::new(secured, offer);
    let mut onward = Onward::default();
    let greeting = &negotiated.greeting;
    match repeats(greeting) {
        // Where TLS began with the first byte, the greeting is still to come.
        _ if greeting.is_empty() => {}
        Some(true) => {}
        Some(false) => onward.up.extend_from_slice(CAPABILITY),
        None => {
            onward.up.extend_from_slice(b"NOOP \"nuncio\"\r\n");
            reading.held = Some(Vec::new());
        }
    }
    // When its TLS has begun the client is told unasked what the server can do.
    let inside = Box::new(move |_, onward: &mut Onward| {
        onward.up.extend_from_slice(CAPABILITY);
        Reading::new(secured, Offer::Taken)
    });
    Greeting { onward, greeter: Some(upgradable(&UPGRADE, offer, b"", reading, inside)) }
}

const CAPABILITY: &[u8] = b"CAPABILITY\r\n";

/// Does the server that greeted so say its capabilities again after STARTTLS? `None`: ask it.
///
/// Cyrus 2.3 does so since 2.3.13, and hangs up on a command that it does not know, NOOP among them; but not as Kolab built
/// it, whose versions are called `nocaps`.
fn repeats(greeting: &[u8]) -> Option<bool> {
    let mut lines = Lines::new(|_| true);
    let mut rest = greeting;
    loop {
        let (count, seen) = lines.read(rest);
        if seen != Some(Seen::Line) {
            return None;
        }
        rest = &rest[count..];
        let line = lines.take();
        let Some(capability) = Capability::of(&line).filter(|found| found.is("IMPLEMENTATION")) else {
            continue;
        };
        let (_, name, _) = capability.value?;
        let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
        if name.contains("nocaps") {
            return Some(false);
        }
        let version = name.strip_prefix("cyrus timsieved v2.3.")?;
        let digits = version.split(|letter: char| !letter.is_ascii_digit()).next()?;
        return digits.parse::<u32>().ok().filter(|patch| *patch >= 13).map(|_| true);
    }
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
    /// What the client says while it is open how the server begins.
    held: Option<Vec<u8>>,
    /// What is still to be answered, in order.
    awaited: VecDeque<Answer>,
    has_begun: bool,
    /// The client is past the beginning: its words are of no more interest.
    is_past: bool,
    /// It is logged in, or the server cannot be followed.
    is_over: bool,
    /// The client has said LOGOUT.
    is_leaving: bool,
    /// The server has said BYE, and no more is to be said in its name.
    has_ended: bool,
    /// The server has ended a response.
    is_greeted: bool,
    why: WhyEnded,
}

/// What a response belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// To nothing: the server begins.
    Greeting,
    /// To the client's CAPABILITY.
    Capabilities,
    /// To our NOOP, of which the client knows nothing.
    Ours,
    /// To what may be said at the beginning.
    Other,
    /// OK to this ends the beginning.
    End,
}

/// What was said that may be the reason of an end.
#[derive(Default)]
struct WhyEnded {
    /// BYE in place of the capabilities.
    refused: Option<String>,
    said_starttls: bool,
    /// The last that the client asked for and was told is what the server offers.
    knows_offer: bool,
}

impl Greeter for Reading {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let begins = !self.has_begun && !self.is_done() && self.offer == Offer::No;
        if self.secured && begins && heard.first() == Some(&0x16) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client began with TLS where plaintext ManageSieve is expected",
                mend: SWITCH_OFF,
            });
        }
        self.has_begun |= !heard.is_empty();
        match &mut self.held {
            Some(held) if held.len() + heard.len() > MAX_LINE => Err(Objection {
                to: Party::Client,
                detail: "the client said too much before the server's first word",
                mend: "is this the protocol that the client speaks?",
            }),
            Some(held) => {
                held.extend_from_slice(heard);
                Ok(())
            }
            None => {
                self.pass_up(heard, onward);
                Ok(())
            }
        }
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
                    self.begin(&line, onward);
                    self.take_line(&line, onward);
                }
                Some(Seen::TooLong) => {
                    let line = self.lines.take();
                    self.begin(&line, onward);
                    onward.down.extend_from_slice(&line);
                    self.is_over = true;
                }
            }
        }
        onward.down.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        let is_the_clients = |answer: &Answer| matches!(answer, Answer::Other | Answer::End);
        let is_idle =
            || self.held.is_none() && self.awaited.iter().all(is_the_clients) && self.lines.kept().is_empty();
        self.is_over || self.is_past && is_idle()
    }

    /// BYE may come in place of any line, and at any time.
    fn may_refuse(&self) -> bool {
        // Many a server answers LOGOUT by hanging up; and what it has said itself is not said again.
        !self.is_done() && !self.is_leaving && !self.has_ended
    }

    fn why_ended(&self) -> Option<Remark> {
        let WhyEnded { refused, said_starttls, knows_offer } = &self.why;
        let by_client =
            |detail: &'static str| Remark { of: Party::Client, detail: detail.into(), mend: SWITCH_OFF };
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
        match (said_starttls, knows_offer) {
            _ if self.offer != Offer::No => None,
            (true, _) => Some(by_client("the client insists on STARTTLS")),
            (false, true) => Some(by_client(
                "the client left when it saw what the server offers: it may insist on STARTTLS",
            )),
            (false, false) => None,
        }
    }
}

impl Beginning for Reading {
    fn is_settled(&self) -> bool {
        self.held.is_none() && self.awaited.is_empty() && self.lines.kept().is_empty()
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
            lines: Lines::new(|_| true),
            commands: Commands::new(1),
            held: None,
            awaited: VecDeque::from([Answer::Greeting]),
            has_begun: false,
            is_past: false,
            is_over: false,
            is_leaving: false,
            has_ended: false,
            is_greeted: false,
            why: WhyEnded::default(),
        }
    }

    fn pass_up(&mut self, heard: &[u8], onward: &mut Onward) {
        onward.up.extend_from_slice(heard);
        let mut rest = heard;
        while !rest.is_empty() && !self.is_past {
            let (count, command) = self.commands.read(rest);
            rest = &rest[count..];
            // A string is an answer to a challenge.
            if let Some(head) = command
                && !is_data(&head)
            {
                self.take_command(&head);
            }
        }
    }

    fn take_command(&mut self, word: &[u8]) {
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        self.why.said_starttls |= is("STARTTLS");
        self.is_leaving |= is("LOGOUT");
        // Who takes its leave is asked why it leaves.
        self.why.knows_offer &= is("LOGOUT");
        self.awaited.push_back(match () {
            () if is("CAPABILITY") => Answer::Capabilities,
            () if is("NOOP") || is("LOGOUT") => Answer::Other,
            () => Answer::End,
        });
        self.is_past |= self.awaited.len() >= MAX_AWAITED;
    }

    /// The server's first line shows whether it began by itself.
    fn begin(&mut self, line: &[u8], onward: &mut Onward) {
        let Some(held) = self.held.take() else { return };
        match status(line) {
            None => self.awaited.push_back(Answer::Ours),
            Some(Status::Ok | Status::No) => {
                // That was our answer, and the greeting is still to be asked for.
                onward.up.extend_from_slice(CAPABILITY);
                self.awaited.push_front(Answer::Ours);
            }
            Some(Status::Bye) => {}
        }
        self.pass_up(&held, onward);
    }

    fn take_line(&mut self, line: &[u8], onward: &mut Onward) {
        let answer = self.awaited.front().copied();
        let Some(status) = status(line) else {
            let may_offer = matches!(answer, None | Some(Answer::Greeting | Answer::Capabilities));
            let is_mended = may_offer && (self.secured || self.offer != Offer::No);
            match mended(line, self.offer).filter(|_| is_mended) {
                _ if answer == Some(Answer::Ours) => {}
                Some(mended) => onward.down.extend(mended),
                None => onward.down.extend_from_slice(line),
            }
            return;
        };
        self.awaited.pop_front();
        if answer == Some(Answer::Ours) && status != Status::Bye {
            return;
        }
        let lists = matches!(answer, Some(Answer::Greeting | Answer::Capabilities));
        if self.offer.is_open() && lists && status == Status::Ok {
            onward.down.extend_from_slice(b"\"STARTTLS\"\r\n");
        }
        onward.down.extend_from_slice(line);
        let is_first = !mem::replace(&mut self.is_greeted, true);
        match status {
            Status::Ok => {
                self.is_over = answer == Some(Answer::End);
                self.why.knows_offer |= answer == Some(Answer::Capabilities);
            }
            Status::No => {}
            Status::Bye => {
                self.has_ended = true;
                self.why.refused = is_first.then(|| told(line));
            }
        }
    }
}

#[cfg(test)]
mod tests;
