//! MySQL of both makers and their clients among themselves, without nuncio: what the stories with nuncio rest on.

#![cfg(unix)]

use super::harness::Pki;
use super::harness::mysql::{self, Make, Mysql, Setup, Tls};
use super::harness::mysql_clients::{Client, ClientTls, Login};
use super::harness::pki::{By, Valid};

const TLS: &str = "show status like 'Ssl_version'";

/// The user's own certificate is let in over TLS 1.3; no TLS, no certificate and another's certificate are not.
#[test]
#[ignore = "needs mariadb-server and the newest mysql-server: tests/run brings them"]
fn a_server_lets_in_who_has_the_certificate_of_the_user() {
    let pki = Pki::generate();
    let good = mysql::client(&pki);
    let stranger = pki.issue("stranger", &[mysql::USER], By::Foreign, Valid::Now);
    for make in Make::BOTH {
        let server = Mysql::start(&pki, make);
        let login = Login::at(server.address());
        for client in [Client::MariaDb, Client::Oracle, Client::Connector, Client::PureConnector, Client::PyMysql] {
            let over_tls = login.clone().over_tls(&pki, &good);
            let ran = client.ask(&over_tls, &[TLS, "select current_user()"]);
            assert_eq!(ran.answer(), "Ssl_version\tTLSv1.3\napp@%", "{make:?} {client:?}");
            let refused = |login: &Login, why: &str| {
                let ran = client.ask(login, &["select 1"]);
                assert!(ran.refusal().contains(why), "{make:?} {client:?} {ran:#?}");
            };
            refused(&Login { tls: ClientTls::Disabled, ..login.clone() }, "1045 ");
            refused(&Login { tls: ClientTls::Demanded, ..login.clone() }, "1045 ");
            refused(&login.clone().over_tls(&pki, &pki.client), "1045 ");
            refused(&login.clone().over_tls(&pki, &stranger), "unknown ca");
            refused(&Login { password: "wrong", ..over_tls }, "1045 ");
        }
    }
}

/// Every client there is speaks to both in plaintext where that is allowed.
#[test]
#[ignore = "needs mariadb-server, the newest mysql-server, java and clients in Python: tests/run brings them"]
fn every_client_comes_in_where_a_password_is_enough() {
    let pki = Pki::generate();
    for make in Make::BOTH {
        let server = Mysql::with(&pki, &Setup { make, tls: Tls::Offered, ..Setup::default() });
        for client in Client::ALL {
            let ran = client.ask(&Login::at(server.address()), &["select 6 * 7", TLS]);
            println!("{make:?} {client:?} {ran:#?}");
        }
    }
}
