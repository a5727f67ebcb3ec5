//! The beginning of a client's conversation with an SMTP or LMTP server that is reached through TLS.
//!
//! The client asks EHLO inside TLS, and is answered without what TLS in the middle cannot keep: mechanisms that are bound
//! to the server's TLS channel, of which the client has none, and another STARTTLS. Read along until the client goes on
//! to what is no beginning (AUTH, MAIL, anything unknown); pipelining, line ends and every other byte stay as they are.

use std::collections::VecDeque;
use std::mem;

use super::{Kin, is_separator, keyword};
use crate::protocol::command::{self, Command};
use crate::protocol::mechanisms::{is_bound, unbound};
use crate::protocol::reply::{Reader, Seen, end, lines, told};
use crate::protocol::upgrade::{Beginning, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

/// What a client may say before anything that counts beside EHLO or LHLO, each answered by one reply.
const BEGINNINGS: [&str; 7] = ["HELO", "HELP", "NOOP", "QUIT", "RSET", "STARTTLS", "XCLIENT"];
const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
/// Commands whose answers are awaited. Who says more at once is past the beginning.
const MAX_AWAITED: usize = 64;

/// The server's greeting for the client, and who reads along. Where neither the server is reached through TLS nor the listener
/// has some to give, nothing is changed: a client's own STARTTLS is then all the protection there is.
pub(in crate::protocol) fn greet(kin: &'static Kin, meeting: Meeting) -> Greeting {
    let Meeting { negotiated, secured, offer, .. } = meeting;
    let mut reading = Reading::new(kin, secured, offer);
    if negotiated.greeting.is_empty() {
        // The server's own is still to come.
        reading.awaited.push_back(Reply::Other);
        reading.greeting = Some(Vec::new());
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
    /// What is still to be answered, in order.
    awaited: VecDeque<Reply>,
    /// The reply that has begun.
    current: Option<Reply>,
    reader: Reader,
    /// The reply to an EHLO so far, of which nothing has gone on yet.
    held: Vec<u8>,
    /// What the server said first, while it is still saying it.
    greeting: Option<Vec<u8>>,
    commands: command::Reader,
    /// The client is past the beginning: its words are of no more interest.
    is_past: bool,
    /// The client has said QUIT.
    is_leaving: bool,
    /// The server has said something since the greeting was replayed.
    is_answering: bool,
    /// The server has said that it goes (421), and no more is to be said in its name.
    has_ended: bool,
    /// The server's words could not be followed.
    is_lost: bool,
    why: WhyEnded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Hello,
    Other,
}

/// What was said that may be the reason of an end.
#[derive(Default)]
struct WhyEnded {
    /// The server's greeting, where that was 421.
    overload: Option<String>,
    /// The answer to EHLO of a server that is reached through TLS, where that was 421.
    refused: Option<String>,
    said_starttls: bool,
    /// The last that it was told is what the server offers.
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
            if self.is_done() || self.is_past {
                break;
            }
            self.hear_client(*byte);
        }
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let mut rest = heard;
        self.is_answering |= !heard.is_empty();
        while !rest.is_empty() && !self.is_through() {
            let reply = *self.current.get_or_insert_with(|| self.awaited.pop_front().unwrap_or(Reply::Other));
            let (count, seen) = self.reader.read(rest);
            let (of_reply, behind) = rest.split_at(count);
            rest = behind;
            if let Some(greeting) = &mut self.greeting {
                greeting.extend_from_slice(of_reply);
            }
            match reply {
                Reply::Hello => self.held.extend_from_slice(of_reply),
                Reply::Other => onward.down.extend_from_slice(of_reply),
            }
            match seen {
                None => {}
                Some(Seen::Whole(code)) => {
                    self.current = None;
                    if let Some(greeting) = self.greeting.take() {
                        self.why.overload = (code == 421).then(|| told(code, &greeting));
                    }
                    if reply == Reply::Hello {
                        self.answer_hello(code, onward);
                    }
                    // To EHLO inside TLS it may be all that is heard of our certificate: that client is told once more.
                    self.has_ended |= code == 421 && !(reply == Reply::Hello && self.secured);
                }
                Some(Seen::Odd | Seen::TooLong) => {
                    onward.down.append(&mut self.held);
                    self.greeting = None;
                    self.is_lost = true;
                }
            }
        }
        onward.down.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_through() && self.why.overload.is_none()
    }

    fn may_refuse(&self) -> bool {
        // Many a server answers QUIT by hanging up; and what it has said itself is not said again.
        if self.is_leaving || self.has_ended {
            return false;
        }
        match self.current {
            // Before the server's first word inside TLS the client is about to ask for it: 421 may come unasked. And
            // many a client that was answered 421 asks HELO.
            None => !self.awaited.is_empty() || !self.is_answering || self.why.refused.is_some(),
            Some(Reply::Hello) => true,
            Some(Reply::Other) => false,
        }
    }

    fn why_ended(&self) -> Option<Remark> {
        let WhyEnded { overload, refused, said_starttls, knows_offer, without_mechanisms } = &self.why;
        let by_client =
            |detail: &'static str, mend| Remark { of: Party::Client, detail: detail.into(), mend };
        if let Some(told) = overload {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!("the server does not serve now: {told}").into(),
                mend: "look in the server's log for why; it may have too many connections, from this host or in all",
            });
        }
        if !self.secured {
            return None;
        }
        if let Some(told) = refused {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!(
                    "the server took the handshake and then said no to {}: {told}",
                    self.kin.hello
                )
                .into(),
                mend: "look in the server's log for why; it may not trust our certificate, or miss one",
            });
        }
        if *said_starttls && self.offer == Offer::No {
            return Some(by_client("the client insists on STARTTLS", SWITCH_OFF));
        }
        if self.is_past || !knows_offer {
            return None;
        }
        match without_mechanisms {
            true => Some(by_client(
                "the client was offered no AUTH: the server's only mechanisms are bound to its own TLS (-PLUS)",
                "let the server offer a mechanism without -PLUS, such as SCRAM-SHA-256",
            )),
            false if self.offer == Offer::No => Some(by_client(
                "the client left when it saw what the server offers: it may insist on STARTTLS",
                SWITCH_OFF,
            )),
            false => None,
        }
    }

    fn is_overloaded(&self) -> bool {
        self.why.overload.is_some()
    }
}

impl Beginning for Reading {
    fn is_settled(&self) -> bool {
        self.current.is_none() && self.awaited.is_empty()
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
            awaited: VecDeque::new(),
            current: None,
            reader: Reader::default(),
            held: Vec::new(),
            greeting: None,
            commands: command::Reader::default(),
            is_past: false,
            is_leaving: false,
            is_answering: false,
            has_ended: false,
            is_lost: false,
            why: WhyEnded::default(),
        }
    }

    /// There is nothing left to be changed.
    fn is_through(&self) -> bool {
        self.is_lost
            || self.is_past && self.current != Some(Reply::Hello) && !self.awaited.contains(&Reply::Hello)
    }

    fn hear_client(&mut self, byte: u8) {
        let known = BEGINNINGS.into_iter().chain([self.kin.hello]);
        match self.commands.read(byte, known) {
            None => {}
            Some(Command::Known { word, .. }) => self.take_command(word),
            Some(Command::Unknown) => self.is_past = true,
        }
    }

    fn take_command(&mut self, word: &str) {
        let is_hello = word == self.kin.hello;
        self.awaited.push_back(if is_hello { Reply::Hello } else { Reply::Other });
        self.is_past = self.awaited.len() == MAX_AWAITED;
        self.why.said_starttls |= word == "STARTTLS";
        self.is_leaving |= word == "QUIT";
        // Who takes its leave is asked why it leaves.
        self.why.knows_offer &= word == "QUIT";
    }

    fn answer_hello(&mut self, code: u16, onward: &mut Onward) {
        let reply = mem::take(&mut self.held);
        self.why.refused = (code == 421 && self.secured).then(|| told(code, &reply));
        if code != 250 || !self.secured && self.offer == Offer::No {
            onward.down.extend_from_slice(&reply);
            return;
        }
        let offer = offer_onward(&reply, self.offer);
        onward.down.extend_from_slice(&offer);
        let has_auth =
            |reply: &[u8]| lines(reply).skip(1).any(|line| keyword(line).0.eq_ignore_ascii_case(b"AUTH"));
        self.why.knows_offer = true;
        self.why.without_mechanisms = has_auth(&reply) && !has_auth(&offer);
    }
}

/// The answer to EHLO without what TLS in the middle cannot keep, and with what the listener has to give. Its first line is the
/// server's name and stays.
fn offer_onward(reply: &[u8], own: Offer) -> Vec<u8> {
    let mut offer = Vec::with_capacity(reply.len());
    let (mut last, mut was_dropped) = (0, false);
    for (number, line) in lines(reply).enumerate() {
        let start = offer.len();
        match number {
            0 => offer.extend_from_slice(line),
            // Who has to ask for TLS first is not to send its password before.
            _ if own == Offer::Required && keyword(line).0.eq_ignore_ascii_case(b"AUTH") => {}
            _ => put_onward(line, &mut offer),
        }
        was_dropped = offer.len() == start;
        if !was_dropped {
            last = start;
        }
    }
    if own.is_open() {
        // What was the last line is so no more.
        match offer.get_mut(last + 3) {
            Some(mark @ b' ') => *mark = b'-',
            Some(b'-') => {}
            _ => offer.insert(offer.len().min(last + 3), b'-'),
        }
        offer.extend_from_slice(b"250 STARTTLS\r\n");
        return offer;
    }
    // The line that is now the last has to say so.
    if was_dropped && let Some(mark) = offer.get_mut(last + 3) {
        *mark = b' ';
    }
    offer
}

/// One keyword's line, changed, dropped or as it is.
fn put_onward(line: &[u8], offer: &mut Vec<u8>) {
    let (keyword, arguments) = keyword(line);
    if keyword.eq_ignore_ascii_case(b"STARTTLS") {
        return;
    }
    if !keyword.eq_ignore_ascii_case(b"AUTH") || !arguments.split(is_separator).any(is_bound) {
        offer.extend_from_slice(line);
        return;
    }
    if let Some(kept) = unbound(arguments, is_separator) {
        offer.extend_from_slice(&line[..line.len() - arguments.len() - end(line).len()]);
        offer.extend_from_slice(&kept);
        offer.extend_from_slice(end(line));
    }
}

#[cfg(test)]
mod tests;
