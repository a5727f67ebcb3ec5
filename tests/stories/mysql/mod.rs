//! MySQL of both makers behind nuncio: clients without TLS, servers that demand it and the user's own certificate.
//!
//! Each file is one part of it. Here is what they share.

#![cfg(unix)]

mod checks;
mod full;
mod login;
mod passwords;
mod refusals;
mod traffic;

use std::net::SocketAddr;

use super::harness::ambassador::Ambassador;
use super::harness::mysql;
use super::harness::mysql_clients::Login;
use super::harness::pki::Leaf;
use super::harness::{PATIENCE, Pki, config};

/// What a session is to its server: the second statement is answered only to the user whose certificate was asked for.
const WHO: &[&str] = &["show status like 'Ssl_version'", "select current_user()"];
/// The answer.
const KNOWN: &str = "Ssl_version\tTLSv1.3\napp@%";

/// The file of an ambassador in front of servers, with the certificate of the user; `rest` of the upstream's section.
fn behind(pki: &Pki, servers: &[SocketAddr], rest: &str) -> String {
    behind_as(pki, &mysql::client(pki), servers, rest)
}

/// The same with another certificate.
fn behind_as(pki: &Pki, client: &Leaf, servers: &[SocketAddr], rest: &str) -> String {
    let keys = format!("protocol = \"mysql\"\n{}{rest}", config::endpoints(servers));
    config::mtls_as(pki, client, &keys)
}

/// How a client without TLS connects to it.
fn through(nuncio: &Ambassador) -> Login {
    Login::at(nuncio.listener("in"))
}

/// So many connections, each of which is over and has been a success.
#[track_caller]
fn assert_all_succeeded(nuncio: &mut Ambassador, count: usize) {
    let records = nuncio.wait_records(count);
    let failed: Vec<_> = records.iter().filter(|record| record["outcome"] != "success").collect();
    assert!(failed.is_empty() && records.len() == count, "{}: {failed:#?}", records.len());
    nuncio.stop(PATIENCE);
}
