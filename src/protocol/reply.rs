//! Replies as SMTP and its kin give them (RFC 5321, 4.2): three digits, then `-` on every line but the last.
//!
//! Owns where a reply ends, how long one may be, and how a peer's words are quoted. Leaves it to the protocols what a
//! code means.

use std::fmt::Write;

/// Of one line with its end. RFC 5321 allows 512; servers are less strict.
pub(super) const MAX_LINE: usize = 2048;
/// Of one reply with all its lines.
pub(super) const MAX_REPLY: usize = 64 * 1024;
/// Of what is no reply: enough to see what it is.
const MAX_GLIMPSE: usize = 80;
/// Of a peer's words in a failure.
const MAX_QUOTE: usize = 240;

/// Reads replies byte by byte, and keeps none of them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Where in its line the next byte stands.
    column: usize,
    /// Bytes of the reply so far.
    length: usize,
    code: u16,
    more: bool,
    odd: bool,
}

/// What a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A reply's last line ended. Should its lines bear different codes, the last one counts.
    Whole(u16),
    /// The next byte has no place in a reply. There is no way back from that.
    Odd,
    /// It goes on beyond [`MAX_LINE`] or [`MAX_REPLY`].
    TooLong,
}

impl Reader {
    /// Reads until a reply ends or is none: how many bytes belong to it, and what was seen behind them. `None`: it goes on.
    pub(super) fn read(&mut self, heard: &[u8]) -> (usize, Option<Seen>) {
        if self.odd {
            return (0, Some(Seen::Odd));
        }
        for (at, byte) in heard.iter().copied().enumerate() {
            match (self.column, byte) {
                (0, b'0'..=b'9') => self.code = u16::from(byte - b'0'),
                (1 | 2, b'0'..=b'9') => self.code = self.code * 10 + u16::from(byte - b'0'),
                (3, b'-' | b' ' | b'\t' | b'\r' | b'\n') => self.more = byte == b'-',
                (0..=3, _) => {
                    self.odd = true;
                    return (at, Some(Seen::Odd));
                }
                _ => {}
            }
            if self.column == MAX_LINE || self.length == MAX_REPLY {
                return (at, Some(Seen::TooLong));
            }
            self.column += 1;
            self.length += 1;
            if byte == b'\n' {
                self.column = 0;
                if !self.more {
                    self.length = 0;
                    return (at + 1, Some(Seen::Whole(self.code)));
                }
            }
        }
        (heard.len(), None)
    }
}

/// The lines of a reply, each with its end.
pub(super) fn lines(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    reply.split_inclusive(|byte| *byte == b'\n')
}

/// What a line says behind its code, without its end.
pub(super) fn text(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.get(4..).unwrap_or_default()
}

/// How a line ends.
pub(super) fn end(line: &[u8]) -> &[u8] {
    match line {
        [.., b'\r', b'\n'] => &line[line.len() - 2..],
        [.., b'\n'] => &line[line.len() - 1..],
        _ => &[],
    }
}

/// A reply as one line, for a failure's detail.
pub(super) fn told(code: u16, reply: &[u8]) -> String {
    let mut told = format!("{code:03}");
    for line in lines(reply).map(text).filter(|text| !text.is_empty()) {
        told.push(' ');
        told.push_str(&quoted(line));
        if told.len() > MAX_QUOTE {
            return cut(told);
        }
    }
    told
}

/// A peer's words as what can stand in a log line: what is not printable ASCII as its number.
pub(super) fn quoted(words: &[u8]) -> String {
    let mut quoted = String::new();
    for byte in words {
        match byte {
            b' '..=b'~' => quoted.push(char::from(*byte)),
            // A String takes everything.
            _ => drop(write!(quoted, "\\x{byte:02x}")),
        }
        if quoted.len() > MAX_QUOTE {
            return cut(quoted);
        }
    }
    quoted
}

/// The beginning of a line that is no reply, once there is enough of it to see what it is: the same, however it came.
/// `is_all`: nothing more will come.
pub(super) fn glimpse(line: &[u8], is_all: bool) -> Option<&[u8]> {
    let line = &line[..line.len().min(MAX_GLIMPSE)];
    match line.iter().position(|byte| !matches!(byte, b' '..=b'~' | b'\t')) {
        Some(at) if matches!(line[at], b'\r' | b'\n') => Some(&line[..at]),
        // What is not text is none of theirs, and may never have a line's end.
        Some(at) => Some(&line[..=at]),
        None => (is_all || line.len() == MAX_GLIMPSE).then_some(line),
    }
}

fn cut(mut long: String) -> String {
    // ASCII only: every index is a boundary.
    long.truncate(MAX_QUOTE);
    long + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of bytes that come in pieces: each event with the place where it was seen.
    fn read(pieces: &[&[u8]]) -> Vec<(usize, Seen)> {
        let (mut reader, mut events, mut place) = (Reader::default(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (count, seen) = reader.read(rest);
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
    fn a_reply_ends_with_the_first_line_that_has_no_dash() {
        for (reply, events) in [
            (&b"220 mx ESMTP\r\n"[..], vec![(14, Seen::Whole(220))]),
            (b"250-mx\r\n250-SIZE\r\n250 HELP\r\n", vec![(28, Seen::Whole(250))]),
            // Bare line feeds, and a code with nothing behind it: seen in the wild, and harmless.
            (b"250-mx\n250\n", vec![(11, Seen::Whole(250))]),
            (b"354\r\n", vec![(5, Seen::Whole(354))]),
            (b"250-\r\n250 \r\n", vec![(12, Seen::Whole(250))]),
            // Two replies in a row.
            (b"250 a\r\n550 b\r\n", vec![(7, Seen::Whole(250)), (14, Seen::Whole(550))]),
            // The last code counts.
            (b"220-teaser\r\n421 full\r\n", vec![(22, Seen::Whole(421))]),
            // Not whole yet.
            (b"250-mx\r\n250 HEL", vec![]),
            // No replies.
            (b"SSH-2.0-x\r\n", vec![(0, Seen::Odd)]),
            (b"25\r\n", vec![(2, Seen::Odd)]),
            (b"2500 x\r\n", vec![(3, Seen::Odd)]),
            (b"250-mx\r\nSIZE\r\n", vec![(8, Seen::Odd)]),
            (b"\r\n", vec![(0, Seen::Odd)]),
        ] {
            assert_eq!(read(&[reply]), events, "{}", reply.escape_ascii());
            let bytes: Vec<&[u8]> = reply.chunks(1).collect();
            assert_eq!(read(&bytes), events, "byte by byte: {}", reply.escape_ascii());
        }
    }

    /// A server that never stops is stopped, at the same byte however it sends.
    #[test]
    fn endless_lines_and_endless_replies_are_seen() {
        let line = [b"250 ".as_slice(), &vec![b'x'; 3000]].concat();
        let reply = b"250-x\r\n".repeat(MAX_REPLY / 7 + 1);
        for (endless, end) in [(&line, MAX_LINE), (&reply, MAX_REPLY)] {
            for size in [1, 7, 1000, endless.len()] {
                let pieces: Vec<&[u8]> = endless.chunks(size).collect();
                assert_eq!(read(&pieces), [(end, Seen::TooLong)], "in pieces of {size}");
            }
        }
        let longest = [b"250 ".as_slice(), &vec![b'x'; MAX_LINE - 6], b"\r\n"].concat();
        assert_eq!(read(&[&longest]), [(MAX_LINE, Seen::Whole(250))]);
    }

    #[test]
    fn a_peers_words_stay_one_printable_line_of_bounded_length() {
        assert_eq!(told(554, b"554-5.7.1 no\r\n554 5.7.1 never\r\n"), "554 5.7.1 no 5.7.1 never");
        assert_eq!(told(421, b"421\r\n"), "421");
        assert_eq!(quoted(b"\x1b[31mred\r\n\xff"), "\\x1b[31mred\\x0d\\x0a\\xff");
        for long in [told(250, &b"250-\x00\x01\r\n".repeat(500)), quoted(&[0; 500])] {
            assert!(long.len() < MAX_QUOTE + 8 && !long.contains('\n'), "{long}");
        }
    }
}
