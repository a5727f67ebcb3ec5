//! Connections that do nothing cost no CPU, and little memory.

#![cfg(target_os = "linux")]

use std::net::TcpStream;
use std::time::Duration;

use super::harness::ambassador::Ambassador;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// What a process has used of the CPU, in ticks of a hundredth of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field is the name, in brackets, and may contain anything.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn rest_idle(count: usize) {
    const BESIDE: usize = 8;
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let settings = config::endpoints(&[upstream.address()]) + "[upstream.up.health]\nkind = \"off\"\n";
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &settings));
    let at = ambassador.listener("in");
    // One connection first: what is allocated once is not counted.
    let first = clients::ask(at, b"ping").unwrap();
    assert_eq!(first, b"ping");
    let before = ambassador.process().memory_kib();
    let opening: Vec<_> = (0..BESIDE)
        .map(|_| {
            std::thread::spawn(move || {
                let echoed = || {
                    let mut stream = clients::connect(at);
                    clients::echoes(&mut stream, b"here").map(|()| stream)
                };
                (0..count / BESIDE).map(|_| echoed().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut held: Vec<TcpStream> = opening.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(upstream.open(), held.len());
    // Timers of the handshakes run out, buffers go back: until a second has been quiet.
    let pid = ambassador.process().pid();
    eventually("it has come to rest", PATIENCE, || {
        let then = ticks(pid);
        std::thread::sleep(Duration::from_secs(1));
        (ticks(pid) == then).then_some(())
    });
    let (then, memory) = (ticks(pid), ambassador.process().memory_kib() - before);
    std::thread::sleep(Duration::from_secs(5));
    let used = ticks(pid) - then;
    println!(
        "{} idle connections: {} ms of CPU in 5 s, {:.2} KiB of memory each",
        held.len(),
        used * 10,
        memory as f64 / held.len() as f64
    );
    assert!(used <= 3, "{used} ticks");
    // They are not forgotten.
    let step = held.len() / 50;
    for stream in held.iter_mut().step_by(step) {
        clients::echoes(stream, b"still here").unwrap();
    }
}

#[test]
fn five_hundred_idle_connections_use_no_cpu() {
    rest_idle(504);
}

#[test]
fn long_five_thousand_idle_connections_use_no_cpu() {
    rest_idle(5000);
}
