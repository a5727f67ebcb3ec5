//! Clients of a listener that has TLS to give.

use super::*;

fn opened<'a>(
    offer: Offer,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<Option<Opening>, Failure>) {
    hear(&mut *Protocol::Ldap.preface(offer).unwrap(), pieces)
}

const YES: &[u8] = b"\x30\x0c\x02\x01\x07\x78\x07\x0a\x01\0\x04\0\x04\0";

#[test]
fn without_tls_to_give_nothing_is_read() {
    assert!(Protocol::Ldap.preface(Offer::No).is_none());
}

#[test]
fn who_asks_first_is_told_yes_in_every_cut() {
    let wants_tls = Opening { wants_tls: true, ..Opening::default() };
    let asks = start_tls(7);
    for offer in [Offer::Optional, Offer::Required] {
        for at in 0..asks.len() {
            let (first, rest) = asks.split_at(at);
            assert_eq!(opened(offer, [first, rest]), (YES.to_vec(), Ok(Some(wants_tls.clone()))));
        }
        let (said, slipped_in) = opened(offer, [&[&asks[..], b"\x30"].concat()[..]]);
        assert!(said.is_empty() && slipped_in.unwrap_err().detail.contains("tries to slip it in"));
        assert_eq!(opened(offer, [&b"GET "[..]]).1.unwrap_err().reason, Reason::BadPreface);
    }
}

/// Some need not ask: theirs goes up as it came, with what stands behind it, and however long it is.
#[test]
fn who_need_not_ask_is_passed_on() {
    for says in [bind(1), [bind(1), start_tls(2)].concat(), message(3, 0x66, &[7; 3000])[..2000].to_vec()] {
        let (said, opening) = opened(Offer::Optional, [&says[..]]);
        assert_eq!((said, opening), (Vec::new(), Ok(Some(Opening { bytes: says, ..Opening::default() }))));
    }
}

/// The first questions of many a client are whether there is StartTLS at all.
#[test]
fn who_has_to_ask_is_told_so_until_it_does() {
    for says in [[search(1), start_tls(7)].concat(), [bind(1), abandon(2, 1), start_tls(7)].concat()] {
        let (said, opening) = opened(Offer::Required, says.chunks(1));
        assert!(opening.unwrap().unwrap().wants_tls);
        let mut rest = &said[..said.len() - YES.len()];
        let told = message::Reader::default().next(&mut rest).unwrap().unwrap();
        assert_eq!((told.id, told.result().unwrap().code, rest), (1, 13, &b""[..]));
        assert!(said.ends_with(YES));
    }
    for leaves in [[search(1), unbind(2)].concat(), search(1).repeat(100)] {
        let failure = opened(Offer::Required, [&leaves[..]]).1.unwrap_err();
        assert_eq!(failure.reason, Reason::AdmissionDenied);
        assert!(failure.next_step().contains("let the client use StartTLS"), "{failure}");
    }
    let mut preface = Protocol::Ldap.preface(Offer::Required).unwrap();
    assert_eq!(preface.ended(b""), None, "a port check");
    assert_eq!(preface.hear(&mut search(1), &mut Vec::new()), Ok(None));
    assert_eq!(preface.ended(b"").unwrap().reason, Reason::AdmissionDenied);
}
