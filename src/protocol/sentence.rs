//! sentence: a refusal as one line of printable ASCII, for protocols that have room for no more than that.
//!
//! What was seen comes first, then what to do, and last by what the log calls it: that is never cut off.

use super::Refusal;

/// In at most so many bytes.
pub(super) fn sentence(refusal: &Refusal<'_>, most: usize) -> String {
    let Refusal { failure, id, greeted: _, said: _ } = *refusal;
    let end = format!(" ({}, connection {id})", failure.reason);
    let (seen, mend) = (printable(&failure.detail), printable(failure.next_step()));
    let room = most.saturating_sub("nuncio: ; ".len() + end.len());
    let seen = cut(seen, room - mend.len().min(room / 2));
    let mend = cut(mend, room - seen.len());
    format!("nuncio: {seen}; {mend}{end}")
}

/// As printable ASCII.
pub(super) fn printable(text: &str) -> String {
    let letter = |letter: char| match letter {
        '…' => "...".to_owned(),
        '×' => "x".to_owned(),
        letter if letter.is_ascii_graphic() => letter.to_string(),
        letter if letter.is_whitespace() || letter.is_control() => " ".to_owned(),
        _ => "?".to_owned(),
    };
    text.trim().chars().map(letter).collect()
}

/// ASCII only: every index is a boundary.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(most.saturating_sub(3));
        text.push_str("...");
        text.truncate(most);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason, Stage};

    fn told(detail: &str, mend: &str, most: usize) -> String {
        let failure =
            Failure::upstream(Stage::Connect, Reason::ConnectionRefused, detail).mend(mend.to_owned());
        sentence(&Refusal { failure: &failure, id: "7KJ2", greeted: false, said: b"" }, most)
    }

    #[test]
    fn it_says_what_was_seen_what_to_do_and_where_to_look() {
        assert_eq!(
            told("10.0.0.5:6379 refused the connection", "is it running?", 1000),
            "nuncio: 10.0.0.5:6379 refused the connection; is it running? (connection_refused, connection 7KJ2)"
        );
    }

    /// Whatever the words are, and however little room there is: one printable line, and its end says where the log tells more.
    #[test]
    fn whatever_is_to_be_said_fits_and_stays_one_line() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let alphabet: Vec<char> = "ab  \r\n\t\0\u{7f}é…\u{202e}😀%-".chars().collect();
            let mut words = |longest| -> String {
                (0..rng.usize(0..longest)).map(|_| alphabet[rng.usize(0..alphabet.len())]).collect()
            };
            let (detail, mend) = (words(700), words(400));
            let most = rng.usize(120..1200);
            let said = told(&detail, &mend, most);
            assert!(said.len() <= most, "seed {seed}: {said}");
            assert!(said.bytes().all(|byte| matches!(byte, b' '..=b'~')), "seed {seed}: {said:?}");
            assert!(said.ends_with(" (connection_refused, connection 7KJ2)"), "seed {seed}: {said}");
        }
        let long = told(&"x".repeat(500), &"y".repeat(500), 255);
        assert_eq!(long.len(), 255);
        assert!(long.contains("xxx...; yyy") && long.contains("yyy... ("), "both are told: {long}");
    }
}
