//! Servers that are willing, servers that are not, and servers that are none: what is made of them, however they speak.

use super::*;
use crate::protocol::nntp::NNTP;
use crate::protocol::pop3::POP3;

/// A server that says yes.
struct Willing {
    name: &'static str,
    kin: &'static Kin,
    /// What it says until TLS begins.
    says: &'static str,
    /// The part of it that the client is to see.
    greeting: &'static str,
    /// What it is told.
    hears: &'static str,
}

const WILLING: [Willing; 9] = [
    Willing {
        name: "Dovecot",
        kin: &POP3,
        says: "+OK Dovecot (Debian) ready. <6ae7.5.6b01d661./YXoFCcwC+tl7brxx+8B2g==@mx.example.com>\r\n\
               +OK Begin TLS negotiation now.\r\n",
        greeting: "+OK Dovecot (Debian) ready. <6ae7.5.6b01d661./YXoFCcwC+tl7brxx+8B2g==@mx.example.com>\r\n",
        hears: "STLS\r\n",
    },
    Willing {
        name: "Courier",
        kin: &POP3,
        says: "+OK Hello there. <1896.697170952@mx.example.org>\r\n+OK Begin SSL/TLS negotiation now.\r\n",
        greeting: "+OK Hello there. <1896.697170952@mx.example.org>\r\n",
        hears: "STLS\r\n",
    },
    Willing {
        name: "Exchange",
        kin: &POP3,
        says: "+OK The Microsoft Exchange POP3 service is ready.\r\n+OK Begin TLS negotiation.\r\n",
        greeting: "+OK The Microsoft Exchange POP3 service is ready.\r\n",
        hears: "STLS\r\n",
    },
    Willing {
        name: "bare line feeds, and no text",
        kin: &POP3,
        says: "+OK\n+OK\n",
        greeting: "+OK\n",
        hears: "STLS\r\n",
    },
    Willing {
        name: "words that are no text stay what they are",
        kin: &POP3,
        says: "+OK gr\u{fc}\u{df}e\t<1@x> \r\n+OK\r\n",
        greeting: "+OK gr\u{fc}\u{df}e\t<1@x> \r\n",
        hears: "STLS\r\n",
    },
    Willing {
        name: "INN's nnrpd",
        kin: &NNTP,
        says: "200 news.example.com InterNetNews NNRP server INN 2.7.1 ready (posting ok)\r\n\
               382 Begin TLS negotiation now\r\n",
        greeting: "200 news.example.com InterNetNews NNRP server INN 2.7.1 ready (posting ok)\r\n",
        hears: "STARTTLS\r\n",
    },
    Willing {
        name: "no posting, and bare line feeds",
        kin: &NNTP,
        says: "201\n382\n",
        greeting: "201\n",
        hears: "STARTTLS\r\n",
    },
    Willing {
        name: "INN's innd, which leaves readers to nnrpd",
        kin: &NNTP,
        says: "200 news.example.com InterNetNews server INN 2.7.1 ready (transit mode)\r\n401 MODE-READER\r\n\
               201 news.example.com InterNetNews NNRP server INN 2.7.1 ready (no posting)\r\n\
               382 Begin TLS negotiation now\r\n",
        greeting: "201 news.example.com InterNetNews NNRP server INN 2.7.1 ready (no posting)\r\n",
        hears: "STARTTLS\r\nMODE READER\r\nSTARTTLS\r\n",
    },
    Willing {
        name: "the same in small letters",
        kin: &NNTP,
        says: "200 a\r\n401 mode-reader \n200 b\r\n382 go\r\n",
        greeting: "200 b\r\n",
        hears: "STARTTLS\r\nMODE READER\r\nSTARTTLS\r\n",
    },
];

/// What it said, and what came of it, hearing the server in pieces.
fn talk<'a>(
    kin: &'static Kin,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<Option<Negotiated>, Failure>) {
    let mut negotiation = Negotiation::new(kin);
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    let mut result = negotiation.hear(&mut heard, &mut said);
    for piece in pieces {
        if !matches!(result, Ok(None)) {
            break;
        }
        heard.extend_from_slice(piece);
        result = negotiation.hear(&mut heard, &mut said);
        match result {
            Ok(None) => assert!(heard.len() < MAX_LINE, "what is kept is bounded"),
            Ok(Some(_)) => assert!(heard.is_empty(), "nothing is left to be mistaken for TLS"),
            Err(_) => {}
        }
    }
    (String::from_utf8(said).unwrap(), result)
}

/// In pieces of random length.
fn split<'a>(bytes: &'a [u8], rng: &mut fastrand::Rng) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    let longest = *rng.choice([1, 3, 20, 200, 5000].as_slice()).unwrap();
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rng.usize(1..=longest).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

#[test]
fn servers_that_are_willing_are_asked_for_tls_and_their_greeting_is_kept() {
    let mut rng = fastrand::Rng::with_seed(1);
    for Willing { name, kin, says, greeting, hears } in WILLING {
        let kept = Negotiated { greeting: greeting.into() };
        let expected = (hears.to_owned(), Ok(Some(kept)));
        for _ in 0..300 {
            assert_eq!(talk(kin, split(says.as_bytes(), &mut rng)), expected, "{name}");
        }
        for at in 0..says.len() {
            let (first, rest) = says.as_bytes().split_at(at);
            let (said, result) = talk(kin, [first]);
            assert_eq!(result, Ok(None), "{name}, after {at} bytes");
            assert!(expected.0.starts_with(&said));
            assert_eq!(talk(kin, [first, rest]), expected, "{name}, in two pieces at {at}");
        }
    }
}

/// A step is taken when the server's line is whole, not before: nothing is said to a server that is not listening.
#[test]
fn each_word_waits_for_its_answer() {
    let (greeting, answer) = ("the server's greeting", "the server's answer to STARTTLS");
    let mut negotiation = Negotiation::new(&NNTP);
    for (hears, says, awaits, may_wait_for_tls) in [
        ("", "", greeting, true),
        ("200 news", "", greeting, true),
        ("200 news\r\n", "STARTTLS\r\n", answer, false),
        ("401 MODE-READER\r\n", "MODE READER\r\n", greeting, true),
        ("200 readers\r\n", "STARTTLS\r\n", answer, false),
    ] {
        let mut said = Vec::new();
        assert_eq!(negotiation.hear(&mut hears.into(), &mut said), Ok(None));
        assert_eq!((String::from_utf8(said).unwrap().as_str(), negotiation.awaits()), (says, awaits));
        // A port that speaks TLS from its first byte awaits our ClientHello, and we its greeting.
        let mend = negotiation.if_late();
        assert_eq!(mend.is_some_and(|mend| mend.contains("tls = \"direct\"")), may_wait_for_tls);
        // The piece before was cut.
        if hears == "200 news" {
            negotiation = Negotiation::new(&NNTP);
        }
    }
}

/// What a server says, and what is made of it: the reason, words of the detail and of the next step, the last word said.
const UNWILLING: [(&Kin, &str, Reason, &str, &str, &str); 27] = {
    use Reason::{NegotiationError, NegotiationRefused};
    [
        // Dovecot with ssl = no.
        (
            &POP3,
            "+OK Dovecot ready.\r\n-ERR Unknown command.\r\n",
            NegotiationRefused,
            "said no to STLS: -ERR Unknown command.",
            "Dovecot: ssl = yes",
            "STLS\r\nQUIT\r\n",
        ),
        (&POP3, "+OK\r\n-ERR\r\n", NegotiationRefused, "said no to STLS: -ERR", "995", "STLS\r\nQUIT\r\n"),
        // Who does not greet leaves.
        (
            &POP3,
            "-ERR [SYS/TEMP] too many connections\r\n",
            NegotiationRefused,
            "does not serve now: -ERR [SYS/TEMP] too many",
            "too many connections",
            "",
        ),
        (&POP3, "-ERR\r\n", NegotiationRefused, "does not serve now: -ERR", "address", ""),
        // Other servers.
        (&POP3, "220 mx ESMTP Postfix\r\n", NegotiationError, "\"220 mx ESMTP Postfix\"", "`protocol`", ""),
        (&POP3, "* OK [CAPABILITY IMAP4rev1] x\r\n", NegotiationError, "\"* OK [CAPABILITY", "", ""),
        (&POP3, "SSH-2.0-x\r\n", NegotiationError, "no POP3 answer, but begins with \"SSH-2.0-x\"", "", ""),
        (&POP3, "+ok\r\n", NegotiationError, "begins with \"+ok\"", "", ""),
        (&POP3, "\r\n", NegotiationError, "begins with \"\"", "", ""),
        (&POP3, "\x15\x03\x03\0\x02\x02\x28", NegotiationError, "\"\\x15\"", "tls = \"direct\"", ""),
        (&POP3, "J\0\0\0\n8.0.36\0", NegotiationError, "begins with \"J\\x00\"", "", ""),
        (
            &POP3,
            "+OK\r\n* BAD\r\n",
            NegotiationError,
            "the server's answer to STLS is no POP3 answer, but begins with \"* BAD\"",
            "",
            "STLS\r\n",
        ),
        (
            &NNTP,
            "200 news\r\n500 Unknown command\r\n",
            NegotiationRefused,
            "said no to STARTTLS: 500 Unknown command",
            "tlscertfile",
            "STARTTLS\r\nQUIT\r\n",
        ),
        (
            &NNTP,
            "201 news\r\n502 no\r\n",
            NegotiationRefused,
            "no to STARTTLS: 502",
            "563",
            "STARTTLS\r\nQUIT\r\n",
        ),
        (
            &NNTP,
            "200 news\r\n480 no\r\n",
            NegotiationRefused,
            "no to STARTTLS: 480",
            "",
            "STARTTLS\r\nQUIT\r\n",
        ),
        // INN whose certificate does not load.
        (
            &NNTP,
            "200 news\r\n580 Error initializing TLS\r\n",
            NegotiationRefused,
            "has STARTTLS and then said no to it: 580 Error",
            "certificate or key may not load",
            "STARTTLS\r\nQUIT\r\n",
        ),
        // innd without nnrpd.
        (
            &NNTP,
            "200 innd\r\n401 MODE-READER\r\n502 no\r\n",
            NegotiationRefused,
            "does not serve this host: 502 no",
            "",
            "STARTTLS\r\nMODE READER\r\n",
        ),
        // A server that always hands over is asked once.
        (
            &NNTP,
            "200 innd\r\n401 MODE-READER\r\n200 innd\r\n401 MODE-READER\r\n",
            NegotiationRefused,
            "said no to STARTTLS: 401 MODE-READER",
            "",
            "STARTTLS\r\nMODE READER\r\nSTARTTLS\r\nQUIT\r\n",
        ),
        (&NNTP, "200 x\r\n401 XOVER\r\n", NegotiationRefused, "401 XOVER", "", "STARTTLS\r\nQUIT\r\n"),
        (
            &NNTP,
            "400 load too high\r\n",
            NegotiationRefused,
            "does not serve now: 400 load too high",
            "too many connections",
            "",
        ),
        (
            &NNTP,
            "502 You have no permission to talk. Goodbye.\r\n",
            NegotiationRefused,
            "does not serve this host: 502 You have",
            "address",
            "",
        ),
        (
            &NNTP,
            "200 news\r\n400 going down\r\n",
            NegotiationRefused,
            "does not serve now: 400 going down",
            "",
            "STARTTLS\r\nQUIT\r\n",
        ),
        (&NNTP, "220 mx ESMTP\r\n", NegotiationError, "no NNTP greeting: 220 mx ESMTP", "`protocol`", ""),
        (&NNTP, "220-mx ESMTP\r\n", NegotiationError, "begins with \"220-mx ESMTP\"", "", ""),
        (&NNTP, "2000 x\r\n", NegotiationError, "begins with \"2000 x\"", "", ""),
        (&NNTP, "+OK ready\r\n", NegotiationError, "no NNTP answer, but begins with \"+OK ready\"", "", ""),
        (&NNTP, "\x16\x03\x01", NegotiationError, "begins with \"\\x16\"", "tls = \"direct\"", ""),
    ]
};

#[test]
fn servers_that_are_not_willing_are_told_apart_and_left_with_a_word() {
    let mut rng = fastrand::Rng::with_seed(2);
    for (kin, server, reason, detail, mend, says) in UNWILLING {
        let (said, result) = talk(kin, [server.as_bytes()]);
        let failure = result.clone().expect_err(server);
        assert_eq!((failure.stage, failure.reason), (Stage::Negotiate, reason), "{failure}");
        assert!(failure.detail.contains(detail), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
        assert_eq!(said, says, "{server:?}");
        for _ in 0..200 {
            let split = talk(kin, split(server.as_bytes(), &mut rng));
            assert_eq!(split, (said.clone(), result.clone()), "{server:?}");
        }
    }
}

/// CVE-2011-0411: what stands behind the answer was never protected by TLS, and must not be taken as if it had been.
#[test]
fn bytes_behind_the_answer_are_refused() {
    for Willing { kin, says, .. } in WILLING {
        for behind in ["\0", "+OK injected\r\n", "281 injected\r\n", "\x16\x03\x01\0\0"] {
            let failure = talk(kin, [[says, behind].concat().as_bytes()]).1.unwrap_err();
            assert_eq!(failure.reason, Reason::NegotiationError);
            assert!(
                failure.detail.starts_with("bytes in plaintext came behind the server's answer"),
                "{failure}"
            );
            assert!(failure.next_step().contains("CVE-2011-0411"), "{failure}");
        }
    }
}

#[test]
fn a_server_that_never_comes_to_an_end_is_given_up() {
    for (kin, begins) in
        [(&POP3, "+OK "), (&POP3, "+OK\r\n-ERR"), (&POP3, "x"), (&NNTP, "200 "), (&NNTP, "200 x\r\n382 ")]
    {
        for size in [1, 1000, 100_000] {
            let bytes = [begins.to_owned(), "x".repeat(100_000)].concat();
            let failure = talk(kin, bytes.as_bytes().chunks(size)).1.unwrap_err();
            assert!(failure.detail.len() < 400, "{failure}");
            assert!(failure.detail.contains("goes on beyond 2048 bytes") || begins == "x", "{failure}");
        }
    }
}

#[test]
fn a_server_that_hangs_up_is_told_by_when_it_did() {
    for (kin, server, reason, detail, mend) in [
        (&POP3, "", Reason::ConnectionTerminated, "hung up before its greeting", "tls = \"direct\""),
        (&POP3, "+O", Reason::ConnectionTerminated, "hung up before its greeting", "address"),
        (&NNTP, "200 news", Reason::ConnectionTerminated, "hung up before its greeting", "563"),
        (&POP3, "+OK\r\n", Reason::ConnectionTerminated, "instead of answering STLS", "certificate"),
        (&NNTP, "200 x\r\n", Reason::ConnectionTerminated, "instead of answering STARTTLS", "certificate"),
        // No line's end, but all that will ever come.
        (&POP3, "go away", Reason::NegotiationError, "begins with \"go away\"", "`protocol`"),
        (&NNTP, "200 x\r\ngo away", Reason::NegotiationError, "begins with \"go away\"", "`protocol`"),
    ] {
        let (mut negotiation, mut heard) = (Negotiation::new(kin), server.as_bytes().to_vec());
        assert_eq!(negotiation.hear(&mut heard, &mut Vec::new()), Ok(None), "{server:?}");
        let failure = negotiation.ended(&heard).expect("it means something");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.detail.contains(detail) && failure.next_step().contains(mend), "{failure}");
    }
}

/// Conversations with bytes changed, left out, doubled: however they are split, the same comes of them.
#[test]
fn garbage_comes_to_the_same_end_however_it_is_split() {
    let willing = WILLING.iter().map(|Willing { kin, says, .. }| (*kin, *says));
    let unwilling = UNWILLING.iter().map(|(kin, says, ..)| (*kin, *says));
    let conversations: Vec<(&Kin, &str)> = willing.chain(unwilling).collect();
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (kin, says) = *rng.choice(&conversations).unwrap();
        let mut bytes = says.as_bytes().to_vec();
        for _ in 0..rng.usize(0..6) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..4) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes.insert(at, *rng.choice(b"\r\n +-2\x00\xffA".as_slice()).unwrap()),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        let (whole, split) = (talk(kin, [&bytes[..]]), talk(kin, split(&bytes, &mut rng)));
        // What comes behind the answer belongs to TLS when it comes later.
        let is_injected = |result: &Result<_, Failure>| {
            result.as_ref().is_err_and(|failure| failure.detail.contains("in plaintext"))
        };
        if is_injected(&whole.1) {
            let tolerable = split.1.is_ok() || is_injected(&split.1);
            assert!(tolerable && split.0 == whole.0, "seed {seed}: {split:?}");
        } else {
            assert_eq!(split, whole, "seed {seed}: {}", bytes.escape_ascii());
        }
    }
}
