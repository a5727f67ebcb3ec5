//! No, in one line of POP3 or NNTP: what was seen, what to do, and where the log says more.

use crate::protocol::Refusal;
use crate::protocol::sentence::sentence;

/// Of a line with its end (RFC 2449, 4; RFC 3977, 3.1).
const MAX_LINE: usize = 512;

/// In place of a greeting, or of any command's answer and the next one's. `status`: what the line begins with.
pub(in crate::protocol) fn refusal(status: &str, refusal: &Refusal<'_>) -> Vec<u8> {
    let room = MAX_LINE - status.len() - " \r\n".len();
    let mut said = format!("{status} {}\r\n", sentence(refusal, room)).into_bytes();
    if refusal.greeted {
        // For whoever takes it for the answer of a server that does not know what it can do, and goes on (nntplib, poplib).
        said.extend_from_within(..);
    }
    said
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
        assert_eq!(
            refused(Protocol::Pop3, &failure),
            format!("-ERR [SYS/TEMP] service unavailable, please wait; {words}")
        );
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

    /// However much there is to tell, it is one line that every client takes, with all its parts.
    #[test]
    fn a_long_story_is_one_line() {
        for reason in Reason::ALL {
            for protocol in [Protocol::Pop3, Protocol::Nntp] {
                let failure =
                    Failure::upstream(Stage::Relay, *reason, "x\r\n".repeat(500)).mend("y".repeat(500));
                let said = refused(protocol, &failure);
                let text = said.strip_suffix("\r\n").expect("a line");
                assert!(
                    said.len() <= MAX_LINE && text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                    "{said}"
                );
                assert!(text.contains(" nuncio: x") && text.contains("; y"), "{said}");
                assert!(text.ends_with(&format!(" ({reason}, connection 00c0ffee00c0ffee)")), "{said}");
            }
        }
    }
}
