//! An upstream that is a DNS name: the set follows what a real DNS server says, and outlives it.

use std::net::{IpAddr, SocketAddr};

use super::harness::ambassador::Ambassador;
use super::harness::knot::{Knot, ZONE};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually, free_address};

/// Servers at 127.0.0.2, 127.0.0.3, ... on one port, since a name gives addresses only.
fn servers(pki: &Pki, count: u8) -> Vec<Upstream> {
    let port = free_address().port();
    (2..2 + count).map(|host| Upstream::start_at(pki, SocketAddr::from(([127, 0, 0, host], port)))).collect()
}

fn follows(pki: &Pki, knot: &Knot, servers: &[Upstream]) -> Ambassador {
    let port = servers[0].address().port();
    let settings = format!("dns = \"db.{ZONE}:{port}\"\n[upstream.up.health]\nkind = \"off\"\n");
    let dns = format!("[dns]\nservers = [\"{}\"]\ntimeout = \"500ms\"\n", knot.address());
    Ambassador::start(&(config::mtls(pki, &settings) + &dns))
}

fn ips(servers: &[Upstream]) -> Vec<IpAddr> {
    servers.iter().map(|server| server.address().ip()).collect()
}

/// Waits until the set is these servers, and no other.
#[track_caller]
fn set_is(ambassador: &Ambassador, servers: &[Upstream]) {
    let wanted: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    ambassador.wait_state("/api/v1/upstreams", &format!("the set is {wanted:?}"), |upstreams| {
        let endpoints = upstreams[0]["endpoints"].as_array()?;
        let mut now: Vec<_> =
            endpoints.iter().filter_map(|it| Some(it["address"].as_str()?.to_owned())).collect();
        now.sort();
        (now == wanted).then_some(())
    });
}

#[track_caller]
fn all_are_used(ambassador: &Ambassador, servers: &[Upstream]) {
    let before: Vec<_> = servers.iter().map(Upstream::accepted).collect();
    eventually("every server gets connections", PATIENCE, || {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
        servers.iter().zip(&before).all(|(server, before)| server.accepted() > *before).then_some(())
    });
}

#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn the_set_follows_the_dns_within_its_ttl_and_open_connections_stay() {
    let pki = Pki::generate();
    let (knot, servers) = (Knot::start(), servers(&pki, 3));
    knot.set("db", &ips(&servers[..2]));
    let ambassador = follows(&pki, &knot, &servers);
    set_is(&ambassador, &servers[..2]);
    all_are_used(&ambassador, &servers[..2]);
    let mut held: Vec<_> = (0..4).map(|_| clients::connect(ambassador.listener("in"))).collect();
    for stream in &mut held {
        clients::echoes(stream, b"before").unwrap();
    }
    assert_eq!(servers[2].accepted(), 0);

    let changed = std::time::Instant::now();
    knot.set("db", &ips(&servers[2..]));
    set_is(&ambassador, &servers[2..]);
    println!("the set had changed after {:.1?}, with a TTL of 1 s", changed.elapsed());
    assert!(changed.elapsed().as_secs() < 4, "{:?}", changed.elapsed());
    let before: Vec<_> = servers.iter().map(Upstream::accepted).collect();
    for _ in 0..20 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    let after: Vec<_> = servers.iter().map(Upstream::accepted).collect();
    assert_eq!(after, [before[0], before[1], before[2] + 20]);
    // Their servers are no longer in the set; they are not cut for it.
    for stream in &mut held {
        clients::echoes(stream, b"after").unwrap();
    }
}

#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn the_last_good_answer_is_kept_while_the_dns_is_down() {
    let pki = Pki::generate();
    let (mut knot, servers) = (Knot::start(), servers(&pki, 3));
    knot.set("db", &ips(&servers[..2]));
    let ambassador = follows(&pki, &knot, &servers);
    set_is(&ambassador, &servers[..2]);
    knot.kill();
    // Long enough for the answer to have expired, and for several look-ups to have failed.
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 4 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    set_is(&ambassador, &servers[..2]);
    all_are_used(&ambassador, &servers[..2]);
    knot.restart();
    knot.set("db", &ips(&servers));
    set_is(&ambassador, &servers);
    all_are_used(&ambassador, &servers);
    // An answer without an address is kept out as well.
    knot.set("db", &[]);
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 3 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    set_is(&ambassador, &servers);
}

#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn nuncio_starts_while_the_dns_is_down_says_so_and_serves_when_it_is_back() {
    let pki = Pki::generate();
    let (mut knot, servers) = (Knot::prepare(), servers(&pki, 2));
    let mut ambassador = follows(&pki, &knot, &servers);
    assert!(clients::ask(ambassador.listener("in"), b"ping").is_err());
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["reason"], "destination_unavailable", "{record}");
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("endpoints are not known yet: ") && detail.contains("127.0.0.1:"), "{record}");
    knot.restart();
    knot.set("db", &ips(&servers));
    set_is(&ambassador, &servers);
    all_are_used(&ambassador, &servers);
}
