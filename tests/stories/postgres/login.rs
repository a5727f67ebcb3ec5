//! Logging in: every driver, versions of the protocol, ways of TLS, replication, a pool in front, and pgbench.

use std::time::Duration;

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::pgbouncer::PgBouncer;
use super::super::harness::postgres::{self, Postgres, Release, Setup};
use super::super::harness::programs::Ran;
use super::super::harness::sql::{self, Driver};
use super::super::harness::{PATIENCE, Pki};
use super::{WHO, behind, through};

/// A client that knows no TLS is, to the server, one with TLS 1.3 and the certificate of its role: six drivers, with
/// `sslmode=disable` and `prefer`. Each leaves one record, a success.
#[test]
#[ignore = "needs postgresql, java and clients in Python: tests/run installs them"]
fn every_driver_reaches_a_server_that_demands_certificates() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let who = "select version || ' ' || client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    for mode in ["disable", "prefer"] {
        let conninfo = through(&nuncio).replace("=disable", &format!("={mode}"));
        for driver in Driver::ALL {
            assert_eq!(driver.ask(&conninfo, who).answer(), "TLSv1.3 /CN=app", "{driver:?} {mode}");
        }
    }
    for record in nuncio.wait_records(2 * Driver::ALL.len()) {
        assert_eq!(record["outcome"], "success", "{record}");
        assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
        assert!(record["negotiate_ms"].as_f64().is_some(), "{record}");
    }
}

/// A wrong password is the server's to refuse, in its own words; to nuncio that connection was a good one.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_wrong_password_is_refused_by_the_server_itself() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let ran = sql::psql(Release::Debian, &through(&nuncio).replace("correct-horse", "wrong"), WHO);
    assert!(ran.refusal().ends_with("FATAL:  password authentication failed for user \"app\""), "{ran:#?}");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
}

/// Version 3.2 of the protocol, with its longer keys, and TLS from the first byte: the newest server has both.
#[test]
#[ignore = "needs the newest postgresql: tests/run unpacks it"]
fn the_newest_postgres_is_reached_in_its_newest_ways() {
    let pki = Pki::generate();
    let server = Postgres::with(&pki, &Setup { release: Release::Newest, ..Setup::default() });
    for tls in ["negotiate", "direct"] {
        let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], &format!("tls = \"{tls}\"\n")));
        let newer = format!("{} min_protocol_version=3.2 max_protocol_version=latest", through(&nuncio));
        assert_eq!(sql::psql(Release::Newest, &newer, WHO).answer(), "t|TLSv1.3|/CN=app", "{tls}");
        let ran = sql::interrupted_psql(Release::Newest, &newer, &[&server]);
        assert!(ran.refusal().contains("canceling statement due to user request"), "{tls}: {ran:#?}");
        assert_eq!(sql::psql(Release::Debian, &through(&nuncio), WHO).answer(), "t|TLSv1.3|/CN=app");
        for record in nuncio.wait_records(4) {
            assert_eq!(record["outcome"], "success", "{tls}: {record}");
            assert_eq!(record["negotiate_ms"].is_null(), tls == "direct", "{record}");
        }
    }
}

/// A client that would rather speak 3.2 is told by an older server that it has 3.0 only, and goes on with that.
#[test]
#[ignore = "needs the newest postgresql: tests/run unpacks it"]
fn an_older_server_negotiates_the_version_down() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let version = |range: &str| {
        let conninfo = format!("{} {range}", through(&nuncio));
        sql::psql(Release::Newest, &conninfo, "\\conninfo")
    };
    let ran = version("max_protocol_version=latest");
    assert!(ran.answer().contains("Protocol Version|3.0"), "{ran:#?}");
    let ran = version("min_protocol_version=3.2 max_protocol_version=latest");
    assert!(ran.refusal().contains("server only supports protocol version 3.0"), "{ran:#?}");
}

/// Replication connections are connections: a base backup with its stream of the log, and a walsender that is asked by SQL.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_base_backup_is_taken_through_it() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let identified =
        sql::psql(Release::Debian, &format!("{} replication=database", through(&nuncio)), "IDENTIFY_SYSTEM");
    assert!(identified.answer().ends_with("|app"), "{identified:#?}");
    let directory = tempfile::tempdir().unwrap();
    let backup = directory.path().join("backup");
    sql::basebackup(Release::Debian, &through(&nuncio).replace("dbname=app ", ""), &backup).answer();
    assert_eq!(std::fs::read_to_string(backup.join("PG_VERSION")).unwrap().trim(), "15");
    assert!(backup.join("backup_manifest").exists());
    for record in nuncio.wait_records(3) {
        assert_eq!(record["outcome"], "success", "{record}");
    }
}

/// libpq takes a directory for a host: the socket there has the name that it looks for.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_unix_socket_is_found_by_its_directory() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let file = behind(&pki, &[server.address()], "")
        .replace("\"127.0.0.1:0\"", &format!("\"unix:{at}/.s.PGSQL.5432\""));
    let _nuncio = Ambassador::start(&file);
    let conninfo = format!("host={at} port=5432 user=app password=correct-horse dbname=app");
    assert_eq!(sql::psql(Release::Debian, &conninfo, WHO).answer(), "t|TLSv1.3|/CN=app");
    let ran = sql::interrupted_psql(Release::Debian, &conninfo, &[&server]);
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
}

/// With `tls = "off"` the server needs none, and all else is as with TLS: a request to cancel finds its server.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn without_tls_a_plaintext_server_is_reached() {
    let pki = Pki::generate();
    let setup = Setup { hba: postgres::PASSWORD_ONLY, settings: &["ssl=off"], ..Setup::default() };
    let servers = [0, 1, 2].map(|_| Postgres::with(&pki, &setup));
    let addresses = servers.each_ref().map(|server| server.address().to_string());
    let nuncio = Ambassador::start(&format!(
        "[listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\n\
         [upstream.up]\nprotocol = \"postgres\"\ntls = \"off\"\nbalance = \"round_robin\"\nendpoints = {addresses:?}\n"
    ));
    for mode in ["disable", "prefer"] {
        let conninfo = through(&nuncio).replace("=disable", &format!("={mode}"));
        assert_eq!(sql::psql(Release::Debian, &conninfo, WHO).answer(), "f||");
    }
    let ran = sql::interrupted_psql(Release::Debian, &through(&nuncio), &servers.each_ref());
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
}

/// PgBouncer, which speaks plaintext to nuncio, with clients of its own in front.
#[test]
#[ignore = "needs postgresql and pgbouncer: tests/run installs them"]
fn a_pool_in_front_is_a_client_like_any_other() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let pool = PgBouncer::start(nuncio.listener("in"));
    let conninfo = postgres::plaintext(pool.address());
    assert_eq!(sql::psql(Release::Debian, &conninfo, WHO).answer(), "t|TLSv1.3|/CN=app");
    let ran = sql::interrupted_psql(Release::Debian, &conninfo, &[&server]);
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
    sql::pgbench(Release::Debian, &conninfo, &["-i", "-q"]).finish(sql::LIMIT).answer();
    let ran = sql::pgbench(Release::Debian, &conninfo, &["-n", "-c", "8", "-t", "50"]).finish(sql::LIMIT);
    assert_no_failure(&ran);
}

/// Eight clients at it for some seconds, and then with a connection for each transaction: nothing fails, on either side of
/// nuncio.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn pgbench_sees_no_failure() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    sql::pgbench(Release::Debian, &through(&nuncio), &["-i", "-q"]).finish(sql::LIMIT).answer();
    for more in [&["-T", "3"][..], &["-C", "-S", "-t", "10"]] {
        let options = [&["-n", "-c", "8"], more].concat();
        let ran = sql::pgbench(Release::Debian, &through(&nuncio), &options).finish(sql::LIMIT);
        assert_no_failure(&ran);
    }
    assert_all_succeeded(nuncio, 1 + 1 + 8 + 1 + 80);
}

/// A minute of 32 clients, and as long without nuncio, over TLS of their own: no failure, and what that costs.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn long_pgbench_of_32_clients_for_a_minute() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let direct = server.over_tls(&pki, &postgres::client(&pki));
    sql::pgbench(Release::Debian, &direct, &["-i", "-q", "-s", "32"])
        .finish(Duration::from_secs(60))
        .answer();
    let measure = |conninfo: &str| {
        let options = ["-n", "-c", "32", "-j", "2", "-T", "60"];
        let ran = sql::pgbench(Release::Debian, conninfo, &options).finish(Duration::from_secs(120));
        assert_no_failure(&ran);
        let tps = ran.stdout.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap();
        tps.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let [through, direct] = [through(&nuncio), direct].map(|conninfo| measure(&conninfo));
    println!("through nuncio {through:.0} tps, direct TLS {direct:.0} tps: {:.2}", through / direct);
    assert!(through > direct / 3.0, "far from it");
    assert_all_succeeded(nuncio, 1 + 32);
}

#[track_caller]
fn assert_no_failure(ran: &Ran) {
    assert!(ran.answer().contains("number of failed transactions: 0 "), "{ran:#?}");
    assert!(!ran.stderr.contains("error"), "{ran:#?}");
}

/// So many connections, each of which is over and has been a success.
#[track_caller]
fn assert_all_succeeded(mut nuncio: Ambassador, count: usize) {
    nuncio.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
    let records = nuncio.wait_records(count);
    assert_eq!(records.len(), count);
    let failed: Vec<&Value> = records.iter().filter(|record| record["outcome"] != "success").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    nuncio.stop(PATIENCE);
}
