//! A connection as the log and the API show it: one set of facts, one set of names, three spellings.

use std::fmt::{self, Display, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tracing::Level;

use super::{ConnectionId, ContextView, Format};
use crate::addr::{ClientAddr, ListenerName, UpstreamName};
use crate::failure::{Outcome, Reason, Side, Stage};

/// One connection, open or ended. What is not known, or does not apply, is absent.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionView {
    /// Its name.
    pub id: ConnectionId,
    /// How far it is.
    pub state: State,
    /// When it was accepted.
    pub opened: Timestamp,
    /// Which listener took it.
    pub listener: ListenerName,
    /// Who connected; where a proxy did, who connected to that.
    pub client: ClientAddr,
    /// The user id of the client's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process of a client on a Unix socket. For a person to read: it may be another one by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What that process calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<str>>,
    /// What was told of it before its first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Box<ContextView>>,
    /// Where it was routed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamName>,
    /// Which endpoint it is, or was last, tried with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// On whose side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// Who ended it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<Side>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_step: Option<Box<str>>,
    /// Every endpoint that was tried, in order.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub attempts: Box<[AttemptView]>,
    /// Waiting for a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<Millis>,
    /// Name to addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve_ms: Option<Millis>,
    /// TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<Millis>,
    /// Through an outbound proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_ms: Option<Millis>,
    /// The plaintext messages before TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negotiate_ms: Option<Millis>,
    /// TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_ms: Option<Millis>,
    /// None of these: the connection was ready, and had been for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_ms: Option<Millis>,
    /// From the start of the relay to the upstream's first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<Millis>,
    /// From accept until its end, or until now.
    pub duration_ms: Millis,
    /// Bytes from the client to the upstream.
    pub bytes_sent: u64,
    /// Bytes from the upstream to the client.
    pub bytes_received: u64,
    /// Bytes a second both ways, over all of its life.
    pub throughput: u64,
    /// Turns that the upstream answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<u64>,
    /// Median of their response times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_p50_ms: Option<Millis>,
    /// 99th percentile of their response times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_p99_ms: Option<Millis>,
    /// What the TLS handshake came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<TlsView>>,
    /// What the client's own TLS with the listener came to, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<Arc<TlsView>>,
    /// The upstream's round-trip time as the kernel smoothed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<Millis>,
    /// Segments that the kernel had to send to the upstream again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Between accept and relay.
    Establishing,
    /// Bytes go both ways.
    Relaying,
    /// It is over.
    Ended,
}

/// One endpoint that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptView {
    /// Which.
    pub endpoint: Arc<str>,
    /// Where it failed; absent: it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How long it took.
    pub ms: Millis,
}

/// What the TLS handshake came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsView {
    /// `TLSv1.3`
    pub version: &'static str,
    /// The cipher suite.
    pub suite: &'static str,
    /// The key exchange group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'static str>,
    /// An earlier session was taken up: no certificate was exchanged.
    pub resumed: bool,
    /// The protocol agreed on by ALPN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Box<str>>,
    /// Who the peer says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerView>,
}

/// Who a peer says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerView {
    /// Its certificate's subject.
    pub subject: String,
    /// The names that the certificate is for.
    pub san: Vec<String>,
}

/// A duration, written as milliseconds to the microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub struct Millis(pub Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.0.as_micros() as f64 / 1000.0)
    }
}

/// A moment, written in UTC as RFC 3339 has it, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    level: &'static str,
    event: &'static str,
    #[serde(flatten)]
    connection: &'a ConnectionView,
}

impl ConnectionView {
    /// The record as it is printed, with its newline.
    pub(super) fn line(&self, format: Format, time: Timestamp, level: Level) -> Vec<u8> {
        match format {
            Format::Json => self.json(time, level),
            Format::Text => self.text(time, level).into_bytes(),
        }
    }

    fn json(&self, time: Timestamp, level: Level) -> Vec<u8> {
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut line = Vec::with_capacity(1024);
        let written =
            serde_json::to_writer(&mut line, &Line { time, level, event: "connection", connection: self });
        // Memory is written to, and no key is anything but a string.
        debug_assert!(written.is_ok());
        line.push(b'\n');
        line
    }

    fn text(&self, time: Timestamp, level: Level) -> String {
        let mut line = Pairs(String::with_capacity(512));
        line.0.extend([
            time.to_string().as_str(),
            if level == Level::INFO || level == Level::WARN { "  " } else { " " },
        ]);
        line.0.extend([level.as_str(), " connection"]);
        line.pair("id", self.id);
        line.quoted("listener", &self.listener);
        line.pair("client", &self.client);
        line.known("uid", self.uid);
        line.known("pid", self.pid);
        line.maybe_quoted("process", self.process.as_deref());
        if let Some(context) = &self.context {
            context.write(&mut line);
        }
        line.maybe_quoted("upstream", self.upstream.as_deref());
        line.maybe_quoted("endpoint", self.endpoint.as_deref());
        line.known("outcome", self.outcome.map(Outcome::label));
        line.known("stage", self.stage.map(Stage::label));
        line.known("reason", self.reason);
        line.known("side", self.side.map(Side::label));
        line.known("closed_by", self.closed_by.map(Side::label));
        line.pair("duration_ms", self.duration_ms);
        line.pair("bytes_sent", self.bytes_sent);
        line.pair("bytes_received", self.bytes_received);
        line.pair("throughput", self.throughput);
        line.known("queue_ms", self.queue_ms);
        line.known("resolve_ms", self.resolve_ms);
        line.known("connect_ms", self.connect_ms);
        line.known("proxy_ms", self.proxy_ms);
        line.known("negotiate_ms", self.negotiate_ms);
        line.known("handshake_ms", self.handshake_ms);
        line.known("warm_ms", self.warm_ms);
        line.known("first_byte_ms", self.first_byte_ms);
        line.known("exchanges", self.exchanges);
        line.known("exchange_p50_ms", self.exchange_p50_ms);
        line.known("exchange_p99_ms", self.exchange_p99_ms);
        if let Some(tls) = &self.tls {
            line.pair("tls", tls.version);
            line.pair("suite", tls.suite);
            line.known("group", tls.group);
            line.pair("resumed", tls.resumed);
            line.maybe_quoted("alpn", tls.alpn.as_deref());
            if let Some(peer) = &tls.peer {
                line.quoted("peer", &peer.subject);
                line.quoted("san", &peer.san.join(","));
            }
        }
        if let Some(tls) = &self.client_tls {
            line.pair("client_tls", tls.version);
            if let Some(peer) = &tls.peer {
                line.quoted("client_peer", &peer.subject);
                line.quoted("client_san", &peer.san.join(","));
            }
        }
        line.known("rtt_ms", self.rtt_ms);
        line.known("retransmits", self.retransmits);
        // A single attempt says nothing that is not already there.
        if self.attempts.len() > 1 {
            let attempts: Vec<_> = self.attempts.iter().map(AttemptView::to_string).collect();
            line.quoted("attempts", &attempts.join(","));
        }
        // Last, as they are sentences.
        line.maybe_quoted("detail", self.detail.as_deref());
        line.maybe_quoted("next_step", self.next_step.as_deref());
        line.0.push('\n');
        line.0
    }
}

/// `db1.example:5432/connect/connection_refused/0.512ms`
impl Display for AttemptView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)?;
        if let (Some(stage), Some(reason)) = (self.stage, self.reason) {
            write!(f, "/{}/{reason}", stage.label())?;
        }
        write!(f, "/{}ms", self.ms)
    }
}

/// `key=value` after `key=value`.
pub(super) struct Pairs(String);

impl Pairs {
    /// A value that holds nothing but letters, digits and punctuation of ours.
    pub(super) fn pair(&mut self, key: &str, value: impl Display) {
        self.0.extend([" ", key, "="]);
        let written = write!(self.0, "{value}");
        debug_assert!(written.is_ok(), "memory takes everything");
    }

    pub(super) fn known(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    pub(super) fn maybe_quoted(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.quoted(key, value);
        }
    }

    /// A value that someone else chose: whatever it holds, it stays one value on one line.
    fn quoted(&mut self, key: &str, value: &str) {
        self.0.extend([" ", key, "="]);
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@[]+,*".contains(&byte);
        if !value.is_empty() && value.bytes().all(bare) {
            self.0.push_str(value);
            return;
        }
        self.0.push('"');
        for character in value.chars() {
            match character {
                // Needs no escape between double quotes, and is common in sentences.
                '\'' => self.0.push('\''),
                // Line ends, terminal sequences and what reverses the direction of text.
                character => self.0.extend(character.escape_debug()),
            }
        }
        self.0.push('"');
    }
}
