//! Clients whose listener has TLS to give.

use super::*;
use crate::protocol::{Interviewed, Meeting, Negotiated, Offer, Protocol, Talk};

fn interview(offer: Offer) -> Box<dyn Talk<Outcome = Interviewed>> {
    let negotiated = Negotiated { greeting: Server::mysql().greeting() };
    Protocol::Mysql.interview(&negotiated, offer).expect("it has one")
}

/// What is said to a client whose words come one byte at a time, and what comes of them.
fn heard(offer: Offer, words: &[u8]) -> (Vec<u8>, Result<Option<Interviewed>, Failure>) {
    let (mut talk, mut heard, mut said) = (interview(offer), Vec::new(), Vec::new());
    let mut came_to = talk.hear(&mut heard, &mut said);
    for byte in words {
        if !matches!(came_to, Ok(None)) {
            break;
        }
        heard.push(*byte);
        came_to = talk.hear(&mut heard, &mut said);
    }
    (said, came_to)
}

const FLAGS: u32 = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH;

fn head(flags: u32) -> Vec<u8> {
    let mut head = flags.to_le_bytes().to_vec();
    head.extend([0, 0, 0, 1, 45]);
    head.resize(32, 0);
    head
}

fn answer(number: u8, flags: u32) -> Vec<u8> {
    packet(number, &[&head(flags)[..], b"app\0\x04hash", CACHING_SHA2.as_bytes(), b"\0"].concat())
}

/// The greeting offers it, the client's request is no word for the server, and what it says inside is asked and told the
/// server in its stead.
#[test]
fn a_client_that_asks_for_tls_says_the_rest_inside() {
    for offer in [Offer::Optional, Offer::Required] {
        let (said, came_to) = heard(offer, &packet(1, &head(FLAGS | SSL)));
        assert_eq!(said, Server::mysql().greeting(), "with the offer of TLS in it");
        let Interviewed { request, opening } = came_to.unwrap().expect("an end");
        assert!(opening.wants_tls && opening.bytes.is_empty() && request.is_empty());
    }
    let inside = answer(2, FLAGS | SSL);
    let (said, came_to) = heard(Offer::Taken, &inside);
    let Interviewed { request, opening } = came_to.unwrap().expect("an end");
    assert_eq!((said.as_slice(), &opening.bytes, opening.wants_tls), (&b""[..], &inside, false));
    assert_eq!(request, packet(1, &head(FLAGS | SSL)));
    assert!(heard(Offer::Taken, &answer(1, FLAGS | SSL)).1.is_err(), "its number counts its request");
}

/// Both count the same from then on: nothing is renumbered, and the password goes as it is.
#[test]
fn inside_tls_on_both_sides_no_number_is_mended() {
    let meeting = Meeting {
        opening: Opening { bytes: answer(2, FLAGS | SSL), ..Opening::default() },
        negotiated: Negotiated { greeting: Server::mysql().greeting() },
        secured: true,
        offer: Offer::Taken,
        keep_key: Box::new(drop),
    };
    let Greeting { mut onward, greeter } = Protocol::Mysql.greet(meeting);
    let mut greeter = greeter.expect("somebody reads along");
    let (full, password) = (packet(3, &[MORE, 4]), packet(4, b"secret\0"));
    greeter.upstream_said(&full, &mut onward).unwrap();
    greeter.client_said(&password, &mut onward).unwrap();
    greeter.upstream_said(&ok(5), &mut onward).unwrap();
    assert_eq!(onward.up, [answer(2, FLAGS | SSL), password].concat());
    assert_eq!(onward.down, [full, ok(5)].concat());
    assert!(greeter.is_done());
}

/// Where TLS is demanded, plaintext is turned away in words; and what stands behind a request for TLS is TLS.
#[test]
fn who_speaks_plaintext_where_that_is_not_served_is_told() {
    let failure = heard(Offer::Required, &answer(1, FLAGS)).1.unwrap_err();
    assert_eq!((failure.reason, failure.side), (Reason::AdmissionDenied, Side::Client));
    assert!(failure.next_step().contains("--ssl-mode=REQUIRED"), "{failure}");
    let opening = heard(Offer::Optional, &answer(1, FLAGS)).1.unwrap().expect("an end").opening;
    assert_eq!((opening.bytes, opening.wants_tls), (answer(1, FLAGS), false));
    let mut behind = [packet(1, &head(FLAGS | SSL)), b"\x16\x03\x01".to_vec()].concat();
    let came_to = interview(Offer::Optional).hear(&mut behind, &mut Vec::new()).unwrap().expect("an end");
    assert!(came_to.opening.wants_tls && behind.is_empty());
    assert_eq!(came_to.opening.bytes, b"\x16\x03\x01", "its handshake begins without an answer");
}

/// Where it is its turn, a refusal takes the place of the answer to it: inside its TLS its request for that has been counted.
#[test]
fn who_is_refused_inside_tls_counts_its_request() {
    let failure = Failure::new(Stage::Greet, Reason::PrefaceTimeout, Side::Client, "too late");
    for (offer, number) in [(Offer::No, 2), (Offer::Required, 2), (Offer::Taken, 3)] {
        let said = interview(offer).unanswered();
        let refusal = Refusal { failure: &failure, id: "7KJ2", greeted: true, said: &said };
        let (told, _) = crate::protocol::refused::hear(&mut *Protocol::Mysql.refusal(&refusal).unwrap(), []);
        assert_eq!((told[3], told[4]), (number, ERR), "{offer:?}");
    }
}
