//! Real servers that demand a client certificate, reached by programs that know nothing of TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::ambassador::Ambassador;
use super::harness::servers::Server;
use super::harness::upstream::plain_echo;
use super::harness::{Pki, clients, config};

fn through(pki: &Pki, server: SocketAddr) -> Ambassador {
    Ambassador::start(&config::mtls(pki, &config::endpoints(&[server])))
}

/// Each connection ended well, over TLS; `count` of them at least.
#[track_caller]
fn all_are_successes(ambassador: &mut Ambassador, count: usize) -> Vec<Value> {
    let records = ambassador.wait_records(count);
    for record in &records {
        assert_eq!(record["outcome"], "success", "{record}");
        assert!(record["tls"]["version"].is_string(), "{record}");
    }
    records
}

/// A client without a certificate is turned away, and its record says whose fault that is: the server does demand one.
#[track_caller]
fn nobody_comes_without_a_certificate(pki: &Pki, server: SocketAddr) {
    let mut ambassador = Ambassador::start(&config::anonymous(pki, &config::endpoints(&[server])));
    let mut stream = clients::sends_early(ambassador.listener("in"), b"PING\r\n");
    assert!(!matches!(stream.read(&mut [0]), Ok(1)), "it was answered");
    drop(stream);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["reason"], "client_certificate_refused", "{record}");
    assert_eq!(record["side"], "upstream", "{record}");
}

fn redis(command: &str, at: SocketAddr, arguments: &[&str]) -> Output {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    Command::new(command)
        .args(["-h", &host, "-p", &port])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{command} ({error}): tests/run installs it"))
}

#[track_caller]
fn redis_cli(at: SocketAddr, arguments: &[&str]) -> String {
    let output = redis("redis-cli", at, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
#[ignore = "needs redis-server and redis-tools: tests/run installs them"]
fn a_plaintext_redis_cli_talks_to_a_redis_that_has_only_mutual_tls() {
    let pki = Pki::generate();
    let server = Server::redis(&pki);
    let mut ambassador = through(&pki, server.address());
    let at = ambassador.listener("in");
    assert_eq!(redis_cli(at, &["PING"]), "PONG");
    assert_eq!(redis_cli(at, &["SET", "greeting", "hello"]), "OK");
    assert_eq!(redis_cli(at, &["GET", "greeting"]), "hello");
    // The server's own view: it has no other port than the one with TLS, there it demands certificates, and we are there.
    assert_eq!(redis_cli(at, &["CONFIG", "GET", "port"]), "port\n0");
    assert_eq!(redis_cli(at, &["CONFIG", "GET", "tls-auth-clients"]), "tls-auth-clients\nyes");
    let list = redis_cli(at, &["CLIENT", "LIST"]);
    assert!(list.contains(&format!("laddr={}", server.address())), "{list}");
    all_are_successes(&mut ambassador, 6);
    // Without nuncio, plaintext gets nowhere.
    let direct = redis("redis-cli", server.address(), &["PING"]);
    assert!(!direct.stdout.starts_with(b"PONG"), "{direct:?}");
    nobody_comes_without_a_certificate(&pki, server.address());
}

/// Runs `redis-benchmark -c 50 -q` again and again for so long.
fn benchmark_redis(time: Duration, arguments: &[&str]) {
    let pki = Pki::generate();
    let server = Server::redis(&pki);
    let mut ambassador = through(&pki, server.address());
    let at = ambassador.listener("in");
    let (begun, mut last) = (Instant::now(), String::new());
    while begun.elapsed() < time {
        let output = redis("redis-benchmark", at, &[&["-c", "50", "-q"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
        last = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
    }
    let results = last.lines().filter(|line| line.contains("requests per second"));
    println!("{}", results.collect::<Vec<_>>().join("\n"));
    ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
    let total = ambassador.metric("nuncio_connections_total", &[]);
    let records = all_are_successes(&mut ambassador, total as usize);
    println!("{} connections in {:.0?}, all of them a success", records.len(), begun.elapsed());
    assert!(records.len() > 100);
}

#[test]
#[ignore = "needs redis-server and redis-tools: tests/run installs them"]
fn fifty_plaintext_connections_load_redis_without_an_error() {
    benchmark_redis(Duration::from_secs(5), &["-n", "2000", "-t", "ping,set,get,lpush,lrange_100,mset"]);
}

#[test]
#[ignore = "needs redis-server and redis-tools: tests/run installs them"]
fn long_redis_benchmark_for_a_minute() {
    benchmark_redis(Duration::from_secs(60), &[]);
}

#[test]
#[ignore = "needs openssl: tests/run installs it"]
fn openssl_reverses_lines_and_shows_our_certificate_on_its_page() {
    let pki = Pki::generate();
    let server = Server::openssl(&pki);
    let mut ambassador = through(&pki, server.address());
    for line in [&b"a line\n"[..], b"and another\n"] {
        let mut stream = clients::connect(ambassador.listener("in"));
        let mut answer = vec![0; line.len()];
        stream.write_all(line).unwrap();
        stream.read_exact(&mut answer).unwrap();
        answer.pop();
        answer.reverse();
        assert_eq!([&answer[..], b"\n"].concat(), line);
    }
    all_are_successes(&mut ambassador, 2);
    nobody_comes_without_a_certificate(&pki, server.address());

    let server = Server::openssl_www(&pki);
    let mut ambassador = through(&pki, server.address());
    let mut stream = clients::sends_early(ambassador.listener("in"), b"GET / HTTP/1.0\r\n\r\n");
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    assert!(page.contains("Client certificate") && page.contains("client.test"), "{page}");
    drop(stream);
    all_are_successes(&mut ambassador, 1);
}

/// Many connections, one after the other and side by side, short and a mebibyte long.
fn echoes_many(ambassador: &mut Ambassador) {
    let at = ambassador.listener("in");
    for number in 0..50 {
        clients::echoes(&mut clients::connect(at), format!("connection {number}").as_bytes()).unwrap();
    }
    let mebibyte = |number: u8| {
        let bytes = vec![number; 1 << 20];
        let mut stream = clients::connect(at);
        let (mut writing, mut answer) = (stream.try_clone().unwrap(), vec![0; bytes.len()]);
        std::thread::scope(|scope| {
            scope.spawn(|| writing.write_all(&bytes).unwrap());
            stream.read_exact(&mut answer).unwrap();
        });
        assert!(answer == bytes);
    };
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || mebibyte(number));
        }
    });
    let records = all_are_successes(ambassador, 70);
    let resumed = records.iter().filter(|record| record["tls"]["resumed"] == true).count();
    println!("{resumed} of {} handshakes were resumptions", records.len());
}

#[test]
#[ignore = "needs nginx: tests/run installs it"]
fn nginx_takes_our_certificate_for_plaintext_programs() {
    let pki = Pki::generate();
    let behind = plain_echo();
    let server = Server::nginx(&pki, behind.address());
    echoes_many(&mut through(&pki, server.address()));
    nobody_comes_without_a_certificate(&pki, server.address());
}

/// nginx' stream module drops the connection when its client half-closes, and sends no close_notify to who has sent one.
/// So the answer is missing, which an orderly end would hide.
#[test]
#[ignore = "needs nginx: tests/run installs it"]
fn an_answer_that_nginx_drops_is_not_passed_off_as_an_empty_one() {
    let pki = Pki::generate();
    let behind = plain_echo();
    let server = Server::nginx(&pki, behind.address());
    let mut ambassador = through(&pki, server.address());
    let error = clients::ask(ambassador.listener("in"), b"question").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!((&record["outcome"], &record["side"]), (&"failed".into(), &"upstream".into()), "{record}");
}

#[test]
#[ignore = "needs Envoy: tests/run installs it"]
fn envoy_takes_our_certificate_for_plaintext_programs() {
    let pki = Pki::generate();
    let behind = plain_echo();
    let server = Server::envoy(&pki, behind.address());
    let mut ambassador = through(&pki, server.address());
    echoes_many(&mut ambassador);
    assert_eq!(clients::ask(ambassador.listener("in"), b"question").unwrap(), b"question");
    all_are_successes(&mut ambassador, 71);
    nobody_comes_without_a_certificate(&pki, server.address());
}
