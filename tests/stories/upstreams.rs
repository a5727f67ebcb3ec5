//! Bad input from servers: each ends in one record that says where, why and on whose side, within its time, and leaves
//! nothing behind.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use serde_json::Value;

use super::harness::hostile::{Deaf, Point, reset_on_close};
use super::harness::peer::Peer;
use super::harness::pki::By;
use super::harness::records::{self, Records, content};
use super::harness::scene::{Route, Scene, half_close, rest, send, story};
use super::harness::upstream::handshake;
use super::harness::{Hostile, PATIENCE, Pki, clients, eventually};

/// One attempt, and a handshake that is given up soon.
const ONCE: &str = "retry.attempts = 1\ntimeouts.handshake = \"300ms\"\n";

/// A listener for each server, named `case0`, `case1`, ...
fn scene(pki: &Pki, servers: &[SocketAddr], keys: &str) -> Scene {
    let names: Vec<_> = (0..servers.len()).map(|number| format!("case{number}")).collect();
    let routes: Vec<_> = names
        .iter()
        .zip(servers)
        .map(|(name, server)| Route { name, endpoints: std::slice::from_ref(server), backups: &[], keys })
        .collect();
    Scene::with(pki, &routes)
}

fn case(scene: &Scene, number: usize) -> SocketAddr {
    scene.ambassador.listener(&format!("case{number}"))
}

/// The records in the order of the cases, of which each has one.
fn by_case(scene: &mut Scene, count: usize) -> Vec<Value> {
    let records = scene.all_records(count);
    let of = |number: usize| {
        let name = format!("case{number}");
        records
            .iter()
            .find(|record| record["listener"] == *name)
            .unwrap_or_else(|| panic!("no record of {name}"))
    };
    (0..count).map(|number| of(number).clone()).collect()
}

#[test]
fn a_server_that_spoils_the_handshake_ends_in_one_record_that_says_how() {
    let pki = Pki::generate();
    let alert = |point, alert| Hostile::AlertAt(point, alert);
    let cases = [
        (Hostile::ClosesAtOnce, "connection_terminated", "closed the connection at our first TLS message"),
        (Hostile::ResetsAtOnce, "connection_terminated", "reset"),
        (Hostile::NeverAnswers, "handshake_timeout", "did not answer our first TLS message"),
        (Hostile::Garbage, "tls_protocol_error", "its first bytes are a5 a5"),
        (
            alert(Point::BeforeHello, AlertDescription::InternalError),
            "tls_alert_received",
            "internal_error (80)",
        ),
        (
            alert(Point::InsteadOfServerHello, AlertDescription::ProtocolVersion),
            "tls_alert_received",
            "protocol_version (70)",
        ),
        (Hostile::ClientCertAlert12, "client_certificate_refused", "refused our certificate CN=client.test"),
        (Hostile::Expired, "tls_certificate_error", "expired at 2020-01-01"),
        (Hostile::NotYetValid, "tls_certificate_error", "valid only from 2090-01-01"),
        (Hostile::WrongName, "tls_certificate_error", "valid for other.test, not for upstream.test"),
        (Hostile::ForeignCa, "tls_certificate_error", "was not signed by the CN=nuncio test CA"),
    ];
    let peers: Vec<_> = cases.iter().map(|(hostile, ..)| hostile.clone().start(&pki)).collect();
    let servers: Vec<_> = peers.iter().map(Peer::address).collect();
    let mut scene = scene(&pki, &servers, ONCE);
    for (number, (hostile, ..)) in cases.iter().enumerate() {
        let error = clients::ask(case(&scene, number), b"hello").expect_err("nobody answered");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{hostile:?}");
    }
    for (record, (hostile, reason, detail)) in by_case(&mut scene, cases.len()).iter().zip(&cases) {
        // A reset may be seen by connect(2) already.
        let at_connect = matches!(hostile, Hostile::ResetsAtOnce) && record["stage"] == "connect";
        let stage = if at_connect { "connect" } else { "handshake" };
        let expected = format!("failed {stage}/{reason}/upstream by ambassador; {stage}/{reason}");
        assert_eq!(story(record), expected, "{hostile:?}");
        assert!(record["detail"].as_str().unwrap().contains(detail), "{hostile:?}: {record}");
        assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&0.into(), &0.into()));
        let took = record["duration_ms"].as_f64().unwrap();
        let at_least = if matches!(hostile, Hostile::NeverAnswers) { 300.0 } else { 0.0 };
        assert!((at_least..2000.0).contains(&took), "{hostile:?} took {took} ms of 300");
        let labels = [("stage", stage), ("reason", *reason), ("side", "upstream"), ("outcome", "failed")];
        assert!(scene.ambassador.metric("nuncio_connections_total", &labels) >= 1.0, "{reason}");
    }
    for (peer, (hostile, ..)) in peers.iter().zip(&cases) {
        eventually(&format!("{hostile:?} is let go"), PATIENCE, || (peer.open() == 0).then_some(()));
        assert_eq!(peer.accepted(), 1, "{hostile:?} was tried once");
    }
}

#[test]
fn a_server_that_greets_in_plaintext_is_named_with_what_to_set() {
    let mysql = b"\x4a\0\0\0\x0a8.4.3\0\x0b\0\0\0ABCDEFGH\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0IJKLMNOPQRST\0caching_sha2_password\0";
    let cases: [(&[u8], &str); 9] = [
        (mysql, "this looks like MySQL: set protocol = \"mysql\""),
        (b"220 mx.example ESMTP Postfix\r\n", "this looks like SMTP: set protocol = \"smtp\""),
        (b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", "this looks like IMAP: set protocol = \"imap\""),
        (b"+OK POP3 ready\r\n", "this looks like POP3: set protocol = \"pop3\""),
        (b"200 news.example ready\r\n", "this looks like NNTP: set protocol = \"nntp\""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is the port right?"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "name the port on which HTTP has TLS"),
        (b"-ERR unknown command\r\n", "name the port on which Redis has TLS"),
        (b"220 files.example FTP server\r\n", "name the port on which FTP has TLS"),
    ];
    let pki = Pki::generate();
    let peers: Vec<_> =
        cases.iter().map(|(greeting, _)| Hostile::PlaintextGreeting(greeting.to_vec()).start(&pki)).collect();
    let servers: Vec<_> = peers.iter().map(Peer::address).collect();
    let mut scene = scene(&pki, &servers, ONCE);
    for number in 0..cases.len() {
        clients::ask(case(&scene, number), b"hello").expect_err("nobody answered in TLS");
    }
    for (record, (greeting, mend)) in by_case(&mut scene, cases.len()).iter().zip(cases) {
        let greeting = String::from_utf8_lossy(greeting);
        let reason = "handshake/tls_protocol_error";
        assert_eq!(story(record), format!("failed {reason}/upstream by ambassador; {reason}"), "{greeting}");
        assert!(record["next_step"].as_str().unwrap().contains(mend), "{greeting}: {record}");
    }
}

#[test]
fn a_server_that_refuses_our_certificate_after_the_handshake_is_told_apart_from_one_that_breaks() {
    // With TLS 1.3 the refusal comes when the relay already runs; the client may be sending, or waiting.
    let pki = Pki::generate();
    let refused = "failed handshake/client_certificate_refused/upstream by upstream; ok";
    let early = "failed relay/early_close/upstream by upstream; ok";
    let alert = Hostile::AlertAt(Point::AfterHandshake, AlertDescription::InternalError);
    let cases = [
        (Hostile::LateClientCertAlert, refused, "refused our certificate CN=client.test"),
        (Hostile::LateClientCertReset, refused, "refused our certificate CN=client.test"),
        // Not a word: it can only be guessed, and the guess is in what to do next.
        (Hostile::LateClientCertClose, early, "asked for our certificate in it, and hung up"),
        (Hostile::ResetsAfterHandshake, early, "hung up before its first byte"),
        (Hostile::TruncatesAfter(0), early, "hung up before its first byte"),
        (alert, "failed relay/tls_alert_received/upstream by upstream; ok", "internal_error (80)"),
    ];
    for says_hello in [true, false] {
        let peers: Vec<_> = cases.iter().map(|(hostile, ..)| hostile.clone().start(&pki)).collect();
        let servers: Vec<_> = peers.iter().map(Peer::address).collect();
        let mut scene = scene(&pki, &servers, ONCE);
        for (number, (hostile, ..)) in cases.iter().enumerate() {
            let stream = clients::connect(case(&scene, number));
            if says_hello {
                send(&stream, b"hello");
            }
            assert_eq!(rest(&stream), (vec![], Err(ErrorKind::ConnectionReset)), "{hostile:?}");
        }
        for (record, (hostile, expected, detail)) in by_case(&mut scene, cases.len()).iter().zip(&cases) {
            assert_eq!(story(record), *expected, "{hostile:?}, {says_hello}: {record}");
            assert!(record["detail"].as_str().unwrap().contains(detail), "{hostile:?}: {record}");
        }
        // Each counts against its endpoint.
        let upstreams = scene.ambassador.get("/api/v1/upstreams").json();
        for upstream in upstreams.as_array().unwrap() {
            assert_eq!(upstream["endpoints"][0]["failed_total"], 1, "{upstream}");
        }
    }
}

#[test]
fn a_server_that_misses_a_client_certificate_is_named_however_it_hangs_up() {
    // No certificate is configured, the server demands one: an alert, a reset behind it, or nothing but the end.
    let pki = Pki::generate();
    let keys = format!(
        "{ONCE}tls = \"direct\"\nidentity = \"bare\"\n[identity.bare]\nca = '{}'\n[upstream.unused]\nendpoints = [\"127.0.0.1:9\"]",
        pki.ca().display()
    );
    for hostile in [Hostile::LateClientCertAlert, Hostile::LateClientCertReset, Hostile::LateClientCertClose]
    {
        let peer = hostile.clone().start(&pki);
        let mut scene = Scene::start(&pki, &[peer.address()], &keys);
        let client = scene.connect();
        send(&client, b"hello");
        assert_eq!(rest(&client), (vec![], Err(ErrorKind::ConnectionReset)), "{hostile:?}");
        let record = scene.one_record();
        let expected = "failed handshake/client_certificate_refused/upstream by upstream; ok";
        assert_eq!(story(&record), expected, "{hostile:?}: {record}");
        assert!(record["next_step"].as_str().unwrap().contains("set `certificate` and `key`"), "{record}");
    }
}

#[test]
fn a_server_that_closes_in_order_before_its_first_byte_has_failed_even_if_its_client_lingers() {
    let pki = Pki::generate();
    let peer = Hostile::ClosesAfterHandshake.start(&pki);
    let mut scene = Scene::start(&pki, &[peer.address()], "breaker.early_close = \"1s\"");
    let stream = scene.connect();
    assert_eq!(rest(&stream), (vec![], Ok(())));
    // Longer than `early_close`: what counts is when the server closed.
    std::thread::sleep(Duration::from_millis(1300));
    drop(stream);
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/early_close/upstream by upstream; ok", "{record}");
}

#[test]
fn a_server_that_takes_all_and_closes_behind_its_client_without_close_notify_can_serve() {
    // Fire and forget, as a syslog server does it: the client is told, the endpoint is not blamed.
    let pki = Pki::generate();
    let config = pki.server_config();
    let peer = Peer::start(move |stream| {
        let mut tls = handshake(&config, stream).unwrap();
        std::io::copy(&mut tls, &mut std::io::sink()).unwrap();
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    assert_eq!(scene.ask(b"hello").unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(story(&scene.one_record()), "failed relay/truncated/upstream by client; ok");
    let upstreams = scene.ambassador.get("/api/v1/upstreams").json();
    assert_eq!(upstreams[0]["endpoints"][0]["failed_total"], 0, "{upstreams}");
}

#[test]
fn a_server_that_breaks_long_after_the_handshake_has_not_closed_early() {
    let pki = Pki::generate();
    let (ends, end) = std::sync::mpsc::channel::<()>();
    let (config, end) = (pki.server_config(), std::sync::Mutex::new(end));
    let peer = Peer::start(move |stream| {
        let tls = handshake(&config, stream).unwrap();
        end.lock().unwrap().recv().ok();
        reset_on_close(&tls.sock).unwrap();
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "breaker.early_close = \"100ms\"");
    let stream = scene.connect();
    scene.ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 1.0);
    std::thread::sleep(Duration::from_millis(200));
    ends.send(()).unwrap();
    assert_eq!(rest(&stream), (vec![], Err(ErrorKind::ConnectionReset)));
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/upstream_reset/upstream by upstream; ok", "{record}");
    let upstreams = scene.ambassador.get("/api/v1/upstreams").json();
    assert_eq!(upstreams[0]["endpoints"][0]["failed_total"], 0, "{upstreams}");
}

#[test]
fn a_server_that_sends_one_byte_at_a_time_is_a_good_server() {
    let pki = Pki::generate();
    let peer = Hostile::OneByteAtATime.start(&pki);
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let question: Vec<u8> = (0..2000u32).map(|number| number as u8).collect();
    assert_eq!(scene.ask(&question).unwrap(), question);
    let record = scene.one_record();
    assert_eq!(story(&record), "success by client; ok");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&2000.into(), &2000.into()));
}

#[test]
fn a_truncated_stream_is_delivered_whole_and_then_ends_as_the_file_says() {
    const BYTES: usize = 3_000_000; // more than the sockets' buffers hold
    let pki = Pki::generate();
    let peer = Hostile::TruncatesAfter(BYTES).start(&pki);
    for (keys, end, outcome) in [
        ("", Err(ErrorKind::ConnectionReset), "failed"),
        ("on_truncation = \"reset\"", Err(ErrorKind::ConnectionReset), "failed"),
        ("on_truncation = \"close\"", Ok(()), "success"),
    ] {
        let mut scene = Scene::start(&pki, &[peer.address()], keys);
        let stream = scene.connect();
        // A slow reader: what is held for it must not be lost to the reset.
        std::thread::sleep(Duration::from_millis(150));
        let (bytes, seen) = rest(&stream);
        assert_eq!((bytes.len(), seen), (BYTES, end), "{keys}");
        drop(stream);
        let record = scene.one_record();
        let told = format!("{outcome} relay/truncated/upstream by upstream; ok");
        assert_eq!(story(&record), told, "{keys}");
        assert_eq!(record["bytes_received"], BYTES);
    }
}

#[test]
fn a_server_that_resets_in_the_middle_is_carried_to_the_client_as_a_reset() {
    let pki = Pki::generate();
    let peer = Hostile::ResetsAfter(100_000).start(&pki);
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let stream = scene.connect();
    let (bytes, end) = rest(&stream);
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert!(bytes.len() <= 100_000 && bytes.iter().all(|byte| *byte == b'x'));
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/upstream_reset/upstream by upstream; ok");
    assert_eq!(record["bytes_received"], bytes.len());
    // It had answered: that it broke later says nothing about whether it can serve.
    let upstreams = scene.ambassador.get("/api/v1/upstreams").json();
    assert_eq!(upstreams[0]["endpoints"][0]["failed_total"], 0, "{upstreams}");
}

#[test]
fn an_alert_behind_an_answer_is_told_and_not_held_against_the_endpoint() {
    let pki = Pki::generate();
    let mut config = pki.server_config_with(&pki.server, By::Ca);
    records::allow(&mut config);
    let config = Arc::new(config);
    let peer = Peer::start(move |stream| {
        let mut records = Records::take_over(handshake(&config, stream).unwrap());
        records.send(content::DATA, b"an answer").unwrap();
        records.send(content::ALERT, &[2, AlertDescription::InternalError.into()]).unwrap();
        std::io::copy(&mut records.stream(), &mut std::io::sink()).ok(); // an error is an end as well
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    assert_eq!(rest(&scene.connect()), (b"an answer".to_vec(), Err(ErrorKind::ConnectionReset)));
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/tls_alert_received/upstream by upstream; ok");
    let upstreams = scene.ambassador.get("/api/v1/upstreams").json();
    assert_eq!(upstreams[0]["endpoints"][0]["failed_total"], 0, "{upstreams}");
}

#[test]
fn an_address_that_nobody_answers_at_is_given_up_after_the_connect_timeout() {
    let pki = Pki::generate();
    let deaf = Deaf::start();
    let keys = "retry.attempts = 1\ntimeouts.connect = \"300ms\"";
    let mut scene = Scene::start(&pki, &[deaf.address()], keys);
    let stream = scene.connect();
    send(&stream, b"hello");
    half_close(&stream);
    assert_eq!(rest(&stream), (vec![], Err(ErrorKind::ConnectionReset)));
    let record = scene.one_record();
    let reason = "connect/connection_timeout";
    assert_eq!(story(&record), format!("failed {reason}/upstream by ambassador; {reason}"));
    let took = record["duration_ms"].as_f64().unwrap();
    assert!((300.0..2000.0).contains(&took), "{took} ms of 300");
}
