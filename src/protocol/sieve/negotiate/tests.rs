//! Servers that are willing, servers that are not, and servers that are none: what is made of them, however they speak.

use super::*;
use crate::protocol::testkit::{garble, negotiate, same_however_split, split};

/// Servers that say yes: greeting, answer to STARTTLS.
const WILLING: [(&str, &str, &str); 5] = [
    (
        "Dovecot",
        "\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n\"SIEVE\" \"fileinto reject\"\r\n\"NOTIFY\" \"mailto\"\r\n\"SASL\" \"\"\r\n\
         \"STARTTLS\"\r\n\"VERSION\" \"1.0\"\r\nOK \"Dovecot ready.\"\r\n",
        "OK \"Begin TLS negotiation now.\"\r\n",
    ),
    (
        "Cyrus",
        "\"IMPLEMENTATION\" \"Cyrus timsieved v2.2.13\"\r\n\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\n\"STARTTLS\"\r\nOK\r\n",
        "OK \"Begin TLS negotiation now\"\r\n",
    ),
    (
        "literals, codes, small letters",
        "{8}\r\nstarttls {4}\r\nOK\r\n\r\n\"X\" \"\\\"OK\\\\\"\r\nok (WARNINGS) {9}\r\nwelcome\r\n\r\n",
        "ok (TAG {4}\r\nOK\r\n) \"go\"\r\n",
    ),
    ("bare line feeds", "\"STARTTLS\"\nOK\n", "OK\n"),
    ("one that says more than it was asked", "\"StartTLS\" \"x\"\r\nOK\r\n", "\"SASL\" \"\"\r\nOK\r\n"),
];

#[test]
fn servers_that_are_willing_are_asked_for_tls_and_their_greeting_is_kept() {
    let mut rng = fastrand::Rng::with_seed(1);
    for (name, greeting, answer) in WILLING {
        let conversation = [greeting, answer].concat();
        let kept = Negotiated { greeting: greeting.into() };
        let expected = ("STARTTLS\r\n".to_owned(), Ok(Some(kept)));
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
const UNWILLING: [(&str, Reason, &str, &str, &str); 15] = {
    use Reason::{NegotiationError, NegotiationRefused};
    const LEFT: &str = "LOGOUT\r\n";
    [
        (
            "\"SASL\" \"PLAIN STARTTLS\"\r\n\"SIEVE\" \"STARTTLS\"\r\nOK \"STARTTLS\"\r\n",
            NegotiationRefused,
            "offers no STARTTLS, only: SASL SIEVE",
            "ssl = yes",
            LEFT,
        ),
        ("OK\r\n", NegotiationRefused, "only: nothing", "", LEFT),
        ("{12}\r\n\"STARTTLS\"\r\n\r\nOK\r\n", NegotiationRefused, "only: \"STARTTLS\"\\x0d\\x0a", "", LEFT),
        (
            "\"STARTTLS\"\r\nOK\r\nNO \"no certificate\"\r\n",
            NegotiationRefused,
            "offers STARTTLS and then said no to it: NO no certificate",
            "certificate or key may not load",
            LEFT,
        ),
        (
            "BYE (TRYLATER) {16}\r\ntoo many\r\nof you\r\n",
            NegotiationRefused,
            "does not serve now: BYE (TRYLATER) too many\\x0d\\x0aof you",
            "too many connections",
            "",
        ),
        ("NO\r\n", NegotiationRefused, "does not serve now: NO", "log", LEFT),
        (
            "\"STARTTLS\"\r\nOK\r\nBYE \"down\"\r\n",
            NegotiationRefused,
            "does not serve now: BYE down",
            "",
            "STARTTLS\r\n",
        ),
        ("\"STARTTLS\"\r\nBYE \"going \\\"down\\\"\"\r\n", NegotiationRefused, "BYE going \"down\"", "", ""),
        // Other servers.
        (
            "\"STARTTLS\"\r\nOK\r\n220 go\r\n",
            NegotiationError,
            "the server's answer to STARTTLS is not ManageSieve, but begins with \"220 go\"",
            "",
            "STARTTLS\r\n",
        ),
        (
            "* OK [CAPABILITY IMAP4rev1] hi\r\n",
            NegotiationError,
            "begins with \"* OK [CAPABILITY",
            "`protocol`",
            "",
        ),
        (
            "+OK POP3 ready\r\n",
            NegotiationError,
            "said first is not ManageSieve, but begins with \"+OK",
            "",
            "",
        ),
        ("OKAY\r\n", NegotiationError, "begins with \"OKAY\"", "", ""),
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

/// What stands behind the answer was never protected by TLS, and must not be taken as if it had been.
#[test]
fn bytes_behind_the_answer_to_starttls_are_refused() {
    let conversation = "\"STARTTLS\"\r\nOK\r\nOK\r\n";
    for behind in ["\0", "\"SASL\" \"PLAIN\"\r\nOK\r\n", "OK\r\n", "\x16\x03\x01\0\0"] {
        let failure =
            negotiate(Negotiation::default(), [[conversation, behind].concat().as_bytes()]).1.unwrap_err();
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(failure.detail.contains("bytes in plaintext"), "{failure}");
    }
}

#[test]
fn a_server_that_never_comes_to_an_end_is_given_up() {
    for endless in ["x", "\"", "OK", "\"A\"\r\n", "{9999}\r\n", "\"STARTTLS\"\r\nOK\r\n\"A\"", "\x7f"] {
        let bytes = endless.repeat(1 << 16);
        let failure = negotiate(Negotiation::default(), bytes.as_bytes().chunks(1000)).1.unwrap_err();
        assert!(failure.detail.len() < 400, "{failure}");
    }
}

#[test]
fn a_server_that_hangs_up_is_told_by_when_it_did() {
    for (server, reason, detail, mend) in [
        ("", Reason::ConnectionTerminated, "hung up before its greeting", "address"),
        ("\"STARTTLS\"\r\n", Reason::ConnectionTerminated, "hung up before its greeting", "tls = \"direct\""),
        (
            "\"STARTTLS\"\r\nOK\r\nO",
            Reason::ConnectionTerminated,
            "instead of answering STARTTLS",
            "certificate",
        ),
        // No line's end, but all that will ever come.
        ("go away", Reason::NegotiationError, "begins with \"go away\"", "`protocol`"),
    ] {
        let (mut negotiation, mut heard) = (Negotiation::default(), server.as_bytes().to_vec());
        assert_eq!(negotiation.hear(&mut heard, &mut Vec::new()), Ok(None), "{server:?}");
        let failure = negotiation.ended(&heard).expect("it means something");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.detail.contains(detail) && failure.next_step().contains(mend), "{failure}");
    }
    assert!(Negotiation::default().if_late().is_some_and(|mend| mend.contains("tls = \"direct\"")));
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
