//! No, in PostgreSQL's own words.

use super::*;

/// Letter and text of each field.
fn fields(refusal: &[u8]) -> Vec<(char, String)> {
    assert_eq!(refusal[0], b'E');
    assert_eq!(length(refusal, 1), Some(refusal.len() - 1));
    let (fields, end) = refusal[5..].split_at(refusal.len() - 7);
    assert_eq!(end, b"\0\0");
    let fields = fields.split(|byte| *byte == 0).map(|field| String::from_utf8(field.to_vec()).unwrap());
    fields.map(|field| (field.chars().next().unwrap(), field[1..].to_owned())).collect()
}

fn refuse(failure: &Failure) -> Vec<(char, String)> {
    let refuse = |greeted| refusal(&Refusal { failure, id: "7KJ2", greeted, said: b"" });
    assert_eq!(refuse(true), refuse(false));
    fields(&refuse(false))
}

/// What psql prints as FATAL, DETAIL and HINT.
#[test]
fn a_refusal_says_what_happened_where_and_what_to_do() {
    let down =
        Failure::upstream(Stage::Connect, Reason::ConnectionRefused, "10.0.0.5:5432 refused the connection");
    let expected = [
        ('S', "FATAL"),
        ('V', "FATAL"),
        ('C', "57P03"),
        ('M', "nuncio: 10.0.0.5:5432 refused the connection"),
        ('D', "stage connect, reason connection_refused, side upstream; record 7KJ2"),
        ('H', "is the server running, and does it listen on this address and port?"),
    ];
    assert_eq!(refuse(&down), expected.map(|(letter, text)| (letter, text.to_owned())));
}

/// A server's words may be in a detail: they neither end a field nor add one, nor make the message longer than libpq takes.
#[test]
fn a_refusal_is_whole_whatever_its_words_are() {
    for detail in ["a\0Hb", "two\r\nlines\x1b[31m", &"ü".repeat(40_000)] {
        let failure = Failure::upstream(Stage::Relay, Reason::Truncated, detail);
        let said = refuse(&failure);
        assert_eq!(said.iter().map(|(letter, _)| *letter).collect::<String>(), "SVCMDH");
        assert!(
            said.iter().all(|(_, text)| text.len() <= 1000 && !text.contains(char::is_control)),
            "{said:?}"
        );
    }
}

/// pg_isready and libpq's list of hosts go by the class alone: 57P03 is "not now", all else is "it is up".
#[test]
fn a_server_that_cannot_be_reached_now_is_not_called_up() {
    let class = |reason: &Reason| {
        refuse(&Failure::upstream(Stage::Connect, *reason, "x"))
            .into_iter()
            .find(|(letter, _)| *letter == 'C')
            .map(|(_, class)| class)
            .unwrap()
    };
    for reason in Reason::ALL {
        let class = class(reason);
        assert!(
            class.len() == 5 && class.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{reason}: {class}"
        );
    }
    for reason in [Reason::ConnectionRefused, Reason::DnsError, Reason::CircuitOpen, Reason::Draining] {
        assert_eq!(class(&reason), "57P03", "{reason}");
    }
    assert_eq!(class(&Reason::ConnectionLimitReached), "53300");
    assert_eq!(class(&Reason::TlsCertificateError), "08001");
    assert_eq!(class(&Reason::AdmissionDenied), "28000");
}
