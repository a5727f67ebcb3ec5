//! For tests of what is heard of a context: whole conversations, in any pieces.

use super::Context;
use crate::failure::Failure;
use crate::protocol::Talk;

/// What a hearing said, what came of it, and what it left unread.
pub(super) type Heard = (Vec<u8>, Result<Option<Context>, Failure>, Vec<u8>);

/// Hears bytes that come in pieces of at most so many, reading no more than it may.
pub(super) fn hear(talk: &mut dyn Talk<Outcome = Context>, bytes: &[u8], piece: usize) -> Heard {
    let (mut heard, mut said, mut rest) = (Vec::new(), Vec::new(), bytes);
    loop {
        let outcome = talk.hear(&mut heard, &mut said);
        if !matches!(outcome, Ok(None)) || rest.is_empty() {
            if let Ok(Some(_)) = outcome {
                assert!(heard.is_empty(), "nothing is left that was read");
            }
            return (said, outcome, rest.to_vec());
        }
        let most = talk.may_read(&heard).expect("it reads nothing of what follows");
        assert!(most > 0);
        let (now, later) = rest.split_at(most.min(piece).min(rest.len()));
        heard.extend_from_slice(now);
        rest = later;
    }
}

/// The same in pieces of all lengths, of which each has to come to the same.
pub(super) fn hear_in_all_ways<T: Talk<Outcome = Context>>(make: impl Fn() -> T, bytes: &[u8]) -> (T, Heard) {
    let mut talk = make();
    let whole = hear(&mut talk, bytes, usize::MAX);
    for piece in 1..bytes.len().min(40) {
        let split = hear(&mut make(), bytes, piece);
        assert_eq!((&split.0, &split.1), (&whole.0, &whole.1), "in pieces of {piece}");
        // What fails may have read a little more or less of what is refused anyway.
        if whole.1.is_ok() {
            assert_eq!(split.2, whole.2, "in pieces of {piece}");
        }
    }
    if let Err(failure) = &whole.1 {
        assert!(failure.detail.len() < 400 && !failure.detail.chars().any(char::is_control), "{failure}");
    }
    (talk, whole)
}
