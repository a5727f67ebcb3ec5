//! A stream (RFC 6120, 4): its header, and the elements right beneath it, one after the other.

use super::xml::{Element, Name, Odd, Scanner, Spaces, Tag, Token, decoded, encoded, token};
use crate::protocol::reply::quoted;

/// Of a header with what stands in front of it.
const LONGEST_HEADER: usize = 8 * 1024;
/// Of an element; features come nowhere near.
const LONGEST: usize = 64 * 1024;
/// Of elements in each other.
const DEEPEST: usize = 16;

pub(super) const STREAMS: &str = "http://etherx.jabber.org/streams";
pub(super) const CLIENT: &str = "jabber:client";
pub(super) const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// Of the conditions and the text of a stream's error.
pub(super) const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";

/// Ends a stream.
pub(super) const END: &str = "</stream:stream>";

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// As it is written, so that an end matches it.
    pub(super) name: String,
    /// Whom it is for.
    pub(super) to: Option<String>,
    /// Before 1.0 there was none.
    pub(super) has_version: bool,
    /// The namespace of what is not marked otherwise: whose stream it is.
    pub(super) content: String,
    spaces: Spaces,
}

/// A part of a stream that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What says nothing: the XML declaration, blanks.
    Nothing,
    Header(Header),
    Element(Element),
    End,
}

/// Reads one side's stream, part by part.
#[derive(Debug, Default)]
pub(super) struct Reader {
    header: Option<Header>,
    scanner: Scanner,
    /// Where in the part the next token begins.
    token: usize,
    /// So many elements are open, beneath the stream.
    depth: usize,
    /// A declaration has its place only in front of all else.
    has_begun: bool,
}

impl Reader {
    /// The part at the front of `heard`, and its length; `None`: it is not whole yet. Until it is, `heard` may only grow;
    /// then it has to be taken away.
    pub(super) fn next(&mut self, heard: &[u8]) -> Result<Option<(usize, Part)>, Odd> {
        let longest = if self.header.is_some() { LONGEST } else { LONGEST_HEADER };
        let within = &heard[..heard.len().min(longest)];
        loop {
            // Beside the elements only blanks: what else is there is seen at once, whether or not it ever ends.
            let between = &within[self.token..];
            if self.depth == 0 {
                let odd =
                    between.iter().take_while(|byte| **byte != b'<').find(|byte| !byte.is_ascii_whitespace());
                if let Some(odd) = odd {
                    return Err(Odd::Text(*odd));
                }
            }
            let Some(length) = self.scanner.end(between)? else {
                return if within.len() == longest { Err(Odd::TooLong) } else { Ok(None) };
            };
            let end = self.token + length;
            self.token = end;
            let part = match token(&between[..length])? {
                Token::Text(_) if self.depth > 0 => continue,
                Token::Text(_) => Part::Nothing,
                Token::Declaration if !self.has_begun => Part::Nothing,
                Token::Declaration => return Err(Odd::Restricted),
                Token::Open(tag) => match &self.header {
                    None => Part::Header(self.open(&tag)?),
                    Some(header) => {
                        self.depth += usize::from(!tag.is_empty);
                        if self.depth > DEEPEST {
                            return Err(Odd::TooLong);
                        }
                        if self.depth > 0 {
                            continue;
                        }
                        Part::Element(Element::read(&within[..end], &header.spaces)?)
                    }
                },
                Token::Close(name) => match (&self.header, self.depth) {
                    (Some(header), 0) if header.name == name => Part::End,
                    (None, _) | (_, 0) => return Err(Odd::End),
                    (Some(header), depth) => {
                        self.depth = depth - 1;
                        if self.depth > 0 {
                            continue;
                        }
                        Part::Element(Element::read(&within[..end], &header.spaces)?)
                    }
                },
            };
            self.has_begun = true;
            self.token = 0;
            return Ok(Some((end, part)));
        }
    }

    fn open(&mut self, tag: &Tag<'_>) -> Result<Header, Odd> {
        let spaces = tag.spaces();
        let is_stream = Name::resolve(tag.name, &[&spaces])?.is(STREAMS, "stream");
        if !is_stream || tag.is_empty {
            return Err(Odd::Root);
        }
        let header = Header {
            name: tag.name.to_owned(),
            to: tag.attribute("to").map(decoded),
            has_version: tag.attribute("version").is_some(),
            content: Name::resolve("", &[&spaces]).map(|name| name.space).unwrap_or_default(),
            spaces,
        };
        self.header = Some(header.clone());
        Ok(header)
    }

    /// Its header, once it was read.
    pub(super) fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }
}

/// The header that these bytes begin with.
pub(super) fn header(mut bytes: &[u8]) -> Option<Header> {
    let mut reader = Reader::default();
    loop {
        match reader.next(bytes).ok()?? {
            (length, Part::Nothing) => bytes = &bytes[length..],
            (_, Part::Header(header)) => return Some(header),
            _ => return None,
        }
    }
}

/// Opens a stream of ours, with these attributes of its own.
pub(super) fn opened(attributes: &[(&str, &str)]) -> String {
    let attributes: String =
        attributes.iter().map(|(name, value)| format!(" {name}='{}'", encoded(value))).collect();
    format!(
        "<?xml version='1.0'?><stream:stream{attributes} version='1.0' xml:lang='en' xmlns='{CLIENT}' \
         xmlns:stream='{STREAMS}'>"
    )
}

/// Is it the stream's error? Its condition and text, for a person.
pub(super) fn error(element: &Element) -> Option<String> {
    if !element.name.is(STREAMS, "error") {
        return None;
    }
    let condition = element.children.iter().find(|child| child.name.local != "text");
    let mut told = condition.map_or("no condition", |condition| &condition.name.local).to_owned();
    if let Some(text) = element.child(ERRORS, "text") {
        told += &format!(": {}", text.text.trim());
    }
    Some(quoted(told.as_bytes()))
}
