//! A server's features without what TLS in the middle cannot keep: starttls, and all that binds a login to the server's TLS
//! channel (mechanisms, also those of SASL2 and of its tokens, and the kinds of binding). Every other byte stays.

use std::ops::Range;

use super::stream::TLS;
use super::xml::Element;
use crate::protocol::mechanisms;
use crate::relay::{Objection, Party};

/// Where mechanisms are listed: namespace and name of the list.
const LISTS: [(&str, &str); 3] = [
    ("urn:ietf:params:xml:ns:xmpp-sasl", "mechanisms"),
    ("urn:xmpp:sasl:2", "authentication"),
    // Tokens for the next login (XEP-0484).
    ("urn:xmpp:fast:0", "fast"),
];
/// XEP-0440.
const BINDINGS: (&str, &str) = ("urn:xmpp:sasl-cb:0", "sasl-channel-binding");

/// The features as the client may have them.
///
/// # Errors
/// There were mechanisms, and none is left.
pub(super) fn mended(bytes: &[u8], features: &Element) -> Result<Vec<u8>, Objection> {
    let mut cuts = Vec::new();
    find(features, &mut cuts);
    let was_list = |child: &&Element| LISTS[..2].iter().any(|(space, local)| child.name.is(space, local));
    let is_left = |child: &Element| !cuts.contains(&child.at);
    let mut lists = features.children.iter().filter(was_list).peekable();
    if lists.peek().is_some() && !lists.any(is_left) {
        return Err(Objection {
            to: Party::Upstream,
            detail: "the server lets a client in only by mechanisms bound to its own TLS channel (-PLUS), and TLS ends at nuncio",
            mend: "let the server offer a mechanism without -PLUS, such as SCRAM-SHA-256",
        });
    }
    let mut mended = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for Range { start, end } in cuts {
        mended.extend_from_slice(&bytes[from..start]);
        from = end;
    }
    mended.extend_from_slice(&bytes[from..]);
    Ok(mended)
}

/// What goes, in order, none of it inside another.
fn find(element: &Element, cuts: &mut Vec<Range<usize>>) {
    for child in &element.children {
        let before = cuts.len();
        let is_list = |element: &Element| LISTS.iter().any(|(space, local)| element.name.is(space, local));
        let is_mechanism = |child: &Element| child.name.local == "mechanism";
        let is_bound = is_mechanism(child) && is_list(element) && is_bound(child.text.trim());
        if is_bound || child.name.is(TLS, "starttls") || child.name.is(BINDINGS.0, BINDINGS.1) {
            cuts.push(child.at.clone());
            continue;
        }
        find(child, cuts);
        let is_cut = |mechanism: &Element| cuts[before..].contains(&mechanism.at);
        let mut mechanisms = child.children.iter().filter(|child| is_mechanism(child)).peekable();
        if is_list(child) && mechanisms.peek().is_some() && mechanisms.all(is_cut) {
            cuts.truncate(before);
            cuts.push(child.at.clone());
        }
    }
}

/// By its name.
fn is_bound(mechanism: &str) -> bool {
    let token = mechanism.strip_prefix("HT-").and_then(|token| token.rsplit_once('-'));
    mechanisms::is_bound(mechanism.as_bytes()) || token.is_some_and(|(_, binding)| binding != "NONE")
}
