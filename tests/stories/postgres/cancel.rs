//! Cancelling: a request to cancel is a connection of its own, and only the server that issued its key can do it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::knot::{Knot, ZONE};
use super::super::harness::peer::Peer;
use super::super::harness::postgres::{Postgres, Release};
use super::super::harness::programs::Ran;
use super::super::harness::scene::story;
use super::super::harness::upstream::handshake;
use super::super::harness::{PATIENCE, Pki, clients, eventually, free_address, sql};
use super::{behind, behind_as, through};

/// No health checks beside the traffic, each server in its turn: a request that went just anywhere would miss two of three
/// times. And a breaker that opens at the first thing that it takes for a failure.
const BY_TURNS: &str = "balance = \"round_robin\"\nhealth.kind = \"off\"\nbreaker.consecutive = 1\n";

fn addresses(servers: &[Postgres; 3]) -> [SocketAddr; 3] {
    servers.each_ref().map(Postgres::address)
}

#[track_caller]
fn assert_cancelled(ran: &Ran) {
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
}

/// The records of requests to cancel. Such a request is 16 bytes long, or a few more with a longer key, and has no answer.
fn requests(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|record| record["bytes_received"] == 0).collect()
}

/// ^C at a statement that takes a minute, so many times in a row. Every time the server that is at it is reached: the request
/// has gone to the session's endpoint. It is a success, and no circuit opens.
#[track_caller]
fn cancel_times(times: usize) {
    let pki = Pki::generate();
    let servers = [0, 1, 2].map(|_| Postgres::start(&pki));
    let mut nuncio = Ambassador::start(&behind(&pki, &addresses(&servers), BY_TURNS));
    let mut used = Vec::new();
    for time in 1..=times {
        assert_cancelled(&sql::interrupted_psql(Release::Debian, &through(&nuncio), &servers.each_ref()));
        let records = nuncio.wait_records(2 * time);
        let [request] = requests(&records[2 * time - 2..])[..] else { panic!("{records:#?}") };
        assert_eq!(story(request), "success by upstream; ok", "{request}");
        assert_eq!(records[2 * time - 2]["endpoint"], records[2 * time - 1]["endpoint"]);
        used.push(request["endpoint"].clone());
    }
    used.dedup();
    assert!(used.len() > 1, "they went by turns: {used:?}");
    assert_eq!(nuncio.metric("nuncio_breaker_state", &[]), 0.0);
    assert_eq!(nuncio.metric("nuncio_breaker_transitions_total", &[]), 0.0);
}

/// Three endpoints, and each request finds its own.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn an_interrupt_finds_its_server_among_three() {
    cancel_times(5);
}

/// 50 of 50.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn long_an_interrupt_finds_its_server_among_three_fifty_times() {
    cancel_times(50);
}

/// libpq 18 cancels in another way: it wants to see the connection end in order, and its protocol 3.2 has longer keys. The
/// program with threads does it while its session's connection is busy.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn newer_clients_cancel_too() {
    let pki = Pki::generate();
    let servers = [0, 1, 2].map(|_| Postgres::start(&pki));
    let nuncio = Ambassador::start(&behind(&pki, &addresses(&servers), BY_TURNS));
    for _ in 0..3 {
        let ran = sql::psycopg_cancels(&through(&nuncio));
        assert_eq!(ran.answer(), "57014: canceling statement due to user request");
        assert_cancelled(&sql::interrupted_psql(Release::Newest, &through(&nuncio), &servers.each_ref()));
    }
}

/// Nobody knows the key: of three servers none is bothered with it, the record says so, and the connection ends without a
/// word, since no driver expects one.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_request_with_an_unknown_key_is_dropped() {
    let pki = Pki::generate();
    let servers = [0, 1, 2].map(|_| Postgres::start(&pki));
    let mut nuncio = Ambassador::start(&behind(&pki, &addresses(&servers), BY_TURNS));
    assert_eq!(cancel(nuncio.listener("in"), &[0, 0, 0x30, 0x39, 1, 2, 3, 4]), b"");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(story(&record), "failed route/destination_not_found/client by ambassador", "{record}");
    assert!(
        record["next_step"].as_str().unwrap().starts_with("nothing, if it had ended already"),
        "{record}"
    );
    for server in servers {
        assert!(!server.log().contains("connection received: host=127.0.0.1"), "{}", server.log());
    }
}

/// With one endpoint there is no doubt: it gets the request whether its key is known or not, and judges it itself.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_request_with_an_unknown_key_goes_to_an_only_server() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], BY_TURNS));
    assert_eq!(cancel(nuncio.listener("in"), &[0, 0, 0x30, 0x39, 1, 2, 3, 4]), b"");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(story(&record), "success by upstream; ok", "{record}");
    assert!(
        server.log().contains("PID 12345 in cancel request did not match any process"),
        "{}",
        server.log()
    );
}

/// A request that comes to nothing is not answered in words either: drivers take those for a fault in the protocol.
#[test]
fn a_request_that_fails_is_ended_without_a_word() {
    let pki = Pki::generate();
    let mut nuncio = Ambassador::start(&behind(&pki, &[free_address()], BY_TURNS));
    assert_eq!(cancel(nuncio.listener("in"), &[0, 0, 0x30, 0x39, 1, 2, 3, 4]), b"");
    let record = nuncio.wait_records(1).remove(0);
    let told = "failed connect/connection_refused/upstream by ambassador; connect/connection_refused";
    assert_eq!(story(&record), told, "{record}");
    // Nor has the circuit heard of it.
    assert_eq!(nuncio.metric("nuncio_breaker_state", &[]), 0.0);
}

/// Some drivers close as soon as they have sent the request, while nuncio is still on its way to the server.
#[test]
fn a_client_that_closes_behind_its_request_is_heard_all_the_same() {
    let pki = Pki::generate();
    let tls = pki.server_config();
    let (heard, requests) = channel();
    let (heard, closed) = (Mutex::new(heard), Arc::new(AtomicBool::new(false)));
    let gone = closed.clone();
    let peer = Peer::start(move |mut stream| {
        stream.read_exact(&mut [0; 8]).unwrap();
        eventually("the client has closed", PATIENCE, || gone.load(SeqCst).then_some(()));
        stream.write_all(b"S").unwrap();
        let mut request = [0; 16];
        handshake(&tls, stream).expect("a handshake").read_exact(&mut request).unwrap();
        heard.lock().unwrap().send(request).unwrap();
    });
    let mut nuncio = Ambassador::start(&behind_as(&pki, &pki.client, &[peer.address()], BY_TURNS));
    let request = [&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &[0, 0, 0x30, 0x39, 1, 2, 3, 4]];
    let mut client = clients::connect(nuncio.listener("in"));
    client.write_all(&request.concat()).unwrap();
    drop(client);
    closed.store(true, SeqCst);
    assert_eq!(requests.recv_timeout(PATIENCE).expect("the request")[..], request.concat());
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
}

/// A name leads to another server than it did. The session is on the old one still, and that is where its work is cancelled.
#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn when_a_name_has_moved_the_sessions_own_server_is_reached() {
    const HELLO: &[u8; 16] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
    let (heard, requests) = channel();
    let heard = Arc::new(Mutex::new(heard));
    let server = |name: &'static str| {
        let heard = heard.clone();
        move |mut stream: TcpStream| {
            let mut first = [0; 16];
            stream.read_exact(&mut first).unwrap();
            heard.lock().unwrap().send((name, first)).unwrap();
            // Welcome, your key, ready. Who only cancels has left by now.
            let welcome = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\x30\x39\x01\x02\x03\x04Z\0\0\0\x05I";
            stream.write_all(welcome).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
    };
    let port = free_address().port();
    let places = [2, 3].map(|host| SocketAddr::from(([127, 0, 0, host], port)));
    let _servers = [Peer::start_at(places[0], server("old")), Peer::start_at(places[1], server("new"))];
    let knot = Knot::start();
    knot.set("db", &[places[0].ip()]);
    let config = format!(
        "[dns]\nservers = [\"{}\"]\n[listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\n\
         [upstream.up]\nprotocol = \"postgres\"\ntls = \"off\"\nendpoints = [\"db.{ZONE}:{port}\"]\n{BY_TURNS}",
        knot.address()
    );
    let nuncio = Ambassador::start(&config);
    let begin = || {
        let mut session = clients::connect(nuncio.listener("in"));
        session.write_all(HELLO).unwrap();
        let (name, _) = requests.recv_timeout(PATIENCE).expect("a session");
        session.read_exact(&mut [0; 28]).unwrap();
        (session, name)
    };
    let (_held, name) = begin();
    assert_eq!(name, "old");
    knot.set("db", &[places[1].ip()]);
    eventually("new sessions go to the new server", PATIENCE, || (begin().1 == "new").then_some(()));
    cancel(nuncio.listener("in"), &[0, 0, 0x30, 0x39, 1, 2, 3, 4]);
    let (name, request) = requests.recv_timeout(PATIENCE).expect("the request");
    assert_eq!((name, &request[8..]), ("old", &[0, 0, 0x30, 0x39, 1, 2, 3, 4][..]));
}

/// A reload takes the session's server out of the set. The session goes on, and can still be cancelled there.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_server_that_has_left_the_set_is_still_reached() {
    let pki = Pki::generate();
    let servers = [0, 1, 2].map(|_| Postgres::start(&pki));
    let [first, others @ ..] = addresses(&servers);
    let mut nuncio = Ambassador::start(&behind(&pki, &[first], BY_TURNS));
    let psql = sql::sleeping_psql(Release::Debian, &through(&nuncio), &[&servers[0]]);
    nuncio.reloaded(&behind(&pki, &others, BY_TURNS));
    psql.signal("INT");
    assert_cancelled(&psql.finish(sql::LIMIT));
    for record in nuncio.wait_records(2) {
        assert_eq!(record["endpoint"], first.to_string(), "{record}");
        assert_eq!(record["outcome"], "success", "{record}");
    }
}

/// All places at the upstream are taken, by the very session that is to be cancelled: the request does not wait for one.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_request_needs_no_place_at_the_upstream() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let keys = format!("{BY_TURNS}limits.connections = 1\nlimits.pending = 0\n");
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], &keys));
    let psql = sql::sleeping_psql(Release::Debian, &through(&nuncio), &[&server]);
    let refused = sql::psql(Release::Debian, &through(&nuncio), "select 1");
    assert!(refused.refusal().contains("reason connection_limit_reached"), "{refused:#?}");
    psql.signal("INT");
    assert_cancelled(&psql.finish(sql::LIMIT));
    let records = nuncio.wait_records(3);
    assert_eq!(records.iter().filter(|record| record["outcome"] == "success").count(), 2, "{records:#?}");
}

/// A CancelRequest with this key; what comes back until the end, which may be a reset.
fn cancel(nuncio: SocketAddr, key: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + key.len()).unwrap();
    let request = [&length.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat();
    let mut stream = clients::connect(nuncio);
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    // An error: a reset, after what was said.
    stream.read_to_end(&mut answer).ok();
    answer
}
