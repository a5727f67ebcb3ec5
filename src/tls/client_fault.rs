//! Why a client's TLS with a listener came to nothing, in words: what it said of us, or we of it.
//!
//! Owns what the alerts of clients mean for whoever configured the listener. Leaves those of servers to `alert`.

use rustls::{AlertDescription as Alert, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::alert::spelled;
use super::server::{NotAmongThem, ServerTls, Shown};
use crate::failure::{Failure, Reason, Side, Stage};

impl ServerTls {
    /// What there is to say of a client whose TLS failed with this error; `None`: it left during its handshake, and did not
    /// say why.
    pub fn explain(&self, stage: Stage, error: Option<&Error>) -> Failure {
        let (reason, detail, mend) = match error {
            None => (
                Reason::ClientReset,
                "the client left in the middle of its TLS handshake with nuncio, and did not say why"
                    .to_owned(),
                format!(
                    "look in its log for why; if it does not trust the certificate, {}",
                    self.for_a_client_without_trust()
                ),
            ),
            Some(Error::AlertReceived(alert)) => self.refused_with(*alert),
            Some(error) => self.refuses(error),
        };
        Failure::new(stage, reason, Side::Client, detail).mend(mend)
    }

    /// The client does not go on with us.
    fn refused_with(&self, alert: Alert) -> (Reason, String, String) {
        let shown = match &self.shown {
            Shown::Identity { path, facts } => {
                format!("the listener's certificate ({}, in {})", facts.subject, path.display())
            }
            Shown::SelfMade(_) => "the listener's self-made certificate".to_owned(),
        };
        let alert_said = spelled(alert);
        let (meaning, mend) = match alert {
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::DecryptError => {
                (format!("it does not trust {shown}"), self.for_a_client_without_trust())
            }
            Alert::CertificateExpired => (
                format!("by its clock {shown} is out of date"),
                "have the certificate renewed, or set the client's clock right".to_owned(),
            ),
            Alert::UnrecognisedName => (
                format!("the name that it connects to is not one of {shown}"),
                "let it connect by a name that the certificate carries, or have that name put into it"
                    .to_owned(),
            ),
            Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity => {
                ("it has no TLS version or cipher in common with nuncio".to_owned(), OLD_CLIENT.to_owned())
            }
            Alert::UserCanceled | Alert::CloseNotify => (
                "it gave up before its handshake was done".to_owned(),
                "look in the client's log for why it gave up".to_owned(),
            ),
            _ => (
                format!("it could not go on with {shown}"),
                "look in the client's log for why it gave up".to_owned(),
            ),
        };
        let detail =
            format!("the client ended its TLS handshake with nuncio by the alert {alert_said}: {meaning}");
        (Reason::TlsAlertReceived, detail, mend)
    }

    fn for_a_client_without_trust(&self) -> String {
        match &self.shown {
            Shown::Identity { facts, .. } => format!(
                "let the client trust the issuer of that certificate ({}), and connect by a name that it carries ({})",
                facts.issuer,
                match facts.san.is_empty() {
                    true => "none".to_owned(),
                    false => facts.san.join(", "),
                }
            ),
            Shown::SelfMade(_) => "no client can verify a self-made certificate: give the listener an `identity` whose \
                                   issuer the client trusts, or let the client encrypt without verifying (sslmode=require)"
                .to_owned(),
        }
    }

    /// We do not go on with the client.
    fn refuses(&self, error: &Error) -> (Reason, String, String) {
        match error {
            Error::NoCertificatesPresented => (
                Reason::AdmissionDenied,
                "the client showed no certificate, and this listener's client_names ask for one".to_owned(),
                format!("give the client a certificate for {}{}", self.names(), self.issued()),
            ),
            Error::InvalidCertificate(why) => self.certificate_refused(why),
            Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => (
                Reason::TlsProtocolError,
                "the client cannot use the kind of key that the listener's certificate has".to_owned(),
                "give the listener's `identity` an RSA certificate, which the oldest clients know".to_owned(),
            ),
            Error::PeerIncompatible(why) => (
                Reason::TlsProtocolError,
                format!("the client's TLS is too old or too narrow for nuncio: {why:?}"),
                OLD_CLIENT.to_owned(),
            ),
            Error::NoApplicationProtocol => (
                Reason::TlsProtocolError,
                format!("the client speaks none of this listener's protocols: it offered no ALPN {}", self.alpn.unwrap_or("")),
                "is this the listener that the client is meant for?".to_owned(),
            ),
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => (
                Reason::TlsProtocolError,
                "the client sent something else where its TLS handshake was due: plaintext, or what somebody slipped in".to_owned(),
                "switch TLS on in the client as the listener has it (tls_mode), or write tls = \"optional\" here".to_owned(),
            ),
            other => (
                Reason::TlsProtocolError,
                format!("the client's TLS failed: {other}"),
                "look in the client's log, and whether something on the way changes its bytes".to_owned(),
            ),
        }
    }

    fn certificate_refused(&self, why: &CertificateError) -> (Reason, String, String) {
        if let CertificateError::Other(other) = why
            && let Some(NotAmongThem { subject, names }) = other.0.downcast_ref()
        {
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            return (
                Reason::AdmissionDenied,
                format!(
                    "the client's certificate {subject} carries {names}, and client_names has none of that"
                ),
                "add one of these names to the listener's `client_names`, if this client may come".to_owned(),
            );
        }
        let ca = self.asked.as_ref().map(|asked| asked.ca.display().to_string()).unwrap_or_default();
        let (what, mend) = match why {
            // An authority may share its name with another.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                format!("the client's certificate was issued by none of the authorities in {ca}"),
                format!("give the client a certificate{}, or put its issuer into that file", self.issued()),
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                "the client's certificate is out of date".to_owned(),
                "have it renewed, or set this host's clock right".to_owned(),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                "the client's certificate is not valid yet".to_owned(),
                "set this host's clock right".to_owned(),
            ),
            other => (
                format!("the client's certificate is not taken: {other:?}"),
                format!("give the client another certificate{}", self.issued()),
            ),
        };
        (Reason::AdmissionDenied, what, mend)
    }

    fn names(&self) -> String {
        self.asked.as_ref().map(|asked| asked.names.join(" or ")).unwrap_or_default()
    }

    fn issued(&self) -> String {
        match self.asked.as_ref().map(|asked| asked.subjects.join(" or ")) {
            Some(subjects) if !subjects.is_empty() => format!(" issued by {subjects}"),
            _ => String::new(),
        }
    }
}

const OLD_CLIENT: &str = "nuncio speaks TLS 1.2 and 1.3: update the client's TLS library, or let it connect in plaintext over \
                          loopback (tls = \"optional\" or \"off\")";
