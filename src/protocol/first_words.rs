//! first words: reads along where TLS changes nothing, for the sake of a refusal.
//!
//! For a protocol in which the client begins. A server may refuse our certificate after the handshake (TLS 1.3), when the
//! client has already spoken; what it said by then is remembered, since a refusal in its own protocol may have to name the
//! version that it speaks, or the request that it answers. With the server's first byte it is over.

use zeroize::Zeroizing;

use super::Opening;
use crate::relay::{Greeter, Greeting, Objection, Onward, Party};

/// As much is remembered: enough for any protocol's version and the number of its first request.
pub(super) const MOST: usize = 1024;

/// Passes on what was read of the client before, and then all that both say. `secured`: the server is reached through TLS,
/// so that a client which begins TLS itself has been told too much.
pub(super) fn greet(opening: Opening, secured: bool) -> Greeting {
    let mut first = FirstWords { secured, ..FirstWords::default() };
    first.remember(&opening.bytes);
    Greeting { onward: Onward { up: opening.bytes, down: Vec::new() }, greeter: Some(Box::new(first)) }
}

#[derive(Default)]
struct FirstWords {
    /// Up to [`MOST`]. A password may be among it.
    said: Zeroizing<Vec<u8>>,
    secured: bool,
    is_answered: bool,
}

impl FirstWords {
    fn remember(&mut self, heard: &[u8]) {
        let room = MOST - self.said.len();
        if !heard.is_empty() {
            self.said.reserve_exact(room); // what grows leaves copies behind
        }
        self.said.extend(heard.iter().take(room));
    }
}

impl Greeter for FirstWords {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        // The first byte of a TLS record; no message of these protocols begins so.
        if self.secured && self.said.is_empty() && heard.first() == Some(&0x16) {
            return Err(Objection {
                to: Party::Client,
                detail: "the client began with TLS where plaintext is expected",
                mend: "switch TLS off in the client: nuncio speaks TLS to the server",
            });
        }
        self.remember(heard);
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.is_answered |= !heard.is_empty();
        onward.down.extend_from_slice(heard);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_answered
    }

    /// Also before its first word: the refusal waits for that, where it has to.
    fn may_refuse(&self) -> bool {
        !self.is_answered
    }

    fn unanswered(&self) -> Vec<u8> {
        self.said.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeter(opening: &[u8], secured: bool) -> (Box<dyn Greeter>, Onward) {
        let greeting = greet(Opening { bytes: opening.to_vec(), ..Opening::default() }, secured);
        (greeting.greeter.unwrap(), greeting.onward)
    }

    /// However much a client says at once, and however it is cut: all of it goes on, and the beginning is remembered.
    #[test]
    fn the_clients_first_words_are_remembered_until_the_server_answers() {
        let said: Vec<u8> = (0..3000_u16).map(|number| number.to_be_bytes()[1]).collect();
        for (opened, piece) in [(0, 1), (0, 3000), (3, 7), (1023, 2), (2000, 999)] {
            let (mut greeter, mut onward) = greeter(&said[..opened], true);
            for piece in said[opened..].chunks(piece) {
                greeter.client_said(piece, &mut onward).unwrap();
                greeter.upstream_said(b"", &mut onward).unwrap();
                assert!(greeter.may_refuse() && !greeter.is_done());
            }
            assert_eq!((&onward.up, greeter.unanswered()), (&said, said[..MOST].to_vec()));
            greeter.upstream_said(b"+", &mut onward).unwrap();
            assert_eq!(onward.down, b"+");
            assert!(greeter.is_done() && !greeter.may_refuse());
        }
    }

    /// A client whose TLS was left switched on would otherwise be told nothing but its server's confusion.
    #[test]
    fn a_client_that_begins_tls_is_told_unless_nuncio_has_none_itself() {
        let (mut greeter, mut onward) = self::greeter(b"", true);
        let objection = greeter.client_said(b"\x16\x03\x01", &mut onward).unwrap_err();
        assert!(objection.mend.contains("switch TLS off"));
        let (mut greeter, mut onward) = self::greeter(b"", false);
        greeter.client_said(b"\x16\x03\x01", &mut onward).unwrap();
        let (mut greeter, mut onward) = self::greeter(b"*", true);
        greeter.client_said(b"\x16", &mut onward).unwrap();
    }
}
