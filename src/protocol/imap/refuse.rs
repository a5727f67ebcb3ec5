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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Stage};

    fn refused(failure: &Failure) -> String {
        let said = |greeted| refusal(&Refusal { failure, id: "00c0ffee00c0ffee", greeted, said: b"" });
        assert_eq!(said(true), said(false), "a greeting may be BYE too");
        String::from_utf8(said(false)).unwrap()
    }

    #[test]
    fn a_client_reads_what_was_seen_what_to_do_and_where_to_look() {
        let failure = Failure::upstream(
            Stage::Connect,
            Reason::ConnectionRefused,
            "192.0.2.25:143 refused the connection",
        );
        assert_eq!(
            refused(&failure),
            "* BYE [UNAVAILABLE] nuncio: 192.0.2.25:143 refused the connection; is the server running, and does it listen \
             on this address and port? (connection_refused, connection 00c0ffee00c0ffee)\r\n"
        );
    }

    /// RFC 5530 and RFC 9051: one line, a code that is one, and text.
    #[test]
    fn every_reason_with_any_words_is_one_line() {
        for reason in Reason::ALL {
            let detail = "\r\n* OK [ALERT] \u{1F600}\0".repeat(100);
            let said = refused(&Failure::upstream(Stage::Relay, *reason, detail.clone()).mend(detail));
            let line =
                said.strip_prefix("* BYE [").and_then(|said| said.strip_suffix("\r\n")).expect("a line");
            assert!(said.len() < 1000 && line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{said}");
            let (code, text) = line.split_once("] ").expect("a code");
            assert!(
                code.bytes().all(|byte| byte.is_ascii_uppercase()) && text.starts_with("nuncio: "),
                "{said}"
            );
            assert!(text.ends_with(&format!(" ({reason}, connection 00c0ffee00c0ffee)")), "{said}");
        }
    }
}
