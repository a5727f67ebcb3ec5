//! Registries that are slow, huge, or none at all, on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::failure::Side;

#[test]
fn what_is_asked_for_cannot_leave_its_place() {
    assert_eq!(encoded("orders-db_1.a~"), "orders-db_1.a~");
    assert_eq!(encoded("a/../b?c=d&e#é"), "a%2F..%2Fb%3Fc%3Dd%26e%23%C3%A9");
}

#[test]
fn words_are_printable_and_few() {
    let body = "rpc error:\n\u{1b}[31m é ".repeat(100).into_bytes();
    let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body };
    let words = answer.words();
    assert!(words.starts_with("rpc error: [31m rpc") && words.len() == WORDS, "{words}");
}

#[test]
fn of_a_page_the_text_is_told() {
    let body = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<h1>a > b</h1></html>".to_vec();
    let answer = Answer { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body };
    assert_eq!(answer.words(), "502 Bad Gateway a b");
}

/// A registry that is this function.
async fn registry<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            tokio::spawn(serve(stream));
        }
    });
    let resolver = Resolver::new(&super::super::DnsSettings::default()).unwrap();
    Registry::new("Consul", Origin::new(false, address.into()), IdentitySettings::default(), &resolver)
}

fn question<'a>(limit: Duration, lines: Option<Lines<'a>>) -> Question<'a> {
    Question { path: "/v1".into(), headers: Vec::new(), limit, lines }
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

async fn failure(registry: &mut Registry, limit: Duration) -> Failure {
    let answer =
        tokio::time::timeout(LONG, registry.ask(question(limit, None))).await.expect("it is bounded");
    answer.map(|answer| answer.status).unwrap_err()
}

#[tokio::test]
async fn what_is_no_answer_is_told_with_where_it_came_from() {
    for (says, told) in [
        ("", "it hung up"),
        ("220 mail.example ESMTP\r\n\r\n", "not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", "it hung up"),
    ] {
        let mut registry = registry(move |mut stream| async move {
            stream.write_all(says.as_bytes()).await.unwrap();
        })
        .await;
        let failure = failure(&mut registry, LONG).await;
        assert!(failure.detail.contains(told), "{says}: {failure}");
        assert!(failure.detail.starts_with(&format!("Consul at {}: ", registry.origin)), "{failure}");
        assert_eq!((failure.stage, failure.side), (Stage::Resolve, Side::Upstream));
    }
}

#[tokio::test]
async fn one_that_never_answers_or_never_ends_is_waited_for_no_longer_than_is_said() {
    for says in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n[",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[",
    ] {
        let mut registry = registry(move |mut stream| async move {
            stream.write_all(says.as_bytes()).await.unwrap();
            std::future::pending().await
        })
        .await;
        let failure = failure(&mut registry, SHORT).await;
        assert_eq!(failure.reason, Reason::ConnectionTimeout, "{says}: {failure}");
        assert!(failure.detail.contains("within 300ms"), "{failure}");
    }
}

/// Endless answers and endless lines cost no more memory than is allowed.
#[tokio::test]
async fn more_than_is_taken_is_refused_before_it_is_all_there() {
    let endless = async || {
        registry(|mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // An error: it has been told to stop.
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
        })
        .await
    };
    let told = failure(&mut endless().await, LONG).await;
    assert!(told.detail.contains("larger than 16 MiB"), "{told}");
    let mut each = |line: Option<&[u8]>| match line {
        None => Ok(ControlFlow::Continue(())),
        Some(line) => panic!("a line of {} bytes", line.len()),
    };
    let lines = Lines { at_most: LONG, each: &mut each };
    let told =
        endless().await.ask(question(LONG, Some(lines))).await.map(|answer| answer.status).unwrap_err();
    assert!(told.detail.contains("larger than 16 MiB"), "{told}");
}

/// However the bytes are cut; and the one who reads may have had enough.
#[tokio::test]
async fn lines_are_given_as_they_come() {
    let mut registry = registry(|mut stream| async move {
        let answer =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none\ntw\r\n8\r\no\n\nfour\n\r\n";
        for byte in answer {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        std::future::pending().await
    })
    .await;
    let mut seen = Vec::new();
    let mut each = |line: Option<&[u8]>| {
        seen.push(line.map(|line| String::from_utf8(line.to_vec()).unwrap()));
        Ok(if seen.iter().flatten().count() == 4 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    registry.ask(question(LONG, Some(Lines { at_most: LONG, each: &mut each }))).await.map(drop).unwrap();
    assert_eq!(seen[0], None);
    assert_eq!(seen.into_iter().flatten().collect::<Vec<_>>(), ["one", "two", "", "four"]);
}

/// Who watches is told what has changed in the end, and not each step of a rollout that came in one piece. One that never ends is
/// ended: by then its token has been replaced.
#[tokio::test]
async fn lines_that_come_together_are_told_together_and_an_endless_answer_ends() {
    let mut registry = registry(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        // An error: it has been told to stop.
        while stream.write_all(&b"x\n".repeat(1000)).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    })
    .await;
    let (mut lines, mut told) = (0, 0);
    let mut each = |line: Option<&[u8]>| {
        *(if line.is_some() { &mut lines } else { &mut told }) += 1;
        Ok(ControlFlow::Continue(()))
    };
    let asked = registry.ask(question(LONG, Some(Lines { at_most: SHORT, each: &mut each })));
    tokio::time::timeout(LONG, asked).await.expect("it ends").map(drop).unwrap();
    assert!(lines >= 1000 && told * 20 < lines, "{told} times of {lines} lines");
}
