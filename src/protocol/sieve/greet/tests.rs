//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;
use crate::protocol::testkit::{After, Turns, say, say_in_all_ways};
use crate::protocol::{Negotiated, Opening};
use Party::{Client, Upstream};

/// Before TLS: a server that is known to repeat itself, and any other.
const KNOWN: &str = "\"IMPLEMENTATION\" \"Cyrus timsieved v2.3.16\"\r\n\"STARTTLS\"\r\nOK\r\n";
const ANY: &str = "\"IMPLEMENTATION\" \"x\"\r\n\"STARTTLS\"\r\n\"VERSION\" \"1.0\"\r\nOK\r\n";
/// Inside TLS, and what the client gets of it.
const OFFER: &str =
    "\"SASL\" \"PLAIN SCRAM-SHA-256-PLUS\"\r\n\"STARTTLS\"\r\n\"SIEVE\" \"fileinto\"\r\nOK \"hi\"\r\n";
const MENDED: &str = "\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\nOK \"hi\"\r\n";
const NOOP: &str = "NOOP \"nuncio\"\r\n";

/// The beginning of a conversation, its server reached through TLS or not.
fn greeted(greeting: &str, secured: bool) -> Greeting {
    greet(&Meeting {
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
    let mut after = hear(KNOWN, &[&[(Upstream, OFFER)], turns].concat());
    after.down = after.down.strip_prefix(MENDED).expect("the greeting first").to_owned();
    after
}

#[test]
fn what_tls_in_the_middle_cannot_keep_is_taken_out_and_nothing_else_is_changed() {
    for (says, gets) in [
        (OFFER, MENDED),
        ("\"starttls\"\r\n{8}\r\nSTARTTLS\r\n\"STARTTLS\" \"\"\nOK\r\n", "OK\r\n"),
        ("\"sasl\" \"A-PLUS PLAIN x-plus  LOGIN\" x\n", "\"sasl\" \"PLAIN  LOGIN\" x\n"),
        ("{4}\r\nSASL  {16}\r\nPLAIN \"\\\" X-PLUS\r\n", "{4}\r\nSASL  \"PLAIN \\\"\\\\\\\"\"\r\n"),
        ("\"SASL\" \"SCRAM-SHA-1-PLUS\"\r\nOK\r\n", "\"SASL\" \"\"\r\nOK\r\n"),
        ("\"S\\ASL\" \"A X\\-PLUS\"\r\nOK\r\n", "\"S\\ASL\" \"A\"\r\nOK\r\n"),
    ] {
        for greeting in ["", KNOWN] {
            let after = hear(greeting, &[(Upstream, says)]);
            assert_eq!((after.down.as_str(), after.up.as_str()), (gets, ""));
            assert!(!after.greeter.is_done() && after.greeter.may_refuse());
        }
    }
    for unchanged in [
        "\"SASL\" \"\"\r\n\"SASL\"\r\n\"SASLX\" \"A-PLUS\"\r\n\"SASL\" \"-PLUS PLUS A-PLUSX\"\r\nOK \"STARTTLS\"\r\n",
        "\"SIEVE\" \"STARTTLS A-PLUS\"\r\n\"X\" {12}\r\n\"STARTTLS\"\r\n\r\nOK\r\n",
        "\"SASL \"A-PLUS\"\r\n\"SASL\" A-PLUS\r\nSTARTTLS\r\nSASL \"A-PLUS\"\r\n\r\n{x}\r\n",
        "NO \"STARTTLS\"\r\n",
    ] {
        assert_eq!(hear(KNOWN, &[(Upstream, unchanged)]).down, unchanged);
    }
}

/// Who does not say its capabilities again is asked, who may not is asked for that, and a server's own answer to our
/// question is never the client's.
#[test]
fn a_server_is_heard_once_whether_it_repeats_itself_or_not() {
    let named = |name: &str| format!("\"IMPLEMENTATION\" \"{name}\"\r\n\"STARTTLS\"\r\nOK\r\n");
    for (greeting, expected) in [
        (KNOWN.to_owned(), Some(true)),
        (ANY.to_owned(), None),
        (named("Cyrus timsieved v2.2.13"), None),
        (named("Cyrus timsieved v2.3.12p2"), None),
        (named("Cyrus timsieved v2.3."), None),
        (named("Cyrus timsieved v2.3.13"), Some(true)),
        (named("Cyrus timsieved v2.3.16-Fedora-RPM-2.3.16-6.el6"), Some(true)),
        (named("Cyrus timsieved v2.4.17"), None),
        (named("Cyrus timsieved v2.3.16-kolab-nocaps"), Some(false)),
        ("\"SIEVE\" \"\"\r\n".to_owned() + &named("nocaps"), Some(false)),
        ("\"IMPLEMENTATION\"\r\nOK\r\n".to_owned(), None),
        ("\"IMPLEMENTATION\" \"nocaps".to_owned(), None),
    ] {
        assert_eq!(repeats(greeting.as_bytes()), expected, "{greeting:?}");
    }

    let logout = (Client, "LOGOUT\r\n");
    let bye = (Upstream, "OK \"bye\"\r\n");
    let nocaps = named("nocaps");
    for (greeting, turns, up) in [
        (KNOWN, &[(Upstream, OFFER), logout, bye][..], "LOGOUT\r\n".to_owned()),
        (
            &nocaps,
            &[(Upstream, OFFER), logout, bye],
            [std::str::from_utf8(CAPABILITY).unwrap(), "LOGOUT\r\n"].concat(),
        ),
        // It repeats itself, and knows NOOP or not.
        (
            ANY,
            &[(Upstream, OFFER), (Upstream, "OK (TAG {6}\r\nnuncio) \"Done\"\r\n"), logout, bye],
            [NOOP, "LOGOUT\r\n"].concat(),
        ),
        (
            ANY,
            &[(Upstream, OFFER), (Upstream, "NO \"what?\"\r\n"), logout, bye],
            [NOOP, "LOGOUT\r\n"].concat(),
        ),
        // It does not.
        (
            ANY,
            &[(Upstream, "NO \"what?\"\r\n"), (Upstream, OFFER), logout, bye],
            [NOOP, "CAPABILITY\r\n", "LOGOUT\r\n"].concat(),
        ),
        (
            ANY,
            &[(Upstream, "OK (TAG \"nuncio\")\r\n"), (Upstream, OFFER), logout, bye],
            [NOOP, "CAPABILITY\r\n", "LOGOUT\r\n"].concat(),
        ),
        // A client that does not wait is answered behind all that.
        (
            ANY,
            &[logout, (Upstream, "NO\r\n"), (Upstream, OFFER), bye],
            [NOOP, "CAPABILITY\r\n", "LOGOUT\r\n"].concat(),
        ),
        (
            ANY,
            &[logout, (Upstream, OFFER), (Upstream, "\"SASL\" \"X\"\r\nNO\r\n"), bye],
            [NOOP, "LOGOUT\r\n"].concat(),
        ),
        (KNOWN, &[logout, (Upstream, OFFER), bye], "LOGOUT\r\n".to_owned()),
    ] {
        let after = hear(greeting, turns);
        assert_eq!(
            (after.down, after.up),
            ([MENDED, "OK \"bye\"\r\n"].concat(), up),
            "{greeting:?} {turns:?}"
        );
    }
    // Its last word is not our answer.
    let after = hear(ANY, &[(Client, "NOOP\r\n"), (Upstream, "BYE \"no\"\r\n")]);
    assert_eq!((after.down.as_str(), after.up), ("BYE \"no\"\r\n", [NOOP, "NOOP\r\n"].concat()));
    let after = hear(ANY, &[(Upstream, OFFER), (Upstream, "BYE \"no\"\r\n")]);
    assert_eq!(after.down, [MENDED, "BYE \"no\"\r\n"].concat());
}

#[test]
fn each_list_is_mended_until_the_client_is_logged_in() {
    let after = hear_greeted(&[
        (Client, "CAPABILITY\r\nnoop\r\n"),
        (Upstream, OFFER),
        (Upstream, "OK (TAG {9}\r\n\"STARTTLS) \"Done\"\r\n"),
        (Client, "AUTHENTICATE \"LOGIN\"\r\n"),
        // What looks like a capability is a challenge.
        (Upstream, "\"STARTTLS\"\r\n"),
        (Client, "{12+}\r\nCAPABILITY\r\n\r\n"),
        (Upstream, "{8}\r\nSTARTTLS\r\n"),
        (Client, "\"*\"\r\n"),
        (Upstream, "NO \"STARTTLS\"\r\n"),
        (Client, "Capability\r\nAUTHENTICATE \"PLAIN\" \"AA==\"\r\nLISTSCRIPTS\r\n"),
        (Upstream, OFFER),
        (Upstream, "OK \"Logged in\"\r\n"),
        (Upstream, OFFER),
        (Upstream, "\"STARTTLS\" ACTIVE\r\nOK\r\n"),
    ]);
    assert!(after.greeter.is_done());
    assert_eq!(
        after.down,
        [
            MENDED,
            "OK (TAG {9}\r\n\"STARTTLS) \"Done\"\r\n\"STARTTLS\"\r\n{8}\r\nSTARTTLS\r\nNO \"STARTTLS\"\r\n",
            MENDED,
            "OK \"Logged in\"\r\n",
            OFFER,
            "\"STARTTLS\" ACTIVE\r\nOK\r\n",
        ]
        .concat()
    );
}

#[test]
fn whatever_the_server_says_yes_to_ends_the_reading_unless_it_is_a_beginning() {
    for command in [
        "AUTHENTICATE \"X\"",
        "authenticate {1+}\r\nX",
        "STARTTLS",
        "HAVESPACE \"x\" 1",
        "XYZZY",
        "UNAUTHENTICATE",
    ] {
        let command = format!("{command}\r\n");
        for (answer, done) in
            [("OK\r\n", true), ("ok (SASL \"x\")\r\n", true), ("NO\r\n", false), ("\"OK\"\r\n", false)]
        {
            let after = hear_greeted(&[(Client, &command), (Upstream, answer)]);
            assert_eq!(after.greeter.is_done(), done, "{command:?} {answer:?}");
        }
    }
    for command in ["CAPABILITY", "noop", "NOOP \"x\"", "LOGOUT"] {
        let after = hear_greeted(&[(Client, &format!("{command}\r\n")), (Upstream, "OK\r\n")]);
        assert!(!after.greeter.is_done(), "{command}");
    }
}

/// BYE may come at any time, but not behind the server's own, and not to a client that has taken its leave.
#[test]
fn a_refusal_is_possible_until_the_server_or_the_client_has_said_goodbye() {
    for (greeting, turns, may) in [
        ("", &[][..], true),
        (KNOWN, &[], true),
        (ANY, &[], true),
        (KNOWN, &[(Upstream, "\"SASL\" \"\"\r\n\"")], true),
        (ANY, &[(Upstream, "NO\r\n")], true),
        (KNOWN, &[(Upstream, "BYE\r\n")], false),
        (KNOWN, &[(Upstream, OFFER)], true),
        (KNOWN, &[(Upstream, OFFER), (Client, "AUTHENTICATE \"X\"\r\n"), (Upstream, "\"\"\r\n")], true),
        (KNOWN, &[(Upstream, OFFER), (Client, "AUTHENTICATE \"X\"\r\n"), (Upstream, "OK\r\n")], false),
        (KNOWN, &[(Upstream, OFFER), (Client, "LOGOUT\r\n")], false),
        (KNOWN, &[(Upstream, OFFER), (Upstream, "BYE \"idle\"\r\n")], false),
    ] {
        assert_eq!(hear(greeting, turns).greeter.may_refuse(), may, "{greeting:?} {turns:?}");
    }
}

#[test]
fn a_client_that_speaks_tls_is_told_so_whatever_else_it_would_say() {
    for greeting in ["", KNOWN, ANY] {
        let after = say(greeted(greeting, true), &[(Client, "\x16\x03\x01")], 9, &mut fastrand::Rng::new());
        assert_eq!(
            after.objection,
            Some("the client began with TLS where plaintext ManageSieve is expected")
        );
    }
}

/// A client that leaves with what it was told in hand mostly misses something.
#[test]
fn an_end_is_understood() {
    let ask = (Client, "CAPABILITY\r\n");
    let told = (Upstream, OFFER);
    let insists = Some("it may insist on STARTTLS");
    for (turns, why) in [
        (&[][..], None),
        (&[ask], None),
        (&[ask, told], insists),
        (&[ask, told, (Client, "LOGOUT\r\n"), (Upstream, "OK\r\n")], insists),
        (
            &[ask, told, (Client, "STARTTLS\r\n"), (Upstream, "NO\r\n")],
            Some("the client insists on STARTTLS"),
        ),
        (&[ask, told, (Client, "AUTHENTICATE \"X\"\r\n")], None),
        (&[(Client, "NOOP\r\n"), told], None),
    ] {
        let remark = hear_greeted(turns).greeter.why_ended();
        assert_eq!(remark.is_some(), why.is_some(), "{turns:?}: {remark:?}");
        assert!(remark.as_ref().is_none_or(|remark| remark.detail.contains(why.unwrap())), "{remark:?}");
    }
    for greeting in ["", KNOWN, ANY] {
        let after = hear(greeting, &[(Upstream, "BYE {7}\r\nnot you\r\n")]);
        assert_eq!(after.down, "BYE {7}\r\nnot you\r\n");
        let remark = after.greeter.why_ended().expect("it was the server");
        assert_eq!(remark.of, Upstream);
        assert!(remark.detail.ends_with("then said no: BYE not you"), "{remark:?}");
    }
}

/// Whatever is too long passes as it is, and nothing is kept beyond the bound.
#[test]
fn what_is_too_long_passes_as_it_is() {
    let long = format!("\"SASL\" \"{} A-PLUS\"\r\nOK\r\n", "x".repeat(MAX_LINE));
    let literal = format!("{{99999}}\r\n{}", "\"STARTTLS\"\r\n".repeat(10));
    for huge in [&long, &literal] {
        for greeting in ["", KNOWN, ANY] {
            let after = hear(greeting, &[(Upstream, huge)]);
            assert!(after.greeter.is_done() && after.down == *huge, "{huge:.30}");
        }
    }
    let mut reading = Reading::new(true, Offer::No);
    for (words, times) in [("AUTH ", 1), ("x", 100_000), ("\r\n", 1), ("NOOP\r\n", 9_000)] {
        for _ in 0..times {
            reading.client_said(words.as_bytes(), &mut Onward::default()).unwrap();
            assert!(reading.awaited.len() <= MAX_AWAITED);
        }
    }
    assert!(reading.is_past && !reading.is_done(), "the greeting is still to be mended");
    let mut onward = Onward::default();
    reading.upstream_said(OFFER.as_bytes(), &mut onward).unwrap();
    assert!(reading.is_done() && onward.down == MENDED.as_bytes());
    // Before it is known how the server begins.
    let after = hear(ANY, &[(Client, &"NOOP\r\n".repeat(9_000))]);
    assert_eq!(after.objection, Some("the client said too much before the server's first word"));
}

/// Both sides say anything in any order: up goes what the client said, and pieces do not matter.
#[test]
fn anything_said_in_any_pieces_goes_on_the_same() {
    let client = [
        "CAPABILITY\r\n",
        "NOOP\r\n",
        "AUTHENTICATE \"X\"",
        "\r\n",
        "{3+}\r\n",
        "LOGOUT\r\n",
        "\"*\"\r\n",
        "STARTTLS\n",
        "x",
        "{1}\r\n",
    ];
    let server = [
        "OK\r\n",
        "NO \"x\"\r\n",
        "BYE\r\n",
        "\"STARTTLS\"\r\n",
        "\"SASL\" \"A-PLUS B\"\r\n",
        "\"SASL\" {8}\r\n",
        "A-PLUS B\r\n",
        "\"",
        "x",
        "\r\n",
        "OK (TAG {6}\r\nnuncio)\r\n",
        "\"VERSION\" \"1.0\"\r\n",
    ];
    let many = "X\r\n".repeat(MAX_AWAITED);
    let client = [&client[..], &[&many]].concat();
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let turns: Vec<(Party, &str)> = (0..rng.usize(1..16))
            .map(|_| match rng.bool() {
                true => (Client, *rng.choice(client.as_slice()).unwrap()),
                false => (Upstream, *rng.choice(server.as_slice()).unwrap()),
            })
            .collect();
        let greeting = *rng.choice(["", KNOWN, ANY].as_slice()).unwrap();
        let whole = say(greeted(greeting, true), &turns, usize::MAX, &mut rng);
        let longest = rng.usize(1..8);
        let split = say(greeted(greeting, true), &turns, longest, &mut rng);
        assert_eq!((&split.up, &split.down), (&whole.up, &whole.down), "seed {seed}: {turns:?}");
        assert_eq!(split.greeter.is_done(), whole.greeter.is_done(), "seed {seed}");
        let plain = say(greeted("", false), &turns, longest, &mut rng);
        let all: String =
            turns.iter().filter(|(party, _)| *party == Upstream).map(|(_, words)| *words).collect();
        assert!(
            all.starts_with(&plain.down) && (!plain.greeter.is_done() || plain.down == all),
            "seed {seed}: {turns:?}"
        );
        let said: String =
            turns.iter().filter(|(party, _)| *party == Client).map(|(_, words)| *words).collect();
        let ours = whole.up.replacen(NOOP, "", 1).replacen("CAPABILITY\r\n", "", 1);
        assert!(
            whole.up.ends_with(&said) || !ours.is_empty() || whole.up == NOOP,
            "seed {seed}: {}",
            whole.up
        );
    }
}

/// Towards a server without TLS the client may ask for it itself: to take that away would be to strip its protection.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let Greeting { mut onward, greeter } = greeted("", false);
    let mut greeter = greeter.unwrap();
    greeter.upstream_said(OFFER.as_bytes(), &mut onward).unwrap();
    greeter.client_said(b"STARTTLS\r\n", &mut onward).unwrap();
    assert!(!greeter.is_done() && greeter.may_refuse());
    greeter.upstream_said(b"OK\r\n", &mut onward).unwrap();
    assert_eq!((greeter.is_done(), greeter.why_ended()), (true, None));
    assert_eq!(onward.down, [OFFER, "OK\r\n"].concat().as_bytes());
    let mut greeter = greeted("", false).greeter.unwrap();
    assert_eq!(greeter.client_said(b"\x16\x03\x01", &mut onward), Ok(()));
}
