//! The server's first packet: HandshakeV10, or an error in its place.
//!
//! Owns where in it the things stand that matter here. Everything else of it stays as the server wrote it: MariaDB's own
//! capabilities in what is reserved, a plugin's name with or without its end.

use super::super::reply::quoted;
use super::{PLUGIN_AUTH, SSL, up_to_zero};

/// Of the nonce that passwords are proven with.
pub(super) const NONCE: usize = 20;

/// The one protocol version that can ask for TLS.
const VERSION: u8 = 10;

/// Where things stand in a HandshakeV10's body.
pub(super) struct HandshakeV10<'a> {
    body: &'a [u8],
    /// Of the lower half of the capabilities.
    flags: usize,
}

impl<'a> HandshakeV10<'a> {
    /// `None`: it is none.
    pub(super) fn read(body: &'a [u8]) -> Option<HandshakeV10<'a>> {
        let (&VERSION, rest) = body.split_first()? else { return None };
        let (_version, behind) = up_to_zero(rest)?;
        // The connection's number, the first part of the nonce, and a zero byte.
        let flags = body.len() - behind.len() + 4 + 8 + 1;
        (body.len() >= flags + 2).then_some(HandshakeV10 { body, flags })
    }

    /// What the server can do. Old servers have only the lower half.
    pub(super) fn capabilities(&self) -> u32 {
        let half = |at: usize| {
            self.body.get(at..).and_then(|at| at.first_chunk()).map_or(0, |two| u16::from_le_bytes(*two))
        };
        u32::from(half(self.flags)) | u32::from(half(self.flags + 5)) << 16
    }

    /// The server's own character set.
    pub(super) fn charset(&self) -> u8 {
        self.body.get(self.flags + 2).copied().unwrap_or_default()
    }

    /// Where in the body the byte stands that has [`SSL`].
    pub(super) fn ssl_at(&self) -> usize {
        self.flags + 1
    }

    /// What passwords are proven with; its second part is what old servers have not got.
    pub(super) fn nonce(&self) -> Vec<u8> {
        let first = self.body.get(self.flags - 9..self.flags - 1).unwrap_or_default();
        let second = self.body.get(self.second_part()..).unwrap_or_default();
        [first, &second[..second.len().min(NONCE - first.len())]].concat()
    }

    /// The plugin that the server would rather be logged in by; empty: it has none.
    pub(super) fn plugin(&self) -> &'a [u8] {
        if self.capabilities() & PLUGIN_AUTH == 0 {
            return b"";
        }
        let length = usize::from(self.body.get(self.flags + 7).copied().unwrap_or_default());
        let name = self.second_part() + length.saturating_sub(8).max(13);
        let name = self.body.get(name..).unwrap_or_default();
        // The first servers that had it left its end out.
        up_to_zero(name).map_or(name, |(name, _)| name)
    }

    /// Behind flags, character set, status, flags, length, and ten bytes that are reserved.
    fn second_part(&self) -> usize {
        self.flags + 2 + 1 + 2 + 2 + 1 + 10
    }
}

/// The byte that has [`SSL`], without it.
pub(super) fn without_ssl(byte: u8) -> u8 {
    byte & !SSL.to_le_bytes()[1]
}

/// With it.
pub(super) fn with_ssl(byte: u8) -> u8 {
    byte | SSL.to_le_bytes()[1]
}

/// What an ERR packet says.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) number: u16,
    pub(super) text: &'a [u8],
}

impl<'a> Said<'a> {
    /// Behind the number may stand a `#` and five letters of SQLSTATE: which, its number tells as well.
    pub(super) fn read(body: &'a [u8]) -> Option<Said<'a>> {
        let (&super::ERR, rest) = body.split_first()? else { return None };
        let (number, text) = rest.split_first_chunk()?;
        let text = match text {
            [b'#', _, _, _, _, _, text @ ..] => text,
            text => text,
        };
        Some(Said { number: u16::from_le_bytes(*number), text })
    }

    /// Too many connections, or none from this host any more. What is too much for one account has other numbers.
    pub(super) fn is_overload(&self) -> bool {
        matches!(self.number, 1040 | 1129)
    }

    /// What it is, for a person, and what to do. `instead`: of what the server says so.
    pub(super) fn words(&self, instead: &str) -> (String, &'static str) {
        let Said { number, text } = self;
        let detail =
            format!("the server answered with error {number} instead of {instead}: {}", quoted(text));
        let mend = match number {
            1040 => {
                "raise the server's max_connections, or lower limits.connections here, so that clients wait here for a place"
            }
            1129 => {
                "run FLUSH HOSTS (mariadb-admin flush-hosts) there, find out what broke off so many connections from this \
                 host, and raise its max_connect_errors"
            }
            1130 => {
                "create an account for this host there (CREATE USER name@host), or look at its skip_name_resolve"
            }
            _ => "look in the server's log: it said so before TLS began",
        };
        (detail, mend)
    }
}
