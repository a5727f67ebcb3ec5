//! No, as stock clients print it to whom it is said in the protocol's own words: redis-cli, mosquitto_pub, pika and tsql.

#![cfg(unix)]

use std::io::Write;
use std::thread;

use super::harness::ambassador::Ambassador;
use super::harness::hostile::Hostile;
use super::harness::legacy::Client;
use super::harness::peer::Peer;
use super::harness::programs::Ran;
use super::harness::scene::story;
use super::harness::servers::Server;
use super::harness::wording::redacted;
use super::harness::{PATIENCE, Pki, clients, config, free_address};

/// What clients meet is their own doing: nothing checks beside them, and no circuit opens after a few.
const ALONE: &str = "health.kind = \"off\"\nretry.attempts = 1\nbreaker.consecutive = \"off\"\n";

/// TLS from the first byte, which TDS 8 is.
const DIRECT: [(&str, Client); 4] = [
    ("protocol = \"redis\"\n", Client::RedisCli),
    ("protocol = \"mqtt\"\n", Client::Mosquitto),
    ("protocol = \"amqp\"\n", Client::Pika),
    ("protocol = \"sqlserver\"\ntls = \"direct\"\n", Client::Tsql),
];

/// Before one endpoint.
fn before(pki: &Pki, at: std::net::SocketAddr, keys: &str) -> String {
    config::mtls(pki, &format!("{keys}{ALONE}{}", config::endpoints(&[at])))
}

/// What a client prints, and its record. Ports and the record's id, which the client must have been told where there is room
/// for words, are replaced.
#[track_caller]
fn told(nuncio: &mut Ambassador, pki: &Pki, client: Client) -> String {
    let before = nuncio.records().len();
    let ran = client.ask(nuncio.listener("in"));
    let record = nuncio.wait_records(before + 1).remove(before);
    let id = record["id"].as_str().expect("a record has an id");
    let words = printed(&ran);
    if words.contains("nuncio: ") {
        assert!(words.contains(&format!("connection {id})")), "{ran:#?} {record}");
    }
    let told = redacted(&format!("{words}\n{}", story(&record).replace("by client", "by upstream")));
    told.replace(id, "ID").replace(&pki.directory().display().to_string(), "/etc/nuncio") + "\n\n"
}

fn printed(ran: &Ran) -> String {
    let both = format!("{}\n{}", ran.stdout, ran.stderr);
    both.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Each client before such a server.
#[track_caller]
fn each(pki: &Pki, start: impl Fn() -> Peer) -> String {
    let mut all = String::new();
    for (keys, client) in DIRECT {
        let server = start();
        let mut nuncio = Ambassador::start(&before(pki, server.address(), keys));
        all += &told(&mut nuncio, pki, client);
    }
    all
}

/// Nothing listens there.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn the_server_is_down() {
    let pki = Pki::generate();
    let mut all = String::new();
    for (keys, client) in DIRECT {
        let mut nuncio = Ambassador::start(&before(&pki, free_address(), keys));
        all += &told(&mut nuncio, &pki, client);
    }
    insta::assert_snapshot!(all, @r#"
ERR nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)
failed connect/connection_refused/upstream by ambassador; connect/connection_refused

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
failed connect/connection_refused/upstream by ambassador; connect/connection_refused

ProbableAccessDeniedError: ConnectionClosedByBroker: (320) 'nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)'
failed connect/connection_refused/upstream by ambassador; connect/connection_refused

Msg 40613 (severity 20, state 1) from nuncio:
"nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
failed connect/connection_refused/upstream by ambassador; connect/connection_refused
"#);
}

/// After failures in a row nobody is sent there for a while.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn the_circuit_is_open() {
    let pki = Pki::generate();
    let mut all = String::new();
    for (keys, client) in DIRECT {
        let file = before(&pki, free_address(), keys);
        let keys = "breaker.consecutive = 1\nbreaker.open_for = \"60s\"\n";
        let mut nuncio = Ambassador::start(&file.replace("breaker.consecutive = \"off\"\n", keys));
        told(&mut nuncio, &pki, client);
        let told = told(&mut nuncio, &pki, client);
        // About a minute.
        all += &match told.split(" again in ").nth(1).and_then(|rest| rest.split(" s;").next()) {
            Some(left) => told.replace(left, "N"),
            None => told,
        };
    }
    insta::assert_snapshot!(all, @r#"
ERR nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)
refused route/circuit_open/upstream by ambassador

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
refused route/circuit_open/upstream by ambassador

ProbableAccessDeniedError: ConnectionClosedByBroker: (320) "nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"
refused route/circuit_open/upstream by ambassador

Msg 40613 (severity 20, state 1) from nuncio:
"nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
refused route/circuit_open/upstream by ambassador
"#);
}

/// The server's certificate is of a CA that is not ours.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn the_server_has_a_certificate_of_another_ca() {
    let pki = Pki::generate();
    let told = each(&pki, || Hostile::ForeignCa.start(&pki));
    // What there is no room for in AMQP depends on how long the path is.
    let cut = |line: &str| match (line.split_once(" in /"), line.split_once("...; ")) {
        (Some((seen, _)), Some((_, mend))) => format!("{seen} in ...; {mend}\n"),
        _ => format!("{line}\n"),
    };
    insta::assert_snapshot!(told.lines().map(cut).collect::<String>(), @r#"
ERR nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error

ProbableAccessDeniedError: ConnectionClosedByBroker: (320) "nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in ...; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error

Msg 50000 (severity 20, state 1) from nuncio:
"nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
failed handshake/tls_certificate_error/upstream by ambassador; handshake/tls_certificate_error
"#);
}

/// With TLS 1.3 the server says so when the handshake is over, and the client has spoken: it is told in answer to that.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn the_server_refuses_our_certificate_after_the_handshake() {
    let pki = Pki::generate();
    insta::assert_snapshot!(each(&pki, || Hostile::LateClientCertAlert.start(&pki)), @r#"
ERR nuncio: the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert decrypt_error (51); a signature did not hold: has the server another CN=nuncio test CA in its CA file, an older or a newer one? Put the one that issued our certificate there (client_certificate_refused, connection ID)
failed greet/client_certificate_refused/upstream by upstream; ok

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
failed greet/client_certificate_refused/upstream by upstream; ok

ProbableAccessDeniedError: ConnectionClosedByBroker: (320) 'nuncio: the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the al...; a signature did not hold: has the server another CN=nuncio test CA in its CA file, an olde... (client_certificate_refused, connection ID)'
failed greet/client_certificate_refused/upstream by upstream; ok

Msg 50000 (severity 20, state 1) from nuncio:
"nuncio: the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert decrypt_error (51); a signature did not hold: has the server another CN=nuncio test CA in its CA file, an older or a newer one? Put the one that issued our certificate there (client_certificate_refused, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
failed greet/client_certificate_refused/upstream by upstream; ok
"#);
}

/// A server that speaks plaintext on that port.
#[test]
#[ignore = "needs redis, mosquitto, freetds-bin and mssql-mock-tds: tests/run installs them"]
fn the_server_has_no_tls() {
    let pki = Pki::generate();
    let negotiated = ("protocol = \"sqlserver\"\n", Client::Tsql);
    let mut all = String::new();
    for (server, (keys, client)) in [
        (Server::redis_without_tls(), DIRECT[0]),
        (Server::mosquitto_without_tls(), DIRECT[1]),
        (Server::sql_server_without_tls(), DIRECT[3]),
        (Server::sql_server_without_tls(), negotiated),
    ] {
        let mut nuncio = Ambassador::start(&before(&pki, server.address(), keys));
        all += &told(&mut nuncio, &pki, client);
    }
    insta::assert_snapshot!(all, @r#"
ERR nuncio: the server took the connection and did not answer our first TLS message (ClientHello, N bytes) within 5s; does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old firewall or server may drop a message of more than one packet: set `post_quantum = false` (handshake_timeout, connection ID)
failed handshake/handshake_timeout/upstream by ambassador; handshake/handshake_timeout

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
failed handshake/connection_terminated/upstream by ambassador; handshake/connection_terminated

Msg 40613 (severity 20, state 1) from nuncio:
"nuncio: the server closed the connection at our first TLS message (ClientHello), without an answer; does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old TLS library may choke on a message of N bytes: set `post_quantum = false` (connection_terminated, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
failed handshake/connection_terminated/upstream by ambassador; handshake/connection_terminated

Msg 50000 (severity 20, state 1) from nuncio:
"nuncio: the server answered no to encryption: it has no encryption (ENCRYPT_NOT_SUP); give the server a certificate (SQL Server Configuration Manager, or network.tlscert in mssql.conf); or, where the network is trusted, tls = "off" here (negotiation_refused, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
failed negotiate/negotiation_refused/upstream by ambassador; negotiate/negotiation_refused
"#);
}

/// The listener's own cap.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn no_place_is_left() {
    let pki = Pki::generate();
    let mut all = String::new();
    for (keys, client) in DIRECT {
        // Held before there is anything to establish: the first one is in its handshake.
        let server = Hostile::NeverAnswers.start(&pki);
        let file = before(&pki, server.address(), &format!("{keys}timeouts.handshake = \"60s\"\n{LONG}"));
        let mut nuncio = Ambassador::start(&file.replace("[upstream.up]", "connections = 1\n[upstream.up]"));
        let mut only = clients::connect(nuncio.listener("in"));
        // As far as a client of SQL Server has to speak before a server is dialled.
        only.write_all(b"\x12\x01\0\x09\0\0\x01\0\xff").expect("it is there");
        one_is_in(&nuncio);
        all += &told(&mut nuncio, &pki, client);
    }
    insta::assert_snapshot!(all, @r#"
ERR nuncio: as many connections of this listener are open as may be: 1 (`connections`); raise the limit that the detail names, or find who holds the connections (connection_limit_reached, connection ID)
refused admit/connection_limit_reached/ambassador by ambassador

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
refused admit/connection_limit_reached/ambassador by ambassador

ProbableAccessDeniedError: ConnectionClosedByBroker: (506) 'nuncio: as many connections of this listener are open as may be: 1 (`connections`); raise the limit that the detail names, or find who holds the connections (connection_limit_reached, connection ID)'
refused admit/connection_limit_reached/ambassador by ambassador

Msg 17809 (severity 20, state 1) from nuncio:
"nuncio: as many connections of this listener are open as may be: 1 (`connections`); raise the limit that the detail names, or find who holds the connections (connection_limit_reached, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
refused admit/connection_limit_reached/ambassador by ambassador
"#);
}

/// SIGTERM while a connection is established: its client is told when the time is up, also where it has more to say before it
/// listens.
#[test]
#[ignore = "needs redis-tools, mosquitto-clients, pika and freetds-bin: tests/run installs them"]
fn nuncio_is_stopping() {
    let pki = Pki::generate();
    let mut all = String::new();
    for (keys, client) in DIRECT {
        let server = Hostile::NeverAnswers.start(&pki);
        let file = before(&pki, server.address(), &format!("{keys}timeouts.handshake = \"60s\"\n{LONG}"));
        let mut nuncio = Ambassador::start(&format!("drain_timeout = \"1s\"\ndrain_jitter = \"0s\"\n{file}"));
        let at = nuncio.listener("in");
        let asks = thread::spawn(move || client.ask(at));
        one_is_in(&nuncio);
        nuncio.process().signal("TERM");
        let words = printed(&asks.join().expect("it asks"));
        assert!(nuncio.process().wait_exit(PATIENCE).success());
        let record = nuncio.records().remove(0);
        let id = record["id"].as_str().expect("a record has an id");
        all += &redacted(&format!("{words}\n{}", story(&record))).replace(id, "ID");
        all += "\n\n";
    }
    insta::assert_snapshot!(all, @r#"
ERR nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)
refused handshake/draining/ambassador by ambassador; handshake/-

Connection error: Connection Refused: broker unavailable.
Error: The connection was refused.
refused handshake/draining/ambassador by ambassador; handshake/-

ProbableAccessDeniedError: ConnectionClosedByBroker: (320) 'nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)'
refused handshake/draining/ambassador by ambassador; handshake/-

Msg 6005 (severity 20, state 1) from nuncio:
"nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)"
Error 20002 (severity 9):
Adaptive Server connection failed
There was a problem connecting to the server
refused handshake/draining/ambassador by ambassador; handshake/-
"#);
}

/// Nothing ends before the test wants it to.
const LONG: &str = "timeouts.establish = \"60s\"\n";

#[track_caller]
fn one_is_in(nuncio: &Ambassador) {
    nuncio.wait_state("/api/v1/connections", "one is in", |live| (live["total"] == 1).then_some(()));
}
