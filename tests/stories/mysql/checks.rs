//! Health checks before servers that count connections which come to nothing, and block the host that they come from.

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

/// Why there are other checks: those that go no further than TCP have clients blocked after five, and the client is told so
/// by the server.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn checks_that_only_connect_have_everybody_blocked() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = blocking(&pki, make);
        let nuncio = counted(&pki, &server, "health.kind = \"tcp\"\nhealth.interval = \"50ms\"\n");
        eventually("five are counted", PATIENCE, || (server.connect_errors() >= 5).then_some(()));
        let ran = Client::MariaDb.ask(&through(&nuncio), WHO);
        assert!(ran.refusal().contains("ERROR 1129 "), "{make:?} {ran:#?}");
        assert!(
            ran.refusal().contains("Host '127.0.0.2' is blocked because of many connection errors"),
            "{ran:#?}"
        );
    }
}

/// Fifty checks by a user who may do nothing but log in: nothing is counted, and clients come in.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn fifty_checks_that_log_in_block_nobody() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = blocking(&pki, make);
        let health = format!("health.user = \"{}\"\nhealth.interval = \"50ms\"\n", mysql::CHECK);
        let nuncio = counted(&pki, &server, &health);
        nuncio.wait_metric("nuncio_health_checks_total", &[("result", "success")], |passed| passed >= 50.0);
        assert_eq!(nuncio.metric("nuncio_health_checks_total", &[("result", "failure")]), 0.0);
        assert_eq!((server.connect_errors(), server.status("Aborted_connects")), (0, 0), "{}", server.log());
        assert_eq!(Client::MariaDb.ask(&through(&nuncio), WHO).answer(), KNOWN, "{make:?}");
    }
}

/// Where nothing is said of checks there are none: nothing reaches the server but its clients.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn by_default_only_clients_reach_the_server() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = blocking(&pki, make);
        let before = server.status("Connections");
        let nuncio = counted(&pki, &server, "health.interval = \"50ms\"\n");
        for _ in 0..6 {
            assert_eq!(Client::MariaDb.ask(&through(&nuncio), WHO).answer(), KNOWN, "{make:?}");
        }
        // Each question of ours is a connection too.
        let own = 2;
        assert_eq!(server.connect_errors(), 0, "{}", server.log());
        assert_eq!(server.status("Connections") - before, 6 + own);
    }
}
