//! The server's greeting, the client's answer to it, and the request for TLS.

use super::*;
use crate::protocol::refused::{cut, hear, jumble};

fn negotiation<'a>(
    alone: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Result<Negotiated, Failure>>) {
    let asking = Asking { as_host: "", server_name: "db.test", opening: b"", alone };
    hear(&mut *Protocol::Mysql.negotiation(&asking).unwrap(), pieces)
}

fn interview<'a>(
    server: &Server,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Result<Interviewed, Failure>>) {
    let negotiated = Negotiated { greeting: server.greeting() };
    let (said, came_to) = hear(&mut *Protocol::Mysql.interview(&negotiated, Offer::No).unwrap(), pieces);
    (said, came_to)
}

/// The client's flags have to be known first: nothing is said to the server before that.
#[test]
fn the_servers_greeting_is_read_and_not_answered() {
    for server in Server::all() {
        let greeting = server.greeting();
        for size in 1..=greeting.len() {
            let (said, came_to) = negotiation(false, greeting.chunks(size));
            assert_eq!(came_to, Some(Ok(Negotiated { greeting: greeting.clone() })), "{}", server.version);
            assert_eq!(said, b"");
        }
    }
}

/// A check has no client whose flags count: it asks with its own, and with none that the server has not got.
#[test]
fn who_comes_alone_asks_for_tls_with_flags_of_its_own() {
    let flags = [
        (Server::mysql(), LONG_PASSWORD | PROTOCOL_41 | SSL | SECURE_CONNECTION | PLUGIN_AUTH),
        (Server::mariadb(), PROTOCOL_41 | SSL | SECURE_CONNECTION | PLUGIN_AUTH),
        (Server::old(), PROTOCOL_41 | SSL | SECURE_CONNECTION),
    ];
    for (server, flags) in flags {
        let (said, came_to) = negotiation(true, [&server.greeting()[..]]);
        assert_eq!(came_to, Some(Ok(Negotiated { greeting: server.greeting() })));
        let request = [&flags.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat();
        assert_eq!(said, packet(1, &request), "{}", server.version);
    }
}

/// Each with what is seen, and what is to be done.
#[test]
fn a_server_that_cannot_be_asked_for_tls_is_told_by_why() {
    let without_tls = Server { flags: Server::mysql().flags & !SSL, ..Server::mysql() };
    let ancient = Server { flags: 0x0d2c, ..Server::old() };
    let too_old = packet(0, b"\x093.21.0\0");
    let situations: [(&str, Vec<u8>, Reason, &str, &str); 13] = [
        ("no TLS", without_tls.greeting(), Reason::NegotiationRefused, "does not offer TLS", "ssl_cert"),
        ("before 4.1", ancient.greeting(), Reason::NegotiationError, "before MySQL 4.1", "later server"),
        ("before 3.22", too_old, Reason::NegotiationError, "version 9", "protocol"),
        (
            "full",
            err(0, 1040, "Too many connections"),
            Reason::NegotiationRefused,
            "error 1040 instead of its greeting: Too many connections",
            "max_connections",
        ),
        (
            "we are blocked",
            err(0, 1129, "Host '10.0.0.7' is blocked because of many connection errors"),
            Reason::NegotiationRefused,
            "is blocked",
            "FLUSH HOSTS",
        ),
        (
            "not for us",
            err(0, 1130, "#HY000Host 'x' is not allowed"),
            Reason::NegotiationRefused,
            ": Host",
            "CREATE USER",
        ),
        ("any other error", err(0, 1053, "Server shutdown"), Reason::NegotiationRefused, "1053", "log"),
        (
            "words that play tricks",
            err(0, 1, "\x1b[2Jgone\n"),
            Reason::NegotiationRefused,
            "\\x1b[2Jgone\\x0a",
            "log",
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Reason::NegotiationError, "SSH", "protocol"),
        (
            "a TLS front",
            b"\x15\x03\x01\0\x02\x02\x28".to_vec(),
            Reason::NegotiationError,
            "TLS alert",
            "direct",
        ),
        (
            "the X protocol",
            b"\x05\0\0\0\x0b\x08\x05\x1a\0".to_vec(),
            Reason::NegotiationError,
            "classic",
            "33060",
        ),
        (
            "SMTP",
            b"220 mx.test ESMTP\r\n".to_vec(),
            Reason::NegotiationError,
            "it began with \"220 \"",
            "protocol",
        ),
        (
            "a second packet first",
            packet(1, b"\x0a9.7.4\0"),
            Reason::NegotiationError,
            "no MySQL",
            "protocol",
        ),
    ];
    for (situation, says, reason, detail, mend) in situations {
        for size in [1, says.len()] {
            let (said, came_to) = negotiation(false, says.chunks(size));
            let failure = came_to.unwrap_or_else(|| panic!("{situation}")).unwrap_err();
            assert_eq!(
                (failure.stage, failure.reason, failure.side),
                (Stage::Negotiate, reason, Side::Upstream)
            );
            assert!(failure.detail.contains(detail), "{situation}: {}", failure.detail);
            assert!(failure.next_step().contains(mend), "{situation}: {}", failure.next_step());
            assert!(!failure.detail.contains(char::is_control) && failure.detail.len() < 600);
            assert_eq!(said, b"");
        }
    }
}

/// They would be taken for the server's first words inside TLS.
#[test]
fn bytes_behind_the_greeting_are_refused() {
    for behind in [&b"\0"[..], &ok(2), &[0x16, 3, 3]] {
        for alone in [true, false] {
            let (said, came_to) = negotiation(alone, [&[&Server::mysql().greeting(), behind].concat()[..]]);
            let failure = came_to.unwrap().unwrap_err();
            assert!(failure.detail.contains("injecting"), "{}", failure.detail);
            assert_eq!(said, b"");
        }
    }
}

/// A greeting that goes on and on is not waited for.
#[test]
fn a_greeting_is_bounded() {
    let mut endless = packet(0, &[b'x'; LONGEST]);
    endless.truncate(HEADER);
    assert!(negotiation(false, [&endless[..]]).1.unwrap().is_err());
    let talk = Negotiation::new(false);
    assert!(talk.if_late().unwrap().contains("skip_name_resolve"));
    assert_eq!(talk.ended(b""), None);
    assert!(talk.ended(b"\x4a\0").unwrap().detail.contains("J\\x00"));
}

/// All as the server says it, but for the one bit.
#[test]
fn the_client_is_greeted_without_the_offer_of_tls() {
    for server in Server::all() {
        let (told, came_to) = interview(&server, []);
        assert_eq!(came_to, None);
        let greeting = server.greeting();
        let changed: Vec<usize> = (0..greeting.len()).filter(|at| told[*at] != greeting[*at]).collect();
        assert_eq!((told.len(), changed.len()), (greeting.len(), 1), "{}", server.version);
        assert_eq!(greeting[changed[0]] ^ told[changed[0]], 0x08);
    }
}

/// A server reads flags, packet size, character set and MariaDB's own flags before TLS, and never again.
#[test]
fn tls_is_asked_for_in_the_clients_own_words() {
    let many = [response(NATIVE, &[7; 20]), packet(0, b"\x03select 1")].concat();
    let bare = packet(1, &response(NATIVE, b"")[HEADER..HEADER + 32]);
    for says in [response(NATIVE, &[7; 20]), response(SHA256, b"pw\0"), many, bare] {
        let (_, came_to) = interview(&Server::mysql(), [&says[..]]);
        let Interviewed { request, opening } = came_to.unwrap().unwrap();
        assert_eq!(opening, Opening { bytes: says.clone(), ..Opening::default() });
        assert_eq!(request.len(), 36);
        assert_eq!(request[..HEADER], [32, 0, 0, 1]);
        assert_eq!(request[HEADER + 1], says[HEADER + 1] | 0x08);
        assert_eq!(says[HEADER + 1] & 0x08, 0);
        assert_eq!(request[HEADER + 2..], says[HEADER + 2..36]);
    }
}

/// It is greeted, and can read why not.
#[test]
fn a_client_that_cannot_be_served_is_told_why() {
    let tls = response_of(PROTOCOL_41 | SSL, "", b"");
    let mut late = response(NATIVE, b"");
    late[3] = 2;
    let situations: [(&str, Vec<u8>, &str, &str); 11] = [
        ("before 4.1", packet(1, b"\x05\x00\0\0\0erp\0\0"), "before MySQL 4.1", "4.1 or later"),
        ("SSLRequest", packet(1, &tls[HEADER..HEADER + 32]), "TLS of its own", "--skip-ssl"),
        ("the flag alone", tls, "TLS of its own", "--skip-ssl"),
        ("TLS at once", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], "TLS of its own", "--skip-ssl"),
        (
            "its head cut",
            packet(1, &response(NATIVE, b"")[HEADER..HEADER + 31]),
            "none of MySQL's",
            "protocol",
        ),
        ("nothing in it", packet(1, b""), "none of MySQL's", "protocol"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "none of MySQL's", "protocol"),
        ("too long", vec![1, 0, 1, 1], "none of MySQL's", "protocol"),
        ("a number of later", late, "none of MySQL's", "protocol"),
        ("a key of its own", response(SHA256, &[9; 200]), "RSA key", "--get-server-public-key"),
        ("a password cut short", response(SHA256, b"secret"), "RSA key", "--get-server-public-key"),
    ];
    for (situation, says, detail, mend) in situations {
        for size in [1, says.len()] {
            let (told, came_to) = interview(&Server::mysql(), says.chunks(size));
            let failure = came_to.unwrap_or_else(|| panic!("{situation}")).unwrap_err();
            assert_eq!(
                (failure.stage, failure.reason, failure.side),
                (Stage::Greet, Reason::BadPreface, Side::Client)
            );
            assert!(failure.detail.contains(detail), "{situation}: {}", failure.detail);
            assert!(failure.next_step().contains(mend), "{situation}: {}", failure.next_step());
            assert_eq!(told.len(), Server::mysql().greeting().len());
        }
    }
}

/// `mysql --ssl-mode=REQUIRED` reads the greeting and hangs up; so does a probe.
#[test]
fn a_client_that_leaves_after_the_greeting_may_insist_on_tls() {
    let talk = Interview::new(&Server::mysql().greeting(), Offer::No);
    let left = talk.ended(b"").unwrap();
    assert!(left.detail.contains("insists on TLS") && left.next_step().contains("ssl-mode"), "{left}");
    assert_eq!(talk.ended(b"\x20\0"), None, "it was cut off in the middle of its answer");
}

/// TCP cuts where it likes: four thousand servers and as many clients, most of them broken in some way.
#[test]
fn however_the_first_words_are_cut_the_same_comes_of_them() {
    let servers = [
        Server::mysql().greeting(),
        Server::mariadb().greeting(),
        Server::old().greeting(),
        err(0, 1040, "Too many connections"),
        b"220 mx.test ESMTP\r\n".to_vec(),
    ];
    let clients = [
        response(NATIVE, &[7; 20]),
        response(CACHING_SHA2, &[7; 32]),
        response_of(PROTOCOL_41 | SSL, "", b""),
        packet(1, b"\x05\x00\0\0\0erp\0\0"),
    ];
    let (mut fine, mut failed) = ([0; 2], [0; 2]);
    for seed in 0..4000 {
        let random = &mut fastrand::Rng::with_seed(seed);
        // One packet at most: what stands behind a greeting is told from what comes later by nothing but the cut.
        let bytes = jumble(&servers, random);
        let end = usize::from(bytes.first().copied().unwrap_or_default()) + HEADER;
        let bytes = &bytes[..end.min(bytes.len())];
        let alone = random.bool();
        let whole = negotiation(alone, [bytes]);
        fine[0] += usize::from(matches!(whole.1, Some(Ok(_))));
        failed[0] += usize::from(matches!(whole.1, Some(Err(_))));
        assert_eq!(negotiation(alone, cut(bytes, random)), whole, "server of seed {seed}");

        let bytes = jumble(&clients, random);
        let whole = first_answer(interview(&Server::mysql(), [&bytes[..]]));
        fine[1] += usize::from(matches!(whole, Some(Ok(_))));
        failed[1] += usize::from(matches!(whole, Some(Err(_))));
        let cut = first_answer(interview(&Server::mysql(), cut(&bytes, random)));
        assert_eq!(cut, whole, "client of seed {seed}");
    }
    assert!(fine.iter().chain(&failed).all(|count| *count > 500), "{fine:?} {failed:?}: all kinds are met");
}

/// What comes behind the first packet came with it or comes later; the request is the same.
fn first_answer(
    (_, came_to): (Vec<u8>, Option<Result<Interviewed, Failure>>),
) -> Option<Result<Vec<u8>, Failure>> {
    came_to.map(|came_to| came_to.map(|interviewed| interviewed.request))
}
