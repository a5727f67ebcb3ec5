//! Ending: SIGTERM lets what is open finish, for a while; a second signal does not; nothing is lost, nothing left behind.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::{PATIENCE, clients, eventually};
use super::{World, echoes, listener, listener_at};

#[track_caller]
fn refuses(address: SocketAddr) {
    eventually("the address refuses", PATIENCE, || {
        TcpStream::connect(address).err().filter(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// The one record of a connection that was answered twice: whoever asked whether the port is still open may have one too.
#[track_caller]
fn the_record(nuncio: &Ambassador) -> Value {
    let mut found = nuncio.records();
    found.retain(|record| record["bytes_sent"] == 8);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// After SIGTERM the address refuses, /readyz says why, and what is open goes on; when that is over, so is the process.
#[test]
fn open_connections_finish_and_then_it_ends_at_once() {
    let world = World::new();
    let path = world.pki.directory().join("in.sock");
    let config = "drain_timeout = \"60s\"\n".to_owned()
        + &world.up()
        + &listener("in", "")
        + &listener_at("unix", &format!("unix:{}", path.display()), "");
    let mut nuncio = Ambassador::start(&config);
    let address = nuncio.listener("in");
    let mut open = clients::connect(address);
    echoes(&mut open).unwrap();
    nuncio.process().signal("TERM");
    refuses(address);
    eventually("the socket's file is gone", PATIENCE, || (!path.exists()).then_some(()));
    let unready = nuncio.get("/readyz");
    assert_eq!((unready.status, unready.body.trim()), (503, "draining: no new connections are taken"));
    assert_eq!(nuncio.get("/healthz").status, 200);
    assert_eq!(nuncio.get("/api/v1/status").json()["draining"], true);
    echoes(&mut open).unwrap();
    drop(open);
    let begun = Instant::now();
    assert!(nuncio.process().wait_exit(PATIENCE).success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let record = the_record(&nuncio);
    assert_eq!(record["outcome"], "success", "{record}");
}

/// Who stays beyond `drain_timeout` is ended: cancelled, draining, by us. All that was on its way is delivered before.
#[test]
fn who_stays_too_long_is_ended_and_recorded() {
    let world = World::new();
    let config =
        "drain_timeout = \"300ms\"\ndrain_jitter = \"0s\"\n".to_owned() + &world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    let mut open: Vec<_> = (0..20).map(|_| clients::connect(nuncio.listener("in"))).collect();
    open.iter_mut().for_each(|client| echoes(client).unwrap());
    let begun = Instant::now();
    let status = nuncio.stop(PATIENCE);
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let records = nuncio.records();
    assert_eq!(records.len(), 20, "no record is lost");
    for record in &records {
        assert_eq!(
            (&record["outcome"], &record["reason"]),
            (&"cancelled".into(), &"draining".into()),
            "{record}"
        );
        assert_eq!(record["closed_by"], "ambassador", "{record}");
    }
    for client in &mut open {
        let end = client.read(&mut [0; 1]);
        assert!(!matches!(end, Ok(1)), "{end:?}");
    }
}

/// A second signal does not wait for anybody.
#[test]
fn a_second_signal_ends_it_now() {
    let world = World::new();
    let config = "drain_timeout = \"60s\"\n".to_owned() + &world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    let mut open = clients::connect(nuncio.listener("in"));
    echoes(&mut open).unwrap();
    nuncio.process().signal("TERM");
    refuses(nuncio.listener("in"));
    echoes(&mut open).unwrap();
    let begun = Instant::now();
    nuncio.process().signal("INT");
    assert_eq!(nuncio.process().wait_exit(PATIENCE).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(the_record(&nuncio)["reason"], "draining");
}

/// A client that takes nothing and an upstream that never answers hold up the end for a moment only, and leave records.
#[test]
fn a_peer_that_takes_nothing_does_not_hold_up_the_end() {
    let world = World::new();
    let silent = super::super::harness::Hostile::NeverAnswers.start(&world.pki);
    let config = "drain_timeout = \"100ms\"\ndrain_jitter = \"0s\"\n".to_owned()
        + &world.up()
        + &super::upstream("silent", &[silent.address()])
        + &listener("in", "")
        + &listener("stuck", "").replace("\"up\"", "\"silent\"");
    let mut nuncio = Ambassador::start(&config);
    let mut full = clients::connect(nuncio.listener("in"));
    full.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    // It sends, and never reads what is echoed, until nothing moves any more.
    let chunk = vec![7; 256 << 10];
    while full.write_all(&chunk).is_ok() {}
    let stuck = clients::sends_early(nuncio.listener("stuck"), b"hello");
    eventually("the handshake hangs", PATIENCE, || (silent.open() > 0).then_some(()));
    let begun = Instant::now();
    assert!(nuncio.stop(PATIENCE).success());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let records = nuncio.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(records.iter().all(|record| record["reason"] == "draining"), "{records:?}");
    drop((full, stuck));
}

/// Hundreds of short connections up to the very signal: as many records as connections were accepted.
#[test]
fn no_record_is_lost_at_the_end() {
    let world = World::new();
    let config = "drain_timeout = \"5s\"\n".to_owned() + &world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start(&config);
    let address = nuncio.listener("in");
    let served = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || std::iter::from_fn(|| super::try_echo(address).ok()).count()))
            .collect();
        nuncio.wait_records(100);
        assert!(nuncio.stop(PATIENCE).success());
        clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
    });
    let records = nuncio.records();
    let good = records.iter().filter(|record| record["outcome"] == "success").count();
    assert_eq!(
        good,
        served,
        "{:#?}",
        records.iter().filter(|record| record["outcome"] != "success").collect::<Vec<_>>()
    );
    // Each client's last one came too late; what was accepted of them was told so.
    let late = records.iter().filter(|record| record["outcome"] != "success");
    assert!(late.clone().all(|record| record["reason"] == "draining"), "{:?}", late.collect::<Vec<_>>());
}

/// The service manager hears of all: READY=1, RELOADING=1 with its time and READY=1 again, STOPPING=1.
#[test]
fn systemd_is_told_ready_reloading_and_stopping() {
    let world = World::new();
    let path = world.pki.directory().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 512];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let config = world.up() + &listener("in", "");
    let mut nuncio = Ambassador::start_with(&config, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    assert_eq!(next().trim(), "READY=1");
    for _ in 0..2 {
        nuncio.reload(&config);
        let reloading = next();
        let (state, time) = reloading.trim().split_once('\n').unwrap();
        assert!(state == "RELOADING=1" && time.starts_with("MONOTONIC_USEC="), "{reloading}");
        assert_eq!(next().trim(), "READY=1");
    }
    nuncio.reload("nonsense = 1\n");
    assert!(next().starts_with("RELOADING=1"));
    assert_eq!(next().trim(), "READY=1", "the old configuration goes on");
    nuncio.process().signal("TERM");
    assert_eq!(next().trim(), "STOPPING=1");
    assert!(nuncio.process().wait_exit(PATIENCE).success());
}

/// A signal that comes while it is still starting is heeded, not fatal: whenever it comes, the exit code is 0.
#[test]
fn a_signal_as_soon_as_it_listens_is_an_orderly_end() {
    let world = World::new();
    for signal in ["TERM", "INT"] {
        let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "")));
        nuncio.process().signal("HUP");
        nuncio.process().signal(signal);
        assert_eq!(nuncio.process().wait_exit(PATIENCE).code(), Some(0));
    }
}
