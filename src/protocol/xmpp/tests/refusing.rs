//! Clients that are refused, wherever they stand.

use super::super::stream::{ERRORS, Part, Reader, STREAMS};
use super::*;

fn told(failure: &Failure, greeted: bool, said: &str) -> String {
    let refusal = Refusal { failure, id: "7KJ2", greeted, said: said.as_bytes() };
    let (words, outcome) = hear(&mut *Protocol::Xmpp.refusal(&refusal).unwrap(), []);
    assert_eq!(outcome, Ok(Some(())));
    words
}

fn failure(reason: Reason) -> Failure {
    Failure::upstream(Stage::Connect, reason, "10.0.0.5:5222 said \"no\" & <left>")
}

#[test]
fn a_client_is_told_behind_a_header_from_the_domain_that_it_asked_for() {
    let error = "<stream:error><remote-connection-failed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xml:lang='en' \
                 xmlns='urn:ietf:params:xml:ns:xmpp-streams'>nuncio: 10.0.0.5:5222 said &quot;no&quot; &amp; &lt;left&gt;; is \
                 the server running, and does it listen on this address and port? (connection_refused, connection \
                 7KJ2)</text></stream:error></stream:stream>";
    let header = |from| {
        format!(
            "<?xml version='1.0'?><stream:stream {from}id='7KJ2' version='1.0' xml:lang='en' xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
        )
    };
    let refused = failure(Reason::ConnectionRefused);
    assert_eq!(told(&refused, false, OPENING), header("from='example.com' ") + error);
    assert_eq!(told(&refused, true, OPENING), header("from='example.com' ") + error);
    let quoted = OPENING.replace("'example.com'", "\"a'b&amp;\"");
    assert_eq!(told(&refused, false, &quoted), header("from='a&apos;b&amp;' ") + error);
    // Its words were none.
    assert_eq!(told(&refused, false, ""), header("") + error);
    assert_eq!(told(&refused, false, "GET / HTTP/1.1"), header("") + error);
    // It has the server's.
    assert_eq!(told(&refused, true, ""), error);
}

#[test]
fn reasons_have_conditions_that_clients_act_on() {
    for (reason, condition) in [
        (Reason::CircuitOpen, "remote-connection-failed"),
        (Reason::TlsCertificateError, "remote-connection-failed"),
        (Reason::ConnectionLimitReached, "resource-constraint"),
        (Reason::QueueTimeout, "resource-constraint"),
        (Reason::Draining, "system-shutdown"),
        (Reason::AdmissionDenied, "policy-violation"),
        (Reason::BadPreface, "bad-format"),
        (Reason::ProxyInternalError, "internal-server-error"),
    ] {
        let told = told(&failure(reason), true, "");
        assert!(told.contains(&format!("<{condition} xmlns='{ERRORS}'/>")), "{told}");
    }
}

/// Whatever is to be told to whoever it is: it is a stream that our own reader takes.
#[test]
fn every_reason_with_any_words_is_a_whole_stream() {
    let alphabet: Vec<char> = "ab <>&'\"]\r\n\0\u{7f}é…\u{202e}😀".chars().collect();
    for seed in 0..3_000 {
        let mut random = Rng::with_seed(seed);
        let mut words = |longest| -> String {
            (0..random.usize(..longest)).map(|_| alphabet[random.usize(..alphabet.len())]).collect()
        };
        let (detail, mend) = (words(2000), words(500));
        let reason = Reason::ALL[random.usize(..Reason::ALL.len())];
        let opening = String::from_utf8_lossy(&jumble(&[OPENING], &mut random)).into_owned();
        let said = told(&Failure::upstream(Stage::Relay, reason, detail).mend(mend), false, &opening);
        let (mut reader, mut rest, mut parts) = (Reader::default(), said.as_bytes(), Vec::new());
        while let Some((length, part)) = reader.next(rest).expect("XMPP") {
            rest = &rest[length..];
            parts.push(part);
        }
        let [Part::Nothing, Part::Header(_), Part::Element(error), Part::End] = &parts[..] else {
            panic!("seed {seed}: {said}")
        };
        assert!(error.name.is(STREAMS, "error") && rest.is_empty(), "seed {seed}: {said}");
        let text = &error.child(ERRORS, "text").unwrap().text;
        assert!(text.ends_with(&format!("({reason}, connection 7KJ2)")), "seed {seed}: {said}");
    }
}
