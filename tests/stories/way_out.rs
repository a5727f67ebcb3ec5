//! Between nuncio and its servers: proxies that are dialled through, and servers that want to know who the client is.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::harness::ambassador::{Ambassador, refused};
use super::harness::scene::{Scene, story};
use super::harness::servers::Server;
use super::harness::{Pki, Upstream, clients, config, free_address};

/// The keys for a proxy that wants a login.
fn through(kind: &str, proxy: SocketAddr, password: &str) -> (String, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("password");
    std::fs::write(&file, password).expect("the password is written");
    let keys =
        format!("proxy = {{ {kind} = \"{proxy}\", user = \"erp\", password_file = '{}' }}\n", file.display());
    (keys, directory)
}

/// mTLS through the proxy, to a server that only the proxy dials; then a wrong password, and then no proxy at all.
fn a_proxy_is_dialled_through(kind: &str, proxy: Server, says_no: &str) {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let (keys, _directory) = through(kind, proxy.address(), "secret\n");
    let mut scene = Scene::start(&pki, &[upstream.address()], &keys);
    // Neither of them passes one side's end on as what it is, so that nobody ends before the answer is there.
    clients::echoes(&mut scene.connect(), b"ping").expect("an echo");
    let record = scene.one_record();
    assert!(record["proxy_ms"].is_number() && record["tls"]["version"] == "TLSv1.3", "{record}");
    assert_eq!(upstream.accepted(), 1);

    // What the proxy says of the endpoint is the endpoint's: another is tried.
    let nobody = free_address();
    let mut scene = Scene::start(&pki, &[nobody], &format!("{keys}retry.attempts = 1\n"));
    scene.ask(b"ping").expect_err("nobody answers");
    let record = scene.one_record();
    assert_eq!((&record["stage"], &record["side"]), (&"proxy".into(), &"upstream".into()), "{record}");
    assert!(record["detail"].as_str().expect("a detail").contains(&nobody.to_string()), "{record}");

    // What is wrong with the proxy is ours: the endpoint is innocent, and nothing else is tried.
    let (keys, _directory) = through(kind, proxy.address(), "wrong\n");
    let mut scene = Scene::start(&pki, &[upstream.address()], &keys);
    scene.ask(b"ping").expect_err("nobody answers");
    let record = scene.one_record();
    assert_eq!(
        story(&record).split(';').next(),
        Some("failed proxy/proxy_configuration_error/ambassador by ambassador")
    );
    assert!(record["detail"].as_str().expect("a detail").contains(says_no), "{record}");
    assert_eq!(scene.ambassador.get("/api/v1/upstreams").json()[0]["endpoints"][0]["failed_total"], 0);

    let address = proxy.address();
    drop(proxy);
    let (keys, _directory) = through(kind, address, "secret\n");
    let mut scene = Scene::start(&pki, &[upstream.address()], &keys);
    scene.ask(b"ping").expect_err("nobody answers");
    let record = scene.one_record();
    assert_eq!(
        story(&record).split(';').next(),
        Some("failed proxy/connection_refused/ambassador by ambassador")
    );
}

#[test]
#[ignore = "needs tinyproxy: tests/run installs it"]
fn servers_are_reached_through_an_http_proxy() {
    a_proxy_is_dialled_through("http", Server::tinyproxy(), "401 Unauthorized");
}

#[test]
#[ignore = "needs microsocks: tests/run installs it"]
fn servers_are_reached_through_a_socks5_proxy() {
    a_proxy_is_dialled_through("socks5", Server::microsocks(), "'erp'");
}

/// HAProxy hears who the client is, where it connected to, and the name of the connection in our records; in front of TLS.
#[test]
#[ignore = "needs haproxy: tests/run installs it"]
fn haproxy_is_told_who_the_client_is() {
    let pki = Pki::generate();
    let haproxy = Server::haproxy_that_tells(&pki);
    for version in [1, 2] {
        let keys = format!("proxy.proxy_protocol = {version}\n");
        let mut scene = Scene::start(&pki, &[haproxy.address()], &keys);
        let client = clients::connect(scene.address());
        let from = client.local_addr().unwrap();
        super::harness::scene::send(&client, b"GET / HTTP/1.0\r\n\r\n");
        let (answer, end) = super::harness::scene::rest(&client);
        assert_eq!(end, Ok(()));
        let answer = String::from_utf8(answer).unwrap();
        let told = answer.split("\r\n\r\n").nth(1).unwrap();
        drop(client);
        let record = scene.one_record();
        let mut expected =
            format!("{} {} {} {}", from.ip(), from.port(), scene.address().ip(), scene.address().port());
        // Only the second version has a place for it.
        if version == 2 {
            expected = format!("{expected} {}", record["id"].as_str().unwrap());
        }
        assert_eq!(told.trim_end(), expected, "version {version}");
    }
}

/// Its health checks are for nobody, say so, and pass; without the header they would not.
#[test]
#[ignore = "needs haproxy: tests/run installs it"]
fn checks_tell_a_server_that_they_are_for_nobody() {
    let pki = Pki::generate();
    let haproxy = Server::haproxy_that_tells(&pki);
    for (header, up) in [("proxy.proxy_protocol = 2\n", true), ("", false)] {
        let keys = format!(
            "health = {{ kind = \"tls\", interval = \"50ms\", timeout = \"1s\", fall = 2 }}\n{header}{}",
            config::endpoints(&[haproxy.address()])
        );
        let ambassador = Ambassador::start(&config::mtls(&pki, &keys));
        let state = if up { "up" } else { "down" };
        ambassador.wait_state("/api/v1/upstreams", "checks have told", |upstreams| {
            (upstreams[0]["endpoints"][0]["health"] == state).then_some(())
        });
    }
}

/// What cannot be meant is refused, with the place and the mend.
#[test]
fn proxies_that_make_no_sense_are_refused() {
    let pki = Pki::generate();
    for (keys, said) in [
        ("proxy = { http = \"a:1\", socks5 = \"b:2\" }\n", "stands beside `http`"),
        ("proxy = { user = \"erp\", password_file = \"/etc/hostname\" }\n", "no proxy is named"),
        ("proxy = { http = \"a:1\", user = \"erp\" }\n", "has no password"),
        ("proxy = { http = \"a:1\", password_file = \"/etc/hostname\" }\n", "there is no user"),
        ("proxy.proxy_protocol = 2\npool.min = 1\n", "nobody knows yet"),
        ("proxy.proxy_protocol = 3\n", "3 is not"),
    ] {
        let keys = config::endpoints(&[([127, 0, 0, 1], 9).into()]) + keys;
        let (status, told) = refused(&config::anonymous(&pki, &keys), |_| {});
        assert_eq!(status, Some(3), "{told}");
        assert!(told.contains(said), "{keys}: {told}");
    }
}
