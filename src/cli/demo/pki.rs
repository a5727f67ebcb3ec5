//! A certificate authority for one run, in a private directory that goes with it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The name that the servers' certificate carries.
pub(super) const SERVER_NAME: &str = "upstream.demo";

/// CA, server and client certificates.
pub(super) struct Pki {
    directory: PathBuf,
    /// What the servers use: it demands a certificate of the same CA.
    pub(super) server: Arc<ServerConfig>,
}

impl Pki {
    pub(super) fn make() -> Result<Pki, Box<dyn Error>> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "nuncio demo CA");
        let ca_key = KeyPair::generate()?;
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let leaf = |name: &str, usage| -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let (server, server_key) = leaf(SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client, client_key) = leaf("client.demo", ExtendedKeyUsagePurpose::ClientAuth)?;

        let mut roots = RootCertStore::empty();
        roots.add(ca_certificate.der().clone())?;
        let key = PrivateKeyDer::try_from(server_key.serialize_der())?;
        let chain: Vec<CertificateDer<'static>> = vec![server.der().clone()];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;

        let pki = Pki { directory: private_directory()?, server: Arc::new(server) };
        pki.write("ca.pem", &ca_certificate.pem())?;
        pki.write("client.pem", &client.pem())?;
        pki.write("client.key", &client_key.serialize_pem())?;
        Ok(pki)
    }

    /// Where a file of it lies.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn write(&self, file: &str, text: &str) -> std::io::Result<()> {
        let path = self.path(file);
        fs::write(&path, text)?;
        only_for_us(&path, 0o600)
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("nuncio: {} could not be removed: {error}", self.directory.display());
        }
    }
}

fn private_directory() -> std::io::Result<PathBuf> {
    let name = format!("nuncio-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let directory = std::env::temp_dir().join(name);
    // create_dir, not create_dir_all: a directory that is there already is somebody else's.
    fs::create_dir(&directory)?;
    only_for_us(&directory, 0o700)?;
    Ok(directory)
}

#[cfg(unix)]
fn only_for_us(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A user's temporary directory is private on Windows.
#[cfg(not(unix))]
fn only_for_us(_: &Path, _: u32) -> std::io::Result<()> {
    Ok(())
}
