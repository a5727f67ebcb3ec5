//! The Windows build, under wine: what it does there, and what it says of what Windows has not got.
//!
//! Wine is no Windows: it takes a connection's reset for its end where it is the one to read it. So resets are not looked
//! at here.

#![cfg(unix)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::harness::ambassador::{self, Ambassador};
use super::harness::pki::SERVER_NAME;
use super::harness::process::Process;
use super::harness::servers::Server;
use super::harness::wine::Wine;
use super::harness::{PATIENCE, Pki, clients, eventually};

/// More than the slowest start of wine, with everything that it starts beside a program.
const START: Duration = Duration::from_secs(60);

/// Runs it to its end: exit code, standard output, standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("wine runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// `nuncio bridge` for Windows, in front of a server that demands a certificate.
fn bridge(mut program: Command, pki: &Pki, server: SocketAddr) -> Ambassador {
    program.args(["bridge", "127.0.0.1:0", &server.to_string(), "--server-name", SERVER_NAME, "--ca"]);
    program.arg(pki.ca()).arg("--cert").arg(&pki.client.certificate).arg("--key").arg(&pki.client.key);
    program.args(["--json", "--admin", "127.0.0.1:0"]);
    Ambassador::start_within(START, "", |command| *command = program)
}

/// Sends a line and has it back in reverse order, as `openssl s_server -rev` answers.
fn is_reversed(stream: &mut TcpStream) {
    let mut answer = [0; 7];
    stream.write_all(b"sdrow 2\n").expect("the bridge takes it");
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"2 words");
    stream.read_exact(&mut answer[..1]).expect("the end of the line");
}

/// Of a line of the demo: `clients: 7 connections, 1 of them failed`.
fn succeeded(line: &str) -> Option<u32> {
    let mut numbers = line.strip_prefix("clients: ")?.split(' ').filter_map(|word| word.parse::<u32>().ok());
    Some(numbers.next()? - numbers.next()?)
}

/// What a person does first.
#[test]
#[ignore = "needs wine and the Windows build: tests/run --long has them"]
fn long_windows_program_tells_its_version_checks_a_file_and_shows_itself() {
    let (wine, directory) = (Wine::start(), TempDir::new().unwrap());
    let native = ambassador::run(&["--version"], directory.path());
    assert_eq!(run(wine.program().arg("--version")), native);

    let pki = Pki::generate();
    let file = directory.path().join("nuncio.toml");
    let text = super::harness::config::mtls(&pki, "endpoints = [\"127.0.0.1:5432\"]\n");
    std::fs::write(&file, text).unwrap();
    let (code, out, err) = run(wine.program().args(["check", "--config"]).arg(&file));
    assert!(out.ends_with("fine (1 listener, 1 upstream, 1 identity)\n"), "{out}{err}");
    assert_eq!((code, &*err), (Some(0), ""), "{out}");

    let mut demo = Process::start("nuncio demo", wine.program().arg("demo"));
    let fine = demo.wait("five connections that did not fail", START, |demo| {
        demo.lines().iter().find(|line| succeeded(line).is_some_and(|count| count >= 5)).cloned()
    });
    println!("{fine}");
    demo.signal("INT");
    assert!(demo.wait_exit(START).success(), "{}", demo.tail());
    demo.wait_line("stopped; the certificates are removed", PATIENCE);
    let (code, out, err) = run(wine.program().args(["demo", "--seconds", "1"]));
    assert_eq!((code, &*err), (Some(0), ""), "{out}");
}

/// Mutual TLS to a real server, the record, and the way to stop at a console: Ctrl-C drains, a second one does not wait.
#[test]
#[ignore = "needs wine and the Windows build: tests/run --long has them"]
fn long_windows_program_bridges_with_a_certificate_and_drains_at_ctrl_c() {
    let (wine, pki) = (Wine::start(), Pki::generate());
    let server = Server::openssl(&pki);

    let mut nuncio = bridge(wine.program(), &pki, server.address());
    let at = nuncio.listener("bridge");
    is_reversed(&mut clients::connect(at));
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
    assert_eq!((&record["bytes_sent"], &record["bytes_received"]), (&8.into(), &8.into()), "{record}");
    assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
    nuncio.wait_metric("nuncio_connections_total", &[("outcome", "success")], |count| count == 1.0);
    let mut open = clients::connect(at);
    is_reversed(&mut open);
    // Wine makes of it what a console makes of Ctrl-C.
    nuncio.process().signal("INT");
    nuncio.wait_line("draining");
    eventually("nothing new is let in", PATIENCE, || {
        // Who is in the queue at the end is still accepted. Wine accepts so slowly that the queue must not be fed.
        std::thread::sleep(Duration::from_millis(100));
        TcpStream::connect(at).err()
    });
    is_reversed(&mut open);
    drop(open);
    assert!(nuncio.process().wait_exit(PATIENCE).success());
    let records: Vec<_> = nuncio.records().into_iter().filter(|record| record["bytes_sent"] != 0).collect();
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:?}");
    assert_eq!(records.len(), 2, "{records:?}");

    let mut nuncio = bridge(wine.program(), &pki, server.address());
    let mut open = clients::connect(nuncio.listener("bridge"));
    is_reversed(&mut open);
    nuncio.process().signal("INT");
    nuncio.wait_line("draining");
    nuncio.process().signal("INT");
    assert!(nuncio.process().wait_exit(PATIENCE).success());
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(
        (&record["outcome"], &record["reason"]),
        (&"cancelled".into(), &"draining".into()),
        "{record}"
    );
}

/// Windows gives it five seconds then: what is still open ends before, so that its record is not lost.
#[test]
#[ignore = "needs wine and the Windows build: tests/run --long has them"]
fn long_windows_program_writes_its_records_when_its_console_is_closed() {
    let (wine, pki, directory) = (Wine::start(), Pki::generate(), TempDir::new().unwrap());
    let server = Server::openssl(&pki);
    let name = directory.path().join(format!("closes-{}.exe", std::process::id()));
    let mut nuncio = bridge(wine.program_as(&name), &pki, server.address());
    let mut open = clients::connect(nuncio.listener("bridge"));
    is_reversed(&mut open);
    wine.closes_console_of(&name);
    nuncio.wait_line("draining");
    is_reversed(&mut open);
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!(
        (&record["outcome"], &record["reason"]),
        (&"cancelled".into(), &"draining".into()),
        "{record}"
    );
    assert!(nuncio.process().wait_exit(PATIENCE).success());
}

/// Refused by `check` already, at its place, and with what to do instead.
#[test]
#[ignore = "needs wine and the Windows build: tests/run --long has them"]
fn long_windows_program_says_what_windows_has_not_got() {
    let (wine, pki, directory) = (Wine::start(), Pki::generate(), TempDir::new().unwrap());
    let file = directory.path().join("nuncio.toml");
    let good = super::harness::config::mtls(&pki, "endpoints = [\"127.0.0.1:5432\"]\n");
    let listening = "address = \"127.0.0.1:0\"";
    for (written, key, instead) in [
        ("address = \"unix:/run/x.sock\"", "listener.in.address", "mend: write 127.0.0.1:PORT"),
        ("address = \"systemd:x\"", "listener.in.address", "mend: write 127.0.0.1:PORT"),
        (&format!("{listening}\nallow_users = [\"erp\"]"), "listener.in.allow_users", "mend: remove it"),
        (&format!("{listening}\nallow_groups = [\"7\"]"), "listener.in.allow_groups", "mend: remove it"),
        (&format!("{listening}\nmeter_users = true"), "listener.in.meter_users", "mend: remove it\n"),
        (&format!("{listening}\nmode = \"0600\""), "listener.in.mode", "mend: remove it\n"),
        (
            &format!("{listening}\n[admin]\naddress = \"unix:/run/a.sock\""),
            "admin.address",
            "mend: write 127.0.0.1:PORT",
        ),
    ] {
        std::fs::write(&file, good.replace(listening, written)).unwrap();
        let (code, out, err) = run(wine.program().args(["check", "--config"]).arg(&file));
        println!("{err}");
        assert_eq!((code, &*out), (Some(3), ""), "{written}: {err}");
        assert!(err.contains(&format!(" {key}: ")) && err.contains(instead), "{written}: {err}");
        // `run` reads the same file in the same way.
        let (code, _, again) = run(wine.program().args(["run", "--config"]).arg(&file));
        assert_eq!(code, Some(3), "{written}: {again}");
        assert!(err.starts_with(again.trim_end()), "{written}: {again}");
    }
    let strict = good.replace("[identity.test]", "[identity.test]\nkey_permissions = \"strict\"");
    std::fs::write(&file, strict).unwrap();
    let (code, _, err) = run(wine.program().args(["check", "--config"]).arg(&file));
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("identity.test: key") && err.contains("take out `key_permissions`"), "{err}");

    let (code, _, err) = run(wine.program().args(["bridge", "unix:/run/x.sock", "db:5432"]));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("LISTEN: this system has no Unix sockets\n  mend: write 127.0.0.1:PORT"), "{err}");
    let (code, _, err) = run(wine.program().arg("run"));
    assert_eq!(code, Some(3), "{err}");
    assert!(err.starts_with(r"C:\ProgramData\nuncio\nuncio.toml: there is no such file"), "{err}");
    assert!(!err.contains("/etc/"), "{err}");
}
