//! Listeners that speak TLS with their clients: those that insist on it get it, in their protocol's own way.

mod certificates;
mod chat;
mod direct;
#[cfg(unix)]
mod legacy;
mod patience;
#[cfg(unix)]
mod postgres;
mod smtp;

use std::net::TcpStream;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use super::harness::pki::{Leaf, SERVER_NAME};
use super::harness::{Pki, config};

/// The file of an ambassador: `listener` and `upstream` are the rest of their sections. The identity `door` has the server's
/// certificate of the CA, to be shown to clients.
fn behind(pki: &Pki, client: &Leaf, listener: &str, upstream: &str) -> String {
    let (ca, certificate, key) = (pki.ca(), &pki.server.certificate, &pki.server.key);
    let door = format!("[identity.door]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let used = if listener.contains("identity") { door } else { String::new() };
    let keys = format!("upstream = \"up\"\n{listener}\n");
    used + &config::mtls_as(pki, client, upstream).replace("upstream = \"up\"\n", &keys)
}

/// What the record says of a failure, and of the client's own TLS.
fn told(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
    format!(
        "{} at {}: {} ({})\n  {}\n  {}\n",
        text("outcome"),
        text("stage"),
        text("reason"),
        text("side"),
        text("detail"),
        text("next_step")
    )
}

/// The name in the listener's certificate.
const DOOR: &str = SERVER_NAME;

/// The client's side of a handshake with the listener.
fn inside_tls(pki: &Pki, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from(DOOR).expect("a name");
    let tls = ClientConnection::new(pki.client_config(), name).expect("a client");
    StreamOwned::new(tls, stream)
}
