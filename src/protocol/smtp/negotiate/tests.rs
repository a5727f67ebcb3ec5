//! Servers that are willing, servers that are not, and servers that are none: what is made of them, however they speak.

use super::*;
use crate::protocol::smtp::SMTP;

/// Servers that say yes: greeting, answer to EHLO, answer to STARTTLS.
const WILLING: [(&str, &str, &str, &str); 7] = [
    (
        "Postfix",
        "220 mail.example.com ESMTP Postfix (Debian/GNU)\r\n",
        "250-mail.example.com\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n",
        "220 2.0.0 Ready to start TLS\r\n",
    ),
    (
        "Postfix behind postscreen, whose greeting comes in two",
        "220-mx.example.com ESMTP Postfix\r\n220 mx.example.com ESMTP Postfix\r\n",
        "250-mx.example.com\r\n250-SIZE 51200000\r\n250 STARTTLS\r\n",
        "220 2.0.0 Ready to start TLS\r\n",
    ),
    (
        "Exim",
        "220 mx.example.org ESMTP Exim 4.96 Sat, 21 Nov 2026 13:57:53 +0000\r\n",
        "250-mx.example.org Hello ambassador.example.com [192.0.2.9]\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
         250-PIPELINING\r\n250-PIPECONNECT\r\n250-CHUNKING\r\n250-STARTTLS\r\n250-PRDR\r\n250 HELP\r\n",
        "220 TLS go ahead\r\n",
    ),
    (
        "Exchange",
        "220 EX01.corp.example Microsoft ESMTP MAIL Service ready at Sat, 21 Nov 2026 14:57:53 +0100\r\n",
        "250-EX01.corp.example Hello [192.0.2.9]\r\n250-SIZE 37748736\r\n250-PIPELINING\r\n250-DSN\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-STARTTLS\r\n250-X-ANONYMOUSTLS\r\n250-AUTH NTLM\r\n250-X-EXPS GSSAPI NTLM\r\n\
         250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250 XRDST\r\n",
        "220 2.0.0 SMTP server ready\r\n",
    ),
    (
        "a large provider",
        "220 smtp.example.net ESMTP 5b1f17b1804b1-4a2 - sub\r\n",
        "250-smtp.example.net at your service, [192.0.2.9]\r\n250-SIZE 35882577\r\n250-8BITMIME\r\n250-STARTTLS\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n",
        "220 2.0.0 Ready to start TLS\r\n",
    ),
    (
        "a greeting of many lines, and a last line without a text",
        "220-Welcome.\r\n220-\r\n220-No unsolicited mail.\r\n220\r\n",
        "250-mx\r\n250-StartTLS\r\n250\r\n",
        "220-go\r\n220 ahead\r\n",
    ),
    ("bare line feeds and small letters", "220 mx\n", "250-mx\n250 starttls now\n", "220 go\n"),
];

/// What it said, and what came of it, hearing the server in pieces; what it could not take stays unheard.
fn talk<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Result<Option<Negotiated>, Failure>) {
    let mut negotiation = Negotiation::new(&SMTP, "ambassador.example.com");
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    let mut result = negotiation.hear(&mut heard, &mut said);
    for piece in pieces {
        if !matches!(result, Ok(None)) {
            break;
        }
        heard.extend_from_slice(piece);
        result = negotiation.hear(&mut heard, &mut said);
        assert!(negotiation.reply.len() <= MAX_REPLY + piece.len(), "what is kept is bounded");
        if matches!(result, Ok(Some(_))) {
            assert!(heard.is_empty(), "nothing is left to be mistaken for TLS");
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
    for (name, greeting, offer, answer) in WILLING {
        let conversation = [greeting, offer, answer].concat();
        let kept = Negotiated { greeting: greeting.into() };
        let expected = ("EHLO ambassador.example.com\r\nSTARTTLS\r\n".to_owned(), Ok(Some(kept)));
        for _ in 0..300 {
            assert_eq!(talk(split(conversation.as_bytes(), &mut rng)), expected, "{name}");
        }
        for at in 0..conversation.len() {
            let (first, rest) = conversation.as_bytes().split_at(at);
            let (said, result) = talk([first]);
            assert_eq!(result, Ok(None), "{name}, after {at} bytes");
            assert!(expected.0.starts_with(&said));
            assert_eq!(talk([first, rest]), expected, "{name}, in two pieces at {at}");
        }
    }
}

/// A step is taken when the server's reply is whole, not before: nothing is said to a server that is not listening.
#[test]
fn each_word_waits_for_its_reply() {
    let mut negotiation = Negotiation::new(&SMTP, "[192.0.2.9]");
    for (hears, says, awaits) in [
        ("", "", "the server's greeting"),
        ("220-mx\r\n220 mx", "", "the server's greeting"),
        ("\r\n", "EHLO [192.0.2.9]\r\n", "the server's answer to EHLO"),
        ("250-mx\r\n250-STARTTLS\r\n", "", "the server's answer to EHLO"),
        ("250 HELP\r\n", "STARTTLS\r\n", "the server's answer to STARTTLS"),
    ] {
        let mut said = Vec::new();
        assert_eq!(negotiation.hear(&mut hears.into(), &mut said), Ok(None));
        assert_eq!((String::from_utf8(said).unwrap().as_str(), negotiation.awaits()), (says, awaits));
    }
}

/// A port that speaks TLS from its first byte awaits our ClientHello, and we its greeting.
#[test]
fn a_server_that_stays_silent_may_wait_for_tls() {
    let mut negotiation = Negotiation::new(&SMTP, "me");
    assert!(negotiation.if_late().is_some_and(|mend| mend.contains("tls = \"direct\"")));
    assert_eq!(negotiation.hear(&mut b"220 mx\r\n".to_vec(), &mut Vec::new()), Ok(None));
    assert_eq!(negotiation.if_late(), None);
}

/// The name comes from the system: it must not become a command of its own.
#[test]
fn an_odd_name_of_this_host_stays_one_word_of_one_line() {
    for (name, hello) in [
        ("two words\r\nMAIL FROM:<x>", "EHLO twowordsMAILFROM:<x>\r\n"),
        ("", "EHLO [127.0.0.1]\r\n"),
        ("héte", "EHLO hte\r\n"),
    ] {
        let mut said = Vec::new();
        assert_eq!(Negotiation::new(&SMTP, name).hear(&mut b"220 mx\r\n".to_vec(), &mut said), Ok(None));
        assert_eq!(String::from_utf8(said).unwrap(), hello);
    }
}

/// What a server says, and what is made of it: the reason, words of the detail and of the next step, the last word said.
const UNWILLING: [(&str, Reason, &str, &str, &str); 22] = {
    use Reason::{NegotiationError, NegotiationRefused};
    [
        // Postfix without smtpd_tls_security_level.
        (
            "220 mx\r\n250-mx\r\n250-SIZE 10240000\r\n250 CHUNKING\r\n",
            NegotiationRefused,
            "offers no STARTTLS, only: SIZE CHUNKING",
            "smtpd_tls_security_level",
            "QUIT\r\n",
        ),
        ("220 mx\r\n250 mx\r\n", NegotiationRefused, "only: nothing", "tls = \"direct\"", "QUIT\r\n"),
        // The first line is a name.
        (
            "220 mx\r\n250-STARTTLS\r\n250 SIZE\r\n",
            NegotiationRefused,
            "only: SIZE",
            "tls_advertise_hosts",
            "QUIT\r\n",
        ),
        ("220 mx\r\n250-mx\r\n250 STARTTLSX\r\n", NegotiationRefused, "only: STARTTLSX", "", "QUIT\r\n"),
        // A firewall that overwrites what it does not want to be seen.
        (
            "220 ****************\r\n250-mx\r\n250-SIZE\r\n250 XXXXXXXA\r\n",
            NegotiationRefused,
            "overwritten its STARTTLS with XXXXXXXA",
            "allow-tls",
            "QUIT\r\n",
        ),
        (
            "220 mx SMTP ready\r\n500 Command unrecognized\r\n",
            NegotiationRefused,
            "does not know EHLO (500 Command unrecognized), so it has no STARTTLS; its greeting was \"220 mx SMTP ready\"",
            "switch STARTTLS on",
            "QUIT\r\n",
        ),
        ("220 mx\r\n502 5.5.1 Not implemented\r\n", NegotiationRefused, "does not know EHLO", "", "QUIT\r\n"),
        ("220 mx\r\n504 no\r\n", NegotiationRefused, "does not know EHLO", "", "QUIT\r\n"),
        (
            "220 mx\r\n550 5.7.1 Bad name\r\n",
            NegotiationRefused,
            "said no to EHLO ambassador.example.com: 550 5.7.1 Bad name",
            "another name",
            "QUIT\r\n",
        ),
        (
            "220 mx\r\n421 4.3.2 Shutting down\r\n",
            NegotiationRefused,
            "421 4.3.2 Shutting down",
            "",
            "EHLO ambassador.example.com\r\n",
        ),
        // Postfix whose certificate does not load.
        (
            "220 mx\r\n250-mx\r\n250 STARTTLS\r\n454 4.7.0 TLS not available due to local problem\r\n",
            NegotiationRefused,
            "said no to it: 454 4.7.0 TLS not available",
            "certificate or key may not load",
            "QUIT\r\n",
        ),
        (
            "220 mx\r\n250-mx\r\n250 STARTTLS\r\n554-5.7.0 No\r\n554 5.7.0 never\r\n",
            NegotiationRefused,
            "554 5.7.0 No 5.7.0 never",
            "log",
            "QUIT\r\n",
        ),
        // postscreen, all servers busy; a list that does not know us.
        (
            "421 4.3.2 All server ports are busy\r\n",
            NegotiationRefused,
            "does not serve now: 421 4.3.2 All server ports are busy",
            "too many connections",
            "",
        ),
        (
            "554-mx.example.com\r\n554 No SMTP service here\r\n",
            NegotiationRefused,
            "does not serve this host: 554 mx.example.com No SMTP service here",
            "address",
            "QUIT\r\n",
        ),
        ("220-teaser\r\n421 too many\r\n", NegotiationRefused, "does not serve now", "", ""),
        // Other servers.
        (
            "200 news.example.com InterNetNews NNRP server ready\r\n",
            NegotiationError,
            "no SMTP greeting: 200 news.example.com",
            "",
            "QUIT\r\n",
        ),
        (
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
            NegotiationError,
            "begins with \"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\"",
            "`protocol`",
            "",
        ),
        (
            "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready.\r\n",
            NegotiationError,
            "\"* OK [CAPABILITY IMAP4rev1",
            "",
            "",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
            NegotiationError,
            "\"HTTP/1.1 400 Bad Request\"",
            "",
            "",
        ),
        ("\x15\x03\x03\0\x02\x02\x28", NegotiationError, "begins with \"\\x15\"", "tls = \"direct\"", ""),
        ("J\0\0\0\n8.0.36\0", NegotiationError, "begins with \"J\\x00\"", "", ""),
        (
            "220 mx\r\n250-mx\r\nSTARTTLS\r\n",
            NegotiationError,
            "the server's answer to EHLO is no SMTP reply, but begins with \"STARTTLS\"",
            "",
            "EHLO ambassador.example.com\r\n",
        ),
    ]
};

#[test]
fn servers_that_are_not_willing_are_told_apart_and_left_with_a_word() {
    let mut rng = fastrand::Rng::with_seed(2);
    for (server, reason, detail, mend, last) in UNWILLING {
        let (said, result) = talk([server.as_bytes()]);
        let failure = result.clone().expect_err(server);
        assert_eq!((failure.stage, failure.reason), (Stage::Negotiate, reason), "{failure}");
        assert!(failure.detail.contains(detail), "{failure}");
        // Once it says that it can serve nobody now, its circuit counts that, and not a fault of TLS.
        let class = if server.contains("421 ") { BreakerClass::Overloaded } else { BreakerClass::Handshake };
        assert_eq!(failure.breaker_class(), Some(class), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
        assert!(said.ends_with(last) && (said.is_empty() || !last.is_empty()), "{server:?}: {said:?}");
        for _ in 0..200 {
            assert_eq!(
                talk(split(server.as_bytes(), &mut rng)),
                (said.clone(), result.clone()),
                "{server:?}"
            );
        }
    }
}

/// CVE-2011-0411: what stands behind the answer was never protected by TLS, and must not be taken as if it had been.
#[test]
fn bytes_behind_the_answer_to_starttls_are_refused() {
    let conversation = "220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n";
    for behind in ["\0", "250 injected\r\n", "220 go\r\n", "\x16\x03\x01\0\0"] {
        let failure = talk([[conversation, behind].concat().as_bytes()]).1.unwrap_err();
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(
            failure.detail.starts_with("bytes in plaintext came behind the server's answer"),
            "{failure}"
        );
        assert!(failure.next_step().contains("CVE-2011-0411"), "{failure}");
    }
}

#[test]
fn a_server_that_never_comes_to_an_end_is_given_up() {
    for endless in ["x", "220", "220 ", "220-x\r\n", "220 mx\r\n250-mx\r\n250-SIZE\r\n", "\x7f"] {
        let (head, tail) = endless.split_at(endless.len().min(16));
        let bytes = [head.to_owned(), [head, tail].concat().repeat(1 << 17)].concat();
        let failure = talk(bytes.as_bytes().chunks(1000)).1.unwrap_err();
        assert!(failure.detail.len() < 400, "{failure}");
    }
    let lines = "220-x\r\n".repeat(MAX_REPLY);
    let failure = talk(lines.as_bytes().chunks(4096)).1.unwrap_err();
    assert!(failure.detail.starts_with("the server's greeting goes on beyond"), "{failure}");
}

#[test]
fn a_server_that_hangs_up_is_told_by_when_it_did() {
    for (server, reason, detail, mend) in [
        ("", Reason::ConnectionTerminated, "hung up before its greeting", "address"),
        ("220 mx", Reason::ConnectionTerminated, "hung up before its greeting", "tls = \"direct\""),
        ("220 mx\r\n", Reason::ConnectionTerminated, "hung up instead of answering EHLO", "log"),
        (
            "220 mx\r\n250-mx\r\n250 STARTTLS\r\n",
            Reason::ConnectionTerminated,
            "answering STARTTLS",
            "certificate",
        ),
        // No line's end, but all that will ever come.
        ("go away", Reason::NegotiationError, "begins with \"go away\"", "`protocol`"),
    ] {
        let (mut negotiation, mut heard) = (Negotiation::new(&SMTP, "me"), server.as_bytes().to_vec());
        assert_eq!(negotiation.hear(&mut heard, &mut Vec::new()), Ok(None), "{server:?}");
        let failure = negotiation.ended(&heard).expect("it means something");
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.detail.contains(detail) && failure.next_step().contains(mend), "{failure}");
    }
}

/// Conversations with bytes changed, left out, doubled: however they are split, the same comes of them.
#[test]
fn garbage_comes_to_the_same_end_however_it_is_split() {
    let conversations: Vec<String> = WILLING
        .iter()
        .map(|(_, greeting, offer, answer)| [*greeting, offer, answer].concat())
        .chain(UNWILLING.iter().map(|(server, ..)| (*server).to_owned()))
        .collect();
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = rng.choice(&conversations).unwrap().clone().into_bytes();
        for _ in 0..rng.usize(0..6) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..4) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes.insert(at, *rng.choice(b"\r\n -=2\x00\xffA".as_slice()).unwrap()),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        let (whole, split) = (talk([&bytes[..]]), talk(split(&bytes, &mut rng)));
        // What comes behind the answer to STARTTLS belongs to TLS when it comes later.
        let injected = whole.1.as_ref().is_err_and(|failure| failure.detail.contains("in plaintext"));
        if injected {
            let tolerable = split.1.is_ok()
                || split.1.as_ref().is_err_and(|failure| failure.detail.contains("in plaintext"));
            assert!(tolerable && split.0 == whole.0, "seed {seed}: {split:?}");
        } else {
            assert_eq!(split, whole, "seed {seed}: {}", bytes.escape_ascii());
        }
    }
}
