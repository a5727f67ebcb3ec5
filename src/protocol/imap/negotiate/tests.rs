//! Servers that are willing, servers that are not, and servers that are none: what is made of them, however they speak.

use super::*;
use crate::protocol::testkit::{garble, negotiate, same_however_split, split};

/// Servers that say yes: greeting, answer to STARTTLS.
const WILLING: [(&str, &str, &str); 8] = [
    (
        "Dovecot",
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS LOGINDISABLED] Dovecot ready.\r\n",
        "nuncio OK Begin TLS negotiation now.\r\n",
    ),
    (
        "Cyrus",
        "* OK [CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE STARTTLS LOGINDISABLED] mail Cyrus IMAP 3.6.1 server ready\r\n",
        "nuncio OK Begin TLS negotiation now\r\n",
    ),
    (
        "Courier",
        "* OK [CAPABILITY IMAP4rev1 UIDPLUS STARTTLS] Courier-IMAP ready.\r\n",
        "nuncio OK Begin\r\n",
    ),
    (
        "Exchange",
        "* OK The Microsoft Exchange IMAP4 service is ready.\r\n",
        "nuncio OK Begin TLS negotiation now.\r\n",
    ),
    ("one that offers less than it has", "* OK [CAPABILITY IMAP4rev1] ready\r\n", "nuncio OK go\r\n"),
    ("small letters and bare line feeds", "* ok hi\n", "nuncio ok\n"),
    (
        "one that says more than it was asked",
        "* OK hi {5}\r\n",
        "* OK [ALERT] down at noon {3}\r\n* CAPABILITY IMAP4rev1\r\n* ID (\"nuncio OK\" {11}\r\nnuncio OK\r\n)\r\nnuncio OK go\r\n",
    ),
    ("one with another code", "* OK [ALERT] old\r\n", "nuncio OK [ALERT] go\r\n"),
];

#[test]
fn servers_that_are_willing_are_asked_for_tls_and_their_greeting_is_kept() {
    let mut rng = fastrand::Rng::with_seed(1);
    for (name, greeting, answer) in WILLING {
        let conversation = [greeting, answer].concat();
        let kept = Negotiated { greeting: greeting.into() };
        let expected = ("nuncio STARTTLS\r\n".to_owned(), Ok(Some(kept)));
        for longest in [1, 3, 20, 200, 5000] {
            let pieces = split(conversation.as_bytes(), longest, &mut rng);
            assert_eq!(negotiate(Negotiation::default(), pieces), expected, "{name}");
        }
        for at in 0..conversation.len() {
            let (first, rest) = conversation.as_bytes().split_at(at);
            let (said, result) = negotiate(Negotiation::default(), [first]);
            assert_eq!(result, Ok(None), "{name}, after {at} bytes");
            assert_eq!(said.is_empty(), at < greeting.len(), "nothing is said before the greeting is whole");
            assert_eq!(negotiate(Negotiation::default(), [first, rest]), expected, "{name}, in two at {at}");
        }
    }
}

/// What a server says, and what is made of it: the reason, words of the detail and of the next step, the last word said.
const UNWILLING: [(&str, Reason, &str, &str, &str); 20] = {
    use Reason::{NegotiationError, NegotiationRefused};
    const LEFT: &str = "nuncio LOGOUT\r\n";
    [
        // Dovecot with ssl = no.
        (
            "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] Dovecot ready.\r\nnuncio BAD TLS support isn't enabled.\r\n",
            NegotiationRefused,
            "has no STARTTLS here: BAD TLS support isn't enabled.; it offers only: IMAP4rev1 SASL-IR AUTH=PLAIN",
            "switch STARTTLS on",
            LEFT,
        ),
        (
            "* OK hi\r\nnuncio BAD what?\r\n",
            NegotiationRefused,
            "STARTTLS here: BAD what?",
            "tls = \"direct\"",
            LEFT,
        ),
        ("* OK hi\r\nnuncio BAD\r\n", NegotiationRefused, "STARTTLS here: BAD", "", LEFT),
        (
            "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\nnuncio NO [UNAVAILABLE] no certificate\r\n",
            NegotiationRefused,
            "said no to STARTTLS: NO [UNAVAILABLE] no certificate",
            "certificate or key may not load",
            LEFT,
        ),
        (
            "* PREAUTH [CAPABILITY IMAP4rev1] welcome back, root\r\n",
            NegotiationRefused,
            "for logged in (PREAUTH [CAPABILITY IMAP4rev1] welcome back, root)",
            "993",
            LEFT,
        ),
        (
            "* BYE [UNAVAILABLE] too many connections from your address\r\n",
            NegotiationRefused,
            "does not serve now: BYE [UNAVAILABLE] too many connections",
            "too many connections",
            "",
        ),
        (
            "* OK hi\r\n* BYE going down\r\n",
            NegotiationRefused,
            "serve now: BYE going down",
            "log",
            "STARTTLS\r\n",
        ),
        ("* NO go away\r\n", NegotiationError, "is no IMAP greeting: NO go away", "`protocol`", LEFT),
        ("* 5 EXISTS\r\n", NegotiationError, "is no IMAP greeting: EXISTS", "", LEFT),
        ("* OK hi\r\n+ go\r\n", NegotiationError, "answer to STARTTLS is none", "", LEFT),
        ("* OK hi\r\nnuncio\r\n", NegotiationError, "answer to STARTTLS is none", "", LEFT),
        ("* OK hi\r\nnuncio PREAUTH x\r\n", NegotiationError, "is none: PREAUTH x", "", LEFT),
        ("* OK hi\r\nnuncio2 OK x\r\n", NegotiationError, "is none: OK x", "", LEFT),
        // Other servers.
        (
            "* OK hi\r\na001 OK go\r\n",
            NegotiationError,
            "the server's answer to STARTTLS is not IMAP, but begins with \"a001 OK go\"",
            "",
            "STARTTLS\r\n",
        ),
        (
            "220 mx ESMTP\r\n",
            NegotiationError,
            "said first is not IMAP, but begins with \"220 mx ESMTP\"",
            "",
            "",
        ),
        ("+OK POP3 ready\r\n", NegotiationError, "begins with \"+OK POP3 ready\"", "`protocol`", ""),
        ("*OK\r\n", NegotiationError, "begins with \"*OK\"", "", ""),
        ("\r\n", NegotiationError, "begins with \"\"", "", ""),
        ("\x15\x03\x03\0\x02\x02\x28", NegotiationError, "begins with \"\\x15\"", "tls = \"direct\"", ""),
        ("J\0\0\0\n8.0.36\0", NegotiationError, "begins with \"J\\x00\"", "", ""),
    ]
};

#[test]
fn servers_that_are_not_willing_are_told_apart_and_left_with_a_word() {
    let mut rng = fastrand::Rng::with_seed(2);
    for (server, reason, detail, mend, last) in UNWILLING {
        let (said, result) = negotiate(Negotiation::default(), [server.as_bytes()]);
        let failure = result.clone().expect_err(server);
        assert_eq!((failure.stage, failure.reason), (Stage::Negotiate, reason), "{failure}");
        assert!(failure.detail.contains(detail), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
        assert!(said.ends_with(last) && (said.is_empty() || !last.is_empty()), "{server:?}: {said:?}");
        for longest in [1, 1, 2, 5, 30] {
            let pieces = split(server.as_bytes(), longest, &mut rng);
            assert_eq!(
                negotiate(Negotiation::default(), pieces),
                (said.clone(), result.clone()),
                "{server:?}"
            );
        }
    }
}

/// CVE-2011-0411: what stands behind the answer was never protected by TLS, and must not be taken as if it had been.
#[test]
fn bytes_behind_the_answer_to_starttls_are_refused() {
    let conversation = "* OK hi\r\nnuncio OK go\r\n";
    for behind in ["\0", "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n", "nuncio OK go\r\n", "\x16\x03\x01\0\0"] {
        let failure =
            negotiate(Negotiation::default(), [[conversation, behind].concat().as_bytes()]).1.unwrap_err();
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(failure.detail.contains("bytes in plaintext"), "{failure}");
        assert!(failure.next_step().contains("CVE-2011-0411"), "{failure}");
    }
}

#[test]
fn a_server_that_never_comes_to_an_end_is_given_up() {
    for endless in ["x", "* ", "* OK", "* OK hi\r\n", "* OK hi\r\n* OK x\r\n", "\x7f", "* ID {9}\r\n"] {
        let bytes = endless.repeat(1 << 16);
        let failure = negotiate(Negotiation::default(), bytes.as_bytes().chunks(1000)).1.unwrap_err();
        assert!(failure.detail.len() < 400, "{failure}");
    }
}

#[test]
fn a_server_that_hangs_up_is_told_by_when_it_did() {
    for (server, reason, detail, mend) in [
        ("", Reason::ConnectionTerminated, "hung up before its greeting", "address"),
        ("* OK hi", Reason::ConnectionTerminated, "hung up before its greeting", "tls = \"direct\""),
        ("* OK hi\r\n", Reason::ConnectionTerminated, "hung up instead of answering STARTTLS", "certificate"),
        // No line's end, but all that will ever come.
        ("go away", Reason::NegotiationError, "begins with \"go away\"", "`protocol`"),
    ] {
        let (mut negotiation, mut heard) = (Negotiation::default(), server.as_bytes().to_vec());
        assert_eq!(negotiation.hear(&mut heard, &mut Vec::new()), Ok(None), "{server:?}");
        let failure = negotiation.ended(&heard).expect("it means something");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.detail.contains(detail) && failure.next_step().contains(mend), "{failure}");
    }
}

/// A port that speaks TLS from its first byte awaits our ClientHello, and we its greeting.
#[test]
fn a_server_that_stays_silent_may_wait_for_tls() {
    let mut negotiation = Negotiation::default();
    assert!(negotiation.if_late().is_some_and(|mend| mend.contains("tls = \"direct\"")));
    assert_eq!(negotiation.awaits(), "the server's greeting");
    assert_eq!(negotiation.hear(&mut b"* OK hi\r\n".to_vec(), &mut Vec::new()), Ok(None));
    assert_eq!((negotiation.if_late(), negotiation.awaits()), (None, "the server's answer to STARTTLS"));
}

/// Conversations with bytes changed, left out, doubled: however they are split, the same comes of them.
#[test]
fn garbage_comes_to_the_same_end_however_it_is_split() {
    let conversations: Vec<String> = WILLING
        .iter()
        .map(|(_, greeting, answer)| [*greeting, answer].concat())
        .chain(UNWILLING.iter().map(|(server, ..)| (*server).to_owned()))
        .collect();
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = rng.choice(&conversations).unwrap().clone().into_bytes();
        garble(&mut bytes, &mut rng);
        let whole = negotiate(Negotiation::default(), [&bytes[..]]);
        let longest = *rng.choice([1, 3, 20, 200].as_slice()).unwrap();
        let split = negotiate(Negotiation::default(), split(&bytes, longest, &mut rng));
        same_however_split(&whole, &split, &format!("seed {seed}: {}", bytes.escape_ascii()));
    }
}
