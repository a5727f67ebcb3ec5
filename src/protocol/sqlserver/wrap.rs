//! The TLS handshake inside PRELOGIN packets, as TDS 7 has it: each flight is a message.

use super::super::Wrapping;
use super::packet::{HEADER, PRELOGIN, TABULAR, put_message};
use super::token::error_in;
use crate::failure::{Failure, Reason, Stage};

/// Of one packet. A server may make them as long as their length can be.
const LONGEST: usize = u16::MAX as usize;

pub(super) struct InPackets;

impl Wrapping for InPackets {
    fn wrap(&mut self, flight: &[u8], to: &mut Vec<u8>) {
        put_message(PRELOGIN, flight, to);
    }

    fn unwrap(&mut self, heard: &mut Vec<u8>, to: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(kind) = heard.first().copied() else { return Ok(false) };
        if !matches!(kind, PRELOGIN | TABULAR) {
            return Err(odd(&format!("a packet of type 0x{kind:02x}")));
        }
        let Some([_, _, high, low, ..]) = heard.first_chunk::<HEADER>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(HEADER..=LONGEST).contains(&length) {
            return Err(odd("a packet of a length that none has"));
        }
        let Some(packet) = heard.get(HEADER..length) else { return Ok(false) };
        // Some wrap their side as a result (Microsoft's mock server does): TLS knows what to make of that. But an error is one.
        if kind == TABULAR
            && let Some(said) = error_in(packet)
        {
            return Err(odd(&said));
        }
        to.extend_from_slice(packet);
        heard.drain(..length);
        Ok(true)
    }
}

fn odd(what: &str) -> Failure {
    let detail = format!("the server had agreed to TLS, and sent something else instead of it: {what}");
    Failure::upstream(Stage::Handshake, Reason::TlsProtocolError, detail)
        .mend("look in the server's log for why it did not begin the TLS that it had agreed to")
}
