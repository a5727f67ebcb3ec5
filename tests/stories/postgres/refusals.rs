//! No, as clients print it: the same words from psql and psycopg, an SQLSTATE for programs, and the id of the record.

use std::time::{Duration, Instant};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::pki::{By, SERVER_NAME, Valid};
use super::super::harness::postgres::{self, Postgres, Release, Setup};
use super::super::harness::programs::Running;
use super::super::harness::scene::story;
use super::super::harness::sql::{self, Driver};
use super::super::harness::wording::redacted;
use super::super::harness::{PATIENCE, Pki, free_address};
use super::{behind, behind_as, through};

/// What clients meet is their own doing: nothing checks beside them, and no circuit opens after a few.
pub(super) const ALONE: &str = "health.kind = \"off\"\nbreaker.consecutive = \"off\"\n";

/// A refusal is prompt: psql's own start included, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

/// Asks with psql, with psycopg, which must say the same, and with asyncpg, which tells the SQLSTATE: what psql prints,
/// the code, and how each was recorded.
#[track_caller]
pub(super) fn told(nuncio: &mut Ambassador) -> String {
    let conninfo = through(nuncio);
    let [psql, record] = ask(nuncio, Driver::Psql, &conninfo);
    let [psycopg, _] = ask(nuncio, Driver::Psycopg, &conninfo);
    let (psql, psycopg) = (redacted(&psql), redacted(&psycopg));
    let words = psql.strip_prefix("psql: error: ").unwrap();
    assert_eq!(psycopg.strip_prefix("OperationalError: connection failed: "), Some(words));
    let [asyncpg, _] = ask(nuncio, Driver::Asyncpg, &conninfo);
    let code = asyncpg.split(':').next().unwrap();
    format!("{psql}\n{code}\n{record}")
}

/// What a client prints, and its record. Ports and the record's id, which the client must have been told, are replaced.
#[track_caller]
fn ask(nuncio: &mut Ambassador, driver: Driver, conninfo: &str) -> [String; 2] {
    let before = nuncio.records().len();
    let begun = Instant::now();
    let ran = driver.ask(conninfo, "select 1");
    assert!(begun.elapsed() < PROMPT, "{:?}: {ran:#?}", begun.elapsed());
    let record = nuncio.wait_records(before + 1).remove(before);
    let id = record["id"].as_str().unwrap();
    if ran.stderr.contains("nuncio: ") {
        assert!(ran.stderr.contains(&format!("; record {id}")), "{ran:#?} {record}");
    }
    let port = format!("port {}", nuncio.listener("in").port());
    [ran.refusal().replace(id, "ID").replace(&port, "port PORT"), story(&record)]
}

/// Nothing listens there.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_server_is_down() {
    let pki = Pki::generate();
    let mut nuncio = Ambassador::start(&behind(&pki, &[free_address()], ALONE));
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: 127.0.0.1:PORT refused the connection
DETAIL:  stage connect, reason connection_refused, side upstream; record ID
HINT:  is the server running, and does it listen on this address and port?
CannotConnectNowError 57P03
failed connect/connection_refused/upstream by ambassador; connect/connection_refused, connect/connection_refused, connect/connection_refused
"#);
}

/// After failures in a row nobody is sent there for a while.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_circuit_is_open() {
    let pki = Pki::generate();
    let keys = "health.kind = \"off\"\nbreaker.consecutive = 1\nbreaker.open_for = \"60s\"\n";
    let mut nuncio = Ambassador::start(&behind(&pki, &[free_address()], keys));
    let conninfo = through(&nuncio);
    ask(&mut nuncio, Driver::Psql, &conninfo);
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: 127.0.0.1:PORT: circuit open after 1 × connection refused, tries again in N s
DETAIL:  stage route, reason circuit_open, side upstream; record ID
HINT:  mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
CannotConnectNowError 57P03
refused route/circuit_open/upstream by ambassador
"#);
}

/// The checks have found nobody who is well.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn no_server_is_healthy() {
    let pki = Pki::generate();
    let endpoint = free_address();
    let keys = "health.interval = \"100ms\"\nhealth.fall = 1\n";
    let mut nuncio = Ambassador::start(&behind(&pki, &[endpoint], keys));
    nuncio.wait_metric("nuncio_health_checks_total", &[("result", "failure")], |failed| failed >= 1.0);
    nuncio.wait_metric("nuncio_endpoint_up", &[], |up| up == 0.0);
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: 127.0.0.1:PORT: health check failed: connect: connection_refused (upstream): 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port?
DETAIL:  stage route, reason destination_unavailable, side upstream; record ID
HINT:  see which endpoints are down in /api/v1/upstreams, and why
CannotConnectNowError 57P03
failed route/destination_unavailable/upstream by ambassador
"#);
}

/// The server's certificate is of a CA that is not ours.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_server_has_a_certificate_of_another_ca() {
    let pki = Pki::generate();
    let foreign = pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now);
    let server = Postgres::with(&pki, &Setup { server: Some(&foreign), ..Setup::default() });
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ALONE));
    let told = told(&mut nuncio).replace(&pki.directory().display().to_string(), "/etc/nuncio");
    insta::assert_snapshot!(told, @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
DETAIL:  stage handshake, reason tls_certificate_error, side upstream; record ID
HINT:  put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
ClientCannotConnectError 08001
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error, handshake/tls_certificate_error, handshake/tls_certificate_error
"#);
}

/// The server does not trust the issuer of our certificate. With TLS 1.3 it says so when the client's first message is on its
/// way already, with TLS 1.2 in the handshake; the client is told the same.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_server_refuses_our_certificate() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let stranger = pki.issue("stranger", &["app"], By::Foreign, Valid::Now);
    let mut both = String::new();
    for version in ["1.3", "1.2"] {
        let keys = format!("{ALONE}tls_max = \"{version}\"\n");
        let mut nuncio = Ambassador::start(&behind_as(&pki, &stranger, &[server.address()], &keys));
        both += &format!("TLS {version}\n{}\n\n", told(&mut nuncio));
    }
    let both = both.replace(&pki.directory().display().to_string(), "/etc/nuncio");
    insta::assert_snapshot!(both, @r#"
TLS 1.3
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); it says that it accepts certificates issued by CN=nuncio test CA
DETAIL:  stage greet, reason client_certificate_refused, side upstream; record ID
HINT:  the server's CA file has another CN=nuncio test CA, an older or a newer one: put the one that issued our certificate beside it
InvalidAuthorizationSpecificationError 28000
failed greet/client_certificate_refused/upstream by upstream; ok

TLS 1.2
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); it says that it accepts certificates issued by CN=nuncio test CA
DETAIL:  stage handshake, reason client_certificate_refused, side upstream; record ID
HINT:  the server's CA file has another CN=nuncio test CA, an older or a newer one: put the one that issued our certificate beside it
InvalidAuthorizationSpecificationError 28000
failed handshake/client_certificate_refused/upstream by ambassador; handshake/client_certificate_refused, handshake/client_certificate_refused, handshake/client_certificate_refused
"#);
}

/// The same by the newest server, which a client of TLS from the first byte meets.
#[test]
#[ignore = "needs postgresql, also the newest, and clients in Python: tests/run installs them"]
fn the_newest_server_refuses_our_certificate() {
    let pki = Pki::generate();
    let server = Postgres::with(&pki, &Setup { release: Release::Newest, ..Setup::default() });
    let stranger = pki.issue("stranger", &["app"], By::Foreign, Valid::Now);
    for tls in ["negotiate", "direct"] {
        let keys = format!("{ALONE}tls = \"{tls}\"\n");
        let mut nuncio = Ambassador::start(&behind_as(&pki, &stranger, &[server.address()], &keys));
        let conninfo = through(&nuncio);
        let [words, record] = ask(&mut nuncio, Driver::Asyncpg, &conninfo);
        assert!(words.starts_with("InvalidAuthorizationSpecificationError 28000: nuncio: "), "{words}");
        assert!(record.contains("/client_certificate_refused/upstream"), "{record}");
    }
}

/// `ssl = off`.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_server_has_no_tls() {
    let pki = Pki::generate();
    let setup = Setup { hba: postgres::PASSWORD_ONLY, settings: &["ssl=off"], ..Setup::default() };
    let server = Postgres::with(&pki, &setup);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ALONE));
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: the server answered no to SSLRequest: it has no TLS
DETAIL:  stage negotiate, reason negotiation_refused, side upstream; record ID
HINT:  set ssl = on in its postgresql.conf, with ssl_cert_file and ssl_key_file; or, where the network is trusted, tls = "off" here
ConnectionRejectionError 08004
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused, negotiate/negotiation_refused, negotiate/negotiation_refused
"#);
}

/// What the server itself refuses inside TLS passes as it is: pg_hba.conf, a certificate of another role, no more places.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn what_the_server_refuses_is_in_its_own_words() {
    let pki = Pki::generate();
    let client = postgres::client(&pki);
    let mut all = String::new();
    let mut refused = |name: &str, nuncio: &mut Ambassador| {
        let conninfo = through(nuncio);
        let [words, record] = ask(nuncio, Driver::Psql, &conninfo);
        // Who closes first after the server's last word is open.
        let record = record.replace("by client", "by upstream");
        all += &format!("{name}: {words}\n{record}\n");
    };
    for (name, hba) in [("reject", postgres::REJECT), ("no entry", postgres::NO_ENTRY)] {
        let server = Postgres::with(&pki, &Setup { hba, ..Setup::default() });
        refused(name, &mut Ambassador::start(&behind(&pki, &[server.address()], ALONE)));
    }
    let settings = &["max_connections=4", "superuser_reserved_connections=3"];
    let server = Postgres::with(&pki, &Setup { settings, ..Setup::default() });
    let mut nuncio = Ambassador::start(&behind_as(&pki, &client, &[server.address()], ALONE));
    let _only = sql::sleeping_psql(Release::Debian, &through(&nuncio), &[&server]);
    refused("too many", &mut nuncio);
    refused(
        "another role",
        &mut Ambassador::start(&behind_as(&pki, &pki.client, &[server.address()], ALONE)),
    );
    insta::assert_snapshot!(all, @r#"
reject: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  pg_hba.conf rejects connection for host "127.0.0.1", user "app", database "app", SSL encryption
success by upstream; ok
no entry: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "app", database "app", SSL encryption
success by upstream; ok
too many: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  remaining connection slots are reserved for non-replication superuser connections
failed greet/negotiation_refused/upstream by upstream; ok
another role: psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  password authentication failed for user "app"
success by upstream; ok
"#);
}

/// No place at the upstream comes free in time.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_upstream_has_no_place_left() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let keys = format!("{ALONE}limits.connections = 1\nlimits.queue_timeout = \"300ms\"\n");
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], &keys));
    let _only = sql::sleeping_psql(Release::Debian, &through(&nuncio), &[&server]);
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: none of the 1 places (limits.connections) came free within N s (limits.queue_timeout)
DETAIL:  stage queue, reason queue_timeout, side ambassador; record ID
HINT:  raise limits.connections, or find out why connections are held so long
TooManyConnectionsError 53300
failed queue/queue_timeout/ambassador by ambassador
"#);
}

/// The listener's own cap.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_listener_has_no_place_left() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let file =
        behind(&pki, &[server.address()], ALONE).replace("[upstream.up]", "connections = 1\n[upstream.up]");
    let mut nuncio = Ambassador::start(&file);
    let _only = sql::sleeping_psql(Release::Debian, &through(&nuncio), &[&server]);
    insta::assert_snapshot!(told(&mut nuncio), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: as many connections of this listener are open as may be: 1 (`connections`)
DETAIL:  stage admit, reason connection_limit_reached, side ambassador; record ID
HINT:  raise the limit that the detail names, or find who holds the connections
TooManyConnectionsError 53300
refused admit/connection_limit_reached/ambassador by ambassador
"#);
}

/// Another user of this host than those who may.
#[test]
#[ignore = "needs postgresql and clients in Python: tests/run installs them"]
fn the_client_may_not_come_in() {
    let pki = Pki::generate();
    let file = behind(&pki, &[free_address()], ALONE)
        .replace("[upstream.up]", "allow_users = [\"daemon\"]\n[upstream.up]");
    let mut nuncio = Ambassador::start(&file);
    let told = told(&mut nuncio);
    let us = told.split("user ").nth(1).unwrap().split(" may not").next().unwrap().to_owned();
    insta::assert_snapshot!(told.replace(&us, "USER (uid N)"), @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: user USER (uid N) may not use this listener
DETAIL:  stage admit, reason admission_denied, side client; record ID
HINT:  add the user to the listener's `allow_users` (or `allow_groups`): USER (uid N)
InvalidAuthorizationSpecificationError 28000
refused admit/admission_denied/client by ambassador
"#);
}

/// SIGTERM while a client waits for a place: it is told when the time is up, and who comes later finds nobody listening.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn nuncio_is_stopping() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let keys = format!(
        "{ALONE}limits.connections = 1\nlimits.queue_timeout = \"60s\"\ntimeouts.establish = \"60s\"\n"
    );
    let file = behind(&pki, &[server.address()], &keys);
    let mut nuncio = Ambassador::start(&format!("drain_timeout = \"1s\"\ndrain_jitter = \"0s\"\n{file}"));
    let conninfo = through(&nuncio);
    let only = sql::sleeping_psql(Release::Debian, &conninfo, &[&server]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sql::psql(Release::Debian, &conninfo, "select 1"));
        nuncio.wait_state("/api/v1/upstreams", "one waits in the queue", |upstreams| {
            (upstreams[0]["waiting"] == 1).then_some(())
        });
        nuncio.process().signal("TERM");
        nuncio.wait_line("draining");
        let late = sql::psql(Release::Debian, &conninfo, "select 1");
        assert!(late.refusal().contains("Connection refused"), "{late:#?}");
        let ran = waiting.join().unwrap();
        assert!(nuncio.process().wait_exit(PATIENCE).success());
        let records = nuncio.records();
        let find = |relay: bool| records.iter().find(|record| (record["stage"] == "relay") == relay).unwrap();
        let record = find(false);
        let words = ran.refusal().replace(record["id"].as_str().unwrap(), "ID");
        let words = words.replace(conninfo.split(['=', ' ']).nth(3).unwrap(), "PORT");
        // Both end in the same moment, and where the place came free first, it was just about to be used.
        let words = words.replace(&format!("stage {},", record["stage"].as_str().unwrap()), "stage queue,");
        assert_eq!((&record["outcome"], &record["reason"]), (&"refused".into(), &"draining".into()));
        let whole = format!("{words}\n\n{}\n{}", only_words(only), story(find(true)));
        insta::assert_snapshot!(whole, @r#"
psql: error: connection to server at "127.0.0.1", port PORT failed: FATAL:  nuncio: shutting down: no new connections are taken
DETAIL:  stage queue, reason draining, side ambassador; record ID
HINT:  connect again: another instance, or this one after its restart, will answer

server closed the connection unexpectedly
	This probably means the server terminated abnormally
	before or while processing the request.
connection to server was lost
cancelled relay/draining/ambassador by ambassador; ok
"#);
    });
}

/// What a client in the middle of a statement says.
fn only_words(only: Running) -> String {
    only.finish(sql::LIMIT).refusal().to_owned()
}
