//! The admin over real sockets, spoken to by hand.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::addr::ClientAddr;
use crate::drain::Drain;
use crate::failure::{Outcome, Side};
use crate::metrics::Metrics;
use crate::record::{Ending, Format, Journal, Record};

struct House {
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    reasons: Vec<String>,
    token: Option<Arc<Token>>,
}

impl Face for House {
    fn ready(&self) -> Result<(), Vec<String>> {
        if self.reasons.is_empty() { Ok(()) } else { Err(self.reasons.clone()) }
    }
    fn token(&self) -> Option<Arc<Token>> {
        self.token.clone()
    }
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "version": "1" })
    }
    fn listeners(&self) -> Vec<serde_json::Value> {
        vec![serde_json::json!({ "name": "orders" })]
    }
    fn upstreams(&self) -> Vec<UpstreamView> {
        vec![UpstreamView {
            name: "orders".into(),
            endpoints: Vec::new(),
            waiting: 0,
            panicking: false,
            source: None,
            pool: None,
        }]
    }
    fn divide(&self, _: &str, _: Option<&[(String, u32)]>) -> Result<RolloutView, Undivided> {
        Err(Undivided::Unknown("there is none".into()))
    }
    fn operate(&self, upstream: &str, endpoint: &str, order: Order) -> Result<Vec<EndpointView>, String> {
        match (upstream, endpoint, order) {
            ("orders", "db1:5432", Order::Drain) => Ok(Vec::new()),
            _ => Err("there is: db1:5432".to_owned()),
        }
    }
    fn metrics(&self) -> String {
        self.metrics.encode(&self.upstreams(), &[])
    }
    fn users(&self) -> Vec<UserView> {
        self.metrics.users()
    }
    fn connections(&self) -> Vec<ConnectionView> {
        self.journal.live()
    }
    fn connection(&self, id: ConnectionId) -> Option<ConnectionView> {
        self.journal.find(id)
    }
    fn connection_of(&self, client: &ClientAddr) -> Option<ConnectionView> {
        self.journal.find_by_client(client)
    }
}

fn house(reasons: &[&str]) -> House {
    let metrics = Metrics::new();
    let journal = Journal::printing_to(Box::new(std::io::sink()), Format::Text, metrics.clone(), |_| false);
    House {
        metrics,
        journal,
        token: None,
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
    }
}

fn start(limits: Limits, house: House) -> (Admin, SocketAddr, Drain) {
    let (drain, watch) = Drain::new();
    let settings = Settings { addresses: vec!["127.0.0.1:0".parse().unwrap()], ..Settings::default() };
    let admin = serve_within(limits, &settings, Arc::new(house), watch).unwrap();
    let ListenAddr::Tcp(address) = admin.addresses()[0] else { panic!("{admin:?}") };
    (admin, address, drain)
}

/// Sends exactly this and reads until the other side closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(address: SocketAddr, line: &str, headers: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n");
    exchange(address, request.as_bytes()).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn every_page_answers_and_none_may_be_cached() {
    let house = house(&[]);
    let client = ClientAddr::Tcp("127.0.0.1:5".parse().unwrap());
    let ended = Record::open(&house.journal, &"orders".into(), &client, Instant::now());
    let id = ended.id();
    ended.close(Ending {
        outcome: Outcome::Success,
        failure: None,
        closed_by: Some(Side::Client),
        quiet: false,
    });
    let (_admin, address, _drain) = start(Limits::default(), house);
    for (path, kind, says) in [
        ("/".to_owned(), "text/plain", "/api/v1/upstreams"),
        ("/healthz".to_owned(), "text/plain", "ok"),
        ("/readyz".to_owned(), "text/plain", "ready"),
        ("/metrics".to_owned(), "text/plain; version=0.0.4", "# TYPE nuncio_connections_total counter"),
        ("/api/v1/status".to_owned(), "application/json", r#"{"version":"1"}"#),
        ("/api/v1/upstreams?pretty".to_owned(), "application/json", "  \"name\": \"orders\""),
        ("/api/v1/users".to_owned(), "application/json", "[]\n"),
        ("/api/v1/connections".to_owned(), "application/json", r#"{"total":0,"connections":[]}"#),
        (format!("/api/v1/connections/{id}"), "application/json", r#""outcome":"success""#),
    ] {
        let answer = ask(address, &format!("GET {path}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")), "{path}: {answer}");
        assert!(answer.contains("cache-control: no-store\r\n"), "{path}: {answer}");
        assert!(body(&answer).contains(says), "{path}: {answer}");
        let head = ask(address, &format!("HEAD {path}"), "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body(&head).is_empty(), "{path}: {head}");
    }
    let open = ask(address, "GET /metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").await;
    assert!(
        open.contains("content-type: application/openmetrics-text") && open.ends_with("# EOF\n"),
        "{open}"
    );
}

#[tokio::test]
async fn connections_are_filtered_and_counted() {
    let house = house(&[]);
    let client = ClientAddr::Tcp("127.0.0.1:5".parse().unwrap());
    let open: Vec<_> = ["a", "a", "b"]
        .map(|upstream| {
            let mut record = Record::open(&house.journal, &"l".into(), &client, Instant::now());
            record.draft().upstream = Some(upstream.into());
            record.relaying();
            record
        })
        .into();
    let (_admin, address, _drain) = start(Limits::default(), house);
    for (query, total, shown) in
        [("", 3, 3), ("upstream=a", 2, 2), ("upstream=a&limit=1", 2, 1), ("listener=x", 0, 0)]
    {
        let answer = ask(address, &format!("GET /api/v1/connections?{query}"), "").await;
        let value: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(value["total"], total, "{query}");
        assert_eq!(value["connections"].as_array().unwrap().len(), shown, "{query}");
    }
    assert!(ask(address, "GET /api/v1/connections?upsteam=a", "").await.starts_with("HTTP/1.1 400 "));
    drop(open);
}

#[tokio::test]
async fn a_process_that_is_not_ready_says_why_and_so_does_one_that_drains() {
    let (_admin, address, drain) =
        start(Limits::default(), house(&["orders: no endpoint is up", "mail: no answer"]));
    let answer = ask(address, "GET /readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body(&answer), "orders: no endpoint is up\nmail: no answer\n");
    drain.start();
    let answer = ask(address, "GET /readyz", "").await;
    assert!(body(&answer).starts_with("draining: "), "{answer}");
    assert!(ask(address, "GET /healthz", "").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_is_not_there_or_may_not_be_is_refused_with_words() {
    let (_admin, address, _drain) = start(Limits::default(), house(&[]));
    for (line, headers, status, says) in [
        ("GET /nothing", "", "404", "/api/v1/upstreams"),
        ("POST /nothing", "", "404", "/healthz"),
        ("GET /api/v1/connections/", "", "404", "/healthz"),
        ("GET /api/v1/connections/xyz", "", "400", "16 hexadecimal digits"),
        ("GET /api/v1/connections/0000000000000000", "", "404", "no connection 0000000000000000"),
        ("POST /api/v1/upstreams", "Content-Length: 0\r\n", "405", "GET or HEAD"),
        ("DELETE /", "", "405", "GET or HEAD"),
        (
            "POST /api/v1/upstreams/orders/endpoints/db1:5432/drain",
            "Content-Length: 0\r\n",
            "403",
            "Unix socket",
        ),
        ("PUT /api/v1/listeners/orders/split", "Content-Length: 0\r\n", "403", "admin.token_file"),
        ("GET /metrics", "Host: 127.0.0.1\r\n", "400", "more than one Host"),
        ("GET /metrics", "Origin: http://evil.example\r\n", "403", "evil.example"),
        ("GET /metrics", "Origin: null\r\n", "403", "null"),
        ("GET http://evil.example/metrics", "", "421", "evil.example"),
    ] {
        let answer = ask(address, line, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
        assert!(body(&answer).contains(says), "{line} {headers}: {answer}");
        if status == "405" {
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        }
    }
    let ours = ask(address, "GET /healthz", "Origin: http://127.0.0.1\r\n").await;
    assert!(ours.starts_with("HTTP/1.1 200 "), "{ours}");
}

/// The token is asked for behind Host and Origin, so that a page in a browser gets no further with it.
#[tokio::test]
async fn an_order_over_tcp_is_carried_out_with_the_token_only() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    let token = Some(Arc::new(Token::load(file.path()).unwrap()));
    let (_admin, address, _drain) = start(Limits::default(), House { token, ..house(&[]) });
    let drain = "POST /api/v1/upstreams/orders/endpoints/db1:5432/drain";
    let split = "PUT /api/v1/listeners/orders/split";
    let right = "Authorization: Bearer 0123456789abcdef\r\n";
    for (line, headers, status, says) in [
        (drain, right.to_owned(), "200", "[]"),
        (split, right.to_owned(), "400", "that is no split"),
        (drain, String::new(), "401", "Authorization: Bearer TOKEN"),
        (split, String::new(), "401", "Authorization: Bearer TOKEN"),
        ("DELETE /api/v1/listeners/orders/split", String::new(), "401", "Authorization: Bearer TOKEN"),
        (drain, "Authorization: Bearer 0123456789abcdeF\r\n".to_owned(), "401", "that is not the token"),
        (drain, format!("{right}Origin: http://evil.example\r\n"), "403", "evil.example"),
        (drain, format!("{right}Origin: null\r\n"), "403", "null"),
        (&drain.replace("/api", "http://evil.example/api"), right.to_owned(), "421", "evil.example"),
        ("GET /metrics", String::new(), "200", "nuncio_"),
    ] {
        let answer = ask(address, line, &format!("{headers}Content-Length: 0\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line} {headers}: {answer}");
        assert!(body(&answer).contains(says), "{line} {headers}: {answer}");
        assert_eq!(answer.contains("www-authenticate: Bearer realm=\"nuncio\""), status == "401", "{answer}");
        if status == "401" {
            let told: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
            assert!(told["error"].is_string() && told["mend"].is_string(), "{told}");
            assert!(!answer.contains("0123456789abcde"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_page_whose_name_leads_to_this_host_is_refused() {
    let (_admin, address, _drain) = start(Limits::default(), house(&[]));
    for host in ["evil.example", "evil.example:9746", "localhost.evil.example", ""] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
        assert!(!answer.contains("nuncio_"), "{answer}");
    }
    let request = b"GET /healthz HTTP/1.0\r\n\r\n";
    assert!(exchange(address, request).await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn garbage_is_answered_with_400_or_431_and_the_end() {
    let (_admin, address, _drain) = start(Limits::default(), house(&[]));
    let long = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 64 << 10]].concat();
    for (garbage, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], "400"),
        (b"GET /\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        (&long[..], "431"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The answer may come, and the connection end, before all of it is sent.
        drop(stream.write_all(garbage).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{garbage:?}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_sends_its_headers_drop_by_drop_is_cut() {
    let limits = Limits { headers: Duration::from_millis(300), ..Limits::default() };
    let (_admin, address, _drain) = start(limits, house(&[]));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    let mut sent = 0;
    let mut byte = [0];
    loop {
        tokio::select! {
            read = stream.read(&mut byte) => {
                assert!(matches!(read, Ok(0) | Err(_)), "answered before the end of the request");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                // It may be gone by now: the read tells.
                drop(stream.write_all(if sent == 0 { b"GET / HTTP/1.1\r\nX: " } else { b"x" }).await);
                sent += 1;
            }
        }
    }
    assert!(sent > 1 && begun.elapsed() < Duration::from_secs(5), "{sent} drops, {:?}", begun.elapsed());
}

/// Who keeps its connection for later gives way; until it has been silent for long enough, others wait.
#[tokio::test]
async fn where_all_places_are_taken_the_silent_give_way() {
    let limits = Limits { connections: 2, headers: Duration::from_secs(60), ..Limits::default() };
    let (_admin, address, _drain) = start(limits, house(&[]));
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    kept.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut mute = TcpStream::connect(address).await.unwrap();
    for _ in 0..4 {
        assert!(ask(address, "GET /healthz", "").await.starts_with("HTTP/1.1 200 "));
    }
    // The first one went for the second of these, and nobody after it.
    kept.read_to_end(&mut Vec::new()).await.unwrap();
    mute.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    mute.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
}

#[tokio::test]
async fn more_clients_than_places_wait_and_are_served_when_one_leaves() {
    let minute = Duration::from_secs(60);
    let limits = Limits { connections: 1, headers: minute, grace: minute, ..Limits::default() };
    let (_admin, address, _drain) = start(limits, house(&[]));
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let mut second = tokio::spawn(async move { ask(address, "GET /healthz", "").await });
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
    drop(first);
    assert!(second.await.unwrap().starts_with("HTTP/1.1 200 "));
}

/// By its age, and before that where somebody else wants its place.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_frees_its_place() {
    let (moment, minute) = (Duration::from_millis(100), Duration::from_secs(60));
    for (grace, age) in [(minute, moment), (moment, minute)] {
        let limits = Limits { connections: 1, grace, age, farewell: moment, ..Limits::default() };
        let house = house(&[]);
        let client = ClientAddr::Tcp("127.0.0.1:5".parse().unwrap());
        let open = || Record::open(&house.journal, &"orders".into(), &client, Instant::now());
        let records: Vec<_> = (0..1000).map(|_| open()).collect();
        let (_admin, address, _drain) = start(limits, house);
        let mut deaf = TcpStream::connect(address).await.unwrap();
        // More than any socket buffer holds.
        let request = "GET /api/v1/connections HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
        deaf.write_all(request.as_bytes()).await.unwrap();
        assert!(ask(address, "GET /healthz", "").await.starts_with("HTTP/1.1 200 "));
        drop((records, deaf));
    }
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_mend() {
    let (_admin, address, _drain) = start(Limits::default(), house(&[]));
    let settings = Settings { addresses: vec![ListenAddr::Tcp(address)], ..Settings::default() };
    let (_other, watch) = Drain::new();
    let told = serve(&settings, Arc::new(house(&[])), watch).unwrap_err();
    assert!(told.contains(&address.to_string()) && told.contains("is another nuncio running?"), "{told}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_stale_socket_file_is_replaced_a_live_one_is_not_and_ours_goes_with_us() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let settings = Settings { addresses: vec![ListenAddr::Unix(path.clone())], ..Settings::default() };
    let (_drain, watch) = Drain::new();
    let admin = serve(&settings, Arc::new(house(&[])), watch.clone()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o660, "owner and group, whatever the umask is");
    let told = serve(&settings, Arc::new(house(&[])), watch.clone()).unwrap_err();
    assert!(told.contains("admin.address") && told.contains("another process does"), "{told}");
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    // Any Host: no browser gets here.
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let order = async |line: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let request =
            format!("{line} HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let drain = "/api/v1/upstreams/orders/endpoints/db1:5432/drain";
    assert!(order(&format!("POST {drain}")).await.starts_with("HTTP/1.1 200 "));
    assert!(order(&format!("GET {drain}")).await.starts_with("HTTP/1.1 405 "), "a GET changes nothing");
    let unknown = order("POST /api/v1/upstreams/orders/endpoints/db2:5432/drain").await;
    assert!(unknown.starts_with("HTTP/1.1 404 ") && unknown.contains("there is: db1:5432"), "{unknown}");
    drop(admin);
    assert!(!path.exists());
    std::fs::write(&path, "not a socket").unwrap();
    assert!(serve(&settings, Arc::new(house(&[])), watch).is_err());
    assert!(path.exists());
}
