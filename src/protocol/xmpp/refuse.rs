//! No, in XMPP: a stream's error (RFC 6120, 4.9), behind a header of ours where the client has not got the server's.

use super::stream::{END, ERRORS, header, opened};
use super::xml::encoded;
use crate::failure::Reason;
use crate::protocol::Refusal;
use crate::protocol::sentence::sentence;

/// Of the words; what is longer is in the log.
const LONGEST: usize = 1500;

/// `said`: what the client awaits a header in answer to; with nothing, once it is greeted, it has one.
pub(in crate::protocol) fn refusal(refused: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said } = *refused;
    let mut words = String::new();
    if !greeted || !said.is_empty() {
        let from = header(said).and_then(|header| header.to);
        let from = from.as_deref().map(|from| ("from", from));
        let attributes: Vec<_> = from.into_iter().chain([("id", id)]).collect();
        words += &opened(&attributes);
    }
    words += &format!(
        "<stream:error><{} xmlns='{ERRORS}'/><text xml:lang='en' xmlns='{ERRORS}'>{}</text></stream:error>{END}",
        condition(failure.reason),
        encoded(&sentence(refused, LONGEST)),
    );
    words.into_bytes()
}

/// RFC 6120, 4.9.3.
fn condition(reason: Reason) -> &'static str {
    match reason {
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationUnavailable
        | Reason::DestinationIpProhibited
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::CircuitOpen
        | Reason::NegotiationRefused
        | Reason::NegotiationError
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::ClientCertificateRefused
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::EstablishTimeout => "remote-connection-failed",
        Reason::DestinationNotFound => "host-unknown",
        Reason::ConnectionLimitReached | Reason::QueueTimeout => "resource-constraint",
        Reason::IdleTimeout | Reason::HalfCloseTimeout | Reason::PrefaceTimeout => "connection-timeout",
        Reason::LifetimeReached => "reset",
        Reason::Draining => "system-shutdown",
        Reason::AdmissionDenied => "policy-violation",
        Reason::BadPreface => "bad-format",
        Reason::ProxyLoopDetected | Reason::ProxyConfigurationError | Reason::ProxyInternalError => {
            "internal-server-error"
        }
    }
}
