//! Lists of SASL mechanisms as SMTP and its kin give them: words in a line.
//!
//! Those bound to the server's TLS channel (`SCRAM-SHA-256-PLUS`) are taken out: TLS ends here, and the client has none.

/// Is it bound to the channel?
pub(super) fn is_bound(mechanism: &[u8]) -> bool {
    mechanism.len() > 5 && mechanism[mechanism.len() - 5..].eq_ignore_ascii_case(b"-PLUS")
}

/// A list without those that are bound; `None`: nothing is left.
pub(super) fn unbound(list: &[u8], is_separator: fn(&u8) -> bool) -> Option<Vec<u8>> {
    without(list, is_separator, is_bound)
}

/// What stands behind a keyword, without the words that are `out`; `None`: nothing is left. Every gap stays as it is, and a
/// word goes with the one before it.
pub(super) fn without(
    list: &[u8],
    is_separator: fn(&u8) -> bool,
    is_out: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(list.len());
    let (mut rest, mut first_gap, mut is_empty) = (list, None, true);
    while !rest.is_empty() {
        let (gap, behind) =
            rest.split_at(rest.iter().position(|byte| !is_separator(byte)).unwrap_or(rest.len()));
        let (word, behind) = behind.split_at(behind.iter().position(is_separator).unwrap_or(behind.len()));
        rest = behind;
        if is_out(word) {
            // It stays `AUTH=` or `AUTH `, whichever word is now the first.
            first_gap = first_gap.or(is_empty.then_some(gap));
            continue;
        }
        kept.extend_from_slice(first_gap.take().unwrap_or(gap));
        kept.extend_from_slice(word);
        is_empty &= word.is_empty();
    }
    (!is_empty).then_some(kept)
}
