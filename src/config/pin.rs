//! Pins: the SHA-256 of a server's key or certificate, in the notations in which tools print it.

use super::kinds::{Fault, Word, fault};
use super::reader::quoted;
use super::words::word;
use crate::tls::Pin;

word! {
    /// The hash of a key or a certificate.
    PinText -> Pin, "a pin", "\"spki-sha256:...\"", None, |text| {
        let mend = "write spki-sha256: (the key's) or leaf-sha256: (the certificate's) and the SHA-256 in hex or base64; nuncio probe prints both";
        let (pin, hash): (fn([u8; 32]) -> Pin, _) = match text.split_once(':') {
            Some(("spki-sha256", hash)) => (Pin::Spki, hash),
            Some(("leaf-sha256", hash)) => (Pin::Leaf, hash),
            _ => return fault(format!("{} does not say what is pinned", quoted(text)), mend),
        };
        match from_hex(hash).or_else(|| from_base64(hash)) {
            Some(hash) => Ok(pin(hash)),
            None => fault("the hash is not 32 bytes in hex or base64", mend),
        }
    }
}

/// 64 hexadecimal digits, with colons between the bytes as openssl prints them, or without.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok()
}

/// 43 characters of RFC 4648's alphabet, its URL-safe twin included, with or without the padding.
fn from_base64(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_suffix('=').unwrap_or(text);
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(32), 0u32, 0u32);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    // 43 characters are 258 bits: the last two hold nothing.
    if text.len() != 43 || held & 0b11 != 0 {
        return None;
    }
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_in_hex_with_or_without_colons_and_in_base64() {
        let hash: [u8; 32] = std::array::from_fn(|index| (index * 7 + 250) as u8);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let colons: Vec<_> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
        let base64 = "+gEIDxYdJCsyOUBHTlVcY2pxeH+GjZSborGmp662vdM=";
        assert_eq!(PinText::parse(&format!("spki-sha256:{hex}")), Ok(Pin::Spki(hash)));
        assert_eq!(PinText::parse(&format!("leaf-sha256:{}", colons.join(":"))), Ok(Pin::Leaf(hash)));
        assert!(PinText::parse(&format!("spki-sha256:{base64}")).is_ok());
        for text in ["", "abc", "sha256:00", "spki-sha256:", "spki-sha256:zz", &format!("spki-sha256:{hex}0")]
        {
            assert!(PinText::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base64_is_read_bit_for_bit() {
        // SHA-256 of nothing, as openssl prints it in both notations.
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(from_base64("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), from_hex(hex));
        assert_eq!(from_base64("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"), from_hex(hex));
        assert_eq!(from_base64("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV="), None);
    }
}
