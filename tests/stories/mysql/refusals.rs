//! No, as clients print it: the same words from MariaDB's mariadb, Oracle's mysql and PyMySQL, with a number for programs and
//! the id of the record.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{self, Make, Mysql, Setup, Tls};
use super::super::harness::mysql_clients::{self, Client, Login};
use super::super::harness::peer::Peer;
use super::super::harness::pki::{By, SERVER_NAME, Valid};
use super::super::harness::programs::Running;
use super::super::harness::scene::story;
use super::super::harness::wording::redacted;
use super::super::harness::{PATIENCE, Pki, clients, eventually, free_address};
use super::{behind, behind_as, through};

/// What clients meet is their own doing: nothing checks beside them, and no circuit opens after a few.
const ALONE: &str = "health.kind = \"off\"\nbreaker.consecutive = \"off\"\n";
/// A refusal is prompt: the client's own start included, on a busy machine.
const PROMPT: Duration = Duration::from_secs(10);

/// Asks with three clients, who must be told the same words: what Oracle's mysql prints, what mariadb and PyMySQL print before
/// these words, and how each was recorded.
#[track_caller]
fn told(nuncio: &mut Ambassador, pki: &Pki) -> String {
    let login = through(nuncio);
    let [oracle, record] = ask(nuncio, Client::Oracle, &login);
    let oracle = redacted(&oracle).replace(&pki.directory().display().to_string(), "/etc/nuncio");
    let (_, words) = oracle.split_once("): ").unwrap();
    let mut all = format!("{oracle}\n");
    for client in [Client::MariaDb, Client::PyMysql] {
        let [other, _] = ask(nuncio, client, &login);
        // Python's own quotes.
        let other = redacted(&other.replace("\\'", "'"))
            .replace(&pki.directory().display().to_string(), "/etc/nuncio");
        let (before, _) =
            other.split_once(words).unwrap_or_else(|| panic!("{client:?}: {other}, not {words}"));
        all += &format!("{client:?}: {before}...\n");
    }
    all + &record
}

/// What a client prints, and its record. Ports and the record's id, which the client must have been told, are replaced.
#[track_caller]
fn ask(nuncio: &mut Ambassador, client: Client, login: &Login) -> [String; 2] {
    let before = nuncio.records().len();
    let begun = Instant::now();
    let ran = client.ask(login, &["select 1"]);
    assert!(begun.elapsed() < PROMPT, "{:?}: {ran:#?}", begun.elapsed());
    let record = nuncio.wait_records(before + 1).remove(before);
    let id = record["id"].as_str().unwrap();
    let words = ran.refusal();
    if words.contains("nuncio: ") {
        assert!(words.contains(&format!("connection {id}")), "{ran:#?} {record}");
    }
    [words.replace(id, "ID"), story(&record)]
}

/// A client that holds its connection for a minute, at a statement.
#[track_caller]
fn holding(login: &Login, server: &Mysql) -> Running {
    let mut client = Client::MariaDb.start(login, "select sleep(60);\n");
    eventually("the server is at it", mysql_clients::LIMIT, || {
        assert!(client.is_running(), "it has ended");
        server.is_at("select sleep(60)").then_some(())
    });
    client
}

/// Nothing listens there.
#[test]
#[ignore = "needs mariadb, the newest mysql and clients in Python: tests/run brings them"]
fn the_server_is_down() {
    let pki = Pki::generate();
    let mut nuncio = Ambassador::start(&behind(&pki, &[free_address()], ALONE));
    insta::assert_snapshot!(told(&mut nuncio, &pki), @r#"
ERROR 1158 (HY000): nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - ...
PyMysql: OperationalError: (1158, '...
failed connect/connection_refused/upstream by ambassador; connect/connection_refused, connect/connection_refused, connect/connection_refused
"#);
}

/// After failures in a row nobody is sent there for a while.
#[test]
#[ignore = "needs mariadb, the newest mysql and clients in Python: tests/run brings them"]
fn the_circuit_is_open() {
    let pki = Pki::generate();
    let keys = "health.kind = \"off\"\nbreaker.consecutive = 1\nbreaker.open_for = \"60s\"\n";
    let mut nuncio = Ambassador::start(&behind(&pki, &[free_address()], keys));
    let login = through(&nuncio);
    ask(&mut nuncio, Client::MariaDb, &login);
    insta::assert_snapshot!(told(&mut nuncio, &pki), @r#"
ERROR 1158 (HY000): nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - ...
PyMysql: OperationalError: (1158, "...
refused route/circuit_open/upstream by ambassador
"#);
}

/// The server's certificate is of a CA that is not ours.
#[test]
#[ignore = "needs mariadb-server, the newest mysql and clients in Python: tests/run brings them"]
fn the_server_has_a_certificate_of_another_ca() {
    let pki = Pki::generate();
    let foreign = pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now);
    let server = Mysql::with(&pki, &Setup { server: Some(&foreign), ..Setup::default() });
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ALONE));
    insta::assert_snapshot!(told(&mut nuncio, &pki), @r#"
ERROR 1158 (08S01): nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)
MariaDb: ERROR 1158 (08S01): ...
PyMysql: OperationalError: (1158, "...
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error
"#);
}

/// The server does not trust the issuer of our certificate. With TLS 1.3 it says so when the client's answer is on its way
/// already, with TLS 1.2 in the handshake.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn the_server_refuses_our_certificate() {
    let pki = Pki::generate();
    let stranger = pki.issue("stranger", &["app"], By::Foreign, Valid::Now);
    let mut all = String::new();
    for make in Make::BOTH {
        let server = Mysql::start(&pki, make);
        for version in ["1.3", "1.2"] {
            let keys = format!("{ALONE}tls_max = \"{version}\"\n");
            let mut nuncio = Ambassador::start(&behind_as(&pki, &stranger, &[server.address()], &keys));
            all += &format!("{make:?}, TLS {version}\n{}\n\n", told(&mut nuncio, &pki));
        }
    }
    insta::assert_snapshot!(all, @r#"
MariaDb, TLS 1.3
ERROR 1158 (08S01): nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); add CN=nuncio test CA to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in /etc/nuncio/stranger.pem (client_certificate_refused, connection ID)
MariaDb: ERROR 1158 (08S01): ...
PyMysql: OperationalError: (1158, '...
failed greet/client_certificate_refused/upstream by upstream; ok

MariaDb, TLS 1.2
ERROR 1158 (08S01): nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); add CN=nuncio test CA to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in /etc/nuncio/stranger.pem (client_certificate_refused, connection ID)
MariaDb: ERROR 1158 (08S01): ...
PyMysql: OperationalError: (1158, '...
failed handshake/client_certificate_refused/upstream by ambassador; handshake/client_certificate_refused

Oracle, TLS 1.3
ERROR 1158 (08S01): nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); add CN=nuncio test CA to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in /etc/nuncio/stranger.pem (client_certificate_refused, connection ID)
MariaDb: ERROR 1158 (08S01): ...
PyMysql: OperationalError: (1158, '...
failed greet/client_certificate_refused/upstream by upstream; ok

Oracle, TLS 1.2
ERROR 1158 (08S01): nuncio: the server refused our certificate CN=app, issued by CN=nuncio test CA, with the alert unknown_ca (48); add CN=nuncio test CA to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in /etc/nuncio/stranger.pem (client_certificate_refused, connection ID)
MariaDb: ERROR 1158 (08S01): ...
PyMysql: OperationalError: (1158, '...
failed handshake/client_certificate_refused/upstream by ambassador; handshake/client_certificate_refused
"#);
}

/// Servers without TLS.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn the_server_has_no_tls() {
    let pki = Pki::generate();
    let mut all = String::new();
    for make in Make::BOTH {
        let server = Mysql::with(&pki, &Setup { make, tls: Tls::Absent, ..Setup::default() });
        let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], ALONE));
        all += &format!("{make:?}\n{}\n\n", told(&mut nuncio, &pki));
    }
    insta::assert_snapshot!(all, @r#"
MariaDb
ERROR 1158 (HY000): nuncio: the server does not offer TLS (its greeting has no CLIENT_SSL); give it ssl_cert, ssl_key and ssl_ca in its my.cnf; or, where the network is trusted, tls = "off" here (negotiation_refused, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - ...
PyMysql: OperationalError: (1158, '...
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused, negotiate/negotiation_refused, negotiate/negotiation_refused

Oracle
ERROR 1158 (HY000): nuncio: the server does not offer TLS (its greeting has no CLIENT_SSL); give it ssl_cert, ssl_key and ssl_ca in its my.cnf; or, where the network is trusted, tls = "off" here (negotiation_refused, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - ...
PyMysql: OperationalError: (1158, '...
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused, negotiate/negotiation_refused, negotiate/negotiation_refused
"#);
}

/// Somebody else listens there, who says nothing or something else.
#[test]
#[ignore = "needs mariadb, the newest mysql and clients in Python: tests/run brings them"]
fn the_server_is_none() {
    let pki = Pki::generate();
    let mut all = String::new();
    for greeting in ["", "220 mx.upstream.test ESMTP\r\n"] {
        let peer = Peer::start(move |mut stream| {
            // Errors: nuncio has heard enough.
            stream.write_all(greeting.as_bytes()).ok();
            io::copy(&mut stream, &mut io::sink()).ok();
        });
        let keys = format!("{ALONE}timeouts.negotiate = \"300ms\"\n");
        let mut nuncio = Ambassador::start(&behind(&pki, &[peer.address()], &keys));
        all += &format!("{greeting:?}\n{}\n\n", told(&mut nuncio, &pki));
    }
    insta::assert_snapshot!(all, @r#"
""
ERROR 1159 (HY000): nuncio: the server's greeting did not come within 300ms; is it a MySQL or MariaDB server? One that looks up our host's name first may hang in its DNS (skip_name_resolve = ON there) (negotiation_timeout, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1159 - ...
PyMysql: OperationalError: (1159, "...
failed negotiate/negotiation_timeout/upstream by ambassador; negotiate/negotiation_timeout, negotiate/negotiation_timeout, negotiate/negotiation_timeout

"220 mx.upstream.test ESMTP\r\n"
ERROR 1158 (HY000): nuncio: no MySQL server answers there: it began with "220 "; is `protocol` the one that this server speaks? (negotiation_error, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - ...
PyMysql: OperationalError: (1158, '...
failed negotiate/negotiation_error/upstream by ambassador; negotiate/negotiation_error, negotiate/negotiation_error, negotiate/negotiation_error
"#);
}

/// What the server itself refuses, in place of its greeting or inside TLS, passes as it is: no more places, a blocked host, a
/// certificate of another user.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn what_the_server_refuses_is_in_its_own_words() {
    let pki = Pki::generate();
    let mut all = String::new();
    for make in Make::BOTH {
        let with = |settings| Mysql::with(&pki, &Setup { make, settings, ..Setup::default() });
        let mut refused = |name: &str, nuncio: &mut Ambassador| {
            let login = through(nuncio);
            let [words, record] = ask(nuncio, Client::MariaDb, &login);
            // Who closes first after the server's last word is open.
            all += &format!("{name}: {}\n{}\n", redacted(&words), record.replace("by client", "by upstream"));
        };
        let server = with(&["max-connections=10"]);
        let others: Vec<_> = (0..10).map(|_| clients::connect(server.address())).collect();
        eventually("all places are taken", PATIENCE, || {
            (server.status("Threads_connected") > 10).then_some(())
        });
        refused("too many", &mut Ambassador::start(&behind(&pki, &[server.address()], ALONE)));
        drop(others);
        let server = with(mysql::BLOCKING);
        for count in 1..=5 {
            mysql::greeting_to_another_host(server.address());
            eventually("it is counted", PATIENCE, || (server.connect_errors() == count).then_some(()));
        }
        let keys = format!("{ALONE}source_address = \"{}\"\n", mysql::ANOTHER_HOST);
        refused("blocked", &mut Ambassador::start(&behind(&pki, &[server.address()], &keys)));
        refused(
            "another user",
            &mut Ambassador::start(&behind_as(&pki, &pki.client, &[server.address()], ALONE)),
        );
    }
    insta::assert_snapshot!(all, @r#"
too many: ERROR 1040 (08004): Too many connections
failed greet/negotiation_refused/upstream by upstream; ok
blocked: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - nuncio: the server answered with error 1129 instead of its greeting: Host '127.0.0.2' is blocked because of many connection errors; unblock with 'mariadb-admin flush-hosts'; run FLUSH HOSTS (mariadb-admin flush-hosts) there, find out what broke off so many connections from this host, and raise its max_connect_errors (negotiation_refused, connection ID)
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused, negotiate/negotiation_refused, negotiate/negotiation_refused
another user: ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
success by upstream; ok
too many: ERROR 1040 (08004): Too many connections
failed greet/negotiation_refused/upstream by upstream; ok
blocked: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1158 - nuncio: the server answered with error 1129 instead of its greeting: Host '127.0.0.2' is blocked because of many connection errors; unblock with 'mysqladmin flush-hosts'; run FLUSH HOSTS (mariadb-admin flush-hosts) there, find out what broke off so many connections from this host, and raise its max_connect_errors (negotiation_refused, connection ID)
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused, negotiate/negotiation_refused, negotiate/negotiation_refused
another user: ERROR 1045 (28000): Access denied for user 'app'@'localhost' (using password: YES)
success by upstream; ok
"#);
}

/// No place at the upstream comes free in time.
#[test]
#[ignore = "needs mariadb-server, the newest mysql and clients in Python: tests/run brings them"]
fn the_upstream_has_no_place_left() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let keys = format!("{ALONE}limits.connections = 1\nlimits.queue_timeout = \"300ms\"\n");
    let mut nuncio = Ambassador::start(&behind(&pki, &[server.address()], &keys));
    let _only = holding(&through(&nuncio), &server);
    insta::assert_snapshot!(told(&mut nuncio, &pki), @r#"
ERROR 1040 (HY000): nuncio: none of the 1 places (limits.connections) came free within N s (limits.queue_timeout); raise limits.connections, or find out why connections are held so long (queue_timeout, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1040 - ...
PyMysql: OperationalError: (1040, '...
failed queue/queue_timeout/ambassador by ambassador
"#);
}

/// The listener's own cap.
#[test]
#[ignore = "needs mariadb-server, the newest mysql and clients in Python: tests/run brings them"]
fn the_listener_has_no_place_left() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let file =
        behind(&pki, &[server.address()], ALONE).replace("[upstream.up]", "connections = 1\n[upstream.up]");
    let mut nuncio = Ambassador::start(&file);
    let _only = holding(&through(&nuncio), &server);
    insta::assert_snapshot!(told(&mut nuncio, &pki), @r#"
ERROR 1040 (HY000): nuncio: as many connections of this listener are open as may be: 1 (`connections`); raise the limit that the detail names, or find who holds the connections (connection_limit_reached, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1040 - ...
PyMysql: OperationalError: (1040, '...
refused admit/connection_limit_reached/ambassador by ambassador
"#);
}

/// Another user of this host than those who may.
#[test]
#[ignore = "needs mariadb, the newest mysql and clients in Python: tests/run brings them"]
fn the_client_may_not_come_in() {
    let pki = Pki::generate();
    let file = behind(&pki, &[free_address()], ALONE)
        .replace("[upstream.up]", "allow_users = [\"daemon\"]\n[upstream.up]");
    let mut nuncio = Ambassador::start(&file);
    let told = told(&mut nuncio, &pki);
    let us = told.split("user ").nth(1).unwrap().split(" may not").next().unwrap().to_owned();
    insta::assert_snapshot!(told.replace(&us, "USER (uid N)"), @r#"
ERROR 1130 (HY000): nuncio: user USER (uid N) may not use this listener; add the user to the listener's `allow_users` (or `allow_groups`): USER (uid N) (admission_denied, connection ID)
MariaDb: ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1130 - ...
PyMysql: OperationalError: (1130, "...
refused admit/admission_denied/client by ambassador
"#);
}

/// SIGTERM while a client waits for a place: it is told when the time is up, and who comes later finds nobody listening. A
/// client in the middle of a statement is cut off.
#[test]
#[ignore = "needs mariadb-server: tests/run installs it"]
fn nuncio_is_stopping() {
    let pki = Pki::generate();
    let server = Mysql::start(&pki, Make::MariaDb);
    let keys = format!(
        "{ALONE}limits.connections = 1\nlimits.queue_timeout = \"60s\"\ntimeouts.establish = \"60s\"\n"
    );
    let file = behind(&pki, &[server.address()], &keys);
    let mut nuncio = Ambassador::start(&format!("drain_timeout = \"1s\"\ndrain_jitter = \"0s\"\n{file}"));
    let login = through(&nuncio);
    let only = holding(&login, &server);
    let waiting = Client::MariaDb.start(&login, "select 1;\n");
    nuncio.wait_state("/api/v1/upstreams", "one waits in the queue", |upstreams| {
        (upstreams[0]["waiting"] == 1).then_some(())
    });
    nuncio.process().signal("TERM");
    nuncio.wait_line("draining");
    let late = Client::MariaDb.run(&login, "select 1;\n");
    assert!(late.refusal().contains("Can't connect to server on '127.0.0.1'"), "{late:#?}");
    let [waiting, only] = [waiting, only].map(|client| client.finish(mysql_clients::LIMIT));
    assert!(nuncio.process().wait_exit(PATIENCE).success());
    let records = nuncio.records();
    let find = |relay: bool| records.iter().find(|record| (record["stage"] == "relay") == relay).unwrap();
    let record = find(false);
    assert_eq!((&record["outcome"], &record["reason"]), (&"refused".into(), &"draining".into()));
    let words = waiting.refusal().replace(record["id"].as_str().unwrap(), "ID");
    let whole = format!("{}\n\n{}\n{}", redacted(&words), only.refusal(), story(find(true)));
    insta::assert_snapshot!(whole, @r#"
ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The authenticity of the following error cannot be verified: 1053 - nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)

--------------
select sleep(60)
--------------

ERROR 2013 (HY000) at line 1: Lost connection to server during query
cancelled relay/draining/ambassador by ambassador; ok
"#);
}
