//! What holds for every way in which a connection's context is told: in whatever pieces it comes, the same comes of it; nothing
//! behind it is read; what is kept is bounded; and what goes wrong is said in words that a log can hold.
//!
//! An input: how long the pieces are, then the bytes.

use nuncio::context::{Context, Grant, Hearing, Kind, Refusal};
use nuncio::failure::Failure;
use nuncio::protocol::Talk;

/// More than any of them answers, or a record of it holds.
const MOST: usize = 4096;

/// What was said, what came of it, and how much was left unread.
type Heard = (Vec<u8>, Result<Option<Context>, Failure>, usize);

/// Tries one input.
pub fn run(kind: Kind, input: &[u8]) {
    let [piece, bytes @ ..] = input else { return };
    let (mut whole, mut split) = (kind.hearing().unwrap(), kind.hearing().unwrap());
    let (said, heard, unread) = hear(&mut whole, bytes, usize::MAX);
    let again = hear(&mut split, bytes, usize::from(*piece).max(1));
    assert_eq!((&again.0, &again.1), (&said, &heard));
    // What is refused may have been read a little further.
    assert!(heard.is_err() || again.2 == unread);
    assert!(said.len() < MOST && format!("{heard:?}").len() < MOST);
    if let Err(failure) = &heard {
        assert!(!failure.detail.is_empty() && !failure.detail.chars().any(char::is_control), "{failure:?}");
        let refusal = Refusal { failure, id: "id", endpoint: Some("db:1"), attempts: 1 };
        let words = whole.refused(&refusal);
        assert!(words.iter().all(|words| words.len() < MOST));
        assert_eq!(words, split.refused(&refusal));
    }
    let granted = whole.granted(&Grant { id: "id", endpoint: Some("db:1"), attempts: 1 });
    assert_eq!(granted.is_empty(), kind == Kind::ProxyProtocol);
}

fn hear(hearing: &mut Hearing, bytes: &[u8], piece: usize) -> Heard {
    let (mut heard, mut said, mut rest) = (Vec::new(), Vec::new(), bytes);
    loop {
        let outcome = hearing.hear(&mut heard, &mut said);
        if !matches!(outcome, Ok(None)) || rest.is_empty() {
            assert!(!matches!(outcome, Ok(Some(_))) || heard.is_empty());
            return (said, outcome, rest.len());
        }
        let most = hearing.may_read(&heard).expect("nothing of what follows is read");
        let (now, later) = rest.split_at(most.clamp(1, piece).min(rest.len()));
        assert!(most > 0 && most < 64 * 1024);
        heard.extend_from_slice(now);
        rest = later;
    }
}
