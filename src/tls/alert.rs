//! What a server's TLS alerts mean to somebody whose connection they ended, during the handshake and after it.
//!
//! Owns the table of alerts: each that rustls has a name for stands in it (a test holds that). In TLS 1.3 a client is
//! done before the server has looked at its certificate, so that the refusal arrives where the relay already runs.

use rustls::AlertDescription as Alert;

use super::client::ClientTls;
use crate::failure::{Failure, Reason, Stage};
use crate::relay::How;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// The server misses our certificate.
    CertificateMissed,
    /// The server does not accept our certificate.
    CertificateRefused,
    /// We and the server have nothing in common; or, late in a handshake, the same as the two above.
    NothingInCommon,
    /// The server has no TLS version that we have.
    Version,
    /// The server has no certificate for the name we asked for.
    Name,
    /// The server speaks none of the protocols we offered.
    Alpn,
    /// Bytes that the server did not understand, or that were changed on the way.
    Garbled,
    /// The server's own trouble.
    Server,
}

/// The alert's name in the RFCs, and what it is about; `None` for numbers that no RFC has named.
fn known(alert: Alert) -> Option<(&'static str, About)> {
    use About::*;
    Some(match alert {
        Alert::CloseNotify => ("close_notify", Server),
        Alert::UnexpectedMessage => ("unexpected_message", Garbled),
        Alert::BadRecordMac => ("bad_record_mac", Garbled),
        Alert::DecryptionFailed => ("decryption_failed", Garbled),
        Alert::RecordOverflow => ("record_overflow", Garbled),
        Alert::DecompressionFailure => ("decompression_failure", Garbled),
        Alert::HandshakeFailure => ("handshake_failure", NothingInCommon),
        Alert::NoCertificate => ("no_certificate", CertificateMissed),
        Alert::BadCertificate => ("bad_certificate", CertificateRefused),
        Alert::UnsupportedCertificate => ("unsupported_certificate", CertificateRefused),
        Alert::CertificateRevoked => ("certificate_revoked", CertificateRefused),
        Alert::CertificateExpired => ("certificate_expired", CertificateRefused),
        Alert::CertificateUnknown => ("certificate_unknown", CertificateRefused),
        Alert::IllegalParameter => ("illegal_parameter", Garbled),
        Alert::UnknownCA => ("unknown_ca", CertificateRefused),
        Alert::AccessDenied => ("access_denied", CertificateRefused),
        Alert::DecodeError => ("decode_error", Garbled),
        Alert::DecryptError => ("decrypt_error", Garbled),
        Alert::ExportRestriction => ("export_restriction", NothingInCommon),
        Alert::ProtocolVersion => ("protocol_version", Version),
        Alert::InsufficientSecurity => ("insufficient_security", NothingInCommon),
        Alert::InternalError => ("internal_error", Server),
        Alert::InappropriateFallback => ("inappropriate_fallback", Version),
        Alert::UserCanceled => ("user_canceled", Server),
        Alert::NoRenegotiation => ("no_renegotiation", Server),
        Alert::MissingExtension => ("missing_extension", Garbled),
        Alert::UnsupportedExtension => ("unsupported_extension", Garbled),
        Alert::CertificateUnobtainable => ("certificate_unobtainable", CertificateRefused),
        Alert::UnrecognisedName => ("unrecognized_name", Name),
        Alert::BadCertificateStatusResponse => ("bad_certificate_status_response", Garbled),
        Alert::BadCertificateHashValue => ("bad_certificate_hash_value", CertificateRefused),
        Alert::UnknownPSKIdentity => ("unknown_psk_identity", Garbled),
        Alert::CertificateRequired => ("certificate_required", CertificateMissed),
        Alert::NoApplicationProtocol => ("no_application_protocol", Alpn),
        Alert::EncryptedClientHelloRequired => ("ech_required", Garbled),
        _ => return None,
    })
}

/// `unknown_ca (48)`.
pub(super) fn spelled(alert: Alert) -> String {
    match known(alert) {
        Some((name, _)) => format!("{name} ({})", u8::from(alert)),
        None => format!("{}, which has no name", u8::from(alert)),
    }
}

/// An alert during the handshake. `asked`: the server asked for our certificate before; `at_hello`: the alert was the
/// very first that it sent.
pub(super) fn in_handshake(alert: Alert, asked: bool, at_hello: bool, tls: &ClientTls) -> Failure {
    let received = |detail: String| Failure::upstream(Stage::Handshake, Reason::TlsAlertReceived, detail);
    let name = spelled(alert);
    let plain = || received(format!("the server ended the handshake with the alert {name}"));
    let about = known(alert).map_or(About::Server, |(_, about)| about);
    match about {
        About::CertificateMissed | About::CertificateRefused if !at_hello => certificate_refused(Some(alert), tls),
        About::NothingInCommon if asked => certificate_refused(Some(alert), tls),
        About::Garbled if asked && alert == Alert::DecryptError => certificate_refused(Some(alert), tls),
        About::NothingInCommon => received(format!(
            "the server has no way of doing TLS with us (alert {name}): it may have only old ciphers (RSA key exchange, CBC), or no certificate for this name"
        ))
        .mend(format!("{CIPHERS}; or set `server_name` to a name that it has a certificate for")),
        About::Version => received(format!(
            "the server has none of the TLS versions that nuncio offers, {} (alert {name})",
            tls.versions()
        ))
        .mend(tls.version_mend()),
        About::Name => received(format!("the server has no certificate for the name it was asked for (alert {name})"))
            .mend("set `server_name` to a name that the server has a certificate for"),
        About::Alpn => received(format!("the server speaks none of the protocols in `alpn` (alert {name})"))
            .mend("set `alpn` to what the server speaks, or leave it out"),
        About::Garbled | About::Server | About::CertificateMissed | About::CertificateRefused => plain(),
    }
}

/// Which settings give an old server a cipher suite that TLS 1.2 with forward secrecy needs.
pub(super) const CIPHERS: &str = "give the server an ECDHE suite with AES-GCM, such as ECDHE-RSA-AES128-GCM-SHA256 (ssl_ciphers in PostgreSQL and nginx, ssl_cipher in MySQL, tls_high_cipherlist in Postfix)";

/// The server would not let us in: what it said, what we showed, and whose certificates it takes.
/// `alert`: `None` when it hung up without one.
pub(super) fn certificate_refused(alert: Option<Alert>, tls: &ClientTls) -> Failure {
    let how = match alert {
        Some(alert) => format!("with the alert {}", spelled(alert)),
        None => "by closing the connection".into(),
    };
    let refused =
        |detail: String| Failure::upstream(Stage::Handshake, Reason::ClientCertificateRefused, detail);
    let accepted = match tls.presenter.accepted() {
        [] => String::new(),
        issuers => format!("; it says that it accepts certificates issued by {}", issuers.join(" or ")),
    };
    let Some(ours) = &tls.ours else {
        let ended = match alert {
            Some(_) => format!("ended the connection {how}"),
            None => "closed the connection".into(),
        };
        return refused(format!(
            "the server demands a client certificate and {ended}; none is configured{accepted}"
        ))
        .mend("set `certificate` and `key` in the [identity] that the upstream uses");
    };
    let (subject, issuer) = (&ours.facts.subject, &ours.facts.issuer);
    let detail = format!("the server refused our certificate {subject}, issued by {issuer}, {how}{accepted}");
    let mend = match alert {
        Some(Alert::UnknownCA) if tls.presenter.accepted().contains(issuer) => format!(
            "the server's CA file has another {issuer}, an older or a newer one: put the one that issued our certificate beside it"
        ),
        Some(Alert::UnknownCA) => format!(
            "add {issuer} to the CA file that the server checks clients against, or present a certificate of an issuer that is in it; if there are issuers between, add theirs behind ours in {}",
            ours.path.display()
        ),
        Some(Alert::CertificateExpired) => format!(
            "ours is valid until {}: if that is in the future, is the server's clock right?",
            ours.facts.not_after
        ),
        Some(Alert::CertificateRevoked) => "have a new certificate issued; this one was revoked".into(),
        Some(Alert::AccessDenied) => {
            format!(
                "the certificate is in order, but its owner may not come in: let {subject} in at the server"
            )
        }
        // What servers say of a certificate whose signature does not fit the CA of that name.
        Some(Alert::DecryptError) => format!(
            "a signature did not hold: has the server another {issuer} in its CA file, an older or a newer one? Put the one that issued our certificate there"
        ),
        Some(_) | None => format!(
            "look in the server's log for what it missed: is {issuer} in its CA file, is the certificate in date there, and meant for client authentication?"
        ),
    };
    refused(detail).mend(mend)
}

/// What the end of a relayed connection says about TLS; `None` where it says nothing.
///
/// `upstream_spoke`: a byte of the server had arrived. Before that, and only then, an alert that is not plainly about
/// certificates may still be one about ours, and a broken connection may have lost its alert to a reset.
pub fn late_failure(how: &How, upstream_spoke: bool, tls: &ClientTls) -> Option<Failure> {
    match how {
        How::TlsAlert(alert) => {
            let about = known(*alert).map(|(_, about)| about);
            let fresh = !upstream_spoke && tls.presenter.ever_asked();
            Some(match about {
                Some(About::CertificateMissed | About::CertificateRefused) => certificate_refused(Some(*alert), tls),
                Some(About::NothingInCommon) if fresh => certificate_refused(Some(*alert), tls),
                Some(About::Garbled) if fresh && *alert == Alert::DecryptError => {
                    certificate_refused(Some(*alert), tls)
                }
                Some(
                    About::NothingInCommon | About::Version | About::Name | About::Alpn | About::Garbled | About::Server,
                )
                | None => Failure::upstream(
                    Stage::Relay,
                    Reason::TlsAlertReceived,
                    format!("the server ended the connection with the alert {}", spelled(*alert)),
                ),
            })
        }
        How::TlsError(error) => Some(
            Failure::upstream(
                Stage::Relay,
                Reason::TlsProtocolError,
                format!("the server's TLS records could not be read: {error}"),
            )
            .mend("something between nuncio and the server changed bytes, or the server's TLS has a fault; its log may say more"),
        ),
        // A server that is done with us before it read what we sent resets, and the reset may overtake its alert.
        How::UpstreamReset | How::Truncated if !upstream_spoke && tls.presenter.ever_asked() => {
            Some(match &tls.ours {
                None => certificate_refused(None, tls),
                Some(ours) => Failure::upstream(
                    Stage::Relay,
                    Reason::EarlyClose,
                    "the server took the handshake, asked for our certificate in it, and hung up before its first byte",
                )
                .mend(format!(
                    "look in the server's log: it may have refused our certificate {}, issued by {}",
                    ours.facts.subject, ours.facts.issuer
                )),
            })
        }
        How::Closed
        | How::ClientReset
        | How::Vanished(_)
        | How::UpstreamReset
        | How::Truncated
        | How::Io { .. }
        | How::IdleTimeout
        | How::HalfCloseTimeout
        | How::LifetimeReached
        | How::TlsNotAskedFor
        | How::Stopped
        | How::Objected(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_that_rustls_has_a_name_for_stands_in_the_table() {
        let mut names = Vec::new();
        for number in 0..=u8::MAX {
            let alert = Alert::from(number);
            let unnamed = matches!(alert, Alert::Unknown(_));
            assert_eq!(known(alert).is_none(), unnamed, "{alert:?}");
            names.extend(known(alert).map(|(name, _)| name));
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
