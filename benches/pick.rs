//! What a pick and its settling cost, by balance, size of the set, and threads that share the upstream's lock.
//!
//! `cargo bench --bench pick`. A connection does it once; beside a TLS handshake (some 100 µs) it should not be seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use nuncio::backoff;
use nuncio::upstream::balancer::Balance;
use nuncio::upstream::{EndpointSpec, Observer, Settings, State, Upstream};

fn main() {
    divan::main();
}

struct Nobody;

impl Observer for Nobody {
    fn breaker(&self, _: &str, _: &str, _: State, _: &str) {}
    fn health(&self, _: &str, _: &str, _: bool, _: &str) {}
    fn panic(&self, _: &str, _: bool) {}
    fn source(&self, _: &str, _failing: Option<&str>) {}
}

fn upstream(balance: Balance, endpoints: usize) -> Arc<Upstream> {
    let settings = Settings { balance, ..Settings::default() };
    let upstream = Upstream::new("bench", settings, &backoff::Settings::default(), 1, Arc::new(Nobody));
    let spec = |n| EndpointSpec::new(std::net::SocketAddr::from(([10, 0, 0, 1], n)).into());
    upstream.update((1..=endpoints as u16).map(spec).collect(), Instant::now());
    upstream
}

const SIZES: [usize; 4] = [1, 3, 10, 100];

fn pick_establish_end(bencher: Bencher, balance: Balance, endpoints: usize) {
    let upstream = upstream(balance, endpoints);
    let now = Instant::now();
    bencher.bench(|| {
        if let Ok(mut lease) = upstream.pick(now, Some(7), &[]) {
            lease.established(now, Duration::ZERO);
            lease.ended(now, None);
        }
    });
}

#[divan::bench(args = SIZES, threads = [1, 2])]
fn least_connections(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::LeastConnections, endpoints);
}

#[divan::bench(args = SIZES)]
fn round_robin(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::RoundRobin, endpoints);
}

#[divan::bench(args = SIZES)]
fn random(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::Random, endpoints);
}

#[divan::bench(args = SIZES)]
fn source_hash(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::SourceHash, endpoints);
}
