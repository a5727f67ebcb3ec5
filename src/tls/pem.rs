//! Reading the files of an identity: what is in them, or, when it is not what it should be, what it is instead and the
//! command that turns it into what is wanted.
//!
//! Leaves it to `identity` whether the contents fit together.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// No identity's file is larger; what is larger is a mistake (a device, a log) and is not read to its end.
const LARGEST: u64 = 4 << 20;

/// What a file is for; printed as its key in the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Ca,
    Certificate,
    Key,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Ca => "ca",
            Role::Certificate => "certificate",
            Role::Key => "key",
        })
    }
}

/// The whole file, or why not.
pub(super) fn read(role: Role, path: &Path) -> Result<Vec<u8>, String> {
    let file = path.display();
    let wrong = |what: String| Err(format!("{role} {file}: {what}"));
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    match result {
        Ok(0) => wrong("the file is empty".into()),
        Ok(_) if bytes.len() as u64 > LARGEST => {
            wrong(format!("is larger than {} MiB: is this the right file?", LARGEST >> 20))
        }
        Ok(_) => Ok(bytes),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => {
                wrong(format!("there is no such file{}; put it there, or correct the path", where_from(path)))
            }
            io::ErrorKind::PermissionDenied => wrong(format!("may not be read{}", who_may(path))),
            io::ErrorKind::IsADirectory => wrong("is a directory; name the file in it".into()),
            _ => wrong(format!("cannot be read: {error}")),
        },
    }
}

/// A relative path is most often right in one directory and wrong in another.
fn where_from(path: &Path) -> String {
    match std::env::current_dir() {
        Ok(directory) if path.is_relative() => {
            format!(" in {}", directory.display())
        }
        Ok(_) | Err(_) => String::new(),
    }
}

#[cfg(unix)]
fn who_may(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own entry in /proc is who we are to the kernel; std has no geteuid.
    let us = match std::fs::metadata("/proc/self") {
        Ok(us) => format!(" by uid {}, as which nuncio runs", us.uid()),
        Err(_) => String::from(" by the user as whom nuncio runs"),
    };
    match std::fs::metadata(path) {
        Ok(it) => format!(
            "{us}: it belongs to uid {}, gid {}, with mode {:04o}; give that user's group the right to read it (chgrp, chmod 640)",
            it.uid(),
            it.gid(),
            it.mode() & 0o7777
        ),
        Err(_) => {
            format!("{us}: a directory above it is closed to that user; open it (chmod +x) or move the file")
        }
    }
}

#[cfg(not(unix))]
fn who_may(_path: &Path) -> String {
    " by the user as whom nuncio runs: give that account the right to read it".into()
}

/// What a PEM file had in it.
pub(super) struct Contents {
    /// Certificates in the file's order.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The first private key.
    pub(super) key: Option<PrivateKeyDer<'static>>,
}

/// The certificates and the key in a file that must have what its role asks for.
pub(super) fn parse(role: Role, path: &Path, bytes: &[u8]) -> Result<Contents, String> {
    let wrong = |what: String| format!("{role} {}: {what}", path.display());
    // Editors on Windows put a byte order mark before the first line, where it would hide it.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let labels = labels(text);
    if labels.is_empty() {
        return Err(wrong(not_pem(path, text)));
    }
    if role != Role::Ca && is_encrypted(text, &labels) {
        return Err(wrong(format!(
            "the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in {0} -out {0}.plain",
            path.display()
        )));
    }
    let mut contents = Contents { certificates: Vec::new(), key: None };
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|error| wrong(broken(&error)))?;
        if kind == SectionKind::Certificate {
            let der = CertificateDer::from(der);
            if X509Certificate::from_der(&der).is_err() {
                let number = contents.certificates.len() + 1;
                return Err(wrong(format!("its certificate number {number} is damaged; export it again")));
            }
            contents.certificates.push(der);
        } else if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            contents.key.get_or_insert(key);
        }
    }
    match role {
        Role::Ca | Role::Certificate if contents.certificates.is_empty() => {
            Err(wrong(instead_of_certificate(path, &labels)))
        }
        Role::Key if contents.key.is_none() => Err(wrong(instead_of_key(path, &labels))),
        Role::Ca | Role::Certificate | Role::Key => Ok(contents),
    }
}

/// The words behind BEGIN, in order: also of sections that the PEM reader skips.
fn labels(text: &[u8]) -> Vec<String> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter_map(|line| line.trim_ascii().strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----"))
        .map(|label| String::from_utf8_lossy(label).into_owned())
        .collect()
}

fn is_encrypted(text: &[u8], labels: &[String]) -> bool {
    labels.iter().any(|label| label == "ENCRYPTED PRIVATE KEY")
        || text.windows(22).any(|window| window == b"Proc-Type: 4,ENCRYPTED")
}

fn broken(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a section has no END line: the file was cut short; copy it again".into()
        }
        error => format!("is damaged PEM ({error}); copy it again as it was"),
    }
}

fn instead_of_certificate(path: &Path, labels: &[String]) -> String {
    let file = path.display();
    let has = |label: &str| labels.iter().any(|it| it == label);
    if labels.iter().any(|label| label.ends_with("PRIVATE KEY")) {
        "has a private key and no certificate; are `certificate` and `key` swapped?".into()
    } else if has("CERTIFICATE REQUEST") || has("NEW CERTIFICATE REQUEST") {
        "is a certificate request; put here what the CA answered to it".into()
    } else if has("TRUSTED CERTIFICATE") {
        format!("is in OpenSSL's own format; convert it: openssl x509 -in {file} -out {file}.pem")
    } else if has("PKCS7") || has("CMS") {
        format!("is PKCS#7; take the certificates out: openssl pkcs7 -print_certs -in {file} -out {file}.pem")
    } else {
        format!("has no certificate in it, only {}", labels.join(", "))
    }
}

fn instead_of_key(path: &Path, labels: &[String]) -> String {
    let has = |label: &str| labels.iter().any(|it| it == label);
    if has("OPENSSH PRIVATE KEY") {
        format!(
            "is in OpenSSH's own format; convert it in place: ssh-keygen -p -m PKCS8 -f {}",
            path.display()
        )
    } else if has("CERTIFICATE") {
        "has a certificate and no private key; are `certificate` and `key` swapped?".into()
    } else if has("PUBLIC KEY") || has("RSA PUBLIC KEY") {
        "is a public key; the private one is wanted".into()
    } else {
        format!("has no private key in it, only {}", labels.join(", "))
    }
}

/// What a file without a BEGIN line is, by its first bytes.
fn not_pem(path: &Path, bytes: &[u8]) -> String {
    let file = path.display();
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] => format!(
            "is a Java keystore, not PEM; convert it: keytool -importkeystore -srckeystore {file} -destkeystore {file}.p12 -deststoretype pkcs12, then openssl pkcs12 -in {file}.p12 -nodes -out {file}.pem"
        ),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16 text; save it as ASCII or UTF-8".into(),
        // SEQUENCE of INTEGER 3: a PFX (RFC 7292), in definite or indefinite length.
        [0x30, 0x80, 2, 1, 3, ..]
        | [0x30, 0x81, _, 2, 1, 3, ..]
        | [0x30, 0x82, _, _, 2, 1, 3, ..]
        | [0x30, 0x83, _, _, _, 2, 1, 3, ..] => format!(
            "is PKCS#12, not PEM; take it apart: openssl pkcs12 -in {file} -nokeys -out {file}.pem and openssl pkcs12 -in {file} -nocerts -nodes -out {file}.key (-legacy for files of old tools)"
        ),
        [0x30, ..] if X509Certificate::from_der(bytes).is_ok() => {
            format!(
                "is a certificate in DER, not PEM; convert it: openssl x509 -inform der -in {file} -out {file}.pem"
            )
        }
        [0x30, ..] if PrivateKeyDer::try_from(bytes).is_ok() => {
            format!(
                "is a private key in DER, not PEM; convert it: openssl pkey -inform der -in {file} -out {file}.pem"
            )
        }
        [0x30, ..] => {
            "is DER of some kind, not PEM; export it as PEM (\"Base-64 encoded X.509\" in Windows)".into()
        }
        _ => "is not PEM: it has no -----BEGIN line".into(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// The tests may run as root, whom no mode keeps out; so the sentence alone is looked at.
    #[test]
    fn a_file_that_may_not_be_read_is_told_with_its_owner_and_who_we_are() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        let told = who_may(file.path());
        let uid = file.as_file().metadata().unwrap().uid();
        assert!(told.contains(&format!("it belongs to uid {uid}, ")), "{told}");
        assert!(told.contains("mode 0600"), "{told}");
        assert!(who_may(Path::new("/proc/self/nowhere/x")).contains("a directory above it"));
    }
}
