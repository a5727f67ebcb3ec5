//! What a refused client is told, read back as a driver reads it.

use super::*;

const WORDS: &str = "nuncio: 10.0.0.5:1 refused the connection; is the server running, and does it listen on this \
                     address and port? (connection_refused, connection 7KJ2)";

/// What a driver makes of a login's answer.
#[derive(Debug, PartialEq, Eq)]
struct Error {
    number: u32,
    class: u8,
    text: String,
    server: String,
}

/// `long`: of 7.2 and later, with the longer numbers.
fn error(payload: &[u8], long: bool) -> Error {
    let take = |rest: &mut &[u8], count: usize| {
        let (taken, behind) = rest.split_at(count);
        *rest = behind;
        taken.to_vec()
    };
    let letters = |bytes: Vec<u8>| {
        let letters: Vec<u16> = bytes.chunks(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        String::from_utf16(&letters).unwrap()
    };
    let mut rest = payload;
    assert_eq!(take(&mut rest, 1), [0xaa]);
    let length = u16::from_le_bytes(take(&mut rest, 2).try_into().unwrap());
    let behind = &rest[usize::from(length)..];
    let number = u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap());
    let class = take(&mut rest, 2)[1];
    let count = u16::from_le_bytes(take(&mut rest, 2).try_into().unwrap());
    let text = letters(take(&mut rest, 2 * usize::from(count)));
    let count = take(&mut rest, 1)[0];
    let server = letters(take(&mut rest, 2 * usize::from(count)));
    assert_eq!(take(&mut rest, 1), [0], "no procedure");
    assert_eq!(take(&mut rest, if long { 4 } else { 2 }), if long { vec![0; 4] } else { vec![0; 2] });
    assert_eq!(rest, behind, "the token is as long as it says");
    let done = if long { [&[0xfd, 2][..], &[0; 11]].concat() } else { [&[0xfd, 2][..], &[0; 7]].concat() };
    assert_eq!(rest, done);
    Error { number, class, text, server }
}

fn expected() -> Error {
    Error { number: 40613, class: 20, text: WORDS.into(), server: "nuncio".into() }
}

/// The payloads of what is said.
fn said(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while !bytes.is_empty() {
        let Message::Whole { payload, length } = message(bytes, TABULAR) else { panic!("{bytes:?}") };
        payloads.push(payload);
        bytes = &bytes[length..];
    }
    payloads
}

#[test]
fn a_client_of_each_version_is_told_in_answer_to_its_login() {
    for (version, long) in [
        (0x7000_0000, false),
        (0x7100_0001, false),
        (0x7209_0002, true),
        (0x730b_0003, true),
        (0x7400_0004, true),
        (0x0800_0000, true),
    ] {
        let login = login(version);
        for (before, says) in [
            (Vec::new(), [client_prelogin(0), login.clone()].concat()),
            (client_prelogin(0), login.clone()),
            (login[..3].to_vec(), login[3..].to_vec()),
            (login.clone(), Vec::new()),
        ] {
            let (told, came_to) = refused(Protocol::Sqlserver, &before, [&says[..]]);
            assert_eq!(came_to, Some(Ok(())));
            let told = said(&told);
            assert_eq!(error(told.last().unwrap(), long), expected(), "{version:x}");
            let has_asked = before.first() == Some(&PRELOGIN) || says.first() == Some(&PRELOGIN);
            assert_eq!(told.len(), if has_asked { 2 } else { 1 }, "PRELOGIN is answered where it was sent");
        }
    }
}

/// Its own words then are all that it says; the record says what it did not hear.
#[test]
fn prelogin_is_answered_so_that_the_login_comes() {
    for encryption in [0, 1, 2, 3] {
        let (told, came_to) = refused(Protocol::Sqlserver, b"", [&client_prelogin(encryption)[..]]);
        let options: [(u8, &[u8]); 5] =
            [(0, &[16, 0, 3, 232, 0, 0]), (1, &[2]), (2, &[0]), (3, &[]), (4, &[1])];
        assert_eq!((said(&told), came_to), (vec![payload(&options)], None));
    }
}

#[test]
fn the_number_says_whether_to_try_again() {
    for (reason, number) in [
        (Reason::CircuitOpen, 40613),
        (Reason::ConnectionLimitReached, 17809),
        (Reason::Draining, 6005),
        (Reason::TlsCertificateError, 50000),
        (Reason::AdmissionDenied, 50000),
    ] {
        let long = "ü".repeat(5_000);
        let (told, _) = refused_for(Protocol::Sqlserver, reason, &long, b"", [&login(0x7400_0004)[..]]);
        assert!(told.len() <= 4096, "one packet of the size that every client takes");
        let error = error(&said(&told)[0], true);
        assert_eq!(error.number, number, "{reason}");
        assert!(error.text.ends_with(&format!(" ({reason}, connection 7KJ2)")), "{}", error.text);
    }
}

#[test]
fn who_says_something_else_is_left() {
    let begins_tls = [client_prelogin(1), client_prelogin(1)].concat();
    for says in
        [&b"\x16\x03\x01"[..], b"GET /", &begins_tls, &packet(PRELOGIN, 1, b"\0"), b"\x12\x02\0\x09\0\0\0\0"]
    {
        let (_, came_to) = refused(Protocol::Sqlserver, b"", [says]);
        assert!(matches!(came_to, Some(Err(_))), "{says:?}");
    }
}

#[test]
fn however_a_clients_words_are_cut_it_is_told_the_same() {
    let parts = [
        client_prelogin(0),
        client_prelogin(1),
        login(0x7400_0004),
        login(0x7100_0001),
        packet(PRELOGIN, 0, &client_prelogin(0)[8..20]),
        packet(PRELOGIN, 1, &client_prelogin(0)[20..]),
    ];
    let (ended, failed) = is_told_the_same_however_it_is_cut(Protocol::Sqlserver, &parts);
    assert!(ended > 1000 && failed > 500, "{ended} {failed}");
}
