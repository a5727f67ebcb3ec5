//! No, in XMPP: a stream's error (RFC 6120, 4.9), behind a header of ours where the client has not got the server's.

use super::stream::{END, ERRORS, header, opened};
use super::xml::encoded;
use crate::failure::Reason;
use crate::protocol::Refusal;

/// Of each part of the text; what is longer is in the log.
const LONGEST: usize = 1000;

/// `said`: what the client awaits a header in answer to; with nothing, once it is greeted, it has one.
pub(in crate::protocol) fn refusal(refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said } = *refusal;
    let mut words = String::new();
    if !greeted || !said.is_empty() {
        let from = header(said).and_then(|header| header.to);
        let from = from.as_deref().map(|from| ("from", from));
        let attributes: Vec<_> = from.into_iter().chain([("id", id)]).collect();
        words += &opened(&attributes);
    }
    words += &format!(
        "<stream:error><{} xmlns='{ERRORS}'/><text xml:lang='en' xmlns='{ERRORS}'>{}; {} ({}, connection {id})</text>\
         </stream:error>{END}",
        condition(failure.reason),
        encoded(&cut(&format!("nuncio: {}", failure.detail))),
        encoded(&cut(failure.next_step())),
        failure.reason,
    );
    words.into_bytes()
}

fn cut(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().find(|(at, letter)| at + letter.len_utf8() > LONGEST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
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
