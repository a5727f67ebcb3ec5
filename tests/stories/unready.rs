//! What clients meet while no endpoint of their upstream can be used: each of the four values of `when_unready`.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::pki::SERVER_NAME;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// Nobody of this host's other tests listens or dials from here, so that a port that is closed for a while stays free.
fn own_address() -> Ipv4Addr {
    let [_, _, a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, a, b.max(1))
}

/// One server without checks: only clients find out.
const BY_CLIENTS: &str =
    "health.kind = \"off\"\nbreaker = { consecutive = 2, open_for = \"1s\", max_open = \"1s\" }\n";
/// One whose checks find out first.
const BY_CHECKS: &str = "health = { interval = \"50ms\", fall = 2, rise = 2 }\n";

/// Listener `in`, at an address of its own, before one server.
fn file(pki: &Pki, server: SocketAddr, keys: &str) -> String {
    let file = config::mtls(pki, &(config::endpoints(&[server]) + keys));
    file.replace("127.0.0.1:0", &format!("{}:0", own_address()))
}

fn served(address: SocketAddr) -> bool {
    clients::ask(address, b"ping").is_ok_and(|answer| answer == b"ping")
}

/// Whether connect(2) itself says no. Who comes in the moment in which it closes may be reset.
fn nobody_listens(address: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            true
        }
    }
}

/// What the API says of the listener.
fn state(nuncio: &Ambassador) -> String {
    let listeners = nuncio.get("/api/v1/listeners").json();
    assert_eq!(listeners[0]["state"] == "unlistened", listeners[0]["since"].is_string(), "{listeners}");
    listeners[0]["state"].as_str().expect("a word").to_owned()
}

/// A client that knows a second address, as libpq does: the first that connects.
fn first_that_connects(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses.iter().copied().find(|address| TcpStream::connect_timeout(address, PATIENCE).is_ok())
}

/// The checks take the only server out: the listener closes, so that clients go to their second address by themselves; who
/// is connected stays. The server comes back, and so do they, at the very same port.
#[test]
fn a_listener_is_closed_while_the_checks_hold_its_only_server_down() {
    let pki = Pki::generate();
    let (mut server, mut other) = (Upstream::start(&pki), Upstream::start(&pki));
    let keys = format!("when_unready = \"unlisten\"\nrequired = true\n{BY_CHECKS}");
    let mut nuncio = Ambassador::start(&file(&pki, server.address(), &keys));
    let address = nuncio.listener("in");
    let second = other.address();
    nuncio.wait_metric("nuncio_endpoint_up", &[], |up| up == 1.0);
    assert!(served(address));
    assert_eq!((state(&nuncio).as_str(), nuncio.get("/readyz").status), ("listening", 200));
    assert_eq!(nuncio.metric("nuncio_listener_up", &[("listener", "in")]), 1.0);

    server.kill();
    eventually("nobody listens", PATIENCE, || nobody_listens(address).then_some(()));
    assert_eq!(first_that_connects(&[address, second]), Some(second));
    assert_eq!((state(&nuncio).as_str(), nuncio.get("/readyz").status), ("unlistened", 503));
    assert_eq!(nuncio.metric("nuncio_listener_up", &[("listener", "in")]), 0.0);
    nuncio.wait_line("nobody behind it can be used");

    server.restart();
    eventually("it is served again", PATIENCE, || served(address).then_some(()));
    assert_eq!((state(&nuncio).as_str(), nuncio.get("/readyz").status), ("listening", 200));
    assert_eq!(first_that_connects(&[address, second]), Some(address));
    other.kill();
}

/// Only clients find out: their failures open the circuit, and with it the listener closes. It listens again when the time
/// has come to try, since nobody could otherwise; the one who tries finds the server dead, and it closes again; or alive.
#[test]
fn a_listener_that_closed_with_a_circuit_listens_when_it_may_be_tried() {
    let pki = Pki::generate();
    let mut server = Upstream::start(&pki);
    let file = file(&pki, server.address(), &format!("when_unready = \"unlisten\"\n{BY_CLIENTS}"));
    let nuncio = Ambassador::start(&file);
    let address = nuncio.listener("in");
    let mut stays = clients::connect(address);
    clients::echoes(&mut stays, b"ping").unwrap();
    server.kill();
    for trials in 1..3 {
        eventually("it closes", PATIENCE, || (!served(address) && nobody_listens(address)).then_some(()));
        eventually("it listens again, for a trial", PATIENCE, || (!nobody_listens(address)).then_some(()));
        let tried = nuncio.metric("nuncio_breaker_transitions_total", &[("to", "half-open")]);
        assert!(tried >= f64::from(trials), "{tried}");
    }
    server.restart();
    eventually("the trial that succeeds", PATIENCE, || served(address).then_some(()));
    let closed = &[("to", "closed")];
    nuncio.wait_metric("nuncio_breaker_transitions_total", closed, |closed| closed == 1.0);
    eventually("it is open for good", PATIENCE, || (state(&nuncio) == "listening").then_some(()));
    for _ in 0..10 {
        assert!(served(address));
    }
}

/// Who is connected stays while the listener is closed, a reload leaves it closed or opens it as the file says, and the end
/// of the process has nothing to wait for.
#[cfg(unix)]
#[test]
fn a_closed_listener_keeps_its_connections_and_outlives_reloads() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let mut checked = Upstream::start(&pki);
    // What is asked is another process than the server, so that its connections stay when that goes.
    let proxy = |word: &str, interval: &str| {
        let url = format!("http://{}/", checked.address());
        let health =
            format!("health = {{ kind = \"http\", url = \"{url}\", interval = \"{interval}\", fall = 2 }}\n");
        file(&pki, server.address(), &format!("when_unready = \"{word}\"\n{health}"))
    };
    let mut nuncio = Ambassador::start(&proxy("unlisten", "50ms"));
    let address = nuncio.listener("in");
    let mut client = clients::connect(address);
    clients::echoes(&mut client, b"ping").unwrap();
    // What answers there is no HTTP.
    eventually("it closes", PATIENCE, || nobody_listens(address).then_some(()));
    clients::echoes(&mut client, b"still there").unwrap();
    // A reload that has nothing to do with it.
    nuncio.reloaded(&proxy("unlisten", "60ms"));
    assert!(nobody_listens(address));
    // One that wants it open: at once, though nobody can be used.
    nuncio.reloaded(&proxy("refuse", "60ms"));
    let mut told = clients::connect(address);
    assert!(matches!(told.read(&mut [0]), Ok(0) | Err(_)));
    let refused = nuncio.wait_records(1).pop().unwrap();
    assert_eq!(refused["reason"], "destination_unavailable", "{refused}");
    nuncio.reloaded(&proxy("unlisten", "60ms"));
    eventually("it closes again", PATIENCE, || nobody_listens(address).then_some(()));
    clients::echoes(&mut client, b"still there").unwrap();
    drop(client);
    checked.kill();
    assert!(nuncio.stop(PATIENCE).success());
}

/// Somebody takes the port while it is closed: that is told with who could know it, in the log, by /readyz and in the API, and
/// the listener has it again as soon as it is free.
#[test]
fn a_port_that_somebody_took_meanwhile_is_told_and_taken_back() {
    let pki = Pki::generate();
    let mut server = Upstream::start(&pki);
    let file = file(&pki, server.address(), &format!("when_unready = \"unlisten\"\n{BY_CHECKS}"));
    let mut nuncio = Ambassador::start(&file);
    let address = nuncio.listener("in");
    server.kill();
    let thief = eventually("the port can be taken", PATIENCE, || TcpListener::bind(address).ok());
    server.restart();
    let line = nuncio.wait_line("it should be open again, and cannot");
    assert!(line.contains(&format!("cannot listen on {address}")), "{line}");
    let readyz = nuncio.get("/readyz");
    assert!(readyz.status == 503 && readyz.body.contains("listener 'in': cannot listen"), "{readyz:?}");
    let listeners = nuncio.get("/api/v1/listeners").json();
    assert!(listeners[0]["problem"].as_str().unwrap().contains("cannot listen"), "{listeners}");
    drop(thief);
    eventually("it is served again", PATIENCE, || served(address).then_some(()));
    assert_eq!(nuncio.get("/readyz").status, 200);
}

/// Of two upstreams that share a listener's connections one can be used: it stays open. With neither it closes.
#[test]
fn a_split_closes_only_when_none_of_its_upstreams_can_be_used() {
    let pki = Pki::generate();
    let (mut stable, mut canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let keys = format!("when_unready = \"unlisten\"\n{BY_CHECKS}");
    let second = config::endpoints(&[canary.address()]) + &keys;
    let file = file(&pki, stable.address(), &keys)
        .replace("upstream = \"up\"", "split = [{ upstream = \"up\" }, { upstream = \"canary\" }]")
        + &format!("[upstream.canary]\nidentity = \"test\"\nserver_name = \"{SERVER_NAME}\"\n{second}");
    let nuncio = Ambassador::start(&file);
    let address = nuncio.listener("in");
    let down = |upstream| {
        nuncio.wait_metric("nuncio_endpoint_up", &[("upstream", upstream)], |up| up == 0.0);
    };
    canary.kill();
    down("canary");
    eventually("half of them are served", PATIENCE, || served(address).then_some(()));
    assert_eq!(state(&nuncio), "listening");
    stable.kill();
    down("up");
    eventually("nobody listens", PATIENCE, || nobody_listens(address).then_some(()));
    canary.restart();
    eventually("half of them are served again", PATIENCE, || {
        (!nobody_listens(address) && served(address)).then_some(())
    });
}

/// The file of a Unix socket goes with it, and comes back.
#[cfg(unix)]
#[test]
fn the_file_of_a_closed_unix_socket_is_gone_and_comes_back() {
    use std::os::unix::net::UnixStream;

    let pki = Pki::generate();
    let mut server = Upstream::start(&pki);
    let directory = tempfile::TempDir::with_prefix("nuncio-unready-").unwrap();
    let path = directory.path().join("in.sock");
    let file = file(&pki, server.address(), &format!("when_unready = \"unlisten\"\n{BY_CHECKS}"))
        .replace(&format!("{}:0", own_address()), &format!("unix:{}", path.display()));
    let _nuncio = Ambassador::start(&file);
    UnixStream::connect(&path).unwrap();
    server.kill();
    eventually("the file is gone", PATIENCE, || (!path.exists()).then_some(()));
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
    server.restart();
    eventually("it is back", PATIENCE, || UnixStream::connect(&path).ok());
}

/// A driver that goes to its next host only when a connection breaks: no words, a reset at once, and the record says why all
/// the same. With `refuse` the same client hears its protocol's own no.
#[test]
fn a_client_is_reset_or_told_as_the_file_says() {
    const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";
    let pki = Pki::generate();
    for word in ["reset", "refuse"] {
        let mut server = Upstream::start(&pki);
        let keys = format!("protocol = \"postgres\"\nwhen_unready = \"{word}\"\n{BY_CHECKS}");
        let mut nuncio = Ambassador::start(&file(&pki, server.address(), &keys));
        server.kill();
        nuncio.wait_metric("nuncio_endpoint_up", &[], |up| up == 0.0);
        let begun = Instant::now();
        let mut client = clients::sends_early(nuncio.listener("in"), STARTUP);
        let mut heard = Vec::new();
        let end = client.read_to_end(&mut heard);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        match word {
            "reset" => assert_eq!((end.unwrap_err().kind(), heard.len()), (ErrorKind::ConnectionReset, 0)),
            _ => assert!(end.is_ok() && heard.starts_with(b"E"), "{heard:?}"),
        }
        let record = nuncio.wait_records(1).remove(0);
        assert_eq!(
            (&record["reason"], &record["stage"], &record["side"], &record["closed_by"]),
            (&"destination_unavailable".into(), &"route".into(), &"upstream".into(), &"ambassador".into()),
            "{record}"
        );
    }
}

/// Clients that come while the server restarts wait, as many as may, in turn, and are served as soon as it is back; one more
/// is refused at once with the reason that is there, and so is, in the end, who waits in vain. Who leaves makes room.
#[test]
fn clients_wait_for_a_server_to_come_back_within_bounds() {
    let pki = Pki::generate();
    let mut server = Upstream::start(&pki);
    let keys = format!(
        "when_unready = \"wait\"\nlimits = {{ pending = 3, queue_timeout = \"100ms\" }}\ntimeouts.establish = \"8s\"\n{BY_CHECKS}"
    );
    let mut nuncio = Ambassador::start(&file(&pki, server.address(), &keys));
    let address = nuncio.listener("in");
    server.kill();
    nuncio.wait_metric("nuncio_endpoint_up", &[], |up| up == 0.0);
    let waiting = |count: u64| {
        let is_so = |upstreams: &serde_json::Value| (upstreams[0]["waiting"] == count).then_some(());
        nuncio.wait_state("/api/v1/upstreams", &format!("{count} wait"), is_so);
    };
    let mut all: Vec<_> = (1..=3)
        .map(|count| {
            // The last has nothing to say yet.
            let client = clients::sends_early(address, if count == 3 { b"" } else { b"ping" });
            waiting(count);
            client
        })
        .collect();
    assert!(!served(address), "one too many");
    drop(all.pop());
    waiting(2);
    all.push(clients::sends_early(address, b"ping"));
    waiting(3);
    server.restart();
    for client in &mut all {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
    drop(all);
    // Who left without a word leaves no line either.
    let records = nuncio.wait_records(4);
    let refused = &records[0];
    assert_eq!(
        (&refused["reason"], &refused["outcome"]),
        (&"destination_unavailable".into(), &"failed".into()),
        "{refused}"
    );
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("and 3 connections wait for that to end (limits.pending)"), "{detail}");
    let waited = records[1..].iter().map(|record| record["queue_ms"].as_f64().unwrap_or_default());
    assert!(waited.fold(0.0, f64::max) > 100.0, "longer than the queue's own time: {records:?}");
}

/// Nobody comes back in time: the reason is the one that there was all along. And the client that opened the circuit itself
/// is among those who wait: it is served by its next attempt.
#[test]
fn who_waits_in_vain_is_told_what_was_the_matter() {
    let pki = Pki::generate();
    let mut server = Upstream::start(&pki);
    let keys = "when_unready = \"wait\"\ntimeouts.establish = \"500ms\"\nhealth.kind = \"off\"\n\
                breaker = { consecutive = 1, open_for = \"1h\", max_open = \"1h\" }\n";
    let mut nuncio = Ambassador::start(&file(&pki, server.address(), keys));
    let address = nuncio.listener("in");
    server.kill();
    for count in 1..=2 {
        let begun = Instant::now();
        assert!(!served(address));
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
        let record = nuncio.wait_records(count).pop().unwrap();
        // What was seen at an endpoint says more than that no other is left.
        let reason = if count == 1 { "connection_refused" } else { "circuit_open" };
        assert_eq!(record["reason"], reason, "{record}");
    }
    let keys = keys.replace("1h", "2s").replace("500ms", "9s");
    let mut nuncio = Ambassador::start(&file(&pki, server.address(), &keys));
    let mut client = clients::sends_early(nuncio.listener("in"), b"ping");
    nuncio.wait_metric("nuncio_breaker_state", &[], |state| state == 2.0);
    server.restart();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    drop(client);
    let record = nuncio.wait_records(1).remove(0);
    assert!(record["attempts"].as_array().is_some_and(|attempts| attempts.len() >= 2), "{record}");
}

/// libpq with two hosts, each an ambassador of its own before a PostgreSQL of its own. The first server is gone: a port where
/// nobody listens sends it on, and so does our own no, which says "not now" (57P03) as a server would; a reset does not.
#[cfg(unix)]
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn psql_goes_to_its_second_host_by_itself() {
    use super::harness::postgres::{self, Postgres, Release, Stop};
    use super::harness::sql;

    let pki = Pki::generate();
    for word in ["unlisten", "reset", "refuse"] {
        let (mut first, second) = (Postgres::start(&pki), Postgres::start(&pki));
        let nuncio = |server: &Postgres| {
            let keys = format!("protocol = \"postgres\"\nwhen_unready = \"{word}\"\n{BY_CHECKS}");
            let keys = config::endpoints(&[server.address()]) + &keys;
            let file = config::mtls_as(&pki, &postgres::client(&pki), &keys);
            Ambassador::start(&file.replace("127.0.0.1:0", &format!("{}:0", own_address())))
        };
        let both = [nuncio(&first), nuncio(&second)];
        let [one, other] = both.each_ref().map(|nuncio| nuncio.listener("in"));
        let conninfo = postgres::plaintext(one)
            .replace(&format!("host={}", one.ip()), &format!("host={},{}", one.ip(), other.ip()))
            .replace(&format!("port={}", one.port()), &format!("port={},{}", one.port(), other.port()));
        let port = || sql::psql(Release::Debian, &conninfo, "select inet_server_port()");
        assert_eq!(port().answer(), first.address().port().to_string());
        first.stop(Stop::Immediate);
        both[0].wait_metric("nuncio_endpoint_up", &[], |up| up == 0.0);
        if word == "unlisten" {
            eventually("nobody listens", PATIENCE, || nobody_listens(one).then_some(()));
        }
        let ran = port();
        match word {
            "reset" => {
                assert!(ran.refusal().contains("server closed the connection unexpectedly"), "{ran:#?}")
            }
            _ => assert_eq!(ran.answer(), second.address().port().to_string()),
        }
    }
}
