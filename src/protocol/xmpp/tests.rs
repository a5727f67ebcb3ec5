//! XMPP's first words: tables of situations, and what must hold however the bytes are cut and whatever they are.

mod features;
mod negotiation;
mod opening;
mod reading;
mod refusing;
mod upgrade;
mod xml;

use fastrand::Rng;

use super::super::{Asking, Meeting, Negotiated, Offer, Opening, Protocol, Refusal, Talk};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party};

/// As slixmpp says it.
const OPENING: &str = "<?xml version='1.0'?><stream:stream to='example.com' xmlns:stream='http://etherx.jabber.org/streams' \
                       xmlns='jabber:client' xml:lang='en' version='1.0'>";
/// As Prosody answers it.
const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xml:lang='en' \
                      xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='6a21' from='example.com'>";
const MECHANISMS: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism>\
                          <mechanism>PLAIN</mechanism></mechanisms>";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const PROCEED: &str = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

fn features(inside: &str) -> String {
    format!("<stream:features>{inside}</stream:features>")
}

fn stream_error(condition: &str, text: &str) -> String {
    let space = "xmlns='urn:ietf:params:xml:ns:xmpp-streams'";
    format!("<stream:error><{condition} {space}/><text {space}>{text}</text></stream:error></stream:stream>")
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
fn jumble(of: &[&str], random: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        bytes.extend_from_slice(of[random.usize(..of.len())].as_bytes());
    }
    for _ in 0..random.usize(..3) {
        let at = random.usize(..bytes.len());
        let byte = b"<>/'\"= !?&;x\xff"[random.usize(..13)];
        match random.u8(..3) {
            0 => bytes[at] = byte,
            1 => bytes.truncate(at + 1),
            _ => bytes.insert(at, byte),
        }
    }
    bytes
}

/// Hears the pieces one by one: what it said, and what came of it.
fn hear<'a, T: PartialEq>(
    talk: &mut dyn Talk<Outcome = T>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<T>, Failure>) {
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    let mut outcome = talk.hear(&mut heard, &mut said);
    for piece in pieces {
        if !matches!(outcome, Ok(None)) {
            break;
        }
        heard.extend_from_slice(piece);
        outcome = talk.hear(&mut heard, &mut said);
        assert!(outcome != Ok(None) || heard.len() <= 70_000, "what is waited for is bounded");
    }
    assert!(
        !matches!(outcome, Ok(Some(_))) || heard.is_empty(),
        "nothing is left to be mistaken for what follows"
    );
    (String::from_utf8(said).expect("text"), outcome)
}

/// Is it one printable line of bounded length?
#[track_caller]
fn in_words(failure: &Failure) {
    let Failure { detail, .. } = failure;
    assert!(detail.len() < 800 && detail.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{detail:?}");
}
