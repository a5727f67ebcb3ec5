//! Clients whose listener has TLS to give.

use super::super::super::{Meeting, Negotiated, Offer, Opening, Protocol};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Upgrade};

const HEADER: &str = "<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
const ANSWER: &str = "<?xml version='1.0'?><stream:stream from='example.org' id='7' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
const FEATURES: &str = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism>\
                        </mechanisms></stream:features>";
const AUTH: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AA==</auth>";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const PROCEED: &str = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

fn begun(offer: Offer, opening: &str) -> (Onward, Box<dyn Greeter>) {
    let Greeting { onward, greeter } = Protocol::Xmpp.greet(Meeting {
        opening: Opening { bytes: opening.into(), ..Opening::default() },
        negotiated: Negotiated::default(),
        secured: true,
        offer,
        keep_key: Box::new(|_| {}),
    });
    (onward, greeter.expect("somebody reads along"))
}

/// The server's beginning, and then the client's words in pieces, each part inside its own TLS once that has begun.
fn converse(offer: Offer, parts: &[&str], piece: usize) -> (Onward, Result<(), Objection>, bool) {
    let (mut onward, mut greeter) = begun(offer, HEADER);
    let mut say = || {
        for piece in [ANSWER, FEATURES].concat().as_bytes().chunks(piece) {
            greeter.upstream_said(piece, &mut onward)?;
        }
        for part in parts {
            for piece in part.as_bytes().chunks(piece) {
                greeter.client_said(piece, &mut onward)?;
            }
            if greeter.upgrade() == Upgrade::Answered {
                greeter.upgraded(&mut onward);
            }
        }
        Ok(())
    };
    let said = say();
    let done = greeter.is_done();
    (onward, said, done)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The client is offered TLS beside all else, or alone; when it has it, its new stream is answered by what its server has said.
#[test]
fn a_client_that_asks_for_tls_begins_its_stream_anew() {
    let list = FEATURES.strip_prefix("<stream:features>").unwrap();
    for (offer, offered) in [
        (Offer::Optional, format!("{ANSWER}<stream:features>{STARTTLS}{list}")),
        (
            Offer::Required,
            format!(
                "{ANSWER}<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>\
                 </stream:features>"
            ),
        ),
    ] {
        for piece in [1, 7, 10_000] {
            let (onward, said, done) = converse(offer, &[STARTTLS, HEADER, AUTH], piece);
            assert_eq!(said, Ok(()), "{offer:?}");
            assert_eq!(text(&onward.down), format!("{offered}{PROCEED}{ANSWER}{FEATURES}"));
            assert_eq!(text(&onward.up), format!("{HEADER}{AUTH}"), "its new header goes nowhere");
            assert!(done);
        }
    }
}

/// Where TLS is demanded, a login does not go on before; where it is not, it goes on as ever.
#[test]
fn a_login_in_plaintext_goes_on_only_where_that_may_be() {
    for piece in [1, 10_000] {
        let (onward, said, _) = converse(Offer::Required, &[AUTH], piece);
        assert!(said.unwrap_err().mend.contains("tls = \"optional\""));
        assert_eq!(text(&onward.up), HEADER);
        let (onward, said, done) = converse(Offer::Optional, &[AUTH], piece);
        assert_eq!((said, text(&onward.up)), (Ok(()), format!("{HEADER}{AUTH}").as_str()));
        assert!(done);
    }
    // Also where it came with the header.
    let (mut onward, mut greeter) = begun(Offer::Required, &format!("{HEADER}{AUTH}"));
    assert!(greeter.upstream_said(&[ANSWER, FEATURES].concat().into_bytes(), &mut onward).is_err());
    assert_eq!(text(&onward.up), HEADER);
}

/// A client that has its TLS and has not begun its stream anew, behind a server that greets it like this.
fn inside(answer: &str, features: &str) -> (Onward, Box<dyn Greeter>) {
    let (mut onward, mut greeter) = begun(Offer::Optional, HEADER);
    greeter.upstream_said([answer, features].concat().as_bytes(), &mut onward).expect("a server's words");
    greeter.client_said(STARTTLS.as_bytes(), &mut onward).expect("its request");
    greeter.upgraded(&mut onward);
    (onward, greeter)
}

/// Inside its TLS it awaits a header once more: until it has the server's, a refusal opens a stream, and then it does not.
#[test]
fn who_is_refused_before_its_new_stream_is_answered_is_told_in_a_stream_of_ours() {
    let renamed = ANSWER.replace("<stream:stream", "<s:stream").replace("xmlns:stream", "xmlns:s");
    let features = FEATURES.replace("stream:features", "s:features");
    for (answer, features, is_ours) in [(ANSWER, FEATURES, true), (&*renamed, &*features, false)] {
        let (mut onward, mut greeter) = inside(answer, features);
        for (at, byte) in HEADER.bytes().enumerate() {
            assert!(greeter.may_refuse() && text(&greeter.unanswered()) == HEADER, "at {at}");
            greeter.client_said(&[byte], &mut onward).expect("a header");
            if at == 9 {
                greeter.upstream_said(b"<iq", &mut onward).expect("words of its own");
            }
        }
        assert_eq!((greeter.may_refuse(), text(&greeter.unanswered())), (is_ours, ""));
        assert!(text(&onward.down).ends_with(&format!("{answer}{features}")), "and no half element");
        greeter.upstream_said(b"/>", &mut onward).expect("the rest of it");
        assert!(text(&onward.down).ends_with(&format!("{features}<iq/>")), "{}", text(&onward.down));
    }
}

/// What the server says meanwhile is heard as ever: behind its stream's error there is no other one.
#[test]
fn a_server_that_ends_the_stream_meanwhile_has_said_why() {
    let (mut onward, mut greeter) = inside(ANSWER, FEATURES);
    let error =
        "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
    greeter.upstream_said(error.as_bytes(), &mut onward).expect("its last words");
    assert!(greeter.may_refuse(), "its client has no stream that this could be said in");
    greeter.client_said(HEADER.as_bytes(), &mut onward).expect("a header");
    assert!(!greeter.may_refuse() && text(&onward.down).ends_with(error));
    assert!(greeter.why_ended().expect("a reason").detail.contains("reset"));
}

/// Byte by byte it is read once, not once more with each: 30 headers of 8000 bytes take milliseconds, and else half a minute.
#[test]
fn a_new_header_in_many_pieces_is_read_once() {
    let begun = std::time::Instant::now();
    let header = HEADER.replace("version", &format!("x='{}' version", "x".repeat(7_800)));
    for _ in 0..30 {
        let (mut onward, mut greeter) = inside(ANSWER, FEATURES);
        for byte in header.bytes() {
            greeter.client_said(&[byte], &mut onward).expect("a header");
        }
        assert_eq!(text(&greeter.unanswered()), "");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// What stands behind a client's header is not kept for a refusal: it may be a login.
#[test]
fn only_a_header_is_kept_for_a_refusal() {
    for offer in [Offer::No, Offer::Optional, Offer::Required] {
        let (_, greeter) = begun(offer, &format!("{HEADER}{AUTH}"));
        assert_eq!(text(&greeter.unanswered()), HEADER, "{offer:?}");
    }
}

/// What stands behind the request is nobody's; and the domain of before must be that of inside, since it decided where to.
#[test]
fn what_was_slipped_in_before_tls_does_not_count_inside() {
    let slipped = format!("{STARTTLS}{AUTH}");
    let (onward, said, _) = converse(Offer::Optional, &[&slipped], 10_000);
    assert!(said.unwrap_err().detail.contains("slip it in"));
    assert_eq!(text(&onward.up), HEADER);
    let other = HEADER.replace("example.org", "evil.example");
    let (_, said, _) = converse(Offer::Required, &[STARTTLS, &other], 10_000);
    assert!(said.unwrap_err().detail.contains("another domain"));
    let (_, said, _) = converse(Offer::Required, &[&format!("{STARTTLS}\r\n"), HEADER, AUTH], 10_000);
    assert_eq!(said, Ok(()), "a line's end says nothing");
}

/// A client that said too much with its header, and a server that speaks another protocol: which of them is told of it does
/// not hang on the cut.
#[test]
fn of_two_objections_the_same_one_comes_first_in_every_cut() {
    for piece in [1, 7, 10_000] {
        let (mut onward, mut greeter) = begun(Offer::Required, &format!("{HEADER}{AUTH}"));
        let said = b"            +OK ready\r\n"
            .chunks(piece)
            .try_for_each(|heard| greeter.upstream_said(heard, &mut onward));
        assert_eq!(said.unwrap_err().to, Party::Client, "{piece}");
    }
}
