//! Bulk data on an endpoint that lives, while the two beside it are killed and started again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::{Pki, Upstream, clients, config, eventually};

const BIG: usize = 4;

/// How much, and how often somebody dies.
struct Size {
    /// Each way on each of the big connections.
    bytes: u64,
    /// How long they take to send it at least: as fast as it goes, nobody would have time to die.
    time: Duration,
    kill_every: Duration,
    /// Of the breaker: how long the dead are left alone.
    breaker: &'static str,
}

/// What a connection carries: a block of its own, again and again. Its length is a prime, so that a piece that is lost,
/// doubled or out of place shows wherever it was cut.
fn block(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..1_048_573).map(|_| rng.u8(..)).collect()
}

/// Sends so many bytes and half-closes, while it compares what comes back with them, to the last byte and the end.
fn carry(stream: &TcpStream, block: &[u8], size: &Size) {
    let (bytes, begun) = (size.bytes, Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut to, mut left) = (stream, bytes as usize);
            while left > 0 {
                let piece = &block[..left.min(block.len())];
                to.write_all(piece).expect("the upstream takes it");
                left -= piece.len();
                let due = size.time.mul_f64((bytes as usize - left) as f64 / bytes as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            stream.shutdown(Shutdown::Write).expect("the client's side closes");
        });
        let (mut from, mut buffer, mut at) = (stream, vec![0; 256 * 1024], 0);
        loop {
            let read =
                from.read(&mut buffer).unwrap_or_else(|error| panic!("after {at} of {bytes}: {error}"));
            if read == 0 {
                break;
            }
            let mut got = &buffer[..read];
            while !got.is_empty() {
                let wanted = &block[at as usize % block.len()..];
                let length = got.len().min(wanted.len());
                assert!(got[..length] == wanted[..length], "other bytes within {length} after {at}");
                (got, at) = (&got[length..], at + length as u64);
            }
        }
        assert_eq!(at, bytes, "all of it, and an orderly end");
    });
}

/// The endpoint that the connection of this client is on.
fn endpoint(ambassador: &Ambassador, client: SocketAddr) -> Option<String> {
    let answer = ambassador.get("/api/v1/connections").json();
    let all = answer.as_array().or_else(|| answer["connections"].as_array())?;
    let view = all.iter().find(|view| view["client"] == client.to_string())?;
    Some(view["endpoint"].as_str()?.to_owned())
}

/// Short connections until told to stop: how many there were, and from which port each came that was not served.
fn short_ones(at: SocketAddr, stop: &AtomicBool) -> (u64, Vec<(SocketAddr, String)>) {
    let (mut count, mut failed) = (0, Vec::new());
    while !stop.load(Relaxed) {
        let mut stream = clients::connect(at);
        count += 1;
        if let Err(error) = clients::echoes(&mut stream, b"a new connection") {
            failed.push((stream.local_addr().expect("a client has an address"), error.to_string()));
        }
        drop(stream);
        std::thread::sleep(Duration::from_millis(10));
    }
    (count, failed)
}

/// The big connections are opened while only the first endpoint is up, so that it has them all. Then the two others come,
/// and die by turns, for a while both at once. A short connection may be cut with the server that it was on, which no
/// ambassador can undo; none may fail to be established.
fn endpoints_die(size: &Size) {
    let pki = Pki::generate();
    let mut upstreams: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    let file = config::mtls(&pki, &(config::endpoints(&addresses) + size.breaker));
    upstreams[1].kill();
    upstreams[2].kill();
    let mut ambassador = Ambassador::start(&file);
    let at = ambassador.listener("in");
    let big: Vec<_> = (0..BIG).map(|_| clients::connect(at)).collect();
    for stream in &big {
        let client = stream.local_addr().unwrap();
        let on = eventually("it is established", Duration::from_secs(10), || endpoint(&ambassador, client));
        assert_eq!(on, addresses[0].to_string());
    }
    eventually("all are on the one that lives", Duration::from_secs(10), || {
        (upstreams[0].open() >= BIG).then_some(())
    });
    let (mortal, begun, stop) = (&mut upstreams[1..], Instant::now(), &AtomicBool::new(false));
    let (kills, (short, failed), took) = std::thread::scope(|scope| {
        let killing = scope.spawn(move || {
            let mut kills = 0;
            while !stop.load(Relaxed) {
                mortal[0].restart();
                std::thread::sleep(size.kill_every / 2);
                mortal[1].restart();
                std::thread::sleep(size.kill_every / 2);
                mortal[0].kill();
                std::thread::sleep(size.kill_every / 2);
                mortal[1].kill();
                std::thread::sleep(size.kill_every / 2);
                kills += 2;
            }
            mortal.iter_mut().for_each(Upstream::restart);
            kills
        });
        let short = scope.spawn(move || short_ones(at, stop));
        let carriers: Vec<_> = big
            .iter()
            .enumerate()
            .map(|(number, stream)| scope.spawn(move || carry(stream, &block(number as u64), size)))
            .collect();
        let carried: Vec<_> = carriers.into_iter().map(|carrier| carrier.join()).collect();
        let took = begun.elapsed();
        stop.store(true, Relaxed);
        let (short, kills) = (short.join().unwrap(), killing.join().unwrap());
        assert!(carried.iter().all(Result::is_ok), "the living endpoint's connections lose no byte");
        (kills, short, took)
    });
    drop(big);
    println!(
        "{BIG} x {} MiB each way in {took:.1?}, {:.0} MiB/s each way; {kills} kills; {short} short connections, {} of them cut",
        size.bytes >> 20,
        ((BIG as u64 * size.bytes) >> 20) as f64 / took.as_secs_f64(),
        failed.len()
    );

    let records = ambassador.wait_records(short as usize + BIG);
    let attempts: usize =
        records.iter().map(|record| record["attempts"].as_array().map_or(0, Vec::len)).sum();
    println!("{attempts} attempts for {} connections", records.len());
    for (client, error) in &failed {
        let record = records.iter().find(|record| record["client"] == client.to_string());
        let record = record.unwrap_or_else(|| panic!("{client}: no record"));
        // It was established and cut: by the death of its server, and of no other.
        assert_eq!(record["stage"], "relay", "{error}: {record}");
        assert_eq!(record["side"], "upstream", "{error}: {record}");
        assert_ne!(record["endpoint"], addresses[0].to_string(), "{error}: {record}");
    }
    assert!(kills >= 6, "only {kills} deaths in {took:.1?}: the transfer was too fast, or somebody slept");
    // They come one after the other: a death has one to cut at most.
    assert!(failed.len() <= kills, "{} of {short} were cut: {failed:?}", failed.len());
    let mebibytes: Vec<_> = records.iter().filter(|record| record["bytes_received"] == size.bytes).collect();
    assert_eq!(mebibytes.len(), BIG);
    for record in mebibytes {
        assert_eq!(
            (&record["outcome"], &record["bytes_sent"]),
            (&"success".into(), &size.bytes.into()),
            "{record}"
        );
    }

    for dead in &addresses[1..] {
        let dead = dead.to_string();
        let transitions = |to: &str| {
            ambassador.metric("nuncio_breaker_transitions_total", &[("endpoint", dead.as_str()), ("to", to)])
        };
        println!(
            "{dead}: {} times open, {} half-open, {} closed",
            transitions("open"),
            transitions("half-open"),
            transitions("closed")
        );
        assert!(transitions("open") >= 1.0);
        // It lives again: its circuit closes with the traffic.
        eventually("its circuit closes", Duration::from_secs(30), || {
            assert!(clients::ask(at, b"ping").is_ok());
            let state = ambassador.metric("nuncio_breaker_state", &[("endpoint", dead.as_str())]);
            (state == 0.0 && transitions("closed") >= 1.0).then_some(())
        });
    }
    let living = addresses[0].to_string();
    assert_eq!(ambassador.metric("nuncio_breaker_transitions_total", &[("endpoint", &living)]), 0.0);
    println!(
        "retry budget exhausted {} times",
        ambassador.metric("nuncio_retry_budget_exhausted_total", &[("upstream", "up")])
    );
}

#[test]
fn big_connections_lose_no_byte_while_the_endpoints_beside_theirs_die() {
    endpoints_die(&Size {
        bytes: 64 << 20,
        time: Duration::from_secs(5),
        kill_every: Duration::from_millis(300),
        breaker: "[upstream.up.breaker]\nopen_for = \"500ms\"\nmax_open = \"1s\"\n",
    });
}

#[test]
fn long_four_gigabytes_each_way_while_endpoints_die() {
    endpoints_die(&Size {
        bytes: 1 << 30,
        time: Duration::from_secs(40),
        kill_every: Duration::from_secs(2),
        breaker: "",
    });
}
