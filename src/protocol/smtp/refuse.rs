//! No, in SMTP and LMTP: 421 with an enhanced status (RFC 3463), in place of a greeting or of any command's answer and the next one's.
//!
//! Every line stands alone: clients log the first, the last, or all of them.

use super::Kin;
use crate::failure::Reason;
use crate::protocol::Refusal;
use crate::protocol::sentence::printable;

/// Of a line with its end (RFC 5321, 4.5.3.1.5).
const MAX_LINE: usize = 512;
/// Lines of one text; what is longer is in the log.
const MAX_LINES: usize = 4;

/// What was seen, what to do next, and where the log says more.
pub(in crate::protocol) fn refusal(kin: &Kin, refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said: _ } = *refusal;
    let (code, status) = match failure.reason {
        Reason::AdmissionDenied => kin.forbids,
        reason => ("421", status(reason)),
    };
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
    if greeted {
        // For whoever asks HELO when EHLO is refused, and shows its user only the answer to that (smtplib, its LMTP too, and
        // JavaMail).
        said.extend_from_within(..);
    }
    said
}

/// As printable ASCII, in lines that fit behind code and status.
fn wrap(text: &str, lines: &mut Vec<String>) {
    let room = MAX_LINE - "421-4.7.99 \r\n".len();
    let text = printable(text);
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

/// The enhanced status of a reason for which the client may come again.
fn status(reason: Reason) -> &'static str {
    match reason {
        // Not authorized.
        Reason::AdmissionDenied => "4.7.1",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Stage};
    use crate::protocol::smtp::SMTP;

    fn refused(failure: &Failure) -> String {
        let said = |greeted| refusal(&SMTP, &Refusal { failure, id: "00c0ffee00c0ffee", greeted, said: b"" });
        assert_eq!(said(true), said(false).repeat(2), "for HELO too");
        String::from_utf8(said(false)).unwrap()
    }

    #[test]
    fn a_client_reads_what_was_seen_what_to_do_and_where_to_look() {
        let failure = Failure::upstream(
            Stage::Connect,
            Reason::ConnectionRefused,
            "192.0.2.25:25 refused the connection",
        );
        assert_eq!(
            refused(&failure),
            "421-4.4.1 nuncio: 192.0.2.25:25 refused the connection\r\n\
             421-4.4.1 is the server running, and does it listen on this address and port?\r\n\
             421 4.4.1 nuncio: connection_refused, connection 00c0ffee00c0ffee\r\n"
        );
    }

    #[test]
    fn a_client_that_may_not_come_at_all_is_not_told_to_try_again() {
        let failure = Failure::upstream(Stage::Admit, Reason::AdmissionDenied, "user 1000 is not allowed");
        assert!(refused(&failure).starts_with("554-5.7.1 nuncio: user 1000 is not allowed\r\n554-5.7.1 "));
    }

    /// Whatever a detail holds: it is one reply of printable ASCII, in lines that every client takes.
    #[test]
    fn every_reason_with_any_words_is_one_reply() {
        for seed in 0..1_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let alphabet: Vec<char> = "ab  \r\n\t\0\u{7f}é…\u{202e}😀%-".chars().collect();
            let longest = *rng.choice([1, 100, 1500].as_slice()).unwrap();
            let detail: String =
                (0..rng.usize(0..longest)).map(|_| *rng.choice(&alphabet).unwrap()).collect();
            let reason = *rng.choice(Reason::ALL).unwrap();
            let said = refused(&Failure::upstream(Stage::Relay, reason, detail.clone()).mend(detail));
            let (code, status) = match reason {
                Reason::AdmissionDenied => ("554", "5.7.1"),
                reason => ("421", status(reason)),
            };
            let lines: Vec<&str> = said.split_inclusive("\r\n").collect();
            assert!(lines.len() <= 2 * MAX_LINES + 1, "{said}");
            for (number, line) in lines.iter().enumerate() {
                let text = line.strip_suffix("\r\n").expect("a line");
                assert!(
                    line.len() <= MAX_LINE && text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                    "{said}"
                );
                let mark = if number + 1 == lines.len() { ' ' } else { '-' };
                assert!(text.starts_with(&format!("{code}{mark}{status} ")), "seed {seed}: {said}");
            }
        }
    }

    /// RFC 3463: class, subject and detail; the class goes with the code.
    #[test]
    fn every_status_is_of_its_codes_class() {
        for reason in Reason::ALL {
            let parts: Vec<&str> = status(*reason).split('.').collect();
            assert!(parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok()), "{reason}");
            assert_eq!(parts[0], "4", "{reason}");
        }
    }
}
