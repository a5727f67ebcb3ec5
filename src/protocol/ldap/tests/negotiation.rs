//! Servers that are willing, servers that are not, and servers that are none.

use super::*;

fn asked<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Result<Option<Negotiated>, Failure>) {
    let asking = Asking { as_host: "", server_name: "", opening: b"", alone: false };
    hear(&mut *Protocol::Ldap.negotiation(&asking).unwrap(), pieces)
}

fn fails(bytes: &[u8]) -> (Vec<u8>, Failure) {
    let (said, outcome) = asked([bytes]);
    (said[31..].to_vec(), outcome.expect_err("no TLS after that"))
}

/// OpenLDAP writes lengths short, 389 DS and Active Directory in four bytes; with the response's name, and without.
#[test]
fn servers_that_are_willing_are_asked_for_tls_once() {
    let name = element(Length::Short, 0x8a, b"1.3.6.1.4.1.1466.20037");
    for length in LENGTHS {
        for name in [&b""[..], &name] {
            let yes = message_in(length, 1, 0x78, &[&result_in(length, 0, ""), name].concat());
            for at in 0..yes.len() {
                let (first, rest) = yes.split_at(at);
                let whole = asked([first, rest]);
                assert_eq!(whole, (start_tls(1), Ok(Some(Negotiated::default()))), "{length:?} at {at}");
                assert!(matches!(asked([first]).1, Ok(None) | Err(_)), "{length:?} at {at}");
            }
            let bytes: Vec<_> = yes.chunks(1).collect();
            assert_eq!(asked(bytes).1, Ok(Some(Negotiated::default())));
            let long = [yes, b"\x30".to_vec()].concat();
            let (said, injected) = fails(&long);
            assert_eq!((said, injected.reason), (Vec::new(), Reason::NegotiationError));
            assert!(injected.detail.starts_with("bytes in plaintext"), "{}", injected.detail);
        }
    }
}

/// In the servers' own words: each is quoted, and told what to switch on.
#[test]
fn servers_that_say_no_are_quoted_and_left_in_order() {
    let referral = [
        result_in(Length::Short, 10, ""),
        element(Length::Short, 0xa3, &element(Length::Short, 4, b"ldap://other.example.com")),
    ]
    .concat();
    for (says, detail, mend) in [
        (
            response(1, 0x78, 2, "unsupported extended operation"),
            "protocolError (2): unsupported extended operation",
            "the server has no TLS: give it a certificate and key",
        ),
        (
            response(
                1,
                0x78,
                52,
                "00000000: LdapErr: DSID-0C090F78, comment: Error initializing SSL/TLS, data 0, v4563\0",
            ),
            "unavailable (52): 00000000: LdapErr: DSID-0C090F78, comment: Error initializing SSL/TLS, data 0, v4563",
            "its certificate or key may be missing or not load",
        ),
        (
            response(1, 0x78, 1, "TLS already started"),
            "operationsError (1): TLS already started",
            "look in the server's log",
        ),
        (response(1, 0x78, 8, ""), "strongerAuthRequired (8)", "look in the server's log"),
        (response(1, 0x78, 123, "\x1b[31m"), "a result (123): \\x1b[31m", "look in the server's log"),
        (message(1, 0x78, &referral), "referral (10), to ldap://other.example.com", "in `endpoints`"),
    ] {
        let (said, failure) = fails(&says);
        assert_eq!(said, FAREWELL);
        assert_eq!(failure.reason, Reason::NegotiationRefused);
        assert_eq!(*failure.detail, *format!("the server said no to StartTLS: {detail}"));
        assert!(failure.next_step().contains(mend), "{failure}");
    }
    // It leaves by itself.
    let (said, failure) = fails(&notice(52, "shutting down"));
    assert_eq!((said, failure.reason), (Vec::new(), Reason::NegotiationRefused));
    assert!(
        failure
            .detail
            .ends_with("ended the connection instead of answering StartTLS: unavailable (52): shutting down")
    );
}

#[test]
fn what_is_no_answer_is_told_by_what_it_rather_is() {
    let long = [&[0x30, 0x84, 0, 1, 0, 0][..], &[0; 100]].concat();
    for (says, detail) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "it begins with byte 0x48"),
        (b"\x15\x03\x01\0\x02\x02\x28", "this port speaks TLS from its first byte"),
        (b"\x15", "this port speaks TLS from its first byte"),
        (b"\x30\x80\x02\x01\x01", "it has an indefinite length"),
        (b"\x30\x85\0\0\0\0\x05", "it claims to be longer"),
        (b"\x30\x84\xff\xff\xff\xff", "it claims to be longer"),
        (&long, "it claims to be longer"),
        (b"\x30\x05\x02\x01\x01\x78\x09", "do not fit into each other"),
        (b"\x30\x02\x02\x01\x01\x78\x00", "do not fit into each other"),
        (b"\x30\x00", "do not fit into each other"),
        (b"\x30\x05\x04\x01\x01\x78\0", "of kind 0x04"),
        (b"\x30\x05\x02\x01\x81\x78\0", "its number is none"),
        (b"\x30\x09\x02\x05\0\0\0\0\x01\x78\0", "its number is none"),
        (&response(2, 0x78, 0, ""), "message 2 of kind 0x78, which is no answer to it"),
        (&response(1, 0x61, 0, ""), "message 1 of kind 0x61"),
        (&message(1, 0x78, b""), "message 1 of kind 0x78"),
    ] {
        let failure = fails(says).1;
        assert_eq!(failure.reason, Reason::NegotiationError, "{}", says.escape_ascii());
        assert!(failure.detail.contains(detail), "{failure}");
    }
    let mut negotiation = Negotiation::default();
    assert_eq!(negotiation.ended(b"").unwrap().reason, Reason::ConnectionTerminated);
    assert_eq!(negotiation.hear(&mut vec![0x30], &mut Vec::new()), Ok(None));
    assert!(negotiation.ended(b"\x30").unwrap().detail.contains("after 1 bytes"));
}

/// Whatever a server says, however it is cut: the same comes of it, in printable words.
#[test]
fn any_answer_in_any_pieces_comes_to_the_same() {
    let parts = [
        response(1, 0x78, 0, ""),
        response(1, 0x78, 2, "no"),
        notice(52, "bye"),
        entry(1, 300),
        b"\x30\x80\0\0".to_vec(),
    ];
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let bytes = jumble(&parts, &mut random);
        let whole = asked([&bytes[..]]);
        let split = asked(cut(&bytes, &mut random));
        let is_injected = |(_, outcome): &(_, Result<_, Failure>)| {
            outcome.as_ref().is_err_and(|failure| failure.detail.contains("in plaintext"))
        };
        // What comes behind a yes belongs to TLS when it comes later.
        match is_injected(&whole) {
            true => assert!(matches!(split.1, Ok(Some(_))) || is_injected(&split), "seed {seed}"),
            false => assert_eq!(split, whole, "seed {seed}"),
        }
        if let Err(failure) = whole.1 {
            assert!(
                failure.detail.len() < 500 && failure.detail.bytes().all(|byte| matches!(byte, b' '..=b'~'))
            );
        }
    }
}
