//! Conversations of clients whose listener has TLS to give.

use super::*;
use crate::protocol::{Meeting, Negotiated, Opening, Protocol};
use Party::{Client, Upstream};

const EHLO: (Party, &str) = (Client, "EHLO me\r\n");
const CAN: (Party, &str) = (Upstream, "250-mx\r\n250-AUTH PLAIN\r\n250 SIZE 1000\r\n");

/// What has gone on, and who read along.
struct After {
    up: String,
    down: String,
    objection: Option<Objection>,
    greeter: Box<dyn Greeter>,
}

fn say(offer: Offer, turns: &[(Party, &str)], longest: usize, rng: &mut fastrand::Rng) -> After {
    say_in(Protocol::Smtp, "220 mx\r\n", offer, turns, longest, rng)
}

fn say_in(
    protocol: Protocol,
    greeting: &str,
    offer: Offer,
    turns: &[(Party, &str)],
    longest: usize,
    rng: &mut fastrand::Rng,
) -> After {
    let greeting = protocol.greet(Meeting {
        opening: Opening::default(),
        negotiated: Negotiated { greeting: greeting.into() },
        secured: true,
        offer,
        keep_key: Box::new(|_| {}),
    });
    let (mut onward, mut greeter) = (greeting.onward, greeting.greeter.expect("somebody reads along"));
    let mut objection = None;
    'said: for (party, words) in turns {
        let mut rest = words.as_bytes();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
            rest = behind;
            let heard = match (party, greeter.is_done()) {
                (Client, true) => {
                    onward.up.extend_from_slice(piece);
                    Ok(())
                }
                (Client, false) => greeter.client_said(piece, &mut onward),
                (_, true) => {
                    onward.down.extend_from_slice(piece);
                    Ok(())
                }
                (_, false) => greeter.upstream_said(piece, &mut onward),
            };
            if let Err(objected) = heard {
                objection = Some(objected);
                break 'said;
            }
        }
        // As the relay does once the answer is delivered, and before it reads on.
        if greeter.upgrade() == Upgrade::Answered {
            greeter.upgraded(&mut onward);
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    After { up: text(onward.up), down: text(onward.down), objection, greeter }
}

/// In many ways, of which each has to come to the same.
fn say_in_all_ways(offer: Offer, turns: &[(Party, &str)]) -> After {
    say_in_all_ways_in(Protocol::Smtp, "220 mx\r\n", offer, turns)
}

fn say_in_all_ways_in(protocol: Protocol, greeting: &str, offer: Offer, turns: &[(Party, &str)]) -> After {
    let mut rng = fastrand::Rng::with_seed(5);
    let whole = say_in(protocol, greeting, offer, turns, usize::MAX, &mut rng);
    for longest in [1, 2, 5, 40] {
        for _ in 0..30 {
            let split = say_in(protocol, greeting, offer, turns, longest, &mut rng);
            assert_eq!((&split.up, &split.down), (&whole.up, &whole.down));
            assert_eq!(split.greeter.is_done(), whole.greeter.is_done());
            assert_eq!(split.greeter.upgrade(), whole.greeter.upgrade());
            assert_eq!(split.greeter.may_refuse(), whole.greeter.may_refuse());
            assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended());
            assert_eq!(split.objection, whole.objection);
        }
    }
    whole
}

/// A client is offered what its listener has, once, whatever the server says of its own; and who must use it first is not
/// invited to send its password before.
#[test]
fn the_offer_has_our_starttls_and_no_other() {
    for (offer, answer, told) in [
        (Offer::Optional, CAN.1, "250-mx\r\n250-AUTH PLAIN\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"),
        (Offer::Required, CAN.1, "250-mx\r\n250-SIZE 1000\r\n250 STARTTLS\r\n"),
        (Offer::Optional, "250-mx\r\n250-STARTTLS\r\n250 DSN\r\n", "250-mx\r\n250-DSN\r\n250 STARTTLS\r\n"),
        (Offer::Optional, "250-mx\r\n250 starttls\r\n", "250-mx\r\n250 STARTTLS\r\n"),
        (Offer::Required, "250-mx\r\n250 AUTH PLAIN\r\n", "250-mx\r\n250 STARTTLS\r\n"),
        (Offer::Optional, "250 mx\r\n", "250-mx\r\n250 STARTTLS\r\n"),
        (Offer::Optional, "250\r\n", "250-\r\n250 STARTTLS\r\n"),
        (
            Offer::Optional,
            "250-mx\r\n250-AUTH X-PLUS\r\n250 DSN\r\n",
            "250-mx\r\n250-DSN\r\n250 STARTTLS\r\n",
        ),
        (Offer::Optional, "502 no EHLO\r\n", "502 no EHLO\r\n"),
        (Offer::Taken, "250-mx\r\n250-STARTTLS\r\n250 DSN\r\n", "250-mx\r\n250 DSN\r\n"),
    ] {
        let after = say_in_all_ways(offer, &[EHLO, (Upstream, answer)]);
        let told = format!("220 mx\r\n{told}");
        assert_eq!((after.down, after.objection), (told, None), "{answer}");
    }
}

/// The server hears nothing of it; inside, the client begins anew and is offered no second one.
#[test]
fn starttls_is_answered_here_and_then_the_client_begins_anew() {
    for offer in [Offer::Optional, Offer::Required] {
        let inside = (Upstream, "250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n");
        let turns = [
            EHLO,
            CAN,
            (Client, "StartTLS \r\n"),
            (Client, "EHLO again\r\n"),
            inside,
            (Client, "AUTH PLAIN AA==\r\n"),
            (Upstream, "235 ok\r\n"),
        ];
        let after = say_in_all_ways(offer, &turns);
        assert_eq!(after.up, "EHLO me\r\nEHLO again\r\nAUTH PLAIN AA==\r\n");
        let told = format!("{}250-mx\r\n250 AUTH PLAIN\r\n235 ok\r\n", "220 2.0.0 Ready to start TLS\r\n");
        assert!(after.down.ends_with(&told), "{}", after.down);
        assert!(after.greeter.is_done() && after.objection.is_none());
    }
}

/// CVE-2011-0411, from the other side: what came in plaintext behind STARTTLS is never taken for something said inside.
#[test]
fn what_stands_behind_starttls_ends_it_and_goes_nowhere() {
    for offer in [Offer::Optional, Offer::Required] {
        for behind in ["EHLO evil\r\n", "M", "\r\n", "\0"] {
            let words = format!("STARTTLS\r\n{behind}");
            let mut rng = fastrand::Rng::with_seed(1);
            let after = say(offer, &[EHLO, CAN, (Client, &words)], usize::MAX, &mut rng);
            assert_eq!((after.up.as_str(), after.objection), ("EHLO me\r\n", Some(SLIPPED_IN)), "{behind:?}");
        }
    }
}

/// The answers come in the order of the commands, whoever gives them.
#[test]
fn starttls_is_answered_once_all_that_was_asked_before_is() {
    let early = [EHLO, (Client, "STARTTLS\r\n")];
    let after = say_in_all_ways(Offer::Optional, &early);
    assert_eq!((after.down.as_str(), after.greeter.upgrade()), ("220 mx\r\n", Upgrade::Asked));
    assert!(after.greeter.may_refuse() && !after.greeter.is_done());
    let after = say_in_all_ways(Offer::Optional, &[early[0], early[1], CAN]);
    assert!(after.down.ends_with("250 STARTTLS\r\n220 2.0.0 Ready to start TLS\r\n"), "{}", after.down);

    let mixed = "NOOP\r\nMAIL FROM:<>\r\nNOOP\r\nSTARTTLS now\r\nQUIT\r\n";
    let answers = [(Upstream, "250 one\r\n"), (Upstream, "250 two\r\n"), (Upstream, "221 bye\r\n")];
    let after = say_in_all_ways(Offer::Required, &[&[(Client, mixed)], &answers[..]].concat());
    assert_eq!(after.up, "NOOP\r\nNOOP\r\nQUIT\r\n");
    let ours =
        ["530 5.7.0 Must issue a STARTTLS command first\r\n", "501 5.5.4 STARTTLS takes no parameters\r\n"];
    assert_eq!(after.down, format!("220 mx\r\n250 one\r\n{}250 two\r\n{}221 bye\r\n", ours[0], ours[1]));
}

/// What a server says on its own comes behind our answer, where that was due before, however the server's words are cut.
#[test]
fn an_answer_of_ours_stands_where_it_is_due() {
    for (protocol, greeting, asks, turn, down) in [
        (
            Protocol::Smtp,
            "220 mx\r\n",
            "EHLO me\r\nMAIL FROM:<>\r\n",
            "250 mx\r\n421 4.4.2 timeout\r\n",
            "250-mx\r\n250 STARTTLS\r\n530 5.7.0 Must issue a STARTTLS command first\r\n421 4.4.2 timeout\r\n",
        ),
        (
            Protocol::Pop3,
            "+OK hi\r\n",
            "CAPA\r\nUSER u\r\n",
            "-ERR what?\r\n+OK still there\r\n",
            "-ERR what?\r\n-ERR [SYS/PERM] STLS is required first\r\n+OK still there\r\n",
        ),
    ] {
        let turns = [(Client, asks), (Upstream, turn)];
        let mut rng = fastrand::Rng::with_seed(5);
        for longest in [usize::MAX, 1, 2, 5, 40] {
            let after = say_in(protocol, greeting, Offer::Required, &turns, longest, &mut rng);
            assert_eq!(after.down, format!("{greeting}{down}"), "in pieces of {longest}");
        }
    }
}

/// Where TLS is demanded, nothing of a mail, a password or a proxy's word reaches the server before; and the log says why
/// that client left.
#[test]
fn who_must_have_tls_first_gets_nothing_else_through() {
    let words = [
        "MAIL FROM:<a@b>",
        "AUTH PLAIN AA==",
        "XCLIENT ADDR=1.2.3.4",
        "BDAT 5 LAST",
        "",
        "EHLOX",
        "nonsense",
    ];
    for word in words {
        let said = format!("{word}\r\n");
        let after = say_in_all_ways(Offer::Required, &[EHLO, CAN, (Client, &said)]);
        assert_eq!(after.up, "EHLO me\r\n", "{word}");
        assert!(after.down.ends_with("530 5.7.0 Must issue a STARTTLS command first\r\n"), "{}", after.down);
        assert!(!after.greeter.is_done());
        let remark = after.greeter.why_ended().expect("a remark");
        assert_eq!((remark.of, remark.mend.contains("STARTTLS")), (Client, true));
    }
}

/// Where it is not demanded, who goes on without it goes on as ever.
#[test]
fn who_need_not_have_tls_may_go_on_without() {
    for word in ["MAIL FROM:<a@b>", "AUTH PLAIN AA==", "XCLIENT ADDR=1.2.3.4", "nonsense", " EHLO"] {
        let said = format!("{word}\r\nSTARTTLS\r\n");
        let after = say_in_all_ways(Offer::Optional, &[EHLO, CAN, (Client, &said)]);
        assert_eq!(after.up, format!("EHLO me\r\n{said}"));
        assert!(after.objection.is_none() && after.greeter.why_ended().is_none());
    }
}

/// A client that begins with TLS is told how its listener has it.
#[test]
fn a_handshake_where_starttls_is_due_is_told_apart() {
    let mut rng = fastrand::Rng::with_seed(1);
    let after = say(Offer::Required, &[(Client, "\x16\x03\x01")], usize::MAX, &mut rng);
    assert!(after.objection.expect("an objection").mend.contains("tls_mode"));
}

/// Neither side can make it keep what has no end, or lose sight of whether TLS was asked for.
#[test]
fn what_cannot_be_followed_ends_it() {
    let mut rng = fastrand::Rng::with_seed(1);
    let many = "NOOP\r\n".repeat(100);
    let after = say(Offer::Required, &[(Client, &many)], usize::MAX, &mut rng);
    assert!(after.objection.is_some());
    let endless = "x".repeat(1 << 20);
    for (word, up) in [("", ""), ("NOOP ", ""), ("STARTTLS ", "")] {
        let said = format!("{word}{endless}");
        let after = say(Offer::Required, &[(Client, &said)], usize::MAX, &mut rng);
        assert_eq!((after.up.as_str(), after.objection), (up, None));
    }
    for offer in [Offer::Optional, Offer::Required] {
        let after = say(offer, &[EHLO, (Upstream, "HTTP/1.1 400 Bad Request\r\n")], usize::MAX, &mut rng);
        assert_eq!(after.objection.is_some(), offer == Offer::Required);
    }
}

/// One conversation a protocol: what the client sees of the server's offer before TLS, that a password does not go on, that its
/// request ends here, and what it sees inside.
#[test]
fn every_protocol_of_lines_has_its_own_words_for_it() {
    type Turn<'a> = (Party, &'a str);
    let cases: [(Protocol, &str, &[Turn<'_>], &str, &str); 5] = [
        (
            Protocol::Lmtp,
            "220 box\r\n",
            &[
                (Client, "LHLO me\r\n"),
                (Upstream, "250-box\r\n250 DSN\r\n"),
                (Client, "MAIL FROM:<>\r\n"),
                (Client, "STARTTLS\r\n"),
                (Client, "LHLO me\r\n"),
                (Upstream, "250-box\r\n250 DSN\r\n"),
            ],
            "LHLO me\r\nLHLO me\r\n",
            "250-box\r\n250-DSN\r\n250 STARTTLS\r\n530 5.7.0 Must issue a STARTTLS command first\r\n\
             220 2.0.0 Ready to start TLS\r\n250-box\r\n250 DSN\r\n",
        ),
        (
            Protocol::Pop3,
            "+OK hi <1@x>\r\n",
            &[
                (Client, "CAPA\r\n"),
                (Upstream, "+OK\r\nUSER\r\nSASL PLAIN\r\nUIDL\r\n.\r\n"),
                (Client, "USER me\r\n"),
                (Client, "stls\r\n"),
                (Client, "CAPA\r\n"),
                (Upstream, "+OK\r\nUSER\r\nSTLS\r\n.\r\n"),
                (Client, "USER me\r\n"),
            ],
            "CAPA\r\nCAPA\r\nUSER me\r\n",
            "+OK\r\nUIDL\r\nSTLS\r\n.\r\n-ERR [SYS/PERM] STLS is required first\r\n+OK Begin TLS negotiation\r\n\
             +OK\r\nUSER\r\n.\r\n",
        ),
        (
            Protocol::Nntp,
            "200 hi\r\n",
            &[
                (Client, "CAPABILITIES\r\n"),
                (Upstream, "101 list\r\nVERSION 2\r\nAUTHINFO USER\r\n.\r\n"),
                (Client, "AUTHINFO USER me\r\n"),
                (Client, "STARTTLS\r\n"),
                (Client, "DATE\r\n"),
            ],
            "CAPABILITIES\r\nDATE\r\n",
            "101 list\r\nVERSION 2\r\nSTARTTLS\r\n.\r\n483 STARTTLS is required first\r\n\
             382 Continue with TLS negotiation\r\n",
        ),
        (
            Protocol::Imap,
            "* OK [CAPABILITY IMAP4rev1] hi\r\n",
            &[
                (Upstream, "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nnuncio OK done\r\n"),
                (Client, "a CAPABILITY\r\n"),
                (Upstream, "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\na OK done\r\n"),
                (Client, "b LOGIN me secret\r\n"),
                (Client, "c ID (\"name\" {6}\r\n"),
                (Client, "x\r\n"),
                (Client, "d starttls\r\n"),
                (Client, "e CAPABILITY\r\n"),
                (Upstream, "* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\ne OK done\r\n"),
            ],
            "nuncio CAPABILITY\r\na CAPABILITY\r\ne CAPABILITY\r\n",
            "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi\r\n\
             * CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\na OK done\r\n\
             b NO [PRIVACYREQUIRED] STARTTLS is required first\r\nc NO [PRIVACYREQUIRED] STARTTLS is required first\r\n\
             * NO [PRIVACYREQUIRED] STARTTLS is required first\r\nd OK Begin TLS negotiation now\r\n\
             * CAPABILITY IMAP4rev1 AUTH=PLAIN\r\ne OK done\r\n",
        ),
        (
            Protocol::Sieve,
            "\"IMPLEMENTATION\" \"x\"\r\n\"VERSION\" \"1.0\"\r\nOK\r\n",
            &[
                (Upstream, "\"SASL\" \"PLAIN\"\r\nOK\r\nOK (TAG {6}\r\nnuncio) \"Done\"\r\n"),
                (Client, "AUTHENTICATE \"PLAIN\" \"AA==\"\r\n"),
                (Client, "STARTTLS\r\n"),
                (Upstream, "\"SASL\" \"PLAIN\"\r\n\"STARTTLS\"\r\nOK\r\n"),
                (Client, "AUTHENTICATE \"PLAIN\" \"AA==\"\r\n"),
            ],
            "NOOP \"nuncio\"\r\nCAPABILITY\r\nAUTHENTICATE \"PLAIN\" \"AA==\"\r\n",
            "\"SASL\" \"\"\r\n\"STARTTLS\"\r\nOK\r\nNO (ENCRYPT-NEEDED) \"STARTTLS is required first.\"\r\n\
             OK \"Begin TLS negotiation now.\"\r\n\"SASL\" \"PLAIN\"\r\nOK\r\n",
        ),
    ];
    for (protocol, greeting, turns, up, down) in cases {
        let after = say_in_all_ways_in(protocol, greeting, Offer::Required, turns);
        assert_eq!(after.objection, None, "{protocol:?}");
        let greeted = format!("{greeting}{down}");
        let down = if matches!(protocol, Protocol::Imap | Protocol::Sieve) { down } else { &greeted };
        assert_eq!((after.up.as_str(), after.down.as_str()), (up, down), "{protocol:?}");
        // And no server hears of it where it is not demanded either, nor is a login held up.
        let after = say_in_all_ways_in(protocol, greeting, Offer::Optional, &turns[..1]);
        assert!(!after.greeter.is_done() && after.objection.is_none(), "{protocol:?}");
    }
}

/// What a server says unasked may come in one piece with an answer, or later: our own answer has its place between them, and
/// behind the one that lets TLS begin nothing goes in plaintext.
#[test]
fn what_the_server_says_behind_an_answer_stays_behind_ours() {
    let told = "* CAPABILITY IMAP4rev1\r\na OK done\r\n* OK [ALERT] late\r\n";
    for (asks, ours) in [
        ("a CAPABILITY\r\nb LOGIN u p\r\n", "b NO [PRIVACYREQUIRED] STARTTLS is required first\r\n"),
        ("a CAPABILITY\r\nb STARTTLS\r\n", "b OK Begin TLS negotiation now\r\n"),
    ] {
        let turns = [(Upstream, "nuncio OK done\r\n"), (Client, asks), (Upstream, told)];
        let after = say_in_all_ways_in(Protocol::Imap, "* OK hi\r\n", Offer::Required, &turns);
        let list = "* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n";
        let expected = format!("* OK hi\r\n{list}a OK done\r\n{ours}* OK [ALERT] late\r\n");
        assert_eq!((after.down, after.objection), (expected, None));
    }
}
