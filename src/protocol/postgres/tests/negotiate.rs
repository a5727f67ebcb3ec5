//! What a server answers to the request for TLS.

use super::*;

/// One byte, and TLS begins. Whatever comes with it in plaintext was not said by the server that TLS will prove.
#[test]
fn only_a_lone_yes_begins_tls() {
    assert_eq!(negotiation([&b"S"[..]].into_iter()), Ok(Some(Negotiated::default())));
    for bytes in [&b"S\0"[..], b"S\x16\x03\x03", &[b'S'; 4000]] {
        let failure = answers(bytes);
        assert_eq!(failure.reason, Reason::NegotiationError);
        assert!(
            failure.detail.contains("injecting") && failure.detail.contains("CVE-2021-23222"),
            "{failure}"
        );
    }
}

/// What a server says instead of yes, and what its operator has to do then.
#[test]
fn a_server_without_tls_is_told_apart_from_one_in_trouble_and_from_another_program() {
    use Reason::{NegotiationError, NegotiationRefused};
    let full = error("SFATAL|VFATAL|C53300|Msorry, too many clients already");
    let starting = error("SFATAL|C57P03|Mthe database system is starting up");
    let hba = error("SFATAL|C28000|Mno pg_hba.conf entry for host \"192.0.2.7\"|Htry SSL");
    let nasty = error("SFATAL|C5330\n|Mtwo\nlines \x1b[31m");
    let situations: [(&[u8], Reason, &str, &str); 13] = [
        (b"N", NegotiationRefused, "it has no TLS", "ssl = on"),
        (b"Nx", NegotiationRefused, "it has no TLS", "tls = \"off\""),
        (
            &full,
            NegotiationRefused,
            "error: sorry, too many clients already (SQLSTATE 53300)",
            "max_connections",
        ),
        (&full[..full.len() - 3], NegotiationRefused, "too many clients alre", "max_connections"),
        (&starting, NegotiationRefused, "starting up (SQLSTATE 57P03)", "wait for it"),
        (&hba, NegotiationRefused, "\"192.0.2.7\" (SQLSTATE 28000); its hint: try SSL", "pg_hba.conf"),
        (&nasty, NegotiationRefused, "error: two lines  [31m", "server's log"),
        (
            b"Ecould not fork new process for connection: Resource temporarily unavailable\n\0",
            NegotiationRefused,
            "error: could not fork new process for connection: Resource temporarily unavailable",
            "server's log",
        ),
        (b"Eno", NegotiationRefused, "error: no", "server's log"),
        (b"E\0\0\0\x04", NegotiationError, "no length that an error can have", "`protocol`"),
        (b"\x15\x03\x01\0\x02\x02\x28", NegotiationError, "a TLS alert", "tls = \"direct\""),
        (b"SSH-2.0-OpenSSH_10.0\r\n", NegotiationError, "an SSH server", "`protocol`"),
        (b"HTTP/1.1 400 Bad Request", NegotiationError, "with byte 0x48", "`protocol`"),
    ];
    for (bytes, reason, words, mend) in situations {
        let failure = answers(bytes);
        assert_eq!((failure.reason, failure.side), (reason, Side::Upstream), "{words}");
        assert!(failure.detail.contains(words), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}");
    }
    assert_eq!(
        negotiation(std::iter::empty()),
        Ok(None),
        "a server that only hangs up is somebody else's to explain"
    );
}

/// A server that never ends its error neither fills the memory nor keeps the client until a time limit.
#[test]
fn an_error_without_an_end_is_cut_off() {
    let endless = vec![b'E'; 1 << 20];
    let failure = negotiation(endless.chunks(100)).unwrap_err();
    assert!(failure.detail.len() < 400 && failure.detail.ends_with('…'), "{failure}");
    assert_eq!(negotiation(endless.chunks(1)), Err(failure));
}
