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

const SIZES: [usize; 3] = [6, 100, 5000];

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
fn peak_ewma(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::PeakEwma, endpoints);
}

#[divan::bench(args = SIZES)]
fn maglev(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::Maglev, endpoints);
}

#[divan::bench(args = SIZES)]
fn source_hash(bencher: Bencher, endpoints: usize) {
    pick_establish_end(bencher, Balance::SourceHash, endpoints);
}

/// What discovery does with every answer, though hardly anything has changed: one of them is another each time.
#[divan::bench(args = [100, 1000, 10_000])]
fn update(bencher: Bencher, endpoints: usize) {
    let upstream = upstream(Balance::LeastConnections, 0);
    let now = Instant::now();
    let spec = |n: u16| EndpointSpec::new(std::net::SocketAddr::from(([10, 0, 0, 1], n)).into());
    let mut specs: Vec<_> = (1..=endpoints as u16).map(spec).collect();
    let mut newcomers = (20_000..60_000).cycle();
    bencher.bench_local(|| {
        specs.pop();
        specs.extend(newcomers.next().map(spec));
        upstream.update(specs.clone(), now);
    });
}

/// The table of `maglev`, which is made at the first pick after the members changed.
#[divan::bench(args = [3, 100, 1000])]
fn maglev_table(bencher: Bencher, endpoints: u64) {
    use nuncio::upstream::maglev::{Member, Table};
    let member =
        |n: u64| Member { key: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), weight: 1, ..Member::default() };
    let members: Vec<_> = (1..=endpoints).map(member).collect();
    bencher.bench(|| Table::new(members.clone()));
}
