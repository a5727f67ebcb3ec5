//! Letting in: who may come, how many and how fast. Each refusal reaches the client as a reset, and leaves one record.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::{PATIENCE, clients, eventually};
use super::{World, as_nobody, echoes, is_reset, listener, listener_at, try_echo};

/// The one record of a refusal at the door.
#[track_caller]
fn refusal(nuncio: &mut Ambassador, reason: &str, side: &str) -> Value {
    let find =
        |records: Vec<Value>| records.into_iter().filter(|record| record["stage"] == "admit").collect();
    let found: Vec<Value> = eventually("a refusal", PATIENCE, || {
        Some(find(nuncio.records())).filter(|found: &Vec<_>| !found.is_empty())
    });
    let [record] = &found[..] else { panic!("one refusal: {found:?}") };
    assert_eq!(
        (&record["outcome"], &record["reason"], &record["side"]),
        (&"refused".into(), &reason.into(), &side.into())
    );
    assert_eq!(record["closed_by"], "ambassador");
    let labels = [("stage", "admit"), ("reason", reason), ("side", side), ("outcome", "refused")];
    assert_eq!(nuncio.metric("nuncio_connections_total", &labels), 1.0);
    record.clone()
}

/// What socat as nobody gets back for "ping", and what it complains of.
fn nobody_asks(address: &str) -> (String, String) {
    let mut child = as_nobody("socat")
        .args(["-t5", "-", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("socat, setpriv (or sudo): tests/run installs them");
    // An error: it was refused before it read.
    child.stdin.take().unwrap().write_all(b"ping").ok();
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn our_uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// `allow_users` on loopback TCP: the kernel says whose socket the client's is. Another user is reset, with his name told.
#[test]
#[ignore = "needs socat, and root or sudo: tests/run installs it"]
fn on_loopback_the_kernel_tells_who_connects() {
    let world = World::new();
    let config = world.up()
        + &listener("ours", &format!("allow_users = [\"{}\"]", our_uid()))
        + &listener("theirs", "allow_users = [\"nobody\"]");
    let mut nuncio = Ambassador::start(&config);
    let (got, _) = nobody_asks(&format!("TCP:{}", nuncio.listener("ours")));
    assert_eq!(got, "");
    let record = refusal(&mut nuncio, "admission_denied", "client");
    assert!(record["detail"].as_str().unwrap().contains("nobody"), "{record}");
    assert!(record["next_step"].as_str().unwrap().contains("allow_users"), "{record}");

    echoes(&mut clients::connect(nuncio.listener("ours"))).unwrap();
    let (got, complains) = nobody_asks(&format!("TCP:{}", nuncio.listener("theirs")));
    assert_eq!((got.as_str(), complains.as_str()), ("ping", ""));
    is_reset(nuncio.listener("theirs"));
    let records = nuncio.wait_records(4);
    let served: Vec<_> = records.iter().filter(|record| record["outcome"] == "success").collect();
    assert_eq!(
        served.iter().map(|record| record["uid"].as_u64().unwrap()).collect::<Vec<_>>(),
        [our_uid().into(), 65534]
    );
}

/// The same over a Unix socket, by the credentials of whoever connected.
#[test]
#[ignore = "needs socat, and root or sudo: tests/run installs it"]
fn on_a_unix_socket_its_credentials_tell_who_connects() {
    let world = World::new();
    let directory = world.pki.directory();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let config = world.up()
        + &listener_at(
            "ours",
            &format!("unix:{}", path("ours")),
            &format!("mode = \"0666\"\nallow_users = [\"{}\"]", our_uid()),
        )
        + &listener_at(
            "theirs",
            &format!("unix:{}", path("theirs")),
            "mode = \"0666\"\nallow_groups = [\"nogroup\"]",
        );
    let mut nuncio = Ambassador::start(&config);
    let (got, _) = nobody_asks(&format!("UNIX-CONNECT:{}", path("ours")));
    assert_eq!(got, "");
    let record = refusal(&mut nuncio, "admission_denied", "client");
    assert_eq!(record["uid"], 65534, "{record}");
    let (got, complains) = nobody_asks(&format!("UNIX-CONNECT:{}", path("theirs")));
    assert_eq!((got.as_str(), complains.as_str()), ("ping", ""));
    assert_eq!(nuncio.wait_records(2)[1]["uid"], 65534);
}

/// `allow` lets one address in and resets another.
#[test]
fn a_network_that_is_not_allowed_is_reset() {
    let world = World::new();
    let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "allow = [\"127.0.0.2/32\"]")));
    is_reset(nuncio.listener("in"));
    let record = refusal(&mut nuncio, "admission_denied", "client");
    assert!(record["detail"].as_str().unwrap().contains("127.0.0.1 is in no network"), "{record}");
    echoes(&mut clients::connect_from(Ipv4Addr::new(127, 0, 0, 2), nuncio.listener("in"))).unwrap();
}

/// `connections`: one more than that is reset; when one leaves, another may come.
#[test]
fn a_listener_that_is_full_resets_the_next_until_one_leaves() {
    let world = World::new();
    let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "connections = 2")));
    let mut inside = [(); 2].map(|()| clients::connect(nuncio.listener("in")));
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
    is_reset(nuncio.listener("in"));
    refusal(&mut nuncio, "connection_limit_reached", "ambassador");
    inside.iter_mut().for_each(|client| echoes(client).unwrap());
    let [leaving, _stays] = inside;
    drop(leaving);
    nuncio.wait_records(2);
    echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
}

/// `connections_per_source`: one source has its share and no more; another one still comes in.
#[test]
fn a_source_that_has_its_share_is_reset_and_others_are_not() {
    let world = World::new();
    let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "connections_per_source = 1")));
    let mut first = clients::connect(nuncio.listener("in"));
    echoes(&mut first).unwrap();
    is_reset(nuncio.listener("in"));
    refusal(&mut nuncio, "connection_limit_reached", "client");
    echoes(&mut clients::connect_from(Ipv4Addr::new(127, 0, 0, 2), nuncio.listener("in"))).unwrap();
    echoes(&mut first).unwrap();
}

/// `rate`: a burst gets as many in as the rate says, the rest is reset; a while later they come in again.
#[test]
fn a_burst_beyond_the_rate_is_reset() {
    const RATE: f64 = 5.0;
    let world = World::new();
    let nuncio = Ambassador::start(&(world.up() + &listener("in", &format!("rate = \"{RATE}/s\""))));
    let begun = Instant::now();
    let served = (0..40).filter(|_| try_echo(nuncio.listener("in")).is_ok()).count() as f64;
    let most = RATE + RATE * begun.elapsed().as_secs_f64();
    assert!((RATE..=most).contains(&served), "{served} of 40 served, {RATE} to {most} expected");
    eventually("the next one comes in", PATIENCE, || try_echo(nuncio.listener("in")).ok());
    let refused =
        nuncio.records().into_iter().filter(|record| record["stage"] == "admit").collect::<Vec<_>>();
    assert!(refused.iter().all(|record| record["reason"] == "connection_limit_reached"), "{refused:?}");
}

/// `runtime.connections`: what is beyond waits in the kernel, unrefused, and is served when its turn comes. A listener that
/// is idle takes no place from one that is not.
#[test]
fn beyond_the_limit_of_the_process_clients_wait_their_turn() {
    let world = World::new();
    let config = world.up() + &listener("idle", "") + &listener("in", "") + "[runtime]\nconnections = 2\n";
    let mut nuncio = Ambassador::start(&config);
    let mut served = [(); 2].map(|()| clients::connect(nuncio.listener("in")));
    served.iter_mut().for_each(|client| echoes(client).unwrap());
    assert_eq!(nuncio.get("/api/v1/status").json()["connections_open"], 2);

    let mut waiting = ["in", "idle"].map(|name| clients::connect(nuncio.listener(name)));
    for client in &mut waiting {
        client.write_all(b"ping").unwrap();
        client.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let silent = client.read(&mut [0; 1]).unwrap_err();
        assert!(matches!(silent.kind(), std::io::ErrorKind::WouldBlock), "{silent}");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(nuncio.records(), Vec::<Value>::new());
    drop(served);
    for client in &mut waiting {
        client.read_exact(&mut [0; 4]).unwrap();
    }
    drop(waiting);
    let records = nuncio.wait_records(4);
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:?}");
}
