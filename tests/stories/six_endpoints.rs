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

/// What a client says before its request, by its number.
type Introduction = fn(u32) -> String;

/// One request and its answer.
fn one(address: SocketAddr, introduction: &str) -> io::Result<()> {
    let mut stream = clients::reach(address)?;
    // Longer than nuncio may take to establish it: who gives up before that fails for another reason.
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("{introduction}request").as_bytes())?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"request" { Ok(()) } else { Err(io::Error::other("not its answer")) }
}

/// So many new clients a second, come what may, for so long; ends when the last one has its answer.
fn at_rate(address: SocketAddr, rate: u32, time: Duration, introduction: Introduction) -> Vec<Seen> {
    let (seen, begun) = (Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for number in 0..rate * time.as_secs() as u32 {
            let due = begun + number * Duration::from_secs(1) / rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let seen = &seen;
            scope.spawn(move || {
                let came = Instant::now();
                let end = one(address, &introduction(number));
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

/// Fails at most one in two hundred of the clients that come after the first five seconds.
fn few_fail(
    rate: u32,
    time: Duration,
    config: impl FnOnce(&Pki, &Six) -> String,
    introduction: Introduction,
) {
    let pki = Pki::generate();
    let six = Six::start(&pki);
    let mut ambassador = Ambassador::start(&config(&pki, &six));
    let seen = at_rate(ambassador.listener("in"), rate, time, introduction);
    let records = ambassador.wait_records(seen.len());

    let mut by_second: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for client in &seen {
        let second = by_second.entry(client.at.as_secs()).or_default();
        second.0 += 1;
        second.1 += u32::from(client.end.is_err());
    }
    let failures: Vec<_> = by_second.values().map(|(_, failed)| failed.to_string()).collect();
    println!("failures in each second: {}", failures.join(" "));
    let name_of = |address: &str| {
        six.names().iter().find(|(_, at)| at.to_string() == address).map_or("-", |(name, _)| *name)
    };
    let mut what: BTreeMap<String, u32> = BTreeMap::new();
    for record in records.iter().filter(|record| record["outcome"] != "success") {
        let who = name_of(record["endpoint"].as_str().unwrap_or("-"));
        *what
            .entry(format!("{} {} at the one that {who}", record["stage"], record["reason"]))
            .or_default() += 1;
    }
    println!("what failed: {what:#?}");
    for upstream in ambassador.get("/api/v1/upstreams").json().as_array().unwrap() {
        println!("upstream {}", upstream["name"]);
        for view in upstream["endpoints"].as_array().unwrap() {
            println!(
                "the one that {}: breaker {}, health {}, {} established, {} failed",
                name_of(view["address"].as_str().unwrap_or("-")),
                view["breaker"],
                view["health"],
                view["established_total"],
                view["failed_total"]
            );
        }
        let labels = [("upstream", upstream["name"].as_str().unwrap())];
        let exhausted = ambassador.metric("nuncio_retry_budget_exhausted_total", &labels);
        println!("retry budget exhausted {exhausted} times");
    }
    for listener in ambassador.get("/api/v1/listeners").json().as_array().unwrap() {
        if let Some(why) = listener["rollout"]["why"].as_str() {
            println!("rollout: {}: {why}", listener["rollout"]["state"]);
        }
    }
    for (name, from) in [("all", Duration::ZERO), ("settled", SETTLED)] {
        let mut waits: Vec<_> =
            seen.iter().filter(|client| client.at >= from).map(|client| client.took).collect();
        waits.sort();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
        println!("{name}: p50 {:.1?}, p99 {:.1?}, longest {:.1?}", at(0.5), at(0.99), at(1.0));
    }

    let late: Vec<_> = seen.iter().filter(|client| client.at >= SETTLED).collect();
    let failed = late.iter().filter(|client| client.end.is_err()).count();
    let share = failed as f64 / late.len() as f64;
    println!("{failed} of {} failed after the first {SETTLED:?}: {:.2} %", late.len(), share * 100.0);
    assert!(share <= 0.005);
}

/// When what is wrong with each endpoint has to be known.
const SETTLED: Duration = Duration::from_secs(5);

/// A list of them, and what else the upstream says.
fn listed(settings: &str) -> impl FnOnce(&Pki, &Six) -> String {
    move |pki, six| {
        let addresses: Vec<_> = six.names().iter().map(|(_, address)| *address).collect();
        config::mtls(pki, &(config::endpoints(&addresses) + settings))
    }
}

fn nothing(_: u32) -> String {
    String::new()
}

const UNCHECKED: &str = "[upstream.up.health]\nkind = \"off\"\n";

/// All that an endpoint set can be asked for at once: two upstreams of the same six servers, one of them on trial, as a file
/// names them, each with a zone.
fn everything(pki: &Pki, six: &Six) -> String {
    let entry = |(number, (_, address)): (usize, (_, SocketAddr))| {
        let zone = if number % 2 == 0 { "here" } else { "there" };
        serde_json::json!({ "address": address, "zone": zone, "weight": 10 })
    };
    let entries: Vec<_> = six.names().into_iter().enumerate().map(entry).collect();
    let file = pki.ca().with_file_name("six.json");
    std::fs::write(&file, serde_json::json!(entries).to_string()).unwrap();
    let upstream = |name: &str| {
        format!(
            "[upstream.{name}]\nfile = {file:?}\nidentity = \"test\"\nserver_name = \"{}\"\n{}",
            super::harness::pki::SERVER_NAME,
            EVERYTHING.replace("NAME", name)
        )
    };
    let (ca, certificate, key) = (pki.ca(), &pki.client.certificate, &pki.client.key);
    format!(
        "[identity.test]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [listener.in]\naddress = \"127.0.0.1:0\"\ncontext = \"proxy_protocol\"\nallow = [\"10.0.0.0/8\"]\n\
         split = [{{ upstream = \"stable\" }}, {{ upstream = \"canary\" }}]\nsticky = true\n\
         rollout = {{ canary = \"canary\", steps = [5, 25, 50], pause = \"2s\", minimum = 20 }}\n{}{}",
        upstream("stable"),
        upstream("canary")
    )
}

const EVERYTHING: &str = r#"
balance = "peak_ewma"
zone = "here"
slow_start = "2s"
spill_over = 0.5
leave_timeout = "5s"
required = true
when_unready = "wait"
health = { interval = "1s", close_when_down = true }
limits = { connections = 400, connections_per_endpoint = 100 }
pool = { min = 1, max = 4 }

[upstream.NAME.breaker]
failure_rate = 0.5
outlier = 1.9
slow_first_byte = "250ms"
zero_byte = "10s"
trials = "checks"
max_ejected = 0.7
weights = { certificate_refused = 5, handshake = 2 }
"#;

/// Whoever it comes from, as a proxy before us would say it.
fn of_many_sources(number: u32) -> String {
    let [_, a, b, c] = number.wrapping_mul(0x9E37_79B1).to_be_bytes();
    format!("PROXY TCP4 10.{a}.{b}.{c} 127.0.0.1 40000 5432\r\n")
}

#[test]
fn six_endpoints_of_which_four_misbehave_fail_few_clients() {
    few_fail(100, Duration::from_secs(10), listed(""), nothing);
}

#[test]
fn six_endpoints_of_which_four_misbehave_fail_few_clients_by_the_breaker_alone() {
    few_fail(100, Duration::from_secs(10), listed(UNCHECKED), nothing);
}

#[test]
fn long_six_endpoints_of_which_four_misbehave_fail_few_clients() {
    few_fail(200, Duration::from_secs(30), listed(""), nothing);
}

#[test]
fn long_six_endpoints_of_which_four_misbehave_fail_few_clients_by_the_breaker_alone() {
    few_fail(200, Duration::from_secs(30), listed(UNCHECKED), nothing);
}

#[test]
fn six_endpoints_of_which_four_misbehave_fail_few_clients_with_every_feature_on() {
    few_fail(100, Duration::from_secs(10), everything, of_many_sources);
}

#[test]
fn long_six_endpoints_of_which_four_misbehave_fail_few_clients_with_every_feature_on() {
    few_fail(200, Duration::from_secs(30), everything, of_many_sources);
}
