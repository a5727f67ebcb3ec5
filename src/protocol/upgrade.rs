//! upgrade: a client that may ask for TLS of its own (STARTTLS, STLS, StartTLS), heard before its protocol's own greeter, which
//! goes on for it inside.
//!
//! What the client says goes on only once it is known what it is ([`Grammar`]; of lines, by [`Words`]). What comes before TLS
//! may be anybody's (CVE-2011-0411): nothing but what asks and greets goes on to the server where TLS is demanded, and what
//! stands behind the request ends the conversation. Answers of ours wait until the server has answered all that was asked
//! before. What a server's list says of TLS is the greeter's to mend, by the [`Offer`] that it is given.

use zeroize::Zeroizing;

use super::Offer;
use crate::relay::{Greeter, Objection, Onward, Party, Remark, Upgrade};

/// How a protocol's client speaks before its TLS.
pub(super) trait Grammar: Send {
    /// What stands at the front of what was heard, which may only grow until that is told. Told by the first byte that decides
    /// it, so that no cut changes it.
    fn see(&mut self, heard: &[u8], is_required: bool) -> Seen;

    /// A client that begins with TLS.
    fn began_with_tls(&self) -> &'static str;
}

/// What the client's words begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not to be told yet.
    Part,
    /// So many bytes that go on, which need not all be there yet.
    GoesOn(usize),
    /// Something that is answered here.
    Answered {
        /// How long it is.
        by: Length,
        /// Our answer.
        words: Vec<u8>,
        /// It is a yes to the request for TLS.
        starts_tls: bool,
    },
    /// Anything else: where TLS is demanded it is answered so, and else the client goes on without.
    Other {
        /// How long it is.
        by: Length,
        /// Our answer.
        words: Vec<u8>,
    },
    /// The same, where there is no answer to it.
    Unanswerable,
}

/// How long something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes.
    Bytes(usize),
    /// Up to the line's end.
    Line,
}

/// A greeter that can tell when nothing is open between client and server.
pub(super) trait Beginning: Greeter {
    /// All that the client has said is answered, and the server has greeted.
    fn is_settled(&self) -> bool;

    /// What a request for TLS is answered that comes while what was asked before is not, where the answers to that may never
    /// end; `None`: it waits for them.
    fn not_now(&self, _request: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// The client will not ask for TLS any more.
    fn goes_without(&mut self) {}
}

/// Begins anew inside the client's TLS, after the greeter that was there before, with first words of its own.
pub(super) type Inside<G> = Box<dyn FnOnce(G, &mut Onward) -> G + Send>;

/// Who reads along: `outside`, or, where the client may ask for TLS, somebody before it, and then `inside`. `said`: what the
/// client has said already; it is judged when the server has said something.
pub(super) fn upgradable<G: Beginning + 'static>(
    grammar: impl Grammar + 'static,
    offer: Offer,
    said: &[u8],
    outside: G,
    inside: Inside<G>,
) -> Box<dyn Greeter> {
    match offer.is_open() {
        false => Box::new(outside),
        true => Box::new(Asking {
            grammar: Box::new(grammar),
            is_required: offer == Offer::Required,
            greeter: Some(outside),
            inside: Some(inside),
            has_begun: !said.is_empty(),
            rest: said.to_vec().into(),
            passing: 0,
            skipping: None,
            answer: None,
            later: Vec::new(),
            objection: None,
            upgrade: Upgrade::None,
            was_told: false,
            commands: 0,
        }),
    }
}

/// Hears a client that may ask for TLS.
struct Asking<G> {
    grammar: Box<dyn Grammar>,
    is_required: bool,
    /// Always there, but while it is exchanged.
    greeter: Option<G>,
    /// `None`: the client has its TLS, or goes on without.
    inside: Option<Inside<G>>,
    has_begun: bool,
    /// What the client said that has not been judged yet: a password may be among it.
    rest: Zeroizing<Vec<u8>>,
    /// So much of what it says next goes on.
    passing: usize,
    /// So much of it goes nowhere, since it is answered here.
    skipping: Option<Length>,
    /// Our answer, until it is its turn.
    answer: Option<Answer>,
    /// What the server said behind that: it comes to the client through its TLS.
    later: Vec<u8>,
    /// To that.
    objection: Option<Objection>,
    upgrade: Upgrade,
    /// The client was told to ask for TLS first.
    was_told: bool,
    /// What it has said without doing so.
    commands: usize,
}

struct Answer {
    words: Vec<u8>,
    starts_tls: bool,
}

impl<G: Beginning> Greeter for Asking<G> {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if self.inside.is_none() {
            return self.pass(heard, onward);
        }
        if !self.has_begun && heard.first() == Some(&0x16) {
            let detail = self.grammar.began_with_tls();
            return Err(Objection { to: Party::Client, detail, mend: ASK });
        }
        self.has_begun |= !heard.is_empty();
        self.rest.extend_from_slice(heard);
        self.work(onward)
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if let Some(objection) = self.objection.take() {
            return Err(objection);
        }
        let mut rest = heard;
        while self.upgrade != Upgrade::Answered && !rest.is_empty() {
            // An answer of ours stands behind the very byte that ends the one before it, and the client's first words are
            // judged behind the server's first byte, however the bytes come.
            let waits = self.inside.is_some() && (self.answer.is_some() || !self.rest.is_empty());
            let (now, behind) = rest.split_at(if waits { 1 } else { rest.len() });
            rest = behind;
            if let Some(greeter) = &mut self.greeter {
                greeter.upstream_said(now, onward)?;
            }
            if self.inside.is_some() {
                self.work(onward)?;
            }
        }
        self.later.extend_from_slice(rest);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.inside.is_none() && self.greeter.as_ref().is_none_or(Greeter::is_done)
    }

    fn may_refuse(&self) -> bool {
        self.upgrade != Upgrade::Answered && self.greeter.as_ref().is_some_and(Greeter::may_refuse)
    }

    fn unanswered(&self) -> Vec<u8> {
        self.greeter.as_ref().map_or_else(Vec::new, Greeter::unanswered)
    }

    fn upgrade(&self) -> Upgrade {
        match self.skipping {
            // The rest of the command has to be heard before it can be answered.
            Some(_) => Upgrade::None,
            None => self.upgrade,
        }
    }

    fn upgraded(&mut self, onward: &mut Onward) {
        self.upgrade = Upgrade::None;
        if let (Some(inside), Some(outside)) = (self.inside.take(), self.greeter.take()) {
            // As if it had just connected: what it said before counts for nothing.
            let mut greeter = inside(outside, onward);
            self.objection = greeter.upstream_said(&std::mem::take(&mut self.later), onward).err();
            self.greeter = Some(greeter);
        }
    }

    fn awaits_tls(&self) -> bool {
        let has_asked =
            self.skipping.is_none() && self.answer.as_ref().is_some_and(|answer| answer.starts_tls);
        let is_turn = self.greeter.as_ref().is_some_and(Beginning::is_settled);
        self.is_required
            && self.inside.is_some()
            && is_turn
            && !has_asked
            && self.upgrade != Upgrade::Answered
    }

    fn is_overloaded(&self) -> bool {
        self.greeter.as_ref().is_some_and(Greeter::is_overloaded)
    }

    fn why_ended(&self) -> Option<Remark> {
        let remark = self.greeter.as_ref().and_then(Greeter::why_ended);
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
    fn pass(&mut self, said: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        match &mut self.greeter {
            Some(greeter) => greeter.client_said(said, onward),
            None => Ok(()),
        }
    }

    fn work(&mut self, onward: &mut Onward) -> Result<(), Objection> {
        loop {
            if self.greeter.as_ref().is_none_or(Greeter::is_done) {
                return self.cannot_follow(onward);
            }
            if self.passing > 0 {
                let length = self.passing.min(self.rest.len());
                let said: Zeroizing<Vec<u8>> = self.rest.drain(..length).collect::<Vec<u8>>().into();
                self.passing -= said.len();
                self.pass(&said, onward)?;
                if self.passing > 0 {
                    return Ok(());
                }
                continue;
            }
            if let Some(length) = self.skipping {
                self.skipping = self.skip(length);
                if self.skipping.is_some() {
                    return Ok(());
                }
            }
            if let Some(Answer { words, starts_tls }) = &mut self.answer {
                if *starts_tls && !self.rest.is_empty() {
                    return Err(SLIPPED_IN);
                }
                if !self.greeter.as_ref().is_some_and(Beginning::is_settled) {
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
            let seen = match self.grammar.see(&self.rest, self.is_required) {
                Seen::Part => return Ok(()),
                // Whoever says so much does not mean to ask: our answers are not to fill our memory.
                _ if self.commands == MAX_COMMANDS => Seen::Unanswerable,
                seen => seen,
            };
            self.commands += 1;
            match seen {
                Seen::Part => return Ok(()),
                Seen::GoesOn(length) => self.passing = length,
                Seen::Answered { by, words, starts_tls } => {
                    self.was_told = false;
                    let no = self.greeter.as_ref().filter(|_| starts_tls);
                    match no.and_then(|greeter| greeter.not_now(&self.rest)) {
                        Some(no) => self.will_answer(by, no, false),
                        None => self.will_answer(by, words, starts_tls),
                    }
                }
                Seen::Other { by, words } if self.is_required => {
                    self.was_told = true;
                    self.will_answer(by, words, false);
                }
                Seen::Unanswerable if self.is_required => return Err(WITHOUT),
                Seen::Other { .. } | Seen::Unanswerable => {
                    self.inside = None;
                    let rest = std::mem::take(&mut self.rest);
                    if let Some(greeter) = &mut self.greeter {
                        greeter.goes_without();
                    }
                    return self.pass(&rest, onward);
                }
            }
        }
    }

    fn will_answer(&mut self, by: Length, words: Vec<u8>, starts_tls: bool) {
        self.skipping = Some(by);
        self.answer = Some(Answer { words, starts_tls });
        self.upgrade = Upgrade::Asked;
    }

    /// What of it is still to come.
    fn skip(&mut self, length: Length) -> Option<Length> {
        let (now, left) = match length {
            Length::Bytes(count) => {
                let now = count.min(self.rest.len());
                (now, Some(Length::Bytes(count - now)).filter(|_| now < count))
            }
            Length::Line => match self.rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, None),
                None => (self.rest.len(), Some(Length::Line)),
            },
        };
        self.rest.drain(..now);
        left
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

/// Before a client has asked for TLS, or gone on without.
const MAX_COMMANDS: usize = 64;
/// Of a line that goes on, or asks for TLS. A longer one is none of these.
const MAX_LINE: usize = 2048;
/// Of a command's tag.
const MAX_TAG: usize = 64;

/// The words of a protocol of lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// Asks for TLS.
    pub(super) request: &'static str,
    /// Goes on to the server before TLS: asks and greets, and leaves nothing behind that would count inside.
    pub(super) goes_on: &'static [&'static str],
    /// The same, but only without parameters: they ask for a list then.
    pub(super) goes_on_bare: &'static [&'static str],
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

impl Grammar for &'static Words {
    fn see(&mut self, heard: &[u8], _: bool) -> Seen {
        let ends_word = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let (tag, behind) = match self.is_tagged {
            false => (&b""[..], heard),
            true => match heard.iter().take(MAX_TAG).position(ends_word) {
                Some(end) if heard[end] == b' ' && is_tag(&heard[..end]) => {
                    (&heard[..end], &heard[end + 1..])
                }
                None if heard.len() < MAX_TAG => return Seen::Part,
                _ => return Seen::Other { by: Length::Line, words: self.said(b"*", self.first) },
            },
        };
        let end = behind.iter().position(ends_word);
        let word = &behind[..end.unwrap_or(behind.len())];
        let is = |known: &str| match end {
            Some(_) => known.as_bytes().eq_ignore_ascii_case(word),
            None => known.as_bytes().get(..word.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(word)),
        };
        let other = || Seen::Other { by: Length::Line, words: self.said(tag, self.first) };
        let any = |known: &[&str]| known.iter().any(|known| is(known));
        let (goes_on, bare, asks) = (any(self.goes_on), any(self.goes_on_bare), is(self.request));
        if !goes_on && !bare && !asks {
            return other();
        }
        let within = &heard[..heard.len().min(MAX_LINE)];
        let Some(length) = within.iter().position(|byte| *byte == b'\n').map(|end| end + 1) else {
            return if within.len() == MAX_LINE { other() } else { Seen::Part };
        };
        // A server may take these for a line's end, and what follows for another command.
        let text = heard[..length].strip_suffix(b"\r\n").unwrap_or(&heard[..length - 1]);
        if text.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return other();
        }
        let parameters = heard[heard.len() - behind.len() + word.len()..length].trim_ascii();
        match asks {
            true => {
                let starts_tls = parameters.is_empty();
                let words = self.said(tag, if starts_tls { self.ready } else { self.not_bare });
                Seen::Answered { by: Length::Bytes(length), words, starts_tls }
            }
            // A literal follows: no line, whatever it looks like.
            false if parameters.ends_with(b"}") || !goes_on && !parameters.is_empty() => other(),
            false => Seen::GoesOn(length),
        }
    }

    fn began_with_tls(&self) -> &'static str {
        self.began_with_tls
    }
}

impl Words {
    fn said(&self, tag: &[u8], words: &str) -> Vec<u8> {
        match self.is_tagged {
            true => [tag, b" ", words.as_bytes()].concat(),
            false => words.into(),
        }
    }
}

/// It can be said again in an answer.
fn is_tag(tag: &[u8]) -> bool {
    !tag.is_empty() && tag.iter().all(|byte| byte.is_ascii_graphic() && !b"*+(){%\"\\".contains(byte))
}

const ASK: &str = "let the client ask for TLS (STARTTLS, STLS), or set tls_mode = \"direct\" in its listener";
const ASK_OR: &str =
    "let the client ask for TLS (STARTTLS, STLS), or write tls = \"optional\" in its listener";

/// The client goes on without TLS where it is demanded.
const WITHOUT: Objection = Objection {
    to: Party::Client,
    detail: "the client speaks plaintext, and this listener serves nobody without TLS",
    mend: ASK_OR,
};

/// Somebody sent more in plaintext than the request for TLS.
const SLIPPED_IN: Objection = Objection {
    to: Party::Client,
    detail: "the client sent plaintext behind its request for TLS, where only TLS may follow: it, or somebody on the way, \
             tries to slip it in",
    mend: "if the client itself does that, update it: it must await the answer to STARTTLS",
};

#[cfg(test)]
mod tests;
