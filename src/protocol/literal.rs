//! Lines that may hold literals, as IMAP and ManageSieve have them (RFC 9051, 4.3; RFC 5804, 4): a line ends in `{n}`, n bytes
//! follow that are no lines whatever they look like, and behind them the line goes on.
//!
//! Owns where such a line ends and how long one may be: a server's lines are kept until they are whole ([`Lines`]), a
//! client's, which may hold passwords, are not ([`Commands`]). Leaves it to the protocols what a line means.

/// Of a server's line with its literals. RFC 7162 has servers stay below 8 KiB a line.
pub(super) const MAX_LINE: usize = 16 * 1024;
/// Of a command's first words.
const MAX_HEAD: usize = 96;

/// Announced at a line's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Literal {
    length: u64,
    /// A client waits for a go-ahead (`{n}`), or does not (`{n+}`).
    waits: bool,
}

/// Where in an announcement the end of what was read stands.
#[derive(Clone, Copy, Debug, Default)]
enum Tail {
    #[default]
    Text,
    Number(Option<u64>),
    Plus(u64),
    Announced(Literal),
}

impl Tail {
    /// `Some`: the line ends with this byte, and what it announces.
    fn push(&mut self, byte: u8) -> Option<Option<Literal>> {
        let announced = |length, waits| Tail::Announced(Literal { length, waits });
        *self = match (*self, byte) {
            (tail, b'\n') => {
                *self = Tail::Text;
                return Some(match tail {
                    Tail::Announced(literal) => Some(literal),
                    _ => None,
                });
            }
            (_, b'{') => Tail::Number(None),
            (Tail::Number(number), b'0'..=b'9') => {
                let digit = u64::from(byte - b'0');
                Tail::Number(Some(number.unwrap_or(0).saturating_mul(10).saturating_add(digit)))
            }
            (Tail::Number(Some(number)), b'+') => Tail::Plus(number),
            (Tail::Number(Some(number)), b'}') => announced(number, true),
            (Tail::Plus(number), b'}') => announced(number, false),
            (tail @ Tail::Announced(_), b'\r') => tail,
            _ => Tail::Text,
        };
        None
    }
}

/// Reads a server's lines, and keeps the one that has begun.
pub(super) struct Lines {
    /// May the line that begins so announce a literal, or does it end in a person's words?
    may_announce: fn(&[u8]) -> bool,
    kept: Vec<u8>,
    tail: Tail,
    /// Bytes of a literal that are still to come.
    literal: u64,
}

/// What a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The line that is kept is whole.
    Line,
    /// It goes on beyond [`MAX_LINE`].
    TooLong,
}

impl Lines {
    pub(super) fn new(may_announce: fn(&[u8]) -> bool) -> Lines {
        Lines { may_announce, kept: Vec::new(), tail: Tail::Text, literal: 0 }
    }

    /// Reads until a line is whole or too long: how many bytes were taken, and what was seen behind them.
    pub(super) fn read(&mut self, heard: &[u8]) -> (usize, Option<Seen>) {
        for (at, byte) in heard.iter().copied().enumerate() {
            if self.kept.len() == MAX_LINE {
                return (at, Some(Seen::TooLong));
            }
            self.kept.push(byte);
            if self.literal > 0 {
                self.literal -= 1;
                continue;
            }
            match self.tail.push(byte) {
                None => {}
                Some(Some(Literal { length, .. })) if (self.may_announce)(&self.kept) => {
                    self.literal = length;
                    if length > (MAX_LINE - self.kept.len()) as u64 {
                        return (at + 1, Some(Seen::TooLong));
                    }
                }
                Some(_) => return (at + 1, Some(Seen::Line)),
            }
        }
        (heard.len(), None)
    }

    /// The line so far.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// The line so far, which another one follows.
    pub(super) fn take(&mut self) -> Vec<u8> {
        (self.tail, self.literal) = (Tail::Text, 0);
        std::mem::take(&mut self.kept)
    }
}

/// Reads a client's commands, and keeps no more of each than its first words.
pub(super) struct Commands {
    /// So many words are kept.
    words: usize,
    head: Vec<u8>,
    has_head: bool,
    tail: Tail,
    literal: u64,
    /// It announced a literal, none of which has come: should the server not want it, another command follows.
    waits: bool,
}

impl Commands {
    pub(super) fn new(words: usize) -> Commands {
        Commands { words, head: Vec::new(), has_head: false, tail: Tail::Text, literal: 0, waits: false }
    }

    /// Reads until a command is whole: how many bytes were taken, and the command's first words. They are shorter than they
    /// were said where they are longer than any command's.
    pub(super) fn read(&mut self, heard: &[u8]) -> (usize, Option<Vec<u8>>) {
        let mut at = 0;
        while let Some(byte) = heard.get(at).copied() {
            self.waits = false;
            if self.literal > 0 {
                let left = heard.len() - at;
                let now = usize::try_from(self.literal).map_or(left, |literal| literal.min(left));
                self.literal -= now as u64;
                at += now;
                continue;
            }
            at += 1;
            self.keep(byte);
            match self.tail.push(byte) {
                None => {}
                Some(Some(Literal { length, waits })) => {
                    (self.literal, self.waits, self.has_head) = (length, waits, true);
                }
                Some(None) => return (at, Some(self.end())),
            }
        }
        (at, None)
    }

    fn keep(&mut self, byte: u8) {
        let ends_word = matches!(byte, b' ' | b'\r' | b'\n');
        let words = 1 + self.head.iter().filter(|byte| **byte == b' ').count();
        self.has_head |= self.head.len() == MAX_HEAD || ends_word && (byte != b' ' || words == self.words);
        if !self.has_head {
            self.head.push(byte);
        }
    }

    fn end(&mut self) -> Vec<u8> {
        (self.has_head, self.literal, self.waits) = (false, 0, false);
        std::mem::take(&mut self.head)
    }

    /// The server wants the literal.
    pub(super) fn go_ahead(&mut self) {
        self.waits = false;
    }

    /// The first words of a command whose literal has not come.
    pub(super) fn waiting(&self) -> Option<&[u8]> {
        self.waits.then_some(&self.head)
    }

    /// The server does not want the literal: the command is over.
    pub(super) fn give_up(&mut self) {
        self.end();
    }
}

/// A line without its end.
pub(super) fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
