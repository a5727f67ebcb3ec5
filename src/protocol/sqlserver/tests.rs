//! SQL Server: PRELOGIN from either side, and a login from then on; in [`messages`] its framing, in [`refusals`] what a refused
//! client is told.

use super::packet::{LONGEST_MESSAGE, Message, PRELOGIN, TABULAR, message, put_message};
use super::prelogin::{Encryption, Prelogin};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::refused::{cut, hear, is_told_the_same_however_it_is_cut, jumble, refused, refused_for};
use crate::protocol::{Asking, Meeting, Negotiated, Offer, Opening, Protocol};
use crate::relay::{Greeter, Onward, Party};

mod messages;
mod refusals;

/// Options by their codes, with the values right behind the table.
fn payload(options: &[(u8, &[u8])]) -> Vec<u8> {
    let (mut table, mut values) = (Vec::new(), Vec::new());
    for (option, value) in options {
        let place = u16::try_from(options.len() * 5 + 1 + values.len()).unwrap().to_be_bytes();
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        table.extend_from_slice(&[*option, place[0], place[1], length[0], length[1]]);
        values.extend_from_slice(value);
    }
    table.push(0xff);
    [table, values].concat()
}

/// One packet.
fn packet(kind: u8, status: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    [&[kind, status, length[0], length[1], 0, 0, 1, 0], payload].concat()
}

/// As FreeTDS says it, with MARS and an option that is not known yet.
fn client_prelogin(encryption: u8) -> Vec<u8> {
    let options: [(u8, &[u8]); 6] = [
        (0, &[9, 0, 0, 0, 0, 0]),
        (1, &[encryption]),
        (2, b"MSSQLServer\0"),
        (3, &[1, 2, 3, 4]),
        (4, &[1]),
        (0x42, b"future"),
    ];
    packet(PRELOGIN, 1, &payload(&options))
}

/// Of a server whose instance has another name (1), with MARS and a nonce.
fn server_prelogin(encryption: &[u8]) -> Vec<u8> {
    let nonce = [7; 32];
    let options: [(u8, &[u8]); 6] =
        [(0, &[16, 0, 3, 232, 0, 0]), (1, encryption), (2, &[1]), (3, &[]), (4, &[1]), (7, &nonce)];
    packet(TABULAR, 1, &payload(&options))
}

/// A login of a version, of which only the beginning is looked at.
fn login(version: u32) -> Vec<u8> {
    let mut login = 200_u32.to_le_bytes().to_vec();
    login.extend_from_slice(&version.to_le_bytes());
    login.resize(200, b'l');
    packet(0x10, 1, &login)
}

/// As SQL Server says it.
fn server_error(text: &str) -> Vec<u8> {
    let letters: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let count = u16::try_from(text.encode_utf16().count()).unwrap().to_le_bytes();
    let mut error = vec![0xaa, 0, 0, 0x58, 0x48, 0, 0, 1, 14, count[0], count[1]];
    error.extend_from_slice(&letters);
    error.extend_from_slice(b"\x01s\0\0\x01\0\0\0");
    packet(TABULAR, 1, &error)
}

fn prelogin(bytes: &[u8], kind: u8) -> Prelogin {
    match message(bytes, kind) {
        Message::Whole { payload, length } if length == bytes.len() => Prelogin::read(&payload).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What a client opens with, as far as it is read before anything is dialled.
fn preface<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Result<Vec<u8>, Failure>> {
    let mut preface = Protocol::Sqlserver.preface(Offer::No).unwrap();
    let (said, opened) = hear(&mut *preface, pieces);
    assert!(said.is_empty(), "nothing is said to a client before the server is known");
    opened.map(|opened| opened.map(|opening| opening.bytes))
}

/// What the server is asked, and what comes of its answer.
fn negotiation<'a>(
    opening: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Result<Vec<u8>, Failure>>) {
    let asking = Asking { as_host: "[127.0.0.1]", server_name: "db", opening, alone: opening.is_empty() };
    let (said, negotiated) = hear(&mut *Protocol::Sqlserver.negotiation(&asking).unwrap(), pieces);
    (said, negotiated.map(|negotiated| negotiated.map(|negotiated| negotiated.greeting)))
}

fn greeter(opening: &[u8], greeting: &[u8], secured: bool) -> (Box<dyn Greeter>, Onward) {
    let greeting = Protocol::Sqlserver.greet(Meeting {
        opening: Opening { bytes: opening.to_vec(), ..Opening::default() },
        negotiated: Negotiated { greeting: greeting.to_vec() },
        secured,
        offer: Offer::No,
        keep_key: Box::new(drop),
    });
    (greeting.greeter.unwrap(), greeting.onward)
}

#[test]
fn a_client_is_heard_up_to_its_prelogin_and_told_what_is_amiss_otherwise() {
    let whole = client_prelogin(0);
    assert_eq!(preface([&whole[..whole.len() - 1]]), None);
    for behind in [&b""[..], &login(0x7400_0004)] {
        let bytes = [&whole, behind].concat();
        assert_eq!(preface([&bytes[..]]), Some(Ok(bytes)));
    }
    let old = login(0x7000_0000);
    assert_eq!(preface([&old[..9]]), Some(Ok(old[..9].to_vec())), "TDS 7.0 begins with the login");
    for (bytes, words, mend) in [
        (&b"\x16\x03\x01\x02\0\x01"[..], "starts TLS", "Encrypt=no"),
        (b"\x02\0\x02\0", "TDS 4.2 or 5.0", "7.4"),
        (b"GET / HTTP/1.1\r\n", "not TDS", "protocol"),
        (b"\x12\x01\0\x07\0\0\0\0", "a length that none has", "protocol"),
        (b"\x12\x03\0\x1a\0\0\0\0", "does not count", "protocol"),
        (b"\x12\x01\xff\xff\0\0\0\0", "a length that none has", "protocol"),
        (&packet(PRELOGIN, 1, &[0, 0, 6, 0, 9, 0xff]), "outside of it", "protocol"),
    ] {
        let failure = preface([bytes]).unwrap().unwrap_err();
        assert_eq!((failure.stage, failure.reason), (Stage::Admit, Reason::BadPreface));
        assert!(failure.detail.contains(words) && failure.next_step().contains(mend), "{failure}");
    }
    let left = |heard: &[u8]| Protocol::Sqlserver.preface(Offer::No).unwrap().ended(heard);
    assert_eq!(left(b""), None);
    assert!(left(&whole[..20]).unwrap().detail.contains("after 20 bytes"));
}

/// Whatever the client wants: encryption is between nuncio and the server. All else is between those two.
#[test]
fn the_server_is_asked_for_encryption_and_for_all_else_that_the_client_asks() {
    for encryption in [0, 1, 2, 3, 0x80] {
        let (said, came_to) = negotiation(&client_prelogin(encryption), []);
        assert_eq!((said, came_to), (client_prelogin(1), None));
    }
    let without = packet(PRELOGIN, 1, &payload(&[(0, &[9, 0, 0, 0, 0, 0]), (4, &[0])]));
    let with = packet(PRELOGIN, 1, &payload(&[(0, &[9, 0, 0, 0, 0, 0]), (1, &[1]), (4, &[0])]));
    assert_eq!(negotiation(&without, []).0, with);
    let behind = [client_prelogin(0), login(0x7400_0004)].concat();
    assert_eq!(negotiation(&behind, []).0, client_prelogin(1), "the login is for inside TLS");
    let (alone, _) = negotiation(b"", []);
    assert_eq!(prelogin(&alone, PRELOGIN).encryption(), Some(Encryption::On));
    assert_eq!(negotiation(&login(0x7000_0000), []).0, alone, "TDS 7.0 has no PRELOGIN of its own");
}

#[test]
fn a_server_with_encryption_is_told_apart_from_one_without_and_from_another_program() {
    let opening = client_prelogin(2);
    for encryption in [1, 3] {
        let (_, came_to) = negotiation(&opening, [&server_prelogin(&[encryption])[..]]);
        assert_eq!(came_to, Some(Ok(server_prelogin(&[2]))), "instance, MARS and nonce stay as they are");
    }
    let split = payload(&[(0, &[16, 0, 3, 232, 0, 0]), (1, &[1])]);
    let split = [packet(TABULAR, 0, &split[..3]), packet(TABULAR, 1, &split[3..])].concat();
    assert!(negotiation(&opening, [&split[..]]).1.unwrap().is_ok());

    let behind = [server_prelogin(&[1]), b"\x16".to_vec()].concat();
    let without = packet(TABULAR, 1, &payload(&[(0, &[16, 0, 3, 232, 0, 0])]));
    let nasty = server_error("full\r\n\u{1b}[31m ü");
    let situations: [(&[u8], Reason, &str, &str); 12] = [
        (&server_prelogin(&[0]), Reason::NegotiationRefused, "ENCRYPT_OFF", "certificate"),
        (&server_prelogin(&[2]), Reason::NegotiationRefused, "ENCRYPT_NOT_SUP", "tls = \"off\""),
        (&server_prelogin(&[9]), Reason::NegotiationRefused, "says nothing", "certificate"),
        (&server_prelogin(&[]), Reason::NegotiationRefused, "says nothing", "certificate"),
        (&without, Reason::NegotiationRefused, "says nothing", "certificate"),
        (
            &nasty,
            Reason::NegotiationRefused,
            "full\\x0d\\x0a\\x1b[31m \\xc3\\xbc (error 18520, state 1",
            "log",
        ),
        (&behind, Reason::NegotiationError, "bytes in plaintext behind", "on the way"),
        (b"\x15\x03\x01\0\x02\x02\x46", Reason::NegotiationError, "another type", "tls = \"direct\""),
        (b"220 mail\r\n", Reason::NegotiationError, "another type", "`protocol`"),
        (b"\x04\x01\0\x04", Reason::NegotiationError, "", "`protocol`"),
        (b"\x04\x01\0\x07\0\0\0\0", Reason::NegotiationError, "a length that none has", "`protocol`"),
        (&packet(TABULAR, 1, b"\0\0"), Reason::NegotiationError, "that is none", "`protocol`"),
    ];
    for (bytes, reason, words, mend) in situations {
        let (_, came_to) = negotiation(&opening, [bytes]);
        let Some(came_to) = came_to else {
            assert!(words.is_empty(), "{words}");
            continue;
        };
        let failure = came_to.unwrap_err();
        assert_eq!((failure.stage, failure.side, failure.reason), (Stage::Negotiate, Side::Upstream, reason));
        assert!(failure.detail.contains(words) && failure.next_step().contains(mend), "{failure}");
    }
    let asking = Asking { as_host: "", server_name: "", opening: b"", alone: true };
    let talk = Protocol::Sqlserver.negotiation(&asking).unwrap();
    for heard in [&b""[..], b"\x04\x01"] {
        let failure = talk.ended(heard).unwrap();
        assert!(
            failure.next_step().contains("tls = \"direct\""),
            "a server of TDS 8 only hangs up: {failure}"
        );
    }
}

/// Through TLS that was asked for: the server's answer is the client's greeting, and its login goes up as it is.
#[test]
fn a_client_logs_in_as_if_there_were_no_encryption() {
    let answer = server_prelogin(&[2]);
    for behind in [&b""[..], &login(0x7400_0004)] {
        let opening = [client_prelogin(0), behind.to_vec()].concat();
        let (mut greeter, mut onward) = greeter(&opening, &answer, true);
        assert_eq!((&onward.up[..], &onward.down), (behind, &answer));
        assert!(greeter.may_refuse() && greeter.why_ended().is_none());
        greeter.client_said(&login(0x7400_0004), &mut onward).unwrap();
        assert_eq!(greeter.unanswered(), onward.up);
        greeter.upstream_said(b"\x04", &mut onward).unwrap();
        assert!(greeter.is_done() && !greeter.may_refuse());
        assert_eq!(onward.down, [&answer[..], b"\x04"].concat());
    }
    let (greeter, onward) = greeter(&login(0x7000_0000), &answer, true);
    assert_eq!((onward.up, onward.down), (login(0x7000_0000), Vec::new()), "it did not ask for an answer");
    assert_eq!(greeter.unanswered(), login(0x7000_0000));
}

#[test]
fn a_client_that_insists_on_encryption_is_explained() {
    for (encryption, insists) in [(0, false), (1, true), (2, false), (3, true)] {
        let (mut greeter, mut onward) = greeter(&client_prelogin(encryption), &server_prelogin(&[2]), true);
        let remark = greeter.why_ended();
        assert_eq!(remark.is_some(), insists);
        if let Some(remark) = remark {
            assert_eq!(remark.of, Party::Client);
            assert!(remark.mend.contains("Encrypt=no"));
        }
        let objection = greeter.client_said(b"\x12\x01\0\x80", &mut onward).unwrap_err();
        assert!(objection.mend.contains("Encrypt=no"), "TLS inside PRELOGIN all the same");
        assert!(onward.up.is_empty());
        let (mut greeter, mut onward) =
            self::greeter(&client_prelogin(encryption), &server_prelogin(&[2]), true);
        greeter.client_said(&login(0x7400_0004), &mut onward).unwrap();
        assert_eq!(greeter.why_ended(), None);
    }
}

/// TDS 8: PRELOGIN inside TLS. Neither side may be led to begin TLS once more.
#[test]
fn through_tls_from_the_first_byte_both_are_told_that_there_is_none_within() {
    let behind = b"\x04 its login's answer".to_vec();
    let error = server_error("no");
    for (says, becomes) in [
        (server_prelogin(&[0]), server_prelogin(&[2])),
        (server_prelogin(&[1]), server_prelogin(&[2])),
        ([server_prelogin(&[3]), behind.clone()].concat(), [server_prelogin(&[2]), behind].concat()),
        (error.clone(), error),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), b"HTTP/1.1 400 Bad Request\r\n".to_vec()),
    ] {
        for piece in [1, 7, 5000] {
            let (mut greeter, mut onward) = greeter(&client_prelogin(1), b"", true);
            assert_eq!((&onward.up, &onward.down), (&client_prelogin(2), &Vec::new()));
            assert_eq!(greeter.unanswered(), client_prelogin(1));
            for piece in says.chunks(piece) {
                assert!(greeter.is_done() || greeter.may_refuse() || onward.down.is_empty());
                match greeter.is_done() {
                    true => onward.down.extend_from_slice(piece),
                    false => greeter.upstream_said(piece, &mut onward).unwrap(),
                }
            }
            assert_eq!(onward.down, becomes);
            let is_prelogin = becomes == server_prelogin(&[2]);
            assert_eq!(greeter.may_refuse(), is_prelogin, "the login is awaited");
            assert_eq!(greeter.why_ended().is_some(), is_prelogin);
        }
    }
}

/// Without TLS to the server a client's own encryption is all that there is: nothing of it is touched.
#[test]
fn without_tls_to_the_server_nothing_is_changed() {
    let (mut greeter, mut onward) = greeter(&client_prelogin(1), b"", false);
    greeter.client_said(b"\x12\x01", &mut onward).unwrap();
    assert_eq!(onward.up, [&client_prelogin(1)[..], b"\x12\x01"].concat());
    greeter.upstream_said(&server_prelogin(&[1]), &mut onward).unwrap();
    assert_eq!(onward.down, server_prelogin(&[1]));
    assert!(greeter.is_done());
}

#[test]
fn however_a_sides_words_are_cut_the_same_comes_of_them() {
    let client = [client_prelogin(0), client_prelogin(1), login(0x7400_0004), b"\x16\x03\x01".to_vec()];
    let fragments = [&server_prelogin(&[1])[8..20], &server_prelogin(&[1])[20..]];
    let server = [
        server_prelogin(&[1]),
        server_prelogin(&[2]),
        server_error("no"),
        packet(TABULAR, 0, fragments[0]),
        packet(TABULAR, 1, fragments[1]),
    ];
    let (mut opened, mut asked, mut failed) = (0, 0, 0);
    for seed in 0..4_000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        let bytes = jumble(&client, random);
        let whole = preface([&bytes[..]]);
        let split = preface(cut(&bytes, random));
        match (&whole, &split) {
            // What comes later is relayed.
            (Some(Ok(whole)), Some(Ok(split))) => {
                assert!(whole.starts_with(split), "seed {seed}");
                opened += 1;
            }
            _ => assert_eq!(whole, split, "seed {seed}"),
        }

        let bytes = jumble(&server, random);
        let whole = negotiation(&client_prelogin(0), [&bytes[..]]);
        let split = negotiation(&client_prelogin(0), cut(&bytes, random));
        match (&whole.1, &split.1) {
            (Some(Err(injected)), Some(Ok(_))) => {
                assert!(injected.detail.contains("injecting"), "seed {seed}")
            }
            _ => assert_eq!(whole, split, "seed {seed}"),
        }
        asked += usize::from(matches!(split.1, Some(Ok(_))));
        failed += usize::from(matches!(split.1, Some(Err(_))));

        let greet = |pieces: Vec<&[u8]>| {
            let (mut greeter, mut onward) = greeter(&client_prelogin(0), b"", true);
            for piece in pieces {
                match greeter.is_done() {
                    true => onward.down.extend_from_slice(piece),
                    false => greeter.upstream_said(piece, &mut onward).unwrap(),
                }
            }
            (onward, greeter.is_done())
        };
        assert_eq!(greet(cut(&bytes, random)), greet(vec![&bytes]), "seed {seed}");
    }
    assert!(opened > 1000 && asked > 300 && failed > 1000, "{opened} {asked} {failed}");
}
