//! One upstream's TLS: a client configuration, its session store, and handshakes by it.
//!
//! Resumption skips the verification of the certificate: whoever vouched for the first handshake vouches for all that
//! resume it. So the store lives and dies with its `ClientTls`, and any change of authorities, pins, names, versions or
//! of our own certificate makes a new `ClientTls`, never an altered one.
//!
//! rustls files sessions by server name. Endpoints of one name that share no ticket keys would spend each other's tickets,
//! so each address has a store of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::{Progress, Secured, handshake};
use super::peer::{Date, PeerFacts};
use super::verify::{self, Presenter, SEEN, Seen, Trust, Verifier};
use super::{Identity, Settings, Version, diagnose};
use crate::addr::Host;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::upstream::EndpointSpec;

/// Addresses of an upstream whose sessions are kept.
const ADDRESSES: usize = 256;
/// What rustls' store is sized for: one server name of an address, and a second one while the first gives way.
const SESSIONS: usize = 16;

pub(super) const SYSTEM_ROOTS: &str = "the system's roots";

/// One upstream's TLS under one generation of its identity.
pub struct ClientTls {
    /// Without a session store; see [`ClientTls::config_for`].
    config: ClientConfig,
    by_address: Mutex<HashMap<SocketAddr, Arc<ClientConfig>>>,
    server_name: Option<ServerName<'static>>,
    generation: Option<u64>,
    pub(super) presenter: Arc<Presenter>,
    pub(super) ours: Option<Ours>,
    pub(super) trust: TrustSummary,
    pub(super) post_quantum: bool,
    /// The server was asked for TLS in plaintext, and had said yes.
    pub(super) negotiated: bool,
    oldest: Version,
    newest: Version,
}

/// Our own certificate, as far as failures speak of it.
pub(super) struct Ours {
    pub(super) path: PathBuf,
    pub(super) facts: PeerFacts,
}

/// What servers are checked against, as far as failures speak of it.
pub(super) enum TrustSummary {
    /// `place`: a file, or the system's roots; `subjects`: of the authorities in the file.
    Chain { place: String, subjects: Vec<String> },
    /// So many pins.
    Pins(usize),
    /// Nothing.
    Anything,
}

/// By what the right server is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusts {
    /// Its chain, its dates and its name.
    Chain,
    /// One of the keys or certificates that are pinned.
    Pins,
    /// Nothing.
    Anything,
}

impl ClientTls {
    /// Makes the configuration; on failure says everything that stands in its way.
    pub fn new(settings: &Settings, identity: Option<&Identity>) -> Result<ClientTls, Vec<String>> {
        let mut problems = Vec::new();
        let (oldest, newest) = (settings.min_version, settings.max_version);
        if oldest > newest {
            problems.push(format!("tls_min {oldest} is newer than tls_max {newest}: swap them"));
        }
        let mut keep = |problem: String| problems.push(problem);
        let server_name =
            settings.server_name.as_deref().and_then(|name| parse_name(name).map_err(&mut keep).ok());
        for protocol in settings.alpn.iter().filter(|protocol| !(1..=255).contains(&protocol.len())) {
            keep(format!("alpn '{protocol}': a protocol's name has 1 to 255 bytes"));
        }
        let mut provider = aws_lc_rs::default_provider();
        // Named one by one, so that an update of rustls does not change what we offer.
        provider.kx_groups = match settings.post_quantum {
            true => {
                vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]
            }
            false => vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        };
        let provider = Arc::new(provider);
        let trust = trust(settings, identity, &provider).map_err(&mut keep).ok();
        let Some((trust, summary)) = trust.filter(|_| problems.is_empty()) else { return Err(problems) };

        let own = identity.and_then(|identity| identity.own.as_ref());
        let presenter = Arc::new(Presenter::new(own.map(|own| own.certified.clone())));
        let ours = own.and_then(|own| {
            own.facts.first().map(|facts| Ours { path: own.path.clone(), facts: facts.clone() })
        });
        let algorithms = provider.signature_verification_algorithms;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(oldest, newest))
            .map_err(|error| vec![format!("TLS cannot be set up: {error}")])?;
        let mut config = config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { trust, algorithms }))
            .with_client_cert_resolver(presenter.clone());
        config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
        config.resumption = Resumption::disabled();
        Ok(ClientTls {
            config,
            by_address: Mutex::default(),
            server_name,
            generation: identity.map(|identity| identity.generation),
            presenter,
            ours,
            trust: summary,
            post_quantum: settings.post_quantum && newest == Version::Tls13,
            negotiated: settings.mode == super::Mode::Negotiate,
            oldest,
            newest,
        })
    }

    /// The generation of the identity that it was made with.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// SNI, and the name that the certificate must carry: the endpoint's own, else the upstream's, else the host as it
    /// was written. Never what a DNS answer pointed to: an answer may be forged.
    pub fn name_for(&self, endpoint: &EndpointSpec) -> Result<ServerName<'static>, Failure> {
        let refuse = |problem: String| {
            Failure::new(Stage::Handshake, Reason::ProxyConfigurationError, Side::Ambassador, problem)
                .mend("set `server_name` to the name that the server's certificate carries")
        };
        if let Some(name) = &endpoint.server_name {
            return parse_name(name).map_err(refuse);
        }
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        match &endpoint.address.host {
            Host::Ip(address) => Ok(ServerName::IpAddress((*address).into())),
            Host::Name(name) => parse_name(name).map_err(refuse),
        }
    }

    /// May our certificate be presented at this time? Asked before each dial, by the wall clock: a timer set at the
    /// start would sleep with a laptop and miss a clock that was set.
    pub fn ready(&self, now: SystemTime) -> Result<(), Failure> {
        let Some(Ours { path, facts }) = &self.ours else { return Ok(()) };
        let now = Date::of(now);
        let refuse = |detail: String, mend: &'static str| {
            Err(Failure::new(Stage::Handshake, Reason::ProxyConfigurationError, Side::Ambassador, detail)
                .mend(mend))
        };
        let (subject, file) = (&facts.subject, path.display());
        if facts.not_after < now {
            let (until, ago) = (facts.not_after, facts.not_after.apart(now));
            return refuse(
                format!(
                    "our certificate {subject} in {file} expired at {until}, {ago} ago (it is {now} here)"
                ),
                if cfg!(unix) {
                    "have it renewed, put it in the file's place, and let nuncio read it: systemctl reload nuncio, or SIGHUP"
                } else {
                    "have it renewed, put it in the file's place, and start nuncio again"
                },
            );
        }
        if facts.not_before > now {
            let (from, ahead) = (facts.not_before, facts.not_before.apart(now));
            return refuse(
                format!(
                    "our certificate {subject} in {file} is valid only from {from}, in {ahead} (it is {now} here)"
                ),
                "set this host's clock right; if it is, wait until the certificate's time has come",
            );
        }
        Ok(())
    }

    /// Runs the handshake within `limit`; `at` is the address that was dialled. Every failure is explained.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        at: SocketAddr,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<Secured, Failure> {
        self.handshake_seen(stream, at, name, limit, &mut Seen::default()).await
    }

    /// As [`ClientTls::handshake`]; what it showed is in `seen` afterwards, however it ended.
    pub async fn handshake_seen<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        at: SocketAddr,
        name: ServerName<'static>,
        limit: Duration,
        seen: &mut Seen,
    ) -> Result<Secured, Failure> {
        let before = RefCell::new(std::mem::take(seen));
        let run = async {
            let mut progress = Progress::default();
            let config = self.config_for(at);
            let outcome = tokio::time::timeout(limit, handshake(stream, config, name, &mut progress)).await;
            *seen = verify::taken();
            match outcome {
                Ok(Ok(secured)) => Ok(secured),
                Ok(Err(cause)) => Err(diagnose::diagnose(cause, &progress, seen, self)),
                Err(_) => Err(diagnose::timed_out(limit, &progress, seen, self)),
            }
        };
        SEEN.scope(before, run).await
    }

    /// By what it tells the right server.
    pub fn trusts(&self) -> Trusts {
        match &self.trust {
            TrustSummary::Chain { .. } => Trusts::Chain,
            TrustSummary::Pins(_) => Trusts::Pins,
            TrustSummary::Anything => Trusts::Anything,
        }
    }

    /// What we would present; `None`: nothing.
    pub fn own(&self) -> Option<&PeerFacts> {
        self.ours.as_ref().map(|ours| &ours.facts)
    }

    /// The configuration with the sessions of this address. One lock for a look-up, once a connection.
    fn config_for(&self, at: SocketAddr) -> Arc<ClientConfig> {
        let mut known = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(&at) {
            return config.clone();
        }
        // Addresses of a name come and go. Any may give way: the price is one full handshake.
        if known.len() >= ADDRESSES
            && let Some(other) = known.keys().next().copied()
        {
            known.remove(&other);
        }
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        known.entry(at).or_insert(Arc::new(config)).clone()
    }

    #[cfg(test)]
    pub(super) fn addresses_known(&self) -> usize {
        self.by_address.lock().map_or(0, |known| known.len())
    }

    /// What we offer, for messages.
    pub(super) fn versions(&self) -> String {
        match self.oldest == self.newest {
            true => format!("only {}", self.oldest),
            false => "TLS 1.2 and 1.3".into(),
        }
    }

    /// What to do when the server has no version of ours.
    pub(super) fn version_mend(&self) -> &'static str {
        const SERVER: &str = "switch TLS 1.2 or 1.3 on at the server (ssl_protocols in nginx, ssl_max_protocol_version in PostgreSQL, tls_version in MySQL, MaxProtocol in openssl.cnf), or update its TLS library";
        match (self.oldest, self.newest) {
            (Version::Tls12, Version::Tls13) => SERVER,
            (Version::Tls13, _) => "set tls_min = \"1.2\" here, or switch TLS 1.3 on at the server",
            (Version::Tls12, Version::Tls12) => {
                "switch TLS 1.2 on at the server (a SQL Server of before 2016 needs its last service pack for that), or set tls_max = \"1.3\" here if it was set to less"
            }
        }
    }
}

/// Never the key, nor anything that leads to it.
impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::Tls12 => "TLS 1.2",
            Version::Tls13 => "TLS 1.3",
        })
    }
}

fn versions(oldest: Version, newest: Version) -> Vec<&'static SupportedProtocolVersion> {
    match (oldest, newest) {
        (Version::Tls12, Version::Tls12) => vec![&TLS12],
        (Version::Tls12, Version::Tls13) => vec![&TLS13, &TLS12],
        (Version::Tls13, _) => vec![&TLS13],
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned())
        .map_err(|_| format!("server_name '{name}' is neither a host name nor an address"))
}

fn trust(
    settings: &Settings,
    identity: Option<&Identity>,
    provider: &Arc<CryptoProvider>,
) -> Result<(Trust, TrustSummary), String> {
    if settings.danger_accept_any_certificate {
        return Ok((Trust::Anything, TrustSummary::Anything));
    }
    if !settings.pins.is_empty() {
        return Ok((Trust::Pins(settings.pins.clone().into()), TrustSummary::Pins(settings.pins.len())));
    }
    let mut roots = RootCertStore::empty();
    let summary = match identity.and_then(|identity| identity.ca.as_ref()) {
        Some(ca) => {
            roots.add_parsable_certificates(ca.certificates.iter().cloned());
            if roots.is_empty() {
                return Err(format!(
                    "ca {}: none of its certificates can be used as an authority",
                    ca.path.display()
                ));
            }
            TrustSummary::Chain {
                place: ca.path.display().to_string(),
                subjects: ca.facts.iter().map(|facts| facts.subject.clone()).collect(),
            }
        }
        // Only here, and not with the identity: a container without root certificates may still use pins.
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
                return Err(format!(
                    "this system has no root certificates{why}: install the package ca-certificates, or set `ca`"
                ));
            }
            TrustSummary::Chain { place: SYSTEM_ROOTS.into(), subjects: Vec::new() }
        }
    };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("the authorities cannot be used: {error}"))?;
    Ok((Trust::Chain(webpki), summary))
}
