//! A listener that has TLS of its own to give.

use super::*;

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
