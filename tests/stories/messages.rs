//! The likeliest errors as people meet them, in a row: read them as somebody who did not write them, and is tired.
//!
//! Each names where it is, what is wrong, and what to do.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::AlertDescription;
use tempfile::TempDir;

use super::harness::ambassador::{Ambassador, run};
use super::harness::hostile::Point;
use super::harness::peer::Peer;
use super::harness::pki::{fixture, serving};
use super::harness::wording::redacted;
use super::harness::{Hostile, Pki, Upstream, clients, free_address};

/// Whoever mistypes a command line reads this.
#[test]
fn wrong_usage_is_told_with_the_right_one() {
    let directory = TempDir::new().unwrap();
    let told = [
        "chek",
        "run --confg a.toml",
        "probe",
        "probe orders",
        "probe db.corp.example",
        "probe https://db.corp.example:5433/",
        "probe orders --ca ca.pem",
        "probe db.corp.example:5433 --config nuncio.toml",
        "probe db.corp.example:5433 --cert client.pem",
        "bridge 127.0.0.1:5432",
        "bridge localhost:5432 db:5433",
        "bridge 0.0.0.0:5432 db:5433",
        "bridge 127.0.0.1:5432 db",
        "bridge 127.0.0.1:5432 db:5433 --tls on --protocol postgres --pin abc --allow lan --admin 0.0.0.0:80",
        "bridge 127.0.0.1:5432 db:5433 --tls off --ca ca.pem",
        "bridge 127.0.0.1:0 db:5433 --ca nowhere.pem",
    ]
    .map(|line| {
        let arguments: Vec<_> = line.split(' ').collect();
        let (code, out, err) = run(&arguments, directory.path());
        assert_eq!(out, "", "{line}");
        let err = err.replace(&directory.path().canonicalize().unwrap().display().to_string(), "HERE");
        format!("$ nuncio {line}\n{}\n[{}]\n", err.trim_end(), code.unwrap())
    });
    insta::assert_snapshot!(told.join("\n"), @"");
}

/// Without a command, the help says what there is, and the exit code that it was not a command.
#[test]
fn no_command_at_all_gets_the_help() {
    let (code, out, err) = run(&[], Path::new("."));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let (asked, help, _) = run(&["--help"], Path::new("."));
    assert_eq!((asked, help), (Some(0), err));
}

/// Every command's help names what it wants and how it ends.
#[test]
fn the_help_of_each_command_reads_well() {
    let told = ["run", "bridge", "check", "probe"].map(|command| {
        let (code, help, _) = run(&[command, "--help"], Path::new("."));
        assert_eq!(code, Some(0));
        format!("$ nuncio {command} --help\n{help}")
    });
    insta::assert_snapshot!(told.join("\n"), @"");
}

/// Whoever writes a file reads this. (All of them: tests/config/bad.)
#[test]
fn a_file_that_is_refused_is_told_where_and_why() {
    let directory = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let listener = "[listener.orders]\naddress = \"127.0.0.1:0\"\nupstream = \"orders\"\n\n";
    write("misspelled.toml", &format!("{listener}[upstream.orders]\nendpoint = [\"db:5433\"]\n"));
    write("unit.toml", &format!("{listener}[upstream.orders]\nendpoints = [\"db:5433\"]\ntimeouts.connect = 3\n"));
    write("name.toml", &format!("{listener}[upstream.order]\nendpoints = [\"db:5433\"]\n"));
    write("open.toml", "[listener.orders]\naddress = \"0.0.0.0:5432\"\nupstream = { endpoints = [\"db:5433\"] }\n");
    write("quotes.toml", "[listener.orders]\naddress = 127.0.0.1:5432\n");
    write(
        "taken.toml",
        &format!("[listener.orders]\naddress = \"127.0.0.1:{port}\"\nupstream = {{ endpoints = [\"db:5433\"] }}\n"),
    );
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.encrypted.key"].map(fixture);
    for (name, certificate, key) in [
        ("missing.toml", &fixture("nowhere.pem"), &key),
        ("encrypted.toml", &certificate, &key),
        ("pair.toml", &certificate, &fixture("server.key")),
        ("swapped.toml", &fixture("server.key"), &certificate),
    ] {
        let identity = format!(
            "[identity.corp]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
            ca.display(),
            certificate.display(),
            key.display()
        );
        write(name, &format!("{listener}[upstream.orders]\nendpoints = [\"db:5433\"]\nidentity = \"corp\"\n{identity}"));
    }
    let told = [
        "absent", "misspelled", "unit", "name", "open", "quotes", "taken", "missing", "encrypted", "pair", "swapped",
    ]
    .map(|name| {
        let (code, out, err) = run(&["run", "--config", &format!("{name}.toml")], directory.path());
        assert_eq!((code, out.as_str()), (Some(3), ""), "{name}: {err}");
        let files = fixture("").display().to_string();
        redacted(&err.replace(&format!("{}/", files.trim_end_matches('/')), "/etc/nuncio/"))
    });
    insta::assert_snapshot!(told.join("\n\n"), @"");
}

/// A name server that knows no name, and keeps silent about those that begin with "slow".
struct Names {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl Names {
    fn start() -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let answering = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                if query[13..].starts_with(b"slow") {
                    continue;
                }
                query[2] |= 0x80; // an answer
                query[3] = 0x83; // recursion available, NXDOMAIN
                query[6..12].fill(0);
                socket.send_to(&query[..length], from).ok();
            }
        });
        Names { address, stop, answering: Some(answering) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.answering.take().unwrap().join().unwrap();
    }
}

/// Whoever looks into the log after a connection failed reads this: `detail` and `next_step` of the record.
#[test]
fn a_connection_that_failed_is_told_by_its_record() {
    let pki = Pki::generate();
    let names = Names::start();
    let fixed = |certificate: &str| Upstream::with(serving(certificate, "server.key"), Duration::ZERO);
    let hostile = |kind: Hostile| kind.start(&pki);
    let good = Upstream::start(&pki);
    let (expired, wrong, own) = (fixed("server-expired.pem"), fixed("server.pem"), fixed("server-self-signed-ca.pem"));
    let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf".to_vec();
    let peers: Vec<(&str, Peer)> = [
        ("speaks_mysql", Hostile::PlaintextGreeting(mysql)),
        ("silent", Hostile::NeverAnswers),
        ("hangs_up_at_once", Hostile::ClosesAtOnce),
        ("has_no_common_cipher", Hostile::AlertAt(Point::InsteadOfServerHello, AlertDescription::HandshakeFailure)),
        ("refuses_ours_late", Hostile::LateClientCertAlert),
        ("hangs_up_after_the_handshake", Hostile::ClosesAfterHandshake),
        ("truncates", Hostile::TruncatesAfter(10)),
    ]
    .map(|(name, kind)| (name, hostile(kind)))
    .into();

    let test_pki = format!("ca = '{}'", fixture("ca.pem").display());
    let ours = |leaf: (&Path, &Path)| {
        format!("ca = '{}'\ncertificate = '{}'\nkey = '{}'", pki.ca().display(), leaf.0.display(), leaf.1.display())
    };
    let mut config = format!(
        "[log]\nformat = \"json\"\n[dns]\nservers = [\"{}\"]\ntimeout = \"400ms\"\n\
         [identity.other]\n{test_pki}\n[identity.corp]\n{}\n[identity.expired]\n{}\n[identity.nobody]\nca = '{}'\n",
        names.address,
        ours((&pki.client.certificate, &pki.client.key)),
        ours((&fixture("client-expired.pem"), &fixture("client.key"))),
        pki.ca().display(),
    );
    let mut cases = Vec::new();
    let mut case = |name: &str, address: &str, identity: &str, more: &str| {
        cases.push(name.to_owned());
        config += &format!(
            "[listener.{name}]\naddress = \"127.0.0.1:0\"\nupstream = \"{name}\"\n{}\
             [upstream.{name}]\nendpoints = [\"{address}\"]\nidentity = \"{identity}\"\nhealth.kind = \"off\"\n\
             retry.attempts = 1\ntimeouts.handshake = \"400ms\"\ntimeouts.idle = \"200ms\"\n{}\n",
            if name == "of_another_user" { "allow_users = [\"nobody\"]\n" } else { "" },
            match more {
                "" => "server_name = \"upstream.test\"",
                more => more,
            },
        );
    };
    case("nothing_listens", &free_address().to_string(), "corp", "");
    case("no_such_name", "db.corp.example:5433", "corp", "");
    case("no_name_server", "slow.corp.example:5433", "corp", "");
    case("unknown_ca", &wrong.address().to_string(), "corp", "");
    case("wrong_name", &wrong.address().to_string(), "other", "server_name = \"db.corp.example\"");
    case("expired", &expired.address().to_string(), "other", "");
    case("self_signed", &own.address().to_string(), "other", "");
    case(
        "other_pin",
        &wrong.address().to_string(),
        "nobody",
        "pins = [\"spki-sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]",
    );
    case("wants_ours_and_there_is_none", &good.address().to_string(), "nobody", "");
    case("ours_expired", &good.address().to_string(), "expired", "");
    for (name, peer) in &peers {
        case(name, &peer.address().to_string(), "corp", "");
    }
    case("circuit_is_open", &free_address().to_string(), "corp", "breaker.consecutive = 1");
    case("of_another_user", &good.address().to_string(), "corp", "");
    case("idle", &good.address().to_string(), "corp", "");

    let mut ambassador = Ambassador::start(&config);
    let mut told = String::new();
    for (place, name) in cases.iter().enumerate() {
        let ask = || match name.as_str() {
            // It sends nothing more, and waits.
            "idle" => drop(std::io::Read::read(&mut clients::connect(ambassador.listener(name)), &mut [0; 1])),
            _ => drop(clients::ask(ambassador.listener(name), b"hello")),
        };
        ask();
        // The first one opens the circuit, the second one meets it.
        let extra = usize::from(cases[..=place].iter().any(|case| case == "circuit_is_open"));
        if name == "circuit_is_open" {
            ambassador.wait_records(place + 1);
            drop(clients::ask(ambassador.listener(name), b"hello"));
        }
        let records = ambassador.wait_records(place + 1 + extra);
        let record = records.iter().rfind(|record| record["listener"] == name.as_str()).unwrap();
        let text = |key: &str| record[key].as_str().unwrap_or("-");
        told += &format!(
            "{name}: {} {} at {} ({})\n  {}\n  {}\n",
            text("outcome"),
            text("reason"),
            text("stage"),
            text("side"),
            text("detail"),
            text("next_step"),
        );
    }
    let directories = [pki.directory().display().to_string(), fixture("ca.pem").parent().unwrap().display().to_string()];
    let told = directories.iter().fold(told, |told, directory| told.replace(directory, "/etc/nuncio"));
    let told = told.replace(&names.address.port().to_string(), "PORT");
    insta::assert_snapshot!(redacted(&told), @"");
    // What the log said of our expired certificate at the start, before anybody came.
    let line = ambassador.wait_line("client-expired.pem: CN=client expired");
    assert!(line.contains("\"ERROR\""), "{line}");
}
