//! A client's request for TLS of its own (RFC 6120, 5): offered among the server's features, answered here, and then the stream
//! begins anew: the client is given the server's header and features once more, since its server knows of no new one.

use super::stream::{Part, Reader, TLS};
use crate::protocol::upgrade::{Grammar, Length, Seen};

/// A client before its TLS, behind its header.
pub(super) struct BeforeTls {
    pub(super) reader: Reader,
}

impl Grammar for BeforeTls {
    fn see(&mut self, heard: &[u8], _: bool) -> Seen {
        match self.reader.next(heard) {
            Ok(None) => Seen::Part,
            Ok(Some((length, Part::Element(element)))) if element.name.is(TLS, "starttls") => {
                Seen::Answered {
                    // Blanks behind it say nothing, and some clients end each of their lines.
                    by: Length::Bytes(
                        length + heard[length..].iter().take_while(|byte| byte.is_ascii_whitespace()).count(),
                    ),
                    words: format!("<proceed xmlns='{TLS}'/>").into_bytes(),
                    starts_tls: true,
                }
            }
            Ok(Some((length, Part::Nothing | Part::End))) => Seen::GoesOn(length),
            Ok(Some((_, Part::Element(_) | Part::Header(_)))) | Err(_) => Seen::Unanswerable,
        }
    }

    fn began_with_tls(&self) -> &'static str {
        "the client began with TLS where it has to ask for it, in XMPP"
    }
}

/// A server's features with the listener's own TLS among them; where that is demanded, it is all there is. `features`: as they
/// would go on without.
pub(super) fn with_starttls(features: &[u8], is_required: bool) -> Vec<u8> {
    let is_empty = features.ends_with(b"/>");
    let open = opening_tag(features);
    let name: Vec<u8> =
        features.iter().skip(1).copied().take_while(|byte| !b" \t\r\n/>".contains(byte)).collect();
    let inside = match is_empty {
        true => &b""[..],
        false => {
            let end = features.windows(2).rposition(|two| two == b"</").unwrap_or(features.len());
            features.get(open..end).unwrap_or_default()
        }
    };
    let mut offered = features[..open].to_vec();
    if is_empty {
        offered.truncate(open.saturating_sub(2));
        offered.push(b'>');
    }
    match is_required {
        true => {
            offered.extend_from_slice(format!("<starttls xmlns='{TLS}'><required/></starttls>").as_bytes())
        }
        false => {
            offered.extend_from_slice(format!("<starttls xmlns='{TLS}'/>").as_bytes());
            offered.extend_from_slice(inside);
        }
    }
    offered.extend_from_slice(b"</");
    offered.extend_from_slice(&name);
    offered.push(b'>');
    offered
}

/// How long the tag is that an element begins with.
fn opening_tag(element: &[u8]) -> usize {
    let mut quote = None;
    for (at, byte) in element.iter().copied().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    element.len()
}
