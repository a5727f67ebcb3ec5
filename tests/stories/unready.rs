//! What clients meet while no endpoint of their upstream can be used: each of the four values of `when_unready`.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::harness::ambassador::Ambassador;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// Nobody of this host's other tests listens or dials from here, so that a port that is closed for a while stays free.
fn own_address() -> Ipv4Addr {
    let [_, _, a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, a, b.max(1))
}

/// One server without checks: only clients find out.
const BY_CLIENTS: &str = "health.kind = \"off\"\nbreaker = { consecutive = 2, open_for = \"1s\", max_open = \"1s\" }\n";
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

/// Whether connect(2) itself says no.
fn nobody_listens(address: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => false,
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
