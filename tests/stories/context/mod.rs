//! What is said of a connection before its first byte, and what is answered: CONNECT, SOCKS5, the PROXY protocol.

mod asking;
mod malformed;
#[cfg(unix)]
mod programs;
mod proxies;
#[cfg(target_os = "linux")]
mod redirected;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use super::harness::config::endpoints;
use super::harness::pki::{Pki, SERVER_NAME};

/// A file with a listener `test` that has these keys, and an upstream `db`, over mutual TLS unless its keys say otherwise.
fn file(pki: &Pki, listener: &str, at: &[SocketAddr], upstream: &str) -> String {
    let (ca, certificate, key) = (pki.ca(), &pki.client.certificate, &pki.client.key);
    let endpoints = if at.is_empty() { String::new() } else { endpoints(at) };
    let identity = match upstream.contains("tls = \"off\"") {
        true => String::new(),
        false => format!("identity = \"test\"\nserver_name = \"{SERVER_NAME}\"\n"),
    };
    format!(
        "[log]\nformat = \"json\"\nlevel = \"info,nuncio::record=debug\"\n\
         [identity.test]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [listener.test]\naddress = \"127.0.0.1:0\"\n{listener}\n\
         [upstream.db]\n{endpoints}{identity}health.kind = \"off\"\n{upstream}\n"
    )
}

/// The same where clients ask for destinations: `db.test:5432`, or any of 192.0.2.0/24, leads to `db`.
fn asking(pki: &Pki, context: &str, at: &[SocketAddr], upstream: &str) -> String {
    let listener = format!("context = \"{context}\"\nupstreams = [\"db\"]");
    let hosts = "hosts = [\"db.test:5432\", \"192.0.2.0/24\"]";
    file(pki, &listener, at, &format!("{hosts}\n{upstream}"))
}

/// The head of an HTTP answer, and nothing behind it.
fn head(mut stream: &TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the head goes on");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is text")
}

/// So many bytes.
fn take<const N: usize>(mut stream: &TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("so many bytes come");
    bytes
}

/// A SOCKS5 conversation in one go, as far as the request: with a user name, and for a destination by name.
fn socks(user: &str, host: &str, port: u16) -> Vec<u8> {
    let name = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
    [&[5, 1, 2, 1][..], &name(user), &name("x"), &[5, 1, 0, 3], &name(host), &port.to_be_bytes()].concat()
}
