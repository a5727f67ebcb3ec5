//! No, as a MySQL server says it: an ERR packet, in place of the greeting or of any answer until the client is let in.
//!
//! In place of the greeting without an SQLSTATE: a client that has not been greeted takes it for a part of the text.

use super::super::Refusal;
use super::{ERR, HEADER, put_packet};
use crate::failure::Reason;

/// Client libraries keep 512 bytes with the zero byte at its end.
const LONGEST_TEXT: usize = 511;
/// As much is left to what was seen, however long the next step is.
const LEAST_DETAIL: usize = 200;
/// Where nothing was read of a client that has been greeted: its answer is about to come.
const FIRST_ANSWER: u8 = 1;

pub(super) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said } = *refusal;
    let before = said.get(HEADER - 1).copied().unwrap_or(FIRST_ANSWER);
    let number = if greeted { before.wrapping_add(1) } else { 0 };
    let (code, sqlstate) = code(failure.reason);
    let mut body = vec![ERR];
    body.extend(code.to_le_bytes());
    if number > 0 {
        body.push(b'#');
        body.extend(sqlstate.bytes());
    }
    body.extend(text(&failure.detail, failure.next_step(), failure.reason, id).bytes());
    let mut packet = Vec::with_capacity(HEADER + body.len());
    put_packet(number, &body, &mut packet);
    packet
}

/// What was seen, what to do and where the log says more. Cut, where it has to be, so that something is left of each.
fn text(detail: &str, next_step: &str, reason: Reason, id: &str) -> String {
    let end = format!(" (nuncio: {reason}, record {id})");
    let room = LONGEST_TEXT.saturating_sub(end.len() + "; ".len());
    let next_step = one_line(next_step, room - LEAST_DETAIL.min(room));
    let detail = one_line(detail, room - next_step.len());
    format!("{detail}; {next_step}{end}")
}

/// As printable ASCII, of at most so many bytes.
fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    for c in text.trim().chars() {
        match c {
            ' '..='~' => line.push(c),
            '…' => line.push_str("..."),
            '×' => line.push('x'),
            c if c.is_whitespace() || c.is_control() => line.push(' '),
            _ => line.push('?'),
        }
        if line.len() > most {
            line.truncate(most.saturating_sub(3));
            line.push_str(&"..."[..most.min(3)]);
            break;
        }
    }
    line
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
