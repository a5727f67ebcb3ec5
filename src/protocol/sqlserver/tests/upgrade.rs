//! Clients whose listener has TLS to give.

use super::*;

fn opened(offer: Offer, words: &[u8]) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    let (mut preface, mut heard, mut said) =
        (Protocol::Sqlserver.preface(offer).unwrap(), Vec::new(), Vec::new());
    for byte in words {
        heard.push(*byte);
        match preface.hear(&mut heard, &mut said) {
            Ok(None) => {}
            came_to => return (said, came_to),
        }
    }
    (said, Ok(None))
}

/// What a client says of encryption, and what is agreed: off, for want of anything to say; on; or its own server's business.
#[test]
fn encryption_is_agreed_on_before_anything_is_dialled() {
    for (offer, said, agreed) in [
        (Offer::Optional, 0, None),
        (Offer::Optional, 1, Some(Encryption::On)),
        (Offer::Optional, 2, None),
        (Offer::Optional, 3, Some(Encryption::On)),
        (Offer::Required, 0, Some(Encryption::On)),
        (Offer::Required, 1, Some(Encryption::On)),
        (Offer::Required, 3, Some(Encryption::On)),
        (Offer::Taken, 1, None),
    ] {
        let words = client_prelogin(said);
        let (answer, opening) = opened(offer, &words);
        let opening = opening.unwrap().expect("an opening");
        assert_eq!(opening.wants_tls, agreed.is_some(), "{offer:?} {said}");
        match agreed {
            None => assert_eq!((answer.as_slice(), opening.bytes), (&b""[..], words)),
            Some(agreed) => {
                let answer = prelogin(&answer, TABULAR);
                assert_eq!((answer.encryption(), opening.bytes.len()), (Some(agreed), 0));
                let mut without = answer.clone();
                without.without_mars();
                assert_eq!(answer, without, "the server was not asked for that");
            }
        }
    }
}

/// Where TLS is demanded, a client that has none is told so in its protocol's way, and a login in plaintext goes nowhere.
#[test]
fn who_has_no_tls_where_it_is_demanded_is_told() {
    let (answer, opening) = opened(Offer::Required, &client_prelogin(2));
    assert_eq!(prelogin(&answer, TABULAR).encryption(), Some(Encryption::Required));
    for failure in [opening.unwrap_err(), opened(Offer::Required, &login(0x7000_0000)).1.unwrap_err()] {
        assert_eq!((failure.reason, failure.side), (Reason::AdmissionDenied, Side::Client));
        assert!(failure.next_step().contains("Encrypt=yes"), "{failure}");
    }
    let inside = login(0x7400_0004);
    let opening = opened(Offer::Taken, &inside).1.unwrap().expect("an opening");
    assert!(!opening.bytes.is_empty() && !opening.wants_tls);
}

/// What stands behind the agreement could be anybody's.
#[test]
fn what_is_slipped_in_behind_the_agreement_ends_it() {
    let mut heard = [client_prelogin(1), login(0x7400_0004)].concat();
    let mut preface = Protocol::Sqlserver.preface(Offer::Optional).unwrap();
    let failure = preface.hear(&mut heard, &mut Vec::new()).unwrap_err();
    assert!(failure.detail.contains("slip it in"), "{failure}");
}
