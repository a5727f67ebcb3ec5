//! SMTP around the start of TLS: a server's bytes while TLS is negotiated, and both sides' words from the greeting on. In
//! whatever pieces they come, the same comes of them, and little is changed: the client's bytes not at all, the server's
//! only by what may not be offered through TLS in the middle.
//!
//! The first byte says in what pieces the rest comes; odd: the greeting is replayed. A byte 1 gives the word to the other
//! side, the server having it first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::protocol::{Asking, Meeting, Negotiated, Offer, Opening, Protocol};
use nuncio::relay::{Greeting, Onward};

const REPLAYED: &[u8] = b"220 mx\r\n";

/// What was said, and what came of it.
fn negotiate(bytes: &[u8], piece: usize) -> (Vec<u8>, Result<Option<Negotiated>, String>) {
    let mut talk = Protocol::Smtp
        .negotiation(&Asking {
            as_host: "ambassador.example.com",
            server_name: "",
            opening: b"",
            alone: true,
        })
        .expect("SMTP has a way to TLS");
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        heard.extend_from_slice(piece);
        match talk.hear(&mut heard, &mut said) {
            Ok(None) => assert!(heard.len() <= piece.len(), "what is complete is taken"),
            Ok(Some(negotiated)) => {
                assert!(heard.is_empty() && !negotiated.greeting.is_empty());
                assert!(bytes.starts_with(&negotiated.greeting));
                return (said, Ok(Some(negotiated)));
            }
            Err(failure) => {
                assert!(
                    failure.detail.len() < 800
                        && failure.detail.bytes().all(|byte| matches!(byte, b' '..=b'~'))
                );
                return (said, Err(failure.detail.into()));
            }
        }
    }
    drop(talk.ended(&heard));
    (said, Ok(None))
}

/// What went on, whether it is done, and the objection if there was one.
fn greet(words: &[u8], replayed: bool, piece: usize) -> (Onward, bool, Option<String>) {
    let greeting = if replayed { REPLAYED.to_vec() } else { Vec::new() };
    let Greeting { mut onward, greeter } = Protocol::Smtp.greet(Meeting {
        opening: Opening::default(),
        negotiated: Negotiated { greeting },
        secured: true,
        offer: Offer::No,
        keep_key: Box::new(|_| {}),
    });
    let mut greeter = greeter.expect("somebody reads along");
    for (turn, words) in words.split(|byte| *byte == 1).enumerate() {
        for piece in words.chunks(piece) {
            let said = match turn % 2 {
                0 => greeter.upstream_said(piece, &mut onward),
                _ => greeter.client_said(piece, &mut onward),
            };
            if let Err(objection) = said {
                return (onward, greeter.is_done(), Some(objection.detail.to_owned()));
            }
            greeter.may_refuse();
            greeter.why_ended();
        }
    }
    (onward, greeter.is_done(), None)
}

/// A side's words, one after the other.
fn of_side(words: &[u8], side: usize) -> Vec<u8> {
    words.split(|byte| *byte == 1).skip(side).step_by(2).collect::<Vec<_>>().concat()
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// The words of a keyword's line behind the code, without those that are bound to TLS; `None`: the line may be left out.
fn words_of(line: &[u8], keep_all: bool) -> Option<Vec<&[u8]>> {
    let text = line.get(4..).unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut words = text.split(|byte| b" \t=".contains(byte));
    let keyword = words.next()?;
    if keyword.eq_ignore_ascii_case(b"STARTTLS") {
        return None;
    }
    let is_auth = keyword.eq_ignore_ascii_case(b"AUTH");
    let is_bound = |word: &[u8]| word.to_ascii_uppercase().ends_with(b"-PLUS") && word.len() > 5;
    let had: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
    let kept: Vec<&[u8]> =
        had.iter().copied().filter(|word| keep_all || !is_auth || !is_bound(word)).collect();
    (had.is_empty() || !kept.is_empty()).then(|| [vec![keyword], kept].concat())
}

/// Did the server's words only lose what they may?
fn is_cut_only(said: &[u8], gone_on: &[u8], is_all: bool) -> bool {
    let mut rest = lines(said).into_iter();
    for line in lines(gone_on) {
        let same = |original: &[u8]| {
            // The same, or with another mark.
            original == line
                || original.len() == line.len()
                    && original[..3] == line[..3]
                    && (original[3], line[3]) == (b'-', b' ')
                    && original[4..] == line[4..]
        };
        let cut = |original: &[u8]| {
            original.get(..3) == line.get(..3)
                && original.ends_with(if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" })
                && words_of(original, false).is_some_and(|words| Some(words) == words_of(line, true))
        };
        loop {
            match rest.next() {
                Some(original) if same(original) || cut(original) => break,
                Some(original) if words_of(original, false).is_none() => {}
                Some(_) | None => return false,
            }
        }
    }
    let left: Vec<&[u8]> = rest.collect();
    !is_all || left.iter().all(|line| words_of(line, false).is_none())
}

fuzz_target!(|input: &[u8]| {
    let Some((first, words)) = input.split_first() else { return };
    let (piece, replayed) = (usize::from(*first).max(1), first % 2 == 1);

    let whole = negotiate(words, usize::MAX);
    let split = negotiate(words, piece);
    // What comes behind the answer to STARTTLS belongs to TLS when it comes later.
    let is_injected =
        |result: &Result<_, String>| result.as_ref().is_err_and(|detail| detail.contains("in plaintext"));
    match is_injected(&whole.1) {
        true => assert!(split.0 == whole.0 && (matches!(split.1, Ok(Some(_))) || is_injected(&split.1))),
        false => assert_eq!(split, whole),
    }

    let whole = greet(words, replayed, usize::MAX);
    assert_eq!(greet(words, replayed, piece), whole);
    let (onward, is_done, objection) = whole;
    if objection.is_none() {
        assert_eq!(onward.up, of_side(words, 1));
        let mut said = if replayed { REPLAYED.to_vec() } else { Vec::new() };
        said.extend(of_side(words, 0));
        assert!(is_cut_only(&said, &onward.down, is_done), "{}", onward.down.escape_ascii());
        assert!(said.len() - onward.down.len() <= 64 * 1024 || is_done, "what is kept back is bounded");
    }
});
