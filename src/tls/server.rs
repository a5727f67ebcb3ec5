//! TLS towards the clients of a listener: what is shown to them, and whom it asks for a certificate of their own.
//!
//! One configuration for a listener and a generation of its identity, with ticket keys of its own: a session that began
//! under another one, with other authorities or names, is not resumed. Leaves when TLS begins to `protocol` and
//! `connection`, bytes to `socket`, and why a client's handshake failed to `client_fault`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::{PeerFacts, names_of};
use super::{Identity, SelfMade};
use crate::socket::TlsConfigs;

/// `listener.tls`, where it is not off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Nobody is served without.
    pub required: bool,
    /// TLS begins with the first byte, instead of once the client asks for it in the protocol's own words.
    pub direct: bool,
    /// Names of which a client's certificate must carry one; empty: clients are asked for none.
    pub client_names: Vec<String>,
}

/// TLS towards the clients of a listener.
pub struct ServerTls {
    configs: Arc<TlsConfigs>,
    generation: Option<u64>,
    pub(super) shown: Shown,
    pub(super) asked: Option<Asked>,
    pub(super) alpn: Option<&'static str>,
}

/// What clients are shown.
pub(super) enum Shown {
    /// The certificate of an identity.
    Identity { path: PathBuf, facts: Box<PeerFacts> },
    /// One that no client can verify.
    SelfMade(Arc<SelfMade>),
}

/// What clients are asked for.
pub(super) struct Asked {
    pub(super) ca: PathBuf,
    pub(super) subjects: Vec<String>,
    pub(super) names: Arc<[String]>,
}

impl ServerTls {
    /// With the certificate of an identity, or with one that was made here.
    ///
    /// # Errors
    /// Everything that stands in its way.
    pub fn new(
        settings: &ListenerSettings,
        alpn: Option<&'static str>,
        certificate: Result<&Identity, Arc<SelfMade>>,
    ) -> Result<ServerTls, Vec<String>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut problems = Vec::new();
        let (identity, certified, shown) = match certificate {
            Err(made) => (None, Some(made.certified.clone()), Some(Shown::SelfMade(made))),
            Ok(identity) => {
                let own = identity.own.as_ref();
                if own.is_none() {
                    problems
                        .push(format!("identity '{}' has no certificate to show to clients", identity.name));
                }
                let facts = own.and_then(|own| own.facts.first());
                let shown = own.zip(facts).map(|(own, facts)| Shown::Identity {
                    path: own.path.clone(),
                    facts: Box::new(facts.clone()),
                });
                (Some(identity), own.map(|own| own.certified.clone()), shown)
            }
        };
        let asked = asked(settings, identity).map_err(|problem| problems.push(problem)).ok().flatten();
        let verifier = asked.as_ref().map(|(asked, roots)| {
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map(|webpki| Arc::new(Clients { webpki, names: asked.names.clone() }))
        });
        let verifier = verifier.transpose().map_err(|error| {
            problems.push(format!("the identity's `ca` cannot be used for clients: {error}"));
        });
        let (Some(certified), Some(shown), Ok(verifier), true) =
            (certified, shown, verifier, problems.is_empty())
        else {
            return Err(problems);
        };
        let refused = |error: Error| vec![format!("TLS cannot be set up: {error}")];
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let ticketer = aws_lc_rs::Ticketer::new().map_err(refused)?;
        let configured =
            |versions: &[&'static SupportedProtocolVersion]| -> Result<Arc<ServerConfig>, Error> {
                let config =
                    ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
                let config = match verifier.clone() {
                    Some(verifier) => config.with_client_cert_verifier(verifier),
                    None => config.with_no_client_auth(),
                };
                let mut config = config.with_cert_resolver(resolver.clone());
                config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
                config.ticketer = ticketer.clone();
                Ok(Arc::new(config))
            };
        let usual = configured(&[&TLS13, &TLS12]).map_err(refused)?;
        let in_packets = configured(&[&TLS12]).map_err(refused)?;
        Ok(ServerTls {
            configs: Arc::new(TlsConfigs { usual, in_packets }),
            generation: identity.map(|identity| identity.generation),
            shown,
            asked: asked.map(|(asked, _)| asked),
            alpn,
        })
    }

    /// For the listener's connections.
    pub fn configs(&self) -> &Arc<TlsConfigs> {
        &self.configs
    }

    /// The generation of the identity that it was made with.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// The certificate, where it was made here.
    pub fn self_made(&self) -> Option<&Arc<SelfMade>> {
        match &self.shown {
            Shown::SelfMade(made) => Some(made),
            Shown::Identity { .. } => None,
        }
    }
}

/// Never the key, nor anything that leads to it.
impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("generation", &self.generation).finish_non_exhaustive()
    }
}

fn asked(
    settings: &ListenerSettings,
    identity: Option<&Identity>,
) -> Result<Option<(Asked, Arc<RootCertStore>)>, String> {
    if settings.client_names.is_empty() {
        return Ok(None);
    }
    let Some(ca) = identity.and_then(|identity| identity.ca.as_ref()) else {
        return Err("client_names asks clients for certificates, and there is no `ca` in its identity to check them against".into());
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca.certificates.iter().cloned());
    let asked = Asked {
        ca: ca.path.clone(),
        subjects: ca.facts.iter().map(|facts| facts.subject.clone()).collect(),
        names: settings.client_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
    };
    Ok(Some((asked, Arc::new(roots))))
}

/// Lets those in whose certificate an authority vouches for, and who have one of the names.
#[derive(Debug)]
struct Clients {
    webpki: Arc<dyn ClientCertVerifier>,
    /// In small letters.
    names: Arc<[String]>,
}

/// A certificate that is in order, of somebody who is not among those that may come.
#[derive(Debug)]
pub(super) struct NotAmongThem {
    pub(super) subject: String,
    pub(super) names: Vec<String>,
}

impl fmt::Display for NotAmongThem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "none of the names of {} may come", self.subject)
    }
}

impl std::error::Error for NotAmongThem {}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.webpki.verify_client_cert(leaf, intermediates, now)?;
        let (subject, names) = names_of(leaf);
        if names.iter().any(|name| self.names.contains(&name.to_ascii_lowercase())) {
            return Ok(verified);
        }
        let why = NotAmongThem { subject, names };
        Err(CertificateError::Other(OtherError(Arc::new(why))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
