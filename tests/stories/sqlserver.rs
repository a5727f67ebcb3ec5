//! SQL Server with the stock client tsql: what is between nuncio and a server that begins TLS inside its own packets.

#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::harness::ambassador::{self, Ambassador};
use super::harness::legacy::{Client, LIMIT};
use super::harness::peer::Peer;
use super::harness::pki::SERVER_NAME;
use super::harness::programs::Running;
use super::harness::scene::story;
use super::harness::servers::Server;
use super::harness::{Pki, config};

fn before(pki: &Pki, at: std::net::SocketAddr, keys: &str) -> String {
    config::mtls(
        pki,
        &format!("protocol = \"sqlserver\"\nretry.attempts = 1\n{keys}{}", config::endpoints(&[at])),
    )
}

/// tsql with settings of its own: a version, encryption.
#[track_caller]
fn tsql(nuncio: &Ambassador, settings: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory for freetds.conf");
    let file = directory.path().join("freetds.conf");
    let (ip, port) = (nuncio.listener("in").ip(), nuncio.listener("in").port());
    std::fs::write(&file, format!("[it]\nhost = {ip}\nport = {port}\n{settings}\n")).expect("it is written");
    let mut command = std::process::Command::new("env");
    command.arg(format!("FREETDSCONF={}", file.display()));
    command.args(["tsql", "-o", "fhq", "-S", "it", "-U", "sa", "-P", "x"]);
    let ran = Running::start(&mut command, "select 1\ngo\nexit\n").finish(LIMIT);
    format!("{}{}", ran.stdout, ran.stderr)
}

/// Old clients too: one of TDS 7.0 has no PRELOGIN of its own. And sessions are resumed, whose last flight is ours.
#[test]
#[ignore = "needs freetds-bin and mssql-mock-tds: tests/run installs them"]
fn every_version_of_tds_7_logs_in() {
    let pki = Pki::generate();
    let server = Server::sql_server(&pki);
    let mut nuncio = Ambassador::start(&before(&pki, server.address(), "health.kind = \"off\"\n"));
    let versions = ["7.0", "7.1", "7.2", "7.3", "7.4"];
    for version in versions {
        let printed = tsql(&nuncio, &format!("tds version = {version}"));
        assert_eq!(printed.trim(), "1", "{version}");
    }
    for (record, version) in nuncio.wait_records(versions.len()).iter().zip(versions) {
        let tls = &record["tls"];
        assert_eq!((&record["outcome"], &tls["version"]), (&"success".into(), &"TLSv1.2".into()), "{record}");
        assert_eq!(tls["resumed"], version != "7.0", "{record}");
    }
}

/// It leaves with words that help nobody; the record has the reason.
#[test]
#[ignore = "needs freetds-bin and mssql-mock-tds: tests/run installs them"]
fn a_client_that_insists_on_encryption_is_explained_in_the_record() {
    let pki = Pki::generate();
    let server = Server::sql_server(&pki);
    let mut nuncio = Ambassador::start(&before(&pki, server.address(), "health.kind = \"off\"\n"));
    let printed = tsql(&nuncio, "tds version = 7.4\nencryption = require");
    assert!(printed.contains("connection failed"), "{printed}");
    let record = nuncio.wait_records(1).remove(0);
    insta::assert_snapshot!(story(&record), @"cancelled greet/bad_preface/client by client; ok");
    let words = format!("{}: {}", record["detail"], record["next_step"]);
    assert!(words.contains("insists on its own") && words.contains("Encrypt=no"), "{words}");
}

/// A server of TDS 8 that is asked in TDS 7, and the other way round: both are told apart.
#[test]
#[ignore = "needs freetds-bin and mssql-mock-tds: tests/run installs them"]
fn a_server_that_begins_tls_otherwise_is_told_with_the_setting() {
    let pki = Pki::generate();
    for (server, keys, mend) in [
        (Server::sql_server_strict(&pki), "", "set tls = \"direct\""),
        (Server::sql_server(&pki), "tls = \"direct\"\n", "tls = \"negotiate\""),
    ] {
        let keys = format!("health.kind = \"off\"\n{keys}");
        let nuncio = Ambassador::start(&before(&pki, server.address(), &keys));
        let ran = Client::Tsql.ask(nuncio.listener("in"));
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(mend), "{ran:#?}");
    }
}

/// A check shakes hands inside the packets too, and so does a person who looks.
#[test]
#[ignore = "needs mssql-mock-tds: tests/run installs it"]
fn checks_and_probes_see_the_certificate() {
    let pki = Pki::generate();
    let server = Server::sql_server(&pki);
    let nuncio = Ambassador::start(&before(&pki, server.address(), "health.interval = \"50ms\"\n"));
    nuncio.wait_metric("nuncio_health_checks_total", &[("result", "success")], |passed| passed >= 3.0);
    let (at, ca) = (server.address().to_string(), pki.ca().display().to_string());
    let flags = ["probe", &at, "--protocol", "sqlserver", "--ca", &ca, "--server-name", SERVER_NAME];
    let (code, out, err) = ambassador::run(&flags, Path::new("."));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("TLSv1.2") && out.contains(SERVER_NAME), "{out}");
}

/// One packet of type, with this in it.
fn packet(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("it is short").to_be_bytes();
    [&[kind, 1, length[0], length[1], 0, 0, 1, 0], payload].concat()
}

fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).expect("a header");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
    stream.read_exact(&mut payload).expect("its payload");
    payload
}

/// What somebody on the way puts behind the server's answer would count as said inside TLS.
#[test]
#[ignore = "needs freetds-bin: tests/run installs it"]
fn bytes_injected_behind_the_answer_to_prelogin_reach_nobody() {
    let pki = Pki::generate();
    let server = Peer::start(|mut stream| {
        read_packet(&mut stream);
        let options = b"\0\0\x0b\0\x06\x01\0\x11\0\x01\xff\x10\0\x03\xe8\0\0\x01";
        let evil = packet(4, b"\xaa evil");
        stream.write_all(&[packet(4, options), evil].concat()).expect("said");
        // Errors: nuncio has heard enough.
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let keys = "health.kind = \"off\"\n";
    let mut nuncio = Ambassador::start(&before(&pki, server.address(), keys));
    let ran = Client::Tsql.ask(nuncio.listener("in"));
    let printed = format!("{}{}", ran.stdout, ran.stderr);
    assert!(printed.contains("someone may be injecting them") && !printed.contains("evil"), "{printed}");
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!((&record["stage"], &record["reason"]), (&"negotiate".into(), &"negotiation_error".into()));
}
