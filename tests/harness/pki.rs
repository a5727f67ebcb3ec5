//! A throw-away CA and what it signed, as PEM files in a directory and as rustls' own types.
//!
//! Owns what certificates the tests and the bench need: good ones, and each kind of wrong one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// The name that good server certificates carry, besides 127.0.0.1 and ::1.
pub const SERVER_NAME: &str = "upstream.test";

/// A CA, another that nobody trusts, and a directory of PEM files:
/// `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, and whatever else is asked for.
pub struct Pki {
    directory: TempDir,
    ca: Authority,
    foreign: Authority,
    /// A certificate for [`SERVER_NAME`].
    pub server: Leaf,
    /// A client's certificate.
    pub client: Leaf,
}

/// A certificate with its key.
pub struct Leaf {
    /// PEM file of the certificate.
    pub certificate: PathBuf,
    /// PEM file of the key, mode 0600.
    pub key: PathBuf,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug)]
pub enum Valid {
    /// Now.
    Now,
    /// It ended years ago.
    Expired,
    /// It begins years from now.
    NotYet,
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// The CA in `ca.pem`.
    Ca,
    /// A CA of the same name that is in no file.
    Foreign,
}

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes the authorities, one server and one client.
    pub fn generate() -> Pki {
        let directory = TempDir::with_prefix("nuncio-pki-").expect("a directory for certificates");
        let (ca, pem) = authority();
        std::fs::write(directory.path().join("ca.pem"), pem).expect("ca.pem is written");
        let (foreign, _) = authority();
        let server = leaf(directory.path(), &ca, "server", &[SERVER_NAME, "127.0.0.1", "::1"], Valid::Now);
        let client = leaf(directory.path(), &ca, "client", &["client.test"], Valid::Now);
        Pki { directory, ca, foreign, server, client }
    }

    /// The directory of the files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `ca.pem`
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Copies `ca.pem`, `server.pem` and `server.key`, for a server that runs as a user of its own.
    pub fn copy_to(&self, directory: &Path) {
        for (file, name) in [
            (&self.ca(), "ca.pem"),
            (&self.server.certificate, "server.pem"),
            (&self.server.key, "server.key"),
        ] {
            std::fs::copy(file, directory.join(name)).expect("a copy that the server may read");
        }
    }

    /// Another certificate, written as `STEM.pem` and `STEM.key`.
    pub fn issue(&self, stem: &str, names: &[&str], by: By, valid: Valid) -> Leaf {
        let authority = match by {
            By::Ca => &self.ca,
            By::Foreign => &self.foreign,
        };
        leaf(self.directory(), authority, stem, names, valid)
    }

    /// The CA's certificate, for whoever checks against it.
    pub fn roots(&self, by: By) -> Arc<RootCertStore> {
        let authority = match by {
            By::Ca => &self.ca,
            By::Foreign => &self.foreign,
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone()).expect("our own CA is a CA");
        Arc::new(roots)
    }

    /// A server that demands a client certificate of the CA.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(self.server_config_with(&self.server, By::Ca))
    }

    /// A server that asks nobody for a certificate.
    pub fn server_config_for_anyone(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(self.server.chain(), self.server.private_key())
            .expect("key and certificate belong together");
        Arc::new(config)
    }

    /// A server with `leaf` that demands a client certificate signed by `clients_by`, and does not say so in its request.
    pub fn server_config_with(&self, leaf: &Leaf, clients_by: By) -> ServerConfig {
        self.server_config_of(leaf, clients_by, rustls::DEFAULT_VERSIONS)
    }

    /// The same with these versions of TLS only.
    pub fn server_config_of(
        &self,
        leaf: &Leaf,
        clients_by: By,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(clients_by), provider())
            .clear_root_hint_subjects()
            .build()
            .expect("a verifier with one root");
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider has the default versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain(), leaf.private_key())
            .expect("key and certificate belong together")
    }

    /// A client that presents the client certificate and trusts the CA.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(self.roots(By::Ca))
            .with_client_auth_cert(self.client.chain(), self.client.private_key())
            .expect("key and certificate belong together");
        Arc::new(config)
    }
}

impl Leaf {
    /// For rustls.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der.clone()]
    }

    /// For rustls.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// A file of `tests/pki`: what no generator makes any more.
pub fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pki").join(file)
}

/// A server that shows a certificate of `tests/pki`, whatever is wrong with it, and asks for none.
pub fn serving(certificate: &str, key: &str) -> Arc<ServerConfig> {
    let provider = provider();
    let key = PrivateKeyDer::from_pem_file(fixture(key)).expect("a key");
    let key = provider.key_provider.load_private_key(key).expect("a key that can sign");
    let chain = CertificateDer::pem_file_iter(fixture(certificate)).expect("a PEM file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certified));
    Arc::new(config)
}

/// rustls' provider, named in each builder: tests do not install a default for the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authority() -> (Authority, String) {
    let mut params = params(&[], Valid::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "nuncio test CA");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a self-signed CA");
    let pem = certificate.pem();
    (Authority { certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }, pem)
}

fn leaf(directory: &Path, authority: &Authority, stem: &str, names: &[&str], valid: Valid) -> Leaf {
    let mut params = params(names, valid);
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or(stem));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key");
    let signed = params.signed_by(&key, &authority.issuer).expect("a signed certificate");
    let (certificate, key_file) =
        (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}.key")));
    std::fs::write(&certificate, signed.pem()).expect("the certificate is written");
    std::fs::write(&key_file, key.serialize_pem()).expect("the key is written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).expect("chmod 600");
    }
    Leaf { certificate, key: key_file, der: signed.der().clone(), key_der: key.serialize_der() }
}

fn params(names: &[&str], valid: Valid) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    let (from, to) = match valid {
        Valid::Now => (2020, 2090),
        Valid::Expired => (2019, 2020),
        Valid::NotYet => (2090, 2099),
    };
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    params
}
