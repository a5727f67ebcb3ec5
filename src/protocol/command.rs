//! Commands as a client of SMTP and its kin gives them: a line each, a word first.
//!
//! Owns where a word and a line end. Keeps of a word no more than shows whether it is one of those that are followed, and
//! nothing of what stands behind it: that may be a password. Leaves it to the protocols what a command means.

use std::mem;

/// Reads commands byte by byte.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The line's first word, in capitals.
    word: Vec<u8>,
    /// It has ended.
    is_word: bool,
    /// Something stands behind it.
    has_more: bool,
    /// A byte of the line has come.
    is_within: bool,
    /// A byte of any line has come.
    is_later: bool,
}

/// What a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// One of those that are followed has ended.
    Known {
        /// Which.
        word: &'static str,
        /// Nothing stands behind it.
        is_bare: bool,
    },
    /// Another one has begun.
    Unknown,
}

impl Reader {
    /// Reads on. `known`: the commands that are followed, in capitals. There is no way back from one that is not.
    pub(super) fn read(
        &mut self,
        byte: u8,
        known: impl IntoIterator<Item = &'static str>,
    ) -> Option<Command> {
        self.is_later = true;
        self.is_within = true;
        let ends_word = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let is_leading = matches!(byte, b' ' | b'\t') && self.word.is_empty();
        self.has_more |= self.is_word && !ends_word;
        if !self.is_word && !is_leading {
            match ends_word {
                true => self.is_word = true,
                false => self.word.push(byte.to_ascii_uppercase()),
            }
            let may_be = |known: &&str| match ends_word {
                true => known.as_bytes() == self.word,
                false => known.as_bytes().starts_with(&self.word),
            };
            let Some(word) = known.into_iter().find(may_be) else { return Some(Command::Unknown) };
            return (byte == b'\n').then(|| self.end(word));
        }
        if byte != b'\n' {
            return None;
        }
        let word = known.into_iter().find(|known| known.as_bytes() == self.word);
        Some(word.map_or(Command::Unknown, |word| self.end(word)))
    }

    fn end(&mut self, word: &'static str) -> Command {
        let Reader { has_more, .. } = mem::replace(self, Reader { is_later: true, ..Reader::default() });
        Command::Known { word, is_bare: !has_more }
    }

    /// Nothing was read yet.
    pub(super) fn is_at_start(&self) -> bool {
        !self.is_later
    }

    /// A line has begun.
    pub(super) fn is_within(&self) -> bool {
        self.is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["AUTH", "CAPA", "CAPABILITIES", "NOOP"];

    /// The commands of these bytes, and whether one of them is none that is followed.
    fn read(bytes: &[u8]) -> (Vec<(&'static str, bool)>, bool) {
        let (mut reader, mut commands) = (Reader::default(), Vec::new());
        for byte in bytes {
            match reader.read(*byte, KNOWN) {
                None => {}
                Some(Command::Known { word, is_bare }) => commands.push((word, is_bare)),
                Some(Command::Unknown) => return (commands, true),
            }
            assert!(reader.word.len() <= 13, "no more is kept than shows what it is");
        }
        (commands, false)
    }

    #[test]
    fn a_command_is_a_lines_first_word() {
        for (bytes, commands, unknown) in [
            (&b"CAPA\r\n"[..], vec![("CAPA", true)], false),
            (b"capabilities\n", vec![("CAPABILITIES", true)], false),
            (b" \tAuth PLAIN AHgAeA==\r\nauth\r\n", vec![("AUTH", false), ("AUTH", true)], false),
            // Nothing but white space stands behind it.
            (b"AUTH \t \r\n", vec![("AUTH", true)], false),
            (b"NOOP\rx\r\n", vec![("NOOP", false)], false),
            // Not whole yet.
            (b"NOOP\r\nNOOP", vec![("NOOP", true)], false),
            (b"", vec![], false),
            // At the first byte that shows it.
            (b"NOOP\r\nCAPAB\r\n", vec![("NOOP", true)], true),
            (b"CAPAX", vec![], true),
            (b"X", vec![], true),
            (b"\r\n", vec![], true),
            (b"  \n", vec![], true),
            (b"\x16\x03\x01", vec![], true),
            (b"CAP\xc1", vec![], true),
        ] {
            assert_eq!(read(bytes), (commands, unknown), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn endless_arguments_are_not_kept() {
        let mut reader = Reader::default();
        for byte in b"AUTH ".iter().chain(&[b'x'; 100_000]) {
            assert_eq!(reader.read(*byte, KNOWN), None);
        }
        assert_eq!(reader.word, b"AUTH");
        assert!(reader.is_within() && !reader.is_at_start());
        assert_eq!(reader.read(b'\n', KNOWN), Some(Command::Known { word: "AUTH", is_bare: false }));
        assert!(!reader.is_within() && !reader.is_at_start());
    }
}
