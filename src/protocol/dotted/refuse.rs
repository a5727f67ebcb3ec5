//! No, in one line of POP3 or NNTP: what was seen, what to do, and where the log says more.

use crate::protocol::Refusal;
use crate::protocol::reply::printable;

/// Of a line with its end (RFC 2449, 4; RFC 3977, 3.1).
const MAX_LINE: usize = 512;

/// In place of a greeting, or of any command's answer and the next one's. `status`: what the line begins with.
pub(in crate::protocol) fn refusal(status: &str, refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said: _ } = *refusal;
    let last = format!(" ({}, connection {id})", failure.reason);
    let room = MAX_LINE - "\r\n".len() - status.len() - " nuncio: ; ".len() - last.len();
    let (detail, mend) = (printable(&failure.detail), printable(failure.next_step()));
    let (detail, mend) = (detail.trim(), mend.trim());
    // Whichever is short leaves its room to the other.
    let detail = shortened(detail, (room / 2).max(room.saturating_sub(mend.len())));
    let mend = shortened(mend, room - detail.len());
    let mut said = format!("{status} nuncio: {detail}; {mend}{last}\r\n").into_bytes();
    if greeted {
        // For whoever takes it for the answer of a server that does not know what it can do, and goes on (nntplib).
        said.extend_from_within(..);
    }
    said
}

/// ASCII only: every index is a boundary.
fn shortened(text: &str, room: usize) -> String {
    match text.get(..room.saturating_sub(3)) {
        Some(kept) if text.len() > room => format!("{}...", kept.trim_end()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason, Stage};
    use crate::protocol::Protocol;

    fn refused(protocol: Protocol, failure: &Failure) -> String {
        let say = |greeted| {
            let refusal = Refusal { failure, id: "00c0ffee00c0ffee", greeted, said: b"" };
            let mut said = Vec::new();
            let told = protocol.refusal(&refusal).unwrap().hear(&mut Vec::new(), &mut said);
            assert_eq!(told, Ok(Some(())));
            String::from_utf8(said).unwrap()
        };
        assert_eq!(say(true), say(false).repeat(2), "for the next command too");
        say(false)
    }

    #[test]
    fn a_client_reads_what_was_seen_what_to_do_and_where_to_look() {
        let seen = "192.0.2.25:110 refused the connection";
        let failure = Failure::upstream(Stage::Connect, Reason::ConnectionRefused, seen);
        let words = "nuncio: 192.0.2.25:110 refused the connection; is the server running, and does it listen on \
                     this address and port? (connection_refused, connection 00c0ffee00c0ffee)\r\n";
        assert_eq!(refused(Protocol::Pop3, &failure), format!("-ERR [SYS/TEMP] {words}"));
        assert_eq!(refused(Protocol::Nntp, &failure), format!("400 {words}"));
    }

    /// What mends itself is told apart from what a person has to mend (RFC 3206; RFC 3977, 3.2.1).
    #[test]
    fn a_client_can_tell_whether_to_come_again() {
        for (reason, pop3, nntp) in [
            (Reason::CircuitOpen, "-ERR [SYS/TEMP] ", "400 "),
            (Reason::Draining, "-ERR [SYS/TEMP] ", "400 "),
            (Reason::ConnectionLimitReached, "-ERR [SYS/TEMP] ", "400 "),
            (Reason::TlsCertificateError, "-ERR [SYS/PERM] ", "400 "),
            (Reason::NegotiationRefused, "-ERR [SYS/PERM] ", "400 "),
            (Reason::AdmissionDenied, "-ERR [SYS/PERM] ", "502 "),
        ] {
            let failure = Failure::upstream(Stage::Admit, reason, "seen");
            assert!(refused(Protocol::Pop3, &failure).starts_with(pop3), "{reason}");
            assert!(refused(Protocol::Nntp, &failure).starts_with(nntp), "{reason}");
        }
    }

    /// Whatever a detail holds: it is one line of printable ASCII that every client takes, and none of its parts is missing.
    #[test]
    fn every_reason_with_any_words_is_one_line() {
        for seed in 0..4_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let alphabet: Vec<char> = "ab  \r\n\t\0\u{7f}é×\u{202e}😀%-".chars().collect();
            let mut words = || {
                let longest = *rng.choice([1, 100, 400, 1500].as_slice()).unwrap();
                let length = rng.usize(0..longest);
                (0..length).map(|_| *rng.choice(&alphabet).unwrap()).collect::<String>()
            };
            let (detail, mend) = (words(), words());
            let reason = *rng.choice(Reason::ALL).unwrap();
            let protocol = *rng.choice([Protocol::Pop3, Protocol::Nntp].as_slice()).unwrap();
            let failure =
                Failure::upstream(Stage::Relay, reason, format!("x{detail}")).mend(format!("y{mend}"));
            let said = refused(protocol, &failure);
            let text = said.strip_suffix("\r\n").expect("a line");
            assert!(said.len() <= MAX_LINE && text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{said}");
            assert!(text.contains(" nuncio: x") && text.contains("; y"), "seed {seed}: {said}");
            let last = format!(" ({reason}, connection 00c0ffee00c0ffee)");
            assert!(text.ends_with(&last), "seed {seed}: {said}");
            // It is only shortened where it has to be, and each leaves the other its half.
            let (detail, mend) = (printable(&failure.detail), printable(failure.next_step()));
            let whole = format!(" nuncio: {}; {}", detail.trim(), mend.trim());
            assert_eq!(text.contains(&whole), !text.contains("... ") && !text.contains("...;"), "{said}");
        }
    }
}
