//! Who we are and whom we trust, as loaded from files: one snapshot, with every problem found in one go.
//!
//! Owns whether the files fit together and are in date. Leaves reading them to `pem`, and using them to `client`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::peer::{self, Date, PeerFacts, describe_peer};
use super::pem::{self, Role};
use super::{IdentitySettings, ShownTo};

/// A loaded identity: what is presented to servers and what they are checked against.
#[derive(Debug)]
pub struct Identity {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Changes when, and only when, the contents of a file changed.
    pub generation: u64,
    /// What works but should not stay so.
    pub warnings: Vec<String>,
    /// What keeps it from being used now, and may pass: our certificate is out of date, or early. Not a reason to refuse
    /// the files: a host's clock may be wrong at its start, and a new certificate on its way.
    pub faults: Vec<String>,
    /// `None`: the system's roots.
    pub(super) ca: Option<Authorities>,
    /// `None`: we present nothing.
    pub(super) own: Option<Own>,
}

/// The certificates that servers are checked against.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) path: PathBuf,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) facts: Vec<PeerFacts>,
}

/// What we present.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) path: PathBuf,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) facts: Vec<PeerFacts>,
}

impl Identity {
    /// Reads the files; on failure says everything that is wrong with them, each with its mend.
    pub fn load(name: &str, settings: &IdentitySettings) -> Result<Identity, Vec<String>> {
        Identity::load_at(name, settings, SystemTime::now())
    }

    /// As [`Identity::load`], by another clock.
    pub fn load_at(
        name: &str,
        settings: &IdentitySettings,
        now: SystemTime,
    ) -> Result<Identity, Vec<String>> {
        let mut notes = Notes { now: Date::of(now), strict: settings.strict_permissions, ..Notes::default() };
        let mut hash = digest::Context::new(&digest::SHA256);
        let ca = settings.ca.as_deref().and_then(|path| load_authorities(path, &mut hash, &mut notes));
        let own = load_own(settings, &mut hash, &mut notes);
        let prefix =
            |lines: Vec<String>| lines.iter().map(|line| format!("identity.{name}: {line}")).collect();
        if !notes.problems.is_empty() {
            return Err(prefix(notes.problems));
        }
        let mut generation = [0; 8];
        generation.copy_from_slice(&hash.finish().as_ref()[..8]);
        Ok(Identity {
            name: name.into(),
            generation: u64::from_be_bytes(generation),
            warnings: prefix(notes.warnings),
            faults: prefix(notes.faults),
            ca,
            own,
        })
    }

    /// What our certificate and its chain say of themselves; empty when we present nothing.
    pub fn facts(&self) -> &[PeerFacts] {
        self.own.as_ref().map_or(&[], |own| &own.facts)
    }

    /// What the certificates of `ca` say of themselves; empty with the system's roots.
    pub fn authorities(&self) -> &[PeerFacts] {
        self.ca.as_ref().map_or(&[], |ca| &ca.facts)
    }
}

/// What was found on the way.
struct Notes {
    now: Date,
    strict: bool,
    problems: Vec<String>,
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Default for Notes {
    fn default() -> Self {
        Notes { now: Date(0), strict: false, problems: Vec::new(), faults: Vec::new(), warnings: Vec::new() }
    }
}

impl Notes {
    fn keep<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }
}

/// A file's bytes, taken into the generation: role and length go with them, so that moving bytes from one file to
/// another is a change.
fn read(role: Role, path: &Path, hash: &mut digest::Context) -> Result<Vec<u8>, String> {
    let bytes = pem::read(role, path)?;
    hash.update(&[role as u8]);
    hash.update(&(bytes.len() as u64).to_be_bytes());
    hash.update(&bytes);
    Ok(bytes)
}

fn load_authorities(path: &Path, hash: &mut digest::Context, notes: &mut Notes) -> Option<Authorities> {
    let contents = read(Role::Ca, path, hash).and_then(|bytes| pem::parse(Role::Ca, path, &bytes));
    let contents = notes.keep(contents)?;
    let file = path.display();
    let facts: Vec<PeerFacts> = contents.certificates.iter().map(describe_peer).collect();
    // A server's self-signed certificate in its place works as an authority for itself; one that another authority
    // issued never can.
    if !facts.iter().any(|facts| facts.ca || facts.self_signed) {
        let first = &facts[0];
        notes.problems.push(format!(
            "ca {file}: no certificate in it is an authority: {} was issued by {}; put that issuer's certificate here",
            first.subject, first.issuer
        ));
        return None;
    }
    if contents.key.is_some() {
        notes
            .warnings
            .push(format!("ca {file}: has a private key in it, which does not belong here; take it out"));
    }
    for facts in facts.iter().filter(|facts| facts.not_after < notes.now) {
        notes.warnings.push(format!(
            "ca {file}: {} expired at {}, {} ago; it is still used, but what it issued will not be trusted elsewhere",
            facts.subject,
            facts.not_after,
            facts.not_after.apart(notes.now)
        ));
    }
    Some(Authorities { path: path.into(), certificates: contents.certificates, facts })
}

fn load_own(settings: &IdentitySettings, hash: &mut digest::Context, notes: &mut Notes) -> Option<Own> {
    let Some(path) = settings.certificate.as_deref() else {
        if let Some(key) = &settings.key {
            notes
                .problems
                .push(format!("key {}: there is no `certificate` to go with it; set it", key.display()));
        }
        return None;
    };
    let contents =
        read(Role::Certificate, path, hash).and_then(|bytes| pem::parse(Role::Certificate, path, &bytes));
    let contents = notes.keep(contents);
    // The key's problems are told even when the certificate has its own.
    let key_path = settings.key.as_deref().unwrap_or(path);
    let (certificates, beside) = contents.map_or((None, None), |it| (Some(it.certificates), it.key));
    let key = match (&settings.key, beside) {
        (Some(key_path), _) => notes.keep(
            read(Role::Key, key_path, hash)
                .and_then(|bytes| pem::parse(Role::Key, key_path, &bytes))
                .and_then(|it| {
                    it.key.ok_or_else(|| format!("key {}: has no private key in it", key_path.display()))
                }),
        ),
        // Certificate and key in one file is how stunnel and HAProxy have it.
        (None, Some(key)) => Some(key),
        (None, None) => {
            if certificates.is_some() {
                notes.problems.push(format!(
                    "certificate {}: has no private key in it, and there is no `key` beside it; set it",
                    path.display()
                ));
            }
            None
        }
    };
    if key.is_some() {
        look_at_permissions(key_path, notes);
    }
    let signing = key.and_then(|key| notes.keep(signing_key(key_path, key)));
    let certificates = certificates?;
    let facts: Vec<PeerFacts> = certificates.iter().map(describe_peer).collect();
    look_at_dates(path, &facts, notes);
    look_at_purpose(path, &certificates[0], settings.shown_to, notes);
    let signing = signing?;
    notes.keep(belong_together(path, &certificates, key_path, signing.as_ref()))?;
    Some(Own { path: path.into(), certified: Arc::new(CertifiedKey::new(certificates, signing)), facts })
}

fn signing_key(path: &Path, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, String> {
    any_supported_type(&key).map_err(|_| {
        format!(
            "key {}: is of a kind or size that cannot sign in TLS; nuncio takes RSA from 2048 bits, EC P-256, P-384 and P-521, and Ed25519",
            path.display()
        )
    })
}

/// The bits of the key are compared and not the whole SubjectPublicKeyInfo: tools differ in how they spell its algorithm.
fn belong_together(
    path: &Path,
    certificates: &[CertificateDer<'static>],
    key_path: &Path,
    signing: &dyn SigningKey,
) -> Result<(), String> {
    let public = signing.public_key();
    let Some(ours) = public.as_deref().and_then(key_bits) else { return Ok(()) };
    let fits = |certificate: &CertificateDer<'_>| {
        peer::key_info(certificate).and_then(key_bits).is_some_and(|theirs| theirs == ours)
    };
    let (file, key_file) = (path.display(), key_path.display());
    match certificates.iter().position(fits) {
        Some(0) => Ok(()),
        Some(place) => Err(format!(
            "certificate {file}: the key belongs to certificate number {} in it; our own must come first, then its issuer, and so on",
            place + 1
        )),
        None => Err(format!(
            "certificate {file} ({}) and key {key_file} do not belong together; name the key that the certificate was requested with (of a pair, openssl x509 -noout -pubkey -in {file} and openssl pkey -pubout -in {key_file} print the same)",
            describe_peer(&certificates[0]).subject
        )),
    }
}

fn key_bits(spki: &[u8]) -> Option<&[u8]> {
    SubjectPublicKeyInfo::from_der(spki).ok().map(|(_, spki)| spki.subject_public_key.data).and_then(|data| {
        match data {
            std::borrow::Cow::Borrowed(bits) => Some(bits),
            std::borrow::Cow::Owned(_) => None,
        }
    })
}

fn look_at_dates(path: &Path, facts: &[PeerFacts], notes: &mut Notes) {
    let file = path.display();
    let now = notes.now;
    for (place, facts) in facts.iter().enumerate() {
        let (until, from) = (facts.not_after, facts.not_before);
        let found = if until < now {
            format!(
                "certificate {file}: {} expired at {until}, {} ago (it is {now} here); have it renewed",
                facts.subject,
                until.apart(now)
            )
        } else if from > now {
            format!(
                "certificate {file}: {} is valid only from {from}, in {} (it is {now} here); is the clock right?",
                facts.subject,
                from.apart(now)
            )
        } else if facts.ends_soon(now) {
            notes.warnings.push(format!(
                "certificate {file}: {} expires at {until}, in {}; have it renewed",
                facts.subject,
                until.apart(now)
            ));
            continue;
        } else {
            continue;
        };
        // What stands behind our own may be a cross-signed certificate that nobody needs.
        match place {
            0 => notes.faults.push(found),
            _ => notes.warnings.push(found),
        }
    }
}

fn look_at_purpose(path: &Path, certificate: &CertificateDer<'_>, shown_to: ShownTo, notes: &mut Notes) {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return };
    let Ok(Some(usage)) = parsed.extended_key_usage() else { return };
    let (usage, file) = (usage.value, path.display());
    if shown_to != ShownTo::Clients && !usage.client_auth && !usage.any {
        notes.warnings.push(format!(
            "certificate {file}: its extended key usage does not include clientAuth; most servers will refuse it"
        ));
    }
    if shown_to != ShownTo::Servers && !usage.server_auth && !usage.any {
        notes.warnings.push(format!(
            "certificate {file}: its extended key usage does not include serverAuth; most clients of the listener will refuse it"
        ));
    }
}

#[cfg(unix)]
fn look_at_permissions(path: &Path, notes: &mut Notes) {
    let Some(found) = exposed(path) else { return };
    let found = format!("key {found}");
    match notes.strict {
        true => notes.problems.push(found),
        false => notes.warnings.push(found),
    }
}

/// What is wrong with who may read or write a file with a secret in it: readable by everyone, or writable by others than the
/// owner. A group that may read is left alone: that is how a service gets at a key that belongs to root.
#[cfg(unix)]
pub fn exposed(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o026 != 0).then(|| {
        format!(
            "{0}: others can {1} it (mode {mode:04o}); chmod 600 {0}, or 640 with the group nuncio runs in",
            path.display(),
            if mode & 0o022 == 0 { "read" } else { "change" },
        )
    })
}

/// Windows protects files by lists that have no such summary. Who relies on the look is told that there is none.
#[cfg(not(unix))]
fn look_at_permissions(path: &Path, notes: &mut Notes) {
    if notes.strict {
        notes.problems.push(format!(
            "key {}: who can read it is not looked at on this system; take out `key_permissions`, and look with icacls",
            path.display()
        ));
    }
}

/// As above: nothing is looked at.
#[cfg(not(unix))]
pub fn exposed(_path: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests;
