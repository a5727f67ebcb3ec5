//! PostgreSQL's messages: tables of situations, and what must hold however the bytes are cut and whatever they are.

use std::sync::mpsc;

use fastrand::Rng;

use super::super::{Negotiated, Opening, Protocol, Refusal, SessionKey, Talk};
use super::*;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::relay::{Greeting, Objection, Onward, Party};

/// Length, code or version, and the rest.
fn first(code: u32, rest: &[u8]) -> Vec<u8> {
    [&u32::try_from(8 + rest.len()).unwrap().to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

/// Type, length and the rest.
fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(4 + rest.len()).unwrap().to_be_bytes(), rest].concat()
}

fn ssl() -> Vec<u8> {
    first(SSL_REQUEST, b"")
}

fn gss() -> Vec<u8> {
    first(GSSENC_REQUEST, b"")
}

fn startup() -> Vec<u8> {
    first(3 << 16, b"user\0erp\0database\0orders\0\0")
}

fn cancel(secret: usize) -> Vec<u8> {
    first(CANCEL_REQUEST, &[&[0, 0, 16, 1][..], &vec![7; secret]].concat())
}

/// As the server gives it out.
fn key_data(secret: usize) -> Vec<u8> {
    message(b'K', &[&[0, 0, 16, 1][..], &vec![7; secret]].concat())
}

fn sasl(mechanisms: &[&str]) -> Vec<u8> {
    let list: String = mechanisms.iter().map(|name| format!("{name}\0")).collect();
    message(b'R', &[&10_u32.to_be_bytes()[..], list.as_bytes(), b"\0"].concat())
}

fn request(code: u32) -> Vec<u8> {
    message(b'R', &code.to_be_bytes())
}

fn error(fields: &str) -> Vec<u8> {
    message(b'E', format!("{fields}\0\0").replace('|', "\0").as_bytes())
}

/// A login as a server of version 18 leads it, with what of it reaches the client.
fn login() -> (Vec<u8>, Vec<u8>) {
    let behind = [
        message(b'R', b"\0\0\0\x0br=nonce,s=salt,i=4096"),
        message(b'R', b"\0\0\0\x0cv=proof"),
        request(0),
        message(b'S', b"server_version\x0018.1\0"),
        message(b'N', b"SNOTICE\0C00000\0Ma login trigger says hello\0\0"),
        key_data(32),
        message(b'Z', b"I"),
        b"\0\x01 whatever comes then \xff".to_vec(),
    ]
    .concat();
    let version = message(b'v', b"\0\x03\0\0\0\0\0\0");
    (
        [&version[..], &sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]), &behind].concat(),
        [&version[..], &sasl(&["SCRAM-SHA-256"]), &behind].concat(),
    )
}

/// Hears the pieces one by one. What follows the outcome is the opening's too, since whoever relays sends it on.
fn preface<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    let (mut preface, mut heard, mut said) = (Preface::new(Offer::No), Vec::new(), Vec::new());
    let mut opening = None::<Opening>;
    for piece in pieces {
        if let Some(opening) = &mut opening {
            opening.bytes.extend_from_slice(piece);
            continue;
        }
        heard.extend_from_slice(piece);
        match preface.hear(&mut heard, &mut said) {
            Ok(outcome) => opening = outcome,
            Err(failure) => return (said, Err(failure)),
        }
        assert!(opening.is_none() || heard.is_empty());
        assert!(heard.len() < 10_004, "an unfinished message is within its limit");
    }
    (said, Ok(opening))
}

fn hears(bytes: &[u8]) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    preface(std::iter::once(bytes))
}

/// Up to the first answer; what is left of it is for TLS.
fn negotiation<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<Negotiated>, Failure> {
    let (mut negotiation, mut heard, mut said) = (Negotiation::default(), Vec::new(), Vec::new());
    assert_eq!(negotiation.hear(&mut heard, &mut said), Ok(None));
    assert_eq!(said, ssl());
    for piece in pieces {
        heard.extend_from_slice(piece);
        if let Some(negotiated) = negotiation.hear(&mut heard, &mut said)? {
            assert!(heard.is_empty());
            return Ok(Some(negotiated));
        }
        assert!(heard.len() < 17_000, "it waits for no more than an error's limit");
    }
    assert_eq!(said, ssl(), "it asks once");
    negotiation.ended(&heard).map_or(Ok(None), Err)
}

fn answers(bytes: &[u8]) -> Failure {
    negotiation(std::iter::once(bytes)).expect_err("no TLS after that")
}

/// What the client is given of a login, its key, and whether the greeter was done. A greeter that is done is left.
#[derive(Debug, PartialEq)]
struct Led {
    down: Vec<u8>,
    key: Option<SessionKey>,
    objection: Option<Objection>,
    done: bool,
}

fn lead<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Led {
    let (keep, kept) = mpsc::channel();
    let keep_key = Box::new(move |key| keep.send(key).unwrap());
    let opening = Opening { bytes: startup(), ..Opening::default() };
    let Greeting { onward, greeter } = Protocol::Postgres.greet(Meeting {
        opening,
        negotiated: Negotiated::default(),
        secured: true,
        offer: Offer::No,
        keep_key,
    });
    assert_eq!(onward, Onward { up: startup(), down: Vec::new() });
    let (mut greeter, mut onward) = (greeter.expect("somebody reads along"), Onward::default());
    let mut objection = None;
    for piece in pieces {
        if greeter.is_done() {
            onward.down.extend_from_slice(piece);
        } else if let Err(objected) = greeter.upstream_said(piece, &mut onward) {
            objection = Some(objected);
            break;
        }
    }
    assert!(onward.up.is_empty());
    let key = kept.try_iter().next();
    assert!(kept.try_iter().next().is_none(), "one key at most");
    Led { down: onward.down, key, objection, done: greeter.is_done() }
}

fn given(bytes: &[u8]) -> Led {
    lead(std::iter::once(bytes))
}

/// Up to eight pieces, or one byte each.
fn cut<'a>(bytes: &'a [u8], random: &mut Rng) -> Vec<&'a [u8]> {
    if random.u8(..4) == 0 {
        return bytes.chunks(1).collect();
    }
    let mut at: Vec<_> = (0..random.usize(..8)).map(|_| random.usize(..=bytes.len())).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

/// Some of these in a row, at times with a byte changed, cut off or put in.
fn jumble(of: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        bytes.extend_from_slice(&of[random.usize(..of.len())]);
    }
    for _ in 0..random.usize(..3) {
        let at = random.usize(..bytes.len());
        match random.u8(..3) {
            0 => bytes[at] = random.u8(..),
            1 => bytes.truncate(at + 1),
            _ => bytes.insert(at, random.u8(..)),
        }
    }
    bytes
}

/// psql, JDBC and pgbench differ in what they ask for first; each ends with the same message, which goes up as it came.
#[test]
fn a_client_may_ask_for_encryption_in_any_order_and_is_told_no_each_time() {
    let ways = [
        ("sslmode=disable", vec![], &b""[..]),
        ("sslmode=prefer", vec![ssl()], b"N"),
        ("gssencmode=prefer, sslmode=disable", vec![gss()], b"N"),
        ("gssencmode=prefer, sslmode=prefer", vec![gss(), ssl()], b"NN"),
        ("the other way round", vec![ssl(), gss()], b"NN"),
        ("not awaiting the answer", vec![[ssl(), gss()].concat()], b"NN"),
    ];
    for (way, asks, said) in ways {
        for end in [startup(), first(3 << 16 | 2, b"user\0w\0replication\0true\0_pq_.x\0y\0\0")] {
            let (told, opening) = preface(asks.iter().map(Vec::as_slice).chain([&end[..]]));
            assert_eq!(told, said, "{way}");
            assert_eq!(opening, Ok(Some(Opening { bytes: end, ..Opening::default() })), "{way}");
        }
    }
}

/// A driver that sends its password right behind its startup message loses nothing.
#[test]
fn what_stands_behind_the_startup_message_goes_up_with_it() {
    let both = [startup(), message(b'p', b"secret\0")].concat();
    assert_eq!(hears(&both).1, Ok(Some(Opening { bytes: both, ..Opening::default() })));
}

/// ^C in psql: what it sends has to be found under what the server gave out, also with the long keys of protocol 3.2.
#[test]
fn a_cancel_request_carries_the_very_key_that_the_server_gave_out() {
    for secret in [4, 32, 256] {
        let opening = hears(&cancel(secret)).1.unwrap().unwrap();
        assert_eq!(opening.bytes, cancel(secret));
        assert!(opening.cancels.is_some());
        assert_eq!(opening.cancels, given(&key_data(secret)).key, "{secret}");
        assert_ne!(opening.cancels, given(&key_data(secret + 1)).key);

        let greeting = Protocol::Postgres.greet(Meeting {
            opening,
            negotiated: Negotiated::default(),
            secured: true,
            offer: Offer::No,
            keep_key: Box::new(|_| ()),
        });
        assert_eq!(greeting.onward, Onward { up: cancel(secret), down: Vec::new() });
        assert!(greeting.greeter.is_none(), "nobody answers a cancel request");
    }
}

/// Each is a program that was pointed at the wrong port, or set up so that it can never pass: the log says which.
#[test]
fn what_is_no_first_message_is_refused_with_what_it_looks_like() {
    let long = |length: u32| [&length.to_be_bytes()[..], &[0; 4]].concat();
    let situations: [(&[u8], &str); 18] = [
        (b"\x16\x03\x01\x02\x00\x01", "the client itself starts TLS"),
        (&[&ssl()[..], b"\x16\x03\x01"].concat(), "the client itself starts TLS"),
        (b"GET / HTTP/1.1\r\n", "speaks HTTP"),
        (b"PROXY TCP4 192.0.2.1", "PROXY protocol header"),
        (b"\r\n\r\n\0\r\nQUIT\n", "PROXY protocol header"),
        (b"EHLO mail\r\n", "would have 1162366031 bytes"),
        (&long(0), "would have 0 bytes"),
        (&long(7), "would have 7 bytes"),
        (&long(10_005), "would have 10005 bytes"),
        (&long(u32::MAX), "would have 4294967295 bytes"),
        (&first(2 << 16, b"orders"), "protocol 2.0, of before PostgreSQL 7.4"),
        (&first(4 << 16, b"\0"), "protocol 4.0, which is unknown"),
        (&first(SSL_REQUEST + 2, b""), "protocol 1234.5681, which is unknown"),
        (&first(SSL_REQUEST, b"\0"), "a SSLRequest of 9 bytes"),
        (&first(GSSENC_REQUEST, b"\0"), "a GSSENCRequest of 9 bytes"),
        (&cancel(3), "a CancelRequest of 15 bytes"),
        (&cancel(257), "a CancelRequest of 269 bytes"),
        (&ssl().repeat(1000), "SSLRequest again"),
    ];
    for (bytes, words) in situations {
        let (said, outcome) = hears(bytes);
        let failure = outcome.expect_err(words);
        assert_eq!(
            (failure.stage, failure.reason, failure.side),
            (Stage::Admit, Reason::BadPreface, Side::Client)
        );
        assert!(failure.detail.contains(words), "{failure}");
        assert!(said.len() <= 1, "it does not answer a flood");
    }
    let largest = first(3 << 16, &[b'x'; 9_996]);
    assert_eq!(hears(&largest).1.unwrap().unwrap().bytes.len(), 10_004, "the server's own limit");
}

/// A client that needs TLS hangs up after no, without a word; the operator has to learn what to set.
#[test]
fn a_client_that_leaves_after_no_insisted_on_encryption() {
    let left = |bytes: &[u8]| {
        let (mut preface, mut heard) = (Preface::new(Offer::No), bytes.to_vec());
        assert_eq!(preface.hear(&mut heard, &mut Vec::new()), Ok(None));
        preface.ended(&heard).map(|failure| failure.to_string())
    };
    assert_eq!(left(b""), None, "a port check");
    let tls = left(&ssl()).unwrap();
    assert!(tls.contains("insists on TLS") && tls.contains("sslmode=disable or prefer"), "{tls}");
    let tls = left(&[gss(), ssl()].concat()).unwrap();
    assert!(tls.contains("insists on TLS"), "{tls}");
    let gss = left(&[ssl(), gss()].concat()).unwrap();
    assert!(gss.contains("gssencmode=disable or prefer"), "{gss}");
    assert!(left(&startup()[..20]).unwrap().contains("after 20 bytes of its first message"));
}

/// One byte, and TLS begins. Whatever comes with it in plaintext was not said by the server that TLS will prove.
#[test]
fn only_a_lone_yes_begins_tls() {
    assert_eq!(negotiation([&b"S"[..]].into_iter()), Ok(Some(Negotiated::default())));
    for bytes in [&b"S\0"[..], b"S\x16\x03\x03", &[b'S'; 4000]] {
        let failure = answers(bytes);
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(
            failure.detail.contains("injecting") && failure.detail.contains("CVE-2021-23222"),
            "{failure}"
        );
    }
}

/// What a server says instead of yes, and what its operator has to do then.
#[test]
fn a_server_without_tls_is_told_apart_from_one_in_trouble_and_from_another_program() {
    use Reason::{NegotiationError, NegotiationRefused};
    let full = error("SFATAL|VFATAL|C53300|Msorry, too many clients already");
    let starting = error("SFATAL|C57P03|Mthe database system is starting up");
    let hba = error("SFATAL|C28000|Mno pg_hba.conf entry for host \"192.0.2.7\"|Htry SSL");
    let nasty = error("SFATAL|C5330\n|Mtwo\nlines \x1b[31m");
    let situations: [(&[u8], Reason, &str, &str); 13] = [
        (b"N", NegotiationRefused, "it has no TLS", "ssl = on"),
        (b"Nx", NegotiationRefused, "it has no TLS", "tls = \"off\""),
        (
            &full,
            NegotiationRefused,
            "error: sorry, too many clients already (SQLSTATE 53300)",
            "max_connections",
        ),
        (&full[..full.len() - 3], NegotiationRefused, "too many clients alre", "max_connections"),
        (&starting, NegotiationRefused, "starting up (SQLSTATE 57P03)", "wait for it"),
        (&hba, NegotiationRefused, "\"192.0.2.7\" (SQLSTATE 28000); its hint: try SSL", "pg_hba.conf"),
        (&nasty, NegotiationRefused, "error: two lines  [31m", "server's log"),
        (
            b"Ecould not fork new process for connection: Resource temporarily unavailable\n\0",
            NegotiationRefused,
            "error: could not fork new process for connection: Resource temporarily unavailable",
            "server's log",
        ),
        (b"Eno", NegotiationRefused, "error: no", "server's log"),
        (b"E\0\0\0\x04", NegotiationError, "no length that an error can have", "`protocol`"),
        (b"\x15\x03\x01\0\x02\x02\x28", NegotiationError, "a TLS alert", "tls = \"direct\""),
        (b"SSH-2.0-OpenSSH_10.0\r\n", NegotiationError, "an SSH server", "`protocol`"),
        (b"HTTP/1.1 400 Bad Request", NegotiationError, "with byte 0x48", "`protocol`"),
    ];
    for (bytes, reason, words, mend) in situations {
        let failure = answers(bytes);
        assert_eq!((failure.reason, failure.side), (reason, Side::Upstream), "{words}");
        assert!(failure.detail.contains(words), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
    }
    assert_eq!(
        negotiation(std::iter::empty()),
        Ok(None),
        "a server that only hangs up is somebody else's to explain"
    );
}

/// A server that never ends its error neither fills the memory nor keeps the client until a time limit.
#[test]
fn an_error_without_an_end_is_cut_off() {
    let endless = vec![b'E'; 1 << 20];
    let failure = negotiation(endless.chunks(100)).unwrap_err();
    assert!(failure.detail.len() < 400 && failure.detail.ends_with('…'), "{failure}");
    assert_eq!(negotiation(endless.chunks(1)), Err(failure));
}

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

/// TCP cuts where it likes: what is said, what goes on and what comes of it may not depend on it. Four thousand clients,
/// most of them broken in some way.
#[test]
fn however_a_clients_bytes_are_cut_the_same_comes_of_them() {
    let parts =
        [ssl(), gss(), startup(), cancel(4), cancel(256), b"GET / HTTP".to_vec(), vec![0x16, 3, 1, 2]];
    let (mut opened, mut failed) = (0, 0);
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        let whole = hears(&bytes);
        opened += usize::from(matches!(whole.1, Ok(Some(_))));
        failed += usize::from(whole.1.is_err());
        assert_eq!(preface(cut(&bytes, random).into_iter()), whole, "seed {seed}");
    }
    assert!(opened > 1000 && failed > 1000, "{opened} opened, {failed} failed: both kinds are met");
}

/// As above, for servers that are asked for TLS. A yes is told from injected bytes by nothing but the cut.
#[test]
fn however_a_servers_answer_is_cut_the_same_comes_of_it() {
    let parts = [
        b"N".to_vec(),
        error("SFATAL|C53300|Msorry, too many clients already"),
        b"Ecould not fork new process for connection: no memory\n\0".to_vec(),
        b"\x15\x03\x01\0\x02\x02\x28".to_vec(),
    ];
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        if bytes[0] != b'S' {
            let whole = negotiation(std::iter::once(&bytes[..]));
            assert!(whole.is_err() || bytes == [0x15], "seed {seed}");
            assert_eq!(negotiation(cut(&bytes, random).into_iter()), whole, "seed {seed}");
        }
    }
}

/// As above, for logins; and of what a server says nothing is lost, but the mechanisms that were taken out of a list.
#[test]
fn however_a_login_is_cut_the_same_reaches_the_client() {
    let mut parts = vec![
        sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        sasl(&["SCRAM-SHA-256-PLUS"]),
        request(0),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'v', &[0; 8]),
        key_data(4),
        message(b'Z', b"I"),
        error("SFATAL|C28P01|Mno"),
        error("SFATAL|C53300|Mfull"),
    ];
    parts.push(login().0);
    let (mut changed, mut keys, mut objections) = (0, 0, 0);
    for seed in 0..4000 {
        let random = &mut Rng::with_seed(seed);
        let bytes = jumble(&parts, random);
        let whole = given(&bytes);
        changed += usize::from(!bytes.starts_with(&whole.down));
        keys += usize::from(whole.key.is_some());
        objections += usize::from(whole.objection.is_some());
        if whole.done && !contains(&bytes, b"-PLUS") {
            assert_eq!(whole.down, bytes, "seed {seed}");
        }
        assert_eq!(lead(cut(&bytes, random).into_iter()), whole, "seed {seed}");
    }
    assert!(changed > 500 && keys > 500 && objections > 100, "{changed} {keys} {objections}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";
const HELLO: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";

/// What is said to a client of a listener that has TLS to give, and what comes of it; its bytes come one by one.
fn offered(offer: Offer, bytes: &[u8]) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    let (mut preface, mut heard, mut said) = (Preface::new(offer), Vec::new(), Vec::new());
    for byte in bytes {
        heard.push(*byte);
        match preface.hear(&mut heard, &mut said) {
            Ok(None) => {}
            ended => return (said, ended),
        }
    }
    (said, Ok(None))
}

/// Who asks for TLS gets it where the listener has it; who asks for GSSAPI first is told no, and may still ask.
#[test]
fn a_listener_with_tls_says_yes() {
    for offer in [Offer::Optional, Offer::Required] {
        for (asks, told) in [(SSL.to_vec(), &b"S"[..]), ([GSS, SSL].concat(), b"NS")] {
            let (said, opening) = offered(offer, &asks);
            assert_eq!(said, told);
            let opening = opening.unwrap().expect("an opening");
            assert!(opening.wants_tls && opening.bytes.is_empty());
        }
    }
    // Inside, a second request is answered as ever.
    assert_eq!(offered(Offer::Taken, &[SSL, HELLO].concat()).0, b"N");
}

/// CVE-2021-23214: plaintext behind the request could be anybody's.
#[test]
fn what_stands_behind_the_request_for_tls_ends_it() {
    for offer in [Offer::Optional, Offer::Required] {
        let (mut heard, mut said) = ([SSL, HELLO].concat(), Vec::new());
        let failure = Preface::new(offer).hear(&mut heard, &mut said).unwrap_err();
        assert_eq!((failure.reason, said.as_slice()), (Reason::BadPreface, &b""[..]));
        assert!(failure.detail.contains("behind its SSLRequest"), "{failure}");
    }
}

/// Where TLS is demanded, plaintext is turned away in words that say what to set; but for requests to cancel, which many a
/// client sends in plaintext whatever its session is in.
#[test]
fn a_listener_that_demands_tls_turns_plaintext_away() {
    let (said, failure) = offered(Offer::Required, HELLO);
    let failure = failure.unwrap_err();
    assert_eq!((failure.reason, said.as_slice()), (Reason::AdmissionDenied, &b""[..]));
    assert!(failure.next_step().contains("sslmode=require"), "{failure}");
    let words = refusal(&Refusal { failure: &failure, id: "id", greeted: false, said: b"" });
    assert!(words.windows(7).any(|field| field == b"C28000\0"));
    for (offer, bytes) in [(Offer::Optional, HELLO), (Offer::Required, CANCEL), (Offer::Taken, HELLO)] {
        let opening = offered(offer, bytes).1.unwrap().expect("an opening");
        assert_eq!((opening.bytes.as_slice(), opening.wants_tls), (bytes, false));
    }
}

/// A client that speaks TLS to nuncio says in SCRAM that it could bind, and the server would take the mended list for an
/// attack: the client is told what to set. One that does not say so goes on, as does one without TLS of its own.
#[test]
fn a_client_that_counts_on_channel_binding_is_told_before_the_server_is() {
    let answer = |mechanism: &str, flag: &str| {
        let first = format!("{flag},,n=,r=nonce");
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        message(b'p', &[mechanism.as_bytes(), b"\0", &length, first.as_bytes()].concat())
    };
    for (offer, mechanisms, mechanism, flag, told) in [
        (Offer::Taken, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..], "SCRAM-SHA-256", "y", true),
        (Offer::Taken, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..], "SCRAM-SHA-256", "n", false),
        (Offer::Taken, &["SCRAM-SHA-256"][..], "SCRAM-SHA-256", "y", false),
        (Offer::No, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"][..], "SCRAM-SHA-256", "y", false),
        (Offer::Taken, &["SCRAM-SHA-256-PLUS", "OAUTHBEARER"][..], "OAUTHBEARER", "y", false),
    ] {
        for longest in [1, 3, 7, 1000] {
            let Greeting { greeter, .. } = Protocol::Postgres.greet(Meeting {
                opening: Opening::default(),
                negotiated: Negotiated::default(),
                secured: true,
                offer,
                keep_key: Box::new(|_| {}),
            });
            let (mut greeter, mut onward) = (greeter.unwrap(), Onward::default());
            greeter.upstream_said(&sasl(mechanisms), &mut onward).unwrap();
            let answer = answer(mechanism, flag);
            let objection =
                answer.chunks(longest).find_map(|piece| greeter.client_said(piece, &mut onward).err());
            assert_eq!(objection.is_some(), told, "{mechanisms:?} {flag} {offer:?} {longest}");
            if let Some(objection) = objection {
                assert!(objection.mend.contains("channel_binding=disable") && greeter.may_refuse());
            } else {
                assert_eq!(onward.up, answer);
            }
        }
    }
}
