//! caching_sha2_password and sha256_password: the server wants the password itself, which clients give away only to somebody
//! whom they take for safe.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::super::harness::Pki;
use super::super::harness::ambassador::Ambassador;
use super::super::harness::mysql::{self, Make, Mysql};
use super::super::harness::mysql_clients::{Client, Login};
use super::super::harness::scene::story;
use super::{KNOWN, WHO, assert_all_succeeded, behind, through};

const IN: &[&str] = &["select current_user()"];

/// An Oracle server behind listeners of both kinds.
struct World {
    server: Mysql,
    nuncio: Ambassador,
    directory: TempDir,
}

impl World {
    #[track_caller]
    fn start(pki: &Pki) -> World {
        let server = Mysql::start(pki, Make::Oracle);
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s").display().to_string();
        let file = behind(pki, &[server.address()], "")
            .replace("\"127.0.0.1:0\"", &format!("[\"127.0.0.1:0\", \"unix:{socket}\"]"));
        let nuncio = Ambassador::start(&file);
        World { server, nuncio, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }
}

/// The password appears nowhere in what nuncio writes.
#[track_caller]
fn assert_not_told(nuncio: &mut Ambassador) {
    let lines = nuncio.process().lines().join("\n");
    assert!(!lines.contains(mysql::PASSWORD), "{lines}");
}

/// Every client that gives its password away over TCP, encrypted with a key that it asks for or as it is: the server takes
/// it, each time anew.
#[test]
#[ignore = "needs the newest mysql-server, java and clients in Python: tests/run brings them"]
fn the_full_path_of_caching_sha2_is_taken_over_tcp() {
    let pki = Pki::generate();
    let mut world = World::start(&pki);
    let may_ask = Login { public_key: true, ..through(&world.nuncio) };
    let clients = [Client::Oracle, Client::PyMysql, Client::Jdbc, Client::MariaDb, Client::PureConnector];
    for client in clients {
        world.server.forget_passwords();
        assert_eq!(client.ask(&may_ask, WHO).answer(), KNOWN, "{client:?}");
        world.server.forget_passwords();
        let wrong = Login { password: "wrong", ..may_ask.clone() };
        let ran = client.ask(&wrong, WHO);
        assert!(ran.refusal().contains("Access denied for user 'app'"), "{client:?} {ran:#?}");
    }
    assert_not_told(&mut world.nuncio);
    assert_all_succeeded(&mut world.nuncio, 2 * clients.len());
}

/// Over TCP mysql-connector-python gives its password to nobody in its half in C, and to everybody in its half in Python.
/// Once the server has it, both come in by the fast path.
#[test]
#[ignore = "needs the newest mysql-server and clients in Python: tests/run brings them"]
fn mysql_connector_python_takes_both_paths_over_tcp() {
    let pki = Pki::generate();
    let mut world = World::start(&pki);
    let login = through(&world.nuncio);
    world.server.forget_passwords();
    let ran = Client::Connector.ask(&login, WHO);
    assert!(ran.refusal().ends_with("Authentication requires secure connection."), "{ran:#?}");
    assert_eq!(Client::PureConnector.ask(&login, WHO).answer(), KNOWN, "full");
    assert_eq!(Client::PureConnector.ask(&login, WHO).answer(), KNOWN, "fast");
    assert_eq!(Client::Connector.ask(&login, WHO).answer(), KNOWN, "fast");
    assert_not_told(&mut world.nuncio);
    let records = world.nuncio.wait_records(4);
    let successes = records.iter().filter(|record| record["outcome"] == "success").count();
    assert_eq!(successes, 3, "{records:#?}");
}

/// A socket of this machine is safe enough for all of them: both halves of mysql-connector-python, full and fast.
#[test]
#[ignore = "needs the newest mysql-server and clients in Python: tests/run brings them"]
fn both_paths_of_caching_sha2_are_taken_over_a_socket() {
    let pki = Pki::generate();
    let mut world = World::start(&pki);
    let login = Login::on(&world.socket());
    let clients =
        [Client::Connector, Client::PureConnector, Client::PyMysql, Client::MariaDb, Client::Oracle];
    for client in clients {
        world.server.forget_passwords();
        assert_eq!(client.ask(&login, WHO).answer(), KNOWN, "{client:?}, full");
        assert_eq!(client.ask(&login, WHO).answer(), KNOWN, "{client:?}, fast");
    }
    assert_not_told(&mut world.nuncio);
    assert_all_succeeded(&mut world.nuncio, 2 * clients.len());
}

/// The older plugin wants the password each time; its clients ask for the key without being told to.
#[test]
#[ignore = "needs the newest mysql-server and clients in Python: tests/run brings them"]
fn sha256_password_is_unwrapped() {
    let pki = Pki::generate();
    let mut world = World::start(&pki);
    let tcp = through(&world.nuncio).user(mysql::SHA256);
    let clients = [Client::MariaDb, Client::Oracle, Client::PyMysql, Client::Connector];
    for client in clients {
        assert_eq!(client.ask(&tcp, IN).answer(), "sha256@%", "{client:?}");
        let wrong = Login { password: "wrong", ..tcp.clone() };
        let ran = client.ask(&wrong, IN);
        assert!(ran.refusal().contains("Access denied for user 'sha256'"), "{client:?} {ran:#?}");
    }
    let socket = Login::on(&world.socket()).user(mysql::SHA256);
    for client in [Client::MariaDb, Client::Oracle, Client::Connector] {
        assert_eq!(client.ask(&socket, IN).answer(), "sha256@%", "{client:?}");
    }
    assert_not_told(&mut world.nuncio);
    assert_all_succeeded(&mut world.nuncio, 2 * clients.len() + 3);
}

/// Clients that neither ask for the key nor send their password say so themselves; the log tells what to set.
#[test]
#[ignore = "needs the newest mysql-server, java and clients in Python: tests/run brings them"]
fn a_client_that_must_not_ask_for_the_key_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let mut world = World::start(&pki);
    let mut all = String::new();
    for (count, client) in [Client::Oracle, Client::Connector, Client::Jdbc].into_iter().enumerate() {
        world.server.forget_passwords();
        let ran = client.ask(&through(&world.nuncio), IN);
        let record: Value = world.nuncio.wait_records(count + 1).pop().unwrap();
        let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
        let port = world.nuncio.listener("in").port().to_string();
        let words = ran.refusal().replace(&port, "PORT");
        all += &format!(
            "{client:?}: {words}\n  {}\n  {}\n  {}\n",
            story(&record),
            text("detail"),
            text("next_step")
        );
    }
    insta::assert_snapshot!(all, @r#"
Oracle: ERROR 2061 (HY000): Authentication plugin 'caching_sha2_password' reported error: Authentication requires secure connection.
  cancelled greet/bad_preface/client by client; ok
  the client left when the server asked for its password (caching_sha2_password, and not in the server's cache): without TLS of its own it sends one only encrypted, and did not ask for the key
  let it ask for the server's RSA key, which nuncio gives it: --get-server-public-key, allowPublicKeyRetrieval=true, GET_SERVER_PUBLIC_KEY
Connector: InterfaceError: 2061 (HY000): Authentication plugin 'caching_sha2_password' reported error: Authentication requires secure connection.
  cancelled greet/bad_preface/client by client; ok
  the client left when the server asked for its password (caching_sha2_password, and not in the server's cache): without TLS of its own it sends one only encrypted, and did not ask for the key
  let it ask for the server's RSA key, which nuncio gives it: --get-server-public-key, allowPublicKeyRetrieval=true, GET_SERVER_PUBLIC_KEY
Jdbc: S1009: Could not connect to address=(host=127.0.0.1)(port=PORT)(type=master) : RSA public key is not available client side (option serverRsaPublicKeyFile not set)
  cancelled greet/bad_preface/client by client; ok
  the client left when the server asked for its password (caching_sha2_password, and not in the server's cache): without TLS of its own it sends one only encrypted, and did not ask for the key
  let it ask for the server's RSA key, which nuncio gives it: --get-server-public-key, allowPublicKeyRetrieval=true, GET_SERVER_PUBLIC_KEY
"#);
}
