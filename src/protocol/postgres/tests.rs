//! PostgreSQL's messages: tables of situations, and what must hold however the bytes are cut and whatever they are.

mod cut;
mod listener_tls;
mod login;
mod negotiate;
mod preface;
mod refuse;

use std::sync::mpsc;

use fastrand::Rng;

use super::super::{Negotiated, Opening, Protocol, Refusal, SessionKey, Talk};
use super::*;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::relay::{Greeting, Objection, Onward, Party};

/// Length, code or version, and the rest.
fn first(code: u32, rest: &[u8]) -> Vec<u8> {
    [&u32::try_from(8 + rest.len()).unwrap().to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

/// Type, length and the rest.
fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(4 + rest.len()).unwrap().to_be_bytes(), rest].concat()
}

fn ssl() -> Vec<u8> {
    first(SSL_REQUEST, b"")
}

fn gss() -> Vec<u8> {
    first(GSSENC_REQUEST, b"")
}

fn startup() -> Vec<u8> {
    first(3 << 16, b"user\0erp\0database\0orders\0\0")
}

fn cancel(secret: usize) -> Vec<u8> {
    first(CANCEL_REQUEST, &[&[0, 0, 16, 1][..], &vec![7; secret]].concat())
}

/// As the server gives it out.
fn key_data(secret: usize) -> Vec<u8> {
    message(b'K', &[&[0, 0, 16, 1][..], &vec![7; secret]].concat())
}

fn sasl(mechanisms: &[&str]) -> Vec<u8> {
    let list: String = mechanisms.iter().map(|name| format!("{name}\0")).collect();
    message(b'R', &[&10_u32.to_be_bytes()[..], list.as_bytes(), b"\0"].concat())
}

fn request(code: u32) -> Vec<u8> {
    message(b'R', &code.to_be_bytes())
}

fn error(fields: &str) -> Vec<u8> {
    message(b'E', format!("{fields}\0\0").replace('|', "\0").as_bytes())
}

/// A login as a server of version 18 leads it, with what of it reaches the client.
fn login() -> (Vec<u8>, Vec<u8>) {
    let behind = [
        message(b'R', b"\0\0\0\x0br=nonce,s=salt,i=4096"),
        message(b'R', b"\0\0\0\x0cv=proof"),
        request(0),
        message(b'S', b"server_version\x0018.1\0"),
        message(b'N', b"SNOTICE\0C00000\0Ma login trigger says hello\0\0"),
        key_data(32),
        message(b'Z', b"I"),
        b"\0\x01 whatever comes then \xff".to_vec(),
    ]
    .concat();
    let version = message(b'v', b"\0\x03\0\0\0\0\0\0");
    (
        [&version[..], &sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &behind].concat(),
        [&version[..], &sasl(&["SCRAM-SHA-256"]), &behind].concat(),
    )
}

/// Hears the pieces one by one. What follows the outcome is the opening's too, since whoever relays sends it on.
fn preface<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    let (mut preface, mut heard, mut said) = (Preface::new(Offer::No), Vec::new(), Vec::new());
    let mut opening = None::<Opening>;
    for piece in pieces {
        if let Some(opening) = &mut opening {
            opening.bytes.extend_from_slice(piece);
            continue;
        }
        heard.extend_from_slice(piece);
        match preface.hear(&mut heard, &mut said) {
            Ok(outcome) => opening = outcome,
            Err(failure) => return (said, Err(failure)),
        }
        assert!(opening.is_none() || heard.is_empty());
        assert!(heard.len() < 10_004, "an unfinished message is within its limit");
    }
    (said, Ok(opening))
}

fn hears(bytes: &[u8]) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    preface(std::iter::once(bytes))
}

/// Up to the first answer; what is left of it is for TLS.
fn negotiation<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<Negotiated>, Failure> {
    let (mut negotiation, mut heard, mut said) = (Negotiation::default(), Vec::new(), Vec::new());
    assert_eq!(negotiation.hear(&mut heard, &mut said), Ok(None));
    assert_eq!(said, ssl());
    for piece in pieces {
        heard.extend_from_slice(piece);
        if let Some(negotiated) = negotiation.hear(&mut heard, &mut said)? {
            assert!(heard.is_empty());
            return Ok(Some(negotiated));
        }
        assert!(heard.len() < 17_000, "it waits for no more than an error's limit");
    }
    assert_eq!(said, ssl(), "it asks once");
    negotiation.ended(&heard).map_or(Ok(None), Err)
}

fn answers(bytes: &[u8]) -> Failure {
    negotiation(std::iter::once(bytes)).expect_err("no TLS after that")
}

/// What the client is given of a login, its key, and whether the greeter was done. A greeter that is done is left.
#[derive(Debug, PartialEq)]
struct Led {
    down: Vec<u8>,
    key: Option<SessionKey>,
    objection: Option<Objection>,
    done: bool,
}

fn lead<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Led {
    let (keep, kept) = mpsc::channel();
    let keep_key = Box::new(move |key| keep.send(key).unwrap());
    let opening = Opening { bytes: startup(), ..Opening::default() };
    let Greeting { onward, greeter } = Protocol::Postgres.greet(Meeting {
        opening,
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key,
    });
    assert_eq!(onward, Onward { up: startup(), down: Vec::new() });
    let (mut greeter, mut onward) = (greeter.expect("somebody reads along"), Onward::default());
    let mut objection = None;
    for piece in pieces {
        if greeter.is_done() {
            onward.down.extend_from_slice(piece);
        } else if let Err(objected) = greeter.upstream_said(piece, &mut onward) {
            objection = Some(objected);
            break;
        }
    }
    assert!(onward.up.is_empty());
    let key = kept.try_iter().next();
    assert!(kept.try_iter().next().is_none(), "one key at most");
    Led { down: onward.down, key, objection, done: greeter.is_done() }
}

fn given(bytes: &[u8]) -> Led {
    lead(std::iter::once(bytes))
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
