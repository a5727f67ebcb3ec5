//! upgrade: a client that may ask for TLS of its own, in a protocol of lines (STARTTLS, STLS): heard before the protocol's own
//! greeter, which goes on for it inside.
//!
//! A line goes on only once it is known what it is. What comes before TLS may be anybody's (CVE-2011-0411): nothing but what
//! asks and greets goes on to the server where TLS is demanded, and what stands behind the request ends the conversation.
//! Answers of ours wait until the server has answered all that was asked before. What a server's list says of TLS is the
//! greeter's to mend, by the [`Offer`] that it is given.

use super::Offer;
use crate::relay::{Greeter, Objection, Onward, Party, Remark, Upgrade};

/// Of a line that goes on, or asks for TLS. A longer one is none of these.
const MAX_LINE: usize = 2048;
/// Of a command's tag.
const MAX_TAG: usize = 64;

/// A protocol's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// Asks for TLS.
    pub(super) request: &'static str,
    /// Goes on to the server before TLS: asks and greets, and leaves nothing behind that would count inside.
    pub(super) goes_on: &'static [&'static str],
    /// A tag stands before each command, and before the answer to it.
    pub(super) is_tagged: bool,
    /// Yes to the request.
    pub(super) ready: &'static str,
    /// The request had parameters.
    pub(super) not_bare: &'static str,
    /// TLS has to be asked for first.
    pub(super) first: &'static str,
    /// A client that begins with TLS.
    pub(super) began_with_tls: &'static str,
}

/// A greeter that can tell when nothing is open between client and server.
pub(super) trait Beginning: Greeter {
    /// All that the client has said is answered, and the server has greeted.
    fn is_settled(&self) -> bool;
}

/// Begins anew inside the client's TLS, with first words of its own.
pub(super) type Inside<G> = Box<dyn FnOnce(&mut Onward) -> G + Send>;

/// Who reads along: `outside`, or, where the client may ask for TLS, somebody before it, and then `inside`.
pub(super) fn upgradable<G: Beginning + 'static>(
    words: &'static Words,
    offer: Offer,
    outside: G,
    inside: Inside<G>,
) -> Box<dyn Greeter> {
    match offer.is_open() {
        false => Box::new(outside),
        true => Box::new(Asking {
            words,
            is_required: offer == Offer::Required,
            greeter: outside,
            inside: Some(inside),
            has_begun: false,
            rest: Vec::new(),
            is_skipping: false,
            answer: None,
            upgrade: Upgrade::None,
            was_told: false,
        }),
    }
}

/// Hears a client that may ask for TLS.
struct Asking<G> {
    words: &'static Words,
    is_required: bool,
    greeter: G,
    /// `None`: the client has its TLS, or goes on without.
    inside: Option<Inside<G>>,
    has_begun: bool,
    /// What the client said that has not been judged yet.
    rest: Vec<u8>,
    /// The line at its front is answered here, and goes nowhere.
    is_skipping: bool,
    /// Our answer, until it is its turn.
    answer: Option<Answer>,
    upgrade: Upgrade,
    /// The client was told to ask for TLS first.
    was_told: bool,
}

struct Answer {
    words: Vec<u8>,
    starts_tls: bool,
}

/// What the client's words begin with.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Not to be told yet.
    Part,
    /// A line of this length that goes on.
    GoesOn(usize),
    /// A line of this length that asks for TLS.
    Request { length: usize, tag: Vec<u8>, is_bare: bool },
    /// Anything else.
    Other { tag: Vec<u8> },
}

impl<G: Beginning> Greeter for Asking<G> {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if self.inside.is_none() {
            return self.greeter.client_said(heard, onward);
        }
        if !self.has_begun && heard.first() == Some(&0x16) {
            let detail = self.words.began_with_tls;
            return Err(Objection { to: Party::Client, detail, mend: ASK });
        }
        self.has_begun |= !heard.is_empty();
        self.rest.extend_from_slice(heard);
        self.work(onward)
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.greeter.upstream_said(heard, onward)?;
        match self.inside {
            Some(_) => self.work(onward),
            None => Ok(()),
        }
    }

    fn is_done(&self) -> bool {
        self.inside.is_none() && self.greeter.is_done()
    }

    fn may_refuse(&self) -> bool {
        self.upgrade != Upgrade::Answered && self.greeter.may_refuse()
    }

    fn unanswered(&self) -> Vec<u8> {
        self.greeter.unanswered()
    }

    fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    fn upgraded(&mut self, onward: &mut Onward) {
        self.upgrade = Upgrade::None;
        if let Some(inside) = self.inside.take() {
            // As if it had just connected: what it said before counts for nothing.
            self.greeter = inside(onward);
        }
    }

    fn why_ended(&self) -> Option<Remark> {
        let remark = self.greeter.why_ended();
        if self.inside.is_none() {
            return remark;
        }
        let of_server = remark.filter(|remark| remark.of == Party::Upstream);
        of_server.or_else(|| {
            self.was_told.then(|| Remark {
                of: Party::Client,
                detail: "the client does not ask for TLS, and this listener serves nobody without".into(),
                mend: ASK_OR,
            })
        })
    }
}

impl<G: Beginning> Asking<G> {
    fn work(&mut self, onward: &mut Onward) -> Result<(), Objection> {
        loop {
            if self.greeter.is_done() {
                return self.cannot_follow(onward);
            }
            if let Some(Answer { words, starts_tls }) = &mut self.answer {
                if *starts_tls && !self.rest.is_empty() {
                    return Err(SLIPPED_IN);
                }
                if !self.greeter.is_settled() {
                    return Ok(());
                }
                onward.down.append(words);
                let starts_tls = *starts_tls;
                self.answer = None;
                self.upgrade = if starts_tls { Upgrade::Answered } else { Upgrade::None };
                if starts_tls {
                    return Ok(());
                }
            }
            if self.is_skipping {
                let end = self.rest.iter().position(|byte| *byte == b'\n');
                self.rest.drain(..end.map_or(self.rest.len(), |end| end + 1));
                if end.is_none() {
                    return Ok(());
                }
                self.is_skipping = false;
            }
            match see(self.words, &self.rest) {
                Seen::Part => return Ok(()),
                Seen::GoesOn(length) => {
                    let line: Vec<u8> = self.rest.drain(..length).collect();
                    self.greeter.client_said(&line, onward)?;
                }
                Seen::Request { length, tag, is_bare } => {
                    self.rest.drain(..length);
                    self.was_told = false;
                    self.will_answer(
                        &tag,
                        if is_bare { self.words.ready } else { self.words.not_bare },
                        is_bare,
                    );
                }
                Seen::Other { tag } if self.is_required => {
                    self.is_skipping = true;
                    self.was_told = true;
                    self.will_answer(&tag, self.words.first, false);
                }
                Seen::Other { .. } => {
                    self.inside = None;
                    let rest = std::mem::take(&mut self.rest);
                    return self.greeter.client_said(&rest, onward);
                }
            }
        }
    }

    fn will_answer(&mut self, tag: &[u8], words: &str, starts_tls: bool) {
        let tag = if self.words.is_tagged { [tag, b" "].concat() } else { Vec::new() };
        self.answer = Some(Answer { words: [&tag, words.as_bytes()].concat(), starts_tls });
        self.upgrade = Upgrade::Asked;
    }

    /// The greeter follows no more: the server is not understood, or has let the client in already.
    fn cannot_follow(&mut self, onward: &mut Onward) -> Result<(), Objection> {
        if self.is_required || self.answer.is_some() {
            return Err(Objection {
                to: Party::Upstream,
                detail: "the server goes on before the client could ask for TLS, or in words that cannot be followed",
                mend: "is `protocol` the one that this server speaks, and does it await a login?",
            });
        }
        self.inside = None;
        onward.up.append(&mut self.rest);
        Ok(())
    }
}

/// What stands at the front. Told by the first byte that decides it, so that no cut changes it.
fn see(words: &Words, heard: &[u8]) -> Seen {
    let ends_word = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let (tag, behind) = match words.is_tagged {
        false => (&b""[..], heard),
        true => match heard.iter().take(MAX_TAG).position(ends_word) {
            Some(end) if heard[end] == b' ' && is_tag(&heard[..end]) => (&heard[..end], &heard[end + 1..]),
            None if heard.len() < MAX_TAG => return Seen::Part,
            _ => return Seen::Other { tag: b"*".to_vec() },
        },
    };
    let end = behind.iter().position(ends_word);
    let word = &behind[..end.unwrap_or(behind.len())];
    let is = |known: &str| match end {
        Some(_) => known.as_bytes().eq_ignore_ascii_case(word),
        None => known.as_bytes().get(..word.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(word)),
    };
    let other = || Seen::Other { tag: tag.to_vec() };
    let (goes_on, asks) = (words.goes_on.iter().any(|known| is(known)), is(words.request));
    if !goes_on && !asks {
        return other();
    }
    let within = &heard[..heard.len().min(MAX_LINE)];
    let Some(length) = within.iter().position(|byte| *byte == b'\n').map(|end| end + 1) else {
        return if within.len() == MAX_LINE { other() } else { Seen::Part };
    };
    let parameters = behind[word.len()..length - (heard.len() - behind.len())].trim_ascii();
    match asks {
        true => Seen::Request { length, tag: tag.to_vec(), is_bare: parameters.is_empty() },
        // A literal follows: no line, whatever it looks like.
        false if parameters.ends_with(b"}") => other(),
        false => Seen::GoesOn(length),
    }
}

/// It can be said again in an answer.
fn is_tag(tag: &[u8]) -> bool {
    !tag.is_empty() && tag.iter().all(u8::is_ascii_graphic)
}

const ASK: &str = "let the client ask for TLS (STARTTLS, STLS), or set tls_mode = \"direct\" in its listener";
const ASK_OR: &str =
    "let the client ask for TLS (STARTTLS, STLS), or write tls = \"optional\" in its listener";

/// Somebody sent more in plaintext than the request for TLS.
const SLIPPED_IN: Objection = Objection {
    to: Party::Client,
    detail: "the client sent plaintext behind its request for TLS, where only TLS may follow: it, or somebody on the way, \
             tries to slip it in",
    mend: "if the client itself does that, update it: it must await the answer to STARTTLS",
};

#[cfg(test)]
mod tests;
