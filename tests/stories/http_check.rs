//! Health checks that ask over HTTP: who is the primary, and whom the check itself trusts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::harness::ambassador::{Ambassador, run};
use super::harness::peer::Peer;
use super::harness::pki::By;
use super::harness::upstream::{handshake, plain_echo};
use super::harness::{Hostile, PATIENCE, Pki, Upstream, clients, config, eventually, free_address, pki};

/// Reads a request's head and answers by its first line; `None`: the client is gone.
fn answer(mut stream: impl Read + Write, status: impl FnOnce(&str) -> &'static str) -> Option<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.extend(byte);
    }
    let request = String::from_utf8(request).ok()?;
    let body = "{\"state\": \"running\"}";
    let (status, length) = (status(request.lines().next()?), body.len());
    let answer =
        format!("HTTP/1.0 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((answer + body).as_bytes()).and_then(|()| stream.flush()).ok()
}

/// Answers as Patroni's REST API does, for all members of a cluster: 200 for the primary, 503 for a replica.
struct Patroni {
    peer: Peer,
    primary: Arc<Mutex<SocketAddr>>,
    /// So many questions are answered with 503, whoever they are about.
    refuses: Arc<AtomicU32>,
}

impl Patroni {
    fn start(primary: SocketAddr) -> Patroni {
        let (primary, refuses) = (Arc::new(Mutex::new(primary)), Arc::new(AtomicU32::new(0)));
        let (who, no) = (primary.clone(), refuses.clone());
        let peer = Peer::start(move |stream| {
            answer(stream, |request| {
                let asked = format!("GET /primary?of={} HTTP/1.1", *who.lock().unwrap());
                let refused = no.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                if request == asked && !refused { "200 OK" } else { "503 Service Unavailable" }
            });
        });
        Patroni { peer, primary, refuses }
    }

    fn promote(&self, primary: SocketAddr) {
        *self.primary.lock().unwrap() = primary;
    }

    /// Where it is asked, and the rest of the section.
    fn keys(&self) -> String {
        let address = self.peer.address();
        format!(
            "[upstream.up.health]\nkind = \"http\"\nurl = \"http://{address}/primary?of={{host}}:{{port}}\"\n\
             interval = \"100ms\"\nrise = 2\nfall = 2\n"
        )
    }
}

fn is_up(ambassador: &Ambassador, endpoint: SocketAddr) -> bool {
    ambassador.metric("nuncio_endpoint_up", &[("endpoint", &endpoint.to_string())]) == 1.0
}

fn checks(ambassador: &Ambassador, endpoint: SocketAddr, result: &str) -> f64 {
    let labels = [("endpoint", &*endpoint.to_string()), ("result", result)];
    ambassador.metric("nuncio_health_checks_total", &labels)
}

/// Three servers that all take connections and serve; who is the primary only the check can tell. It moves, and new
/// connections with it.
#[test]
fn new_connections_go_to_whom_the_http_check_calls_the_primary_and_follow_it() {
    let pki = Pki::generate();
    let servers: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    let addresses: Vec<_> = servers.iter().map(Upstream::address).collect();
    let patroni = Patroni::start(addresses[0]);
    let ambassador =
        Ambassador::start(&config::mtls(&pki, &(config::endpoints(&addresses) + &patroni.keys())));
    for primary in [0, 2] {
        patroni.promote(addresses[primary]);
        eventually("the primary alone is up", PATIENCE, || {
            (0..3).all(|at| is_up(&ambassador, addresses[at]) == (at == primary)).then_some(())
        });
        let before: Vec<_> = servers.iter().map(Upstream::accepted).collect();
        for _ in 0..20 {
            assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
        }
        for (at, server) in servers.iter().enumerate() {
            let expected = if at == primary { 20 } else { 0 };
            assert_eq!(server.accepted() - before[at], expected, "server {at}, primary {primary}");
        }
        assert!(checks(&ambassador, addresses[primary], "success") >= 2.0);
        assert!(checks(&ambassador, addresses[1], "failure") >= 2.0);
    }
    assert_eq!(checks(&ambassador, addresses[1], "success"), 0.0);
    let view = ambassador.get("/api/v1/upstreams").json();
    let detail = view[0]["endpoints"][1]["last_failure"]["detail"].as_str().unwrap().to_owned();
    let asked = format!("GET http://{}/primary?… answered 503 Service Unavailable", patroni.peer.address());
    assert!(detail.contains(&asked), "{detail}");
}

/// One "no" among many a "yes" is a hiccup of whoever is asked: `fall` counts answers as it counts connections.
#[test]
fn a_single_no_does_not_take_the_primary_out() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let patroni = Patroni::start(server.address());
    let endpoints = config::endpoints(&[server.address()]);
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &(endpoints + &patroni.keys())));
    eventually("it is up", PATIENCE, || {
        (checks(&ambassador, server.address(), "success") >= 2.0).then_some(())
    });
    for times in 1..=3 {
        patroni.refuses.store(1, SeqCst);
        eventually("a check fails", PATIENCE, || {
            (checks(&ambassador, server.address(), "failure") == f64::from(times)).then_some(())
        });
        let passed = checks(&ambassador, server.address(), "success");
        eventually("the next one passes", PATIENCE, || {
            (checks(&ambassador, server.address(), "success") > passed).then_some(())
        });
    }
    patroni.refuses.store(u32::MAX, SeqCst);
    eventually("it is down", PATIENCE, || (!is_up(&ambassador, server.address())).then_some(()));
    ambassador.wait_line("endpoint is down");
    let lines = ambassador.process().lines().clone();
    assert_eq!(lines.iter().filter(|line| line.contains("endpoint is down")).count(), 1, "{lines:#?}");
}

/// What another URL said is no verdict on the endpoint: whoever has not been asked yet is not down.
#[cfg(unix)]
#[test]
fn a_reload_with_another_url_forgets_what_the_first_one_said() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let patroni = Patroni::start(free_address());
    let endpoints = config::endpoints(&[server.address()]);
    let mut ambassador = Ambassador::start(&config::mtls(&pki, &(endpoints.clone() + &patroni.keys())));
    let health = |ambassador: &Ambassador| {
        let view = ambassador.get("/api/v1/upstreams").json();
        view[0]["endpoints"][0]["health"].as_str().unwrap().to_owned()
    };
    eventually("it is down", PATIENCE, || (health(&ambassador) == "down").then_some(()));
    let silent = Hostile::NeverAnswers.start(&pki);
    let other = patroni.keys().replace(&patroni.peer.address().to_string(), &silent.address().to_string());
    let other = other + "timeout = \"1h\"\n";
    ambassador.reloaded(&config::mtls(&pki, &(endpoints + &other)));
    assert_eq!(health(&ambassador), "unknown");
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
}

/// A probe of an endpoint that is fine, with a check that asks `url`: what is said of the check.
#[track_caller]
fn probed(file: &str, url: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let health = format!("[upstream.up.health]\nkind = \"http\"\nurl = \"{url}\"\ntimeout = \"2s\"\n");
    std::fs::write(directory.path().join("nuncio.toml"), file.to_owned() + &health).unwrap();
    let (code, out, err) = run(&["probe", "up", "--config", "nuncio.toml", "--json"], directory.path());
    let probed: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    // Whatever its check says, the endpoint itself takes connections.
    assert_eq!((code, &probed["fine"]), (Some(0), &true.into()), "{probed:#}");
    probed["endpoints"][0]["health"].clone()
}

/// Nothing but what fails, in words.
#[track_caller]
fn fails(file: &str, url: &str) -> String {
    let health = probed(file, url);
    assert_eq!(health["passes"], false, "{health}");
    let detail = health["detail"].as_str().unwrap();
    let detail = detail.strip_prefix(&format!("GET {url}: ")).unwrap_or_else(|| panic!("{detail}"));
    format!("{detail}; {}", health["next_step"].as_str().unwrap())
}

/// An agent over TLS that demands a client certificate and shows one with these names.
fn agent(pki: &Pki, names: &[&str], by: By) -> Peer {
    let config = Arc::new(pki.server_config_with(&pki.issue("agent", names, by, pki::Valid::Now), By::Ca));
    Peer::start(move |stream: TcpStream| {
        if let Some(mut tls) = handshake(&config, stream) {
            answer(&mut tls, |_| "200 OK");
            tls.conn.send_close_notify();
            tls.flush().ok(); // an error: the client is gone
        }
    })
}

/// The agent's certificate names the URL's host and not the upstream's `server_name`, which is another server's.
#[test]
fn https_shows_our_certificate_and_wants_the_name_that_the_url_has() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let file = config::mtls(&pki, &config::endpoints(&[server.address()]));
    let good = agent(&pki, &["127.0.0.1"], By::Ca);
    let url = format!("https://{}/", good.address());
    assert_eq!(probed(&file, &url)["passes"], true);
    assert_eq!(probed(&file, &url.replace("127.0.0.1", "{host}"))["passes"], true);

    let other = agent(&pki, &[pki::SERVER_NAME], By::Ca);
    let told = fails(&file, &format!("https://{}/", other.address()));
    assert!(told.contains("valid for upstream.test, but for no address"), "{told}");
    assert!(told.ends_with("with the host that the URL names"), "{told}");
    let foreign = agent(&pki, &["127.0.0.1"], By::Foreign);
    let told = fails(&file, &format!("https://{}/", foreign.address()));
    assert!(told.contains("was not signed by the CN=nuncio test CA"), "{told}");
    let plain = Hostile::Garbage.start(&pki);
    let told = fails(&file, &format!("https://{}/", plain.address()));
    assert!(told.ends_with("does the port in health.url speak TLS? If not, write http://"), "{told}");
}

/// With TLS off towards the servers, the identity is for the check alone.
#[test]
fn a_plaintext_upstream_may_be_checked_over_https_with_our_certificate() {
    let pki = Pki::generate();
    let server = plain_echo();
    let endpoints = config::endpoints(&[server.address()]);
    let in_plaintext =
        |file: String| file.replace(&format!("server_name = \"{}\"", pki::SERVER_NAME), "tls = \"off\"");
    let agent = agent(&pki, &["127.0.0.1"], By::Ca);
    let url = format!("https://{}/", agent.address());
    assert_eq!(probed(&in_plaintext(config::mtls(&pki, &endpoints)), &url)["passes"], true);
    let told = fails(&in_plaintext(config::anonymous(&pki, &endpoints)), &url);
    assert!(told.contains("certificate_required"), "{told}");
}

#[test]
fn nobody_who_answers_is_told_as_what_it_is() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let file = config::mtls(&pki, &config::endpoints(&[server.address()]));
    let told = fails(&file, &format!("http://{}/", free_address()));
    assert!(told.contains("refused the connection"), "{told}");
    let silent = Hostile::NeverAnswers.start(&pki);
    for scheme in ["http", "https"] {
        let told = fails(&file, &format!("{scheme}://{}/", silent.address()));
        assert!(told.starts_with("not done within 2s"), "{told}");
    }
    let told = fails(&file, &format!("http://{}/", server.address()));
    assert!(told.contains("If it speaks TLS, write https://"), "{told}");
}
