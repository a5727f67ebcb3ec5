//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;
use Party::{Client, Upstream};

/// Who says what, in turn.
type Turns<'a> = &'a [(Party, &'a str)];

struct After {
    onward: Onward,
    greeter: Box<dyn Greeter>,
}

impl After {
    /// What the client gets besides, when the server is gone: a header, an error. `None`: a reset.
    fn refused(&self) -> Option<[bool; 2]> {
        let failure = Failure::upstream(Stage::Greet, Reason::EarlyClose, "gone");
        let said = self.greeter.unanswered();
        let refusal = Refusal { failure: &failure, id: "ID", greeted: true, said: &said };
        let said = hear(&mut *Protocol::Xmpp.refusal(&refusal).unwrap(), []).0;
        let may_refuse = !self.greeter.is_done() && self.greeter.may_refuse();
        may_refuse.then(|| [said.starts_with("<?xml"), said.contains("<stream:error>")])
    }
}

fn say(opening: &str, secured: bool, turns: Turns<'_>, random: Option<&mut Rng>) -> After {
    let meeting = Meeting {
        opening: Opening { bytes: opening.into(), ..Opening::default() },
        negotiated: Negotiated::default(),
        secured,
        offer: Offer::No,
        keep_key: Box::new(drop),
    };
    let Greeting { mut onward, greeter } = Protocol::Xmpp.greet(meeting);
    let mut greeter = greeter.expect("somebody reads along");
    let mut random = random;
    for (party, words) in turns {
        let words = words.as_bytes();
        let pieces = random.as_mut().map_or_else(|| vec![words], |random| cut(words, random));
        for piece in pieces {
            match (party, greeter.is_done()) {
                (Client, true) => onward.up.extend_from_slice(piece),
                (_, true) => onward.down.extend_from_slice(piece),
                (Client, false) => greeter.client_said(piece, &mut onward).expect("no objection"),
                (_, false) => greeter.upstream_said(piece, &mut onward).expect("no objection"),
            }
        }
    }
    After { onward, greeter }
}

/// As above, in many ways, of which each has to come to the same.
fn say_in_all_ways(opening: &str, secured: bool, turns: Turns<'_>) -> After {
    let whole = say(opening, secured, turns, None);
    for seed in 0..100 {
        let split = say(opening, secured, turns, Some(&mut Rng::with_seed(seed)));
        assert_eq!(split.onward, whole.onward);
        assert_eq!(split.greeter.is_done(), whole.greeter.is_done());
        assert_eq!(split.refused(), whole.refused());
        assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended());
    }
    whole
}

const AUTH: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHgAeA==</auth>";

/// A login: the server's offer is mended once, and from the client's answer on nothing is looked at.
#[test]
fn the_clients_answer_to_the_offer_ends_the_reading() {
    let list =
        MECHANISMS.replace("<mechanism>PLAIN", "<mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>PLAIN");
    let (bound, later) = (features(&[STARTTLS, &list].concat()), features(&list));
    let turns = [
        (Upstream, HEADER),
        (Upstream, &bound),
        (Client, AUTH),
        (Upstream, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"),
        (Client, OPENING),
        (Upstream, HEADER),
        (Upstream, &later),
        (Client, "</stream:stream>"),
        (Upstream, "</stream:stream>"),
    ];
    let After { onward, greeter } = say_in_all_ways(OPENING, true, &turns);
    assert!(greeter.is_done() && greeter.why_ended().is_none());
    let up = [OPENING, AUTH, OPENING, "</stream:stream>"].concat();
    let down = [HEADER, &features(MECHANISMS), turns[3].1, HEADER, &later, "</stream:stream>"].concat();
    assert_eq!(onward, Onward { up: up.into(), down: down.into() });
}

/// Where it stands decides how it reads a refusal: behind a header of ours, or behind the server's.
#[test]
fn who_awaits_an_answer_is_told_with_a_header_where_it_has_none() {
    let offer = &features(MECHANISMS)[..];
    let error = &stream_error("conflict", "")[..];
    let other = &HEADER.replace("stream:stream", "s:stream").replace("xmlns:stream", "xmlns:s")[..];
    for (turns, refused) in [
        (&[][..], Some([true, true])),
        // A declaration alone is held back: there is one only.
        (&[(Upstream, "<?xml version='1.0'?>")], Some([true, true])),
        (&[(Upstream, &HEADER[..100])], Some([true, true])),
        (&[(Upstream, HEADER)], Some([false, true])),
        (&[(Upstream, HEADER), (Upstream, &offer[..40])], Some([false, true])),
        (&[(Upstream, HEADER), (Upstream, offer)], Some([false, true])),
        (&[(Upstream, HEADER), (Upstream, offer), (Client, " \n<")], Some([false, true])),
        (&[(Upstream, HEADER), (Upstream, offer), (Client, AUTH)], None),
        (&[(Upstream, HEADER), (Client, "</stream:stream>")], None),
        (&[(Client, "</stream:stream>")], None),
        // It has said why itself, and ended it.
        (&[(Upstream, HEADER), (Upstream, error)], None),
        (&[(Upstream, HEADER), (Upstream, "</stream:stream>")], None),
        // Our error would not match.
        (&[(Upstream, other)], None),
    ] {
        assert_eq!(say_in_all_ways(OPENING, true, turns).refused(), refused, "{turns:?}");
    }
}

/// What was said behind the header counts, and a client of before 1.0 awaits no features.
#[test]
fn clients_that_do_not_wait_are_followed() {
    let offer = &features(MECHANISMS)[..];
    let after = say_in_all_ways(&[OPENING, AUTH].concat(), true, &[(Upstream, HEADER)]);
    assert!(!after.greeter.is_done(), "the offer is still to be mended");
    let after = say_in_all_ways(&[OPENING, AUTH].concat(), true, &[(Upstream, HEADER), (Upstream, offer)]);
    assert!(after.greeter.is_done());
    let old = &HEADER.replace(" version='1.0' ", " ")[..];
    let iq = "<iq type='get'><query xmlns='jabber:iq:auth'/></iq>";
    let after = say_in_all_ways(OPENING, true, &[(Upstream, old), (Client, iq), (Upstream, iq)]);
    assert!(after.greeter.is_done());
    assert_eq!(after.onward.down, [old, iq].concat().as_bytes());
}

#[test]
fn a_client_that_leaves_is_understood() {
    let offer = (Upstream, &features(MECHANISMS)[..]);
    let header = (Upstream, HEADER);
    let end = (Client, "</stream:stream>");
    let error = &stream_error("not-authorized", "bad certificate")[..];
    for (turns, why) in [
        (&[][..], None),
        (&[header], None),
        (&[header, offer], Some((Client, "left when it saw what the server offers"))),
        (
            &[header, offer, end, (Upstream, "</stream:stream>")],
            Some((Client, "left when it saw what the server offers")),
        ),
        (&[header, offer, (Client, STARTTLS)], Some((Client, "insists on starttls"))),
        (
            &[
                header,
                offer,
                (Client, STARTTLS),
                (Upstream, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"),
            ],
            Some((Client, "insists on starttls")),
        ),
        (&[header, offer, (Client, STARTTLS), (Client, AUTH)], None),
        (&[header, offer, (Client, AUTH)], None),
        (&[header, (Upstream, error)], Some((Upstream, "ended the stream: not-authorized: bad certificate"))),
    ] {
        let remark = say_in_all_ways(OPENING, true, turns).greeter.why_ended();
        assert_eq!(remark.as_ref().map(|remark| remark.of), why.map(|(of, _)| of), "{turns:?}: {remark:?}");
        assert!(remark.as_ref().is_none_or(|remark| remark.detail.contains(why.unwrap().1)), "{remark:?}");
        assert_eq!(say_in_all_ways(OPENING, false, turns).greeter.why_ended(), None);
    }
}

/// Towards a server without TLS the client's own is all the protection there is: it is asked for, and passes.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let offer = &features(&[STARTTLS, MECHANISMS].concat())[..];
    let hello = "\u{16}\u{3}\u{1}";
    let turns =
        [(Upstream, HEADER), (Upstream, offer), (Client, STARTTLS), (Upstream, PROCEED), (Client, hello)];
    let After { onward, greeter } = say_in_all_ways(OPENING, false, &turns);
    assert!(greeter.is_done());
    let expected = Onward {
        up: [OPENING, STARTTLS, hello].concat().into(),
        down: [HEADER, offer, PROCEED].concat().into(),
    };
    assert_eq!(onward, expected);
}

/// Whatever cannot be followed passes as it is, and nothing is ever kept beyond the bound.
#[test]
fn what_cannot_be_followed_passes_as_it_is() {
    let too_long = [HEADER, "<stream:features>", &"x".repeat(70_000)].concat();
    let no_header = "<?xml version='1.0'?><stream:stream a='".to_owned() + &"x".repeat(9_000);
    let deep = [HEADER, &"<a>".repeat(20)].concat();
    let comment = [HEADER, "<!-- -->", &features(STARTTLS)].concat();
    let message = [HEADER, "<message/>", &features(STARTTLS)].concat();
    for odd in ["HTTP/1.1 400\r\n", "\0", "<html>", &too_long, &no_header, &deep, &comment, &message] {
        let whole = say(OPENING, true, &[(Upstream, odd)], None);
        assert!(whole.greeter.is_done(), "{:.80}", odd);
        let split = say(OPENING, true, &[(Upstream, odd)], Some(&mut Rng::with_seed(1)));
        for after in [whole, split] {
            assert!(after.onward.down == odd.as_bytes(), "{:.80}", odd);
        }
    }
}

/// Both sides say anything in any order: up goes what the client said, and how it is cut does not matter.
#[test]
fn anything_said_in_any_pieces_goes_on_the_same() {
    let offer = features(&[STARTTLS, MECHANISMS].concat());
    let error = stream_error("conflict", "");
    let server = [HEADER, &offer, PROCEED, &error, "<message>", "</message>", " ", "</stream:stream>"];
    let client = [STARTTLS, AUTH, " ", "</stream:stream>", "<", "<starttls", "\n", OPENING];
    for seed in 0..5_000 {
        let mut random = Rng::with_seed(seed);
        let mut turns: Vec<(Party, String)> = vec![(Upstream, HEADER.into())];
        for _ in 0..random.usize(1..6) {
            let (party, parts) = if random.bool() { (Client, &client) } else { (Upstream, &server) };
            turns.push((party, String::from_utf8_lossy(&jumble(parts, &mut random)).into_owned()));
        }
        let turns: Vec<_> = turns.iter().map(|(party, words)| (*party, words.as_str())).collect();
        let whole = say(OPENING, true, &turns, None);
        let split = say(OPENING, true, &turns, Some(&mut random));
        assert_eq!(split.onward, whole.onward, "seed {seed}");
        assert_eq!(split.greeter.is_done(), whole.greeter.is_done(), "seed {seed}");
        assert_eq!(split.refused(), whole.refused(), "seed {seed}");
        assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended(), "seed {seed}");
        let said = turns.iter().filter(|(party, _)| *party == Client).map(|(_, words)| *words);
        assert_eq!(whole.onward.up, [OPENING.to_owned(), said.collect()].concat().as_bytes(), "seed {seed}");
    }
}
