//! Databases.

use super::super::harness::ambassador::Ambassador;
use super::super::harness::legacy::Client;
use super::super::harness::mysql::{self, Make, Mysql, Setup};
use super::super::harness::mysql_clients::{self, Login};
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

/// The user's account names the subject of its certificate: with another, the server lets nobody in.
#[test]
#[ignore = "needs mariadb and root, and Oracle's MySQL: tests/run installs them"]
fn table_mysql() {
    let pki = Pki::generate();
    let owner = mysql::client(&pki);
    let mut table = Table::of("mysql");
    for (make, server, client, name) in [
        (Make::MariaDb, "MariaDB", mysql_clients::Client::MariaDb, "mariadb"),
        (Make::Oracle, "MySQL", mysql_clients::Client::Oracle, "mysql --get-server-public-key"),
    ] {
        let mysql = Mysql::with(&pki, &Setup { make, ..Setup::default() });
        let ask = |at| client.ask(&Login { public_key: true, ..Login::at(at) }, &["select 'hello'"]);
        let meeting = Meeting {
            server,
            at: mysql.address(),
            keys: "",
            client: name,
            ask: &ask,
            says: "select 'hello'",
            given: "hello",
        };
        let upstream = |at| Table::upstream("mysql", at, "");
        let another = Ambassador::start(&config::mtls(&pki, &upstream(meeting.at)));
        let ran = ask(another.listener("in"));
        assert!(!ran.status.success() && ran.stderr.contains("Access denied"), "{ran:#?}");
        let file = |at| config::mtls_as(&pki, &owner, &upstream(at));
        table.line_of(&file, &meeting, || "`/CN=app`; with another: `Access denied`".to_owned());
    }
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
    let none = table.not_demanded(&pki, &meeting);
    table.line(&pki, &meeting, || none);
    let strict = Server::sql_server_strict(&pki);
    let direct = "tls = \"direct\"\n";
    let meeting = Meeting { server: "a mock, TDS 8", at: strict.address(), keys: direct, ..meeting };
    let none = table.not_demanded(&pki, &meeting);
    table.line(&pki, &meeting, || none);
    let plaintext = Server::sql_server_without_tls();
    let mut nginx = Server::nginx(&pki, plaintext.address());
    let meeting = Meeting { server: "nginx before the mock", at: nginx.address(), ..meeting };
    table.line(&pki, &meeting, || nginx_told(&mut nginx));
    table.write();
}
