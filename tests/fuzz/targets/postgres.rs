//! PostgreSQL's messages, from either side: any bytes are understood or refused in words, within the limits, and however
//! they are cut, the same comes of them. The first byte says in what pieces the rest comes.
#![no_main]

use std::sync::mpsc;

use libfuzzer_sys::fuzz_target;
use nuncio::failure::Failure;
use nuncio::protocol::{Asking, Meeting, Negotiated, Offer, Opening, Protocol, Refusal, SessionKey};
use nuncio::relay::{Greeting, Objection, Onward};

/// The server's own limit for a first message.
const LONGEST_FIRST: usize = 10_004;
const LONGEST_ERROR: usize = 16 * 1024;

/// What is said to a client, and what comes of its first messages.
fn preface<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    let mut preface = Protocol::Postgres.preface(Offer::No).expect("it has one");
    let (mut heard, mut said, mut opening) = (Vec::new(), Vec::new(), None::<Opening>);
    for piece in pieces {
        // Whoever relays sends on what comes later.
        if let Some(opening) = &mut opening {
            opening.bytes.extend_from_slice(piece);
            continue;
        }
        heard.extend_from_slice(piece);
        match preface.hear(&mut heard, &mut said) {
            Ok(outcome) => opening = outcome,
            Err(failure) => return (said, Err(failure)),
        }
        assert!(heard.len() < LONGEST_FIRST && said.len() <= 2);
    }
    let left = preface.ended(&heard);
    (said, left.filter(|_| opening.is_none()).map_or(Ok(opening), Err))
}

fn negotiation<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<Negotiated>, Failure> {
    let mut negotiation = Protocol::Postgres
        .negotiation(&Asking { as_host: "here", server_name: "", opening: b"", alone: true })
        .expect("it has one");
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for piece in pieces {
        heard.extend_from_slice(piece);
        if let Some(negotiated) = negotiation.hear(&mut heard, &mut said)? {
            assert!(heard.is_empty());
            return Ok(Some(negotiated));
        }
        assert!(heard.len() < LONGEST_ERROR && said.len() == 8);
    }
    negotiation.ended(&heard).map_or(Ok(None), Err)
}

/// What of a login reaches the client, and the key that was found in it.
fn login<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<SessionKey>, Option<Objection>, bool) {
    let (keep, kept) = mpsc::channel();
    let keep_key = Box::new(move |key| keep.send(key).expect("kept"));
    let Greeting { greeter, .. } = Protocol::Postgres.greet(Meeting {
        opening: Opening::default(),
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key,
    });
    let (mut greeter, mut onward) = (greeter.expect("somebody reads along"), Onward::default());
    let mut objection = None;
    for piece in pieces {
        if greeter.is_done() {
            onward.down.extend_from_slice(piece);
        } else if let Err(objected) = greeter.upstream_said(piece, &mut onward) {
            assert!(greeter.may_refuse());
            objection = Some(objected);
            break;
        }
    }
    (onward.down, kept.try_iter().next(), objection, greeter.is_done())
}

/// It can be told in one line, and to the client.
fn tell(failure: &Failure) {
    assert!(!failure.detail.is_empty() && !failure.to_string().contains(char::is_control), "{failure}");
    let words = Refusal { failure, id: "id", greeted: false, said: b"" };
    let mut words = Protocol::Postgres.refusal(&words).expect("it has one");
    let mut refusal = Vec::new();
    assert_eq!(words.hear(&mut Vec::new(), &mut refusal), Ok(Some(())));
    let fields = refusal[5..].split(|byte| *byte == 0).filter(|field| !field.is_empty());
    assert_eq!(fields.map(|field| field[0]).collect::<Vec<_>>(), b"SVCMDH");
    assert!(refusal.ends_with(b"\0\0") && refusal.len() < 10_000);
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let pieces = || bytes.chunks(usize::from(*piece).max(1));
    let whole = || std::iter::once(bytes);

    let opened = preface(whole());
    assert_eq!(preface(pieces()), opened);
    if let Err(failure) = &opened.1 {
        tell(failure);
    }

    let answered = negotiation(whole());
    // A yes is told from injected bytes by nothing but the cut.
    if bytes.first() != Some(&b'S') {
        assert_eq!(negotiation(pieces()), answered);
    }
    if let Err(failure) = &answered {
        tell(failure);
    }

    let led = login(whole());
    assert_eq!(login(pieces()), led);
    let (down, _, _, done) = led;
    let is_bound = bytes.windows(6).any(|window| window == b"-PLUS\0");
    assert!(is_bound || bytes.starts_with(&down), "nothing but a list is changed");
    assert!(is_bound || !done || bytes == down, "nothing is lost");
});
