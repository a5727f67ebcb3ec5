//! What one run over the files collects: their texts, problems and warnings; and how a table becomes a section.
//!
//! Leaves the values to `kinds` and `words`, and what they mean together to `meaning`.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Problems};
use super::section::{Key, Nested, Section, Show};

/// One run over all files: their texts, and what was found in them.
#[derive(Debug)]
pub(super) struct Reader {
    /// Each file as it was named, its text, and the directory that relative paths in it start from.
    files: Vec<Source>,
    /// What `${NAME}` stands for.
    pub(super) environment: fn(&str) -> Option<String>,
    problems: Vec<(usize, usize, Problem)>,
    warnings: Vec<(usize, usize, Problem)>,
    /// Keys that do not have their default, in the order in which they were read.
    pub(super) changed: Vec<Changed>,
}

/// A key that was given another value than the one that it has without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its whole name: `upstream.orders.breaker.consecutive`.
    pub key: String,
    /// Its value as it stands in the file, `${NAME}` and all.
    pub text: String,
}

#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    directory: PathBuf,
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader {
            files: Vec::new(),
            environment: |name| std::env::var(name).ok(),
            problems: Vec::new(),
            warnings: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// Takes in a file; gives its number.
    pub(super) fn add(&mut self, name: &str, text: &str, directory: &Path) -> usize {
        self.files.push(Source {
            name: name.to_owned(),
            text: text.to_owned(),
            directory: directory.to_owned(),
        });
        self.files.len() - 1
    }

    /// The directory that relative paths of a file start from.
    pub(super) fn directory(&self, file: usize) -> &Path {
        &self.files[file].directory
    }

    /// Notes what makes the configuration unusable.
    pub(super) fn problem(&mut self, place: &Place, message: impl Into<String>, mend: impl Into<String>) {
        let problem = self.build(place, message.into(), mend.into());
        self.problems.push((place.file, place.start, problem));
    }

    /// As [`Reader::problem`], without showing the line: it may hold a secret.
    pub(super) fn problem_unseen(&mut self, place: &Place, message: &str, mend: &str) {
        let problem = Problem { excerpt: None, ..self.build(place, message.into(), mend.into()) };
        self.problems.push((place.file, place.start, problem));
    }

    /// Notes a problem that has no place in a text.
    pub(super) fn problem_of_file(&mut self, problem: Problem) {
        self.problems.push((self.files.len(), 0, problem));
    }

    /// Notes what is likely not meant so.
    pub(super) fn warning(&mut self, place: &Place, message: impl Into<String>, mend: impl Into<String>) {
        let warning = self.build(place, message.into(), mend.into());
        self.warnings.push((place.file, place.start, warning));
    }

    fn build(&self, place: &Place, message: String, mend: String) -> Problem {
        let Source { name, text, .. } = &self.files[place.file];
        Problem::at(name, text, place, message, mend)
    }

    /// `file:line:column` of a place, to name it in the message of another.
    pub(super) fn name(&self, place: &Place) -> String {
        let Source { name, text, .. } = &self.files[place.file];
        let (line, column) = super::problem::line_and_column(text, place.start);
        format!("{name}:{line}:{column}")
    }

    /// The warnings, or all problems, in the order of the files.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Problems> {
        let in_order =
            |found: &mut Vec<(usize, usize, Problem)>| found.sort_by_key(|(file, at, _)| (*file, *at));
        if self.problems.is_empty() {
            in_order(&mut self.warnings);
            return Ok(self.warnings.iter().map(|(_, _, warning)| warning.one_line()).collect());
        }
        in_order(&mut self.problems);
        Err(Problems(self.problems.into_iter().map(|(_, _, problem)| problem).collect()))
    }

    /// Reads all keys of a section, refuses those that it does not have, and misses those that it needs.
    pub(super) fn section<S: Section>(&mut self, table: &DeTable<'_>, place: &Place) -> S {
        let mut section = S::default();
        let mut misspelled = Vec::new();
        for (key, value) in in_order(table) {
            let name: &str = key.get_ref();
            let here = place.below(name, value.span());
            if !section.set(name, value.get_ref(), &here, self) {
                // Whoever wrote `endpoint` need not also read that `endpoints` is missing.
                if let Some(meant) = self.unknown_key(S::KEYS, name, &place.below(name, key.span()), place) {
                    section.spoil(meant);
                    misspelled.push(meant);
                }
            } else if let Some(key) = S::KEYS.iter().find(|key| key.name == name) {
                self.note(key, value.get_ref(), &here);
            }
        }
        for key in S::KEYS.iter().filter(|key| key.show == Show::needed) {
            if table.get(key.name).is_none() && !misspelled.contains(&key.name) {
                self.problem(
                    place,
                    format!("has no `{}`", key.name),
                    format!("add for example: {} = {}", key.name, key.text),
                );
            }
        }
        section
    }

    /// Notes a value that is not the key's default. Lists and tables are told of by those who know what is in them.
    fn note(&mut self, key: &Key, value: &DeValue<'_>, place: &Place) {
        let written = self.files[place.file].text.get(place.start..place.end).unwrap_or_default();
        let is_default = key.show == Show::default && key.text == written;
        let text = match value {
            DeValue::Array(_) | DeValue::Table(_) => return,
            // A URL may hold a token, or a password.
            DeValue::String(text) if text.contains(['?', '@']) => "\"...\"".to_owned(),
            DeValue::String(_) => shorten(written),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
                written.to_owned()
            }
        };
        if !is_default {
            self.changed.push(Changed { key: place.key.clone(), text });
        }
    }

    /// As [`Reader::section`], for a value that may be something else.
    pub(super) fn section_or_problem<S: Section>(&mut self, value: &DeValue<'_>, place: &Place) -> Option<S> {
        if let DeValue::Table(table) = value {
            return Some(self.section(table, place));
        }
        let message = format!("wants a section, and {} is {}", shown(value), kind_of(value));
        self.problem(
            place,
            message,
            format!("write [{}] on a line of its own, and its keys below", place.key),
        );
        None
    }

    /// Refuses a key; gives the one of this section that was likely meant.
    fn unknown_key(
        &mut self,
        known: &'static [Key],
        name: &str,
        place: &Place,
        section: &Place,
    ) -> Option<&'static str> {
        let within = known
            .iter()
            .find(|key| key.nested == Nested::Section && key.keys.iter().any(|below| below.name == name));
        let here = nearest(name, known.iter().map(|key| key.name));
        let below = || {
            let sections = known.iter().filter(|key| key.nested == Nested::Section);
            let mut near =
                sections.filter_map(|key| Some((key, nearest(name, key.keys.iter().map(|key| key.name))?)));
            near.next().map(|(key, nearest)| (section.below(key.name, 0..0).key, nearest))
        };
        let mend = match (within, here, below()) {
            (Some(within), _, _) => format!("move it into [{}]", section.below(within.name, 0..0).key),
            (None, Some(nearest), _) => format!("did you mean `{nearest}`?"),
            (None, None, Some((section, nearest))) => format!("did you mean `{nearest}` in [{section}]?"),
            (None, None, None) => {
                let names: Vec<_> = known.iter().map(|key| key.name).collect();
                format!("remove it; the keys here are: {}", names.join(", "))
            }
        };
        let message = match within {
            Some(_) => "does not belong in this section",
            None => "there is no such key",
        };
        self.problem(place, message, mend);
        here.filter(|_| within.is_none())
    }
}

/// A table's entries in the order of the file.
pub(super) fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The name that was likely meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    known
        .map(|candidate| (strsim::jaro_winkler(&name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.82)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A value in a message, shortened.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => shorten(&number.to_string()),
        DeValue::Float(number) => shorten(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) => "[...]".into(),
        DeValue::Table(_) => "{...}".into(),
    }
}

/// A value's type in a message.
pub(super) fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A text in quotes, shortened.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shorten(text))
}

fn shorten(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(60) {
        match c.is_control() {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    if text.chars().nth(60).is_some() {
        shown.push_str("...");
    }
    shown
}
