//! How long a client of such a listener is waited for, what it is told then, and an end of its own that is none.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::smtp::{Scripted, Step, Typist, say, starttls_then};
use super::super::harness::{Pki, Upstream, clients, config};
use super::{DOOR, behind, told};

type Inside = StreamOwned<ClientConnection, std::net::TcpStream>;

fn listening(pki: &Pki, keys: &str, upstream: &str, server: std::net::SocketAddr) -> Ambassador {
    let upstream = format!("{upstream}health.kind = \"off\"\n{}", config::endpoints(&[server]));
    Ambassador::start(&behind(
        pki,
        &pki.client,
        &format!("tls = \"required\"\nidentity = \"door\"\n{keys}"),
        &upstream,
    ))
}

fn inside(pki: &Pki, mut stream: std::net::TcpStream) -> Inside {
    let name = ServerName::try_from(DOOR).expect("a name");
    let mut tls = ClientConnection::new(pki.client_config(), name).expect("a client");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).expect("a handshake");
    }
    StreamOwned::new(tls, stream)
}

/// It was greeted, asked, and then never asked for TLS: the server is let go, and the client told in its own words.
#[test]
fn a_mail_client_that_never_asks_for_tls_is_told_and_lets_its_server_go() {
    let pki = Pki::generate();
    let offer = say("250-mx.upstream.test\r\n250 SIZE 1000\r\n");
    let server = Scripted::start(pki.server_config(), starttls_then(&[Step::Hear, offer]));
    let mut nuncio =
        listening(&pki, "preface_timeout = \"500ms\"", "protocol = \"smtp\"\n", server.address());
    let mut client = Typist::connect(nuncio.listener("in"));
    client.reply();
    client.asks("EHLO me");
    let words = client.rest();
    let record = nuncio.wait_records(1).remove(0);
    assert!(words.starts_with("421-") && words.contains(record["id"].as_str().unwrap()), "{words}");
    insta::assert_snapshot!(told(&record), @r#"
failed at greet: preface_timeout (client)
  the client did not ask for TLS within the listener's preface_timeout, and this listener serves nobody without
  let the client ask for TLS (STARTTLS, STLS), or write tls = "optional" in its listener
"#);
}

/// Nothing at all is waited for once, not once for TLS and once more for a first message.
#[test]
fn a_client_that_says_nothing_is_waited_for_once() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let limit = Duration::from_secs(2);
    // LDAP's refusal waits for a request for a while, to name its number.
    for (upstream, most) in [("protocol = \"postgres\"\n", limit * 2), ("protocol = \"ldap\"\n", limit * 3)] {
        let mut nuncio = listening(&pki, "preface_timeout = \"2s\"", upstream, server.address());
        let begun = Instant::now();
        let mut client = clients::connect(nuncio.listener("in"));
        client.read_to_end(&mut Vec::new()).ok(); // words or a reset
        let took = begun.elapsed();
        assert!(took >= limit && took < most, "{took:?}");
        let record = nuncio.wait_records(1).remove(0);
        let why = (&record["reason"], &record["stage"]);
        assert_eq!(why, (&"preface_timeout".into(), &"admit".into()), "{record}");
    }
    assert_eq!(server.accepted(), 0, "nobody was dialled for them");
}

/// In MySQL packets are numbered: inside its TLS a client has counted its request for that.
#[test]
fn a_database_client_that_says_nothing_inside_its_tls_is_told_in_its_own_count() {
    let pki = Pki::generate();
    let flags: u32 = 1 << 9 | 1 << 11 | 1 << 15 | 1 << 19; // PROTOCOL_41, SSL, SECURE_CONNECTION, PLUGIN_AUTH
    let [a, b, c, d] = flags.to_le_bytes();
    let body = [
        &b"\x0a8.0.0\0\x01\0\0\0noncenon\0"[..],
        &[a, b, 45, 2, 0, c, d, 21],
        &[0; 10],
        b"cenoncenonce\0mysql_native_password\0",
    ]
    .concat();
    let packet = |number: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).expect("a short one");
        [&[length, 0, 0, number], body].concat()
    };
    let server = Scripted::start(pki.server_config(), vec![say(packet(0, &body))]);
    let mut nuncio = listening(&pki, "preface_timeout = \"2s\"", "protocol = \"mysql\"\n", server.address());
    let mut client = clients::connect(nuncio.listener("in"));
    let mut greeting = vec![0; 4 + body.len()];
    client.read_exact(&mut greeting).expect("a greeting");
    client.write_all(&packet(1, &[&flags.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23]].concat())).unwrap();
    let mut refused = Vec::new();
    inside(&pki, client).read_to_end(&mut refused).expect("an end with close_notify");
    assert_eq!((refused[3], refused[4]), (3, 0xff), "{}", refused.escape_ascii());
    assert_eq!(nuncio.wait_records(1)[0]["reason"], "preface_timeout");
}

/// A client that is cut off in the middle of a TLS record has not ended: the log has it, with what was missing.
#[test]
fn a_client_that_is_cut_inside_a_record_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let mut nuncio = listening(&pki, "", "", server.address());
    let mut client = inside(&pki, clients::connect(nuncio.listener("in")));
    echoes(&mut client);
    client.sock.write_all(&[23, 3, 3, 0, 40, 1, 2, 3]).unwrap();
    drop(client);
    insta::assert_snapshot!(told(&nuncio.wait_records(1)[0]), @r#"
failed at relay: client_reset (client)
  the client ended its connection inside a TLS record: what it said last is not whole
  look in the client's log for why it gave up
"#);
}

fn echoes(client: &mut Inside) {
    client.write_all(b"hello").unwrap();
    client.flush().unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}
