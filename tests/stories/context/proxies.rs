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

/// A header of version 2 for 127.0.0.9:40000, with a unique id and these options, and what follows it.
fn wishing(options: &str, then: &[u8]) -> Vec<u8> {
    let tlvs = [&[5, 0, 2][..], b"id", &[0xe4, 0, options.len() as u8], options.as_bytes()].concat();
    let addresses = [127, 0, 0, 9, 127, 0, 0, 1, 0x9c, 0x40, 0x15, 0x38];
    let length = [(addresses.len() + tlvs.len()) as u8];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", &length[..], &addresses, &tlvs, then].concat()
}

/// A header that says of the client only that there is one opens no way around `allow` and the caps: the proxy's own address
/// stands for it. A check of the proxy's own is none of anybody's, as before.
#[test]
fn a_client_without_an_address_is_judged_by_its_proxys() {
    const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\nhello";
    const OF_NO_FAMILY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\0hello";
    let over_unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8", &[b'/'; 216][..], b"hello"].concat();
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let file = |allow: &str| {
        let keys = format!("{HEARS}\nallow = [\"{allow}\"]\nconnections_per_source = 1");
        file(&pki, &keys, &[upstream.address()], "")
    };
    let why = |scene: &Scene, header: &[u8]| {
        let client = scene.connect();
        send(&client, header);
        assert!(rest(&client).0.is_empty());
        let path = format!("/api/v1/connections/by-client/{}", client.local_addr().unwrap());
        scene.ambassador.wait_state(&path, "it has ended", |view| view.get("reason").cloned())
    };
    let mut scene = Scene::of(&file("192.0.2.0/24"));
    for header in [UNKNOWN, OF_NO_FAMILY, &over_unix] {
        assert_eq!(why(&scene, header), "admission_denied", "{header:?}");
    }
    scene.all_records(3);
    assert_eq!(upstream.accepted(), 0);

    let mut scene = Scene::of(&file("127.0.0.1"));
    let first = scene.connect();
    send(&first, UNKNOWN);
    assert_eq!(&take::<5>(&first), b"hello");
    assert_eq!(why(&scene, OF_NO_FAMILY), "connection_limit_reached");
    let local = scene.connect();
    send(&local, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello");
    assert_eq!(&take::<5>(&local), b"hello");
    drop((first, local));
    scene.all_records(3);
}

/// Of a split whoever wants to look at the canary names it, or one of its endpoints, and gets it, whatever its weight; what the
/// listener has not got is refused with what it asked for.
#[test]
fn a_client_may_name_each_upstream_of_a_split_and_each_endpoint() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let split = "split = [{ upstream = \"db\", weight = 1 }, { upstream = \"canary\", weight = 0 }]";
    let other = file(&pki, "", &[canary.address()], "");
    let (_, other) = other.split_once("[upstream.db]").unwrap();
    let file = file(&pki, &format!("context = \"proxy_protocol\"\n{split}"), &[stable.address()], "");
    let mut scene = Scene::of(&format!("{file}\n[upstream.canary]{other}"));
    let (old, new) = (stable.address(), canary.address());
    let mut served = 0;
    for (wish, leads) in [
        (String::new(), "db"),
        ("upstream=canary".to_owned(), "canary"),
        (format!("endpoint={new}"), "canary"),
        (format!("endpoint={old}"), "db"),
        (format!("upstream=canary;endpoint={new}"), "canary"),
    ] {
        assert_eq!(scene.ask(&wishing(&wish, b"hello")).unwrap(), b"hello", "{wish}");
        served += 1;
        assert_eq!(scene.all_records(served).last().unwrap()["upstream"], leads, "{wish}");
    }
    for (wish, says) in [
        ("upstream=other".to_owned(), "'other', which is none of its listener's".to_owned()),
        (
            "endpoint=127.0.0.1:1".to_owned(),
            "127.0.0.1:1, which none of the listener's upstreams has".to_owned(),
        ),
        (
            format!("upstream=canary;endpoint={old}"),
            format!("{old}, which the upstream 'canary' has not got"),
        ),
    ] {
        let client = scene.connect();
        (&client).write_all(&wishing(&wish, b"hello")).unwrap();
        assert!(rest(&client).0.is_empty(), "{wish}");
        drop(client);
        served += 1;
        let records = scene.all_records(served);
        let record = records.last().unwrap();
        assert_eq!(record["reason"], "destination_not_found", "{wish}: {record:#}");
        assert!(record["detail"].as_str().unwrap().contains(&says), "{wish}: {record:#}");
    }
    assert_eq!((stable.accepted(), canary.accepted()), (2, 3));
}

/// Version 2, with the options of nuncio's own type and a proxy's own check, which ends without a word and is nobody's trouble.
#[test]
fn a_header_of_version_2_carries_options_and_a_check_is_none_of_a_client() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&file(&pki, HEARS, &[upstream.address()], ""));
    let answer = scene.ask(&wishing("correlation=job-9;max-attempts=1", b"hello")).unwrap();
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
