//! Another endpoint, another time, or not at all: retries, their budget, the breaker, the queue and the time for all of it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls::AlertDescription;

use super::harness::hostile::{Deaf, Point};
use super::harness::scene::{Route, Scene, rest, send, story};
use super::harness::{Hostile, PATIENCE, Pki, Upstream, clients, eventually, free_address};

/// A scene whose second endpoint is only used after the first.
fn with_backup(pki: &Pki, first: SocketAddr, second: SocketAddr, keys: &str) -> Scene {
    Scene::with(pki, &[Route { name: "test", endpoints: &[first], backups: &[second], keys }])
}

/// The breaker of the first endpoint, as the admin shows it.
fn breaker(scene: &Scene) -> String {
    scene.ambassador.get("/api/v1/upstreams").json()[0]["endpoints"][0]["breaker"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn transitions(scene: &Scene, to: &str) -> f64 {
    scene.ambassador.metric("nuncio_breaker_transitions_total", &[("to", to)])
}

fn milliseconds(record: &serde_json::Value) -> f64 {
    record["duration_ms"].as_f64().unwrap()
}

#[test]
fn a_client_is_carried_on_to_the_next_endpoint_whatever_the_first_one_does() {
    let pki = Pki::generate();
    let deaf = Deaf::start();
    let hostile = [
        (Hostile::ClosesAtOnce, "connection_terminated"),
        (Hostile::ResetsAtOnce, "connection_terminated"),
        (Hostile::NeverAnswers, "handshake_timeout"),
        (Hostile::Garbage, "tls_protocol_error"),
        (Hostile::PlaintextGreeting(b"220 mx ESMTP\r\n".to_vec()), "tls_protocol_error"),
        (
            Hostile::AlertAt(Point::InsteadOfServerHello, AlertDescription::InternalError),
            "tls_alert_received",
        ),
        (Hostile::ClientCertAlert12, "client_certificate_refused"),
        (Hostile::ForeignCa, "tls_certificate_error"),
        (Hostile::Expired, "tls_certificate_error"),
    ];
    let peers: Vec<_> = hostile.iter().map(|(hostile, _)| hostile.clone().start(&pki)).collect();
    let mut firsts: Vec<(SocketAddr, &str)> =
        peers.iter().zip(&hostile).map(|(peer, (_, reason))| (peer.address(), *reason)).collect();
    firsts.extend([(free_address(), "connection_refused"), (deaf.address(), "connection_timeout")]);
    let good = Upstream::start(&pki);
    let backups = [good.address()];
    let names: Vec<_> = (0..firsts.len()).map(|number| format!("case{number}")).collect();
    let routes: Vec<_> = names
        .iter()
        .zip(&firsts)
        .map(|(name, (first, _))| Route {
            name,
            endpoints: std::slice::from_ref(first),
            backups: &backups,
            keys: "timeouts.connect = \"300ms\"\ntimeouts.handshake = \"300ms\"",
        })
        .collect();
    let mut scene = Scene::with(&pki, &routes);
    for name in &names {
        assert_eq!(clients::ask(scene.ambassador.listener(name), b"hello").unwrap(), b"hello", "{name}");
    }
    let records = scene.all_records(firsts.len());
    for (name, (_, reason)) in names.iter().zip(&firsts) {
        let record = records.iter().find(|record| record["listener"] == *name.as_str()).unwrap();
        let attempts = record["attempts"].as_array().unwrap();
        assert!(story(record).starts_with("success by client; "), "{reason}: {record}");
        let results: Vec<_> = attempts.iter().map(|attempt| attempt["reason"].as_str()).collect();
        assert_eq!(results, [Some(*reason), None], "{record}");
        assert_eq!(record["endpoint"], good.address().to_string());
    }
    assert_eq!(good.accepted(), firsts.len() as u64);
}

#[test]
fn nothing_is_sent_again_once_a_server_has_had_a_byte() {
    let pki = Pki::generate();
    let takes_a_byte = Hostile::ResetsAtFirstByte.start(&pki);
    let second = Upstream::start(&pki);
    let mut scene = with_backup(&pki, takes_a_byte.address(), second.address(), "retry.attempts = 5");
    let client = scene.connect();
    send(&client, b"pay 100");
    assert_eq!(rest(&client), (vec![], Err(ErrorKind::ConnectionReset)));
    let record = scene.one_record();
    assert_eq!(story(&record), "failed relay/early_close/upstream by upstream; ok");
    assert_eq!(record["bytes_sent"], 7);
    assert_eq!((takes_a_byte.accepted(), second.accepted()), (1, 0));
}

#[test]
fn a_single_endpoint_is_tried_again_after_a_pause_and_as_often_as_the_file_says() {
    let pki = Pki::generate();
    let peer = Hostile::ClosesAtOnce.start(&pki);
    let mut scene = Scene::start(&pki, &[peer.address()], "retry.attempts = 4\nbreaker.consecutive = 10");
    scene.ask(b"hello").expect_err("it never works");
    let record = scene.one_record();
    let reason = "handshake/connection_terminated";
    let expected = format!("failed {reason}/upstream by ambassador; {reason}, {reason}, {reason}, {reason}");
    assert_eq!(story(&record), expected);
    assert_eq!(peer.accepted(), 4);
    let failed = [("upstream", "test"), ("result", "connection_terminated")];
    assert_eq!(scene.ambassador.metric("nuncio_attempts_total", &failed), 4.0);
}

#[test]
fn retries_stop_when_their_budget_is_spent_and_that_is_counted() {
    // Without a share of the traffic there are a hundred in ten seconds.
    let pki = Pki::generate();
    let keys = "retry.attempts = 2\nretry.budget = 0.0\nbreaker.consecutive = \"off\"";
    let mut scene = Scene::start(&pki, &[free_address()], keys);
    let begun = Instant::now();
    for _ in 0..104 {
        scene.ask(b"hello").expect_err("nobody listens");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "the window has moved on: {:?}", begun.elapsed());
    let records = scene.all_records(104);
    let tries: Vec<_> = records.iter().map(|record| record["attempts"].as_array().unwrap().len()).collect();
    assert_eq!(tries, [[2; 100].as_slice(), &[1; 4]].concat());
    assert_eq!(scene.ambassador.metric("nuncio_retry_budget_exhausted_total", &[("upstream", "test")]), 4.0);
    assert_eq!(scene.ambassador.metric("nuncio_attempts_total", &[("upstream", "test")]), 204.0);
}

#[test]
fn with_its_only_endpoint_down_the_circuit_opens_fails_at_once_and_closes_by_one_trial() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let keys = "retry.attempts = 1\nbreaker.consecutive = 3\nbreaker.open_for = \"1500ms\"\nbreaker.max_open = \"1500ms\"";
    let mut scene = Scene::start(&pki, &[upstream.address()], keys);
    assert_eq!(scene.ask(b"hello").unwrap(), b"hello");
    upstream.kill();
    for _ in 0..3 {
        scene.ask(b"hello").expect_err("nobody listens");
    }
    assert_eq!((breaker(&scene).as_str(), transitions(&scene, "open")), ("open", 1.0));
    for _ in 0..9 {
        scene.ask(b"hello").expect_err("the circuit is open");
    }
    upstream.restart();
    scene.ambassador.wait_state("/api/v1/upstreams", "the circuit may be tried", |upstreams| {
        (upstreams[0]["endpoints"][0]["breaker"] == "half-open").then_some(())
    });
    // The trial is a client's own connection, and it is served.
    assert_eq!(scene.ask(b"hello").unwrap(), b"hello");
    assert_eq!(breaker(&scene), "closed");
    assert_eq!((transitions(&scene, "half-open"), transitions(&scene, "closed")), (1.0, 1.0));
    assert_eq!(scene.ask(b"hello").unwrap(), b"hello");

    let records = scene.all_records(15);
    let stories: Vec<_> = records.iter().map(story).collect();
    let refused = "failed connect/connection_refused/upstream by ambassador; connect/connection_refused";
    let open = "refused route/circuit_open/upstream by ambassador";
    assert_eq!(stories[1..4], [refused; 3]);
    assert_eq!(stories[4..13], [open; 9]);
    let mut took: Vec<_> = records[4..13].iter().map(|record| milliseconds(record) as u64).collect();
    took.sort_unstable();
    assert!(took[4] < 50, "half of them took longer than {} ms", took[4]);
    assert!(records[4]["detail"].as_str().unwrap().contains("refused"), "it says why: {}", records[4]);
}

#[test]
fn a_circuit_that_opened_is_closed_by_a_check_before_any_client_pays() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let keys = "retry.attempts = 1\nbreaker.consecutive = 2\nbreaker.open_for = \"60s\"\n\
                health.interval = \"100ms\"\nhealth.timeout = \"1s\"\nhealth.fall = 1000";
    let scene = Scene::start(&pki, &[upstream.address()], keys);
    upstream.kill();
    for _ in 0..2 {
        scene.ask(b"hello").expect_err("nobody listens");
    }
    assert_eq!(breaker(&scene), "open");
    // One must have failed meanwhile: only a check that sees the fault can see it gone.
    let (checks, failed) = ("nuncio_health_checks_total", [("result", "failure")]);
    let before = scene.ambassador.metric(checks, &failed);
    scene.ambassador.wait_metric(checks, &failed, |count| count > before);
    upstream.restart();
    scene.ambassador.wait_state("/api/v1/upstreams", "a check half-opens the circuit", |upstreams| {
        (upstreams[0]["endpoints"][0]["breaker"] != "open").then_some(())
    });
    assert_eq!(scene.ask(b"hello").unwrap(), b"hello", "the first client after that is served");
    assert_eq!(breaker(&scene), "closed");
}

#[test]
fn a_half_open_circuit_costs_one_client_a_trial_and_the_others_nothing() {
    let pki = Pki::generate();
    let peer = Hostile::NeverAnswers.start(&pki);
    let keys = "retry.attempts = 1\nbreaker.consecutive = 1\nbreaker.open_for = \"300ms\"\ntimeouts.handshake = \"1500ms\"";
    let mut scene = Scene::start(&pki, &[peer.address()], keys);
    scene.ask(b"hello").expect_err("it is silent");
    scene.ambassador.wait_state("/api/v1/upstreams", "the circuit may be tried", |upstreams| {
        (upstreams[0]["endpoints"][0]["breaker"] == "half-open").then_some(())
    });
    let trial = scene.connect();
    eventually("the trial is under way", PATIENCE, || (peer.accepted() == 2).then_some(()));
    for _ in 0..5 {
        scene.ask(b"hello").expect_err("the one trial is taken");
    }
    assert_eq!(rest(&trial), (vec![], Err(ErrorKind::ConnectionReset)));
    let records = scene.all_records(7);
    let open = records.iter().filter(|record| record["reason"] == "circuit_open").count();
    assert_eq!((open, peer.accepted()), (5, 2));
    assert_eq!((transitions(&scene, "open"), transitions(&scene, "half-open")), (2.0, 1.0));
}

#[test]
fn the_time_for_all_attempts_ends_them_and_the_last_ones_stage_is_named() {
    let pki = Pki::generate();
    let peer = Hostile::NeverAnswers.start(&pki);
    let keys = "retry.attempts = 9\ntimeouts.handshake = \"400ms\"\ntimeouts.establish = \"1s\"\nbreaker.consecutive = \"off\"";
    let mut scene = Scene::start(&pki, &[peer.address()], keys);
    scene.ask(b"hello").expect_err("it is silent");
    let record = scene.one_record();
    assert!(
        story(&record).starts_with("failed handshake/establish_timeout/upstream by ambassador; "),
        "{record}"
    );
    assert!((900.0..2500.0).contains(&milliseconds(&record)), "{record}");
    assert!((2..=4).contains(&record["attempts"].as_array().unwrap().len()), "{record}");
}

#[test]
fn beyond_its_places_an_upstream_lets_some_wait_and_refuses_the_rest() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = "limits.connections = 2\nlimits.pending = 1\nlimits.queue_timeout = \"1500ms\"";
    let mut scene = Scene::start(&pki, &[upstream.address()], keys);
    let mut holders = [scene.connect(), scene.connect()];
    for holder in &mut holders {
        clients::echoes(holder, b"mine").unwrap();
    }
    let waiting = |scene: &Scene, count: u64| {
        scene.ambassador.wait_state("/api/v1/upstreams", "so many wait", |upstreams| {
            (upstreams[0]["waiting"] == count).then_some(())
        });
    };

    let late = scene.connect();
    waiting(&scene, 1);
    let refused = scene.ask(b"").expect_err("there is no room to wait");
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rest(&late), (vec![], Err(ErrorKind::ConnectionReset)), "it waited in vain");

    let gone = scene.connect();
    waiting(&scene, 1);
    drop(gone);
    waiting(&scene, 0);

    let mut lucky = scene.connect();
    waiting(&scene, 1);
    let [first, second] = holders;
    drop(first);
    clients::echoes(&mut lucky, b"mine").unwrap();
    drop((second, lucky));

    let mut stories: Vec<_> = scene.all_records(6).iter().map(story).collect();
    stories.sort_unstable();
    assert_eq!(
        stories,
        [
            "cancelled queue/-/- by client",
            "failed queue/queue_timeout/ambassador by ambassador",
            "refused queue/connection_limit_reached/ambassador by ambassador",
            "success by client; ok",
            "success by client; ok",
            "success by client; ok",
        ]
    );
    assert_eq!(upstream.accepted(), 3, "who was refused never reached the server");
}

#[test]
fn the_queue_takes_part_in_the_time_for_all_of_it() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = "limits.connections = 1\ntimeouts.establish = \"400ms\"";
    let mut scene = Scene::start(&pki, &[upstream.address()], keys);
    let mut holder = scene.connect();
    clients::echoes(&mut holder, b"mine").unwrap();
    let late = scene.connect();
    assert_eq!(rest(&late), (vec![], Err(ErrorKind::ConnectionReset)));
    drop(holder);
    let records = scene.all_records(2);
    let late = records.iter().find(|record| record["outcome"] != "success").unwrap();
    assert_eq!(story(late), "failed queue/establish_timeout/ambassador by ambassador");
    assert!((400.0..2000.0).contains(&milliseconds(late)), "{late}");
}

#[test]
fn servers_that_end_well_leave_their_circuit_closed_and_those_that_slam_open_it() {
    // A server that takes the handshake and resets is no healthy server, though each connection was established.
    let pki = Pki::generate();
    let (good, slamming) = (Upstream::start(&pki), Hostile::ResetsAfterHandshake.start(&pki));
    for (address, fails) in [(good.address(), false), (slamming.address(), true)] {
        let mut scene = Scene::start(&pki, &[address], "breaker.consecutive = 4\nbreaker.open_for = \"60s\"");
        for _ in 0..6 {
            // Its end and the next beginning in one order: the circuit counts it before its client sees it.
            assert_eq!(scene.ask(b"hello").is_err(), fails);
        }
        assert_eq!(breaker(&scene), if fails { "open" } else { "closed" });
        let records = scene.all_records(6);
        let early = records.iter().filter(|record| record["reason"] == "early_close").count();
        let open = records.iter().filter(|record| record["reason"] == "circuit_open").count();
        assert_eq!((early, open), if fails { (4, 2) } else { (0, 0) });
    }
}
