//! Which of its endpoints an upstream chooses, beyond the draw: tiers, zones, limits, who is slow and who is new.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use super::harness::ambassador::Ambassador;
use super::harness::peer::Peer;
use super::harness::scene::{Route, Scene, config, rest, story};
use super::harness::upstream::{echo, handshake, plain_echo};
use super::harness::{self, Pki, Upstream, clients};

fn ask(ambassador: &Ambassador, times: u32) {
    for _ in 0..times {
        assert_eq!(clients::ask(ambassador.listener("in"), b"ping").expect("a server answers"), b"ping");
    }
}

/// Two servers here, two there, and one far away that only helps out. All goes to those here; one of them dies: what is
/// more than their fair share goes there; only one of the four is left: half of it goes far away. The API says who is where.
#[test]
fn connections_stay_near_and_spill_over_as_servers_die() {
    let pki = Pki::generate();
    let mut servers: Vec<_> = (0..5).map(|_| Upstream::start(&pki)).collect();
    let addresses: Vec<_> = servers.iter().map(Upstream::address).collect();
    let entry = |(address, place): (&SocketAddr, &str)| format!("{{ address = \"{address}\", {place} }}");
    let places = ["zone = 'here'", "zone = 'here'", "zone = 'there'", "zone = 'there'", "tier = 2"];
    let entries: Vec<_> = addresses.iter().zip(places).map(entry).collect();
    let upstream = format!(
        "endpoints = [{}]\nzone = \"${{ZONE}}\"\nspill_over = 0.5\nhealth.kind = \"off\"\n\
         [upstream.up.breaker]\nconsecutive = 1\nopen_for = \"60s\"\nmax_ejected = 1.0\n",
        entries.join(", ")
    );
    let ambassador = Ambassador::start_with(&harness::config::mtls(&pki, &upstream), |command| {
        command.env("ZONE", "here");
    });
    let accepted = |servers: &[Upstream]| -> [u64; 5] { std::array::from_fn(|n| servers[n].accepted()) };

    ask(&ambassador, 40);
    let [a, b, rest @ ..] = accepted(&servers);
    assert!(a > 5 && b > 5 && rest == [0, 0, 0], "{a} {b} {rest:?}");

    // 1 of 3 is here, and a half would be fair: two thirds stay. Five standard deviations are 30.
    servers[0].kill();
    ask(&ambassador, 150);
    let [_, now, c, d, far] = accepted(&servers);
    assert!((now - b).abs_diff(100) < 30 && c > 5 && d > 5, "{} {c} {d}", now - b);
    assert_eq!(far, 0, "three of four are more than half of them");

    // A quarter is ready, and half would be enough: half of the connections stay.
    servers[1].kill();
    servers[2].kill();
    let before = servers[3].accepted();
    ask(&ambassador, 150);
    let (stayed, far) = (servers[3].accepted() - before, servers[4].accepted());
    assert!(stayed.abs_diff(75) < 35 && far.abs_diff(75) < 35, "{stayed} stayed, {far} went far");

    let upstreams = ambassador.get("/api/v1/upstreams").json();
    let shown = |n: usize, key: &str| upstreams[0]["endpoints"][n].get(key).cloned();
    assert_eq!((shown(0, "zone"), shown(0, "tier")), (Some("here".into()), None));
    assert_eq!((shown(4, "zone"), shown(4, "tier")), (None, Some(2.into())));
}

/// Two servers may have two connections each. The fifth client waits, and the backup is none of its business; the sixth is
/// refused, and told which limit it was. Whose place comes free has the one who waits; who comes after that waits in vain.
#[test]
fn beyond_the_limit_of_each_server_clients_wait_in_turn() {
    let pki = Pki::generate();
    let servers = [plain_echo(), plain_echo()];
    let backup = plain_echo();
    let keys = "tls = \"off\"\nlimits.connections_per_endpoint = 2\nlimits.pending = 1\nlimits.queue_timeout = \"1500ms\"";
    let endpoints = servers.each_ref().map(Peer::address);
    let backups = [backup.address()];
    let route = Route { name: "test", endpoints: &endpoints, backups: &backups, keys };
    let mut scene = Scene::with(&pki, &[route]);
    let connect = |scene: &Scene| {
        let mut stream = scene.connect();
        clients::echoes(&mut stream, b"mine").unwrap();
        stream
    };
    let mut holders: Vec<_> = (0..4).map(|_| connect(&scene)).collect();
    assert_eq!(servers.each_ref().map(Peer::open), [2, 2]);
    let waiting = |scene: &Scene, count: u64| {
        scene.ambassador.wait_state("/api/v1/upstreams", "so many wait", |upstreams| {
            (upstreams[0]["waiting"] == count).then_some(())
        });
    };

    let mut patient = scene.connect();
    waiting(&scene, 1);
    let refused = scene.ask(b"").expect_err("there is no room to wait");
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    drop(holders.pop());
    clients::echoes(&mut patient, b"mine").unwrap();
    assert_eq!(servers.each_ref().map(Peer::open), [2, 2]);

    let late = scene.connect();
    assert_eq!(rest(&late), (vec![], Err(ErrorKind::ConnectionReset)), "it waited in vain");
    drop((holders, patient));

    let records = scene.all_records(7);
    let mut stories: Vec<_> = records.iter().map(story).collect();
    stories.sort_unstable();
    assert_eq!(stories[0], "failed queue/queue_timeout/ambassador by ambassador");
    assert_eq!(stories[1], "refused queue/connection_limit_reached/ambassador by ambassador");
    assert!(stories[2..].iter().all(|story| story == "success by client; ok"), "{stories:?}");
    let told = |reason: &str| {
        let record = records.iter().find(|record| record["reason"] == reason).unwrap();
        record["detail"].as_str().unwrap_or_else(|| panic!("{record}")).to_owned()
    };
    assert_eq!(
        told("queue_timeout"),
        "all 2 endpoints that serve are at their limit of 2 connections (limits.connections_per_endpoint), and none came \
         below it within 1.5 s (limits.queue_timeout)"
    );
    assert_eq!(
        told("connection_limit_reached"),
        "all 2 endpoints that serve are at their limit of 2 connections (limits.connections_per_endpoint) and 1 connections \
         wait (limits.pending)"
    );
    assert_eq!(backup.accepted(), 0);
}

/// One of three servers takes 300 ms for its handshake: it is tried, and then left alone.
#[test]
fn with_peak_ewma_a_slow_server_gets_hardly_anything() {
    let pki = Pki::generate();
    let config = pki.server_config();
    let slow = Peer::start(move |stream| {
        std::thread::sleep(Duration::from_millis(300));
        if let Some(tls) = handshake(&config, stream) {
            echo(tls, Duration::ZERO);
        }
    });
    let quick: Vec<_> = (0..2).map(|_| Upstream::start(&pki)).collect();
    let addresses = [quick[0].address(), slow.address(), quick[1].address()];
    let keys = "balance = \"peak_ewma\"\nhealth.kind = \"off\"\n";
    let ambassador =
        Ambassador::start(&harness::config::mtls(&pki, &(harness::config::endpoints(&addresses) + keys)));
    ask(&ambassador, 90);
    let counts = [quick[0].accepted(), slow.accepted(), quick[1].accepted()];
    assert!((1..=6).contains(&counts[1]), "{counts:?}");
    assert!(counts[0] > 10 && counts[2] > 10, "{counts:?}");
}

/// A second server comes by a reload: with a slow start of minutes it has a tenth of a share, one in eleven.
#[test]
fn a_new_server_starts_slowly() {
    let pki = Pki::generate();
    let servers = [plain_echo(), plain_echo()];
    let endpoints = servers.each_ref().map(Peer::address);
    let of = |endpoints: &[SocketAddr]| {
        let keys = "tls = \"off\"\nslow_start = \"10m\"\nbalance = \"random\"";
        config(&pki, &[Route { name: "test", endpoints, backups: &[], keys }])
    };
    let mut ambassador = Ambassador::start(&of(&endpoints[..1]));
    let ask = |ambassador: &Ambassador| {
        assert_eq!(clients::ask(ambassador.listener("test"), b"ping").unwrap(), b"ping");
    };
    ask(&ambassador);
    ambassador.reloaded(&of(&endpoints));
    for _ in 0..220 {
        ask(&ambassador);
    }
    let got = servers[1].accepted();
    // Four are the standard deviation; half of them would be 110.
    assert!((1..=42).contains(&got), "{got}");
}
