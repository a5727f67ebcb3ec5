//! What is not said as it should be, or not in time: refused in bounds, with one record each.

use std::io::Write;

use super::super::harness::scene::{Scene, half_close, rest, send};
use super::super::harness::{Pki, Upstream};
use super::{asking, file, head, socks, take};

/// Each kind of request one byte at a time: slower, and no different.
#[test]
fn one_byte_at_a_time_comes_to_the_same() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let connect = b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test\r\n\r\nhello";
    for (context, says) in [
        ("http_connect", connect.to_vec()),
        ("socks5", [&socks("erp", "db.test", 5432)[..], b"hello"].concat()),
        ("proxy_protocol", b"PROXY TCP4 127.0.0.9 127.0.0.1 7 8\r\nhello".to_vec()),
    ] {
        let text = match context {
            "proxy_protocol" => {
                file(&pki, "context = \"proxy_protocol\"\nupstream = \"db\"", &[upstream.address()], "")
            }
            _ => asking(&pki, context, &[upstream.address()], ""),
        };
        let mut scene = Scene::of(&text);
        let mut client = scene.connect();
        for byte in &says {
            client.write_all(&[*byte]).unwrap();
        }
        half_close(&client);
        let (answer, end) = rest(&client);
        assert!(answer.ends_with(b"hello") && end.is_ok(), "{context}: {answer:?}");
        assert_eq!(scene.one_record()["outcome"], "success");
    }
}

/// What is no request is refused as soon as that is certain, also where the client keeps its side open.
#[test]
fn what_is_no_request_has_its_record() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let endless =
        [b"CONNECT db.test:5432 HTTP/1.1\r\n".to_vec(), b"X-Header: value\r\n".repeat(2000)].concat();
    for (context, says, answer) in [
        ("http_connect", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &b"HTTP/1.1 405 "[..]),
        ("http_connect", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], b"HTTP/1.1 400 "),
        ("http_connect", endless, b"HTTP/1.1 431 "),
        ("http_connect", vec![b'A'; 100_000], b"HTTP/1.1 431 "),
        (
            "http_connect",
            b"CONNECT db.test:5432 HTTP/1.1\r\nNuncio-Max-Attempt: 1\r\n\r\n".to_vec(),
            b"HTTP/1.1 400 ",
        ),
        ("socks5", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), b""),
        ("socks5", vec![4, 1, 0x15, 0x38, 10, 0, 0, 1, 0], &[0, 0x5b]),
        ("socks5", socks("max-attempt=1", "db.test", 5432), &[5, 2, 1, 1]),
        ("socks5", vec![5, 1, 0, 5, 2, 0, 1, 10, 0, 0, 1, 0, 80], &[5, 0, 5, 7]),
        ("proxy_protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 two\r\n".to_vec(), b""),
        ("proxy_protocol", [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 5000]].concat(), b""),
        ("proxy_protocol", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), b""),
        ("proxy_protocol", b"EHLO legacy.test\r\n".to_vec(), b""),
    ] {
        let text = match context {
            "proxy_protocol" => {
                file(&pki, "context = \"proxy_protocol\"\nupstream = \"db\"", &[upstream.address()], "")
            }
            _ => asking(&pki, context, &[upstream.address()], ""),
        };
        let mut scene = Scene::of(&text);
        let mut client = scene.connect();
        // It may be refused while there is still more to say.
        client.write_all(&says).ok();
        let (said, _) = rest(&client);
        assert!(said.starts_with(answer), "{context}: {:?}", String::from_utf8_lossy(&said));
        drop(client);
        let record = scene.one_record();
        assert_eq!(
            (&record["stage"], &record["reason"]),
            (&"admit".into(), &"bad_preface".into()),
            "{record:#}"
        );
    }
    assert_eq!(upstream.accepted(), 0);
}

/// A client that stops in the middle is told, where there are words for it.
#[test]
fn who_does_not_finish_in_time_is_refused() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    for (context, says, answer) in [
        ("http_connect", &b"CONNECT db.test:5432 HTTP/1.1\r\nHost"[..], &b"HTTP/1.1 408 "[..]),
        ("socks5", b"\x05\x01\0\x05\x01\0\x03\x07db.t", &[5, 0, 5, 1]),
        ("proxy_protocol", b"PROXY TCP4", b""),
        ("proxy_protocol", b"", b""),
    ] {
        let limit = "preface_timeout = \"100ms\"";
        let text = match context {
            "proxy_protocol" => {
                let keys = format!("context = \"proxy_protocol\"\nupstream = \"db\"\n{limit}");
                file(&pki, &keys, &[upstream.address()], "")
            }
            _ => {
                let keys = format!("context = \"{context}\"\nupstreams = [\"db\"]\n{limit}");
                file(&pki, &keys, &[upstream.address()], "hosts = [\"db.test\"]")
            }
        };
        let mut scene = Scene::of(&text);
        let client = scene.connect();
        send(&client, says);
        let (said, _) = rest(&client);
        assert!(said.starts_with(answer), "{context}: {:?}", String::from_utf8_lossy(&said));
        drop(client);
        assert_eq!(scene.one_record()["reason"], "preface_timeout");
    }
}

/// Who leaves before it has said anything is a bare probe; who leaves in the middle is not.
#[test]
fn who_leaves_in_the_middle_has_its_record() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut scene = Scene::of(&asking(&pki, "http_connect", &[upstream.address()], ""));
    let client = scene.connect();
    send(&client, b"CONNECT db.te");
    half_close(&client);
    let (said, _) = rest(&client);
    assert!(said.is_empty(), "{said:?}");
    drop(client);
    assert_eq!(scene.one_record()["reason"], "bad_preface");
    // The next one is served.
    let client = scene.connect();
    send(&client, b"CONNECT db.test:5432 HTTP/1.1\r\n\r\nhello");
    assert!(head(&client).starts_with("HTTP/1.1 200 "));
    assert_eq!(&take::<5>(&client), b"hello");
    drop(client);
    scene.all_records(2);
}
