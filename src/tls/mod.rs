//! TLS towards the upstream: what was configured, as one client configuration per upstream and identity generation. And TLS
//! towards the clients of a listener that has some to give (`server`, `self_made`, `client_fault`).
//!
//! `identity` loads who we are and whom we trust, `client` makes a configuration of it and runs handshakes (`handshake`),
//! `verify` judges the server, `unbuffered` is the engine that the relay drives afterwards (`proof` and `carry`: health checks). Every handshake that fails is
//! explained by `diagnose` and its helpers: `refusal` (why we refused the server), `alert` (why the server refused us),
//! `greeting` (what it speaks instead of TLS).

mod alert;
mod carry;
mod client;
mod client_fault;
mod diagnose;
mod greeting;
pub mod handshake;
mod identity;
mod peer;
mod pem;
mod pin;
mod proof;
mod refusal;
mod self_made;
mod server;
pub mod unbuffered;
mod verify;

use std::path::PathBuf;

pub use alert::late_failure;
pub use client::{ClientTls, Trusts};
pub use handshake::{Secured, Summary};
pub use identity::{Identity, exposed};
pub use peer::{Date, PeerFacts, describe_peer};
pub use self_made::SelfMade;
pub use server::{ListenerSettings, ServerTls};
pub use verify::Seen;

/// Who we are and whom we trust: `[identity.NAME]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentitySettings {
    /// File with the CA certificates that servers are checked against; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// File with our certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// File with its private key.
    pub key: Option<PathBuf>,
    /// Refuse a key file that others can read, instead of warning.
    pub strict_permissions: bool,
    /// Who is shown the certificate.
    pub shown_to: ShownTo,
}

/// Who is shown a certificate: what it is for has to allow that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShownTo {
    /// Servers, by upstreams that name the identity.
    #[default]
    Servers,
    /// Clients, by listeners that name it.
    Clients,
    /// Both.
    Both,
}

/// How an upstream's servers are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// When TLS starts.
    pub mode: Mode,
    /// SNI and the name the certificate must carry; `None`: the endpoint's name as written.
    pub server_name: Option<String>,
    /// ALPN protocols offered.
    pub alpn: Vec<String>,
    /// Oldest version accepted.
    pub min_version: Version,
    /// Newest version offered.
    pub max_version: Version,
    /// Offer X25519MLKEM768.
    pub post_quantum: bool,
    /// SHA-256 of accepted keys or leaf certificates. With pins, chain and name are not looked at.
    pub pins: Vec<Pin>,
    /// Look at nothing.
    pub danger_accept_any_certificate: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Direct,
            server_name: None,
            alpn: Vec::new(),
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            post_quantum: true,
            pins: Vec::new(),
            danger_accept_any_certificate: false,
        }
    }
}

/// When TLS starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once it is asked for, in the protocol's own words.
    Negotiate,
    /// With the first byte.
    Direct,
    /// Never.
    Off,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// One accepted key or certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// SHA-256 of the SubjectPublicKeyInfo: `spki-sha256:BASE64-OR-HEX`.
    Spki([u8; 32]),
    /// SHA-256 of the whole leaf certificate: `leaf-sha256:BASE64-OR-HEX`.
    Leaf([u8; 32]),
}

#[cfg(test)]
mod tests;
