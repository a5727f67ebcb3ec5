//! Clients that demand what cannot be given where TLS ends at nuncio, and those that speak something else or nothing: what
//! they say themselves, and where the log has the reason and the mend.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::postgres::{Postgres, Release};
use super::super::harness::scene::story;
use super::super::harness::wording::redacted;
use super::super::harness::{PATIENCE, Pki, clients, free_address, sql};
use super::{behind, through};

const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What the record has of it, for a person.
fn told(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("-");
    format!("{}\n  {}\n  {}", story(record), text("detail"), text("next_step"))
}

/// libpq demands TLS of its own in three ways, and a bound password in one. It tells its user what it demanded, and the
/// record tells the operator what to set.
#[test]
#[ignore = "needs postgresql, also the newest: tests/run installs it"]
fn what_a_client_insists_on_is_in_the_log() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let port = nuncio.listener("in").port().to_string();
    let mut all = String::new();
    for (count, (release, demand)) in [
        (Release::Debian, "sslmode=require"),
        (Release::Newest, "sslmode=require"),
        (Release::Newest, "sslmode=require sslnegotiation=direct"),
        (Release::Debian, "channel_binding=require"),
        (Release::Newest, "channel_binding=require"),
    ]
    .into_iter()
    .enumerate()
    {
        let conninfo = format!("{} {demand}", through(&nuncio));
        let ran = sql::psql(release, &conninfo, "select 1");
        let record = nuncio.wait_records(count + 1).pop().unwrap();
        all += &format!("{demand}, {release:?}\n{}\n{}\n\n", ran.refusal(), told(&record));
    }
    insta::assert_snapshot!(redacted(&all.replace(&port, "PORT")), @r#"
sslmode=require, Debian
psql: error: connection to server at "127.0.0.1", port PORT failed: server does not support SSL, but SSL was required
cancelled admit/bad_preface/client by client
  the client left when its SSLRequest was answered no: it insists on TLS of its own
  set sslmode=disable or prefer in the client: nuncio speaks TLS to the server

sslmode=require, Newest
psql: error: connection to server at "127.0.0.1", port PORT failed: server does not support SSL, but SSL was required
cancelled admit/bad_preface/client by client
  the client left when its SSLRequest was answered no: it insists on TLS of its own
  set sslmode=disable or prefer in the client: nuncio speaks TLS to the server

sslmode=require sslnegotiation=direct, Newest
psql: error: connection to server at "127.0.0.1", port PORT failed: SSL error: wrong version number
This may indicate that the server does not support any SSL protocol version between TLSv1.2 and TLSv1.3.
failed admit/bad_preface/client by ambassador
  the client itself starts TLS with its first byte (sslnegotiation=direct?)
  set sslmode=disable in the client: nuncio speaks TLS to the server

channel_binding=require, Debian
psql: error: connection to server at "127.0.0.1", port PORT failed: channel binding required, but SSL not in use
cancelled greet/bad_preface/client by client; ok
  the client left when the server asked it for a password: it has none, or insists on channel binding, which cannot pass where TLS ends in between
  give the client its password (psql asks for it and comes again), and set channel_binding=prefer or disable in it

channel_binding=require, Newest
psql: error: connection to server at "127.0.0.1", port PORT failed: channel binding required, but SSL not in use
cancelled greet/bad_preface/client by client; ok
  the client left when the server asked it for a password: it has none, or insists on channel binding, which cannot pass where TLS ends in between
  give the client its password (psql asks for it and comes again), and set channel_binding=prefer or disable in it
"#);
}

/// A program without a password for a server that wants one.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_client_without_a_password_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let ran =
        sql::psql(Release::Debian, &through(&nuncio).replace("password=correct-horse ", ""), "select 1");
    assert!(ran.refusal().contains("no password supplied"), "{ran:#?}");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(story(&record), "cancelled greet/bad_preface/client by client; ok", "{record}");
    assert!(record["detail"].as_str().unwrap().starts_with("the client left when the server asked it for"));
}

/// Encryption is asked for and declined, of either kind and in either order, and a plaintext login follows; or the client
/// leaves over it.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn gssapi_encryption_is_declined() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    for requests in [[GSSENC_REQUEST, SSL_REQUEST], [SSL_REQUEST, GSSENC_REQUEST]] {
        let mut stream = clients::connect(nuncio.listener("in"));
        for request in requests {
            let mut answer = [0];
            stream.write_all(&request).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, *b"N");
        }
        stream.write_all(&startup()).unwrap();
        let mut kind = [0];
        stream.read_exact(&mut kind).unwrap();
        assert_eq!(kind, *b"R", "the server asks for a proof");
    }
    nuncio.wait_records(2);
    let mut stream = clients::connect(nuncio.listener("in"));
    stream.write_all(&GSSENC_REQUEST).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    drop(stream);
    let record = nuncio.wait_records(3).pop().unwrap();
    insta::assert_snapshot!(told(&record), @r"
cancelled admit/bad_preface/client by client
  the client left when its GSSENCRequest was answered no: it insists on GSSAPI encryption of its own
  set gssencmode=disable or prefer in the client: nuncio speaks TLS to the server
");
}

/// StartupMessage of protocol 3.0.
fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0app\0database\0app\0\0";
    [&u32::try_from(4 + body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// Who says nothing, too little or something else is told so in the only words that nuncio has here, and nobody is dialled.
#[test]
fn who_speaks_nothing_or_something_else_is_told_so() {
    let pki = Pki::generate();
    let file = behind(&pki, &[free_address()], "health.kind = \"off\"\n")
        .replace("[upstream.up]", "preface_timeout = \"300ms\"\n[upstream.up]");
    let mut nuncio = Ambassador::start(&file);
    let mut all = String::new();
    for (count, (name, bytes)) in [
        ("nothing", &b""[..]),
        ("half a message", &startup()[..20]),
        ("only SSLRequest", &SSL_REQUEST),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"),
        ("PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 5432\r\n"),
        ("a ClientHello", b"\x16\x03\x01\x02\0\x01"),
        ("noise", b"\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5"),
        ("protocol 2", b"\0\0\x01\x28\0\x02\0\0"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = clients::connect(nuncio.listener("in"));
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        drop(stream);
        let record = nuncio.wait_records(count + 1).pop().unwrap();
        assert!(answer.strip_prefix(b"N").unwrap_or(&answer).starts_with(b"E\0\0"), "{name}: {answer:?}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(record["id"].as_str().unwrap()), "{name}: {answer}");
        let sqlstate = answer.split('\0').find(|field| field.starts_with('C')).unwrap_or("-");
        all += &format!("{name}: {sqlstate} {}\n", told(&record));
    }
    insta::assert_snapshot!(all, @r"
nothing: C08P01 failed admit/preface_timeout/client by ambassador
  the client's startup message did not come within 300ms
  is this the protocol that the client speaks?
half a message: C08P01 failed admit/preface_timeout/client by ambassador
  the client's startup message did not come within 300ms
  is this the protocol that the client speaks?
only SSLRequest: C08P01 failed admit/preface_timeout/client by ambassador
  the client's startup message, after no to its SSLRequest did not come within 300ms
  is this the protocol that the client speaks?
HTTP: C08P01 failed admit/bad_preface/client by ambassador
  the client speaks HTTP, not PostgreSQL
  is this the protocol that the client speaks?
PROXY protocol: C08P01 failed admit/bad_preface/client by ambassador
  the client begins with a PROXY protocol header, not with PostgreSQL's startup message
  is this the protocol that the client speaks?
a ClientHello: C08P01 failed admit/bad_preface/client by ambassador
  the client itself starts TLS with its first byte (sslnegotiation=direct?)
  set sslmode=disable in the client: nuncio speaks TLS to the server
noise: C08P01 failed admit/bad_preface/client by ambassador
  the client's first message would have 2779096485 bytes: this is not PostgreSQL
  is this the protocol that the client speaks?
protocol 2: C08P01 failed admit/bad_preface/client by ambassador
  the client speaks protocol 2.0, of before PostgreSQL 7.4
  use a newer driver: no server since PostgreSQL 14 speaks it either
");
}

/// A client that never says what it wants does not keep nuncio from ending.
#[test]
fn a_silent_client_is_refused_when_the_drain_ends() {
    let pki = Pki::generate();
    let file = behind(&pki, &[free_address()], "health.kind = \"off\"\n")
        .replace("[upstream.up]", "preface_timeout = \"1h\"\n[upstream.up]");
    let mut nuncio = Ambassador::start(&format!("drain_timeout = \"300ms\"\ndrain_jitter = \"0s\"\n{file}"));
    let mut stream = clients::connect(nuncio.listener("in"));
    stream.write_all(&SSL_REQUEST).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let begun = Instant::now();
    nuncio.process().signal("TERM");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("\0C57P03\0Mnuncio: shutting down: no new connections are taken\0"),
        "{answer:?}"
    );
    drop(stream);
    assert!(nuncio.process().wait_exit(PATIENCE).success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(story(&nuncio.records()[0]), "refused admit/draining/ambassador by ambassador");
}
