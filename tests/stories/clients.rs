//! Bad input from clients, and the ways in which they leave: each ends in one record, and closing is carried as what it was.

use std::io::{ErrorKind, Read};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::harness::hostile::{Deaf, reset_on_close};
use super::harness::peer::Peer;
use super::harness::scene::{Scene, half_close, rest, send, story};
use super::harness::upstream::{Close, TlsStream, handshake};
use super::harness::{Hostile, PATIENCE, Pki, Upstream, clients, eventually};

/// A server that does this after each handshake, and tells what came of it.
fn server<T: Send + 'static>(
    pki: &Pki,
    serve: impl Fn(TlsStream) -> T + Send + Sync + 'static,
) -> (Peer, Receiver<T>) {
    let (tell, told) = channel();
    let (config, tell) = (pki.server_config(), Mutex::new(tell));
    let peer = Peer::start(move |stream| {
        if let Some(tls) = handshake(&config, stream) {
            let seen = serve(tls);
            tell.lock().unwrap().send(seen).ok(); // an error: the test is over
        }
    });
    (peer, told)
}

fn read_all(tls: &mut TlsStream) -> (usize, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let end = tls.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
    (bytes.len(), end)
}

fn milliseconds(record: &serde_json::Value) -> f64 {
    record["duration_ms"].as_f64().unwrap()
}

#[test]
fn a_client_that_says_nothing_is_let_go_at_the_idle_limit() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene =
        Scene::start(&pki, &[upstream.address()], "timeouts.idle = \"300ms\"\ntimeouts.jitter = 0.0");
    let client = clients::says_nothing(scene.address());
    assert_eq!(rest(&client), (vec![], Ok(())), "an idle client sees an orderly end");
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/idle_timeout/ambassador by ambassador; ok");
    assert!((300.0..2000.0).contains(&milliseconds(&record)), "{record}");
    eventually("the server is let go", PATIENCE, || (upstream.open() == 0).then_some(()));
}

#[test]
fn a_client_that_keeps_talking_outlives_the_idle_limit_and_ends_at_its_lifetime() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = "timeouts.idle = \"700ms\"\ntimeouts.lifetime = \"1500ms\"\ntimeouts.jitter = 0.0";
    let mut scene = Scene::start(&pki, &[upstream.address()], keys);
    let (mut client, begun) = (scene.connect(), Instant::now());
    let mut echoed = 0;
    while clients::echoes(&mut client, b"ping").is_ok() {
        echoed += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_millis(1400), "it ended after {:?}", begun.elapsed());
    drop(client);
    let record = scene.one_record();
    assert_eq!(story(&record), "cancelled relay/lifetime_reached/ambassador by ambassador; ok");
    assert!((1500.0..3000.0).contains(&milliseconds(&record)), "{record}");
    assert!(record["bytes_received"].as_u64().unwrap() >= 4 * echoed, "{record}");
}

#[test]
fn what_a_client_sends_before_a_server_is_reached_arrives_in_order() {
    let pki = Pki::generate();
    let slow = Hostile::SlowHandshake(Duration::from_millis(300)).start(&pki);
    let mut scene = Scene::start(&pki, &[slow.address()], "");
    let chunks: Vec<Vec<u8>> = (0..40u8).map(|number| vec![number; 1000]).collect();
    let client = scene.connect();
    chunks.iter().for_each(|chunk| send(&client, chunk));
    half_close(&client);
    assert_eq!(rest(&client), (chunks.concat(), Ok(())));
    let record = scene.one_record();
    assert_eq!(story(&record), "success by client; ok");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&40_000.into(), &40_000.into()));
    assert!(record["handshake_ms"].as_f64().unwrap() >= 300.0, "{record}");
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_the_handshake_takes_the_servers_connection_with_it() {
    // It closes, or resets, or resets after it has sent something; each while the server is silent.
    let closed = "cancelled handshake/-/- by client; handshake/-";
    let reset = "cancelled handshake/client_reset/client by client; handshake/-";
    for (says, resets, expected) in [("", false, closed), ("", true, reset), ("hello", true, reset)] {
        let pki = Pki::generate();
        let (tell, greeted) = channel();
        let tell = Mutex::new(tell);
        let silent = Peer::start(move |mut stream| {
            stream.read_exact(&mut [0; 5]).unwrap();
            tell.lock().unwrap().send(()).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).ok(); // an error is an end as well
        });
        let keys = "timeouts.handshake = \"30s\"\ntimeouts.establish = \"30s\"";
        let mut scene = Scene::start(&pki, &[silent.address()], keys);
        let client = scene.connect();
        greeted.recv_timeout(PATIENCE).expect("a ClientHello");
        send(&client, says.as_bytes());
        if resets {
            reset_on_close(&client).unwrap();
        }
        drop(client);
        let record = scene.one_record();
        assert_eq!(story(&record), expected, "{record}");
        assert_eq!(record["endpoint"], silent.address().to_string());
        eventually("the server's connection is dropped", PATIENCE, || (silent.open() == 0).then_some(()));
        let metric = |name, labels| scene.ambassador.metric(name, labels);
        let labels = [("outcome", "cancelled"), ("stage", "handshake")];
        assert_eq!(metric("nuncio_connections_total", &labels), 1.0);
        assert_eq!(metric("nuncio_attempts_total", &[("result", "cancelled")]), 1.0);
    }
}

#[test]
fn a_client_that_vanishes_while_tcp_is_dialled_leaves_a_record_of_that_stage() {
    let pki = Pki::generate();
    let deaf = Deaf::start();
    let mut scene = Scene::start(&pki, &[deaf.address()], "");
    let client = scene.connect();
    std::thread::sleep(Duration::from_millis(100)); // nothing tells from outside that it dials
    drop(client);
    let record = scene.one_record();
    assert_eq!(story(&record), "cancelled connect/-/- by client; connect/-");
    assert!(milliseconds(&record) < 2500.0, "the timeout of 3 s was not waited for: {record}");
}

#[test]
fn a_probe_of_the_port_is_kept_quiet_and_a_client_that_gave_up_is_not() {
    let pki = Pki::generate();
    let silent = Hostile::NeverAnswers.start(&pki);
    let mut scene = Scene::start(&pki, &[silent.address()], "");
    clients::leaves(scene.address());
    scene.all_records(1);
    let client = scene.connect();
    scene
        .ambassador
        .wait_state("/api/v1/connections", "it is under way", |live| (live["total"] == 1).then_some(()));
    std::thread::sleep(Duration::from_millis(1200));
    drop(client);
    let mut records = scene.all_records(2);
    records.sort_by_key(|record| milliseconds(record) as u64);
    assert!(records.iter().all(|record| record["outcome"] == "cancelled"), "{records:#?}");
    assert_eq!((&records[0]["level"], &records[1]["level"]), (&"debug".into(), &"info".into()));
}

#[test]
fn a_client_that_half_closes_still_gets_all_that_the_server_sends() {
    const BYTES: usize = 2_000_000;
    let pki = Pki::generate();
    let (peer, seen) = server(&pki, |mut tls| {
        let asked = read_all(&mut tls);
        // Piece by piece: the other direction has long been closed.
        for piece in vec![b'x'; BYTES].chunks(BYTES / 10) {
            std::thread::sleep(Duration::from_millis(10));
            std::io::Write::write_all(&mut tls, piece).unwrap();
        }
        tls.conn.send_close_notify();
        std::io::Write::flush(&mut tls).unwrap();
        asked
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let answer = scene.ask(b"give me all").unwrap();
    assert_eq!(answer.len(), BYTES);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), (11, Ok(())), "the server saw an orderly end");
    let record = scene.one_record();
    assert_eq!(story(&record), "success by client; ok");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&11.into(), &BYTES.into()));
}

#[test]
fn a_server_that_half_closes_still_gets_all_that_the_client_sends() {
    const BYTES: usize = 2_000_000;
    let pki = Pki::generate();
    let (peer, seen) = server(&pki, |mut tls| {
        std::io::Write::write_all(&mut tls, b"ready").unwrap();
        tls.conn.send_close_notify();
        std::io::Write::flush(&mut tls).unwrap();
        tls.sock.close_write();
        read_all(&mut tls)
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let client = scene.connect();
    assert_eq!(rest(&client), (b"ready".to_vec(), Ok(())));
    for piece in vec![b'y'; BYTES].chunks(BYTES / 10) {
        std::thread::sleep(Duration::from_millis(10));
        send(&client, piece);
    }
    half_close(&client);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), (BYTES, Ok(())));
    drop(client);
    let record = scene.one_record();
    assert_eq!(story(&record), "success by upstream; ok");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&BYTES.into(), &5.into()));
}

#[test]
fn a_reset_of_the_client_reaches_the_server_as_a_reset() {
    let pki = Pki::generate();
    let (peer, seen) = server(&pki, |mut tls| {
        let mut bytes = [0; 5];
        tls.read_exact(&mut bytes).unwrap();
        std::io::Write::write_all(&mut tls, &bytes).unwrap();
        read_all(&mut tls)
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let mut client = scene.connect();
    clients::echoes(&mut client, b"hello").unwrap();
    reset_on_close(&client).unwrap();
    drop(client);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), (0, Err(ErrorKind::ConnectionReset)));
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/client_reset/client by client; ok");
    assert_eq!(record["bytes_sent"], 5);
}

#[test]
fn a_client_that_dies_with_an_answer_on_its_way_does_not_keep_the_server() {
    // Killed without having read: its kernel answers with a reset.
    let pki = Pki::generate();
    let (peer, seen) = server(&pki, |mut tls| {
        let block = vec![b'x'; 100_000];
        let mut sent = 0;
        loop {
            match std::io::Write::write_all(&mut tls, &block) {
                Ok(()) => sent += block.len(),
                Err(error) => return (sent, error.kind()),
            }
        }
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "");
    let mut client = scene.connect();
    client.read_exact(&mut [0; 1000]).unwrap();
    drop(client);
    let (sent, end) = seen.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end} after {sent} bytes");
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/client_reset/client by client; ok");
}

#[test]
fn single_bytes_arrive_as_they_were_sent() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::start(&pki, &[upstream.address()], "");
    let client = scene.connect();
    let bytes: Vec<u8> = (0..3000u32).map(|number| (number % 251) as u8).collect();
    bytes.chunks(1).for_each(|byte| send(&client, byte));
    half_close(&client);
    assert_eq!(rest(&client), (bytes, Ok(())));
    let record = scene.one_record();
    assert_eq!(story(&record), "success by client; ok");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&3000.into(), &3000.into()));
}

#[test]
fn a_server_that_never_answers_a_half_closed_client_is_given_up_and_named() {
    let pki = Pki::generate();
    // Without an answer, and without an end: the connection is the test's to hold.
    let (peer, seen) = server(&pki, |mut tls| (read_all(&mut tls), tls));
    let mut scene = Scene::start(&pki, &[peer.address()], "timeouts.half_close = \"300ms\"");
    let error = scene.ask(b"hello").expect_err("no answer is not an empty answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/half_close_timeout/upstream by client; ok");
    assert!((300.0..2000.0).contains(&milliseconds(&record)), "{record}");
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap().0, (5, Ok(())));
}

#[test]
fn a_client_that_never_closes_after_its_server_did_is_given_up_and_named() {
    let pki = Pki::generate();
    let (peer, seen) = server(&pki, |mut tls| {
        std::io::Write::write_all(&mut tls, b"bye").unwrap();
        tls.conn.send_close_notify();
        std::io::Write::flush(&mut tls).unwrap();
        tls.sock.close_write();
        read_all(&mut tls)
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "timeouts.half_close = \"300ms\"");
    let client = scene.connect();
    assert_eq!(rest(&client), (b"bye".to_vec(), Ok(())));
    let record = scene.one_record(); // the client is still there
    assert_eq!(story(&record), "failed relay/half_close_timeout/client by upstream; ok");
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), (0, Ok(())), "the server sees an orderly end");
    drop(client);
}

#[test]
fn the_half_close_timer_starts_anew_with_every_byte() {
    let pki = Pki::generate();
    let (peer, _seen) = server(&pki, |mut tls| {
        read_all(&mut tls).1.unwrap();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            std::io::Write::write_all(&mut tls, b"x").unwrap();
        }
        tls.conn.send_close_notify();
        std::io::Write::flush(&mut tls).unwrap();
    });
    let mut scene = Scene::start(&pki, &[peer.address()], "timeouts.half_close = \"800ms\"");
    assert_eq!(scene.ask(b"slowly").unwrap(), b"xxxxxxxxxx");
    assert_eq!(story(&scene.one_record()), "success by client; ok");
}
