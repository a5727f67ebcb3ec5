//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;
use crate::protocol::smtp::SMTP;
use crate::protocol::{Negotiated, Opening};
use Party::{Client, Upstream};

/// A conversation: who says what, in turn.
type Turns<'a> = &'a [(Party, &'a str)];

/// The beginning of a conversation, its server reached through TLS or not.
fn greeted(greeting: &str, secured: bool) -> Greeting {
    greet(
        &SMTP,
        Meeting {
            opening: Opening::default(),
            negotiated: Negotiated { greeting: greeting.into() },
            secured,
            offer: Offer::No,
            keep_key: Box::new(|_| {}),
        },
    )
}

/// What has gone on, and who read along.
struct After {
    up: String,
    down: String,
    greeter: Box<dyn Greeter>,
}

/// Lets both sides say their parts, in pieces of at most `longest` bytes; from when it is done, bytes go as they are.
fn say(greeting: &str, turns: Turns<'_>, longest: usize, rng: &mut fastrand::Rng) -> After {
    let Greeting { mut onward, greeter } = greeted(greeting, true);
    let mut greeter = greeter.expect("somebody reads along");
    for (party, words) in turns {
        let mut rest = words.as_bytes();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
            rest = behind;
            match (party, greeter.is_done()) {
                (Client, true) => onward.up.extend_from_slice(piece),
                (_, true) => onward.down.extend_from_slice(piece),
                (Client, false) => greeter.client_said(piece, &mut onward).expect("no objection"),
                (_, false) => greeter.upstream_said(piece, &mut onward).expect("no objection"),
            }
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    After { up: text(onward.up), down: text(onward.down), greeter }
}

/// As above, in many ways, of which each has to come to the same.
fn say_in_all_ways(greeting: &str, turns: Turns<'_>) -> After {
    let mut rng = fastrand::Rng::with_seed(3);
    let whole = say(greeting, turns, usize::MAX, &mut rng);
    for longest in [1, 2, 5, 40] {
        // Long ones cost too much to be said often.
        for _ in 0..if whole.down.len() < 2000 { 50 } else { 1 } {
            let split = say(greeting, turns, longest, &mut rng);
            assert_eq!((&split.up, &split.down), (&whole.up, &whole.down));
            assert_eq!(split.greeter.is_done(), whole.greeter.is_done());
            assert_eq!(split.greeter.may_refuse(), whole.greeter.may_refuse());
            assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended());
        }
    }
    whole
}

/// What a client gets of a server's answer to EHLO.
fn offered(answer: &str) -> String {
    let after = say_in_all_ways("220 mx\r\n", &[(Client, "EHLO me\r\n"), (Upstream, answer)]);
    assert!(!after.greeter.is_done());
    after.down.strip_prefix("220 mx\r\n").expect("the greeting first").to_owned()
}

#[test]
fn mechanisms_bound_to_tls_are_taken_out_and_nothing_else_is_changed() {
    for (says, gets) in [
        // Postfix with Dovecot, and the form that old clients want.
        (
            "250-mx\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-AUTH PLAIN SCRAM-SHA-1 SCRAM-SHA-1-PLUS SCRAM-SHA-256 \
             SCRAM-SHA-256-PLUS\r\n250-AUTH=PLAIN SCRAM-SHA-256-PLUS LOGIN\r\n250-8BITMIME\r\n250 CHUNKING\r\n",
            "250-mx\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-AUTH PLAIN SCRAM-SHA-1 SCRAM-SHA-256\r\n\
             250-AUTH=PLAIN LOGIN\r\n250-8BITMIME\r\n250 CHUNKING\r\n",
        ),
        (
            "250-mx\r\n250-AUTH=scram-sha-256-plus LOGIN\r\n250 HELP\r\n",
            "250-mx\r\n250-AUTH=LOGIN\r\n250 HELP\r\n",
        ),
        ("250-mx\r\n250 AUTH SCRAM-SHA-256-PLUS\tLOGIN\r\n", "250-mx\r\n250 AUTH LOGIN\r\n"),
        // With the gap before it, and no byte more.
        ("250-mx\r\n250 AUTH  A\tX-PLUS B  X-PLUS \r \n", "250-mx\r\n250 AUTH  A B \r \n"),
        // Nothing is left: the line goes, and if it was the last, the one before it is now.
        ("250-mx\r\n250-AUTH SCRAM-SHA-256-PLUS\r\n250 HELP\r\n", "250-mx\r\n250 HELP\r\n"),
        ("250-mx\r\n250-SIZE\r\n250 AUTH SCRAM-SHA-256-PLUS\r\n", "250-mx\r\n250 SIZE\r\n"),
        ("250-mx\r\n250-AUTH X-PLUS\r\n250-auth=x-plus\r\n250 STARTTLS\r\n", "250 mx\r\n"),
        // A server that offers TLS inside TLS.
        ("250-mx\r\n250-STARTTLS\r\n250 HELP\r\n", "250-mx\r\n250 HELP\r\n"),
        ("250-mx\r\n250-SIZE\r\n250 starttls\r\n", "250-mx\r\n250 SIZE\r\n"),
        ("250-mx\n250-AUTH PLAIN X-PLUS\n250 STARTTLS\n", "250-mx\n250 AUTH PLAIN\n"),
        // The first line is a name, whatever it says.
        (
            "250-STARTTLS\r\n250-AUTH PLAIN X-PLUS\r\n250 HELP\r\n",
            "250-STARTTLS\r\n250-AUTH PLAIN\r\n250 HELP\r\n",
        ),
        ("250 AUTH X-PLUS\r\n", "250 AUTH X-PLUS\r\n"),
    ] {
        assert_eq!(offered(says), gets, "{says:?}");
    }
    for unchanged in [
        "250 mx\r\n",
        "250-mx\r\n250-AUTH  PLAIN\tLOGIN \r\n250-AUTH\r\n250-AUTH=\r\n250-SIZE   0\r\n250 \r\n",
        "250-mx\n250-X-AUTH SCRAM-SHA-256-PLUS\n250-AUTHX A-PLUS\r\n250-STARTTLSX\n250\n",
        "250-mx\r\n250-AUTH PLUS -PLUS X-PLUSS\r\n250 XPLUS STARTTLS\r\n",
        // No answer that offers anything.
        "550-AUTH\r\n550-STARTTLS\r\n550 AUTH X-PLUS\r\n",
    ] {
        assert_eq!(offered(unchanged), unchanged);
    }
}

#[test]
fn the_greeting_comes_first_and_mail_ends_the_reading() {
    let after = say_in_all_ways(
        "220-mx\r\n220 mx\r\n",
        &[
            (Client, "EHLO me\r\n"),
            (Upstream, "250-mx\r\n250 AUTH PLAIN X-PLUS\r\n"),
            (Client, "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"),
            (Upstream, "250-AUTH X-PLUS\r\n250 AUTH X-PLUS\r\n250 ok\r\n354 go\r\n"),
            (Client, "EHLO me\r\n.\r\n"),
            (Upstream, "250 AUTH X-PLUS\r\n"),
        ],
    );
    assert!(after.greeter.is_done() && after.greeter.why_ended().is_none());
    assert_eq!(
        after.down,
        "220-mx\r\n220 mx\r\n250-mx\r\n250 AUTH PLAIN\r\n250-AUTH X-PLUS\r\n250 AUTH X-PLUS\r\n250 ok\r\n354 go\r\n\
         250 AUTH X-PLUS\r\n"
    );
}

/// Where TLS began with the first byte, the greeting comes through it; a client that cannot wait is not held back.
#[test]
fn a_greeting_that_comes_through_tls_passes_also_to_a_client_that_spoke_before_it() {
    let after = say_in_all_ways(
        "",
        &[
            (Client, "EHLO me\r\nMAIL FROM:<>\r\n"),
            (
                Upstream,
                "220-AUTH X-PLUS\r\n220 STARTTLS\r\n250-mx\r\n250-AUTH X-PLUS LOGIN\r\n250 STARTTLS\r\n250 ok\r\n",
            ),
        ],
    );
    assert_eq!(after.up, "EHLO me\r\nMAIL FROM:<>\r\n");
    assert_eq!(after.down, "220-AUTH X-PLUS\r\n220 STARTTLS\r\n250-mx\r\n250 AUTH LOGIN\r\n250 ok\r\n");
    assert!(after.greeter.is_done());
}

/// Replies are matched in order: only EHLO's is changed, each time.
#[test]
fn every_ehlo_is_answered_without_them_wherever_it_stands() {
    let offer = "250-mx\r\n250-AUTH X-PLUS\r\n250 HELP\r\n";
    let after = say_in_all_ways(
        "220 mx\r\n",
        &[
            (Client, "noop\r\nehlo me\r\nRSET\r\nHELP EHLO\r\n EHLO\tme\r\nEhlo\r\n"),
            (Upstream, offer),
            (Upstream, &offer.repeat(2)),
            (Upstream, &offer.repeat(3)),
            (Client, "XCLIENT ADDR=192.0.2.1\r\n"),
            (Upstream, "220 mx\r\n"),
            (Client, "EHLO you\r\n"),
            (Upstream, "250-mx\r\n250 AUTH X-PLUS\r\n"),
            (Client, "HELO you\r\n"),
            (Upstream, offer),
        ],
    );
    let cut = "250-mx\r\n250 HELP\r\n";
    let all = ["220 mx\r\n", offer, cut, offer, offer, cut, cut, "220 mx\r\n", "250 mx\r\n", offer];
    assert_eq!(after.down, all.concat());
    assert!(!after.greeter.is_done());
}

#[test]
fn whoever_goes_on_to_what_is_no_beginning_ends_the_reading() {
    for command in [
        "MAIL FROM:<>\r\n",
        "AUTH PLAIN AHgAeA==\r\n",
        "DATA\r\n",
        "BDAT 10 LAST\r\n",
        "VRFY x\r\n",
        "GET / HTTP/1.1\r\n",
        "\r\n",
        "\n",
        "EHLOX",
        "STARTTLSX",
        "EHL\r",
        "\0\0\0\0\0\0\0\0\0",
        "LHLO me\r\n",
        "aaaaaaaaaaaaaaaaaaa",
    ] {
        let after = say_in_all_ways("220 mx\r\n", &[(Client, command)]);
        assert!(after.greeter.is_done(), "{command:?}");
        assert_eq!(after.up, command);
        // Not while an answer is out that has to be changed.
        let turns = [(Client, "EHLO me\r\n"), (Client, command), (Upstream, "250-mx\r\n250 STARTT")];
        let after = say_in_all_ways("220 mx\r\n", &turns);
        assert!(!after.greeter.is_done(), "{command:?}");
        assert_eq!(after.down, "220 mx\r\n");
    }
}

/// Only between a command and its answer, or in place of the greeting, is 421 what the client expects to read.
#[test]
fn a_refusal_is_possible_while_an_answer_is_awaited_and_none_of_it_was_seen() {
    let offer = (Upstream, "250-mx\r\n250 HELP\r\n");
    for (greeting, turns, may) in [
        ("", &[][..], true),
        ("", &[(Upstream, "220-m")], false),
        ("", &[(Upstream, "220-mx\r\n")], false),
        ("", &[(Upstream, "220 mx\r\n")], false),
        ("", &[(Client, "EHLO me\r\n"), (Upstream, "220 mx\r\n")], true),
        // It reads the refusal when it has said its first command.
        ("220 mx\r\n", &[], true),
        ("220 mx\r\n", &[(Client, "EHLO me")], true),
        ("220 mx\r\n", &[(Client, "QUIT\r\n")], false),
        ("220 mx\r\n", &[(Client, "EHLO me\r\n")], true),
        // It is read as a whole before any of it goes on.
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), (Upstream, "250-mx\r\n250")], true),
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), offer], false),
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), offer, (Client, "NOOP\r\n")], true),
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), offer, (Client, "NOOP\r\n"), (Upstream, "2")], false),
        ("220 mx\r\n", &[(Client, "NOOP\r\nRSET\r\n"), (Upstream, "250 ok\r\n")], true),
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), offer, (Client, "QUIT\r\n")], false),
        // Unasked.
        ("220 mx\r\n", &[(Upstream, "421 4.4.2 mx Error: timeout")], false),
        // The server has said that it goes, whatever else was asked.
        ("220 mx\r\n", &[(Client, "RSET\r\nNOOP\r\n"), (Upstream, "421 4.3.2 mx going down\r\n")], false),
        ("220 mx\r\n", &[(Client, "NOOP\r\nEHLO me\r\n"), (Upstream, "421 4.3.2 bye\r\n")], false),
        ("", &[(Client, "EHLO me\r\n"), (Upstream, "421 4.7.0 too many\r\n")], false),
        // Inside TLS, and to the first question, it may be about our certificate.
        ("220 mx\r\n", &[(Client, "EHLO me\r\n"), (Upstream, "421 4.7.1 not you\r\n")], true),
    ] {
        assert_eq!(say_in_all_ways(greeting, turns).greeter.may_refuse(), may, "{greeting:?} {turns:?}");
    }
}

/// Over TLS from the first byte the greeting is read along: one that is 421 is the server's word that it has no place, which
/// its circuit counts and the record tells. Later it is about this conversation only.
#[test]
fn a_server_that_has_no_place_says_so_in_place_of_its_greeting() {
    for (greeting, turns, is_overloaded) in [
        ("", &[(Upstream, "421 4.3.2 All server ports are busy\r\n")][..], true),
        ("", &[(Upstream, "421-4.3.2 All server\r\n421 ports are busy\r\n"), (Client, "DATA\r\n")], true),
        ("", &[(Client, "EHLO me\r\n"), (Upstream, "421 4.3.2 busy\r\n")], true),
        ("", &[(Upstream, "421 4.3.2 bu")], false),
        ("", &[(Upstream, "220 mx\r\n"), (Client, "NOOP\r\n"), (Upstream, "421 4.3.2 bye\r\n")], false),
        ("", &[(Upstream, "554 no\r\n")], false),
        ("220 mx\r\n", &[(Client, "NOOP\r\n"), (Upstream, "421 4.3.2 bye\r\n")], false),
    ] {
        let after = say_in_all_ways(greeting, turns);
        assert_eq!(after.greeter.is_overloaded(), is_overloaded, "{turns:?}");
        let why = after.greeter.why_ended().filter(|why| why.detail.contains("does not serve now: 421"));
        assert_eq!(why.is_some_and(|why| why.of == Upstream), is_overloaded, "{turns:?}");
    }
}

#[test]
fn a_client_that_speaks_tls_is_told_so_whatever_else_it_would_say() {
    for greeting in ["", "220 mx\r\n"] {
        let mut greeter = greeted(greeting, true).greeter.unwrap();
        let mut onward = Onward::default();
        let objection = greeter.client_said(b"\x16\x03\x01\x02\0", &mut onward).unwrap_err();
        assert_eq!((objection.to, onward), (Client, Onward::default()));
        assert!(objection.mend.contains("switch TLS off in the client"), "{}", objection.mend);
    }
    // Later it is no beginning: a server that takes STARTTLS inside TLS may have it.
    let after = say_in_all_ways(
        "220 mx\r\n",
        &[(Client, "STARTTLS\r\n"), (Upstream, "220 go\r\n"), (Client, "\x16\x03\x01\x02\0")],
    );
    assert!(after.greeter.is_done());
    assert_eq!(after.up, "STARTTLS\r\n\x16\x03\x01\x02\0");
}

/// A client that leaves with what it was told in hand mostly misses something.
#[test]
fn a_client_that_leaves_is_understood() {
    let ehlo = (Client, "EHLO me\r\n");
    let plain = (Upstream, "250-mx\r\n250 AUTH PLAIN X-PLUS\r\n");
    let bound = (Upstream, "250-mx\r\n250-AUTH X-PLUS\r\n250 HELP\r\n");
    for (turns, why) in [
        (&[][..], None),
        (&[ehlo], None),
        (&[ehlo, plain], Some("it may insist on STARTTLS")),
        (&[ehlo, plain, (Client, "QUIT\r\n"), (Upstream, "221 bye\r\n")], Some("it may insist on STARTTLS")),
        (&[ehlo, bound], Some("bound to its own TLS")),
        (
            &[ehlo, plain, (Client, "STARTTLS\r\n"), (Upstream, "503 5.5.1 no\r\n")],
            Some("the client insists on STARTTLS"),
        ),
        (&[ehlo, plain, (Client, "NOOP\r\n"), (Upstream, "250 ok\r\n")], None),
        (&[ehlo, plain, (Client, "MAIL FROM:<>\r\n")], None),
        (&[ehlo, (Upstream, "550 no\r\n")], None),
        (&[ehlo, (Upstream, "421-no\r\n421 way\r\n")], Some("said no to EHLO: 421 no way")),
        (&[(Client, "HELO me\r\n"), (Upstream, "250 mx\r\n")], None),
    ] {
        let remark = say_in_all_ways("220 mx\r\n", turns).greeter.why_ended();
        assert_eq!(remark.is_some(), why.is_some(), "{turns:?}: {remark:?}");
        assert!(remark.as_ref().is_none_or(|remark| remark.detail.contains(why.unwrap())), "{remark:?}");
    }
}

/// Whatever cannot be followed passes as it is, and nothing is ever kept beyond the bound.
#[test]
fn what_cannot_be_followed_passes_as_it_is() {
    let too_long = format!("250-{}\r\n250 AUTH X-PLUS\r\n", "x".repeat(3000));
    let too_many = format!("250-mx\r\n{}250 AUTH X-PLUS\r\n", "250-X\r\n".repeat(20_000));
    for odd in
        ["hello\r\n250 AUTH X-PLUS\r\n", "250-mx\r\nAUTH X-PLUS\r\n", "25\r\n", "\0", &too_long, &too_many]
    {
        for greeting in ["", "220 mx\r\n"] {
            let after = say_in_all_ways(greeting, &[(Client, "EHLO me\r\n"), (Upstream, odd)]);
            let all = [greeting, odd].concat();
            assert!(after.greeter.is_done() && after.down == all, "{greeting:?} {:.20}", odd);
        }
    }
}

#[test]
fn neither_endless_words_nor_endless_commands_are_kept() {
    let mut reading = Reading::new(&SMTP, true, Offer::No);
    for (words, times) in [("EHLO ", 1), ("x", 100_000), ("\r\n", 1), (" ", 100_000), ("NOOP\r\n", 10_000)] {
        for _ in 0..times {
            reading.client_said(words.as_bytes(), &mut Onward::default()).unwrap();
            assert!(reading.awaited.len() <= MAX_AWAITED);
        }
    }
    assert!(reading.is_past && !reading.is_done(), "the EHLO is still to be answered");
    let mut onward = Onward::default();
    while !reading.is_done() {
        reading.upstream_said(b"250-AUTH X-PLUS\r\n", &mut onward).unwrap();
        assert!(reading.held.len() <= crate::protocol::reply::MAX_REPLY);
    }
    assert!(onward.down.len() > 60_000, "all of it went on in the end");
}

/// Both sides say anything in any order: up goes what the client said, down what the server said but for whole lines and
/// mechanisms, and pieces do not matter.
#[test]
fn anything_said_in_any_pieces_goes_on_the_same() {
    let client = [
        "EHLO me\r\n",
        "HELO me\r\n",
        "NOOP\r\n",
        "QUIT\r\n",
        "EHLO",
        " x\n",
        "STARTTLS\r\n",
        "AUTH PLAIN\r\n",
        "\r\n",
        "R",
        "SET\r\n",
    ];
    let server = [
        "220 mx\r\n",
        "250 ok\r\n",
        "250-mx\r\n",
        "250-AUTH X-PLUS\r\n",
        "250 AUTH A X-PLUS\r\n",
        "250-STARTTLS\r\n",
        "250 STARTTLS\r\n",
        "250",
        "-SIZE\n",
        "250 HELP\n",
        "550 no\r\n",
        "odd\r\n",
        "421 4.4.2 bye\r\n",
    ];
    for seed in 0..10_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let turns: Vec<(Party, &str)> = (0..rng.usize(1..16))
            .map(|_| match rng.bool() {
                true => (Client, *rng.choice(client.as_slice()).unwrap()),
                false => (Upstream, *rng.choice(server.as_slice()).unwrap()),
            })
            .collect();
        let greeting = if rng.bool() { "" } else { "220 mx\r\n" };
        let whole = say(greeting, &turns, usize::MAX, &mut rng);
        let longest = rng.usize(1..8);
        let split = say(greeting, &turns, longest, &mut rng);
        assert_eq!((&split.up, &split.down), (&whole.up, &whole.down), "seed {seed}: {turns:?}");
        let said: String =
            turns.iter().filter(|(party, _)| *party == Client).map(|(_, words)| *words).collect();
        assert_eq!(whole.up, said, "seed {seed}");
    }
}

/// Towards a server without TLS the client may ask for it itself: to take that away would be to strip its protection.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let Greeting { mut onward, greeter } = greeted("", false);
    let mut greeter = greeter.unwrap();
    let offer = "250-mx\r\n250-AUTH X-PLUS\r\n250 STARTTLS\r\n";
    greeter.upstream_said(b"220 mx\r\n", &mut onward).unwrap();
    greeter.client_said(b"EHLO me\r\n", &mut onward).unwrap();
    assert!(greeter.may_refuse());
    greeter.upstream_said(offer.as_bytes(), &mut onward).unwrap();
    greeter.client_said(b"STARTTLS\r\n", &mut onward).unwrap();
    greeter.upstream_said(b"220 go\r\n", &mut onward).unwrap();
    assert_eq!((greeter.is_done(), greeter.why_ended()), (false, None));
    greeter.client_said(b"\x16\x03\x01", &mut onward).unwrap();
    assert!(greeter.is_done());
    assert_eq!(onward.down, ["220 mx\r\n", offer, "220 go\r\n"].concat().as_bytes());
    // From the first byte: the server will know what to make of it.
    let mut greeter = greeted("", false).greeter.unwrap();
    assert_eq!(greeter.client_said(b"\x16\x03\x01", &mut onward), Ok(()));
}

/// Without TLS no certificate of ours can be the reason of a 421 to EHLO: the server has said all there is to say.
#[test]
fn a_refusal_by_a_server_without_tls_stands_for_itself() {
    let Greeting { mut onward, greeter } = greeted("", false);
    let mut greeter = greeter.unwrap();
    greeter.upstream_said(b"220 mx\r\n", &mut onward).unwrap();
    greeter.client_said(b"EHLO me\r\nNOOP\r\n", &mut onward).unwrap();
    greeter.upstream_said(b"421 4.7.0 too busy\r\n", &mut onward).unwrap();
    assert_eq!((greeter.may_refuse(), greeter.why_ended()), (false, None));
    assert_eq!(onward.down, b"220 mx\r\n421 4.7.0 too busy\r\n");
}
