//! What a server says it can do, as a client may have it where TLS ends in between.

use crate::protocol::Offer;
use crate::protocol::reply::{lines, text};

/// The answer to EHLO without what TLS in the middle cannot keep, and with what the listener has to give. Its first line is the
/// server's name and stays.
pub(super) fn offer_onward(reply: &[u8], own: Offer) -> Vec<u8> {
    let mut offer = Vec::with_capacity(reply.len());
    let (mut last, mut was_dropped) = (0, false);
    for (number, line) in lines(reply).enumerate() {
        let start = offer.len();
        match number {
            0 => offer.extend_from_slice(line),
            // Who has to ask for TLS first is not to send its password before.
            _ if own == Offer::Required && keyword(line).0.eq_ignore_ascii_case(b"AUTH") => {}
            _ => put_onward(line, &mut offer),
        }
        was_dropped = offer.len() == start;
        if !was_dropped {
            last = start;
        }
    }
    if own.is_open() {
        // It was the last, and is so no more.
        match offer.get_mut(last + 3) {
            Some(mark @ b' ') => *mark = b'-',
            Some(b'-') => {}
            _ => offer.insert(offer.len().min(last + 3), b'-'),
        }
        offer.extend_from_slice(b"250 STARTTLS\r\n");
        return offer;
    }
    // The line that is now the last has to say so.
    if was_dropped && let Some(mark) = offer.get_mut(last + 3) {
        *mark = b' ';
    }
    offer
}

/// One keyword's line, changed, dropped or as it is.
fn put_onward(line: &[u8], offer: &mut Vec<u8>) {
    let (keyword, arguments) = keyword(line);
    if keyword.eq_ignore_ascii_case(b"STARTTLS") {
        return;
    }
    let is_bound = |mechanism: &[u8]| {
        mechanism.len() > 5 && mechanism[mechanism.len() - 5..].eq_ignore_ascii_case(b"-PLUS")
    };
    if !keyword.eq_ignore_ascii_case(b"AUTH") || !arguments.split(is_separator).any(is_bound) {
        offer.extend_from_slice(line);
        return;
    }
    let start = offer.len();
    offer.extend_from_slice(&line[..line.len() - arguments.len() - end(line).len()]);
    let (mut rest, mut first_gap, mut is_empty) = (arguments, None, true);
    while !rest.is_empty() {
        let (gap, behind) =
            rest.split_at(rest.iter().position(|byte| !is_separator(byte)).unwrap_or(rest.len()));
        let (mechanism, behind) =
            behind.split_at(behind.iter().position(is_separator).unwrap_or(behind.len()));
        rest = behind;
        if is_bound(mechanism) {
            // It stays `AUTH=` or `AUTH `, whichever mechanism is now the first.
            first_gap = first_gap.or(is_empty.then_some(gap));
            continue;
        }
        offer.extend_from_slice(first_gap.take().unwrap_or(gap));
        offer.extend_from_slice(mechanism);
        is_empty &= mechanism.is_empty();
    }
    match is_empty {
        true => offer.truncate(start),
        false => offer.extend_from_slice(end(line)),
    }
}

/// How a line ends.
fn end(line: &[u8]) -> &[u8] {
    match line {
        [.., b'\r', b'\n'] => &line[line.len() - 2..],
        [.., b'\n'] => &line[line.len() - 1..],
        _ => &[],
    }
}

/// The first word of a line of the answer to EHLO, and what stands behind that, without the line's end.
pub(super) fn keyword(line: &[u8]) -> (&[u8], &[u8]) {
    let text = text(line);
    text.split_at(text.iter().position(is_separator).unwrap_or(text.len()))
}

/// Between a keyword and its arguments: `AUTH PLAIN`, and `AUTH=PLAIN` as before RFC 2554.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'=')
}
