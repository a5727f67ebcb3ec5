//! No, as a MySQL server says it: an ERR packet, in place of the greeting or of any answer until the client is let in.
//!
//! In place of the greeting without an SQLSTATE: a client that has not been greeted takes it for a part of the text.

use super::super::Refusal;
use super::super::sentence::sentence;
use super::{ERR, HEADER, put_packet};
use crate::failure::Reason;

/// Client libraries keep 512 bytes, with the zero byte at the end.
const LONGEST_TEXT: usize = 511;
/// Before the greeting's end MariaDB's say first, in those, that nothing vouches for what is going to be quoted.
const LONGEST_FIRST_TEXT: usize = LONGEST_TEXT - 130;
/// Where nothing was read of a client that has been greeted: its answer is about to come.
const FIRST_ANSWER: u8 = 1;

pub(super) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id: _, greeted, said } = *refusal;
    let before = said.get(HEADER - 1).copied().unwrap_or(FIRST_ANSWER);
    let number = if greeted { before.wrapping_add(1) } else { 0 };
    let (code, sqlstate) = code(failure.reason);
    let mut body = vec![ERR];
    body.extend(code.to_le_bytes());
    if number > 0 {
        body.push(b'#');
        body.extend(sqlstate.bytes());
    }
    let most = if number > 0 { LONGEST_TEXT } else { LONGEST_FIRST_TEXT };
    body.extend(sentence(refusal, most).bytes());
    let mut packet = Vec::with_capacity(HEADER + body.len());
    put_packet(number, &body, &mut packet);
    packet
}

/// Error number and SQLSTATE: what a server says in such a case, or a client to itself.
fn code(reason: Reason) -> (u16, &'static str) {
    match reason {
        // ER_CON_COUNT_ERROR
        Reason::ConnectionLimitReached | Reason::QueueTimeout => (1040, "08004"),
        // ER_SERVER_SHUTDOWN
        Reason::Draining | Reason::LifetimeReached => (1053, "08S01"),
        // ER_HOST_NOT_PRIVILEGED
        Reason::AdmissionDenied => (1130, "HY000"),
        // ER_NET_READ_INTERRUPTED
        Reason::DnsTimeout
        | Reason::ConnectionTimeout
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::EstablishTimeout
        | Reason::PrefaceTimeout
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout => (1159, "08S01"),
        // ER_NET_READ_ERROR
        Reason::DnsError
        | Reason::DestinationNotFound
        | Reason::DestinationUnavailable
        | Reason::DestinationIpProhibited
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::ProxyLoopDetected
        | Reason::ProxyConfigurationError
        | Reason::ProxyInternalError
        | Reason::CircuitOpen
        | Reason::NegotiationRefused
        | Reason::NegotiationError
        | Reason::ClientCertificateRefused
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::BadPreface => (1158, "08S01"),
    }
}
