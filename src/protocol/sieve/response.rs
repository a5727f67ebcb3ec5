//! A server's line taken apart: a capability or other data (strings), or what ends a response (OK, NO, BYE).

use crate::protocol::Offer;
use crate::protocol::literal::trimmed;
use crate::protocol::mechanisms::{is_bound, unbound};
use crate::protocol::reply::quoted;

/// What ends a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    No,
    Bye,
}

/// The status that a line gives; `None`: the response goes on, or it is none.
pub(super) fn status(line: &[u8]) -> Option<Status> {
    let word = word(trimmed(line), b" \"{(");
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    match () {
        () if is("OK") => Some(Status::Ok),
        () if is("NO") => Some(Status::No),
        () if is("BYE") => Some(Status::Bye),
        () => None,
    }
}

/// Does a line begin as data does?
pub(super) fn is_data(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'"' | b'{'))
}

/// A status and its words, for a failure's detail.
pub(super) fn told(line: &[u8]) -> String {
    let mut rest = trimmed(line);
    let mut words: Vec<Vec<u8>> = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            break;
        }
        let (word, behind) = match string(rest) {
            Some(found) => found,
            // One without an end: what is behind it is not gone through again for each that it may seem to begin.
            None if is_data(rest) => (rest.to_vec(), &rest[rest.len()..]),
            None => {
                let (word, behind) = rest.split_at(word(rest, b" \"{").len().max(1));
                (word.to_vec(), behind)
            }
        };
        words.push(word);
        rest = behind;
    }
    quoted(&words.join(&b' '))
}

/// A capability: its name, and its value with the bytes in front of and behind it.
pub(super) struct Capability<'a> {
    pub(super) name: Vec<u8>,
    pub(super) value: Option<(&'a [u8], Vec<u8>, &'a [u8])>,
}

impl Capability<'_> {
    pub(super) fn of(line: &[u8]) -> Option<Capability<'_>> {
        let (name, behind) = string(line)?;
        let value = match behind.first() {
            Some(b' ') => {
                let start = behind.len() - behind.trim_ascii_start().len();
                string(&behind[start..])
                    .map(|(value, end)| (&line[..line.len() - behind.len() + start], value, end))
            }
            _ => None,
        };
        Some(Capability { name, value })
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A capability's line without what TLS in the middle cannot keep; `None`: it is not changed.
pub(super) fn mended(line: &[u8], own: Offer) -> Option<Vec<u8>> {
    let capability = Capability::of(line)?;
    if capability.is("STARTTLS") {
        return Some(Vec::new());
    }
    let (front, value, end) = capability.value.as_ref().filter(|_| capability.is("SASL"))?;
    // Who has to ask for TLS first is not to send its password before.
    if own == Offer::Required {
        return Some([front, &b"\"\""[..], end].concat());
    }
    if !value.split(|byte| *byte == b' ').any(is_bound) {
        return None;
    }
    let kept = unbound(value, |byte| *byte == b' ').unwrap_or_default();
    Some([front, &in_quotes(&kept)[..], end].concat())
}

/// As a quoted string.
pub(super) fn in_quotes(words: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in words {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

/// The string that stands in front, and what is behind it.
fn string(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match text.first()? {
        b'"' => {
            let mut value = Vec::new();
            let mut rest = text[1..].iter();
            loop {
                match rest.next()? {
                    b'"' => return Some((value, rest.as_slice())),
                    b'\\' => value.push(*rest.next()?),
                    byte => value.push(*byte),
                }
            }
        }
        b'{' => {
            let end = text.iter().position(|byte| *byte == b'\n')?;
            let digits: &[u8] = text[1..end].split(|byte| !byte.is_ascii_digit()).next()?;
            let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
            let (value, behind) = text[end + 1..].split_at_checked(length)?;
            Some((value.to_vec(), behind))
        }
        _ => None,
    }
}

/// Up to what ends it.
fn word<'a>(text: &'a [u8], ends: &[u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| ends.contains(byte)).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are a failure's detail; what seems to begin strings that never end costs one look, not one for each.
    #[test]
    fn words_are_told_however_they_are_quoted() {
        for (line, expected) in [
            ("NO (TRYLATER) \"come \\\"again\\\"\" later\r\n", "NO (TRYLATER) come \"again\" later"),
            ("BYE {5}\r\nhello\r\n", "BYE hello"),
            ("BYE \"without an end\r\n", "BYE \"without an end"),
            ("BYE {9}\r\n", "BYE {9}"),
            ("NO {x} {y}\r\n", "NO {x} {y}"),
        ] {
            assert_eq!(told(line.as_bytes()), expected);
        }
        // A hundred times the longest line: seconds, if each of them were looked for to the end.
        for opens in ["{", "\"\\"] {
            let line = format!("BYE {}", opens.repeat(800_000));
            assert!(told(line.as_bytes()).starts_with("BYE"));
        }
    }
}
