//! What is wrong with a configuration, and where: file, line, column, key, message and mend.
//!
//! Owns how problems look to a person ([`Display`](fmt::Display)) and to a program ([`Serialize`]). Leaves finding
//! them to the readers and the checks.

use std::fmt;

use serde::Serialize;

/// Everything that is wrong with the files of one configuration, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub(super) Vec<Problem>);

/// One thing that is wrong, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// Its line, from 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// The character in the line, from 1.
    pub column: Option<usize>,
    /// The key's path, as in "upstream.orders.timeouts.connect".
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub mend: String,
    #[serde(skip)]
    pub(super) excerpt: Option<Excerpt>,
}

/// The line of the source that a problem shows, with what is underlined in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: String,
    before: String,
    width: usize,
}

/// Where something was written: a file of the run, the bytes in it, and the key's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) key: String,
}

impl Place {
    /// The place of a key or value below this one.
    pub(super) fn below(&self, name: &str, span: std::ops::Range<usize>) -> Place {
        let key = match self.key.as_str() {
            "" => name.to_owned(),
            above => format!("{above}.{name}"),
        };
        Place { file: self.file, start: span.start, end: span.end, key }
    }
}

impl Problems {
    /// Each problem.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many there are; never 0 in an error.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::error::Error for Problems {}

/// One block a problem, with an empty line between them.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem of a file as a whole.
    pub(super) fn of_file(file: &str, message: impl Into<String>, mend: impl Into<String>) -> Problem {
        Problem {
            file: file.to_owned(),
            line: None,
            column: None,
            key: None,
            message: message.into(),
            mend: mend.into(),
            excerpt: None,
        }
    }

    /// A problem at a place of a file whose text is at hand.
    pub(super) fn at(file: &str, text: &str, place: &Place, message: String, mend: String) -> Problem {
        let (line, column) = line_and_column(text, place.start);
        Problem {
            file: file.to_owned(),
            line: Some(line),
            column: Some(column),
            key: Some(place.key.clone()).filter(|key| !key.is_empty()),
            message,
            mend,
            excerpt: Excerpt::new(text, place),
        }
    }

    /// Everything on one line, for a log.
    pub(super) fn one_line(&self) -> String {
        format!("{}; {}", self.head(), self.mend)
    }

    fn head(&self) -> String {
        let mut head = self.file.clone();
        if let (Some(line), Some(column)) = (self.line, self.column) {
            head.push_str(&format!(":{line}:{column}"));
        }
        head.push_str(": ");
        if let Some(key) = &self.key {
            head.push_str(&format!("{key}: "));
        }
        head + &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head())?;
        if let (Some(excerpt), Some(line)) = (&self.excerpt, self.line) {
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "  {number} | {}", excerpt.line)?;
            writeln!(f, "  {gutter} | {}{}", excerpt.before, "^".repeat(excerpt.width))?;
        }
        write!(f, "  mend: {}", self.mend)
    }
}

impl Excerpt {
    /// The longest line that is still shown: beyond it the caret is lost in the terminal's wrapping.
    const LONGEST: usize = 120;

    fn new(text: &str, place: &Place) -> Option<Excerpt> {
        let start = floor(text, place.start);
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[begin..end].trim_end();
        let readable = |c: char| c == '\t' || !c.is_control();
        if line.is_empty() || line.chars().count() > Self::LONGEST || !line.chars().all(readable) {
            return None;
        }
        // Tabs stay tabs, so that the caret stands right whatever their width.
        let before = text[begin..start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let shown_end = floor(text, place.end).clamp(start, begin + line.len().max(start - begin));
        let width = text[start..shown_end].chars().count().max(1);
        Some(Excerpt { line: line.to_owned(), before, width })
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..floor(text, offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// The offset, or the nearest one below it that is a character's boundary.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, start: usize, end: usize) -> String {
        let place = Place { file: 0, start, end, key: "a.b".into() };
        Problem::at("x.toml", text, &place, "is wrong".into(), "write it right".into()).to_string()
    }

    #[test]
    fn the_caret_stands_below_the_value_also_behind_tabs_and_wide_characters() {
        let text = "# first\n\tä = 3 # three\n";
        let start = text.find('3').unwrap();
        assert_eq!(
            show(text, start, start + 1),
            "x.toml:2:6: a.b: is wrong\n  2 | \tä = 3 # three\n    | \t    ^\n  mend: write it right"
        );
    }

    #[test]
    fn no_offset_makes_the_place_panic() {
        for text in ["", "\n", "ä", "a = 1\r\n", "a\n\n", "\u{1F980}\n\u{1F980}"] {
            for start in 0..text.len() + 3 {
                for end in 0..text.len() + 3 {
                    assert!(show(text, start, end).starts_with("x.toml:"));
                }
            }
        }
    }

    #[test]
    fn a_line_too_long_to_read_is_not_shown() {
        let text = format!("a = \"{}\"", "x".repeat(200));
        assert_eq!(show(&text, 4, 200), "x.toml:1:5: a.b: is wrong\n  mend: write it right");
    }
}
