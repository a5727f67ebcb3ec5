//! A proxy before nuncio that says who its clients are.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use super::super::harness::scene::{Scene, half_close, rest, send};
use super::super::harness::servers::Server;
use super::super::harness::{Pki, Upstream, clients};
use super::{file, take};

const HEARS: &str = "context = \"proxy_protocol\"\nupstream = \"db\"";

/// The client is whom the proxy says it is: in the record, for `allow`, for the cap of its source, and to whoever looks for
/// it. The proxy itself is found by its own address.
#[test]
fn the_client_is_whom_the_proxy_says() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = format!("{HEARS}\nallow = [\"192.0.2.0/24\"]\nconnections_per_source = 1");
    let mut scene = Scene::of(&file(&pki, &keys, &[upstream.address()], ""));
    let first = scene.connect();
    send(&first, b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 5432\r\nhello");
    assert_eq!(&take::<5>(&first), b"hello");
    let by_client =
        |client: &str| scene.ambassador.get(&format!("/api/v1/connections/by-client/{client}")).json();
    let found = by_client("192.0.2.7:40000");
    let proxy = first.local_addr().unwrap().to_string();
    assert_eq!(
        (&found["client"], &found["context"]["via"]),
        (&"192.0.2.7:40000".into(), &proxy.as_str().into())
    );
    assert_eq!(by_client(&proxy)["id"], found["id"]);
    for (source, reason) in [("192.0.2.7", "connection_limit_reached"), ("198.51.100.1", "admission_denied")]
    {
        let client = scene.connect();
        send(&client, format!("PROXY TCP4 {source} 192.0.2.1 40001 5432\r\n").as_bytes());
        assert!(rest(&client).0.is_empty());
        let path = format!("/api/v1/connections/by-client/{}", client.local_addr().unwrap());
        let denied = scene.ambassador.wait_state(&path, "it has ended", |view| view.get("reason").cloned());
        assert_eq!(denied, reason);
    }
    let second = scene.connect();
    send(&second, b"PROXY TCP4 192.0.2.8 192.0.2.1 40000 5432\r\nhello");
    assert_eq!(&take::<5>(&second), b"hello");
    drop((first, second));
    scene.all_records(4);
}

/// Version 2, with the options of nuncio's own type and a proxy's own check, which ends without a word and is nobody's trouble.
#[test]
fn a_header_of_version_2_carries_options_and_a_check_is_none_of_a_client() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&file(&pki, HEARS, &[upstream.address()], ""));
    let options = b"correlation=job-9;max-attempts=1";
    let tlvs = [&[5, 0, 2][..], b"id", &[0xe4, 0, options.len() as u8], options].concat();
    let addresses = [127, 0, 0, 9, 127, 0, 0, 1, 0x9c, 0x40, 0x15, 0x38];
    let header = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
        &[(addresses.len() + tlvs.len()) as u8][..],
        &addresses,
        &tlvs,
        b"hello",
    ]
    .concat();
    let answer = scene.ask(&header).unwrap();
    assert_eq!(answer, b"hello");
    let record = scene.one_record();
    assert_eq!(record["client"], "127.0.0.9:40000");
    let context = &record["context"];
    assert_eq!((&context["correlation"], &context["unique_id"]), (&"job-9".into(), &"id".into()));
    assert_eq!(context["max_attempts"], 1);

    scene.ask(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap();
    let records = scene.all_records(2);
    assert_ne!(records[1]["outcome"], "failed", "{records:#?}");
    assert!(records[1]["client"].as_str().unwrap().starts_with("127.0.0.1:"));
}

/// Whoever may not speak for others is not asked whom it speaks for.
#[test]
fn a_stranger_cannot_say_who_it_is() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let keys = format!("{HEARS}\nallow = [\"0.0.0.0/0\"]\nproxy_from = [\"127.0.0.2\"]");
    let mut scene = Scene::of(&file(&pki, &keys, &[upstream.address()], ""));
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 5432\r\nhello";
    let stranger = clients::connect_from(Ipv4Addr::new(127, 0, 0, 3), scene.address());
    // It may be gone before it has said so.
    (&stranger).write_all(header).ok();
    assert!(rest(&stranger).0.is_empty());
    drop(stranger);
    let record = scene.one_record();
    assert_eq!(record["reason"], "admission_denied");
    assert!(record["client"].as_str().unwrap().starts_with("127.0.0.3:"), "{record:#}");
    assert_eq!(upstream.accepted(), 0);
    let proxy = clients::connect_from(Ipv4Addr::new(127, 0, 0, 2), scene.address());
    send(&proxy, header);
    assert_eq!(&take::<5>(&proxy), b"hello");
    drop(proxy);
    scene.all_records(2);
}

/// What a client behind a real proxy gets back, and whom nuncio takes it for.
#[track_caller]
fn through(proxy: impl FnOnce(SocketAddr) -> Server, checks: bool) {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&file(&pki, HEARS, &[upstream.address()], ""));
    let proxy = proxy(scene.address());
    let client = clients::connect_from(Ipv4Addr::new(127, 0, 0, 77), proxy.address());
    send(&client, b"hello");
    assert_eq!(&take::<5>(&client), b"hello");
    let path = format!("/api/v1/connections/by-client/{}", client.local_addr().unwrap());
    let found = scene.ambassador.get(&path).json();
    assert_eq!(found["context"]["kind"], "proxy_protocol", "{found:#}");
    half_close(&client);
    assert_eq!(rest(&client), (Vec::new(), Ok(())));
    let ended = scene
        .ambassador
        .wait_state(&path, "it has ended", |view| (view["state"] == "ended").then(|| view.clone()));
    assert_eq!(ended["outcome"], "success", "{ended:#}");
    if checks {
        // Its own checks say that they are: LOCAL, and then nothing.
        scene.ambassador.wait_records(3);
    }
    drop(proxy);
    for record in scene.ambassador.records() {
        // HAProxy resets what it has seen to be there.
        assert!(["success", "cancelled"].contains(&record["outcome"].as_str().unwrap()), "{record:#}");
    }
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_says_who_its_clients_are_by_either_version() {
    for (send, crc) in [("send-proxy", ""), ("send-proxy-v2", " proxy-v2-options crc32c,unique-id")] {
        through(|to| Server::haproxy(to, &format!("{send}{crc} check check-send-proxy inter 100ms")), true);
    }
}

#[test]
#[ignore = "needs envoy"]
fn envoy_says_who_its_clients_are() {
    through(Server::envoy_before, false);
}
