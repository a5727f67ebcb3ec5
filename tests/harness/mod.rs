//! What black-box tests are made of: the real binary, certificates, real servers, peers that misbehave, and clients.
//!
//! Tests of the whole program live in `tests/stories/`, one binary with one file a story, so that it is linked once.
//! They wait for facts ([`eventually`], [`ambassador::Ambassador`]'s `wait_…`), never for time to pass, bind port 0 and leave
//! nothing behind: everything started here ends when it is dropped.

pub mod ambassador;
#[cfg(unix)]
pub mod brokers;
pub mod clients;
pub mod config;
pub mod consul;
#[cfg(unix)]
pub mod delayer;
pub mod dovecot;
pub mod hangers_on;
pub mod hostile;
pub mod http;
#[cfg(unix)]
pub mod inn;
pub mod knot;
pub mod kubernetes;
#[cfg(unix)]
pub mod legacy;
#[cfg(unix)]
pub mod mail;
#[cfg(unix)]
pub mod mysql;
#[cfg(unix)]
pub mod mysql_clients;
#[cfg(unix)]
pub mod patroni;
pub mod peer;
#[cfg(unix)]
pub mod pgbouncer;
pub mod pki;
#[cfg(unix)]
pub mod postgres;
pub mod process;
pub mod programs;
#[cfg(unix)]
pub mod prosody;
pub mod records;
pub mod scene;
pub mod servers;
#[cfg(unix)]
pub mod slapd;
pub mod smtp;
#[cfg(unix)]
pub mod sql;
pub mod tap;
#[cfg(unix)]
pub mod template;
pub mod upstream;
pub mod way_out;
pub mod wine;
pub mod wording;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

pub use hostile::Hostile;
pub use pki::Pki;
pub use upstream::Upstream;

/// How long a test waits for a fact before it gives up: far more than any takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks until there is an answer; after `limit` the test fails with what it waited for.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address that nothing listens at, for a server that cannot be given port 0. It is none of those that the kernel gives
/// to clients: on a busy machine one of them would have it before the server does.
pub fn free_address() -> SocketAddr {
    eventually("a port is free", PATIENCE, || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_768)));
        listener.and_then(|listener| listener.local_addr()).ok()
    })
}
