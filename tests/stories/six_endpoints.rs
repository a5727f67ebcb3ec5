//! Six endpoints of which four misbehave, each in its own way, under a steady stream of short connections.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::peer::Peer;
use super::harness::{Hostile, Pki, Upstream, clients, config};

/// What one client saw.
struct Seen {
    /// When it came, after the start.
    at: Duration,
    /// Until it had its answer and the connection was closed, or until it had failed.
    took: Duration,
    end: io::Result<()>,
}

/// One request and its answer.
fn one(address: SocketAddr) -> io::Result<()> {
    let mut stream = clients::reach(address)?;
    // Longer than nuncio may take to establish it: who gives up before that fails for another reason.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"request")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"request" { Ok(()) } else { Err(io::Error::other("not its answer")) }
}

/// So many new clients a second, come what may, for so long; ends when the last one has its answer.
fn at_rate(address: SocketAddr, rate: u32, time: Duration) -> Vec<Seen> {
    let (seen, begun) = (Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for number in 0..rate * time.as_secs() as u32 {
            let due = begun + number * Duration::from_secs(1) / rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let seen = &seen;
            scope.spawn(move || {
                let came = Instant::now();
                let end = one(address);
                let client = Seen { at: came - begun, took: came.elapsed(), end };
                seen.lock().unwrap().push(client);
            });
        }
    });
    seen.into_inner().unwrap()
}

/// The endpoints, by what is wrong with each.
struct Six {
    good: [Upstream; 2],
    slow: Upstream,
    bad: [(&'static str, Peer); 3],
}

impl Six {
    fn start(pki: &Pki) -> Six {
        Six {
            good: [Upstream::start(pki), Upstream::start(pki)],
            slow: Upstream::with(pki.server_config(), Duration::from_millis(300)),
            bad: [
                ("resets after the handshake", Hostile::ResetsAfterHandshake.start(pki)),
                ("never answers", Hostile::NeverAnswers.start(pki)),
                ("has a foreign CA", Hostile::ForeignCa.start(pki)),
            ],
        }
    }

    fn names(&self) -> Vec<(&'static str, SocketAddr)> {
        let bad = self.bad.iter().map(|(name, peer)| (*name, peer.address()));
        let good = self.good.iter().map(|upstream| ("is fine", upstream.address()));
        bad.chain([("is slow", self.slow.address())]).chain(good).collect()
    }
}

/// Fails at most one in two hundred of the clients that come after `settled`.
fn few_fail(rate: u32, time: Duration, settled: Duration, settings: &str) {
    let pki = Pki::generate();
    let six = Six::start(&pki);
    let addresses: Vec<_> = six.names().iter().map(|(_, address)| *address).collect();
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &(config::endpoints(&addresses) + settings)));
    let seen = at_rate(ambassador.listener("in"), rate, time);
    let records = ambassador.wait_records(seen.len());

    let mut by_second: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for client in &seen {
        let second = by_second.entry(client.at.as_secs()).or_default();
        second.0 += 1;
        second.1 += u32::from(client.end.is_err());
    }
    let failures: Vec<_> = by_second.values().map(|(_, failed)| failed.to_string()).collect();
    println!("failures in each second: {}", failures.join(" "));
    let mut what: BTreeMap<String, u32> = BTreeMap::new();
    for record in records.iter().filter(|record| record["outcome"] != "success") {
        let who = record["endpoint"].as_str().unwrap_or("-");
        let who =
            six.names().iter().find(|(_, address)| address.to_string() == who).map_or("-", |(name, _)| name);
        *what
            .entry(format!("{} {} at the one that {who}", record["stage"], record["reason"]))
            .or_default() += 1;
    }
    println!("what failed: {what:#?}");
    let upstreams = ambassador.get("/api/v1/upstreams").json();
    for (view, (name, _)) in upstreams[0]["endpoints"].as_array().unwrap().iter().zip(six.names()) {
        println!(
            "the one that {name}: breaker {}, health {}, {} established, {} failed",
            view["breaker"], view["health"], view["established_total"], view["failed_total"]
        );
    }
    println!(
        "retry budget exhausted {} times",
        ambassador.metric("nuncio_retry_budget_exhausted_total", &[("upstream", "up")])
    );
    for (name, from) in [("all", Duration::ZERO), ("settled", settled)] {
        let mut waits: Vec<_> =
            seen.iter().filter(|client| client.at >= from).map(|client| client.took).collect();
        waits.sort();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
        println!("{name}: p50 {:.1?}, p99 {:.1?}, longest {:.1?}", at(0.5), at(0.99), at(1.0));
    }

    let late: Vec<_> = seen.iter().filter(|client| client.at >= settled).collect();
    let failed = late.iter().filter(|client| client.end.is_err()).count();
    let share = failed as f64 / late.len() as f64;
    println!("{failed} of {} failed after the first {settled:?}: {:.2} %", late.len(), share * 100.0);
    assert!(share <= 0.005);
}

const UNCHECKED: &str = "[upstream.up.health]\nkind = \"off\"\n";

#[test]
fn six_endpoints_of_which_four_misbehave_fail_few_clients() {
    few_fail(100, Duration::from_secs(10), Duration::from_secs(5), "");
}

#[test]
fn six_endpoints_of_which_four_misbehave_fail_few_clients_by_the_breaker_alone() {
    few_fail(100, Duration::from_secs(10), Duration::from_secs(5), UNCHECKED);
}

#[test]
fn long_six_endpoints_of_which_four_misbehave_fail_few_clients() {
    few_fail(200, Duration::from_secs(30), Duration::from_secs(5), "");
}

#[test]
fn long_six_endpoints_of_which_four_misbehave_fail_few_clients_by_the_breaker_alone() {
    few_fail(200, Duration::from_secs(30), Duration::from_secs(5), UNCHECKED);
}
