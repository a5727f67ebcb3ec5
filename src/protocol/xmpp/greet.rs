//! The beginning of a client's stream inside TLS: the server's header and its features, these without what TLS in the
//! middle cannot keep. What comes after the login (a new stream, new features) is the peers' own: none of that is in it.

use std::mem;

use zeroize::Zeroizing;

use super::mend::mended;
use super::stream::{Part, Reader, STREAMS, error, header};
use super::upgrade::{BeforeTls, with_starttls};
use crate::protocol::upgrade::{Beginning, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "let the client log in without TLS of its own (often \"allow plaintext\" or \"no encryption\"): \
                          nuncio speaks TLS to the server";
/// Of the client's next words, enough to see what they are.
const MAX_WORD: usize = 128;
const START_TLS: &[u8] = b"<starttls";
/// Of what is kept while a client begins its stream anew.
const MAX_LATER: usize = 64 * 1024;

/// The client's header goes up as it came, and somebody reads along. Where neither the server is reached through TLS nor the
/// listener has some to give, nothing is changed.
pub(in crate::protocol) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { opening, secured, offer, .. } = meeting;
    let mut client = Reader::default();
    let mut rest = &opening.bytes[..];
    // Behind its header it may have said more.
    while client.header().is_none()
        && let Ok(Some((length, _))) = client.next(rest)
    {
        rest = &rest[length..];
    }
    let (header, behind) = opening.bytes.split_at(opening.bytes.len() - rest.len());
    // Of what was said only this is kept: behind it there may be a password.
    let mut reading = Reading { secured, offer, opening: header.to_vec(), ..Reading::default() };
    if offer.is_open() {
        // That is not judged yet, and does not go on.
        let onward = Onward { up: header.to_vec(), down: Vec::new() };
        let grammar = BeforeTls { reader: client };
        let greeter = upgradable(grammar, offer, behind, reading, Box::new(Reading::inside));
        return Greeting { onward, greeter: Some(greeter) };
    }
    reading.hear_client(behind);
    Greeting { onward: Onward { up: opening.bytes, down: Vec::new() }, greeter: Some(Box::new(reading)) }
}

/// The time up to the client's answer to the features.
#[derive(Default)]
struct Reading {
    secured: bool,
    /// The client's own TLS.
    offer: Offer,
    /// The server's header and features as they are inside the client's TLS, as long as it may ask for that.
    saved: Vec<u8>,
    /// Inside: the client's new header so far, until it is answered by those.
    again: Option<Again>,
    /// The header that the client opened with, as long as it awaits one in answer.
    opening: Vec<u8>,
    /// The same from then on, where it may open once more.
    first: Vec<u8>,
    server: Reader,
    /// Of the server's: what stands in front of its header, until that is there; the beginning of a part that is not whole.
    kept: Vec<u8>,
    /// So much of it is read.
    read: usize,
    /// The client knows what is offered.
    knows_offer: bool,
    /// Of the client's next words.
    word: Vec<u8>,
    next: Next,
    /// The server has ended the stream, with an error or without.
    has_ended: Option<Option<String>>,
    /// Its words could not be followed, or are no beginning of a stream.
    is_lost: bool,
}

/// A client that begins its stream anew.
#[derive(Default)]
struct Again {
    /// Whom the first one was for.
    to: Option<String>,
    reader: Reader,
    /// A login may come with it.
    heard: Zeroizing<Vec<u8>>,
    /// So much of it is read.
    read: usize,
    /// What the server says meanwhile.
    later: Vec<u8>,
}

/// What the client does next.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Unknown,
    /// It wants TLS of its own.
    StartTls,
    Leaves,
    GoesOn,
}

impl Greeter for Reading {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        match self.again.take() {
            None => self.go_on(heard, onward),
            Some(again) => {
                if let Some(behind) = self.begin_again(again, heard, onward)? {
                    self.go_on(&behind, onward);
                }
            }
        }
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if let Some(again) = &mut self.again {
            if again.later.len() + heard.len() > MAX_LATER {
                return Err(too_much(Party::Upstream));
            }
            again.later.extend_from_slice(heard);
            return Ok(());
        }
        self.kept.extend_from_slice(heard);
        while !self.is_done() {
            match self.server.next(&self.kept[self.read..]) {
                Ok(None) => return Ok(()),
                Ok(Some((length, part))) => {
                    self.read += length;
                    self.pass(&part, onward)?;
                }
                Err(_) => self.is_lost = true,
            }
        }
        onward.down.append(&mut self.kept);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.again.is_none() && (self.is_lost || self.knows_offer && self.next == Next::GoesOn)
    }

    fn may_refuse(&self) -> bool {
        // Ours would not match a header that names its streams otherwise.
        let is_named = self.server.header().is_none_or(|header| header.name == "stream:stream");
        // Who begins anew has got none yet, whatever the server has called its own.
        (is_named || self.again.is_some()) && self.next != Next::Leaves && self.has_ended.is_none()
    }

    fn unanswered(&self) -> Vec<u8> {
        self.opening.clone()
    }

    fn why_ended(&self) -> Option<Remark> {
        if !self.secured {
            return None;
        }
        if let Some(Some(told)) = &self.has_ended {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!("the server took the handshake and then ended the stream: {told}").into(),
                mend: "look in the server's log for why",
            });
        }
        let detail = match self.next {
            _ if self.offer != Offer::No => return None,
            Next::StartTls => "the client insists on starttls of its own",
            Next::Unknown | Next::Leaves if self.knows_offer => {
                "the client left when it saw what the server offers: it may insist on starttls"
            }
            _ => return None,
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend: SWITCH_OFF })
    }
}

impl Beginning for Reading {
    fn is_settled(&self) -> bool {
        self.knows_offer && self.kept.is_empty()
    }
}

impl Reading {
    /// As it goes on inside the client's TLS.
    fn inside(outside: Reading, _: &mut Onward) -> Reading {
        let to = header(&outside.first).and_then(|header| header.to);
        Reading {
            secured: outside.secured,
            offer: Offer::Taken,
            // It awaits a header once more: also of a refusal.
            opening: outside.first,
            saved: outside.saved,
            again: Some(Again { to, ..Again::default() }),
            server: outside.server,
            knows_offer: true,
            has_ended: outside.has_ended,
            ..Reading::default()
        }
    }

    /// The client's new header is answered by what its server has said to the first one. What stands behind it goes on; `None`:
    /// it is not whole yet.
    fn begin_again(
        &mut self,
        mut again: Again,
        heard: &[u8],
        onward: &mut Onward,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Objection> {
        again.heard.extend_from_slice(heard);
        while again.reader.header().is_none() {
            match again.reader.next(&again.heard[again.read..]) {
                Ok(Some((length, _))) => again.read += length,
                Ok(None) => {
                    self.again = Some(again);
                    return Ok(None);
                }
                Err(_) => return Err(too_much(Party::Client)),
            }
        }
        // What was said in plaintext may have been anybody's, and it has decided where this stream leads.
        if again.reader.header().is_some_and(|header| header.to != again.to) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client's stream inside its TLS is for another domain than the one before it",
                mend: "find out who is on the way between the client and nuncio: no client does that",
            });
        }
        self.opening.clear();
        onward.down.append(&mut self.saved);
        self.upstream_said(&again.later, onward)?;
        Ok(Some(again.heard.split_off(again.read).into()))
    }

    /// The client's words behind its header.
    fn go_on(&mut self, heard: &[u8], onward: &mut Onward) {
        onward.up.extend_from_slice(heard);
        self.hear_client(heard);
        if self.is_done() {
            onward.down.append(&mut self.kept);
        }
    }

    /// `</stream:stream>`, `<starttls …>`, or anything else.
    fn hear_client(&mut self, heard: &[u8]) {
        for byte in heard.iter().copied() {
            if matches!(self.next, Next::Leaves | Next::GoesOn) {
                return;
            }
            if self.word.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            self.word.push(byte);
            let is_start_tls = self.word.starts_with(START_TLS) && self.word.len() < MAX_WORD;
            self.next = match byte {
                _ if self.word.starts_with(b"</") => Next::Leaves,
                b'>' if is_start_tls && self.secured => {
                    self.word.clear();
                    Next::StartTls
                }
                _ if START_TLS.starts_with(&self.word) || is_start_tls && byte != b'>' => continue,
                _ => Next::GoesOn,
            };
        }
    }

    /// A part of the server's goes on, changed or not.
    fn pass(&mut self, part: &Part, onward: &mut Onward) -> Result<(), Objection> {
        // A declaration is not said twice: in front of the server's header there may yet be ours.
        if self.server.header().is_none() {
            return Ok(());
        }
        let bytes: Vec<u8> = self.kept.drain(..mem::take(&mut self.read)).collect();
        match part {
            Part::Nothing => {}
            Part::Header(header) => {
                let opening = mem::take(&mut self.opening);
                if self.offer.is_open() {
                    self.first = opening;
                    self.saved.extend_from_slice(&bytes);
                }
                // Of before 1.0: it has no features.
                self.knows_offer = !header.has_version;
            }
            Part::End => {
                self.has_ended.get_or_insert_default();
            }
            Part::Element(element) if element.name.is(STREAMS, "features") && !self.knows_offer => {
                self.knows_offer = true;
                if self.secured || self.offer != Offer::No {
                    let mended = mended(&bytes, element)?;
                    match self.offer.is_open() {
                        true => {
                            let is_required = self.offer == Offer::Required;
                            onward.down.extend(with_starttls(&mended, is_required));
                            self.saved.extend(mended);
                        }
                        false => onward.down.extend(mended),
                    }
                    return Ok(());
                }
            }
            Part::Element(element) => match error(element) {
                Some(told) => self.has_ended = Some(Some(told)),
                None if self.knows_offer => {}
                None => self.is_lost = true,
            },
        }
        onward.down.extend_from_slice(&bytes);
        Ok(())
    }
}

fn too_much(to: Party) -> Objection {
    Objection {
        to,
        detail: "what was said where a stream begins anew inside the client's TLS is no beginning of one",
        mend: "is this the protocol that is spoken?",
    }
}
