//! Every way in which a connection can fail, in one closed vocabulary: stage, reason, side, and what to do next.
//!
//! Owns the tables that map a reason to its label, its breaker class, whether another endpoint may be tried, its
//! RFC 9209 name and its next step. The tables have no catch-all arm: a new reason does not compile until each has its
//! row. Leaves it to the steps to say in `detail` what they saw, and in `mend` what would help in this very case.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// A step of a connection's life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Taking the socket from the kernel.
    Accept,
    /// Who may come, how many, how fast.
    Admit,
    /// Which upstream.
    Route,
    /// Waiting for a place at the upstream.
    Queue,
    /// Name to addresses.
    Resolve,
    /// TCP.
    Connect,
    /// Through an outbound proxy.
    Proxy,
    /// The plaintext messages before TLS.
    Negotiate,
    /// TLS.
    Handshake,
    /// Telling the client what it missed.
    Greet,
    /// Bytes both ways.
    Relay,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 11] = [
        Stage::Accept,
        Stage::Admit,
        Stage::Route,
        Stage::Queue,
        Stage::Resolve,
        Stage::Connect,
        Stage::Proxy,
        Stage::Negotiate,
        Stage::Handshake,
        Stage::Greet,
        Stage::Relay,
    ];

    /// The word in logs and labels.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Accept => "accept",
            Stage::Admit => "admit",
            Stage::Route => "route",
            Stage::Queue => "queue",
            Stage::Resolve => "resolve",
            Stage::Connect => "connect",
            Stage::Proxy => "proxy",
            Stage::Negotiate => "negotiate",
            Stage::Handshake => "handshake",
            Stage::Greet => "greet",
            Stage::Relay => "relay",
        }
    }
}

/// On whose side the cause lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The program that connected to us.
    Client,
    /// The server, or the way to it.
    Upstream,
    /// nuncio, its configuration or its host.
    Ambassador,
}

impl Side {
    /// The word in logs and labels.
    pub fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Upstream => "upstream",
            Side::Ambassador => "ambassador",
        }
    }
}

/// How a connection ended, at the coarsest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Both sides closed in order.
    Success,
    /// Something broke.
    Failed,
    /// We said no.
    Refused,
    /// The client left before it was served, or a drain ended it.
    Cancelled,
}

impl Outcome {
    /// The word in logs and labels.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// What the circuit breaker counts a failure as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerClass {
    /// The endpoint refused or reset the TCP connection, or cannot be reached.
    Refused,
    /// No answer in time: connect, negotiation or handshake.
    Timeout,
    /// TLS or its negotiation failed.
    Handshake,
    /// Our certificate was refused, also after the handshake.
    CertificateRefused,
    /// It took the handshake and ended the connection before its first byte.
    EarlyClose,
    /// It ended the connection without a byte, only later.
    ZeroByte,
    /// Its first answer came too late.
    Slow,
    /// It said itself that it can take nobody now.
    Overloaded,
}

impl BreakerClass {
    /// All classes.
    pub const ALL: [BreakerClass; 8] = [
        BreakerClass::Refused,
        BreakerClass::Timeout,
        BreakerClass::Handshake,
        BreakerClass::CertificateRefused,
        BreakerClass::EarlyClose,
        BreakerClass::ZeroByte,
        BreakerClass::Slow,
        BreakerClass::Overloaded,
    ];

    /// The word in logs and labels.
    pub fn label(self) -> &'static str {
        match self {
            BreakerClass::Refused => "refused",
            BreakerClass::Timeout => "timeout",
            BreakerClass::Handshake => "handshake",
            BreakerClass::CertificateRefused => "certificate_refused",
            BreakerClass::EarlyClose => "early_close",
            BreakerClass::ZeroByte => "zero_byte",
            BreakerClass::Slow => "slow",
            BreakerClass::Overloaded => "overloaded",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident $label:literal = $registered:literal, $class:expr, $again:literal, $next:literal;)*) => {
        /// Why, in one word. The first group is registered by RFC 9209, section 2.3; the second is ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Reason {
            /// All reasons, for tables and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The word in logs, labels and the API.
            pub fn label(self) -> &'static str {
                match self { $(Reason::$variant => $label,)* }
            }

            /// The nearest name in RFC 9209's registry, for `Proxy-Status`.
            pub fn registered(self) -> &'static str {
                match self { $(Reason::$variant => $registered,)* }
            }

            /// What the endpoint's breaker counts it as; `None`: it says nothing about the endpoint.
            pub fn breaker_class(self) -> Option<BreakerClass> {
                use BreakerClass::*;
                match self { $(Reason::$variant => $class,)* }
            }

            /// May another endpoint be tried after this one, while nothing of the client was delivered?
            pub fn may_try_another(self) -> bool {
                match self { $(Reason::$variant => $again,)* }
            }

            /// What the reader should do next, where the failure itself knows nothing better.
            pub fn next_step(self) -> &'static str {
                match self { $(Reason::$variant => $next,)* }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// No DNS server answered in time.
    DnsTimeout "dns_timeout" = "dns_timeout", None, true, "check that the DNS servers in /etc/resolv.conf (or `dns.servers`) answer";
    /// The DNS answered with an error, or the name does not exist.
    DnsError "dns_error" = "dns_error", None, true, "check the spelling of the endpoint's name, and ask the DNS for it by hand";
    /// No upstream answers for the destination that the client asked for.
    DestinationNotFound "destination_not_found" = "destination_not_found", None, false, "add the destination to an upstream's `hosts`";
    /// The upstream has no usable endpoint.
    DestinationUnavailable "destination_unavailable" = "destination_unavailable", None, false, "see which endpoints are down in /api/v1/upstreams, and why";
    /// The address may not be dialled.
    DestinationIpProhibited "destination_ip_prohibited" = "destination_ip_prohibited", None, false, "the host's firewall or policy forbids this address";
    /// There is no route to the address.
    DestinationIpUnroutable "destination_ip_unroutable" = "destination_ip_unroutable", Some(Refused), true, "check the host's routes and whether the address is right";
    /// Nothing listens at the endpoint's port, or a firewall rejects.
    ConnectionRefused "connection_refused" = "connection_refused", Some(Refused), true, "is the server running, and does it listen on this address and port?";
    /// The endpoint ended the connection before it was established.
    ConnectionTerminated "connection_terminated" = "connection_terminated", Some(Refused), true, "look in the server's log for why it hung up";
    /// TCP was not established in time.
    ConnectionTimeout "connection_timeout" = "connection_timeout", Some(Timeout), true, "a firewall that drops, a host that is down, or a wrong address";
    /// A limit on connections was reached.
    ConnectionLimitReached "connection_limit_reached" = "connection_limit_reached", None, false, "raise the limit that the detail names, or find who holds the connections";
    /// The peer did not speak TLS as it should.
    TlsProtocolError "tls_protocol_error" = "tls_protocol_error", Some(Handshake), true, "check that the port speaks TLS from its first byte, and which versions it has";
    /// The server's certificate was not accepted.
    TlsCertificateError "tls_certificate_error" = "tls_certificate_error", Some(Handshake), true, "compare the server's certificate with `ca`, `server_name` and the clock: nuncio probe shows all three";
    /// The server, or a client of a listener with TLS, ended the handshake with an alert.
    TlsAlertReceived "tls_alert_received" = "tls_alert_received", Some(Handshake), true, "the alert's name says what the server missed; its log says more";
    /// The endpoint is this ambassador itself.
    ProxyLoopDetected "proxy_loop_detected" = "proxy_loop_detected", None, true, "point the upstream at the server, not at nuncio's own listener";
    /// The configuration cannot serve this connection.
    ProxyConfigurationError "proxy_configuration_error" = "proxy_configuration_error", None, false, "run nuncio check";
    /// A fault of nuncio's own.
    ProxyInternalError "proxy_internal_error" = "proxy_internal_error", None, false, "this is a defect of nuncio: please report it with the log line";

    /// The circuit of every usable endpoint is open after repeated failures.
    CircuitOpen "circuit_open" = "destination_unavailable", None, false, "mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself";
    /// The server said no to starting TLS.
    NegotiationRefused "negotiation_refused" = "connection_terminated", Some(Handshake), true, "switch TLS on at the server";
    /// The server's messages before TLS were not what the protocol allows.
    NegotiationError "negotiation_error" = "tls_protocol_error", Some(Handshake), true, "is `protocol` the one that this server speaks?";
    /// The server did not finish the messages before TLS in time.
    NegotiationTimeout "negotiation_timeout" = "connection_read_timeout", Some(Timeout), true, "is `protocol` the one that this server speaks? Some wait for the client to begin";
    /// The server did not finish the TLS handshake in time.
    HandshakeTimeout "handshake_timeout" = "connection_read_timeout", Some(Timeout), true, "check that the port speaks TLS; if an old firewall drops large first messages, set `post_quantum = false`";
    /// The server refused our certificate, or missed it.
    ClientCertificateRefused "client_certificate_refused" = "tls_alert_received", Some(CertificateRefused), true, "check that the server trusts the issuer of `certificate`, and that it is in date";
    /// The server took the connection and ended it before its first byte.
    EarlyClose "early_close" = "connection_terminated", Some(EarlyClose), true, "look in the server's log for why it hung up";
    /// The server ended the stream without TLS' close_notify: the last bytes may be missing.
    Truncated "truncated" = "connection_terminated", None, false, "the server crashed or something cut the connection; if it always ends so, set on_truncation = \"close\"";
    /// The client reset the connection.
    ClientReset "client_reset" = "connection_terminated", None, false, "look in the client's log for why it gave up";
    /// The server reset the connection.
    UpstreamReset "upstream_reset" = "connection_terminated", None, false, "look in the server's log for why it hung up";
    /// TCP gave the peer up: it answered neither data nor keep-alive, or took no data for `tcp.user_timeout`.
    PeerVanished "peer_vanished" = "connection_write_timeout", None, false, "is the host up, and the network to it? If it only reads slowly, raise tcp.user_timeout or leave it off";
    /// No byte in either direction for `timeouts.idle`.
    IdleTimeout "idle_timeout" = "connection_read_timeout", None, false, "raise timeouts.idle above the client's own pool time-out";
    /// One side had closed and the other sent nothing for `timeouts.half_close`.
    HalfCloseTimeout "half_close_timeout" = "connection_read_timeout", None, false, "raise timeouts.half_close if the peer needs longer for its last answer";
    /// The connection was older than `timeouts.lifetime`.
    LifetimeReached "lifetime_reached" = "connection_terminated", None, false, "nothing: the client connects again";
    /// No place at the upstream came free in time.
    QueueTimeout "queue_timeout" = "connection_limit_reached", None, false, "raise limits.connections, or find out why connections are held so long";
    /// All attempts together took longer than `timeouts.establish`.
    EstablishTimeout "establish_timeout" = "connection_timeout", None, false, "see the attempts for the stage that is slow";
    /// The client did not send its first messages, or finish its own TLS handshake, in time.
    PrefaceTimeout "preface_timeout" = "http_request_error", None, false, "is this the protocol that the client speaks?";
    /// nuncio is shutting down.
    Draining "draining" = "connection_terminated", None, false, "connect again: another instance, or this one after its restart, will answer";
    /// The client may not use this listener, or not without TLS, or not with this certificate.
    AdmissionDenied "admission_denied" = "http_request_denied", None, false, "add the client to the listener's `allow`, `allow_users` or `allow_groups`";
    /// The client's first messages were not what the protocol allows.
    BadPreface "bad_preface" = "http_request_error", None, false, "is this the protocol that the client speaks?";
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.label())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One failure: where, why, on whose side, what was seen and what would mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step that failed.
    pub stage: Stage,
    /// Why, in one word.
    pub reason: Reason,
    /// On whose side the cause lies.
    pub side: Side,
    /// What was seen, for a person. Never a secret, never a byte of payload.
    pub detail: Box<str>,
    /// What to do in this very case; `None`: the reason's own next step holds.
    pub mend: Option<Cow<'static, str>>,
    /// What the endpoint's breaker counts it as, where that is not what its reason is counted as.
    pub class: Option<BreakerClass>,
}

impl Failure {
    /// A failure at a stage; `detail` says what was seen.
    pub fn new(stage: Stage, reason: Reason, side: Side, detail: impl Into<String>) -> Self {
        Failure { stage, reason, side, detail: detail.into().into_boxed_str(), mend: None, class: None }
    }

    /// On the upstream's side: most of what can go wrong while establishing.
    pub fn upstream(stage: Stage, reason: Reason, detail: impl Into<String>) -> Self {
        Failure::new(stage, reason, Side::Upstream, detail)
    }

    /// Adds the mend for this very case.
    pub fn mend(mut self, mend: impl Into<Cow<'static, str>>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// In this very case the endpoint's breaker counts it as something else.
    pub fn counted_as(mut self, class: BreakerClass) -> Self {
        self.class = Some(class);
        self
    }

    /// What the endpoint's breaker counts it as; `None`: it says nothing about the endpoint.
    pub fn breaker_class(&self) -> Option<BreakerClass> {
        self.class.or(self.reason.breaker_class())
    }

    /// What the reader should do next.
    pub fn next_step(&self) -> &str {
        self.mend.as_deref().unwrap_or_else(|| self.reason.next_step())
    }
}

/// `handshake: tls_certificate_error (upstream): DETAIL; NEXT STEP`
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { stage, reason, side, detail, .. } = self;
        write!(f, "{}: {reason} ({}): {detail}; {}", stage.label(), side.label(), self.next_step())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_label_a_meaning_and_a_next_step() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}: {}", reason.meaning());
            assert!(reason.next_step().len() > 8, "{reason}");
        }
    }

    #[test]
    fn what_counts_against_an_endpoint_may_be_tried_on_another() {
        for reason in Reason::ALL {
            if reason.breaker_class().is_some() {
                assert!(reason.may_try_another(), "{reason}");
            }
        }
    }

    #[test]
    fn every_class_stands_at_its_own_place() {
        for (place, class) in BreakerClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, place, "{}", class.label());
        }
    }

    #[test]
    fn a_failure_stands_alone_as_a_sentence() {
        let failure = Failure::upstream(
            Stage::Connect,
            Reason::ConnectionRefused,
            "10.0.0.5:5432 refused the connection",
        );
        assert_eq!(
            failure.to_string(),
            "connect: connection_refused (upstream): 10.0.0.5:5432 refused the connection; \
             is the server running, and does it listen on this address and port?"
        );
    }
}
