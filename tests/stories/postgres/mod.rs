//! PostgreSQL behind nuncio: plaintext clients, servers that demand TLS and the role's own certificate.
//!
//! Each file is one part of it. Here is what they share.

#![cfg(unix)]

mod cancel;
mod demanding;
mod failover;
mod full;
mod login;
mod negotiation;
mod refusals;

use std::net::SocketAddr;

use super::harness::ambassador::Ambassador;
use super::harness::pki::Leaf;
use super::harness::postgres;
use super::harness::{Pki, config};

/// What a session is to its server.
const WHO: &str = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()";

/// The file of an ambassador in front of PostgreSQL, with the certificate of the role; `rest` of the upstream's section.
fn behind(pki: &Pki, servers: &[SocketAddr], rest: &str) -> String {
    behind_as(pki, &postgres::client(pki), servers, rest)
}

/// The same with another certificate.
fn behind_as(pki: &Pki, client: &Leaf, servers: &[SocketAddr], rest: &str) -> String {
    let keys = format!("protocol = \"postgres\"\n{}{rest}", config::endpoints(servers));
    config::mtls_as(pki, client, &keys)
}

/// How a plaintext client connects to it, as libpq has it.
fn through(nuncio: &Ambassador) -> String {
    postgres::plaintext(nuncio.listener("in"))
}
