//! What the first bytes of a server that does not speak TLS look like.
//!
//! Owns the marks of protocols, nothing else: `diagnose` makes a sentence of it. A mark is taken only when it is
//! unmistakable; a wrong guess would send a tired person the wrong way.

/// A protocol that was recognised by a server's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// What it is called.
    pub(super) name: &'static str,
    /// What can be done about it.
    pub(super) remedy: Remedy,
}

/// What can be done about a server that speaks in plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// It starts TLS after a few plaintext messages: nuncio's `protocol` of this name does that.
    Protocol(&'static str),
    /// It has no way from plaintext to TLS: this port will never do.
    NoTls,
    /// It is encrypted in its own way.
    NotATlsProtocol,
}

/// Which protocol begins like this, if that can be said.
pub(super) fn recognise(first: &[u8]) -> Option<Greeting> {
    let as_protocol = |name, protocol| Some(Greeting { name, remedy: Remedy::Protocol(protocol) });
    let without_tls = |name| Some(Greeting { name, remedy: Remedy::NoTls });
    let starts = |mark: &str| first.starts_with(mark.as_bytes());
    let contains =
        |mark: &str| first.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark.as_bytes()));

    if is_mysql(first) {
        return as_protocol(if contains("MariaDB") { "MariaDB" } else { "MySQL" }, "mysql");
    }
    if is_postgres_error(first) {
        return as_protocol("PostgreSQL", "postgres");
    }
    if is_ldap(first) {
        return as_protocol("LDAP", "ldap");
    }
    if starts("220 ") || starts("220-") || starts("421 ") || starts("421-") || starts("554 ") {
        return match () {
            () if contains("FTP") => without_tls("FTP"),
            () if contains("LMTP") => as_protocol("LMTP", "lmtp"),
            () if contains("SMTP") || contains("mail") => as_protocol("SMTP", "smtp"),
            () => as_protocol("SMTP (or FTP)", "smtp"),
        };
    }
    if starts("* OK") || starts("* PREAUTH") || starts("* BYE") {
        return as_protocol("IMAP", "imap");
    }
    if starts("+OK") {
        return as_protocol("POP3", "pop3");
    }
    if starts("200 ") || starts("201 ") {
        return as_protocol("NNTP", "nntp");
    }
    if starts("\"IMPLEMENTATION\"") || starts("\"SIEVE\"") {
        return as_protocol("ManageSieve", "sieve");
    }
    if starts("<?xml") || starts("<stream:") {
        return as_protocol("XMPP", "xmpp");
    }
    if starts("SSH-") {
        return Some(Greeting { name: "SSH", remedy: Remedy::NotATlsProtocol });
    }
    if starts("-ERR") || starts("-DENIED") || starts("-NOAUTH") || starts("-LOADING") {
        return without_tls("Redis");
    }
    if starts("HTTP/1.") || starts("HTTP/0.") || starts("<!DOCTYPE HTML") || starts("<html") {
        return without_tls("HTTP");
    }
    if starts("INFO {") {
        return without_tls("NATS");
    }
    if starts("AMQP") {
        return without_tls("AMQP");
    }
    if starts("ERROR\r\n") {
        return without_tls("memcached");
    }
    None
}

/// Does a TLS record begin like this? True for what is too short to tell.
pub(super) fn may_be_tls(first: &[u8]) -> bool {
    first.first().is_none_or(|kind| (20..=24).contains(kind)) && first.get(1).is_none_or(|major| *major == 3)
}

/// A packet of three bytes' length and a number; in it protocol version 10 and the server's version as text, or an
/// error ("Host … is not allowed to connect").
fn is_mysql(first: &[u8]) -> bool {
    let [low, middle, 0, sequence, kind, rest @ ..] = first else {
        return false;
    };
    let length = usize::from(*low) | usize::from(*middle) << 8;
    match kind {
        10 => {
            *sequence == 0
                && length > 20
                && rest
                    .iter()
                    .take(64)
                    .take_while(|byte| **byte != 0)
                    .all(|byte| byte.is_ascii_graphic() || *byte == b' ')
                && rest.first().is_some_and(u8::is_ascii_digit)
        }
        // Error numbers of servers lie between 1000 and 5000 (MariaDB's newer ones).
        0xff => *sequence <= 2 && length > 4 && matches!(rest, [_, high, ..] if (3..=20).contains(high)),
        _ => false,
    }
}

/// `E`, four bytes of length and a first field `S` (severity); servers before 7.4 sent the text at once.
fn is_postgres_error(first: &[u8]) -> bool {
    match first {
        [b'E', 0, 0, _, _, b'S', ..] => true,
        [b'E', text @ ..] => text.starts_with(b"FATAL") || text.starts_with(b"ERROR:"),
        _ => false,
    }
}

/// A sequence that holds a message number and an extended response: the notice of disconnection (RFC 4511, 4.4.1).
fn is_ldap(first: &[u8]) -> bool {
    let body = match first {
        [0x30, length, body @ ..] if *length < 0x80 => body,
        [0x30, 0x81, _, body @ ..] | [0x30, 0x82, _, _, body @ ..] | [0x30, 0x84, _, _, _, _, body @ ..] => {
            body
        }
        _ => return false,
    };
    matches!(body, [0x02, 0x01, _, 0x78, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_recognised_by_what_they_say_first() {
        let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf";
        let mariadb = b"\x5a\0\0\0\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0\x1f\0\0\0";
        let blocked = b"\x45\0\0\0\xff\x6a\x04Host '10.0.0.9' is not allowed to connect to this MySQL server";
        let out_of_order = b"\x21\0\0\x01\xff\x84\x04#08S01Got packets out of order";
        let postgres = b"E\0\0\0\x8dSFATAL\0VFATAL\0C0A000\0Munsupported frontend protocol";
        let ldap = b"\x30\x39\x02\x01\x00\x78\x34\x0a\x01\x02\x04\x00\x04\x15";
        let ad = b"\x30\x84\0\0\0\x5d\x02\x01\x00\x78\x84\0\0\0\x54";
        for (first, name, remedy) in [
            (&mysql[..], "MySQL", Remedy::Protocol("mysql")),
            (mariadb, "MariaDB", Remedy::Protocol("mysql")),
            (blocked, "MySQL", Remedy::Protocol("mysql")),
            (out_of_order, "MySQL", Remedy::Protocol("mysql")),
            (postgres, "PostgreSQL", Remedy::Protocol("postgres")),
            (b"EFATAL:  unsupported frontend protocol\n", "PostgreSQL", Remedy::Protocol("postgres")),
            (ldap, "LDAP", Remedy::Protocol("ldap")),
            (ad, "LDAP", Remedy::Protocol("ldap")),
            (b"220 mail.example.com ESMTP Postfix\r\n", "SMTP", Remedy::Protocol("smtp")),
            (b"220 mx LMTP ready\r\n", "LMTP", Remedy::Protocol("lmtp")),
            (b"220 (vsFTPd 3.0.3)\r\n", "FTP", Remedy::NoTls),
            (b"220 welcome\r\n", "SMTP (or FTP)", Remedy::Protocol("smtp")),
            (b"* OK [CAPABILITY IMAP4rev1] ready\r\n", "IMAP", Remedy::Protocol("imap")),
            (b"+OK Dovecot ready.\r\n", "POP3", Remedy::Protocol("pop3")),
            (b"200 news InterNetNews NNRP server\r\n", "NNTP", Remedy::Protocol("nntp")),
            (b"\"IMPLEMENTATION\" \"Dovecot Pigeonhole\"\r\n", "ManageSieve", Remedy::Protocol("sieve")),
            (b"<?xml version='1.0'?><stream:stream", "XMPP", Remedy::Protocol("xmpp")),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH", Remedy::NotATlsProtocol),
            (b"-ERR unknown command\r\n", "Redis", Remedy::NoTls),
            (b"-DENIED Redis is running in protected mode", "Redis", Remedy::NoTls),
            (b"HTTP/1.1 400 Bad Request\r\n", "HTTP", Remedy::NoTls),
        ] {
            let seen = recognise(first).unwrap_or_else(|| panic!("{name} is not recognised"));
            assert_eq!((seen.name, seen.remedy), (name, remedy));
            assert!(!may_be_tls(first), "{name}");
            // One byte at a time is how some servers write: a shorter prefix may be unknown, never something else.
            for end in 0..first.len() {
                if let Some(part) = recognise(&first[..end]) {
                    assert!(
                        part.remedy == remedy || part.name == "SMTP (or FTP)",
                        "{name} at {end}: {part:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_that_could_be_anything_are_not_guessed_at() {
        for first in [
            &b""[..],
            b"\0",
            b"\x15\x03\x03\0\x02\x02\x28",
            b"\x16\x03\x03\0\x7a",
            b"E",
            b"2",
            b"\xff\xff\xff\xff",
        ] {
            assert_eq!(recognise(first), None, "{first:?}");
        }
        assert!(may_be_tls(b"") && may_be_tls(b"\x16") && may_be_tls(b"\x15\x03\x01\0\x02"));
    }

    #[test]
    fn no_garbage_panics() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.usize(0..24)).map(|_| rng.u8(..)).collect();
            recognise(&bytes);
            may_be_tls(&bytes);
        }
    }
}
