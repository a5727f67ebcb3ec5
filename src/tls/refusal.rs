//! Why we refused a server's certificate, and what would mend it: a new certificate, a pin, an entry in `ca`, a clock.
//!
//! The verifier's error says what rule was broken; the certificate itself says which kind of legacy it is. Legacy
//! certificates that work everywhere else (self-signed with CA:TRUE, name only in the subject, X.509 v1) get a pin to
//! paste: it is stricter than what such a client did before.

use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::client::{ClientTls, SYSTEM_ROOTS, TrustSummary};
use super::peer::{Date, PeerFacts, describe_peer};
use crate::failure::{Failure, Reason, Stage};

/// Object identifiers of signatures over SHA-1 and MD5, DER contents.
const OUTDATED: [(&[u8], &str); 4] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], "MD5"),
];

/// The chain that was refused (leaf first), the rule it broke, and what to do.
pub(super) fn refused(error: &CertificateError, chain: &[CertificateDer<'_>], tls: &ClientTls) -> Failure {
    let failure = |detail: String| Failure::upstream(Stage::Handshake, Reason::TlsCertificateError, detail);
    let facts: Vec<PeerFacts> = chain.iter().map(describe_peer).collect();
    let Some(leaf) = facts.first() else {
        return failure(format!("the server's certificate was refused: {error}"));
    };
    let (detail, mend) = explain(error, leaf, &facts, tls);
    failure(detail).mend(mend)
}

fn explain(
    error: &CertificateError,
    leaf: &PeerFacts,
    chain: &[PeerFacts],
    tls: &ClientTls,
) -> (String, String) {
    let subject = &leaf.subject;
    match error {
        CertificateError::ApplicationVerificationFailure => unpinned(leaf, tls),
        CertificateError::ExpiredContext { time, not_after } => {
            let until = date(*not_after);
            let which = chain.iter().find(|facts| facts.not_after == until).unwrap_or(leaf);
            expired(which, leaf, date(*time))
        }
        CertificateError::Expired => expired(leaf, leaf, Date::of(std::time::SystemTime::now())),
        CertificateError::NotValidYetContext { time, not_before } => {
            let from = date(*not_before);
            let which = chain.iter().find(|facts| facts.not_before == from).unwrap_or(leaf);
            not_yet(which, date(*time))
        }
        CertificateError::NotValidYet => not_yet(leaf, Date::of(std::time::SystemTime::now())),
        CertificateError::NotValidForNameContext { expected, .. } => wrong_name(Some(expected), leaf),
        CertificateError::NotValidForName => wrong_name(None, leaf),
        CertificateError::UnknownIssuer => unknown_issuer(leaf, chain, tls),
        CertificateError::BadSignature => weak_or_forged(chain, tls),
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id, ..
        } => match weak_key(chain) {
            Some(weak) => weak_key_text(weak),
            None => odd_signature(signature_algorithm_id, leaf),
        },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            format!(
                "the server's certificate {subject} is not meant for servers: its extended key usage lacks serverAuth"
            ),
            format!("give the server a certificate with serverAuth{}", or_pin(leaf)),
        ),
        CertificateError::UnhandledCriticalExtension => (
            format!("the server's certificate {subject} has a critical extension that nuncio does not know"),
            format!("give the server a certificate without it{}", or_pin(leaf)),
        ),
        CertificateError::Revoked => (
            format!("the server's certificate {subject} was revoked"),
            "give the server a new certificate".into(),
        ),
        // The rest has no name of its own in rustls; the certificate tells what it is.
        CertificateError::BadEncoding | CertificateError::Other(_) => legacy(error, leaf),
        _ => legacy(error, leaf),
    }
}

/// What webpki does not take at all, told by the certificate.
fn legacy(error: &CertificateError, leaf: &PeerFacts) -> (String, String) {
    let subject = &leaf.subject;
    let mend = |what: &str| format!("give the server a certificate {what}{}", or_pin(leaf));
    match leaf {
        PeerFacts { version: 0, .. } => (
            "the server's certificate cannot be read".into(),
            "look at it with openssl s_client -showcerts, and give the server a new one".into(),
        ),
        PeerFacts { version: version @ (1 | 2), .. } => (
            format!(
                "the server's certificate {subject} is X.509 v{version}, which has no names that could be checked"
            ),
            mend("with subjectAltName (any tool of this century makes X.509 v3)"),
        ),
        PeerFacts { ca: true, self_signed: true, .. } => (
            format!(
                "the server's certificate {subject} is self-signed and says that it is a CA (CA:TRUE), which no server's may be"
            ),
            mend("of its own, with CA:FALSE and subjectAltName"),
        ),
        PeerFacts { ca: true, .. } => (
            format!(
                "the server's certificate {subject} says that it is a CA (CA:TRUE), which no server's may be"
            ),
            mend("of its own, with CA:FALSE"),
        ),
        PeerFacts { .. } => {
            (format!("the server's certificate {subject} was refused: {error}"), mend("that is in order"))
        }
    }
}

/// The other way out, ready to paste. Whoever pastes it vouches for the key, so it says to look first.
fn or_pin(leaf: &PeerFacts) -> String {
    match &leaf.pin {
        Some(pin) => format!(
            "; or, once you are sure that it is this server's own (serial {}), pin its key: pins = [\"{pin}\"]",
            leaf.serial
        ),
        None => String::new(),
    }
}

fn unpinned(leaf: &PeerFacts, tls: &ClientTls) -> (String, String) {
    let count = match &tls.trust {
        TrustSummary::Pins(count) => *count,
        TrustSummary::Chain { .. } | TrustSummary::Anything => 0,
    };
    let pins = if count == 1 { "the pin" } else { "any of the pins" };
    let mend = match &leaf.pin {
        Some(pin) => format!("if the server was given a new key, and only then, add it: pins = [\"{pin}\"]"),
        None => "its key cannot be read; pin the certificate by leaf-sha256 if it is the right one".into(),
    };
    (
        format!(
            "the server's certificate {} (serial {}, valid from {}) does not match {pins} of this upstream",
            leaf.subject, leaf.serial, leaf.not_before
        ),
        mend,
    )
}

fn date(time: UnixTime) -> Date {
    Date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

fn expired(which: &PeerFacts, leaf: &PeerFacts, now: Date) -> (String, String) {
    let until = which.not_after;
    let whose =
        if which == leaf { "the server's certificate" } else { "in the server's chain the certificate" };
    (
        format!(
            "{whose} {} expired at {until}, {} ago (this host's clock says {now})",
            which.subject,
            until.apart(now)
        ),
        "have it renewed at the server, and the server reloaded; or set this host's clock right".into(),
    )
}

fn not_yet(which: &PeerFacts, now: Date) -> (String, String) {
    let from = which.not_before;
    (
        format!(
            "the server's certificate {} is valid only from {from}, in {} (this host's clock says {now})",
            which.subject,
            from.apart(now)
        ),
        "set this host's clock right; if it is, the server was given its certificate too early".into(),
    )
}

fn wrong_name(expected: Option<&ServerName<'_>>, leaf: &PeerFacts) -> (String, String) {
    let wanted = expected.map_or_else(|| "the expected name".into(), |name| name.to_str().into_owned());
    let subject = &leaf.subject;
    if leaf.san.is_empty() {
        return (
            format!(
                "the server's certificate {subject} has its name only in the subject, without subjectAltName, and cannot be checked for {wanted}"
            ),
            format!("give the server a certificate for {wanted} (subjectAltName){}", or_pin(leaf)),
        );
    }
    let names = leaf.san.join(", ");
    let first = leaf.san.iter().find(|name| !name.starts_with("*."));
    let or_name = match first {
        Some(name) => format!("set server_name = \"{name}\" if that is the server that is meant"),
        None => "set `server_name` to a name that it covers, if that is the server that is meant".into(),
    };
    let is_address = matches!(expected, Some(ServerName::IpAddress(_)));
    let has_address = leaf.san.iter().any(|name| name.parse::<std::net::IpAddr>().is_ok());
    match is_address && !has_address {
        true => (
            format!(
                "the server is addressed as {wanted}, and its certificate is valid for {names}, but for no address"
            ),
            format!("{or_name}; or give it a certificate for the address {wanted} (subjectAltName)"),
        ),
        false => (
            format!("the server's certificate is valid for {names}, not for {wanted}"),
            format!("{or_name}; or give it a certificate for {wanted} (subjectAltName)"),
        ),
    }
}

fn unknown_issuer(leaf: &PeerFacts, chain: &[PeerFacts], tls: &ClientTls) -> (String, String) {
    let TrustSummary::Chain { place, subjects } = &tls.trust else {
        return legacy(&CertificateError::UnknownIssuer, leaf);
    };
    if leaf.self_signed {
        return (
            format!("the server's certificate {} is self-signed, and not in {place}", leaf.subject),
            match &leaf.pin {
                Some(pin) => format!(
                    "once you are sure that it is this server's own (serial {}), pin its key: pins = [\"{pin}\"]; or give the server a certificate of your CA",
                    leaf.serial
                ),
                None => "give the server a certificate of your CA".into(),
            },
        );
    }
    // Up the chain as far as the server sent it: the last issuer is the one that is missing.
    let mut top = leaf;
    for _ in chain {
        match chain.iter().find(|facts| facts.subject == top.issuer && *facts != top) {
            Some(above) if !above.self_signed => top = above,
            Some(_) | None => break,
        }
    }
    let issuer = &top.issuer;
    let known = match subjects.as_slice() {
        [] => String::new(),
        subjects => format!(" (there is {})", subjects.join(" and ")),
    };
    if subjects.contains(issuer) {
        return (
            format!(
                "the server's certificate {} names {issuer} as its issuer, but was not signed by the {issuer} in {place}: there are two of that name",
                leaf.subject
            ),
            format!(
                "put the newer CA certificate into {place}, beside the old one; or the server's certificate is of an earlier CA and wants renewing"
            ),
        );
    }
    let intermediate = match chain.len() {
        1 => ", or, if that is an intermediate, let the server send it along with its own certificate",
        _ => "",
    };
    let add = match place.as_str() {
        SYSTEM_ROOTS => format!("set `ca` to a file with the certificate of {issuer}"),
        place => format!("add the certificate of {issuer} to {place}"),
    };
    (
        format!(
            "the server's certificate {} was issued by {issuer}, which is not in {place}{known}",
            leaf.subject
        ),
        format!("{add} if you trust it{intermediate}"),
    )
}

fn weak_key(chain: &[PeerFacts]) -> Option<&PeerFacts> {
    chain.iter().find(|facts| facts.rsa_bits.is_some_and(|bits| bits < 2048))
}

fn weak_key_text(weak: &PeerFacts) -> (String, String) {
    (
        format!(
            "the server's certificate {} has a key that is too weak to check: {}",
            weak.subject, weak.key
        ),
        "give the server a new key: RSA with 2048 bits or more, or EC P-256".into(),
    )
}

fn weak_or_forged(chain: &[PeerFacts], tls: &ClientTls) -> (String, String) {
    if let Some(weak) = weak_key(chain) {
        return weak_key_text(weak);
    }
    let leaf = &chain[0];
    match &tls.trust {
        TrustSummary::Chain { place, subjects } if subjects.contains(&leaf.issuer) => (
            format!(
                "the server's certificate {} was not signed by the {} in {place}: there are two of that name",
                leaf.subject, leaf.issuer
            ),
            format!("put the newer CA certificate into {place}, beside the old one"),
        ),
        _ => (
            format!("the server did not prove that it holds the key of its certificate {}", leaf.subject),
            "the server's certificate and key do not belong together, or somebody stands between".into(),
        ),
    }
}

fn odd_signature(oid: &[u8], leaf: &PeerFacts) -> (String, String) {
    let what = match OUTDATED.iter().find(|(outdated, _)| *outdated == oid) {
        Some((_, hash)) => format!("is signed with {hash}, which no longer proves anything"),
        None => "is signed by an algorithm that nuncio does not have".into(),
    };
    (
        format!("the server's certificate {}, or one in its chain, {what}", leaf.subject),
        format!("have it issued anew with SHA-256{}", or_pin(leaf)),
    )
}
