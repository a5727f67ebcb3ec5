//! Files that are not what they should be, each with the sentence that it gets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn pki(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pki").join(file)
}

/// 2030: in the middle of what the fixtures are valid for, whatever the clock of the machine says.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

fn settings(ca: &str, certificate: &str, key: &str) -> IdentitySettings {
    let file = |name: &str| (!name.is_empty()).then(|| pki(name));
    IdentitySettings {
        ca: file(ca),
        certificate: file(certificate),
        key: file(key),
        strict_permissions: false,
        shown_to: ShownTo::Servers,
    }
}

fn load(ca: &str, certificate: &str, key: &str) -> Result<Identity, Vec<String>> {
    Identity::load_at("corp", &settings(ca, certificate, key), now())
}

/// The problems, one a line, with the directory left out.
fn problems(ca: &str, certificate: &str, key: &str) -> String {
    let problems = load(ca, certificate, key).expect_err("loaded");
    problems.join("\n").replace(&format!("{}/", pki("").display().to_string().trim_end_matches('/')), "")
}

#[test]
fn keys_are_read_in_every_form_that_tools_write() {
    for (certificate, key) in [
        ("client.pem", "client.key"),
        ("client.pem", "client.sec1.key"),
        ("client-rsa.pem", "client-rsa.key"),
        ("client-rsa.pem", "client-rsa.pkcs1.key"),
        ("server-v1.pem", "server.key"),
    ] {
        let identity =
            load("ca.pem", certificate, key).unwrap_or_else(|problems| panic!("{key}: {problems:?}"));
        assert_eq!(identity.facts().len(), 1);
    }
}

#[test]
fn certificate_and_key_may_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let both = directory.path().join("both.pem");
    let text = [fs::read(pki("client.key")).unwrap(), fs::read(pki("client.pem")).unwrap()].concat();
    fs::write(&both, text).unwrap();
    let settings = IdentitySettings { certificate: Some(both), ..IdentitySettings::default() };
    assert_eq!(Identity::load_at("corp", &settings, now()).unwrap().facts()[0].subject, "CN=client");
}

#[test]
fn files_that_are_something_else_are_named_with_the_way_out() {
    let all = [
        ("nowhere.pem", "client.key"),
        ("client.der", "client.key"),
        ("client.p12", "client.key"),
        ("client.csr", "client.key"),
        ("client.key", "client.pem"),
        ("client.pem", "client.key.der"),
        ("client.pem", "client.pub"),
        ("client.pem", "client.encrypted.key"),
        ("client.pem", "client.legacy-encrypted.key"),
        ("client.pem", "client-rsa.key"),
        ("client.pem", ""),
        ("", "client.key"),
        ("server-weak.pem", "server-weak.key"),
        ("make.sh", "client.key"),
    ]
    .map(|(certificate, key)| problems("", certificate, key))
    .join("\n");
    insta::assert_snapshot!(all, @r#"
identity.corp: certificate nowhere.pem: there is no such file; put it there, or correct the path
identity.corp: certificate client.der: is a certificate in DER, not PEM; convert it: openssl x509 -inform der -in client.der -out client.der.pem
identity.corp: certificate client.p12: is PKCS#12, not PEM; take it apart: openssl pkcs12 -in client.p12 -nokeys -out client.p12.pem and openssl pkcs12 -in client.p12 -nocerts -nodes -out client.p12.key (-legacy for files of old tools)
identity.corp: certificate client.csr: is a certificate request; put here what the CA answered to it
identity.corp: certificate client.key: has a private key and no certificate; are `certificate` and `key` swapped?
identity.corp: key client.pem: has a certificate and no private key; are `certificate` and `key` swapped?
identity.corp: key client.key.der: is a private key in DER, not PEM; convert it: openssl pkey -inform der -in client.key.der -out client.key.der.pem
identity.corp: key client.pub: is a public key; the private one is wanted
identity.corp: key client.encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in client.encrypted.key -out client.encrypted.key.plain
identity.corp: key client.legacy-encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in client.legacy-encrypted.key -out client.legacy-encrypted.key.plain
identity.corp: certificate client.pem (CN=client) and key client-rsa.key do not belong together; name the key that the certificate was requested with (of a pair, openssl x509 -noout -pubkey -in client.pem and openssl pkey -pubout -in client-rsa.key print the same)
identity.corp: certificate client.pem: has no private key in it, and there is no `key` beside it; set it
identity.corp: key client.key: there is no `certificate` to go with it; set it
identity.corp: key server-weak.key: is of a kind or size that cannot sign in TLS; nuncio takes RSA from 2048 bits, EC P-256, P-384 and P-521, and Ed25519
identity.corp: certificate make.sh: is not PEM: it has no -----BEGIN line
"#);
}

/// A clock may be wrong at a host's start, and the new certificate on its way.
#[test]
fn a_certificate_out_of_date_loads_and_is_a_fault() {
    let faults = |certificate: &str| load("", certificate, "client.key").unwrap().faults.join("\n");
    let directory = format!("{}/", pki("").display().to_string().trim_end_matches('/'));
    let all = ["client-expired.pem", "client-not-yet.pem", "client.pem"].map(faults).join("\n");
    insta::assert_snapshot!(all.replace(&directory, ""), @r#"
identity.corp: certificate client-expired.pem: CN=client expired at 2021-01-01T00:00:00Z, 9 years ago (it is 2030-01-01T00:00:00Z here); have it renewed
identity.corp: certificate client-not-yet.pem: CN=client is valid only from 2090-01-01T00:00:00Z, in 60 years (it is 2030-01-01T00:00:00Z here); is the clock right?
"#);
}

#[test]
fn every_problem_is_told_at_once() {
    let all = problems("server.pem", "nowhere.pem", "client.encrypted.key");
    insta::assert_snapshot!(all, @r#"
identity.corp: ca server.pem: no certificate in it is an authority: CN=upstream.test was issued by CN=nuncio test CA; put that issuer's certificate here
identity.corp: certificate nowhere.pem: there is no such file; put it there, or correct the path
identity.corp: key client.encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in client.encrypted.key -out client.encrypted.key.plain
"#);
}

#[test]
fn a_chain_in_the_wrong_order_is_told_apart_from_a_foreign_key() {
    let directory = tempfile::tempdir().unwrap();
    let chain = directory.path().join("chain.pem");
    fs::write(&chain, [fs::read(pki("ca.pem")).unwrap(), fs::read(pki("client.pem")).unwrap()].concat())
        .unwrap();
    let settings = IdentitySettings {
        certificate: Some(chain),
        key: Some(pki("client.key")),
        ..IdentitySettings::default()
    };
    let problems = Identity::load_at("corp", &settings, now()).unwrap_err();
    assert!(problems[0].contains("belongs to certificate number 2"), "{problems:?}");
}

#[test]
fn files_that_an_editor_or_a_copy_spoiled_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let good = fs::read(pki("client.pem")).unwrap();
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(good.iter().flat_map(|byte| [*byte, 0])).collect();
    let cut = good[..good.len() - 40].to_vec();
    let mut flipped = good.clone();
    flipped[100] = b'!';
    for (name, bytes, says) in [
        ("empty.pem", Vec::new(), "the file is empty"),
        ("utf16.pem", utf16, "is UTF-16 text"),
        ("cut.pem", cut, "cut short"),
        ("flipped.pem", flipped, "damaged"),
        ("keystore.pem", b"\xfe\xed\xfe\xed\0\0\0\x02".to_vec(), "Java keystore"),
        ("large.pem", vec![b'\n'; 5 << 20], "larger than 4 MiB"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        let settings = IdentitySettings { ca: Some(path), ..IdentitySettings::default() };
        let problems = Identity::load_at("corp", &settings, now()).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains(says), "{problems:?}");
    }
    // A byte order mark is no reason to refuse.
    let path = directory.path().join("bom.pem");
    fs::write(&path, [b"\xef\xbb\xbf".to_vec(), fs::read(pki("ca.pem")).unwrap()].concat()).unwrap();
    let settings = IdentitySettings { ca: Some(path), ..IdentitySettings::default() };
    assert_eq!(Identity::load_at("corp", &settings, now()).unwrap().authorities().len(), 1);
}

#[test]
fn a_directory_in_place_of_a_file_is_named() {
    let settings = IdentitySettings { ca: Some(pki("")), ..IdentitySettings::default() };
    let problems = Identity::load_at("corp", &settings, now()).unwrap_err();
    assert_eq!(problems.len(), 1);
    #[cfg(unix)]
    assert!(problems[0].contains("is a directory"), "{problems:?}");
}

#[test]
fn the_generation_changes_with_the_contents_only() {
    let first = load("ca.pem", "client.pem", "client.key").unwrap().generation;
    assert_eq!(load("ca.pem", "client.pem", "client.key").unwrap().generation, first);
    assert_ne!(load("ca.pem", "client.pem", "client.sec1.key").unwrap().generation, first);
    assert_ne!(load("other-ca.pem", "client.pem", "client.key").unwrap().generation, first);
    assert_ne!(load("", "client.pem", "client.key").unwrap().generation, first);
}

#[test]
fn what_will_not_stay_well_is_warned_of() {
    let warnings = |certificate: &str, now| {
        let settings = settings("", certificate, "client.key");
        Identity::load_at("corp", &settings, now).unwrap().warnings.join("\n")
    };
    assert!(warnings("client-no-purpose.pem", now()).contains("does not include clientAuth"));
    let late_in_2020 = UNIX_EPOCH + Duration::from_secs(1_608_500_000);
    assert!(
        warnings("client-expired.pem", late_in_2020).contains("expires at 2021-01-01T00:00:00Z, in 11 days")
    );
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_warned_of_or_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("client.key");
    fs::copy(pki("client.key"), &key).unwrap();
    let load = |mode, strict_permissions| {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let settings = IdentitySettings {
            certificate: Some(pki("client.pem")),
            key: Some(key.clone()),
            strict_permissions,
            ..IdentitySettings::default()
        };
        Identity::load_at("corp", &settings, now())
    };
    assert_eq!(load(0o600, true).unwrap().warnings, [""; 0]);
    assert_eq!(load(0o640, true).unwrap().warnings, [""; 0]);
    assert!(load(0o644, false).unwrap().warnings[0].contains("others can read it (mode 0644)"));
    assert!(load(0o644, true).unwrap_err()[0].contains("chmod 600"));
    assert!(load(0o660, true).unwrap_err()[0].contains("others can change it"));
}

#[test]
fn an_identity_is_printed_without_its_key() {
    let printed = format!("{:?}", load("ca.pem", "client.pem", "client.key").unwrap());
    let der = fs::read(pki("client.key.der")).unwrap();
    let secret = &der[36..68];
    assert!(!printed.contains(&format!("{secret:?}")), "{printed}");
}
