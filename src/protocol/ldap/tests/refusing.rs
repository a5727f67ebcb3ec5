//! Clients that are refused, whatever they ask.

use super::*;

fn told_for<'a>(reason: Reason, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let failure = Failure::upstream(Stage::Connect, reason, "10.0.0.5:389 refused the connection");
    let refusal = Refusal { failure: &failure, id: "7KJ2", greeted: false, said: b"" };
    let (said, outcome) = hear(&mut *Protocol::Ldap.refusal(&refusal).unwrap(), pieces);
    (said, matches!(outcome, Ok(Some(()))))
}

fn told<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    told_for(Reason::ConnectionRefused, pieces)
}

const WORDS: &str = "nuncio: 10.0.0.5:389 refused the connection; is the server running, and does it listen on this \
                     address and port? (connection_refused, connection 7KJ2)";

fn answer(id: u8, kind: u8, code: u8) -> Vec<u8> {
    let mut answer = Vec::new();
    let words = [&b"\x04\0\x04\x81"[..], &[u8::try_from(WORDS.len()).unwrap()], WORDS.as_bytes()].concat();
    let inside = [&[10, 1, code][..], &words].concat();
    let inside = [&[2, 1, id, kind, 0x81, u8::try_from(inside.len()).unwrap()][..], &inside].concat();
    answer.extend([0x30, 0x81, u8::try_from(inside.len()).unwrap()]);
    [answer, inside].concat()
}

/// Every kind of request by its own kind of response, byte by byte as well as whole.
#[test]
fn the_first_request_is_answered_as_its_server_would() {
    for (request, kind) in [
        (0x60, 0x61),
        (0x63, 0x65),
        (0x66, 0x67),
        (0x68, 0x69),
        (0x4a, 0x6b),
        (0x6c, 0x6d),
        (0x6e, 0x6f),
        (0x77, 0x78),
    ] {
        let asked = message(5, request, b"xyz");
        assert_eq!(told([&asked[..]]), (answer(5, kind, 52), true));
        assert_eq!(told(asked.chunks(1)), (answer(5, kind, 52), true));
        assert_eq!(told([&asked[..asked.len() - 1]]), (Vec::new(), false), "not before it is asked");
        // Whatever is asked behind it.
        assert_eq!(told([&[asked, search(6)].concat()[..]]), (answer(5, kind, 52), true));
    }
    assert_eq!(told([&[abandon(1, 7), search(6)].concat()[..]]).0, answer(6, 0x65, 52));
    assert_eq!(told([&unbind(1)[..]]), (Vec::new(), true), "who leaves is told nothing");
    assert_eq!(told([&b""[..]]), (Vec::new(), false));
}

#[test]
fn what_is_no_ldap_gets_a_notice_of_disconnection() {
    for odd in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\0", b"\x30\x80", b"\x30\0"] {
        let (said, done) = told([odd]);
        assert!(done);
        let mut rest = &said[..];
        let notice = message::Reader::default().next(&mut rest).unwrap().unwrap();
        assert!(notice.is_notice() && rest.is_empty());
        assert_eq!(notice.result().unwrap().code, 52);
        assert!(said.ends_with(b"1.3.6.1.4.1.1466.20036"));
    }
}

/// Clients decide by the result whether to ask another server.
#[test]
fn reasons_have_results_that_clients_act_on() {
    for (reason, code) in [
        (Reason::ConnectionLimitReached, 51),
        (Reason::QueueTimeout, 51),
        (Reason::CircuitOpen, 52),
        (Reason::Draining, 52),
        (Reason::TlsCertificateError, 52),
        (Reason::AdmissionDenied, 50),
        (Reason::ProxyLoopDetected, 54),
    ] {
        let said = told_for(reason, [&bind(1)[..]]).0;
        let response = message::Reader::default().next(&mut &said[..]).unwrap().unwrap();
        assert_eq!(response.result().unwrap().code, code, "{reason}");
    }
}

/// Whatever a client says, and whatever is to be told: one response at most, and whole.
#[test]
fn any_words_to_any_client_are_whole_messages() {
    let parts = [bind(1), search(2), abandon(3, 1), unbind(4), message(5, 0x66, &[7; 3000])];
    let alphabet: Vec<char> = "ab \r\n\0\u{7f}é…\u{202e}😀".chars().collect();
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let detail: String =
            (0..random.usize(..3000)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
        let failure = Failure::upstream(Stage::Relay, Reason::ALL[random.usize(..Reason::ALL.len())], detail);
        let bytes = jumble(&parts, &mut random);
        let refusal = Refusal { failure: &failure, id: "7KJ2", greeted: false, said: b"" };
        let talk = || Protocol::Ldap.refusal(&refusal).unwrap();
        let whole = hear(&mut *talk(), [&bytes[..]]).0;
        assert_eq!(hear(&mut *talk(), cut(&bytes, &mut random)).0, whole, "seed {seed}");
        let (mut reader, mut rest) = (message::Reader::default(), &whole[..]);
        if let Some(response) = reader.next(&mut rest).unwrap() {
            assert_eq!((reader.next(&mut rest), reader.is_inside()), (Ok(None), false), "seed {seed}");
            assert!(response.result().is_some() && rest.is_empty() && whole.len() < 2000, "seed {seed}");
        }
    }
}
