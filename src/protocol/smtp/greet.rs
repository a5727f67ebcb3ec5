//! The beginning of a client's conversation with a server that is reached through TLS.
//!
//! The client asks EHLO inside TLS, and is answered without what TLS in the middle cannot keep: mechanisms that are bound
//! to the server's TLS channel, of which the client has none, and another STARTTLS. Read along until the client goes on
//! to what is no beginning (AUTH, MAIL, anything unknown); pipelining, line ends and every other byte stay as they are.

use std::collections::VecDeque;
use std::mem;

use super::HELLO;
use super::offer::{keyword, offer_onward};
use super::upgrade::{Asking, Heard, READY, SLIPPED_IN};
use crate::protocol::reply::{Reader, Seen, lines, told};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark, Upgrade};

/// What a client may say before anything that counts, each answered by one reply.
const BEGINNINGS: [&str; 8] = [HELLO, "HELO", "HELP", "NOOP", "QUIT", "RSET", "STARTTLS", "XCLIENT"];
const ASK: &str = "let the client use STARTTLS, or set tls_mode = \"direct\" on its listener";
const ASK_OR: &str = "switch STARTTLS on in the client, or write tls = \"optional\" in its listener";
const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
/// Commands whose answers are awaited. Who says more at once is past the beginning.
const MAX_AWAITED: usize = 64;

/// The server's greeting for the client, and who reads along. Where neither the server is reached through TLS nor the listener
/// has some to give, nothing is changed: a client's own STARTTLS is then all the protection there is.
pub(in crate::protocol) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { negotiated, secured, offer, .. } = meeting;
    let mut reading = Reading { secured, offer, ..Reading::default() };
    if negotiated.greeting.is_empty() {
        // The server's own is still to come.
        reading.awaited.push_back(Reply::Other);
    }
    Greeting {
        onward: Onward { up: Vec::new(), down: negotiated.greeting },
        greeter: Some(Box::new(reading)),
    }
}

/// Reads along.
#[derive(Default)]
struct Reading {
    secured: bool,
    /// TLS that the client may ask for.
    offer: Offer,
    upgrade: Upgrade,
    /// The client's line, while it may ask.
    asking: Asking,
    /// The client was told that it has to ask for TLS first.
    was_told_to_ask: bool,
    /// What is still to be answered, in order.
    awaited: VecDeque<Reply>,
    /// The reply that has begun.
    current: Option<Reply>,
    reader: Reader,
    /// An EHLO's reply so far, of which nothing has gone on yet.
    held: Vec<u8>,
    line: Line,
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
    /// We answer, once what was asked before is answered.
    Ours(&'static [u8]),
}

/// The client's line so far. No word grows beyond the longest beginning and the byte that shows it is none.
#[derive(Default)]
struct Line {
    /// In capitals.
    word: Vec<u8>,
    /// Its first word has ended.
    is_word: bool,
    /// The client has said something before.
    is_later: bool,
}

/// What was said that may be the reason of an end.
#[derive(Default)]
struct WhyEnded {
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
        let is_first = !self.line.is_later && !self.is_done() && self.offer != Offer::Taken;
        if (self.secured || self.offer.is_open()) && is_first && heard.first() == Some(&0x16) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client began with TLS where plaintext SMTP is expected",
                mend: if self.offer.is_open() { ASK } else { SWITCH_OFF },
            });
        }
        if self.offer.is_open() {
            return self.hear_asking(heard, onward);
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
        while !rest.is_empty() && !self.is_done() {
            let reply = *self.current.get_or_insert_with(|| self.awaited.pop_front().unwrap_or(Reply::Other));
            let (count, seen) = self.reader.read(rest);
            let (of_reply, behind) = rest.split_at(count);
            rest = behind;
            match reply {
                Reply::Hello => self.held.extend_from_slice(of_reply),
                Reply::Other | Reply::Ours(_) => onward.down.extend_from_slice(of_reply),
            }
            match seen {
                None => {}
                Some(Seen::Whole(code)) => {
                    self.current = None;
                    if reply == Reply::Hello {
                        self.answer_hello(code, onward);
                    }
                    // To EHLO inside TLS it may be all that is heard of our certificate: that client is told once more.
                    self.has_ended |= code == 421 && !(reply == Reply::Hello && self.secured);
                    self.answer(onward);
                }
                // Nobody would hear the client ask for TLS any more, nor hold it to that.
                Some(Seen::Odd | Seen::TooLong) if self.offer.is_open() => {
                    return Err(Objection {
                        to: Party::Upstream,
                        detail: "the server's answers cannot be followed: this is no SMTP",
                        mend: "is `protocol` the one that this server speaks?",
                    });
                }
                Some(Seen::Odd | Seen::TooLong) => {
                    onward.down.append(&mut self.held);
                    self.is_lost = true;
                }
            }
        }
        onward.down.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_lost
            || self.is_past && self.current != Some(Reply::Hello) && !self.awaited.contains(&Reply::Hello)
    }

    fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    fn upgraded(&mut self) {
        // As if it had just connected: what it said before counts for nothing.
        *self = Reading { secured: self.secured, offer: Offer::Taken, ..Reading::default() };
    }

    fn may_refuse(&self) -> bool {
        if self.upgrade == Upgrade::Answered {
            return false;
        }
        // Many a server answers QUIT by hanging up; and what it has said itself is not said again.
        if self.is_leaving || self.has_ended {
            return false;
        }
        match self.current {
            // Before the server's first word inside TLS the client is about to ask for it: 421 may come unasked. And
            // many a client that was answered 421 asks HELO.
            None => !self.awaited.is_empty() || !self.is_answering || self.why.refused.is_some(),
            Some(Reply::Hello) => true,
            Some(Reply::Other | Reply::Ours(_)) => false,
        }
    }

    fn why_ended(&self) -> Option<Remark> {
        let WhyEnded { refused, said_starttls, knows_offer, without_mechanisms } = &self.why;
        let by_client =
            |detail: &'static str, mend| Remark { of: Party::Client, detail: detail.into(), mend };
        if self.was_told_to_ask {
            return Some(by_client(
                "the client does not start TLS, and this listener serves nobody without",
                ASK_OR,
            ));
        }
        if !self.secured {
            return None;
        }
        if let Some(told) = refused {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!("the server took the handshake and then said no to EHLO: {told}").into(),
                mend: "look in the server's log for why; it may not trust our certificate, or miss one",
            });
        }
        if *said_starttls {
            return Some(by_client("the client insists on STARTTLS", SWITCH_OFF));
        }
        if self.is_past || !knows_offer || self.offer.is_open() {
            return None;
        }
        Some(match without_mechanisms {
            true => by_client(
                "the client was offered no AUTH: the server's only mechanisms are bound to its own TLS (-PLUS)",
                "let the server offer a mechanism without -PLUS, such as SCRAM-SHA-256",
            ),
            false => by_client(
                "the client left when it saw what the server offers: it may insist on STARTTLS",
                SWITCH_OFF,
            ),
        })
    }
}

impl Reading {
    /// Hears a client that may still ask for TLS.
    fn hear_asking(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        for (at, byte) in heard.iter().enumerate() {
            if self.is_past {
                onward.up.extend_from_slice(&heard[at..]);
                break;
            }
            if self.upgrade != Upgrade::None {
                return Err(SLIPPED_IN);
            }
            self.line.is_later = true;
            let begins = !self.line.is_word;
            match self.asking.hear(*byte, self.offer) {
                Heard::Nothing => {}
                Heard::Onward(bytes) => self.goes_on(&bytes, begins, onward),
                Heard::Command(bytes) => {
                    self.goes_on(&bytes, begins, onward);
                    let Line { word, .. } =
                        mem::replace(&mut self.line, Line { is_later: true, ..Line::default() });
                    self.take_command(&word);
                }
                Heard::Answer(answer, upgrade) => {
                    self.was_told_to_ask = self.offer == Offer::Required && upgrade == Upgrade::None;
                    self.upgrade = upgrade;
                    self.awaited.push_back(Reply::Ours(answer));
                    self.answer(onward);
                }
                Heard::Past(bytes) => {
                    onward.up.extend_from_slice(&bytes);
                    self.is_past = true;
                }
            }
            if self.offer == Offer::Required && (self.is_past || self.awaited.len() >= MAX_AWAITED) {
                return Err(Objection {
                    to: Party::Client,
                    detail: "the client says too much without awaiting an answer",
                    mend: "this listener has tls = \"required\": let the client use STARTTLS",
                });
            }
        }
        Ok(())
    }

    /// The first bytes that go on of a line are its word and what ends it.
    fn goes_on(&mut self, bytes: &[u8], begins: bool, onward: &mut Onward) {
        onward.up.extend_from_slice(bytes);
        if begins {
            self.line.word = bytes.trim_ascii_end().to_ascii_uppercase();
            self.line.is_word = true;
        }
    }

    /// Says what it is our turn to say.
    fn answer(&mut self, onward: &mut Onward) {
        while let (None, Some(Reply::Ours(answer))) = (self.current, self.awaited.front()) {
            onward.down.extend_from_slice(answer);
            if *answer == READY {
                self.upgrade = Upgrade::Answered;
            }
            self.awaited.pop_front();
        }
    }

    fn hear_client(&mut self, byte: u8) {
        self.line.is_later = true;
        let Line { word, is_word, .. } = &mut self.line;
        let ends_word = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let is_leading = matches!(byte, b' ' | b'\t') && word.is_empty();
        if !*is_word && !is_leading {
            match ends_word {
                true => *is_word = true,
                false => word.push(byte.to_ascii_uppercase()),
            }
            let is_beginning = |beginning: &&str| match ends_word {
                true => beginning.as_bytes() == *word,
                false => beginning.as_bytes().starts_with(word),
            };
            if !BEGINNINGS.iter().any(is_beginning) {
                self.is_past = true;
                return;
            }
        }
        if byte == b'\n' {
            let Line { word, .. } = mem::replace(&mut self.line, Line { is_later: true, ..Line::default() });
            self.take_command(&word);
        }
    }

    fn take_command(&mut self, word: &[u8]) {
        let is_hello = word == HELLO.as_bytes();
        self.awaited.push_back(if is_hello { Reply::Hello } else { Reply::Other });
        self.is_past = self.awaited.len() == MAX_AWAITED;
        self.why.said_starttls |= word == b"STARTTLS";
        self.is_leaving |= word == b"QUIT";
        // Who takes its leave is asked why it leaves.
        self.why.knows_offer &= word == b"QUIT";
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

#[cfg(test)]
mod tests;
