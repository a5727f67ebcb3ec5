//! A refusal in one line, for protocols whose clients show one: what was seen, what to do, and where the log says more.

use super::Refusal;

/// Of the whole. c-client and its kin cut at 1,000 bytes.
const MAX: usize = 900;
/// Of what was seen: what to do has its place behind it.
const MAX_DETAIL: usize = 480;

/// As printable ASCII.
pub(super) fn sentence(refusal: &Refusal<'_>) -> String {
    let Refusal { failure, id, .. } = *refusal;
    let source = format!(" ({}, connection {id})", failure.reason);
    let mut sentence = cut(plain(&format!("nuncio: {}", failure.detail)), MAX_DETAIL);
    sentence.push_str("; ");
    sentence.push_str(&plain(failure.next_step()));
    cut(sentence, MAX.saturating_sub(source.len())) + &plain(&source)
}

fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            ' '..='~' => plain.push(letter),
            '…' => plain.push_str("..."),
            '×' => plain.push('x'),
            letter if letter.is_whitespace() || letter.is_control() => plain.push(' '),
            _ => plain.push('?'),
        }
    }
    plain
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        // ASCII only: every index is a boundary.
        text.truncate(most.saturating_sub(3));
        text.push_str("...");
    }
    text
}
