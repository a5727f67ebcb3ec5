//! Handshakes of `ClientTls` against servers in this process: those that are in order, and each that is not, with the
//! sentence that it gets. What no server in this process can play (TLS 1.1, RSA key exchange) is played by openssl.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::{self, sign::any_supported_type};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::relay::How;
use crate::upstream::EndpointSpec;

mod openssl;
mod refused;

/// Where a server is, in so far as it matters.
const AT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));
const LIMIT: Duration = Duration::from_secs(20);
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn pki(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pki").join(file)
}

fn certificates(file: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(pki(file)).unwrap().map(Result::unwrap).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A server with this certificate, whatever may be wrong with it.
fn server(
    certificate: &str,
    versions: &[&'static SupportedProtocolVersion],
    demands: bool,
) -> Arc<ServerConfig> {
    let key_file = match certificate {
        "server-v1-rsa.pem" => "server-rsa.key",
        _ => "server.key",
    };
    let key = any_supported_type(&PrivateKeyDer::from_pem_file(pki(key_file)).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = match demands {
        true => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("ca.pem"));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        false => builder.with_no_client_auth(),
    };
    let certified = CertifiedKey::new(certificates(certificate), key);
    Arc::new(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
}

fn identity(certificate: &str) -> Identity {
    let key = match certificate {
        "client-stranger.pem" => "client-stranger.key",
        _ => "client.key",
    };
    let file = |name: &str| (!name.is_empty()).then(|| pki(name));
    let settings = IdentitySettings {
        ca: Some(pki("ca.pem")),
        certificate: file(certificate),
        key: file(certificate).map(|_| pki(key)),
        strict_permissions: false,
        shown_to: ShownTo::Servers,
    };
    Identity::load_at("corp", &settings, UNIX_EPOCH + Duration::from_secs(1_893_456_000)).unwrap()
}

fn client(settings: Settings) -> ClientTls {
    ClientTls::new(&settings, Some(&identity(""))).unwrap()
}

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

/// One handshake; the server is kept until the client is done.
async fn handshake_with(tls: &ClientTls, server: Arc<ServerConfig>, to: &str) -> Result<Secured, Failure> {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let accepting = tokio::spawn(async move {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        std::io::Result::Ok(stream)
    });
    let result = tls.handshake(&mut near, AT, name(to), LIMIT).await;
    drop(near);
    // Its own view of the failure is not what is tested here.
    match accepting.await.unwrap() {
        Ok(_) | Err(_) => {}
    }
    result
}

/// A handshake and an orderly end, by which the tickets have come; was a session resumed?
async fn resumes(tls: &ClientTls, server: Arc<ServerConfig>, at: SocketAddr) -> bool {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let accepting = tokio::spawn(async move {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        stream.shutdown().await
    });
    let secured = tls.handshake(&mut near, at, name("upstream.test"), LIMIT).await.unwrap();
    let resumed = secured.summary.resumed;
    assert_eq!(secured.carried.close(&mut near).await, How::Closed);
    accepting.await.unwrap().unwrap();
    resumed
}

/// The failure as it is logged, with the directory of the fixtures left out.
fn told(result: Result<Secured, Failure>) -> String {
    let text = result.map(|secured| secured.summary).expect_err("the handshake went through").to_string();
    text.replace(&format!("{}/", pki("").display().to_string().trim_end_matches('/')), "")
}

/// A server that sends these bytes, at once or after the ClientHello, and then closes or stays.
async fn scripted(tls: &ClientTls, greets: &[u8], answers: &[u8], stays: bool) -> Result<Secured, Failure> {
    let (mut near, mut far) = tokio::io::duplex(64 << 10);
    let (greets, answers) = (greets.to_vec(), answers.to_vec());
    let server = tokio::spawn(async move {
        far.write_all(&greets).await?;
        let mut header = [0; 5];
        far.read_exact(&mut header).await?;
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        far.read_exact(&mut hello).await?;
        far.write_all(&answers).await?;
        std::io::Result::<Option<DuplexStream>>::Ok(stays.then_some(far))
    });
    let limit = if stays { Duration::from_millis(50) } else { LIMIT };
    let result = tls.handshake(&mut near, AT, name("upstream.test"), limit).await;
    server.await.unwrap().unwrap();
    result
}

#[test]
fn servers_of_one_name_that_share_no_ticket_keys_do_not_spend_each_others_tickets() {
    run(async {
        for versions in [TLS12, TLS13] {
            let servers =
                [1, 2].map(|port| (server("server.pem", versions, false), SocketAddr::new(AT.ip(), port)));
            let tls = client(Settings::default());
            for round in 0..4 {
                for (server, at) in &servers {
                    assert_eq!(resumes(&tls, server.clone(), *at).await, round > 0, "{at} in round {round}");
                }
            }
        }
    });
}

#[test]
fn addresses_that_come_and_go_do_not_pile_up_sessions() {
    run(async {
        let (tls, server) = (client(Settings::default()), server("server.pem", TLS13, false));
        for port in 1..=300 {
            resumes(&tls, server.clone(), SocketAddr::new(AT.ip(), port)).await;
        }
        assert_eq!(tls.addresses_known(), 256);
    });
}

#[test]
fn a_server_in_order_is_taken_and_described() {
    run(async {
        for (versions, version) in [(TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")] {
            let tls = ClientTls::new(&Settings::default(), Some(&identity("client.pem"))).unwrap();
            for (round, to) in ["upstream.test", "a.pool.test"].into_iter().enumerate() {
                let server = server("server.pem", versions, true);
                let summary =
                    handshake_with(&tls, server, to).await.unwrap_or_else(|it| panic!("{it}")).summary;
                assert!(
                    summary.version.replace('_', ".").ends_with(&version[4..]),
                    "{round}: {}",
                    summary.version
                );
                assert!(!summary.resumed);
            }
        }
        let facts = describe_peer(&certificates("server.pem")[0]);
        assert_eq!(
            (facts.subject.as_str(), facts.issuer.as_str(), facts.san.join(" ").as_str(), facts.key.as_str()),
            ("CN=upstream.test", "CN=nuncio test CA", "upstream.test *.pool.test", "EC 256")
        );
        assert_eq!(facts.not_after.to_string(), "2099-01-01T00:00:00Z");
    });
}

/// Reactors take only futures that may move between threads.
#[test]
fn a_handshake_may_be_spawned_on_another_thread() {
    fn may_move<T: Send>(_: T) {}
    let tls = client(Settings::default());
    let (mut near, _far) = tokio::io::duplex(1);
    may_move(tls.handshake(&mut near, AT, name("upstream.test"), LIMIT));
}

#[test]
fn a_session_is_resumed_within_one_configuration_and_never_across_two() {
    run(async {
        let server = server("server.pem", TLS12, false);
        let tls = client(Settings::default());
        assert!(!handshake_with(&tls, server.clone(), "upstream.test").await.unwrap().summary.resumed);
        assert!(handshake_with(&tls, server.clone(), "upstream.test").await.unwrap().summary.resumed);
        let other = client(Settings::default());
        assert!(!handshake_with(&other, server, "upstream.test").await.unwrap().summary.resumed);
    });
}

#[test]
fn post_quantum_is_offered_first_unless_switched_off() {
    run(async {
        for (post_quantum, group) in [(true, "X25519MLKEM768"), (false, "X25519")] {
            let tls = client(Settings { post_quantum, ..Settings::default() });
            let summary = handshake_with(&tls, server("server.pem", TLS13, false), "upstream.test")
                .await
                .unwrap()
                .summary;
            assert_eq!(summary.group, Some(group));
        }
    });
}

#[test]
fn a_pin_takes_the_legacy_certificates_that_a_chain_cannot_and_nothing_else() {
    run(async {
        for file in [
            "server-self-signed-ca.pem",
            "server-self-signed.pem",
            "server-cn-only.pem",
            "server-v1.pem",
            "server-v1-rsa.pem",
            "server-expired.pem",
        ] {
            let leaf = certificates(file).remove(0);
            for versions in [TLS12, TLS13] {
                for pin in [Pin::of_key(&leaf).unwrap(), Pin::of_leaf(&leaf)] {
                    let tls = client(Settings { pins: vec![pin.clone()], ..Settings::default() });
                    let result = handshake_with(&tls, server(file, versions, false), "elsewhere.test").await;
                    assert!(result.is_ok(), "{file} by {pin}: {}", result.err().unwrap());
                }
                let tls = client(Settings { danger_accept_any_certificate: true, ..Settings::default() });
                assert!(
                    handshake_with(&tls, server(file, versions, false), "elsewhere.test").await.is_ok(),
                    "{file}"
                );
                let tls = client(Settings { pins: vec![Pin::Spki([7; 32])], ..Settings::default() });
                let failure =
                    handshake_with(&tls, server(file, versions, false), "upstream.test").await.err().unwrap();
                assert_eq!(failure.reason, Reason::TlsCertificateError, "{file}");
                let pin = Pin::of_key(&leaf).unwrap();
                assert!(failure.next_step().contains(&format!("pins = [\"{pin}\"]")), "{failure}");
            }
        }
    });
}

#[test]
fn the_name_comes_from_the_endpoint_then_the_upstream_then_the_address() {
    let spec = |address: &str, server_name: Option<&str>| EndpointSpec {
        server_name: server_name.map(Into::into),
        ..EndpointSpec::new(address.parse().unwrap())
    };
    let plain = client(Settings::default());
    let named = client(Settings { server_name: Some("db.example.".into()), ..Settings::default() });
    for (tls, spec, expected) in [
        (&plain, spec("upstream.test:1", None), "upstream.test"),
        (&plain, spec("10.0.0.5:1", None), "10.0.0.5"),
        (&plain, spec("[::1]:1", None), "::1"),
        (&named, spec("10.0.0.5:1", None), "db.example"),
        (&named, spec("10.0.0.5:1", Some("a.example")), "a.example"),
    ] {
        assert_eq!(tls.name_for(&spec).unwrap().to_str(), expected);
    }
    let failure = plain.name_for(&spec("10.0.0.5:1", Some("no name"))).unwrap_err();
    assert_eq!((failure.reason, failure.side), (Reason::ProxyConfigurationError, Side::Ambassador));
}

#[test]
fn our_own_certificate_is_looked_at_by_the_clock_of_each_dial() {
    let tls = ClientTls::new(&Settings::default(), Some(&identity("client.pem"))).unwrap();
    let at = |seconds| tls.ready(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(1_893_456_000), Ok(()));
    let failure = at(4_102_444_800).unwrap_err();
    assert!(failure.to_string().contains("expired at 2099-01-01T00:00:00Z"), "{failure}");
    assert_eq!((failure.side, failure.breaker_class()), (Side::Ambassador, None));
    assert!(at(0).unwrap_err().to_string().contains("clock"));
    assert_eq!(client(Settings::default()).ready(SystemTime::now()), Ok(()));
}

#[test]
fn settings_that_cannot_work_are_all_told() {
    let settings = Settings {
        min_version: Version::Tls13,
        max_version: Version::Tls12,
        alpn: vec![String::new()],
        server_name: Some("no name".into()),
        ..Settings::default()
    };
    let problems = ClientTls::new(&settings, Some(&identity(""))).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}
