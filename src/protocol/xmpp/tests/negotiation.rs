//! Servers that are willing, servers that are not, and servers that are none.

use super::*;

fn asked<'a>(
    opening: &str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<Negotiated>, Failure>) {
    let asking =
        Asking { as_host: "", server_name: "xmpp.example.net", opening: opening.as_bytes(), alone: false };
    hear(&mut *Protocol::Xmpp.negotiation(&asking).unwrap(), pieces)
}

/// What it says to a server behind its own header, and what it makes of it.
fn fails(says: &str) -> (String, Failure) {
    let (said, outcome) = asked(OPENING, [says.as_bytes()]);
    let failure = outcome.expect_err(says);
    in_words(&failure);
    let (_, behind) = said.split_once("streams'>").unwrap();
    (behind.to_owned(), failure)
}

const WILLING: [(&str, &str, &str, &str); 4] = [
    (
        "Prosody",
        HEADER,
        "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>",
        PROCEED,
    ),
    (
        "ejabberd",
        "<?xml version='1.0'?><stream:stream id='1234' version='1.0' xml:lang='en' \
         xmlns:stream='http://etherx.jabber.org/streams' from='example.com' xmlns='jabber:client'>",
        "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms \
         xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms><register \
         xmlns='http://jabber.org/features/iq-register'/></stream:features>",
        PROCEED,
    ),
    (
        "Openfire",
        "<?xml version='1.0' encoding='UTF-8'?><stream:stream xmlns:stream=\"http://etherx.jabber.org/streams\" \
         xmlns=\"jabber:client\" from=\"example.com\" id=\"a\" xml:lang=\"en\" version=\"1.0\">",
        "<stream:features><starttls xmlns=\"urn:ietf:params:xml:ns:xmpp-tls\"></starttls><mechanisms \
         xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\"></mechanisms></stream:features>",
        "<proceed xmlns=\"urn:ietf:params:xml:ns:xmpp-tls\"/>",
    ),
    (
        "other prefixes, and blanks between all",
        "<?xml version='1.0'?>\r\n<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client' version='1.0'>\n ",
        "<features xmlns='http://etherx.jabber.org/streams'>\n <t:starttls xmlns:t='urn:ietf:params:xml:ns:xmpp-tls' />\n\
         </features>\n",
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'></proceed>",
    ),
];

#[test]
fn servers_that_are_willing_are_asked_for_tls_in_every_cut() {
    let ours = "<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xml:lang='en' xmlns='jabber:client' \
                xmlns:stream='http://etherx.jabber.org/streams'>";
    let expected = ([ours, STARTTLS].concat(), Ok(Some(Negotiated::default())));
    for (name, header, features, answer) in WILLING {
        let all = [header, features, answer].concat();
        for at in 0..all.len() {
            let (first, rest) = all.as_bytes().split_at(at);
            let (said, outcome) = asked(OPENING, [first]);
            assert_eq!(outcome, Ok(None), "{name} at {at}");
            let has_offer = at >= [header, features].concat().trim_end().len();
            assert_eq!(
                said,
                expected.0[..ours.len() + if has_offer { STARTTLS.len() } else { 0 }],
                "{name} at {at}"
            );
            assert_eq!(asked(OPENING, [first, rest]), expected, "{name} at {at}");
        }
        assert_eq!(asked(OPENING, all.as_bytes().chunks(1)), expected, "{name}");
        for behind in ["<", " ", "\n", "<a/>"] {
            let (said, failure) = fails(&[&all, behind].concat());
            assert_eq!((said.as_str(), failure.reason), (STARTTLS, Reason::NegotiationError), "{name}");
            assert!(failure.detail.contains("in plaintext came behind the server's answer"), "{failure}");
        }
    }
}

/// The domain is what the client asks for, whatever stands in it; without a client it is the name that the certificate has
/// to carry.
#[test]
fn the_stream_is_opened_to_the_clients_domain() {
    let to = |opening: &str| {
        let said = asked(opening, []).0;
        said.split_once(" to=").unwrap().1.split_once(" version").unwrap().0.to_owned()
    };
    assert_eq!(to(OPENING), "'example.com'");
    assert_eq!(
        to(&OPENING.replace("'example.com'", "\"b&#xfc;ro.'&lt;example\"")),
        "'büro.&apos;&lt;example'"
    );
    for none in ["", "GET /", &OPENING.replace(" to='example.com'", "")] {
        assert_eq!(to(none), "'xmpp.example.net'", "{none}");
    }
}

#[test]
fn servers_that_say_no_are_quoted_and_left_in_order() {
    let end = "</stream:stream>";
    let asked = [STARTTLS, end].concat();
    let tls = features(STARTTLS);
    for (says, leaves, detail, mend) in [
        (
            features(MECHANISMS),
            end,
            "the server offers no starttls, only: mechanisms",
            "switch TLS on at the server",
        ),
        (features(""), end, "the server offers no starttls, only: nothing", "5223"),
        (stream_error("see-other-host", ""), end, "to example.com: see-other-host", "in `endpoints`"),
        (
            stream_error("resource-constraint", "\u{1b}[31m too many"),
            end,
            "the server ended the stream to example.com: resource-constraint: \\x1b[31m too many",
            "look in the server's log",
        ),
        (
            "</stream:stream>".into(),
            "",
            "ended the stream instead of sending the server's stream features",
            "log",
        ),
        (
            [&tls, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"].concat(),
            &asked,
            "the server offers starttls and then said no to it (failure)",
            "certificate or key may not load",
        ),
        (
            [&tls, "</stream:stream>"].concat(),
            STARTTLS,
            "instead of sending the server's answer to starttls",
            "log",
        ),
        (
            [&tls[..], &stream_error("policy-violation", "")].concat(),
            &asked,
            "the server ended the stream to example.com: policy-violation",
            "log",
        ),
    ] {
        let (said, failure) = fails(&[HEADER, &says].concat());
        assert_eq!((said.as_str(), failure.reason), (leaves, Reason::NegotiationRefused), "{failure}");
        assert!(failure.detail.contains(detail) && failure.next_step().contains(mend), "{failure}");
    }
    let old = fails(&HEADER.replace(" version='1.0' ", " ")).1;
    assert!(old.detail.contains("before 1.0"), "{old}");
}

/// A client may ask for any domain: that must not open the circuit for the others.
#[test]
fn a_domain_that_the_server_does_not_serve_is_the_clients_affair() {
    let says = [HEADER, &stream_error("host-unknown", "not served")].concat();
    let (said, failure) = fails(&says);
    assert_eq!(said, "</stream:stream>");
    assert_eq!((failure.side, failure.reason), (Side::Client, Reason::DestinationNotFound));
    assert!(!failure.reason.may_try_another());
    assert_eq!(&*failure.detail, "the server ended the stream to example.com: host-unknown: not served");
    // Without one, it is what is configured that does not fit.
    let alone = asked("", [says.as_bytes()]).1.unwrap_err();
    assert_eq!((alone.side, alone.reason), (Side::Upstream, Reason::NegotiationRefused));
    assert!(alone.next_step().contains("server_name"), "{alone}");
}

#[test]
fn what_is_no_answer_is_told_by_what_it_rather_is() {
    let deep = [HEADER, &"<a>".repeat(20)].concat();
    let endless = [HEADER, "<a>", &"x".repeat(70_000)].concat();
    for (says, detail) in [
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "what came for the server's stream header is not XMPP: it begins with byte 0x48",
        ),
        ("\x15\x03\x01\0\x02\x02\x28", "this port speaks TLS from its first byte"),
        ("<html>", "it is XML, but no stream"),
        (&[HEADER, "<!-- -->"].concat(), "XML that XMPP does not allow"),
        (&[HEADER, HEADER].concat(), "XML that XMPP does not allow"),
        (&[HEADER, "text"].concat(), "it begins with byte 0x74"),
        (&[HEADER, "<a></b>"].concat(), "its tags do not match"),
        (&[HEADER, "<p:a/>"].concat(), "a prefix that it does not declare"),
        (&[HEADER, "</stream>"].concat(), "its tags do not match"),
        (&deep, "longer than anything"),
        (&endless, "longer than anything"),
        (&[HEADER, "<message/>"].concat(), "the server sent <message> instead of its stream features"),
        (&[HEADER, &features(STARTTLS), "<iq/>"].concat(), "the server answered starttls with <iq>"),
        // Only in its own namespace is it the answer.
        (
            &[HEADER, &features(STARTTLS), "<proceed/>"].concat(),
            "the server answered starttls with <proceed>",
        ),
    ] {
        let (_, failure) = fails(says);
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(failure.detail.contains(detail), "{failure}");
        assert_eq!(asked(OPENING, says.as_bytes().chunks(1)).1, Err(failure));
    }
}

#[test]
fn who_hangs_up_is_told_by_what_was_awaited() {
    for (says, awaited) in [
        (String::new(), "the server's stream header"),
        (HEADER.to_owned(), "the server's stream features"),
        ([HEADER, &features(STARTTLS)].concat(), "the server's answer to starttls"),
    ] {
        let asking = Asking { as_host: "", server_name: "", opening: b"", alone: true };
        let mut negotiation = Protocol::Xmpp.negotiation(&asking).unwrap();
        assert_eq!(hear(&mut *negotiation, [says.as_bytes()]).1, Ok(None));
        assert_eq!(negotiation.awaits(), awaited);
        let failure = negotiation.ended(b"").unwrap();
        assert!(
            failure.detail.ends_with(awaited) && failure.reason == Reason::ConnectionTerminated,
            "{failure}"
        );
        assert_eq!(negotiation.if_late().is_some(), says.is_empty());
    }
}

/// Whatever a server says, however it is cut: the same comes of it, in printable words.
#[test]
fn any_answer_in_any_pieces_comes_to_the_same() {
    let offer = features(STARTTLS);
    let error = stream_error("host-unknown", "no");
    let parts = [HEADER, &offer, PROCEED, MECHANISMS, &error, " ", "<a b='1'>", "</a>"];
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let mut bytes = [HEADER, &offer].concat().into_bytes();
        bytes.truncate(*random.choice([0, HEADER.len(), bytes.len()].as_slice()).unwrap());
        bytes.extend(jumble(&parts, &mut random));
        let (whole, split) = (asked(OPENING, [&bytes[..]]), asked(OPENING, cut(&bytes, &mut random)));
        let is_injected = |(_, outcome): &(_, Result<_, Failure>)| {
            outcome.as_ref().is_err_and(|failure| failure.detail.contains("in plaintext"))
        };
        // What comes behind a yes belongs to TLS when it comes later.
        match is_injected(&whole) {
            true => assert!(matches!(split.1, Ok(Some(_))) || is_injected(&split), "seed {seed}"),
            false => assert_eq!(split, whole, "seed {seed}"),
        }
        if let Err(failure) = &whole.1 {
            in_words(failure);
        }
    }
}
