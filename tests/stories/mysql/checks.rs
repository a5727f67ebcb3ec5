//! Health checks before servers that count connections which come to nothing, and block the host that they come from.

use std::fs;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{self, Make, Mysql, Setup};
use super::super::harness::mysql_clients::Client;
use super::super::harness::{PATIENCE, Pki, eventually};
use super::{KNOWN, WHO, behind, through};

/// An ambassador whose connections come from where the server counts them.
fn counted(pki: &Pki, server: &Mysql, health: &str) -> Ambassador {
    let rest =
        format!("source_address = \"{}\"\nbreaker.consecutive = \"off\"\n{health}", mysql::ANOTHER_HOST);
    Ambassador::start(&behind(pki, &[server.address()], &rest))
}

fn blocking(pki: &Pki, make: Make) -> Mysql {
    Mysql::with(pki, &Setup { make, settings: mysql::BLOCKING, ..Setup::default() })
}

/// Why checks are different here: those that only connect, as those of another protocol do, have everybody blocked after
/// five, and clients are told so.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn checks_that_only_connect_have_everybody_blocked() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = blocking(&pki, make);
        let _checks = Ambassador::start(&format!(
            "[listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\n[upstream.up]\ntls = \"off\"\n\
             endpoints = [\"{}\"]\nsource_address = \"{}\"\nhealth.kind = \"tcp\"\nhealth.interval = \"50ms\"\n",
            server.address(),
            mysql::ANOTHER_HOST
        ));
        eventually("five are counted", PATIENCE, || (server.connect_errors() >= 5).then_some(()));
        let nuncio = counted(&pki, &server, "");
        let ran = Client::MariaDb.ask(&through(&nuncio), WHO);
        assert!(
            ran.refusal().contains("error 1129 instead of its greeting: Host '127.0.0.2' is blocked"),
            "{ran:#?}"
        );
    }
}

/// Fifty checks of users who log in, one without a password and without rights, and one with: nothing is counted, and
/// clients come in.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn fifty_checks_that_log_in_block_nobody() {
    let pki = Pki::generate();
    let password = pki.directory().join("password");
    fs::write(&password, mysql::PASSWORD).unwrap();
    let with_password = format!("health.user = \"{}\"\nhealth.password_file = {password:?}\n", mysql::USER);
    let without = format!("health.user = \"{}\"\n", mysql::CHECK);
    // All at once: a check takes its time.
    let servers = Make::BOTH.map(|make| blocking(&pki, make));
    let mut checked = Vec::new();
    for server in &servers {
        for user in [&without, &with_password] {
            let health = format!("{user}health.interval = \"100ms\"\n");
            checked.push((user, counted(&pki, server, &health)));
        }
    }
    for (user, nuncio) in &mut checked {
        let checks = |result| nuncio.metric("nuncio_health_checks_total", &[("result", result)]);
        eventually("fifty are through, or one has failed", PATIENCE * 3, || {
            (checks("success") >= 50.0 || checks("failure") > 0.0).then_some(())
        });
        let failed = checks("failure");
        assert_eq!(failed, 0.0, "{user} {}", nuncio.process().tail());
        assert_eq!(Client::MariaDb.ask(&through(nuncio), WHO).answer(), KNOWN, "{user}");
    }
    for server in &servers {
        assert_eq!((server.connect_errors(), server.status("Aborted_connects")), (0, 0), "{}", server.log());
    }
}

/// Checks of a user whom the server does not know say nothing about the server: clients come in, and nobody is blocked.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn checks_that_are_not_let_in_harm_nobody() {
    let pki = Pki::generate();
    let servers = Make::BOTH.map(|make| blocking(&pki, make));
    let checked: Vec<_> = servers
        .iter()
        .map(|server| {
            counted(&pki, server, "health.user = \"nobody\"\nhealth.interval = \"100ms\"\nhealth.fall = 1\n")
        })
        .collect();
    for (server, nuncio) in servers.iter().zip(&checked) {
        eventually("more were turned away than may break off", PATIENCE, || {
            (server.status("Aborted_connects") > 5).then_some(())
        });
        assert_eq!(server.connect_errors(), 0, "{}", server.log());
        assert_eq!(Client::MariaDb.ask(&through(nuncio), WHO).answer(), KNOWN);
    }
}

/// Where no user is named there are no checks, and clients are what the ambassador judges by: nothing else
/// connects to the server.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn by_default_only_clients_reach_the_server() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = blocking(&pki, make);
        let mut nuncio = counted(&pki, &server, "health.interval = \"50ms\"\n");
        let before = server.status("Connections");
        let script = "select 1;\n".repeat(50);
        Client::MariaDb.run(&through(&nuncio), &script).answer();
        assert_eq!(nuncio.wait_records(1).len(), 1);
        // The question itself is a connection too.
        assert_eq!(server.status("Connections") - before, 2, "{make:?} {}", server.log());
        assert_eq!((server.connect_errors(), server.status("Aborted_connects")), (0, 0), "{}", server.log());
        let checks = nuncio.get("/metrics").body;
        assert!(!checks.contains("nuncio_health_checks_total{"), "{checks}");
    }
}
