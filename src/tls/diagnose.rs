//! Why a handshake failed, and what would mend it: from what rustls said, what the server sent, and what was configured.
//!
//! Owns everything but certificates (`refusal`) and alerts (`alert`). Guesses are worded as guesses.

use std::io;
use std::time::Duration;

use rustls::{Error, InvalidMessage, PeerIncompatible};

use super::client::ClientTls;
use super::greeting::{self, Remedy};
use super::handshake::{HandshakeCause, Progress};
use super::verify::Seen;
use super::{alert, refusal};
use crate::failure::{Failure, Reason, Side, Stage};

/// What fits into one Ethernet frame; the old firewalls that choke on a ClientHello choke on one of two packets.
const ONE_PACKET: usize = 1400;

/// What a server may be that closes at our ClientHello or never answers it.
const CLIENT_FIRST: &str = "does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = \"postgres\", \"ldap\", \"sqlserver\"; tls = \"negotiate\")";

/// What keeps a server from TLS that had just agreed to it.
const AGREED: &str = "look in the server's log for why it did not begin the TLS that it had agreed to: its certificate or key may not load";

/// What to ask where a server did not answer our ClientHello.
fn unanswered(tls: &ClientTls) -> &'static str {
    if tls.negotiated { AGREED } else { CLIENT_FIRST }
}

fn failure(reason: Reason, detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Handshake, reason, detail)
}

/// Makes the failure of a handshake that ended by itself.
pub(super) fn diagnose(cause: HandshakeCause, progress: &Progress, seen: &Seen, tls: &ClientTls) -> Failure {
    if !greeting::may_be_tls(&progress.received) {
        return not_tls(&progress.received);
    }
    match cause {
        HandshakeCause::NotTls => not_tls(&progress.received),
        HandshakeCause::Eof => hung_up("closed the connection", progress, seen, tls),
        HandshakeCause::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                hung_up("reset the connection", progress, seen, tls)
            }
            io::ErrorKind::UnexpectedEof => hung_up("closed the connection", progress, seen, tls),
            io::ErrorKind::TimedOut => failure(
                Reason::HandshakeTimeout,
                "the network gave up on the connection during the TLS handshake: the server acknowledges nothing",
            )
            .mend(timeout_mend(progress, tls)),
            _ => failure(Reason::ConnectionTerminated, format!("the connection broke during the TLS handshake: {error}")),
        },
        HandshakeCause::Tls(error) => from_rustls(&error, progress, seen, tls),
    }
}

/// Makes the failure of a handshake that was not done in time.
pub(super) fn timed_out(limit: Duration, progress: &Progress, seen: &Seen, tls: &ClientTls) -> Failure {
    let limit = humantime::format_duration(limit);
    if !greeting::may_be_tls(&progress.received) {
        return not_tls(&progress.received);
    }
    if seen.asked {
        return failure(
            Reason::HandshakeTimeout,
            format!("the server asked for a client certificate and then said nothing more within {limit}"),
        )
        .mend("look in the server's log: it may wait for an answer about our certificate (OCSP, CRL, a directory)");
    }
    if !progress.received.is_empty() {
        return failure(
            Reason::HandshakeTimeout,
            format!("the server began the TLS handshake and did not finish it within {limit}"),
        )
        .mend(
            "is the server overloaded? If large packets get lost on the way (a tunnel, a VPN), lower the MTU",
        );
    }
    failure(
        Reason::HandshakeTimeout,
        format!(
            "the server took the connection and did not answer our first TLS message (ClientHello, {} bytes) within {limit}",
            progress.hello_bytes
        ),
    )
    .mend(timeout_mend(progress, tls))
}

fn timeout_mend(progress: &Progress, tls: &ClientTls) -> String {
    let first = unanswered(tls);
    let otherwise = if tls.negotiated { "or" } else { "if it does," };
    match tls.post_quantum && progress.hello_bytes > ONE_PACKET {
        true => format!(
            "{first}; {otherwise} an old firewall or server may drop a message of more than one packet: set `post_quantum = false`"
        ),
        false => first.into(),
    }
}

fn not_tls(received: &[u8]) -> Failure {
    let Some(greeting) = greeting::recognise(received) else {
        let first: Vec<String> = received.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return failure(
            Reason::TlsProtocolError,
            format!("the server does not answer in TLS; its first bytes are {}", first.join(" ")),
        )
        .mend("which protocol does this port speak? If it starts TLS by a message, set `protocol` to it; else name the port that speaks TLS");
    };
    let name = greeting.name;
    match greeting.remedy {
        Remedy::Protocol(protocol) => failure(
            Reason::TlsProtocolError,
            "the server speaks plaintext where TLS was expected",
        )
        .mend(format!("this looks like {name}: set protocol = \"{protocol}\"")),
        Remedy::NoTls => failure(
            Reason::TlsProtocolError,
            format!("the server speaks plaintext {name} and has no TLS on this port"),
        )
        .mend(format!("name the port on which {name} has TLS, or switch TLS on there; tls = \"off\" sends everything in plaintext")),
        Remedy::NotATlsProtocol => failure(
            Reason::TlsProtocolError,
            format!("the server speaks {name}, which has its own encryption and no TLS"),
        )
        .mend("is the port right? If it is, tls = \"off\" passes it on as it is"),
    }
}

fn hung_up(how: &str, progress: &Progress, seen: &Seen, tls: &ClientTls) -> Failure {
    if progress.received.is_empty() {
        let failure = failure(
            Reason::ConnectionTerminated,
            format!("the server {how} at our first TLS message (ClientHello), without an answer"),
        );
        let first = unanswered(tls);
        let otherwise = if tls.negotiated { "or" } else { "if it does," };
        return match tls.post_quantum && progress.hello_bytes > ONE_PACKET {
            true => failure.mend(format!(
                "{first}; {otherwise} an old TLS library may choke on a message of {} bytes: set `post_quantum = false`",
                progress.hello_bytes
            )),
            false => failure.mend(first),
        };
    }
    if seen.asked && tls.ours.is_none() {
        return alert::certificate_refused(None, tls);
    }
    let asked = match seen.asked {
        true => ", after it had asked for our certificate",
        false => "",
    };
    failure(
        Reason::ConnectionTerminated,
        format!("the server {how} in the middle of the TLS handshake{asked}"),
    )
    .mend("look in the server's log for why it hung up")
}

fn from_rustls(error: &Error, progress: &Progress, seen: &Seen, tls: &ClientTls) -> Failure {
    let protocol = |detail: String| failure(Reason::TlsProtocolError, detail);
    match error {
        Error::AlertReceived(received) => {
            let at_hello = progress.received.first() == Some(&0x15);
            alert::in_handshake(*received, seen.asked, at_hello, tls)
        }
        Error::InvalidCertificate(why) => refusal::refused(why, &seen.chain, tls),
        Error::NoCertificatesPresented => {
            failure(Reason::TlsCertificateError, "the server has no certificate").mend(
                "give the server a certificate; anonymous ciphers protect from nobody who stands between",
            )
        }
        Error::PeerIncompatible(why) => incompatible(why, tls),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => not_tls(&progress.received),
        Error::NoApplicationProtocol => protocol("the server speaks none of the protocols in `alpn`".into())
            .mend("set `alpn` to what the server speaks, or leave it out"),
        Error::PeerMisbehaved(why) => protocol(format!("the server broke the rules of TLS: {why:?}")).mend(
            "the server's TLS library is at fault, or something between changes the handshake; update it",
        ),
        Error::InvalidMessage(why) => {
            protocol(format!("the server sent a TLS message that cannot be read: {why:?}"))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            protocol(format!("the server sent a TLS message out of turn: {error}"))
        }
        Error::DecryptError => {
            protocol("the server's TLS records were changed on the way, or encrypted wrongly".into())
        }
        Error::PeerSentOversizedRecord => {
            protocol("the server sent a TLS record that is larger than allowed".into())
        }
        Error::UnsupportedNameType
        | Error::EncryptError
        | Error::FailedToGetCurrentTime
        | Error::FailedToGetRandomBytes
        | Error::HandshakeNotComplete
        | Error::BadMaxFragmentSize
        | Error::InconsistentKeys(_)
        | Error::General(_) => Failure::new(
            Stage::Handshake,
            Reason::ProxyInternalError,
            Side::Ambassador,
            format!("TLS: {error}"),
        ),
        Error::InvalidEncryptedClientHello(_) | Error::InvalidCertRevocationList(_) | Error::Other(_) => {
            protocol(error.to_string())
        }
        _ => protocol(error.to_string()),
    }
}

/// The server's choice is one that we do not have, or the other way round.
fn incompatible(why: &PeerIncompatible, tls: &ClientTls) -> Failure {
    let protocol = |detail: String| failure(Reason::TlsProtocolError, detail);
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13 => {
            protocol("the server answers with TLS 1.1 or older, which nuncio does not speak".into())
                .mend(tls.version_mend())
        }
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            protocol(format!("the server has none of the TLS versions that nuncio offers, {}", tls.versions()))
                .mend(tls.version_mend())
        }
        PeerIncompatible::NoCipherSuitesInCommon => {
            protocol("the server chose a cipher suite that nuncio does not have".into()).mend(alert::CIPHERS)
        }
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::EcPointsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => {
            protocol("the server has no key exchange that nuncio has".into())
                .mend("allow X25519, P-256 or P-384 at the server (ssl_ecdh_curve in nginx, ssl_groups or ssl_ecdh_curve in PostgreSQL)")
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            protocol("the server signs in no way that nuncio can check".into())
                .mend("give the server a key of RSA from 2048 bits, EC P-256, P-384 or P-521, or Ed25519, and allow SHA-256")
        }
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            protocol("the server does not bind its TLS 1.2 sessions to their handshake (extended master secret)".into())
                .mend("update the server's TLS library, or switch on TLS 1.3")
        }
        PeerIncompatible::IncorrectCertificateTypeExtension
        | PeerIncompatible::UnsolicitedCertificateTypeExtension
        | PeerIncompatible::NullCompressionRequired
        | PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::ServerRejectedEncryptedClientHello(_) => {
            protocol(format!("the server's TLS does not fit ours: {why:?}"))
        }
        _ => protocol(format!("the server's TLS does not fit ours: {why:?}")),
    }
}
