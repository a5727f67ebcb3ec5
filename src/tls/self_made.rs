//! A certificate that nobody vouches for, for a listener that was given none: made in memory, and never written anywhere.
//!
//! It hides what is said from those who listen along. Who answers it cannot prove: only a client that is told its fingerprint,
//! or looks at nothing, can take it. So it is made once for a listener and stays for as long as the process.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Of a listener without an identity.
#[derive(Debug)]
pub struct SelfMade {
    pub(super) certified: Arc<CertifiedKey>,
    fingerprint: String,
}

impl SelfMade {
    /// Makes one for the listener of this name, valid for what it may be called from this host and others.
    ///
    /// # Errors
    /// The system has no randomness to give, say.
    pub fn new(listener: &str, host: Option<&str>, addresses: &[IpAddr]) -> Result<SelfMade, String> {
        let make = || -> Result<SelfMade, String> {
            let names = ["localhost"].into_iter().chain(host.filter(|host| *host != "localhost"));
            let loopback = ["127.0.0.1", "::1"].into_iter().filter_map(|ip| ip.parse().ok());
            let mut names: Vec<SanType> =
                names.filter_map(|name| Some(SanType::DnsName(name.try_into().ok()?))).collect();
            for address in loopback.chain(addresses.iter().map(IpAddr::to_canonical)) {
                let name = SanType::IpAddress(address);
                if !address.is_unspecified() && !names.contains(&name) {
                    names.push(name);
                }
            }
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            params
                .distinguished_name
                .push(DnType::CommonName, format!("nuncio listener {listener} (self-made)"));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate().map_err(|error| error.to_string())?;
            let certificate = params.self_signed(&key).map_err(|error| error.to_string())?.der().clone();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let signing = any_supported_type(&key).map_err(|error| error.to_string())?;
            let fingerprint = fingerprint(&certificate);
            let certified = Arc::new(CertifiedKey::new(vec![certificate], signing));
            Ok(SelfMade { certified, fingerprint })
        };
        make().map_err(|why| format!("a certificate of its own could not be made: {why}; name an `identity`"))
    }

    /// SHA-256 of the certificate, as openssl prints it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    let bytes: Vec<String> =
        digest(&SHA256, certificate).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::describe_peer;

    /// Whatever a host calls itself: its listener gets its certificate, valid for the names that can be names.
    #[test]
    fn it_is_valid_for_what_the_listener_may_be_called() {
        let addresses = ["10.0.0.5", "0.0.0.0", "::ffff:127.0.0.1"].map(|ip| ip.parse().unwrap());
        let made = SelfMade::new("orders", Some("db-host"), &addresses).unwrap();
        let facts = describe_peer(&made.certified.cert[0]);
        assert_eq!(facts.san, ["localhost", "db-host", "127.0.0.1", "::1", "10.0.0.5"]);
        assert!(facts.self_signed && !facts.ca && facts.subject.contains("orders"), "{facts:?}");
        assert_eq!(made.fingerprint().len(), 32 * 3 - 1);
        for host in ["localhost", "büro", "", "a b"] {
            let made = SelfMade::new("orders", Some(host), &[]).unwrap();
            assert_ne!(made.fingerprint(), SelfMade::new("orders", None, &[]).unwrap().fingerprint());
        }
    }
}
