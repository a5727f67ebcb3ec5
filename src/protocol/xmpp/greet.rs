//! The beginning of a client's stream inside TLS: the server's header and its features, these without what TLS in the
//! middle cannot keep. What comes after the login (a new stream, new features) is the peers' own: none of that is in it.

use std::mem;

use super::mend::mended;
use super::stream::{Part, Reader, STREAMS, error};
use crate::protocol::Opening;
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

const SWITCH_OFF: &str = "let the client log in without TLS of its own (often \"allow plaintext\" or \"no encryption\"): \
                          nuncio speaks TLS to the server";
/// Of the client's next words, enough to see what they are.
const MAX_WORD: usize = 128;
const START_TLS: &[u8] = b"<starttls";

/// The client's header goes up as it came, and somebody reads along. `secured`: the server is reached through TLS. Towards
/// one that is not, nothing is changed.
pub(in crate::protocol) fn greet(opening: Opening, secured: bool) -> Greeting {
    let mut reading = Reading { secured, opening: opening.bytes.clone(), ..Reading::default() };
    let mut client = Reader::default();
    let mut rest = &opening.bytes[..];
    // Behind its header it may have said more.
    while client.header().is_none()
        && let Ok(Some((length, _))) = client.next(rest)
    {
        rest = &rest[length..];
    }
    reading.hear_client(rest);
    Greeting { onward: Onward { up: opening.bytes, down: Vec::new() }, greeter: Some(Box::new(reading)) }
}

/// The time up to the client's answer to the features.
#[derive(Default)]
struct Reading {
    secured: bool,
    /// What the client opened with, as long as it awaits a header in answer to that.
    opening: Vec<u8>,
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
        onward.up.extend_from_slice(heard);
        self.hear_client(heard);
        if self.is_done() {
            onward.down.append(&mut self.kept);
        }
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
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
        self.is_lost || self.knows_offer && self.next == Next::GoesOn
    }

    fn may_refuse(&self) -> bool {
        // Ours would not match a header that names its streams otherwise.
        let is_named = self.server.header().is_none_or(|header| header.name == "stream:stream");
        is_named && self.next != Next::Leaves && self.has_ended.is_none()
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
            Next::StartTls => "the client insists on starttls of its own",
            Next::Unknown | Next::Leaves if self.knows_offer => {
                "the client left when it saw what the server offers: it may insist on starttls"
            }
            _ => return None,
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend: SWITCH_OFF })
    }
}

impl Reading {
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
                self.opening.clear();
                // Of before 1.0: it has no features.
                self.knows_offer = !header.has_version;
            }
            Part::End => {
                self.has_ended.get_or_insert_default();
            }
            Part::Element(element) if element.name.is(STREAMS, "features") && !self.knows_offer => {
                self.knows_offer = true;
                if self.secured {
                    let mended = mended(&bytes, element)?;
                    onward.down.extend_from_slice(&mended);
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
