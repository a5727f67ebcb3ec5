//! What goes over a connection once its client is let in: load, large rows, files, compression, and nothing for a while.

use std::fs;
use std::time::{Duration, Instant};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{self, Make, Mysql};
use super::super::harness::mysql_clients::{self, Client, Login};
use super::super::harness::{Pki, eventually};
use super::{KNOWN, WHO, assert_all_succeeded, behind, through};

/// A server of this make, and an ambassador before it whose clients need not give their password away.
#[track_caller]
fn world(pki: &Pki, make: Make) -> (Mysql, Ambassador) {
    let server = Mysql::start(pki, make);
    let direct = Login::at(server.address()).over_tls(pki, &mysql::client(pki));
    Client::MariaDb.ask(&direct, &["select 1"]).answer();
    let nuncio = Ambassador::start(&behind(pki, &[server.address()], ""));
    (server, nuncio)
}

/// Eight clients at it, who connect anew after every few statements: no error, on either side of nuncio.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn slap_sees_no_error() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let (server, mut nuncio) = world(&pki, make);
        let options = ["--concurrency=8", "--number-of-queries=800", "--detach=20"];
        slap(&through(&nuncio), &options);
        nuncio.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
        // Records are printed a little later than they are counted.
        let count = nuncio.metric("nuncio_connections_total", &[]);
        assert!(count >= 40.0, "{count}");
        assert_all_succeeded(&mut nuncio, count as usize);
        assert_eq!(server.status("Aborted_connects"), 0, "{}", server.log());
    }
}

/// A minute of 32 clients.
#[test]
#[ignore = "needs mariadb-server: tests/run installs it"]
fn long_slap_of_32_clients_for_a_minute() {
    let pki = Pki::generate();
    let (server, mut nuncio) = world(&pki, Make::MariaDb);
    let direct = Login::at(server.address()).over_tls(&pki, &mysql::client(&pki));
    let minute = |login: &Login| {
        let (begun, mut queries) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(60) {
            slap(login, &["--concurrency=32", "--number-of-queries=16000", "--detach=500"]);
            queries += 16_000;
        }
        f64::from(queries) / begun.elapsed().as_secs_f64()
    };
    let [through, direct] = [through(&nuncio), direct].map(|login| minute(&login));
    println!("through nuncio {through:.0} queries/s, direct TLS {direct:.0}: {:.2}", through / direct);
    assert!(through > direct / 3.0, "far from it");
    nuncio.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
    let count = nuncio.metric("nuncio_connections_total", &[]);
    assert_all_succeeded(&mut nuncio, count as usize);
}

#[track_caller]
fn slap(login: &Login, options: &[&str]) {
    let mixed = [
        "--auto-generate-sql",
        "--auto-generate-sql-load-type=mixed",
        "--auto-generate-sql-write-number=100",
    ];
    let ran = mysql_clients::slap(login, &[&mixed, options].concat()).finish(Duration::from_secs(120));
    assert!(ran.answer().contains("Average number of seconds"), "{ran:#?}");
    assert_eq!(ran.stderr, "", "{ran:#?}");
}

/// A row of 20 MB: up in one statement, which is longer than a packet can be, and down again.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn a_row_of_20_megabytes_goes_both_ways() {
    let pki = Pki::generate();
    let row = "0123456789abcdef".repeat(20 << 16);
    for (make, client) in [(Make::MariaDb, Client::MariaDb), (Make::Oracle, Client::Oracle)] {
        let (server, mut nuncio) = world(&pki, make);
        let script =
            format!("create table app.t (v longtext);\ninsert into t values ('{row}');\nselect v from t;\n");
        let ran = client.run(&through(&nuncio), &script);
        assert!(ran.answer() == row, "{make:?}: {} bytes, {}", ran.stdout.len(), ran.stderr);
        assert_eq!(server.sql("select length(v) from app.t"), row.len().to_string());
        let read = nuncio.wait_records(1).remove(0);
        assert!(read["bytes_sent"].as_u64().unwrap() > row.len() as u64, "{read}");
        assert!(read["bytes_received"].as_u64().unwrap() > row.len() as u64, "{read}");
        assert_all_succeeded(&mut nuncio, 1);
    }
}

/// The server asks a client for a file of its own, in the middle of a statement.
#[track_caller]
fn a_file_is_loaded_into(make: Make) {
    let pki = Pki::generate();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rows");
    let rows: String = (0..100_000).map(|row| format!("{row}\n")).collect();
    fs::write(&file, rows).unwrap();
    let (server, mut nuncio) = world(&pki, make);
    server.sql("create table app.t (n int)");
    let load = format!("load data local infile '{}' into table app.t", file.display());
    for client in Client::ALL {
        let asked = [&load, "select count(*), sum(n) from app.t", "truncate table app.t"];
        let ran = client.ask(&through(&nuncio), &asked);
        assert_eq!(ran.answer(), "100000\t4999950000", "{client:?}");
    }
    assert_all_succeeded(&mut nuncio, Client::ALL.len());
}

/// MariaDB.
#[test]
#[ignore = "needs mariadb-server, java and clients in Python: tests/run brings them"]
fn a_file_of_the_client_is_loaded_into_a_mariadb() {
    a_file_is_loaded_into(Make::MariaDb);
}

/// Oracle's.
#[test]
#[ignore = "needs the newest mysql-server, java and clients in Python: tests/run brings them"]
fn a_file_of_the_client_is_loaded_into_an_oracle() {
    a_file_is_loaded_into(Make::Oracle);
}

/// Compression is agreed upon before TLS, between the client and the server.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn client_and_server_compress() {
    let pki = Pki::generate();
    let clients = [Client::MariaDb, Client::Oracle, Client::Connector, Client::PureConnector, Client::Jdbc];
    for make in Make::BOTH {
        let (_server, mut nuncio) = world(&pki, make);
        for client in clients {
            let login = Login { compress: true, ..through(&nuncio) };
            let ran =
                client.ask(&login, &["show session status like 'Compression'", "select repeat('x', 100000)"]);
            let expected = format!("Compression\tON\n{}", "x".repeat(100_000));
            assert!(ran.answer() == expected, "{make:?} {client:?} {:.300} {}", ran.stdout, ran.stderr);
        }
        for record in nuncio.wait_records(clients.len()) {
            assert!(record["bytes_received"].as_u64().unwrap() < 20_000, "{record}");
        }
        assert_all_succeeded(&mut nuncio, clients.len());
    }
}

/// Statements are prepared by the server and executed in the binary protocol; the database is changed; and what the session
/// has is reset.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn a_session_prepares_statements_and_changes_its_database() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let (server, mut nuncio) = world(&pki, make);
        server.sql("create table app.t (n int, s varchar(10)); insert into app.t values (7, 'seven')");
        for client in [Client::Connector, Client::PureConnector, Client::Jdbc] {
            let before = server.status("Com_stmt_execute");
            let ran = client.ask(&through(&nuncio), &["select n, s from t", "select now() > '2020-01-01'"]);
            assert_eq!(ran.answer(), "7\tseven\n1", "{make:?} {client:?}");
            assert!(server.status("Com_stmt_execute") >= before + 2, "{make:?} {client:?}");
        }
        for client in [Client::MariaDb, Client::Oracle] {
            let script = "prepare p from 'select ? * n from t';\nset @six = 6;\nexecute p using @six;\n\
                          use information_schema;\nselect database();\nuse app;\nselect database();\n";
            let ran = client.run(&through(&nuncio), script);
            assert_eq!(ran.answer(), "42\ninformation_schema\napp", "{make:?} {client:?}");
        }
        assert_all_succeeded(&mut nuncio, 5);
    }
}

/// Another user in the same session, which logs in anew inside it: the way without the password itself passes.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server and clients in Python: tests/run brings them"]
fn a_session_changes_its_user() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let (_server, mut nuncio) = world(&pki, make);
        for client in [Client::Connector, Client::PureConnector] {
            let ran = client.ask(
                &through(&nuncio),
                &["set @x = 1", "change user", "select @x is null", "select current_user()"],
            );
            assert_eq!(ran.answer(), "1\napp@%", "{make:?} {client:?}");
        }
        assert_all_succeeded(&mut nuncio, 2);
    }
}

/// The server ends the session, and a client that may connects again by itself.
#[test]
#[ignore = "needs mariadb-server and clients in Python: tests/run brings them"]
fn a_client_connects_again_after_its_session_was_killed() {
    let pki = Pki::generate();
    let (_server, mut nuncio) = world(&pki, Make::MariaDb);
    for client in [Client::Connector, Client::PureConnector, Client::PyMysql] {
        let ran = client.ask(&through(&nuncio), &["set @x = 1", "be killed", "select @x is null"]);
        assert!(ran.answer().ends_with("Error\n1"), "{client:?} {ran:#?}");
    }
    assert_eq!(nuncio.wait_records(6).len(), 6);
    nuncio.stop(super::PATIENCE);
}

/// The server is restarted under a client: the client's words for it, and the next one finds it again.
#[test]
#[ignore = "needs mariadb-server: tests/run installs it"]
fn the_server_restarts() {
    let pki = Pki::generate();
    let (mut server, nuncio) = world(&pki, Make::MariaDb);
    let sleeping = Client::MariaDb.start(&through(&nuncio), "select sleep(60);\n");
    eventually("the server is at it", mysql_clients::LIMIT, || {
        server.is_at("select sleep(60)").then_some(())
    });
    server.restart();
    let ran = sleeping.finish(mysql_clients::LIMIT);
    assert!(ran.refusal().contains("ERROR "), "{ran:#?}");
    eventually("the next one comes in", mysql_clients::LIMIT, || {
        (Client::MariaDb.ask(&through(&nuncio), WHO).stdout.trim() == KNOWN).then_some(())
    });
}

/// Five minutes in which nobody says anything, and the session goes on.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn long_five_idle_minutes_are_survived() {
    let pki = Pki::generate();
    let worlds = Make::BOTH.map(|make| world(&pki, make));
    let script = "set @x = 'still here';\n\\! sleep 300\nselect @x;\n";
    let waiting: Vec<_> =
        worlds.iter().map(|(_, nuncio)| Client::MariaDb.start(&through(nuncio), script)).collect();
    for client in waiting {
        assert_eq!(client.finish(Duration::from_secs(360)).answer(), "still here");
    }
    for (_, mut nuncio) in worlds {
        let record = nuncio.wait_records(1).remove(0);
        assert!(record["duration_ms"].as_f64().unwrap() > 299_000.0, "{record}");
        assert_all_succeeded(&mut nuncio, 1);
    }
}
