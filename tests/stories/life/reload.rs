//! Reloading by SIGHUP: whole or not at all, and what did not change is not touched.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::pki::{By, Valid};
use super::super::harness::upstream::Upstream;
use super::super::harness::{PATIENCE, Pki, clients, eventually};
use super::{World, echoes, is_reset, listener, listener_at, try_echo, upstream};

#[track_caller]
fn refuses(address: SocketAddr) {
    eventually("the address refuses", PATIENCE, || {
        TcpStream::connect(address).err().filter(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// A listener with an upstream of its own comes, is served, and goes again; its open connection goes on.
#[test]
fn a_listener_comes_and_goes_and_its_open_connection_stays() {
    let (world, other) = (World::new(), Pki::generate());
    let second = Upstream::start(&world.pki);
    let before = world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&before);
    let mut untouched = clients::connect(nuncio.listener("in"));
    echoes(&mut untouched).unwrap();

    let with_second = before.clone()
        + &upstream("second", &[second.address()])
        + &listener("new", "").replace("\"up\"", "\"second\"");
    nuncio.reloaded(&with_second);
    let new = nuncio.listener("new");
    let mut stays = clients::connect(new);
    echoes(&mut stays).unwrap();
    assert_eq!(second.open(), 1);

    nuncio.reloaded(&before);
    refuses(new);
    for client in [&mut stays, &mut untouched] {
        echoes(client).unwrap();
    }
    assert_eq!(nuncio.get("/api/v1/status").json()["listeners"].as_array().unwrap().len(), 1);
    assert_eq!(nuncio.get("/api/v1/upstreams").json().as_array().unwrap().len(), 1);
    drop(stays);
    let record = nuncio.wait_records(1).remove(0);
    assert_eq!((&record["upstream"], &record["outcome"]), (&"second".into(), &"success".into()));
    drop(other);
}

/// Reloads `good` with a CA file that is being read until what is returned is closed.
#[track_caller]
fn reload_that_hangs(world: &World, nuncio: &Ambassador, good: &str) -> File {
    let slow = world.pki.directory().join("slow.pem");
    assert!(Command::new("mkfifo").arg(&slow).status().unwrap().success());
    let path = |path: &Path| format!("{path:?}");
    nuncio.reload(&good.replace(&path(&world.pki.ca()), &path(&slow)));
    eventually("it is being read", PATIENCE, || {
        // Refused while nobody has it open for reading.
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&slow).ok()
    })
}

/// What a reload reads may lie on a network that hangs: neither those who are served on the only reactor notice, nor those
/// who come, nor the admin. It takes effect once it has been read.
#[test]
fn a_file_that_takes_its_time_to_be_read_holds_nobody_up() {
    let world = World::new();
    let good = world.up() + &listener("in", "") + "[runtime]\nthreads = 1\n";
    let mut nuncio = Ambassador::start(&good);
    let mut client = clients::connect(nuncio.listener("in"));
    echoes(&mut client).unwrap();

    let mut pipe = reload_that_hangs(&world, &nuncio, &good);
    echoes(&mut client).unwrap();
    try_echo(nuncio.listener("in")).unwrap();
    let reloads = |nuncio: &Ambassador| nuncio.get("/api/v1/status").json()["reloads"].clone();
    assert_eq!(reloads(&nuncio), 0);

    pipe.write_all(&std::fs::read(world.pki.ca()).unwrap()).unwrap();
    drop(pipe);
    nuncio.wait_line("configuration reloaded");
    assert_eq!(reloads(&nuncio), 1);
    echoes(&mut client).unwrap();
    try_echo(nuncio.listener("in")).unwrap();
}

/// One that hangs for ever does not keep it from being stopped: it drains as ever, with its listeners closed, and a second
/// signal ends it. No record is lost, and its end is one in all order.
#[test]
fn a_file_that_is_never_read_to_its_end_does_not_keep_it_from_stopping() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let good = "drain_timeout = \"60s\"\n".to_owned()
        + &world.up()
        + &listener("in", "")
        + &listener_at("unix", &format!("unix:{}", path.display()), "")
        + "[runtime]\nthreads = 2\n";
    let mut nuncio = Ambassador::start(&good);
    let address = nuncio.listener("in");
    let mut open: Vec<_> = (0..4).map(|_| clients::connect(address)).collect();
    open.iter_mut().for_each(|client| echoes(client).unwrap());
    let pipe = reload_that_hangs(&world, &nuncio, &good);

    nuncio.process().signal("TERM");
    refuses(address);
    eventually("the socket's file is gone", PATIENCE, || (!path.exists()).then_some(()));
    assert_eq!(nuncio.get("/api/v1/status").json()["draining"], true);
    echoes(&mut open[0]).unwrap();
    drop(open.remove(0));
    eventually("the record of who has left", PATIENCE, || {
        nuncio.records().iter().any(|record| record["outcome"] == "success").then_some(())
    });
    let begun = Instant::now();
    nuncio.process().signal("TERM");
    assert_eq!(nuncio.process().wait_exit(PATIENCE).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut records = nuncio.records();
    // Whoever asked whether the port is still open may have one too.
    records.retain(|record| record["bytes_sent"].as_u64() >= Some(4));
    assert_eq!(records.len(), 4, "{records:?}");
    let drained = records.iter().filter(|record| record["reason"] == "draining").count();
    assert_eq!(drained, 3, "{records:?}");
    drop(pipe);
}

/// A file with mistakes changes nothing: the log and the status say every one, the counter counts it, clients are served.
#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let world = World::new();
    let good = world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&good);
    nuncio.reload_refused(&(good.replace("endpoints", "endpionts") + &listener("new", "nonsense = 1")));
    let status = nuncio.get("/api/v1/status").json();
    let problem = status["last_reload_problem"].as_str().unwrap();
    assert!(problem.contains("endpionts") && problem.contains("nonsense"), "{problem}");
    assert_eq!(status["reloads"], 0);
    let line = nuncio.wait_line("not reloaded, nothing has changed");
    assert!(line.contains("endpionts"), "{line}");
    assert_eq!(nuncio.metric("nuncio_config_reloads_total", &[("result", "failure")]), 1.0);
    try_echo(nuncio.listener("in")).unwrap();

    // Nor does one that reads well, and names a port that is taken and a file that is not there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let missing =
        good.replace("ca.pem", "gone.pem") + &listener_at("b", &taken.local_addr().unwrap().to_string(), "");
    nuncio.reload_refused(&(missing + &listener("a", "")));
    let status = nuncio.get("/api/v1/status").json();
    let problem = status["last_reload_problem"].as_str().unwrap();
    assert!(problem.contains("gone.pem") && problem.contains("Address already in use"), "{problem}");
    assert_eq!(status["listeners"].as_array().unwrap().len(), 1, "{status}");
    try_echo(nuncio.listener("in")).unwrap();

    nuncio.reloaded(&good);
    let status = nuncio.get("/api/v1/status").json();
    assert_eq!((&status["reloads"], &status["last_reload_problem"]), (&1.into(), &Value::Null));
}

/// What an endpoint's breaker knows survives a reload that changes something else, also of the same upstream.
#[test]
fn an_open_circuit_stays_open() {
    let mut world = World::new();
    world.echo.kill();
    let breaker = "[upstream.up.breaker]\nconsecutive = 1\nopen_for = \"60s\"\n";
    let good = world.up() + breaker + &listener("in", "");
    let mut nuncio = Ambassador::start(&good);
    is_reset(nuncio.listener("in"));
    let is_open =
        |all: &Value| (all[0]["endpoints"][0]["breaker"] == "open").then(|| all[0]["endpoints"][0].clone());
    let opened = nuncio.wait_state("/api/v1/upstreams", "the circuit opens", is_open);
    nuncio.reloaded(&(good.clone() + &listener("new", "")));
    nuncio.reloaded(&(good.clone() + "[upstream.up.timeouts]\nidle = \"1h\"\n"));
    // Nor does it matter that the numbers it goes by are others.
    nuncio.reloaded(
        &(good.replace("consecutive = 1\n", "consecutive = 3\n") + "[upstream.up.retry]\nattempts = 2\n"),
    );
    let still = nuncio.wait_state("/api/v1/upstreams", "the circuit is open", is_open);
    assert!(still["reopens_in_ms"].as_u64() <= opened["reopens_in_ms"].as_u64(), "{opened} {still}");
    assert_eq!(still["failed_total"], opened["failed_total"]);
    assert_eq!(nuncio.metric("nuncio_breaker_transitions_total", &[("to", "open")]), 1.0);
}

/// An endpoint that health checks held down takes connections again once a reload turns the checks off.
#[test]
fn checks_that_are_turned_off_hold_nobody_down() {
    let mut world = World::new();
    world.echo.kill();
    let config = |health: &str| {
        world.up().replace("kind = \"off\"\n", health) + "[upstream.up.breaker]\nconsecutive = 1000\n"
    };
    let checked = config("kind = \"tcp\"\ninterval = \"100ms\"\nfall = 1\n") + &listener("in", "");
    let unchecked = config("kind = \"off\"\nfall = 1\n") + &listener("in", "");
    let mut nuncio = Ambassador::start(&checked);
    let health =
        |wanted: &'static str| move |all: &Value| (all[0]["endpoints"][0]["health"] == wanted).then_some(());
    nuncio.wait_state("/api/v1/upstreams", "the endpoint is down", health("down"));
    nuncio.reloaded(&unchecked);
    world.echo.restart();
    nuncio.wait_state("/api/v1/upstreams", "nothing is known of it", health("unknown"));
    try_echo(nuncio.listener("in")).unwrap();
}

/// The last record's `tls.resumed`, after one more connection.
#[track_caller]
fn resumed(nuncio: &mut Ambassador) -> bool {
    let before = nuncio.records().len();
    let mut client = clients::connect(nuncio.listener("in"));
    echoes(&mut client).unwrap();
    drop(client);
    nuncio.wait_records(before + 1)[before]["tls"]["resumed"].as_bool().unwrap()
}

/// Sessions are resumed across a reload that leaves the identity's files as they are, and not once our certificate or the
/// CA has changed: then the new ones are presented, and trusted.
#[test]
fn sessions_are_resumed_until_the_identity_changes() {
    let world = World::new();
    let config = world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    assert!(!resumed(&mut nuncio));
    assert!(resumed(&mut nuncio));
    nuncio.reloaded(&(config.clone() + &listener("new", "")));
    assert!(resumed(&mut nuncio), "the files are as they were");
    nuncio.reloaded(&config.replace("endpoints", "required = true\nendpoints"));
    assert!(resumed(&mut nuncio), "another key of the upstream has changed");

    let mut open = clients::connect(nuncio.listener("in"));
    echoes(&mut open).unwrap();
    let renewed = world.pki.issue("client", &["renewed.test"], By::Ca, Valid::Now);
    nuncio.reloaded(&config);
    assert!(!resumed(&mut nuncio), "a new certificate");
    assert!(resumed(&mut nuncio));
    let subject = [("subject", "CN=renewed.test")];
    assert!(nuncio.metric("nuncio_certificate_expiry_timestamp_seconds", &subject) > 0.0);
    echoes(&mut open).unwrap();

    // A second CA beside the first one: what may be trusted has changed.
    let more = std::fs::read_to_string(world.pki.ca()).unwrap()
        + &std::fs::read_to_string(Pki::generate().ca()).unwrap();
    std::fs::write(world.pki.ca(), more).unwrap();
    nuncio.reloaded(&config);
    assert!(!resumed(&mut nuncio), "a new CA");
    drop(renewed);
}

/// The upstream's CA is replaced: before the reload the new server is not trusted, after it it is, and the old one no more.
#[test]
fn a_rotated_ca_is_taken_up() {
    let (old, new) = (World::new(), World::new());
    let config = old.identity() + &upstream("up", &[new.echo.address()]) + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    is_reset(nuncio.listener("in"));
    assert_eq!(nuncio.wait_records(1)[0]["reason"], "tls_certificate_error");
    for (from, to) in [
        (new.pki.ca(), old.pki.ca()),
        (new.pki.client.certificate.clone(), old.pki.client.certificate.clone()),
        (new.pki.client.key.clone(), old.pki.client.key.clone()),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    nuncio.reloaded(&config);
    try_echo(nuncio.listener("in")).unwrap();
}

/// An upstream that loses its identity presents nothing any more, and trusts the system's roots: the old client is not kept.
#[test]
fn an_upstream_that_loses_its_identity_does_not_keep_it() {
    let world = World::new();
    let config = world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    try_echo(nuncio.listener("in")).unwrap();
    nuncio.reloaded(&config.replace("identity = \"test\"\n", ""));
    is_reset(nuncio.listener("in"));
    assert_eq!(nuncio.wait_records(2)[1]["reason"], "tls_certificate_error");
}

/// Caps keep their counts when they are changed: who is inside still counts.
#[test]
fn places_that_are_taken_stay_taken() {
    let world = World::new();
    let config = |most: u32| world.up() + &listener("in", &format!("connections = {most}"));
    let mut nuncio = Ambassador::start(&config(3));
    let mut inside = [(); 2].map(|()| clients::connect(nuncio.listener("in")));
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
    let address = nuncio.listener("in");
    nuncio.reloaded(&config(2));
    is_reset(address);
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
    nuncio.reloaded(&config(3));
    try_echo(address).unwrap();
}

/// `limits.connections` of an upstream that are lowered: who holds a place still counts, and more come in as others leave.
#[test]
fn places_at_an_upstream_stay_taken() {
    let world = World::new();
    let config = |limits: &str| world.up() + limits + &listener("in", "");
    let two = "[upstream.up.limits]\nconnections = 2\npending = 0\n";
    let mut nuncio = Ambassador::start(&config(""));
    let mut inside = [(); 2].map(|()| clients::connect(nuncio.listener("in")));
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
    nuncio.reloaded(&config(two));
    is_reset(nuncio.listener("in"));
    assert_eq!(nuncio.wait_records(1)[0]["reason"], "connection_limit_reached");
    nuncio.reloaded(&config(&two.replace('2', "3")));
    try_echo(nuncio.listener("in")).unwrap();
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
}

/// Another backlog, another list of addresses: the socket that stays is the same one, also when its listener is renamed.
#[test]
fn a_socket_that_stays_is_never_closed() {
    let world = World::new();
    let address = super::super::harness::free_address().to_string();
    let mut nuncio = Ambassador::start(&(world.up() + &listener_at("in", &address, "")));
    let inode = |nuncio: &mut Ambassador| {
        let pid = nuncio.process().pid();
        let hex = format!(":{:04X} ", address.parse::<SocketAddr>().unwrap().port());
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
        let listening = |line: &&str| line.contains(&hex) && line.split_whitespace().nth(3) == Some("0A");
        let line = table.lines().find(listening).expect("a listening socket");
        line.split_whitespace().nth(9).unwrap().to_owned()
    };
    let first = inode(&mut nuncio);
    let mut open = clients::connect(address.parse().unwrap());
    echoes(&mut open).unwrap();
    let list = format!("\"{address}\"");
    let two = listener_at("in", &address, "").replace(&list, &format!("[{list}, \"127.0.0.1:0\"]"));
    for changed in [
        listener_at("in", &address, "backlog = 7"),
        two,
        listener_at("renamed", &address, ""),
        listener_at("renamed", &address, "[listener.renamed.tcp]\nkeepalive = \"7s\""),
    ] {
        nuncio.reloaded(&(world.up() + &changed));
        assert_eq!(inode(&mut nuncio), first, "{changed}");
        try_echo(address.parse().unwrap()).unwrap();
    }
    echoes(&mut open).unwrap();
    drop(open);
    let records = nuncio.wait_records(5);
    let first = records.iter().find(|record| record["bytes_sent"] == 8).unwrap();
    assert_eq!(first["listener"], "in", "a connection sees one configuration from start to end");
}

/// 50 connections a second while the file changes as often as it can: none fails, and each leaves its record.
#[test]
fn reloading_under_load_fails_no_connection() {
    load(30, 150);
}

/// The same for longer.
#[test]
fn long_reloading_under_load_fails_no_connection() {
    load(600, 3000);
}

/// At most 50 connections a second, fewer where the machine is busy with other things; never fewer in all.
fn load(reloads: usize, connections: usize) {
    let world = World::new();
    let config = world.up() + &listener_at("in", &super::super::harness::free_address().to_string(), "");
    let mut nuncio = Ambassador::start(&config);
    let address = nuncio.listener("in");
    let (begun_clients, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut reloaded = 0;
    let ends = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let (mut clients, begun) = (Vec::new(), Instant::now());
            while !done.load(Relaxed) {
                clients.push(scope.spawn(move || try_echo(address)));
                begun_clients.store(clients.len(), Relaxed);
                std::thread::sleep(
                    (Duration::from_millis(20) * clients.len() as u32).saturating_sub(begun.elapsed()),
                );
            }
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        while reloaded < reloads || begun_clients.load(Relaxed) < connections {
            reloaded += 1;
            let variant = match reloaded % 4 {
                0 => config.clone(),
                1 => config.replace("address =", "backlog = 512\naddress ="),
                2 => config.replace("endpoints =", "balance = \"round_robin\"\nendpoints ="),
                _ => config.clone() + &listener("more", "connections = 9"),
            };
            nuncio.reloaded(&variant);
        }
        done.store(true, Relaxed);
        clients.join().unwrap()
    });
    let (count, failed) = (ends.len(), ends.iter().filter(|end| end.is_err()).collect::<Vec<_>>());
    let records = nuncio.wait_records(count - failed.len());
    let bad: Vec<_> = records.iter().filter(|record| record["outcome"] != "success").collect();
    assert!(failed.is_empty() && bad.is_empty(), "{failed:?} {bad:?} after {reloaded} reloads");
    assert_eq!(records.len(), count);
}
