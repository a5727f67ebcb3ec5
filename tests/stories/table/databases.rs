//! Databases.

use super::super::harness::legacy::Client;
use super::super::harness::postgres::{self, Postgres, Release};
use super::super::harness::servers::Server;
use super::super::harness::sql::psql;
use super::super::harness::{Pki, config};
use super::mail::nginx_told;
use super::{Meeting, Table};

#[test]
#[ignore = "needs postgresql and root: tests/run installs it"]
fn table_postgres() {
    let pki = Pki::generate();
    let server = Postgres::start(&pki);
    let role = postgres::client(&pki);
    let mut table = Table::of("postgres");
    let meeting = Meeting {
        server: "PostgreSQL",
        at: server.address(),
        keys: "",
        client: "psql",
        ask: &|at| {
            let who = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
            psql(Release::Debian, &postgres::plaintext(at), who)
        },
        says: "select client_dn",
        given: "/CN=app",
    };
    let file = |at| config::mtls_as(&pki, &role, &Table::upstream("postgres", at, ""));
    table.line_of(&file, &meeting, || "/CN=app, in `pg_stat_ssl`".to_owned());
    table.write();
}

#[test]
#[ignore = "needs redis-server and redis-tools: tests/run installs them"]
fn table_redis() {
    let pki = Pki::generate();
    let server = Server::redis(&pki);
    let client = Client::RedisCli;
    let mut table = Table::of("redis");
    let meeting = Meeting {
        server: "Redis",
        at: server.address(),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "PING",
        given: "PONG",
    };
    let demanded = table.demanded(&pki, &meeting);
    table.line(&pki, &meeting, || demanded);
    table.write();
}

/// The mock never asks for a certificate: nginx before it does.
#[test]
#[ignore = "needs mssql-mock-tds, freetds-bin and nginx: tests/run installs them"]
fn table_sqlserver() {
    let pki = Pki::generate();
    let server = Server::sql_server(&pki);
    let client = Client::Tsql;
    let mut table = Table::of("sqlserver");
    let meeting = Meeting {
        server: "a mock, TDS 7.4",
        at: server.address(),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "select 1",
        given: "1",
    };
    table.line(&pki, &meeting, || "never asked for".to_owned());
    let strict = Server::sql_server_strict(&pki);
    let direct = "tls = \"direct\"\n";
    let meeting = Meeting { server: "a mock, TDS 8", at: strict.address(), keys: direct, ..meeting };
    table.line(&pki, &meeting, || "never asked for".to_owned());
    let plaintext = Server::sql_server_without_tls();
    let mut nginx = Server::nginx(&pki, plaintext.address());
    let meeting = Meeting { server: "nginx before the mock", at: nginx.address(), ..meeting };
    table.line(&pki, &meeting, || nginx_told(&mut nginx));
    table.write();
}
