//! What TOML's parser says, in words that help: where the text stops being TOML, and what to write instead.

use std::ops::Range;

use super::problem::Place;
use super::reader::{Reader, quoted};

/// The parser's error; it is about a key that is there twice.
pub(super) fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}

/// Notes the errors of one file, the first of each line: what follows on the same line follows from it.
pub(super) fn report(errors: &[toml::de::Error], file: usize, text: &str, reader: &mut Reader) {
    let span = |error: &toml::de::Error| error.span().unwrap_or_default();
    let mut errors: Vec<_> = errors.iter().collect();
    errors.sort_by_key(|error| span(error).start);
    let mut shown = None;
    let mut section_twice = false;
    // Whoever gave a binary by mistake need not read every line of it.
    for error in errors.into_iter().take(50) {
        let span = span(error);
        let line = text.get(..span.start).unwrap_or(text).matches('\n').count();
        if shown.replace(line) == Some(line) {
            continue;
        }
        let (message, mend) = match is_duplicate(error) {
            true => {
                let twice = Twice::new(text, span.clone());
                // A section that is there twice has its keys twice: it is one mistake.
                if section_twice && twice.first.is_none() {
                    continue;
                }
                section_twice |= twice.is_section;
                twice.explain(file, reader)
            }
            false => explain(error.message(), text, span.clone()),
        };
        let place = Place { file, start: span.start, end: span.end, key: String::new() };
        reader.problem(&place, message, mend);
    }
}

/// A key or a section that is there already. The parser keeps the first place to itself, so it is looked up in the text.
struct Twice<'a> {
    what: &'a str,
    is_section: bool,
    first: Option<usize>,
}

impl<'a> Twice<'a> {
    fn new(text: &'a str, span: Range<usize>) -> Twice<'a> {
        fn header(line: &str) -> Option<&str> {
            let line = line.trim();
            line.starts_with('[').then(|| line.split('#').next().unwrap_or_default().trim())
        }
        let begin = text.get(..span.start).unwrap_or_default().rfind('\n').map_or(0, |newline| newline + 1);
        let section = header(text[begin..].lines().next().unwrap_or_default());
        let what = section.or(text.get(span)).unwrap_or_default();
        let is_key = |line: &str| {
            line.strip_prefix(what).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
        };
        let mut first = None;
        let mut offset = 0;
        for line in text[..begin].split_inclusive('\n') {
            let trimmed = line.trim_start();
            let found = match section {
                Some(_) => header(line) == section,
                None => is_key(trimmed),
            };
            if found {
                first = first.or(Some(offset + line.len() - trimmed.len()));
            } else if section.is_none() && header(line).is_some() {
                // A key belongs to the section that it stands in: a new header starts the search anew.
                first = None;
            }
            offset += line.len();
        }
        Twice { what, is_section: section.is_some(), first }
    }

    fn explain(&self, file: usize, reader: &Reader) -> (String, String) {
        let first = match self.first {
            Some(start) => reader.name(&Place { file, start, end: start, key: String::new() }),
            None => "above".to_owned(),
        };
        let mend = match self.is_section {
            true => "keep one of them, with the keys of both",
            false => "keep one of them",
        };
        (format!("{} is there twice; first: {first}", self.what), mend.to_owned())
    }
}

/// The parser's message as a person would say it, and the mend.
fn explain(message: &str, text: &str, span: Range<usize>) -> (String, String) {
    let begin = text.get(..span.start).unwrap_or_default().rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    let trimmed = line.trim();
    let value = trimmed.split_once('=').map_or("", |(_, value)| value.trim());
    let value = value.split('#').next().unwrap_or_default().trim();
    let said = |message: &str, mend: &str| (message.to_owned(), mend.to_owned());
    let starts = |what: &str| message.starts_with(what);

    if trimmed.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) && !line.contains('"') {
        return said("the quotes are typographic ones", "write straight quotes: \"");
    }
    if starts("missing escaped value") {
        return said(
            "a backslash starts an escape such as \\n, and this is none",
            "write the backslashes twice, or put the value in single quotes: 'C:\\nuncio\\ca.pem'",
        );
    }
    if starts("invalid basic string") || starts("invalid literal string") || starts("invalid multi-line") {
        return said("the string does not end where it should", "close it with the quote that opened it");
    }
    if starts("unclosed array")
        || starts("missing comma between array elements")
        || starts("extra comma in array")
    {
        return said("the list is not closed, or a comma is missing in it", "write [\"one\", \"two\"]");
    }
    if starts("unexpected key or value") {
        return said(
            "something follows that does not belong to the value",
            "write one key a line; begin comments with #",
        );
    }
    if starts("unclosed inline table") || starts("missing comma between key-value pairs") {
        return said(
            "the table is not closed, or a comma is missing in it",
            "write { address = \"db:5432\", weight = 1 }",
        );
    }
    if starts("unclosed table")
        || starts("missing table open")
        || (trimmed.starts_with('[') && !trimmed.contains('='))
    {
        return said(
            "this is not a section's header",
            "write it alone on its line: [section] or [section.name]",
        );
    }
    if starts("key with no value") || starts("invalid unquoted key") || starts("invalid key-value pair") {
        if trimmed.starts_with("//") || trimmed.starts_with(';') {
            return said("this is not TOML's way to comment", "begin comments with #");
        }
        if trimmed.contains('{') || trimmed.contains('}') {
            return said(
                "TOML has no blocks in braces",
                "write [section] on a line of its own, and its keys below",
            );
        }
        return said("this is neither a key with its value nor a section", "write key = value, or [section]");
    }
    // What remains are values: a bare word, or what begins as a number and goes on as something else.
    let bare = !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']);
    if ["yes", "no", "on", "off", "true", "false"].contains(&value.to_ascii_lowercase().as_str()) {
        return said(
            &format!("{value} is not a value of TOML"),
            "write true or false in lower case; where a key wants the word off, write \"off\"",
        );
    }
    if starts("string values must be quoted") && value.is_empty() {
        return said("there is no value", "write one, or remove the key");
    }
    if bare {
        return (
            format!("{value} is not a value of TOML"),
            format!("strings stand in quotes: {}", quoted(value)),
        );
    }
    (
        format!("this is not TOML: {message}"),
        "compare it with the examples in conf/ or at https://toml.io".to_owned(),
    )
}
