//! XML as XMPP has it (RFC 6120, 11): tags, attributes, text and namespaces, and none of what it forbids: no comments, no
//! processing instructions, no document types, no entities but the five that everybody knows.
//!
//! [`Scanner`] finds where a token ends, however the bytes come, and looks at each byte once. The rest reads whole tokens.

use std::ops::Range;

/// What does not stand where XMPP has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// Something else than a tag, beginning with this byte.
    Text(u8),
    /// What XMPP's XML has not got: a comment, a document type, a processing instruction, an entity.
    Restricted,
    /// No tag's inside.
    Tag,
    /// A name whose prefix nobody declared.
    Prefix,
    /// An end without its beginning, or another one's.
    End,
    /// Another element than a stream's.
    Root,
    /// Bytes that are no UTF-8.
    Utf8,
    /// It goes on and on, or ever deeper.
    TooLong,
}

impl Odd {
    pub(super) fn told(self) -> String {
        match self {
            Odd::Text(byte) => format!("it begins with byte 0x{byte:02x}"),
            Odd::Restricted => "it has XML that XMPP does not allow".into(),
            Odd::Tag => "it has a tag that is none".into(),
            Odd::Prefix => "it has a prefix that it does not declare".into(),
            Odd::End => "its tags do not match".into(),
            Odd::Root => "it is XML, but no stream".into(),
            Odd::Utf8 => "it is not in UTF-8".into(),
            Odd::TooLong => "it is longer than anything that has a place here".into(),
        }
    }
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Declaration,
    Open(Tag<'a>),
    Close(&'a str),
    Text(&'a str),
}

/// `<name attributes>`, or `<name attributes/>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    pub(super) name: &'a str,
    attributes: &'a str,
    pub(super) is_empty: bool,
}

/// Finds where a token ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanner {
    /// So many bytes of the token have been looked at.
    seen: usize,
    quote: Option<u8>,
}

impl Scanner {
    /// The length of the token at the front; `None`: it is not whole yet. Until it is, `bytes` may only grow.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Odd> {
        let is_tag = bytes.first() == Some(&b'<');
        for (at, byte) in bytes.iter().copied().enumerate().skip(self.seen) {
            let is_end = match (is_tag, at, byte) {
                (false, _, b'<') => {
                    *self = Scanner::default();
                    return Ok(Some(at));
                }
                (false, ..) | (true, 0, _) => false,
                (true, 1, b'!') => return Err(Odd::Restricted),
                (true, 1, byte) if !is_name(byte) && !b"/?".contains(&byte) => return Err(Odd::Tag),
                (true, _, b'<') => return Err(Odd::Tag),
                (true, _, b'"' | b'\'') => {
                    self.quote = match self.quote {
                        None => Some(byte),
                        Some(quote) => Some(quote).filter(|quote| *quote != byte),
                    };
                    false
                }
                (true, _, byte) => byte == b'>' && self.quote.is_none(),
            };
            if is_end {
                *self = Scanner::default();
                return Ok(Some(at + 1));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// Reads a whole token.
pub(super) fn token(bytes: &[u8]) -> Result<Token<'_>, Odd> {
    let text = str::from_utf8(bytes).map_err(|_| Odd::Utf8)?;
    let Some(tag) = text.strip_prefix('<').and_then(|tag| tag.strip_suffix('>')) else {
        return Ok(Token::Text(text));
    };
    if let Some(inside) = tag.strip_prefix('?') {
        let is_declaration = inside.strip_prefix("xml").is_some_and(|rest| rest.starts_with(is_space));
        return if is_declaration && inside.ends_with('?') {
            Ok(Token::Declaration)
        } else {
            Err(Odd::Restricted)
        };
    }
    let name = |name: &str| !name.is_empty() && name.bytes().all(is_name);
    if let Some(closes) = tag.strip_prefix('/') {
        let closes = closes.trim_end_matches(is_space);
        return if name(closes) { Ok(Token::Close(closes)) } else { Err(Odd::Tag) };
    }
    let (inside, is_empty) = tag.strip_suffix('/').map_or((tag, false), |inside| (inside, true));
    let end = inside.find(is_space).unwrap_or(inside.len());
    let tag = Tag { name: &inside[..end], attributes: &inside[end..], is_empty };
    if !name(tag.name) {
        return Err(Odd::Tag);
    }
    tag.attributes().try_for_each(|attribute| attribute.map(drop))?;
    Ok(Token::Open(tag))
}

impl<'a> Tag<'a> {
    /// Names and values, these as they are written.
    pub(super) fn attributes(&self) -> impl Iterator<Item = Result<(&'a str, &'a str), Odd>> + use<'a> {
        let mut rest = self.attributes;
        std::iter::from_fn(move || {
            let trimmed = rest.trim_start_matches(is_space);
            if trimmed.is_empty() {
                return None;
            }
            let is_apart = trimmed.len() < rest.len();
            let attribute = attribute(trimmed).filter(|_| is_apart);
            rest = attribute.map_or("", |(_, _, behind)| behind);
            Some(match attribute {
                Some((_, value, _)) if !entities_are_known(value) => Err(Odd::Restricted),
                Some((name, value, _)) => Ok((name, value)),
                None => Err(Odd::Tag),
            })
        })
    }

    /// An attribute's value, as it is written.
    pub(super) fn attribute(&self, named: &str) -> Option<&'a str> {
        self.attributes().flatten().find(|(name, _)| *name == named).map(|(_, value)| value)
    }

    /// The namespaces that it declares.
    pub(super) fn spaces(&self) -> Spaces {
        let spaces = self.attributes().flatten().filter_map(|(name, uri)| {
            let prefix = match name.strip_prefix("xmlns")? {
                "" => "",
                prefix => prefix.strip_prefix(':')?,
            };
            Some((prefix.to_owned(), uri.to_owned()))
        });
        Spaces(spaces.collect())
    }
}

/// `name = "value"`, and what stands behind it.
fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let (name, behind) = text.split_once('=')?;
    let name = name.trim_end_matches(is_space);
    let behind = behind.trim_start_matches(is_space);
    let quote = behind.chars().next().filter(|quote| "\"'".contains(*quote))?;
    let (value, behind) = behind[1..].split_once(quote)?;
    (!name.is_empty() && name.bytes().all(is_name)).then_some((name, value, behind))
}

/// Prefixes and what they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spaces(Vec<(String, String)>);

impl Spaces {
    fn get(&self, prefix: &str) -> Option<&str> {
        self.0.iter().find(|(declared, _)| declared == prefix).map(|(_, uri)| uri.as_str())
    }
}

/// An element's name: its namespace, and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) space: String,
    pub(super) local: String,
}

impl Name {
    pub(super) fn is(&self, space: &str, local: &str) -> bool {
        self.space == space && self.local == local
    }

    /// By what is declared around it, the innermost last.
    pub(super) fn resolve(name: &str, around: &[&Spaces]) -> Result<Name, Odd> {
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        let space = around.iter().rev().find_map(|spaces| spaces.get(prefix));
        let space = space.or(prefix.is_empty().then_some("")).ok_or(Odd::Prefix)?;
        Ok(Name { space: space.to_owned(), local: local.to_owned() })
    }
}

/// An element and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: Name,
    /// Where it stands in what was read.
    pub(super) at: Range<usize>,
    /// Its own text.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

/// An element that has begun.
struct Begun<'a> {
    name: &'a str,
    spaces: Spaces,
    element: Element,
}

impl Element {
    /// Reads one whole element, in the reach of what is declared around it.
    pub(super) fn read(bytes: &[u8], around: &Spaces) -> Result<Element, Odd> {
        let mut begun: Vec<Begun<'_>> = Vec::new();
        let mut at = 0;
        while let Some(length) = Scanner::default().end(&bytes[at..])? {
            let (from, to) = (at, at + length);
            at = to;
            let mut ended = match token(&bytes[from..to])? {
                Token::Declaration => return Err(Odd::Restricted),
                Token::Text(text) => {
                    if !entities_are_known(text) {
                        return Err(Odd::Restricted);
                    }
                    if let Some(Begun { element, .. }) = begun.last_mut() {
                        element.text += &decoded(text);
                    }
                    continue;
                }
                Token::Open(tag) => {
                    let spaces = tag.spaces();
                    let mut reach = vec![around];
                    reach.extend(begun.iter().map(|begun| &begun.spaces));
                    reach.push(&spaces);
                    let name = Name::resolve(tag.name, &reach)?;
                    let element = Element { name, at: from..to, text: String::new(), children: Vec::new() };
                    if !tag.is_empty {
                        begun.push(Begun { name: tag.name, spaces, element });
                        continue;
                    }
                    element
                }
                Token::Close(name) => match begun.pop() {
                    Some(begun) if begun.name == name => begun.element,
                    _ => return Err(Odd::End),
                },
            };
            ended.at.end = to;
            match begun.last_mut() {
                Some(Begun { element, .. }) => element.children.push(ended),
                None => return Ok(ended),
            }
        }
        Err(Odd::End)
    }

    pub(super) fn child(&self, space: &str, local: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name.is(space, local))
    }
}

/// The five that XML itself knows, and numbers.
fn entities_are_known(text: &str) -> bool {
    text.split('&').skip(1).all(|behind| {
        let name = behind.split_once(';').map_or("", |(name, _)| name);
        ["amp", "lt", "gt", "apos", "quot"].contains(&name) || letter(name).is_some()
    })
}

/// By its number: `#45` or `#x2d`.
fn letter(name: &str) -> Option<char> {
    let number = name.strip_prefix('#')?;
    let number = match number.strip_prefix('x') {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    number.ok().and_then(char::from_u32)
}

/// Text as it is meant.
pub(super) fn decoded(text: &str) -> String {
    let mut parts = text.split('&');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, behind) = part.split_once(';').unwrap_or(("", part));
        decoded.extend(match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "apos" => Some('\''),
            "quot" => Some('"'),
            name => letter(name),
        });
        decoded += behind;
    }
    decoded
}

/// Text as it can stand in XML, and in an attribute of either quotes; what XML cannot have is a space.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => encoded += "&amp;",
            '<' => encoded += "&lt;",
            '>' => encoded += "&gt;",
            '\'' => encoded += "&apos;",
            '"' => encoded += "&quot;",
            '\u{fffe}' | '\u{ffff}' => encoded.push(' '),
            letter => encoded.push(if letter.is_control() { ' ' } else { letter }),
        }
    }
    encoded
}

pub(super) fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\r' | '\n')
}

/// Of a name, as far as that matters: all letters beyond ASCII may stand in one.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte) || byte >= 0x80
}
