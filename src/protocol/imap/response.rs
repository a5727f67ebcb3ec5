//! A server's line taken apart, and put together again without what TLS in the middle cannot keep.

use crate::protocol::Offer;
use crate::protocol::literal::trimmed;
use crate::protocol::mechanisms::{is_bound, without};
use crate::protocol::reply::quoted;

/// One line: `TAG WORD TEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response<'a> {
    /// `*`: untagged. `+`: it awaits more from the client.
    pub(super) tag: &'a [u8],
    pub(super) kind: Kind,
    /// Behind the word and the space that follows it, without the line's end.
    pub(super) text: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ok,
    No,
    Bad,
    Bye,
    Preauth,
    Capability,
    Other,
}

impl Response<'_> {
    pub(super) fn of(line: &[u8]) -> Response<'_> {
        let (tag, rest) = word(trimmed(line));
        let (kind, text) = word(rest);
        let is = |known: &str| kind.eq_ignore_ascii_case(known.as_bytes());
        let kind = match () {
            () if is("OK") => Kind::Ok,
            () if is("NO") => Kind::No,
            () if is("BAD") => Kind::Bad,
            () if is("BYE") => Kind::Bye,
            () if is("PREAUTH") => Kind::Preauth,
            () if is("CAPABILITY") && tag == b"*" => Kind::Capability,
            () => Kind::Other,
        };
        Response { tag, kind, text }
    }

    /// Does it end in a person's words, with a code in front of them at most?
    pub(super) fn is_status(&self) -> bool {
        !matches!(self.kind, Kind::Capability | Kind::Other)
    }

    /// Where in its text a list of capabilities stands, with the space in front of it.
    pub(super) fn list(&self) -> Option<std::ops::Range<usize>> {
        const CODE: &[u8] = b"[CAPABILITY";
        match self.kind {
            Kind::Capability => Some(0..self.text.len()),
            Kind::Other => None,
            _ => {
                let (code, list) = self.text.split_at_checked(CODE.len())?;
                let is_list = code.eq_ignore_ascii_case(CODE) && matches!(list.first(), Some(b' ' | b']'));
                let length = list.iter().position(|byte| *byte == b']')?;
                is_list.then_some(CODE.len()..CODE.len() + length)
            }
        }
    }

    /// In a failure's detail.
    pub(super) fn told(&self) -> String {
        let kind = match self.kind {
            Kind::Ok => "OK",
            Kind::No => "NO",
            Kind::Bad => "BAD",
            Kind::Bye => "BYE",
            Kind::Preauth => "PREAUTH",
            Kind::Capability => "CAPABILITY",
            Kind::Other => "",
        };
        quoted([kind.as_bytes(), self.text].join(&b' ').trim_ascii())
    }
}

/// May a line that begins so announce a literal? What a person is to read may end in anything.
pub(super) fn may_announce(line: &[u8]) -> bool {
    let response = Response::of(line);
    response.tag == b"*" && !response.is_status()
}

/// The first word, and what is behind the space that ends it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, b""),
    }
}

/// What a list offers for a login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// As the client gets it.
    pub(super) list: Vec<u8>,
    /// The server takes nothing but mechanisms that are bound to its TLS.
    pub(super) is_bare: bool,
}

impl Capabilities {
    /// A list without what TLS in the middle cannot keep, and with what the listener has to give.
    pub(super) fn of(list: &[u8], own: Offer) -> Capabilities {
        fn is_space(byte: &u8) -> bool {
            *byte == b' '
        }
        let is_login = |word: &[u8]| mechanism(word).is_some();
        let is_bound = |word: &[u8]| mechanism(word).is_some_and(is_bound);
        let is_disabled = |word: &[u8]| word.eq_ignore_ascii_case(b"LOGINDISABLED");
        // Who has to ask for TLS first is not to send its password before.
        let is_too_early = |word: &[u8]| own == Offer::Required && is_login(word);
        let is_out = |word: &[u8]| {
            is_bound(word)
                || is_disabled(word)
                || is_too_early(word)
                || word.eq_ignore_ascii_case(b"STARTTLS")
        };
        let words = || list.split(is_space);
        let mut logins = words().filter(|word| is_login(word)).peekable();
        let is_bare = logins.peek().is_some() && logins.all(is_bound) && words().any(is_disabled);
        let mut list = without(list, is_space, is_out).unwrap_or_default();
        if own.is_open() {
            list.extend_from_slice(b" STARTTLS");
        }
        if own == Offer::Required {
            list.extend_from_slice(b" LOGINDISABLED");
        }
        Capabilities { list, is_bare }
    }
}

/// A line without what TLS in the middle cannot keep, and the list that it has, if any.
pub(super) fn mended(line: &[u8], own: Offer) -> (Vec<u8>, Option<Capabilities>) {
    let response = Response::of(line);
    let Some(list) = response.list() else { return (line.to_vec(), None) };
    let offer = Capabilities::of(&response.text[list.clone()], own);
    // The text ends where the line's end begins.
    let start = trimmed(line).len() - response.text.len();
    ([&line[..start + list.start], &offer.list, &line[start + list.end..]].concat(), Some(offer))
}

/// The greeting's own words, with what the server offers inside TLS where it said what it offers. No other code is passed:
/// nobody vouches for what was said before TLS.
pub(super) fn greeting_onward(greeting: &[u8], offer: Option<&Capabilities>) -> Vec<u8> {
    let response = Response::of(greeting);
    let text = response.text;
    let behind = match text.iter().position(|byte| *byte == b']') {
        Some(end) if text.starts_with(b"[") => text[end + 1..].trim_ascii_start(),
        _ => text,
    };
    let mut onward = b"* OK ".to_vec();
    if let (Some(_), Some(offer)) = (response.list(), offer) {
        onward.extend_from_slice(b"[CAPABILITY ");
        onward.extend_from_slice(offer.list.trim_ascii_start());
        onward.extend_from_slice(b"] ");
    }
    onward.extend_from_slice(if behind.is_empty() { b"ready" } else { behind });
    onward.extend_from_slice(b"\r\n");
    onward
}

fn mechanism(word: &[u8]) -> Option<&[u8]> {
    let (auth, mechanism) = word.split_at_checked(5)?;
    auth.eq_ignore_ascii_case(b"AUTH=").then_some(mechanism)
}
