//! reply: what a failure is called in SOCKS5 and in HTTP.
//!
//! One row a reason, without a catch-all: a new reason does not compile until it has its row.

use crate::failure::Reason;

/// RFC 1928, section 6.
pub(super) mod socks {
    pub(crate) const GENERAL: u8 = 1;
    pub(crate) const NOT_ALLOWED: u8 = 2;
    pub(crate) const NETWORK_UNREACHABLE: u8 = 3;
    pub(crate) const HOST_UNREACHABLE: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
    /// What clients print as a time-out.
    pub(crate) const TTL_EXPIRED: u8 = 6;
    pub(crate) const COMMAND_UNSUPPORTED: u8 = 7;
    pub(crate) const ADDRESS_UNSUPPORTED: u8 = 8;
}

/// The status and the reply code. The status is the one that RFC 9209 recommends for the reason's registered name; but where
/// the client asked for what the file does not have, 403: it is no fault of this host's, and trying again is in vain.
pub(super) fn codes(reason: Reason) -> (u16, u8) {
    use socks::{GENERAL, HOST_UNREACHABLE, NETWORK_UNREACHABLE, NOT_ALLOWED, REFUSED, TTL_EXPIRED};
    match reason {
        Reason::DnsTimeout => (504, HOST_UNREACHABLE),
        Reason::DnsError => (502, HOST_UNREACHABLE),
        Reason::DestinationNotFound | Reason::DestinationIpProhibited => (403, NOT_ALLOWED),
        Reason::DestinationUnavailable | Reason::CircuitOpen => (503, HOST_UNREACHABLE),
        Reason::DestinationIpUnroutable => (502, NETWORK_UNREACHABLE),
        Reason::ConnectionRefused => (502, REFUSED),
        Reason::ConnectionTerminated
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset => (502, GENERAL),
        Reason::ConnectionTimeout | Reason::EstablishTimeout => (504, TTL_EXPIRED),
        Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::PeerVanished
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout => (504, TTL_EXPIRED),
        Reason::ConnectionLimitReached | Reason::QueueTimeout => (503, GENERAL),
        Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::ClientCertificateRefused
        | Reason::NegotiationRefused
        | Reason::NegotiationError => (502, GENERAL),
        Reason::ProxyLoopDetected => (502, NOT_ALLOWED),
        Reason::ProxyConfigurationError | Reason::ProxyInternalError => (500, GENERAL),
        Reason::LifetimeReached | Reason::Draining => (503, GENERAL),
        Reason::PrefaceTimeout => (408, GENERAL),
        Reason::AdmissionDenied => (403, NOT_ALLOWED),
        Reason::BadPreface => (400, GENERAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_sounds_like_success() {
        for reason in Reason::ALL {
            let (status, code) = codes(*reason);
            assert!((400..=599).contains(&status) && (1..=8).contains(&code), "{reason}");
        }
    }
}
