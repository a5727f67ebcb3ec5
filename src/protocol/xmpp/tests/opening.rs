//! A client's first words.

use super::*;

fn opened<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Opening>, Failure> {
    let (said, outcome) = hear(&mut *Protocol::Xmpp.preface(Offer::No).unwrap(), pieces);
    assert!(said.is_empty(), "it waits");
    outcome
}

/// As libraries and programs say it; each is taken with its last byte and goes up as it came.
#[test]
fn headers_of_all_clients_are_taken_when_they_are_whole() {
    for header in [
        OPENING,
        // libpurple; Smack; Gajim; Psi; Gloox.
        "<?xml version='1.0' ?><stream:stream to='example.com' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
        "<stream:stream xmlns='jabber:client' to='example.com' xmlns:stream='http://etherx.jabber.org/streams' \
         version='1.0' from='u@example.com' xml:lang='en'>",
        "<?xml version=\"1.0\"?>\n<stream:stream xmlns=\"jabber:client\" version=\"1.0\" \
         xmlns:stream=\"http://etherx.jabber.org/streams\" to=\"example.com\" xml:lang=\"en\" >",
        "<?xml version=\"1.0\"?>\r\n\r\n<stream:stream xmlns:stream=\"http://etherx.jabber.org/streams\" version=\"1.0\" \
         xmlns=\"jabber:client\" to=\"example.com\">\n",
        // Of before 1.0; a prefix of its own; no domain.
        "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client' to='example.com'>",
        "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client'>",
    ] {
        let opening = Opening { bytes: header.into(), ..Opening::default() };
        assert_eq!(opened([header.as_bytes()]), Ok(Some(opening)), "{header}");
        let header = header.trim_end();
        for at in 0..header.len() {
            let (first, rest) = header.as_bytes().split_at(at);
            assert_eq!(opened([first]), Ok(None), "{header} at {at}");
            assert_eq!(opened([first, rest]).unwrap().unwrap().bytes, header.as_bytes());
        }
        // Who cannot wait is not held back.
        let more = [header, "<iq type='get'/>"].concat();
        assert_eq!(opened([more.as_bytes()]).unwrap().unwrap().bytes, more.as_bytes());
    }
}

#[test]
fn what_is_no_clients_header_is_told_by_what_it_rather_is() {
    let endless = format!("<stream:stream a='{}", "x".repeat(9000));
    for (says, detail) in [
        ("GET / HTTP/1.1\r\n\r\n", "it begins with byte 0x47"),
        ("\x16\x03\x01\x02\0", "the client itself starts TLS with its first byte"),
        ("<!DOCTYPE lolz [<!ENTITY lol 'lol'>]>", "XML that XMPP does not allow"),
        ("<?xml version='1.0'?><?xml version='1.0'?>", "XML that XMPP does not allow"),
        (" <?php ?>", "XML that XMPP does not allow"),
        ("</stream:stream>", "its tags do not match"),
        ("<html>", "it is XML, but no stream"),
        ("<stream xmlns='jabber:client'>", "it is XML, but no stream"),
        ("<stream:stream xmlns='jabber:client'>", "a prefix that it does not declare"),
        (
            "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client'/>",
            "it is XML, but no stream",
        ),
        (
            "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:server'>",
            "a stream between servers",
        ),
        (
            "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:component:accept'>",
            "is a component",
        ),
        ("<s:stream xmlns:s='http://etherx.jabber.org/streams'>", "in no namespace of a client's"),
        (&endless, "longer than anything"),
        (&OPENING.replace("example.com", &"x".repeat(1024)), "a domain of over 1023 bytes"),
    ] {
        let failure = opened([says.as_bytes()]).expect_err(says);
        assert_eq!(failure.reason, Reason::BadPreface);
        assert!(failure.detail.contains(detail), "{failure}");
        assert_eq!(opened(says.as_bytes().chunks(1)), Err(failure));
    }
}

#[test]
fn leaving_is_a_failure_only_of_who_has_begun() {
    let preface = Protocol::Xmpp.preface(Offer::No).unwrap();
    assert_eq!(preface.ended(b""), None);
    assert!(preface.ended(b"<str").unwrap().detail.contains("left after 4 bytes"));
}

#[test]
fn any_words_in_any_pieces_come_to_the_same() {
    let parts =
        [OPENING, HEADER, STARTTLS, "<?xml version='1.0'?>", " ", "<stream:stream to='a", "</stream:stream>"];
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let bytes = jumble(&parts, &mut random);
        let (whole, split) = (opened([&bytes[..]]), opened(cut(&bytes, &mut random)));
        match (&whole, &split) {
            // What stands behind is heard later then.
            (Ok(Some(whole)), Ok(Some(split))) => {
                assert!(whole.bytes.starts_with(&split.bytes), "seed {seed}")
            }
            _ => assert_eq!(whole, split, "seed {seed}"),
        }
        if let Err(failure) = &whole {
            in_words(failure);
        }
    }
}
