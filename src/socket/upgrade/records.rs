//! records: where in a peer's stream of TLS records it is, as far as their headers say: an end inside of one is a cut.

use std::io::{self, Read};

/// Type, version, length.
const HEADER: usize = 5;

/// Follows the headers. What is no TLS rustls refuses before that matters.
#[derive(Default)]
pub(super) struct Records {
    /// The header so far.
    header: [u8; HEADER],
    /// So much of it is there; all of it: the record's contents follow.
    at: usize,
    /// So much of the contents is still to come.
    left: usize,
}

impl Records {
    /// Something of a record has come, and not all.
    pub(super) fn is_inside(&self) -> bool {
        self.at > 0
    }

    /// A source that is followed while it is read.
    pub(super) fn watching<R>(&mut self, source: R) -> Watched<'_, R> {
        Watched { records: self, source }
    }

    fn follow(&mut self, mut heard: &[u8]) {
        while !heard.is_empty() {
            let (part, behind) = if self.at < HEADER {
                let (part, behind) = heard.split_at(heard.len().min(HEADER - self.at));
                self.header[self.at..self.at + part.len()].copy_from_slice(part);
                self.at += part.len();
                if self.at == HEADER {
                    self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                }
                (0, behind)
            } else {
                let part = heard.len().min(self.left);
                (part, &heard[part..])
            };
            self.left -= part;
            if self.at == HEADER && self.left == 0 {
                self.at = 0;
            }
            heard = behind;
        }
    }
}

/// See [`Records::watching`].
pub(super) struct Watched<'a, R> {
    records: &'a mut Records,
    source: R,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        self.records.follow(&into[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut, the end of a record and the place behind a header are told apart; an empty record is one.
    #[test]
    fn only_between_records_nothing_is_missing() {
        let stream = [&[23, 3, 3, 0, 2, 7, 7][..], &[22, 3, 1, 0, 0], &[21, 3, 3, 1, 0], &[9; 256]].concat();
        let ends = [0, 7, 12, 12 + 5 + 256];
        for piece in [1, 2, 3, 7, 100, stream.len()] {
            let (mut records, mut followed) = (Records::default(), 0);
            for part in stream.chunks(piece) {
                let mut into = vec![0; part.len()];
                assert_eq!(records.watching(part).read(&mut into).unwrap(), part.len());
                followed += part.len();
                assert_eq!(
                    records.is_inside(),
                    !ends.contains(&followed),
                    "{followed}, in pieces of {piece}"
                );
            }
        }
    }
}
