//! For tests of greeters and negotiations that read lines: whole conversations, in any pieces.

use super::{Negotiated, Talk};
use crate::failure::Failure;
use crate::relay::{Greeter, Greeting, Party};

/// A conversation: who says what, in turn.
pub(super) type Turns<'a> = &'a [(Party, &'a str)];

/// What has gone on, and who read along.
pub(super) struct After {
    pub(super) up: String,
    pub(super) down: String,
    pub(super) objection: Option<&'static str>,
    pub(super) greeter: Box<dyn Greeter>,
}

/// In pieces of at most so many bytes.
pub(super) fn split<'a>(bytes: &'a [u8], longest: usize, rng: &mut fastrand::Rng) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Lets both sides say their parts, in pieces; from when it is done, bytes go as they are.
pub(super) fn say(greeting: Greeting, turns: Turns<'_>, longest: usize, rng: &mut fastrand::Rng) -> After {
    let Greeting { mut onward, greeter } = greeting;
    let mut greeter = greeter.expect("somebody reads along");
    let mut objection = None;
    'turns: for (party, words) in turns {
        for piece in split(words.as_bytes(), longest, rng) {
            let said = match (party, greeter.is_done()) {
                (Party::Client, true) => {
                    onward.up.extend_from_slice(piece);
                    continue;
                }
                (_, true) => {
                    onward.down.extend_from_slice(piece);
                    continue;
                }
                (Party::Client, false) => greeter.client_said(piece, &mut onward),
                (_, false) => greeter.upstream_said(piece, &mut onward),
            };
            if let Err(object) = said {
                objection = Some(object.detail);
                break 'turns;
            }
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    After { up: text(onward.up), down: text(onward.down), objection, greeter }
}

/// As above, in many ways, of which each has to come to the same.
pub(super) fn say_in_all_ways(greet: impl Fn() -> Greeting, turns: Turns<'_>) -> After {
    let mut rng = fastrand::Rng::with_seed(3);
    let whole = say(greet(), turns, usize::MAX, &mut rng);
    for longest in [1, 2, 5, 40] {
        // Long ones cost too much to be said often.
        for _ in 0..if whole.down.len() < 2000 { 30 } else { 1 } {
            let split = say(greet(), turns, longest, &mut rng);
            assert_eq!(split.objection, whole.objection);
            assert_eq!((&split.up, &split.down), (&whole.up, &whole.down));
            assert_eq!(split.greeter.is_done(), whole.greeter.is_done());
            assert_eq!(split.greeter.may_refuse(), whole.greeter.may_refuse());
            assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended());
        }
    }
    whole
}

/// What a negotiation said, and what came of it, hearing the server in pieces.
pub(super) fn negotiate<'a>(
    mut talk: impl Talk<Outcome = Negotiated>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<Negotiated>, Failure>) {
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    let mut result = talk.hear(&mut heard, &mut said);
    for piece in pieces {
        if !matches!(result, Ok(None)) {
            break;
        }
        heard.extend_from_slice(piece);
        result = talk.hear(&mut heard, &mut said);
        match &result {
            Ok(None | Some(_)) => assert!(heard.is_empty(), "nothing is left to be mistaken for TLS"),
            Err(failure) => {
                assert!(failure.detail.len() < 800 && !failure.detail.chars().any(char::is_control));
            }
        }
    }
    (String::from_utf8(said).unwrap(), result)
}

/// Is it the same, but for what came behind the answer to STARTTLS, which belongs to TLS when it comes later?
#[track_caller]
pub(super) fn same_however_split(
    whole: &(String, Result<Option<Negotiated>, Failure>),
    split: &(String, Result<Option<Negotiated>, Failure>),
    what: &str,
) {
    let is_injected = |result: &Result<_, Failure>| {
        result.as_ref().is_err_and(|failure: &Failure| failure.detail.contains("in plaintext"))
    };
    match is_injected(&whole.1) {
        true => {
            let tolerable = matches!(split.1, Ok(Some(_))) || is_injected(&split.1);
            assert!(tolerable && split.0 == whole.0, "{what}: {split:?}");
        }
        false => assert_eq!(split, whole, "{what}"),
    }
}

/// Changes, leaves out or doubles bytes.
pub(super) fn garble(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(0..6) {
        let at = rng.usize(0..bytes.len());
        match rng.u8(0..4) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.insert(at, *rng.choice(b"\r\n -=2{}+\"\\\x00\xffA".as_slice()).unwrap()),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes.extend_from_within(at..),
        }
    }
}
