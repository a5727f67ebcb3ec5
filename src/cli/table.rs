//! Columns for a person: each as wide as its widest, what is a number to the right.

use std::fmt;

use serde_json::Value;

/// Rows under their heads.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: &[&str; N]) -> Table<N> {
        Table { rows: vec![heads.map(str::to_owned)] }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |text: &String| text.chars().count();
        let widths: [usize; N] =
            std::array::from_fn(|at| self.rows.iter().map(|row| length(&row[at])).max().unwrap_or(0));
        let is_number: [bool; N] = std::array::from_fn(|at| {
            self.rows.len() > 1 && self.rows[1..].iter().all(|row| row[at].parse::<f64>().is_ok())
        });
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[at] - length(cell));
                match is_number[at] {
                    true => line.extend([&gap, cell.as_str()]),
                    false => line.extend([cell.as_str(), &gap]),
                }
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A value of an answer as it stands in a line; what is absent as a dash. What others chose cannot move the cursor.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heads_and_numbers_to_the_right() {
        let mut table = Table::new(&["NAME", "OPEN", "NOW"]);
        table.row(["orders".into(), "7".into(), "ready".into()]);
        table.row(["é".into(), "12345".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME     OPEN  NOW\norders      7  ready\né       12345\n");
        assert_eq!(text(&Value::String("a\u{1b}[2Jb".into())), "a?[2Jb");
    }
}
