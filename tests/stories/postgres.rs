//! PostgreSQL behind nuncio: plaintext clients, a server that demands TLS and the role's own certificate.

#![cfg(unix)]

use std::net::SocketAddr;

use super::harness::ambassador::Ambassador;
use super::harness::postgres::{self, Postgres, Release};
use super::harness::{Pki, config, sql};

const WHO: &str = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()";

/// The file of an ambassador in front of PostgreSQL, with the certificate of the role.
fn behind(pki: &Pki, servers: &[SocketAddr], upstream: &str) -> String {
    let client = postgres::client(pki);
    let keys = format!("protocol = \"postgres\"\n{}{upstream}", config::endpoints(servers));
    config::mtls_as(pki, &client, &keys)
}

/// A client that knows no TLS is, to the server, one with TLS 1.3 and the certificate of its role.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn a_plaintext_psql_reaches_a_server_that_demands_certificates() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    for mode in ["disable", "prefer"] {
        let conninfo = format!("{} sslmode={mode}", postgres::plaintext(ambassador.listener("in")));
        let ran = sql::psql(Release::Debian, &conninfo, WHO);
        assert_eq!(ran.answer(), "t|TLSv1.3|/CN=app", "{ran:#?}");
    }
}
