//! What clients are shown, and what they have to show.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::super::harness::ambassador::{self, Ambassador};
use super::super::harness::pki::{By, Leaf, Valid, provider};
use super::super::harness::{Pki, Upstream, clients, config};
use super::{DOOR, behind, told};

fn file(pki: &Pki, listener: &str, server: &Upstream) -> String {
    let upstream = format!("health.kind = \"off\"\n{}", config::endpoints(&[server.address()]));
    behind(pki, &pki.client, listener, &upstream)
}

/// A client with this certificate, or none: what it says comes back, or why not.
fn echoed(pki: &Pki, client: Option<&Leaf>, to: SocketAddr) -> Result<Secured, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(pki.roots(By::Ca));
    let config = match client {
        Some(leaf) => config.with_client_auth_cert(leaf.chain(), leaf.private_key()).unwrap(),
        None => config.with_no_client_auth(),
    };
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(DOOR).unwrap()).unwrap();
    let mut stream = StreamOwned::new(tls, clients::connect(to));
    let mut answer = [0; 5];
    let asked = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer));
    asked.map(|()| stream).map_err(|error| error.to_string())
}

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Only those come in whose certificate the CA vouches for, and that carry one of the names; the others are told by an alert,
/// and the log says who it was and what would let it in.
#[test]
fn only_clients_of_the_names_come_in() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let keys = "tls = \"required\"\nidentity = \"door\"\nclient_names = [\"erp.test\", \"CRM.test\"]";
    let mut ambassador = Ambassador::start(&file(&pki, keys, &server));
    let erp = pki.issue("erp", &["erp.test"], By::Ca, Valid::Now);
    let crm = pki.issue("crm", &["other.test", "crm.TEST"], By::Ca, Valid::Now);
    for leaf in [&erp, &crm] {
        drop(echoed(&pki, Some(leaf), ambassador.listener("in")).expect("it may come"));
    }
    let records = ambassador.wait_records(2);
    assert_eq!(records[0]["client_tls"]["peer"]["san"][0], "erp.test", "{}", records[0]);
    let other = pki.issue("wiki", &["wiki.test"], By::Ca, Valid::Now);
    let foreign = pki.issue("foreign", &["erp.test"], By::Foreign, Valid::Now);
    let expired = pki.issue("expired", &["erp.test"], By::Ca, Valid::Expired);
    let mut shown = String::new();
    for (number, leaf) in [Some(&other), Some(&foreign), Some(&expired), None].into_iter().enumerate() {
        let refused = echoed(&pki, leaf, ambassador.listener("in")).unwrap_err();
        shown += &format!("{refused}\n  {}", told(&ambassador.wait_records(3 + number)[2 + number]));
    }
    let shown = shown.replace(&pki.directory().display().to_string(), "PKI");
    insta::assert_snapshot!(shown, @r#"
received fatal alert: CertificateUnknown
  refused at admit: admission_denied (client)
  the client's certificate CN=wiki.test carries wiki.test, and client_names has none of that
  add one of these names to the listener's `client_names`, if this client may come
received fatal alert: DecryptError
  refused at admit: admission_denied (client)
  the client's certificate was issued by none of the authorities in PKI/ca.pem
  give the client a certificate issued by CN=nuncio test CA, or put its issuer into that file
received fatal alert: CertificateExpired
  refused at admit: admission_denied (client)
  the client's certificate is out of date
  have it renewed, or set this host's clock right
received fatal alert: CertificateRequired
  refused at admit: admission_denied (client)
  the client showed no certificate, and this listener's client_names ask for one
  give the client a certificate for erp.test or crm.test issued by CN=nuncio test CA
"#);
    assert_eq!(server.accepted(), 2, "nobody was dialled for them");
}

/// A new certificate in the file's place is shown to who comes after the reload, while who came before stays.
#[cfg(unix)]
#[test]
fn a_reload_shows_the_new_certificate() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let door = pki.issue("door", &[DOOR], By::Ca, Valid::Now);
    let serial = |secured: &Secured| secured.conn.peer_certificates().unwrap()[0].to_vec();
    let config = file(&pki, "tls = \"required\"\nidentity = \"door\"", &server)
        .replace("server.pem", "door.pem")
        .replace("server.key", "door.key");
    let mut ambassador = Ambassador::start(&config);
    let mut before = echoed(&pki, None, ambassador.listener("in")).unwrap();
    let first = serial(&before);
    let again = pki.issue("door", &[DOOR], By::Ca, Valid::Now);
    assert_eq!(door.certificate, again.certificate, "in the file's place");
    ambassador.reloaded(&config);
    let after = echoed(&pki, None, ambassador.listener("in")).unwrap();
    assert_ne!(serial(&after), first);
    before.write_all(b"still").unwrap();
    before.read_exact(&mut [0; 5]).unwrap();
}

/// Whoever was told the fingerprint of a certificate that nuncio made itself can hold on to it over reloads.
#[cfg(unix)]
#[test]
fn a_self_made_certificate_stays_over_reloads() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let config = file(&pki, "tls = \"required\"", &server);
    let mut ambassador = Ambassador::start(&config);
    let shown = |ambassador: &Ambassador| {
        let certificate = Arc::new(Seen::default());
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(certificate.clone())
            .with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(DOOR).unwrap()).unwrap();
        let mut stream = StreamOwned::new(tls, clients::connect(ambassador.listener("in")));
        // It is turned down, as most clients would.
        stream.flush().unwrap_err();
        certificate.0.get().expect("a certificate was shown").clone()
    };
    let first = shown(&ambassador);
    ambassador.reloaded(&format!("{config}\ntimeouts.idle = \"1h\"\n"));
    assert_eq!(shown(&ambassador), first);
    ambassador.reloaded(&config.replace("tls = \"required\"", "tls = \"optional\""));
    assert_eq!(shown(&ambassador), first);
}

/// Looks at a certificate, and turns it down.
#[derive(Debug, Default)]
struct Seen(OnceLock<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.get_or_init(|| leaf.to_vec());
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// `check` loads what listeners show, and says what is not in order with it.
#[test]
fn check_says_what_a_listener_shows() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let directory = tempfile::TempDir::new().unwrap();
    let check = |config: &str| {
        let path = directory.path().join("nuncio.toml");
        std::fs::write(&path, config.replace("127.0.0.1:0", "127.0.0.1:7")).unwrap();
        ambassador::run(&["check", "--config", path.to_str().unwrap()], directory.path())
    };
    let (code, out, error) = check(&file(&pki, "tls = \"required\"\nidentity = \"door\"", &server));
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("required, from the first byte; clients are shown the certificate of door"),
        "{out}"
    );
    let (code, out, error) = check(&file(&pki, "tls = \"optional\"", &server));
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("a certificate of nuncio's own making"), "{out}");
}
