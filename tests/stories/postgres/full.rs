//! A server that says itself that it can take nobody now.

use super::super::harness::ambassador::Ambassador;
use super::super::harness::postgres::{Postgres, Release, Setup};
use super::super::harness::scene::story;
use super::super::harness::sql::{self, Driver};
use super::super::harness::{PATIENCE, Pki, eventually};
use super::{behind, through};

/// Its clients get its own words, as long as there are any: once it has said so often enough, they go to the other server.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn a_server_that_is_full_loses_its_turn_and_its_clients_get_its_own_words_until_then() {
    let pki = Pki::generate();
    let settings = ["max_connections=2", "superuser_reserved_connections=0", "max_wal_senders=0"];
    let full = Postgres::with(&pki, &Setup { settings: &settings, ..Setup::default() });
    let other = Postgres::start(&pki);
    let alone = Ambassador::start(&behind(&pki, &[full.address()], "health.kind = \"off\"\n"));
    let conninfo = through(&alone);
    let _held: Vec<_> = (0..2).map(|_| sql::sleeping_psql(Release::Debian, &conninfo, &[&full])).collect();

    let keys = "health.kind = \"off\"\nbalance = \"round_robin\"\nbreaker.consecutive = 2\nbreaker.open_for = \"1h\"\nbreaker.max_open = \"1h\"\n";
    let mut nuncio = Ambassador::start(&behind(&pki, &[full.address(), other.address()], keys));
    let conninfo = through(&nuncio);
    let mut refused = 0;
    let mut asked = 0;
    eventually("its circuit opens", PATIENCE * 3, || {
        let ran = Driver::Psql.ask(&conninfo, "select 1");
        asked += 1;
        let record = nuncio.wait_records(asked).pop().unwrap();
        if !ran.status.success() {
            refused += 1;
            assert!(ran.stderr.contains("FATAL:  sorry, too many clients already"), "{ran:#?}");
            assert!(!ran.stderr.contains("nuncio"), "its own words, and no others: {ran:#?}");
            assert!(story(&record).starts_with("failed greet/negotiation_refused/upstream"), "{record}");
            let detail = record["detail"].as_str().unwrap();
            assert!(detail.contains("sorry, too many clients already (SQLSTATE 53300)"), "{record}");
            assert!(
                record["next_step"].as_str().is_none_or(|step| step.contains("max_connections")),
                "{record}"
            );
        }
        (nuncio.metric("nuncio_breaker_transitions_total", &[("to", "open")]) == 1.0).then_some(())
    });
    assert_eq!(refused, 2);
    let upstreams = nuncio.get("/api/v1/upstreams").json();
    let view = &upstreams[0]["endpoints"][0];
    assert_eq!((&view["breaker"], &view["last_failure"]["class"]), (&"open".into(), &"overloaded".into()));
    for _ in 0..4 {
        assert_eq!(Driver::Psql.ask(&conninfo, "select 1").answer(), "1");
    }
}
