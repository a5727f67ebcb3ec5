//! `check` and `probe` against servers and files that are broken, each in one way: cause, side and mend are right.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::harness::ambassador::run;
use super::harness::pki::{fixture, serving};
use super::harness::servers::Server;
use super::harness::wording::redacted;
use super::harness::{Hostile, Pki, Upstream, free_address};

/// What a configuration says of one upstream.
#[derive(Clone)]
struct Case {
    address: String,
    ca: PathBuf,
    ours: Option<(PathBuf, PathBuf)>,
    /// More keys of the upstream.
    keys: &'static str,
}

impl Case {
    /// Checked against `tests/pki/ca.pem` by the name upstream.test; nothing is shown.
    fn new(address: SocketAddr) -> Case {
        Case {
            address: address.to_string(),
            ca: fixture("ca.pem"),
            ours: None,
            keys: "server_name = \"upstream.test\"",
        }
    }

    /// Checked against the CA of `pki`, whose client certificate is shown.
    fn of(pki: &Pki, address: SocketAddr) -> Case {
        let ours = Some((pki.client.certificate.clone(), pki.client.key.clone()));
        Case { ca: pki.ca(), ours, ..Case::new(address) }
    }

    fn file(&self) -> (TempDir, String) {
        let directory = TempDir::with_prefix("nuncio-probe-").unwrap();
        let path = |path: &Path| Value::from(path.display().to_string()).to_string();
        let ours = self
            .ours
            .as_ref()
            .map(|(certificate, key)| format!("certificate = {}\nkey = {}\n", path(certificate), path(key)));
        let text = format!(
            "[listener.orders]\naddress = \"127.0.0.1:0\"\nupstream = \"orders\"\n\
             [identity.corp]\nca = {}\n{}\
             [upstream.orders]\nendpoints = [\"{}\"]\nidentity = \"corp\"\n{}\n",
            path(&self.ca),
            ours.unwrap_or_default(),
            self.address,
            self.keys,
        );
        std::fs::write(directory.path().join("nuncio.toml"), text).unwrap();
        (directory, "nuncio.toml".to_owned())
    }

    /// What `nuncio probe` prints, without what differs from run to run.
    fn probed(&self) -> String {
        let (directory, file) = self.file();
        let (code, out, err) = run(&["probe", "orders", "--config", &file], directory.path());
        assert_eq!(err, "");
        format!("{}\nexit code {}", self.redacted(&out), code.unwrap())
    }

    /// The end of it, which says what is wrong. `check --online` must say the same.
    fn verdict(&self) -> String {
        let probed = self.probed();
        let (_, verdict) = probed.split_once("  verdict ").unwrap_or_else(|| panic!("{probed}"));
        let (directory, file) = self.file();
        let (code, out, err) = run(&["check", "--online", "--config", &file], directory.path());
        let checked = self.redacted(&out);
        let told = verdict.rsplit_once("\nexit code ").unwrap().0;
        assert!(checked.contains(told), "{verdict}\n--- and check says\n{checked}{err}");
        assert_eq!(format!("exit code {}", code.unwrap()), verdict.lines().last().unwrap());
        format!("  verdict {verdict}")
    }

    fn json(&self) -> Value {
        let (directory, file) = self.file();
        let (_, out, _) = run(&["probe", "--json", "--config", &file], directory.path());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    fn redacted(&self, text: &str) -> String {
        let files = fixture("").display().to_string();
        let ca = self.ca.parent().unwrap().display().to_string();
        let text = text.replace(&self.address, "SERVER").replace(&format!("{ca}/"), "");
        redacted(&text.replace(&format!("{}/", files.trim_end_matches('/')), ""))
    }
}

fn showing(certificate: &str) -> Upstream {
    let key = if certificate == "server-v1-rsa.pem" { "server-rsa.key" } else { "server.key" };
    Upstream::with(serving(certificate, key), Duration::ZERO)
}

/// A good server, seen from end to end.
#[test]
fn a_server_in_order_is_shown_whole() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    insta::assert_snapshot!(without_hashes(&Case::of(&pki, server.address()).probed()), @r#"
upstream orders at SERVER
  server name  upstream.test
  connect      N ms  SERVER
  handshake    N ms
  tls          TLSv1.3, TLS13_AES_256_GCM_SHA384, X25519MLKEM768
  our side     the server asked for a client certificate; it was shown CN=client.test, issued by CN=nuncio test CA, valid from 2020-01-01T00:00:00Z until 2090-01-01T00:00:00Z (in N years)
  certificate  1 of 1, the server's own, as the server sent it
    subject    CN=upstream.test
    names      upstream.test, 127.0.0.1, ::1
    issuer     CN=nuncio test CA
    valid      from 2020-01-01T00:00:00Z until 2090-01-01T00:00:00Z (in N years)
    key        EC 256
    serial     SERIAL
  pins         spki-sha256:HASH
               leaf-sha256:HASH
  verdict      fine: the server's certificate is trusted, and ours was taken
exit code 0
"#);
}

/// Serials and pins of certificates that are made anew in each run.
fn without_hashes(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("-sha256:") {
        Some(at) => line[..at].to_owned() + "-sha256:HASH",
        None if line.starts_with("    serial") => "    serial     SERIAL".to_owned(),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The chain is shown although it was refused, with both pins, and what was asked of us.
#[test]
fn a_server_of_an_unknown_ca_is_shown_whole_too() {
    let server = showing("server.pem");
    let case = Case { ca: fixture("other-ca.pem"), ..Case::new(server.address()) };
    insta::assert_snapshot!(case.probed(), @r#"
upstream orders at SERVER
  server name  upstream.test
  connect      N ms  SERVER
  handshake    N ms
  our side     the server did not ask for a client certificate
  certificate  1 of 1, the server's own, as the server sent it
    subject    CN=upstream.test
    names      upstream.test, *.pool.test
    issuer     CN=nuncio test CA
    valid      from 2020-01-01T00:00:00Z until 2099-01-01T00:00:00Z (in N years)
    key        EC 256
    serial     40:7e:e9:eb:57:7b:df:f7:dd:99:3e:90:93:5a:7c:cc:9a:55:ea:e4
  pins         spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg=
               leaf-sha256:hW/vOqQojSYi7EX0J+t/znOcOZnshDisaxfDFW0dcJI=
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test was issued by CN=nuncio test CA, which is not in other-ca.pem (there is CN=another CA)
  side         upstream (the server, or the way to it)
  mend         add the certificate of CN=nuncio test CA to other-ca.pem if you trust it, or, if that is an intermediate, let the server send it along with its own certificate
exit code 4
"#);
}

#[test]
fn a_certificate_of_a_ca_that_is_not_ours_is_told_whose_it_is() {
    let server = showing("server.pem");
    let case = Case { ca: fixture("other-ca.pem"), ..Case::new(server.address()) };
    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test was issued by CN=nuncio test CA, which is not in other-ca.pem (there is CN=another CA)
  side         upstream (the server, or the way to it)
  mend         add the certificate of CN=nuncio test CA to other-ca.pem if you trust it, or, if that is an intermediate, let the server send it along with its own certificate
exit code 4
"#);
}

#[test]
fn a_certificate_with_another_name_is_told_which_names_it_has() {
    let server = showing("server.pem");
    let case = Case { keys: "server_name = \"db.corp.example\"", ..Case::new(server.address()) };
    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate is valid for upstream.test, *.pool.test, not for db.corp.example
  side         upstream (the server, or the way to it)
  mend         set server_name = "upstream.test" if that is the server that is meant; or give it a certificate for db.corp.example (subjectAltName)
exit code 4
"#);
}

#[test]
fn an_expired_certificate_is_told_with_its_date_and_our_clock() {
    let server = showing("server-expired.pem");
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test expired at 2021-01-01T00:00:00Z, N years ago (this host's clock says NOW)
  side         upstream (the server, or the way to it)
  mend         have it renewed at the server, and the server reloaded; or set this host's clock right
exit code 4
"#);
}

#[test]
fn a_certificate_that_is_not_yet_valid_asks_for_the_clock() {
    let server = showing("server-not-yet.pem");
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test is valid only from 2090-01-01T00:00:00Z, in N years (this host's clock says NOW)
  side         upstream (the server, or the way to it)
  mend         set this host's clock right; if it is, the server was given its certificate too early
exit code 4
"#);
}

#[test]
fn a_self_signed_leaf_that_says_it_is_a_ca_gets_its_pin() {
    let server = showing("server-self-signed-ca.pem");
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test is self-signed and says that it is a CA (CA:TRUE), which no server's may be
  side         upstream (the server, or the way to it)
  mend         give the server a certificate of its own, with CA:FALSE and subjectAltName; or, once you are sure that it is this server's own (serial 5f:a2:f7:b4:1a:d8:b8:de:dc:80:89:31:0b:fa:1d:e9:dd:10:12:a4), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
exit code 4
"#);
}

#[test]
fn a_name_in_the_subject_only_gets_its_pin() {
    let server = showing("server-cn-only.pem");
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test has its name only in the subject, without subjectAltName, and cannot be checked for upstream.test
  side         upstream (the server, or the way to it)
  mend         give the server a certificate for upstream.test (subjectAltName); or, once you are sure that it is this server's own (serial 6e:74:f9:d3:fe:34:8e:fa:b6:d3:a0:2f:07:f8:d1:e6:79:09:7b:25), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
exit code 4
"#);
}

#[test]
fn an_x_509_v1_certificate_gets_its_pin() {
    let server = showing("server-v1-rsa.pem");
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server's certificate CN=upstream.test is X.509 v1, which has no names that could be checked
  side         upstream (the server, or the way to it)
  mend         give the server a certificate with subjectAltName (any tool of this century makes X.509 v3); or, once you are sure that it is this server's own (serial 38:ee:61:18:d8:bf:40:c2:9b:45:b5:96:d0:2b:54:ee:e0:03:c0:a1), pin its key: pins = ["spki-sha256:/fNycGwXKmPjZTu/cXJlOEGGvqaZPi5T3mua+9u/8yU="]
exit code 4
"#);
}

#[test]
fn an_address_that_the_certificate_does_not_carry_is_told_the_name_to_set() {
    let server = showing("server.pem");
    let case = Case { keys: "", ..Case::new(server.address()) };
    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: tls_certificate_error
  cause        the server is addressed as 127.0.0.1, and its certificate is valid for upstream.test, *.pool.test, but for no address
  side         upstream (the server, or the way to it)
  mend         set server_name = "upstream.test" if that is the server that is meant; or give it a certificate for the address 127.0.0.1 (subjectAltName)
exit code 4
"#);
}

#[test]
#[ignore = "needs openssl: tests/run installs it"]
fn a_server_with_rsa_key_exchange_only_is_told_which_ciphers_to_allow() {
    let server = Server::openssl_with(
        "server-v1-rsa.pem",
        "server-rsa.key",
        &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"],
    );
    insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_alert_received
  cause        the server has no way of doing TLS with us (alert handshake_failure (40)): it may have only old ciphers (RSA key exchange, CBC), or no certificate for this name
  side         upstream (the server, or the way to it)
  mend         give the server an ECDHE suite with AES-GCM, such as ECDHE-RSA-AES128-GCM-SHA256 (ssl_ciphers in PostgreSQL and nginx, ssl_cipher in MySQL, tls_high_cipherlist in Postfix); or set `server_name` to a name that it has a certificate for
exit code 4
"#);
}

#[test]
#[ignore = "needs openssl: tests/run installs it"]
fn servers_with_tls_1_0_or_1_1_only_are_told_which_versions_to_allow() {
    for version in ["-tls1", "-tls1_1"] {
        let options = [version, "-cipher", "ALL:@SECLEVEL=0"];
        let server = Server::openssl_with("server-v1-rsa.pem", "server-rsa.key", &options);
        insta::allow_duplicates! {
            insta::assert_snapshot!(Case::new(server.address()).verdict(), @r#"
  verdict      failed at handshake: tls_alert_received
  cause        the server has none of the TLS versions that nuncio offers, TLS 1.2 and 1.3 (alert protocol_version (70))
  side         upstream (the server, or the way to it)
  mend         switch TLS 1.2 or 1.3 on at the server (ssl_protocols in nginx, ssl_max_protocol_version in PostgreSQL, tls_version in MySQL, MaxProtocol in openssl.cnf), or update its TLS library
exit code 4
"#);
        }
    }
}

/// TLS 1.3 says so only after the handshake.
#[test]
fn a_server_that_refuses_our_certificate_late_is_found_out() {
    let pki = Pki::generate();
    let server = Hostile::LateClientCertAlert.start(&pki);
    insta::assert_snapshot!(Case::of(&pki, server.address()).verdict(), @r#"
  verdict      failed at handshake: client_certificate_refused
  cause        the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert decrypt_error (51)
  side         upstream (the server, or the way to it)
  mend         a signature did not hold: has the server another CN=nuncio test CA in its CA file, an older or a newer one? Put the one that issued our certificate there
exit code 4
"#);
}

#[test]
fn a_server_that_demands_a_certificate_where_we_have_none_says_so() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let case = Case { ours: None, ..Case::of(&pki, server.address()) };
    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: client_certificate_refused
  cause        the server demands a client certificate and ended the connection with the alert certificate_required (116); none is configured
  side         upstream (the server, or the way to it)
  mend         set `certificate` and `key` in the [identity] that the upstream uses
exit code 4
"#);
    let seen = &case.json()["endpoints"][0];
    assert_eq!(seen["client_certificate"]["asked"], true, "{seen}");
    assert_eq!(seen["client_certificate"]["presented"], Value::Null, "{seen}");
}

#[test]
fn servers_without_tls_are_named_by_what_they_say() {
    let pki = Pki::generate();
    let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf".to_vec();
    let smtp = b"220 mail.example.com ESMTP Postfix\r\n".to_vec();
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    let told = [mysql, smtp, http].map(|greeting| {
        let server = Hostile::PlaintextGreeting(greeting).start(&pki);
        Case::new(server.address()).verdict()
    });
    insta::assert_snapshot!(told.join("\n"), @r#"
  verdict      failed at handshake: tls_protocol_error
  cause        the server speaks plaintext where TLS was expected
  side         upstream (the server, or the way to it)
  mend         this looks like MySQL: set protocol = "mysql"
exit code 4
  verdict      failed at handshake: tls_protocol_error
  cause        the server speaks plaintext where TLS was expected
  side         upstream (the server, or the way to it)
  mend         this looks like SMTP: set protocol = "smtp"
exit code 4
  verdict      failed at handshake: tls_protocol_error
  cause        the server speaks plaintext HTTP and has no TLS on this port
  side         upstream (the server, or the way to it)
  mend         name the port on which HTTP has TLS, or switch TLS on there; tls = "off" sends everything in plaintext
exit code 4
"#);
}

#[test]
fn where_nothing_listens_the_port_is_asked_for() {
    insta::assert_snapshot!(Case::new(free_address()).verdict(), @r#"
  verdict      failed at connect: connection_refused
  cause        SERVER refused the connection
  side         upstream (the server, or the way to it)
  mend         is the server running, and does it listen on this address and port?
exit code 4
"#);
}

#[test]
fn a_silent_server_is_told_what_it_may_be_waiting_for() {
    let server = Hostile::NeverAnswers.start(&Pki::generate());
    let keys = "server_name = \"upstream.test\"\ntimeouts.handshake = \"300ms\"";
    insta::assert_snapshot!(Case { keys, ..Case::new(server.address()) }.verdict(), @r#"
  verdict      failed at handshake: handshake_timeout
  cause        the server took the connection and did not answer our first TLS message (ClientHello, N bytes) within 300ms
  side         upstream (the server, or the way to it)
  mend         does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old firewall or server may drop a message of more than one packet: set `post_quantum = false`
exit code 4
"#);
}

#[test]
fn a_server_that_hangs_up_after_the_handshake_is_not_fine() {
    let pki = Pki::generate();
    let server = Hostile::ClosesAfterHandshake.start(&pki);
    insta::assert_snapshot!(Case::of(&pki, server.address()).verdict(), @r#"
  verdict      failed at handshake: early_close
  cause        the server closed the connection right after the handshake, before anybody had said a thing
  side         upstream (the server, or the way to it)
  mend         look in the server's log for why it hung up: may CN=client.test come in, and from this host?
exit code 4
"#);
}

/// Each pin that was printed for a server that no CA vouches for, pasted, takes that server and no other.
#[test]
fn a_printed_pin_works_when_it_is_pasted() {
    let other = showing("server-v1-rsa.pem").address().to_string();
    let directory = TempDir::new().unwrap();
    for certificate in
        ["server-self-signed-ca.pem", "server-cn-only.pem", "server-v1.pem", "server-expired.pem"]
    {
        let server = showing(certificate);
        let address = server.address().to_string();
        let (code, out, _) = run(&["probe", &address, "--json"], directory.path());
        assert_eq!(code, Some(4), "{certificate}: {out}");
        let seen: Value = serde_json::from_str(&out).unwrap();
        let pins = seen["endpoints"][0]["pins"].as_array().unwrap();
        assert_eq!(pins.len(), 2);
        for pin in pins {
            let pin = pin.as_str().unwrap();
            let (code, out, err) = run(&["probe", &address, "--pin", pin], directory.path());
            assert_eq!(code, Some(0), "{certificate} by {pin}: {out}{err}");
            assert!(
                out.contains("verdict      fine: the server has the key or certificate that is pinned"),
                "{out}"
            );
            assert_eq!(run(&["probe", &other, "--pin", pin], directory.path()).0, Some(4));
            let file = format!(
                "[listener.a]\naddress = \"127.0.0.1:0\"\nupstream = {{ endpoints = [\"{address}\"], pins = [\"{pin}\"] }}"
            );
            std::fs::write(directory.path().join("a.toml"), file).unwrap();
            let (code, out, err) = run(&["check", "--online", "--config", "a.toml"], directory.path());
            assert_eq!(code, Some(0), "{certificate} by {pin}: {out}{err}");
        }
    }
}

/// A second endpoint of the same name would resume the first one's session, and have no certificate to show.
#[test]
fn every_endpoint_shows_its_own_certificate() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let one = server.address();
    let case = Case { address: format!("{one}\", \"localhost:{}", one.port()), ..Case::of(&pki, one) };
    let seen = case.json();
    assert_eq!(seen["fine"], true, "{seen}");
    for endpoint in seen["endpoints"].as_array().unwrap() {
        assert_eq!(endpoint["chain"][0]["subject"], "CN=upstream.test", "{endpoint}");
    }
}

/// Ten silent endpoints take as long as one.
#[test]
fn check_dials_all_endpoints_at_a_time() {
    let pki = Pki::generate();
    let servers: Vec<_> = (0..10).map(|_| Hostile::NeverAnswers.start(&pki)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let keys = "server_name = \"upstream.test\"\ntimeouts.handshake = \"1s\"";
    let case = Case { address: addresses.join("\", \""), keys, ..Case::new(servers[0].address()) };
    let (directory, file) = case.file();
    let begun = std::time::Instant::now();
    let (code, out, _) = run(&["check", "--online", "--config", &file], directory.path());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(code, Some(4));
    assert!(out.trim_end().ends_with("10 of 10 endpoints failed)"), "{out}");
}

/// Files that an identity cannot be made of, each with the command that makes a good one of it.
#[test]
fn files_that_are_not_what_they_should_be_are_refused_with_their_mend() {
    let nobody = free_address();
    let told = [
        ("nowhere.pem", "client.key"),
        ("client.pem", "server.key"),
        ("client.pem", "client.encrypted.key"),
        ("client.der", "client.key"),
        ("client.pem", "client.key.der"),
    ]
    .map(|(certificate, key)| {
        let ours = Some((fixture(certificate), fixture(key)));
        let case = Case { ours, ..Case::new(nobody) };
        let (directory, file) = case.file();
        let checked = run(&["check", "--config", &file], directory.path());
        let probed = run(&["probe", "orders", "--config", &file], directory.path());
        assert_eq!((checked.0, probed.0), (Some(3), Some(3)), "{checked:?} {probed:?}");
        assert!(checked.2.starts_with(&probed.2), "{checked:?} {probed:?}");
        case.redacted(&checked.2)
    });
    insta::assert_snapshot!(told.join("\n"), @r#"
nuncio: identity.corp: certificate nowhere.pem: there is no such file; put it there, or correct the path
nuncio.toml: refused, 1 problem
nuncio: identity.corp: certificate client.pem (CN=client) and key server.key do not belong together; name the key that the certificate was requested with (of a pair, openssl x509 -noout -pubkey -in client.pem and openssl pkey -pubout -in server.key print the same)
nuncio.toml: refused, 1 problem
nuncio: identity.corp: key client.encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in client.encrypted.key -out client.encrypted.key.plain
nuncio.toml: refused, 1 problem
nuncio: identity.corp: certificate client.der: is a certificate in DER, not PEM; convert it: openssl x509 -inform der -in client.der -out client.der.pem
nuncio.toml: refused, 1 problem
nuncio: identity.corp: key client.key.der: is a private key in DER, not PEM; convert it: openssl pkey -inform der -in client.key.der -out client.key.der.pem
nuncio.toml: refused, 1 problem
"#);
}

/// A key that another user than the service's owns.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_may_not_be_read_is_told_with_its_owner() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(fixture("client.pem"), at("client.pem")).unwrap();
    std::fs::copy(fixture("client.key"), at("client.key")).unwrap();
    std::fs::set_permissions(at("client.key"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let text = "[listener.a]\naddress = \"127.0.0.1:0\"\nupstream = \"a\"\n\
        [upstream.a]\nendpoints = [\"127.0.0.1:1\"]\nidentity = \"a\"\n\
        [identity.a]\ncertificate = \"client.pem\"\nkey = \"client.key\"\n";
    std::fs::write(at("nuncio.toml"), text).unwrap();
    // No mode keeps root out: then it is run as somebody else, from where that user can reach it.
    std::fs::copy(env!("CARGO_BIN_EXE_nuncio"), at("nuncio")).unwrap();
    let owner = std::fs::metadata(at("nuncio")).unwrap().uid();
    let mut command = std::process::Command::new(at("nuncio"));
    command.args(["check", "--config", "nuncio.toml"]).current_dir(directory.path());
    if owner == 0 {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    let told = told.replace("uid 65534", &format!("uid {owner}")).replace(&format!("uid {owner}"), "UID");
    insta::assert_snapshot!(told.replace("gid 0,", "GID,"), @r#"
nuncio: identity.a: key client.key: may not be read by UID, as which nuncio runs: it belongs to UID, GID, with mode 0000; give that user's group the right to read it (chgrp, chmod 640)
nuncio.toml: refused, 1 problem
"#);
}

/// A certificate of ours that is out of date is no reason to refuse the file: it starts, says so, and dials nobody.
#[test]
fn our_own_certificate_out_of_date_is_a_fault_and_not_a_refusal() {
    let server = showing("server.pem");
    for certificate in ["client-expired.pem", "client-not-yet.pem"] {
        let ours = Some((fixture(certificate), fixture("client.key")));
        let case = Case { ours, ..Case::new(server.address()) };
        let (directory, file) = case.file();
        let (code, out, err) = run(&["check", "--config", &file], directory.path());
        assert_eq!(code, Some(4), "{out}{err}");
        let fault = err.lines().find(|line| line.starts_with("fault: ")).unwrap_or_else(|| panic!("{err}"));
        insta::allow_duplicates! {
            match certificate {
                "client-expired.pem" => {
                    insta::assert_snapshot!(case.redacted(fault), @r#"
fault: identity.corp: certificate client-expired.pem: CN=client expired at 2021-01-01T00:00:00Z, N years ago (it is NOW here); have it renewed
"#);
                    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: proxy_configuration_error
  cause        our certificate CN=client in client-expired.pem expired at 2021-01-01T00:00:00Z, N years ago (it is NOW here)
  side         ambassador (nuncio, its files, or this host)
  mend         have it renewed, put it in the file's place, and let nuncio read it: systemctl reload nuncio, or SIGHUP
exit code 4
"#);
                }
                _ => {
                    insta::assert_snapshot!(case.redacted(fault), @r#"
fault: identity.corp: certificate client-not-yet.pem: CN=client is valid only from 2090-01-01T00:00:00Z, in N years (it is NOW here); is the clock right?
"#);
                    insta::assert_snapshot!(case.verdict(), @r#"
  verdict      failed at handshake: proxy_configuration_error
  cause        our certificate CN=client in client-not-yet.pem is valid only from 2090-01-01T00:00:00Z, in N years (it is NOW here)
  side         ambassador (nuncio, its files, or this host)
  mend         set this host's clock right; if it is, wait until the certificate's time has come
exit code 4
"#);
                }
            }
        }
    }
}

/// The listeners, where they lead, and who we are there.
#[test]
fn check_shows_what_it_read() {
    let directory = TempDir::new().unwrap();
    let text = format!(
        r#"
        [listener.orders]
        address = ["127.0.0.1:5432", "unix:/run/orders.sock"]
        upstream = "orders"
        [listener.cache]
        address = "0.0.0.0:6379"
        allow = ["10.0.0.0/8"]
        upstream = {{ dns = "cache.corp.example:6379", tls = "off" }}
        [upstream.orders]
        endpoints = ["db1.corp.example:5433", {{ address = "db2.corp.example:5433", backup = true, weight = 2 }}]
        identity = "corp"
        server_name = "db.corp.example"
        [identity.corp]
        ca = '{}'
        certificate = '{}'
        key = '{}'
        "#,
        fixture("ca.pem").display(),
        fixture("client.pem").display(),
        fixture("client.key").display(),
    );
    std::fs::write(directory.path().join("nuncio.toml"), text).unwrap();
    let (code, out, _) = run(&["check", "--config", "nuncio.toml"], directory.path());
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(redacted(&out), @r#"
listener cache
  address      0.0.0.0:6379
  networks     10.0.0.0/8
  leads to     upstream cache
listener orders
  address      127.0.0.1:PORT, unix:/run/orders.sock
  leads to     upstream orders
upstream cache
  endpoints    every address of cache.corp.example:6379
  tls          off: everything goes in plaintext
  checks       connect
upstream orders
  endpoints    db1.corp.example:5433
               db2.corp.example:5433 (backup) (weight 2)
  tls          from the first byte; the server by the CA of the identity, as db.corp.example
  identity     corp
  checks       connect and shake hands
identity corp
  certificate  CN=client, issued by CN=nuncio test CA, valid from 2020-01-01T00:00:00Z until 2099-01-01T00:00:00Z (in N years)
  trusts       CN=nuncio test CA, valid from 2020-01-01T00:00:00Z until 2099-01-01T00:00:00Z (in N years)
nuncio.toml: fine (2 listeners, 2 upstreams, 1 identity)
"#);
}

/// What a connection goes through, and all that is not as it is by default, in the file's own words; what may be a secret is not
/// shown. A tier between others is no backup.
#[test]
fn check_shows_what_is_special() {
    let directory = TempDir::new().unwrap();
    let text = r#"
        [admin]
        address = ["127.0.0.1:9746", "unix:/run/nuncio/admin.sock"]
        [listener.orders]
        address = "127.0.0.1:5432"
        upstream = "orders"
        connections = 100
        [listener.mail]
        address = "127.0.0.1:2525"
        upstream = { endpoints = ["mail:25"], protocol = "smtp", breaker.consecutive = 3 }
        [upstream.orders]
        endpoints = ["db1:5432", { address = "db2:5432", tier = 1 }, { address = "db3:5432", tier = 2 }]
        balance = "round_robin"
        required = false
        [upstream.orders.health]
        kind = "http"
        url = "http://{host}:8008/primary?token=secret"
        interval = "1s"
        [upstream.orders.pool]
        min = 2
        max = 10
        [upstream.orders.proxy]
        socks5 = "proxy:1080"
        [upstream.orders.breaker]
        shadow = true
        consecutive = 5
        weights.slow = 3
        [upstream.orders.timeouts]
        connect = "1s"
        establish = "10s"
    "#;
    std::fs::write(directory.path().join("nuncio.toml"), text).unwrap();
    let (code, out, err) = run(&["check", "--config", "nuncio.toml"], directory.path());
    assert_eq!(code, Some(0), "{err}");
    insta::assert_snapshot!(redacted(&out), @r#"
listener mail
  address      127.0.0.1:PORT
  leads to     upstream mail
listener orders
  address      127.0.0.1:PORT
  leads to     upstream orders
  settings     connections = 100
upstream mail
  endpoints    mail:25
  protocol     smtp
  tls          asked for in the protocol's words; the server by the system's roots
  checks       go as far as the protocol does
  breaker      consecutive = 3
upstream orders
  endpoints    db1:5432
               db2:5432 (tier 1)
               db3:5432 (tier 2)
  tls          from the first byte; the server by the system's roots
  through      the SOCKS5 proxy proxy:1080
  checks       ask a URL
  settings     balance = "round_robin"
  breaker      shadow = true, weights.slow = 3
  health       url = "...", interval = "1s"
  pool         min = 2, max = 10
  timeouts     connect = "1s"
admin
  address      127.0.0.1:PORT, unix:/run/nuncio/admin.sock
  orders       through the Unix socket, from whom its mode lets in
nuncio.toml: fine (2 listeners, 2 upstreams, 0 identities)
"#);
    let (_, out, _) = run(&["check", "--json", "--config", "nuncio.toml"], directory.path());
    assert!(!out.contains("secret"), "{out}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["upstreams"][0]["settings"], serde_json::json!(["breaker.consecutive = 3"]));
    assert_eq!(
        told["upstreams"][1]["proxy"],
        serde_json::json!({"kind": "socks5", "address": "proxy:1080", "user": null})
    );
    assert_eq!(told["listeners"][1]["settings"], serde_json::json!(["connections = 100"]));
}

/// Dashboards and scripts hold on to these.
#[test]
fn json_keeps_its_shape() {
    fn shape(value: &Value) -> String {
        match value {
            Value::Object(fields) => {
                let each = fields.iter().map(|(name, value)| match value {
                    Value::Object(_) | Value::Array(_) => format!("{name}: {}", shape(value)),
                    _ => name.clone(),
                });
                format!("{{{}}}", each.collect::<Vec<_>>().join(", "))
            }
            Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
            _ => "_".into(),
        }
    }
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let case = Case::of(&pki, server.address());
    insta::assert_snapshot!(shape(&case.json()).replace("}], ", "}],\n"), @r#"
{endpoints: [{addresses: [_], chain: [{ca, issuer, key, not_after, not_before, pin, san: [_], self_signed, serial, subject, version}],
client_certificate: {accepted_issuers: [], asked, presented: {ca, issuer, key, not_after, not_before, pin, san: [_], self_signed, serial, subject, version}, unfit}, connected, endpoint, fault, fine, health, pins: [_], server_name, stages: [{ms, stage}],
tls: {alpn, group, suite, version}, upstream, verdict}],
fine, problems: []}
"#);
    // A failure has the same fields, and one more object.
    let failing = Case { keys: "server_name = \"a.b\"", ..case.clone() };
    let fields = |seen: &Value| seen["endpoints"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&failing.json()), fields(&case.json()));
    insta::assert_snapshot!(shape(&failing.json()["endpoints"][0]["fault"]), @r#"
{detail, next_step, reason, side, stage}
"#);

    let json = |arguments: &[&str], directory: &Path| -> Value {
        let (_, out, err) = run(arguments, directory);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
    };
    let (directory, file) = case.file();
    let checked = json(&["check", "--json", "--config", &file], directory.path());
    insta::assert_snapshot!(shape(&checked).replace("}], ", "}],\n"), @r#"
{admin: {addresses: [], token_file}, endpoints: [], faults: [], file, fine, identities: [{authorities: [{ca, issuer, key, not_after, not_before, pin, san: [], self_signed, serial, subject, version}],
chain: [{ca, issuer, key, not_after, not_before, pin, san: [_], self_signed, serial, subject, version}],
name}],
listeners: [{addresses: [_], allow: [], allow_groups: [], allow_users: [], client_names: [], context, identity, name, settings: [], tls, tls_mode, upstream}],
problems: [], upstreams: [{consul, dns, endpoints: [{address, backup, server_name, tier, weight, zone}],
file, health, identity, kubernetes, name, protocol, proxy, proxy_protocol, server_name, settings: [], srv, tls, trusts, when_unready}],
warnings: []}
"#);
    let online = json(&["check", "--json", "--online", "--config", &file], directory.path());
    assert_eq!(shape(&online["endpoints"]), shape(&case.json()["endpoints"]));
    assert_eq!((&online["fine"], &checked["fine"]), (&Value::Bool(true), &Value::Bool(true)));
    // What is refused has the same fields too; and all problems have one shape, wherever they come from.
    std::fs::write(directory.path().join("bad.toml"), "[listener.a]\nadress = 3\n").unwrap();
    let refused = json(&["check", "--json", "--config", "bad.toml"], directory.path());
    assert_eq!(refused["fine"], false);
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&refused), names(&checked));
    let problems = refused["problems"].as_array().unwrap();
    let of_file = problems.iter().find(|problem| problem["key"] == "listener.a.adress").unwrap();
    assert_eq!(of_file["line"], 2, "{of_file}");
    let missing = Case { ca: pki.directory().join("nowhere.pem"), ..case };
    let refused = missing.json();
    assert_eq!(shape(&refused["problems"][0]), shape(of_file));
    assert_eq!(refused["problems"][0]["key"], "identity.corp");
}
