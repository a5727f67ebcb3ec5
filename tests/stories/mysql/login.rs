//! Logging in: every client, each plugin, sockets of this machine, and clients with TLS of their own.

use serde_json::Value;

use super::super::harness::Pki;
use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{self, Make, Mysql, Setup, Tls};
use super::super::harness::mysql_clients::{Client, ClientTls, Login};
use super::super::harness::scene::story;
use super::super::harness::wording::redacted;
use super::{KNOWN, WHO, assert_all_succeeded, behind, through};

/// A client that knows no TLS is, to the server, one with TLS 1.3 and the certificate of its user. Each leaves one record,
/// a success.
#[track_caller]
fn every_client_reaches(make: Make) {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, make);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    // Oracle's default plugin knows the password from now on: how it comes to do so is a story of its own.
    let direct = Login::at(server.address()).over_tls(&pki, &mysql::client(&pki));
    Client::MariaDb.ask(&direct, &["select 1"]).answer();
    for client in Client::ALL {
        assert_eq!(client.ask(&through(&nuncio), WHO).answer(), KNOWN, "{client:?}");
    }
    for record in nuncio.wait_records(Client::ALL.len()) {
        assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
        assert!(record["negotiate_ms"].as_f64().is_some(), "{record}");
    }
    assert_all_succeeded(&mut nuncio, Client::ALL.len());
    // A connection that is given up before it is let in, is counted.
    assert_eq!(server.status("Aborted_connects"), 0, "{}", server.log());
}

/// MariaDB, whose users log in with mysql_native_password.
#[test]
#[ignore = "needs mariadb-server, java and clients in Python: tests/run brings them"]
fn every_client_reaches_a_mariadb_that_demands_certificates() {
    every_client_reaches(Make::MariaDb);
}

/// Oracle's, whose users log in with caching_sha2_password.
#[test]
#[ignore = "needs the newest mysql-server, java and clients in Python: tests/run brings them"]
fn every_client_reaches_an_oracle_that_demands_certificates() {
    every_client_reaches(Make::Oracle);
}

/// A client begins with the plugin that the server names first, and is switched to that of its user.
#[test]
#[ignore = "needs mariadb-server and java: tests/run brings them"]
fn a_client_is_switched_to_ed25519() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    for client in [Client::MariaDb, Client::Jdbc] {
        let ran = client.ask(&through(&nuncio).user(mysql::ED25519), WHO);
        assert_eq!(ran.answer(), "Ssl_version\tTLSv1.3\ned25519@%", "{client:?}");
    }
    let wrong = Login { password: "wrong", ..through(&nuncio).user(mysql::ED25519) };
    let ran = Client::MariaDb.ask(&wrong, WHO);
    assert!(ran.refusal().contains("ERROR 1045 (28000): Access denied for user 'ed25519'"), "{ran:#?}");
    assert_all_succeeded(&mut nuncio, 3);
}

/// MariaDB's newest server, with a plugin that takes two answers, and its client, which has to be told that TLS is nuncio's.
#[test]
#[ignore = "needs the newest mariadb-server: tests/run brings it"]
fn the_newest_mariadb_logs_in_by_parsec() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::NewestMariaDb);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let client = Client::NewestMariaDb;
    let skip_ssl = Login { tls: ClientTls::Disabled, ..through(&nuncio) };
    assert_eq!(client.ask(&skip_ssl, WHO).answer(), KNOWN);
    assert_eq!(Client::MariaDb.ask(&skip_ssl, WHO).answer(), KNOWN);
    let parsec = skip_ssl.user(mysql::PARSEC);
    assert_eq!(client.ask(&parsec, WHO).answer(), "Ssl_version\tTLSv1.3\nparsec@%");
    let ran = client.ask(&Login { password: "wrong", ..parsec }, WHO);
    assert!(ran.refusal().contains("ERROR 1045 (28000): Access denied for user 'parsec'"), "{ran:#?}");
    let ran = client.ask(&through(&nuncio), WHO);
    let record = nuncio.wait_records(5).pop().unwrap();
    insta::assert_snapshot!(format!("{}\n{}", ran.refusal(), told(&record)), @r#"
ERROR 2026 (HY000): TLS/SSL error: SSL is required, but the server does not support it
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server
"#);
}

/// A wrong password is the server's to refuse, in its own words; to nuncio that connection was a good one.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn a_wrong_password_is_refused_by_the_server_itself() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = Mysql::start(&pki, make);
        let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
        let login = Login { password: "wrong", ..through(&nuncio) };
        let ran = Client::MariaDb.ask(&login, &["select 1"]);
        let words = "ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)";
        assert_eq!(ran.refusal(), words, "{make:?}");
        assert_all_succeeded(&mut nuncio, 1);
    }
}

/// The makers' programs look for a socket before they look for a host.
#[test]
#[ignore = "needs mariadb-server and clients in Python: tests/run brings them"]
fn a_socket_of_this_machine_is_a_listener() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mysqld.sock");
    let file = behind(&pki, &[server.address()], "")
        .replace("\"127.0.0.1:0\"", &format!("\"unix:{}\"", socket.display()));
    let mut nuncio = Ambassador::start(&file);
    let clients =
        [Client::MariaDb, Client::Oracle, Client::Connector, Client::PureConnector, Client::PyMysql];
    for client in clients {
        assert_eq!(client.ask(&Login::on(&socket), WHO).answer(), KNOWN, "{client:?}");
    }
    assert_all_succeeded(&mut nuncio, clients.len());
}

/// With `tls = "off"` nothing is changed: a server without TLS is reached, and with one that demands it the client's own TLS
/// and certificate go from end to end.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn with_tls_off_the_client_secures_itself_or_not() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let [plain, strict] = [Tls::Absent, Tls::Required]
            .map(|tls| Mysql::with(&pki, &Setup { make, tls, ..Setup::default() }));
        let ambassador = |server: &Mysql| {
            Ambassador::start(&format!(
                "[listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\n[upstream.up]\nprotocol = \"mysql\"\n\
                 tls = \"off\"\nendpoints = [\"{}\"]\n",
                server.address()
            ))
        };
        let mut nuncio = ambassador(&plain);
        // The first of them has Oracle's server know the password.
        let clients = [
            Client::PyMysql,
            Client::MariaDb,
            Client::Oracle,
            Client::Connector,
            Client::PureConnector,
            Client::Jdbc,
        ];
        for client in clients {
            let ran = client.ask(&through(&nuncio), &["select current_user()"]);
            assert_eq!(ran.answer(), "app@%", "{make:?} {client:?}");
        }
        assert_all_succeeded(&mut nuncio, clients.len());
        let mut nuncio = ambassador(&strict);
        let clients =
            [Client::MariaDb, Client::Oracle, Client::Connector, Client::PureConnector, Client::PyMysql];
        for client in clients {
            let login = through(&nuncio).over_tls(&pki, &mysql::client(&pki));
            assert_eq!(client.ask(&login, WHO).answer(), KNOWN, "{make:?} {client:?}");
        }
        assert_all_succeeded(&mut nuncio, clients.len());
    }
}

/// A client that insists on TLS of its own is not offered it, and says so itself, or goes without; the log has the reason and
/// the mend.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn what_a_client_insists_on_is_in_the_log() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let demanded = Login { tls: ClientTls::Demanded, ..through(&nuncio) };
    let checked = through(&nuncio).over_tls(&pki, &pki.client);
    let port = nuncio.listener("in").port().to_string();
    let mut all = String::new();
    for (count, (what, client, login)) in [
        ("--ssl", Client::MariaDb, &demanded),
        ("--ssl-verify-server-cert", Client::MariaDb, &checked),
        ("--ssl-mode=REQUIRED", Client::Oracle, &demanded),
        ("ssl_verify_cert=True", Client::Connector, &checked),
        ("ssl_verify_cert=True", Client::PureConnector, &checked),
        ("ssl={}", Client::PyMysql, &demanded),
        ("ssl_verify_cert=True", Client::PyMysql, &checked),
        ("useSsl=true", Client::Jdbc, &demanded),
    ]
    .into_iter()
    .enumerate()
    {
        let ran = client.ask(login, &["select 'comes in'"]);
        let record = nuncio.wait_records(count + 1).pop().unwrap();
        let (out, words) = (ran.stdout.trim(), ran.stderr.trim());
        all += &format!("{client:?} {what}: {out}{words}\n{}", told(&record));
    }
    insta::assert_snapshot!(redacted(&all.replace(&port, "PORT")), @r#"
MariaDb --ssl: comes in
  success by client; ok

MariaDb --ssl-verify-server-cert: ERROR 2026 (HY000): TLS/SSL error: SSL is required, but the server does not support it
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server

Oracle --ssl-mode=REQUIRED: ERROR 2026 (HY000): SSL connection error: SSL is required but the server doesn't support it
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server

Connector ssl_verify_cert=True: comes in
  success by client; ok

PureConnector ssl_verify_cert=True: InterfaceError: 2026: SSL is required but the server doesn't support it
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server

PyMysql ssl={}: comes in
  success by client; ok

PyMysql ssl_verify_cert=True: OperationalError: (2026, "SSL is required but the server doesn't support it")
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server

Jdbc useSsl=true: 08000: Could not connect to address=(host=127.0.0.1)(port=PORT)(type=master) : (conn=11) Trying to connect with ssl, but ssl not enabled in the server
  cancelled greet/bad_preface/client by client; ok
  the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of its own
  switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the server
"#);
}

/// What the record has of it, for a person. Who closes first after the last word is open.
fn told(record: &Value) -> String {
    let story = story(record).replace("by upstream", "by client");
    let more = ["detail", "next_step"]
        .map(|key| record[key].as_str().map(|text| format!("  {text}\n")).unwrap_or_default());
    format!("  {story}\n{}\n", more.concat())
}
