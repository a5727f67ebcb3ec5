//! What the client is given of a login, and what is remembered of it.

use super::*;

/// The whole point: without it, libpq over plaintext dies of "server offered SCRAM-SHA-256-PLUS authentication over a
/// non-SSL connection".
#[test]
fn bound_mechanisms_are_taken_out_of_the_list_and_nothing_else_is_changed() {
    let (said, reaches) = login();
    let led = given(&said);
    assert_eq!(led.down, reaches);
    assert_eq!(led.key, given(&key_data(32)).key);
    assert!(led.done && led.key.is_some() && led.objection.is_none());

    let plain = sasl(&["SCRAM-SHA-256", "OAUTHBEARER"]);
    assert_eq!(given(&plain).down, plain);
    let behind = message(b'R', b"\0\0\0\x0aX-PLUS\0X\0\0left over");
    assert_eq!(given(&behind).down, message(b'R', b"\0\0\0\x0aX\0\0left over"));
    let without_end = message(b'R', b"\0\0\0\x0aX-PLUS\0X\0");
    assert_eq!(given(&without_end).down, without_end, "a list without its end is the client's to judge");
    let oversize = sasl(&["SCRAM-SHA-256-PLUS"; 1000]);
    assert_eq!(given(&oversize).down, oversize);
}

/// An empty list would leave the client with "none of the server's mechanisms are supported", and its user with nothing.
#[test]
fn a_server_that_wants_nothing_but_a_bound_mechanism_is_objected_to_while_a_refusal_can_be_read() {
    let (mut greeter, mut onward) = greeter();
    greeter.upstream_said(&message(b'v', &[0; 8]), &mut onward).unwrap();
    let objection = greeter.upstream_said(&sasl(&["SCRAM-SHA-256-PLUS"]), &mut onward).unwrap_err();
    assert_eq!(objection.to, Party::Upstream);
    assert!(objection.detail.contains("TLS ends at nuncio"), "{}", objection.detail);
    assert_eq!(onward.down, message(b'v', &[0; 8]));
    assert!(greeter.may_refuse());
}

/// What ends the login ends the reading, so that no byte of a session is ever looked at; and nothing is held back then.
#[test]
fn with_the_key_an_error_or_anything_odd_the_reading_is_over() {
    let situations: [(&str, Vec<u8>); 10] = [
        ("the key", key_data(4)),
        ("a key of no size", key_data(3)),
        ("a key of more than any size", key_data(257)),
        ("ready without a key, as some poolers are", [request(0), message(b'Z', b"I")].concat()),
        ("a wrong password", error("SFATAL|C28P01|Mpassword authentication failed for user \"erp\"")),
        ("an error of before 7.4", b"EFATAL: no\n\0".to_vec()),
        ("a length that is none", b"S\0\0\0\x03".to_vec()),
        ("a message of a gigabyte", b"N\x40\0\0\0".to_vec()),
        ("a request without its code", message(b'R', b"\0\0\0")),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ];
    for (situation, bytes) in situations {
        let bytes = [&request(5)[..], &bytes, b"R and so on"].concat();
        for led in [given(&bytes), lead(bytes.chunks(1))] {
            assert!(led.done, "{situation}");
            assert_eq!(led.down, bytes, "{situation}");
            assert_eq!(led.key.is_some(), situation == "the key", "{situation}");
        }
    }
}

fn greeter() -> (Box<dyn crate::relay::Greeter>, Onward) {
    let opening = Opening { bytes: startup(), ..Opening::default() };
    let greeting = Protocol::Postgres.greet(Meeting {
        opening,
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key: Box::new(|_| ()),
    });
    (greeting.greeter.unwrap(), Onward::default())
}

/// The client gets the server's own words, however they are cut, and the next one may go elsewhere. A place that is
/// missing for one role or one database says nothing of the server; one that is kept for superusers does.
#[test]
fn a_server_that_is_full_or_not_ready_is_remembered_and_its_words_pass() {
    for (says, is_overload) in [
        ("SFATAL|C53300|Msorry, too many clients already|RInitProcess", true),
        ("SFATAL|C53300|Mremaining connection slots are reserved|RInitPostgres", true),
        ("SFATAL|C53300|Mno more connections allowed", true),
        ("SFATAL|C53300|Mtoo many connections for role \"erp\"|RInitializeSessionUserId", false),
        ("SFATAL|C53300|Mtoo many connections for database \"erp\"|RCheckMyDatabase", false),
        ("SFATAL|C57P03|Mthe database system is starting up", true),
        ("SFATAL|C28P01|Mno", false),
    ] {
        let words = [&request(5)[..], &error(says), b"and so on"].concat();
        for longest in [1, 7, 1000] {
            let (mut greeter, mut onward) = greeter();
            for piece in words.chunks(longest) {
                greeter.upstream_said(piece, &mut onward).unwrap();
            }
            assert_eq!(onward.down, words, "{says}");
            assert_eq!((greeter.is_overloaded(), greeter.is_done()), (is_overload, !is_overload), "{says}");
            assert!(!greeter.may_refuse(), "the server has said no");
            let why = greeter.why_ended().filter(|remark| remark.of == Party::Upstream);
            assert_eq!(why.is_some_and(|why| why.detail.contains("SQLSTATE")), is_overload, "{says}");
        }
    }
}

/// A refusal in the middle of a message would be read as its rest; in a session it would be an answer to a query.
#[test]
fn a_refusal_fits_between_two_messages_until_the_session_begins() {
    let (mut greeter, mut onward) = greeter();
    let mut told = |bytes: &[u8]| {
        greeter.upstream_said(bytes, &mut onward).unwrap();
        greeter.may_refuse()
    };
    let status = message(b'S', b"server_version\x0018.1\0");
    assert!(told(b""), "nothing was said yet");
    assert!(told(&status[..4]), "what was said is still held back");
    assert!(!told(&status[4..9]), "the client has half a message");
    assert!(told(&status[9..]), "the client awaits the next one");
    assert!(told(&sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])[..20]), "the list is held back");
    let (mut greeter, _) = self::greeter();
    greeter.upstream_said(&key_data(4), &mut Onward::default()).unwrap();
    assert!(!greeter.may_refuse());
}

/// The client that insists on channel binding hangs up without a word, and so does a psql that has to ask for a password.
#[test]
fn why_a_client_left_is_told_where_it_left_instead_of_answering() {
    let left = |said: &[u8], answer: &[u8]| {
        let (mut greeter, mut onward) = greeter();
        greeter.upstream_said(said, &mut onward).unwrap();
        greeter.client_said(answer, &mut onward).unwrap();
        assert_eq!(onward.up, answer);
        greeter.why_ended().map(|remark| remark.detail)
    };
    let bound = sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    assert!(left(&bound, b"").unwrap().contains("channel binding"));
    assert_eq!(left(&bound, b"p"), None);
    for asks in [sasl(&["SCRAM-SHA-256"]), request(3), message(b'R', b"\0\0\0\x05salt")] {
        assert!(left(&asks, b"").unwrap().ends_with("asked it for a password"));
        assert_eq!(left(&asks, b"p"), None);
    }
    assert_eq!(left(&[bound, request(0)].concat(), b""), None);
    assert_eq!(left(b"", b""), None);
}
