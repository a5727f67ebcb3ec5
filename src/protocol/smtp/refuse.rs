//! No, in SMTP: 421 with an enhanced status (RFC 3463), in place of a greeting or of any command's answer.
//!
//! Every line stands alone: clients log the first, the last, or all of them.

use crate::failure::Reason;
use crate::protocol::Refusal;

/// Of a line with its end (RFC 5321, 4.5.3.1.5).
const MAX_LINE: usize = 512;
/// Lines of one text; what is longer is in the log.
const MAX_LINES: usize = 4;

/// What was seen, what to do next, and where the log says more.
pub(in crate::protocol) fn refusal(refusal: Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted: _ } = refusal;
    let status = status(failure.reason);
    // Mail that meets 421 is tried again, mail that meets 554 is returned.
    let code = if status.starts_with('5') { "554" } else { "421" };
    let mut lines = Vec::new();
    wrap(&format!("nuncio: {}", failure.detail), &mut lines);
    wrap(failure.next_step(), &mut lines);
    wrap(&format!("nuncio: {}, connection {id}", failure.reason), &mut lines);
    let last = lines.len().saturating_sub(1);
    let mut said = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let mark = if number == last { ' ' } else { '-' };
        said.extend_from_slice(format!("{code}{mark}{status} {line}\r\n").as_bytes());
    }
    said
}

/// As printable ASCII, in lines that fit behind code and status.
fn wrap(text: &str, lines: &mut Vec<String>) {
    let room = MAX_LINE - "421-4.7.99 \r\n".len();
    let printable = |c: char| match c {
        '…' => "...".to_owned(),
        c if c.is_ascii_graphic() => c.to_string(),
        c if c.is_whitespace() || c.is_control() => " ".to_owned(),
        _ => "?".to_owned(),
    };
    let text: String = text.chars().map(printable).collect();
    let mut rest = text.trim();
    for _ in 0..MAX_LINES {
        // ASCII only: every index is a boundary.
        let fits = rest.len().min(room);
        let end = match rest[..fits].rfind(' ') {
            Some(space) if rest.len() > room && space > 0 => space,
            _ => fits,
        };
        lines.push(rest[..end].trim_end().to_owned());
        rest = rest[end..].trim_start();
        if rest.is_empty() {
            break;
        }
    }
}

/// The enhanced status of a reason.
fn status(reason: Reason) -> &'static str {
    match reason {
        // Who may not come will not be let in later.
        Reason::AdmissionDenied => "5.7.1",
        // System not accepting network messages.
        Reason::DestinationUnavailable | Reason::CircuitOpen | Reason::Draining => "4.3.2",
        // System incorrectly configured; other system status.
        Reason::ProxyConfigurationError => "4.3.5",
        Reason::ProxyInternalError => "4.3.0",
        // No answer from host.
        Reason::ConnectionRefused | Reason::ConnectionTimeout | Reason::EstablishTimeout => "4.4.1",
        // Bad connection.
        Reason::ConnectionTerminated
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
        | Reason::PrefaceTimeout => "4.4.2",
        // Directory server failure: the DNS.
        Reason::DnsTimeout | Reason::DnsError => "4.4.3",
        // Unable to route; routing loop.
        Reason::DestinationNotFound | Reason::DestinationIpProhibited | Reason::DestinationIpUnroutable => {
            "4.4.4"
        }
        Reason::ProxyLoopDetected => "4.4.6",
        // Congestion.
        Reason::ConnectionLimitReached | Reason::QueueTimeout => "4.4.5",
        // Other protocol status.
        Reason::NegotiationError | Reason::BadPreface => "4.5.0",
        // Security features not supported; cryptographic failure.
        Reason::NegotiationRefused => "4.7.4",
        Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::ClientCertificateRefused => "4.7.5",
    }
}
