//! TLS from the first byte, over anything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::Command;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::programs::Running;
use super::super::harness::smtp::{Scripted, Step, say};
use super::super::harness::{PATIENCE, Pki, Upstream, clients, config};
use super::{DOOR, behind, inside_tls, told};

fn started(pki: &Pki, listener: &str, endpoints: &[SocketAddr]) -> Ambassador {
    let upstream = format!("health.kind = \"off\"\n{}", config::endpoints(endpoints));
    Ambassador::start(&behind(pki, &pki.client, listener, &upstream))
}

fn connect(pki: &Pki, to: SocketAddr) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let name = ServerName::try_from(DOOR).expect("a name");
    let tls = ClientConnection::new(pki.client_config(), name).expect("a client");
    StreamOwned::new(tls, clients::connect(to))
}

/// A proxy that passes TLS on says first who the client is, in plaintext; the client's handshake comes right behind.
#[test]
fn a_proxys_header_stands_before_the_clients_handshake() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let keys =
        "tls = \"required\"\nidentity = \"door\"\ncontext = \"proxy_protocol\"\nallow = [\"192.0.2.0/24\"]";
    let mut ambassador = started(&pki, keys, &[server.address()]);
    let mut socket = clients::connect(ambassador.listener("in"));
    socket.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 5432\r\n").unwrap();
    let mut client = inside_tls(&pki, socket);
    client.write_all(b"inside").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("an end with close_notify");
    assert_eq!(heard, b"inside");
    let [record] = ambassador.wait_records(1).try_into().unwrap();
    assert_eq!(
        (&record["client"], &record["client_tls"]["version"]),
        (&"192.0.2.7:40000".into(), &"TLSv1.3".into())
    );
}

/// openssl s_client, as a person would try it.
#[cfg(unix)]
#[test]
#[ignore = "needs openssl: tests/run installs it"]
fn openssl_gets_through() {
    let pki = Pki::generate();
    let steps = vec![Step::Tls, Step::Hear, say("what is said was heard\n"), Step::Close];
    let server = Scripted::start(pki.server_config(), steps);
    let ambassador = started(&pki, "tls = \"required\"\nidentity = \"door\"", &[server.address()]);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", version]);
        command.args(["-servername", DOOR, "-verify_hostname", DOOR]);
        command.arg("-connect").arg(ambassador.listener("in").to_string());
        command.arg("-CAfile").arg(pki.ca());
        let ran = Running::start(&mut command, "what is said\n").finish(PATIENCE);
        assert_eq!(ran.answer(), "what is said was heard", "{ran:#?}");
    }
}

/// Both ways, half-closed, and ended as a client can tell from a cut; with a client of the second kind in plaintext.
#[test]
fn whoever_begins_with_tls_has_it_and_whoever_does_not_may_go_without() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let mut ambassador = started(&pki, "tls = \"optional\"\nidentity = \"door\"", &[server.address()]);
    let mut client = connect(&pki, ambassador.listener("in"));
    client.write_all(b"inside").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("an end with close_notify");
    assert_eq!(heard, b"inside");
    assert_eq!(clients::ask(ambassador.listener("in"), b"outside").unwrap(), b"outside");
    let records = ambassador.wait_records(2);
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:#?}");
    assert_eq!(records[0]["client_tls"]["version"], "TLSv1.3");
    assert!(records[1]["client_tls"].is_null());
}

/// Where it is demanded, plaintext is no handshake: an alert, and a record that says what to set.
#[test]
fn plaintext_where_tls_is_demanded_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let mut ambassador = started(&pki, "tls = \"required\"\nidentity = \"door\"", &[server.address()]);
    let answer = clients::ask(ambassador.listener("in"), b"GET / HTTP/1.1\r\n\r\n").unwrap_or_default();
    assert_ne!(answer.first(), Some(&b'G'), "{answer:?}");
    // Nor does one that leaves in the middle take the listener for dead.
    let stream = clients::sends_early(ambassador.listener("in"), &[0x16, 3, 1]);
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    let mut records = ambassador.wait_records(2);
    records.sort_by_key(|record| record["reason"].to_string());
    let shown: String = records.iter().map(told).collect();
    insta::assert_snapshot!(shown, @r#"
failed at admit: client_reset (client)
  the client left in the middle of its TLS handshake with nuncio, and did not say why
  look in its log for why; if it does not trust the certificate, let the client trust the issuer of that certificate (CN=nuncio test CA), and connect by a name that it carries (upstream.test, 127.0.0.1, ::1)
failed at admit: tls_protocol_error (client)
  the client sent something else where its TLS handshake was due: plaintext, or what somebody slipped in
  switch TLS on in the client as the listener has it (tls_mode), or write tls = "optional" here
"#);
    assert_eq!(server.accepted(), 0, "nobody was dialled for them");
}

/// A client that takes no end of time for its handshake is not waited for for ever.
#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let keys = "tls = \"required\"\nidentity = \"door\"\npreface_timeout = \"200ms\"";
    let mut ambassador = started(&pki, keys, &[server.address()]);
    let mut stream = clients::sends_early(ambassador.listener("in"), &[0x16, 3, 1, 0, 200]);
    stream.read_to_end(&mut Vec::new()).ok(); // an error: a reset
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(
        (&record["reason"], &record["side"]),
        (&"preface_timeout".into(), &"client".into()),
        "{record}"
    );
    assert!(record["detail"].as_str().unwrap().contains("did not finish its TLS handshake"), "{record}");
}
