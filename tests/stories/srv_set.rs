//! An upstream that is an SRV name: the set follows what a real DNS server says, with its priorities.

use super::harness::ambassador::Ambassador;
use super::harness::knot::{Knot, ZONE};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// Tells the DNS which servers there are, in their order of priority; their names have been told before.
fn services(knot: &Knot, servers: &[&Upstream]) {
    let record = |(priority, server): (usize, &&Upstream)| {
        let port = server.address().port();
        format!("{priority} 10 {port} s{port}.{ZONE}.")
    };
    knot.set_services("_echo._tcp", &servers.iter().enumerate().map(record).collect::<Vec<_>>());
}

fn follows(pki: &Pki, knot: &Knot) -> Ambassador {
    let settings = format!("srv = \"_echo._tcp.{ZONE}\"\n[upstream.up.health]\nkind = \"off\"\n");
    let dns = format!("[dns]\nservers = [\"{}\"]\ntimeout = \"500ms\"\n", knot.address());
    Ambassador::start(&(config::mtls(pki, &settings) + &dns))
}

#[track_caller]
fn set_is(ambassador: &Ambassador, servers: &[&Upstream]) {
    let mut wanted: Vec<_> = servers.iter().map(|server| format!(":{}", server.address().port())).collect();
    wanted.sort();
    ambassador.wait_state("/api/v1/upstreams", &format!("the set is {wanted:?}"), |upstreams| {
        let endpoints = upstreams[0]["endpoints"].as_array()?;
        let port = |it: &serde_json::Value| Some(format!(":{}", it["address"].as_str()?.rsplit_once(':')?.1));
        let mut now: Vec<_> = endpoints.iter().filter_map(port).collect();
        now.sort();
        (now == wanted).then_some(())
    });
}

/// The first target takes everything until it is gone from the DNS, or dead; then the next one does. Connections that are open
/// to a target that has left go on.
#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn the_set_follows_srv_records_within_their_ttl_and_lower_priorities_come_first() {
    let pki = Pki::generate();
    let knot = Knot::start();
    let servers: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    for server in &servers {
        knot.set(&format!("s{}", server.address().port()), &[server.address().ip()]);
    }
    let [first, second, third] = &servers[..] else { panic!("three") };
    services(&knot, &[first, second]);
    let ambassador = follows(&pki, &knot);
    set_is(&ambassador, &[first, second]);
    let mut held = clients::connect(ambassador.listener("in"));
    clients::echoes(&mut held, b"before").unwrap();
    for _ in 0..10 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    assert_eq!((first.accepted(), second.accepted()), (11, 0));

    let changed = std::time::Instant::now();
    services(&knot, &[third, second]);
    set_is(&ambassador, &[second, third]);
    println!("the set had changed after {:.1?}, with a TTL of 1 s", changed.elapsed());
    assert!(changed.elapsed().as_secs() < 4, "{:?}", changed.elapsed());
    for _ in 0..10 {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    }
    assert_eq!((first.accepted(), second.accepted(), third.accepted()), (11, 0, 10));
    clients::echoes(&mut held, b"after").unwrap();
}

/// A DNS that is gone, or says that the service is, empties no set.
#[test]
#[ignore = "needs knot and nsupdate: tests/run installs them"]
fn the_last_srv_records_are_kept_while_the_dns_is_down_and_the_api_says_so() {
    let pki = Pki::generate();
    let mut knot = Knot::start();
    let server = Upstream::start(&pki);
    knot.set(&format!("s{}", server.address().port()), &[server.address().ip()]);
    services(&knot, &[&server]);
    let ambassador = follows(&pki, &knot);
    set_is(&ambassador, &[&server]);
    let source = |what: &str, fits: fn(&serde_json::Value) -> bool| {
        ambassador
            .wait_state("/api/v1/upstreams", what, |upstreams| fits(&upstreams[0]["source"]).then_some(()));
    };
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    knot.kill();
    source("it says that the DNS is down", |source| source["last_error"].is_string());
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    knot.restart();
    services(&knot, &[]);
    source("the DNS is back, and knows of no service", |source| {
        source["last_error"].as_str().is_some_and(|error| error.contains("NXDOMAIN"))
    });
    eventually("it is served all the same", PATIENCE, || {
        clients::ask(ambassador.listener("in"), b"ping").ok()
    });
    set_is(&ambassador, &[&server]);
}
