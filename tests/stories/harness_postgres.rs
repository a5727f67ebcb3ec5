//! PostgreSQL and its clients among themselves, without nuncio: what the stories with nuncio rest on.

#![cfg(unix)]

use std::net::SocketAddr;

use super::harness::patroni::Patroni;
use super::harness::pgbouncer::PgBouncer;
use super::harness::pki::{By, Valid};
use super::harness::postgres::{self, Postgres, Release, Setup, Stop};
use super::harness::sql::{self, Driver};
use super::harness::{Pki, clients};

const WHO: &str = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()";

/// The role's own certificate is let in over TLS 1.3; no TLS, no certificate and another's certificate are not.
#[test]
#[ignore = "needs postgresql: tests/run installs it"]
fn postgres_lets_in_who_has_the_certificate_of_the_role() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let tls = server.over_tls(&pki, &postgres::client(&pki));
    let psql = |conninfo: &str| sql::psql(Release::Debian, conninfo, WHO);
    assert_eq!(psql(&tls).answer(), "t|TLSv1.3|/CN=app");
    let refused = |conninfo: &str, why: &str| {
        let ran = psql(conninfo);
        assert!(ran.refusal().contains(why), "{ran:#?}");
    };
    refused(&postgres::plaintext(server.address()), "no pg_hba.conf entry for host");
    // It says that of the certificate as well; its log knows better.
    refused(&server.over_tls(&pki, &pki.client), "password authentication failed");
    assert!(server.log().contains("(clientcert=verify-full) failed for user \"app\": CN mismatch"));
    refused(&server.over_tls(&pki, &pki.issue("x", &["app"], By::Foreign, Valid::Now)), "unknown ca");
    refused(&tls.replace("correct-horse", "wrong"), "password authentication failed");
    let anonymous = tls.split(" sslcert").next().unwrap();
    refused(anonymous, "connection requires a valid client certificate");
}

/// Each kind of refusal that a server is set up for, in psql's words.
#[test]
#[ignore = "needs postgresql: tests/run installs it"]
fn postgres_refuses_in_each_of_its_ways() {
    let pki = Pki::generate();
    let client = postgres::client(&pki);
    let start = |hba, settings: &[&str]| Postgres::with(&pki, &Setup { hba, settings, ..Setup::default() });
    let psql = |conninfo: &str| sql::psql(Release::Debian, conninfo, "select 1");

    let server = start(postgres::REJECT, &[]);
    let ran = psql(&server.over_tls(&pki, &client));
    assert!(ran.refusal().contains("pg_hba.conf rejects connection"), "{ran:#?}");

    let server = start(postgres::NO_ENTRY, &[]);
    let ran = psql(&server.over_tls(&pki, &client));
    assert!(ran.refusal().contains("no pg_hba.conf entry"), "{ran:#?}");

    let server = start(postgres::PASSWORD_ONLY, &["ssl=off"]);
    assert_eq!(psql(&postgres::plaintext(server.address())).answer(), "1");
    let ran = psql(&server.over_tls(&pki, &client));
    assert!(ran.refusal().contains("server does not support SSL"), "{ran:#?}");

    let server = start(postgres::MUTUAL, &["max_connections=4", "superuser_reserved_connections=3"]);
    let tls = server.over_tls(&pki, &client);
    let _only = sql::sleeping_psql(Release::Debian, &tls, &[&server]);
    let ran = psql(&tls);
    assert!(ran.refusal().contains("remaining connection slots are reserved"), "{ran:#?}");
}

/// ^C reaches the server by a connection of its own.
#[test]
#[ignore = "needs postgresql: tests/run installs it"]
fn an_interrupt_in_psql_cancels_the_statement() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let tls = server.over_tls(&pki, &postgres::client(&pki));
    let ran = sql::interrupted_psql(Release::Debian, &tls, &[&server]);
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
}

fn is_primary(patroni: SocketAddr) -> bool {
    let request = "GET /primary HTTP/1.0\r\n\r\n";
    let answer = String::from_utf8(clients::ask(patroni, request.as_bytes()).unwrap()).unwrap();
    answer.starts_with("HTTP/1.0 200")
}

/// The standby follows, takes over when the primary is gone, and the old primary can be started again.
#[test]
#[ignore = "needs postgresql: tests/run installs it"]
fn a_standby_takes_over() {
    let pki = Pki::generate();
    let mut primary = Postgres::start(&pki);
    let standby = Postgres::standby_of(&primary, &pki);
    let [primary_api, standby_api] = [&primary, &standby].map(|server| Patroni::of(server.admin()));
    let roles = || [primary_api.address(), standby_api.address()].map(is_primary);
    assert_eq!(roles(), [true, false]);
    let client = postgres::client(&pki);
    let on =
        |server: &Postgres, what: &str| sql::psql(Release::Debian, &server.over_tls(&pki, &client), what);
    on(&primary, "create table t as select 7 as n").answer();
    super::harness::eventually("the row arrives", super::harness::PATIENCE, || {
        (on(&standby, "select n from t").stdout.trim() == "7").then_some(())
    });
    assert!(on(&standby, "insert into t values (8)").refusal().contains("read-only transaction"));
    primary.stop(Stop::Immediate);
    assert_eq!(roles(), [false, false]);
    standby.promote();
    assert_eq!(roles(), [false, true]);
    on(&standby, "insert into t values (8)").answer();
    primary.restart();
    assert_eq!(roles(), [true, true]);
}

/// Every client there is speaks to it in plaintext where that is allowed.
#[test]
#[ignore = "needs postgresql, java and clients in Python: tests/run installs them"]
fn every_driver_comes_in_where_a_password_is_enough() {
    let pki = Pki::generate();
    let server = Postgres::with(&pki, &Setup { hba: postgres::PASSWORD_ONLY, ..Setup::default() });
    for driver in Driver::ALL {
        let ran = driver.ask(&postgres::plaintext(server.address()), "select 6 * 7");
        assert_eq!(ran.answer(), "42", "{driver:?}");
    }
}

/// Where it is not, those come in that have a certificate.
#[test]
#[ignore = "needs postgresql, java and clients in Python: tests/run installs them"]
fn no_driver_comes_in_without_a_certificate() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let tls = server.over_tls(&pki, &postgres::client(&pki));
    for driver in Driver::ALL {
        let ran = driver.ask(&postgres::plaintext(server.address()), "select 1");
        assert!(ran.refusal().contains("no pg_hba.conf entry"), "{driver:?}: {ran:#?}");
        if driver != Driver::Jdbc {
            let ran = driver.ask(&tls, "select version from pg_stat_ssl where pid = pg_backend_pid()");
            assert_eq!(ran.answer(), "TLSv1.3", "{driver:?}");
        }
    }
}

/// TLS from the first byte, and version 3.2 of the protocol: only the newest server knows them.
#[test]
#[ignore = "needs the newest postgresql: tests/run unpacks it"]
fn the_newest_postgres_has_direct_tls_and_a_newer_protocol() {
    let pki = Pki::generate();
    let client = postgres::client(&pki);
    let server = Postgres::with(&pki, &Setup { release: Release::Newest, ..Setup::default() });
    let newer = ["sslnegotiation=direct", "min_protocol_version=3.2 max_protocol_version=latest"];
    for option in newer {
        let conninfo = format!("{} {option}", server.over_tls(&pki, &client));
        assert_eq!(sql::psql(Release::Newest, &conninfo, WHO).answer(), "t|TLSv1.3|/CN=app");
    }
    let older = Postgres::start(&pki);
    for option in newer {
        let conninfo = format!("{} {option}", older.over_tls(&pki, &client));
        sql::psql(Release::Newest, &conninfo, WHO).refusal();
    }
    let tls = server.over_tls(&pki, &client);
    let ran = sql::interrupted_psql(Release::Newest, &format!("{tls} {}", newer[1]), &[&server]);
    assert!(ran.refusal().contains("canceling statement due to user request"), "{ran:#?}");
}

/// pgbench by the pool, whose connections carry the certificate, and directly.
#[test]
#[ignore = "needs postgresql and pgbouncer: tests/run installs them"]
fn pgbench_runs_directly_and_by_a_pool() {
    let pki = Pki::generate();
    let client = postgres::client(&pki);
    let server = Postgres::start(&pki);
    let tls = server.over_tls(&pki, &client);
    sql::pgbench(Release::Debian, &tls, &["-i", "-q"]).finish(sql::LIMIT).answer();
    let pool = PgBouncer::start_over_tls(server.address(), &pki, &client);
    for conninfo in [tls, postgres::plaintext(pool.address())] {
        let ran = sql::pgbench(Release::Debian, &conninfo, &["-c", "4", "-t", "50"]).finish(sql::LIMIT);
        assert!(ran.answer().contains("number of failed transactions: 0 "), "{ran:#?}");
    }
}
