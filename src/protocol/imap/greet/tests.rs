//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;
use crate::protocol::testkit::{After, Turns, say, say_in_all_ways};
use crate::protocol::{Negotiated, Opening};
use Party::{Client, Upstream};

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] Dovecot ready.\r\n";
/// The answer to our question.
const ANSWER: &str =
    "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=SCRAM-SHA-256-PLUS\r\nnuncio OK done\r\n";
/// What the client gets of both.
const GREETED: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] Dovecot ready.\r\n";
const ASKED: &str = "nuncio CAPABILITY\r\n";

/// The beginning of a conversation, its server reached through TLS or not.
fn greeted(greeting: &str, secured: bool) -> Greeting {
    greet(Meeting {
        opening: Opening::default(),
        negotiated: Negotiated { greeting: greeting.into() },
        secured,
        offer: Offer::No,
        keep_key: Box::new(|_| {}),
    })
}

fn hear(greeting: &str, turns: Turns<'_>) -> After {
    say_in_all_ways(|| greeted(greeting, true), turns)
}

/// What follows the greeting.
fn hear_greeted(turns: Turns<'_>) -> After {
    let mut after = hear(GREETING, &[&[(Upstream, ANSWER)], turns].concat());
    after.down = after.down.strip_prefix(GREETED).expect("the greeting first").to_owned();
    after.up = after.up.strip_prefix(ASKED).expect("our question first").to_owned();
    after
}

#[test]
fn the_greeting_says_what_the_server_offers_inside_tls() {
    let list = "* CAPABILITY A AUTH=X-PLUS B\r\n";
    for (greeting, answer, gets) in [
        (GREETING, ANSWER, GREETED),
        // No list before, none now.
        ("* OK hi there\r\n", ANSWER, "* OK hi there\r\n"),
        ("* OK hi there\n", ANSWER, "* OK hi there\r\n"),
        // Any other code nobody vouches for.
        ("* OK [ALERT] call +1 555 0100 now\r\n", ANSWER, "* OK call +1 555 0100 now\r\n"),
        ("* OK [REFERRAL imap://evil.example/]\r\n", ANSWER, "* OK ready\r\n"),
        ("* OK\r\n", ANSWER, "* OK ready\r\n"),
        (
            "* OK [CAPABILITY IMAP4rev1]\r\n",
            ANSWER,
            "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n",
        ),
        ("* ok [capability x] hi\r\n", "* capability Y\r\nnuncio ok\r\n", "* OK [CAPABILITY Y] hi\r\n"),
        // It does not tell.
        (GREETING, "nuncio BAD no\r\n", "* OK Dovecot ready.\r\n"),
        (GREETING, "* CAPABILITY X\r\nnuncio NO no\r\n", "* OK Dovecot ready.\r\n"),
        (GREETING, "nuncio OK done\r\n", "* OK Dovecot ready.\r\n"),
        // Only in the code; more than once: the last counts.
        (GREETING, "nuncio OK [CAPABILITY A STARTTLS] x\r\n", "* OK [CAPABILITY A] Dovecot ready.\r\n"),
        (
            GREETING,
            "* CAPABILITY Z\r\n* CAPABILITY A AUTH=X-PLUS B\r\nnuncio OK x\r\n",
            "* OK [CAPABILITY A B] Dovecot ready.\r\n",
        ),
        // What else it says comes behind.
        (
            GREETING,
            "* OK [ALERT] down at noon {9}\r\n* CAPABILITY A\r\n* ID (\"a\" {12}\r\nnuncio OK\r\n\")\r\nnuncio OK x\r\n* NO hi\r\n",
            "* OK [CAPABILITY A] Dovecot ready.\r\n* OK [ALERT] down at noon {9}\r\n* ID (\"a\" {12}\r\nnuncio OK\r\n\")\r\n* NO hi\r\n",
        ),
        (
            GREETING,
            &format!("{list}* 1 EXISTS\r\nnuncio OK x\r\n"),
            "* OK [CAPABILITY A B] Dovecot ready.\r\n* 1 EXISTS\r\n",
        ),
    ] {
        let after = hear(greeting, &[(Upstream, answer)]);
        assert_eq!(
            (after.down.as_str(), after.up.as_str(), after.objection),
            (gets, ASKED, None),
            "{answer:?}"
        );
        assert!(!after.greeter.is_done() && after.greeter.may_refuse());
    }
}

#[test]
fn what_tls_in_the_middle_cannot_keep_is_taken_out_and_nothing_else_is_changed() {
    for (says, gets) in [
        (" A STARTTLS B", " A B"),
        (" starttls  LoginDisabled  A ", " A "),
        (
            " IMAP4rev1 AUTH=SCRAM-SHA-1-PLUS auth=scram-sha-256-plus AUTH=SCRAM-SHA-256",
            " IMAP4rev1 AUTH=SCRAM-SHA-256",
        ),
        (" A AUTH=X-PLUS", " A"),
    ] {
        for (front, back) in [
            ("* CAPABILITY", "\r\n"),
            ("* OK [CAPABILITY", "] x\r\n"),
            ("a NO [CAPABILITY", "]\r\n"),
            ("* ok [capability", "] y ]\n"),
        ] {
            let [says, gets] = [says, gets].map(|list| [front, list, back].concat());
            assert_eq!(hear_greeted(&[(Upstream, &says)]).down, gets);
            assert_eq!(hear("", &[(Upstream, &says)]).down, gets, "as a greeting inside TLS");
        }
    }
    for unchanged in [
        "* CAPABILITY\r\n",
        "* CAPABILITY IMAP4rev1 AUTH=-PLUS AUTH=PLUS XAUTH=A-PLUS STARTTLSX LITERAL-PLUS\r\n",
        "* OK [CAPABILITIES STARTTLS] x\r\n",
        "* OK [CAPABILITY STARTTLS\r\n",
        "* OK [ALERT] CAPABILITY STARTTLS\r\n",
        "* OK x [CAPABILITY STARTTLS]\r\n",
        "* XCAPABILITY STARTTLS\r\n",
        "+ CAPABILITY STARTTLS\r\n",
        "a CAPABILITY STARTTLS\r\n",
        "* ID (\"x\" {26}\r\n* CAPABILITY A STARTTLS B\r\n)\r\n",
        "* LIST () \"/\" STARTTLS\r\n",
        "\r\n",
        "*\r\n",
        "hello\n",
    ] {
        assert_eq!(hear_greeted(&[(Upstream, unchanged)]).down, unchanged);
    }
}

#[test]
fn each_list_is_mended_until_the_client_is_logged_in() {
    let list = "* CAPABILITY A STARTTLS\r\n";
    let mended = "* CAPABILITY A\r\n";
    let login = "b LOGIN u {10}\r\n";
    let after = hear_greeted(&[
        (Client, "a CAPABILITY\r\n"),
        (Upstream, list),
        (Upstream, "a OK done\r\n"),
        (Client, login),
        (Upstream, "+ go on\r\n"),
        // A password that looks like a command, and is followed by the end of the login.
        (Client, "c LOGIN x\n\r\n"),
        (Upstream, list),
        (Upstream, "b NO [CAPABILITY A STARTTLS] wrong\r\n"),
        (Client, "c AUTHENTICATE SCRAM-SHA-256\r\n"),
        (Upstream, "+ \r\n"),
        (Client, "d LOGIN\r\n"),
        (Upstream, "+ * CAPABILITY STARTTLS\r\n"),
        (Client, "\r\n"),
        (Upstream, "d OK that is no answer\r\n"),
        (Upstream, list),
        (Upstream, "c OK [CAPABILITY A STARTTLS] Logged in\r\n"),
        (Upstream, list),
    ]);
    assert!(after.greeter.is_done());
    assert_eq!(
        after.down,
        [
            mended,
            "a OK done\r\n+ go on\r\n",
            mended,
            "b NO [CAPABILITY A] wrong\r\n+ \r\n+ * CAPABILITY STARTTLS\r\nd OK that is no answer\r\n",
            mended,
            "c OK [CAPABILITY A] Logged in\r\n",
            list,
        ]
        .concat()
    );
    assert_eq!(
        after.up,
        ["a CAPABILITY\r\n", login, "c LOGIN x\n\r\nc AUTHENTICATE SCRAM-SHA-256\r\nd LOGIN\r\n\r\n"]
            .concat()
    );
}

/// Whatever the server says yes to that is no beginning may change what is spoken: logged in, compressed, anything unknown.
#[test]
fn whatever_the_server_says_yes_to_ends_the_reading_unless_it_is_a_beginning() {
    for command in [
        "LOGIN u p",
        "AUTHENTICATE PLAIN AA==",
        "STARTTLS",
        "COMPRESS DEFLATE",
        "SELECT x",
        "xyzzy",
        "login u p",
    ] {
        let command = format!("a1 {command}\r\n");
        for (answer, done) in [
            ("a1 OK x\r\n", true),
            ("a1 NO x\r\na1 OK\r\n", false),
            ("a1 BAD x\r\n", false),
            ("a OK x\r\n", false),
        ] {
            let after = hear_greeted(&[(Client, &command), (Upstream, answer)]);
            assert_eq!(after.greeter.is_done(), done, "{command:?} {answer:?}");
        }
    }
    for command in ["CAPABILITY", "noop", "ID NIL", "LOGOUT"] {
        let after = hear_greeted(&[(Client, &format!("a1 {command}\r\n")), (Upstream, "a1 OK x\r\n")]);
        assert!(!after.greeter.is_done(), "{command}");
    }
    // By its certificate.
    let after = hear(
        "",
        &[(Upstream, "* PREAUTH [CAPABILITY A STARTTLS] hi\r\n"), (Upstream, "* CAPABILITY STARTTLS\r\n")],
    );
    assert!(after.greeter.is_done());
    assert_eq!(after.down, "* PREAUTH [CAPABILITY A] hi\r\n* CAPABILITY STARTTLS\r\n");
}

/// Literals in either direction hold what looks like commands and answers, and are none.
#[test]
fn nothing_inside_a_literal_is_taken_for_a_line() {
    for (turns, done) in [
        (
            &[(Client, "a LOGIN {12+}\r\nb NOOP x\r\nc  {3+}\r\n\r\nx\r\n"), (Upstream, "a OK in\r\n")][..],
            true,
        ),
        (&[(Client, "a ID (\"x\" {11+}\r\nb LOGIN x\r\n)\r\n"), (Upstream, "b OK x\r\n")], false),
        (
            &[
                (Client, "a ID ({11}\r\n"),
                (Upstream, "+ go\r\n"),
                (Client, "b LOGIN x\r\n)\r\n"),
                (Upstream, "b OK x\r\n"),
            ],
            false,
        ),
        // It does not want it: what follows is a command.
        (
            &[
                (Client, "a ID ({11}\r\n"),
                (Upstream, "a BAD no\r\n"),
                (Client, "b LOGIN x\r\n"),
                (Upstream, "b OK x\r\n"),
            ],
            true,
        ),
        (
            &[
                (Client, "a LOGIN {99}\r\n"),
                (Upstream, "x BAD no\r\n"),
                (Client, "b LOGIN x\r\n"),
                (Upstream, "b OK x\r\n"),
            ],
            false,
        ),
        (&[(Client, "a LOGIN u p\r\n"), (Upstream, "* ID ({9}\r\na OK in\r\n)\r\n")], false),
        (&[(Client, "a LOGIN u p\r\n"), (Upstream, "* OK {9}\r\na OK in\r\n")], true),
        (&[(Client, "a LOGIN u p\r\n"), (Upstream, "+ {9}\r\na OK in\r\n")], true),
        (
            &[
                (Client, "a LOGIN u p\r\n"),
                (Upstream, "* ID ~{9}\r\na OK in\r\n\r\n* ID {0}\r\n\r\na OK in\r\n"),
            ],
            true,
        ),
    ] {
        assert_eq!(hear_greeted(turns).greeter.is_done(), done, "{turns:?}");
    }
}

/// It has sent everything before the greeting: what it said goes behind our question, and is answered behind the greeting.
#[test]
fn a_client_that_does_not_wait_is_not_held_back() {
    let said = "a CAPABILITY\r\nb LOGIN u p\r\nc SELECT INBOX\r\n";
    let after = hear(
        GREETING,
        &[
            (Client, said),
            (Upstream, ANSWER),
            (
                Upstream,
                "* CAPABILITY A STARTTLS\r\na OK\r\nb OK [CAPABILITY A STARTTLS] in\r\n* CAPABILITY STARTTLS\r\nc OK\r\n",
            ),
        ],
    );
    assert_eq!(after.up, [ASKED, said].concat());
    assert_eq!(
        after.down,
        [GREETED, "* CAPABILITY A\r\na OK\r\nb OK [CAPABILITY A] in\r\n* CAPABILITY STARTTLS\r\nc OK\r\n"]
            .concat()
    );
}

/// BYE may come at any time, but not behind the server's own, and not to a client that has taken its leave.
#[test]
fn a_refusal_is_possible_until_the_server_or_the_client_has_said_goodbye() {
    for (greeting, turns, may) in [
        ("", &[][..], true),
        ("", &[(Upstream, "* OK hel")], true),
        ("", &[(Upstream, "* OK hello\r\n")], true),
        ("", &[(Upstream, "* BYE no\r\n")], false),
        (GREETING, &[], true),
        (GREETING, &[(Upstream, "* CAPABILITY A\r\n")], true),
        (GREETING, &[(Upstream, "* BYE no\r\n")], false),
        (GREETING, &[(Upstream, ANSWER)], true),
        (GREETING, &[(Upstream, ANSWER), (Client, "a LOGIN u p\r\n")], true),
        (GREETING, &[(Upstream, ANSWER), (Client, "a NOOP\r\n"), (Upstream, "* CAPABILI")], true),
        (GREETING, &[(Upstream, ANSWER), (Client, "a LOGIN u p\r\n"), (Upstream, "a OK\r\n")], false),
        (GREETING, &[(Upstream, ANSWER), (Client, "a LOGOUT\r\n")], false),
        (GREETING, &[(Upstream, ANSWER), (Upstream, "* BYE idle for too long\r\n")], false),
    ] {
        assert_eq!(hear(greeting, turns).greeter.may_refuse(), may, "{greeting:?} {turns:?}");
    }
}

#[test]
fn a_client_that_speaks_tls_is_told_so_whatever_else_it_would_say() {
    for greeting in ["", GREETING] {
        let mut greeter = greeted(greeting, true).greeter.unwrap();
        let mut onward = Onward::default();
        let objection = greeter.client_said(b"\x16\x03\x01\x02\0", &mut onward).unwrap_err();
        assert_eq!((objection.to, onward), (Client, Onward::default()));
        assert!(objection.mend.contains("switch TLS off in the client"), "{}", objection.mend);
    }
}

/// A client that leaves with what it was told in hand mostly misses something.
#[test]
fn an_end_is_understood() {
    let ask = (Client, "a CAPABILITY\r\n");
    let told = (Upstream, "* CAPABILITY A STARTTLS\r\na OK\r\n");
    let bare = (Upstream, "* CAPABILITY A LOGINDISABLED AUTH=X-PLUS\r\na OK\r\n");
    let insists = Some("it may insist on STARTTLS");
    for (turns, why) in [
        (&[][..], None),
        (&[ask], None),
        (&[ask, told], insists),
        (&[ask, told, (Client, "b LOGOUT\r\n"), (Upstream, "* BYE\r\nb OK\r\n")], insists),
        (&[ask, bare], Some("bound to its own TLS")),
        (
            &[ask, told, (Client, "b STARTTLS\r\n"), (Upstream, "b BAD\r\n")],
            Some("the client insists on STARTTLS"),
        ),
        (&[ask, told, (Client, "b LOGIN u p\r\n")], None),
        (&[ask, told, (Client, "b NOOP\r\n")], None),
        // Unasked.
        (&[(Client, "a NOOP\r\n"), told], None),
    ] {
        let remark = hear_greeted(turns).greeter.why_ended();
        assert_eq!(remark.is_some(), why.is_some(), "{turns:?}: {remark:?}");
        assert!(remark.as_ref().is_none_or(|remark| remark.detail.contains(why.unwrap())), "{remark:?}");
    }
    for greeting in ["", GREETING] {
        let after = hear(greeting, &[(Upstream, "* BYE [ALERT] not you\r\n")]);
        assert_eq!(after.down, "* BYE [ALERT] not you\r\n");
        let remark = after.greeter.why_ended().expect("it was the server");
        assert_eq!(remark.of, Upstream);
        assert!(remark.detail.ends_with("then said no: BYE [ALERT] not you"), "{remark:?}");
    }
}

/// What answers our question is for us: where it cannot be understood, the client is refused instead of being confused.
#[test]
fn an_answer_that_is_none_is_objected_to() {
    let huge = format!("* CAPABILITY {}\r\n", "x".repeat(MAX_LINE));
    let many = "* OK [ALERT] x\r\n".repeat(2000);
    for answer in
        ["+ go\r\n", "hello\r\n", "a OK\r\n", "* CAPABILITY A\r\nnuncio x\r\n", "\0\n", &huge, &many]
    {
        let after = hear(GREETING, &[(Upstream, answer)]);
        assert!(
            after.objection.is_some_and(|detail| detail.contains("CAPABILITY inside TLS")),
            "{answer:.20}"
        );
        assert_eq!(after.down, "");
    }
}

/// Whatever is too long passes as it is, and nothing is kept beyond the bound.
#[test]
fn what_is_too_long_passes_as_it_is() {
    let long = format!("* CAPABILITY {} STARTTLS\r\n", "x".repeat(MAX_LINE));
    let literal = format!("* ID ({{99999}}\r\n{}", "* CAPABILITY STARTTLS\r\n".repeat(10));
    for huge in [&long, &literal] {
        let after = hear_greeted(&[(Upstream, huge)]);
        assert!(after.greeter.is_done() && after.down == *huge, "{huge:.30}");
    }
    let mut reading = Reading::new(true, Offer::No);
    for (words, times) in
        [("a LOGIN ", 1), ("x", 100_000), ("\r\n", 1), (" ", 100_000), ("\n", 1), ("a NOOP\r\n", 9_000)]
    {
        for _ in 0..times {
            reading.client_said(words.as_bytes(), &mut Onward::default()).unwrap();
        }
    }
    assert!(!reading.is_done() && reading.awaited.len() == 1);
    for number in 0..MAX_AWAITED {
        reading.client_said(format!("a{number} X\r\n").as_bytes(), &mut Onward::default()).unwrap();
    }
    assert!(reading.is_done());
}

/// Both sides say anything in any order: up goes what the client said, down what the server said but for words of lists, and
/// pieces do not matter.
#[test]
fn anything_said_in_any_pieces_goes_on_the_same() {
    let client = [
        "a CAPABILITY\r\n",
        "b LOGIN {3+}\r\n",
        "b LOGIN {3}\r\n",
        "c AUTHENTICATE X\r\n",
        "d LOGOUT\r\n",
        "xyz",
        "\r\n",
        "AA==\r\n",
        "e STARTTLS\n",
        "f ID {1}\r\n",
        " ",
        "g",
        "*\r\n",
    ];
    let server = [
        "* OK hi\r\n",
        "* CAPABILITY A STARTTLS\r\n",
        "* CAPABILITY AUTH=X-PLUS",
        "b NO no\r\n",
        "b OK [CAPABILITY STARTTLS] x\r\n",
        "c NO x\r\n",
        "c OK x\r\n",
        "+ go\r\n",
        "* BYE x\r\n",
        "nuncio OK x\r\n",
        "nuncio BAD\r\n",
        "* ID {5}\r\n",
        "\r\n",
        "x",
        "f BAD\r\n",
        "* PREAUTH x\r\n",
        "e OK\n",
    ];
    let many = "x X\r\n".repeat(MAX_AWAITED);
    let client = [&client[..], &[&many]].concat();
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let turns: Vec<(Party, &str)> = (0..rng.usize(1..16))
            .map(|_| match rng.bool() {
                true => (Client, *rng.choice(client.as_slice()).unwrap()),
                false => (Upstream, *rng.choice(server.as_slice()).unwrap()),
            })
            .collect();
        let greeting = *rng.choice(["", GREETING].as_slice()).unwrap();
        let greet = || greeted(greeting, true);
        let whole = say(greet(), &turns, usize::MAX, &mut rng);
        let longest = rng.usize(1..8);
        let split = say(greet(), &turns, longest, &mut rng);
        assert_eq!((&split.up, &split.down), (&whole.up, &whole.down), "seed {seed}: {turns:?}");
        assert_eq!(
            (split.objection, split.greeter.is_done()),
            (whole.objection, whole.greeter.is_done()),
            "seed {seed}"
        );
        let plain = say(greeted("", false), &turns, longest, &mut rng);
        let all: String =
            turns.iter().filter(|(party, _)| *party == Upstream).map(|(_, words)| *words).collect();
        assert!(
            all.starts_with(&plain.down) && (!plain.greeter.is_done() || plain.down == all),
            "seed {seed}: {turns:?}"
        );
        if whole.objection.is_none() {
            let said = turns.iter().filter(|(party, _)| *party == Client).map(|(_, words)| *words);
            let asked = if greeting.is_empty() { "" } else { ASKED };
            assert_eq!(whole.up, asked.to_owned() + &said.collect::<String>(), "seed {seed}");
        }
    }
}

/// Towards a server without TLS the client may ask for it itself: to take that away would be to strip its protection.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let Greeting { mut onward, greeter } = greeted("", false);
    let mut greeter = greeter.unwrap();
    let greeting = "* OK [CAPABILITY STARTTLS LOGINDISABLED AUTH=X-PLUS] hi\r\n";
    assert!(greeter.may_refuse());
    greeter.upstream_said(greeting.as_bytes(), &mut onward).unwrap();
    greeter.client_said(b"a STARTTLS\r\n", &mut onward).unwrap();
    assert!(!greeter.is_done());
    greeter.upstream_said(b"a OK go\r\n", &mut onward).unwrap();
    assert_eq!((greeter.is_done(), greeter.why_ended()), (true, None));
    assert_eq!(onward.down, [greeting, "a OK go\r\n"].concat().as_bytes());
    // From the first byte: the server will know what to make of it.
    let mut greeter = greeted("", false).greeter.unwrap();
    assert_eq!(greeter.client_said(b"\x16\x03\x01", &mut onward), Ok(()));
    assert_eq!(onward.up, b"a STARTTLS\r\n\x16\x03\x01");
}
