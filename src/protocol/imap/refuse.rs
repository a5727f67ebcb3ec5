//! No, in IMAP: `* BYE` with a response code (RFC 5530), as a greeting or at any time later.
//!
//! One line: imaplib and its kin show their user that line and no other.

use crate::failure::Reason;
use crate::protocol::Refusal;
use crate::protocol::sentence::sentence;

/// Of the words. c-client and its kin cut at 1,000 bytes.
const LONGEST: usize = 900;

pub(in crate::protocol) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    format!("* BYE [{}] {}\r\n", code(refusal.failure.reason), sentence(refusal, LONGEST)).into_bytes()
}

/// Clients try again what is unavailable.
fn code(reason: Reason) -> &'static str {
    match reason {
        Reason::AdmissionDenied => "NOPERM",
        Reason::ProxyInternalError => "SERVERBUG",
        Reason::BadPreface | Reason::PrefaceTimeout => "CLIENTBUG",
        // Somebody has to mend something.
        Reason::DestinationNotFound
        | Reason::DestinationIpProhibited
        | Reason::NegotiationRefused
        | Reason::NegotiationError
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::ClientCertificateRefused
        | Reason::ProxyLoopDetected
        | Reason::ProxyConfigurationError => "CONTACTADMIN",
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationUnavailable
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::ConnectionLimitReached
        | Reason::CircuitOpen
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout
        | Reason::LifetimeReached
        | Reason::QueueTimeout
        | Reason::EstablishTimeout
        | Reason::Draining => "UNAVAILABLE",
    }
}
