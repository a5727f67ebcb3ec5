//! At the limits: when descriptors run out it waits, costs nothing, and goes on when there are some again.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::process::run_by;
use super::super::harness::{PATIENCE, clients, eventually};
use super::{World, listener};

/// A child with so few descriptors, and two reactors on every machine.
fn start(world: &World, descriptors: usize) -> Ambassador {
    let config = world.up() + &listener("in", "") + "[runtime]\nthreads = 2\n";
    let limit = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    Ambassador::start_with(&config, |command| run_by(command, "sh", &["-c", &limit]))
}

/// User and system time of a process.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which may hold anything: fields 14 and 15, in ticks of 10 ms.
    let behind = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 =
        behind.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Every descriptor is taken by somebody else: clients wait in the kernel, the log says it once and names the mend, the
/// processor idles; when descriptors come free, those who waited are served.
#[test]
fn without_descriptors_it_waits_and_then_goes_on() {
    const LIMIT: usize = 64;
    let world = World::new();
    let mut nuncio = start(&world, LIMIT);
    let admin = nuncio.admin();
    let hoard: Vec<_> = (0..60).map(|_| TcpStream::connect(admin).unwrap()).collect();
    let process = nuncio.process();
    eventually("all descriptors are taken", PATIENCE, || (process.descriptors() >= LIMIT).then_some(()));

    let mut waiting = clients::sends_early(nuncio.listener("in"), b"ping");
    let line = nuncio.wait_line("connections cannot be accepted and wait");
    assert!(line.contains("LimitNOFILE="), "{line}");
    let (pid, before) = (nuncio.process().pid(), cpu(nuncio.process().pid()));
    waiting.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let silent = waiting.read(&mut [0; 1]).unwrap_err();
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock, "neither served nor refused");
    let used = cpu(pid) - before;
    assert!(used <= Duration::from_millis(100), "{used:?} of a second");
    let told = |nuncio: &mut Ambassador| {
        let lines = nuncio.process().lines();
        lines.iter().filter(|line| line.contains("connections cannot be accepted and wait")).count()
    };
    assert_eq!(told(&mut nuncio), 1);

    drop(hoard);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    waiting.read_exact(&mut [0; 4]).unwrap();
    drop(waiting);
    let records = nuncio.wait_records(1);
    assert_eq!(records[0]["outcome"], "success", "{}", records[0]);
}

/// More clients at once than descriptors allow: each waits its turn, and all are served.
#[test]
fn a_crowd_beyond_the_descriptors_waits_its_turn() {
    let world = World::new();
    let mut nuncio = start(&world, 64);
    let mut crowd: Vec<_> = (0..40).map(|_| clients::sends_early(nuncio.listener("in"), b"ping")).collect();
    for client in &mut crowd {
        client.read_exact(&mut [0; 4]).unwrap();
        // It leaves, so that the next one has its turn.
        client.shutdown(std::net::Shutdown::Both).unwrap();
    }
    let records = nuncio.wait_records(40);
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:?}");
    assert_eq!(nuncio.get("/api/v1/status").json()["connections_limit"], 16);
}
