//! Words among which a key chooses, and what they stand for.

use super::kinds::{Choices, Fault};
use crate::context::Kind as Context;
use crate::health;
use crate::protocol::{BEYOND, Protocol};
use crate::record::Format;
use crate::relay::OnTruncation;
use crate::tls;
use crate::upstream::WhenUnready;
use crate::upstream::balancer::Balance;
use crate::upstream::breaker::Trials;

/// `key_permissions`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPermissions {
    Warn,
    Strict,
}

impl Choices for KeyPermissions {
    const ALL: &'static [(&'static str, Self)] = &[("warn", Self::Warn), ("strict", Self::Strict)];
}

/// `tls` of a listener
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientTls {
    Off,
    Optional,
    Required,
}

impl Choices for ClientTls {
    const ALL: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];

    fn about(word: &str) -> Option<Fault> {
        ["negotiate", "direct"].contains(&word).then(|| Fault {
            message: format!("{word} says when TLS begins, and this key says whether clients need it"),
            mend: format!("write tls = \"required\" (or optional) and tls_mode = \"{word}\""),
        })
    }
}

/// `tls_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    Negotiate,
    Direct,
}

impl Choices for TlsMode {
    const ALL: &'static [(&'static str, Self)] = &[("negotiate", Self::Negotiate), ("direct", Self::Direct)];
}

impl Choices for Context {
    const ALL: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("proxy_protocol", Self::ProxyProtocol),
        ("socks5", Self::Socks5),
        ("http_connect", Self::HttpConnect),
        ("original_destination", Self::OriginalDestination),
    ];
}

impl Choices for Protocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("postgres", Self::Postgres),
        ("mysql", Self::Mysql),
        ("sqlserver", Self::Sqlserver),
        ("smtp", Self::Smtp),
        ("lmtp", Self::Lmtp),
        ("imap", Self::Imap),
        ("pop3", Self::Pop3),
        ("sieve", Self::Sieve),
        ("nntp", Self::Nntp),
        ("ldap", Self::Ldap),
        ("xmpp", Self::Xmpp),
        ("redis", Self::Redis),
        ("amqp", Self::Amqp),
        ("mqtt", Self::Mqtt),
    ];

    fn about(word: &str) -> Option<Fault> {
        if let Some(beyond) = BEYOND.iter().find(|beyond| beyond.names.contains(&word)) {
            return Some(Fault {
                message: format!("\"{word}\" is not among them: {}", beyond.why),
                mend: beyond.instead.to_owned(),
            });
        }
        let (name, direct) = match word {
            "postgresql" | "pgsql" => ("postgres", false),
            "mariadb" => ("mysql", false),
            "mssql" | "tds" => ("sqlserver", false),
            "managesieve" => ("sieve", false),
            "smtps" | "submissions" => ("smtp", true),
            "imaps" => ("imap", true),
            "pop3s" => ("pop3", true),
            "nntps" => ("nntp", true),
            "ldaps" => ("ldap", true),
            "xmpps" => ("xmpp", true),
            "rediss" => ("redis", false),
            "amqps" => ("amqp", false),
            "mqtts" => ("mqtt", false),
            _ => return None,
        };
        let directly = if direct { " and tls = \"direct\"" } else { "" };
        Some(Fault {
            message: format!("\"{word}\" goes by another name here"),
            mend: format!("write protocol = \"{name}\"{directly}"),
        })
    }
}

impl Choices for tls::Mode {
    const ALL: &'static [(&'static str, Self)] =
        &[("negotiate", Self::Negotiate), ("direct", Self::Direct), ("off", Self::Off)];
}

impl Choices for tls::Version {
    const ALL: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];

    fn about(word: &str) -> Option<Fault> {
        ["1.0", "1.1", "1"].contains(&word).then(|| Fault {
            message: format!("TLS {word} is withdrawn (RFC 8996), and nuncio does not speak it"),
            mend: "write \"1.2\", and switch TLS 1.2 on at the server".to_owned(),
        })
    }
}

impl Choices for Balance {
    const ALL: &'static [(&'static str, Self)] = &[
        ("least_connections", Self::LeastConnections),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("source_hash", Self::SourceHash),
        ("peak_ewma", Self::PeakEwma),
        ("maglev", Self::Maglev),
    ];
}

impl Choices for Trials {
    const ALL: &'static [(&'static str, Self)] = &[("clients", Self::Clients), ("checks", Self::Checks)];
}

impl Choices for health::Kind {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("protocol", Self::Protocol),
        ("http", Self::Http),
    ];
}

impl Choices for Format {
    const ALL: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Choices for WhenUnready {
    const ALL: &'static [(&'static str, Self)] = &[
        ("refuse", Self::Refuse),
        ("reset", Self::Reset),
        ("unlisten", Self::Unlisten),
        ("wait", Self::Wait),
    ];
}

impl Choices for OnTruncation {
    const ALL: &'static [(&'static str, Self)] = &[("reset", Self::Reset), ("close", Self::Close)];
}
