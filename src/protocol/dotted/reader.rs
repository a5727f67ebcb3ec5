//! Where an answer ends: with its first line, or with a dot alone.

use super::Status;
use crate::protocol::reply::{MAX_LINE, MAX_REPLY};

/// Of a line: enough for a status, and for a dot alone.
const HEAD: usize = 5;

/// Reads answers byte by byte, and keeps none of them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Where in its line the next byte stands.
    column: usize,
    /// Bytes of the answer so far.
    length: usize,
    /// The line's first bytes.
    head: [u8; HEAD],
    /// A list has begun.
    is_list: bool,
}

/// What a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An answer ended, and that is what it means.
    Whole(Status),
    /// A line ended that cannot begin an answer. There is no way back from that.
    Odd,
    /// It goes on beyond [`MAX_LINE`] or [`MAX_REPLY`].
    TooLong,
}

impl Reader {
    /// Reads until an answer ends or is none: how many bytes belong to it, and what was seen behind them. `None`: it goes
    /// on. `status` tells what an answer's first line means.
    pub(super) fn read(
        &mut self,
        heard: &[u8],
        status: impl Fn(&[u8]) -> Option<Status>,
    ) -> (usize, Option<Seen>) {
        for (at, byte) in heard.iter().copied().enumerate() {
            if self.column == MAX_LINE || self.length == MAX_REPLY {
                return (at, Some(Seen::TooLong));
            }
            if let Some(place) = self.head.get_mut(self.column) {
                *place = byte;
            }
            self.column += 1;
            self.length += 1;
            if byte != b'\n' {
                continue;
            }
            let line = &self.head[..self.column.min(HEAD)];
            let ended = match self.is_list {
                true => matches!(line, b".\r\n" | b".\n").then_some(Status::List),
                false => match status(line) {
                    None => return (at + 1, Some(Seen::Odd)),
                    Some(Status::List) => {
                        self.is_list = true;
                        None
                    }
                    ended => ended,
                },
            };
            self.column = 0;
            if let Some(status) = ended {
                *self = Reader::default();
                return (at + 1, Some(Seen::Whole(status)));
            }
        }
        (heard.len(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(line: &[u8]) -> Option<Status> {
        match line.first()? {
            b'+' => Some(Status::List),
            b'-' => Some(Status::Line),
            _ => None,
        }
    }

    /// What a reader makes of bytes that come in pieces: each event with the place where it was seen.
    fn read(pieces: &[&[u8]]) -> Vec<(usize, Seen)> {
        let (mut reader, mut events, mut place) = (Reader::default(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (count, seen) = reader.read(rest, status);
                place += count;
                rest = &rest[count..];
                match seen {
                    Some(seen) => events.push((place, seen)),
                    None => assert!(rest.is_empty()),
                }
                if matches!(seen, Some(Seen::Odd | Seen::TooLong)) {
                    return events;
                }
            }
        }
        events
    }

    #[test]
    fn an_answer_is_a_line_or_ends_with_a_dot_alone() {
        let (line, list) = (Seen::Whole(Status::Line), Seen::Whole(Status::List));
        for (answers, events) in [
            (&b"-ERR no\r\n"[..], vec![(9, line)]),
            (b"-\n-ERR x\n", vec![(2, line), (9, line)]),
            (b"+OK\r\nUSER\r\n.\r\n-\r\n", vec![(14, list), (17, line)]),
            (b"+OK\nUSER\n.\n+OK\r\n.\r\n", vec![(11, list), (19, list)]),
            // Lines that only begin with a dot, or look like a status.
            (b"+OK\r\n..\r\n.x\r\n. \r\n-ERR\r\n\r\n.\r\r\n.\r\n", vec![(32, list)]),
            // Not whole yet.
            (b"+OK\r\nUSER\r\n.\r", vec![]),
            (b"-ERR", vec![]),
            // No answers.
            (b"odd\r\n", vec![(5, Seen::Odd)]),
            (b"\r\n", vec![(2, Seen::Odd)]),
            (b"-\r\n.\r\n", vec![(3, line), (6, Seen::Odd)]),
        ] {
            assert_eq!(read(&[answers]), events, "{}", answers.escape_ascii());
            let bytes: Vec<&[u8]> = answers.chunks(1).collect();
            assert_eq!(read(&bytes), events, "byte by byte: {}", answers.escape_ascii());
        }
    }

    /// A server that never stops is stopped, at the same byte however it sends.
    #[test]
    fn endless_lines_and_endless_lists_are_seen() {
        let line = [b'-'; 3000];
        let list = [b"+OK\r\n".as_slice(), &b"x\r\n".repeat(MAX_REPLY / 3)].concat();
        for (endless, end) in [(&line[..], MAX_LINE), (&list, MAX_REPLY)] {
            for size in [1, 7, 1000, endless.len()] {
                let pieces: Vec<&[u8]> = endless.chunks(size).collect();
                assert_eq!(read(&pieces), [(end, Seen::TooLong)], "in pieces of {size}");
            }
        }
    }
}
