//! Is this the server that is meant? By chain and name, by pins, or not at all; and what was seen on the way.
//!
//! Whatever is looked at, the handshake's signature is always checked: without it a pin would pin nothing, since
//! certificates are public. Leaves explaining a refusal to `refusal`.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Pin;
use super::peer;

tokio::task_local! {
    /// What one handshake showed. The verifier cannot hold it: it is shared by all connections of an upstream, since
    /// rustls resumes a session only for the very verifier that vouched for it. And it cannot travel in the error
    /// either: the error's kind decides which alert the server gets to see in its own log.
    pub(super) static SEEN: RefCell<Seen>;
}

/// What one handshake showed, also one that failed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Keep what costs copies, also when nothing is wrong: a person wants to look at it.
    pub watched: bool,
    /// The server asked for a client certificate.
    pub asked: bool,
    /// Whose certificates it said it takes; kept where it is watched. Empty: it did not say.
    pub accepted: Vec<String>,
    /// It asked, and ours could be shown: we have one, and it is of a kind that the server takes.
    pub presented: bool,
    /// The server's chain as it sent it, leaf first; kept where it was refused or is watched.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Seen {
    /// For a look at everything.
    pub fn watching() -> Seen {
        Seen { watched: true, ..Seen::default() }
    }

    fn keep(&mut self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        if self.chain.is_empty() {
            self.chain =
                std::iter::once(leaf).chain(intermediates).map(|it| it.clone().into_owned()).collect();
        }
    }
}

fn note(what: impl FnOnce(&mut Seen)) {
    // Outside of a handshake of `ClientTls` there is nobody to tell.
    match SEEN.try_with(|seen| what(&mut seen.borrow_mut())) {
        Ok(()) | Err(_) => {}
    }
}

/// What the handshake that is running showed so far.
pub(super) fn taken() -> Seen {
    SEEN.try_with(RefCell::take).unwrap_or_default()
}

/// What makes a server the right one.
#[derive(Debug)]
pub(super) enum Trust {
    /// A chain to an authority, dates, and the name.
    Chain(Arc<WebPkiServerVerifier>),
    /// One of these keys or certificates.
    Pins(Box<[Pin]>),
    /// That it holds the key of the certificate it shows.
    Anything,
}

/// rustls' view of [`Trust`].
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = match &self.trust {
            Trust::Chain(webpki) => webpki.verify_server_cert(leaf, intermediates, name, ocsp, now),
            Trust::Pins(pins) if pins.iter().any(|pin| pin.matches(leaf)) => {
                Ok(ServerCertVerified::assertion())
            }
            Trust::Pins(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Trust::Anything => Ok(ServerCertVerified::assertion()),
        };
        note(|seen| {
            if seen.watched || result.is_err() {
                seen.keep(leaf, intermediates);
            }
        });
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.trust {
            Trust::Chain(webpki) => webpki.verify_tls12_signature(message, leaf, signed),
            Trust::Pins(_) | Trust::Anything => self.by_key_12(message, leaf, signed),
        }
        .inspect_err(|_| note(|seen| seen.keep(leaf, &[])))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.trust {
            Trust::Chain(webpki) => webpki.verify_tls13_signature(message, leaf, signed),
            Trust::Pins(_) | Trust::Anything => {
                let spki = SubjectPublicKeyInfoDer::from(key_of(leaf)?);
                verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
            }
        }
        .inspect_err(|_| note(|seen| seen.keep(leaf, &[])))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// webpki refuses to parse what pins are for (X.509 v1 above all), so the key is taken out by a parser that does.
fn key_of<'a>(leaf: &'a CertificateDer<'_>) -> Result<&'a [u8], Error> {
    peer::key_info(leaf).ok_or_else(|| CertificateError::BadEncoding.into())
}

impl Verifier {
    /// TLS 1.2's signature with the bare key. rustls has this for TLS 1.3 only. In TLS 1.2 the scheme does not say the
    /// curve, so that each algorithm of the scheme that fits the key is tried.
    fn by_key_12(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let raw = key_of(leaf)?;
        let (_, spki) = SubjectPublicKeyInfo::from_der(raw).map_err(|_| CertificateError::BadEncoding)?;
        let algorithm = contents_of_algorithm(raw).ok_or(CertificateError::BadEncoding)?;
        let candidates = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .map(|(_, algorithms)| *algorithms)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        candidates
            .iter()
            .filter(|candidate| candidate.public_key_alg_id().as_ref() == algorithm)
            .any(|candidate| {
                candidate.verify_signature(&spki.subject_public_key.data, message, signed.signature()).is_ok()
            })
            .then(HandshakeSignatureValid::assertion)
            .ok_or_else(|| CertificateError::BadSignature.into())
    }
}

/// What stands inside the AlgorithmIdentifier of a SubjectPublicKeyInfo: compared byte by byte, as webpki does, so that
/// the curve counts as well.
fn contents_of_algorithm(spki: &[u8]) -> Option<&[u8]> {
    let identifier = inside(spki)?;
    inside(identifier)
}

/// The contents of the DER element that `der` begins with, for lengths below 64 KiB.
fn inside(der: &[u8]) -> Option<&[u8]> {
    match der {
        [_, length @ 0..=0x7f, rest @ ..] => rest.get(..usize::from(*length)),
        [_, 0x81, length, rest @ ..] => rest.get(..usize::from(*length)),
        [_, 0x82, high, low, rest @ ..] => rest.get(..usize::from(*high) << 8 | usize::from(*low)),
        _ => None,
    }
}

/// Presents our certificate, and remembers that servers ask for one and whose they accept.
#[derive(Debug, Default)]
pub(super) struct Presenter {
    pub(super) certified: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
    accepted: OnceLock<Box<[String]>>,
}

impl Presenter {
    pub(super) fn new(certified: Option<Arc<CertifiedKey>>) -> Presenter {
        Presenter { certified, ..Presenter::default() }
    }

    /// Did any of the upstream's servers ever ask for a certificate?
    pub(super) fn ever_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The issuers that the first server that asked said it accepts; empty when it did not say.
    pub(super) fn accepted(&self) -> &[String] {
        self.accepted.get().map_or(&[], |issuers| issuers)
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A server with the system's roots names 150; the first few show what kind of list it is.
        let named =
            || -> Vec<String> { issuers.iter().take(8).map(|it| peer::distinguished_name(it)).collect() };
        note(|seen| {
            seen.asked = true;
            if seen.watched {
                seen.accepted = named();
                let fits = |ours: &Arc<CertifiedKey>| ours.key.choose_scheme(schemes).is_some();
                seen.presented = self.certified.as_ref().is_some_and(fits);
            }
        });
        self.asked.store(true, Ordering::Relaxed);
        self.accepted.get_or_init(|| named().into());
        // Presented even where the server does not name its issuer: lists are often incomplete, and a refusal of what
        // we have tells more than the lack of one.
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        self.certified.is_some()
    }
}
