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
