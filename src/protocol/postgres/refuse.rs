//! No, as a PostgreSQL server says it: a FATAL ErrorResponse, which every driver prints or throws.
//!
//! A client of protocol 3 reads it wherever it awaits an answer: after its StartupMessage, and during its login.

use super::super::Refusal;
use super::one_line;
use crate::failure::{Failure, Reason};

/// Of each field. Old drivers take no error of over 30,000 bytes.
const LONGEST_FIELD: usize = 1000;

/// In the server's own order of fields.
pub(in crate::protocol) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let Failure { stage, reason, side, detail, .. } = refusal.failure;
    let detail_field =
        format!("stage {}, reason {reason}, side {}; record {}", stage.label(), side.label(), refusal.id);
    let mut message = vec![b'E', 0, 0, 0, 0];
    for (letter, text) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', sqlstate(*reason)),
        (b'M', &format!("nuncio: {detail}")),
        (b'D', &detail_field),
        (b'H', refusal.failure.next_step()),
    ] {
        message.push(letter);
        message.extend(one_line(text, LONGEST_FIELD).bytes());
        message.push(0);
    }
    message.push(0);
    let length = u32::try_from(message.len() - 1).unwrap_or(u32::MAX);
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message
}

/// The class of errors that a client would have to do with, had it met this failure itself.
///
/// 57P03 (cannot_connect_now) is more than a name: to pg_isready and PQping it alone means "not now", any other means "the
/// server is up", and libpq given several hosts tries the next. So what may be over in a moment is 57P03, and 08001 is
/// where a server is there but nobody gets through to it until somebody mends something.
fn sqlstate(reason: Reason) -> &'static str {
    match reason {
        // cannot_connect_now
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationUnavailable
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::CircuitOpen
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::EstablishTimeout
        | Reason::EarlyClose
        | Reason::Draining => "57P03",
        // sqlclient_unable_to_establish_sqlconnection
        Reason::DestinationNotFound
        | Reason::DestinationIpProhibited
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::NegotiationError => "08001",
        // sqlserver_rejected_establishment_of_sqlconnection
        Reason::NegotiationRefused => "08004",
        // connection_failure: it was there, and is no more
        Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::HalfCloseTimeout => "08006",
        // protocol_violation, by the client
        Reason::PrefaceTimeout | Reason::BadPreface => "08P01",
        // invalid_authorization_specification
        Reason::AdmissionDenied | Reason::ClientCertificateRefused => "28000",
        // too_many_connections
        Reason::ConnectionLimitReached | Reason::QueueTimeout => "53300",
        // admin_shutdown
        Reason::LifetimeReached => "57P01",
        // idle_session_timeout
        Reason::IdleTimeout => "57P05",
        // config_file_error
        Reason::ProxyLoopDetected | Reason::ProxyConfigurationError => "F0000",
        // internal_error
        Reason::ProxyInternalError => "XX000",
    }
}
