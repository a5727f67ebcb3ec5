//! The token that orders over TCP carry: read from its file, compared, and told to nobody.
//!
//! Owns what may be one. Leaves to [`guard`](super::guard) where it is asked for, and when it is read anew to the service.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::account;

/// A token. Only its digest is kept, which opens nothing to whoever comes by it.
pub struct Token([u8; 32]);

impl Token {
    /// What can still be guessed is refused. (`openssl rand -hex 16` has 32 characters.)
    const SHORTEST: usize = 16;

    /// Reads the file.
    ///
    /// # Errors
    /// Why what is in it is no token, and what would mend that; never any of it.
    pub fn load(file: &Path) -> Result<Token, String> {
        let refuse = |what: &dyn fmt::Display| {
            format!(
                "admin.token_file {}: {what}; `openssl rand -hex 32` makes one: one line, readable for nuncio alone",
                file.display()
            )
        };
        let text = account::secret(file).map_err(|problem| refuse(&problem))?;
        match text.len() {
            0 => Err(refuse(&"is empty")),
            length if length < Token::SHORTEST => Err(refuse(&format_args!(
                "has {length} characters, and one of less than {} can be guessed",
                Token::SHORTEST
            ))),
            // What an HTTP header carries as it is, without anybody trimming or decoding it.
            _ if !text.iter().all(u8::is_ascii_graphic) => {
                Err(refuse(&"has a character that no token can have: printable ASCII without spaces"))
            }
            _ => Ok(Token(sha256(&text))),
        }
    }

    /// Whether that is it: in the same time, whatever is shown.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &sha256(shown)).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

fn sha256(text: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text).as_ref());
    bytes
}

/// Wrong tokens since the log last told of them: who guesses must not fill the disk too.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    told: Option<Instant>,
    since: u64,
}

impl Wrong {
    const SILENCE: Duration = Duration::from_secs(10);

    /// Another one. How many the log is to tell of now, if it is.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < Wrong::SILENCE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &[u8]) -> Result<Token, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Token::load(file.path())
    }

    /// An editor's or a shell's line end is no part of it, and nothing but the very same text is it.
    #[test]
    fn a_token_is_its_line_and_nothing_else() {
        for text in [&b"0123456789abcdef"[..], b"0123456789abcdef\n", b"0123456789abcdef\r\n"] {
            let token = load(text).unwrap();
            assert!(token.is(b"0123456789abcdef"), "{text:?}");
            for other in [&b""[..], b"0123456789abcde", b"0123456789abcdef\n", b"0123456789abcdeF"] {
                assert!(!token.is(other), "{other:?}");
            }
            assert_eq!(format!("{token:?}"), "Token");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_shown() {
        for (text, says) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"tooshortsecret", "has 14 characters"),
            (b"0123456789 abcdef", "no token can have"),
            (b"0123456789\tabcdef", "no token can have"),
            (b"0123456789abcdef\nsecond line 0123", "no token can have"),
            ("0123456789abcd\u{e9}f".as_bytes(), "no token can have"),
            (&[b'x'; 2000], "more than 1024 bytes"),
        ] {
            let told = load(text).unwrap_err();
            assert!(told.contains(says) && told.contains("openssl rand"), "{text:?}: {told}");
            let shown = String::from_utf8_lossy(text);
            let secret = shown.trim();
            assert!(secret.is_empty() || !told.contains(secret), "{told}");
        }
        assert!(
            Token::load(Path::new("/nowhere/token")).unwrap_err().contains("admin.token_file /nowhere/token")
        );
    }

    #[test]
    fn a_flood_of_wrong_tokens_is_one_line_every_ten_seconds() {
        let mut wrong = Wrong::default();
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let told: Vec<_> = (0..250).filter_map(|tenths| wrong.count(at(tenths))).collect();
        assert_eq!(told, [1, 100, 100]);
    }
}
