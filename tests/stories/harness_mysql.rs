//! MySQL of both makers and their clients among themselves, without nuncio: what the stories with nuncio rest on.

#![cfg(unix)]

use super::harness::mysql::{self, Make, Mysql, Setup, Tls};
use super::harness::mysql_clients::{Client, ClientTls, Login};
use super::harness::pki::{By, Valid};
use super::harness::{PATIENCE, Pki, eventually};

const TLS: &str = "show status like 'Ssl_version'";

/// The user's own certificate is let in over TLS 1.3; no TLS, no certificate and another's certificate are not.
#[track_caller]
fn lets_in_who_has_the_certificate(make: Make) {
    let pki = Pki::generate();
    let good = mysql::client(&pki);
    let stranger = pki.issue("stranger", &[mysql::USER], By::Foreign, Valid::Now);
    let server = Mysql::start(&pki, make);
    let login = Login::at(server.address());
    let over_tls = login.clone().over_tls(&pki, &good);
    let disabled = Login { tls: ClientTls::Disabled, ..login.clone() };
    let refused = |client: Client, login: &Login, why: &str| {
        let ran = client.ask(login, &["select 1"]);
        assert!(ran.refusal().contains(why), "{client:?} {ran:#?}");
    };
    for client in [Client::MariaDb, Client::Oracle, Client::Connector, Client::PureConnector, Client::PyMysql]
    {
        let ran = client.ask(&over_tls, &[TLS, "select current_user()"]);
        assert_eq!(ran.answer(), "Ssl_version\tTLSv1.3\napp@%", "{client:?}");
        refused(client, &disabled, "1045");
    }
    refused(Client::MariaDb, &Login { tls: ClientTls::Demanded, ..login.clone() }, "1045");
    refused(Client::MariaDb, &login.clone().over_tls(&pki, &pki.client), "1045");
    // Told when the client thinks that it is through: it reads that, or fails to write.
    refused(Client::MariaDb, &login.over_tls(&pki, &stranger), "ERROR 20");
    refused(Client::MariaDb, &Login { password: "wrong", ..over_tls }, "1045");
}

/// MariaDB.
#[test]
#[ignore = "needs mariadb-server, the newest mysql and clients in Python: tests/run brings them"]
fn mariadb_lets_in_who_has_the_certificate_of_the_user() {
    lets_in_who_has_the_certificate(Make::MariaDb);
}

/// Oracle's.
#[test]
#[ignore = "needs mariadb, the newest mysql-server and clients in Python: tests/run brings them"]
fn mysql_lets_in_who_has_the_certificate_of_the_user() {
    lets_in_who_has_the_certificate(Make::Oracle);
}

/// Every client there is comes in where a password is enough, and takes TLS where it is offered, unless it is JDBC.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn every_client_comes_in_where_a_password_is_enough() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = Mysql::with(&pki, &Setup { make, tls: Tls::Offered, ..Setup::default() });
        for client in Client::ALL {
            let ran = client.ask(&Login::at(server.address()), &["select 6 * 7", TLS]);
            let version = if client == Client::Jdbc { "" } else { "TLSv1.3" };
            assert_eq!(ran.answer(), format!("42\nSsl_version\t{version}").trim_end(), "{make:?} {client:?}");
        }
    }
}

/// Each user's plugin is another one, which the server has to switch clients to; who has no password needs a certificate.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn each_user_logs_in_with_a_plugin_of_its_own() {
    let pki = Pki::generate();
    let good = mysql::client(&pki);
    let who = "select current_user()";
    for (make, user, clients) in [
        (Make::MariaDb, mysql::ED25519, &[Client::MariaDb][..]),
        (Make::Oracle, mysql::SHA256, &[Client::MariaDb, Client::Oracle, Client::PyMysql]),
    ] {
        let server = Mysql::start(&pki, make);
        let login = Login::at(server.address());
        for client in clients {
            let ran = client.ask(&login.clone().user(user).over_tls(&pki, &good), &[who]);
            assert_eq!(ran.answer(), format!("{user}@%"), "{make:?} {client:?}");
        }
        let checker = Login { password: "", ..login.user(mysql::CHECK) };
        // It may use no database.
        let ran = Client::MariaDb.ask(&checker.clone().over_tls(&pki, &pki.client), &[who]);
        assert!(
            ran.refusal().contains("ERROR 1044 (42000): Access denied for user 'checker'@'%'"),
            "{ran:#?}"
        );
        let ran = Client::MariaDb.ask(&checker, &[who]);
        assert!(ran.refusal().contains("ERROR 1045 (28000)"), "{ran:#?}");
    }
}

/// What clients do in plaintext when caching_sha2_password needs the password itself, which a server without TLS takes only
/// encrypted with its key: PyMySQL asks for that, Oracle's mysql and JDBC when they may, MariaDB's mariadb and the pure
/// connector send the password as it is, and the other sends nothing. Once one was let in, all are.
#[test]
#[ignore = "needs the newest mysql-server, java and clients in Python: tests/run brings them"]
fn some_clients_ask_for_the_key_of_a_server_without_tls() {
    let pki = Pki::generate();
    let server = Mysql::with(&pki, &Setup { make: Make::Oracle, tls: Tls::Absent, ..Setup::default() });
    let login = Login::at(server.address());
    let with_key = Login { public_key: true, ..login.clone() };
    let port = server.address().port().to_string();
    let mut told = String::new();
    for client in Client::ALL {
        for login in [&login, &with_key] {
            server.forget_passwords();
            let ran = client.ask(login, &["select 'in'"]);
            let (first, last) = (ran.stdout.trim(), ran.stderr.trim());
            let may = if login.public_key { ", which may ask" } else { "" };
            told += &format!("{client:?}{may}: {first}{last}\n");
        }
    }
    insta::assert_snapshot!(told.replace(&port, "PORT"), @r#"
MariaDb: ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
MariaDb, which may ask: ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
Oracle: ERROR 2061 (HY000): Authentication plugin 'caching_sha2_password' reported error: Authentication requires secure connection.
Oracle, which may ask: in
Connector: InterfaceError: 2061 (HY000): Authentication plugin 'caching_sha2_password' reported error: Authentication requires secure connection.
Connector, which may ask: InterfaceError: 2061 (HY000): Authentication plugin 'caching_sha2_password' reported error: Authentication requires secure connection.
PureConnector: ProgrammingError: 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
PureConnector, which may ask: ProgrammingError: 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
PyMysql: in
PyMysql, which may ask: in
Jdbc: S1009: Could not connect to address=(host=127.0.0.1)(port=PORT)(type=master) : RSA public key is not available client side (option serverRsaPublicKeyFile not set)
Jdbc, which may ask: in
"#);
    Client::PyMysql.ask(&login, &["select 1"]).answer();
    for client in Client::ALL {
        assert_eq!(client.ask(&login, &["select 'in'"]).answer(), "in", "{client:?}");
    }
}

/// Five connections that come to nothing, and their host is blocked.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn a_server_blocks_a_host_that_gave_up_too_often() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = Mysql::with(&pki, &Setup { make, settings: mysql::BLOCKING, ..Setup::default() });
        let mut greetings = Vec::new();
        for _ in 0..7 {
            let errors = server.connect_errors();
            greetings.push(mysql::greeting_to_another_host(server.address()));
            eventually("it is counted", PATIENCE, || {
                (errors >= 5 || server.connect_errors() > errors).then_some(())
            });
        }
        let blocked = |greeting: &String| {
            greeting.contains("Host '127.0.0.2' is blocked because of many connection errors")
        };
        let blocked: Vec<bool> = greetings.iter().map(blocked).collect();
        assert_eq!(blocked, [false, false, false, false, false, true, true], "{make:?} {greetings:#?}");
    }
}
