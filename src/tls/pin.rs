//! Pins: how they are written, and whether a certificate is one of those pinned.
//!
//! A pin stands for a key or a certificate that a person vouched for, so neither chain nor name nor dates are looked at
//! beside it. Base64 and hex are spelled here by hand: 32 bytes in two alphabets are not worth a dependency.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};

use super::Pin;
use super::peer;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Pin {
    /// The pin of the key in this certificate; `None` when no key can be found in it.
    pub fn of_key(certificate: &[u8]) -> Option<Pin> {
        peer::key_info(certificate).map(|spki| Pin::Spki(sha256(spki)))
    }

    /// The pin of this very certificate.
    pub fn of_leaf(certificate: &[u8]) -> Pin {
        Pin::Leaf(sha256(certificate))
    }

    /// Is this certificate, or its key, the one that is meant?
    pub fn matches(&self, certificate: &[u8]) -> bool {
        match self {
            Pin::Spki(_) => Pin::of_key(certificate).as_ref() == Some(self),
            Pin::Leaf(_) => Pin::of_leaf(certificate) == *self,
        }
    }
}

/// As the configuration wants it: `spki-sha256:BASE64`.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Spki(hash) => write!(f, "spki-sha256:{}", base64(hash)),
            Pin::Leaf(hash) => write!(f, "leaf-sha256:{}", base64(hash)),
        }
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `sha256/…` is how curl, Chromium and RFC 7469 tools write the pin of a key, `sha256//…` included.
        let (pin, hash): (fn([u8; 32]) -> Pin, &str) = if let Some(hash) = text.strip_prefix("spki-sha256:") {
            (Pin::Spki, hash)
        } else if let Some(hash) = text.strip_prefix("leaf-sha256:") {
            (Pin::Leaf, hash)
        } else if let Some(hash) = text.strip_prefix("sha256//").or_else(|| text.strip_prefix("sha256/")) {
            (Pin::Spki, hash)
        } else {
            let mend = match decode(text) {
                Some(hash) if hash.len() == 32 => {
                    format!("write spki-sha256:{text} for a key, leaf-sha256:{text} for a certificate")
                }
                Some(_) | None => {
                    "write spki-sha256:… or leaf-sha256:… with the SHA-256 in base64 or hex; nuncio probe prints both"
                        .into()
                }
            };
            return Err(format!("'{text}' does not say what it pins: {mend}"));
        };
        match decode(hash) {
            Some(bytes) => {
                let count = bytes.len();
                <[u8; 32]>::try_from(bytes)
                    .map(pin)
                    .map_err(|_| format!("'{text}': a SHA-256 has 32 bytes, this has {count}{}", hint(count)))
            }
            None => Err(format!("'{text}': behind the colon stands neither base64 nor hex")),
        }
    }
}

fn hint(count: usize) -> &'static str {
    match count {
        20 => " (a SHA-1 fingerprint: take the SHA-256 one)",
        48 => " (a SHA-384: take the SHA-256 one)",
        64 => " (a SHA-512: take the SHA-256 one)",
        _ => "",
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Hex, with or without colons, or base64, padded or not, in either alphabet. What has the length of a hex SHA-256 and
/// only hex digits is hex: as base64 it would have 48 bytes and pin nothing.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let hex =
        digits.len() >= 40 && digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    if hex {
        let nibble = |digit: u8| char::from(digit).to_digit(16).map_or(0, |value| value as u8);
        return Some(digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect());
    }
    let body = text.trim_end_matches('=');
    if body.is_empty() || body.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(32);
    let (mut bits, mut held) = (0u32, 0);
    for byte in body.bytes() {
        let byte = match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => byte,
        };
        let value = BASE64.iter().position(|letter| *letter == byte)?;
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            match place <= group.len() {
                true => text.push(char::from(BASE64[(bits >> (18 - 6 * place) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of nothing, in both spellings.
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B64: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn a_pin_is_read_in_every_spelling_that_tools_print() {
        let hash = sha256(b"");
        let colons =
            HEX.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>();
        for (text, pin) in [
            (format!("spki-sha256:{B64}"), Pin::Spki(hash)),
            (format!("spki-sha256:{}", B64.trim_end_matches('=')), Pin::Spki(hash)),
            (format!("spki-sha256:{}", B64.replace('+', "-").replace('/', "_")), Pin::Spki(hash)),
            (format!("spki-sha256:{HEX}"), Pin::Spki(hash)),
            (format!("leaf-sha256:{}", HEX.to_uppercase()), Pin::Leaf(hash)),
            (format!("leaf-sha256:{}", colons.join(":")), Pin::Leaf(hash)),
            (format!("sha256/{B64}"), Pin::Spki(hash)),
            (format!("sha256//{B64}"), Pin::Spki(hash)),
        ] {
            assert_eq!(text.parse::<Pin>(), Ok(pin), "{text}");
        }
    }

    #[test]
    fn a_pin_is_read_back_as_it_was_printed() {
        for seed in 0..200u8 {
            let hash = sha256(&[seed]);
            for pin in [Pin::Spki(hash), Pin::Leaf(hash)] {
                assert_eq!(pin.to_string().parse(), Ok(pin));
            }
        }
        assert_eq!(Pin::Spki(sha256(b"")).to_string(), format!("spki-sha256:{B64}"));
    }

    #[test]
    fn a_pin_that_is_not_one_is_told_what_to_write() {
        let sha1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        for (text, says) in [
            (B64.to_string(), format!("write spki-sha256:{B64} for a key")),
            ("sha1:abc".into(), "write spki-sha256:… or leaf-sha256:…".into()),
            (format!("leaf-sha256:{sha1}"), "has 20 (a SHA-1 fingerprint".into()),
            ("spki-sha256:AAAA".into(), "32 bytes, this has 3".into()),
            ("spki-sha256:".into(), "neither base64 nor hex".into()),
            ("spki-sha256:not a hash".into(), "neither base64 nor hex".into()),
        ] {
            let error = text.parse::<Pin>().unwrap_err();
            assert!(error.contains(&says), "{text}: {error}");
        }
    }
}
