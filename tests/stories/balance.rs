//! Who gets the connections, counted at the servers.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use super::harness::ambassador::Ambassador;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// Health checks would be counted too.
const UNCHECKED: &str = "[upstream.up.health]\nkind = \"off\"\n";

fn accepted(upstreams: &[Upstream]) -> Vec<f64> {
    upstreams.iter().map(|upstream| upstream.accepted() as f64).collect()
}

/// `endpoints` with a weight each.
fn weighted(upstreams: &[Upstream], weights: &[u32]) -> String {
    let entry = |(upstream, weight): (&Upstream, &u32)| {
        format!("{{ address = \"{}\", weight = {weight} }}", upstream.address())
    };
    let entries: Vec<_> = upstreams.iter().zip(weights).map(entry).collect();
    format!("endpoints = [{}]\n", entries.join(", "))
}

fn echo_from(source: Ipv4Addr, to: SocketAddr) {
    clients::echoes(&mut clients::connect_from(source, to), b"ping").unwrap();
}

fn weights_are_honoured(pki: &Pki, balance: &str) {
    const ROUNDS: u16 = 300;
    let weights = [5, 3, 2];
    let upstreams: Vec<_> = weights.iter().map(|_| Upstream::start(pki)).collect();
    let upstream = weighted(&upstreams, &weights) + &format!("balance = \"{balance}\"\n{UNCHECKED}");
    let ambassador = Ambassador::start(&config::mtls(pki, &upstream));
    for round in 0..ROUNDS {
        // For source_hash and maglev each is another client.
        let [high, low] = round.to_be_bytes();
        echo_from(Ipv4Addr::new(127, 1, high, low), ambassador.listener("in"));
        // What is measured is the draw, not the load: the one before has ended.
        if balance == "least_connections" {
            ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
        }
    }
    let counts = accepted(&upstreams);
    println!("{balance}: {counts:?} for {weights:?}");
    for (count, weight) in counts.iter().zip(weights) {
        let (n, p) = (f64::from(ROUNDS), f64::from(weight) / 10.0);
        // Round robin is exact, but for where it starts. The others: five standard deviations.
        let bound = if balance == "round_robin" { 3.0 } else { 5.0 * (n * p * (1.0 - p)).sqrt() };
        assert!((count - n * p).abs() <= bound, "{balance}: {counts:?} for {weights:?}");
    }
}

#[test]
fn weights_are_honoured_by_every_balance() {
    let pki = &Pki::generate();
    std::thread::scope(|scope| {
        for balance in ["least_connections", "round_robin", "random", "source_hash", "maglev"] {
            scope.spawn(move || weights_are_honoured(pki, balance));
        }
    });
}

#[test]
fn a_source_stays_with_its_server_and_not_all_sources_with_one() {
    let pki = &Pki::generate();
    std::thread::scope(|scope| {
        for balance in ["source_hash", "maglev"] {
            scope.spawn(move || a_source_stays(pki, balance));
        }
    });
}

fn a_source_stays(pki: &Pki, balance: &str) {
    let upstreams: Vec<_> = (0..3).map(|_| Upstream::start(pki)).collect();
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    let settings = format!("balance = \"{balance}\"\n{UNCHECKED}");
    let ambassador = Ambassador::start(&config::mtls(pki, &(config::endpoints(&addresses) + &settings)));
    let mut used = [false; 3];
    for host in 1..=12 {
        let before = accepted(&upstreams);
        for _ in 0..5 {
            echo_from(Ipv4Addr::new(127, 0, 0, host), ambassador.listener("in"));
        }
        let gained: Vec<_> = accepted(&upstreams).iter().zip(before).map(|(now, then)| now - then).collect();
        let place = gained.iter().position(|gained| *gained == 5.0);
        used[place.unwrap_or_else(|| panic!("127.0.0.{host} was spread: {gained:?}"))] = true;
    }
    // All twelve on two of three servers happens once in forty draws; on one, never.
    assert!(used.iter().filter(|used| **used).count() >= 2, "{used:?}");
}

#[test]
fn the_less_loaded_server_gets_the_next_connection() {
    let pki = Pki::generate();
    let upstreams: Vec<_> = (0..2).map(|_| Upstream::start(&pki)).collect();
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    let ambassador = Ambassador::start(&config::mtls(&pki, &(config::endpoints(&addresses) + UNCHECKED)));
    let open = || {
        let mut stream = clients::connect(ambassador.listener("in"));
        clients::echoes(&mut stream, b"ping").unwrap();
        stream
    };
    let mut held = Vec::new();
    for number in 1..=40 {
        held.push(open());
        let [a, b] = [upstreams[0].open(), upstreams[1].open()];
        assert!(a + b == number && a.abs_diff(b) <= 1, "{a} and {b} after {number}");
    }
    // Those of one server leave: the next ones all go there.
    let on_first = |stream: &TcpStream| {
        let client = stream.local_addr().unwrap().to_string();
        let open = ambassador.get("/api/v1/connections").json();
        let open = open.as_array().or_else(|| open["connections"].as_array()).unwrap().clone();
        let mine = open.iter().find(|view| view["client"].as_str() == Some(&client)).unwrap().clone();
        mine["endpoint"] == addresses[0].to_string()
    };
    held.retain(|stream| !on_first(stream));
    assert_eq!(held.len(), 20);
    ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 20.0);
    let before = accepted(&upstreams);
    for _ in 0..20 {
        held.push(open());
    }
    assert_eq!(accepted(&upstreams), [before[0] + 20.0, before[1]]);
}

#[test]
fn backups_serve_only_while_every_primary_is_gone() {
    let pki = Pki::generate();
    let mut primaries: Vec<_> = (0..2).map(|_| Upstream::start(&pki)).collect();
    let backup = Upstream::start(&pki);
    let upstream = format!(
        "endpoints = [\"{}\", \"{}\", {{ address = \"{}\", backup = true }}]\n\
         [upstream.up.breaker]\nopen_for = \"1s\"\nmax_open = \"1s\"\n{UNCHECKED}",
        primaries[0].address(),
        primaries[1].address(),
        backup.address()
    );
    let ambassador = Ambassador::start(&config::mtls(&pki, &upstream));
    let ask = || assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    for _ in 0..30 {
        ask();
    }
    primaries[0].kill();
    for _ in 0..30 {
        ask();
    }
    assert_eq!(backup.accepted(), 0, "one primary lives");
    primaries[1].kill();
    for _ in 0..30 {
        ask();
    }
    assert_eq!(backup.accepted(), 30, "no primary lives");
    primaries[1].restart();
    eventually("the primary is used again", PATIENCE, || {
        ask();
        (primaries[1].accepted() > 0).then_some(())
    });
    ambassador.wait_metric(
        "nuncio_breaker_state",
        &[("endpoint", &primaries[1].address().to_string())],
        |s| s == 0.0,
    );
    let before = backup.accepted();
    for _ in 0..30 {
        ask();
    }
    assert_eq!(backup.accepted(), before, "a primary is back");
}
