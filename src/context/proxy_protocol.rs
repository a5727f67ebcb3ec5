//! proxy_protocol: the header with which a proxy before us says who connected to it, version 1 and 2 of HAProxy's PROXY
//! protocol.
//!
//! No byte behind the header is read: version 2 says how long it is, version 1 is read in sips that cannot reach beyond its end.
//! Whether whoever sends it may, is `admit`'s to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Context, Options, odd, quoted, seems_to_be};
use crate::failure::Failure;
use crate::protocol::Talk;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8] = b"PROXY ";
/// The shortest header of either version, but for a byte.
const FIRST: usize = 15;
/// Of version 1, its line's end included.
const LONGEST_LINE: usize = 107;
/// Of version 2, behind its first 16 bytes: a certificate of the client's may be in it.
const LONGEST: usize = 16 * 1024;
const FIXED: usize = 16;

/// Types of what is behind the addresses.
mod tlv {
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    /// Ours: options, as SOCKS5's user name has them. Of the range for everybody's own use (0xE0 to 0xEF); Google's 0xE0, Amazon's
    /// 0xEA and Microsoft's 0xEE are others'.
    pub(super) const NUNCIO: u8 = 0xe4;
}

/// A header, as far as it has come.
#[derive(Debug, Default)]
pub struct Header {
    bytes: Vec<u8>,
}

impl Talk for Header {
    type Outcome = Context;

    fn hear(&mut self, heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> Result<Option<Context>, Failure> {
        let mut heard = heard.drain(..);
        // By the byte, so that it fails at the same one however they are cut.
        while let Some(byte) = heard.next() {
            self.bytes.push(byte);
            let context = match self.is_binary()? {
                true => self.binary()?,
                false => self.line()?,
            };
            if context.is_some() {
                debug_assert!(heard.len() == 0, "it may not be given more than it may read");
                return Ok(context);
            }
        }
        Ok(None)
    }

    fn may_read(&self, _heard: &[u8]) -> Option<usize> {
        let known = self.bytes.len();
        Some(match self.bytes.first() {
            None => FIRST,
            _ if known < FIRST => FIRST - known,
            Some(b'P') => {
                if self.bytes.ends_with(b"\r") {
                    1
                } else {
                    2
                }
            }
            Some(_) if known < FIXED => FIXED - known,
            Some(_) => (FIXED + self.length()).saturating_sub(known).max(1),
        })
    }

    fn awaits(&self) -> &'static str {
        "the PROXY header"
    }
}

impl Header {
    /// Version 2, as far as can be told.
    fn is_binary(&self) -> Result<bool, Failure> {
        let begins = |with: &[u8]| self.bytes.iter().zip(with).all(|(is, expected)| is == expected);
        match (begins(SIGNATURE), begins(WORD)) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            (false, false) => {
                let seems = self
                    .bytes
                    .first()
                    .filter(|first| **first != b'P')
                    .map_or("", |first| seems_to_be(*first));
                let detail =
                    format!("a PROXY header was expected, and there came {}{seems}", quoted(&self.bytes));
                Err(odd(detail).mend(
                    "let the proxy send it (HAProxy: send-proxy-v2 in its server line), or remove context = \"proxy_protocol\"",
                ))
            }
        }
    }

    /// Behind the first 16 bytes; 0 as long as it is not known.
    fn length(&self) -> usize {
        match self.bytes.get(14..16) {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        }
    }

    fn line(&self) -> Result<Option<Context>, Failure> {
        let Some(line) = self.bytes.strip_suffix(b"\r\n") else {
            if self.bytes.len() >= LONGEST_LINE || self.bytes.ends_with(b"\n") {
                return Err(odd(format!(
                    "the PROXY line does not end as it should: {}",
                    quoted(&self.bytes)
                )));
            }
            return Ok(None);
        };
        let wrong = || odd(format!("{} is no PROXY line", quoted(line)));
        let text = std::str::from_utf8(line).map_err(|_| wrong())?;
        let words: Vec<_> = text.split(' ').collect();
        let source = match words[..] {
            ["PROXY", "UNKNOWN", ..] => None,
            ["PROXY", "TCP4", source, to, source_port, to_port] => {
                let (_, _) = (ip::<Ipv4Addr>(to).ok_or_else(wrong)?, port(to_port).ok_or_else(wrong)?);
                ip::<Ipv4Addr>(source).zip(port(source_port)).map(Some).ok_or_else(wrong)?
            }
            ["PROXY", "TCP6", source, to, source_port, to_port] => {
                let (_, _) = (ip::<Ipv6Addr>(to).ok_or_else(wrong)?, port(to_port).ok_or_else(wrong)?);
                ip::<Ipv6Addr>(source).zip(port(source_port)).map(Some).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
        Ok(Some(behind(source.map(SocketAddr::from))))
    }

    fn binary(&self) -> Result<Option<Context>, Failure> {
        let &[_, _, _, _, _, _, _, _, _, _, _, _, command, family, _, _] =
            self.bytes.get(..FIXED).unwrap_or_default()
        else {
            return Ok(None);
        };
        let wrong = |what: String| odd(format!("the PROXY header {what}"));
        let length = self.length();
        if length > LONGEST {
            return Err(wrong(format!("says that it has {length} bytes more, and {LONGEST} are the most")));
        }
        // The proxy speaks for itself: a check of its own. What follows means nothing then.
        let is_local = match command {
            0x20 => true,
            0x21 => false,
            _ => return Err(wrong(format!("has version and command {command:#04x}, which nobody knows"))),
        };
        let addresses = match family {
            0x00 => None,
            0x11 => Some(12),
            0x21 => Some(36),
            0x31 => Some(216),
            _ if is_local => None,
            _ => return Err(wrong(format!("is of a family {family:#04x} that is no stream's"))),
        };
        if !is_local && addresses.is_some_and(|size| size > length) {
            return Err(wrong(format!("has {length} bytes, too few for its family's addresses")));
        }
        let Some(rest) = self.bytes.get(FIXED..FIXED + length) else { return Ok(None) };
        if is_local {
            return Ok(Some(Context::default()));
        }
        // Of a family that is not told, the addresses have no known length either.
        let Some(size) = addresses else { return Ok(Some(behind(None))) };
        let (addresses, rest) = rest.split_at(size);
        let mut context = behind(source(addresses));
        self.tell(rest, FIXED + size, &mut context)?;
        Ok(Some(context))
    }

    /// What stands behind the addresses, which begins at `at`.
    fn tell(&self, mut rest: &[u8], mut at: usize, context: &mut Context) -> Result<(), Failure> {
        let wrong = |what: String| odd(format!("the PROXY header {what}"));
        while let [kind, high, low, behind @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((value, next)) = behind.split_at_checked(length) else {
                return Err(wrong(format!("ends within a value of type {kind:#04x}")));
            };
            match *kind {
                tlv::CRC32C => {
                    let told = <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes);
                    let (before, behind) = self.bytes.split_at(at + 3);
                    let behind = behind.get(4..).unwrap_or_default();
                    if told != Some(crc32c([before, &[0; 4][..], behind])) {
                        return Err(wrong("has a checksum that does not fit it".into()));
                    }
                }
                tlv::AUTHORITY => context.authority = name(value),
                tlv::UNIQUE_ID => context.unique_id = name(value),
                tlv::NUNCIO => {
                    let text = std::str::from_utf8(value).map_err(|_| "it is not text".to_owned());
                    let (options, user) = text
                        .and_then(Options::read)
                        .map_err(|why| wrong(format!("has options (type 0xE4) that are none: {why}")))?;
                    if user.is_some() || context.options != Options::default() {
                        return Err(wrong(
                            "has options (type 0xE4) that are no key=value, or has them twice".into(),
                        ));
                    }
                    context.options = options;
                }
                _ => {}
            }
            (rest, at) = (next, at + 3 + length);
        }
        match rest {
            [] => Ok(()),
            _ => Err(wrong(format!("has {} bytes behind its last value", rest.len()))),
        }
    }
}

/// Somebody behind the proxy, from there if that is told.
fn behind(source: Option<SocketAddr>) -> Context {
    Context { source, hides_source: source.is_none(), ..Context::default() }
}

/// The client's address; `None` where it came over a Unix socket.
fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    match addresses.len() {
        12 => addresses.first_chunk::<4>().zip(port(8)).map(|(ip, port)| (IpAddr::from(*ip), port).into()),
        36 => addresses
            .first_chunk::<16>()
            .zip(port(32))
            .map(|(ip, port)| (IpAddr::from(*ip).to_canonical(), port).into()),
        _ => None,
    }
}

fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(|ip| ip.into().to_canonical())
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| digits)
}

/// As text, bounded, where it is a plain one; else in hexadecimal.
fn name(value: &[u8]) -> Option<Box<str>> {
    const LONGEST: usize = 255;
    let value = value.get(..LONGEST).unwrap_or(value);
    let is_plain = value.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(value).ok().filter(|_| is_plain);
    let text = text.map_or_else(|| value.iter().map(|byte| format!("{byte:02x}")).collect(), str::to_owned);
    Some(text.into_boxed_str()).filter(|text| !text.is_empty())
}

/// CRC-32C (Castagnoli), as iSCSI has it (RFC 3720, appendix B.4).
fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !parts.into_iter().flatten().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests;
