//! An operator's word on an endpoint, through the admin's socket: it holds, whatever the rules come to and whatever is
//! reloaded.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::harness::ambassador::Ambassador;
use super::harness::http::{self, Response};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually, free_address};

struct Scene {
    nuncio: Ambassador,
    directory: tempfile::TempDir,
}

/// The admin answers over TCP and at a Unix socket.
fn config(pki: &Pki, endpoints: &[SocketAddr], socket: &Path, keys: &str) -> String {
    let upstream = config::endpoints(endpoints) + "health.kind = \"off\"\n" + keys;
    let admin = format!("[admin]\naddress = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display());
    config::mtls(pki, &upstream) + &admin
}

impl Scene {
    fn start(pki: &Pki, endpoints: &[SocketAddr], keys: &str) -> Scene {
        let directory =
            tempfile::TempDir::with_prefix("nuncio-operator-").expect("a directory for the socket");
        let file = config(pki, endpoints, &directory.path().join("admin.sock"), keys);
        Scene { nuncio: Ambassador::start(&file), directory }
    }

    fn path(endpoint: SocketAddr, order: &str) -> String {
        format!("/api/v1/upstreams/up/endpoints/{endpoint}/{order}")
    }

    /// Orders it, and returns what the endpoint is then.
    #[track_caller]
    fn order(&self, endpoint: SocketAddr, order: &str) -> serde_json::Value {
        let answer = self.post(&Scene::path(endpoint, order));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()[0].clone()
    }

    fn post(&self, path: &str) -> Response {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let stream =
            UnixStream::connect(self.directory.path().join("admin.sock")).expect("the admin answers");
        http::request_on(stream, &request).expect("an answer")
    }

    fn served(&self) -> bool {
        clients::ask(self.nuncio.listener("in"), b"ping").is_ok_and(|answer| answer == b"ping")
    }
}

#[test]
fn an_operator_holds_a_circuit_open_and_leaves_it_to_its_rules_again() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let mut scene = Scene::start(&pki, &[server.address()], "required = true\n");
    assert!(scene.served());
    let seen = scene.order(server.address(), "open");
    assert_eq!((&seen["breaker"], &seen["ready"]), (&"open".into(), &false.into()), "{seen}");
    assert_eq!(seen["operator"]["circuit"], "open");
    assert!(!scene.served());
    let record = scene.nuncio.wait_records(2).pop().unwrap();
    assert_eq!(record["reason"], "destination_unavailable", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("held open by an operator"), "{record}");
    assert_eq!(scene.nuncio.get("/readyz").status, 503);
    assert_eq!(scene.nuncio.metric("nuncio_breaker_state", &[]), 2.0);
    scene.nuncio.wait_line("an operator's order");

    // A reload that changes other things changes nothing of this.
    let socket = scene.directory.path().join("admin.sock");
    let file = config(&pki, &[server.address()], &socket, "required = true\nbreaker.consecutive = 3\n");
    scene.nuncio.reloaded(&file);
    assert!(!scene.served());
    let seen = scene.order(server.address(), "auto");
    assert_eq!((&seen["breaker"], &seen["operator"]), (&"closed".into(), &serde_json::Value::Null));
    assert!(scene.served());
}

/// For one who knows better than the breaker.
#[test]
fn a_circuit_that_is_held_closed_lets_everybody_try() {
    let pki = Pki::generate();
    let nobody = free_address();
    let keys =
        "retry.attempts = 1\nbreaker.consecutive = 1\nbreaker.open_for = \"1h\"\nbreaker.max_open = \"1h\"\n";
    let mut scene = Scene::start(&pki, &[nobody], keys);
    let reason = |scene: &mut Scene, count| {
        assert!(!scene.served());
        scene.nuncio.wait_records(count).pop().unwrap()["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(&mut scene, 1), "connection_refused");
    assert_eq!(reason(&mut scene, 2), "circuit_open");
    let seen = scene.order(nobody, "close");
    assert_eq!((&seen["breaker"], &seen["breaker_shadow"]), (&"closed".into(), &"open".into()), "{seen}");
    assert_eq!(reason(&mut scene, 3), "connection_refused");
    assert_eq!(reason(&mut scene, 4), "connection_refused");
    scene.order(nobody, "auto");
    assert_eq!(reason(&mut scene, 5), "circuit_open", "its rules had it open all the time");
}

#[test]
fn a_drained_endpoint_takes_no_new_connections_and_keeps_those_it_has() {
    let pki = Pki::generate();
    let (one, other) = (Upstream::start(&pki), Upstream::start(&pki));
    let scene = Scene::start(&pki, &[one.address(), other.address()], "balance = \"round_robin\"\n");
    let mut held: Vec<_> = (0..2).map(|_| clients::connect(scene.nuncio.listener("in"))).collect();
    for client in &mut held {
        clients::echoes(client, b"before").unwrap();
    }
    let seen = scene.order(one.address(), "drain");
    assert_eq!((&seen["operator"]["drained"], &seen["ready"]), (&true.into(), &false.into()), "{seen}");
    let before = one.accepted();
    for _ in 0..6 {
        assert!(scene.served());
    }
    assert_eq!(one.accepted(), before);
    for client in &mut held {
        clients::echoes(client, b"after").unwrap();
    }
    scene.order(one.address(), "undrain");
    eventually("it has its turn again", PATIENCE, || {
        assert!(scene.served());
        (one.accepted() > before).then_some(())
    });
}

#[test]
fn an_order_that_cannot_be_given_so_is_refused_with_words() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let scene = Scene::start(&pki, &[server.address()], "");
    let path = Scene::path(server.address(), "open");
    let admin = scene.nuncio.admin();
    let over_tcp =
        format!("POST {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let answer = http::request(admin, &over_tcp).unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("Unix socket"), "{answer:?}");
    assert_eq!(scene.nuncio.get(&path).status, 405);
    let known = server.address().to_string();
    for (path, says) in [
        ("/api/v1/upstreams/up/endpoints/10.0.0.1:1/open", &*known),
        ("/api/v1/upstreams/other/endpoints/10.0.0.1:1/open", "there are: up"),
        ("/api/v1/upstreams/up/endpoints/10.0.0.1:1/explode", "/api/v1/upstreams"),
    ] {
        let answer = scene.post(path);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(answer.body.contains(says), "{path}: {answer:?}");
    }
    assert!(scene.served(), "nothing has changed");
    assert_eq!(scene.nuncio.metric("nuncio_breaker_transitions_total", &[]), 0.0);
}
