//! Handshakes that fail, each with the sentence that it gets.

use super::*;

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
        // It has a CA of that name, only not ours.
        let ours = ClientTls::new(&Settings::default(), Some(&identity("client.pem"))).unwrap();
        handshake_with(&ours, server("server.pem", TLS13, true), "upstream.test").await.unwrap();
        let failure = late_failure(&How::TlsAlert(UnknownCA), false, &ours).unwrap();
        assert!(failure.next_step().starts_with("the server's CA file has another CN=nuncio test CA, "));
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
handshake: connection_terminated (upstream): the server closed the connection at our first TLS message (ClientHello), without an answer; does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old TLS library may choke on a message of 1470 bytes: set `post_quantum = false`
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
