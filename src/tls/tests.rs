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

/// Whoever shows a certificate that is not theirs is found out by the signature, pinned or not.
#[test]
fn a_server_that_shows_another_s_certificate_is_found_out() {
    run(async {
        for versions in [TLS12, TLS13] {
            for file in ["server.pem", "server-v1.pem"] {
                let key =
                    any_supported_type(&PrivateKeyDer::from_pem_file(pki("client.key")).unwrap()).unwrap();
                let certified = CertifiedKey::new(certificates(file), key);
                let thief = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_protocol_versions(versions)
                    .unwrap()
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
                let pin = Pin::of_leaf(&certificates(file)[0]);
                for settings in [
                    Settings { pins: vec![pin], ..Settings::default() },
                    Settings { danger_accept_any_certificate: true, ..Settings::default() },
                ] {
                    let failure =
                        handshake_with(&client(settings), Arc::new(thief.clone()), "upstream.test").await;
                    let text = told(failure);
                    assert!(text.contains("did not prove that it holds the key"), "{text}");
                }
            }
        }
    });
}

#[test]
fn servers_whose_certificate_is_refused_are_told_apart() {
    run(async {
        let tls = client(Settings::default());
        let mut all = Vec::new();
        for (file, to) in [
            ("server-self-signed-ca.pem", "upstream.test"),
            ("server-self-signed.pem", "upstream.test"),
            ("server-cn-only.pem", "upstream.test"),
            ("server.pem", "elsewhere.test"),
            ("server.pem", "10.0.0.5"),
        ] {
            all.push(told(handshake_with(&tls, server(file, TLS13, false), to).await));
        }
        let foreign = |ca: &str| {
            let settings = IdentitySettings { ca: Some(pki(ca)), ..IdentitySettings::default() };
            ClientTls::new(&Settings::default(), Some(&Identity::load("corp", &settings).unwrap())).unwrap()
        };
        for ca in ["other-ca.pem", "twin-ca.pem"] {
            all.push(told(
                handshake_with(&foreign(ca), server("server.pem", TLS13, false), "upstream.test").await,
            ));
        }
        insta::assert_snapshot!(all.join("\n"), @r#"
handshake: tls_certificate_error (upstream): the server's certificate CN=upstream.test is self-signed and says that it is a CA (CA:TRUE), which no server's may be; give the server a certificate of its own, with CA:FALSE and subjectAltName; or, once you are sure that it is this server's own (serial 5f:a2:f7:b4:1a:d8:b8:de:dc:80:89:31:0b:fa:1d:e9:dd:10:12:a4), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
handshake: tls_certificate_error (upstream): the server's certificate CN=upstream.test is self-signed, and not in ca.pem; once you are sure that it is this server's own (serial 50:8b:cb:eb:76:7a:4a:5a:e1:49:ec:46:ea:f8:17:ad:1b:1e:f0:34), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]; or give the server a certificate of your CA
handshake: tls_certificate_error (upstream): the server's certificate CN=upstream.test has its name only in the subject, without subjectAltName, and cannot be checked for upstream.test; give the server a certificate for upstream.test (subjectAltName); or, once you are sure that it is this server's own (serial 6e:74:f9:d3:fe:34:8e:fa:b6:d3:a0:2f:07:f8:d1:e6:79:09:7b:25), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
handshake: tls_certificate_error (upstream): the server's certificate is valid for upstream.test, *.pool.test, not for elsewhere.test; set server_name = "upstream.test" if that is the server that is meant; or give it a certificate for elsewhere.test (subjectAltName)
handshake: tls_certificate_error (upstream): the server is addressed as 10.0.0.5, and its certificate is valid for upstream.test, *.pool.test, but for no address; set server_name = "upstream.test" if that is the server that is meant; or give it a certificate for the address 10.0.0.5 (subjectAltName)
handshake: tls_certificate_error (upstream): the server's certificate CN=upstream.test was issued by CN=nuncio test CA, which is not in other-ca.pem (there is CN=another CA); add the certificate of CN=nuncio test CA to other-ca.pem if you trust it, or, if that is an intermediate, let the server send it along with its own certificate
handshake: tls_certificate_error (upstream): the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in twin-ca.pem: there are two of that name; put the newer CA certificate into twin-ca.pem, beside the old one
"#);
    });
}

/// The clock of the machine stands in these, so that no snapshot holds them.
#[test]
fn a_certificate_out_of_date_is_told_with_both_clocks() {
    run(async {
        let tls = client(Settings::default());
        let text =
            told(handshake_with(&tls, server("server-expired.pem", TLS13, false), "upstream.test").await);
        assert!(text.contains("CN=upstream.test expired at 2021-01-01T00:00:00Z, "), "{text}");
        assert!(text.contains("ago (this host's clock says 20"), "{text}");
        let text =
            told(handshake_with(&tls, server("server-not-yet.pem", TLS13, false), "upstream.test").await);
        assert!(text.contains("is valid only from 2090-01-01T00:00:00Z, in "), "{text}");
        let text = told(handshake_with(&tls, server("server-v1.pem", TLS13, false), "upstream.test").await);
        assert!(text.contains("is X.509 v1"), "{text}");
        assert!(text.contains("pins = [\"spki-sha256:"), "{text}");
    });
}

#[test]
fn a_server_that_demands_a_certificate_in_tls_1_2_says_so_within_the_handshake() {
    run(async {
        let without = client(Settings::default());
        let with_stranger =
            ClientTls::new(&Settings::default(), Some(&identity("client-stranger.pem"))).unwrap();
        let mut all = Vec::new();
        for tls in [&without, &with_stranger] {
            let result = handshake_with(tls, server("server.pem", TLS12, true), "upstream.test").await;
            let failure = result.as_ref().err().unwrap();
            assert_eq!((failure.stage, failure.reason), (Stage::Handshake, Reason::ClientCertificateRefused));
            all.push(told(result));
        }
        insta::assert_snapshot!(all.join("\n"), @r#"
handshake: client_certificate_refused (upstream): the server demands a client certificate and ended the connection with the alert certificate_required (116); none is configured; it says that it accepts certificates issued by CN=nuncio test CA; set `certificate` and `key` in the [identity] that the upstream uses
handshake: client_certificate_refused (upstream): the server refused our certificate CN=stranger, issued by CN=stranger, with the alert unknown_ca (48); it says that it accepts certificates issued by CN=nuncio test CA; add CN=stranger to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in client-stranger.pem
"#);
    });
}

#[test]
fn a_refusal_that_comes_after_the_handshake_is_still_about_our_certificate() {
    run(async {
        use rustls::AlertDescription::*;
        let tls = client(Settings::default());
        // In TLS 1.3 the handshake succeeds: the server has not looked at our certificate yet.
        handshake_with(&tls, server("server.pem", TLS13, true), "upstream.test").await.unwrap();
        for alert in [CertificateRequired, BadCertificate, UnknownCA, CertificateUnknown, AccessDenied] {
            let failure = late_failure(&How::TlsAlert(alert), false, &tls).unwrap();
            assert_eq!(
                (failure.stage, failure.reason, failure.side),
                (Stage::Handshake, Reason::ClientCertificateRefused, Side::Upstream)
            );
        }
        let text = late_failure(&How::TlsAlert(CertificateRequired), false, &tls).unwrap().to_string();
        insta::assert_snapshot!(text, @r#"
handshake: client_certificate_refused (upstream): the server demands a client certificate and ended the connection with the alert certificate_required (116); none is configured; it says that it accepts certificates issued by CN=nuncio test CA; set `certificate` and `key` in the [identity] that the upstream uses
"#);
        // A server that looks at nothing and resets, or whose alert a reset overtook.
        assert!(late_failure(&How::UpstreamReset, false, &tls).is_some());
        assert_eq!(late_failure(&How::UpstreamReset, true, &tls), None);
        assert_eq!(late_failure(&How::Closed, false, &tls), None);
        for (alert, spoke) in [(InternalError, false), (HandshakeFailure, true), (UnexpectedMessage, true)] {
            let failure = late_failure(&How::TlsAlert(alert), spoke, &tls).unwrap();
            assert_eq!(
                (failure.stage, failure.reason),
                (Stage::Relay, Reason::TlsAlertReceived),
                "{alert:?}"
            );
        }
        // With a certificate shown it is a guess, and worded as one.
        let ours = ClientTls::new(&Settings::default(), Some(&identity("client.pem"))).unwrap();
        handshake_with(&ours, server("server.pem", TLS13, true), "upstream.test").await.unwrap();
        let failure = late_failure(&How::UpstreamReset, false, &ours).unwrap();
        assert_eq!(failure.reason, Reason::EarlyClose);
        assert!(failure.next_step().contains("it may have refused our certificate CN=client"), "{failure}");
        // One that never asked cannot have missed it.
        let calm = client(Settings::default());
        handshake_with(&calm, server("server.pem", TLS13, false), "upstream.test").await.unwrap();
        assert_eq!(late_failure(&How::UpstreamReset, false, &calm), None);
        let failure = late_failure(&How::TlsAlert(HandshakeFailure), false, &calm).unwrap();
        assert_eq!(failure.reason, Reason::TlsAlertReceived);
    });
}

#[test]
fn servers_that_do_not_speak_tls_are_named() {
    run(async {
        let tls = client(Settings::default());
        let alert = |number: u8| [0x15, 3, 3, 0, 2, 2, number];
        let greeting = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf";
        let mut all = Vec::new();
        for (greets, answers) in [
            (&greeting[..], &b""[..]),
            (b"220 mail.example.com ESMTP Postfix\r\n", b""),
            (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", b""),
            (b"", b"\x01\x02\x03\x04"),
            (b"", b""),
            (b"", &alert(40)),
            (b"", &alert(70)),
            (b"", &alert(112)),
            (b"", &alert(80)),
        ] {
            all.push(told(scripted(&tls, greets, answers, false).await));
        }
        insta::assert_snapshot!(all.join("\n"), @r#"
handshake: tls_protocol_error (upstream): the server speaks plaintext where TLS was expected; this looks like MySQL: set protocol = "mysql"
handshake: tls_protocol_error (upstream): the server speaks plaintext where TLS was expected; this looks like SMTP: set protocol = "smtp"
handshake: tls_protocol_error (upstream): the server speaks plaintext HTTP and has no TLS on this port; name the port on which HTTP has TLS, or switch TLS on there; tls = "off" sends everything in plaintext
handshake: tls_protocol_error (upstream): the server speaks SSH, which has its own encryption and no TLS; is the port right? If it is, tls = "off" passes it on as it is
handshake: tls_protocol_error (upstream): the server does not answer in TLS; its first bytes are 01 02 03 04; which protocol does this port speak? If it starts TLS by a message, set `protocol` to it; else name the port that speaks TLS
handshake: connection_terminated (upstream): the server closed the connection at our first TLS message (ClientHello), without an answer; does the port speak TLS from its first byte? PostgreSQL and LDAP want a plaintext message first (protocol = "postgres", "ldap"); if it does, an old TLS library may choke on a message of 1470 bytes: set `post_quantum = false`
handshake: tls_alert_received (upstream): the server has no way of doing TLS with us (alert handshake_failure (40)): it may have only old ciphers (RSA key exchange, CBC), or no certificate for this name; give the server an ECDHE suite with AES-GCM, such as ECDHE-RSA-AES128-GCM-SHA256 (ssl_ciphers in PostgreSQL and nginx, ssl_cipher in MySQL, tls_high_cipherlist in Postfix); or set `server_name` to a name that it has a certificate for
handshake: tls_alert_received (upstream): the server has none of the TLS versions that nuncio offers, TLS 1.2 and 1.3 (alert protocol_version (70)); switch TLS 1.2 or 1.3 on at the server (ssl_protocols in nginx, ssl_max_protocol_version in PostgreSQL, tls_version in MySQL, MaxProtocol in openssl.cnf), or update its TLS library
handshake: tls_alert_received (upstream): the server has no certificate for the name it was asked for (alert unrecognized_name (112)); set `server_name` to a name that the server has a certificate for
handshake: tls_alert_received (upstream): the server ended the handshake with the alert internal_error (80); the alert's name says what the server missed; its log says more
"#);
    });
}

#[test]
fn a_server_that_stays_silent_is_told_apart_by_what_was_sent() {
    run(async {
        let silent = |settings| async move {
            let tls = client(settings);
            let result = scripted(&tls, b"", b"", true).await;
            assert_eq!(result.as_ref().err().unwrap().reason, Reason::HandshakeTimeout);
            told(result)
        };
        let large = silent(Settings::default()).await;
        let small = silent(Settings { post_quantum: false, ..Settings::default() }).await;
        assert!(large.contains("post_quantum = false"), "{large}");
        assert!(!small.contains("post_quantum"), "{small}");
        assert!(small.contains("protocol = \"postgres\""), "{small}");
        // Half a TLS record and no more.
        let stalled = scripted(&client(Settings::default()), b"", b"\x16\x03\x03\0\x7a\x02", true).await;
        assert!(told(stalled).contains("began the TLS handshake and did not finish it within 50ms"));
    });
}

#[test]
fn the_name_comes_from_the_endpoint_then_the_upstream_then_the_address() {
    let spec = |address: &str, server_name: Option<&str>| EndpointSpec {
        address: address.parse().unwrap(),
        weight: 1,
        backup: false,
        server_name: server_name.map(Into::into),
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
    assert_eq!((failure.side, failure.reason.breaker_class()), (Side::Ambassador, None));
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

mod openssl {
    //! Old servers, played by `openssl s_server`.

    use std::process::{Child, Command, Stdio};

    use tokio::net::TcpStream;

    use super::*;

    struct Server(Child, u16);

    impl Drop for Server {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// A free port is found by binding it first: s_server cannot say which one it took.
    async fn serve(certificate: &str, key: &str, options: &[&str]) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
            .arg(pki(certificate))
            .arg("-key")
            .arg(pki(key))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let server = Server(child, port);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    async fn told_by(tls: &ClientTls, server: &Server) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.1)).await.unwrap();
        told(tls.handshake(&mut stream, AT, name("upstream.test"), LIMIT).await)
    }

    #[test]
    #[ignore = "needs openssl"]
    fn servers_that_are_too_old_are_told_which_setting_to_change() {
        run(async {
            let tls = client(Settings::default());
            for (certificate, key, options, says) in [
                (
                    "server-v1-rsa.pem",
                    "server-rsa.key",
                    &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"][..],
                    "ECDHE-RSA-AES128-GCM-SHA256",
                ),
                (
                    "server-v1-rsa.pem",
                    "server-rsa.key",
                    &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                    "switch TLS 1.2 or 1.3 on",
                ),
                (
                    "server-v1-rsa.pem",
                    "server-rsa.key",
                    &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
                    "switch TLS 1.2 or 1.3 on",
                ),
                (
                    "server-weak.pem",
                    "server-weak.key",
                    &["-cipher", "ALL:@SECLEVEL=0"],
                    "RSA with 2048 bits or more",
                ),
                (
                    "server-weak.pem",
                    "server-weak.key",
                    &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0"],
                    "RSA with 2048 bits or more",
                ),
            ] {
                let server = serve(certificate, key, options).await;
                let text = told_by(&tls, &server).await;
                assert!(text.contains(says), "{options:?}: {text}");
            }
            let newer = client(Settings { min_version: Version::Tls13, ..Settings::default() });
            let server = serve("server.pem", "server.key", &["-tls1_2"]).await;
            let text = told_by(&newer, &server).await;
            assert!(text.contains("tls_min = \"1.2\""), "{text}");
        });
    }

    #[test]
    #[ignore = "needs openssl"]
    fn a_server_that_demands_a_certificate_says_whose_it_takes() {
        run(async {
            let ca = pki("ca.pem");
            let options =
                ["-tls1_2", "-Verify", "1", "-verify_return_error", "-CAfile", ca.to_str().unwrap()];
            let server = serve("server.pem", "server.key", &options).await;
            let text = told_by(&client(Settings::default()), &server).await;
            assert!(text.contains("client_certificate_refused"), "{text}");
            assert!(text.contains("accepts certificates issued by CN=nuncio test CA"), "{text}");
            let stranger =
                ClientTls::new(&Settings::default(), Some(&identity("client-stranger.pem"))).unwrap();
            let text = told_by(&stranger, &server).await;
            assert!(text.contains("refused our certificate CN=stranger"), "{text}");
        });
    }
}
