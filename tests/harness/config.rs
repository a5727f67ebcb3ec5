//! The configuration that most stories need: listener `in`, upstream `up`, over mutual TLS.

use std::net::SocketAddr;

use super::pki::{Leaf, Pki, SERVER_NAME};

/// `[listener.in]` and `[upstream.up]`; `upstream` is the rest of the upstream's section, and may open others beneath it.
pub fn mtls(pki: &Pki, upstream: &str) -> String {
    mtls_as(pki, &pki.client, upstream)
}

/// The same with another certificate of ours.
pub fn mtls_as(pki: &Pki, client: &Leaf, upstream: &str) -> String {
    let (ca, certificate, key) = (pki.ca(), &client.certificate, &client.key);
    format!(
        "[identity.test]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\n\
         [upstream.up]\nidentity = \"test\"\nserver_name = \"{SERVER_NAME}\"\n{upstream}\n"
    )
}

/// The same for a client that has no certificate.
pub fn anonymous(pki: &Pki, upstream: &str) -> String {
    let with = |line: &&str| !line.starts_with("certificate = ") && !line.starts_with("key = ");
    mtls(pki, upstream).lines().filter(with).fold(String::new(), |all, line| all + line + "\n")
}

/// `endpoints = [...]`
pub fn endpoints(addresses: &[SocketAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("endpoints = {all:?}\n")
}
