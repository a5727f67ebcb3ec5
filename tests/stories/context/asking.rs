//! Clients that ask for a destination, what they wish for on the way, and what became of it afterwards.

use std::io::Write;
use std::time::{Duration, Instant};

use super::super::harness::peer::Peer;
use super::super::harness::scene::{Scene, half_close, rest, send, story};
use super::super::harness::{Hostile, Pki, Upstream, clients, free_address};
use super::{asking, file, head, socks, take};

const CONNECT: &[u8] = b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n";

/// A client sends its first bytes right behind its request, without awaiting the answer: they are the first that the server
/// gets. While the connection lives, and once it has ended, it is found by the client's own address.
#[test]
fn a_client_is_connected_to_what_it_asks_for_and_finds_its_record_by_its_own_port() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&asking(&pki, "http_connect", &[upstream.address()], ""));
    let client = scene.connect();
    send(
        &client,
        b"CONNECT db.test:5432 HTTP/1.1\r\nNuncio-Correlation: job-7\r\n\
          traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nhello",
    );
    let answer = head(&client);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(&take::<5>(&client), b"hello");

    let path = format!("/api/v1/connections/by-client/{}", client.local_addr().unwrap());
    let live = scene.ambassador.get(&path).json();
    assert_eq!((&live["state"], &live["context"]["correlation"]), (&"relaying".into(), &"job-7".into()));
    let id = live["id"].as_str().unwrap();
    let endpoint = upstream.address();
    for line in [
        format!("Nuncio-Connection: {id}\r\n"),
        format!("Nuncio-Endpoint: {endpoint}\r\n"),
        "Nuncio-Attempts: 1\r\n".to_owned(),
        format!("Proxy-Status: nuncio; next-hop=\"{endpoint}\"\r\n"),
    ] {
        assert!(answer.contains(&line), "{answer}");
    }
    half_close(&client);
    assert_eq!(rest(&client), (Vec::new(), Ok(())));
    let record = scene.one_record();
    assert_eq!(record["context"]["destination"], "db.test:5432");
    assert_eq!(record["context"]["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!((&record["outcome"], &record["bytes_sent"]), (&"success".into(), &5.into()));
    let ended = scene.ambassador.get(&path).json();
    assert_eq!((&ended["state"], &ended["id"]), (&"ended".into(), &id.into()));
    let nobody = scene.ambassador.get("/api/v1/connections/by-client/192.0.2.1:1");
    assert_eq!(nobody.status, 404, "{nobody:?}");
    assert_eq!(scene.ambassador.get("/api/v1/connections/by-client/nobody").status, 400);
}

/// The same by SOCKS5, all of it in one packet. The user name carries the wishes.
#[test]
fn a_socks_client_says_what_it_wishes_in_its_user_name() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&asking(&pki, "socks5", &[upstream.address()], ""));
    let client = scene.connect();
    send(&client, &[&socks("max-attempts=1;correlation=job-8;erp", "DB.test", 5432)[..], b"hello"].concat());
    assert_eq!(take::<14>(&client), [5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&take::<5>(&client), b"hello");
    half_close(&client);
    assert_eq!(rest(&client), (Vec::new(), Ok(())));
    let context = &scene.one_record()["context"];
    assert_eq!((&context["kind"], &context["destination"]), (&"socks5".into(), &"db.test:5432".into()));
    assert_eq!((&context["max_attempts"], &context["user"]), (&1.into(), &"erp".into()));
}

/// nuncio is no open proxy: what no upstream of the listener answers for is refused, and nobody is dialled, neither the
/// destination nor an endpoint.
#[test]
fn what_the_file_does_not_name_is_refused_and_never_dialled() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let wanted = Peer::start(drop);
    let mut scene = Scene::of(&asking(&pki, "http_connect", &[upstream.address()], ""));
    let asked = [
        "db.test:5433".to_owned(),
        "other.test:5432".to_owned(),
        wanted.address().to_string(),
        upstream.address().to_string(),
    ];
    for destination in &asked {
        let answer = scene.ask(format!("CONNECT {destination} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert!(answer.contains("\r\nProxy-Status: nuncio; error=destination_"), "{answer}");
        assert!(answer.contains(&format!("the client asks for {destination}, and no upstream")), "{answer}");
    }
    let records = scene.all_records(asked.len());
    let reasons: Vec<_> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    let (name, ip) = ("destination_not_found", "destination_ip_prohibited");
    assert_eq!(reasons, [name, name, ip, ip]);
    assert_eq!((upstream.accepted(), wanted.accepted()), (0, 0));
}

/// A client that must not be tried twice says so, and is told at once; without that word the next endpoint serves it.
#[test]
fn who_wants_one_attempt_gets_one() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let (dead, backup) = (free_address(), upstream.address());
    let endpoints = format!(
        "endpoints = [\"{dead}\", {{ address = \"{backup}\", backup = true }}]\nbreaker.consecutive = \"off\""
    );
    for context in ["http_connect", "socks5"] {
        let mut scene = Scene::of(&asking(&pki, context, &[], &endpoints));
        let client = scene.connect();
        if context == "socks5" {
            send(&client, &socks("max-attempts=1", "db.test", 5432));
            assert_eq!(take::<6>(&client), [5, 2, 1, 0, 5, 5]);
        } else {
            send(&client, b"CONNECT db.test:5432 HTTP/1.1\r\nNuncio-Max-Attempts: 1\r\n\r\n");
            let answer = head(&client);
            for says in [
                "HTTP/1.1 502 ",
                "error=connection_refused; details=\"connection_refused: ",
                &format!("\r\nNuncio-Endpoint: {dead}\r\nNuncio-Attempts: 1\r\n"),
            ] {
                assert!(answer.contains(says), "{answer}");
            }
        }
        let path = format!("/api/v1/connections/by-client/{}", client.local_addr().unwrap());
        drop(client);
        assert_eq!(
            story(&scene.one_record()),
            "failed connect/connection_refused/upstream by ambassador; connect/connection_refused"
        );
        assert_eq!(scene.ambassador.get(&path).json()["reason"], "connection_refused");

        let client = scene.connect();
        match context {
            "socks5" => send(&client, &socks("x", "db.test", 5432)),
            _ => send(&client, CONNECT),
        }
        send(&client, b"hello");
        half_close(&client);
        let (answer, end) = rest(&client);
        assert!(answer.ends_with(b"hello") && end.is_ok(), "{answer:?}");
        let records = scene.all_records(2);
        assert_eq!(story(&records[1]), "success by client; connect/connection_refused, ok");
    }
}

/// The client's own deadline is shorter than the file's, and is kept; a deadline that is longer changes nothing. An endpoint
/// that had no time to show itself is not blamed.
#[test]
fn a_deadline_of_the_clients_own_is_kept() {
    let pki = Pki::generate();
    let deaf = Hostile::NeverAnswers.start(&pki);
    let file = asking(&pki, "http_connect", &[deaf.address()], "breaker.consecutive = 1");
    let mut scene = Scene::of(&file);
    for _ in 0..2 {
        let begun = Instant::now();
        let client = scene.connect();
        send(&client, b"CONNECT db.test:5432 HTTP/1.1\r\nNuncio-Deadline: 200ms\r\n\r\n");
        let answer = head(&client);
        assert!(
            answer.starts_with("HTTP/1.1 504 ") && answer.contains("error=connection_timeout"),
            "{answer}"
        );
        assert!(
            answer.contains("establish_timeout: not established within 200ms (the client's own deadline)"),
            "{answer}"
        );
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    let records = scene.all_records(2);
    assert!(records.iter().all(|record| record["reason"] == "establish_timeout"), "{records:#?}");
}

/// Who names an endpoint gets that one or none: another is not tried in its stead, and what is no endpoint of the upstream is
/// not dialled. Its circuit counts for everybody.
#[test]
fn an_endpoint_that_is_asked_for_is_the_only_one_that_is_tried() {
    let pki = Pki::generate();
    let (one, other, dead) = (Upstream::start(&pki), Upstream::start(&pki), free_address());
    let stranger = Peer::start(drop);
    let at = [one.address(), other.address(), dead];
    let mut scene = Scene::of(&asking(
        &pki,
        "http_connect",
        &at,
        "breaker.consecutive = 1\nbreaker.max_ejected = 1.0\nretry.backoff = \"1ms..2ms\"",
    ));
    let ask = |endpoint: String| {
        let client = scene.connect();
        send(
            &client,
            format!("CONNECT db.test:5432 HTTP/1.1\r\nNuncio-Endpoint: {endpoint}\r\n\r\n").as_bytes(),
        );
        head(&client)
    };
    for _ in 0..4 {
        assert!(
            ask(other.address().to_string()).contains(&format!("Nuncio-Endpoint: {}\r\n", other.address()))
        );
    }
    assert_eq!((one.accepted(), other.accepted()), (0, 4));
    assert!(ask(dead.to_string()).starts_with("HTTP/1.1 502 "), "no other is tried instead");
    let open = ask(dead.to_string());
    assert!(open.starts_with("HTTP/1.1 503 ") && open.contains("details=\"circuit_open: "), "{open}");
    let unknown = ask(stranger.address().to_string());
    assert!(unknown.starts_with("HTTP/1.1 403 "), "{unknown}");
    assert_eq!((one.accepted(), stranger.accepted()), (0, 0));
    scene.all_records(7);
}

/// A server that begins is heard behind the answer. A client that begins is answered before anything is dialled, as its own
/// first words are wanted for that; what then fails, it is told in its own protocol.
#[test]
fn a_client_that_begins_itself_is_answered_first() {
    let pki = Pki::generate();
    let greeting = Peer::start(|mut stream| stream.write_all(b"220 ready\r\n").unwrap());
    let dead = free_address();
    let text = file(
        &pki,
        "context = \"http_connect\"\nupstreams = [\"db\", \"mail\"]",
        &[dead],
        &format!(
            "hosts = [\"db.test\"]\nprotocol = \"postgres\"\n[upstream.mail]\nendpoints = [\"{}\"]\nhosts = [\"*.test\"]\n\
             tls = \"off\"\nhealth.kind = \"off\"",
            greeting.address()
        ),
    );
    let mut scene = Scene::of(&text);
    let client = scene.connect();
    send(&client, b"CONNECT mx.test:25 HTTP/1.1\r\n\r\n");
    assert!(head(&client).starts_with("HTTP/1.1 200 "));
    assert_eq!(&take::<11>(&client), b"220 ready\r\n");
    drop(client);

    let client = scene.connect();
    send(&client, CONNECT);
    let answer = head(&client);
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("Nuncio-Endpoint"), "{answer}");
    send(&client, b"\0\0\0\x10\0\x03\0\0user\0a\0\0");
    let (words, _) = rest(&client);
    let words = String::from_utf8_lossy(&words);
    assert!(words.starts_with('E') && words.contains("connection_refused"), "{words}");
    let records = scene.all_records(2);
    assert_eq!((&records[0]["upstream"], &records[1]["upstream"]), (&"mail".into(), &"db".into()));
}

/// Who may not come is told so in the words in which it asks.
#[test]
fn who_may_not_come_is_told_in_its_own_words() {
    let pki = Pki::generate();
    for (context, request, answer) in [
        ("http_connect", CONNECT.to_vec(), &b"HTTP/1.1 503 "[..]),
        ("socks5", socks("x", "db.test", 5432), &[5, 2, 1, 0, 5, 1]),
    ] {
        let upstream = Upstream::start(&pki);
        let limit = format!("context = \"{context}\"\nupstreams = [\"db\"]\nconnections = 1");
        let mut scene = Scene::of(&file(&pki, &limit, &[upstream.address()], "hosts = [\"db.test\"]"));
        let inside = scene.connect();
        send(&inside, &request);
        // It is inside once it has its answer.
        take::<12>(&inside);
        let late = scene.ask(&request).unwrap();
        assert!(late.starts_with(answer), "{context}: {}", String::from_utf8_lossy(&late));
        drop(inside);
        let records = scene.all_records(2);
        assert!(records.iter().any(|record| record["reason"] == "connection_limit_reached"), "{records:#?}");
    }
}

/// Without a rule that redirects to it, a listener for redirected connections has nowhere to send them, least of all to itself.
#[test]
#[cfg(target_os = "linux")]
fn a_connection_that_nothing_redirected_is_refused() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&asking(&pki, "original_destination", &[upstream.address()], ""));
    // An error: it is turned away so fast that connect(2) tells of it.
    if let Ok(client) = clients::reach(scene.address()) {
        assert!(rest(&client).0.is_empty());
    }
    let record = scene.one_record();
    assert_eq!((&record["reason"], upstream.accepted()), (&"destination_not_found".into(), 0), "{record:#}");
}

/// A client on a Unix socket is told by its user and its process, for a person to read.
#[test]
#[cfg(target_os = "linux")]
fn a_client_on_a_unix_socket_is_told_by_its_process() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let directory = tempfile::TempDir::with_prefix("nuncio-").unwrap();
    let socket = directory.path().join("in.sock");
    let text = file(&pki, "upstream = \"db\"", &[upstream.address()], "");
    let address = format!("address = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let mut scene =
        Scene::of(&text.replace("address = \"127.0.0.1:0\"\nupstream", &format!("{address}\nupstream")));
    let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    assert_eq!(answer, "hello");
    let record = scene.one_record();
    assert_eq!(record["pid"], std::process::id(), "{record:#}");
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(record["process"], name.trim_end());
}
