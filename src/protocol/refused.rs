//! For tests: a client that is refused, whatever it says and however that is cut.

use super::{Protocol, Refusal, Talk};
use crate::failure::{Failure, Reason, Stage};

/// What it is told, and whether that is all (`None`: more of it is waited for).
pub(super) type Told = (Vec<u8>, Option<Result<(), Failure>>);

/// Is told that a server is down. `said`: what was read of it before the refusal.
pub(super) fn refused<'a>(
    protocol: Protocol,
    said: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Told {
    refused_for(protocol, Reason::ConnectionRefused, "10.0.0.5:1 refused the connection", said, pieces)
}

/// Is told something else.
pub(super) fn refused_for<'a>(
    protocol: Protocol,
    reason: Reason,
    detail: &str,
    said: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Told {
    let failure = Failure::upstream(Stage::Connect, reason, detail);
    let refusal = Refusal { failure: &failure, id: "7KJ2", greeted: !said.is_empty(), said };
    hear(&mut *protocol.refusal(&refusal).expect("it has one"), pieces)
}

/// As `converse` does it: first with nothing heard.
pub(super) fn hear<'a, T>(
    talk: &mut dyn Talk<Outcome = T>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Result<T, Failure>>) {
    let (mut heard, mut say) = (Vec::new(), Vec::new());
    for piece in std::iter::once(&b""[..]).chain(pieces) {
        heard.extend_from_slice(piece);
        match talk.hear(&mut heard, &mut say) {
            Ok(None) => assert!(heard.len() <= 70_000, "what is waited for is bounded"),
            Ok(Some(outcome)) => {
                assert!(heard.is_empty(), "nothing is left to be mistaken for what follows");
                return (say, Some(Ok(outcome)));
            }
            Err(failure) => return (say, Some(Err(failure))),
        }
    }
    (say, None)
}

/// What a client may say: `parts` in any order, some of them broken in one of the ways in which bytes break.
pub(super) fn jumble(parts: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        let mut part = parts[random.usize(0..parts.len())].clone();
        match random.u8(0..8) {
            0 => part.truncate(random.usize(0..=part.len())),
            1 if !part.is_empty() => {
                let at = random.usize(0..part.len());
                part[at] = random.u8(..);
            }
            2 => part.insert(random.usize(0..=part.len()), random.u8(..)),
            _ => {}
        }
        bytes.extend_from_slice(&part);
    }
    bytes
}

/// Any cut of it.
pub(super) fn cut<'a>(mut bytes: &'a [u8], random: &mut fastrand::Rng) -> Vec<&'a [u8]> {
    let longest = *random.choice(&[1, 3, 20, 5000]).expect("one of them");
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.usize(1..=longest).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// However the client's words are cut, and however many of them were read before, it is told the same. How many of them
/// came to an end, and to a failure.
pub(super) fn is_told_the_same_however_it_is_cut(protocol: Protocol, parts: &[Vec<u8>]) -> (usize, usize) {
    let (mut ended, mut failed) = (0, 0);
    for seed in 0..4_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let bytes = jumble(parts, random);
        let whole = refused(protocol, b"", [&bytes[..]]);
        match &whole.1 {
            Some(Ok(())) => ended += 1,
            Some(Err(_)) => failed += 1,
            None => {}
        }
        assert_eq!(refused(protocol, b"", cut(&bytes, random)), whole, "seed {seed}");
        // A greeter remembers no more than that.
        let (said, rest) = bytes.split_at(random.usize(0..=bytes.len()).min(super::first_words::MOST - 1));
        assert_eq!(refused(protocol, said, cut(rest, random)), whole, "seed {seed}");
    }
    (ended, failed)
}
