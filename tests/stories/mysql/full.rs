//! A server that says in place of its greeting that it can take nobody now.

use std::io::Write;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{Make, Mysql};
use super::super::harness::mysql_clients::Client;
use super::super::harness::peer::Peer;
use super::super::harness::{PATIENCE, Pki, eventually};
use super::{behind, through};

/// Nothing of it has been told to the client: it is served by the other one, and the full one is left alone after a while.
#[test]
#[ignore = "needs mariadb-server and its clients: tests/run installs them"]
fn a_server_that_is_full_is_passed_over_and_loses_its_turn() {
    const FULL: &[u8] = b"\x17\0\0\0\xff\x10\x04Too many connections";
    let pki = Pki::generate();
    let full = Peer::start(|mut stream| {
        stream.write_all(FULL).ok(); // an error: it was left before that
    });
    let other = Mysql::start(&pki, Make::MariaDb);
    let keys = "health.kind = \"off\"\nbalance = \"round_robin\"\nbreaker.consecutive = 2\nbreaker.open_for = \"1h\"\nbreaker.max_open = \"1h\"\n";
    let mut nuncio = Ambassador::start(&behind(&pki, &[full.address(), other.address()], keys));
    let login = through(&nuncio);
    let mut asked = 0;
    eventually("its circuit opens", PATIENCE * 3, || {
        assert_eq!(Client::MariaDb.ask(&login, &["select 1"]).answer(), "1");
        asked += 1;
        (nuncio.metric("nuncio_breaker_transitions_total", &[("to", "open")]) == 1.0).then_some(())
    });
    let records = nuncio.wait_records(asked);
    assert_eq!(records.iter().filter(|record| record["attempts"].as_array().unwrap().len() > 1).count(), 2);
    let upstreams = nuncio.get("/api/v1/upstreams").json();
    let last = &upstreams[0]["endpoints"][0]["last_failure"];
    assert_eq!(last["class"], "overloaded", "{last}");
    assert!(last["detail"].as_str().unwrap().contains("error 1040 instead of its greeting"), "{last}");
}
