//! What the breaker judges by beside failures in a row, who tries an open circuit, and what is detected without being enforced.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::peer::Peer;
use super::harness::upstream::{echo, handshake};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually, free_address};

/// Nobody else judges.
const UNCHECKED: &str = "health.kind = \"off\"\n";

fn served(nuncio: &Ambassador) -> bool {
    clients::ask(nuncio.listener("in"), b"ping").is_ok_and(|answer| answer == b"ping")
}

fn transitions(nuncio: &Ambassador, endpoint: SocketAddr, to: &str, mode: &str) -> f64 {
    let endpoint = endpoint.to_string();
    let labels = [("endpoint", endpoint.as_str()), ("to", to), ("mode", mode)];
    nuncio.metric("nuncio_breaker_transitions_total", &labels)
}

/// What the admin shows of an endpoint.
fn view(nuncio: &Ambassador, endpoint: SocketAddr) -> serde_json::Value {
    let upstreams = nuncio.get("/api/v1/upstreams").json();
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    endpoints.iter().find(|view| view["address"] == endpoint.to_string()).unwrap().clone()
}

/// A server that takes its time before it answers, and serves all the same.
#[test]
fn an_endpoint_whose_first_answers_are_slow_loses_its_turn_while_they_are_still_served() {
    let pki = Pki::generate();
    let (slow, quick) = (Upstream::with(pki.server_config(), Duration::from_secs(1)), Upstream::start(&pki));
    let keys = format!(
        "balance = \"round_robin\"\n{UNCHECKED}\
         [upstream.up.breaker]\nslow_first_byte = \"200ms\"\nconsecutive = 2\nopen_for = \"1h\"\nmax_open = \"1h\"\n"
    );
    let file = config::mtls(&pki, &(config::endpoints(&[slow.address(), quick.address()]) + &keys));
    let nuncio = Ambassador::start(&file);
    let mut held: Vec<_> = (0..4).map(|_| clients::connect(nuncio.listener("in"))).collect();
    for client in &mut held {
        client.write_all(b"ping").unwrap();
    }
    // Before any of them has ended, and before the slow one has said a word.
    eventually("its circuit opens", PATIENCE, || {
        (transitions(&nuncio, slow.address(), "open", "enforced") == 1.0).then_some(())
    });
    for client in &mut held {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
    let last = view(&nuncio, slow.address())["last_failure"].clone();
    assert_eq!(last["class"], "slow", "{last}");
    let before = slow.accepted();
    for _ in 0..6 {
        let begun = Instant::now();
        assert!(served(&nuncio));
        assert!(begun.elapsed() < Duration::from_secs(1), "by the quick one");
    }
    assert_eq!(slow.accepted(), before);
}

/// A gateway without a server behind it: it takes the handshake, keeps the client for a while, and takes its leave in order.
#[test]
fn an_endpoint_that_ends_its_sessions_without_a_byte_loses_its_turn_where_that_counts() {
    let pki = Pki::generate();
    for (zero_byte, opens) in [("\"5s\"", true), ("\"off\"", false)] {
        let config = pki.server_config();
        let silent = Peer::start(move |stream| {
            let Some(mut tls) = handshake(&config, stream) else { return };
            std::thread::sleep(Duration::from_millis(300));
            tls.conn.send_close_notify();
            tls.flush().ok(); // an error: the client was faster
        });
        let keys = format!(
            "{UNCHECKED}[upstream.up.breaker]\nearly_close = \"0s\"\nzero_byte = {zero_byte}\nconsecutive = 2\n\
             open_for = \"1h\"\nmax_open = \"1h\"\n"
        );
        let file = config::mtls(&pki, &(config::endpoints(&[silent.address()]) + &keys));
        let mut nuncio = Ambassador::start(&file);
        for count in 1..=3 {
            let mut client = clients::says_nothing(nuncio.listener("in"));
            client.read_to_end(&mut Vec::new()).ok(); // however it ends
            drop(client);
            nuncio.wait_records(count);
        }
        assert_eq!(transitions(&nuncio, silent.address(), "open", "enforced") == 1.0, opens, "{zero_byte}");
        let last = nuncio.records().pop().unwrap();
        assert_eq!(last["reason"] == "circuit_open", opens, "{last}");
    }
}

/// Connection refused is what happens while it restarts, say; a refused certificate is worse.
#[test]
fn a_failure_counts_as_much_as_its_class_weighs() {
    let pki = Pki::generate();
    for (weight, opens_after) in [(0, None), (1, Some(4)), (2, Some(2)), (4, Some(1))] {
        let nobody = free_address();
        let keys = format!(
            "{UNCHECKED}retry.attempts = 1\n[upstream.up.breaker]\nconsecutive = 4\nweights = {{ refused = {weight} }}\n\
             open_for = \"1h\"\nmax_open = \"1h\"\n"
        );
        let mut nuncio = Ambassador::start(&config::mtls(&pki, &(config::endpoints(&[nobody]) + &keys)));
        for count in 1..=6 {
            assert!(!served(&nuncio));
            nuncio.wait_records(count);
        }
        let tried = nuncio.records().iter().filter(|record| record["reason"] == "connection_refused").count();
        assert_eq!(tried, opens_after.unwrap_or(6), "with a weight of {weight}");
    }
}

/// Not bad enough to be noticed alone: every other connection works, so that no two fail in a row.
#[test]
fn an_endpoint_that_does_worse_than_the_others_loses_its_turn() {
    let pki = Pki::generate();
    let server = pki.server_config();
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let limping = Peer::start(move |stream| {
        let works = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2);
        if let (Some(tls), true) = (handshake(&server, stream), works) {
            echo(tls, Duration::ZERO);
        }
    });
    let others: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    let addresses: Vec<_> =
        std::iter::once(limping.address()).chain(others.iter().map(Upstream::address)).collect();
    let keys = format!(
        "balance = \"round_robin\"\n{UNCHECKED}[upstream.up.breaker]\noutlier = 1.9\noutlier_endpoints = 4\nminimum = 10\n\
         window = \"10m\"\nopen_for = \"1h\"\nmax_open = \"1h\"\n"
    );
    let nuncio = Ambassador::start(&config::mtls(&pki, &(config::endpoints(&addresses) + &keys)));
    eventually("its circuit opens", PATIENCE, || {
        served(&nuncio);
        (transitions(&nuncio, limping.address(), "open", "enforced") == 1.0).then_some(())
    });
    for other in &others {
        assert_eq!(transitions(&nuncio, other.address(), "open", "enforced"), 0.0);
        assert!(other.accepted() >= 9, "{}", other.accepted());
    }
    for _ in 0..8 {
        assert!(served(&nuncio));
    }
}

/// Its circuit opens once. From then on no client is sent there before a check has found it well, however often its time is
/// over.
#[test]
fn with_trials_by_checks_no_client_pays_for_finding_out_whether_an_endpoint_is_back() {
    let pki = Pki::generate();
    let (mut dead, other) = (Upstream::start(&pki), Upstream::start(&pki));
    let keys = "balance = \"round_robin\"\n\
                [upstream.up.breaker]\ntrials = \"checks\"\nopen_for = \"50ms\"\nmax_open = \"50s\"\n\
                [upstream.up.health]\ninterval = \"50ms\"\nfall = 1000\n";
    let file = config::mtls(&pki, &(config::endpoints(&[dead.address(), other.address()]) + keys));
    let mut nuncio = Ambassador::start(&file);
    dead.kill();
    let mut asked = 0;
    eventually("its circuit opens", PATIENCE, || {
        assert!(served(&nuncio), "by the other one");
        asked += 1;
        (transitions(&nuncio, dead.address(), "open", "enforced") == 1.0).then_some(())
    });
    nuncio.wait_records(asked);
    let failed = |nuncio: &Ambassador| nuncio.metric("nuncio_health_checks_total", &[("result", "failure")]);
    let before = failed(&nuncio);
    // Far more than the circuit's own time.
    eventually("checks fail", PATIENCE, || {
        assert!(served(&nuncio));
        asked += 1;
        (failed(&nuncio) >= before + 10.0).then_some(())
    });
    assert_eq!(transitions(&nuncio, dead.address(), "half-open", "enforced"), 0.0);
    dead.restart();
    eventually("a client's connection closes it", PATIENCE, || {
        assert!(served(&nuncio));
        asked += 1;
        (transitions(&nuncio, dead.address(), "closed", "enforced") == 1.0).then_some(())
    });
    let records = nuncio.wait_records(asked);
    // Five were needed to open it.
    let paid = records.iter().filter(|record| record["attempts"].as_array().unwrap().len() > 1).count();
    assert_eq!(paid, 5, "{records:#?}");
    assert!(records.iter().all(|record| record["outcome"] == "success"));
    assert_eq!(transitions(&nuncio, dead.address(), "open", "enforced"), 1.0);
}

/// To see what a breaker would do before it does it.
#[test]
fn in_shadow_mode_everything_is_counted_and_every_connection_let_through() {
    let pki = Pki::generate();
    let mut dead = Upstream::start(&pki);
    dead.kill();
    let with = |shadow: bool| {
        let keys = format!(
            "{UNCHECKED}retry.attempts = 1\n\
             [upstream.up.breaker]\nshadow = {shadow}\nopen_for = \"1h\"\nmax_open = \"1h\"\n"
        );
        config::mtls(&pki, &(config::endpoints(&[dead.address()]) + &keys))
    };
    let mut nuncio = Ambassador::start(&with(true));
    for count in 1..=8 {
        assert!(!served(&nuncio));
        let record = nuncio.wait_records(count).pop().unwrap();
        assert_eq!(record["reason"], "connection_refused", "it was tried: {record}");
    }
    let count = |nuncio: &Ambassador, mode| transitions(nuncio, dead.address(), "open", mode);
    assert_eq!((count(&nuncio, "shadow"), count(&nuncio, "enforced")), (1.0, 0.0));
    assert_eq!(nuncio.metric("nuncio_breaker_state", &[]), 0.0, "what is in force");
    let seen = view(&nuncio, dead.address());
    assert_eq!((&seen["breaker"], &seen["breaker_shadow"]), (&"closed".into(), &"open".into()), "{seen}");
    assert_eq!(seen["ready"], true);
    nuncio.wait_line("would open");
    let mut dead = dead;
    dead.restart();
    assert!(served(&nuncio), "nobody was kept from it");
}

/// The other way round: what was only watched is put into force by a reload.
#[test]
#[cfg(unix)]
fn a_reload_puts_what_a_shadow_has_detected_into_force() {
    let pki = Pki::generate();
    let nobody = free_address();
    let with = |shadow: bool| {
        let keys = format!(
            "{UNCHECKED}retry.attempts = 1\n\
             [upstream.up.breaker]\nshadow = {shadow}\nopen_for = \"1h\"\nmax_open = \"1h\"\n"
        );
        config::mtls(&pki, &(config::endpoints(&[nobody]) + &keys))
    };
    let mut nuncio = Ambassador::start(&with(true));
    for _ in 0..5 {
        assert!(!served(&nuncio));
    }
    eventually("it is detected", PATIENCE, || {
        (transitions(&nuncio, nobody, "open", "shadow") == 1.0).then_some(())
    });
    nuncio.reloaded(&with(false));
    assert_eq!(transitions(&nuncio, nobody, "open", "enforced"), 1.0);
    assert!(!served(&nuncio));
    assert_eq!(nuncio.wait_records(6).pop().unwrap()["reason"], "circuit_open");
}
