//! One endpoint that dies: clients are refused at once, and served again when it is back.

use std::io::Read;
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::peer::Peer;
use super::harness::upstream::handshake;
use super::harness::{Pki, Upstream, clients, config, eventually};

const LIMIT: Duration = Duration::from_secs(15);

/// The only endpoint's state.
fn state(ambassador: &Ambassador, key: &str) -> String {
    let upstreams = ambassador.get("/api/v1/upstreams").json();
    upstreams[0]["endpoints"][0][key].as_str().unwrap().to_owned()
}

fn served(ambassador: &Ambassador) -> bool {
    clients::ask(ambassador.listener("in"), b"ping").is_ok_and(|answer| answer == b"ping")
}

fn circuit(ambassador: &Ambassador, to: &str) -> f64 {
    ambassador.metric("nuncio_breaker_transitions_total", &[("upstream", "up"), ("to", to)])
}

/// Connects until the circuit is open; the next client is then refused at once, without a try, and told so by its record.
fn circuit_opens(ambassador: &mut Ambassador) {
    eventually("the circuit opens", LIMIT, || {
        assert!(!served(ambassador));
        (circuit(ambassador, "open") == 1.0).then_some(())
    });
    let begun = Instant::now();
    let before = ambassador.metric("nuncio_connections_total", &[]) as usize;
    assert!(!served(ambassador));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    let record = ambassador.wait_records(before + 1).pop().unwrap();
    assert_eq!(
        (&record["outcome"], &record["reason"], &record["stage"]),
        (&"refused".into(), &"circuit_open".into(), &"route".into()),
        "{record}"
    );
    assert!(record.get("attempts").is_none(), "{record}");
    assert!(record["detail"].as_str().unwrap().contains("connection refused"), "{record}");
}

#[test]
fn a_server_that_is_down_opens_the_circuit_and_a_trial_closes_it_when_it_is_back() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let settings =
        "[upstream.up.breaker]\nopen_for = \"1s\"\nmax_open = \"1s\"\n[upstream.up.health]\nkind = \"off\"\n";
    let file = config::mtls(&pki, &(config::endpoints(&[upstream.address()]) + settings));
    let mut ambassador = Ambassador::start(&file);
    assert!(served(&ambassador));
    upstream.kill();
    circuit_opens(&mut ambassador);
    upstream.restart();
    // Only a client's own connection can tell that it is back.
    eventually("a trial closes the circuit", LIMIT, || {
        served(&ambassador).then(|| circuit(&ambassador, "closed") >= 1.0).filter(|closed| *closed)
    });
    assert!(circuit(&ambassador, "half-open") >= 1.0);
    assert_eq!(state(&ambassador, "breaker"), "closed");
    for _ in 0..20 {
        assert!(served(&ambassador));
    }
}

#[test]
fn a_health_check_that_passes_again_lets_clients_in_before_the_circuit_would() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let settings = "[upstream.up.breaker]\nopen_for = \"1h\"\nmax_open = \"1h\"\n\
                    [upstream.up.health]\ninterval = \"250ms\"\nfall = 1000\n";
    let file = config::mtls(&pki, &(config::endpoints(&[upstream.address()]) + settings));
    let mut ambassador = Ambassador::start(&file);
    assert!(served(&ambassador));
    upstream.kill();
    circuit_opens(&mut ambassador);
    // A check has to have seen the fault for its passing to mean something.
    let failed = || ambassador.metric("nuncio_health_checks_total", &[("result", "failure")]);
    let before = failed();
    eventually("a check fails while it is open", LIMIT, || (failed() > before).then_some(()));
    upstream.restart();
    eventually("the circuit is half-open", LIMIT, || {
        (circuit(&ambassador, "half-open") == 1.0).then_some(())
    });
    assert!(served(&ambassador));
    eventually("it closes", LIMIT, || (circuit(&ambassador, "closed") == 1.0).then_some(()));
    assert!(served(&ambassador));
}

#[test]
fn health_checks_alone_take_a_dead_server_out_and_bring_it_back() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let settings = "required = true\n[upstream.up.health]\ninterval = \"100ms\"\n";
    let file = config::mtls(&pki, &(config::endpoints(&[upstream.address()]) + settings));
    let mut ambassador = Ambassador::start(&file);
    eventually("it is up", LIMIT, || (state(&ambassador, "health") == "up").then_some(()));
    assert_eq!(ambassador.get("/readyz").status, 200);
    upstream.kill();
    eventually("it is down", LIMIT, || (state(&ambassador, "health") == "down").then_some(()));
    assert_eq!(ambassador.get("/readyz").status, 503);
    // No client had to find out.
    assert_eq!(state(&ambassador, "breaker"), "closed");
    let begun = Instant::now();
    assert!(!served(&ambassador));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["reason"], "destination_unavailable", "{record}");
    upstream.restart();
    eventually("it is up again", LIMIT, || (state(&ambassador, "health") == "up").then_some(()));
    assert!(served(&ambassador));
    assert_eq!(ambassador.get("/readyz").status, 200);
}

#[test]
fn a_server_that_hangs_up_on_idle_clients_is_not_taken_for_one_that_cannot_serve() {
    const PATIENT: Duration = Duration::from_millis(1500); // longer than breaker.early_close
    let pki = Pki::generate();
    let config = pki.server_config();
    let peer = Peer::start(move |stream| {
        let tls = handshake(&config, stream);
        std::thread::sleep(PATIENT);
        drop(tls); // without close_notify, as many do
    });
    let settings = config::endpoints(&[peer.address()]) + "[upstream.up.health]\nkind = \"off\"\n";
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &settings));
    let held: Vec<_> = (0..8).map(|_| clients::says_nothing(ambassador.listener("in"))).collect();
    for mut stream in held {
        assert!(stream.read(&mut [0]).is_err(), "a truncated stream");
    }
    for record in ambassador.wait_records(8) {
        assert_eq!(
            (&record["reason"], &record["side"]),
            (&"truncated".into(), &"upstream".into()),
            "{record}"
        );
    }
    assert_eq!(circuit(&ambassador, "open"), 0.0);
}

#[test]
fn liveness_probes_that_say_nothing_do_not_open_the_circuit() {
    let pki = Pki::generate();
    let config = pki.server_config();
    let peer = Peer::start(move |stream| {
        if let Some(mut tls) = handshake(&config, stream) {
            // The goodbye, which it answers with a bare FIN.
            assert_eq!(tls.read(&mut [0]).ok(), Some(0));
        }
    });
    let settings = config::endpoints(&[peer.address()]) + "[upstream.up.health]\nkind = \"off\"\n";
    let ambassador = Ambassador::start(&config::mtls(&pki, &settings));
    for number in 1..=8 {
        let stream = clients::says_nothing(ambassador.listener("in"));
        eventually("the server is reached", LIMIT, || (peer.accepted() == number).then_some(()));
        ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 1.0);
        drop(stream);
        ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
    }
    assert_eq!(ambassador.metric("nuncio_connections_total", &[("outcome", "success")]), 8.0);
    assert_eq!(circuit(&ambassador, "open"), 0.0);
}
