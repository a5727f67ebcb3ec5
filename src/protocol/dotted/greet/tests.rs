//! Conversations of which the greeter hears both sides, in any pieces.

use super::*;
use crate::protocol::nntp::NNTP;
use crate::protocol::pop3::POP3;
use crate::protocol::reply::MAX_REPLY;
use crate::protocol::{Negotiated, Opening};
use Party::{Client, Upstream};

/// A conversation: who says what, in turn.
type Turns<'a> = &'a [(Party, &'a str)];

/// What has gone on, and who read along.
struct After {
    up: String,
    down: String,
    greeter: Box<dyn Greeter>,
}

/// The beginning of a conversation, its server reached through TLS or not.
fn greeted(kin: &'static Kin, greeting: &str, secured: bool) -> Greeting {
    greet(
        kin,
        Meeting {
            opening: Opening::default(),
            negotiated: Negotiated { greeting: greeting.into() },
            secured,
            offer: Offer::No,
            keep_key: Box::new(|_| {}),
        },
    )
}

fn begin(kin: &'static Kin, greeting: &str) -> (Onward, Box<dyn Greeter>) {
    let Greeting { onward, greeter } = greeted(kin, greeting, true);
    (onward, greeter.expect("somebody reads along"))
}

/// Lets both sides say their parts, in pieces of at most `longest` bytes; from when it is done, bytes go as they are.
fn say(
    kin: &'static Kin,
    greeting: &str,
    turns: Turns<'_>,
    longest: usize,
    rng: &mut fastrand::Rng,
) -> After {
    let (mut onward, mut greeter) = begin(kin, greeting);
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
fn say_in_all_ways(kin: &'static Kin, greeting: &str, turns: Turns<'_>) -> After {
    let mut rng = fastrand::Rng::with_seed(3);
    let whole = say(kin, greeting, turns, usize::MAX, &mut rng);
    for longest in [1, 2, 5, 40] {
        // Long ones cost too much to be said often.
        for _ in 0..if whole.down.len() < 2000 { 50 } else { 1 } {
            let split = say(kin, greeting, turns, longest, &mut rng);
            assert_eq!((&split.up, &split.down), (&whole.up, &whole.down));
            assert_eq!(split.greeter.is_done(), whole.greeter.is_done());
            assert_eq!(split.greeter.may_refuse(), whole.greeter.may_refuse());
            assert_eq!(split.greeter.why_ended(), whole.greeter.why_ended());
        }
    }
    whole
}

/// What a client gets of a server's answer to this command.
fn answered(kin: &'static Kin, command: &str, answer: &str) -> String {
    let after = say_in_all_ways(kin, "hello\r\n", &[(Client, command), (Upstream, answer)]);
    assert!(!after.greeter.is_done());
    after.down.strip_prefix("hello\r\n").expect("the greeting first").to_owned()
}

#[test]
fn what_tls_in_the_middle_cannot_keep_is_taken_out_and_nothing_else_is_changed() {
    for (kin, command, says, gets) in [
        // Dovecot, as it would be if it offered TLS inside TLS.
        (
            &POP3,
            "CAPA\r\n",
            "+OK\r\nCAPA\r\nTOP\r\nSTLS\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS LOGIN\r\nUIDL\r\n.\r\n",
            "+OK\r\nCAPA\r\nTOP\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256 LOGIN\r\nUIDL\r\n.\r\n",
        ),
        // With the gap before it, and no byte more.
        (&POP3, "capa\n", "+OK x\nSASL  A\tX-plus B  X-PLUS \nstls\n.\n", "+OK x\nSASL  A B \n.\n"),
        // Nothing is left: the line goes.
        (&POP3, "CAPA\r\n", "+OK\r\nSASL X-PLUS\r\nUSER\r\n.\r\n", "+OK\r\nUSER\r\n.\r\n"),
        (&POP3, "CAPA\r\n", "+OK\r\nSTLS\r\nsasl x-plus y-plus\r\n.\r\n", "+OK\r\n.\r\n"),
        // Mechanisms as they were told before there was CAPA.
        (
            &POP3,
            "AUTH\r\n",
            "+OK\r\nPLAIN\r\nSCRAM-SHA-1-PLUS\r\nSTLS\r\nSCRAM-SHA-1\r\n.\r\n",
            "+OK\r\nPLAIN\r\nSTLS\r\nSCRAM-SHA-1\r\n.\r\n",
        ),
        (&POP3, "auth \t \r\n", "+OK\r\nX-PLUS\r\n.\r\n", "+OK\r\n.\r\n"),
        // The first line is a status, whatever it says.
        (&POP3, "CAPA\r\n", "+OK STLS\r\n.\r\n", "+OK STLS\r\n.\r\n"),
        (
            &NNTP,
            "CAPABILITIES\r\n",
            "101 Capability list:\r\nVERSION 2\r\nREADER\r\nSTARTTLS\r\nAUTHINFO USER SASL\r\n\
             SASL PLAIN SCRAM-SHA-256-PLUS\r\n.\r\n",
            "101 Capability list:\r\nVERSION 2\r\nREADER\r\nAUTHINFO USER SASL\r\nSASL PLAIN\r\n.\r\n",
        ),
        // AUTHINFO names SASL only where there is some.
        (
            &NNTP,
            "CAPABILITIES STARTTLS\r\n",
            "101 x\r\nAUTHINFO USER SASL\r\nSASL A-PLUS B-PLUS\r\nAUTHINFO sasl\r\nLIST SASL\r\n.\r\n",
            "101 x\r\nAUTHINFO USER\r\nAUTHINFO\r\nLIST SASL\r\n.\r\n",
        ),
    ] {
        assert_eq!(answered(kin, command, says), gets, "{says:?}");
    }
    for (kin, command, unchanged) in [
        (
            &POP3,
            "CAPA\r\n",
            "+OK\r\nX-AUTH A-PLUS\r\nSASLX A-PLUS\r\nSTLSX\r\n..\r\n STLS\r\nSASL -PLUS PLUS\r\n.\r\n",
        ),
        (&POP3, "CAPA\r\n", "+OK\r\nSASL\r\nSASL \r\nAUTHINFO SASL\r\n.\r\n"),
        (&POP3, "CAPA\r\n", "+OK\r\n\r\n.\r\n"),
        // A server of the time before it.
        (&POP3, "CAPA\r\n", "-ERR STLS\r\n"),
        (&POP3, "AUTH\r\n", "-ERR SASL X-PLUS\r\n"),
        // Other answers.
        (&POP3, "LANG\r\n", "+OK\r\nSTLS\r\nSASL X-PLUS\r\n.\r\n"),
        (&POP3, "LANG de\r\n", "+OK de STLS\r\n"),
        (&POP3, "USER STLS\r\n", "+OK STLS\r\n"),
        (&NNTP, "CAPABILITIES\r\n", "500 What?\r\n"),
        (&NNTP, "CAPABILITIES\r\n", "480 STARTTLS\r\n"),
        (&NNTP, "CAPABILITIES\r\n", "101 x\r\nVERSION 2\r\nAUTHINFO SASL\r\n.\r\n"),
        (&NNTP, "HELP\r\n", "100 x\r\nSTARTTLS\r\nSASL A-PLUS\r\n.\r\n"),
        (&NNTP, "MODE READER\r\n", "200 STARTTLS\r\n"),
    ] {
        assert_eq!(answered(kin, command, unchanged), unchanged);
    }
}

/// Answers are matched in order, long ones and short ones, and only what the server can do is changed, each time.
#[test]
fn every_list_is_told_without_them_wherever_it_stands() {
    let (list, cut) = ("+OK\r\nSTLS\r\nUSER\r\n.\r\n", "+OK\r\nUSER\r\n.\r\n");
    let after = say_in_all_ways(
        &POP3,
        "+OK <1@x>\r\n",
        &[
            (Client, "capa\r\nUTF8\r\nLANG\r\nCAPA\r\nLANG de\r\nAUTH\r\n"),
            (Upstream, &[list, "+OK\r\n", list].concat()),
            (Upstream, &[list, "-ERR STLS\r\n", "-ERR STLS\r\n"].concat()),
            (Client, "USER u\r\nPASS no\r\nCAPA\r\nSTLS\r\n"),
            (Upstream, &["+OK\r\n", "-ERR [AUTH] no\r\n", list, "-ERR no\r\n"].concat()),
            (Client, "NOOP\r\n CAPA\r\nXCLIENT ADDR=192.0.2.1\r\nAPOP u 00\r\n"),
            (Upstream, &["-ERR\r\n", list, "+OK\r\n", "-ERR\r\n"].concat()),
        ],
    );
    let told = [
        "+OK <1@x>\r\n",
        cut,
        "+OK\r\n",
        list,
        cut,
        "-ERR STLS\r\n-ERR STLS\r\n+OK\r\n-ERR [AUTH] no\r\n",
        cut,
        "-ERR no\r\n-ERR\r\n",
        cut,
        "+OK\r\n-ERR\r\n",
    ];
    assert_eq!(after.down, told.concat());
    assert!(!after.greeter.is_done());

    let (list, cut) = ("101 x\r\nVERSION 2\r\nSTARTTLS\r\n.\r\n", "101 x\r\nVERSION 2\r\n.\r\n");
    let after = say_in_all_ways(
        &NNTP,
        "200 x\r\n",
        &[
            (Client, "CAPABILITIES\r\nMODE READER\r\nHELP\r\nDATE\r\nCAPABILITIES X\r\n"),
            (
                Upstream,
                &[list, "201 no posting\r\n", "100 x\r\nSTARTTLS\r\n.\r\n", "111 1\r\n", list].concat(),
            ),
            (Client, "AUTHINFO USER u\r\nAUTHINFO PASS no\r\nCAPABILITIES\r\n"),
            (Upstream, &["381 x\r\n481 no\r\n", list].concat()),
        ],
    );
    let told = [
        "200 x\r\n",
        cut,
        "201 no posting\r\n100 x\r\nSTARTTLS\r\n.\r\n111 1\r\n",
        cut,
        "381 x\r\n481 no\r\n",
        cut,
    ];
    assert_eq!(after.down, told.concat());
    assert!(!after.greeter.is_done());
}

/// Where TLS began with the first byte, the greeting comes through it; a client that cannot wait is not held back.
#[test]
fn a_greeting_that_comes_through_tls_passes_also_to_a_client_that_spoke_before_it() {
    for (kin, command, server, client) in [
        (&POP3, "CAPA\r\n", "+OK STLS\r\n+OK\r\nSTLS\r\n.\r\n", "+OK STLS\r\n+OK\r\n.\r\n"),
        (&NNTP, "CAPABILITIES\r\n", "200 x\r\n101 x\r\nSTARTTLS\r\n.\r\n", "200 x\r\n101 x\r\n.\r\n"),
    ] {
        let after = say_in_all_ways(kin, "", &[(Client, command), (Upstream, server)]);
        assert_eq!((after.up.as_str(), after.down.as_str()), (command, client));
        assert!(!after.greeter.is_done());
    }
}

/// Nothing is to be changed for whoever is logged in.
#[test]
fn the_login_ends_the_reading() {
    let list = "+OK\r\nSTLS\r\n.\r\n101 x\r\nSTARTTLS\r\n.\r\n";
    for (kin, turns) in [
        (&POP3, &[(Client, "USER u\r\nPASS pw\r\nCAPA\r\n"), (Upstream, "+OK\r\n+OK in\r\n")][..]),
        (&POP3, &[(Client, "APOP u 00\r\n"), (Upstream, "+OK\r\n")]),
        (&POP3, &[(Client, "AUTH PLAIN AHUAcHc=\r\n"), (Upstream, "+OK\r\n")]),
        // Challenges, as many as there are.
        (
            &POP3,
            &[
                (Client, "AUTH LOGIN\r\n"),
                (Upstream, "+ VXNlcm5hbWU6\r\n"),
                (Client, "CAPA\r\n"),
                (Upstream, "+ \r\n"),
                (Client, "\r\n"),
                (Upstream, "+\r\n"),
                (Client, "QUIT\r\n"),
                (Upstream, "+OK\r\n"),
            ],
        ),
        (&NNTP, &[(Client, "AUTHINFO USER u\r\nAUTHINFO PASS pw\r\n"), (Upstream, "381\r\n281\r\n")]),
        (
            &NNTP,
            &[
                (Client, "AUTHINFO SASL X\r\n"),
                (Upstream, "383 =\r\n"),
                (Client, "MODE READER\r\n"),
                (Upstream, "383 x\r\n"),
                (Client, "x\r\n"),
                (Upstream, "283 x\r\n"),
            ],
        ),
    ] {
        let before = say_in_all_ways(kin, "hello\r\n", &turns[..turns.len() - 1]);
        assert!(!before.greeter.is_done(), "{turns:?}");
        let after = say_in_all_ways(kin, "hello\r\n", &[turns, &[(Upstream, list)]].concat());
        assert!(after.greeter.is_done(), "{turns:?}");
        assert!(after.down.ends_with(list) && after.greeter.why_ended().is_none(), "{turns:?}");
    }
    // Not one that came to nothing: the client may look for another way.
    for (kin, turns) in [
        (
            &POP3,
            [
                (Client, "AUTH LOGIN\r\n"),
                (Upstream, "+ x\r\n"),
                (Client, "*\r\n"),
                (Upstream, "-ERR\r\n"),
                (Client, "CAPA\r\n"),
                (Upstream, "+OK\r\nSTLS\r\n.\r\n"),
            ],
        ),
        (
            &NNTP,
            [
                (Client, "AUTHINFO SASL X\r\n"),
                (Upstream, "383 x\r\n"),
                (Client, "*\r\n"),
                (Upstream, "481 no\r\n"),
                (Client, "CAPABILITIES\r\n"),
                (Upstream, "101 x\r\nSTARTTLS\r\n.\r\n"),
            ],
        ),
    ] {
        let after = say_in_all_ways(kin, "hello\r\n", &turns);
        assert!(!after.greeter.is_done() && !after.down.contains("TLS"), "{}", after.down);
    }
}

/// It is over with the server's first byte that answers it; until then the client may still be told no.
#[test]
fn whoever_goes_on_to_what_is_no_beginning_ends_the_reading_once_it_is_answered() {
    for (kin, answer, list, commands) in [
        (
            &POP3,
            "+",
            "+OK\r\nSTLS\r\n.\r\n",
            [
                "STAT\r\n",
                "LIST\r\nCAPA\r\n",
                "CAPAX",
                "\r\n",
                "GET / HTTP/1.1\r\n",
                "EHLO x\r\n",
                "\0",
                "US\r",
            ],
        ),
        (
            &NNTP,
            "2",
            "101 x\r\nSTARTTLS\r\n.\r\n",
            [
                "GROUP x\r\n",
                "LIST\r\nCAPABILITIES\r\n",
                "IHAVE <x>\r\n",
                "COMPRESS DEFLATE\r\n\x78\x5e",
                "POST\r\n",
                "CAPA\r\n",
                "\n",
                "XOVER",
            ],
        ),
    ] {
        for command in commands {
            let after = say_in_all_ways(kin, "hello\r\n", &[(Client, command)]);
            assert!(!after.greeter.is_done() && after.greeter.may_refuse(), "{command:?}");
            assert_eq!(after.up, command);
            let after = say_in_all_ways(kin, "hello\r\n", &[(Client, command), (Upstream, answer)]);
            assert!(after.greeter.is_done() && after.greeter.why_ended().is_none(), "{command:?}");
            // What was asked before is still told without.
            let asks = if kin.title == POP3.title { "CAPA\r\n" } else { "CAPABILITIES\r\n" };
            let turns = [(Client, asks), (Client, command), (Upstream, list)];
            let after = say_in_all_ways(kin, "hello\r\n", &turns);
            assert!(!after.greeter.is_done() && !after.down.contains("TLS"), "{command:?}: {}", after.down);
        }
    }
}

/// Only in place of the greeting or of an answer is a refusal what the client expects to read.
#[test]
fn a_refusal_is_possible_while_an_answer_is_awaited_and_none_of_it_was_seen() {
    let greeting = "+OK <1@x>\r\n";
    for (greeting, turns, may) in [
        ("", &[][..], true),
        ("", &[(Upstream, "+OK")], false),
        ("", &[(Upstream, "+OK\r\n")], false),
        ("", &[(Client, "CAPA\r\n"), (Upstream, "+OK\r\n")], true),
        // It reads the refusal when it has said its first command.
        (greeting, &[], true),
        (greeting, &[(Client, "US")], true),
        (greeting, &[(Client, "USER u\r\n")], true),
        (greeting, &[(Client, "USER u\r\n"), (Upstream, "+")], false),
        (greeting, &[(Client, "USER u\r\n"), (Upstream, "+OK\r\n")], false),
        // While a password is looked at: else it would be taken for a wrong one.
        (greeting, &[(Client, "USER u\r\nPASS pw\r\n"), (Upstream, "+OK\r\n")], true),
        // A list is read as a whole before any of it goes on; other ones are not.
        (greeting, &[(Client, "CAPA\r\n"), (Upstream, "+OK\r\nUSER\r\n.")], true),
        (greeting, &[(Client, "CAPA\r\n"), (Upstream, "+OK\r\nUSER\r\n.\r\n")], false),
        (greeting, &[(Client, "AUTH\r\n"), (Upstream, "+OK\r\nPLA")], true),
        (greeting, &[(Client, "LANG\r\n"), (Upstream, "+OK\r\n")], false),
        (greeting, &[(Client, "AUTH X\r\n"), (Upstream, "+ x\r\n")], false),
        (greeting, &[(Client, "AUTH X\r\n"), (Upstream, "+ x\r\n"), (Client, "y\r\n")], true),
        (greeting, &[(Client, "STAT\r\n")], true),
        // Who leaves asks for nothing.
        (greeting, &[(Client, "QUIT\r\n")], false),
        (greeting, &[(Client, "CAPA\r\nQUIT\r\n")], false),
        // Unasked.
        (greeting, &[(Upstream, "-ERR Disconnected")], false),
    ] {
        let after = say_in_all_ways(&POP3, greeting, turns);
        assert_eq!(after.greeter.may_refuse(), may, "{greeting:?} {turns:?}");
        assert!(!after.greeter.is_done(), "{turns:?}");
    }
    // The server has said that it goes, and nothing more is to be said in its name.
    for (kin, turns) in [
        (&POP3, &[(Upstream, "-ERR Disconnected for inactivity.\r\n")][..]),
        (&NNTP, &[(Upstream, "400 timeout\r\n")]),
        (&NNTP, &[(Client, "DATE\r\nCAPABILITIES\r\n"), (Upstream, "400 going down\r\n")]),
        (&NNTP, &[(Client, "CAPABILITIES\r\n"), (Upstream, "400 going down\r\n")]),
    ] {
        assert!(say_in_all_ways(kin, "hello\r\n", turns).greeter.is_done(), "{turns:?}");
    }
    for (kin, greeting) in [(&POP3, "-ERR no\r\n"), (&NNTP, "400 no\r\n"), (&NNTP, "502 no\r\n")] {
        assert!(say_in_all_ways(kin, "", &[(Upstream, greeting)]).greeter.is_done(), "{greeting:?}");
    }
}

#[test]
fn a_client_that_speaks_tls_is_told_so_whatever_else_it_would_say() {
    for (kin, words) in [(&POP3, "plaintext POP3"), (&NNTP, "plaintext NNTP")] {
        for greeting in ["", "hello\r\n"] {
            let mut greeter = begin(kin, greeting).1;
            let mut onward = Onward::default();
            let objection = greeter.client_said(b"\x16\x03\x01\x02\0", &mut onward).unwrap_err();
            assert_eq!((objection.to, onward), (Client, Onward::default()));
            assert!(objection.detail.contains(words), "{}", objection.detail);
            assert!(objection.mend.contains("switch TLS off in the client"), "{}", objection.mend);
        }
    }
    // Later it is no beginning: a server that takes STLS inside TLS may have it.
    let turns =
        [(Client, "STLS\r\n"), (Upstream, "+OK go\r\n"), (Client, "\x16\x03\x01\x02\0"), (Upstream, "\x16")];
    let after = say_in_all_ways(&POP3, "+OK\r\n", &turns);
    assert!(after.greeter.is_done());
    assert_eq!(after.up, "STLS\r\n\x16\x03\x01\x02\0");
}

/// A client that leaves with what it was told in hand mostly misses something.
#[test]
fn a_client_that_leaves_is_understood() {
    let capa = (Client, "CAPA\r\n");
    let plain = (Upstream, "+OK\r\nUSER\r\nSASL PLAIN X-PLUS\r\n.\r\n");
    let bound = (Upstream, "+OK\r\nSASL X-PLUS\r\n.\r\n");
    for (turns, why) in [
        (&[][..], None),
        (&[capa], None),
        (&[capa, plain], Some("it may insist on STLS")),
        (&[capa, plain, (Client, "QUIT\r\n"), (Upstream, "+OK\r\n")], Some("it may insist on STLS")),
        (&[capa, bound], Some("was offered no SASL")),
        (&[capa, plain, (Client, "STLS\r\n"), (Upstream, "-ERR\r\n")], Some("the client insists on STLS")),
        (&[capa, plain, (Client, "USER u\r\n"), (Upstream, "+OK\r\n")], None),
        (&[capa, plain, (Client, "STAT\r\n")], None),
        (&[capa, (Upstream, "-ERR\r\n")], None),
    ] {
        let remark = say_in_all_ways(&POP3, "+OK\r\n", turns).greeter.why_ended();
        assert_eq!(remark.is_some(), why.is_some(), "{turns:?}: {remark:?}");
        assert!(remark.as_ref().is_none_or(|remark| remark.detail.contains(why.unwrap())), "{remark:?}");
    }
}

/// Whatever cannot be followed passes as it is, and nothing is ever kept beyond the bound.
#[test]
fn what_cannot_be_followed_passes_as_it_is() {
    let too_long = format!("+OK\r\nX {}\r\nSTLS\r\n.\r\n", "x".repeat(3000));
    let too_many = format!("+OK\r\n{}STLS\r\n.\r\n", "X\r\n".repeat(30_000));
    for odd in
        ["hello\r\nSTLS\r\n.\r\n", "+ x\r\nSTLS\r\n", "\r\n", "101 x\r\nSTLS\r\n.\r\n", &too_long, &too_many]
    {
        let after = say_in_all_ways(&POP3, "+OK\r\n", &[(Client, "CAPA\r\n"), (Upstream, odd)]);
        assert!(after.greeter.is_done() && after.down == ["+OK\r\n", odd].concat(), "{odd:.20}");
    }
    // A challenge to somebody who has said something else meanwhile.
    for turns in [
        &[(Client, "AUTH X\r\nCAPA\r\n"), (Upstream, "+ x\r\n+OK\r\nSTLS\r\n.\r\n")][..],
        &[
            (Client, "AUTH X\r\nCA"),
            (Upstream, "+ x\r\n"),
            (Client, "PA\r\n"),
            (Upstream, "+OK\r\nSTLS\r\n.\r\n"),
        ],
    ] {
        let after = say_in_all_ways(&POP3, "+OK\r\n", turns);
        assert!(after.greeter.is_done() && after.down.ends_with("+OK\r\nSTLS\r\n.\r\n"), "{turns:?}");
    }
}

#[test]
fn neither_endless_words_nor_endless_commands_are_kept() {
    let mut reading = Reading::new(&POP3, true, Offer::No);
    for (words, times) in [("CAPA ", 1), ("x", 100_000), ("\r\n", 1), (" ", 100_000), ("NOOP\r\n", 10_000)] {
        for _ in 0..times {
            reading.client_said(words.as_bytes(), &mut Onward::default()).unwrap();
            assert!(reading.awaited.len() <= MAX_AWAITED);
        }
    }
    assert!(reading.is_past && !reading.is_done(), "the CAPA is still to be answered");
    let mut onward = Onward::default();
    reading.upstream_said(b"+OK\r\n", &mut onward).unwrap();
    while !reading.is_done() {
        reading.upstream_said(b"SASL X-PLUS\r\n", &mut onward).unwrap();
        assert!(reading.held.len() <= MAX_REPLY);
    }
    assert!(onward.down.len() > 60_000, "all of it went on in the end");
}

/// Both sides say anything in any order: up goes what the client said, and pieces do not matter.
#[test]
fn anything_said_in_any_pieces_goes_on_the_same() {
    let client = [
        "CAPA\r\n",
        "AUTH\r\n",
        "AUTH X\r\n",
        "USER u\r\n",
        "PASS p\r\n",
        "QUIT\r\n",
        "CA",
        "PA\n",
        "STLS\r\n",
        "STAT\r\n",
        "\r\n",
        "x\r\n",
        "CAPABILITIES\r\n",
        "AUTHINFO SASL X\r\n",
        "MODE READER\r\n",
        "HELP\r\n",
    ];
    let server = [
        "+OK\r\n",
        "-ERR\r\n",
        "+ x\r\n",
        "STLS\r\n",
        "SASL A X-PLUS\r\n",
        ".\r\n",
        ".",
        "\r\n",
        "X-PLUS\r\n",
        "+O",
        "K\n",
        "101 x\r\n",
        "100 x\r\n",
        "200 x\r\n",
        "383 x\r\n",
        "281 x\r\n",
        "STARTTLS\n",
        "400 x\r\n",
        "AUTHINFO SASL\r\n",
    ];
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let turns: Vec<(Party, &str)> = (0..rng.usize(1..16))
            .map(|_| match rng.bool() {
                true => (Client, *rng.choice(client.as_slice()).unwrap()),
                false => (Upstream, *rng.choice(server.as_slice()).unwrap()),
            })
            .collect();
        let kin = if rng.bool() { &POP3 } else { &NNTP };
        let greeting = if rng.bool() { "" } else { "hello\r\n" };
        let whole = say(kin, greeting, &turns, usize::MAX, &mut rng);
        let longest = rng.usize(1..8);
        let split = say(kin, greeting, &turns, longest, &mut rng);
        assert_eq!((&split.up, &split.down), (&whole.up, &whole.down), "seed {seed}: {turns:?}");
        assert_eq!(split.greeter.is_done(), whole.greeter.is_done(), "seed {seed}: {turns:?}");
        let said: String =
            turns.iter().filter(|(party, _)| *party == Client).map(|(_, words)| *words).collect();
        assert_eq!(whole.up, said, "seed {seed}");
    }
}

/// Towards a server without TLS the client may ask for it itself: to take that away would be to strip its protection.
#[test]
fn towards_a_server_without_tls_nothing_is_changed() {
    let Greeting { mut onward, greeter } = greeted(&POP3, "", false);
    let mut greeter = greeter.unwrap();
    let offer = "+OK\r\nSASL X-PLUS\r\nSTLS\r\n.\r\n";
    greeter.upstream_said(b"+OK <1@x>\r\n", &mut onward).unwrap();
    greeter.client_said(b"CAPA\r\n", &mut onward).unwrap();
    assert!(greeter.may_refuse());
    greeter.upstream_said(&offer.as_bytes()[..6], &mut onward).unwrap();
    assert!(!greeter.may_refuse(), "nothing is held back");
    greeter.upstream_said(&offer.as_bytes()[6..], &mut onward).unwrap();
    greeter.client_said(b"STLS\r\n", &mut onward).unwrap();
    greeter.upstream_said(b"+OK go\r\n", &mut onward).unwrap();
    assert_eq!((greeter.is_done(), greeter.why_ended()), (false, None));
    greeter.client_said(b"\x16\x03\x01", &mut onward).unwrap();
    greeter.upstream_said(b"\x16", &mut onward).unwrap();
    assert!(greeter.is_done());
    assert_eq!(onward.down, ["+OK <1@x>\r\n", offer, "+OK go\r\n\x16"].concat().as_bytes());
    // From the first byte: the server will know what to make of it.
    let mut greeter = greeted(&POP3, "", false).greeter.unwrap();
    assert_eq!(greeter.client_said(b"\x16\x03\x01", &mut onward), Ok(()));
}
