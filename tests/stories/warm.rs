//! Connections that are ready before their client comes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::harness::ambassador::{Ambassador, refused};
use super::harness::delayer::delayed;
use super::harness::hostile::Deaf;
use super::harness::peer::Peer;
use super::harness::pki::{By, Valid};
use super::harness::scene::{self, Route, Scene};
use super::harness::upstream::{echo, handshake, plain_echo};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

const READY: (&str, &[(&str, &str)]) = ("nuncio_pool_connections", &[("state", "ready")]);

/// Until so many are ready.
fn ready(ambassador: &Ambassador, count: f64) {
    ambassador.wait_metric(READY.0, READY.1, |ready| ready == count);
}

/// The connection is there before the client is: it goes through no step of its own, counts once, and serves nobody else.
#[test]
fn a_client_is_given_a_connection_that_was_ready_and_the_next_one_another() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::start(&pki, &[upstream.address()], "pool.min = 1\n");
    ready(&scene.ambassador, 1.0);
    assert_eq!((upstream.accepted(), scene.ambassador.metric("nuncio_connections_total", &[])), (1, 0.0));

    for number in 1..=3 {
        assert_eq!(scene.ask(b"ping").unwrap(), b"ping");
        ready(&scene.ambassador, 1.0);
        assert_eq!(upstream.accepted(), number + 1, "each has one to itself, and another takes its place");
    }
    for record in scene.all_records(3) {
        assert!(record["warm_ms"].is_number() && record["tls"]["version"] == "TLSv1.3", "{record}");
        assert!(record.get("connect_ms").is_none() && record.get("handshake_ms").is_none(), "{record}");
    }
    let counted = |name, labels: &[_]| scene.ambassador.metric(name, labels);
    assert_eq!(counted("nuncio_connections_total", &[("outcome", "success")]), 3.0);
    assert_eq!(counted("nuncio_attempts_total", &[("result", "success")]), 3.0);
    assert_eq!(counted("nuncio_pool_requests_total", &[("result", "warm")]), 3.0);
    assert_eq!(counted("nuncio_pool_requests_total", &[("result", "missed")]), 0.0);
}

/// A server that has gone takes with it what was ready; whoever comes once it is back is not given the remains.
#[test]
fn what_its_server_has_ended_is_given_to_nobody() {
    let pki = Pki::generate();
    let mut upstream = Upstream::start(&pki);
    let mut scene = Scene::start(&pki, &[upstream.address()], "pool.min = 3\n");
    ready(&scene.ambassador, 3.0);
    upstream.restart();
    assert_eq!(scene.ask(b"ping").unwrap(), b"ping");
    let record = scene.one_record();
    assert!(record.get("warm_ms").is_none() && record["connect_ms"].is_number(), "{record}");
}

/// Nobody comes: each is closed when its time is up, and another takes its place.
#[test]
fn what_nobody_wants_is_replaced_before_its_server_would_end_it() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let pool = "pool = { min = 2, max_age = \"300ms\" }\n";
    let scene = Scene::start(&pki, &[upstream.address()], pool);
    eventually("each was replaced twice", PATIENCE, || (upstream.accepted() >= 6).then_some(()));
    eventually("the old ones are closed", PATIENCE, || (upstream.open() <= 2).then_some(()));
    assert_eq!(scene.ambassador.metric("nuncio_connections_total", &[]), 0.0);
}

/// Without `min` there are none until somebody has come: then as many as came.
#[test]
fn as_many_are_ready_as_came_lately() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let scene = Scene::start(&pki, &[upstream.address()], "pool.max = 5\n");
    assert_eq!(scene.ask(b"ping").unwrap(), b"ping");
    ready(&scene.ambassador, 1.0);
    let together: Vec<_> = (0..9).map(|_| scene.connect()).collect();
    ready(&scene.ambassador, 5.0);
    drop(together);
}

/// An echo that speaks first.
fn greeting(pki: &Pki) -> Peer {
    let config = pki.server_config();
    Peer::start(move |stream| {
        if let Some(mut tls) = handshake(&config, stream)
            && tls.write_all(b"220 welcome\r\n").and_then(|()| tls.flush()).is_ok()
        {
            echo(tls, Duration::ZERO);
        }
    })
}

/// The server's greeting came while nobody was there to hear it: the client hears it first of all.
#[test]
fn a_greeting_waits_for_its_client() {
    let pki = Pki::generate();
    let server = greeting(&pki);
    let mut scene = Scene::start(&pki, &[server.address()], "pool.min = 1\n");
    ready(&scene.ambassador, 1.0);
    let mut client = scene.connect();
    let mut heard = [0; 13];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"220 welcome\r\n");
    clients::echoes(&mut client, b"helo").unwrap();
    drop(client);
    assert!(scene.one_record()["warm_ms"].is_number());
}

/// A server that is far away: no round trip to it stands between the client and the greeting, which is here already.
#[test]
fn nobody_waits_for_round_trips_that_were_made_before() {
    const ROUND_TRIP: Duration = Duration::from_millis(600);
    let pki = Pki::generate();
    let server = greeting(&pki);
    let far = delayed(server.address(), ROUND_TRIP);
    let mut scene = Scene::start(&pki, &[far], "pool.min = 1\n");
    ready(&scene.ambassador, 1.0);
    // The greeting is on its way, behind the end of the handshake.
    std::thread::sleep(ROUND_TRIP);
    let client = scene.connect();
    (&client).read_exact(&mut [0; 13]).unwrap();
    drop(client);
    let record = scene.one_record();
    let first_byte = record["first_byte_ms"].as_f64().expect("a number");
    assert!(first_byte < ROUND_TRIP.as_secs_f64() * 1e3 / 2.0, "{record}");
}

/// Also where nothing is encrypted: only TCP is spared then.
#[test]
fn plain_connections_are_kept_ready_too() {
    let pki = Pki::generate();
    let server = plain_echo();
    let mut scene = Scene::start(&pki, &[server.address()], "tls = \"off\"\npool.min = 1\n");
    ready(&scene.ambassador, 1.0);
    assert_eq!(scene.ask(b"ping").unwrap(), b"ping");
    assert!(scene.one_record()["warm_ms"].is_number());
}

/// A reload that takes the table out closes what was kept.
#[test]
fn without_the_table_nothing_is_kept() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = |keys: &str| {
        config::mtls(&pki, &(config::endpoints(&[upstream.address()]) + "health.kind = \"off\"\n" + keys))
    };
    let mut ambassador = Ambassador::start(&keys("pool.min = 4\n"));
    ready(&ambassador, 4.0);
    ambassador.reloaded(&keys(""));
    eventually("they are closed", PATIENCE, || (upstream.open() == 0).then_some(()));
    assert!(ambassador.get("/api/v1/upstreams").json()["upstreams"][0].get("pool").is_none());
}

/// Where a connection that ends before its login is held against its host, nothing may be kept ready; and PostgreSQL ends those
/// that wait for a minute.
#[test]
fn where_it_is_unwise_the_file_is_refused_or_warned_of() {
    let nobody: SocketAddr = ([127, 0, 0, 1], 9).into();
    for (protocol, why) in [("mysql", "aborted"), ("xmpp", "domain"), ("sqlserver", "PRELOGIN")] {
        let keys = format!("protocol = \"{protocol}\"\npool.min = 1\n{}", config::endpoints(&[nobody]));
        let (status, said) = refused(&config::anonymous(&Pki::generate(), &keys), |_| {});
        assert_eq!(status, Some(3));
        assert!(said.contains("pool") && said.contains(why), "{said}");
    }
}

/// One endpoint never answers, and is the first that would be dialled: the other has all that it should have, at once.
#[test]
fn an_endpoint_that_never_answers_keeps_no_other_from_being_ready() {
    let pki = Pki::generate();
    let (deaf, upstream) = (Deaf::start(), Upstream::start(&pki));
    let keys = "timeouts.connect = \"60s\"\ntimeouts.establish = \"60s\"\npool.min = 8\n";
    let scene = Scene::start(&pki, &[deaf.address(), upstream.address()], keys);
    ready(&scene.ambassador, 8.0);
    assert_eq!(upstream.accepted(), 8);
}

/// An endpoint may have two connections, and those that are ready are connections: it never has more, and nobody has to wait
/// for a place that only they have.
#[test]
fn what_is_ready_is_within_the_limit_of_its_endpoint() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = "limits.connections_per_endpoint = 2\nlimits.queue_timeout = \"500ms\"\npool.min = 2\n";
    let mut scene = Scene::start(&pki, &[upstream.address()], keys);
    ready(&scene.ambassador, 2.0);
    let mut held = [scene.connect(), scene.connect()];
    for client in &mut held {
        clients::echoes(client, b"ping").unwrap();
    }
    let refused = scene.ask(b"ping");
    assert!(!refused.is_ok_and(|answer| answer == b"ping"), "two are all that it may have");
    scene.ambassador.wait_records(1);
    assert_eq!(scene.ambassador.records()[0]["reason"], "queue_timeout");
    assert_eq!(upstream.accepted(), 2, "nothing was dialled ahead of clients while they had all places");
    let [first, second] = held;
    drop(first);
    ready(&scene.ambassador, 1.0);
    drop(second);
    ready(&scene.ambassador, 2.0);
    for record in scene.all_records(3).iter().skip(1) {
        assert!(record["warm_ms"].is_number(), "{record}");
    }
}

/// All endpoints together may have two connections, and one is ready at each. The second client of the one takes the place of
/// what is ready at the other.
#[test]
fn what_is_ready_at_one_endpoint_makes_room_for_a_client_of_another() {
    let pki = Pki::generate();
    let upstreams = [Upstream::start(&pki), Upstream::start(&pki)];
    let keys = "limits = { connections = 2, pending = 0 }\nbalance = \"source_hash\"\npool.min = 1\n";
    let addresses = upstreams.each_ref().map(Upstream::address);
    let scene = Scene::start(&pki, &addresses, keys);
    ready(&scene.ambassador, 2.0);
    let mut held = [scene.connect(), scene.connect()];
    for client in &mut held {
        clients::echoes(client, b"ping").unwrap();
    }
    let [home, other] = match upstreams[0].accepted() {
        2 => [&upstreams[0], &upstreams[1]],
        _ => [&upstreams[1], &upstreams[0]],
    };
    eventually("what was ready is closed", PATIENCE, || (other.open() == 0).then_some(()));
    assert_eq!((home.accepted(), home.open(), other.accepted()), (2, 2, 1));
}

/// The process may have four connections open. What is ready leaves half of that free, and goes when clients need the rest.
#[test]
fn clients_come_before_what_is_ready_where_descriptors_are_few() {
    let pki = Pki::generate();
    let server = plain_echo();
    let keys = "tls = \"off\"\npool.min = 8\n";
    let route = Route { name: "test", endpoints: &[server.address()], backups: &[], keys };
    let file = format!("[runtime]\nconnections = 4\n{}", scene::config(&pki, &[route]));
    let scene = Scene::of(&file);
    ready(&scene.ambassador, 2.0);
    let mut held: Vec<_> = (0..4).map(|_| scene.connect()).collect();
    for client in &mut held {
        clients::echoes(client, b"ping").unwrap();
    }
    ready(&scene.ambassador, 0.0);
    drop(held);
    ready(&scene.ambassador, 2.0);
}

/// The end waits for connections, and for none that nobody has: they are closed as soon as nobody can come for them.
#[cfg(unix)]
#[test]
fn what_is_ready_does_not_keep_the_process_from_ending() {
    let pki = Pki::generate();
    let server = plain_echo();
    let keys = "tls = \"off\"\npool.min = 200\n";
    let route = Route { name: "test", endpoints: &[server.address()], backups: &[], keys };
    let file = format!("[runtime]\nconnections = 400\n{}", scene::config(&pki, &[route]));
    let mut scene = Scene::of(&file);
    ready(&scene.ambassador, 200.0);
    let asked = Instant::now();
    assert!(scene.ambassador.stop(PATIENCE).success());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

/// What was dialled with another certificate, or under another rule of how old it may become, serves nobody after the reload.
#[cfg(unix)]
#[test]
fn a_reload_that_changes_who_we_are_or_how_old_they_become_replaces_what_is_ready() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let other = pki.issue("other", &["app"], By::Ca, Valid::Now);
    let endpoints = config::endpoints(&[upstream.address()]) + "health.kind = \"off\"\n";
    let keys = |age: &str| format!("{endpoints}pool = {{ min = 2, max_age = \"{age}\" }}\n");
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &keys("60s")));
    ready(&ambassador, 2.0);
    let changed = [config::mtls_as(&pki, &other, &keys("60s")), config::mtls_as(&pki, &other, &keys("50s"))];
    for (file, accepted) in changed.iter().zip([4, 6]) {
        ambassador.reloaded(file);
        eventually("others are dialled", PATIENCE, || (upstream.accepted() == accepted).then_some(()));
        eventually("and those before closed", PATIENCE, || (upstream.open() == 2).then_some(()));
        ready(&ambassador, 2.0);
    }
}

/// What is ready at an endpoint that has left the set is closed.
#[test]
fn what_is_ready_goes_with_its_endpoint() {
    let pki = Pki::generate();
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("set.json");
    let [stays, leaves] = [Upstream::start(&pki), Upstream::start(&pki)];
    let list = |servers: &[&Upstream]| {
        let all: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
        std::fs::write(&file, format!("{all:?}")).unwrap();
    };
    list(&[&stays, &leaves]);
    let keys = format!("file = {file:?}\nhealth.kind = \"off\"\npool.min = 2\n");
    let ambassador = Ambassador::start(&config::mtls(&pki, &keys));
    ready(&ambassador, 4.0);
    list(&[&stays]);
    eventually("they are closed", PATIENCE, || (leaves.open() == 0).then_some(()));
    ready(&ambassador, 2.0);
    assert_eq!((stays.accepted(), leaves.accepted()), (2, 2));
}
