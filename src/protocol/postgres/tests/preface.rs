//! What a client says first.

use super::*;

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
