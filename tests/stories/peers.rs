//! The peers themselves, seen by a plain rustls client: a story that uses one can trust that it does what it says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConnection, Error, StreamOwned};

use super::harness::hostile::{Deaf, Point};
use super::harness::peer::Peer;
use super::harness::pki::SERVER_NAME;
use super::harness::servers::Server;
use super::harness::upstream::plain_echo;
use super::harness::{Hostile, PATIENCE, Pki, Upstream, clients, eventually};

type Client = StreamOwned<ClientConnection, TcpStream>;

/// The client's side of a handshake to the end.
fn handshake(pki: &Pki, address: SocketAddr) -> io::Result<Client> {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut tls = ClientConnection::new(pki.client_config(), name).unwrap();
    let mut stream = clients::reach(address)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn refused(pki: &Pki, hostile: Hostile) -> io::Error {
    let name = format!("{hostile:?}");
    let peer = hostile.start(pki);
    handshake(pki, peer.address()).err().unwrap_or_else(|| panic!("{name} let the client in"))
}

/// What a client sees that reads after the handshake.
fn after_handshake(pki: &Pki, hostile: Hostile) -> (Vec<u8>, io::Result<()>) {
    let peer = hostile.start(pki);
    let mut tls = handshake(pki, peer.address()).unwrap();
    let mut bytes = Vec::new();
    let end = tls.read_to_end(&mut bytes).map(drop);
    (bytes, end)
}

fn echoes(tls: &mut Client) -> bool {
    let mut answer = [0; 4];
    tls.write_all(b"ping").and_then(|()| tls.flush()).and_then(|()| tls.read_exact(&mut answer)).is_ok()
        && &answer == b"ping"
}

#[test]
fn an_upstream_echoes_and_can_be_killed_and_restarted_where_it_was() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let mut tls = handshake(&pki, upstream.address()).unwrap();
    assert!(echoes(&mut tls));
    assert_eq!((upstream.open(), upstream.accepted()), (1, 1));
    upstream.kill();
    assert_eq!(tls.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(TcpStream::connect(upstream.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    upstream.restart();
    assert!(echoes(&mut handshake(&pki, upstream.address()).unwrap()));
}

#[test]
fn an_upstream_answers_close_notify_after_all_data() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut tls = handshake(&pki, upstream.address()).unwrap();
    tls.write_all(&[7; 100_000]).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, vec![7; 100_000]);
    eventually("the upstream lets go of it", PATIENCE, || (upstream.open() == 0).then_some(()));
}

#[test]
fn servers_that_end_the_connection_do_it_in_their_own_way() {
    let pki = Pki::generate();
    assert_eq!(refused(&pki, Hostile::ClosesAtOnce).kind(), ErrorKind::UnexpectedEof);
    assert_eq!(refused(&pki, Hostile::ResetsAtOnce).kind(), ErrorKind::ConnectionReset);
    let (_, end) = after_handshake(&pki, Hostile::ResetsAfterHandshake);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (bytes, end) = after_handshake(&pki, Hostile::ClosesAfterHandshake);
    assert!(bytes.is_empty() && end.is_ok());
    let (bytes, end) = after_handshake(&pki, Hostile::TruncatesAfter(50_000));
    assert_eq!((bytes.len(), end.unwrap_err().kind()), (50_000, ErrorKind::UnexpectedEof));
}

#[test]
fn servers_that_speak_no_tls_are_not_understood() {
    let pki = Pki::generate();
    for hostile in [Hostile::Garbage, Hostile::PlaintextGreeting(b"220 mx.test ESMTP\r\n".to_vec())] {
        let error = refused(&pki, hostile);
        assert!(matches!(tls_error(&error), Some(Error::InvalidMessage(_))), "{error}");
    }
}

#[test]
fn a_server_that_never_answers_holds_the_connection() {
    let pki = Pki::generate();
    let peer = Hostile::NeverAnswers.start(&pki);
    let mut stream = clients::sends_early(peer.address(), b"hello");
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert_eq!(peer.open(), 1);
}

#[test]
fn alerts_arrive_at_their_point() {
    let pki = Pki::generate();
    let alert = AlertDescription::HandshakeFailure;
    for point in [Point::BeforeHello, Point::InsteadOfServerHello] {
        let error = refused(&pki, Hostile::AlertAt(point, alert));
        assert_eq!(tls_error(&error), Some(&Error::AlertReceived(alert)), "{point:?}: {error}");
    }
    let (_, end) =
        after_handshake(&pki, Hostile::AlertAt(Point::AfterHandshake, AlertDescription::InternalError));
    assert_eq!(tls_error(&end.unwrap_err()), Some(&Error::AlertReceived(AlertDescription::InternalError)));
}

#[test]
fn wrong_certificates_are_wrong_in_their_own_way() {
    let pki = Pki::generate();
    let refusal = |hostile| match tls_error(&refused(&pki, hostile)) {
        Some(Error::InvalidCertificate(error)) => error.clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        refusal(Hostile::ForeignCa),
        CertificateError::BadSignature | CertificateError::UnknownIssuer
    ));
    assert!(matches!(refusal(Hostile::Expired), CertificateError::ExpiredContext { .. }));
    assert!(matches!(refusal(Hostile::NotYetValid), CertificateError::NotValidYetContext { .. }));
    assert!(matches!(refusal(Hostile::WrongName), CertificateError::NotValidForNameContext { .. }));
}

#[test]
fn the_late_refusal_of_a_client_certificate_comes_after_the_handshake() {
    let pki = Pki::generate();
    let (_, end) = after_handshake(&pki, Hostile::LateClientCertAlert);
    let error = end.unwrap_err();
    assert!(matches!(tls_error(&error), Some(Error::AlertReceived(_))), "{error}");
    // The same with a reset behind it: the alert is still the first to be read.
    let (_, end) = after_handshake(&pki, Hostile::LateClientCertReset);
    let error = end.unwrap_err();
    assert!(matches!(tls_error(&error), Some(Error::AlertReceived(_))), "{error}");
    let (_, end) = after_handshake(&pki, Hostile::LateClientCertClose);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    // TLS 1.2 says it within the handshake.
    let error = refused(&pki, Hostile::ClientCertAlert12);
    assert!(matches!(tls_error(&error), Some(Error::AlertReceived(_))), "{error}");
}

#[test]
fn resets_come_where_they_were_ordered() {
    let pki = Pki::generate();
    let (bytes, end) = after_handshake(&pki, Hostile::ResetsAfter(1000));
    assert_eq!((bytes.len(), end.unwrap_err().kind()), (1000, ErrorKind::ConnectionReset));
    let peer = Hostile::ResetsAtFirstByte.start(&pki);
    let mut tls = handshake(&pki, peer.address()).unwrap();
    tls.write_all(b"x").and_then(|()| tls.flush()).unwrap();
    assert_eq!(tls.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_deaf_address_takes_no_connection() {
    let deaf = Deaf::start();
    let error = TcpStream::connect_timeout(&deaf.address(), Duration::from_millis(200)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn slow_servers_are_good_servers() {
    let pki = Pki::generate();
    let (pause, started) = (Duration::from_millis(80), Instant::now());
    let slow = Hostile::SlowHandshake(pause).start(&pki);
    assert!(echoes(&mut handshake(&pki, slow.address()).unwrap()));
    assert!(started.elapsed() >= pause);
    let dribbling = Hostile::OneByteAtATime.start(&pki);
    assert!(echoes(&mut handshake(&pki, dribbling.address()).unwrap()));
}

#[test]
fn a_server_that_wants_new_keys_gets_them_and_echoes() {
    let pki = Pki::generate();
    let peer = Hostile::AsksForKeyUpdate.start(&pki);
    assert!(echoes(&mut handshake(&pki, peer.address()).unwrap()));
}

#[test]
fn clients_come_and_go_in_their_own_way() {
    let (seen, ends) = std::sync::mpsc::channel();
    let peer = Peer::start(move |mut stream| {
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).map_err(|error| error.kind()).map(drop);
        stream.write_all(&bytes).ok();
        seen.send((bytes, end)).unwrap();
    });
    let end = || ends.recv_timeout(PATIENCE).unwrap();
    clients::leaves(peer.address());
    assert_eq!(end(), (vec![], Ok(())));
    drop(clients::says_nothing(peer.address()));
    assert_eq!(end(), (vec![], Ok(())));
    assert_eq!(clients::ask(peer.address(), b"early").unwrap(), b"early");
    assert_eq!(end(), (b"early".to_vec(), Ok(())));
    clients::resets(peer.address(), b"");
    assert_eq!(end().1, Err(ErrorKind::ConnectionReset));
}

#[test]
#[ignore = "needs nginx, openssl and redis-server: tests/run installs them"]
fn real_servers_let_our_certificate_in_and_nobody_without_one() {
    let pki = Pki::generate();
    let behind = plain_echo();
    let nginx = Server::nginx(&pki, behind.address());
    assert!(echoes(&mut handshake(&pki, nginx.address()).unwrap()));
    let redis = Server::redis(&pki);
    let mut tls = handshake(&pki, redis.address()).unwrap();
    let mut pong = [0; 7];
    tls.write_all(b"PING\r\n").and_then(|()| tls.flush()).and_then(|()| tls.read_exact(&mut pong)).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    let openssl = Server::openssl(&pki);
    let mut tls = handshake(&pki, openssl.address()).unwrap();
    tls.write_all(b"abc\n").and_then(|()| tls.flush()).unwrap();
    let mut answer = [0; 4];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"cba\n");
}

#[test]
#[ignore = "needs Envoy: tests/run installs it"]
fn envoy_lets_our_certificate_in() {
    let pki = Pki::generate();
    let behind = plain_echo();
    let envoy = Server::envoy(&pki, behind.address());
    assert!(echoes(&mut handshake(&pki, envoy.address()).unwrap()));
}
