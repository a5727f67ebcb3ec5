//! The client's answer to the greeting: HandshakeResponse41.
//!
//! Owns where in it the things stand that matter here, and what of it cannot be served.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{CONNECT_WITH_DB, LONG_AUTH, PLUGIN_AUTH, PROTOCOL_41, SECURE_CONNECTION, SSL, up_to_zero};

/// Capabilities, packet size, character set and what is reserved: all that an SSLRequest has.
pub(super) const HEAD: usize = 32;
/// Where in the body the byte stands that has [`SSL`].
pub(super) const SSL_AT: usize = 1;

/// What matters of it.
#[derive(Default)]
pub(super) struct Response<'a> {
    pub(super) flags: u32,
    /// What the client would log in by; empty: it does not say.
    pub(super) plugin: &'a [u8],
    /// The first proof of the password, or what the plugin has to say first.
    pub(super) proof: &'a [u8],
    /// Where the proof stands in the body, with its length before it.
    pub(super) proof_at: Range<usize>,
}

/// Why a client cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It speaks as before 4.1.
    Old,
    /// It asks for TLS.
    Tls,
    /// It is none.
    Odd,
}

impl<'a> Response<'a> {
    /// What stands behind its head and cannot be read is the server's to judge.
    pub(super) fn read(body: &'a [u8]) -> Result<Response<'a>, Unfit> {
        let lower = body.first_chunk().map(|two| u32::from(u16::from_le_bytes(*two))).ok_or(Unfit::Odd)?;
        if lower & PROTOCOL_41 == 0 {
            return Err(Unfit::Old);
        }
        if lower & SSL != 0 {
            return Err(Unfit::Tls);
        }
        Response::read_any(body)
    }

    /// With or without the wish for TLS.
    pub(super) fn read_any(body: &'a [u8]) -> Result<Response<'a>, Unfit> {
        let flags = body.first_chunk().map(|four| u32::from_le_bytes(*four)).ok_or(Unfit::Odd)?;
        let rest = body.get(HEAD..).ok_or(Unfit::Odd)?;
        Ok(Response::read_rest(flags, body.len(), rest)
            .unwrap_or_else(|| Response { flags, ..Response::default() }))
    }

    fn read_rest(flags: u32, length: usize, rest: &'a [u8]) -> Option<Response<'a>> {
        let (_user, rest) = up_to_zero(rest)?;
        let from = length - rest.len();
        let (proof, mut rest) = match flags {
            _ if flags & LONG_AUTH != 0 => {
                let (size, rest) = length_encoded(rest)?;
                rest.split_at_checked(size)?
            }
            _ if flags & SECURE_CONNECTION != 0 => {
                let (size, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*size))?
            }
            _ => up_to_zero(rest)?,
        };
        let proof_at = from..length - rest.len();
        if flags & CONNECT_WITH_DB != 0 {
            rest = up_to_zero(rest)?.1;
        }
        let plugin = match flags & PLUGIN_AUTH {
            0 => b"",
            _ => up_to_zero(rest).map_or(rest, |(name, _)| name),
        };
        Some(Response { flags, plugin, proof, proof_at })
    }
}

/// The same with another proof in the place of the first.
pub(super) fn with_proof(body: &[u8], proof: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let Range { start, end } = Response::read_any(body).ok()?.proof_at;
    let (before, behind) = (body.get(..start)?, body.get(end..)?);
    // In one byte, both ways of writing a length are the same.
    let length = u8::try_from(proof.len()).ok().filter(|length| *length <= 0xfa)?;
    Some(Zeroizing::new([before, &[length], proof, behind].concat()))
}

/// A number in one byte, or in as many as its first one says.
fn length_encoded(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let width = match first {
        0..=0xfa => return Some((usize::from(*first), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        0xfb | 0xff => return None,
    };
    let (number, rest) = rest.split_at_checked(width)?;
    let number = number.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    Some((usize::try_from(number).ok()?, rest))
}
