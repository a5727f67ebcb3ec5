//! Between nuncio and the server before the client's first byte: what somebody on the way may say, and what checks leave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::peer::Peer;
use super::super::harness::postgres::{Postgres, Release, Setup};
use super::super::harness::{PATIENCE, Pki, eventually, sql};
use super::refusals::{ALONE, told};
use super::{behind, through};

/// Someone on the way puts words of their own behind the server's yes, in the same packet or when TLS has begun: nothing of
/// the client's goes there, neither its name nor its password.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn bytes_behind_the_servers_yes_are_refused() {
    let pki = Pki::generate();
    let injected = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let mut both = String::new();
    for (name, packets) in [
        ("at once", vec![[b"S", &injected[..]].concat()]),
        ("when TLS has begun", vec![b"S".to_vec(), injected.to_vec()]),
    ] {
        let (heard, all) = channel();
        let heard = Mutex::new(heard);
        let peer = Peer::start(move |stream| {
            // An error: nuncio was faster to leave.
            inject(stream, &packets, &heard).ok();
        });
        let mut nuncio = Ambassador::start(&behind(&pki, &[peer.address()], ALONE));
        both += &format!("{name}: {}\n\n", told(&mut nuncio));
        drop(peer);
        let all: Vec<Vec<u8>> = all.try_iter().collect();
        assert_eq!(all.len(), 9, "three clients, three attempts each");
        for heard in all {
            assert!(!heard.windows(4).any(|four| four == b"user"), "{heard:?}");
        }
    }
    insta::assert_snapshot!(both, @r#"
at once: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: N bytes in plaintext behind the answer to SSLRequest: someone may be injecting them (CVE-2021-23222)
DETAIL:  stage negotiate, reason negotiation_error, side upstream; record ID
HINT:  find out who is on the way to the server: no PostgreSQL server sends them
ClientCannotConnectError 08001
failed negotiate/negotiation_error/upstream by ambassador; negotiate/negotiation_error, negotiate/negotiation_error, negotiate/negotiation_error

when TLS has begun: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: the server does not answer in TLS; its first bytes are 52 00 00 00 08 00 00 00
DETAIL:  stage handshake, reason tls_protocol_error, side upstream; record ID
HINT:  which protocol does this port speak? If it starts TLS by a message, set `protocol` to it; else name the port that speaks TLS
ClientCannotConnectError 08001
failed handshake/tls_protocol_error/upstream by ambassador; handshake/tls_protocol_error, handshake/tls_protocol_error, handshake/tls_protocol_error
"#);
}

fn inject(mut stream: TcpStream, packets: &[Vec<u8>], heard: &Mutex<Sender<Vec<u8>>>) -> std::io::Result<()> {
    let mut request = [0; 8];
    stream.read_exact(&mut request)?;
    for (number, packet) in packets.iter().enumerate() {
        if number > 0 {
            stream.peek(&mut [0])?;
        }
        stream.write_all(packet)?;
    }
    let mut rest = Vec::new();
    // An error: a reset, since nuncio had not read all that was injected.
    stream.read_to_end(&mut rest).ok();
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.send(rest).map_err(std::io::Error::other)
}

/// Checks go as far as the handshake, and the server's log has not a line of them, nor of the leaving.
#[test]
#[ignore = "needs postgresql, also the newest: tests/run installs it"]
fn checks_leave_nothing_in_the_servers_log() {
    let pki = Pki::generate();
    for (release, tls) in
        [(Release::Debian, "negotiate"), (Release::Newest, "negotiate"), (Release::Newest, "direct")]
    {
        let setup = Setup { release, settings: &["log_connections=off"], ..Setup::default() };
        let server = Postgres::with(&pki, &setup);
        let keys = format!("tls = \"{tls}\"\nhealth.interval = \"50ms\"\n");
        let before = server.log();
        let nuncio = Ambassador::start(&behind(&pki, &[server.address()], &keys));
        nuncio.wait_metric("nuncio_health_checks_total", &[("result", "success")], |passed| passed >= 10.0);
        assert_eq!(nuncio.metric("nuncio_health_checks_total", &[("result", "failure")]), 0.0);
        assert_eq!(server.log(), before, "{release:?} {tls}");
        // It would have been seen there.
        let over = format!("{} connect_timeout=5", through(&nuncio).replace("correct-horse", "wrong"));
        sql::psql(release, &over, "select 1").refusal();
        eventually("a line of a client", PATIENCE, || (server.log() != before).then_some(()));
    }
}
