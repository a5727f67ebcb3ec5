//! How `check` and `probe` print what they found: a title, and rows of a label and a text below it.

/// A title and its rows.
pub(super) struct Rows(String);

/// Labels are padded to this width; the longest is "certificate".
const LABEL: usize = 12;

impl Rows {
    pub(super) fn titled(title: impl Into<String>) -> Rows {
        Rows(title.into())
    }

    /// A row. One without a label goes on with the one above.
    pub(super) fn row(&mut self, label: &str, text: impl AsRef<str>) {
        self.0.push_str(&format!("\n  {label:<LABEL$} {}", text.as_ref()));
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// `1 listener`, `2 listeners`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `a, b`, or what stands for none.
pub(super) fn joined(items: &[String], none: &str) -> String {
    match items {
        [] => none.to_owned(),
        items => items.join(", "),
    }
}
