//! Handshakes inside PRELOGIN packets with a server in this process: full and resumed, over wires that cut as they like.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::failure::{Side, Stage};
use crate::protocol::Protocol;
use crate::relay::testkit::{Pki, TLS12, Wire, server_name};
use crate::tls::{ClientTls, Settings, Version};

const LIMIT: Duration = Duration::from_secs(20);

/// Trusts anybody: who the server is, is not what is tested here.
fn client() -> ClientTls {
    let settings =
        Settings { max_version: Version::Tls12, danger_accept_any_certificate: true, ..Settings::default() };
    ClientTls::new(&settings, None).unwrap()
}

fn wrapping() -> Box<dyn Wrapping> {
    Protocol::Sqlserver.wrapping().unwrap()
}

fn packets(flight: &[u8], size: usize) -> Vec<u8> {
    packets_of(0x12, flight, size)
}

fn packets_of(kind: u8, flight: &[u8], size: usize) -> Vec<u8> {
    let count = flight.len().div_ceil(size);
    let packet = |(number, piece): (usize, &[u8])| {
        let length = u16::try_from(8 + piece.len()).unwrap().to_be_bytes();
        let status = u8::from(number + 1 == count);
        [&[kind, status, length[0], length[1], 0, 0, 1, 0], piece].concat()
    };
    flight.chunks(size).enumerate().flat_map(packet).collect()
}

/// What TLS has to say now.
fn flight(server: &mut ServerConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    flight
}

/// Shakes hands in packets of a size, says something as plain TLS right behind its last one, and echoes what it hears then.
async fn serve(mut stream: DuplexStream, config: Arc<ServerConfig>, kind: u8, size: usize) {
    let mut server = ServerConnection::new(config).unwrap();
    while server.is_handshaking() {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header[0], 0x12, "a flight in a packet, and no bare TLS");
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
        stream.read_exact(&mut body).await.unwrap();
        let mut body = &body[..];
        while !body.is_empty() {
            server.read_tls(&mut body).unwrap();
        }
        server.process_new_packets().unwrap();
        let mut say = packets_of(kind, &flight(&mut server), size);
        if !server.is_handshaking() {
            server.writer().write_all(b"220 ").unwrap();
            say.extend(flight(&mut server));
        }
        stream.write_all(&say).await.unwrap();
    }
    let mut heard = vec![0; 4096];
    loop {
        let read = stream.read(&mut heard).await.unwrap();
        let mut rest = &heard[..read];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
        }
        let state = server.process_new_packets().unwrap();
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        server.reader().read_exact(&mut plain).unwrap();
        server.writer().write_all(&plain).unwrap();
        if state.peer_has_closed() || read == 0 {
            server.send_close_notify();
        }
        stream.write_all(&flight(&mut server)).await.unwrap();
        if state.peer_has_closed() || read == 0 {
            return;
        }
    }
}

/// The last flight is ours where a session is resumed, and the server's where not; and what stands behind it, in the same
/// read or another, is neither lost nor taken for a packet.
#[tokio::test]
async fn flights_travel_in_packets_and_what_stands_behind_them_does_not() {
    let config = Arc::new(Pki::new().open_server(TLS12));
    for seed in 0..60 {
        let tls = client();
        let mut rng = fastrand::Rng::with_seed(seed);
        for resumed in [false, true] {
            let (near, far) = duplex(*rng.choice(&[50, 3000, 100_000]).unwrap());
            let size = *rng.choice(&[1, 100, 4088, 30_000]).unwrap();
            // As a result: Microsoft's mock server does so.
            let kind = *rng.choice(&[0x12, 0x04]).unwrap();
            let server = tokio::spawn(serve(far, config.clone(), kind, size));
            let mut near = Wire::hostile(near, seed, *rng.choice(&[1, 30, 5000, 100_000]).unwrap());
            let mut wrapped = Wrapped::new(&mut near, wrapping());
            let at = ([127, 0, 0, 1], 1).into();
            let secured = tls.handshake(&mut wrapped, at, server_name(), LIMIT).await;
            let secured = wrapped.finish(secured, LIMIT).await.unwrap();
            assert_eq!((secured.summary.version, secured.summary.resumed), ("TLSv1.2", resumed));
            assert!(!secured.has_pending(), "nothing of the handshake is left to go with the data");
            let talk = |mut stream: DuplexStream| async move {
                stream.write_all(b"login").await.unwrap();
                let mut heard = [0; 9];
                stream.read_exact(&mut heard).await.unwrap();
                heard
            };
            let (heard, refusal) = secured.carry(&mut near, &tls, talk).await;
            assert_eq!((&heard, refusal), (b"220 login", None), "seed {seed}");
            drop(near);
            server.await.unwrap();
        }
    }
}

/// What comes of a server that says this instead of a handshake.
async fn failing(says: &[u8]) -> Failure {
    let (mut near, mut far) = duplex(64_000);
    far.write_all(says).await.unwrap();
    far.shutdown().await.unwrap();
    let mut wrapped = Wrapped::new(&mut near, wrapping());
    let at = ([127, 0, 0, 1], 1).into();
    let secured = client().handshake(&mut wrapped, at, server_name(), LIMIT).await;
    wrapped.finish(secured, LIMIT).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_goes_on_otherwise_is_quoted() {
    let alert = packets(&[21, 3, 3, 0, 2, 2, 40], 100);
    let cut = &packets(&[22, 3, 3, 0, 100], 100)[..11];
    let error = b"\x04\x01\0\x1f\0\0\x01\0\xaa\x14\0\x90\x42\0\0\x01\x10\x03\0n\0o\0!\0\0\0\0\0\0\0";
    for (says, words) in [
        (&alert[..], "handshake_failure"),
        (b"", "closed the connection"),
        (cut, "closed the connection"),
        (b"\x16\x03\x03\0\x02\x02\x28\0\0", "a packet of type 0x16"),
        (b"\x12\x01\0\x07\0\0\x01\0", "a length that none has"),
        (error, "no! (error 17040, state 1, class 16)"),
        (&packets(b"\x04\x01\0\x08 is no TLS", 100), "does not answer in TLS"),
    ] {
        let failure = failing(says).await;
        assert_eq!((failure.stage, failure.side), (Stage::Handshake, Side::Upstream));
        assert!(failure.detail.contains(words), "{failure}");
        assert!(!failure.next_step().is_empty());
    }
}
