//! Proxies that say what they are told to.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::*;

/// A proxy that waits for each of these and answers it, in pieces as given; and whatever else it then says.
async fn proxy(talk: Vec<(&'static [u8], Vec<&'static [u8]>)>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        for (wanted, said) in talk {
            let mut heard = vec![0; wanted.len()];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, wanted, "{}", String::from_utf8_lossy(&heard));
            for piece in said {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        // Until the other side leaves.
        stream.read_exact(&mut [0]).await.ok();
    });
    address
}

fn through(kind: Kind, address: SocketAddr, login: Option<Login>) -> Through {
    Through { address: address.into(), kind, login }
}

/// What is behind the proxy's answer, or why there is nothing.
async fn opened(through: &Through, to: &str) -> Result<Vec<u8>, Failure> {
    let Some(address) = through.address.socket_addr() else { panic!("an address") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    through.open(&mut stream, &to.parse().unwrap()).await?;
    let mut behind = vec![0; 3];
    stream.read_exact(&mut behind).await.unwrap();
    Ok(behind)
}

fn account(password: &str) -> (Login, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    (Login { user: "erp".into(), password_file: Some(file) }, directory)
}

const CONNECT: &[u8] = b"CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com:5432\r\n\r\n";

/// What the server says right behind the proxy's answer is the server's.
#[tokio::test]
async fn connect_reads_the_answer_and_not_a_byte_more() {
    let whole: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n220";
    for cut in 1..whole.len() {
        let at = proxy(vec![(CONNECT, vec![&whole[..cut], &whole[cut..]])]).await;
        assert_eq!(
            opened(&through(Kind::Http, at, None), "db.example.com:5432").await.unwrap(),
            b"220",
            "{cut}"
        );
    }
}

#[tokio::test]
async fn connect_gives_its_account_where_it_has_one() {
    let (login, _directory) = account("secret");
    let at = proxy(vec![(
        b"CONNECT [2001:db8::1]:25 HTTP/1.1\r\nHost: [2001:db8::1]:25\r\nProxy-Authorization: Basic ZXJwOnNlY3JldA==\r\n\r\n",
        vec![b"HTTP/1.0 200 OK\r\n\r\n220"],
    )])
    .await;
    assert_eq!(opened(&through(Kind::Http, at, Some(login)), "[2001:db8::1]:25").await.unwrap(), b"220");
}

/// Who is to blame: the proxy, which is ours, or the endpoint.
#[tokio::test]
async fn connect_tells_what_the_proxy_says_of_itself_from_what_it_says_of_the_endpoint() {
    for (answer, reason, side) in [
        (
            &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
            Reason::ProxyConfigurationError,
            Side::Ambassador,
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Reason::ProxyConfigurationError, Side::Ambassador),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", Reason::DestinationUnavailable, Side::Upstream),
        (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", Reason::ConnectionTimeout, Side::Upstream),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Reason::ProxyConfigurationError, Side::Ambassador),
        (b"HTTP/1.1 2x0 \x1b[2J\r\n\r\n", Reason::ProxyConfigurationError, Side::Ambassador),
    ] {
        let at = proxy(vec![(CONNECT, vec![answer])]).await;
        let failure = opened(&through(Kind::Http, at, None), "db.example.com:5432").await.unwrap_err();
        assert_eq!((failure.stage, failure.reason, failure.side), (Stage::Proxy, reason, side), "{failure}");
        assert!(!failure.detail.chars().any(char::is_control), "{failure}");
    }
    // An answer without an end.
    let at = proxy(vec![(CONNECT, vec![b"HTTP/1.1 200 OK\r\n", &[b'x'; 20_000]])]).await;
    let failure = opened(&through(Kind::Http, at, None), "db.example.com:5432").await.unwrap_err();
    assert!(failure.detail.contains("no HTTP"), "{failure}");
}

#[tokio::test]
async fn socks5_asks_by_name_and_by_address() {
    let by_name: &[u8] = b"\x05\x01\x00\x03\x0edb.example.com\x15\x38";
    let bound_to_a_name: &[u8] = b"\x05\x00\x00\x03\x02ab\x00\x00220";
    for (to, request, answer) in [
        ("db.example.com:5432", by_name, &b"\x05\x00\x00\x01\0\0\0\0\0\x00220"[..]),
        ("db.example.com:5432", by_name, bound_to_a_name),
        (
            "10.0.0.1:5432",
            b"\x05\x01\x00\x01\x0a\x00\x00\x01\x15\x38",
            b"\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x00220",
        ),
    ] {
        let at = proxy(vec![(b"\x05\x01\x00", vec![b"\x05\x00"]), (request, vec![answer])]).await;
        assert_eq!(opened(&through(Kind::Socks5, at, None), to).await.unwrap(), b"220", "{to}");
    }
}

#[tokio::test]
async fn socks5_logs_in_where_the_proxy_wants_it() {
    for (verdict, works) in [(&b"\x01\x00"[..], true), (b"\x01\x01", false)] {
        let (login, _directory) = account("secret");
        let at = proxy(vec![
            (b"\x05\x02\x00\x02", vec![b"\x05\x02"]),
            (b"\x01\x03erp\x06secret", vec![verdict]),
            (b"\x05\x01\x00\x01\x0a\x00\x00\x01\x15\x38", vec![b"\x05\x00\x00\x01\0\0\0\0\0\x00220"]),
        ])
        .await;
        let opened = opened(&through(Kind::Socks5, at, Some(login)), "10.0.0.1:5432").await;
        assert_eq!(opened.is_ok(), works);
        if let Err(failure) = opened {
            assert!(failure.detail.contains("'erp'") && !failure.to_string().contains("secret"), "{failure}");
        }
    }
}

#[tokio::test]
async fn socks5_tells_what_the_proxy_says_of_itself_from_what_it_says_of_the_endpoint() {
    for (reply, reason, side) in [
        (1, Reason::DestinationUnavailable, Side::Upstream),
        (2, Reason::ProxyConfigurationError, Side::Ambassador),
        (3, Reason::DestinationIpUnroutable, Side::Upstream),
        (4, Reason::DestinationUnavailable, Side::Upstream),
        (5, Reason::ConnectionRefused, Side::Upstream),
        (6, Reason::ConnectionTimeout, Side::Upstream),
        (7, Reason::ProxyConfigurationError, Side::Ambassador),
        (99, Reason::ProxyConfigurationError, Side::Ambassador),
    ] {
        let answer: &'static [u8] = Box::leak(Box::new([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]));
        let at = proxy(vec![
            (b"\x05\x01\x00", vec![b"\x05\x00"]),
            (b"\x05\x01\x00\x01\x0a\x00\x00\x01\x15\x38", vec![answer]),
        ])
        .await;
        let failure = opened(&through(Kind::Socks5, at, None), "10.0.0.1:5432").await.unwrap_err();
        assert_eq!(
            (failure.stage, failure.reason, failure.side),
            (Stage::Proxy, reason, side),
            "{reply}: {failure}"
        );
    }
    // It takes nobody without a login, or speaks something else.
    for (answer, said) in [(&b"\x05\xff"[..], "without a login"), (b"HT", "no SOCKS5")] {
        let at = proxy(vec![(b"\x05\x01\x00", vec![answer])]).await;
        let failure = opened(&through(Kind::Socks5, at, None), "10.0.0.1:5432").await.unwrap_err();
        assert!(failure.detail.contains(said), "{failure}");
    }
}
