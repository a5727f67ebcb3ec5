//! Refusals as clients read them.

use super::*;
use crate::protocol::refused::hear;

/// Packet number, error number, SQLSTATE and text.
fn refused(failure: &Failure, greeted: bool, said: &[u8]) -> (u8, u16, Option<String>, String) {
    let refusal = Refusal { failure, id: "7KJ2", greeted, said };
    let (told, came_to) = hear(&mut *Protocol::Mysql.refusal(&refusal).unwrap(), []);
    assert_eq!(came_to, Some(Ok(())), "it is said at once");
    let Ok(Some(packet)) = first_packet(&told, LONGEST) else { panic!("{told:?}") };
    assert_eq!(packet.length(), told.len());
    let [ERR, a, b, text @ ..] = packet.body else { panic!("{told:?}") };
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
    let (sqlstate, text) = match text.strip_prefix('#') {
        Some(rest) => (Some(rest[..5].to_owned()), &rest[5..]),
        None => (None, text),
    };
    (packet.number, u16::from_le_bytes([*a, *b]), sqlstate, text.to_owned())
}

fn down() -> Failure {
    Failure::upstream(Stage::Connect, Reason::ConnectionRefused, "10.0.0.5:3306 refused the connection")
}

const SAID: &str = "nuncio: 10.0.0.5:3306 refused the connection; is the server running, and does it listen on this \
                    address and port? (connection_refused, connection 7KJ2)";

/// Before the greeting a client does not know yet that there is a SQLSTATE, and would print it.
#[test]
fn in_place_of_the_greeting_there_is_no_sqlstate() {
    assert_eq!(refused(&down(), false, b""), (0, 1158, None, SAID.to_owned()));
    // Its greeter says so too: it has heard nothing of the server's.
    assert_eq!(refused(&down(), true, &[0, 0, 0, 255]), (0, 1158, None, SAID.to_owned()));
}

#[test]
fn after_the_greeting_it_follows_the_clients_last_packet() {
    let sqlstate = Some("08S01".to_owned());
    for (said, number) in
        [(response(NATIVE, &[7; 20]), 2), (Vec::new(), 2), (vec![0, 0, 0, 5], 6), (vec![0, 0, 0, 254], 255)]
    {
        assert_eq!(refused(&down(), true, &said), (number, 1158, sqlstate.clone(), SAID.to_owned()));
    }
}

/// Programs look at the number: 1040 is tried again, 1130 is not.
#[test]
fn each_reason_has_the_number_that_programs_know() {
    let code = |reason| {
        let failure = Failure::upstream(Stage::Connect, reason, "x");
        let (_, code, sqlstate, _) = refused(&failure, true, b"");
        (code, sqlstate.unwrap())
    };
    for reason in Reason::ALL {
        assert!(matches!(code(*reason).0, 1040 | 1053 | 1130 | 1158 | 1159), "{reason}");
    }
    for (reason, number, sqlstate) in [
        (Reason::ConnectionLimitReached, 1040, "08004"),
        (Reason::QueueTimeout, 1040, "08004"),
        (Reason::Draining, 1053, "08S01"),
        (Reason::AdmissionDenied, 1130, "HY000"),
        (Reason::ConnectionTimeout, 1159, "08S01"),
        (Reason::CircuitOpen, 1158, "08S01"),
        (Reason::TlsCertificateError, 1158, "08S01"),
    ] {
        assert_eq!(code(reason), (number, sqlstate.to_owned()), "{reason}");
    }
}

/// Client libraries keep 512 bytes, and MariaDB's put a remark of theirs before what comes too early for TLS.
#[test]
fn the_text_fits_and_says_where_the_log_tells_more() {
    for detail in ["x".repeat(5000), "two\r\nlines \u{1b}[31m \0 \u{fc}".repeat(40)] {
        let failure = Failure::upstream(Stage::Handshake, Reason::TlsCertificateError, detail)
            .mend("mend it ".repeat(100));
        for (greeted, most) in [(true, 511), (false, 381)] {
            let (.., text) = refused(&failure, greeted, b"");
            assert!(text.len() <= most && text.len() > most - 20, "{} bytes: {text}", text.len());
            assert!(text.ends_with("(tls_certificate_error, connection 7KJ2)"), "{text}");
            assert!(text.contains("mend it"), "{text}");
        }
    }
}
