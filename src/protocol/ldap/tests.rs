//! LDAP's messages: tables of situations, and what must hold however the bytes are cut and whatever they are.

mod negotiation;
mod reading;
mod refusing;
mod upgrade;

use fastrand::Rng;

use super::super::{Asking, KeepKey, Meeting, Negotiated, Offer, Opening, Protocol, Refusal, Talk};
use super::*;
use crate::failure::{Failure, Reason, Stage};
use crate::relay::{Greeter, Objection, Onward, Party};
use Party::{Client, Upstream};

/// How a length may be written.
#[derive(Clone, Copy, Debug)]
enum Length {
    Short,
    /// In so many bytes, most of them zeros.
    Long(u8),
}

const LENGTHS: [Length; 5] =
    [Length::Short, Length::Long(1), Length::Long(2), Length::Long(3), Length::Long(4)];

fn element(length: Length, tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match length {
        Length::Short => return [&[tag, u8::try_from(contents.len()).unwrap()], contents].concat(),
        Length::Long(count) => {
            element.push(0x80 | count);
            let digits = u32::try_from(contents.len()).unwrap().to_be_bytes();
            element.extend_from_slice(&digits[4 - usize::from(count)..]);
        }
    }
    [element, contents.to_vec()].concat()
}

fn message_in(length: Length, id: u8, kind: u8, contents: &[u8]) -> Vec<u8> {
    let inside = [element(length, 2, &[id]), element(length, kind, contents)].concat();
    element(length, 0x30, &inside)
}

fn message(id: u8, kind: u8, contents: &[u8]) -> Vec<u8> {
    message_in(Length::Long(4), id, kind, contents)
}

fn result_in(length: Length, code: u8, words: &str) -> Vec<u8> {
    [element(length, 10, &[code]), element(length, 4, b""), element(length, 4, words.as_bytes())].concat()
}

/// A response of this kind.
fn response(id: u8, kind: u8, code: u8, words: &str) -> Vec<u8> {
    message(id, kind, &result_in(Length::Long(2), code, words))
}

fn notice(code: u8, words: &str) -> Vec<u8> {
    let name = element(Length::Short, 0x8a, b"1.3.6.1.4.1.1466.20036");
    message(0, 0x78, &[result_in(Length::Short, code, words), name].concat())
}

fn start_tls(id: u8) -> Vec<u8> {
    message_in(Length::Short, id, 0x77, &element(Length::Short, 0x80, b"1.3.6.1.4.1.1466.20037"))
}

fn bind(id: u8) -> Vec<u8> {
    message_in(Length::Short, id, 0x60, b"\x02\x01\x03\x04\x00\x80\x00")
}

fn search(id: u8) -> Vec<u8> {
    let filter = element(Length::Short, 0x87, b"objectClass");
    message_in(
        Length::Short,
        id,
        0x63,
        &[&b"\x04\0\x0a\x01\0\x0a\x01\0\x02\x01\0\x02\x01\0\x01\x01\0"[..], &filter, b"\x30\0"].concat(),
    )
}

fn unbind(id: u8) -> Vec<u8> {
    message_in(Length::Short, id, 0x42, b"")
}

fn abandon(id: u8, abandons: u8) -> Vec<u8> {
    message_in(Length::Short, id, 0x50, &[abandons])
}

fn entry(id: u8, bytes: usize) -> Vec<u8> {
    message(id, 0x64, &vec![7; bytes])
}

/// Up to eight pieces, or one byte each.
fn cut<'a>(bytes: &'a [u8], random: &mut Rng) -> Vec<&'a [u8]> {
    if random.u8(..4) == 0 {
        return bytes.chunks(1).collect();
    }
    let mut at: Vec<_> = (0..random.usize(..8)).map(|_| random.usize(..=bytes.len())).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Some of these in a row, at times with a byte changed, cut off or put in.
fn jumble(of: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        bytes.extend_from_slice(&of[random.usize(..of.len())]);
    }
    for _ in 0..random.usize(..3) {
        let at = random.usize(..bytes.len());
        match random.u8(..3) {
            0 => bytes[at] = random.u8(..),
            1 => bytes.truncate(at + 1),
            _ => bytes.insert(at, random.u8(..)),
        }
    }
    bytes
}

/// Hears the pieces one by one: what it said, and what came of it. Nothing is left of what it has heard.
fn hear<'a, T>(
    talk: &mut dyn Talk<Outcome = T>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<Option<T>, Failure>) {
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for piece in std::iter::once(&b""[..]).chain(pieces) {
        heard.extend_from_slice(piece);
        match talk.hear(&mut heard, &mut said) {
            Ok(None) => assert!(heard.len() <= 64 * 1024, "what is waited for is bounded"),
            outcome => {
                assert!(outcome.is_err() || heard.is_empty());
                return (said, outcome);
            }
        }
    }
    let ended = talk.ended(&heard);
    (said, ended.filter(|_| !heard.is_empty()).map_or(Ok(None), Err))
}
